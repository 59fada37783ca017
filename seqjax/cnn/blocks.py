"""The blocks of the classic networks; also usable on their own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.nn import initializers as init

from seqjax.cnn.convolution import conv_general_dilated
from seqjax.cnn.normalization import BatchNorm
from seqjax.typing import Array

Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)

# torch's defaults: uniform in +-1 / sqrt(fan_in), for kernels and (see torch_bias) biases.
torch_kernel = init.variance_scaling(1 / 3, "fan_in", "uniform")
he_fan_out = init.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, arXiv:1502.01852


def torch_bias(fan_in: int) -> Callable[..., Array]:
    """Returns torch's default initializer for the bias of a layer: uniform in +-1 / sqrt(fan_in).

    Example:
      >>> bias = torch_bias(4)(jax.random.key(0), (1000,))
      >>> bool(0.45 < abs(bias).max() <= 0.5)
      True
    """

    def initialise(key, shape, dtype=float):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return initialise


class ConvNormActivation(nn.Module):
    r"""Convolution, batch normalisation, activation.

    .. math:: y = \phi(\mathrm{BN}(W * x))

    The convolution has no bias if a norm follows. Submodules are named by `conv_name` and `norm_name`.

    Attributes:
      features: channels out.
      kernel_size: (height, width), or (width,) for sequences.
      strides, padding, feature_group_count, kernel_dilation: as in `flax.linen.Conv`; padding defaults to 0.
      norm: whether there is a batch norm.
      activation: None for none.
      momentum, epsilon: settings of the norm; new statistics have weight 1 - momentum.
      kernel_init: initializer of the convolution.
      dtype: computation dtype.

    Example:
      >>> block = ConvNormActivation(8, (3, 3), padding=1)
      >>> x = jax.numpy.ones((2, 6, 6, 3))
      >>> block.init_with_output(jax.random.key(0), x)[0].shape
      (2, 6, 6, 8)

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Any = 0
    feature_group_count: int = 1
    kernel_dilation: int | Sequence[int] = 1
    norm: bool = True
    activation: Callable[[Array], Array] | None = nn.relu
    momentum: float = 0.9
    epsilon: float = 1e-5
    kernel_init: Callable[..., Array] = he_fan_out
    dtype: Any = None
    conv_name: str = "conv"
    norm_name: str = "bn"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = Conv(
            self.features, self.kernel_size, strides=self.strides, padding=self.padding,
            feature_group_count=self.feature_group_count, kernel_dilation=self.kernel_dilation, use_bias=not self.norm,
            kernel_init=self.kernel_init, dtype=self.dtype, name=self.conv_name,
        )(x)  # fmt: skip
        if self.norm:
            norm = BatchNorm(momentum=self.momentum, epsilon=self.epsilon, dtype=self.dtype, name=self.norm_name)
            x = norm(x, use_running_average=not train)
        return x if self.activation is None else self.activation(x)
