"""Pretrained word vectors, in the text formats of GloVe and word2vec."""

import collections
import gzip
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.text.vocabulary import SPECIAL_TOKENS

LONGEST_LINE = 1 << 20  # bytes; a file that is not text has no line ends, and must not be read as a single line
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Vectors(NamedTuple):
    """The vectors of a vocabulary's tokens; `str` summarises in one line how many were found."""

    matrix: np.ndarray  # float32 (V, D); rows that were not found are zero
    found: np.ndarray  # bool (V,)
    coverage: float  # share of the tokens found, special ones excluded
    running_coverage: float | None  # share of the counted running tokens; None if none were counted

    def __str__(self) -> str:
        line = f"vectors of {self.matrix.shape[1]} numbers for {self.found.sum():,} tokens, {self.coverage:.2%} of them"
        return line if self.running_coverage is None else f"{line} and {self.running_coverage:.2%} of the running text"


def load_vectors(
    path: str | os.PathLike,
    tokens: Sequence[str],
    *,
    lower_fallback: bool = True,
    counts: Mapping[str, int] | None = None,
) -> Vectors:
    """Reads the vectors of some words from a file with possibly millions of others; only these are kept in memory.

    A line is a word, then D numbers, with one space between (GloVe); the first line may instead give the numbers of
    words and columns (word2vec). The file is UTF-8, plain or compressed by gzip. A word may contain spaces: the last D
    fields are the numbers. If a word occurs twice, the first line counts. Special tokens are not looked up.

    Args:
      path: the file.
      tokens: V words, such as a tokenizer's vocabulary.
      lower_fallback: a token that is not in the file gets the vector of its lower-case form.
      counts: how often each word occurs in some text, including words outside `tokens`; for the coverage of that text.

    Returns:
      `Vectors`.

    Raises:
      UserError: the file cannot be read, or a line is not as described; the message names file and line.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "vectors.txt")
      ...     size = path.write_text("the 0.5 -1.0\\ncat 0.25 2.0\\n")
      ...     vectors = load_vectors(path, ["The", "cat", "sat"], counts={"The": 3, "cat": 2, "sat": 1})
      >>> print(vectors)
      vectors of 2 numbers for 2 tokens, 66.67% of them and 83.33% of the running text
      >>> vectors.matrix
      array([[ 0.5 , -1.  ],
             [ 0.25,  2.  ],
             [ 0.  ,  0.  ]], dtype=float32)

    Reference: Pennington, Socher and Manning, "GloVe: Global vectors for word representation", EMNLP 2014; Mikolov et
    al., "Efficient estimation of word representations in vector space", ICLR workshop 2013.
    """
    tokens = _check_tokens(tokens)
    ordinary = {token for token in tokens if token not in SPECIAL_TOKENS}
    wanted = ordinary | ({token.lower() for token in ordinary} if lower_fallback else set())
    width, rows = _read(os.fspath(path), wanted)

    def row_of(token: str) -> np.ndarray | None:
        row = rows.get(token) if token in ordinary else None
        return rows.get(token.lower()) if row is None and token in ordinary and lower_fallback else row

    matrix = np.zeros((len(tokens), width), np.float32)
    found = np.zeros(len(tokens), bool)
    for i, token in enumerate(tokens):
        if (row := row_of(token)) is not None:
            matrix[i], found[i] = row, True
    covered = {token for token, is_found in zip(tokens, found, strict=True) if is_found}
    coverage = len(covered) / max(len(ordinary), 1)
    return Vectors(matrix, found, coverage, None if counts is None else _running_coverage(counts, covered))


def starting_vectors(path: str, vocabulary: Sequence[str], counts: Mapping[str, int], width: int) -> Vectors | None:
    """Loads the word vectors that a config's model starts from; prints how much of the text they cover.

    Args:
      path: the file; "" for none.
      vocabulary: V tokens.
      counts: counts of the training text's words.
      width: width of the embedding.

    Returns:
      Vectors, or None if no file is named.

    Raises:
      UserError: what load_vectors refuses, or vectors of another width.

    Example:
      >>> starting_vectors("", [], {}, 100) is None
      True
    """
    if not path:
        return None
    vectors = load_vectors(path, vocabulary, counts=counts)
    found = vectors.matrix.shape[1]
    if found != width:
        raise UserError(f"the vectors in {path} have {found} numbers each, but model.embed_size is {width}; make them equal")
    print(f"{pathlib.Path(path).name}: {vectors}")
    return vectors


def start_embedding(table: jax.Array, path: str, vocabulary: Sequence[str], words: Iterable[str]) -> jax.Array:
    """Fills an embedding table with the word vectors of a file; prints how much of the text they cover.

    Args:
      table: (V, D), such as the start that an embedding's `init` gives.
      path: the file; "" leaves the table unchanged.
      vocabulary: V tokens.
      words: the running words of the training text.

    Returns:
      (V, D).

    Raises:
      UserError: what load_vectors refuses, or vectors of another width.

    Example:
      >>> start_embedding(jnp.ones((1, 2)), "", ["a"], ["a", "a"])
      Array([[1., 1.]], dtype=float32)
    """
    if not path:
        return table
    vectors = starting_vectors(path, vocabulary, collections.Counter(words), table.shape[1])
    return apply_vectors(table, cast(Vectors, vectors))


def apply_vectors(table: jax.typing.ArrayLike, vectors: Vectors) -> jax.Array:
    """Puts the vectors into the rows of an embedding table that have one; other rows are unchanged.

    Args:
      table: (V, D), such as the start that an embedding's `init` gives.
      vectors: what `load_vectors` read for the same V tokens.

    Returns:
      (V, D), of the table's type.

    Raises:
      UserError: the width or the number of rows of the table differs from that of the vectors.

    Example:
      >>> vectors = Vectors(np.array([[0.5, 2.0], [0.0, 0.0]], np.float32), np.array([True, False]), 0.5, None)
      >>> apply_vectors(jnp.ones((2, 2)), vectors)
      Array([[0.5, 2. ],
             [1. , 1. ]], dtype=float32)
    """
    table = jnp.asarray(table)
    rows, width = vectors.matrix.shape
    if table.ndim != 2 or table.shape[1] != width:
        raise UserError(
            f"the table has shape {table.shape} and the vectors a width of {width}; make the embedding {width} wide or"
            " give a vectors file of the table's width"
        )
    if len(table) != rows:
        raise UserError(f"the table has {len(table)} rows and the vectors {rows}; load them for the table's own tokens")
    return jnp.where(vectors.found[:, None], vectors.matrix.astype(table.dtype), table)


def _check_tokens(tokens: Sequence[str]) -> list[str]:
    if isinstance(tokens, str | bytes) or not all(isinstance(token, str) for token in tokens):
        raise UserError("tokens must be a sequence of strings; give a tokenizer's vocabulary")
    return list(tokens)


def _running_coverage(counts: Mapping[str, int], covered: set[str]) -> float:
    counts = {word: count for word, count in counts.items() if word not in SPECIAL_TOKENS}
    return sum(count for word, count in counts.items() if word in covered) / max(sum(counts.values()), 1)


def _read(path: str, wanted: set[str]) -> tuple[int, dict[str, np.ndarray]]:
    """Returns the width of a file's vectors, and those of the wanted words: float32 (D,) each."""
    rows, width, promised, count = {}, None, None, 0
    for number, line in _lines(path):
        if width is None:
            promised, width = _header(line)
            if promised is not None:
                continue
        count += 1
        word, values = _split(line, width, path, number)
        if word in wanted and word not in rows or count == 1:
            row = _numbers(values, path, number)
            if word in wanted:
                rows[word] = row
    if not count or width is None:
        raise UserError(f"{path} holds no vectors; give a file with a word and its numbers on each line")
    if promised is not None and promised != count:
        raise UserError(f"{path} holds {count:,} vectors, but its first line says {promised:,}; get the whole file")
    return width, rows


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields the non-blank lines with their numbers, from 1, without trailing white space."""
    try:
        with _open(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                if len(line) == LONGEST_LINE:
                    raise UserError(f"{path}: line {number} is too long for a vector; give a file in text format")
                line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if line := line.rstrip(b" \t\r\n"):
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        said = getattr(error, "strerror", None) or "the compressed data is damaged or incomplete"
        raise UserError(f"cannot read {path} ({said}); give a file of word vectors in text format") from error


def _open(path: str) -> Any:
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        raise UserError(f"{path} is a zip archive; unpack it and give the text file that is inside")
    return gzip.open(path, "rb") if start[:2] == b"\x1f\x8b" else open(path, "rb")


def _header(line: bytes) -> tuple[int | None, int]:
    """Returns how many vectors a file's first line promises, None if it is a vector itself; and their width."""
    fields = line.split(b" ")
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return int(fields[0]), int(fields[1])
    return None, len(fields) - 1


def _split(line: bytes, width: int, path: str, number: int) -> tuple[str, bytes]:
    """Splits a line into its word and its numbers, as text."""
    spaces = line.count(b" ")
    end = line.find(b" ") if spaces == width else len(line.rsplit(b" ", width)[0])
    # A word with spaces, such as ". . .", contains few numbers; a row that is too wide consists of numbers.
    extra = line[:end].split(b" ")[1:] if spaces > width else []
    if width == 0 or spaces < width or (extra and all(map(_is_number, extra))):
        raise UserError(
            f"{path}: line {number} has {spaces if width else 0} numbers after the word, expected"
            f" {width or 'at least 1'}; give a file whose vectors are all of one width"
        )
    try:
        return line[:end].decode("utf-8").strip(" "), line[end + 1 :]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: line {number} is not UTF-8; give a file of word vectors in text format") from error


def _numbers(values: bytes, path: str, number: int) -> np.ndarray:
    try:
        row = np.array([float(value) for value in values.split(b" ")])
    except ValueError as error:
        raise UserError(f"{path}: line {number} holds something that is not a number ({error})") from error
    if not np.all(np.abs(row) <= np.finfo(np.float32).max):
        raise UserError(f"{path}: line {number} holds a number that is not finite; correct the line or remove it")
    return row.astype(np.float32)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
