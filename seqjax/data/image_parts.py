"""What every source of images gives: sets in parts, and images that are in memory, in files, or some of others."""

import functools
import hashlib
import os
from typing import Mapping, NamedTuple, Protocol, Sequence

import numpy as np

from seqjax.data.checks import is_whole
from seqjax.data.draws import permutation
from seqjax.data.origins import origin_notes
from seqjax.data.transforms.pixels import read_image
from seqjax.errors import UserError


class Images(Protocol):
    """Random access to one part of a set. N images of one shape, each with a label."""

    shape: tuple[int, int, int]  # (H, W, C) of every image
    labels: np.ndarray | None  # int32 (N,); None where a label is known only once its image is read

    def __len__(self) -> int:
        """N."""

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, H, W, C) and labels int32 (B,) at B places; several threads may call it at once."""

    def fingerprint(self) -> str:
        """A hash that changes with the images or their labels."""


class ImageSet(NamedTuple):
    """Images to classify, in their parts."""

    name: str  # what to call it in logs
    classes: tuple[str, ...]  # the name of each label
    parts: dict[str, Images]  # train, validation, and test where there is one
    fingerprint: str  # sha256 over classes, parts and their cut, images and labels; see each `fingerprint`
    notes: tuple[str, ...] = ()  # what to know of it, a line each
    made_from: dict[str, str] = {}  # what else it depends on: package -> version


class ArrayImages:
    """Images in memory.

    Args:
      images: uint8 (N, H, W, C), values 0..255; kept, not copied.
      labels: (N,) of any integer type.

    Raises:
      UserError: images that are not uint8 or not of four dimensions, labels that are not a line of whole numbers, or
        another number of them; no images.

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
        """Images and labels at these places."""
        return self.images.take(indices, axis=0), self.labels.take(indices)

    def fingerprint(self) -> str:
        """Over the values and their shape."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return _hash(repr(self.images.shape).encode(), np.ascontiguousarray(self.images).data, self.labels.tobytes())


class FileImages:
    """Image files, decoded each time they are asked for, as `read_image` does.

    Args:
      paths: N files.
      labels: (N,) of any integer type.
      size: height and width to which each is scaled, at least 1.
      channels: 1, 3 or 4.
      root: the folder that the fingerprint names the files from, so that the whole may move; "" for none.

    Raises:
      UserError: sizes that cannot be, labels as in `ArrayImages`; from `take`, a file that is not a sound image.

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

    def __init__(
        self, paths: Sequence[str | os.PathLike], labels: np.ndarray, size: int, channels: int, root: str = ""
    ):
        if not paths:
            raise UserError("there are no image files; give at least one")
        if not is_whole(size) or size < 1:
            raise UserError(f"size is {size!r}; it must be a whole number of at least 1")
        self.paths, self.labels = tuple(paths), _labels(np.asarray(labels), len(paths))
        self.shape = (size, size, channels)
        self._root = root

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes the images at these places, and gives them with their labels."""
        images = np.empty((len(indices), *self.shape), np.uint8)
        for place, index in enumerate(indices):
            images[place] = read_image(self.paths[index], self.shape[0], self.shape[2])
        return images, self.labels.take(indices)

    def fingerprint(self) -> str:
        """Over each file's relative path and size in bytes, the labels and the shape; the files are not opened."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        files = ((os.path.relpath(path, self._root or None), os.path.getsize(path)) for path in self.paths)
        listing = "\n".join(f"{name}\0{size}" for name, size in files)
        return _hash(repr(self.shape).encode(), listing.encode("utf-8", "surrogateescape"), self.labels.tobytes())


class Subset:
    """Some images of others, without copying them.

    Args:
      images: the others.
      indices: which, (M,) integers.

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
        """Images and labels at these places of the subset."""
        return self._images.take(self._indices[indices])

    def fingerprint(self) -> str:
        """Over the others' fingerprint and the indices."""
        return _hash(self._images.fingerprint().encode(), self._indices.tobytes())


def image_set(
    name: str,
    classes: Sequence[str],
    parts: Mapping[str, Images],
    validation_fraction: float,
    seed: int,
    made_from: Mapping[str, str] | None = None,
) -> ImageSet:
    """Checked parts as a set; a share of the training images is held out where there is no validation part.

    Args:
      name: what to call it.
      classes: the name of each label.
      parts: "train", and "validation" and "test" where there are such; the test part is never touched.
      validation_fraction: the share to hold out, in (0, 1), stratified by label where the labels are known.
      seed: of the choice.
      made_from: packages whose version the pixels depend on, with that version.

    Returns:
      An ImageSet.

    Raises:
      UserError: a label that is no class, parts of different shapes, or too few images to hold any out.

    Example:
      >>> images = ArrayImages(np.zeros((20, 1, 1, 1), np.uint8), np.arange(20) % 2)
      >>> parts = image_set("halves", ("even", "odd"), {"train": images}, 0.2, seed=0).parts
      >>> len(parts["train"]), np.bincount(parts["validation"].labels).tolist()
      (16, [2, 2])
    """
    for part, images in parts.items():
        if images.shape != parts["train"].shape:
            raise UserError(f"{name}: images of {part} are {images.shape}, of train {parts['train'].shape}")
        if images.labels is not None:
            check_labels(images.labels, len(classes), f"{name}, {part}")
    parts = dict(parts)
    if "validation" not in parts:
        train = parts["train"]
        labels = np.zeros(len(train), np.int32) if train.labels is None else train.labels
        kept, held = hold_out_images(labels, validation_fraction, seed, name)
        parts |= {"train": Subset(train, kept), "validation": Subset(train, held)}
    parts = {part: parts[part] for part in ("train", "validation", "test") if part in parts}
    prints = (f"{part} {images.fingerprint()}".encode() for part, images in parts.items())
    fingerprint = _hash(repr(tuple(classes)).encode(), *prints)
    made = dict(made_from or {})
    return ImageSet(name, tuple(classes), parts, fingerprint, origin_notes(made), made)


def hold_out_images(labels: np.ndarray, fraction: float, seed: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Deal images out to two sides, each label in its share.

    Of n images of a label floor(fraction n) or one more are held out, so that in all it is round(fraction N), but at
    least one; one image of each label stays.

    Args:
      labels: integers (N,).
      fraction: the share to hold out, in (0, 1).
      seed: of the choice; the same on every machine.
      what: the set's name, for the error.

    Returns:
      (places of what stays, places of what is held out), both in rising order; together every place once.

    Raises:
      UserError: no label has two images.

    Example:
      >>> kept, held = hold_out_images(np.array([0] * 6 + [1] * 4), 0.5, seed=0, what="ten")
      >>> kept.size, np.bincount(np.array([0] * 6 + [1] * 4)[held]).tolist()
      (5, [3, 2])
    """
    values, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.max() < 2:
        raise UserError(f"{what} has no class of two images, so none can be held out for validation; give more images")
    exact = counts * fraction
    takes = np.minimum(exact.astype(np.int64), counts - 1)
    missing = max(round(fraction * labels.size), 1) - takes.sum()
    spare = np.flatnonzero(takes < counts - 1)
    takes[spare[np.argsort(takes[spare] - exact[spare], kind="stable")[: max(missing, 0)]]] += 1
    order = np.argsort(members, kind="stable")
    firsts = np.cumsum(counts) - counts
    held = [
        order[first : first + count][permutation(count, seed, 1, int(label))[:take]]
        for label, first, count, take in zip(values, firsts, counts, takes)
    ]
    held = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(labels.size), held, assume_unique=True), held


def check_labels(labels: np.ndarray, classes: int, what: str) -> None:
    """Refuse labels that are no class.

    Args:
      labels: integers (N,).
      classes: K; labels are 0 to K - 1.
      what: the set and its part, for the error.

    Raises:
      UserError: with the first label outside and its place.

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
            f"{what}: label {first} (counting from 0) is {labels[first]}, "
            f"but with {classes} classes labels are 0 to {classes - 1}"
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
