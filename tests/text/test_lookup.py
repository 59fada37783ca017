"""Words given one by one as ids, their characters, and tokenizers by the names of configs."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.errors import UserError
from seqjax.text import SPECIAL_TOKENS, UNK
from seqjax.text.fitting import KINDS, fit_tokenizer
from seqjax.text.lookup import WordLookup, char_ids
from seqjax.text.tokenizers import CharTokenizer

words = st.text(st.sampled_from("abÉ .İ\n"), min_size=1, max_size=3)
sentences = st.lists(st.lists(words, max_size=6), min_size=1, max_size=6).filter(any)


@settings(max_examples=80, deadline=None)
@given(sentences, st.booleans(), st.integers(1, 3), st.integers(5, 9) | st.none())
def test_ids_are_the_ranks_of_words_by_count(sentences, lower, least, most):
    case = str.lower if lower else str
    counts = Counter(case(word) for sentence in sentences for word in sentence)
    ranked = sorted((w for w in counts if counts[w] >= least), key=lambda w: (-counts[w], w))
    ranked = ranked[: None if most is None else most - 4]
    if not ranked:
        with pytest.raises(UserError):
            WordLookup.fit(sentences, min_count=least, max_size=most, lower=lower)
        return
    lookup = WordLookup.fit(sentences, min_count=least, max_size=most, lower=lower)
    assert lookup.vocabulary == (*SPECIAL_TOKENS, *ranked) and lookup.vocab_size == len(ranked) + 4
    for sentence in sentences:
        ids = lookup.ids(sentence)
        assert ids.dtype == np.int32 and ids.shape == (len(sentence),)
        assert ids.tolist() == [ranked.index(case(w)) + 4 if case(w) in ranked else UNK for w in sentence]
    again = WordLookup(**json.loads(json.dumps(lookup.to_dict())))
    assert again == lookup and hash(again) == hash(lookup) and again.ids(["a", "zzz"]).tolist() == lookup.ids(["a", "zzz"]).tolist()


def test_words_that_look_special_are_unknown():
    lookup = WordLookup.fit([["<pad>", "<eos>", "<bos>", "dog"]])
    assert lookup.vocabulary == (*SPECIAL_TOKENS, "dog")
    assert lookup.ids(["<pad>", "<eos>", "<unk>", "dog", ""]).tolist() == [1, 1, 1, 4, 1]
    assert lookup.ids([]).shape == (0,) and lookup.ids([]).dtype == np.int32


def test_lookups_that_cannot_be_are_refused():
    for build, says in (
        (lambda: WordLookup.fit([[], []]), "no token"),
        (lambda: WordLookup.fit([["a"]], min_count=2), "min_count=2"),
        (lambda: WordLookup.fit([["a"]], max_size=4), "max_size is 4"),
        (lambda: WordLookup(("a",)), "must begin with"),
        (lambda: WordLookup((*SPECIAL_TOKENS, "a", "a")), "twice"),
    ):
        with pytest.raises(UserError) as error:
            build()
        assert says in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("abcdefg!", max_size=9), max_size=5), st.integers(1, 9))
def test_long_words_keep_both_ends(words, width):
    tokenizer = CharTokenizer.fit(["abcdefg"])
    found = char_ids(tokenizer, words, width)
    assert found.shape == (len(words), width) and found.dtype == np.int32
    for row, word in zip(found, words):
        n = min(len(word), width)
        head = n - n // 2
        want = word if len(word) <= width else word[:head] + (word[-(n // 2) :] if n // 2 else "")
        assert row[:n].tolist() == [UNK if c == "!" else 4 + "abcdefg".index(c) for c in want]
        assert (row[:n] != 0).all() and (row[n:] == 0).all()


# fit_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_tokenizer_gives_back_what_it_read(kind):
    texts = ["the cat sat on the mat", "the dog ate the cat"]
    tokenizer = fit_tokenizer(kind, texts, vocab_size=18)
    assert kind in type(tokenizer).__name__.lower()
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert all((tokenizer.encode(text) >= 4).all() for text in texts)


def test_options_reach_the_tokenizer():
    texts = ["The the THE cat\nsat", "cat"]
    assert fit_tokenizer("word", texts, lower=True, min_count=2).vocabulary[4:] == ("the", "cat")
    assert fit_tokenizer("word", texts, max_size=5).vocabulary[4:] == ("cat",)
    assert fit_tokenizer("char", texts, max_size=6, min_count=2).vocab_size == 6
    assert fit_tokenizer("word", texts, max_size=0).vocab_size == 4 + 5


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="tokenizer.kind='bpe' is unknown; choose one of char, word, subword"):
        fit_tokenizer("bpe", ["a"])
