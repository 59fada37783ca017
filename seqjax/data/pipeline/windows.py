"""A stream of tokens to windows of a fixed shape for truncated BPTT."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from seqjax.data.checks import check_whole, is_whole, shard_rows
from seqjax.data.pipeline.streams import TokenStream
from seqjax.errors import UserError

BLOCK = 1 << 22  # tokens whose batches are made at once; of a text that has fewer, those of a whole epoch


class SequenceBatch(NamedTuple):
    """What a language model is trained on in one step; the shapes never change."""

    inputs: np.ndarray  # int32 (B, T): the token before each target, or bos where a document starts
    targets: np.ndarray  # int32 (B, T): the tokens to predict
    mask: np.ndarray  # bool (B, T): true for a real token, false for padding
    resets: np.ndarray  # bool (B, T): true where the carry is the initial carry before that step


class Windows:
    """An endless iterator over the windows of a stream, epoch after epoch, that can stop and resume exactly.

    The N tokens are cut into B contiguous rows of L = ceil(N / B) (the last rows may be short), and each row into
    W = ceil(L / T) windows of T. Window w + 1 begins where window w ended, so a carry may pass from one to the next;
    padding stands at the end of a row and is masked. Every token is a target exactly once an epoch.

      inputs[b, t] = bos where a document starts, otherwise the token before targets[b, t] in the stream
      resets[b, t] = a document starts here, or the row does (in each epoch the first step of each row)

    The first input of row b > 0 is the real token before it, although that token stands in row b - 1. The stream is kept
    as it is. The arrays of many batches are made at once, those of a text of up to four million tokens once and for all;
    a batch is four read-only views of them.

    Args:
      stream: the tokens (N,) and where documents start.
      batch_size: B, the number of rows read side by side.
      window: T, the steps of one window.
      bos_id: the input at the start of a document.
      pad_id: fills inputs and targets past a row's end.
      minimum: the least number of tokens accepted. Training asks for `batch_size * window`, one full batch; the
        default takes any text that is not empty, as evaluation should.

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

    def __init__(
        self, stream: TokenStream, batch_size: int, window: int, *, bos_id: int, pad_id: int, minimum: int = 1
    ):
        check_whole(1, batch_size=batch_size, window=window)
        if len(stream) < max(minimum, 1):
            raise UserError(
                f"the text has {len(stream)} tokens, but at least {max(minimum, 1)} are needed (one batch is batch_size"
                f" {batch_size} x window {window} = {batch_size * window}); give more text, or make either smaller"
            )
        self._stream, self._window_size, self._bos, self._pad = stream, int(window), bos_id, pad_id
        self._row = -(-len(stream) // batch_size)
        self._rows = range(batch_size)
        self.batches_per_epoch = -(-self._row // window)
        self.tokens_per_epoch = len(stream)
        self._epoch = self._window = 0
        self._forget()

    def _forget(self) -> None:
        """Makes room for the arrays of as many windows as are to be made at once; none is made yet."""
        self._at_once = max(BLOCK // (len(self._rows) * self._window_size), 1)
        self._first, self._block = 0, None

    def __iter__(self) -> "Windows":
        return self

    def __next__(self) -> SequenceBatch:
        batch = self._at(self._window)
        self._window += 1
        if self._window == self.batches_per_epoch:
            self._epoch, self._window = self._epoch + 1, 0
        return batch

    def _at(self, window: int) -> SequenceBatch:
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
        inputs, targets = (np.full((len(self._rows), width), self._pad, np.int32) for _ in range(2))
        mask, resets = (np.zeros((len(self._rows), width), bool) for _ in range(2))
        for place, row in enumerate(self._rows):
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
        cut = values.reshape(len(self._rows), -1, self._window_size)
        by_window = np.ascontiguousarray(cut.swapaxes(0, 1))
        by_window.flags.writeable = False
        return by_window

    def shard(self, index: int, count: int) -> "Windows":
        """These windows of a share of the rows: what process `index` of `count` reads of every batch.

        Args:
          index, count: the share, rows `index * B / count` to `(index + 1) * B / count`.

        Returns:
          Windows that stand where these stand; their state is that of all rows.

        Raises:
          UserError: the rows cannot be shared by so many.

        Example:
          >>> stream = TokenStream(np.arange(8), np.array([0]))
          >>> windows = Windows(stream, 4, 2, bos_id=0, pad_id=0)
          >>> [next(windows.shard(index, 2)).targets.tolist() for index in range(2)]
          [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
        """
        share = copy.copy(self)
        rows = shard_rows(slice(self._rows.start, self._rows.stop), index, count)
        share._rows = range(rows.start, rows.stop)
        share._forget()
        return share

    def one_pass(self) -> Iterator[SequenceBatch]:
        """Each window of one epoch from its beginning, for evaluation; the iterator's own state is not touched.

        Returns:
          An iterator over `batches_per_epoch` batches.

        Example:
          >>> stream = TokenStream(np.arange(5), np.array([0]))
          >>> [batch.targets.tolist() for batch in Windows(stream, 1, 3, bos_id=0, pad_id=0).one_pass()]
          [[[0, 1, 2]], [[3, 4, 0]]]
        """
        return (self._at(window) for window in range(self.batches_per_epoch))

    def get_state(self) -> dict[str, int]:
        """Where the next batch is, small and JSON-able: `{"epoch": e, "window": w}`.

        Example:
          >>> stream = TokenStream(np.arange(5), np.array([0]))
          >>> Windows(stream, 1, 3, bos_id=0, pad_id=0).get_state()
          {'epoch': 0, 'window': 0}
        """
        return {"epoch": self._epoch, "window": self._window}

    def set_state(self, state: dict[str, int]) -> None:
        """Move to a state that `get_state` gave; the next batch is the one that was next there.

        Args:
          state: `{"epoch": e, "window": w}` with e >= 0 and 0 <= w < batches_per_epoch.

        Raises:
          UserError: anything else, such as the state of another text or with other sizes.

        Example:
          >>> stream = TokenStream(np.arange(5), np.array([0]))
          >>> windows = Windows(stream, 1, 3, bos_id=0, pad_id=0)
          >>> windows.set_state({"epoch": 2, "window": 1})
          >>> next(windows).targets.tolist(), windows.get_state()
          ([[3, 4, 0]], {'epoch': 3, 'window': 0})
        """
        if not isinstance(state, dict) or set(state) != {"epoch", "window"}:
            raise UserError(f"{state!r} is not a state of these windows; give what get_state gave, epoch and window")
        epoch, window = state["epoch"], state["window"]
        if not (is_whole(epoch) and is_whole(window)) or epoch < 0 or window < 0:
            raise UserError(f"{state!r} is not a state of these windows; both must be whole numbers of at least 0")
        if window >= self.batches_per_epoch:
            raise UserError(
                f"the saved state is window {window}, but an epoch has {self.batches_per_epoch}; "
                "resume with the text, batch_size and window of the run that saved it"
            )
        self._epoch, self._window = int(epoch), int(window)
