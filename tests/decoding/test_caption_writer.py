"""Captions of whole sets: the same as for each image alone, greedy like a beam of one, attention that sums to 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.data.image_columns import ArrayImages
from seqjax.decoding.captions import CaptionWriter, nearest_captions
from seqjax.models.captioner import Captioner
from seqjax.models.token_decoder import make_attention
from seqjax.text import WordTokenizer

TOKENIZER = WordTokenizer.fit(["a dog runs", "the cat sits on a mat", "two birds"])
IMAGES = ArrayImages(np.random.default_rng(0).integers(0, 255, (7, 4, 4, 3)).astype(np.uint8), np.arange(7))


def encode(variables, images):
    """Four positions of twelve values, scaled by a parameter."""
    cells = images.reshape(images.shape[0], 2, 2, 2, 2, 3).swapaxes(2, 3).reshape(images.shape[0], 4, 12)
    return variables["params"]["encoder"] * cells / 255


def writer(attention, batch_size=3):
    model = Captioner(TOKENIZER.vocab_size, 12, (seqjax.lstm(16),), 6, make_attention(attention, 16))
    params = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 4, 12)), jnp.zeros((1, 1), int))["params"]
    params = jax.tree.map(lambda leaf: 3.0 * leaf, params)  # sharper than at the start
    variables = {"params": {"encoder": jnp.float32(4.0), "decoder": params}}
    return CaptionWriter(model, encode, TOKENIZER, batch_size=batch_size, length=8), variables, model


@pytest.mark.parametrize("attention", ["none", "bahdanau", "luong_general"])
def test_the_size_of_a_batch_changes_nothing_and_greedy_is_a_beam_of_one(attention):
    (several, variables, model), (alone, _, _) = writer(attention), writer(attention, batch_size=1)
    greedy = several.greedy(variables, IMAGES)
    assert len(greedy) == 7 and len(set(greedy)) > 1
    assert greedy == alone.greedy(variables, IMAGES)
    narrow, wide = several.beam(variables, IMAGES, width=1), several.beam(variables, IMAGES, width=4, n_best=3)
    assert greedy == [rows[0].text for rows in narrow]
    for rows in wide:
        assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
        assert len({row.text for row in rows}) == len(rows) == 3
    best, first = wide[0][0], narrow[0][0]
    assert best.log_prob >= first.log_prob - 1e-5
    inputs = jnp.array([[2, *best.tokens]])
    logits = model.apply({"params": variables["params"]["decoder"]}, encode(variables, IMAGES.images[:1]), inputs).logits[0]
    steps = jax.nn.log_softmax(logits)[jnp.arange(len(best.tokens)), jnp.asarray(best.tokens)]
    ending = jax.nn.log_softmax(logits[-1])[3] if best.finished else 0.0
    np.testing.assert_allclose(best.log_prob, steps.sum() + ending, atol=1e-4)


def test_attention_is_of_the_words_and_their_end():
    several, variables, _ = writer("bahdanau")
    found = several.beam(variables, IMAGES, width=2)[4][0]
    weights, words = several.attention(variables, IMAGES.images[4], found.tokens)
    assert words == [*found.text.split(), "<eos>"] and weights.shape == (len(words), 4)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


def test_means_are_those_of_each_image():
    several, variables, _ = writer("none")
    np.testing.assert_allclose(several.means(variables, IMAGES), encode(variables, IMAGES.images).mean(1), rtol=1e-5)


def test_the_nearest_is_that_of_a_plain_search():
    rng = np.random.default_rng(1)
    queries, known = rng.normal(size=(300, 5)), rng.normal(size=(40, 5))
    expected = [((known - query) ** 2).sum(1).argmin() for query in queries]
    assert nearest_captions(queries, known, [[f"{i}", "other"] for i in range(40)]) == [f"{i}" for i in expected]
