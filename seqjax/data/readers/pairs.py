"""Sentences with their translations: two files, line by line, or two fields of one table."""

import os

from seqjax.data.readers.opening import text_lines
from seqjax.data.readers.tables import Format, read_table
from seqjax.data.records import Places, Records
from seqjax.errors import UserError


def read_line_pairs(path: str | os.PathLike, target_path: str | os.PathLike, encoding: str = "utf-8") -> Records:
    r"""Pairs of corresponding lines of two files.

    Args:
      path, target_path: text, plain or packed, one sentence per line: line i of one translates line i of the other. Lines end at \n alone,
        and a final newline adds no line.
      encoding: the encoding of both.

    Returns:
      Records with columns "source" and "target".

    Raises:
      UserError: a file that cannot be read or is empty, or unequal numbers of lines.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile() as german, tempfile.NamedTemporaryFile() as english:
      ...     for file, text in ((german, "zwei Männer\nein Hund\n"), (english, "two men\na dog")):
      ...         _ = file.write(text.encode())
      ...         file.flush()
      ...     read_line_pairs(german.name, english.name).columns
      {'source': ('zwei Männer', 'ein Hund'), 'target': ('two men', 'a dog')}
    """
    notes: list[str] = []
    source, target = (tuple(text_lines(file, encoding, notes)) for file in (path, target_path))
    if len(source) != len(target):
        raise UserError(
            f"{path} has {len(source)} lines and {target_path} has {len(target)}; line i of one must translate line i of the other"
        )
    places = Places.of(f"{path} line", range(1, len(source) + 1))
    return Records({"source": source, "target": target}, places, tuple(notes))


def read_table_pairs(path: str | os.PathLike, source_field: str, target_field: str, format: Format) -> Records:
    r"""Pairs from two fields of a table or of JSON lines.

    Args:
      path: the file, see `read_table`.
      source_field, target_field: the names of the fields, or their numbers from "1".
      format: how the table is written.

    Returns:
      Records with columns "source" and "target".

    Raises:
      UserError: as `read_table`.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write("Go.\tGeh.\tCC-BY 2.0\nHi!\tHallo!\tCC-BY 2.0\n".encode())
      ...     file.flush()
      ...     read_table_pairs(file.name, "1", "2", Format("tab", "none", header=False)).columns
      {'source': ('Go.', 'Hi!'), 'target': ('Geh.', 'Hallo!')}
    """
    return read_table(path, {"source": ("source_field", source_field), "target": ("target_field", target_field)}, format)
