"""A sound in pieces gives bit for bit the result of the whole sound; and up to rounding that of a batch."""

import jax
import numpy as np
import pytest

from seqjax.data.transforms.sounds import FrontEnd
from seqjax.decoding.streaming import SpeechStream
from seqjax.errors import UserError
from seqjax.models import CELLS, make_stack
from seqjax.models.speech import Recogniser

SOUND = (np.random.default_rng(0).normal(size=3333) / 10).astype(np.float32)


def made(cell, normalize="running", **how):
    front = FrontEnd(8000, 200, 80, 12, normalize=normalize)
    model = Recogniser(7, make_stack(cell, 24, 2, **how), filters=20)
    variables = jax.jit(model.init)(jax.random.key(1), np.zeros((1, 8, 12), np.float32), np.array([8]))
    # Statistics as after training.
    statistics = jax.tree.map(lambda x: x + 0.1 * np.arange(x.size), variables["batch_stats"])
    return front, model, {**variables, "batch_stats": statistics}


def streamed(stream, variables, sound, sizes):
    state, found, first = stream.start(variables), [], 0
    for size in sizes:
        state, scores = stream.feed(variables, state, sound[first : first + size])
        found.append(scores)
        first += size
    assert first >= len(sound)
    return np.concatenate([*found, stream.finish(variables, state)])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("cell", CELLS)
def test_pieces_of_any_size(cell):
    """Bit for bit; for the LRU, whose complex products compile differently inside a loop, up to rounding."""
    front, model, variables = made(cell)
    stream = SpeechStream(model, front, steps=3)
    whole = stream.whole(variables, SOUND)
    assert whole.shape == (len(SOUND) // 320, 7)
    rng = np.random.default_rng(2)
    for sizes in ([len(SOUND)], [100] * 34, rng.integers(0, 700, 30).tolist()):
        found = streamed(stream, variables, SOUND, sizes)
        if cell == "lru":
            np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(found, whole)
    scores, _ = jax.jit(model.apply)(variables, *front(SOUND[None], np.array([len(SOUND)])))
    np.testing.assert_allclose(jax.nn.log_softmax(scores)[0], whole, rtol=1e-3, atol=1e-3)


def test_without_normalisation_and_of_every_length():
    front, model, variables = made("gru", normalize="none")
    stream = SpeechStream(model, front, steps=2)
    for length in (0, 1, 319, 320, 640, 641, 1279, 1280):
        whole = stream.whole(variables, SOUND[:length])
        assert len(whole) == length // 320
        np.testing.assert_array_equal(streamed(stream, variables, SOUND[:length], [length]), whole)


def test_scores_come_as_soon_as_a_block_is_full():
    front, model, variables = made("gru")
    stream = SpeechStream(model, front, steps=2)
    state, first = stream.feed(variables, stream.start(variables), SOUND[:639])
    assert not len(first)
    state, second = stream.feed(variables, state, SOUND[639:640])
    np.testing.assert_array_equal(second, stream.whole(variables, SOUND)[:2])


def test_what_cannot_be_streamed():
    front, model, variables = made("gru", bidirectional=True)
    with pytest.raises(UserError, match="model.bidirectional=False"):
        SpeechStream(model, front).start(variables)
    for whole in ("utterance", "level"):
        with pytest.raises(UserError, match="features.normalize=running"):
            SpeechStream(model, front._replace(normalize=whole))
    with pytest.raises(UserError, match="running is for the logarithm"):
        SpeechStream(model, front._replace(exponent=0.5))
    with pytest.raises(UserError, match="choose one of utterance, level, running, none"):
        SpeechStream(model, front._replace(normalize="mean"))


def test_powers_are_streamed_as_they_are_read_whole():
    front, model, variables = made("gru", normalize="none")
    stream = SpeechStream(model, front._replace(exponent=0.5), steps=2)
    state, first = stream.feed(variables, stream.start(variables), SOUND)
    last = stream.finish(variables, state)
    np.testing.assert_array_equal(np.concatenate([first, last]), stream.whole(variables, SOUND))
    assert np.abs(stream.whole(variables, SOUND) - SpeechStream(model, front, steps=2).whole(variables, SOUND)).max() > 1e-3
