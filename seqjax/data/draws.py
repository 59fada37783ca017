"""Random orders and numbers that are the same in all versions of NumPy."""

from collections.abc import Iterator

import numpy as np


def shuffled(number: int, seed: int) -> tuple[np.ndarray, np.random.PCG64]:
    """The numbers below `number`, shuffled, and the stream of random bits after that.

    NumPy promises the raw bits of a bit generator, and may change what a `Generator` makes of them with any version.
    So data made or cut at random is made from the bits, by a Fisher-Yates shuffle. It is the order that
    `np.random.default_rng(seed).permutation(number)` gives up to NumPy 2.5.

    Args:
      number: how many, below 2^32.
      seed: of the order.

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

    Made of the raw bits of a generator, whose stream NumPy promises never to change; its shuffles may change with a
    version, and a run could then not be resumed.

    Args:
      number: how many.
      seed: at least 0.
      *key: whole numbers of at least 0; another key gives another order.

    Returns:
      int64 (number,).

    Example:
      >>> sorted(permutation(5, 0, 3).tolist()), (permutation(99, 0, 3) == permutation(99, 0, 4)).all().item()
      ([0, 1, 2, 3, 4], False)
    """
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)).random_raw(number)
    return np.argsort(bits, kind="stable")


def uniform(bits: np.random.PCG64, number: int) -> np.ndarray:
    """Numbers in [0, 1): the high 53 of each 64 bits.

    Args:
      bits: the stream, which moves on.
      number: how many.

    Returns:
      float64 (number,).

    Example:
      >>> uniform(np.random.PCG64(0), 2).round(3).tolist()
      [0.637, 0.27]
    """
    return (bits.random_raw(number) >> np.uint64(11)) * 2.0**-53


def _halves(bits: np.random.PCG64) -> Iterator[int]:
    """Each 64 bits as two numbers of 32, the low one first; no more are taken than are needed."""
    while True:
        both = int(bits.random_raw())
        yield both & 0xFFFFFFFF
        yield both >> 32


def _below(limit: int, halves: Iterator[int]) -> int:
    """A number below `limit`, each with the same chance: as many bits as it may need, drawn again while they are too many."""
    mask = (1 << (limit - 1).bit_length()) - 1
    while (drawn := next(halves) & mask) >= limit:
        pass
    return drawn
