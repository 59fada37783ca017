"""Ids of pre-split words, and their characters."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from seqjax.text.tokenizers import CharTokenizer
from seqjax.text.vocabulary import PAD, SPECIAL_TOKENS, UNK, check_vocabulary, choose_tokens


@dataclasses.dataclass(frozen=True)
class WordLookup:
    """Looks up ids of words that are already split, as in treebanks; each entry is one word.

    Args:
      vocabulary: the words in the order of their ids, the special tokens first; `fit` builds it.
      lower: words are looked up in lower case.

    Raises:
      UserError: the vocabulary is not valid.

    Example:
      >>> words = WordLookup.fit([["The", "dog"], ["the", "cat"]], min_count=2, lower=True)
      >>> words.ids(["THE", "mouse"])
      array([4, 1], dtype=int32)
      >>> WordLookup(**words.to_dict()) == words
      True
    """

    vocabulary: tuple[str, ...] = dataclasses.field(repr=False)
    lower: bool = False

    def __post_init__(self):
        object.__setattr__(self, "vocabulary", check_vocabulary(self.vocabulary))

    @classmethod
    def fit(
        cls, sentences: Iterable[Sequence[str]], *, min_count: int = 1, max_size: int | None = None, lower: bool = False
    ) -> "WordLookup":
        """Builds a lookup of the sentences' most frequent words; ties are in code point order.

        Args:
          sentences: each a sequence of words.
          min_count: a word that occurs less often is unknown.
          max_size: the maximum number of ids, including the special ones.
          lower: as in the class.

        Raises:
          UserError: there is no word, or a setting is invalid.

        Example:
          >>> WordLookup.fit([["a", "b", "a"]]).vocabulary[4:]
          ('a', 'b')
        """
        counts = collections.Counter(word.lower() if lower else word for sentence in sentences for word in sentence)
        return cls((*SPECIAL_TOKENS, *choose_tokens(counts, min_count=min_count, max_size=max_size)), lower)

    @property
    def vocab_size(self) -> int:
        """The number of ids, including the four special tokens."""
        return len(self.vocabulary)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary) if i >= len(SPECIAL_TOKENS)}

    def ids(self, words: Sequence[str]) -> np.ndarray:
        """Returns the id of each word, int32 (n,); `<unk>` for words not in the vocabulary."""
        return np.array([self._ids.get(word.lower() if self.lower else word, UNK) for word in words], np.int32)

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the object: strings and a flag, JSON-serialisable."""
        return {"vocabulary": list(self.vocabulary), "lower": self.lower}


def char_ids(tokenizer: CharTokenizer, words: Sequence[str], width: int) -> np.ndarray:
    """Encodes the characters of each word.

    Args:
      tokenizer: gives the ids.
      words: n of them.
      width: C; a longer word keeps its first and last C / 2 characters.

    Returns:
      int32 (n, C), `<pad>` past a word's end.

    Example:
      >>> char_ids(CharTokenizer.fit(["abcde"]), ["ab", "abcde"], 4).tolist()
      [[4, 5, 0, 0], [4, 5, 7, 8]]
    """
    found = np.full((len(words), width), PAD, np.int32)
    for row, word in zip(found, words):
        ids = tokenizer.encode(word)
        if len(ids) > width:
            ids = np.concatenate([ids[: width - width // 2], ids[len(ids) - width // 2 :]])
        row[: len(ids)] = ids
    return found
