"""Tables of images: of labelled files, or of pixels."""

import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from seqjax.data.image_check import Listing
from seqjax.data.image_columns import ArrayImages, Found
from seqjax.data.readers.image_arrays import EMNIST, array_images, name_emnist, number_classes
from seqjax.data.readers.image_folders import SUFFIXES
from seqjax.data.readers.opening import text_lines, unpacked_suffix
from seqjax.data.readers.tables import USUAL, Format, check_format, first_row, read_table, table_rows
from seqjax.data.records import Faults, Records
from seqjax.errors import UserError, nearest

IMAGE_FIELDS = ("image", "path", "file", "filename", "file_name", "image_path", "id", "image_id")  # the ones searched for
LABEL_FIELDS = ("label", "class", "target", "category")
FOLDERS = ("", "images")  # folders beside a table to search for images, besides those named after the table or the part
SAMPLE = 100  # the number of names in a table used to find their folder
LEAST_PIXELS = 16  # from this many fields on, they are taken to be pixels
PIXEL = re.compile(r"(?:pixel|px|p)?_?\d+(?:x\d+)?", re.IGNORECASE)  # names of pixel fields, or the first record


def read_image_tables(
    paths: Mapping[str, str], format: Format = USUAL, *, image_field: str = "", label_field: str = "", folder: str = ""
) -> Listing | Found:
    """The images of one table per part.

    Args:
      paths: part -> `.csv`, `.tsv` or `.jsonl`, as in `seqjax.data.readers.tables.read_table`. Either one field has the image's file and
        another its label; or the first is a class number and all others are the pixels of a square grey image, as in Kaggle's Digit
        Recognizer and in MNIST as csv.
      format: how the tables are written.
      image_field: the field of the file; "" is the first of `IMAGE_FIELDS` present.
      label_field: the field of the label; "" is the first of `LABEL_FIELDS` present, or the only other field.
      folder: the folder that file names are relative to; "" is the table's own folder, or one in it named `images`, like the table or like
        the part, whichever has most of the first files. A name may lack its extension (`a/7` for `a/7.jpg`).

    Returns:
      A Listing, with the classes sorted, as numbers if all are numbers; for pixels, a Found.

    Raises:
      UserError: a malformed table; the message lists all faults with their lines.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     _ = pathlib.Path(name, "train.csv").write_text("id,breed\\n1,pug\\n2,boxer\\n")
      ...     pathlib.Path(name, "train").mkdir()
      ...     for file in ("1.jpg", "2.jpg"):
      ...         pathlib.Path(name, "train", file).touch()
      ...     found = read_image_tables({"train": f"{name}/train.csv"})
      >>> found.classes, [os.path.basename(path) for path in found.parts["train"][0]], found.parts["train"][1]
      (('boxer', 'pug'), ['1.jpg', '2.jpg'], [1, 0])
    """
    check_format(format)
    if _has_pixels(paths["train"], format):
        if image_field or label_field or folder:
            raise UserError(f"{paths['train']} has pixels in its columns; leave image_field, label_field and image_folder empty")
        return _pixels(paths, format)
    tables = {part: _named(path, format, image_field, label_field) for part, path in paths.items()}
    names = set(tables["train"]["label"])
    classes = tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))
    number = {name: label for label, name in enumerate(classes)}
    parts, notes = {}, []
    for part, table in tables.items():
        faults, files = Faults(paths[part]), []
        find = image_finder(paths[part], table["image"][:SAMPLE], folder, also=[part])
        for i, (image, label) in enumerate(zip(table["image"], table["label"])):
            file, fault = find(image)
            if label not in number:
                fault = f"the label {label!r} is not in the training part{nearest(label, classes)}"
            if fault:
                faults.add(f"{table.places.at(i)}: {fault}")
            files.append(file)
        faults.raise_any()
        parts[part] = files, [number[label] for label in table["label"]]
        notes += [*table.notes, *_repeated(files, parts[part][1], paths[part])]
    return Listing(str(pathlib.Path(paths["train"]).parent), classes, parts, notes=tuple(notes))


def _named(path: str, format: Format, image_field: str, label_field: str) -> Records:
    """Columns with the images' names and labels; fields that are not given are found from the first row."""
    names = _first(path, format) if format.header else []
    image = image_field or next((name for name in IMAGE_FIELDS if name in names), "image" if names else "1")
    others = [name for name in names if name != image]
    usual = others[0] if len(others) == 1 else "label" if names else "2"
    label = label_field or next((name for name in LABEL_FIELDS if name in others), usual)
    fields = {"image": ("image_field", image), "label": ("label_field", label)}
    table = read_table(path, fields, format, labels=["label"])
    return table.replace(label=tuple(name.strip() for name in table["label"]))


def _first(path: str, format: Format) -> list[str]:
    """The first row: the names of the fields, if the table has them."""
    if unpacked_suffix(path) != ".jsonl":
        return first_row(path, format)
    line = next((line for line in text_lines(path, format.encoding) if line.strip()), "")
    try:
        return list(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return []  # read_table reports what is wrong


def image_finder(table: str, first: Sequence[str], folder: str = "", also: Sequence[str] = ()) -> Callable[[str], tuple[str, str]]:
    """A function from a name in a table to (its file, what is wrong).

    Args:
      table: the file that names the images.
      first: some of the names, used to find the folder.
      folder: the folder that names are relative to, given relative to the table's; "" takes whichever has most of the first names: the
        table's folder, `images`, one named like the table, or those in `also`.
      also: further folders to search.

    Raises:
      UserError: none of the first names is in any folder.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     pathlib.Path(name, "7.jpg").touch()
      ...     find = image_finder(f"{name}/train.csv", ["7"])
      ...     os.path.basename(find("7")[0])
      '7.jpg'
    """
    beside = pathlib.Path(table).expanduser().parent
    roots = [beside / name for name in ([folder] if folder else [*FOLDERS, pathlib.Path(table).name.split(".")[0], *also])]
    listings: dict[str, dict[str, list[str]]] = {}  # folder -> a name with or without its ending -> the files

    def find(root: pathlib.Path, name: str) -> list[str]:
        where, file = os.path.split(os.path.join(root, name))
        if where not in listings:
            listings[where] = _listing(where)
        return [os.path.join(where, other) for other in listings[where].get(file, ())]

    hits = [sum(bool(find(root, name)) for name in first) for root in roots]
    if not any(hits):
        looked = " or ".join(map(str, dict.fromkeys(roots)))
        raise UserError(f"{table}: none of its images, such as {first[0]!r}, is in {looked}; set image_folder, or image_field")
    root = roots[hits.index(max(hits))]

    def look(name: str) -> tuple[str, str]:
        files = find(root, name) if name.strip() else []
        if len(files) == 1:
            return files[0], ""
        if files:
            return "", f"{name!r} may be {' or '.join(map(os.path.basename, files))}; give it with its ending"
        return "", f"there is no image {name!r} in {root}; repair or remove that line"

    return look


def _listing(folder: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return found  # none of the images exists
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending.lower() in SUFFIXES:
            found.setdefault(stem, []).append(name)
    return found | {name: [name] for name in names}


def _repeated(files: Sequence[str], labels: Sequence[int], path: str) -> list[str]:
    """A note about files that a table names more than once."""
    found: dict[str, list[int]] = {}
    for file, label in zip(files, labels):
        found.setdefault(file, []).append(label)
    again = [several for several in found.values() if len(several) > 1]
    unlike = sum(len(set(several)) > 1 for several in again)
    return [f"{path} names {len(again):,} files more than once, {unlike:,} of them with different labels"] if again else []


def _has_pixels(path: str, format: Format) -> bool:
    names = [] if unpacked_suffix(path) == ".jsonl" else _first(path, format)
    return len(names) > LEAST_PIXELS and all(map(PIXEL.fullmatch, names[1:]))


def _pixels(paths: Mapping[str, str], format: Format) -> Found:
    """The images of tables of pixels; EMNIST's as in `read_idx_folder`."""
    parts = {part: _square(path, format) for part, path in paths.items()}
    table = pathlib.Path(paths["train"])
    if table.name.startswith(EMNIST):
        parts = {part: ArrayImages(images.images.swapaxes(1, 2), images.labels) for part, images in parts.items()}
        return name_emnist(parts, table.with_name(f"{table.name.rsplit('-', 1)[0]}-mapping.txt"))
    return Found(number_classes(parts["train"].labels, str(table)), parts)


def _square(path: str, format: Format) -> ArrayImages:
    names = _first(path, format)
    if format.header and names[0].isdecimal():
        raise UserError(f"{path} line 1 is a record already, and names no fields; set header=False")
    side = math.isqrt(len(names) - 1)
    if side * side != len(names) - 1:
        if format.header and PIXEL.fullmatch(names[0]):
            raise UserError(f"{path} has pixels but no labels; leave it out, or give a table whose first field is the label")
        raise UserError(f"{path} has {len(names) - 1} pixels per image, which is not a square; give grey images of one height and width")
    pixels, labels, faults = bytearray(), [], Faults(path)
    rows = table_rows(path, format, faults, [])
    for number, (label, *values) in itertools.islice(rows, int(format.header), None):
        if not values and not label.strip():
            continue
        try:
            labels.append(np.int64(int(label)))
            pixels += bytes(map(int, values))
        except (ValueError, OverflowError) as error:
            faults.add(f"{path} line {number} has a value that is not a class number or pixel from 0 to 255 ({error}); repair that line")
            continue
        if len(values) != side * side:
            faults.add(f"{path} line {number} has {len(values)} pixels, not {side * side}; repair that line")
    faults.raise_any()
    if not labels:
        raise UserError(f"{path} has no records in it; give a file with some")
    return array_images(np.frombuffer(bytes(pixels), np.uint8).reshape(-1, side, side), np.array(labels, np.int64), path)
