r"""Sounds to features, in JAX: mel spectra, their normalisation, and random augmentation of training sounds.

Frames end where a hop ends, so that the number of samples determines the number of frames, and no frame depends on later samples:

  frame t = samples (t + 1) hop - window  up to  (t + 1) hop,     t = 0 ... samples // hop - 1,   zeros before the first sample
"""

import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.nn.masks import real_steps
from seqjax.typing import AnyArray, Array

WHOLE = ("utterance", "level")  # normalisations that need the whole sound
NORMALIZE = (*WHOLE, "running", "none")
FLOOR = 1e-6  # added to energies before the logarithm; inaudible for sounds between -1 and 1
LEAST = 1e-12  # added before taking a power, whose derivative is infinite at 0


class FrontEnd(NamedTuple):
    """The front end from sounds to features.

    Example:
      >>> front = FrontEnd(rate=8000, window=200, hop=80, mels=40)
      >>> features, frames = front(jnp.zeros((1, 800)), jnp.array([500]))
      >>> features.shape, frames.tolist()
      ((1, 10, 40), [6])
    """

    rate: int  # samples per second
    window: int  # length of a frame, in samples
    hop: int  # from frame to frame, in samples
    mels: int  # features F
    low: float = 0.0  # Hz, where the mel filters start
    high: float = 0.0  # Hz, where they end; 0: half the rate
    normalize: str = "utterance"
    horizon: int = 300  # frames that a running normalisation looks back over
    exponent: float = 0.0  # raise energies to this power instead of taking the logarithm; 0: logarithm

    @property
    def fft(self) -> int:
        """The length of the Fourier transform: the next power of two."""
        return 1 << (self.window - 1).bit_length()

    def check(self) -> None:
        """Refuses an unknown normalisation, or one that does not support powers.

        Raises:
          UserError: an invalid combination; the message says what to set.
        """
        if self.normalize not in NORMALIZE:
            raise UserError(f"features.normalize={self.normalize!r} is unknown; choose one of {', '.join(NORMALIZE)}")
        if self.normalize == "running" and self.exponent:
            raise UserError("features.normalize=running is for the logarithm; set features.exponent=0, or another normalisation")

    def __call__(self, samples: Array, lengths: Array) -> tuple[Array, Array]:
        """Features of whole sounds.

        Args:
          samples: (B, S) float in [-1, 1], or int16. Values past a sound's end, even NaN, have no effect.
          lengths: int (B,), samples of each.

        Returns:
          (features (B, S // hop, F), 0 past the end; frames of each, lengths // hop).
        """
        samples = zero_padding(as_float(samples), lengths)
        before = jnp.zeros((samples.shape[0], self.window - self.hop), samples.dtype)
        features, frames = self.mel_spectra(before, samples), jnp.asarray(lengths) // self.hop
        return self.normalized(features, frames), frames

    def mel_spectra(self, before: Array, samples: Array) -> Array:
        """Mel energies of the frames that end in these samples: their logarithm, or a power of them.

        The logarithm turns loudness into a shift, which normalisation removes. But in heavy noise it mostly magnifies the gaps in
        the noise; a power, such as 1/2, keeps them small (Stern and Morgan 2012, "Hearing is
        believing").

        Args:
          before: (B, window - hop), the samples just before.
          samples: (B, S).

        Returns:
          (B, S // hop, F).
        """
        frames = cut_frames(before, samples, self.window, self.hop)
        spectra = jnp.fft.rfft(frames * jnp.asarray(hann(self.window), frames.dtype)[None, None], n=self.fft)
        power = jnp.square(spectra.real) + jnp.square(spectra.imag)
        filters = jnp.asarray(mel_filters(self.rate, self.fft, self.mels, self.low, self.high), power.dtype)
        energies = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
        return (energies + LEAST) ** self.exponent if self.exponent else jnp.log(energies + FLOOR)

    def normalized(self, features: Array, frames: Array) -> Array:
        """Features with mean 0 and standard deviation 1.

          utterance   each feature, over the frames of a sound
          level       all features together, over the frames of a sound: a band with a tone stays louder than those without
          running     each feature, over the frames so far

        An additive 0.01 keeps nearly constant features from being blown up; for powers it is scaled by the squared mean, so that loudness
        has no influence.

        Args:
          features: (B, T, F).
          frames: int (B,).
        """
        self.check()
        real = real_steps(frames, *features.shape[:2])[..., None]
        features = jnp.where(real, features, 0)
        if self.normalize in WHOLE:
            axes = 1 if self.normalize == "utterance" else (1, 2)
            count = jnp.maximum(frames, 1)[:, None, None].astype(features.dtype) * (1 if axes == 1 else features.shape[2])
            mean = jnp.sum(features, axis=axes, keepdims=True) / count
            centred = jnp.where(real, features - mean, 0)
            floor = 1e-2 * jnp.square(mean) + LEAST if self.exponent else 1e-2
            return centred / jnp.sqrt(jnp.sum(jnp.square(centred), axis=axes, keepdims=True) / count + floor)
        if self.normalize == "running":
            return jnp.where(real, running(running_start(features), features, self.horizon)[1], 0)
        return features


def as_float(samples: AnyArray) -> Array:
    """Samples in [-1, 1), of int16 or float.

    Example:
      >>> as_float(jnp.array([16384], jnp.int16)).tolist()
      [0.5]
    """
    samples = jnp.asarray(samples)
    return samples.astype(jnp.float32) / 32768 if samples.dtype == jnp.int16 else samples


def zero_padding(samples: Array, lengths: Array) -> Array:
    """Samples (B, S) with zeros past each end.

    Example:
      >>> zero_padding(jnp.array([[1.0, jnp.nan]]), jnp.array([1])).tolist()
      [[1.0, 0.0]]
    """
    return jnp.where(real_steps(lengths, *samples.shape), samples, 0)


def cut_frames(before: Array, samples: Array, window: int, hop: int) -> Array:
    """Overlapping frames.

    Args:
      before: (B, window - hop), the samples just before.
      samples: (B, S).
      window, hop: in samples; the window is at least as long as the hop.

    Returns:
      (B, S // hop, window).

    Example:
      >>> cut_frames(jnp.zeros((1, 1)), jnp.array([[1.0, 2, 3, 4, 5]]), 3, 2).tolist()
      [[[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]]
    """
    number, blocks = samples.shape[1] // hop, -(-window // hop)
    missing = blocks * hop - window
    whole = jnp.concatenate([jnp.zeros((samples.shape[0], missing), samples.dtype), before, samples], axis=1)
    hops = whole[:, : (number + blocks - 1) * hop].reshape(samples.shape[0], number + blocks - 1, hop)
    return jnp.concatenate([hops[:, i : i + number] for i in range(blocks)], axis=2)[..., missing:]


@functools.cache
def hann(window: int) -> np.ndarray:
    """The periodic Hann window, sin^2(pi n / window).

    Example:
      >>> hann(4).round(3).tolist()
      [0.0, 0.5, 1.0, 0.5]
    """
    return np.sin(np.pi * np.arange(window) / window) ** 2


def hz_to_mel(hz: Any) -> np.ndarray:
    """Slaney's mel scale: linear below 1000 Hz, logarithmic above.

    Example:
      >>> hz_to_mel([200.0, 1000.0, 6400.0]).round(6).tolist()
      [3.0, 15.0, 42.0]
    """
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000, hz / (200 / 3), 15 + np.log(np.maximum(hz, 1000) / 1000) * (27 / np.log(6.4)))


def mel_to_hz(mels: Any) -> np.ndarray:
    """The inverse of `hz_to_mel`.

    Example:
      >>> mel_to_hz([3.0, 15.0, 42.0]).round(6).tolist()
      [200.0, 1000.0, 6400.0]
    """
    mels = np.asarray(mels, np.float64)
    return np.where(mels < 15, mels * (200 / 3), 1000 * np.exp((np.maximum(mels, 15) - 15) * (np.log(6.4) / 27)))


@functools.cache
def mel_filters(rate: int, fft: int, mels: int, low: float = 0.0, high: float = 0.0) -> np.ndarray:
    """Triangles on the mel scale, each of area 1 (Slaney's norm).

    Args:
      rate: samples per second.
      fft: length of the Fourier transform.
      mels: F.
      low, high: Hz, where the first filter starts and the last ends; high = 0 means half the rate.

    Returns:
      float64 (fft // 2 + 1, F): power spectrum -> mel energies.

    Raises:
      UserError: invalid frequencies, or an empty filter, which falls between two frequencies of the transform.

    Example:
      >>> mel_filters(8000, 256, 10).shape
      (129, 10)

    Source: Slaney 1998, "Auditory Toolbox"; the default of librosa.
    """
    high = high or rate / 2
    if not 0 <= low < high <= rate / 2:
        raise UserError(f"features.low={low} and features.high={high} must rise, within 0 and {rate / 2:g} Hz, half of the rate")
    edges = mel_to_hz(np.linspace(hz_to_mel(low), hz_to_mel(high), mels + 2))
    widths, ramps = np.diff(edges), edges[None, :] - np.linspace(0, rate / 2, fft // 2 + 1)[:, None]
    filters = np.maximum(0, np.minimum(-ramps[:, :-2] / widths[:-1], ramps[:, 2:] / widths[1:]))
    if empty := int((filters.max(axis=0) == 0).sum()):
        where = f"between frequencies {rate / fft:g} Hz apart"
        raise UserError(f"{empty} of features.mels={mels} filters lie {where}; take fewer, or a longer window")
    return filters * (2 / (edges[2:] - edges[:-2]))


class RunningStatistics(NamedTuple):
    """Mean and variance of the frames so far."""

    count: Array  # float32 (B,)
    mean: Array  # (B, F)
    variance: Array  # (B, F)


def running_start(features: Array) -> RunningStatistics:
    """The state before the first frame: no mean is known, and the variance is taken to be 1.

    Args:
      features: (B, T, F); only shape and dtype are used.

    Example:
      >>> running_start(jnp.zeros((2, 5, 3))).mean.shape
      (2, 3)
    """
    shape = (features.shape[0], features.shape[2])
    return RunningStatistics(jnp.zeros(shape[:1], features.dtype), jnp.zeros(shape, features.dtype), jnp.ones(shape, features.dtype))


def running(state: RunningStatistics, features: Array, horizon: int) -> tuple[RunningStatistics, Array]:
    r"""Normalises each frame by the statistics of the frames up to it.

    .. math:: m_t = m_{t-1} + a_t (x_t - m_{t-1}), \quad v_t = (1 - b_t) (v_{t-1} + b_t (x_t - m_{t-1})^2), \quad
              y_t = (x_t - m_t) / \sqrt{v_t + 10^{-2}}

    with a_t = max(1 / t, 1 / horizon) and b_t = max(1 / (t + 1), 1 / horizon), b_1 = 0 in effect, since m_0 counts as x_1.

    Args:
      state: statistics of the frames before.
      features: x, (B, T, F).
      horizon: frames.

    Returns:
      (the state after, y like x).

    Example:
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> running(running_start(x), x, 100)[1].shape
      (1, 2, 1)
    """

    def step(state, x):
        count = state.count + 1
        a, b = (jnp.maximum(1 / n, 1 / horizon)[:, None] for n in (count, count + 1))
        off = jnp.where(count[:, None] == 1, 0, x - state.mean)
        mean = jnp.where(count[:, None] == 1, x, state.mean + a * off)
        variance = (1 - b) * (state.variance + b * jnp.square(off)) + jnp.where(count[:, None] == 1, b * state.variance, 0)
        return RunningStatistics(count, mean, variance), (x - mean) * jax.lax.rsqrt(variance + 1e-2)

    state, ys = jax.lax.scan(step, state, features.swapaxes(0, 1))
    return state, ys.swapaxes(0, 1)


# Random augmentation of training sounds.


def mask_features(key: Array, features: Array, frames: Array, *, time_masks: int, time_width: int, mel_masks: int, mel_width: int) -> Array:
    """SpecAugment without warping: random spans of time and bands of features become 0, the mean.

    Args:
      key: a random key.
      features: (B, T, F), normalised.
      frames: int (B,).
      time_masks, time_width: number of spans, and the maximum frames of each; no span covers more than a fifth of a sound.
      mel_masks, mel_width: number of bands, and the maximum features of each.

    Returns:
      (B, T, F).

    Example:
      >>> masked = mask_features(jax.random.key(0), jnp.ones((1, 100, 8)), jnp.array([100]), time_masks=1, time_width=10,
      ...                        mel_masks=1, mel_width=3)
      >>> bool((masked == 0).any()), masked.shape
      (True, (1, 100, 8))

    Source: Park et al. 2019, arXiv:1904.08779.
    """
    rows, steps, mels = features.shape
    time_key, mel_key = jax.random.split(key)

    def spans(key, number, most, ends, size):
        width_key, start_key = jax.random.split(key)
        widths = jnp.floor(jax.random.uniform(width_key, (rows, number)) * (most[:, None] + 1)).astype(jnp.int32)
        starts = jnp.floor(jax.random.uniform(start_key, (rows, number)) * (ends[:, None] - widths + 1)).astype(jnp.int32)
        places = jnp.arange(size)[None, None]
        return jnp.any((places >= starts[..., None]) & (places < (starts + widths)[..., None]), axis=1)

    ends = jnp.asarray(frames)
    times = spans(time_key, time_masks, jnp.minimum(time_width, ends // 5), ends, steps)
    bands = spans(mel_key, mel_masks, jnp.full((rows,), min(mel_width, mels)), jnp.full((rows,), mels), mels)
    return jnp.where(times[:, :, None] | bands[:, None, :], 0, features)


def change_speed(key: Array, samples: Array, lengths: Array, most: float) -> tuple[Array, Array]:
    """Plays each sound faster or slower by a random factor in [1 - most, 1 + most]; tempo and pitch change together.

    Values between samples are interpolated by a cubic through the four nearest samples (Lagrange).

    Args:
      key: a random key.
      samples: (B, S) float.
      lengths: int (B,), samples of each.
      most: the largest relative change, in [0, 1).

    Returns:
      (samples (B, S'), lengths (B,)), S' = ceil(S / (1 - most)).

    Example:
      >>> faster, lengths = change_speed(jax.random.key(0), jnp.ones((2, 100)), jnp.array([100, 50]), 0.1)
      >>> faster.shape, bool((abs(lengths - jnp.array([100, 50])) <= 12).all())
      ((2, 112), True)

    Source: Ko et al. 2015, "Audio augmentation for speech recognition".
    """
    rows, steps = samples.shape
    factors = jax.random.uniform(key, (rows,), minval=1 - most, maxval=1 + most)
    return at_speed(samples, lengths, factors, math.ceil(steps / (1 - most)))


def at_speed(samples: Array, lengths: Array, factors: Array, steps: int) -> tuple[Array, Array]:
    """Plays sounds at the given speeds.

    Args:
      samples: (B, S) float, 0 past each end.
      lengths: int (B,).
      factors: (B,): 2 is twice as fast.
      steps: S', samples of the result.

    Returns:
      (samples (B, S'), lengths (B,): the largest n with (n - 1) factor <= length - 1).

    Example:
      >>> slower, lengths = at_speed(jnp.arange(6.0)[None], jnp.array([6]), jnp.array([0.5]), 12)
      >>> lengths.tolist(), slower[0, 2:8].tolist()
      ([11], [1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    """
    lengths = jnp.asarray(lengths)
    new = jnp.where(lengths > 0, jnp.floor((lengths - 1) / factors).astype(jnp.int32) + 1, 0)
    new = jnp.minimum(new, steps)
    where = jnp.arange(steps)[None] * factors[:, None]
    base = jnp.floor(where).astype(jnp.int32)
    x = (where - base).astype(samples.dtype)
    weights = (
        -x * (x - 1) * (x - 2) / 6,
        (x + 1) * (x - 1) * (x - 2) / 2,
        -(x + 1) * x * (x - 2) / 2,
        (x + 1) * x * (x - 1) / 6,
    )
    padded = jnp.pad(zero_padding(samples, lengths), ((0, 0), (1, 2)))  # one before, two after
    places = jnp.clip(base, 0, samples.shape[1] - 1)
    found = cast(Array, sum(w * jnp.take_along_axis(padded, places + i, axis=1) for i, w in enumerate(weights)))
    return zero_padding(found, new), new
