"""LeNet-5: the modern form, and the form described in the paper of 1998."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import dtypes

from seqjax.cnn.base import ImageClassifier
from seqjax.cnn.blocks import Conv, torch_bias, torch_kernel
from seqjax.cnn.convolution import conv_general_dilated
from seqjax.cnn.pooling import avg_pool, max_pool
from seqjax.typing import Array

# Table I of the paper: the maps of S2 that each of the 16 maps of C3 reads.
C3_READS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

CODE_LENGTH = 84  # units of F6, and bits of a class's code


class LeNet5(ImageClassifier):
    """LeNet-5 in its common modern form: relu, max pooling, three dense layers.

    61,706 parameters for 10 classes and grey images of 32 x 32. Initialisation is torch's default, and the layers are called as in
    torch's tutorials (there is no LeNet in torchvision): conv1, conv2, fc1, fc2, fc3.

    Attributes:
      num_classes, in_channels, dtype: as in ImageClassifier; 10 classes and 1 channel by default.
        padding: zeros around the image. None follows the usual rule: 2 for images of 28 x 28 (MNIST), which
          makes them 32 x 32, and 0 for others. At other sizes fc1 has a different number of parameters.

    Example:
      >>> images = jnp.ones((2, 28, 28, 1))
      >>> LeNet5().init_with_output(jax.random.key(0), images)[0].shape
      (2, 10)

    Reference:
      LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition.
    """

    num_classes: int = 10
    in_channels: int = 1
    padding: int | None = None

    min_size: ClassVar[int] = 16
    image_size: ClassVar[int] = 32
    flatten: ClassVar[dict[str, int]] = {"fc1": 16}

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        x = self.check(images)
        # relu after the pool gives the same numbers as before it, for a quarter of the work
        x = nn.relu(max_pool(self._conv(x, "conv1", 6, _padding(x, self.padding)), (2, 2)))
        x = nn.relu(max_pool(self._conv(x, "conv2", 16, 0), (2, 2)))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(self._dense(x, "fc1", 120))
        x = nn.relu(self._dense(x, "fc2", 84))
        return self._dense(x, "fc3", self.num_classes)

    def _conv(self, x, name, features, padding):
        bias_init = torch_bias(25 * x.shape[-1])
        return Conv(
            features,
            (5, 5),
            padding=padding,
            kernel_init=torch_kernel,
            bias_init=bias_init,
            dtype=self.dtype,
            name=name,
        )(x)

    def _dense(self, x, name, features):
        bias_init = torch_bias(x.shape[-1])
        return nn.Dense(features, kernel_init=torch_kernel, bias_init=bias_init, dtype=self.dtype, name=name)(x)


class LeNet5Of1998(ImageClassifier):
    r"""LeNet-5 as the paper describes it: trainable subsampling, scaled tanh, C3 connected by a table.

    .. math:: f(a) = 1.7159 \tanh(2 a / 3) \text{ after each of C1, S2, C3, S4, C5, F6}

    60,000 trainable parameters up to F6 for grey images of 32 x 32: C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 10,164. All are drawn
    from U(-2.4 / F, 2.4 / F), where F is the number of inputs of a unit. The layers have the paper's names in lower
    case.

    Attributes:
      num_classes, in_channels, dtype: as in ImageClassifier; 10 classes and 1 channel by default.
      padding: as in LeNet5; the paper centres its 28 x 28 images in 32 x 32. At other sizes C5 still covers all of S4's map.
      output: "dense", a dense layer, as is common since; or "rbf", minus the squared distance of F6 to a fixed code of
        -1 and 1 for each class. The paper's codes are drawings of the characters; ours are those of `class_codes`.

    Example:
      >>> images = jnp.ones((2, 32, 32, 1))
      >>> logits, variables = LeNet5Of1998(output="rbf").init_with_output(jax.random.key(0), images)
      >>> sum(value.size for value in jax.tree.leaves(variables["params"]))
      60000

    Reference:
      LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition, section II-B and appendix A.
    """

    num_classes: int = 10
    in_channels: int = 1
    padding: int | None = None
    output: str = "dense"

    min_size: ClassVar[int] = 16
    image_size: ClassVar[int] = 32

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        x = self.check(images)
        x = squash(self._conv(x, "c1", 6, (5, 5), _padding(x, self.padding)))
        x = squash(TrainableSubsampling(dtype=self.dtype, name="s2")(x))
        x = squash(TableConv(C3_READS, (5, 5), dtype=self.dtype, name="c3")(x))
        x = squash(TrainableSubsampling(dtype=self.dtype, name="s4")(x))
        x = squash(self._conv(x, "c5", 120, x.shape[1:3], 0))
        x = squash(self._dense(x.reshape(x.shape[0], -1), "f6", CODE_LENGTH))
        if self.output == "dense":
            return self._dense(x, "output", self.num_classes)
        if self.output == "rbf":
            codes = class_codes(self.num_classes).astype(x.dtype)
            return -jnp.sum((x[:, None, :] - codes[None]) ** 2, axis=-1)
        raise ValueError(f'output must be "dense" or "rbf", got {self.output!r}')

    def _conv(self, x, name, features, kernel_size, padding):
        drawn = uniform_fan_in(kernel_size[0] * kernel_size[1] * x.shape[-1])
        return Conv(features, kernel_size, padding=padding, kernel_init=drawn, bias_init=drawn, dtype=self.dtype, name=name)(x)

    def _dense(self, x, name, features):
        drawn = uniform_fan_in(x.shape[-1])
        return nn.Dense(features, kernel_init=drawn, bias_init=drawn, dtype=self.dtype, name=name)(x)


class TrainableSubsampling(nn.Module):
    r"""Sums of 2 x 2 values, times one coefficient and plus one bias per map.

    .. math:: y_c = w_c \sum_{2 \times 2} x_c + b_c

    Attributes:
      dtype: computation dtype.

    Example:
      >>> layer = TrainableSubsampling()
      >>> params = {"coefficient": jnp.array([0.5]), "bias": jnp.array([1.0])}
      >>> layer.apply({"params": params}, jnp.ones((1, 2, 2, 1))).ravel().tolist()
      [3.0]
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1:]
        coefficient = self.param("coefficient", uniform_fan_in(4), channels)
        bias = self.param("bias", uniform_fan_in(4), channels)
        x, coefficient, bias = dtypes.promote_dtype(x, coefficient, bias, dtype=self.dtype)
        return 4 * avg_pool(x, (2, 2)) * coefficient.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)


class TableConv(nn.Module):
    """A convolution with weights only for the connections between maps that a table lists.

    Attributes:
      reads: for each map out, the maps in that it reads.
      kernel_size: (height, width).
      dtype: computation dtype.

    Its parameter `connections` is (height, width, number of connections), in the table's order.

    Example:
      >>> layer = TableConv(((0, 1), (1,)), (3, 3))
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 5, 5, 2)))
      >>> y.shape, variables["params"]["connections"].shape
      ((1, 3, 3, 2), (3, 3, 3))
    """

    reads: tuple[tuple[int, ...], ...]
    kernel_size: tuple[int, int]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        sources = np.concatenate([np.asarray(maps) for maps in self.reads])
        targets = np.repeat(np.arange(len(self.reads)), [len(maps) for maps in self.reads])
        height, width = self.kernel_size
        inputs = np.asarray([height * width * len(maps) for maps in self.reads])  # of a unit of each map
        weights = self.param("connections", uniform_fan_in(inputs[targets]), (height, width, len(sources)))
        bias = self.param("bias", uniform_fan_in(inputs), (len(self.reads),))
        x, weights, bias = dtypes.promote_dtype(x, weights, bias, dtype=self.dtype)
        kernel = jnp.zeros((height, width, x.shape[-1], len(self.reads)), weights.dtype)
        kernel = kernel.at[:, :, sources, targets].set(weights)
        y = conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + bias.reshape(1, 1, 1, -1)

    def multiply_adds(self, out: Array) -> int:
        """Counts one multiply-add per connection weight and output position."""
        return math.prod(self.kernel_size) * sum(map(len, self.reads)) * out.size // out.shape[-1]


def squash(a: Array) -> Array:
    r"""The paper's squashing function, which gives 1 at 1 and -1 at -1.

    .. math:: f(a) = 1.7159 \tanh(2 a / 3)

    Example:
      >>> squash(jnp.array([-1.0, 0.0, 1.0])).round(3).tolist()
      [-1.0, 0.0, 1.0]
    """
    return 1.7159 * jnp.tanh(a * (2 / 3))


def uniform_fan_in(inputs: int | np.ndarray) -> Callable[..., Array]:
    """Returns the paper's initializer: U(-2.4 / F, 2.4 / F).

    Args:
      inputs: F, the number of inputs of a unit; or one for each entry of the last axis.

    Example:
      >>> values = uniform_fan_in(24)(jax.random.key(0), (1000,))
      >>> bool(0.09 < abs(values).max() <= 0.1)
      True
    """
    bound = jnp.asarray(2.4 / np.asarray(inputs), jnp.float32)

    def initialise(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) * jnp.broadcast_to(bound, shape).astype(dtype)

    return initialise


def class_codes(num_classes: int) -> np.ndarray:
    """Returns a code of 84 values of -1 and 1 for each class; any two differ in 42 of them.

    They are the first rows of Paley's Hadamard matrix of order 84 (83 is a prime): no 84 codes can be further apart.

    Returns:
      (num_classes, 84), float32.

    Raises:
      ValueError: there are more than 84 classes.

    Example:
      >>> a, b = class_codes(2)
      >>> int((a != b).sum())
      42
    """
    if num_classes > CODE_LENGTH:
        raise ValueError(f'output="rbf" has codes for at most {CODE_LENGTH} classes, got num_classes={num_classes}')
    prime = CODE_LENGTH - 1
    squares = {i * i % prime for i in range(1, prime)}
    signs = np.array([1 if i in squares else -1 for i in range(prime)], np.float32)  # -1 at 0: the diagonal
    codes = np.ones((CODE_LENGTH, CODE_LENGTH), np.float32)
    codes[1:, 1:] = signs[(np.arange(prime)[:, None] - np.arange(prime)) % prime]
    return codes[:num_classes]


def _padding(images, padding):
    if padding is not None:
        return padding
    return 2 if images.shape[1:3] == (28, 28) else 0


MODELS = {"lenet5": LeNet5, "lenet5_1998": LeNet5Of1998}
