"""Random geometry of image batches, on the device: crops, flips, rotations, shifts and zooms."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from seqjax.data.transforms.parts import draw_each, require_images, require_within

ATTEMPTS = 10  # boxes drawn for a resized crop before falling back to the largest central one


def pad_and_crop(key: jax.Array, images: jax.Array, padding: int, mode: str = "constant") -> jax.Array:
    """Pads every side, then crops each image to its old size at a random position.

    .. math:: y_{i,j} = P_{i + t,\\; j + l}, \\quad t, l \\sim \\mathrm{U}\\{0, \\dots, 2p\\}

    where P is the image padded by p pixels.

    Args:
      key: a random key.
      images: (B, H, W, C), floats.
      padding: p, in pixels; 4 for CIFAR.
      mode: the padding: "constant" (zeros) or "reflect" (the image mirrored about its border pixels).

    Returns:
      The crops (B, H, W, C), of the images' dtype.

    Raises:
      ValueError: an unknown mode, a negative padding, or one too large to reflect.

    Example:
      >>> images = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(1)
      >>> pad_and_crop(jax.random.key(0), images, 1).sum().item()  # the middle stays inside
      1.0

    Source: He et al., "Deep Residual Learning for Image Recognition" (2015), section 4.2.
    """
    require_images(images)
    require_within("padding", padding, 0)
    if mode not in ("constant", "reflect"):
        raise ValueError(f"mode must be 'constant' or 'reflect', not {mode!r}")
    batch, height, width, channels = images.shape
    if mode == "reflect" and padding >= min(height, width):
        raise ValueError(f"padding by reflection must be less than both sides of the image: {padding}, {images.shape}")
    corners = draw_each(key, batch, lambda k: jax.random.randint(k, (2,), 0, 2 * padding + 1, jnp.int32))
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)

    def crop(image, corner):
        return lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def horizontal_flip(key: jax.Array, images: jax.Array, probability: float = 0.5) -> jax.Array:
    """Flips each image horizontally with the given probability.

    .. math:: y_{i,j} = x_{i,\\,W-1-j} \\text{ with probability } p, \\text{ otherwise } x_{i,j}

    Args:
      key: a random key.
      images: (B, H, W, C), floats.
      probability: p, in [0, 1].

    Returns:
      The images (B, H, W, C), of the same dtype.

    Raises:
      ValueError: a probability outside [0, 1].

    Example:
      >>> images = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
      >>> horizontal_flip(jax.random.key(0), images, probability=1.0).ravel().tolist()
      [3.0, 2.0, 1.0]

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks" (2012), section 4.1.
    """
    require_images(images)
    require_within("probability", probability, 0, 1)
    flips = draw_each(key, len(images), lambda k: jax.random.uniform(k, dtype=jnp.float32) < probability)
    return jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    size: int | Sequence[int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Crops a box of random area, aspect ratio and position, and resizes it by bilinear interpolation.

    .. math:: a = H W\\, \\mathrm{U}(scale), \\quad \\log r \\sim \\mathrm{U}(\\log ratio), \\quad
              w = \\lfloor \\sqrt{a r} \\rceil, \\quad h = \\lfloor \\sqrt{a / r} \\rceil

    The position is uniform among those where the box lies inside the image. The first of ten boxes that fits is taken; if none does, the
    largest central box with a ratio in range. Pixel centres lie at half integers, and nothing outside the box is read: the result is that
    of cropping first and resizing afterwards.

    Where a side shrinks, the interpolation is antialiased: the triangle filter is as wide as the step. If no side of the images is longer
    than the result's, no box ever shrinks, and the four neighbours are gathered instead, which gives the same numbers several times faster.

    Args:
      key: a random key.
      images: (B, H, W, C), floats.
      size: size of the result, one number or (S, R).
      scale: minimum and maximum share of the image's area.
      ratio: minimum and maximum width / height.

    Returns:
      The resized crops (B, S, R, C), of the images' dtype.

    Raises:
      ValueError: a size below 1, or a range that is not 0 < low <= high (for the scale, <= 1).

    Example:
      >>> images = jnp.ones((2, 8, 8, 3))
      >>> random_resized_crop(jax.random.key(0), images, (4, 6)).shape
      (2, 4, 6, 3)

    Source: Szegedy et al., "Going Deeper with Convolutions" (2015), section 6.
    """
    require_images(images)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"size must be one or two numbers of at least 1, not {sides}")
    for name, (low, high), most in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
        if not 0 < low <= high <= most:
            raise ValueError(f"{name} must be (low, high) with 0 < low <= high <= {most}, not {(low, high)}")
    batch, height, width, _ = images.shape
    boxes = draw_each(key, batch, lambda k: _draw_box(k, height, width, scale, ratio))
    shrinks = sides[0] < height or sides[1] < width
    return jax.vmap(_resize_antialiased if shrinks else _resize_gathered, (0, 0, None))(images, boxes, sides)


def _draw_box(key, height, width, scale, ratio):
    """(top, left, height, width) of a box in whole pixels, float32."""
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    uniform = jax.random.uniform
    area = height * width * uniform(area_key, (ATTEMPTS,), jnp.float32, *scale)
    shape = jnp.exp(uniform(ratio_key, (ATTEMPTS,), jnp.float32, math.log(ratio[0]), math.log(ratio[1])))
    h, w = jnp.round(jnp.sqrt(area / shape)), jnp.round(jnp.sqrt(area * shape))
    fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
    first = jnp.argmax(fits)
    middle_h, middle_w = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    extent = jnp.where(fits[first], jnp.stack([h[first], w[first]]), jnp.float32([middle_h, middle_w]))
    room = jnp.float32([height, width]) - extent
    place = jnp.where(fits[first], uniform(place_key, (2,), jnp.float32), 0.5)
    return jnp.concatenate([jnp.minimum(jnp.floor(place * (room + 1)), room), extent])


def _positions(extent, size):
    """Positions of the centres of `size` pixels along a side of `extent` pixels, relative to its first centre."""
    return (jnp.arange(size, dtype=jnp.float32) + 0.5) * (extent / size) - 0.5


def _resize_gathered(image, box, size):
    def neighbours(start, extent, size):
        at = jnp.clip(_positions(extent, size), 0, extent - 1)
        low = jnp.floor(at)
        high = jnp.minimum(low + 1, extent - 1)
        return (start + low).astype(jnp.int32), (start + high).astype(jnp.int32), (at - low).astype(image.dtype)

    top, bottom, down = neighbours(box[0], box[2], size[0])
    left, right, along = neighbours(box[1], box[3], size[1])
    return _bilinear(image, *(axis[:, None] for axis in (top, bottom, down)), *(axis[None] for axis in (left, right, along)))


def _resize_antialiased(image, box, size):
    def weights(start, extent, length, size):
        source = jnp.arange(length, dtype=jnp.float32) - start
        distance = jnp.abs(_positions(extent, size)[:, None] - source[None]) / jnp.maximum(1, extent / size)
        weight = jnp.maximum(0, 1 - distance) * ((source >= 0) & (source < extent))[None]
        return (weight / jnp.sum(weight, axis=1, keepdims=True)).astype(image.dtype)

    down = weights(box[0], box[2], image.shape[0], size[0])
    along = weights(box[1], box[3], image.shape[1], size[1])
    rows = jnp.einsum("sh,hwc->swc", down, image, precision=lax.Precision.HIGHEST)
    return jnp.einsum("rw,swc->src", along, rows, precision=lax.Precision.HIGHEST)


def _bilinear(image, top, bottom, down, left, right, along):
    """The four neighbours of each pixel: row and column indices inside the image, and the interpolation weights."""

    def pixels(row, column):
        return image.at[row, column].get(mode="promise_in_bounds")

    down, along = down[..., None], along[..., None]
    above = (1 - along) * pixels(top, left) + along * pixels(top, right)
    below = (1 - along) * pixels(bottom, left) + along * pixels(bottom, right)
    return (1 - down) * above + down * below


def small_affine(key: jax.Array, images: jax.Array, degrees: float, translate: float, scale: float, shear: float = 0.0) -> jax.Array:
    """A small random rotation, shift, zoom and shear of each image about its centre; suits digits.

    `affine` with each image's angle, shift, zoom and shear drawn from

    .. math:: \\theta \\sim \\mathrm{U}(-degrees, degrees), \\quad t \\sim \\mathrm{U}(-translate, translate)\\,(H, W),
              \\quad z \\sim \\mathrm{U}(1 - scale, 1 + scale), \\quad \\phi \\sim \\mathrm{U}(-shear, shear)

    Args:
      key: a random key.
      images: (B, H, W, C), floats.
      degrees: maximum rotation to either side.
      translate: maximum shift, as a share of height and width.
      scale: maximum change of size; less than 1.
      shear: maximum shear, in degrees; less than 90.

    Returns:
      The moved images (B, H, W, C), of the same dtype; zero outside the old ones.

    Raises:
      ValueError: a negative limit, a scale of 1 or more, a shear of 90 or more.

    Example:
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> small_affine(jax.random.key(0), images, degrees=10, translate=0.1, scale=0.1).shape
      (2, 8, 8, 1)

    Source: Simard et al., "Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis"
    (2003), section 2, for affine distortions of digits.
    """
    require_images(images)
    for name, limit, bound in (
        ("degrees", degrees, math.inf),
        ("translate", translate, math.inf),
        ("scale", scale, 1),
        ("shear", shear, 90),
    ):
        if not 0 <= limit < bound:
            raise ValueError(f"{name} must be at least 0 and less than {bound}, not {limit}")
    batch, height, width, _ = images.shape
    drawn = draw_each(key, batch, lambda k: jax.random.uniform(k, (5,), jnp.float32, -1, 1))
    shift = drawn[:, 1:3] * jnp.float32([[translate * height, translate * width]])
    return affine(images, degrees * drawn[:, 0], shift, 1 + scale * drawn[:, 3], shear * drawn[:, 4])


def affine(images: jax.Array, degrees: jax.Array, shift: jax.Array, zoom: jax.Array, shear: jax.Array) -> jax.Array:
    """Rotates, shifts, zooms and shears each image about its centre, with bilinear interpolation.

    The pixel at p (row, column; relative to the centre) moves to q:

    .. math:: q = z \\begin{pmatrix} \\cos\\theta & -\\sin\\theta \\\\ \\sin\\theta & \\cos\\theta \\end{pmatrix}
              \\begin{pmatrix} 1 & 0 \\\\ \\tan\\phi & 1 \\end{pmatrix} p + t

    Args:
      images: (B, H, W, C), floats; zero outside.
      degrees: (B,), the angle theta, counter-clockwise as seen by the viewer.
      shift: (B, 2), t in pixels, down and to the right.
      zoom: (B,), z; above 1 enlarges.
      shear: (B,), the angle phi in degrees; a positive angle moves the lower rows to the right.

    Returns:
      The moved images (B, H, W, C), of the same dtype.

    Raises:
      ValueError: parameters that do not match the batch.

    Example:
      >>> images = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
      >>> none = jnp.zeros(1)
      >>> affine(images, none + 90, jnp.zeros((1, 2)), none + 1, none)[0, :, :, 0].round(4).tolist()
      [[2.0, 4.0], [1.0, 3.0]]
    """
    require_images(images)
    batch = len(images)
    for name, value, shape in (
        ("degrees", degrees, (batch,)),
        ("shift", shift, (batch, 2)),
        ("zoom", zoom, (batch,)),
        ("shear", shear, (batch,)),
    ):
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape} for images of shape {images.shape}, not {value.shape}")
    return jax.vmap(_affine)(images, degrees, shift, zoom, shear)


def _affine(image, degrees, shift, zoom, shear):
    """One image: for each pixel q of the result, the value at p in the input."""
    height, width, _ = image.shape
    angle, slope = jnp.deg2rad(degrees), jnp.tan(jnp.deg2rad(shear))
    down = jnp.arange(height, dtype=jnp.float32)[:, None] - ((height - 1) / 2 + shift[0])
    along = jnp.arange(width, dtype=jnp.float32)[None] - ((width - 1) / 2 + shift[1])
    row = (jnp.cos(angle) * down + jnp.sin(angle) * along) / zoom
    column = (jnp.cos(angle) * along - jnp.sin(angle) * down) / zoom - slope * row

    def neighbours(at, length):
        # One pixel of padding holds the zeros outside; positions further out read it too.
        at = jnp.clip(at + (length + 1) / 2, 0, length + 1)
        low = jnp.minimum(jnp.floor(at), length)
        return low.astype(jnp.int32), low.astype(jnp.int32) + 1, (at - low).astype(image.dtype)

    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    return _bilinear(padded, *neighbours(row, height), *neighbours(column, width))
