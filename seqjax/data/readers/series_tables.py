"""Tables of time series: long form, with one row per series and time, or wide form, with one column per series."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.readers.opening import unpacked_suffix
from seqjax.data.readers.parquet import is_parquet, parquet_names, read_parquet
from seqjax.data.readers.tables import Format, first_row, is_table, read_table
from seqjax.data.readers.times import Times, join_parts, read_times
from seqjax.data.records import Faults, Records
from seqjax.errors import UserError

FORMS = ("long", "wide")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "?", "-", "."})  # in any case
MOST_CLASSES = 100  # classes of a categorical covariate
At = Callable[[Any], str]


class Fields(NamedTuple):
    """The roles of a table's columns: names, or numbers from "1"."""

    time: str = ""  # one, or several, comma-separated: year,month,day,hour or date,time; "" is the first column
    value: str = ""  # long form: one; "" is the only other. Wide form: those of the series; "" is all others
    series: str = ""  # long form: the column that names the series; "" if there is one series
    known: tuple[str, ...] = ()  # covariates known in the future
    past: tuple[str, ...] = ()  # covariates known in the past only
    static: tuple[str, ...] = ()  # features that do not change within a series


class Table(NamedTuple):
    """The rows of a table, in the order of the file."""

    path: str
    at: At  # row -> its location in the file
    lines: np.ndarray  # (N,), the line number of each row
    times: Times
    series: np.ndarray  # (N,) indices into the names
    names: tuple[str, ...]
    value: np.ndarray  # float64 (N,), NaN where missing; wide form (N, S)
    known: dict[str, Sequence[str]]  # covariate -> as written
    past: dict[str, Sequence[str]]
    static: dict[str, Sequence[str]]
    notes: tuple[str, ...]


def named(fields: str) -> tuple[str, ...]:
    """The names of a setting that lists columns.

    Example:
      >>> named("holiday, price"), named("")
      (('holiday', 'price'), ())
    """
    return tuple(filter(None, (name.strip() for name in fields.split(","))))


def read_series_table(path: str | os.PathLike, fields: Fields, form: str, format: Format, time_format: str = "") -> Table:
    """The rows of a table of series, `.csv` or `.tsv` (or any file if a delimiter is given) or `.parquet`, plain or packed.

    Args:
      path: the file.
      fields: the roles of its columns.
      form: "long" or "wide".
      format: how a text table is written.
      time_format: as in `read_times`.

    Raises:
      UserError: a malformed file; the message lists all faults with their lines.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"month,flights\\n2024-01,7\\n2024-02,NA\\n")
      ...     file.flush()
      ...     table = read_series_table(file.name, Fields(), "long", Format())
      >>> table.names, table.value, table.times.wall.astype("datetime64[M]").astype(str).tolist()
      (('flights',), array([ 7., nan]), ['2024-01', '2024-02'])
    """
    chosen = _columns(path, fields, form, format)
    records = _read(path, chosen, format)
    at, faults = records.places.at, Faults(str(path))
    times = read_times(join_parts([records[f"time {i}"] for i in range(chosen.times)], chosen.time_names), at, faults, time_format)
    values = np.stack([_numbers(records[f"value {i}"], name, at, faults) for i, name in enumerate(chosen.value_names)], axis=1)
    if form == "long":
        keys = [key.strip() for key in records["series"]] if fields.series else []
        for i, key in enumerate(keys):
            if not key:
                faults.add(f"{at(i)}: {fields.series!r} is empty; name the series of that line")
        names = tuple(dict.fromkeys(keys)) if fields.series else chosen.value_names
        number = {name: place for place, name in enumerate(names)}
        series = np.array([number[key] for key in keys], np.int64) if fields.series else np.zeros(len(records), np.int64)
        values = values[:, 0]
    else:
        series, names = np.zeros(len(records), np.int64), chosen.value_names
    faults.raise_any()
    known, past, static = (
        {name: records[f"{kind} {name}"] for name in group}
        for kind, group in (("known", fields.known), ("past", fields.past), ("static", fields.static))
    )
    notes = (*records.notes, *times.notes)
    return Table(str(path), at, records.places.numbers, times, series, names, values, known, past, static, notes)


class _Chosen(NamedTuple):
    fields: dict[str, tuple[str, str]]  # as `read_table` takes them
    times: int
    time_names: tuple[str, ...]
    value_names: tuple[str, ...]


def _columns(path: str | os.PathLike, fields: Fields, form: str, format: Format) -> _Chosen:
    """The columns to read, including those found by default."""
    if form == "wide" and (fields.series or fields.static):
        setting = "series_field" if fields.series else "static_fields"
        raise UserError(f"{setting} is for form=long, where a column names the series; leave it empty with form=wide")
    names = column_names(path, format)
    time_names = named(fields.time) or (names[0],)
    value_names = named(fields.value)
    used = {*time_names, fields.series, *fields.known, *fields.past, *fields.static}
    used |= {names[int(name) - 1] for name in used if name.isdecimal() and name not in names and 0 < int(name) <= len(names)}
    if not value_names:
        left = tuple(name for name in names if name not in used)
        if not left or (form == "long" and len(left) > 1):
            of = ", ".join(left[:20]) or "none is left"
            raise UserError(f"{path}: nothing says which column has the values; set value_field ({of}), or form=wide for a series a column")
        value_names = left
    if form == "long" and len(value_names) > 1:
        raise UserError(f"value_field={fields.value!r} names several columns; name one, or set form=wide for a series a column")
    wanted = {f"time {i}": ("time_field", name) for i, name in enumerate(time_names)}
    wanted |= {"series": ("series_field", fields.series)} if fields.series else {}
    wanted |= {f"value {i}": ("value_field", name) for i, name in enumerate(value_names)}
    for kind in ("known", "past", "static"):
        wanted |= {f"{kind} {name}": (f"{kind}_fields", name) for name in getattr(fields, kind)}
    return _Chosen(wanted, len(time_names), time_names, value_names)


def column_names(path: str | os.PathLike, format: Format) -> tuple[str, ...]:
    """The names of a table's columns; their numbers if it has no header.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"2024,1,5\\n")
      ...     file.flush()
      ...     column_names(file.name, Format(header=False))
      ('1', '2', '3')
    """
    if os.fspath(path) == "-":
        raise UserError("a table of series is not read from the standard input; write it to a file, and give its path")
    if is_parquet(path):
        return parquet_names(path)
    if not is_table(path, format) or unpacked_suffix(path) == ".jsonl":
        raise UserError(f"{path} does not have the extension of a table of series; give a .csv, .tsv or .parquet, or set a delimiter")
    row = first_row(path, format)
    if not row:
        read_table(path, {"time": ("time_field", "1")}, format)  # reports what is wrong with it
        raise UserError(f"{path} has no columns; give a file with some")
    return tuple(row) if format.header else tuple(str(i + 1) for i in range(len(row)))


def _read(path: str | os.PathLike, chosen: _Chosen, format: Format) -> Records:
    if is_parquet(path):
        return read_parquet(path, chosen.fields)
    return read_table(path, chosen.fields, format)


# Numbers and categories


def is_missing(text: str) -> bool:
    """Whether a field marks a missing value.

    Example:
      >>> [is_missing(text) for text in ("", "NA", " nan ", "?", "0")]
      [True, True, True, True, False]
    """
    return text.strip().lower() in MISSING


def _numbers(texts: Sequence[str], name: str, at: At, faults: Faults) -> np.ndarray:
    found = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        text = text.strip()
        if NUMBER.fullmatch(text):
            found[i] = float(text)
            if np.isinf(found[i]):
                faults.add(f"{at(i)}: {name!r} is {text[:60]!r}, which is too large; repair that line")
        elif not is_missing(text):
            advice = "write a point for the decimal comma" if DECIMAL_COMMA.fullmatch(text) else "repair that line"
            faults.add(f"{at(i)}: {name!r} is {text[:60]!r}, which is not a number; {advice}")
    return found


class Covariates(NamedTuple):
    """Covariates as numbers: a categorical one has a column for each of its classes."""

    values: np.ndarray  # float32 (N, K), NaN where missing
    names: tuple[str, ...]  # such as "price", or "wind=NE" for a class
    classes: dict[str, list[str]]  # category -> its classes


def encode_covariates(
    columns: Mapping[str, Sequence[str]], rows: int, at: At, faults: Faults, classes: Mapping[str, Sequence[str]] | None = None
) -> Covariates:
    """Converts covariates from text to numbers, with one-hot columns for categories.

    A column is categorical if at least half of its entries are not numbers.

    Args:
      columns: covariate -> its entries, as written.
      rows: the number of entries.
      at: the location of each entry.
      faults: collects entries that are not numbers, and unknown classes.
      classes: categorical covariate -> its classes, if they are fixed; else those found, sorted by name.

    Example:
      >>> found = encode_covariates({"wind": ["NE", "NW", "?"], "rain": ["0", "NA", "2"]}, 3, "line {}".format, Faults("a.csv"))
      >>> found.names, found.values.tolist(), found.classes
      (('wind=NE', 'wind=NW', 'rain'), [[1.0, 0.0, 0.0], [0.0, 1.0, nan], [nan, nan, 2.0]], {'wind': ['NE', 'NW']})
    """
    values, names, found = [np.zeros((rows, 0), np.float32)], [], {}
    for name, texts in columns.items():
        fixed = None if classes is None else classes.get(name)
        given = [text.strip() for text in texts]
        if fixed is None and (classes is not None or _is_numeric(given)):
            values.append(_numbers(given, name, at, faults)[:, None])
            names.append(name)
            continue
        known = list(fixed) if fixed is not None else sorted({text for text in given if not is_missing(text)})
        if len(known) > MOST_CLASSES:
            faults.add(f"{at(0)}: {name!r} has {len(known):,} different texts, too many for a category; name a column of numbers")
            continue
        found[name] = known
        names += [f"{name}={label}" for label in known]
        values.append(np.stack([*_one_hot(given, name, known, at, faults)], axis=0).reshape(rows, len(known)))
    return Covariates(np.concatenate(values, axis=1).astype(np.float32), tuple(names), found)


def _is_numeric(texts: Sequence[str]) -> bool:
    there = [text for text in texts if not is_missing(text)]
    return sum(NUMBER.fullmatch(text) is not None for text in there) * 2 > len(there) or not there


def _one_hot(texts: Sequence[str], name: str, classes: Sequence[str], at: At, faults: Faults) -> Iterator[np.ndarray]:
    rows = {label: row for label, row in zip(classes, np.eye(len(classes)))}
    missing = np.full(len(classes), np.nan)
    for i, text in enumerate(texts):
        if text not in rows and not is_missing(text):
            known = ", ".join(classes[:20])
            faults.add(f"{at(i)}: {name!r} is {text[:60]!r}, which is none of its classes ({known}); correct that line")
        yield rows.get(text, missing)
