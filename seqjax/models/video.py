"""Networks for videos: a CNN per frame below recurrent layers, convolutional LSTMs, and a forecaster of the next frames."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import seqjax
from seqjax.cnn.base import Outputs
from seqjax.cnn.blocks import Conv
from seqjax.cnn.normalization import masked_norms
from seqjax.engines.steps import select
from seqjax.errors import UserError, nearest
from seqjax.nn.masks import real_steps
from seqjax.typing import AnyArray, Array, Carry, Cell

POOLING = ("last", "mean")


class _Reached(Exception):
    """Raised when the requested layer has run: what follows it is neither run nor created."""


class FrameFeatures(nn.Module):
    """Computes a CNN's features of each image: its output, or that of a layer inside it, where the CNN is cut off.

    Attributes:
      cnn: any network of `seqjax.cnn` for images; or another module that takes images and `train`.
      layer: the dotted path of a module inside it, as `seqjax.cnn.feature_names` lists them; "" is the network's own output.
      pooling: how a layer's map is reduced: "flatten", which keeps positions, or "mean" over positions.

    Example:
      >>> from seqjax import cnn
      >>> features = FrameFeatures(cnn.create("lenet5"), "conv2", "mean")
      >>> features.init_with_output(jax.random.key(0), jnp.ones((2, 28, 28, 1)))[0].shape
      (2, 16)
    """

    cnn: nn.Module
    layer: str = ""
    pooling: str = "flatten"

    @nn.compact
    def __call__(self, images: Array, real: Array | None = None, *, train: bool = False) -> Array:
        """Features of images.

        Args:
          images: (N, H, W, C).
          real: bool (N,), true for real ones; others do not affect the statistics of batch normalisation.
          train: whether to use batch statistics and noise, as in training.

        Returns:
          (N, D).

        Raises:
          UserError: there is no such layer; the message suggests the nearest.
        """
        wanted, inside = (*self.cnn.path, *self.layer.split(".")), {}

        def stop(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "__call__":
                inside[".".join(context.module.path[len(self.cnn.path) :])] = None
                if self.layer and context.module.path == wanted:
                    raise _Reached(out)
            return out

        real = jnp.ones(images.shape[0], bool) if real is None else real
        with masked_norms(real), nn.intercept_methods(stop):
            try:
                found = self.cnn(images, train=train)
            except _Reached as reached:
                (found,) = reached.args
            else:
                if self.layer:
                    near = nearest(self.layer, inside, cutoff=0)
                    raise UserError(f"model.layer={self.layer!r} is not a layer of the network{near}; see seqjax.cnn.feature_names")
        found = found.logits if isinstance(found, Outputs) else found
        if self.pooling == "mean" and found.ndim > 2:
            found = found.mean(axis=tuple(range(1, found.ndim - 1)))
        return found.reshape(found.shape[0], -1)


class FrameReader(nn.Module):
    """Recurrent layers over the features of frames.

    Attributes:
      features: features of each frame.
      cell: any Cell, not bidirectional if the carry passes from window to window.
      size: D, to which the features are projected first; 0 for no projection.
      dropout: on the features, in training.

    Example:
      >>> from seqjax import cnn
      >>> from seqjax.models import make_stack
      >>> reader = FrameReader(FrameFeatures(cnn.create("lenet5")), make_stack("gru", 8, 1), size=4)
      >>> (carry, ys), _ = reader.init_with_output(jax.random.key(0), jnp.ones((2, 3, 28, 28, 1)), jnp.array([3, 2]))
      >>> ys.shape
      (2, 3, 8)
    """

    features: FrameFeatures
    cell: Cell
    size: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        frames: Array,
        lengths: Array,
        carry: Carry | None = None,
        fresh: Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[Carry, Array]:
        """Gives (carry, outputs (B, T, H)); the arguments are those of `VideoClassifier`."""
        real = real_steps(lengths, *frames.shape[:2])
        xs = self.features(frames.reshape(-1, *frames.shape[2:]), real.reshape(-1), train=train)
        if self.size:
            xs = nn.relu(nn.Dense(self.size, dtype=self.features.cnn.dtype, name="project")(xs))
        xs = nn.Dropout(self.dropout, deterministic=not train)(xs)
        return _unrolled(self, self.cell, xs.reshape(*frames.shape[:2], -1), lengths, carry, fresh, train)

    def initial_carry(self, batch_size: int) -> Carry:
        """The carry before the first window."""
        return self.cell.initial_carry(self.get_variable("params", "rnn"), batch_size)


class MapReader(nn.Module):
    """Convolutional LSTMs over maps of frames, read out by the mean and the maximum of each channel.

    Attributes:
      cell: a stack of `seqjax.conv_lstm`, whose spatial shape is that of the frames divided by the stride, rounded up.
      filters: channels of the maps that it reads.
      stride: of the convolution that computes them; its kernel is stride + 2 wide.
      dtype: computation dtype.

    Example:
      >>> cell = seqjax.stack(seqjax.conv_lstm(6, 3, (4, 4)))
      >>> reader = MapReader(cell, filters=5, stride=2)
      >>> (carry, ys), _ = reader.init_with_output(jax.random.key(0), jnp.ones((2, 3, 8, 8, 1)), jnp.array([3, 2]))
      >>> ys.shape
      (2, 3, 12)

    Reference:
      Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting".
    """

    cell: Cell
    filters: int = 16
    stride: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        frames: Array,
        lengths: Array,
        carry: Carry | None = None,
        fresh: Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[Carry, Array]:
        """Gives (carry, outputs (B, T, 2 F)); the arguments are those of `VideoClassifier`."""
        width = self.stride + 2
        stem = Conv(self.filters, (width, width), strides=self.stride, padding="SAME", dtype=self.dtype, name="stem")
        xs = nn.relu(stem(frames.reshape(-1, *frames.shape[2:])))
        carry, ys = _unrolled(self, self.cell, xs.reshape(*frames.shape[:2], *xs.shape[1:]), lengths, carry, fresh, train)
        return carry, jnp.concatenate([ys.mean(axis=(2, 3)), ys.max(axis=(2, 3))], axis=-1)

    def initial_carry(self, batch_size: int) -> Carry:
        """The carry before the first window."""
        return self.cell.initial_carry(self.get_variable("params", "rnn"), batch_size)


def _unrolled(module, cell, xs, lengths, carry, fresh, train) -> tuple[Carry, Array]:
    """Runs a cell over frames, from the carry of the window before except in fresh rows."""
    params = module.param("rnn", cell.init, xs.shape[-1])
    initial = cell.initial_carry(params, xs.shape[0])
    carry = initial if carry is None else carry
    if fresh is not None:
        carry = select(fresh, initial, carry)
    rng = module.make_rng("dropout") if train else None
    return seqjax.unroll(cell, params, xs, carry, lengths=lengths, rng=rng)


class VideoClassifier(nn.Module):
    r"""Answers one or several questions about a video, at each of its frames.

    .. math:: p_a(k \mid x_1 \dots x_t) = \mathrm{softmax}(W_a h_t + b_a)_k

    Attributes:
      heads: K, the number of classes, of each question.
      reader: `FrameReader` (a CNN on each frame and recurrent layers over frames) or `MapReader` (convolutional LSTMs).
      dropout: on the inputs of the heads, in training.
      dtype: computation dtype; scores are float32.

    Example:
      >>> reader = MapReader(seqjax.stack(seqjax.conv_lstm(6, 3, (4, 4))))
      >>> model = VideoClassifier((10, 8), reader)
      >>> (carry, scores), _ = model.init_with_output(jax.random.key(0), jnp.ones((2, 3, 8, 8, 1)), jnp.array([3, 2]))
      >>> [score.shape for score in scores]
      [(2, 3, 10), (2, 3, 8)]

    Reference:
      Donahue et al. 2015, "Long-term Recurrent Convolutional Networks for Visual Recognition and Description".
    """

    heads: Sequence[int]
    reader: nn.Module
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        frames: Array,
        lengths: Array,
        carry: Carry | None = None,
        fresh: Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[Carry, tuple[Array, ...]]:
        """Reads clips or windows.

        Args:
          frames: floats (B, T, H, W, C). Padded frames, even NaN, affect neither values, statistics nor gradients.
          lengths: int (B,), how many of the T frames are real; they come first.
          carry: from the window before; None is the initial one.
          fresh: bool (B,), rows that start from the initial carry.
          train: applies noise, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          (carry, scores (B, T, K) of each head, in float32).
        """
        real = real_steps(lengths, *frames.shape[:2])
        frames = jnp.where(real[..., None, None, None], frames, 0)
        carry, ys = self.reader(frames, lengths, carry, fresh, train=train)
        ys = nn.Dropout(self.dropout, deterministic=not train)(ys)
        scores = (nn.Dense(size, dtype=self.dtype, name=f"head_{i}")(ys) for i, size in enumerate(self.heads))
        return carry, tuple(score.astype(jnp.float32) for score in scores)

    def initial_carry(self, batch_size: int) -> Carry:
        """The carry before the first window: `model.apply(variables, B, method="initial_carry")`."""
        return self.reader.initial_carry(batch_size)


def pooled_log_probabilities(scores: Array, lengths: AnyArray, pooling: str) -> Array:
    r"""Pools the scores of a clip's frames to one answer.

    .. math:: \log p(k) = \log p(k \mid x_1 \dots x_T) \quad\text{or}\quad \log \frac1T \sum_t p(k \mid x_1 \dots x_t)

    Args:
      scores: (B, T, K).
      lengths: int (B,), how many frames are real.
      pooling: "last", or "mean" as in Donahue et al.

    Returns:
      (B, K); for length 0 meaningless, but finite.

    Raises:
      UserError: there is no such pooling.

    Example:
      >>> scores = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.7, 0.3]]]))
      >>> [[round(float(p), 3) for p in jnp.exp(pooled_log_probabilities(scores, jnp.array([2]), how))[0]] for how in POOLING]
      [[0.25, 0.75], [0.375, 0.625]]
    """
    if pooling not in POOLING:
        raise UserError(f"model.pooling={pooling!r} is unknown; choose one of {', '.join(POOLING)}")
    found, last = jax.nn.log_softmax(scores), jnp.maximum(lengths, 1) - 1
    if pooling == "last":
        return jnp.take_along_axis(found, last[:, None, None], axis=1)[:, 0]
    real = jnp.arange(scores.shape[1])[None] <= last[:, None]
    found = jnp.where(real[..., None], found, -jnp.inf)
    return jax.nn.logsumexp(found, axis=1) - jnp.log(last + 1.0)[:, None]


class VideoForecaster(nn.Module):
    """Predicts the next frames: convolutional LSTMs read the frames so far; others start from their carries and write.

    Frames are split into patches; each is a position of the maps, with its pixels as channels. The second stack has no
    inputs besides its carry; a 1x1 convolution of the outputs of all its layers gives the patches.

    Attributes:
      shape: shape of a frame, (H, W, C); the patch must divide H and W.
      features: channels of each layer.
      kernel: width of the kernels, odd.
      patch: side of a patch, in pixels.
      dtype: computation dtype; logits are float32.

    Example:
      >>> model = VideoForecaster((8, 8, 1), features=(6,), patch=2)
      >>> logits, _ = model.init_with_output(jax.random.key(0), jnp.ones((2, 4, 8, 8, 1)), 3)
      >>> logits.shape
      (2, 3, 8, 8, 1)

    Reference:
      Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting", section 3.2.
    """

    shape: Sequence[int]
    features: Sequence[int] = (64,)
    kernel: int = 3
    patch: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, frames: Array, horizon: int) -> Array:
        """Gives logits (B, horizon, H, W, C) of the pixels after frames (B, T, H, W, C) with values in [0, 1]."""
        height, width, channels = self.shape
        if height % self.patch or width % self.patch:
            raise UserError(f"model.patch={self.patch} does not divide frames of {height} x {width}; choose another")
        places = (height // self.patch, width // self.patch)
        xs, batch = to_patches(frames, self.patch), frames.shape[0]
        blank, outputs = jnp.zeros((batch, horizon, *places, 1), xs.dtype), []
        carries = []
        for i, size in enumerate(self.features):
            cell = seqjax.conv_lstm(size, self.kernel, places, dtype=self.dtype)
            carry, xs = seqjax.unroll(cell, self.param(f"encoder_{i}", cell.init, xs.shape[-1]), xs)
            carries.append((cell, carry))
        ys = blank
        for i, (cell, carry) in enumerate(carries):
            _, ys = seqjax.unroll(cell, self.param(f"forecaster_{i}", cell.init, ys.shape[-1]), ys, carry)
            outputs.append(ys)
        ys = jnp.concatenate(outputs, axis=-1)
        logits = nn.Dense(self.patch * self.patch * channels, dtype=self.dtype, name="pixels")(ys)
        return from_patches(logits.astype(jnp.float32), self.patch)


def to_patches(frames: Array, patch: int) -> Array:
    """Rearranges squares of pixels to channels.

    Args:
      frames: (..., H, W, C).
      patch: p, which divides H and W.

    Returns:
      (..., H / p, W / p, p p C).

    Example:
      >>> to_patches(jnp.arange(4.0).reshape(2, 2, 1), 2).tolist()
      [[[0.0, 1.0, 2.0, 3.0]]]
    """
    *lead, height, width, channels = frames.shape
    cut = frames.reshape(*lead, height // patch, patch, width // patch, patch, channels)
    return jnp.moveaxis(cut, -4, -3).reshape(*lead, height // patch, width // patch, patch * patch * channels)


def from_patches(patches: Array, patch: int) -> Array:
    """Inverts `to_patches`.

    Example:
      >>> from_patches(jnp.arange(4.0).reshape(1, 1, 4), 2)[..., 0].tolist()
      [[0.0, 1.0], [2.0, 3.0]]
    """
    *lead, rows, columns, size = patches.shape
    channels = size // (patch * patch)
    whole = jnp.moveaxis(patches.reshape(*lead, rows, columns, patch, patch, channels), -3, -4)
    return whole.reshape(*lead, rows * patch, columns * patch, channels)
