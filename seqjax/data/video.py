"""The entry point for videos: moving digits, Moving MNIST, and files or folders of frames, labelled or not."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from seqjax.data.checks import check_fractions, check_whole
from seqjax.data.hold_out import hold_out
from seqjax.data.image_check import BAD_FILES
from seqjax.data.image_columns import ArrayImages
from seqjax.data.origins import versions
from seqjax.data.readers.digits import read_digits
from seqjax.data.readers.image_arrays import read_idx_folder
from seqjax.data.readers.moving_digits import MovingDigits, Scene
from seqjax.data.readers.tables import USUAL, Format, is_table, table_settings
from seqjax.data.readers.tfds import open_builder, open_split
from seqjax.data.readers.video_lists import VideoList, list_folder, list_table
from seqjax.data.readers.videos import FileVideos
from seqjax.data.records import MOST_FAULTS, Dataset, Faults, make_dataset
from seqjax.data.sources import Setting, check_name, check_source, file_set_name, part_files, path_settings
from seqjax.data.video_check import Progress, check_videos
from seqjax.data.video_columns import ArrayVideos, SomeVideos, Videos
from seqjax.errors import UserError, refuse_unknown

EMBEDDED = ("moving_digits", "bouncing_digits")
MNIST = "moving_mnist"
SIZES = {"train": 10_000, "validation": 1000, "test": 2000}  # videos of the embedded sets
SCENES = {
    "moving_digits": Scene("crossing", frames=5, side=20, noise=0.1),
    "bouncing_digits": Scene("bouncing", frames=20, side=16, digits=2),
    MNIST: Scene("mnist", frames=20, side=64, digits=2),
}
NO_DOWNLOAD = "source='embedded' with name='moving_digits' needs no download"


def load_videos(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    data_dir: str = "",
    image_size: int = 0,
    channels: int = 3,
    frame_rate: float = 0.0,
    video_field: str = "video",
    label_field: str = "label",
    delimiter: str = "",
    quoting: str = USUAL.quoting,
    header: bool = True,
    encoding: str = USUAL.encoding,
    bad_files: str = "stop",
    labelled: bool = True,
    validation_fraction: float = 0.1,
    seed: int = 0,
    workers: int = 0,
    cache: str = "",
    progress: Progress | None = None,
) -> Dataset:
    """Videos in training, validation and test parts.

    Two embedded sets are made from scikit-learn's digits, with no image in two parts: "moving_digits", one digit in noise that moves in one
    of eight directions at one of three speeds, and "bouncing_digits", two digits that bounce off the walls.

    Args:
      source: "embedded", "tfds" or "file".
      name: the embedded set. tfds: "moving_mnist": the published test part, and training videos made from the MNIST in the same folder.
        file: "moving_mnist" for a folder of MNIST's idx files, else what to call the set.
      path: file: a folder with a folder of videos for each class, in parts (`train/CLASS/1.mp4`) or not; a table; or `.npy`. A video is a
        file or a folder of frames. Without labels, the folder holds the videos themselves.
      validation_path, test_path: file: these parts, for tables and arrays; for Moving MNIST the published `mnist_test_seq.npy`.
      data_dir: tfds: the folder of prepared sets.
      image_size: S; the central square of frames is scaled to (S, S). 0 keeps the videos' own size, which must be the same for all.
      channels: file: 3 (RGB) or 1 (grey).
      frame_rate: file: frames per second of folders of frames; 0 if unknown.
      video_field, label_field: for a table; several label fields, comma-separated, are separate questions.
      delimiter, quoting, header, encoding: for a table, see `seqjax.data.readers.tables.Format`.
      bad_files: "stop" raises an error that lists all invalid videos; "leave_out" leaves them out and lists them in the notes.
      labelled: whether labels are required.
      validation_fraction: the share to hold out if there is no validation part.
      seed: of the choice of videos held out.
      workers: threads that check files.
      cache: a folder that records which files were valid; "" for none.
      progress: called with the number of files checked so far and the total.

    Returns:
      A Dataset whose parts are `Videos`; its fact "heads" holds the name and classes of each question.

    Raises:
      UserError: an unknown source or name, malformed files, a setting out of its range or without effect.

    Example:
      >>> data = load_videos("embedded", name="moving_digits")
      >>> {part: len(videos) for part, videos in data.parts.items()}, data.parts["test"].take(0, np.arange(5)).shape
      ({'train': 10000, 'validation': 1000, 'test': 2000}, (5, 20, 20, 1))
      >>> [(name, len(classes)) for name, classes in data.facts["heads"]]
      [('digit', 10), ('direction', 8), ('speed', 3)]
    """
    paths, format = (
        {"train": path, "validation": validation_path, "test": test_path},
        Format(delimiter, quoting, header, encoding),
    )
    of_table = table_settings(format) | {"encoding": Setting(encoding, ("file",), USUAL.encoding)} | {
        "video_field": Setting(video_field, ("file",), "video"), "label_field": Setting(label_field, ("file",), "label"),
    }  # fmt: skip
    of_files = of_table | {
        "image_size": Setting(image_size, ("file",), 0),
        "channels": Setting(channels, ("file",), 3),
        "frame_rate": Setting(frame_rate, ("file",), 0.0),
        "bad_files": Setting(bad_files, ("file",), "stop"),
    }
    check_source(source, {**path_settings(paths), **of_files, "data_dir": Setting(data_dir, ("tfds",))})
    check_name(source, name, EMBEDDED, "set of videos", MNIST)
    check_fractions(validation_fraction)
    check_whole(0, image_size=image_size, seed=seed, workers=workers)
    refuse_unknown(f"channels={channels!r} is not a number of channels", channels, (1, 3))
    refuse_unknown(f"bad_files={bad_files!r} is unknown", bad_files, BAD_FILES)
    notes: tuple[str, ...] = ()
    if source == "embedded":
        parts = _digits(SCENES[name])
        return _dataset(name, parts, notes, made_from=versions("scikit-learn"))
    if source == "tfds":
        refuse_unknown(f"the set of videos {name!r} is not read from TFDS", name, (MNIST,))
        return _dataset(name, _mnist_of_tfds(name, data_dir, validation_fraction, seed), notes)
    if not path:
        raise UserError("source='file' needs a path; give a folder of videos, a table of them, or .npy")
    for given in filter(None, paths.values()):
        if not os.path.exists(os.path.expanduser(given)):
            raise UserError(f"{given} does not exist; check the path (the current folder is {pathlib.Path.cwd()})")
    if not labelled:
        _refuse({"label_field": of_table["label_field"]}, "is for labels, and none are wanted")
    if name == MNIST:
        _refuse(of_files | {"validation_path": Setting(validation_path, ())}, f"is not for name={MNIST!r}")
        parts, notes = _mnist_of_files(path, test_path, validation_fraction, seed)
        return _dataset(name, parts, notes, files=part_files(paths))
    name = file_set_name(name, EMBEDDED, path)
    if path.endswith(".npy"):
        _refuse(of_files, "is for files of one video each, and the data are .npy")
        if labelled:
            raise UserError(f"{path} has no labels; set task='forecast', or give a folder with a folder for each class, or a table")
        parts = {part: ArrayVideos(read_array(place)) for part, place in paths.items() if place}
    else:
        found = _listed(paths, format, of_table, video_field, label_field, labelled)
        parts, notes = _checked(found, image_size, channels, frame_rate, bad_files, workers, cache, progress)
    if "validation" not in parts:
        train = parts["train"]
        kept, held = hold_out(len(train), validation_fraction, seed, name, strata=train.labels)
        parts = {**parts, "train": SomeVideos(train, kept), "validation": SomeVideos(train, held)}
        notes = (
            *notes,
            f"{len(held):,} of {len(kept) + len(held):,} training videos, chosen at random by seed {seed}, are for validation",
        )
    return _dataset(name, parts, notes, files=part_files(paths))


def _refuse(settings: Mapping[str, Setting], why: str) -> None:
    for name, (value, _, usual) in settings.items():
        if value != usual:
            raise UserError(f"{name}={value!r} {why}; leave it at {usual!r}")


def _dataset(name: str, parts: Mapping[str, Videos], notes: Iterable[str], **others: Any) -> Dataset:
    train = parts["train"]
    for part, videos in parts.items():
        if videos.shape != train.shape:
            raise UserError(f"{name}: frames of {part} are {videos.shape}, of train {train.shape}; set image_size")
    heads = [[head.name, list(head.classes)] for head in train.heads]
    classes = train.heads[0].classes if train.heads else ()
    return make_dataset(name, parts, "videos", classes=classes, notes=notes, facts={"heads": heads}, **others)


# Moving digits


def _made(digits: Mapping[str, tuple[np.ndarray, np.ndarray]], scene: Scene, sizes: Mapping[str, int]) -> Mapping[str, Videos]:
    """Videos of each part from its own digits, with its own seed."""
    return {part: MovingDigits(*digits[part], sizes[part], seed=seed, scene=scene) for seed, part in enumerate(sizes)}


def _digits(scene: Scene) -> Mapping[str, Videos]:
    images, labels = read_digits()
    rest, test = hold_out(len(labels), 0.2, 0, "digits", strata=labels)
    kept, held = hold_out(len(rest), 0.1, 0, "digits", strata=labels[rest])
    own = {"train": rest[kept], "validation": rest[held], "test": test}
    return _made({part: (images[which, ..., 0], labels[which]) for part, which in own.items()}, scene, SIZES)


def _mnist(train: tuple[np.ndarray, np.ndarray], fraction: float, seed: int) -> Mapping[str, Videos]:
    """Training and validation videos, from disjoint sets of digits."""
    images, labels = train
    kept, held = hold_out(len(labels), fraction, seed, "mnist", strata=labels)
    digits = {"train": (images[kept], labels[kept]), "validation": (images[held], labels[held])}
    return _made(digits, SCENES[MNIST], {"train": 10_000, "validation": 500})


def _mnist_of_files(path: str, test_path: str, fraction: float, seed: int) -> tuple[Mapping[str, Videos], tuple[str, ...]]:
    found = read_idx_folder(pathlib.Path(os.path.expanduser(path)))
    if found is None:
        raise UserError(f"{path} has no idx files; name={MNIST!r} needs the folder of MNIST's")
    arrays = {part: cast(ArrayImages, images) for part, images in found.parts.items()}
    own = {part: (images.images[..., 0], images.labels) for part, images in arrays.items()}
    parts = _mnist(own["train"], fraction, seed)
    if test_path:
        return {**parts, "test": ArrayVideos(read_array(test_path))}, ()
    if "test" not in own:
        return parts, ()
    test = MovingDigits(*own["test"], 10_000, seed=2, scene=SCENES[MNIST])
    note = "the test videos are made from MNIST's test digits by the published recipe; test_path names the published ones"
    return {**parts, "test": test}, (note,)


def _mnist_of_tfds(name: str, data_dir: str, fraction: float, seed: int) -> Mapping[str, Videos]:
    digits = open_split("mnist", open_builder("mnist", data_dir, NO_DOWNLOAD), "train", NO_DOWNLOAD)
    images = np.stack([np.asarray(example["image"])[..., 0] for example in digits])
    labels = np.array([int(example["label"]) for example in digits])
    videos = open_split(name, open_builder(name, data_dir, NO_DOWNLOAD, needs="test"), "test", NO_DOWNLOAD)
    test = np.stack([np.asarray(example["image_sequence"], np.uint8) for example in videos])
    return {**_mnist((images, labels), fraction, seed), "test": ArrayVideos(test)}


def read_array(path: str) -> np.ndarray:
    """Videos of a `.npy` file, read on demand.

    Args:
      path: uint8 (N, T, H, W) or (N, T, H, W, C); the published `mnist_test_seq.npy` has its frames first, (T, N, H, W).

    Raises:
      UserError: not such a file.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".npy") as file:
      ...     np.save(file, np.zeros((5, 3, 4, 4), np.uint8))
      ...     file.flush()
      ...     read_array(file.name).shape
      (5, 3, 4, 4)
    """
    try:
        found = np.load(os.path.expanduser(path), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        said = str(error).split("\n")[0]
        raise UserError(f"{path} cannot be read as an array ({said}); save uint8 (N, T, H, W) with numpy.save") from None
    return found.swapaxes(0, 1) if os.path.basename(path).startswith("mnist_test_seq") else found


# Files


def _listed(
    paths: Mapping[str, str],
    format: Format,
    of_table: Mapping[str, Setting],
    video_field: str,
    label_field: str,
    labelled: bool,
) -> VideoList:
    train = os.path.expanduser(paths["train"])
    if os.path.isdir(train):
        _refuse(of_table, f"is for tables, and {paths['train']} is a folder")
        _refuse(
            {f"{part}_path": Setting(paths[part], ()) for part in ("validation", "test")},
            "is for tables; a folder has its own parts",
        )
        return list_folder(pathlib.Path(train), labelled)
    if not is_table(train, format):
        raise UserError(f"{paths['train']} is neither a folder nor a table nor .npy; give one of these")
    fields = [field.strip() for field in label_field.split(",") if field.strip()] if labelled else []
    if labelled and not fields:
        raise UserError("label_field is empty; name the field of labels")
    return list_table({part: place for part, place in paths.items() if place}, format, video_field, fields)


def _checked(
    found: VideoList,
    size: int,
    channels: int,
    rate: float,
    bad_files: str,
    workers: int,
    cache: str,
    progress: Progress | None,
) -> tuple[Mapping[str, Videos], tuple[str, ...]]:
    every = [path for paths, _ in found.parts.values() for path in paths]
    file = os.path.join(cache, "videos.json") if cache else ""
    facts, faults, unkept = check_videos(every, workers=workers, cache=file, progress=progress)
    bad, notes = {**found.bad, **faults}, [*unkept]
    if bad and bad_files == "stop":
        listed = Faults(f"{found.root} has videos that cannot be used (or leave them out with bad_files='leave_out')")
        for fault in bad.values():
            listed.add(fault if len(bad) > 1 else f"{fault}; or leave it out with bad_files='leave_out'")
        listed.raise_any()
    if bad:
        notes.append(f"{len(bad):,} of {len(dict.fromkeys(every)) + len(found.bad):,} videos are left out:")
        notes += [f"  {fault}" for fault in list(bad.values())[:MOST_FAULTS]]
    parts = {}
    for part, (paths, answers) in found.parts.items():
        kept = [i for i, path in enumerate(paths) if path in facts]
        if not kept:
            raise UserError(f"{found.root}: no video of the {part} part is valid; repair them")
        own, labels = [paths[i] for i in kept], np.asarray(answers).reshape(len(paths), len(found.heads))[kept]
        how = {"root": found.root, "rate": rate}
        parts[part] = FileVideos(own, [facts[path] for path in own], size, channels, found.heads, labels, **how)
    return parts, tuple(notes)
