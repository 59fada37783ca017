"""Pieces from a model: the same key gives the same piece, prompts, a fixed voice, scores of long pieces, sound."""

import functools
import wave

import jax
import numpy as np
import pytest

from seqjax.decoding.music import FREE, RollSampler, RollScorer, sounding_shares
from seqjax.decoding.synthesis import held_notes, synthesize, write_wav
from seqjax.errors import UserError
from seqjax.models import make_stack
from seqjax.models.music import MusicModel

P, RNG = 88, np.random.default_rng(0)
PIECES = [(RNG.random((steps, P)) < 0.04).astype(np.uint8) for steps in (11, 30, 5)]


@pytest.fixture(scope="module", params=["frames", "descending", "ascending"])
def made(request):
    output, order = ("frames", "descending") if request.param == "frames" else ("notes", request.param)
    model = MusicModel(make_stack("gru", 8, 1), output, 6, note_size=8, order=order, max_notes=12)
    none = np.zeros((1, 2, P), np.uint8)
    params = jax.jit(functools.partial(model.init, method="whole"))(jax.random.key(0), none, none)["params"]
    return model, params, RollSampler(model)


def test_the_same_key_gives_the_same_piece(made):
    _, params, sampler = made
    one, same, other = (sampler(params, jax.random.key(seed), length=12) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, same)
    assert one.shape == (12, P) and one.dtype == np.uint8 and not np.array_equal(one, other)


def test_a_piece_goes_on_from_its_prompt(made):
    """By the likeliest frames, it is what the model finds likeliest after the prompt, frame by frame."""
    model, params, sampler = made
    piece = sampler(params, jax.random.key(0), length=3, prompt=PIECES[0], temperature=0.0)
    np.testing.assert_array_equal(piece[:11], PIECES[0])
    answers = RollScorer(model, batch_size=1, boundaries=(14,), window=14)(params, [piece])[0].answers
    np.testing.assert_array_equal(piece[11:], answers[11:])


def test_a_melody_is_kept(made):
    model, params, sampler = made
    melody = RNG.integers(30, 60, 16)
    melody[[3, 9]] = FREE
    for voice in ("top", "bass"):
        how = {"length": 16, "fixed": melody, "voice": voice}
        if model.output == "notes" and (voice == "top") != (model.order == "descending"):
            with pytest.raises(UserError, match=f"in {model.order} order, which can hold the .* fixed and not the {voice}"):
                sampler(params, jax.random.key(0), **how)
            continue
        for seed in range(3):
            piece = sampler(params, jax.random.key(seed), **how)
            for frame, pitch in zip(piece, melody):
                sounding = np.flatnonzero(frame)
                assert pitch == FREE or (sounding.max() if voice == "top" else sounding.min()) == pitch
            assert piece.sum() > (melody != FREE).sum()  # other voices sound


def test_scores_do_not_depend_on_windows_and_batches(made):
    model, params, _ = made
    whole = RollScorer(model, batch_size=1, boundaries=(32,), window=32)(params, PIECES)
    cut = RollScorer(model, batch_size=2, boundaries=(8, 16), window=7)(params, PIECES)
    for one, other, piece in zip(whole, cut, PIECES):
        assert one.nats.shape == (len(piece),) and one.answers.shape == piece.shape
        np.testing.assert_allclose(one.nats, other.nats, rtol=2e-5)
        np.testing.assert_array_equal(one.answers, other.answers)


def test_the_chances_of_pitches_are_those_of_the_draws(made):
    model, params, _ = made
    shares = sounding_shares(model, params, PIECES[0], jax.random.key(0), draws=32)
    assert shares.shape == (11, P) and 0 <= shares.min() and shares.max() <= 1 and 0 < shares.mean() < 1


@pytest.mark.parametrize("pitch, hertz", [(57, 220), (60, 262), (69, 440), (93, 1760)])
def test_a_pitch_is_heard_at_its_frequency(pitch, hertz):
    sound = synthesize([(pitch,)], tempo=60, rate=8000)
    assert abs(int(np.abs(np.fft.rfft(sound)).argmax()) - hertz) <= 1 and 0.85 < np.abs(sound).max() <= 0.9001


def test_held_notes_and_silence():
    assert held_notes([(60, 64), (60,), (), (60,)]) == [(64, 0, 1), (60, 0, 2), (60, 3, 4)]
    assert not synthesize([(), ()], rate=100).any() and len(synthesize([])) == 0
    parts = synthesize([(60,), ()], tempo=60, rate=1000)
    assert parts[:900].any() and not parts[1000:].any()


def test_wav_files(tmp_path):
    sound = synthesize([(60, 64)], frames_per_quarter=2, tempo=120)
    with wave.open(str(write_wav(tmp_path / "a.wav", sound))) as file:
        assert file.getparams()[:4] == (1, 2, 22050, round(0.25 * 22050))
        read = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    np.testing.assert_allclose(read, sound, atol=1e-4)
