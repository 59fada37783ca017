"""Baselines: the formulas computed again, tasks that only some n-grams can solve, faults."""

import collections
import math
import sys

import numpy as np
import pytest

from seqjax.data import TokenStream
from seqjax.errors import UserError
from seqjax.run import baselines
from seqjax.run.baselines import bag_of_words, choose_strength, majority, ngram
from seqjax.text import NGramModel

RNG = np.random.default_rng(0)
WORDS = "red green blue one two three tree house sea".split()


def test_majority():
    assert majority([2, 1, 1, 2, 3]) == 2  # as frequent as 1, and first
    assert majority(iter("abb")) == "b"
    assert majority(np.array([0, 1, 1])) == 1
    with pytest.raises(ValueError, match="labels is empty"):
        majority([])


def _texts(number):
    return [" ".join(RNG.choice(WORDS, 6)) for _ in range(number)]


def test_features_are_those_of_the_docstring():
    texts = ["Red red tree!", "a tree", "a red sea"]
    vectorizer, features = baselines._features(texts, [0, 1, 0], "word", (1, 2))
    grams = [["red", "red", "tree", "!", "red red", "red tree", "tree !"], ["a", "tree", "a tree"]]
    grams.append(["a", "red", "sea", "a red", "red sea"])
    names = sorted({gram for row in grams for gram in row})
    assert list(vectorizer.get_feature_names_out()) == names
    for row, value in zip(grams, features.toarray()):
        counts = collections.Counter(row)
        wanted = np.array(
            [
                (1 + math.log(counts[gram])) * (1 + math.log((1 + 3) / (1 + sum(gram in other for other in grams)))) if counts[gram] else 0
                for gram in names
            ]
        )
        np.testing.assert_allclose(value, wanted / np.linalg.norm(wanted), rtol=1e-5)


def test_the_fit_is_at_the_minimum_of_the_penalised_loss():
    """Zero gradient of C * (cross-entropy) + |w|^2 / 2, by NumPy."""
    texts = _texts(40)
    labels = np.array(["blue" in text for text in texts]).astype(int)
    _, features = baselines._features(texts, labels, "word", (1, 1))
    for strength in (0.5, 8.0):
        fitted = baselines._fit(features, labels, strength)
        x, w = features.toarray().astype(np.float64), fitted.coef_[0].astype(np.float64)
        error = 1 / (1 + np.exp(-(x @ w + fitted.intercept_[0]))) - labels
        assert np.abs(w).max() > 0.1
        np.testing.assert_allclose(strength * x.T @ error + w, 0, atol=5e-3)


def test_a_word_decides_and_the_labels_may_be_anything():
    texts, test = _texts(200), _texts(50)
    labels = ["with" if "blue" in text else "without" for text in texts]
    answers = bag_of_words(texts, labels, {"test": test, "none": []}, strength=16.0)
    assert answers["test"].tolist() == ["with" if "blue" in text else "without" for text in test]
    assert answers["none"].shape == (0,)
    again = bag_of_words(texts, labels, {"test": test}, strength=16.0)
    np.testing.assert_array_equal(again["test"], answers["test"])


def test_only_longer_ngrams_see_order():
    texts = [" ".join(RNG.permutation(["not", "good", "but", "bad"])) for _ in range(120)]
    labels = np.array(["not good" in text for text in texts])
    right = {
        ngram: np.mean(bag_of_words(texts, labels, {"": texts}, ngram=ngram, strength=64.0)[""] == labels) for ngram in [(1, 1), (1, 2)]
    }
    assert right[1, 2] == 1 and right[1, 1] == max(labels.mean(), 1 - labels.mean())


def test_characters_tell_the_ends_of_names():
    stems = ["".join(RNG.choice(list("abdeiklmnor"), 5)) for _ in range(150)]
    ends = RNG.choice(["ski", "ez", "ini"], 150)
    names = [stem + end for stem, end in zip(stems, ends)]
    answers = bag_of_words(names[:100], ends[:100], {"test": names[100:]}, kind="char", strength=16.0)
    assert np.mean(answers["test"] == ends[100:]) > 0.95
    words = bag_of_words(names[:100], ends[:100], {"test": names[100:]}, kind="word")  # each name a word of its own
    assert np.mean(words["test"] == ends[100:]) < 0.7


def test_unknown_words_and_empty_texts_get_an_answer():
    answers = bag_of_words(["red red", "blue", "blue sea"], [0, 1, 1], {"test": ["zebra", ""]})
    assert answers["test"].tolist() == [1, 1]


def test_the_strength_is_chosen_on_the_validation_part():
    """Only a weak penalty lets a rare word overrule a frequent one."""
    texts = ["good"] * 60 + ["bad"] * 40 + ["good alas"] * 2
    labels = [1] * 60 + [0] * 42
    rare, frequent = (["good alas"], [0]), (["good"], [1])
    assert choose_strength(texts, labels, *rare, choices=(0.01, 16.0, 64.0)) == 16.0  # the first of those that are right
    assert choose_strength(texts, labels, *frequent, choices=(0.01, 16.0)) == 0.01
    answers = {strength: bag_of_words(texts, labels, {"": rare[0]}, strength=strength)[""] for strength in (0.01, 16.0)}
    assert answers == {0.01: [1], 16.0: [0]}


@pytest.mark.parametrize(
    "texts, labels, options, error, said",
    [
        (["a"], [1, 2], {}, ValueError, "texts has 1 entries and labels has 2"),
        (["a", "b"], [1, 1], {}, ValueError, "labels has 1 different"),
        (["a", "b"], [1, 2], {"kind": "letters"}, ValueError, "kind='letters' must be one of word, char"),
        (["", " "], [1, 2], {}, UserError, "no word to learn from"),
    ],
)
def test_faults(texts, labels, options, error, said):
    with pytest.raises(error, match=said):
        bag_of_words(texts, labels, {}, **options)
    with pytest.raises(error, match=said):
        choose_strength(texts, labels, ["a"], [1], **options)


@pytest.mark.parametrize("texts, labels", [([], []), (["a"], [])])
def test_a_validation_part_that_cannot_choose(texts, labels):
    with pytest.raises(ValueError, match=f"{len(texts)} texts and 0 labels"):
        choose_strength(["a", "b"], [1, 2], texts, labels)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(UserError, match=r"scikit-learn, which is not installed; run pip install -e '\.\[experiments\]'"):
        bag_of_words(["a", "b"], [0, 1], {})


def test_an_ngram_model_of_a_long_stream_is_of_its_first_tokens_and_says_so():
    rng = np.random.default_rng(0)
    train, part = (TokenStream(rng.integers(4, 9, size).astype(np.uint8), np.arange(0, size, 7)) for size in (300, 90))
    whole = NGramModel.fit(train.tokens, train.mask(), order=3, vocab_size=9).nats(part.tokens, part.mask())
    assert ngram(train, part, order=3, vocab_size=9) == ("3-gram Kneser-Ney", whole)
    name, nats = ngram(train, part, order=3, vocab_size=9, most=50)
    assert name == "3-gram Kneser-Ney of the first 50 tokens"
    few = NGramModel.fit(train.tokens[:50], train.mask()[:50], order=3, vocab_size=9)
    assert nats == few.nats(part.tokens[:50], part.mask()[:50]) != whole
