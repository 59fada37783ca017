"""The temporal convolutional network: causal, dilated, residual."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from seqjax.cnn.blocks import Conv, torch_bias, torch_kernel
from seqjax.cnn.convolution import conv_general_dilated
from seqjax.cnn.sequence import check_sequences, last_real, real_steps
from seqjax.typing import Array

small = nn.initializers.normal(0.01)
POOLS = ("last", "mean", "none")


class WeightNormConv(nn.Conv):
    r"""A convolution whose kernels have a direction v and a length g, each a parameter.

    .. math:: w = g \, v / \lVert v \rVert

    with one length per output channel. The parameters are `kernel` (v), `scale` (g, initialised to the length of v, so
    that the layer starts like a plain one) and `bias`; the division is done in the parameters' dtype.

    Attributes: those of `flax.linen.Conv`.

    Example:
      >>> import jax
      >>> layer = WeightNormConv(8, (3,), padding="CAUSAL")
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 4)))
      >>> y.shape, variables["params"]["scale"].shape
      ((2, 5, 8), (8,))

    Source: Salimans and Kingma 2016, arXiv:1602.07868.
    """

    @nn.nowrap
    def param(self, name: str, init_fn: Callable[..., Any], *args, **kwargs):
        """As in linen; nn.Conv asks for its kernel here, and gets the normalised one."""
        value = super().param(name, init_fn, *args, **kwargs)
        if name != "kernel":
            return value
        length = jnp.sqrt(jnp.sum(value * value, axis=tuple(range(value.ndim - 1))))
        scale = super().param("scale", lambda key: length)
        return value * (scale / length).reshape((1,) * (value.ndim - 1) + (-1,))


class TemporalBlock(nn.Module):
    r"""Two causal dilated convolutions with weight normalisation and a residual connection.

    .. math:: y = \mathrm{relu}(f_2(f_1(x)) + \mathrm{downsample}(x)), \quad
              f_i(x) = \mathrm{dropout}(\mathrm{relu}(w_i *_d x + b_i))

    Step t of y depends on steps t - 2 (kernel_size - 1) dilation ... t of x. `downsample` is a 1 x 1 convolution if the
    widths differ, otherwise the identity.

    Attributes:
      features: channels out.
      kernel_size: steps that each convolution sees.
      dilation: distance between them.
      dropout: the fraction dropped in training.
      drop_channels: drops a channel at all steps, as in the paper; False drops single values, as in its code.
      dtype: computation dtype.

    Example:
      >>> import jax
      >>> block = TemporalBlock(8, kernel_size=3, dilation=2)
      >>> block.init_with_output(jax.random.key(0), jnp.ones((2, 5, 4)))[0].shape
      (2, 5, 8)

    Source: Bai, Kolter and Koltun 2018, arXiv:1803.01271. The convolutions start from torch's defaults, as the authors'
    do (their normal(0, 0.01) is overwritten by weight normalisation at the first call), `downsample` from normal(0, 0.01).
    """

    features: int
    kernel_size: int
    dilation: int = 1
    dropout: float = 0.2
    drop_channels: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        def convolve(x, name):
            x = WeightNormConv(
                self.features, (self.kernel_size,), padding="CAUSAL", kernel_dilation=self.dilation,
                kernel_init=torch_kernel, bias_init=torch_bias(self.kernel_size * x.shape[-1]),
                conv_general_dilated=conv_general_dilated, dtype=self.dtype, name=name,
            )(x)  # fmt: skip
            axes = (1,) if self.drop_channels else ()
            return nn.Dropout(self.dropout, broadcast_dims=axes, deterministic=not train)(nn.relu(x))

        y = convolve(convolve(x, "conv1"), "conv2")
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1,), kernel_init=small, bias_init=torch_bias(x.shape[-1]), dtype=self.dtype, name="downsample")(x)
        return nn.relu(y + x)


class TemporalConvNet(nn.Module):
    """A stack of temporal blocks with doubling dilation: (B, T, D) to (B, T, channels[-1]).

    Attributes:
      channels: features of each block, the first with dilation 1.
      kernel_size, dropout, drop_channels, dtype: as in TemporalBlock.

    Example:
      >>> import jax
      >>> net = TemporalConvNet((8, 8), kernel_size=3)
      >>> net.init_with_output(jax.random.key(0), jnp.ones((2, 5, 4)))[0].shape
      (2, 5, 8)

    Source: Bai, Kolter and Koltun 2018, arXiv:1803.01271.
    """

    channels: Sequence[int]
    kernel_size: int
    dropout: float = 0.2
    drop_channels: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        for i, features in enumerate(self.channels):
            block = TemporalBlock(features, self.kernel_size, 2**i, self.dropout, self.drop_channels, self.dtype, name=str(i))
            x = block(x, train=train)
        return x


class TCN(nn.Module):
    r"""Classifies sequences, or each of their steps, by what came before.

    .. math:: y = W \, \mathrm{pool}(\mathrm{network}(x)) + b

    Causal: the output at step t depends only on steps t - receptive_field + 1 ... t.

    Attributes:
      num_classes: number of logits.
      in_channels: D.
      channels: features of each block; block i has dilation 2^i.
      kernel_size: steps that each convolution sees.
      dropout, drop_channels: as in TemporalBlock.
      pool: "last" reads the last real step, "mean" the mean over the real steps, "none" gives logits for every step.
      dtype: computation dtype; None takes what input and parameters promote to. Parameters stay float32.

    The defaults are those of the authors' code for sequential MNIST. Padding and initialisation follow that code; the
    head, too, starts from normal(0, 0.01).

    Example:
      >>> import jax
      >>> model = TCN(num_classes=5, in_channels=3, channels=(8, 8, 8), kernel_size=2)
      >>> model.receptive_field
      15
      >>> xs, lengths = jnp.ones((2, 20, 3)), jnp.array([20, 4])
      >>> model.init_with_output(jax.random.key(0), xs, lengths)[0].shape
      (2, 5)

    Source: Bai, Kolter and Koltun 2018, arXiv:1803.01271.
    """

    num_classes: int = 10
    in_channels: int = 1
    channels: Sequence[int] = (25,) * 8
    kernel_size: int = 7
    dropout: float = 0.05
    drop_channels: bool = False
    pool: str = "last"
    dtype: Any = None

    @property
    def receptive_field(self) -> int:
        """The number of steps that an output depends on, including its own."""
        return 1 + 2 * (self.kernel_size - 1) * (2 ** len(self.channels) - 1)

    @nn.compact
    def __call__(self, xs: Array, lengths: Array | None = None, *, train: bool = False) -> Array:
        """Gives the logits.

        Args:
          xs: (B, T, D) of a float type.
          lengths: integers (B,), how many steps of each sequence are real, or a boolean mask (B, T), whose holes count
            as zeros. Values at padded steps, even NaN, have no effect. A sequence without a real step has zero
            features.
          train: applies dropout, from the key `rngs={"dropout": key}`, which is then required.

        Returns:
          (B, num_classes), or with pool="none" (B, T, num_classes), zeros at padded steps; in the dtype of the computation.

        Raises:
          ValueError: the shape is not (B, T, in_channels), lengths do not fit, or pool is unknown.
          TypeError: the sequences are not floats, or lengths are neither integers nor bool.
        """
        if self.pool not in POOLS:
            raise ValueError(f"pool={self.pool!r} is unknown; choose one of {', '.join(POOLS)}")
        check_sequences("TCN", xs, self.in_channels, "in_channels")
        mask = real_steps(lengths, *xs.shape[:2])
        xs = xs if self.dtype is None else xs.astype(self.dtype)
        if mask is not None:
            xs = jnp.where(mask[..., None], xs, 0)
        trunk = TemporalConvNet(self.channels, self.kernel_size, self.dropout, self.drop_channels, self.dtype, name="network")
        hs = pool_steps(trunk(xs, train=train), mask, self.pool)
        fan_in = self.channels[-1]
        logits = nn.Dense(self.num_classes, kernel_init=small, bias_init=torch_bias(fan_in), dtype=self.dtype, name="linear")(hs)
        return jnp.where(mask[..., None], logits, 0) if self.pool == "none" and mask is not None else logits


def pool_steps(hs: Array, mask: Array | None, pool: str) -> Array:
    """Pools the vectors of each sequence's real steps to one.

    Args:
      hs: (B, T, H).
      mask: (B, T), true where a step is real; None where all are.
      pool: "last", "mean", or "none", which changes nothing.

    Returns:
      (B, H), zeros where no step is real; for "none" hs.

    Example:
      >>> hs, mask = jnp.arange(4.0).reshape(1, 4, 1), jnp.array([[True, True, True, False]])
      >>> pool_steps(hs, mask, "last").item(), pool_steps(hs, mask, "mean").item()
      (2.0, 1.0)
    """
    if pool == "none":
        return hs
    if mask is None:
        return hs[:, -1] if pool == "last" else jnp.mean(hs, axis=1)
    if pool == "last":
        at = last_real(mask)
        last = jnp.take_along_axis(hs, jnp.maximum(at - 1, 0)[:, None, None], axis=1)[:, 0]
        return jnp.where(at[:, None] > 0, last, 0)
    real = jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None].astype(jnp.float32)
    total = jnp.sum(jnp.where(mask[..., None], hs, 0), axis=1, dtype=jnp.promote_types(hs.dtype, jnp.float32))
    return (total / real).astype(hs.dtype)


MODELS: dict[str, Callable[..., nn.Module]] = {"tcn": functools.partial(TCN)}
