"""AlexNet: one tower, with local response normalisation by option."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqjax.cnn.base import ImageClassifier
from seqjax.cnn.blocks import Conv, torch_bias, torch_kernel
from seqjax.cnn.pooling import adaptive_avg_pool, max_pool
from seqjax.typing import Array


class AlexNet(ImageClassifier):
    """AlexNet in one tower, as torchvision has it: 61,100,840 parameters for 1000 classes.

    Channels, padding, dropout and initialisation (torch's default) follow torchvision's AlexNet, which follows
    Krizhevsky 2014.

    Attributes:
      num_classes, in_channels, dtype: as in ImageClassifier.
      lrn: local response normalisation after the first two convolutions, as in Krizhevsky et al. 2012; torchvision has
        none.
      dropout: the fraction of the dense layers' inputs that is dropped in training.
      hidden: units of the first two dense layers.

    Example:
      >>> images = jnp.ones((1, 63, 63, 3))
      >>> shapes = jax.eval_shape(AlexNet().init, jax.random.key(0), images)["params"]
      >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
      61100840

    Reference:
      Krizhevsky, Sutskever and Hinton 2012, ImageNet classification with deep convolutional neural networks.
      Krizhevsky 2014, arXiv:1404.5997.
    """

    lrn: bool = False
    dropout: float = 0.5
    hidden: int = 4096

    min_size: ClassVar[int] = 63
    flatten: ClassVar[dict[str, int]] = {"classifier.1": 256}

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        x = self.check(images)
        x = _Features(self.lrn, self.dtype, name="features")(x)
        x = adaptive_avg_pool(x, (6, 6))
        x = x.reshape(x.shape[0], -1)
        return _Classifier(self.hidden, self.num_classes, self.dropout, self.dtype, name="classifier")(x, train=train)


class _Features(nn.Module):
    """Five convolutions, named by their index in torchvision's sequence, where activations and pools count too."""

    lrn: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        norm = local_response_norm if self.lrn else lambda x: x
        x = max_pool(norm(self._conv(x, "0", 64, 11, strides=4, padding=2)), (3, 3), (2, 2))
        x = max_pool(norm(self._conv(x, "3", 192, 5, padding=2)), (3, 3), (2, 2))
        x = self._conv(x, "6", 384, 3, padding=1)
        x = self._conv(x, "8", 256, 3, padding=1)
        return max_pool(self._conv(x, "10", 256, 3, padding=1), (3, 3), (2, 2))

    def _conv(self, x, name, features, size, **options):
        bias_init = torch_bias(size * size * x.shape[-1])
        options |= {"kernel_init": torch_kernel, "bias_init": bias_init, "dtype": self.dtype}
        return nn.relu(Conv(features, (size, size), name=name, **options)(x))


class _Classifier(nn.Module):
    """Three dense layers, dropout before the first two."""

    hidden: int
    num_classes: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train):
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = nn.relu(self._dense(drop(x), "1", self.hidden))
        x = nn.relu(self._dense(drop(x), "4", self.hidden))
        return self._dense(x, "6", self.num_classes)

    def _dense(self, x, name, features):
        bias_init = torch_bias(x.shape[-1])
        return nn.Dense(features, kernel_init=torch_kernel, bias_init=bias_init, dtype=self.dtype, name=name)(x)


def local_response_norm(x: Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Array:
    r"""Divides each value by the strength of its neighbours in other channels.

    .. math:: y_i = x_i / \Big(k + \alpha \sum_{j = i - \lfloor n / 2 \rfloor}^{i + \lfloor (n - 1) / 2 \rfloor} x_j^2\Big)^\beta

    This is the paper's convention, a sum. torch and Caffe use the mean over n, so their alpha is n times this one.

    Args:
      x: (..., C).
      size: n, channels in the window; those beyond the ends count as zeros.
      alpha, beta, k: the paper's values by default.

    Returns:
      An array like x.

    Raises:
      ValueError: size is below 1.

    Example:
      >>> local_response_norm(jnp.array([2.0, 2.0, 0.0]), size=3, alpha=1.0, beta=1.0, k=0.0).tolist()
      [0.25, 0.25, 0.0]

    Reference:
      Krizhevsky, Sutskever and Hinton 2012, section 3.3.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    before, after = size // 2, (size - 1) // 2
    squares = jnp.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(before, after)])
    sums = sum(jax.lax.slice_in_dim(squares, i, i + x.shape[-1], axis=-1) for i in range(size))
    return x / (k + alpha * sums) ** beta


MODELS = {"alexnet": AlexNet}
