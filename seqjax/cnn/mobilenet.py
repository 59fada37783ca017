"""MobileNet v1 and v2."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax.nn import initializers as init

from seqjax.cnn.base import ImageClassifier
from seqjax.cnn.blocks import ConvNormActivation, he_fan_out
from seqjax.cnn.depthwise import DepthwiseSeparable, InvertedResidual
from seqjax.cnn.pooling import global_avg_pool
from seqjax.typing import Array

V1_STEM = 32
V1_BLOCKS = (  # (channels out, stride) of the depthwise separable blocks, Howard et al. 2017, table 1
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip

V2_STEM, V2_LAST = 32, 1280
V2_STAGES = (  # (expansion, channels out, blocks, stride of the first), Sandler et al. 2018, table 2
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Rounds `channels` to a multiple of `divisor` (halves up), at least one divisor and 90 % of `channels`.

    Example:
      >>> [make_divisible(channels) for channels in (3, 12, 18, 19.2)]
      [8, 16, 24, 24]
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class MobileNetV1(ImageClassifier):
    r"""A 3x3 convolution and 13 depthwise separable blocks, mean, softmax layer; relu6 throughout.

    The reference is Keras (keras.applications.MobileNet, which has the TensorFlow authors' weights): epsilon 1e-3, momentum 0.99, Glorot's
    uniform initialisation, dropout 1e-3 before the last layer, channels `int(width * channels)`. Padding is
    TensorFlow's SAME, so at stride 2 an even map is padded only at its end. Keras does this for an odd map too, where
    SAME pads both ends: the two agree on sizes that are multiples of 32 (the paper's resolutions 128, 160, 192 and
    224).

    Attributes:
      width: the paper's width multiplier; its resolution multiplier is the size of the images.
      dropout: the fraction of the last features that is dropped in training.

    Example:
      >>> import jax
      >>> model = MobileNetV1(width=0.25)
      >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.ones((1, 32, 32, 3)))["params"]
      >>> shapes["features"]["13"]["pointwise"]["conv"]["kernel"].shape
      (1, 1, 256, 256)

    Reference:
      Howard et al. 2017, arXiv:1704.04861.
    """

    width: float = 1.0
    dropout: float = 1e-3

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        x = self.check(images)
        if int(V1_STEM * self.width) < 1:
            raise ValueError(f"width={self.width} leaves no channels in the first layer, which has {V1_STEM} at width 1")
        x = _FeaturesV1(self.width, self.dtype, name="features")(x, train=train)
        head = _Classifier(self.num_classes, self.dropout, init.glorot_uniform(), self.dtype, name="classifier")
        return head(global_avg_pool(x), train=train)


class _FeaturesV1(nn.Module):
    width: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shared = {"momentum": 0.99, "epsilon": 1e-3, "kernel_init": init.glorot_uniform(), "dtype": self.dtype}
        stem = ConvNormActivation(int(V1_STEM * self.width), (3, 3), strides=2, padding="SAME", activation=nn.relu6, name="0", **shared)
        x = stem(x, train=train)
        for i, (channels, strides) in enumerate(V1_BLOCKS, start=1):
            block = DepthwiseSeparable(int(channels * self.width), strides=strides, name=str(i), **shared)
            x = block(x, train=train)
        return x


class MobileNetV2(ImageClassifier):
    r"""A 3x3 convolution, 17 inverted residuals, a 1x1 convolution, mean, softmax layer.

    Padding, momentum, epsilon, initialisation, dropout, names and the rounding of channels are torchvision's.

    Attributes:
      width_mult: the width multiplier: channels are `make_divisible(width_mult * channels)`; the last 1280 never fewer.
      dropout: the fraction of the last features that is dropped in training.

    Example:
      >>> import jax
      >>> model = MobileNetV2(width_mult=0.5)
      >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.ones((1, 32, 32, 3)))["params"]
      >>> shapes["features"]["18"]["0"]["kernel"].shape
      (1, 1, 160, 1280)

    Reference:
      Sandler et al. 2018, arXiv:1801.04381.
    """

    width_mult: float = 1.0
    dropout: float = 0.2

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        x = self.check(images)
        if self.width_mult <= 0:
            raise ValueError(f"width_mult must be more than 0, got {self.width_mult}")
        x = _FeaturesV2(self.width_mult, self.dtype, name="features")(x, train=train)
        head = _Classifier(self.num_classes, self.dropout, init.normal(0.01), self.dtype, name="classifier")
        return head(global_avg_pool(x), train=train)


class _FeaturesV2(nn.Module):
    width_mult: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        def plain(channels, size, strides, name):
            return ConvNormActivation(
                channels, (size, size), strides=strides, padding=size // 2, activation=nn.relu6, kernel_init=he_fan_out,
                dtype=self.dtype, conv_name="0", norm_name="1", name=name,
            )  # fmt: skip

        x = plain(make_divisible(V2_STEM * self.width_mult), 3, 2, "0")(x, train=train)
        number = 1
        for expansion, channels, blocks, strides in V2_STAGES:
            for i in range(blocks):
                features = make_divisible(channels * self.width_mult)
                block = InvertedResidual(features, expansion, 1 if i else strides, dtype=self.dtype, name=str(number))
                x = block(x, train=train)
                number += 1
        return plain(make_divisible(V2_LAST * max(1.0, self.width_mult)), 1, 1, str(number))(x, train=train)


class _Classifier(nn.Module):
    """Dropout, then the softmax layer, named "1" as in torchvision."""

    num_classes: int
    dropout: float
    kernel_init: Callable[..., Array]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype, name="1")(x)


MODELS = {"mobilenet_v1": MobileNetV1, "mobilenet_v2": MobileNetV2}
