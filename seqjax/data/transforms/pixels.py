"""Image files to arrays of one shape, with Pillow."""

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from seqjax.data.readers.folders import dead_link
from seqjax.errors import UserError, missing

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FEW, MANY = 4, 16  # grey levels: an image that keeps fewer than FEW of at least MANY has lost its content


def read_image(path: str | os.PathLike, size: int, channels: int) -> np.ndarray:
    """Reads one image file in the form that models take.

    The image is turned upright by its EXIF orientation; a 16-bit grey image keeps its high bytes, an animation its first frame;
    transparency is dropped, as by most readers of training images. The largest central square is then scaled to `size` (bilinear, with
    antialiasing), which is scaling the shorter side and cropping the centre, without rounding in between.

    Args:
      path: a file of any format that Pillow reads.
      size: height and width of the result; 0 keeps the image's own.
      channels: 1 (grey), 3 (RGB) or 4 (RGBA).

    Returns:
      uint8 (size, size, channels), values 0..255.

    Raises:
      UserError: a missing file, a file that is not a valid image, an image of floats, an unsupported number of channels, or Pillow is not
        installed.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
      ...     Image.new("L", (30, 20), 7).save(file.name)
      ...     image = read_image(file.name, size=8, channels=3)
      >>> image.shape, image.dtype.name, int(image.max())
      ((8, 8, 3), 'uint8', 7)
    """
    return _of_file(path, lambda file: decode(file, os.fspath(path), size, channels))


def examine_image(path: str | os.PathLike, channels: int) -> bool:
    """Checks that `read_image` can read a file and keeps the image's content.

    An image that varies only in its transparency (black on transparent) becomes a single colour, and so does a 16-bit image with
    small values, since only the high bytes are kept. A network would learn nothing from them.

    Args:
      path: as in `read_image`.
      channels: 1, 3 or 4; transparency is kept with 4.

    Returns:
      Whether transparency is dropped.

    Raises:
      UserError: as `read_image`; or nearly all of the image's content would be lost.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
      ...     Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(file.name)
      ...     examine_image(file.name, channels=1)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: ... has 16 bits a channel, of which the high 8 are kept, and they hardly differ; stretch ...
    """
    what = os.fspath(path)
    return _of_file(path, lambda file: _opened(file, what, lambda image: _examined(image, file, MODES[channels], what)))


def _of_file(path: str | os.PathLike, use: Callable[[BinaryIO], Any]) -> Any:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return use(file)
    except FileNotFoundError:
        fault = dead_link(path) or f"{path} does not exist; check the path"
    except IsADirectoryError:
        fault = f"{path} is a folder; give the name of an image file"
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        fault = f"{path!r} cannot be read ({getattr(error, 'strerror', None) or error}); give another file"
    raise UserError(fault)


def decode(source: bytes | BinaryIO, what: str, size: int, channels: int) -> np.ndarray:
    """An encoded image as an array, as `read_image` makes it.

    Args:
      source: the bytes of an image file, or the open file.
      what: its name, for errors.
      size: height and width of the result; 0 keeps the image's own.
      channels: 1, 3 or 4.

    Returns:
      uint8 (size, size, channels).

    Raises:
      UserError: as `read_image`.

    Example:
      >>> decode(b"P5 2 1 255 " + bytes([0, 200]), "two.pgm", 0, 1).ravel().tolist()
      [0, 200]
    """
    if channels not in MODES:
        raise UserError(f"channels is {channels!r}; choose one of {', '.join(map(str, MODES))}")
    if size < 0:
        raise UserError(f"size is {size}; it must be at least 0")
    image = _opened(source, what, lambda image: _in_mode(image, MODES[channels], what))
    return _pixels(_square(image, size) if size else image)


def _opened(source: bytes | BinaryIO, what: str, use: Callable[[Any], Any]) -> Any:
    """Applies a function to the image, decoded and upright."""
    image_module, image_ops = _pillow()
    try:
        with image_module.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            opened.load()
            image_ops.exif_transpose(opened, in_place=True)
            return use(opened)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a broken file can make a decoder raise any exception
        said = (str(error) or type(error).__name__).split("\n")[0]
        if isinstance(error, image_module.UnidentifiedImageError):
            said = "not a format that Pillow knows"
        raise UserError(f"{what} is not a valid image ({said}); repair or remove it") from None


def resize_all(images: np.ndarray, size: int, what: str) -> np.ndarray:
    """Scales images in memory as `read_image` does: the central square, bilinear with antialiasing.

    Args:
      images: uint8 (N, H, W, C) with C = 1, 3 or 4.
      size: S; an array that already has this size is returned unchanged.
      what: the dataset's name, for errors.

    Returns:
      uint8 (N, S, S, C).

    Raises:
      UserError: an unsupported number of channels, or Pillow is not installed.

    Example:
      >>> resize_all(np.full((2, 9, 6, 1), 5, np.uint8), 4, "fives").shape
      (2, 4, 4, 1)
    """
    number, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    if channels not in MODES:
        raise UserError(f"{what} has {channels} channels; only images of 1, 3 or 4 can be scaled, so leave image_size 0")
    image_module, _ = _pillow()
    scaled = np.empty((number, size, size, channels), np.uint8)
    for place, image in enumerate(images):
        opened = image_module.fromarray(image[..., 0] if channels == 1 else image)
        scaled[place] = _pixels(_square(opened, size))
    return scaled


def write_animation(path: str | os.PathLike, frames: np.ndarray, rate: float) -> None:
    """Writes frames as an endlessly looping GIF.

    Args:
      path: the file to write.
      frames: uint8 (T, H, W, C) with C = 1 or 3.
      rate: frames per second.

    Raises:
      UserError: Pillow is not installed.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".gif") as file:
      ...     write_animation(file.name, np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.full((1, 4, 4, 1), 90, np.uint8), 5.0)
      ...     read_image(file.name, 0, 1).shape
      (4, 4, 1)
    """
    image_module, _ = _pillow()
    images = [image_module.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / rate), loop=0)


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise missing("image files need Pillow", "experiments") from None
    return Image, ImageOps


def _square(image: Any, size: int) -> Any:
    """The largest central square, scaled."""
    bilinear = _pillow()[0].Resampling.BILINEAR
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), bilinear, box=(left, top, left + side, top + side))


def _in_mode(image: Any, mode: str, what: str) -> Any:
    if image.mode.startswith("F"):
        raise UserError(f"{what} is an image of floats; save it with 8 bits a channel, values 0 to 255")
    if image.mode.startswith("I"):
        image = _eight_bits(image, what)
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")  # converting straight to RGB makes Pillow warn about dropped transparency
    return image if image.mode == mode else image.convert(mode)


def _examined(image: Any, file: BinaryIO, mode: str, what: str) -> bool:
    """Whether alpha is dropped; see `examine_image`."""
    kept, deep = _levels(_in_mode(image, mode, what)), 0
    if kept < FEW and image.mode.startswith("I"):
        deep = int(np.ptp(np.asarray(image))) + 1
    elif kept < FEW:
        deep = _levels_of_low_bytes(file)
    if deep >= MANY:
        raise UserError(
            f"{what} has 16 bits a channel, of which the high 8 are kept, and they hardly differ; stretch its values to 0..65535, or save "
            "it with 8 bits (magick FILE -auto-level -depth 8 FILE)"
        )
    if mode == "RGBA" or image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return False
    alpha = image.convert("RGBA").getchannel("A")
    if kept < FEW and _levels(alpha) >= MANY:
        raise UserError(
            f"{what} is nearly of one colour except for its transparency, which is dropped; give it a background "
            "(magick FILE -background white -flatten FILE)"
        )
    return alpha.getextrema()[0] < 255


def _levels(image: Any) -> int:
    """How many grey levels an image spans, from its lowest to its highest; for colour, those of the widest channel."""
    extrema = image.getextrema()
    return max(high - low + 1 for low, high in ([extrema] if len(image.getbands()) == 1 else extrema))


def _levels_of_low_bytes(file: BinaryIO) -> int:
    """The levels in the low bytes that Pillow drops from a 16-bit colour PNG; 0 for any other image."""
    file.seek(0)
    with _pillow()[0].open(file) as image:
        if image.format != "PNG" or image.tile[0][3] not in ("RGB;16B", "RGBA;16B"):
            return 0
        image.tile = [(*image.tile[0][:3], image.tile[0][3].replace("16B", "16L"))]  # the other byte of each pair
        image.load()
        return _levels(image)


def _eight_bits(image: Any, what: str) -> Any:
    """The high byte of 16-bit grey; Pillow itself keeps the same of 16-bit colour."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{what} has values from {values.min()} to {values.max()}; save it with 8 or 16 bits a channel")
    return _pillow()[0].fromarray((values >> 8).astype(np.uint8))


def _pixels(image: Any) -> np.ndarray:
    values = np.asarray(image, np.uint8)
    return values if values.ndim == 3 else values[..., None]
