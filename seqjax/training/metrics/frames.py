"""Metrics for music predicted frame by frame."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from seqjax.training.losses import Sums, means
from seqjax.training.metrics.counted import add_sums
from seqjax.training.metrics.metric import Metric


def frame_sums(nats: jax.Array, given: jax.Array, frames: jax.Array, lengths: jax.Array, first: jax.Array) -> Sums:
    """The contribution of a batch to the metrics of `frame_loss`.

    Args:
      nats: (B, T), -log p of each frame.
      given: (B, T, P) bool, the predicted pitches of each frame.
      frames: (B, T, P), not 0 where a pitch sounds.
      lengths: (B,), the number of real frames.
      first: (B,) bool, rows whose first frame is that of a piece.

    Returns:
      Sums over the frames after the first of each piece, with separate counts for the first frames.

    Example:
      >>> given, frames = jnp.ones((1, 2, 3), bool), jnp.array([[[1, 1, 1], [1, 0, 0]]])
      >>> sums = frame_sums(jnp.array([[4.0, 2.0]]), given, frames, jnp.array([2]), jnp.array([True]))
      >>> float(sums.loss), {name: float(value) for name, value in sums.counts.items()}
      (2.0, {'first_loss': 4.0, 'firsts': 1.0, 'hits': 1.0, 'errors': 2.0})
    """
    steps = jnp.arange(nats.shape[1])[None]
    real = steps < lengths[:, None]
    begins = real & first[:, None] & (steps == 0)
    counted, sounding = real & ~begins, frames != 0

    def total(values, where):
        return jnp.sum(jnp.where(where, values, 0), dtype=jnp.float32)

    counts = {
        "first_loss": total(nats, begins),
        "firsts": total(1, begins),
        "hits": total(given & sounding, counted[..., None]),
        "errors": total(given ^ sounding, counted[..., None]),
    }
    return Sums(total(nats, counted), total(1, counted), counts)


def frame_loss() -> Metric:
    r"""The mean of -log p per frame as in published tables, the same including first frames, and frame accuracy.

    The published protocol predicts frames 2 to T of a piece of T frames from those before. `loss` is the mean over these frames of all
    pieces; `loss_with_first` also includes the first frames, which are predicted from nothing.

    .. math:: \mathrm{accuracy} = \frac{\sum TP}{\sum TP + FP + FN}

    with sums over all pitches of frames 2 to T, for the likeliest prediction of each frame.

    Returns:
      A Metric of Sums from `frame_sums`; for Sums without its counts (in training), of the loss alone.

    Example:
      >>> metric = frame_loss()
      >>> counts = {"first_loss": 4.0, "firsts": 1.0, "hits": 1.0, "errors": 2.0}
      >>> metric.compute(metric.update(metric.init(), Sums(2.0, 1.0, counts)))
      {'loss': 2.0, 'loss_with_first': 3.0, 'frame_accuracy': 0.3333333333333333}

    Reference:
      Boulanger-Lewandowski, Bengio and Vincent 2012, arXiv:1206.6392; Bay, Ehmann and Downie 2009, for the accuracy.
    """
    return Metric(lambda: Sums(0.0, 0.0), add_sums, lambda sums: means(sums) if not sums.counts else _scores(sums))


def _scores(sums: Sums) -> dict[str, float]:
    counts: Mapping[str, float] = {name: float(value) for name, value in sums.counts.items()}
    loss, frames = float(sums.loss), float(sums.tokens)
    every, pitches = frames + counts["firsts"], counts["hits"] + counts["errors"]
    return {
        "loss": loss / frames if frames else math.inf,
        "loss_with_first": (loss + counts["first_loss"]) / every if every else math.inf,
        "frame_accuracy": counts["hits"] / pitches if pitches else 1.0,  # silence, predicted correctly
    }
