"""Images to classify, accessed by index: in memory, in files, or a subset of others."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from seqjax.data.checks import check_whole
from seqjax.data.transforms.pixels import read_image
from seqjax.errors import UserError


class Images(Protocol):
    """Random access to one part of a dataset: N images of one shape, each with a label."""

    shape: tuple[int, int, int]  # (H, W, C) of every image
    labels: Any  # int32 (N,); None if a label is known only once its image is read

    def __len__(self) -> int:
        """N."""
        ...

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, H, W, C) and labels int32 (B,) at B indices; several threads may call it at once."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes with the images or their labels."""
        ...


class Found(NamedTuple):
    """The result of a reader of images."""

    classes: tuple[str, ...]  # the name of each label
    parts: Mapping[str, Images]  # "train", and "validation" and "test" if there are any
    notes: tuple[str, ...] = ()
    made_from: Mapping[str, str] = {}  # packages that the pixels depend on -> version


class ArrayImages:
    """Images in memory.

    Args:
      images: uint8 (N, H, W, C), values 0..255; kept, not copied.
      labels: (N,) of any integer type.

    Raises:
      UserError: images that are not uint8 with four dimensions, labels that are not a vector of integers, a different number of images and
        labels, or no images.

    Example:
      >>> images = ArrayImages(np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), np.array([0, 1, 0]))
      >>> pixels, labels = images.take(np.array([2, 0]))
      >>> pixels[:, 0, 0, 0].tolist(), labels.tolist(), len(images), images.shape
      ([8, 0], [0, 0], 3, (2, 2, 1))
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8:
            raise UserError(f"images are {images.dtype}; give uint8 with values 0 to 255 (floats in [0, 1]: times 255)")
        if images.ndim != 4 or 0 in images.shape:
            raise UserError(f"images have shape {images.shape}; give (N, H, W, C), none of them 0")
        self.images, self.labels = images, _labels(labels, len(images))
        self.shape = images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels at these indices."""
        return self.images.take(indices, axis=0), self.labels.take(indices)

    def fingerprint(self) -> str:
        """A hash of the values and their shape."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return _hash(repr(self.images.shape).encode(), np.ascontiguousarray(self.images).data, self.labels.tobytes())


class FileImages:
    """Image files, decoded with `read_image` each time they are requested.

    Args:
      paths: the N files.
      labels: (N,) of any integer type.
      size: the height and width that each is scaled to, at least 1.
      channels: 1, 3 or 4.
      root: the folder that paths are made relative to in the fingerprint, so that it may be moved; "" for none.

    Raises:
      UserError: an invalid size, or labels as in `ArrayImages`; from `take`, a file that is not a valid image.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "grey.png"
      ...     Image.new("L", (30, 20), 9).save(path)
      ...     images, labels = FileImages([path], [1], size=4, channels=1).take(np.array([0, 0]))
      >>> images.shape, labels.tolist()
      ((2, 4, 4, 1), [1, 1])
    """

    def __init__(self, paths: Sequence[str | os.PathLike], labels: np.ndarray, size: int, channels: int, root: str = ""):
        if not paths:
            raise UserError("there are no image files; give at least one")
        check_whole(1, size=size)
        self.paths, self.labels = tuple(paths), _labels(np.asarray(labels), len(paths))
        self.shape = (size, size, channels)
        self._root = root

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes the images at these indices and returns them with their labels."""
        images = np.empty((len(indices), *self.shape), np.uint8)
        for row, index in enumerate(indices):
            images[row] = read_image(self.paths[index], self.shape[0], self.shape[2])
        return images, self.labels.take(indices)

    def fingerprint(self) -> str:
        """A hash of each file's relative path and size in bytes, the labels and the shape; the files are not opened."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        files = ((os.path.relpath(path, self._root or None), os.path.getsize(path)) for path in self.paths)
        listing = "\n".join(f"{name}\0{size}" for name, size in files)
        return _hash(repr(self.shape).encode(), listing.encode("utf-8", "surrogateescape"), self.labels.tobytes())


class Subset:
    """A subset of other images, without copying them.

    Args:
      images: the images to select from.
      indices: the selected images, integers (M,).

    Example:
      >>> images = ArrayImages(np.zeros((5, 1, 1, 1), np.uint8), np.arange(5))
      >>> Subset(images, np.array([4, 2, 0])).take(np.array([0, 1]))[1].tolist()
      [4, 2]
    """

    def __init__(self, images: Images, indices: np.ndarray):
        self._images, self._indices = images, np.asarray(indices, np.int64)
        self.labels = None if images.labels is None else images.labels[self._indices]
        self.shape = images.shape

    def __len__(self) -> int:
        return len(self._indices)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels at these indices into the subset."""
        return self._images.take(self._indices[indices])

    def fingerprint(self) -> str:
        """A hash of the underlying images' fingerprint and the indices."""
        return _hash(self._images.fingerprint().encode(), self._indices.tobytes())


def check_labels(labels: np.ndarray, classes: int, what: str) -> None:
    """Refuse labels that are not classes.

    Args:
      labels: integers (N,).
      classes: K; labels are 0 to K - 1.
      what: the dataset and its part, for the error.

    Raises:
      UserError: a label outside the range; the message names the first.

    Example:
      >>> check_labels(np.array([0, 2]), 2, "pets, test")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: pets, test: label 1 (counting from 0) is 2, but with 2 classes labels are 0 to 1
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        first = wrong[0]
        raise UserError(
            f"{what}: label {first} (counting from 0) is {labels[first]}, but with {classes} classes labels are 0 to {classes - 1}"
        )


def _labels(labels: np.ndarray, number: int) -> np.ndarray:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels are {labels.dtype} of shape {labels.shape}; give one whole number an image, (N,)")
    if len(labels) != number:
        raise UserError(f"there are {number} images but {len(labels)} labels; give one label an image")
    if labels.size and (labels.max() > np.iinfo(np.int32).max or labels.min() < np.iinfo(np.int32).min):
        raise UserError(f"labels run from {labels.min()} to {labels.max()}; give class numbers from 0")
    return labels.astype(np.int32)


def _hash(*pieces: bytes | memoryview) -> str:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(hashlib.sha256(piece).digest())
    return whole.hexdigest()
