"""Published sets of images: the digits that come with scikit-learn, and sets of TensorFlow Datasets."""

import difflib
import importlib.util
import pathlib
from typing import Any

import numpy as np

from seqjax.data.image_parts import ArrayImages, ImageSet, Subset, hold_out_images, image_set
from seqjax.data.origins import versions
from seqjax.data.readers.tfds import VALIDATION_SPLITS, open_builder, open_split
from seqjax.data.transforms.pixels import decode, resize_all
from seqjax.errors import UserError, missing

EMBEDDED = ("digits",)
EMBEDDED_CHOICE = "source='embedded' with name='digits' needs no download"
TEST_SHARE = 0.2  # of the digits, which come without a published test part
MEMORY = 2_000_000_000  # bytes of pixels up to which a set of TFDS is kept in memory
UNEVEN_SIZE = 224  # to which images of uneven shape are scaled unless another size is asked for


def load_embedded_images(name: str, image_size: int, validation_fraction: float, seed: int) -> ImageSet:
    """Images that come with a Python package: nothing to download.

      digits: 1,797 handwritten digits of 8x8, grey; the values 0..16 are scaled to 0..255

    A fifth of each class is the test part, the same for every seed, so that results can be compared. The validation
    part is held out of the rest by seed.

    Args:
      name: "digits".
      image_size, validation_fraction, seed: as in `load_images`.

    Returns:
      An ImageSet with train, validation and test parts.

    Raises:
      UserError: another name, or scikit-learn is not installed.

    Example:
      >>> digits = load_embedded_images("digits", image_size=0, validation_fraction=0.1, seed=0)
      >>> {part: len(images) for part, images in digits.parts.items()}, digits.parts["train"].shape
      ({'train': 1294, 'validation': 144, 'test': 359}, (8, 8, 1))
    """
    if name not in EMBEDDED:
        near = difflib.get_close_matches(str(name), EMBEDDED, 1, 0.5)
        hint = f" (nearest: {near[0]})" if near else ""
        raise UserError(f"no embedded set of images is called {name!r}{hint}; choose one of {', '.join(EMBEDDED)}")
    values, labels = _digits()
    pixels = np.rint(values[..., None] * (255 / 16)).astype(np.uint8)
    images = ArrayImages(resize_all(pixels, image_size, name) if image_size else pixels, labels)
    kept, test = hold_out_images(images.labels, TEST_SHARE, 0, name)
    parts = {"train": Subset(images, kept), "test": Subset(images, test)}
    made_from = versions("scikit-learn", *(["pillow"] if images.shape[0] != pixels.shape[1] else []))
    return image_set(name, [str(digit) for digit in range(10)], parts, validation_fraction, seed, made_from)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Values 0..16 (1797, 8, 8) and labels of scikit-learn's `load_digits`.

    The file is read from where scikit-learn keeps it, since importing the package takes seconds.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise missing("the embedded digits come with scikit-learn", "experiments")
    file = pathlib.Path(*package.submodule_search_locations, "datasets", "data", "digits.csv.gz")
    if not file.is_file():
        from sklearn.datasets import load_digits

        return load_digits().images, load_digits().target
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1]


def load_image_catalogue(name: str, data_dir: str, image_size: int, validation_fraction: float, seed: int) -> ImageSet:
    """An image set of TFDS that was prepared on some machine; nothing is downloaded.

    Any set with one Image and one ClassLabel feature: mnist, fashion_mnist, cifar10, imagenette, imagenet2012, ... A
    set whose images all have one shape, and that fits into 2 GB, is read into memory; of others each image is decoded
    when it is asked for.

    A set with both parts keeps its validation and test parts as published. Of a set with only one of the two
    (imagenette and imagenet2012 have `validation`, the test images of the latter have no labels; mnist and cifar10 have
    `test`), that part is the test part, on which published accuracies are measured, and the validation part is held
    out of the training part.

    Args:
      name: as TFDS has it, such as "cifar10" or "imagenette/320px-v2".
      data_dir: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      image_size: to which all are scaled, as `read_image` does. 0 keeps the set's own, or is 224 where that is uneven.
      validation_fraction, seed: as in `load_images`. What is held out of a set that is not in memory is not stratified,
        since its labels are not known before they are read.

    Returns:
      An ImageSet. The fingerprint of a set that is not in memory is over its version and sizes alone.

    Raises:
      UserError: TFDS is not installed, the set is unknown or not prepared, or it is not one of images and classes.

    Example:
      >>> load_image_catalogue("", "", image_size=0, validation_fraction=0.1, seed=0)
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: source='tfds' needs a name, such as name='mnist'
    """
    if not name:
        raise UserError("source='tfds' needs a name, such as name='mnist'")
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    image, label = _features(name, builder.info.features)
    classes = tuple(builder.info.features[label].names or map(str, range(builder.info.features[label].num_classes)))
    own = tuple(builder.info.features[image].shape)
    even = None not in own
    size = image_size or (0 if even else UNEVEN_SIZE)
    shape = (size, size, own[2]) if size else own

    def read(split: str) -> _CatalogueImages:
        source = open_split(name, builder, split, EMBEDDED_CHOICE, encoded=[image])
        return _CatalogueImages(source, f"{builder.info.full_name}, {split}", image, label, size, shape, len(classes))

    parts: dict[str, Any] = {part: read(split) for part, split in _splits(builder.info.splits).items()}
    if "test" in parts and parts["test"].label_of(0) == -1:  # TFDS's mark of a test part without labels
        del parts["test"]
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
    in_memory = even and sum(len(images) for images in parts.values()) * np.prod(shape) <= MEMORY
    if in_memory:
        parts = {part: ArrayImages(*images.take(np.arange(len(images)))) for part, images in parts.items()}
    made_from = versions("pillow") if in_memory else {}  # which decoded the pixels that the fingerprint is over
    return image_set(name, classes, parts, validation_fraction, seed, made_from)


def _splits(splits: Any) -> dict[str, str]:
    validation = next((split for split in VALIDATION_SPLITS if split in splits), None)
    found = {"train": "train", "validation": validation, "test": "test" if "test" in splits else None}
    return {part: split for part, split in found.items() if split}


def _features(name: str, features: Any) -> tuple[str, str]:
    """The names of the one image and the one class, or those called image and label where there are several."""
    found = []
    for kind, usual in (("Image", "image"), ("ClassLabel", "label")):
        keys = [key for key in features if type(features[key]).__name__ == kind]
        if len(keys) != 1 and usual not in keys:
            raise UserError(
                f"{name} has {len(keys)} {kind} features, none called {usual}; choose a set of images with classes "
                f"(its features: {', '.join(features)})"
            )
        found.append(usual if usual in keys else keys[0])
    if features[found[0]].np_dtype != np.uint8:
        raise UserError(f"{name} has images of {np.dtype(features[found[0]].np_dtype)}, not uint8; choose another set")
    return found[0], found[1]


class _CatalogueImages:
    """One part of a prepared set, decoded each time it is asked for."""

    labels = None

    def __init__(self, source: Any, what: str, image: str, label: str, size: int, shape: tuple, classes: int):
        self._source, self._what, self._image, self._label = source, what, image, label
        self._size, self._classes = size, classes
        self.shape = shape

    def __len__(self) -> int:
        return len(self._source)

    def label_of(self, index: int) -> int:
        return int(self._source[index][self._label])

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(indices), *self.shape), np.uint8)
        labels = np.empty(len(indices), np.int32)
        for place, (index, example) in enumerate(zip(indices, self._source.__getitems__([int(i) for i in indices]))):
            what = f"image {index} of {self._what}"
            pixels = decode(bytes(example[self._image]), what, self._size, self.shape[2])
            if pixels.shape != self.shape:
                raise UserError(f"{what} is {pixels.shape}, not {self.shape}; prepare the set anew")
            if not 0 <= example[self._label] < self._classes:
                raise UserError(f"{what} has label {example[self._label]}, but there are {self._classes} classes")
            images[place], labels[place] = pixels, example[self._label]
        return images, labels

    def fingerprint(self) -> str:
        return repr((self._what, len(self), self.shape))
