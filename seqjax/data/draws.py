"""Random orders and numbers that are the same in all versions of NumPy."""

from collections.abc import Iterator

import numpy as np


def shuffled(number: int, seed: int) -> tuple[np.ndarray, np.random.PCG64]:
    """The numbers below `number`, shuffled, and the bit generator in its state after the shuffle.

    NumPy promises the raw bits of a bit generator, and may change what a `Generator` makes of them with any version.
    So random data and splits are made from the bits, by a Fisher-Yates shuffle. The order is the one that
    `np.random.default_rng(seed).permutation(number)` gives up to NumPy 2.5.

    Args:
      number: N, below 2^32.
      seed: determines the order.

    Returns:
      (int64 (number,), the bit generator).

    Example:
      >>> shuffled(8, seed=0)[0].tolist()
      [2, 4, 3, 6, 5, 0, 1, 7]
    """
    bits = np.random.PCG64(seed)
    halves = _halves(bits)
    order = list(range(number))
    for last in range(number - 1, 0, -1):
        place = _below(last + 1, halves)
        order[last], order[place] = order[place], order[last]
    return np.array(order, np.int64), bits


def permutation(number: int, seed: int, *key: int) -> np.ndarray:
    """The numbers below `number` in an order that is a pure function of the arguments.

    Made from the raw bits of a generator, a stream that NumPy promises never to change. NumPy's own shuffles may change between versions,
    and a run could then not be resumed.

    Args:
      number: how many numbers.
      seed: at least 0.
      *key: non-negative integers; a different key gives a different order.

    Returns:
      int64 (number,).

    Example:
      >>> sorted(permutation(5, 0, 3).tolist()), (permutation(99, 0, 3) == permutation(99, 0, 4)).all().item()
      ([0, 1, 2, 3, 4], False)
    """
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)).random_raw(number)
    return np.argsort(bits, kind="stable")


def uniform(bits: np.random.PCG64, number: int) -> np.ndarray:
    """Uniform numbers in [0, 1), from the high 53 of each 64 bits.

    Args:
      bits: the bit generator, which is advanced.
      number: how many numbers.

    Returns:
      float64 (number,).

    Example:
      >>> uniform(np.random.PCG64(0), 2).round(3).tolist()
      [0.637, 0.27]
    """
    return (bits.random_raw(number) >> np.uint64(11)) * 2.0**-53


def _halves(bits: np.random.PCG64) -> Iterator[int]:
    """Each 64 bits as two 32-bit numbers, the low one first; drawn only as needed."""
    while True:
        both = int(bits.random_raw())
        yield both & 0xFFFFFFFF
        yield both >> 32


def _below(limit: int, halves: Iterator[int]) -> int:
    """A uniform number below `limit`: draws as many bits as the limit needs, and redraws while the number is too large."""
    mask = (1 << (limit - 1).bit_length()) - 1
    while (drawn := next(halves) & mask) >= limit:
        pass
    return drawn
