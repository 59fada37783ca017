"""The entry point for images with captions: drawn scenes, from TFDS, or from local files."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from seqjax.data.captioned import Captioned, clean_caption
from seqjax.data.checks import check_fractions, check_whole
from seqjax.data.hold_out import hold_out
from seqjax.data.image_check import BAD_FILES, Listing, Progress, cache_file, checked
from seqjax.data.image_columns import ArrayImages
from seqjax.data.origins import versions
from seqjax.data.readers.caption_files import Listed, is_list, read_captions, read_list
from seqjax.data.readers.caption_tfds import read_caption_catalogue
from seqjax.data.readers.image_tables import SAMPLE, image_finder
from seqjax.data.readers.scenes import draw_scene, references
from seqjax.data.readers.tables import USUAL, Format, table_settings
from seqjax.data.records import Dataset, make_dataset
from seqjax.data.sources import Setting, check_name, check_source, file_set_name, part_files, path_settings
from seqjax.errors import UserError, refuse_unknown

EMBEDDED = ("scenes",)
SCENES = {"validation": 600, "test": 2000}  # half show combinations that do not occur in training
FILE_SIZE = 224  # images are scaled to this size unless another is given
FOLDERS = (
    "Images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "flickr30k_images",
    "flickr30k-images",
)  # as they are distributed


def load_captions(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    train_list: str = "",
    data_dir: str = "",
    scenes: int = 20_000,
    image_size: int = 0,
    image_folder: str = "",
    image_field: str = "",
    caption_field: str = "",
    restval: bool = True,
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
    """Images with captions, in training, validation and test parts, from one of three kinds of source.

    No source silently replaces another. Captions are learned and scored in lower case and without punctuation (`clean_caption`). All image
    files are decoded once before they are used, and one error lists all that are missing, corrupt or without a caption. If there is no
    validation part, a share of the training images is held out.

    Args:
      source: "embedded" (drawn, no network), "tfds" (a prepared set, read without TensorFlow) or "file".
      name: embedded: "scenes" (`seqjax.data.readers.scenes`). tfds: the set, such as "coco_captions". file: what to call the set.
      path: file: the captions, see `seqjax.data.readers.caption_files.read_captions`.
      validation_path, test_path: file: the same for these parts; or lists of images whose captions are in `path`, one name per line.
      train_list: file: such a list of the training images; "" takes all images in no other part.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      scenes: embedded: how many to train on.
      image_size: S; the largest central square of each image is scaled to (S, S). 0 means 224. Scenes are 40 x 40.
      image_folder: file: the folder that image names are relative to, given relative to the captions' folder; "" looks for it.
      image_field, caption_field: file: the fields of a table; "" looks for them.
      restval: also train on Karpathy's and TFDS's split `restval`.
      delimiter, quoting, header, encoding: file: how a table is written, see `seqjax.data.readers.tables.Format`.
      bad_files: file: "stop" raises an error that lists all unusable images; "leave_out" leaves them out and lists them in the notes.
      validation_fraction: the share to hold out, in (0, 1).
      seed: of the scenes, or of the choice of images held out.
      workers: threads that check image files.
      cache: a folder that records which image files were valid; "" for none.
      progress: called with the number of image files checked so far and the total.

    Returns:
      A Dataset whose parts are `Captioned`.

    Raises:
      UserError: an unknown source or name, malformed files, unusable images, or a setting that the source does not use.

    Example:
      >>> data = load_captions("embedded", name="scenes", scenes=3)
      >>> data.parts["train"].captions[0][0], {part: len(images) for part, images in data.parts.items()}
      ('there are two pink zeros left of a white circle', {'train': 3, 'validation': 600, 'test': 2000})
    """
    format = Format(delimiter, quoting, header, encoding)
    paths = {"train": path, "validation": validation_path, "test": test_path}
    fields = {
        "train_list": train_list,
        "image_folder": image_folder,
        "image_field": image_field,
        "caption_field": caption_field,
    }
    of_files = path_settings(paths) | {field: Setting(value, ("file",)) for field, value in fields.items()} | table_settings(format)
    check_source(source, of_files | {
        "data_dir": Setting(data_dir, ("tfds",)), "scenes": Setting(scenes, ("embedded",), 20_000),
        "image_size": Setting(image_size, ("file", "tfds"), 0), "restval": Setting(restval, ("file", "tfds"), True),
        "bad_files": Setting(bad_files, ("file",), "stop"), "encoding": Setting(encoding, ("file",), USUAL.encoding),
    })  # fmt: skip
    check_name(source, name, EMBEDDED, "set of images with captions", "coco_captions")
    check_fractions(validation_fraction)
    check_whole(0, image_size=image_size, seed=seed, workers=workers)
    check_whole(1, scenes=scenes)
    refuse_unknown(f"bad_files={bad_files!r} is unknown", bad_files, BAD_FILES)
    if source == "embedded":
        parts = {part: _drawn(part, size, seed) for part, size in {"train": scenes, **SCENES}.items()}
        return make_dataset(name, parts, "scenes", made_from=versions("scikit-learn"))
    if source == "tfds":
        found = read_caption_catalogue(name, data_dir, image_size or FILE_SIZE, restval)
        parts = {part: _captioned(images, captions, names) for part, (images, captions, names) in found.items()}
    else:
        if not path:
            raise UserError("source='file' needs a path; give a file of captions")
        own = {part: os.path.expanduser(value) for part, value in paths.items() if value}
        how = {"image_field": image_field, "caption_field": caption_field, "restval": restval}
        listed = _listed(own, os.path.expanduser(train_list), format, how)
        name = file_set_name(name, EMBEDDED, path)
        sound = {"workers": workers, "cache": cache_file(cache, path), "progress": progress}
        parts = _with_files(own, listed, image_folder, image_size or FILE_SIZE, bad_files, sound)
    if "validation" not in parts:
        kept, held = hold_out(len(parts["train"]), validation_fraction, seed, name)
        parts |= {"train": parts["train"].take(kept), "validation": parts["train"].take(held)}
    return make_dataset(name, parts, "images", files=part_files(paths))


def _drawn(part: str, number: int, seed: int) -> Captioned:
    """Scenes of one part; in validation and test, every other one has a combination that does not occur in training."""
    drawn = [draw_scene(seed, part, index, unseen=part != "train" and index % 2 == 1) for index in range(number)]
    images = ArrayImages(np.stack([image for image, _ in drawn]), np.arange(number))
    scenes = tuple(scene for _, scene in drawn)
    captions = tuple(references(scene, seed, part, index) for index, scene in enumerate(scenes))
    return Captioned(images, captions, tuple(f"{part} {index}" for index in range(number)), scenes)


def _captioned(images, captions, names, notes=()) -> Captioned:
    """Images with cleaned captions."""
    cleaned = tuple(tuple(clean_caption(text) for text in several) for several in captions)
    if empty := [name for name, several in zip(names, cleaned) if not all(several) or not several]:
        raise UserError(f"{empty[0]} has a caption without a word ({len(empty):,} images have); repair or remove it")
    return Captioned(images, cleaned, tuple(names), notes=tuple(notes))


def _listed(paths: Mapping[str, str], train_list: str, format: Format, how: Mapping[str, Any]) -> dict[str, Listed]:
    """The images and captions of each part."""
    parts, taken = read_captions(paths["train"], format, **how), set()
    others = {part: path for part, path in paths.items() if part != "train"}
    if len(parts) > 1 and (others or train_list):
        raise UserError(f"{paths['train']} has parts of its own, {', '.join(parts)}; leave validation_path, test_path and train_list empty")
    if "train" not in parts:
        raise UserError(f"{paths['train']} has no training images; give a file with some")
    every = parts["train"]
    for part, path in others.items():
        if is_list(path, format):
            names = read_list(path, every, paths["train"], format)
            if twice := [name for name in names if name in taken]:
                raise UserError(f"{path}: {twice[0]!r} is in the list of another part too ({len(twice):,} are); remove it from one")
            parts[part] = every.take(names)
            taken |= set(names)
        else:
            found = read_captions(path, format, **how)
            if len(found) > 1:
                raise UserError(f"{path} has parts of its own, {', '.join(found)}; give it as path alone")
            (parts[part],) = found.values()
    if train_list:
        names = read_list(train_list, every, paths["train"], format)
        if twice := [name for name in names if name in taken]:
            raise UserError(f"{train_list}: {twice[0]!r} is in the list of another part too ({len(twice):,} are); remove it from one")
    else:
        names = [name for name in every.names if name not in taken]
    return parts | {"train": every.take(names)}


def _with_files(paths, listed: Mapping[str, Listed], folder: str, size: int, bad_files: str, how: Mapping) -> dict[str, Captioned]:
    """The parts with their image files, found and checked."""
    places, bad, root = {}, {}, str(pathlib.Path(paths["train"]).parent)
    for part, images in listed.items():
        path = paths[part] if part in paths and not is_list(paths[part]) else paths["train"]
        stem = pathlib.Path(path).name.split(".")[0].removeprefix("captions_")  # captions_train2017.json belongs to train2017/
        also = [*FOLDERS, stem, f"../{stem}", "..", f"../images/{stem}", part]
        find, places[part] = image_finder(path, images.names[:SAMPLE], folder, also), ([], [])
        for i, (name, captions, place) in enumerate(zip(*images)):
            file, fault = find(name)
            if not captions:
                fault = f"the image {name!r} has no caption; write one or remove it"
            if fault:
                bad[f"{part} {name}"] = f"{place}: {fault}"
            else:
                places[part][0].append(file)
                places[part][1].append(i)
    found = checked(Listing(root, (), places, bad), size, bad_files, **how)
    parts = {}
    for part, images in found.parts.items():
        captions, names = ([column[i] for i in images.labels] for column in (listed[part].captions, listed[part].names))
        parts[part] = _captioned(images, captions, names, found.notes)
    return parts
