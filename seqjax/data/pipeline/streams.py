"""Documents as one stream of tokens, held in memory only once."""

import dataclasses
import hashlib
import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from seqjax.data.readers.texts import pieces
from seqjax.data.records import Dataset
from seqjax.errors import UserError

BLOCK = 1 << 20  # tokens hashed, counted or appended at once


@dataclasses.dataclass(frozen=True, eq=False)
class TokenStream:
    """A text as one long sequence of tokens; `len` is the number of tokens.

    Args:
      tokens: integers (N,): every token to predict, in reading order; the dtype may be the narrowest that holds them.
      starts: integers (M,), ascending: where documents start.

    Example:
      >>> stream = TokenStream(np.array([4, 5, 6], np.uint8), np.array([0, 2]))
      >>> len(stream), stream.mask().tolist()
      (3, [True, False, True])
    """

    tokens: np.ndarray
    starts: np.ndarray

    def __post_init__(self) -> None:
        shape, starts = np.shape(self.tokens), np.asarray(self.starts)
        if len(shape) != 1 or starts.ndim != 1 or not np.issubdtype(starts.dtype, np.integer):
            raise UserError(
                f"tokens {shape} must have the shape (N,), and starts {starts.shape} of {starts.dtype} hold the offsets (M,) at "
                "which documents begin; np.flatnonzero makes them of a mask"
            )
        if starts.size and not (0 <= starts[0] and starts[-1] < shape[0] and (starts[1:] > starts[:-1]).all()):
            raise UserError(f"starts must rise, from 0 on and below the number of tokens, {shape[0]}")

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, number: int) -> "TokenStream":
        """A view of the first `number` tokens at most."""
        return TokenStream(self.tokens[:number], self.starts[: np.searchsorted(self.starts, number)])

    def mask(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """Where documents start among tokens first to stop, bool (stop - first,); among all by default."""
        stop = len(self) if stop is None else stop
        mask = np.zeros(stop - first, bool)
        low, high = np.searchsorted(self.starts, (first, stop))
        mask[self.starts[low:high] - first] = True
        return mask

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs, int64 (vocab_size,).

        Example:
          >>> TokenStream(np.array([1, 0, 1]), np.array([0])).counts(3).tolist()
          [1, 2, 0]
        """
        return sum((np.bincount(block, minlength=vocab_size) for block in _blocks(self.tokens)), np.zeros(vocab_size, np.int64))

    def add_to(self, digest: Any) -> None:
        """Adds the tokens, as int32 whatever their dtype, and the mask of all starts to a hash."""
        for block in _blocks(self.tokens):
            digest.update(block.astype("<i4"))
        for first in range(0, len(self), BLOCK):
            digest.update(self.mask(first, min(first + BLOCK, len(self))))


def _blocks(tokens: np.ndarray) -> Iterator[np.ndarray]:
    return (tokens[first : first + BLOCK] for first in range(0, len(tokens), BLOCK))


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest dtype for ids below a number.

    Example:
      >>> [token_dtype(size).name for size in (256, 257, 70_000)]
      ['uint8', 'uint16', 'int32']
    """
    return np.dtype(np.uint8 if vocab_size <= 1 << 8 else np.uint16 if vocab_size <= 1 << 16 else np.int32)


def encode_documents(
    documents: Iterable[str],
    encode: Callable[[str], Any],
    *,
    ends: bool,
    eos_id: int | None = None,
    reset: bool = True,
    cut_after: str | None = None,
    dtype: Any = np.int32,
) -> TokenStream:
    """Documents, encoded and joined into one stream.

    Args:
      documents: the texts, in reading order; an empty one is a lone `<eos>` with `ends`, and nothing without.
      encode: text -> token ids, a sequence or a one-dimensional array of integers.
      ends: append `eos_id` to each document, so that its end is predicted too.
      eos_id: the id of `<eos>`; needed only with `ends`.
      reset: mark the start of each document. With False only the very first token is a start: running text with `<eos>` as an ordinary
        token, as is usual on PTB and WikiText.
      cut_after: characters after which a long document may be cut without changing its tokens; "" cuts anywhere, None nowhere.
        Tokenizers have an attribute of this name.
      dtype: dtype of the tokens.

    Returns:
      A TokenStream of N tokens.

    Raises:
      UserError: `ends` without `eos_id`, or an encoder that does not return one-dimensional integers.

    Example:
      >>> stream = encode_documents(["ab", "", "c"], lambda text: [ord(c) for c in text], ends=True, eos_id=0)
      >>> stream.tokens.tolist(), stream.starts.tolist()
      ([97, 98, 0, 0, 99, 0], [0, 3, 4])
    """
    if ends and eos_id is None:
        raise UserError("ends=True needs eos_id, the id of <eos>; give it, or choose ends=False")
    tokens, starts, number, last = _Growing(dtype), _Growing(np.int64), 0, -1
    end = np.array([eos_id] if ends else [], dtype)
    for text, begins in pieces(documents, cut_after):
        if begins:
            if number:
                tokens.append(end)
            number, first = number + 1, tokens.size
        ids = np.asarray(encode(text))
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise UserError(f"encode gave {ids.dtype} of shape {ids.shape} for document {number}; it must give a line of integers")
        if (ids.size or ends) and last < first and (reset or last < 0):
            starts.append(np.array([first]))
            last = first
        tokens.append(ids)
    if number:
        tokens.append(end)
    return TokenStream(tokens.joined(), starts.joined())


class _Growing:
    """A growable array.

    It grows block by block. The blocks are memory-mapped, not allocated: if the C library keeps freed memory
    (`seqjax.run.process.keep_freed_memory`), joining allocated blocks would leave the array in memory twice.
    """

    def __init__(self, dtype: Any):
        self.size, self._dtype, self._blocks = 0, np.dtype(dtype), []

    def append(self, values: np.ndarray) -> None:
        while len(values):
            room = -self.size % BLOCK
            if not room:
                self._blocks.append(self._mapped(BLOCK))
                room = BLOCK
            taken = values[:room]
            self._blocks[-1][BLOCK - room : BLOCK - room + len(taken)] = taken
            self.size += len(taken)
            values = values[room:]

    def joined(self) -> np.ndarray:
        """All values; blocks are released as they are copied."""
        whole, self._blocks = self._mapped(self.size), self._blocks[::-1]
        for first in range(0, self.size, BLOCK):
            whole[first : first + BLOCK] = self._blocks.pop()[: self.size - first]
        return whole

    def _mapped(self, size: int) -> np.ndarray:
        return np.frombuffer(mmap.mmap(-1, max(size, 1) * self._dtype.itemsize), self._dtype)[:size]


def encode_corpus(corpus: Dataset, tokenizer: Any, *, eos_id: int, reset: bool) -> tuple[dict[str, TokenStream], str]:
    """Every part of a corpus as a stream of tokens, in the narrowest dtype.

    Args:
      corpus: as returned by `load_corpus`.
      tokenizer: has `encode`, `vocab_size` and `cut_after`.
      eos_id, reset: as in `encode_documents`.

    Returns:
      (part -> TokenStream, a sha256 over all of them).

    Raises:
      UserError: a part has no tokens.

    Example:
      >>> from seqjax.data import load_corpus
      >>> from seqjax.text import EOS, CharTokenizer
      >>> hello = load_corpus("embedded", name="hello")
      >>> streams, digest = encode_corpus(hello, CharTokenizer.fit(hello.parts["train"]["text"]), eos_id=EOS, reset=True)
      >>> streams["train"].tokens[:7].tolist(), streams["train"].tokens.dtype.name, len(digest)
      ([5, 4, 6, 6, 7, 3, 5], 'uint8', 64)
    """
    how = {"ends": corpus.facts["ends"], "eos_id": eos_id, "reset": reset}
    how |= {"cut_after": tokenizer.cut_after, "dtype": token_dtype(tokenizer.vocab_size)}
    streams, digest = {}, hashlib.sha256()
    for name, records in corpus.parts.items():
        streams[name] = encode_documents(records["text"], tokenizer.encode, **how)
        if not len(streams[name]):
            raise UserError(f"the {name} part of {corpus.name} has no tokens; give some text")
        streams[name].add_to(digest)
    return streams, digest.hexdigest()
