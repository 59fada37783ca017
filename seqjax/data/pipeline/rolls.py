"""Batches of windows of music: pieces of similar length side by side, read window after window with a carry."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from seqjax.data.checks import check_whole, shard_rows
from seqjax.data.pipeline.buckets import BucketBatches, one_pass, pad_lengths
from seqjax.data.pipeline.resumable import Resumable


class RollBatch(NamedTuple):
    """A window of some pieces, one per row; a row of length 0 is padding."""

    before: np.ndarray  # uint8 (B, T, P), the frame before each; zeros before a piece's first
    frames: np.ndarray  # uint8 (B, T, P), the frames to predict
    lengths: np.ndarray  # int32 (B,), the number of real frames
    first: np.ndarray  # bool (B,), whether the window begins its piece
    down: np.ndarray  # int32 (B,), how far down the piece can be transposed, in semitones
    up: np.ndarray  # int32 (B,), how far up, in semitones


class RollBatches(Resumable):
    """An endless iterator over windows of shuffled pieces, epoch after epoch, that can be stopped and resumed exactly.

    Pieces are batched as in `BucketBatches`, and a batch is read in consecutive windows of at most W frames: the carry must pass from one
    to the next, and is reset where `first` is true. So pieces of any length take memory for W frames; if all have at most W, each is read
    whole.

    Args:
      rolls: uint8 (T, P) of each piece.
      batch_size: B.
      boundaries: lengths that batches are padded to, ascending; the largest must hold the longest piece.
      window: W.
      seed: determines the order.

    Raises:
      UserError: as `BucketBatches`.

    Example:
      >>> rolls = [np.eye(3, 5, dtype=np.uint8), np.eye(5, dtype=np.uint8)]
      >>> batches = RollBatches(rolls, 2, (5,), window=4, seed=0)
      >>> [(batch.frames.shape, batch.lengths.tolist(), batch.first.tolist()) for batch in (next(batches), next(batches))]
      [((2, 4, 5), [4, 3], [True, True]), ((2, 1, 5), [1, 0], [False, False])]
    """

    _needed = "pieces, batch_size and window"

    def __init__(self, rolls: Sequence[np.ndarray], batch_size: int, boundaries: Sequence[int], *, window: int, seed: int):
        check_whole(1, window=window)
        self._buckets = BucketBatches([len(roll) for roll in rolls], lambda *shape: shape, batch_size, boundaries, seed=seed)
        self._windows, self._window = Rolls(rolls), int(window)
        self.boundaries = tuple(sorted({width for steps in self._buckets.boundaries for _, width in _cut(steps, window)}))
        self._plan: tuple[int, list[tuple[np.ndarray, int, int]]] | None = None
        self.batches_per_epoch = len(self._planned(0))
        self._take_rows(slice(0, int(batch_size)))

    def _planned(self, epoch: int) -> list[tuple[np.ndarray, int, int]]:
        """(pieces, first frame, frames) of each window of an epoch."""
        if self._plan is None or self._plan[0] != epoch:
            shapes = self._buckets.epoch(epoch)
            self._plan = (epoch, [(shape.places, *cut) for shape in shapes for cut in _cut(shape.steps, self._window)])
        return self._plan[1]

    def _at(self, epoch: int, batch: int) -> RollBatch:
        places, first, steps = self._planned(epoch)[batch]
        return self._windows.take(places[self._rows], self._rows.stop - self._rows.start, first, steps)

    def summary(self, unit: str) -> str:
        """One readable line about the shapes that will be compiled."""
        return f"windows: {', '.join(map(str, self.boundaries))} {unit}, {self._buckets.padding():.1%} padding"


def _cut(steps: int, window: int) -> list[tuple[int, int]]:
    """(first frame, frames) of each window of a batch with this many steps."""
    return [(first, min(window, steps - first)) for first in range(0, steps, window)]


class Rolls:
    """Pieces, from which windows are taken.

    Args:
      rolls: uint8 (T, P) of each piece.

    Example:
      >>> batch = Rolls([np.eye(3, dtype=np.uint8)]).take(np.array([0]), 2, first=2, steps=2)
      >>> batch.before.tolist(), batch.frames.tolist()
      ([[[0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]], [[[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
      >>> batch.lengths.tolist(), batch.down.tolist()
      ([1, 0], [0, 0])
    """

    def __init__(self, rolls: Sequence[np.ndarray]):
        self._rolls, self._pitches = rolls, rolls[0].shape[1]
        sounding = [np.flatnonzero(roll.any(axis=0)) for roll in rolls]
        self._room = np.array([(keys[0], self._pitches - 1 - keys[-1]) if len(keys) else (0, 0) for keys in sounding], np.int32)

    def take(self, places: np.ndarray, rows: int, first: int, steps: int) -> RollBatch:
        """The frames from `first` on of the pieces at these indices."""
        before, frames = (np.zeros((rows, steps, self._pitches), np.uint8) for _ in range(2))
        for row, place in enumerate(places):
            now, begins = self._rolls[place][first : first + steps], int(first == 0)
            frames[row, : len(now)] = now
            before[row, begins : len(now)] = self._rolls[place][first - 1 + begins :][: max(len(now) - begins, 0)]
        ends = np.clip(np.array([len(self._rolls[place]) for place in places], np.int64) - first, 0, steps)
        down, up = (pad_lengths(self._room[places, side], rows) for side in (0, 1))
        return RollBatch(before, frames, pad_lengths(ends, rows), np.full((rows,), first == 0), down, up)


def roll_windows(
    rolls: Sequence[np.ndarray], batch_size: int, boundaries: Sequence[int], *, window: int, index: int = 0, count: int = 1
) -> Iterator[tuple[np.ndarray, RollBatch]]:
    """Every piece once, in windows, for evaluation; the carry must pass from each to the next.

    Args:
      rolls, batch_size, boundaries, window: as in `RollBatches`; longer pieces get longer buckets.
      index, count: the shard of each batch's rows to make.

    Returns:
      An iterator over (places, batch): row i of the batch is the piece at places[i].

    Example:
      >>> rolls = [np.eye(3, 5, dtype=np.uint8), np.eye(5, dtype=np.uint8)]
      >>> [(places.tolist(), batch.lengths.tolist()) for places, batch in roll_windows(rolls, 1, (5,), window=3)]
      [([0], [3]), ([1], [3]), ([1], [2])]
    """
    windows, lengths = Rolls(rolls), np.array([len(roll) for roll in rolls])
    shapes = one_pass(lengths, lambda places, rows, steps: (places, steps), batch_size, boundaries)
    rows = shard_rows(slice(0, int(batch_size)), index, count)
    for _, (places, _) in shapes:
        longest = int(lengths[places].max())
        for first in range(0, longest, window):
            steps = _width(longest - first, boundaries, window)
            yield places[rows], windows.take(places[rows], rows.stop - rows.start, first, steps)


def _width(left: int, boundaries: Sequence[int], window: int) -> int:
    """The length of the window for the remaining frames: one of a few, so that few shapes are compiled."""
    return min([window, *(width for width in boundaries if width >= left)])
