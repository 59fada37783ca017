"""Tokenizers: text to ids and back, by characters or by words.

Both are immutable values, a vocabulary and settings; tokenizers with the same contents are equal.
"""

import collections
import dataclasses
import functools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.errors import UserError
from seqjax.text.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, check_vocabulary, choose_tokens
from seqjax.text.words import join_words, split_words

LONG = 10_000  # length from which a text's characters are counted vectorised


@dataclasses.dataclass(frozen=True)
class _Tokenizer:
    """The base of both tokenizers; a subclass defines how text is split, looked up and joined."""

    vocabulary: tuple[str, ...] = dataclasses.field(repr=False)

    def __post_init__(self):
        object.__setattr__(self, "vocabulary", check_vocabulary(self.vocabulary))

    @property
    def vocab_size(self) -> int:
        """The number of ids, including the four special tokens."""
        return len(self.vocabulary)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        """The id of each token that text can contain; special tokens are excluded, so text cannot forge padding."""
        return {token: i for i, token in enumerate(self.vocabulary) if i >= len(SPECIAL_TOKENS)}

    @property
    def cut_after(self) -> str | None:
        """Characters after which a text can be split without changing its tokens; "" for anywhere, None for nowhere."""
        return "\n"

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def _join(self, tokens: list[str]) -> str:
        raise NotImplementedError

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text's tokens, `UNK` for those not in the vocabulary; neither bos nor eos is added.

        Args:
          text: any text.

        Returns:
          int32 (n,), one id for each token of `tokenize(text)`.

        Raises:
          UserError: text is not a string.
        """
        ids = self._ids
        return np.array([ids.get(token, UNK) for token in self.tokenize(text)], dtype=np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = True) -> str:
        """Converts a sequence of ids to text; it does not stop at special tokens.

        Args:
          ids: integers (n,), below `vocab_size`.
          skip_special: leave out pad, bos and eos. An unknown token is shown as `<unk>` in any case.

        Returns:
          The text.

        Raises:
          UserError: ids are not integers in one dimension, or one is outside the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise UserError(f"ids have shape {ids.shape} and type {ids.dtype}; give one sequence of integers")
        if ids.size and not (0 <= ids.min() and ids.max() < self.vocab_size):
            raise UserError(f"ids run from {ids.min()} to {ids.max()}; the vocabulary has 0 to {self.vocab_size - 1}")
        if skip_special and ids.size:
            ids = ids[(ids != PAD) & (ids != BOS) & (ids != EOS)]
        return self._join([self.vocabulary[i] for i in ids.tolist()])

    def unknown(self, text: str) -> list[str]:
        """Returns the distinct tokens of a text that are not in the vocabulary, in order of first appearance.

        Args:
          text: any text.

        Returns:
          The tokens.

        Raises:
          UserError: text is not a string.
        """
        return [token for token in dict.fromkeys(self.tokenize(text)) if token not in self]


@dataclasses.dataclass(frozen=True)
class CharTokenizer(_Tokenizer):
    """Tokenizes into Unicode code points: `é` is one token or two, depending on how the text encodes it.

    Args:
      vocabulary: the tokens in the order of their ids; `fit` builds it in code point order.
      nfc: text is first converted to Unicode normal form C, in which `e` and an accent are one code point.

    Raises:
      UserError: the vocabulary is not valid, or contains a token longer than one character.

    Example:
      >>> tokenizer = CharTokenizer.fit(["banana"])
      >>> tokenizer.vocabulary
      ('<pad>', '<unk>', '<bos>', '<eos>', 'a', 'b', 'n')
      >>> tokenizer.encode("ban!")
      array([5, 4, 6, 1], dtype=int32)
      >>> tokenizer.decode([5, 4, 6, 1])
      'ban<unk>'
    """

    nfc: bool = False

    def __post_init__(self):
        super().__post_init__()
        _check_flag("nfc", self.nfc)
        for token in self.vocabulary[len(SPECIAL_TOKENS) :]:
            if len(token) != 1:
                raise UserError(f"vocabulary holds {token!r}; every token of a character tokenizer is one character")

    @classmethod
    def fit(cls, texts: str | Iterable[str], *, min_count: int = 1, max_size: int | None = None, nfc: bool = False) -> "CharTokenizer":
        """Builds a tokenizer whose vocabulary is the characters of the texts, in code point order.

        Args:
          texts: texts, or one text.
          min_count: characters that occur less often are left out.
          max_size: the maximum number of ids, including special tokens; the most frequent characters are kept.
          nfc: as in the class.

        Returns:
          The tokenizer.

        Raises:
          UserError: texts contain no character, or a setting is invalid.

        Example:
          >>> CharTokenizer.fit(["abca"], max_size=6).vocabulary[4:]
          ('a', 'b')
        """
        _check_flag("nfc", nfc)
        counts = collections.Counter()
        for text in _texts(texts, cut_after="\n" if nfc else ""):
            text = unicodedata.normalize("NFC", text) if nfc else text
            counts.update(text if len(text) < LONG else _character_counts(text))
        return cls((*SPECIAL_TOKENS, *sorted(choose_tokens(counts, min_count=min_count, max_size=max_size))), nfc)

    @property
    def cut_after(self) -> str | None:
        return "\n" if self.nfc else ""

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The id of each code point up to the highest known one; a last entry, `UNK`, is for all above it."""
        points = [ord(token) for token in self.vocabulary[len(SPECIAL_TOKENS) :]]
        table = np.full(max(points, default=0) + 2, UNK, dtype=np.int32)
        table[points] = np.arange(len(SPECIAL_TOKENS), self.vocab_size)
        return table

    def tokenize(self, text: str) -> list[str]:
        """Splits a text into characters."""
        return list(self._normalise(text))

    def encode(self, text: str) -> np.ndarray:
        points = _code_points(self._normalise(text))
        return self._table[np.minimum(points, len(self._table) - 1)]

    encode.__doc__ = _Tokenizer.encode.__doc__

    def to_dict(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_dict` needs: strings, flags and a list, JSON-serialisable."""
        return {"kind": "char", "nfc": self.nfc, "vocabulary": list(self.vocabulary)}

    def _normalise(self, text: str) -> str:
        _check_text(text)
        return unicodedata.normalize("NFC", text) if self.nfc else text

    def _join(self, tokens: list[str]) -> str:
        return "".join(tokens)


@dataclasses.dataclass(frozen=True)
class WordTokenizer(_Tokenizer):
    """Tokenizes into words and punctuation: by the rules of `seqjax.text.words`, white space, or your function.

    Args:
      vocabulary: the tokens in the order of their ids; `fit` builds it, most frequent first.
      lower: text is first converted to lower case.
      newlines: the end of a line is a token, `\\n`; otherwise it is white space.
      split_contractions: `don't` is `do n't`, `it's` is `it 's`. Not used with `pretokenized` or a segmenter.
      pretokenized: split at white space only, and take `<unk>` and `<eos>` in the text for the special tokens. `decode`
        puts one space between tokens.
      segmenter: splits a line into tokens, for languages that are written without spaces; white space among the tokens
        is dropped. A saved tokenizer records that it had one, and loading it requires the segmenter again.

    Raises:
      UserError: the vocabulary is not valid, or the settings contradict each other.

    Example:
      >>> tokenizer = WordTokenizer.fit(["It isn't red, it's blue."], lower=True)
      >>> tokenizer.tokenize("It's red!")
      ['it', "'s", 'red', '!']
      >>> tokenizer.decode(tokenizer.encode("It's red!"))
      "it's red <unk>"
    """

    lower: bool = False
    newlines: bool = True
    split_contractions: bool = True
    pretokenized: bool = False
    segmenter: Callable[[str], Iterable[str]] | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("lower", "newlines", "split_contractions", "pretokenized"):
            _check_flag(name, getattr(self, name))
        if self.segmenter is not None and not callable(self.segmenter):
            raise UserError("segmenter is not callable; give a function that takes a text and returns its tokens")
        if self.segmenter is not None and self.pretokenized:
            raise UserError("pretokenized text needs no segmenter; give one of the two")

    @classmethod
    def fit(
        cls,
        texts: str | Iterable[str],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        lower: bool = False,
        newlines: bool | None = None,
        split_contractions: bool = True,
        pretokenized: bool = False,
        segmenter: Callable[[str], Iterable[str]] | None = None,
    ) -> "WordTokenizer":
        """Builds a tokenizer whose vocabulary is the texts' most frequent tokens; ties are in code point order.

        Args:
          texts: texts, or one text.
          min_count: tokens that occur less often are left out.
          max_size: the maximum number of ids, including special tokens.
          newlines: as in the class; on by default, off by default if `pretokenized`.
          lower, split_contractions, pretokenized, segmenter: as in the class.

        Returns:
          The tokenizer.

        Raises:
          UserError: texts contain no token, or a setting is invalid.

        Example:
          >>> WordTokenizer.fit(["to be or not to be"], max_size=6).vocabulary
          ('<pad>', '<unk>', '<bos>', '<eos>', 'be', 'to')
        """
        newlines = not pretokenized if newlines is None else newlines
        empty = cls(SPECIAL_TOKENS, lower, newlines, split_contractions, pretokenized, segmenter)
        counts = collections.Counter()
        for text in _texts(texts, cut_after=empty.cut_after):
            counts.update(empty.tokenize(text))
        chosen = choose_tokens(counts, min_count=min_count, max_size=max_size)
        return dataclasses.replace(empty, vocabulary=(*SPECIAL_TOKENS, *chosen))

    @property
    def cut_after(self) -> str | None:
        if self.segmenter is None:
            return "\n "  # tokens contain no white space
        return "\n" if self.newlines else None

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        literal = {SPECIAL_TOKENS[i]: i for i in (UNK, EOS)} if self.pretokenized else {}
        return {token: i for i, token in enumerate(self.vocabulary) if i >= len(SPECIAL_TOKENS)} | literal

    def tokenize(self, text: str) -> list[str]:
        """Splits a text into tokens.

        Args:
          text: any text.

        Returns:
          The tokens in order, independent of the vocabulary.

        Raises:
          UserError: text is not a string, or the segmenter returned something other than strings.
        """
        _check_text(text)
        if self.lower:
            text = text.lower()
        if not self.newlines:
            return self._split(text)
        tokens = []
        for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
            tokens.extend(self._split(line))
            tokens.append("\n")
        return tokens[:-1]

    def to_dict(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_dict` needs; for a segmenter, only that there was one."""
        flags = {name: getattr(self, name) for name in ("lower", "newlines", "split_contractions", "pretokenized")}
        flags["segmenter"] = self.segmenter is not None
        return {"kind": "word", **flags, "vocabulary": list(self.vocabulary)}

    def _split(self, text: str) -> list[str]:
        if self.pretokenized:
            return text.split()
        if self.segmenter is None:
            return split_words(text, split_contractions=self.split_contractions)
        tokens = self.segmenter(text)
        if isinstance(tokens, str) or not isinstance(tokens, Iterable):
            raise UserError(f"segmenter returned a {type(tokens).__name__}; it must return a list of strings")
        tokens = list(tokens)
        if not all(isinstance(token, str) for token in tokens):
            raise UserError("segmenter returned something that is not a string; it must return a list of strings")
        return [token for token in tokens if token.strip()]

    def _join(self, tokens: list[str]) -> str:
        return " ".join(tokens) if self.pretokenized else join_words(tokens)


class Report(NamedTuple):
    """How well a vocabulary covers some text; `str` gives it as one line."""

    tokens: int  # tokens in the text
    types: int  # distinct tokens
    coverage: float  # share of the tokens that are in the vocabulary
    unknown_types: int  # distinct tokens that are not

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} tokens of {self.types:,} types; the vocabulary covers {self.coverage:.2%} of the tokens"
            f" and lacks {self.unknown_types:,} types"
        )


def report(tokenizer: CharTokenizer | WordTokenizer, text: str | Iterable[str]) -> Report:
    """Counts the tokens of a text and those not in the tokenizer's vocabulary.

    Args:
      tokenizer: the tokenizer.
      text: a text, or its tokens.

    Returns:
      A `Report`.

    Raises:
      UserError: text is neither, or contains no token.

    Example:
      >>> print(report(WordTokenizer.fit(["a rose is a rose"]), "a rose is not a violet"))
      6 tokens of 5 types; the vocabulary covers 66.67% of the tokens and lacks 2 types
    """
    tokens = tokenizer.tokenize(text) if isinstance(text, str) else list(_texts(text, "text"))
    if not tokens:
        raise UserError("text holds no token to report on; give some text")
    counts = collections.Counter(tokens)
    lacking = [count for token, count in counts.items() if token not in tokenizer]
    return Report(len(tokens), len(counts), 1 - sum(lacking) / len(tokens), len(lacking))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _character_counts(text: str) -> dict[str, int]:
    """Counts how often each character occurs, ten times as fast as one by one."""
    counts = np.bincount(_code_points(text))
    return {chr(point): int(counts[point]) for point in np.flatnonzero(counts)}


def _texts(texts: str | Iterable[str], name: str = "texts", cut_after: str | None = None) -> Iterable[str]:
    """Yields the texts; a string is one text. Texts of a file too large for memory come in pieces (seqjax.data.readers.texts)."""
    pieces = getattr(texts, "pieces", None)
    if pieces is not None:
        texts = (text for text, _ in pieces(cut_after))
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes):
        raise UserError(f"{name} is a {type(texts).__name__}; give a string or a list of strings")
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{name} holds a {type(text).__name__}; every entry must be a string")
        yield text


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"text is a {type(text).__name__}; give a string")


def _check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}; give True or False")
