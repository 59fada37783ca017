"""VGG-11, 13, 16 and 19, with and without batch normalisation."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from flax import linen as nn
from jax.nn import initializers as init

from seqjax.cnn.base import ImageClassifier
from seqjax.cnn.blocks import Conv, he_fan_out
from seqjax.cnn.normalization import BatchNorm
from seqjax.cnn.pooling import adaptive_avg_pool, max_pool
from seqjax.typing import Array


class VGG(ImageClassifier):
    """VGG: stages of 3 x 3 convolutions, each ending with pooling, then three dense layers.

    Padding, dropout, norms and initialisation follow torchvision: kernels of convolutions as He et al. 2015 by fan-out, of dense layers
    N(0, 0.01), biases 0; convolutions keep their bias even if a norm follows. The pool to 7 x 7 allows images of any
    size.

    Attributes:
      num_classes, in_channels, dtype: as in ImageClassifier.
      depths: convolutions of each stage.
      norm: batch normalisation after each convolution.
      dropout: the fraction of the dense layers' inputs that is dropped in training.
      channels: channels of each stage.
      hidden: units of the first two dense layers.

    Example:
      >>> import jax
      >>> images = jax.numpy.ones((1, 32, 32, 3))
      >>> shapes = jax.eval_shape(VGG(depths=(1, 1, 2, 2, 2)).init, jax.random.key(0), images)["params"]
      >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
      132863336

    Reference:
      Simonyan and Zisserman 2015, arXiv:1409.1556.
    """

    depths: Sequence[int] = (1, 1, 2, 2, 2)
    norm: bool = False
    dropout: float = 0.5
    channels: Sequence[int] = (64, 128, 256, 512, 512)
    hidden: int = 4096

    min_size: ClassVar[int] = 32

    @property
    def flatten(self) -> dict[str, int]:
        """Returns the dense layer that reads a flattened map, and the map's channels.

        Example:
          >>> VGG().flatten
          {'classifier.0': 512}
        """
        return {"classifier.0": self.channels[-1]}

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        x = self.check(images)
        x = _Features(self.depths, self.channels, self.norm, self.dtype, name="features")(x, train=train)
        x = adaptive_avg_pool(x, (7, 7))
        x = x.reshape(x.shape[0], -1)
        return _Classifier(self.hidden, self.num_classes, self.dropout, self.dtype, name="classifier")(x, train=train)


class _Features(nn.Module):
    """The stages, named by their index in torchvision's sequence, where activations and pools count too."""

    depths: Sequence[int]
    channels: Sequence[int]
    norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train):
        if len(self.depths) != len(self.channels):
            raise ValueError(f"depths and channels must have one entry per stage, got {self.depths} and {self.channels}")
        conv = functools.partial(Conv, kernel_size=(3, 3), padding=1, kernel_init=he_fan_out, dtype=self.dtype)
        norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        place = 0
        for depth, features in zip(self.depths, self.channels):
            for _ in range(depth):
                x = conv(features, name=f"{place}")(x)
                if self.norm:
                    x = norm(name=f"{place + 1}")(x, use_running_average=not train)
                x = nn.relu(x)
                place += 3 if self.norm else 2
            x = max_pool(x, (2, 2))
            place += 1
        return x


class _Classifier(nn.Module):
    """Three dense layers, dropout after the first two."""

    hidden: int
    num_classes: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train):
        dense = functools.partial(nn.Dense, kernel_init=init.normal(0.01), dtype=self.dtype)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = drop(nn.relu(dense(self.hidden, name="0")(x)))
        x = drop(nn.relu(dense(self.hidden, name="3")(x)))
        return dense(self.num_classes, name="6")(x)


DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}

MODELS = {
    **{name: functools.partial(VGG, depths=depths) for name, depths in DEPTHS.items()},
    **{f"{name}_bn": functools.partial(VGG, depths=depths, norm=True) for name, depths in DEPTHS.items()},
}
