"""Inception v3: large kernels factorised into small and one-sided ones, and one auxiliary head."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from seqjax.cnn.base import ImageClassifier, Outputs
from seqjax.cnn.blocks import torch_bias
from seqjax.cnn.inception_blocks import AVG_POOL, Branch, InceptionBranches, Unit, inception_conv, to_plus_minus_one
from seqjax.cnn.pooling import avg_pool, global_avg_pool, max_pool
from seqjax.typing import Array

HALVE = functools.partial(max_pool, window=(3, 3), strides=(2, 2))  # the pool next to convolutions with stride 2
AUX_MAP = 17  # the minimum height and width of the map read by the auxiliary head, as given by images of 299 x 299


def inception_a(pool: int) -> tuple[Branch, ...]:
    """1x1, 5x5, two 3x3 in a row, pool: the paper's figure 5, except for its first branch.

    Args:
      pool: channels after the pool.

    Returns:
      Branches that give 224 + pool channels.

    Example:
      >>> [branch[-1].features for branch in inception_a(32)]
      [64, 64, 96, 32]
    """
    return (
        (Unit("branch1x1", 64),),
        (Unit("branch5x5_1", 48), Unit("branch5x5_2", 64, 5)),
        (Unit("branch3x3dbl_1", 64), Unit("branch3x3dbl_2", 96, 3), Unit("branch3x3dbl_3", 96, 3)),
        (AVG_POOL, Unit("branch_pool", pool)),
    )


def inception_b() -> tuple[Branch, ...]:
    """Halves the map, 35 to 17: 3x3, two 3x3 in a row, pool. Adds 480 channels to those of its input.

    Example:
      >>> len(inception_b())
      3
    """
    return (
        (Unit("branch3x3", 384, 3, strides=2),),
        (Unit("branch3x3dbl_1", 64), Unit("branch3x3dbl_2", 96, 3), Unit("branch3x3dbl_3", 96, 3, strides=2)),
        (HALVE,),
    )


def inception_c(width: int) -> tuple[Branch, ...]:
    """1x1, a 7x7 factorised into 1x7 and 7x1, two such in a row, pool: the paper's figure 6. Gives 768 channels.

    Args:
      width: channels between the factors.

    Example:
      >>> [unit.kernel for unit in inception_c(128)[1]]
      [1, (1, 7), (7, 1)]
    """
    wide, tall = (1, 7), (7, 1)
    return (
        (Unit("branch1x1", 192),),
        (Unit("branch7x7_1", width), Unit("branch7x7_2", width, wide), Unit("branch7x7_3", 192, tall)),
        (
            Unit("branch7x7dbl_1", width),
            Unit("branch7x7dbl_2", width, tall),
            Unit("branch7x7dbl_3", width, wide),
            Unit("branch7x7dbl_4", width, tall),
            Unit("branch7x7dbl_5", 192, wide),
        ),
        (AVG_POOL, Unit("branch_pool", 192)),
    )


def inception_d() -> tuple[Branch, ...]:
    """Halves the map, 17 to 8: 3x3, a factorised 7x7 and a 3x3, pool. Adds 512 channels to those of its input.

    Example:
      >>> len(inception_d())
      3
    """
    return (
        (Unit("branch3x3_1", 192), Unit("branch3x3_2", 320, 3, strides=2)),
        (
            Unit("branch7x7x3_1", 192),
            Unit("branch7x7x3_2", 192, (1, 7)),
            Unit("branch7x7x3_3", 192, (7, 1)),
            Unit("branch7x7x3_4", 192, 3, strides=2),
        ),
        (HALVE,),
    )


def inception_e() -> tuple[Branch, ...]:
    """1x1, 3x3 as 1x3 next to 3x1, the same after a 3x3, pool: the paper's figure 7. Gives 2048 channels.

    Example:
      >>> unit, fork = inception_e()[1]
      >>> unit.features, [branch[0].kernel for branch in fork]
      (384, [(1, 3), (3, 1)])
    """

    def beside(name):
        return ((Unit(f"{name}a", 384, (1, 3)),), (Unit(f"{name}b", 384, (3, 1)),))

    return (
        (Unit("branch1x1", 320),),
        (Unit("branch3x3_1", 384), beside("branch3x3_2")),
        (Unit("branch3x3dbl_1", 448), Unit("branch3x3dbl_2", 384, 3), beside("branch3x3dbl_3")),
        (AVG_POOL, Unit("branch_pool", 192)),
    )


BRANCHES = {
    "Mixed_5b": inception_a(32),
    "Mixed_5c": inception_a(64),
    "Mixed_5d": inception_a(64),
    "Mixed_6a": inception_b(),
    "Mixed_6b": inception_c(128),
    "Mixed_6c": inception_c(160),
    "Mixed_6d": inception_c(160),
    "Mixed_6e": inception_c(192),
    "Mixed_7a": inception_d(),
    "Mixed_7b": inception_e(),
    "Mixed_7c": inception_e(),
}


class InceptionV3Aux(nn.Module):
    """The auxiliary head of Inception v3: a pool, a 1x1 and a 5x5 convolution, the mean, one dense layer.

    Attributes:
      num_classes: number of logits.
      dtype: computation dtype.

    Example:
      >>> import jax
      >>> head, x = InceptionV3Aux(num_classes=10), jnp.zeros((2, 17, 17, 8))
      >>> variables = jax.eval_shape(head.init, jax.random.key(0), x)
      >>> jax.eval_shape(head.apply, variables, x).shape
      (2, 10)

    Reference:
      Szegedy et al. 2015, arXiv:1512.00567, section 4.
    """

    num_classes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps (B, H, W, C), at least 17 x 17, to logits (B, num_classes); ValueError for smaller maps."""
        if min(x.shape[1:3]) < AUX_MAP:
            raise ValueError(
                f"the auxiliary head of Inception v3 reads maps of at least {AUX_MAP} x {AUX_MAP}, which images of at least "
                f"299 x 299 give, and this map is {tuple(x.shape)}; to train on smaller images, set aux_logits=False"
            )
        x = avg_pool(x, (5, 5), (3, 3))
        x = inception_conv(0.1, self.dtype)(128, (1, 1), name="conv0")(x, train=train)
        x = inception_conv(0.01, self.dtype)(768, (5, 5), name="conv1")(x, train=train)
        x = global_avg_pool(x)
        init = nn.initializers.truncated_normal(0.001)
        return nn.Dense(self.num_classes, kernel_init=init, bias_init=torch_bias(768), dtype=self.dtype, name="fc")(x)


class InceptionV3(ImageClassifier):
    """Inception v3.

    Layers, padding, epsilon 0.001 and momentum are torchvision's. Kernels start as torchvision documents: normal,
    truncated at two deviations, with deviation 0.1, in the auxiliary head's 5x5 convolution 0.01 and in its dense layer
    0.001. (Later versions of its code truncate at -2 and 2, absolute, which has no effect, and never read the 0.01;
    these values are TF-slim's.)

    Attributes:
      num_classes, in_channels, dtype: as in ImageClassifier.
      aux_logits: an auxiliary head, which reads Mixed_6e. It runs only in training, and then needs images of at least
        299 x 299; its parameters always exist.
      transform_input: the images are normalised as torchvision does for ImageNet, but the network expects them in [-1,
        1] (as weights from TensorFlow do); see to_plus_minus_one.
      dropout: before the last layer.

    Example:
      >>> import jax
      >>> model, images = InceptionV3(num_classes=10), jnp.zeros((2, 96, 96, 3))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> jax.eval_shape(model.apply, variables, images).shape
      (2, 10)

    Reference:
      Szegedy et al. 2015, arXiv:1512.00567.
    """

    aux_logits: bool = True
    transform_input: bool = False
    dropout: float = 0.5

    min_size: ClassVar[int] = 75
    image_size: ClassVar[int] = 299

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array | Outputs:
        """Classifies images.

        Args:
          images: (B, H, W, in_channels), at least 75 x 75; with the auxiliary head in training at least 299 x 299.
          train: statistics of the batch, dropout (from the key `rngs={"dropout": key}`), the auxiliary head.

        Returns:
          Logits (B, num_classes); in training, with the auxiliary head, Outputs with its logits.

        Raises:
          ValueError, TypeError: as ImageClassifier.check, and for images too small for the auxiliary head.
        """
        x = self.check(images)
        if self.transform_input:
            x = to_plus_minus_one(x)
        x = self._stem(x, train)
        aux = ()
        for name, branches in BRANCHES.items():
            x = InceptionBranches(branches, inception_conv(0.1, self.dtype), name=name)(x, train=train)
            if name == "Mixed_6e" and self.aux_logits:
                aux = self._aux(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(global_avg_pool(x))
        init = nn.initializers.truncated_normal(0.1)
        logits = nn.Dense(self.num_classes, kernel_init=init, bias_init=torch_bias(2048), dtype=self.dtype, name="fc")(x)
        return Outputs(logits, aux) if train and self.aux_logits else logits

    def _stem(self, x, train):
        conv = inception_conv(0.1, self.dtype)
        x = conv(32, (3, 3), strides=2, name="Conv2d_1a_3x3")(x, train=train)
        x = conv(32, (3, 3), name="Conv2d_2a_3x3")(x, train=train)
        x = conv(64, (3, 3), padding=1, name="Conv2d_2b_3x3")(x, train=train)
        x = HALVE(x)
        x = conv(80, (1, 1), name="Conv2d_3b_1x1")(x, train=train)
        x = conv(192, (3, 3), name="Conv2d_4a_3x3")(x, train=train)
        return HALVE(x)

    def _aux(self, x, train):
        if not train and self.is_initializing():  # init creates all parameters, for training or not, on images of any size
            x = jnp.zeros((1, AUX_MAP, AUX_MAP, x.shape[-1]), x.dtype)
        elif not train:
            return ()
        return (InceptionV3Aux(self.num_classes, self.dtype, name="AuxLogits")(x, train=train),)


MODELS: dict[str, Callable[..., nn.Module]] = {"inception_v3": functools.partial(InceptionV3)}
