"""Shared by all image classifiers: settings, the check of the input, the output in training."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from seqjax.typing import Array


class Outputs(NamedTuple):
    """The training output of a classifier with auxiliary heads; in evaluation it returns only the logits."""

    logits: Array  # (B, num_classes)
    aux: tuple[Array, ...]  # each (B, num_classes), the head nearest to the input first


class ImageClassifier(nn.Module):
    """The settings shared by every CNN of this package, and the check of its input.

    Attributes:
      num_classes: number of logits.
      in_channels: channels of the images, 3 for colour, 1 for grey.
      dtype: computation dtype; None uses the promoted dtype of images and parameters, which is float32 even for
        bfloat16 images. Parameters and statistics stay float32.
    """

    num_classes: int = 1000
    in_channels: int = 3
    dtype: Any = None

    min_size: ClassVar[int] = 1  # the minimum height and width of an image
    image_size: ClassVar[int] = 224  # the size used for published weights and results
    flatten: ClassVar[dict[str, int]] = {}  # path of a dense layer that reads a flattened feature map -> the map's channels

    def check(self, images: Array) -> Array:
        """Checks the images and returns them in the dtype of the computation.

        Args:
          images: (B, H, W, C) of a float type.

        Raises:
          ValueError: the shape is not (B, H, W, in_channels), the images are too small for the network, there is no
            class, or a dropout rate is outside 0 ... 1.
          TypeError: the images are not floats.

        Example:
          >>> images = jnp.zeros((2, 8, 8, 1))
          >>> ImageClassifier(in_channels=1, dtype=jnp.bfloat16).check(images).dtype
          dtype(bfloat16)
          >>> ImageClassifier().check(images)
          Traceback (most recent call last):
          ...
          ValueError: ImageClassifier takes images of shape (B, H, W, 3), got shape (2, 8, 8, 1): in_channels is 3, the images have 1
        """
        name, shape = type(self).__name__, tuple(images.shape)
        if self.num_classes < 1:
            raise ValueError(f"{name} needs num_classes of at least 1, got {self.num_classes}")
        for field in field_names(type(self)):
            if field.endswith("dropout") and not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} of {name} must be a rate in 0 ... 1, got {getattr(self, field)}")
        if len(shape) != 4:
            raise ValueError(f"{name} takes images of shape (B, H, W, {self.in_channels}), got shape {shape}")
        if shape[-1] != self.in_channels:
            raise ValueError(
                f"{name} takes images of shape (B, H, W, {self.in_channels}), got shape {shape}: "
                f"in_channels is {self.in_channels}, the images have {shape[-1]}"
            )
        if min(shape[1:3]) < self.min_size:
            raise ValueError(f"{name} takes images of at least {self.min_size} x {self.min_size}, got shape {shape}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"{name} takes images of a float type, got {images.dtype}; scale them to [0, 1] first")
        return images if self.dtype is None else images.astype(self.dtype)


def field_names(model: Any) -> list[str]:
    """Returns the options of a module's class.

    Example:
      >>> field_names(ImageClassifier)
      ['num_classes', 'in_channels', 'dtype']
    """
    return [field.name for field in dataclasses.fields(model) if field.name not in ("parent", "name")]
