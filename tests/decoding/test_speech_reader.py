"""Texts and the times of words from log probabilities, for characters, words and pieces; a recurrent language model beside them."""

import jax
import numpy as np
import pytest

from seqjax.data.transforms.sounds import FrontEnd
from seqjax.decoding.fusion import ngram_table
from seqjax.decoding.speech import SpeechReader, Word
from seqjax.models import make_stack
from seqjax.models.speech import Recogniser
from seqjax.text import CharTokenizer, NGramModel, WordTokenizer

FRONT = FrontEnd(8000, 200, 80, 12)


def reader(tokenizer, **how):
    model = Recogniser(tokenizer.vocab_size, make_stack("gru", 6, 1), filters=6)
    return SpeechReader(model, FRONT, tokenizer, **({"batch_size": 3, "boundaries": (1000, 2000)} | how))


def said(tokenizer, path, vocab):
    """Log probabilities that leave little doubt of a path of tokens, "" for blank."""
    ids = [0 if not token else int(tokenizer.encode(token)[0]) for token in path]
    return np.log(0.9 * np.eye(vocab)[ids] + 0.1 / vocab).astype(np.float32)


def test_words_of_characters():
    """A word lasts from the first step of its first character to the last of its last; spaces belong to none."""
    tokenizer = CharTokenizer.fit(["ab cd"])
    own = reader(tokenizer)
    rows = said(tokenizer, ["", "a", "a", "", "b", " ", " ", "", "c", "d", "d", ""], tokenizer.vocab_size)
    (best,) = own.search([rows], width=4)[0]
    assert best.text == "ab cd" == own.greedy([rows])[0] == own.search([rows], width=1)[0][0].text
    step = 80 * 4 / 8000
    expected = [("ab", 1, 5), ("cd", 8, 11)]
    assert own.words(rows, best.ids) == [Word(word, pytest.approx(a * step), pytest.approx(b * step)) for word, a, b in expected]
    assert own.words(rows[:0], np.zeros(0, int)) == []


def test_words_that_are_labels():
    tokenizer = WordTokenizer.fit(["7 3 1"])
    own = reader(tokenizer)
    rows = said(tokenizer, ["7", "7", "", "7", "3"], tokenizer.vocab_size)
    (best,) = own.search([rows], width=4)[0]
    assert best.text == "7 7 3" and [word.text for word in own.words(rows, best.ids)] == ["7", "7", "3"]
    assert own.words(rows, best.ids)[1].start == pytest.approx(3 * 0.04)


def test_sounds_in_batches_are_as_alone():
    """Of any length, in any order; special labels are never written."""
    tokenizer = CharTokenizer.fit(["ab cd"])
    own = reader(tokenizer)
    variables = jax.jit(own.model.init)(jax.random.key(0), np.zeros((1, 8, 12), np.float32), np.array([8]))
    rng = np.random.default_rng(0)
    sounds = [rng.integers(-9999, 9999, n).astype(np.int16) for n in (1500, 100, 990, 5000, 1999)]
    found = own.log_probs(variables, sounds)
    assert [len(rows) for rows in found] == [n // 320 for n in (1500, 100, 990, 5000, 1999)]
    for sound, rows in zip(sounds, found):
        np.testing.assert_allclose(own.log_probs(variables, [sound])[0], rows, atol=1e-4)
        assert not len(rows) or (np.exp(rows[:, 1:4]) == 0).all() and np.allclose(np.exp(rows).sum(axis=1), 1, atol=1e-4)
    texts = own.search(found, width=3, n_best=2)
    assert [len(row) for row in texts] == [2, 1, 2, 2, 2] and texts[1][0].text == ""
    assert all(row[0].score >= row[-1].score for row in texts)


def test_the_table_of_an_ngram_is_the_model():
    """Every context, at the beginning of a text too."""
    rng = np.random.default_rng(1)
    documents = [rng.integers(4, 7, rng.integers(1, 6)).tolist() + [3] for _ in range(20)]
    tokens, starts = np.concatenate(documents), np.concatenate([[True] + [False] * (len(d) - 1) for d in documents])
    for order in (1, 2, 3, 4):
        model = NGramModel.fit(tokens, starts, order=order, vocab_size=7, excluded=(0, 1, 2))
        table = ngram_table(model)
        assert table.shape == (7 ** (order - 1), 7)
        for text in ([], [4], [5, 6], [4, 5, 6], [6, 6, 5, 4]):
            whole = ([0] * order + [2, *text])[-(order - 1) :] if order > 1 else []
            number = sum(label * 7**power for power, label in enumerate(reversed(whole)))
            for label in (3, 4, 5, 6):
                ids = np.array([*text, label])
                expected = model.log_probs(ids, np.arange(len(ids)) == 0)[-1]
                assert table[number, label] == pytest.approx(expected)
            assert np.exp(table[number]).sum() == pytest.approx(1)
