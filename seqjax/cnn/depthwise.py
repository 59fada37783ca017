"""Blocks of depthwise convolutions: one filter for each channel, then 1x1 convolutions that mix the channels."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from seqjax.cnn.blocks import Conv, ConvNormActivation, he_fan_out
from seqjax.cnn.normalization import BatchNorm
from seqjax.typing import Array


class DepthwiseSeparable(nn.Module):
    r"""A depthwise and a pointwise convolution, each with norm and activation.

    .. math::
       d_c &= \phi(\mathrm{BN}(w_c * x_c)) \quad \text{for each channel } c \\
       y   &= \phi(\mathrm{BN}(W d))

    For k positions in a window, C channels in and N out this takes k C + C N multiplications per position; a full
    convolution takes k C N.

    Attributes:
      features: channels out, N.
      kernel_size: that of the depthwise convolution: (height, width) for images, (width,) for sequences.
      strides, padding, kernel_dilation: of the depthwise convolution, as in `flax.linen.Conv`; "SAME" is TensorFlow's,
        which at stride 2 and an even size pads only the end; "CAUSAL" is for sequences.
      norm: whether norms follow; without them both convolutions have a bias.
      activation: None for none.
      momentum, epsilon: settings of the norms.
      kernel_init: initializer of both convolutions.
      dtype: computation dtype.

    Example:
      >>> import jax
      >>> block = DepthwiseSeparable(8, (3,), padding="CAUSAL")
      >>> y, variables = block.init_with_output(jax.random.key(0), jax.numpy.ones((2, 6, 4)))
      >>> y.shape, [variables["params"][name]["conv"]["kernel"].shape for name in ("depthwise", "pointwise")]
      ((2, 6, 8), [(3, 1, 4), (1, 4, 8)])

    Reference:
      Howard et al. 2017, arXiv:1704.04861.
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: Any = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    norm: bool = True
    activation: Callable[[Array], Array] | None = nn.relu6
    momentum: float = 0.9
    epsilon: float = 1e-5
    kernel_init: Callable[..., Array] = he_fan_out
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Gives (B, ..., features) for x (B, H, W, C) or (B, T, D)."""
        if x.ndim != len(self.kernel_size) + 2:
            raise ValueError(
                f"kernel_size={tuple(self.kernel_size)} is for x of {len(self.kernel_size) + 2} axes (batch, positions, channels), "
                f"got x of shape {tuple(x.shape)}"
            )
        depthwise = ConvNormActivation(
            x.shape[-1], self.kernel_size, strides=self.strides, padding=self.padding, feature_group_count=x.shape[-1],
            kernel_dilation=self.kernel_dilation, norm=self.norm, activation=self.activation, momentum=self.momentum,
            epsilon=self.epsilon, kernel_init=self.kernel_init, dtype=self.dtype, name="depthwise",
        )  # fmt: skip
        pointwise = ConvNormActivation(
            self.features, (1,) * len(self.kernel_size), norm=self.norm, activation=self.activation, momentum=self.momentum,
            epsilon=self.epsilon, kernel_init=self.kernel_init, dtype=self.dtype, name="pointwise",
        )  # fmt: skip
        return pointwise(depthwise(x, train=train), train=train)


class InvertedResidual(nn.Module):
    r"""1x1 to more channels, depthwise, 1x1 to few channels without activation; added to its input if shapes allow.

    .. math::
       y = [x +]\; \mathrm{BN}(W_2\, \phi(\mathrm{BN}(w * \phi(\mathrm{BN}(W_1 x)))), \quad \phi = \mathrm{relu6}

    Padding and names are torchvision's.

    Attributes:
      features: channels out.
      expansion: the depthwise convolution works on `expansion` times the channels of x; at 1 the first 1x1 convolution is left out.
      strides: of the depthwise convolution, along every axis; the input is added only at 1.
      kernel_size: that of the depthwise convolution, odd: (height, width) for images, (width,) for sequences.
      momentum, epsilon: settings of the norms.
      kernel_init: initializer of all convolutions.
      dtype: computation dtype.

    Example:
      >>> import jax
      >>> y, variables = InvertedResidual(4, expansion=6).init_with_output(jax.random.key(0), jax.numpy.ones((2, 8, 8, 4)))
      >>> y.shape, variables["params"]["conv"]["1"]["0"]["kernel"].shape
      ((2, 8, 8, 4), (3, 3, 1, 24))

    Reference:
      Sandler et al. 2018, arXiv:1801.04381.
    """

    features: int
    expansion: int = 6
    strides: int = 1
    kernel_size: Sequence[int] = (3, 3)
    momentum: float = 0.9
    epsilon: float = 1e-5
    kernel_init: Callable[..., Array] = he_fan_out
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Gives (B, ..., features) for x (B, H, W, C) or (B, T, D)."""
        y = _Branch(
            self.features, self.expansion, self.strides, self.kernel_size, self.momentum, self.epsilon, self.kernel_init,
            self.dtype, name="conv",
        )(x, train=train)  # fmt: skip
        return x + y if self.strides == 1 and x.shape[-1] == self.features else y


class _Branch(nn.Module):
    """The convolutions of an InvertedResidual, numbered as torchvision numbers them."""

    features: int
    expansion: int
    strides: int
    kernel_size: Sequence[int]
    momentum: float
    epsilon: float
    kernel_init: Callable[..., Array]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        hidden, single = x.shape[-1] * self.expansion, (1,) * len(self.kernel_size)
        kinds: list[tuple[Sequence[int], dict[str, Any]]] = [(single, {})] if self.expansion != 1 else []
        around = [(k // 2, k // 2) for k in self.kernel_size]
        kinds.append((self.kernel_size, {"strides": self.strides, "padding": around, "feature_group_count": hidden}))
        for i, (kernel_size, options) in enumerate(kinds):
            x = ConvNormActivation(
                hidden, kernel_size, activation=nn.relu6, momentum=self.momentum, epsilon=self.epsilon,
                kernel_init=self.kernel_init, dtype=self.dtype, conv_name="0", norm_name="1", name=str(i), **options,
            )(x, train=train)  # fmt: skip
        conv = Conv(self.features, single, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name=str(len(kinds)))
        norm = BatchNorm(momentum=self.momentum, epsilon=self.epsilon, dtype=self.dtype, name=str(len(kinds) + 1))
        return norm(conv(x), use_running_average=not train)
