"""The residual networks for CIFAR-10: ResNet-20, 32, 44, 56 and 110, that is 6 n + 2 layers with n blocks in each of three stages."""

import functools
from collections.abc import Sequence
from typing import ClassVar

from seqjax.cnn.resnet import ResNet


class CIFARResNet(ResNet):
    """A ResNet of basic blocks with 16, 32 and 64 channels on maps of 32, 16 and 8 pixels.

    The reference is the paper: a 3x3 stem, shortcuts without parameters ("A"; "B" puts 1x1 convolutions with norms in
    the two blocks where shapes change), no dropout. Padding, momentum, epsilon and names are those of torchvision's
    ResNet, whose fan-out form of He's initialisation is used (that of fb.resnet.torch, which reproduced the paper).
    Attributes as in ResNet, with other defaults.

    Example:
      >>> import jax
      >>> model = CIFARResNet()
      >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.ones((1, 32, 32, 3)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
      269722
      >>> CIFARResNet(layers=(9, 9, 9), shortcut="B").num_classes
      10

    Reference:
      He, Zhang, Ren and Sun 2015, arXiv:1512.03385, section 4.2.
    """

    num_classes: int = 10
    layers: Sequence[int] = (3, 3, 3)
    stem: str = "small"
    width: int = 16
    shortcut: str = "A"

    image_size: ClassVar[int] = 32


MODELS = {f"resnet{6 * n + 2}_cifar": functools.partial(CIFARResNet, layers=(n, n, n)) for n in (3, 5, 7, 9, 18)}
