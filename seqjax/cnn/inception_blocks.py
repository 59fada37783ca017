"""Building blocks of the Inception networks: chains of convolutions in parallel on one input, joined along the channels."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from seqjax.cnn.blocks import ConvNormActivation
from seqjax.cnn.pooling import avg_pool, max_pool
from seqjax.typing import Array

# Pools over 3 x 3 that keep the size; the mean counts the zeros at the border.
MAX_POOL = functools.partial(max_pool, window=(3, 3), strides=(1, 1), padding=1)
AVG_POOL = functools.partial(avg_pool, window=(3, 3), strides=(1, 1), padding=1)

# torchvision's normalisation of ImageNet, channel by channel.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Unit(NamedTuple):
    """A convolution with its norm and activation, one step of a branch; padded to keep the size, or unpadded if it has a stride."""

    name: str
    features: int  # channels out
    kernel: int | tuple[int, int] = 1  # height and width; a number for both
    strides: int = 1


# The steps of a branch: a convolution, a function of the map (a pool), or a fork into further branches.
Step = Unit | Callable[[Array], Array] | tuple["Branch", ...]
Branch = tuple[Step, ...]


class InceptionBranches(nn.Module):
    r"""Runs branches in parallel on one input and concatenates their outputs along the channels.

    .. math:: y = [\, b_1(x), \ldots, b_n(x) \,], \qquad b = s_k \circ \cdots \circ s_1

    Attributes:
      branches: each a tuple of steps; a step is a Unit (parameters under its name), a function such as a pool, or a tuple of
        branches, which fork from there and are joined again. Joined maps must have equal height and width.
      conv: makes the convolution of a Unit: `conv(features, kernel_size, strides=, padding=, name=)`, called with `train`.

    Example:
      >>> import jax
      >>> pool = functools.partial(max_pool, window=(3, 3), strides=(1, 1), padding=1)
      >>> block = InceptionBranches((
      ...     (Unit("one", 4),),
      ...     (Unit("reduce", 2), Unit("three", 8, 3)),
      ...     (pool, Unit("project", 4)),
      ... ))
      >>> y, variables = block.init_with_output(jax.random.key(0), jnp.ones((2, 6, 6, 3)))
      >>> y.shape, sorted(variables["params"])
      ((2, 6, 6, 16), ['one', 'project', 'reduce', 'three'])

    Reference:
      Szegedy et al. 2014, arXiv:1409.4842.
    """

    branches: tuple[Branch, ...]
    conv: Callable[..., nn.Module] = ConvNormActivation

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps (B, H, W, C) to (B, H', W', sum of the branches' channels); `train` is passed to the norms."""
        return self._fork(self.branches, x, train)

    def _fork(self, branches, x, train):
        return jnp.concatenate([self._run(branch, x, train) for branch in branches], axis=-1)

    def _run(self, branch, x, train):
        for step in branch:
            if isinstance(step, Unit):
                x = self._convolve(step, x, train)
            elif callable(step):
                x = step(x)
            else:
                x = self._fork(step, x, train)
        return x

    def _convolve(self, unit, x, train):
        kernel = (unit.kernel, unit.kernel) if isinstance(unit.kernel, int) else unit.kernel
        padding = tuple((k // 2, k // 2) for k in kernel) if unit.strides == 1 else 0
        return self.conv(unit.features, kernel, strides=unit.strides, padding=padding, name=unit.name)(x, train=train)


def to_plus_minus_one(images: Array) -> Array:
    r"""Converts images with torchvision's ImageNet normalisation to the scale of the TensorFlow networks.

    .. math:: x' = \frac{(x \sigma + \mu) - 0.5}{0.5}

    Args:
      images: (B, H, W, 3), of mean 0 and variance 1 by IMAGENET_MEAN and IMAGENET_STD.

    Returns:
      The images with black at -1 and white at 1.

    Raises:
      ValueError: the images do not have three channels.

    Example:
      >>> mean, std = (jnp.array(x)[None, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
      >>> to_plus_minus_one((jnp.ones((1, 1, 1, 3)) - mean) / std).round(3).tolist()
      [[[[1.0, 1.0, 1.0]]]]
    """
    if images.shape[-1] != 3:
        raise ValueError(f"transform_input is for images with 3 channels, got shape {tuple(images.shape)}")
    mean, std = (jnp.array(of, images.dtype).reshape(1, 1, 1, 3) for of in (IMAGENET_MEAN, IMAGENET_STD))
    return images * (std / 0.5) + (mean - 0.5) / 0.5


def inception_conv(stddev: float, dtype: Any) -> Callable[..., nn.Module]:
    """The convolution of both networks: epsilon 0.001, kernels truncated normal, cut at two deviations.

    Args:
      stddev: of the normal before truncation.
      dtype: computation dtype.

    Example:
      >>> inception_conv(0.1, None)(8, (1, 1)).epsilon
      0.001
    """
    init = nn.initializers.truncated_normal(stddev)
    return functools.partial(ConvNormActivation, epsilon=1e-3, kernel_init=init, dtype=dtype)
