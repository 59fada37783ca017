"""Losses for networks that read videos."""

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from seqjax.data.pipeline.clips import VideoBatch
from seqjax.data.transforms.augmentation import Augmentation, augment, colour_jitter, normalize, to_float
from seqjax.data.video_columns import Head
from seqjax.models.video import VideoClassifier, VideoForecaster, pooled_log_probabilities
from seqjax.training.losses import Sums
from seqjax.training.metrics.video import frame_errors
from seqjax.training.train_step import LossFn
from seqjax.typing import AnyArray

LOSSES = ("bce", "mse")
NONE = Augmentation()


def augment_frames(key: jax.Array, frames: jax.Array, settings: Augmentation) -> jax.Array:
    """Random augmentation, the same for all frames of a video and different for each video.

    Args:
      key: a random key.
      frames: (B, T, H, W, C), floats in [0, 1].
      settings: an Augmentation without mixup; jitter changes brightness and contrast.

    Returns:
      Frames of the same shape.

    Example:
      >>> frames = jnp.broadcast_to(jnp.arange(64.0).reshape(1, 1, 8, 8, 1) / 64, (2, 3, 8, 8, 1))
      >>> changed = augment_frames(jax.random.key(0), frames, Augmentation(crop_padding=2, jitter=0.3))
      >>> bool((changed[:, :1] == changed).all()), bool((changed[0] == changed[1]).all())
      (True, False)
    """
    batch, steps, height, width, channels = frames.shape
    side_by_side = jnp.moveaxis(frames, 1, 3).reshape(batch, height, width, steps * channels)
    changed, _ = augment(key, side_by_side, jnp.zeros((batch, 1)), settings._replace(jitter=0.0))
    if settings.jitter:
        changed = colour_jitter(jax.random.fold_in(key, len(settings)), changed, settings.jitter, settings.jitter, 0.0)
    return jnp.moveaxis(changed.reshape(batch, height, width, steps, channels), 3, 1)


def normalize_frames(frames: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Normalises frames by the mean and standard deviation of each channel.

    Args:
      frames: (..., H, W, C), floats in [0, 1].
      mean, std: C numbers each.

    Example:
      >>> normalize_frames(jnp.ones((1, 2, 1, 1, 1)), [0.5], [0.25]).ravel().tolist()
      [2.0, 2.0]
    """
    return normalize(frames.reshape(-1, *frames.shape[-3:]), mean, std).reshape(frames.shape)


def answer_loss(
    model: VideoClassifier, heads: Sequence[Head], *, mean: Sequence[float], std: Sequence[float], pooling: str = "last",
    carried: bool = False, augmentation: Augmentation = NONE, label_smoothing: float = 0.0,
) -> LossFn:  # fmt: skip
    """The cross-entropy of the answers about videos, summed over the questions and over real videos.

    With pooling "last" it is that of the last frame; with "mean", in training the mean over all frames, as in Donahue et al., and in
    evaluation that of the mean probabilities of the frames. With windows it is that of each real frame, and frames are counted.

    Args:
      model: computes scores at each frame.
      heads: the questions.
      mean, std: channel statistics, for values in [0, 1].
      pooling: "last" or "mean".
      carried: whether the carry passes from batch to batch, as with `VideoWindows`; pooling is then unused.
      augmentation: augmentation of training clips, the same for all frames of one.
      label_smoothing: the share of the target spread over all classes in training.

    Returns:
      loss(params, model_state, carry, batch, rng) -> (carry, model_state, Sums); the counts are for `video_answers`.

    Example:
      >>> import numpy as np
      >>> import seqjax
      >>> from seqjax.models.video import MapReader
      >>> model = VideoClassifier((2,), MapReader(seqjax.stack(seqjax.conv_lstm(4, 3, (4, 4)))))
      >>> batch = VideoBatch(np.zeros((2, 3, 8, 8, 1), np.uint8), np.array([3, 0]), np.array([[1], [0]]), np.ones(2, bool))
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 3, 8, 8, 1)), jnp.array([3]))["params"]
      >>> loss = answer_loss(model, [Head("class", ("cat", "dog"))], mean=[0.5], std=[0.5])
      >>> float(loss(params, (), (), batch, None)[2].tokens)  # a row of length 0 is padding
      1.0

    Reference:
      Donahue et al. 2015, arXiv:1411.4389.
    """

    def loss(params, statistics, carry, batch: VideoBatch, rng):
        variables, frames = {"params": params, **dict(statistics)}, to_float(batch.frames)
        real = jnp.arange(frames.shape[1])[None] < batch.lengths[:, None]
        start = (carry, batch.fresh) if carried else ()
        if rng is None:
            after, scores = cast(Any, model.apply(variables, normalize_frames(frames, mean, std), batch.lengths, *start))
        else:
            noise, dropout = jax.random.split(rng)
            frames = normalize_frames(augment_frames(noise, frames, augmentation), mean, std)
            how = {"train": True, "rngs": {"dropout": dropout}, "mutable": ["batch_stats"]}
            (after, scores), updated = cast(Any, model.apply(variables, frames, batch.lengths, *start, **how))
            statistics = {name: updated[name] for name in statistics} if statistics else statistics
        by_frame = carried or (pooling == "mean" and rng is not None)
        if by_frame:
            found = [jax.nn.log_softmax(score) for score in scores]  # (B, T, K) of each head
            weights = real if carried else real / jnp.maximum(batch.lengths, 1)[:, None]
        else:
            found = [pooled_log_probabilities(score, batch.lengths, pooling)[:, None] for score in scores]
            weights = batch.lengths[:, None] > 0
        smoothing = 0.0 if rng is None else label_smoothing
        nats = sum(_nats(own, batch.labels[:, i], smoothing) for i, own in enumerate(found))
        counted = real if carried else batch.lengths[:, None] > 0
        counts = {} if by_frame and not carried else _counts(found, batch.labels, counted, heads)
        sums = Sums(jnp.sum(jnp.where(weights > 0, nats * weights, 0)), jnp.sum(counted, dtype=jnp.float32), counts)
        return after if carried else carry, statistics, sums

    return loss


def _nats(found: jax.Array, labels: AnyArray, smoothing: float) -> jax.Array:
    targets = optax.smooth_labels(jax.nn.one_hot(labels, found.shape[-1]), smoothing)
    return -jnp.sum(targets[:, None] * found, axis=-1)


def _counts(found: Sequence[jax.Array], labels: AnyArray, counted: AnyArray, heads: Sequence[Head]) -> dict[str, jax.Array]:
    """How often all questions, and each question, are answered correctly."""

    def total(right):
        return jnp.sum(right & counted, dtype=jnp.float32)

    right = [(jnp.argmax(own, axis=-1) == labels[:, i, None]) & jnp.isfinite(own).all(axis=-1) for i, own in enumerate(found)]
    counts = {"correct": total(jnp.stack(right).all(axis=0))} | {f"correct_{head.name}": total(own) for head, own in zip(heads, right)}
    if len(heads) == 1 and len(heads[0].classes) > 5:
        best = jax.lax.top_k(found[0], 5)[1]
        counts["top_5"] = total((best == labels[:, :1, None]).any(axis=-1))
    return counts


def forecast_loss(model: VideoForecaster, context: int, *, kind: str = "bce") -> LossFn:
    r"""The loss of predicted frames, a mean over frames and pixels, summed over real clips.

    .. math:: -y \log p - (1 - y) \log(1 - p) \quad\text{or}\quad (p - y)^2

    Args:
      model: computes the logits of p.
      context: number of frames it reads; those after them are predicted.
      kind: "bce" or "mse".

    Returns:
      loss(params, model_state, carry, batch, rng) -> (carry, model_state, Sums); in evaluation with the sums of `frame_errors`.

    Example:
      >>> import numpy as np
      >>> model = VideoForecaster((8, 8, 1), features=(4,), patch=2)
      >>> batch = VideoBatch(np.zeros((2, 5, 8, 8, 1), np.uint8), np.array([5, 0]), np.zeros((2, 0), int), np.ones(2, bool))
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 3, 8, 8, 1)), 2)["params"]
      >>> float(forecast_loss(model, 3)(params, (), (), batch, None)[2].tokens)  # a row of length 0 is padding
      1.0
    """

    def loss(params, model_state, carry, batch: VideoBatch, rng) -> Any:
        frames, real = to_float(batch.frames), batch.lengths > 0
        true = frames[:, context:]
        logits = cast(jax.Array, model.apply({"params": params}, frames[:, :context], true.shape[1]))
        if kind == "bce":
            each = optax.sigmoid_binary_cross_entropy(logits, true)
        else:
            each = jnp.square(jax.nn.sigmoid(logits) - true)

        def total(values):
            return jnp.sum(jnp.where(real, values.mean(axis=1), 0))

        counts = {} if rng is not None else {name: total(found) for name, found in frame_errors(jax.nn.sigmoid(logits), true).items()}
        return carry, model_state, Sums(total(each.mean(axis=(2, 3, 4))), total(jnp.ones(true.shape[:2])), counts)

    return loss
