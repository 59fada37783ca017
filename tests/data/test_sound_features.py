"""The front end against librosa's numbers; lengths, padding, causality; random augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.data.transforms import sounds
from seqjax.data.transforms.sounds import FrontEnd
from seqjax.errors import UserError

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("rate, fft, mels, low, high", [(16000, 512, 80, 0, 0), (8000, 256, 40, 60, 3800), (4000, 256, 20, 300, 1000)])
def test_filters_are_librosas(rate, fft, mels, low, high):
    librosa = pytest.importorskip("librosa")
    expected = librosa.filters.mel(sr=rate, n_fft=fft, n_mels=mels, fmin=low, fmax=high or None, dtype=np.float64)
    np.testing.assert_allclose(sounds.mel_filters(rate, fft, mels, low, high), expected.T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("window, hop", [(200, 80), (192, 48), (64, 64)])
def test_mel_spectra_frame_by_frame(window, hop, exponent):
    """In float64, by NumPy's transform."""
    sound, front = RNG.normal(size=1501) / 10, FrontEnd(8000, window, hop, 12, normalize="none", exponent=exponent)
    filters, padded = sounds.mel_filters(8000, front.fft, 12), np.concatenate([np.zeros(window - hop), sound])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    features, _ = front(sound[None].astype(np.float32), np.array([1501]))
    for t in range(1501 // hop):
        power = np.abs(np.fft.rfft(hann * padded[t * hop : t * hop + window], front.fft)) ** 2
        expected = (power @ filters) ** exponent if exponent else np.log(power @ filters + sounds.FLOOR)
        np.testing.assert_allclose(features[0, t], expected, rtol=1e-4, atol=2e-4)


@pytest.mark.slow  # librosa compiles at import
@pytest.mark.parametrize("window, hop", [(256, 80), (200, 80), (192, 48), (64, 64)])
def test_log_mel_is_librosas(window, hop):
    """librosa's frames are centred in the transform and start with the sound; ours end with a hop, preceded by zeros."""
    librosa = pytest.importorskip("librosa")
    sound = RNG.normal(size=3001).astype(np.float32) / 10
    front = FrontEnd(8000, window, hop, 12, normalize="none")
    before = (front.fft - window) // 2 + window - hop
    padded = np.pad(sound, (before, front.fft))
    expected = librosa.feature.melspectrogram(
        y=padded, sr=8000, n_fft=front.fft, hop_length=hop, win_length=window, center=False, n_mels=12, window="hann"
    )
    features, frames = front(sound[None], np.array([len(sound)]))
    assert frames.tolist() == [3001 // hop] and features.shape[1] == 3001 // hop
    np.testing.assert_allclose(features[0], np.log(expected.T[: 3001 // hop] + sounds.FLOOR), rtol=1e-4, atol=2e-4)


def test_an_empty_filter_and_wrong_ends_are_refused():
    for front, words in [
        (FrontEnd(8000, 64, 32, 60), "filters lie between frequencies"),
        (FrontEnd(8000, 256, 80, 20, 5000), "must rise, within 0 and 4000 Hz"),
        (FrontEnd(8000, 256, 80, 20, normalize="mean"), "choose one of utterance, level, running, none"),
        (FrontEnd(8000, 256, 80, 20, normalize="running", exponent=0.5), "running is for the logarithm"),
    ]:
        with pytest.raises(UserError, match=words):
            front(np.zeros((1, 800)), np.array([800]))


@pytest.mark.parametrize("normalize, exponent", [*((kind, 0.0) for kind in sounds.NORMALIZE), ("utterance", 0.5), ("level", 0.5)])
def test_padding_is_inert(normalize, exponent):
    """NaN past the end, more of it, or other rows change nothing, gradients included."""
    front, lengths = FrontEnd(8000, 200, 80, 12, normalize=normalize, exponent=exponent), np.array([1300, 790, 0])
    batch = RNG.normal(size=(3, 1500)).astype(np.float32)
    dirty = np.where(np.arange(1700)[None] < lengths[:, None], np.pad(batch, ((0, 0), (0, 200))), np.nan)
    clean, frames = front(batch, lengths)
    features, again = front(dirty, lengths)
    assert frames.tolist() == again.tolist() == [16, 9, 0]
    np.testing.assert_allclose(features[:, :16], clean[:, :16], rtol=1e-5, atol=1e-5)
    assert not np.asarray(features)[np.arange(21)[None] >= frames[:, None]].any()
    alone, _ = front(batch[1:2, :790], lengths[1:2])
    np.testing.assert_allclose(alone[0], clean[1, :9], rtol=1e-4, atol=1e-4)

    def total(x):
        return jnp.sum(jnp.sin(front(x, lengths)[0]))

    slopes = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(dirty)))
    real = np.arange(1700)[None] < (lengths // 80 * 80)[:, None]
    assert np.isfinite(slopes).all() and not slopes[~real].any() and slopes[real].any()


def test_no_frame_looks_ahead():
    """Only the normalisation of a whole sound does."""
    sound = jnp.asarray(RNG.normal(size=(1, 1600)), jnp.float32)
    for normalize, ahead in [("running", False), ("none", False), ("utterance", True)]:
        front = FrontEnd(8000, 200, 80, 12, normalize=normalize)
        slopes = jax.jit(jax.grad(lambda x, front=front: jnp.sum(front(x, np.array([1600]))[0][:, 9] ** 2)))(sound)
        assert slopes[0, 600:800].any() and bool(slopes[0, 800:].any()) == ahead


def test_normalised_features():
    features, frames = FrontEnd(8000, 200, 80, 12)(RNG.normal(size=(2, 8000)) * [[0.1], [0.9]], np.array([8000, 4000]))
    for row, count in zip(np.asarray(features), frames):
        np.testing.assert_allclose(row[:count].mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(row[:count].std(axis=0), 1, atol=0.05)


def test_a_band_with_a_tone_stays_louder_at_one_level_for_all():
    times = np.arange(8000)
    tone = np.sin(2 * np.pi * 1000 / 8000 * times) * (times % 2000 < 1000) + RNG.normal(size=8000) / 10
    fronts = {kind: FrontEnd(8000, 200, 80, 12, normalize=kind) for kind in ("utterance", "level")}
    found = {kind: np.asarray(front(tone[None], np.array([8000]))[0][0]) for kind, front in fronts.items()}
    spread = {kind: features.std(axis=0) for kind, features in found.items()}
    np.testing.assert_allclose(spread["utterance"], 1, atol=0.05)
    assert spread["level"].max() > 3 * spread["level"].min()
    assert abs(found["level"].mean()) < 1e-4 and abs(found["level"].std() - 1) < 0.05


def test_running_normalisation_step_by_step():
    x, horizon = RNG.normal(size=(2, 30, 3)) * 3 + 7, 8
    state, ys = sounds.running(sounds.running_start(jnp.asarray(x, jnp.float32)), jnp.asarray(x, jnp.float32), horizon)
    mean, variance = x[:, 0], np.ones((2, 3))
    for t in range(30):
        a, b = max(1 / (t + 1), 1 / horizon), max(1 / (t + 2), 1 / horizon)
        if t:
            off = x[:, t] - mean
            mean, variance = mean + a * off, (1 - b) * (variance + b * off**2)
        np.testing.assert_allclose(ys[:, t], (x[:, t] - mean) / np.sqrt(variance + 1e-2), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-5)


def test_louder_is_the_same_to_normalised_features():
    sound = RNG.normal(size=(1, 4000)) * 0.1
    for normalize, exponent in (("utterance", 0.0), ("level", 0.0), ("running", 0.0), ("utterance", 0.5), ("level", 0.25)):
        front = FrontEnd(8000, 200, 80, 12, normalize=normalize, exponent=exponent)
        quiet, loud = (front(sound * gain, np.array([4000]))[0] for gain in (1, 4))
        np.testing.assert_allclose(quiet, loud, atol=0.01)


def test_a_power_of_silence_is_finite_and_so_is_its_derivative():
    front = FrontEnd(8000, 200, 80, 12, exponent=0.5)
    run = lambda x: front(x, np.array([800]))[0]  # noqa: E731
    np.testing.assert_allclose(run(jnp.zeros((1, 800))), 0, atol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda x: run(x).sum()))(jnp.zeros((1, 800)))).all()


def test_int16_is_scaled():
    sound = (RNG.normal(size=(1, 800)) * 3000).astype(np.int16)
    front = FrontEnd(8000, 200, 80, 12)
    np.testing.assert_allclose(front(sound, np.array([800]))[0], front(sound / 32768.0, np.array([800]))[0], atol=1e-5)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_a_tone_at_another_speed(factor):
    """A tone of f Hz becomes one of factor f Hz, and as much shorter."""
    times, f, rate = np.arange(2000), 200.0, 8000
    tone = np.sin(2 * np.pi * f * times / rate)
    found, lengths = sounds.at_speed(jnp.asarray(tone[None], jnp.float32), np.array([2000]), jnp.array([factor]), 2600)
    length = int(lengths[0])
    assert length == int(1999 / factor) + 1
    expected = np.sin(2 * np.pi * f * factor * np.arange(length) / rate)
    np.testing.assert_allclose(found[0, 2 : length - 3], expected[2:-3], atol=1e-3)
    assert not found[0, length:].any()


def test_random_speeds():
    """Each row its own; the lengths stay within the stated share, and padding stays inert."""
    lengths, most = np.array([1000, 600, 0, 1000]), 0.2
    clean = np.where(np.arange(1000)[None] < lengths[:, None], RNG.normal(size=(4, 1000)), 0).astype(np.float32)
    dirty = np.where(np.arange(1000)[None] < lengths[:, None], clean, np.nan)
    found, new = sounds.change_speed(jax.random.key(2), jnp.asarray(dirty), lengths, most)
    again, _ = sounds.change_speed(jax.random.key(2), jnp.asarray(clean), lengths, most)
    np.testing.assert_array_equal(found, again)
    shares = np.asarray(new)[[0, 1, 3]] / lengths[[0, 1, 3]]
    assert (shares >= 1 / 1.2 - 0.01).all() and (shares <= 1.25 + 0.01).all() and len(np.unique(shares.round(3))) == 3 and new[2] == 0
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(sounds.change_speed(jax.random.key(1), x, lengths, most)[0] ** 2)))(jnp.asarray(dirty))
    assert np.isfinite(slopes).all()


def test_masks_of_features():
    """Spans of at most the given widths, never more than a fifth of a sound's frames each; what is not masked stays."""
    ones, frames = jnp.ones((200, 50, 20)), np.full(200, 40)
    widths = {"time_masks": 1, "time_width": 30, "mel_masks": 1, "mel_width": 5}
    masked = np.asarray(sounds.mask_features(jax.random.key(0), ones, frames, **widths))
    assert set(np.unique(masked)) == {0, 1}
    times, bands = ~masked.any(axis=2), ~masked.any(axis=1)
    assert times.sum(axis=1).max() == 8 and bands.sum(axis=1).max() == 5 and not times[:, 40:].any()
    for hidden in (times, bands):  # one span: at most one rising edge
        assert (np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int), axis=1) == 1).sum(axis=1).max() == 1
    assert len(np.unique(times, axis=0)) > 50
    assert (masked == (~times[:, :, None] & ~bands[:, None])).all()
