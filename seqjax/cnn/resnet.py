"""Residual networks: the two residual blocks, and ResNet-18 to ResNet-152."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers as init

from seqjax.cnn.base import ImageClassifier
from seqjax.cnn.blocks import Conv, ConvNormActivation, he_fan_out, torch_bias, torch_kernel
from seqjax.cnn.normalization import BatchNorm
from seqjax.cnn.pooling import global_avg_pool, max_pool
from seqjax.typing import Array


def pad_shortcut(x: Array, features: int, strides: int = 1) -> Array:
    """Computes option A, the shortcut without parameters: every strides-th position, then zeros for the new channels.

    Args:
      x: (B, ..., C).
      features: channels out, at least C; the zeros come after the old channels (fb.resnet.torch's order).
      strides: along every spatial axis.

    Returns:
      (B, ..., features).

    Raises:
      ValueError: there are fewer features than channels.

    Example:
      >>> pad_shortcut(jnp.array([[[1.0], [2.0], [3.0]]]), 2, strides=2).tolist()
      [[[1.0, 0.0], [3.0, 0.0]]]

    Reference:
      He, Zhang, Ren and Sun 2015, arXiv:1512.03385, section 4.2.
    """
    new = features - x.shape[-1]
    if new < 0:
        raise ValueError(f"shortcut A can add channels but not drop them: x has {x.shape[-1]}, features is {features}")
    between = x.ndim - 2
    x = x[(slice(None), *[slice(None, None, strides)] * between)]
    return jnp.pad(x, [(0, 0)] * (between + 1) + [(0, new)])


class ResidualBlock(nn.Module):
    r"""The base of BasicBlock and Bottleneck: a branch of convolutions F, added to a shortcut S of its input.

    .. math::
       y &= \mathrm{relu}(S(x) + F(x))            & F &= \dots \mathrm{relu} \circ \mathrm{BN} \circ W_1 \\
       y &= S(x) + F(x) \quad (\text{preactivation}) & F &= \dots W_1 \circ \mathrm{relu} \circ \mathrm{BN}

    S is the identity if shapes allow, and otherwise given by `shortcut`. With preactivation the 1x1 convolution has no
    norm of its own and reads relu(BN(x)), as the branch does (it is then named `downsample`, not `downsample.0` and
    `.1`).

    Attributes:
      features: channels of the branch; the block gives `features * expansion`.
      strides: of the branch, along every axis; on the 3x3 convolution of a bottleneck ("v1.5").
      shortcut: used where shapes change: "B" is a 1x1 convolution, "A" is pad_shortcut.
      preactivation: the second form, He et al. 2016.
      zero_init: starts with F = 0: the last norm's scale is 0 or, with preactivation, the last convolution's kernel
        (after a zero scale relu would pass no gradient).
      dtype: computation dtype.
    """

    features: int
    strides: int = 1
    shortcut: str = "B"
    preactivation: bool = False
    zero_init: bool = False
    dtype: Any = None

    expansion: ClassVar[int] = 1

    def branch(self) -> list[tuple[int, int, int]]:
        """(channels out, kernel size, stride) of each convolution."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Gives (B, ..., features * expansion) for x (B, H, W, C), or (B, T, D) for sequences."""
        branch, y, entry = self.branch(), x, x
        for i, (features, size, strides) in enumerate(branch, start=1):
            last = i == len(branch)
            if self.preactivation:
                y = nn.relu(self._norm(f"bn{i}", train)(y))
                entry = y if i == 1 else entry
                y = self._conv(f"conv{i}", features, size, strides, x.ndim - 2, zero=last and self.zero_init)(y)
            else:
                y = self._conv(f"conv{i}", features, size, strides, x.ndim - 2)(y)
                y = self._norm(f"bn{i}", train, zero=last and self.zero_init)(y)
                y = y if last else nn.relu(y)
        y = y + self._shortcut(x, entry, train)
        return y if self.preactivation else nn.relu(y)

    def _shortcut(self, x, entry, train):
        features, axes = self.features * self.expansion, x.ndim - 2
        if self.shortcut not in ("A", "B"):
            raise ValueError(f'shortcut must be "A" (padded with zeros) or "B" (1x1 convolution), got {self.shortcut!r}')
        if self.strides == 1 and x.shape[-1] == features:
            return x
        if self.shortcut == "A":
            return pad_shortcut(x, features, self.strides)
        if self.preactivation:
            return self._conv("downsample", features, 1, self.strides, axes)(entry)
        project = ConvNormActivation(
            features, (1,) * axes, strides=self.strides, activation=None, dtype=self.dtype,
            conv_name="0", norm_name="1", name="downsample",
        )  # fmt: skip
        return project(x, train=train)

    def _conv(self, name, features, size, strides, axes, zero=False):
        return Conv(
            features, (size,) * axes, strides=(strides,) * axes, padding=size // 2, use_bias=False,
            kernel_init=init.zeros if zero else he_fan_out, dtype=self.dtype, name=name,
        )  # fmt: skip

    def _norm(self, name, train, zero=False):
        return BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            scale_init=init.zeros if zero else init.ones,
            dtype=self.dtype,
            name=name,
        )


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; attributes as in ResidualBlock.

    Example:
      >>> import jax
      >>> x = jnp.ones((2, 8, 8, 4))
      >>> y, variables = BasicBlock(4, zero_init=True).init_with_output(jax.random.key(0), x)
      >>> bool((y == x).all()), sorted(variables["params"])
      (True, ['bn1', 'bn2', 'conv1', 'conv2'])

    Reference:
      He, Zhang, Ren and Sun 2015, arXiv:1512.03385; preactivation: the same 2016, arXiv:1603.05027.
    """

    def branch(self) -> list[tuple[int, int, int]]:
        """(channels out, kernel size, stride) of each convolution."""
        return [(self.features, 3, self.strides), (self.features, 3, 1)]


class Bottleneck(ResidualBlock):
    """1x1 to fewer channels, 3x3, 1x1 to `4 * features`; attributes as in ResidualBlock.

    Example:
      >>> import jax
      >>> block = Bottleneck(2, strides=2, preactivation=True)
      >>> block.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 4)))[0].shape
      (2, 4, 4, 8)

    Reference:
      He, Zhang, Ren and Sun 2015, arXiv:1512.03385; preactivation: the same 2016, arXiv:1603.05027.
    """

    expansion: ClassVar[int] = 4

    def branch(self) -> list[tuple[int, int, int]]:
        """(channels out, kernel size, stride) of each convolution."""
        return [(self.features, 1, 1), (self.features, 3, self.strides), (self.features * self.expansion, 1, 1)]


class Stage(nn.Module):
    """Blocks in a row, named "0", "1", ...; the first has the stride.

    Attributes:
      make_block: called with `strides` and `name`, returns a block.
      depth: number of blocks.
      strides: of the first.

    Example:
      >>> import functools, jax
      >>> stage = Stage(functools.partial(BasicBlock, 4), depth=2, strides=2)
      >>> y, variables = stage.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
      >>> y.shape, sorted(variables["params"])
      ((1, 4, 4, 4), ['0', '1'])
    """

    make_block: Any
    depth: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        for i in range(self.depth):
            x = self.make_block(strides=1 if i else self.strides, name=str(i))(x, train=train)
        return x


class ResNet(ImageClassifier):
    r"""A residual network: a stem, stages of residual blocks (each stage twice the channels on half the map), mean, softmax layer.

    Padding, momentum, epsilon, initialisation and names are torchvision's (its ResNet is the "v1.5": a bottleneck strides in its 3x3).
    With preactivation the stem is only `conv1` and its pool, and norm and relu follow the last stage, under the name
    `bn_last`.

    Attributes:
      layers: the number of blocks of each stage.
      block: BasicBlock or Bottleneck.
      stem: "imagenet" is a 7x7 convolution of stride 2 and a 3x3 max pool of stride 2; "small" (for images of 28 to 64 pixels) is a 3x3
        convolution of stride 1.
      width: channels of the stem and of the first stage's blocks.
      shortcut: "B" or "A", as in ResidualBlock.
      preactivation: the second form of ResidualBlock.
      zero_init_residual: every block starts as its shortcut (Goyal et al. 2017, arXiv:1706.02677).

    Example:
      >>> import jax
      >>> model = ResNet(num_classes=10, in_channels=1, layers=(1, 1), stem="small", width=4)
      >>> logits, variables = model.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 1)))
      >>> logits.shape, sorted(variables["params"])
      ((2, 10), ['bn1', 'conv1', 'fc', 'layer1', 'layer2'])

    Reference:
      He, Zhang, Ren and Sun 2015, arXiv:1512.03385.
    """

    layers: Sequence[int] = (2, 2, 2, 2)
    block: type[ResidualBlock] = BasicBlock
    stem: str = "imagenet"
    width: int = 64
    shortcut: str = "B"
    preactivation: bool = False
    zero_init_residual: bool = False

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        norm = functools.partial(BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        x = self._conv1()(self.check(images))
        if not self.preactivation:
            x = nn.relu(norm(name="bn1")(x))
        if self.stem == "imagenet":
            x = max_pool(x, (3, 3), (2, 2), padding=1)
        for i, depth in enumerate(self.layers):
            block = functools.partial(
                self.block,
                self.width * 2**i,
                shortcut=self.shortcut,
                preactivation=self.preactivation,
                zero_init=self.zero_init_residual,
                dtype=self.dtype,
            )
            x = Stage(block, depth, strides=2 if i else 1, name=f"layer{i + 1}")(x, train=train)
        if self.preactivation:
            x = nn.relu(norm(name="bn_last")(x))
        x = global_avg_pool(x)
        fc = nn.Dense(self.num_classes, kernel_init=torch_kernel, bias_init=torch_bias(x.shape[-1]), dtype=self.dtype, name="fc")
        return fc(x)

    def _conv1(self):
        sizes = {"imagenet": (7, 2, 3), "small": (3, 1, 1)}
        if self.stem not in sizes:
            raise ValueError(f'stem must be "imagenet" or "small", got {self.stem!r}')
        size, strides, padding = sizes[self.stem]
        return Conv(
            self.width, (size, size), strides=strides, padding=padding, use_bias=False, kernel_init=he_fan_out,
            dtype=self.dtype, name="conv1",
        )  # fmt: skip


MODELS = {
    "resnet18": functools.partial(ResNet, block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, block=BasicBlock, layers=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, block=Bottleneck, layers=(3, 4, 6, 3)),
    "resnet101": functools.partial(ResNet, block=Bottleneck, layers=(3, 4, 23, 3)),
    "resnet152": functools.partial(ResNet, block=Bottleneck, layers=(3, 8, 36, 3)),
}
