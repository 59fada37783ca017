"""One door to images with classes: embedded, from TFDS, or from local files."""

import difflib

from seqjax.data.checks import is_whole
from seqjax.data.image_files import load_image_files
from seqjax.data.image_parts import ArrayImages, FileImages, Images, ImageSet
from seqjax.data.image_sets import load_embedded_images, load_image_catalogue
from seqjax.data.pipeline.shuffled import ImageBatch, ImageBatches, channel_statistics, ordered_batches
from seqjax.data.transforms.pixels import read_image
from seqjax.errors import UserError

__all__ = [
    "ArrayImages", "FileImages", "ImageBatch", "ImageBatches", "ImageSet", "Images", "channel_statistics", "load_images",
    "ordered_batches", "read_image",
]  # fmt: skip
SOURCES = ("embedded", "tfds", "file")


def load_images(
    source: str,
    *,
    name: str = "",
    path: str = "",
    data_dir: str = "",
    image_size: int = 0,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> ImageSet:
    """Images with classes, in training, validation and test parts, from one of three kinds of source.

    No source stands in for another in silence: what cannot be had is an error that says how to get it. All images of a
    set have one shape, uint8 (H, W, C); where they are scaled, it is the largest square in the middle, by Pillow,
    bilinear with antialiasing.

    Where the source has no validation part, a share of the training part is held out, stratified by class. The test
    part is never used for that; of a TFDS set with one published held-out part, such as imagenet2012's `validation`,
    that one is the test part, since published accuracies are measured on it.

    Args:
      source: "embedded" (comes with scikit-learn, no network), "tfds" (a prepared set, read without TensorFlow) or
        "file".
      name: embedded: "digits". tfds: the set, such as "mnist", "cifar10" or "imagenette". file: not used, the set is
        called after its file or folder.
      path: file: a folder of idx files, an `.npz`, or a folder with a folder of image files for each class, in parts
        (`train/CLASS/1.png`, `val/CLASS/...`, `test/CLASS/...`) or not (`CLASS/1.png`); see `load_image_files`.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      image_size: S, to scale all images to (S, S). 0 keeps the set's own, and is 224 for image files and other images
        of uneven shape.
      validation_fraction: the share to hold out, in (0, 1), where there is no validation part.
      seed: of what is held out.

    Returns:
      An ImageSet.

    Raises:
      UserError: an unknown source or name, a set that is not prepared, files that are no such images, a setting out of
        its range, or one of files or of TFDS given to another source.

    Example:
      >>> digits = load_images("embedded", name="digits", image_size=16)
      >>> images, labels = digits.parts["test"].take([0, 1, 2])
      >>> images.shape, labels.dtype.name, digits.classes[3]
      ((3, 16, 16, 1), 'int32', '3')
    """
    if source not in SOURCES:
        near = difflib.get_close_matches(str(source), SOURCES, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise UserError(f"source={source!r} is not a source{hint}; choose one of {', '.join(SOURCES)}")
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; it must be above 0 and below 1")
    for setting, value in (("image_size", image_size), ("seed", seed)):
        if not is_whole(value) or value < 0:
            raise UserError(f"{setting} is {value!r}; it must be a whole number of at least 0")
    for setting, value, kind in (("path", path, "file"), ("data_dir", data_dir, "tfds")):
        if value and source != kind:
            raise UserError(f"{setting}={value!r} is for source={kind!r} only; leave it empty with {source!r}")
    if source == "file":
        return load_image_files(path, image_size, validation_fraction, seed)
    if source == "tfds":
        return load_image_catalogue(name, data_dir, image_size, validation_fraction, seed)
    return load_embedded_images(name, image_size, validation_fraction, seed)
