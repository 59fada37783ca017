"""Sentences as columns of ids of words, characters and tags."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from seqjax.text.lookup import WordLookup, char_ids
from seqjax.text.storage import tokenizer_from_dict
from seqjax.text.tokenizers import CharTokenizer


class WordTable(NamedTuple):
    """Sentences as ids of their words, of the words' characters, and of their tags.

    Example:
      >>> words, chars = WordLookup.fit([["a", "cat"]]), CharTokenizer.fit(["a", "cat"])
      >>> table = WordTable(words, chars, {"DET": 0, "NOUN": 1}, 3)
      >>> [column[0].tolist() for column in table.columns([["a", "cat"]], [["DET", "NOUN"]])]
      [[4, 5], [[4, 0, 0], [5, 4, 6]], [0, 1]]
    """

    words: WordLookup
    chars: CharTokenizer
    tags: dict[str, int]
    width: int  # characters of a word

    @classmethod
    def from_dicts(cls, words: dict[str, Any], chars: dict[str, Any], tags: Sequence[str], width: int) -> "WordTable":
        """Builds it from the lookup and the tokenizer as JSON values, and the tags in the order of their ids."""
        return cls(WordLookup(**words), cast(CharTokenizer, tokenizer_from_dict(chars)), {tag: i for i, tag in enumerate(tags)}, width)

    def columns(self, words: Sequence[Sequence[str]], tags: Sequence[Sequence[str]] | None) -> tuple[list, list, list]:
        """Returns the ids of words (t,), characters (t, C) and tags (t,) of each sentence; tags are 0 if there are none."""
        encoded = [self.words.ids(sentence) for sentence in words]
        chars = [char_ids(self.chars, sentence, self.width) for sentence in words]
        if tags is None:
            return encoded, chars, [np.zeros(len(sentence), np.int32) for sentence in words]
        return encoded, chars, [np.array([self.tags[tag] for tag in sentence], np.int32) for sentence in tags]
