r"""Files of texts, with labels or without: JSON lines, tables, and folders of text files."""

import csv
import difflib
import io
import json
import os
import pathlib
import sys
from typing import Any, Iterator, Mapping, NamedTuple

from seqjax.data.files import decode_text, read_bytes
from seqjax.errors import UserError

TABLES = {".csv": "excel", ".tsv": "excel-tab"}  # the ending -> the dialect of Python's csv
ABOUT = ("LICENCE", "LICENSE", "NOTICE", "README", "SOURCE")  # text files that tell about a data set

LONGEST_LABEL = 200  # a longer one is a text that was taken for a label


class Records(NamedTuple):
    """Texts and labels as they stand in files."""

    texts: list[str]
    labels: list[str]
    places: list[str]  # of each, as errors name it: the file, and the line where it begins
    notes: tuple[str, ...]  # what was left out


def read_records(path: str, text_field: str, label_field: str) -> Records:
    r"""All texts and labels of a file or a folder.

      .jsonl       an object a line; lines end in \n alone, blank ones are skipped
      .csv, .tsv   the first row names the fields; quoted fields may go over lines
      a folder     of a text file a class, a text a line, blank ones skipped; or of a folder a class, a text a file

    Files are UTF-8, plain or `.gz`. \r\n is read as \n. A label is a string, a whole number or true or false. In a
    folder whose text files are classes, README.txt, LICENSE.txt, NOTICE.txt and SOURCE.txt are not; in one whose
    folders are classes, `unsup`, where reviews without labels lie, is not. That is noted.

    Args:
      path: of the file or folder.
      text_field, label_field: what the two are called in a file; not used for a folder.

    Returns:
      Records, in the order of the file, or of the names in a folder.

    Raises:
      UserError: with file and line: whatever cannot be read, a missing field, or a label that is none.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"stars,review\n5,bravo\n1,'boring'\n")
      ...     file.flush()
      ...     read_records(file.name, "review", "stars")[:2]
      (['bravo', "'boring'"], ['5', '1'])
    """
    place = pathlib.Path(os.path.expanduser(path))
    records = _folder(path, place) if _is_folder(place) else _file(path, text_field, label_field)
    if not records.texts:
        raise UserError(f"{path} has no records in it; give some texts and labels")
    return records


def read_inputs(path: str, text_field: str = "text") -> list[str]:
    r"""Texts to make predictions for.

    Args:
      path: a file, plain or `.gz`, or "-" for the standard input. Of a `.jsonl`, `.csv` or `.tsv` the texts are one
        field. Else each line is a text; an empty line is an empty text, and a final newline adds none.
      text_field: what that field is called.

    Returns:
      The texts, in order.

    Raises:
      UserError: whatever cannot be read, or has nothing in it.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"a fine film\n\nnot so fine\n")
      ...     file.flush()
      ...     read_inputs(file.name)
      ['a fine film', '', 'not so fine']
    """
    if path == "-":
        return _lines("standard input", _standard_input())
    if not path:
        raise UserError("no file of texts was named; give a path, or - for the standard input")
    if _kind(path):
        texts = [_text(where, row, text_field, "text_field") for where, row in _rows(path)]
        if not texts:
            raise UserError(f"{path} has no records in it; give a file with some texts")
        return texts
    return _lines(path, read_bytes(path))


def is_folder(path: str) -> bool:
    """Whether there is a folder at this path.

    Example:
      >>> is_folder("/"), is_folder("a\\0b")
      (True, False)
    """
    return _is_folder(pathlib.Path(os.path.expanduser(path)))


def _is_folder(place: pathlib.Path) -> bool:
    try:
        return place.is_dir()
    except (OSError, ValueError):  # a name too long, or with a null character; reading it says so
        return False


def _kind(path: str) -> str:
    """ ".jsonl", ".csv", ".tsv" or ""."""
    ending = pathlib.Path(path.removesuffix(".gz")).suffix
    return ending if ending in (".jsonl", *TABLES) else ""


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise UserError("there is no standard input here; give the path of a file instead of -")
    return sys.stdin.buffer.read()


def _lines(path: str, data: bytes) -> list[str]:
    return decode_text(path, data).removesuffix("\n").split("\n")


# Files of records


def _file(path: str, text_field: str, label_field: str) -> Records:
    texts, labels, places = [], [], []
    for where, row in _rows(path):
        texts.append(_text(where, row, text_field, "text_field"))
        labels.append(_label(where, row, label_field))
        places.append(where)
    return Records(texts, labels, places, ())


def _rows(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, fields by name) of each record."""
    kind = _kind(path)
    data = read_bytes(path)
    if not kind:
        raise UserError(
            f"{path} is no file of texts with labels; give a .jsonl, .csv or .tsv (or .gz of one), or a folder"
        )
    text = decode_text(path, data)
    return _json_rows(path, text) if kind == ".jsonl" else _table_rows(path, text, TABLES[kind])


def _json_rows(path: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            fault = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{where} is not JSON ({fault}); mend that line") from None
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object, {{...}}; mend that line")
        yield where, row


def _table_rows(path: str, text: str, dialect: str) -> Iterator[tuple[str, dict[str, str]]]:
    # A field may be as long as the file. The limit is the process's own, so it is put back.
    limit = csv.field_size_limit(len(text) + 1)
    reader = csv.reader(io.StringIO(text, newline=""), dialect, strict=True)
    header: list[str] = []
    begin = 1
    try:
        for row in reader:
            where, begin = f"{path} line {begin}", reader.line_num + 1
            if not row:
                continue
            if not header:
                header = row
                if len(set(row)) < len(row):
                    raise UserError(f"{where} names two fields alike ({', '.join(row)}); give each its own name")
            elif len(row) != len(header):
                raise UserError(
                    f"{where} has {len(row)} fields, but the first line names {len(header)}; mend that line, "
                    "with double quotes around a text that has the separator in it"
                )
            else:
                yield where, dict(zip(header, row))
    except csv.Error as error:
        raise UserError(f"{path} line {begin} is not sound ({error}); double the quotes inside a quoted text") from None
    finally:
        csv.field_size_limit(limit)


def _field(where: str, row: Mapping[str, Any], field: str, setting: str) -> Any:
    if field in row:
        return row[field]
    near = difflib.get_close_matches(field, row, 1)
    hint = f" (nearest: {near[0]})" if near else ""
    raise UserError(f"{where} has no field {field!r}{hint}, only {', '.join(row) or 'none'}; set {setting}")


def _text(where: str, row: Mapping[str, Any], field: str, setting: str) -> str:
    text = _field(where, row, field, setting)
    if not isinstance(text, str):
        raise UserError(f"{where}: {field!r} is {_short(text)}, not a string; mend that line")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: {field!r} holds half a surrogate pair, which is no character; mend that line"
        ) from None
    return text


def _label(where: str, row: Mapping[str, Any], field: str) -> str:
    label = _field(where, row, field, "label_field")
    if not isinstance(label, (str, int)):
        raise UserError(f"{where}: {field!r} is {_short(label)}; a label is a string, a whole number, true or false")
    label = _text(where, {field: str(label)}, field, "label_field")
    if len(label) > LONGEST_LABEL:
        raise UserError(f"{where}: {field!r} has {len(label)} characters, too many for a label; set label_field")
    if not label.strip():
        raise UserError(f"{where}: {field!r} is empty; give the text its label, or leave the line out")
    return label


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."


# Folders


def _folder(path: str, place: pathlib.Path) -> Records:
    try:
        inside = sorted(place.iterdir())
        folders = [folder for folder in inside if _text_files(folder)]
    except PermissionError:
        raise UserError(
            f"{path} may not be read by this user; change its permissions, or give another folder"
        ) from None
    if not folders and (place / "train").is_dir():
        raise UserError(f"{path} has a folder train; give that as the path, and the others as the other parts' paths")
    if folders:
        return _folder_of_folders(folders)
    files = _text_files(place)
    if not files:
        raise UserError(
            f"{path} has no .txt files in it; give a folder with a file of lines for each class, a folder with a "
            "folder of texts for each class, or a .jsonl, .csv or .tsv"
        )
    return _folder_of_lines(files)


def _text_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.name.endswith((".txt", ".txt.gz")) and file.is_file())


def _folder_of_lines(files: list[pathlib.Path]) -> Records:
    texts, labels, places, notes = [], [], [], ()
    for file in files:
        label = file.name.removesuffix(".gz").removesuffix(".txt")
        if label in ABOUT:
            notes = (*notes, f"{file.name} was left out: it is about the data, not a class")
            continue
        for number, line in enumerate(_lines(str(file), read_bytes(str(file))), 1):
            if line.strip():
                texts.append(line.strip())
                labels.append(label)
                places.append(f"{file} line {number}")
    return Records(texts, labels, places, notes)


def _folder_of_folders(folders: list[pathlib.Path]) -> Records:
    texts, labels, places, notes = [], [], [], ()
    for folder in folders:
        if folder.name == "unsup":
            notes = (*notes, "unsup was left out: its texts have no labels")
            continue
        for file in _text_files(folder):
            texts.append(decode_text(str(file), read_bytes(str(file))).strip())
            labels.append(folder.name)
            places.append(f"{file} line 1")
    return Records(texts, labels, places, notes)
