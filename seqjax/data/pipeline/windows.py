"""Documents to one stream of tokens, and the stream to windows of a fixed shape for truncated BPTT."""

import hashlib
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import numpy as np

from seqjax.data.corpus import Corpus
from seqjax.errors import UserError


class TokenStream(NamedTuple):
    """A text as one long line of tokens."""

    tokens: np.ndarray  # int32 (N,): every token to predict, in reading order
    starts: np.ndarray  # bool (N,): true where a document begins


class SequenceBatch(NamedTuple):
    """What a language model is trained on in one step; the shapes never change."""

    inputs: np.ndarray  # int32 (B, T): the token before each target, or bos where a document starts
    targets: np.ndarray  # int32 (B, T): the tokens to predict
    mask: np.ndarray  # bool (B, T): true for a real token, false for padding
    resets: np.ndarray  # bool (B, T): true where the carry is the initial carry before that step


def encode_documents(
    documents: Iterable[str],
    encode: Callable[[str], Any],
    *,
    ends: bool,
    eos_id: int | None = None,
    reset: bool = True,
) -> TokenStream:
    """Documents, encoded and joined into one stream.

    Args:
      documents: the texts, in reading order; an empty one is a lone end with `ends`, and nothing without.
      encode: text -> token ids, a sequence or a one-dimensional array of integers.
      ends: append `eos_id` to each document, so that its end is predicted too.
      eos_id: the id of `<eos>`; needed with `ends` only.
      reset: each document starts afresh. With False only the first token of all is a start: running text with
        `<eos>` as an ordinary token, as is the practice on PTB and WikiText.

    Returns:
      A TokenStream of N tokens.

    Raises:
      UserError: `ends` without `eos_id`, or an encoder that gives something other than a line of integers.

    Example:
      >>> stream = encode_documents(["ab", "", "c"], lambda text: [ord(c) for c in text], ends=True, eos_id=0)
      >>> stream.tokens.tolist()
      [97, 98, 0, 0, 99, 0]
      >>> stream.starts.tolist()
      [True, False, False, True, True, False]
    """
    if ends and eos_id is None:
        raise UserError("ends=True needs eos_id, the id of <eos>; give it, or choose ends=False")
    tail = np.asarray([eos_id] if ends else [], np.int32)
    pieces, lengths = [np.zeros(0, np.int32)], []
    for number, document in enumerate(documents, 1):
        ids = np.asarray(encode(document))
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise UserError(
                f"encode gave {ids.dtype} of shape {ids.shape} for document {number}; it must give a line of integers"
            )
        pieces += [ids.astype(np.int32), tail]
        lengths.append(ids.size + tail.size)
    tokens = np.concatenate(pieces)
    starts = np.zeros(tokens.size, bool)
    firsts = np.cumsum([0] + lengths[:-1])[np.asarray(lengths, np.int64) > 0] if lengths else np.zeros(0, np.int64)
    starts[firsts if reset else firsts[:1]] = True
    return TokenStream(tokens, starts)


def encode_corpus(corpus: Corpus, encode: Callable[[str], Any], *, eos_id: int, reset: bool) -> tuple[dict[str, TokenStream], str]:
    """Every part of a corpus as a stream of tokens.

    Args:
      corpus: the text.
      encode, eos_id, reset: as in `encode_documents`.

    Returns:
      (part -> TokenStream, a sha256 over all of them).

    Raises:
      UserError: a part has no tokens.

    Example:
      >>> corpus = Corpus("words.txt", ("ab",), ("c",), (), ends=True)
      >>> streams, digest = encode_corpus(corpus, lambda text: [ord(c) for c in text], eos_id=0, reset=True)
      >>> streams["train"].tokens.tolist(), len(digest)
      ([97, 98, 0], 64)
    """
    streams, digest = {}, hashlib.sha256()
    for name, documents in corpus.parts.items():
        stream = encode_documents(documents, encode, ends=corpus.ends, eos_id=eos_id, reset=reset)
        if not len(stream.tokens):
            raise UserError(f"the {name} part of {corpus.name} has no tokens; give some text")
        digest.update(stream.tokens.tobytes() + stream.starts.tobytes())
        streams[name] = stream
    return streams, digest.hexdigest()


class Windows:
    """An endless iterator over the windows of a stream, epoch after epoch, that can stop and go on exactly.

    The N tokens are cut into B contiguous rows of L = ceil(N / B) (the last rows may be short), and each row into
    W = ceil(L / T) windows of T. Window w + 1 goes on where window w stopped, so a carry may pass from one to the next;
    padding stands at the end of a row and is masked. Every token is a target exactly once an epoch.

      inputs[b, t] = bos where a document starts, otherwise the token before targets[b, t] in the stream
      resets[b, t] = a document starts here, or the row does (in each epoch the first step of each row)

    The first input of row b > 0 is the real token before it, although that token stands in row b - 1. All arrays are
    made once, here; a batch is four read-only views of them.

    Args:
      stream: the tokens (N,) and where documents start (N,).
      batch_size: B, the number of rows read side by side.
      window: T, the steps of one window.
      bos_id: the input at the start of a document.
      pad_id: fills inputs and targets past a row's end.
      minimum: the least number of tokens accepted. Training asks for `batch_size * window`, one full batch; the
        default takes any text that is not empty, as evaluation should.

    Raises:
      UserError: too few tokens, a size below 1, or tokens and starts that do not match.

    Example:
      >>> stream = encode_documents(["abcd", "e"], lambda text: [ord(c) - 96 for c in text], ends=False)
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
        tokens, starts = np.asarray(stream.tokens), np.asarray(stream.starts)
        if tokens.ndim != 1 or tokens.shape != starts.shape:
            raise UserError(f"tokens {tokens.shape} and starts {starts.shape} must both have the one shape (N,)")
        for name, value in (("batch_size", batch_size), ("window", window)):
            if not _is_integer(value) or value < 1:
                raise UserError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if tokens.size < max(minimum, 1):
            raise UserError(
                f"the text has {tokens.size} tokens, but at least {max(minimum, 1)} are needed (one batch is batch_size"
                f" {batch_size} x window {window} = {batch_size * window}); give more text, or make either smaller"
            )
        row = -(-tokens.size // batch_size)
        self.batches_per_epoch = -(-row // window)
        self.tokens_per_epoch = tokens.size
        inputs = np.concatenate([[bos_id], tokens[:-1]])
        inputs[starts] = bos_id
        resets = starts.astype(bool)
        resets[::row] = True

        def cut(values: np.ndarray, dtype: Any, fill: int) -> np.ndarray:
            rows = np.full((batch_size * row,), fill, dtype)
            rows[: values.size] = values
            padded = np.full((batch_size, self.batches_per_epoch * window), fill, dtype)
            padded[:, :row] = rows.reshape(batch_size, row)
            by_window = padded.reshape(batch_size, self.batches_per_epoch, window).swapaxes(0, 1)
            by_window = np.ascontiguousarray(by_window)
            by_window.flags.writeable = False
            return by_window

        self._arrays = SequenceBatch(
            inputs=cut(inputs, np.int32, pad_id),
            targets=cut(tokens, np.int32, pad_id),
            mask=cut(np.full(tokens.shape, True), bool, False),
            resets=cut(resets, bool, False),
        )
        self._epoch = self._window = 0

    def __iter__(self) -> "Windows":
        return self

    def __next__(self) -> SequenceBatch:
        batch = self._at(self._window)
        self._window += 1
        if self._window == self.batches_per_epoch:
            self._epoch, self._window = self._epoch + 1, 0
        return batch

    def _at(self, window: int) -> SequenceBatch:
        inputs, targets, mask, resets = self._arrays
        return SequenceBatch(inputs[window], targets[window], mask[window], resets[window])

    def one_pass(self) -> Iterator[SequenceBatch]:
        """Each window of one epoch from its beginning, for evaluation; the iterator's own place is not touched.

        Returns:
          An iterator over `batches_per_epoch` batches.

        Example:
          >>> stream = TokenStream(np.arange(5, dtype=np.int32), np.arange(5) == 0)
          >>> [batch.targets.tolist() for batch in Windows(stream, 1, 3, bos_id=0, pad_id=0).one_pass()]
          [[[0, 1, 2]], [[3, 4, 0]]]
        """
        return (self._at(window) for window in range(self.batches_per_epoch))

    def get_state(self) -> dict[str, int]:
        """The place of the next batch, small and JSON-able: `{"epoch": e, "window": w}`.

        Example:
          >>> stream = TokenStream(np.arange(5, dtype=np.int32), np.arange(5) == 0)
          >>> Windows(stream, 1, 3, bos_id=0, pad_id=0).get_state()
          {'epoch': 0, 'window': 0}
        """
        return {"epoch": self._epoch, "window": self._window}

    def set_state(self, state: dict[str, int]) -> None:
        """Go to a place that `get_state` gave; the next batch is the one that stood next there.

        Args:
          state: `{"epoch": e, "window": w}` with e >= 0 and 0 <= w < batches_per_epoch.

        Raises:
          UserError: anything else, such as the place in another text or with other sizes.

        Example:
          >>> stream = TokenStream(np.arange(5, dtype=np.int32), np.arange(5) == 0)
          >>> windows = Windows(stream, 1, 3, bos_id=0, pad_id=0)
          >>> windows.set_state({"epoch": 2, "window": 1})
          >>> next(windows).targets.tolist(), windows.get_state()
          ([[3, 4, 0]], {'epoch': 3, 'window': 0})
        """
        if not isinstance(state, dict) or set(state) != {"epoch", "window"}:
            raise UserError(f"{state!r} is not a place in the data; give what get_state gave, epoch and window")
        epoch, window = state["epoch"], state["window"]
        if not (_is_integer(epoch) and _is_integer(window)) or epoch < 0 or window < 0:
            raise UserError(f"{state!r} is not a place in the data; both must be whole numbers of at least 0")
        if window >= self.batches_per_epoch:
            raise UserError(
                f"the saved place is window {window}, but an epoch has {self.batches_per_epoch}; "
                "go on with the text, batch_size and window of the run that saved it"
            )
        self._epoch, self._window = int(epoch), int(window)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
