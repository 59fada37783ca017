"""Images from TensorFlow Datasets, read into memory or decoded on each request."""

from typing import Any

import numpy as np

from seqjax.data.image_columns import ArrayImages, Found
from seqjax.data.origins import versions
from seqjax.data.readers.tfds import class_names, feature_of, open_builder, open_split, part_splits
from seqjax.data.transforms.pixels import decode
from seqjax.errors import UserError

EMBEDDED_CHOICE = "source='embedded' with name='digits' needs no download"
MEMORY = 2_000_000_000  # sets of at most this many bytes of pixels are kept in memory
UNEVEN_SIZE = 224  # images of varying shape are scaled to this size unless another is given


def read_catalogue(name: str, data_dir: str, image_size: int) -> Found:
    """A prepared TFDS image set; nothing is downloaded.

    Works for any set with one Image and one ClassLabel feature: mnist, fashion_mnist, cifar10, imagenette, imagenet2012, ... A set
    whose images have one shape and fit into 2 GB is read into memory; otherwise each image is decoded on request, and its label
    is known only then.

    A set with both parts keeps its validation and test parts as published. If a set has only one of the two (imagenette and imagenet2012
    have `validation`, and the latter's test images have no labels; mnist and cifar10 have `test`), that is the test part, since published
    accuracies are measured on it.

    Args:
      name: the set's name in TFDS, such as "cifar10" or "imagenette/320px-v2".
      data_dir: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      image_size: the size that images are scaled to, as by `read_image`. 0 keeps the set's own, or means 224 if that varies.

    Raises:
      UserError: TFDS is not installed, the set is unknown or not prepared, or it does not have images and classes.
    """
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    features = builder.info.features
    image, label = (feature_of(name, features, kind, usual, usual=usual) for kind, usual in (("Image", "image"), ("ClassLabel", "label")))
    if features[image].np_dtype != np.uint8:
        raise UserError(f"{name} has images of {np.dtype(features[image].np_dtype)}, not uint8; choose another set")
    classes = class_names(features[label])
    own = tuple(features[image].shape)
    even = None not in own
    size = image_size or (0 if even else UNEVEN_SIZE)
    shape = (size, size, own[2]) if size else own

    def read(split: str) -> DecodedImages:
        source = open_split(name, builder, split, EMBEDDED_CHOICE, encoded=[image])
        return DecodedImages(source, f"{builder.info.full_name}, {split}", image, label, size, shape, len(classes))

    parts: dict[str, Any] = {part: read(split) for part, split in part_splits(builder.info.splits).items()}
    if "test" in parts and parts["test"].label_of(0) == -1:  # how TFDS marks a test part without labels
        del parts["test"]
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
    in_memory = even and sum(len(images) for images in parts.values()) * np.prod(shape) <= MEMORY
    if in_memory:
        parts = {part: ArrayImages(*images.take(np.arange(len(images)))) for part, images in parts.items()}
    # In memory the fingerprint covers pixels, which Pillow has decoded.
    return Found(classes, parts, made_from=versions("pillow") if in_memory else {})


class DecodedImages:
    """One part of a prepared set, decoded on request; its fingerprint covers only version and sizes."""

    labels = None

    def __init__(self, source: Any, what: str, image: str, label: str, size: int, shape: tuple, classes: int):
        self._source, self._what, self._image, self._label = source, what, image, label
        self._size, self._classes = size, classes
        self.shape = shape

    def __len__(self) -> int:
        return len(self._source)

    def label_of(self, index: int) -> int:
        """The label of one image, -1 if it has none."""
        return int(self._source[index][self._label])

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes the images at these indices and returns them with their labels."""
        images = np.empty((len(indices), *self.shape), np.uint8)
        labels = np.empty(len(indices), np.int32)
        for row, (index, example) in enumerate(zip(indices, self._source.__getitems__([int(i) for i in indices]))):
            what = f"image {index} of {self._what}"
            pixels = decode(bytes(example[self._image]), what, self._size, self.shape[2])
            if pixels.shape != self.shape:
                raise UserError(f"{what} is {pixels.shape}, not {self.shape}; prepare the set again")
            if not 0 <= example[self._label] < self._classes:
                raise UserError(f"{what} has label {example[self._label]}, but there are {self._classes} classes")
            images[row], labels[row] = pixels, example[self._label]
        return images, labels

    def fingerprint(self) -> str:
        """A hash of the dataset's version, its size and the shape."""
        return repr((self._what, len(self), self.shape))
