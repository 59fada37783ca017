"""Folders of labelled texts: one file of lines per class, or one folder of files per class."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from seqjax.data.readers.folders import PART_NAMES, dead_link, named_parts, visible
from seqjax.data.readers.opening import PACKED, read_text, text_lines
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError

ABOUT = ("README", "LICENSE", "LICENCE", "NOTICE", "SOURCE")  # text files about a dataset; the first three in any case
MOST_NOTES = 5  # notes about characters that suggest a wrong encoding


def part_folders(path: str | os.PathLike) -> dict[str, str]:
    """The parts of a folder: "train" -> the path of its folder `Train`, and so on.

    Args:
      path: the folder.

    Returns:
      Part -> path; empty if the folder has no training part, or if that is one of several classes: trains, buses, cars.

    Raises:
      UserError: two folders for one part.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name in ("Train", "val"):
      ...         (pathlib.Path(folder) / name).mkdir()
      ...     list(part_folders(folder))
      ['train', 'validation']
    """
    folders = [entry for entry in visible(pathlib.Path(os.path.expanduser(path))) if entry.is_dir()]
    found = {part: str(folder) for part, folder in named_parts(path, folders).items()}
    return found if "train" in found and (len(found) > 1 or len(folders) == 1) else {}


def read_text_folder(path: str | os.PathLike, encoding: str = "utf-8") -> Records:
    """Texts and labels of a folder; files are `.txt`, plain or packed.

      pos/1.txt, neg/1.txt   one folder of texts per class; `unsup`, for reviews without labels, is not a class
      pos.txt, neg.txt       one file of lines per class, blank ones skipped; README.txt and the like are not classes

    White space around texts is stripped. Notes say what is left out; names that start with a dot are ignored.

    Args:
      path: the folder.
      encoding: the encoding of the files.

    Returns:
      Records with columns "text" and "label", sorted by name.

    Raises:
      UserError: no texts, or unreadable files (all listed): dangling links, no permission, another encoding.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for label in ("pos", "neg"):
      ...         _ = (pathlib.Path(folder) / f"{label}.txt").write_text(f"so {label}")
      ...     read_text_folder(folder).columns
      {'text': ('so neg', 'so pos'), 'label': ('neg', 'pos')}
    """
    place, faults, notes = pathlib.Path(os.path.expanduser(path)), Faults(str(path)), []
    inside = visible(place)
    for fault in filter(None, map(dead_link, inside)):
        faults.add(fault)
    files = {folder: _texts_in(folder, faults) for folder in inside if folder.is_dir()}
    if any(files.values()):
        found = _folders(files, encoding, faults, notes)
    else:
        found = _files([file for file in inside if _is_text(file)], encoding, faults, notes)
    rows = list(found)
    faults.raise_any()
    if not rows:
        raise UserError(_nothing(path, inside))
    texts, labels, names, numbers = zip(*rows)
    distinct = {name: which for which, name in enumerate(dict.fromkeys(names))}
    places = Places(tuple(distinct), np.array([distinct[name] for name in names], np.int32), np.array(numbers, np.int64))
    if len(notes) > MOST_NOTES:
        notes = [*notes[:MOST_NOTES], f"... and {len(notes) - MOST_NOTES:,} more such notes on {path}"]
    return Records({"text": texts, "label": labels}, places, tuple(notes))


def _folders(
    files: dict[pathlib.Path, list[pathlib.Path]], encoding: str, faults: Faults, notes: list[str]
) -> Iterator[tuple[str, str, str, int]]:
    """(text, label, name of its file, line) of each text."""
    for folder, texts in files.items():
        if folder.name == "unsup":
            notes.append("unsup was left out: its texts have no labels")
            continue
        if not texts:
            notes.append(f"{folder.name} was left out: it has no .txt files directly in it")
        for file in texts if _is_label(folder, folder.name, faults) else ():
            try:
                yield read_text(file, encoding, notes).strip(), folder.name, f"{file} line", 1
            except UserError as error:
                faults.add(dead_link(file) or error)


def _files(files: list[pathlib.Path], encoding: str, faults: Faults, notes: list[str]) -> Iterator[tuple[str, str, str, int]]:
    """(text, label, name of its file, line) of each line."""
    labels = [file.name[: file.name.lower().rindex(".txt")] for file in files]
    parts = {label: PART_NAMES[label.lower()] for label in labels if label.lower() in PART_NAMES}
    if len(parts) > 1 and "train" in parts.values():
        raise UserError(f"{files[0].parent} has files called {', '.join(parts)}: those are parts, not classes; give a table a part")
    for file, label in zip(files, labels):
        if label in ABOUT or label.upper() in ABOUT[:3]:
            notes.append(f"{file.name} was left out: it is about the data, not a class")
            continue
        if not _is_label(file, label, faults):
            continue
        try:
            for number, line in enumerate(text_lines(file, encoding, notes), 1):
                if line.strip():
                    yield line.strip(), label, f"{file} line", number
        except UserError as error:
            faults.add(dead_link(file) or error)


def _texts_in(folder: pathlib.Path, faults: Faults) -> list[pathlib.Path]:
    try:
        return list(filter(_is_text, visible(folder)))
    except UserError as error:
        faults.add(error)
        return []


def _is_text(entry: pathlib.Path) -> bool:
    ends = entry.name.lower().endswith((".txt", *(f".txt{ending}" for ending in PACKED)))
    return ends and not entry.is_dir() and (entry.is_file() or entry.is_symlink())


def _is_label(entry: pathlib.Path, label: str, faults: Faults) -> bool:
    sound = label.isascii() or not any("\ud800" <= c <= "\udfff" for c in label)
    if not sound:
        faults.add(f"{entry}: the name, which is the label of its texts, is not UTF-8; rename it")
    return sound


def _nothing(path: str | os.PathLike, inside: list[pathlib.Path]) -> str:
    if any(map(_is_text, inside)):
        return f"{path} has no records in it; give some texts and labels"
    there = ", ".join(entry.name for entry in inside[:8]) or "nothing"
    return (
        f"{path} has no .txt files in it, only {there}; give a folder with a file of lines for each class, a folder with a "
        "folder of texts for each class, or a .jsonl, .csv or .tsv"
    )
