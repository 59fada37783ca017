"""GoogLeNet (Inception v1): nine sets of branches and two auxiliary heads."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from seqjax.cnn.base import ImageClassifier, Outputs
from seqjax.cnn.blocks import ConvNormActivation, torch_bias
from seqjax.cnn.inception_blocks import MAX_POOL, InceptionBranches, Unit, inception_conv, to_plus_minus_one
from seqjax.cnn.pooling import adaptive_avg_pool, global_avg_pool, max_pool
from seqjax.typing import Array

AUX_WEIGHT = 0.3  # weight of each auxiliary head's loss, relative to that of the logits (section 5 of the paper)

# Channels as in the columns of the paper's table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
CHANNELS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
HEADS = {"4a": "aux1", "4d": "aux2"}  # the block that a head reads -> the head
POOL_AFTER = {"3b": 3, "4e": 2}  # the block -> width of the pool after it


class Inception(nn.Module):
    """The branches of GoogLeNet: 1x1, 3x3 and 5x5 convolutions and a pool in parallel, the larger ones after a 1x1.

    Attributes:
      one, reduce3, three, reduce5, five, pool: channels, in the order of the paper's table.
      kernel_5x5: False makes the 5x5 convolution a 3x3, as torchvision does.
      conv: as in InceptionBranches.

    Example:
      >>> import jax
      >>> block = Inception(4, 2, 8, 2, 4, 4)
      >>> block.init_with_output(jax.random.key(0), jnp.ones((2, 6, 6, 3)))[0].shape
      (2, 6, 6, 20)

    Reference:
      Szegedy et al. 2014, arXiv:1409.4842, figure 2b.
    """

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int
    kernel_5x5: bool = False
    conv: Callable[..., nn.Module] = ConvNormActivation

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps (B, H, W, C) to (B, H, W, one + three + five + pool)."""

        def branch(name, *steps):
            return InceptionBranches((steps,), self.conv, name=name)(x, train=train)

        outputs = [
            self.conv(self.one, (1, 1), name="branch1")(x, train=train),
            branch("branch2", Unit("0", self.reduce3), Unit("1", self.three, 3)),
            branch("branch3", Unit("0", self.reduce5), Unit("1", self.five, 5 if self.kernel_5x5 else 3)),
            branch("branch4", MAX_POOL, Unit("1", self.pool)),
        ]
        return jnp.concatenate(outputs, axis=-1)


class GoogLeNetAux(nn.Module):
    """The auxiliary head of GoogLeNet: the map pooled to 4x4, a 1x1 convolution, two dense layers.

    Attributes:
      num_classes: number of logits.
      dropout: before the last layer.
      conv: as in InceptionBranches.
      kernel_init: initializer of the dense layers.
      dtype: computation dtype.

    Example:
      >>> import jax
      >>> head = GoogLeNetAux(num_classes=10)
      >>> head.init_with_output(jax.random.key(0), jnp.ones((2, 14, 14, 8)))[0].shape
      (2, 10)

    Reference:
      Szegedy et al. 2014, arXiv:1409.4842, section 5.
    """

    num_classes: int
    dropout: float = 0.7
    conv: Callable[..., nn.Module] = ConvNormActivation
    kernel_init: Callable[..., Array] = nn.initializers.truncated_normal(0.01)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps (B, H, W, C) to logits (B, num_classes)."""
        dense = functools.partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        x = adaptive_avg_pool(x, (4, 4))
        x = self.conv(128, (1, 1), name="conv")(x, train=train)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(1024, bias_init=torch_bias(2048), name="fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return dense(self.num_classes, bias_init=torch_bias(1024), name="fc2")(x)


class GoogLeNet(ImageClassifier):
    """GoogLeNet (Inception v1) with batch norm.

    Layers, padding, epsilon 0.001, momentum and initial values (normal with deviation 0.01, truncated at two
    deviations; later versions of its code truncate at -2 and 2, absolute, which has no effect) are torchvision's. So is
    the kernel of the branch that the paper calls 5x5: in torchvision and in the published weights it is 3x3;
    `kernel_5x5=True` gives the paper's. The paper uses local response normalisation instead of batch norm.

    Attributes:
      num_classes, in_channels, dtype: as in ImageClassifier.
      aux_logits: two auxiliary heads, which read the blocks 4a and 4d. They run only in training; their parameters
        always exist. Each one's loss has weight AUX_WEIGHT.
      kernel_5x5: 5x5 convolutions in the third branch, as in the paper.
      transform_input: the images are normalised as torchvision does for ImageNet, but the network expects them in [-1,
        1] (as weights from TensorFlow do); see to_plus_minus_one.
      dropout: before the last layer.
      aux_dropout: before the last layer of each auxiliary head.

    Example:
      >>> import jax
      >>> model, images = GoogLeNet(num_classes=10), jnp.zeros((2, 32, 32, 3))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> jax.eval_shape(model.apply, variables, images).shape
      (2, 10)
      >>> def training(variables, images):
      ...     return model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])
      >>> outputs, _ = jax.eval_shape(training, variables, images)
      >>> outputs.logits.shape, [aux.shape for aux in outputs.aux]
      ((2, 10), [(2, 10), (2, 10)])

    Reference:
      Szegedy et al. 2014, arXiv:1409.4842.
    """

    aux_logits: bool = True
    kernel_5x5: bool = False
    transform_input: bool = False
    dropout: float = 0.2
    aux_dropout: float = 0.7

    min_size: ClassVar[int] = 15
    flatten: ClassVar[dict[str, int]] = {"aux1.fc1": 128, "aux2.fc1": 128}

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array | Outputs:
        """Classifies images.

        Args:
          images: (B, H, W, in_channels), at least 15 x 15.
          train: statistics of the batch, dropout (from the key `rngs={"dropout": key}`), auxiliary heads.

        Returns:
          Logits (B, num_classes); in training, with auxiliary heads, Outputs with those of the heads after 4a and 4d.

        Raises:
          ValueError, TypeError: as ImageClassifier.check.
        """
        x = self.check(images)
        if self.transform_input:
            x = to_plus_minus_one(x)
        conv = inception_conv(0.01, self.dtype)
        head = functools.partial(GoogLeNetAux, self.num_classes, self.aux_dropout, conv, dtype=self.dtype)

        x = conv(64, (7, 7), strides=2, padding=3, name="conv1")(x, train=train)
        x = max_pool(x, (3, 3), (2, 2), ceil=True)
        x = conv(64, (1, 1), name="conv2")(x, train=train)
        x = conv(192, (3, 3), padding=1, name="conv3")(x, train=train)
        x = max_pool(x, (3, 3), (2, 2), ceil=True)

        aux = []
        for name, channels in CHANNELS.items():
            x = Inception(*channels, kernel_5x5=self.kernel_5x5, conv=conv, name=f"inception{name}")(x, train=train)
            # init creates all parameters, for training or not.
            if name in HEADS and self.aux_logits and (train or self.is_initializing()):
                aux.append(head(name=HEADS[name])(x, train=train))
            if name in POOL_AFTER:
                x = max_pool(x, (POOL_AFTER[name],) * 2, (2, 2), ceil=True)

        x = nn.Dropout(self.dropout, deterministic=not train)(global_avg_pool(x))
        last = functools.partial(nn.Dense, kernel_init=nn.initializers.truncated_normal(0.01), bias_init=torch_bias(1024))
        logits = last(self.num_classes, dtype=self.dtype, name="fc")(x)
        return Outputs(logits, tuple(aux)) if train and self.aux_logits else logits


MODELS: dict[str, Callable[..., nn.Module]] = {"googlenet": functools.partial(GoogLeNet)}
