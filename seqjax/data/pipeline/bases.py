"""Batches of DNA: whole sequences of similar length, or consecutive windows of long ones."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from seqjax.data.checks import check_whole
from seqjax.data.pipeline.buckets import Collate, pad_lengths
from seqjax.data.pipeline.collate import Ragged
from seqjax.data.pipeline.resumable import Resumable
from seqjax.errors import UserError


class BaseBatch(NamedTuple):
    """Sequences, or windows of them; a row of length 0 is padding."""

    codes: np.ndarray  # int32 (B, halo + T + halo): IUPAC codes, with neighbours on both sides; 0 beyond a sequence's ends
    labels: np.ndarray  # int32 (B, T), a tag for each base; or (B,), a label for each sequence
    lengths: np.ndarray  # int32 (B,), how many of the T bases are real
    fresh: np.ndarray  # bool (B,), true for rows that do not continue those of the previous batch


def collate_bases(codes: Sequence[np.ndarray], labels: Sequence[np.ndarray] | np.ndarray, halo: int) -> Collate:
    """Makes BaseBatches of whole sequences.

    Args:
      codes: uint8 (t,) of each sequence.
      labels: one array (t,) per sequence, or one array (N,).
      halo: bases beside a window that the model looks at.

    Example:
      >>> batch = collate_bases([np.array([1, 2]), np.array([4])], np.array([1, 0]), halo=1)(np.array([1, 0]), 2, 3)
      >>> batch.codes.tolist(), batch.labels.tolist(), batch.lengths.tolist()
      ([[0, 4, 0, 0, 0], [0, 1, 2, 0, 0]], [0, 1], [1, 2])
    """
    bases = Ragged(codes)
    one_each = isinstance(labels, np.ndarray)
    tags = cast(Any, np.asarray(labels, np.int32) if one_each else Ragged(labels))

    def collate(places: np.ndarray, rows: int, steps: int) -> BaseBatch:
        index = bases.index(places, rows, steps)
        padded = np.pad(bases.gather(index), ((0, 0), (halo, halo)))
        answers = pad_lengths(tags[places], rows) if one_each else tags.gather(index)
        return BaseBatch(padded, answers, pad_lengths(bases.lengths[places], rows), np.ones(rows, bool))

    return collate


class BaseWindows(Resumable):
    """An endless iterator over the windows of long sequences, epoch after epoch, that can stop and resume exactly.

    Each sequence is cut into windows of T bases, the last one shorter; no window has bases of two sequences. The list of all windows
    is cut into B rows of W = ceil(N / B); batch w has the window w of each row. So each row continues its window of the previous batch, and
    a carry may pass from one to the next, except where `fresh` marks the start of a sequence or row. A batch's arrays are made on request:
    memory holds only the codes and tags, one byte per base each.

    Args:
      codes: uint8 (t,) of each sequence.
      labels: uint8 (t,) of each sequence.
      batch_size: B.
      window: T.
      halo: bases beside a window that the model looks at.

    Raises:
      UserError: no sequences, or a size below 1.

    Example:
      >>> windows = BaseWindows([np.array([1, 2, 4], np.uint8)], [np.array([0, 1, 1], np.uint8)], 1, 2, halo=1)
      >>> first, second = next(windows), next(windows)
      >>> first.codes.tolist(), second.codes.tolist(), second.lengths.tolist(), second.fresh.tolist()
      ([[0, 1, 2, 4]], [[2, 4, 0, 0]], [1], [False])
      >>> windows.get_state(), windows.batches_per_epoch
      ({'epoch': 1, 'window': 0}, 2)
    """

    _unit, _needed = "window", "sequences, batch_size and window"

    def __init__(self, codes: Sequence[np.ndarray], labels: Sequence[np.ndarray], batch_size: int, window: int, *, halo: int):
        check_whole(1, batch_size=batch_size, window=window)
        if not len(codes):
            raise UserError("there are no sequences to cut into windows; give at least one")
        counts = np.array([-(-len(sequence) // window) for sequence in codes])
        self._codes, self._labels, self._window, self._halo = codes, labels, int(window), int(halo)
        self._firsts, self._total = np.cumsum(counts) - counts, int(counts.sum())
        self.batches_per_epoch = -(-self._total // int(batch_size))
        self._take_rows(slice(0, int(batch_size)))

    def _at(self, epoch: int, batch: int) -> BaseBatch:
        rows, width, halo = range(self._rows.start, self._rows.stop), self._window, self._halo
        codes = np.zeros((len(rows), width + 2 * halo), np.int32)
        labels, lengths = np.zeros((len(rows), width), np.int32), np.zeros(len(rows), np.int32)
        fresh = np.ones(len(rows), bool)
        for place, row in enumerate(rows):
            window = row * self.batches_per_epoch + batch
            if window >= self._total:
                continue
            which = int(np.searchsorted(self._firsts, window, side="right")) - 1
            begin = (window - int(self._firsts[which])) * width
            codes[place] = with_halo(self._codes[which], begin, width, halo)
            tags = self._labels[which][begin : begin + width]
            labels[place, : len(tags)], lengths[place], fresh[place] = tags, len(tags), batch == 0 or begin == 0
        return BaseBatch(codes, labels, lengths, fresh)

    def one_pass(self) -> Iterator[BaseBatch]:
        """Each window once, for evaluation; the iterator's own state is not touched."""
        return (self._at(0, batch) for batch in range(self.batches_per_epoch))


def with_halo(codes: np.ndarray, begin: int, width: int, halo: int) -> np.ndarray:
    """A window with its neighbours; 0 beyond the ends.

    Example:
      >>> with_halo(np.array([1, 2, 4, 8]), 2, 3, 1).tolist()
      [2, 4, 8, 0, 0]
    """
    low, high = begin - halo, begin + width + halo
    found = codes[max(low, 0) : min(begin + width, len(codes)) + halo]
    return np.pad(found, (max(-low, 0), high - max(low, 0) - len(found)))
