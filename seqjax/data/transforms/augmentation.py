"""Random changes to image batches inside the training step: on the device, vectorised, seeded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.data.transforms.colour import colour_jitter, normalize, to_float
from seqjax.data.transforms.geometry import (
    affine,
    horizontal_flip,
    pad_and_crop,
    random_resized_crop,
    small_affine,
)
from seqjax.data.transforms.parts import computed_once, draw_each, require_images, require_within

__all__ = [
    "Augmentation",
    "affine",
    "augment",
    "colour_jitter",
    "cutout",
    "horizontal_flip",
    "mixup",
    "normalize",
    "pad_and_crop",
    "random_resized_crop",
    "small_affine",
    "to_float",
]


class Augmentation(NamedTuple):
    """Settings of the augmentation of training images; the defaults do nothing. All fields are Python values."""

    crop_padding: int = 0  # pad_and_crop: pixels of zeros on each side; 4 for CIFAR
    flip: bool = False  # horizontal_flip with probability 1/2
    cutout: int = 0  # cutout: side of the square in pixels; 16 for CIFAR-10
    mixup: float = 0.0  # mixup: alpha of the beta distribution; 0.2 to 1
    jitter: float = 0.0  # colour_jitter: brightness, contrast and, if there are three channels, saturation
    affine_degrees: float = 0.0  # small_affine: maximum rotation to either side
    affine_translate: float = 0.0  # small_affine: maximum shift, as a share of height and width
    affine_scale: float = 0.0  # small_affine: maximum change of size
    resized_crop: bool = False  # random_resized_crop to the images' own size


# Each operation's number is folded into the key: new ones go at the end, so that old seeds keep their meaning.
STREAMS = {name: n for n, name in enumerate(("resized_crop", "pad_and_crop", "affine", "flip", "jitter", "cutout", "mixup"))}


def augment(key: jax.Array, images: jax.Array, targets: jax.Array, settings: Augmentation) -> tuple[jax.Array, jax.Array]:
    """Applies every enabled operation, in this order: resized crop, pad and crop, affine, flip; colour; cutout; mixup.

    Each draws from its own `fold_in` of the key, so that enabling one does not change the draws of the others. Image n's result depends on
    the key, n and image n alone, until mixup, which comes last, mixes it with another image.

    Args:
      key: a random key; a new one each step.
      images: (B, H, W, C), floats in [0, 1].
      targets: (B, ...), returned unchanged without mixup; with it (B, K), floats, a distribution per image.
      settings: an Augmentation; closed over or static under `jit`.

    Returns:
      The images (B, H, W, C) and the targets, both of the dtypes they came in.

    Raises:
      ValueError, TypeError: as the enabled operations.

    Example:
      >>> settings = Augmentation(crop_padding=1, flip=True, mixup=0.2)
      >>> images, targets = jnp.ones((4, 8, 8, 1)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> images, targets = augment(jax.random.key(0), images, targets, settings)
      >>> images.shape, targets.shape
      ((4, 8, 8, 1), (4, 10))
    """
    require_images(images)
    keys = {name: jax.random.fold_in(key, n) for name, n in STREAMS.items()}
    shift, zoom = settings.affine_translate, settings.affine_scale
    given = images

    def settled():
        """The images, computed once for the next operation, which may read each pixel many times."""
        return images if images is given else computed_once(images)

    if settings.resized_crop:
        images = random_resized_crop(keys["resized_crop"], images, images.shape[1:3])
    if settings.crop_padding:
        images = pad_and_crop(keys["pad_and_crop"], settled(), settings.crop_padding)
    if settings.affine_degrees or shift or zoom:
        images = small_affine(keys["affine"], settled(), settings.affine_degrees, shift, zoom)
    if settings.flip:
        images = horizontal_flip(keys["flip"], settled())
    if settings.jitter:
        saturation = settings.jitter if images.shape[-1] == 3 else 0.0
        images = colour_jitter(keys["jitter"], settled(), settings.jitter, settings.jitter, saturation)
    if settings.cutout:
        images = cutout(keys["cutout"], settled(), settings.cutout)
    if settings.mixup:
        images, targets = mixup(keys["mixup"], settled(), targets, settings.mixup)
    return images, targets


def cutout(key: jax.Array, images: jax.Array, size: int, fill: float = 0.0) -> jax.Array:
    """Covers one square of each image; a square that overlaps the border covers less.

    The square's rows are i, ..., i + size - 1 from i = r - floor(size / 2), with the row r uniform over the image;
    its columns likewise. The paper's images are normalised, so its squares hold the mean: to match it, pass the mean as `fill`, or apply
    this after normalisation.

    Args:
      key: a random key.
      images: (B, H, W, C), floats.
      size: side of the square, in pixels; 16 for CIFAR-10, 8 for CIFAR-100.
      fill: the value of the covered pixels.

    Returns:
      The images (B, H, W, C), of the same dtype.

    Raises:
      ValueError: a negative size.

    Example:
      >>> images = jnp.ones((1, 4, 4, 1))
      >>> cutout(jax.random.key(0), images, 1).sum().item()
      15.0

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017).
    """
    require_images(images)
    require_within("size", size, 0)

    def covered(key, length):
        begin = jax.random.randint(key, (), 0, length, jnp.int32) - size // 2
        along = jnp.arange(length, dtype=jnp.int32)
        return (begin <= along) & (along < begin + size)

    def square(key):
        row_key, column_key = jax.random.split(key)
        return covered(row_key, images.shape[1])[:, None, None] & covered(column_key, images.shape[2])[None, :, None]

    squares = draw_each(key, len(images), square)
    return jnp.where(squares, jnp.asarray(fill, images.dtype), images)


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Mixup: mixes each image and its target with those of another image of the batch.

    .. math:: \\tilde x_i = \\lambda x_i + (1 - \\lambda) x_{\\pi(i)}, \\quad
              \\tilde y_i = \\lambda y_i + (1 - \\lambda) y_{\\pi(i)}, \\quad \\lambda \\sim \\mathrm{Beta}(\\alpha, \\alpha)

    with one lambda for the whole batch, as in the paper's listing (figure 1), and a random permutation pi of the batch, which may map an
    image to itself.

    Args:
      key: a random key.
      images: (B, H, W, C), floats.
      targets: (B, K), floats: a distribution over K labels per image.
      alpha: above 0; the paper uses 0.1 to 0.4 for ImageNet and 1 for CIFAR.

    Returns:
      The mixed images (B, H, W, C) and targets (B, K), each of the dtype it came in.

    Raises:
      ValueError: an alpha that is not above 0, or targets of another shape.
      TypeError: targets that are not floats.

    Example:
      >>> images, targets = jnp.zeros((2, 4, 4, 1)), jnp.eye(2)
      >>> images, targets = mixup(jax.random.key(0), images, targets, alpha=1.0)
      >>> targets.sum(axis=1).tolist()
      [1.0, 1.0]

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018).
    """
    require_images(images)
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be above 0, not {alpha}")
    if jnp.ndim(targets) != 2 or len(targets) != len(images):
        raise ValueError(
            f"targets must have shape ({len(images)}, labels) for images of shape {images.shape}, not "
            f"{jnp.shape(targets)}; jax.nn.one_hot makes them from labels"
        )
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise TypeError(f"targets must be float distributions over the labels, not {targets.dtype}")
    weight_key, order_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, dtype=jnp.float32)
    order = jax.random.permutation(order_key, len(images))

    def mix(values):
        share = weight.astype(values.dtype)
        return share * values + (1 - share) * jnp.take(values, order, axis=0, unique_indices=True, mode="clip")

    return mix(images), mix(targets)
