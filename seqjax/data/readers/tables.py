r"""Tables and JSON lines: one record per row, with fields by name or number."""

import contextlib
import csv
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from seqjax.data.readers.opening import byte_chunks, text_lines, unpacked_suffix
from seqjax.data.records import Faults, Places, Records
from seqjax.data.sources import Setting, refuse_given
from seqjax.errors import UserError, nearest, refuse_unknown

ENDINGS = {".csv": ",", ".tsv": "\t", ".jsonl": ""}  # extension -> field separator
DELIMITERS = {"comma": ",", "tab": "\t", "\\t": "\t", "semicolon": ";", "bar": "|", "space": " "}
QUOTING = ("double", "none")
LONGEST_LABEL = 200  # characters; a longer one must be a text taken for a label
MOST_LACKING = 1000  # give up after this many leading records without a field


class Format(NamedTuple):
    """The format of a table. For JSON lines, only the encoding matters."""

    delimiter: str = ""  # a character, or its name: comma, tab, semicolon, bar, space; "" goes by the extension
    quoting: str = "double"  # "double": fields may be in double quotes, with "" for a quote; "none": quotes are text
    header: bool = True  # whether the first row names the fields; if not, they have only numbers
    encoding: str = "utf-8"


USUAL = Format()


def read_table(
    path: str | os.PathLike,
    fields: Mapping[str, tuple[str, str]],
    format: Format = USUAL,
    labels: Collection[str] = (),
) -> Records:
    r"""Columns of a file of records, plain or packed.

      .jsonl       one object per line; lines end in \n alone, blank ones are skipped
      .csv, .tsv   one record per row, blank ones are skipped; a field in quotes may have line breaks
      any other    the same, if `format` has a delimiter

    Args:
      path: the file.
      fields: column -> (the parameter that names the field, for messages; the field). A field of a table may also be given by its number,
        from "1"; a field whose name is that number takes precedence.
      format: how the table is written.
      labels: the columns that hold labels: they may not be empty; in JSON they may also be integers, true or false.

    Returns:
      Records of tuples of str, in file order, each with the line where it starts.

    Raises:
      UserError: a malformed file; the message lists all faults with their lines.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"stars;review\n5;bravo\n1;'boring'\n")
      ...     file.flush()
      ...     fields = {"text": ("text_field", "review"), "label": ("label_field", "1")}
      ...     read_table(file.name, fields, Format(delimiter=";"), labels=["label"]).columns
      {'text': ('bravo', "'boring'"), 'label': ('5', '1')}
    """
    faults, notes, numbers = Faults(str(path)), [], []
    columns: dict[str, list[str]] = {column: [] for column in fields}
    for number, values in _reader(path, format)(path, fields, format, faults, notes):
        numbers.append(number)
        for (column, (setting, field)), value in zip(fields.items(), values):
            if column in labels and isinstance(value, int):
                value = str(value)
            if fault := _fault(value, field, setting, column in labels):
                faults.add(f"{path} line {number}: {fault}")
            columns[column].append(value)
    faults.raise_any()
    if not numbers:
        raise UserError(f"{path} has no records in it; give a file with some")
    return Records({column: tuple(values) for column, values in columns.items()}, Places.of(f"{path} line", numbers), tuple(notes))


def is_table(path: str | os.PathLike, format: Format = USUAL) -> bool:
    """Whether a file is read as a table or as JSON lines, by its extension or because a delimiter is given.

    Example:
      >>> is_table("films.CSV.gz"), is_table("films.txt"), is_table("films.txt", Format("tab"))
      (True, False, True)
    """
    return bool(format.delimiter) or unpacked_suffix(path) in ENDINGS


def first_row(path: str | os.PathLike, format: Format = USUAL) -> list[str]:
    """The first row of a table, which names its fields if there is a header.

    Args:
      path, format: as in `read_table`, but not JSON lines.

    Returns:
      The fields; [] if the row is malformed, which `read_table` reports.

    Raises:
      UserError: a file that cannot be read.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b'text,"label, as given"')
      ...     file.flush()
      ...     first_row(file.name)
      ['text', 'label, as given']
    """
    faults = Faults(str(path))
    row = next((row for _, row in table_rows(path, format, faults, [])), [])
    return [] if len(faults) else row


def separator(delimiter: str, separated: str) -> str:
    """The character of a delimiter; "" if none is given.

    Args:
      delimiter: a character, or its name.
      separated: what the delimiter separates, for the error.

    Raises:
      UserError: an invalid delimiter.

    Example:
      >>> separator("tab", "fields"), separator(";", "fields")
      ('\\t', ';')
    """
    character = DELIMITERS.get(delimiter, delimiter)
    if len(character) > 1 or character in ('"', "\n", "\r"):
        raise UserError(f"delimiter={delimiter!r} cannot separate {separated}; give one character, or {', '.join(DELIMITERS)}")
    return character


def table_settings(format: Format) -> dict[str, Setting]:
    """The settings of a format that apply only to tables: all but the encoding.

    Example:
      >>> table_settings(Format("tab"))["delimiter"]
      Setting(value='tab', sources=('file',), usual='')
    """
    return {name: Setting(value, ("file",), usual) for name, value, usual in zip(Format._fields[:-1], format, USUAL)}


def check_format(format: Format) -> None:
    """Refuse invalid formats.

    Example:
      >>> check_format(Format(quoting="single"))
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: quoting='single' is unknown; choose one of double, none
    """
    refuse_unknown(f"quoting={format.quoting!r} is unknown", format.quoting, QUOTING)
    separator(format.delimiter, "fields")


def _reader(path: str | os.PathLike, format: Format) -> Callable[..., Iterator[tuple[int, list[Any]]]]:
    check_format(format)
    if not is_table(path, format):
        next(byte_chunks(path), None)  # raises if there is no such file
        raise UserError(f"{path} does not have the extension of a table; give a .csv, .tsv or .jsonl (or compressed), or a delimiter")
    if unpacked_suffix(path) != ".jsonl":
        return _rows
    refuse_given(table_settings(format), f"is for tables, and {path} is JSON lines")
    return _objects


def _objects(
    path: str | os.PathLike, fields: Mapping[str, tuple[str, str]], format: Format, faults: Faults, notes: list[str]
) -> Iterator[tuple[int, list[Any]]]:
    """(line, values of the fields) of each record of JSON lines."""
    lacking, complete = [], False  # faults of the records before the first one that has all fields
    for number, line in enumerate(text_lines(path, format.encoding, notes), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            fault = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            faults.add(f"{path} line {number} is not JSON ({fault}); repair that line")
            continue
        if not isinstance(row, dict):
            faults.add(f"{path} line {number} is not a JSON object, {{...}}; repair that line")
            continue
        absent = [(setting, field) for setting, field in fields.values() if field not in row]
        found = [f"{path} line {number} has no field {field!r}{_instead(field, row)}; set {setting}" for setting, field in absent]
        lacking += [found] if found else []
        complete |= not found
        if complete:
            for fault in itertools.chain.from_iterable(lacking):
                faults.add(fault)
            lacking.clear()
        if len(lacking) == MOST_LACKING:
            break
        if not found:
            yield number, [row[field] for _, field in fields.values()]
    for fault in itertools.chain.from_iterable(lacking[:1]):  # a setting is wrong, and every line would report the same
        faults.add(fault)


def _rows(
    path: str | os.PathLike, fields: Mapping[str, tuple[str, str]], format: Format, faults: Faults, notes: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """(line where it starts, values of the fields) of each record of a table."""
    delimiter = _delimiter(path, format)
    first, taken, joined = [], [], 0
    for number, row in table_rows(path, format, faults, notes):
        if not first:
            if len(faults):
                return  # the first row itself is faulty
            first, where = row, f"{path} line {number}"
            taken = [_find(where, row, *names, format, faults) for names in fields.values()]
            if not len(faults):
                _check_distinct(where, taken, fields, faults)
            if len(faults):
                return
            if format.header:
                notes.extend(_numbered_header(path, row, taken, fields))
                continue
        if len(row) != len(first):
            said = "the first line names" if format.header else "the first record has"
            quotes = " (put double quotes around a text that has the delimiter in it)" if format.quoting == "double" else ""
            faults.add(f"{path} line {number} has {len(row)} fields, but {said} {len(first)}; repair that line{quotes}")
            continue
        joined += delimiter == "\t" and any("\n" in field and "\t" in field for field in row)
        yield number, [row[place] for place in taken]
    if joined:
        notes.append(f"{path}: {joined:,} quoted fields have tabs and line breaks in them; if its quotes are text, set quoting=none")


def _delimiter(path: str | os.PathLike, format: Format) -> str:
    return separator(format.delimiter, "fields") or ENDINGS[unpacked_suffix(path)]


def table_rows(path: str | os.PathLike, format: Format, faults: Faults, notes: list[str]) -> Iterator[tuple[int, list[str]]]:
    r"""(line where it starts, all fields) of each non-blank row of a table, including the header.

    Args:
      path, format: as in `read_table`, but not JSON lines.
      faults: collects malformed rows.
      notes: collects notes about the text.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b'text,label\n"a\nfilm",pos\n\nb,neg')
      ...     file.flush()
      ...     list(table_rows(file.name, USUAL, Faults(file.name), []))
      [(1, ['text', 'label']), (2, ['a\nfilm', 'pos']), (5, ['b', 'neg'])]
    """
    delimiter = _delimiter(path, format)
    lines, read = text_lines(path, format.encoding, notes), 0
    if format.quoting == "none":
        yield from ((number, line.split(delimiter)) for number, line in enumerate(lines, 1) if line)
        return

    def pieces() -> Iterator[str]:
        nonlocal read
        for line in lines:
            *heads, last = line.split("\r")  # ends a row too, outside quotes
            yield from (f"{head}\r" for head in heads)
            read += 1
            yield f"{last}\n"

    reader = csv.reader(pieces(), delimiter=delimiter, strict=True)
    with _fields_of_any_length():
        while True:
            begin = read + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                faults.add(
                    f"{path} line {begin} is not valid ({error}); double the quotes inside a quoted text, or set quoting=none "
                    "where quotes are text"
                )
                continue
            if row:
                yield begin, row


@contextlib.contextmanager
def _fields_of_any_length() -> Iterator[None]:
    limit = csv.field_size_limit(2**31 - 1)  # global to the process, so it is restored
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _find(where: str, first: list[str], setting: str, field: str, format: Format, faults: Faults) -> int:
    """The index of a field in a row; -1, with a fault, if there is none."""
    names = first if format.header else []
    if names.count(field) > 1:
        faults.add(f"{where} names two fields {field!r}; give each its own name, or set {setting} to a number from 1 to {len(first)}")
    known = {str(place + 1): place for place in range(len(first))} | {name: place for place, name in enumerate(names)}
    if field in known:
        return known[field]
    if len(first) == 1 and (other := next((d for d in ",;\t|" if d in first[0]), "")):
        advice = f"its fields may be separated by another delimiter: {other!r}"
    elif format.header:
        advice = f"set {setting}, or, if that line is a record already, header=False and numbers of fields"
    else:
        advice = f"set {setting} to a number from 1 to {len(first)}"
    only = _instead(field, first) if format.header else f": there is no header, and the first record is {_listed(first)}"
    faults.add(f"{where} has no field {field!r}{only}; {advice}")
    return -1


def _check_distinct(where: str, taken: list[int], fields: Mapping[str, tuple[str, str]], faults: Faults) -> None:
    """Refuses two settings for the same field, one by name and one by number."""
    for i, place in enumerate(taken):
        if place in taken[:i]:
            settings = [f"{setting}={field!r}" for (setting, field), at in zip(fields.values(), taken) if at == place]
            faults.add(
                f"{where}: {' and '.join(settings)} are one field, number {place + 1}; name a field for each, or, if that line is a "
                "record already, set header=False (a name goes before a number)"
            )


def _numbered_header(path: str | os.PathLike, row: list[str], taken: list[int], fields: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Notes that the first line is not read as a record, for users who give fields by number."""
    if any(field.isdecimal() for _, field in fields.values()):
        chosen = ", ".join(f"{column} is field {place + 1}" for column, place in zip(fields, taken))
        yield (
            f"{path}: the first line ({_listed(row)}) names the fields and is not read as a record ({chosen}); if it is one, "
            "set header=False"
        )


def _instead(field: str, names: Collection[str]) -> str:
    return f"{nearest(field, names)}, only {_listed(names)}"


def _listed(names: Collection[str]) -> str:
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in list(names)[:20]]
    return ", ".join(shown + ["..."] * (len(names) > 20)) or "none"


def _fault(value: Any, field: str, setting: str, is_label: bool) -> str:
    """What is wrong with a value; "" for nothing."""
    if not isinstance(value, str):
        said = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        return f"{field!r} is {said}" + (
            "; a label is a string, a whole number, true or false" if is_label else ", not a string; repair that line"
        )
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        return f"{field!r} holds half a surrogate pair, which is not a character; repair that line"
    if is_label and len(value) > LONGEST_LABEL:
        return f"{field!r} has {len(value)} characters, too many for a label; set {setting}"
    if is_label and not value.strip():
        return f"{field!r} is empty; give a label, or leave the line out"
    return ""


def read_inputs(path: str, text_field: str = "text", format: Format = USUAL) -> list[str]:
    r"""Reads texts to make predictions for.

    Args:
      path: a file, plain or packed, or "-" for standard input. In a `.jsonl`, `.csv` or `.tsv` the texts are one field. Otherwise each line
        is a text; an empty line is an empty text, and a final newline adds none.
      text_field: the field's name or number.
      format: how a table is written; its encoding applies to any file.

    Returns:
      The texts, in order.

    Raises:
      UserError: a file that cannot be read, or is empty.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"a fine film\n\nnot so fine\n")
      ...     file.flush()
      ...     read_inputs(file.name)
      ['a fine film', '', 'not so fine']
    """
    if not path:
        raise UserError("no file of texts was named; give a path, or - for the standard input")
    if is_table(path):
        return list(read_table(path, {"text": ("text_field", text_field)}, format)["text"])
    return list(text_lines(path, format.encoding))
