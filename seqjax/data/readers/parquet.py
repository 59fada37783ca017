"""Parquet files: their columns as text, so that one reader checks and reads tables of any kind."""

import io
import os
from collections.abc import Mapping
from typing import Any

from seqjax.data.readers.opening import read_bytes, unpacked_suffix
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError, missing, nearest


def is_parquet(path: str | os.PathLike) -> bool:
    """Whether a file is Parquet, by its extension.

    Example:
      >>> is_parquet("a.parquet"), is_parquet("a.PQ.zst"), is_parquet("a.csv")
      (True, True, False)
    """
    return unpacked_suffix(path) in (".parquet", ".pq")


def parquet_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The names of a Parquet file's columns.

    Raises:
      UserError: the file cannot be read, or pyarrow is not installed.

    Example:
      >>> parquet_names("nowhere.parquet")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: nowhere.parquet does not exist; ...
    """
    return tuple(_open(path).schema_arrow.names)


def read_parquet(path: str | os.PathLike, fields: Mapping[str, tuple[str, str]]) -> Records:
    """Columns of a Parquet file as text, as in a text table; "" for a missing value.

    Args:
      path: the file.
      fields: column -> (the parameter that names the field, for messages; the field).

    Returns:
      Records of tuples of str, each with the number of its row, from 1.

    Raises:
      UserError: the file cannot be read, lacks these columns or has no rows, or pyarrow is not installed.

    Example:
      >>> read_parquet("nowhere.parquet", {})  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: nowhere.parquet does not exist; ...
    """
    file, faults = _open(path), Faults(str(path))
    names = file.schema_arrow.names
    for setting, field in fields.values():
        if names.count(field) != 1:
            many = "has two columns" if field in names else f"has no column {field!r}{nearest(field, names)}, only {', '.join(names[:20])};"
            faults.add(f"{path} {many} set {setting}")
    faults.raise_any()
    table = file.read(columns=list(dict.fromkeys(field for _, field in fields.values())))
    if not table.num_rows:
        raise UserError(f"{path} has no records in it; give a file with some")
    columns = {column: _texts(path, table.column(field), field) for column, (_, field) in fields.items()}
    return Records(columns, Places.of(f"{path} row", range(1, table.num_rows + 1)))


def _open(path: str | os.PathLike) -> Any:
    content = read_bytes(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing(f"{path} is Parquet and needs pyarrow", "forecasting") from None
    try:
        return pyarrow.parquet.ParquetFile(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a valid Parquet file ({str(error).splitlines()[0][:100]}); recreate it") from None


def _texts(path: str | os.PathLike, column: Any, name: str) -> tuple[str, ...]:
    import pyarrow
    import pyarrow.compute

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind):
        raise UserError(f"{path}: the column {name!r} is of the type {kind}, which is neither text, number nor time; name another")
    if pyarrow.types.is_floating(kind):
        return tuple("" if value is None or value != value else repr(value) for value in column.to_pylist())
    texts = column.cast(pyarrow.string()).to_pylist()
    return tuple("" if text is None else text for text in texts)
