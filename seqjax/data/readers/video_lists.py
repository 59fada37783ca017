"""The videos of a folder or a table, with their labels and parts; no file is opened."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from seqjax.data.readers.folders import named_parts, visible
from seqjax.data.readers.image_folders import NOT_MEANT
from seqjax.data.readers.image_folders import SUFFIXES as IMAGES
from seqjax.data.readers.tables import Format, read_table
from seqjax.data.readers.videos import is_video
from seqjax.data.records import Faults
from seqjax.data.video_columns import Head
from seqjax.errors import UserError, nearest


class VideoList(NamedTuple):
    """Videos with their labels, not yet opened."""

    root: str  # the folder that paths are relative to
    heads: tuple[Head, ...]
    parts: dict[str, tuple[list[str], list[tuple[int, ...]]]]  # part -> paths and labels
    bad: dict[str, str] = {}  # path -> what is wrong with it, judged by its name alone


def list_folder(folder: pathlib.Path, labelled: bool = True) -> VideoList:
    """The videos of a folder.

    Args:
      folder: has `train/CLASS/...` (and `val/CLASS/...`, `test/CLASS/...`), or `CLASS/...`. A video is a file, or a folder of its frames.
      labelled: whether there are classes; without them the videos are in the folder itself, or in those of the parts.

    Raises:
      UserError: no classes, no videos, or a part with a class that the training part lacks.

    Example:
      >>> import os, tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     for file in ("cat/1.mp4", "dog/2.avi", "dog/3/frame1.png"):
      ...         path = pathlib.Path(name, file)
      ...         path.parent.mkdir(parents=True, exist_ok=True)
      ...         path.touch()
      ...     found = list_folder(pathlib.Path(name))
      >>> found.heads[0].classes, [os.path.basename(path) for path in found.parts["train"][0]], found.parts["train"][1]
      (('cat', 'dog'), ['1.mp4', '2.avi', '3'], [(0,), (1,), (1,)])
    """
    bad: dict[str, str] = {}
    folders = [path for path in visible(folder) if path.is_dir()]
    places = named_parts(folder, folders)
    places = places if "train" in places else {"train": folder}
    if not labelled:
        return VideoList(str(folder), (), {part: _alike(_videos(place, bad)) for part, place in places.items()}, bad)
    found = {part: _classes(place, bad) for part, place in places.items()}
    classes = tuple(found["train"])
    parts = {}
    for part, own in found.items():
        for name in own:
            if name not in classes:
                known = f"{len(classes)} are known"
                raise UserError(f"{places[part] / name} is not a class of the training part{nearest(name, classes)}; {known}")
        pairs = [(path, (classes.index(name),)) for name, paths in own.items() for path in paths]
        parts[part] = [path for path, _ in pairs], [label for _, label in pairs]
    return VideoList(str(folder), (Head("class", classes),), parts, bad)


def _alike(paths: Sequence[str]) -> tuple[list[str], list[tuple[int, ...]]]:
    return list(paths), [()] * len(paths)


def _classes(folder: pathlib.Path, bad: dict[str, str]) -> dict[str, list[str]]:
    inside = [path for path in visible(folder) if path.is_dir()]
    if not inside:
        raise UserError(f"{folder} has no folders of classes; put videos into a folder for each class, such as {folder.name}/CLASS/1.mp4")
    found = {}
    for path in inside:
        if any(inner.suffix.lower() in IMAGES for inner in visible(path)):
            raise UserError(f"{path} has images in it; put the frames of each video into a folder, such as {path.name}/1/frame1.png")
        found[path.name] = _videos(path, bad)
    return found


def _videos(folder: pathlib.Path, bad: dict[str, str]) -> list[str]:
    found = []
    for path in visible(folder):
        if path.is_dir() or is_video(path):
            found.append(str(path))
        elif path.name.lower() not in NOT_MEANT:
            bad[str(path)] = f"{path} is not a video by its name; take it out of the folder"
    if not found:
        raise UserError(f"{folder} has no videos in it; add some, or remove it")
    return found


def list_table(paths: Mapping[str, str], format: Format, video_field: str, label_fields: Sequence[str]) -> VideoList:
    """The videos of one table per part.

    Args:
      paths: part -> table.
      format: how the tables are written.
      video_field: the field with a file or folder, relative to the table's folder.
      label_fields: the fields of labels, one per question; () if nothing is asked.

    Raises:
      UserError: a malformed table; the message lists all faults with their lines.

    Example:
      >>> import os, tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     for file in ("1.mp4", "2.mp4"):
      ...         pathlib.Path(name, file).touch()
      ...     _ = pathlib.Path(name, "all.csv").write_text("video,who,way\\n1.mp4,ada,left\\n2.mp4,ben,left\\n")
      ...     found = list_table({"train": f"{name}/all.csv"}, Format(), "video", ["who", "way"])
      >>> [head.classes for head in found.heads], found.parts["train"][1]
      ([('ada', 'ben'), ('left',)], [(0, 0), (1, 0)])
    """
    fields = {"video": ("video_field", video_field)} | {f"label {name}": ("label_field", name) for name in label_fields}
    columns = [f"label {name}" for name in label_fields]
    tables = {part: read_table(path, fields, format, labels=columns) for part, path in paths.items()}
    heads = tuple(Head(name, _sorted(tables["train"][f"label {name}"])) for name in label_fields)
    parts = {}
    for part, table in tables.items():
        faults, files, answers = Faults(paths[part]), [], []
        beside = pathlib.Path(paths[part]).expanduser().parent
        for i, video in enumerate(table["video"]):
            file, given = beside / video.strip(), [table[column][i].strip() for column in columns]
            if not video.strip() or not file.exists():
                faults.add(f"{table.places.at(i)}: there is no video {video!r} in {beside}; repair or remove that line")
            for head, label in zip(heads, given):
                if label not in head.classes:
                    faults.add(f"{table.places.at(i)}: the label {label!r} is not in the training part{nearest(label, head.classes)}")
            files.append(str(file))
            answers.append(tuple(head.classes.index(label) if label in head.classes else -1 for head, label in zip(heads, given)))
        faults.raise_any()
        parts[part] = files, answers
    return VideoList(str(pathlib.Path(paths["train"]).expanduser().parent), heads, parts)


def _sorted(labels: Sequence[str]) -> tuple[str, ...]:
    names = {label.strip() for label in labels}
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))
