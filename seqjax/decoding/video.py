"""Answers about videos from a trained model: of clips, and of videos of any length in windows."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.data.pipeline.clips import VideoBatch
from seqjax.data.transforms.augmentation import to_float
from seqjax.data.video_columns import Videos
from seqjax.models.video import VideoClassifier, VideoForecaster, pooled_log_probabilities
from seqjax.training.video import normalize_frames


class Answers(NamedTuple):
    """A model's answers about some clips, for each question."""

    clips: list[np.ndarray]  # float32 (N, K), probabilities of whole clips
    frames: list[np.ndarray]  # float32 (N, T, K), of each frame given those before it


class VideoReading:
    """Computes answer probabilities for clips, and for long videos in constant memory.

    Args:
      model: computes scores at each frame.
      mean, std: channel statistics, as in training.
      pooling: how a clip's answer comes from those of its frames.

    Example:
      >>> import seqjax
      >>> from seqjax.models.video import MapReader
      >>> model = VideoClassifier((2,), MapReader(seqjax.stack(seqjax.conv_lstm(4, 3, (4, 4)))))
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3, 8, 8, 1)), jnp.array([3]))
      >>> batch = VideoBatch(np.zeros((2, 3, 8, 8, 1), np.uint8), np.array([3, 0]), np.zeros((2, 1), int), np.ones(2, bool))
      >>> found = VideoReading(model, [0.5], [0.5])(variables, [batch, batch])
      >>> found.clips[0].shape, found.frames[0].shape
      ((2, 2), (2, 3, 2))
    """

    def __init__(self, model: VideoClassifier, mean: Sequence[float], std: Sequence[float], pooling: str = "last"):
        self._model, self._pooling = model, pooling

        @jax.jit
        def run(variables, batch, carry):
            frames = normalize_frames(to_float(batch.frames), mean, std)
            return model.apply(variables, frames, batch.lengths, carry, batch.fresh)

        @jax.jit
        def pooled(scores, lengths):
            return [jnp.exp(pooled_log_probabilities(score, lengths, pooling)) for score in scores], [*map(jax.nn.softmax, scores)]

        self._run, self._pooled = run, pooled

    def __call__(self, variables: Any, batches: Iterable[VideoBatch]) -> Answers:
        """Reads clips."""
        clips, frames = [], []
        for batch in batches:
            real = batch.lengths > 0
            _, scores = self._run(variables, batch, None)
            whole, each = self._pooled(scores, batch.lengths)
            clips.append([np.asarray(shares)[real] for shares in whole])
            frames.append([np.asarray(shares)[real] for shares in each])
        return Answers(*([np.concatenate(own) for own in zip(*found)] for found in (clips, frames)))

    def windows(self, variables: Any, videos: Videos, index: int, window: int) -> Iterator[tuple[int, list[np.ndarray]]]:
        """(first frame, probabilities (t, K) for each question) of the windows of one video; the carry passes from one to the next."""
        carry, count = self._model.apply(variables, 1, method="initial_carry"), int(videos.counts[index])
        for begin in range(0, count, window):
            places = np.arange(begin, min(begin + window, count))
            frames = np.zeros((1, window, *videos.shape), np.uint8)
            frames[0, : len(places)] = videos.take(index, places)
            batch = VideoBatch(frames, np.array([len(places)], np.int32), np.zeros((1, 0), np.int32), np.array([begin == 0]))
            carry, scores = self._run(variables, batch, carry)
            yield begin, [np.asarray(jax.nn.softmax(score))[0, : len(places)] for score in scores]

    def whole(self, variables: Any, videos: Videos, index: int, window: int) -> list[np.ndarray]:
        """Computes answer probabilities (K,) for a whole video: those of its last frame, or the mean over frames, depending on pooling."""
        count, last = 0, []
        total = [0.0] * len(self._model.heads)
        for _, shares in self.windows(variables, videos, index, window):
            total = [before + own.sum(axis=0) for before, own in zip(total, shares)]
            count, last = count + len(shares[0]), [own[-1] for own in shares]
        return last if self._pooling == "last" else [own / count for own in total]  # pyright: ignore[reportReturnType]


def forecast_frames(model: VideoForecaster, params: Any, frames: np.ndarray, horizon: int) -> np.ndarray:
    """Predicts the next frames of clips.

    Args:
      model: the forecaster.
      params: its parameters.
      frames: uint8 (B, T, H, W, C).
      horizon: number of frames to predict.

    Returns:
      float32 (B, horizon, H, W, C), values in [0, 1].

    Example:
      >>> model = VideoForecaster((8, 8, 1), features=(4,), patch=2)
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 3, 8, 8, 1)), 2)["params"]
      >>> forecast_frames(model, params, np.zeros((1, 3, 8, 8, 1), np.uint8), 2).shape
      (1, 2, 8, 8, 1)
    """
    return np.asarray(_forecast(model, params, frames, horizon))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _forecast(model, params, frames, horizon):
    return jax.nn.sigmoid(model.apply({"params": params}, to_float(frames), horizon))
