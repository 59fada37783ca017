"""Images with captions from TensorFlow Datasets, decoded on each request."""

from typing import Any, NamedTuple

import numpy as np

from seqjax.data.readers.tfds import examples, feature_of, open_builder, open_split
from seqjax.data.transforms.pixels import decode
from seqjax.errors import UserError

EMBEDDED_CHOICE = "source='embedded' with name='scenes' needs no download"
SPLITS = {"train": ("train", "restval"), "validation": ("val", "validation"), "test": ("test",)}


class Found(NamedTuple):
    """One part."""

    images: "EncodedImages"
    captions: list[list[str]]
    names: list[str]


def read_caption_catalogue(name: str, data_dir: str, image_size: int, restval: bool = True) -> dict[str, Found]:
    """A prepared TFDS set of images with captions, such as coco_captions; nothing is downloaded.

    Works for any set with one Image feature and a sequence `captions` of texts. All captions are read once, which takes as
    long as reading the whole set.

    Args:
      name: the set's name in TFDS.
      data_dir: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      image_size: the size that images are scaled to.
      restval: add coco_captions' `restval` images to the training part; else they are left out.

    Returns:
      The parts that the set has.

    Raises:
      UserError: TFDS is not installed, the set is unknown or not prepared, or has no captions.
    """
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    features = builder.info.features
    image = feature_of(name, features, "Image", "image", usual="image")
    if "captions" not in features:
        raise UserError(f"{name} has no feature captions (its features: {', '.join(features)}); choose another set, such as coco_captions")
    parts = {}
    for part, splits in SPLITS.items():
        chosen = [split for split in splits if split in builder.info.splits and (split != "restval" or restval)]
        if not chosen:
            continue
        sources = [open_split(name, builder, split, EMBEDDED_CHOICE, encoded=[image]) for split in chosen]
        captions = [_texts(example["captions"]) for source in sources for example in examples(source)]
        what = f"{builder.info.full_name}, {' and '.join(chosen)}"
        names = [f"{split} {i}" for split, source in zip(chosen, sources) for i in range(len(source))]
        parts[part] = Found(EncodedImages(sources, what, image, image_size), captions, names)
    return parts


def _texts(captions: Any) -> list[str]:
    """Captions from a sequence of texts, or of objects that have a text."""
    several = captions["text"] if isinstance(captions, dict) else captions
    return [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in several]


class EncodedImages:
    """The images of some splits, concatenated; the fingerprint covers only version and sizes.

    Args:
      sources: random access to examples, with images as encoded bytes.
      what: the dataset, for errors and the fingerprint.
      image: the feature of the image.
      size: the height and width that images are scaled to.
    """

    labels = None

    def __init__(self, sources: list[Any], what: str, image: str, size: int):
        self._sources, self._what, self._image = sources, what, image
        self._ends = np.cumsum([len(source) for source in sources])
        self.shape = (size, size, 3)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes the images at these indices and returns them with the indices."""
        images = np.empty((len(indices), *self.shape), np.uint8)
        for row, index in enumerate(indices):
            which = int(np.searchsorted(self._ends, index, side="right"))
            example = self._sources[which][int(index - (self._ends[which - 1] if which else 0))]
            images[row] = decode(bytes(example[self._image]), f"image {index} of {self._what}", self.shape[0], 3)
        return images, np.asarray(indices, np.int32)

    def fingerprint(self) -> str:
        """A hash of the dataset's version, its size and the shape."""
        return repr((self._what, len(self), self.shape))
