"""The entry point for images with classes: embedded, from TFDS, or from local files."""

import dataclasses
import os
import pathlib
from typing import cast

import numpy as np

from seqjax.data.checks import check_fractions, check_whole
from seqjax.data.hold_out import hold_out
from seqjax.data.image_check import BAD_FILES, Listing, Progress, cache_file, checked
from seqjax.data.image_columns import ArrayImages, FileImages, Found, Images, Subset, check_labels
from seqjax.data.origins import versions
from seqjax.data.readers.digits import read_digits
from seqjax.data.readers.image_arrays import read_idx_folder, read_npz
from seqjax.data.readers.image_folders import read_folders
from seqjax.data.readers.image_tables import read_image_tables
from seqjax.data.readers.image_tfds import read_catalogue
from seqjax.data.readers.tables import USUAL, Format, is_table, table_settings
from seqjax.data.records import Dataset, make_dataset
from seqjax.data.sources import Setting, check_name, check_source, file_set_name, part_files, path_settings
from seqjax.data.transforms.pixels import read_image, resize_all
from seqjax.errors import UserError, refuse_unknown

__all__ = ["ArrayImages", "FileImages", "Images", "Subset", "load_images", "read_image"]

EMBEDDED = ("digits",)
TEST_SHARE = 0.2  # of the digits, which come without a published test part
FILE_SIZE = 224  # image files are scaled to this size unless another is given


def load_images(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    data_dir: str = "",
    image_size: int = 0,
    class_levels: int = 1,
    image_field: str = "",
    label_field: str = "",
    image_folder: str = "",
    delimiter: str = "",
    quoting: str = USUAL.quoting,
    header: bool = True,
    encoding: str = USUAL.encoding,
    bad_files: str = "stop",
    validation_fraction: float = 0.1,
    seed: int = 0,
    workers: int = 0,
    cache: str = "",
    progress: Progress | None = None,
) -> Dataset:
    """Images with classes, in training, validation and test parts, from one of three kinds of source.

    No source silently replaces another: if data are missing, the error says how to get them. All images of a
    set have one shape, uint8 (H, W, C); scaling takes the largest central square and resizes it with Pillow, bilinear with antialiasing.

    If the source has no validation part, a share of the training part is held out, stratified by class if the labels are known before the
    images are read. The test part is never used for that. If a TFDS dataset publishes only one held-out part, such as imagenet2012's
    `validation`, that is the test part, since published accuracies are measured on it.

    All image files are decoded once before they are used, so that a bad one cannot stop training; see `check_files`.

    Args:
      source: "embedded" (comes with scikit-learn, no network), "tfds" (a prepared set, read without TensorFlow) or
        "file".
      name: embedded: "digits", 1,797 handwritten digits, a fifth of which is the test part for every seed. tfds: the set,
        such as "mnist", "cifar10" or "imagenette". file: what to call the set instead of its file or folder; for a folder with several sets
        of idx files, the set to read, such as "emnist-letters".
      path: file: a folder of idx files (`read_idx_folder`), an `.npz` (`read_npz`), a folder with a folder of image files
        for each class, in parts (`train/CLASS/1.png`, `val/CLASS/...`, `test/CLASS/...`) or not (`CLASS/1.png`;
        `read_folders`), or a table of image files or of pixels (`read_image_tables`).
      validation_path, test_path: file: the same for these parts, of a table.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      image_size: S, to scale all images to (S, S). 0 keeps the set's own size; for image files and other images of varying shape it means
        224.
      class_levels: file: how many folder levels make up the name of a class.
      image_field, label_field, image_folder: file: the fields of a table with an image's file and its label, and the folder that the files
        are relative to; "" looks for them.
      delimiter, quoting, header, encoding: file: how a table is written, see `seqjax.data.readers.tables.Format`.
      bad_files: file: "stop" raises an error that lists all invalid images; "leave_out" leaves them out and lists them in the notes.
      validation_fraction: the share to hold out, in (0, 1), if there is no validation part.
      seed: of the choice of images held out.
      workers: threads that check image files.
      cache: a folder that records which image files were valid; "" for none.
      progress: called with the number of image files checked so far and the total.

    Returns:
      A Dataset whose parts are `Images`. Image files are RGB.

    Raises:
      UserError: an unknown source or name, a set that is not prepared, malformed files, a setting out of
        its range, or one of files or of TFDS given to another source.

    Example:
      >>> digits = load_images("embedded", name="digits", image_size=16)
      >>> images, labels = digits.parts["test"].take([0, 1, 2])
      >>> images.shape, labels.dtype.name, digits.classes[3], {part: len(images) for part, images in digits.parts.items()}
      ((3, 16, 16, 1), 'int32', '3', {'train': 1294, 'validation': 144, 'test': 359})
    """
    format = Format(delimiter, quoting, header, encoding)
    paths = {"train": path, "validation": validation_path, "test": test_path}
    of_table = path_settings({"validation": validation_path, "test": test_path})
    fields = {"image_field": image_field, "label_field": label_field, "image_folder": image_folder}
    of_table |= {name: Setting(value, ("file",)) for name, value in fields.items()}
    of_table |= table_settings(format) | {"encoding": Setting(encoding, ("file",), USUAL.encoding)}
    check_source(source, of_table | {
        "path": Setting(path, ("file",)), "data_dir": Setting(data_dir, ("tfds",)),
        "class_levels": Setting(class_levels, ("file",), 1), "bad_files": Setting(bad_files, ("file",), "stop"),
    })  # fmt: skip
    check_fractions(validation_fraction)
    check_whole(0, image_size=image_size, seed=seed, workers=workers)
    check_whole(1, class_levels=class_levels)
    check_name(source, name, EMBEDDED, "set of images", "mnist")
    refuse_unknown(f"bad_files={bad_files!r} is unknown", bad_files, BAD_FILES)
    if source == "embedded":
        found = _digits(image_size)
    elif source == "tfds":
        found = read_catalogue(name, data_dir, image_size)
    else:
        paths = _existing(paths)
        called, name = name, file_set_name(name, EMBEDDED, os.path.realpath(paths["train"]))
        if os.path.isfile(paths["train"]) and not path.endswith(".npz") and is_table(path, format):
            found = read_image_tables(paths, format, image_field=image_field, label_field=label_field, folder=image_folder)
        else:
            _refuse_settings(path, "a table of images", of_table)
            found = _folder_or_npz(paths["train"], called, class_levels)
        if not (isinstance(found, Listing) and os.path.isdir(paths["train"])):
            _refuse_settings(path, "a folder of images", {"class_levels": Setting(class_levels, (), 1)})
        if isinstance(found, Listing):
            found = checked(found, image_size or FILE_SIZE, bad_files, workers=workers, cache=cache_file(cache, path), progress=progress)
        else:
            _refuse_settings(path, "image files", {"bad_files": Setting(bad_files, (), "stop")})
            found = _scaled(found, image_size, name)
    files = part_files({"train": path, "validation": validation_path, "test": test_path})
    return dataclasses.replace(_dataset(name, found, validation_fraction, seed), files=files)


def _existing(paths: dict[str, str]) -> dict[str, str]:
    """The given paths with the home folder expanded; the first is required, and all must exist."""
    if not paths["train"]:
        raise UserError("source='file' needs a path; give a folder of images or of idx files, an .npz, or a table of images")
    for path in filter(None, paths.values()):
        if not os.path.lexists(os.path.expanduser(path)):
            raise UserError(f"{path} does not exist; check the path (the current folder is {pathlib.Path.cwd()})")
    return {part: os.path.expanduser(path) for part, path in paths.items() if path}


def _refuse_settings(path: str, what: str, settings: dict[str, Setting]) -> None:
    given = [name for name, (value, _, usual) in settings.items() if value != usual]
    if given:
        raise UserError(f"{path} is not {what}, for which {' and '.join(given)} {'is' if len(given) == 1 else 'are'}; leave that out")


def _folder_or_npz(path: str, name: str, class_levels: int) -> Found | Listing:
    if not os.path.isdir(path):
        if not path.endswith(".npz"):
            raise UserError(
                f"{path} is neither a folder nor an .npz nor a table; give a folder of images or of idx files, an .npz, or a .csv, "
                ".tsv or .jsonl"
            )
        return read_npz(pathlib.Path(path))
    return read_idx_folder(pathlib.Path(path), name) or read_folders(pathlib.Path(path), class_levels)


def _scaled(found: Found, size: int, name: str) -> Found:
    """Images in memory, scaled if they have another size; their pixels then depend on Pillow."""
    if not size or all(images.shape[:2] == (size, size) for images in found.parts.values()):
        return found
    arrays = {part: cast(ArrayImages, images) for part, images in found.parts.items()}
    parts = {part: ArrayImages(resize_all(images.images, size, name), images.labels) for part, images in arrays.items()}
    return found._replace(parts=parts, made_from={**found.made_from, **versions("pillow")})


def _digits(size: int) -> Found:
    images = ArrayImages(*read_digits())
    found = _scaled(Found(tuple("0123456789"), {"train": images}, made_from=versions("scikit-learn")), size, "digits")
    whole = found.parts["train"]
    kept, test = hold_out(len(whole), TEST_SHARE, 0, "digits", strata=whole.labels)
    return found._replace(parts={"train": Subset(whole, kept), "test": Subset(whole, test)})


def _dataset(name: str, found: Found, validation_fraction: float, seed: int) -> Dataset:
    """Checked parts as a dataset; a share of the training images is held out if there is no validation part."""
    parts, train = dict(found.parts), found.parts["train"]
    for part, images in parts.items():
        if images.shape != train.shape:
            raise UserError(f"{name}: images of {part} are {images.shape}, of train {train.shape}")
        if images.labels is not None:
            check_labels(images.labels, len(found.classes), f"{name}, {part}")
    if "validation" not in parts:
        labels = np.zeros(len(train), np.int32) if train.labels is None else train.labels
        kept, held = hold_out(len(train), validation_fraction, seed, name, strata=labels)
        parts |= {"train": Subset(train, kept), "validation": Subset(train, held)}
    return make_dataset(name, parts, "images", classes=found.classes, notes=found.notes, made_from=found.made_from)
