"""Batches of few shapes from sequences of all lengths: length buckets, shuffled resumable batches, and one ordered pass.

A compiled step takes one shape. Padding every batch to the longest sequence in the data would be mostly waste, and padding each to its own
longest would recompile every time. The compromise is a few lengths, the buckets, that batches are padded to.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.checks import check_whole, is_whole, shard_rows
from seqjax.data.draws import permutation
from seqjax.data.pipeline.resumable import Resumable
from seqjax.errors import UserError

# (places (n,), rows B, steps T) -> a batch of the sequences at these indices, n <= B, in arrays (B, T, ...); rows n and up are padding.
# A row depends only on its sequence, so rows made by different processes equal those of the whole batch.
Collate = Callable[[np.ndarray, int, int], Any]

CANDIDATES = 256  # lengths that choose_boundaries considers


def choose_boundaries(lengths: Sequence[int] | np.ndarray, number: int) -> tuple[int, ...]:
    r"""The lengths of at most `number` buckets that minimise the total number of steps, padding included.

    .. math:: \min_{b_1 < \dots < b_K} \sum_i \min \{b_k : b_k \ge l_i\}

    Found by dynamic programming over the lengths that occur (if more than 256, over 256 evenly spaced by rank).

    Args:
      lengths: l, the lengths of the sequences, (N,).
      number: K, the maximum number of buckets; each costs one compilation.

    Returns:
      The buckets' lengths, ascending; the last is that of the longest sequence, or 1 if that is 0.

    Raises:
      UserError: no sequences, or a number below 1.

    Example:
      >>> choose_boundaries([3, 3, 3, 4, 10, 11, 11], 2)
      (4, 11)
    """
    if not is_whole(number) or number < 1:
        raise UserError(f"the number of buckets is {number!r}; it must be a whole number of at least 1")
    if not len(lengths):
        raise UserError("there are no sequences to choose buckets for; give at least one")
    ends, counts = np.unique(np.maximum(np.asarray(lengths, np.int64), 1), return_counts=True)
    if len(ends) > CANDIDATES:
        ranks = np.cumsum(counts)
        chosen = np.unique(np.searchsorted(ranks, np.linspace(0, ranks[-1], CANDIDATES + 1)[1:]))
        counts, ends = np.diff(ranks[chosen], prepend=0), ends[chosen]
    before = np.concatenate([[0], np.cumsum(counts)])  # sequences shorter than candidate i
    # cost[k, j]: steps of the first j candidates in k buckets; a bucket of candidates i to j - 1 has length ends[j - 1].
    cost = np.full((number + 1, len(ends) + 1), np.inf)
    cost[:, 0] = 0
    begin = np.zeros((number + 1, len(ends) + 1), np.int64)
    for k in range(1, number + 1):
        for j in range(1, len(ends) + 1):
            totals = cost[k - 1, :j] + (before[j] - before[:j]) * ends[j - 1]
            begin[k, j] = np.argmin(totals)
            cost[k, j] = totals[begin[k, j]]
    found, j = [], len(ends)
    for k in range(number, 0, -1):
        if j:
            found.append(int(ends[j - 1]))
            j = begin[k, j]
    return tuple(sorted(found))


class Shape(NamedTuple):
    """The plan of a batch, before its arrays are made."""

    places: np.ndarray  # (n,), indices of the sequences, n <= B
    steps: int  # the bucket's length, T


class BucketBatches(Resumable):
    """An endless iterator over shuffled batches of sequences of similar length, epoch after epoch, that can be stopped and resumed exactly.

    Each epoch is a fresh permutation of the N sequences, a pure function of (seed, epoch). They are dealt to the buckets; those that do not
    fill a batch move to the next longer bucket, so that every sequence comes once per epoch, in ceil(N / B) batches, all but one of them
    full. The batches come in random order. There are as many shapes as buckets.

    Args:
      lengths: lengths of the sequences, (N,).
      collate: makes a batch: `(places, rows, steps) -> batch`.
      batch_size: B, the rows of every batch.
      boundaries: the buckets' lengths, ascending, as returned by `choose_boundaries`; the largest must hold the longest sequence.
      seed: determines the permutations.
      short_first: whether the first epoch runs from the shortest to the longest sequences (Bengio et al. 2009, "Curriculum Learning").

    Raises:
      UserError: invalid sizes, or a sequence longer than the largest bucket.

    Example:
      >>> collate = lambda places, rows, steps: (places.tolist(), steps)
      >>> batches = BucketBatches([2, 9, 3, 8, 2], collate, 2, (3, 9), seed=0)
      >>> batches.batches_per_epoch, sorted(next(batches)[1] for _ in range(3)), batches.get_state()
      (3, [3, 9, 9], {'epoch': 1, 'batch': 0})
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        collate: Collate,
        batch_size: int,
        boundaries: Sequence[int],
        *,
        seed: int,
        short_first: bool = False,
    ):
        self._lengths = _check(lengths, batch_size)
        self.boundaries = _check_boundaries(boundaries)
        longest = int(self._lengths.max())
        if longest > self.boundaries[-1]:
            raise UserError(f"a sequence has {longest} steps, and the largest bucket {self.boundaries[-1]}")
        check_whole(0, seed=seed)
        self._collate, self._batch_size, self._seed, self._short_first = collate, int(batch_size), int(seed), short_first
        self._take_rows(slice(0, self._batch_size))
        self._bucket = np.searchsorted(self.boundaries, self._lengths)
        self.batches_per_epoch = -(-len(self._lengths) // self._batch_size)
        self._plan: tuple[int, list[Shape]] | None = None  # (epoch, its batches)

    def _at(self, epoch: int, batch: int) -> Any:
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self.epoch(epoch))
        shape, rows = self._plan[1][batch], self._rows
        return self._collate(shape.places[rows], rows.stop - rows.start, shape.steps)

    def epoch(self, number: int) -> list[Shape]:
        """The batches of an epoch, in order.

        Example:
          >>> batches = BucketBatches([1, 1, 4], lambda *shape: shape, 2, (1, 4), seed=0)
          >>> sorted(shape.steps for shape in batches.epoch(7))
          [1, 4]
        """
        order = permutation(len(self._lengths), self._seed, 0, number)
        rising = self._short_first and number == 0
        if rising:
            order = order[np.argsort(self._lengths[order], kind="stable")]
        made, waiting = [], np.zeros(0, np.int64)
        for bucket, steps in enumerate(self.boundaries):
            waiting = np.concatenate([waiting, order[self._bucket[order] == bucket]])
            full = len(waiting) - len(waiting) % self._batch_size
            made += [Shape(part, steps) for part in waiting[:full].reshape(-1, self._batch_size)]
            waiting = waiting[full:]
        if len(waiting):
            made.append(Shape(waiting, self.boundaries[-1]))
        return made if rising else [made[i] for i in permutation(len(made), self._seed, 1, number)]

    def padding(self) -> float:
        """The fraction of an epoch's steps that are padding.

        Example:
          >>> round(BucketBatches([3, 5], lambda *shape: shape, 1, (4, 6), seed=0).padding(), 3)
          0.2
        """
        steps = sum(shape.steps * self._batch_size for shape in self.epoch(0))
        return 1 - float(self._lengths.sum()) / steps

    def summary(self, unit: str) -> str:
        """One readable line about the shapes that will be compiled.

        Example:
          >>> BucketBatches([3, 5], lambda *shape: shape, 1, (4, 6), seed=0).summary("words")
          'buckets: 4, 6 words, 2 shapes to compile, 20.0% padding'
        """
        lengths, number = ", ".join(map(str, self.boundaries)), len(self.boundaries)
        return f"buckets: {lengths} {unit}, {number} shape{'s' if number > 1 else ''} to compile, {self.padding():.1%} padding"


def one_pass(
    lengths: Sequence[int] | np.ndarray,
    collate: Collate,
    batch_size: int,
    boundaries: Sequence[int],
    *,
    index: int = 0,
    count: int = 1,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Every sequence once, sorted by length, for evaluation and prediction.

    Args:
      lengths, collate, batch_size, boundaries: as in `BucketBatches`; longer sequences get additional buckets from `reach`.
      index, count: the shard of each batch's rows to make, as in `BucketBatches.shard`.

    Returns:
      An iterator over (places, batch), places (n,) with n <= B: row i of the batch is sequence places[i].

    Raises:
      UserError: invalid sizes.

    Example:
      >>> collate = lambda places, rows, steps: steps
      >>> [(places.tolist(), steps) for places, steps in one_pass([5, 1, 20], collate, 2, (4, 8))]
      [([1, 0], 8), ([2], 32)]
    """
    lengths = _check(lengths, batch_size)
    rows = shard_rows(slice(0, int(batch_size)), index, count)
    boundaries = reach(boundaries, int(lengths.max()))
    order = np.argsort(lengths, kind="stable")
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        steps = next(b for b in boundaries if b >= lengths[places[-1]])
        yield places[rows], collate(places[rows], rows.stop - rows.start, steps)


def reach(boundaries: Sequence[int], longest: int) -> tuple[int, ...]:
    """Adds buckets for longer sequences, each twice as long as the previous one.

    Args:
      boundaries: ascending lengths.
      longest: the length to reach.

    Returns:
      The boundaries, extended as needed.

    Raises:
      UserError: invalid boundaries.

    Example:
      >>> reach((4, 8), 20), reach((4, 8), 8)
      ((4, 8, 16, 32), (4, 8))
    """
    boundaries = list(_check_boundaries(boundaries))
    while boundaries[-1] < longest:
        boundaries.append(2 * boundaries[-1])
    return tuple(boundaries)


def within_limit(lengths: Sequence[int] | np.ndarray, limit: int) -> np.ndarray:
    """Selects the sequences within a length limit.

    Args:
      lengths: lengths of the sequences, (N,).
      limit: the maximum number of steps; 0 takes all.

    Returns:
      Their indices, (n,).

    Example:
      >>> within_limit([3, 9, 4], 5).tolist()
      [0, 2]
    """
    lengths = np.asarray(lengths)
    return np.flatnonzero(lengths <= limit) if limit else np.arange(len(lengths))


def pad_lengths(lengths: np.ndarray, rows: int) -> np.ndarray:
    """The lengths of a batch's rows; 0 for padded rows.

    Example:
      >>> pad_lengths(np.array([3, 1]), 4).tolist()
      [3, 1, 0, 0]
    """
    return np.concatenate([lengths, np.zeros(rows - len(lengths), np.int64)]).astype(np.int32)


def _check(lengths: Sequence[int] | np.ndarray, batch_size: int) -> np.ndarray:
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or not len(lengths):
        raise UserError("there are no sequences to make batches of; give at least one")
    if not np.issubdtype(lengths.dtype, np.integer) or lengths.min() < 0:
        raise UserError(f"lengths are {lengths.dtype} from {lengths.min()}; they must be whole numbers of at least 0")
    check_whole(1, batch_size=batch_size)
    return lengths.astype(np.int64)


def _check_boundaries(boundaries: Sequence[int]) -> tuple[int, ...]:
    boundaries = tuple(int(b) for b in boundaries)
    if not boundaries or list(boundaries) != sorted(set(boundaries)) or boundaries[0] < 1:
        raise UserError(f"boundaries are {boundaries}; they must be rising whole numbers of at least 1")
    return boundaries
