"""Pixel values of image batches, on the device: bytes to floats, normalisation, and random changes of colour."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.data.transforms.parts import draw_each, require_images, require_within
from seqjax.typing import AnyArray

LUMA = (0.299, 0.587, 0.114)  # the grey of red, green and blue by ITU-R BT.601


def to_float(images: AnyArray) -> jax.Array:
    """Bytes to floats in [0, 1].

    .. math:: y = x / 255

    Args:
      images: uint8, of any shape.

    Returns:
      float32, of the same shape.

    Raises:
      TypeError: a type other than uint8.

    Example:
      >>> to_float(jnp.uint8([0, 255])).tolist()
      [0.0, 1.0]
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8 to be divided by 255, not {images.dtype}")
    return jnp.asarray(images, jnp.float32) / 255


def normalize(images: jax.Array, mean: float | Sequence[float], std: float | Sequence[float]) -> jax.Array:
    """Subtracts the mean and divides by the standard deviation, channel by channel.

    .. math:: y_c = (x_c - \\mu_c) / \\sigma_c

    Args:
      images: (B, H, W, C), floats.
      mean: one number, or C numbers.
      std: one number, or C numbers, above 0.

    Returns:
      The images (B, H, W, C), of the same dtype.

    Raises:
      ValueError: neither one number nor C numbers, or a standard deviation that is not above 0.

    Example:
      >>> images = jnp.array([0.5, 1.0]).reshape(1, 1, 1, 2)
      >>> normalize(images, mean=(0.5, 0.5), std=0.25).ravel().tolist()
      [0.0, 2.0]
    """
    require_images(images)
    channels = images.shape[-1]
    centre, spread = np.asarray(mean, images.dtype), np.asarray(std, images.dtype)
    for name, value in (("mean", centre), ("std", spread)):
        if value.shape not in ((), (channels,)):
            raise ValueError(f"{name} must be one number or {channels} for images of {channels} channels, not {value}")
    if not np.all(spread > 0):
        raise ValueError(f"std must be above 0, not {spread}")
    return (images - centre.reshape(1, 1, 1, -1)) / spread.reshape(1, 1, 1, -1)


def colour_jitter(
    key: jax.Array,
    images: jax.Array,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Random brightness, contrast, saturation and hue of each image, in this order, each clipped to [0, 1].

    .. math:: y = f x + (1 - f)\\, b, \\quad f \\sim \\mathrm{U}(\\max(0, 1 - s),\\; 1 + s)

    with s the setting and b black for brightness, the image's mean grey for contrast, and each pixel's own grey for
    saturation. The hue is rotated by U(-hue, hue) of the full circle, keeping HSV's saturation and value. Grey is 0.299 R + 0.587 G + 0.114
    B, or the mean of the channels if there are not three. The four are drawn separately: enabling one does not change the others.

    Args:
      key: a random key.
      images: (B, H, W, C), floats in [0, 1].
      brightness: at least 0; 0 changes nothing.
      contrast: at least 0; 0 changes nothing.
      saturation: at least 0; 0 changes nothing. Needs three channels.
      hue: in [0, 0.5]; 0 changes nothing. Needs three channels.

    Returns:
      The images (B, H, W, C), of the same dtype.

    Raises:
      ValueError: a setting out of range, or saturation or hue for images that do not have three channels.

    Example:
      >>> images = jnp.full((2, 4, 4, 3), 0.5)
      >>> jittered = colour_jitter(jax.random.key(0), images, brightness=0.4)
      >>> bool(jnp.all((0.3 <= jittered) & (jittered <= 0.7)))
      True

    Source: Howard, "Some Improvements on Deep Convolutional Neural Network Based Image Classification" (2013),
    section 2.2, for brightness, contrast and colour.
    """
    require_images(images)
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        require_within(name, value, 0)
    require_within("hue", hue, 0, 0.5)
    channels = images.shape[-1]
    if channels != 3 and (saturation or hue):
        raise ValueError(f"saturation and hue need images of 3 channels (red, green, blue), not {channels}")
    drawn = draw_each(key, len(images), lambda k: jax.random.uniform(k, (4,), jnp.float32)).astype(images.dtype)

    def blended(images, base, setting, share):
        low = max(0.0, 1.0 - setting)
        factor = (low + (1 + setting - low) * share)[:, None, None, None]
        return jnp.clip(factor * images + (1 - factor) * base, 0, 1)

    if brightness:
        images = blended(images, jnp.zeros((1, 1, 1, 1), images.dtype), brightness, drawn[:, 0])
    if contrast:
        images = blended(images, jnp.mean(_grey(images), axis=(1, 2, 3), keepdims=True), contrast, drawn[:, 1])
    if saturation:
        images = blended(images, _grey(images), saturation, drawn[:, 2])
    if hue:
        images = _turn_hue(images, (hue * (2 * drawn[:, 3] - 1))[:, None, None])
    return images


def _grey(images):
    """(B, H, W, 1)."""
    if images.shape[-1] != 3:
        return jnp.mean(images, axis=-1, keepdims=True)
    red, green, blue = (images[..., n : n + 1] for n in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _turn_hue(images, turn):
    """RGB to HSV, the hue rotated by a fraction of the circle, and back to RGB."""
    red, green, blue = (images[..., n] for n in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sector = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sector = sector + 6 * turn

    def channel(offset):
        # The channel falls from the value by the whole chroma on the far side of the circle.
        place = jnp.mod(offset + sector, 6)
        return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)
