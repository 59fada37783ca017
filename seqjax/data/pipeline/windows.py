"""Windows of a token stream, of a fixed shape, for truncated BPTT."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from seqjax.data.checks import check_whole
from seqjax.data.pipeline.resumable import Resumable
from seqjax.data.pipeline.streams import TokenStream
from seqjax.errors import UserError

BLOCK = 1 << 22  # batches of this many tokens are made at once; a smaller text's whole epoch is


class SequenceBatch(NamedTuple):
    """A training batch of a language model, of fixed shapes."""

    inputs: np.ndarray  # int32 (B, T): the token before each target, or bos where a document starts
    targets: np.ndarray  # int32 (B, T): the tokens to predict
    mask: np.ndarray  # bool (B, T): true for a real token, false for padding
    resets: np.ndarray  # bool (B, T): true where the carry is the initial carry before that step


class Windows(Resumable):
    """An endless iterator over the windows of a stream, epoch after epoch, that can stop and resume exactly.

    The N tokens are cut into B contiguous rows of L = ceil(N / B) (the last rows may be short), and each row into
    W = ceil(L / T) windows of T. Window w + 1 starts where window w ended, so a carry may pass from one to the next; padding is at the end
    of a row and is masked. Every token is a target exactly once per epoch.

      inputs[b, t] = bos where a document starts, otherwise the token before targets[b, t] in the stream
      resets[b, t] = a document starts here, or the row does (in each epoch the first step of each row)

    The first input of row b > 0 is the real token before it, although that token is in row b - 1. The stream itself is kept unchanged. The
    arrays of many batches are made at once (for a text of up to four million tokens, of all batches, once); a batch is four read-only views
    of them.

    Args:
      stream: the tokens (N,) and where documents start.
      batch_size: B, the number of rows read side by side.
      window: T, the steps of one window.
      bos_id: the input at the start of a document.
      pad_id: fills inputs and targets past a row's end.
      minimum: the smallest number of tokens accepted. Training passes `batch_size * window`, one full batch; the default accepts any text
        that is not empty, as evaluation should.

    Raises:
      UserError: too few tokens, or a size below 1.

    Example:
      >>> stream = TokenStream(np.array([1, 2, 3, 4, 5]), np.array([0, 4]))
      >>> windows = Windows(stream, batch_size=2, window=2, bos_id=9, pad_id=0)
      >>> batch = next(windows)
      >>> batch.inputs.tolist(), batch.targets.tolist(), batch.resets.tolist()
      ([[9, 1], [3, 9]], [[1, 2], [4, 5]], [[True, False], [True, True]])
      >>> windows.get_state(), windows.batches_per_epoch, windows.tokens_per_epoch
      ({'epoch': 0, 'window': 1}, 2, 5)
      >>> next(windows).mask.tolist()
      [[True, False], [False, False]]

    Source: Mikolov et al., "Recurrent neural network based language model" (2010), for the practice of reading a text
    in parallel rows with a carry that passes from window to window.
    """

    _unit, _needed = "window", "text, batch_size and window"

    def __init__(self, stream: TokenStream, batch_size: int, window: int, *, bos_id: int, pad_id: int, minimum: int = 1):
        check_whole(1, batch_size=batch_size, window=window)
        if len(stream) < max(minimum, 1):
            raise UserError(
                f"the text has {len(stream)} tokens, but at least {max(minimum, 1)} are needed (one batch is batch_size"
                f" {batch_size} x window {window} = {batch_size * window}); give more text, or make either smaller"
            )
        self._stream, self._window_size, self._bos, self._pad = stream, int(window), bos_id, pad_id
        self._row = -(-len(stream) // batch_size)
        self.batches_per_epoch = -(-self._row // window)
        self.tokens_per_epoch = len(stream)
        self._take_rows(slice(0, int(batch_size)))

    def _take_rows(self, rows: slice) -> None:
        super()._take_rows(rows)
        self._row_count = rows.stop - rows.start
        self._at_once = max(BLOCK // (self._row_count * self._window_size), 1)  # windows whose arrays are made together
        self._first, self._block = 0, None

    def _at(self, epoch: int, window: int) -> SequenceBatch:
        place = window - self._first
        if self._block is None or not 0 <= place < self._at_once:
            self._first = window - window % self._at_once
            self._block = self._made(self._first, min(self._first + self._at_once, self.batches_per_epoch))
            place = window - self._first
        inputs, targets, mask, resets = self._block
        return SequenceBatch(inputs[place], targets[place], mask[place], resets[place])

    def _made(self, first: int, stop: int) -> SequenceBatch:
        """The arrays (W, B, T) of some windows."""
        tokens, number, width = self._stream.tokens, len(self._stream), (stop - first) * self._window_size
        inputs, targets = (np.full((self._row_count, width), self._pad, np.int32) for _ in range(2))
        mask, resets = (np.zeros((self._row_count, width), bool) for _ in range(2))
        for place, row in enumerate(range(self._rows.start, self._rows.stop)):
            low = row * self._row + first * self._window_size
            high = min(low + width, (row + 1) * self._row, number)
            size = high - low
            if size <= 0:
                continue
            targets[place, :size] = tokens[low:high]
            mask[place, :size] = True
            resets[place, :size] = starts = self._stream.mask(low, high)
            inputs[place, 1:size] = tokens[low : high - 1]
            inputs[place, 0] = tokens[low - 1] if low else self._bos
            inputs[place, :size][starts] = self._bos
            resets[place, 0] |= first == 0
        return SequenceBatch(*map(self._by_window, (inputs, targets, mask, resets)))

    def _by_window(self, values: np.ndarray) -> np.ndarray:
        cut = values.reshape(self._row_count, -1, self._window_size)
        by_window = np.ascontiguousarray(cut.swapaxes(0, 1))
        by_window.flags.writeable = False
        return by_window

    def one_pass(self) -> Iterator[SequenceBatch]:
        """The windows of one epoch from its start, for evaluation; the iterator's own state does not change.

        Returns:
          An iterator over `batches_per_epoch` batches.

        Example:
          >>> stream = TokenStream(np.arange(5), np.array([0]))
          >>> [batch.targets.tolist() for batch in Windows(stream, 1, 3, bos_id=0, pad_id=0).one_pass()]
          [[[0, 1, 2]], [[3, 4, 0]]]
        """
        return (self._at(0, window) for window in range(self.batches_per_epoch))
