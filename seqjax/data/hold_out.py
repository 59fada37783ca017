"""Which examples to hold out of the training part if a source has no validation or test part."""

import zlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from seqjax.data.draws import permutation, shuffled
from seqjax.errors import UserError


def hold_out(
    number: int,
    fraction: float,
    seed: int,
    what: str,
    *,
    at_end: bool = False,
    strata: np.ndarray | None = None,
    groups: Sequence[Hashable] | None = None,
    covered: Sequence[Sequence[Hashable]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Split examples into those that stay in training and those held out; the same on every machine.

    round(fraction N) are held out, at least one; at least one stays.

    Args:
      number: N examples.
      fraction: the share to hold out, in (0, 1).
      seed: determines the choice.
      what: the dataset's name, for errors.
      at_end: hold out the last examples, as for text read in order; nothing is drawn at random.
      strata: integer labels (N,): each label is held out in proportion, floor(fraction n) or one more of its n examples, and at least one
        of each stays.
      groups: a key for each example: examples with the same key (translations of one sentence, frames of one recording) stay together; the
        share is of distinct keys.
      covered: the things each example shows (its tags): the last training example to show something stays.

    Returns:
      (indices that stay, indices held out), both ascending; together they are all indices.

    Raises:
      UserError: none can be held out.

    Example:
      >>> kept, held = hold_out(10, 0.5, 0, "ten", strata=np.array([0] * 6 + [1] * 4))
      >>> len(kept), np.bincount(np.array([0] * 6 + [1] * 4)[held]).tolist()
      (5, [3, 2])
      >>> hold_out(5, 0.3, 0, "five", at_end=True)[1].tolist()
      [3, 4]
      >>> hold_out(4, 0.5, 0, "four", groups=["a", "a", "b", "b"])[1].tolist()
      [0, 1]
    """
    if strata is not None:
        held = _by_strata(strata, fraction, seed, what)
    elif groups is not None:
        distinct = list(dict.fromkeys(groups))
        chosen = {distinct[i] for i in _first(_drawn(len(distinct), seed, what), fraction, len(distinct))}
        held = np.array([i for i, group in enumerate(groups) if group in chosen], np.int64)
    elif covered is not None:
        held = _covered(covered, fraction, seed, what)
    elif at_end:
        held = np.sort(_first(np.arange(number)[::-1] if number > 1 else _drawn(number, seed, what), fraction, number))
    else:
        held = np.sort(_first(_drawn(number, seed, what), fraction, number))
    return np.setdiff1d(np.arange(number), held, assume_unique=True), held


def held_count(number: int, fraction: float) -> int:
    """How many of `number` to hold out: a share of it, at least one; at least one stays.

    Example:
      >>> held_count(10, 0.25), held_count(10, 0.001), held_count(10, 0.999)
      (2, 1, 9)
    """
    return min(max(round(number * fraction), 1), number - 1)


def _first(order: np.ndarray, fraction: float, number: int) -> np.ndarray:
    return order[: held_count(number, fraction)]


def _drawn(number: int, seed: int, what: str) -> np.ndarray:
    if number < 2:
        raise UserError(f"{what} has too few examples to hold any out for validation; give more, or a validation_path")
    return shuffled(number, seed)[0]


def _by_strata(labels: np.ndarray, fraction: float, seed: int, what: str) -> np.ndarray:
    values, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.max() < 2:
        raise UserError(f"{what} has no class of two examples, so none can be held out; give more, or a file a part")
    exact = counts * fraction
    takes = np.minimum(exact.astype(np.int64), counts - 1)
    missing = max(round(fraction * labels.size), 1) - takes.sum()
    spare = np.flatnonzero(takes < counts - 1)
    takes[spare[np.argsort(takes[spare] - exact[spare], kind="stable")[: max(missing, 0)]]] += 1
    order = np.argsort(members, kind="stable")
    firsts = np.cumsum(counts) - counts
    held = [
        order[first : first + count][permutation(count, seed, 1, int(label))[:take]]
        for label, first, count, take in zip(values, firsts, counts, takes)
    ]
    return np.sort(np.concatenate(held))


def _covered(covered: Sequence[Sequence[Any]], fraction: float, seed: int, what: str) -> np.ndarray:
    order = _drawn(len(covered), seed, what).tolist()
    most = held_count(len(covered), fraction)
    left = Counter(thing for things in covered for thing in set(things))
    held = []
    for i in order:
        own = set(covered[i])
        if len(held) < most and all(left[thing] > 1 for thing in own):
            left.subtract(own)
            held.append(i)
    if not held:
        raise UserError(f"{what} has too few examples to hold any out for validation; give more, or a validation_path")
    return np.sort(np.array(held, np.int64))


def deal_documents(texts: Mapping[str, str], shares: Sequence[float]) -> list[tuple[str, ...]]:
    """The fixed parts of an embedded text: named documents, always dealt in the same way.

    The documents are shuffled by a checksum of their names. Each part in turn takes those that fit into its share of all characters, until
    it is nine tenths full, and never one larger than a third of the part. So no part exceeds its share or consists of one document, and
    changing a document moves few others.

    Args:
      texts: name -> document.
      shares: each part's share of all characters; their sum is below 1.

    Returns:
      The remaining documents, then one tuple of documents per share; each in the order of the names.

    Example:
      >>> [len(part) for part in deal_documents({f"page {n}": "some text" for n in range(100)}, [0.1, 0.05])]
      [86, 9, 5]
    """
    waiting = sorted(texts, key=lambda name: (zlib.crc32(name.encode("utf-8")), name))
    total = sum(map(len, texts.values()))
    parts = []
    for share in shares:
        taken, size, most = [], 0, share * total
        for name in waiting:
            if size < 0.9 * most and size + len(texts[name]) <= most and len(texts[name]) <= most / 3:
                taken.append(name)
                size += len(texts[name])
        waiting = [name for name in waiting if name not in taken]
        parts.append(taken)
    return [tuple(texts[name] for name in sorted(part)) for part in (waiting, *parts)]
