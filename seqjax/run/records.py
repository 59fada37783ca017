"""The records of a run: metrics.jsonl, a line of JSON each, and the same as a table in metrics.csv."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from seqjax.errors import UserError
from seqjax.training.disk import write_atomically

METRICS, TABLE = "metrics.jsonl", "metrics.csv"

_ADVICE = {
    errno.EISDIR: "move it away",
    errno.EEXIST: "move it away",
    errno.ENOTDIR: "move it away",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
}


@contextlib.contextmanager
def accessing(path: pathlib.Path, what: str = "written") -> Iterator[None]:
    """Turns an OSError about a file into a one-line UserError that names the file.

    Args:
      path: of the file.
      what: the operation: "written" or "read".

    Raises:
      UserError: in place of an OSError.

    Example:
      >>> with accessing(pathlib.Path("/nowhere/a"), "read"):
      ...     open("/nowhere/a")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: /nowhere/a cannot be read: No such file or directory; the same command resumes the run
    """
    try:
        yield
    except OSError as error:
        advice = f"{_ADVICE[error.errno]}, then " if error.errno in _ADVICE else ""
        reason = error.strerror or str(error)
        saved = " (what was saved before is untouched)" if what == "written" else ""
        raise UserError(f"{path} cannot be {what}: {reason}; {advice}the same command resumes the run{saved}") from error


def read_records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the records of a run's metrics file in order; a last line that was cut off by a crash is left out.

    Raises:
      UserError: the file cannot be read, or is damaged.
    """
    path = workdir / METRICS
    if not path.exists():
        return []
    try:
        with accessing(path, "read"):
            *lines, rest = path.read_text(encoding="utf-8").split("\n")  # a complete file ends with a newline
        records = [_parse(number, line) for number, line in enumerate(lines, start=1)]
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); move it away and run the command again") from error
    if rest:
        print(f"{path}: the last line was cut off; it is ignored", file=sys.stderr)
    return records


def best_evaluation(records: Iterable[dict[str, Any]], criterion: str) -> dict[str, Any] | None:
    """The step and the metrics of the best evaluation of a run; None if there is none.

    Args:
      records: from read_records.
      criterion: the metric that decides; the lowest is the best.

    Example:
      >>> losses = {3: 0.5, 6: 0.25, 9: None}
      >>> best_evaluation([{"kind": "evaluation", "step": step, "loss": loss} for step, loss in losses.items()], "loss")
      {'step': 6, 'loss': 0.25}
    """
    found = [record for record in records if record["kind"] == "evaluation" and record.get(criterion) is not None]
    if not found:
        return None
    best = min(found, key=lambda record: record[criterion])
    return {name: value for name, value in best.items() if name not in ("kind", "best", "minutes")}


def _parse(number: int, line: str) -> dict[str, Any]:
    record = json.loads(line)
    if not (isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("kind"), str)):
        raise ValueError(f"line {number} is not a record with kind and step")
    return record


def _line_of(record: dict[str, Any]) -> str:
    """One line of JSON; numbers that are not finite become null, since JSON cannot express them."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


class RecordFiles:
    """The two files of records, open for appending.

    After a resume from step s the records of later steps, which will be made again, are taken out first, so the files read
    like those of a run never stopped. A row of the table is there as soon as its record is; where a record brings a new
    name, the table is written again with one more column. Samples, which are text, are not in the table.

    Args:
      workdir: of the run.
      first_step: the step that the run starts or resumes from.

    Raises:
      UserError: a file cannot be written, or metrics.jsonl is damaged.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        self._workdir, self._path, self._table = workdir, workdir / METRICS, workdir / TABLE
        kept = [record for record in read_records(workdir) if record["step"] <= first_step]
        with accessing(self._path):
            write_atomically(self._path, "".join(map(_line_of, kept)))
            self._file = open(self._path, "ab", buffering=0)  # nothing is left for close() if a write fails
        try:
            self._write_table(kept)
        except UserError:
            self._file.close()
            raise

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record, which is on the disk when this returns."""
        line = memoryview(_line_of(record).encode("utf-8"))
        with accessing(self._path):
            if not _is_at(self._file.fileno(), self._path):
                raise UserError(f"{self._path} was moved or removed while the run was writing to it; the run stops here")
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())  # before the checkpoint that follows it
        if not _has_row(record):
            return
        if record.keys() <= set(self._columns):
            with accessing(self._table), open(self._table, "a", encoding="utf-8", newline="") as file:
                file.write(_rows([record], self._columns))
        else:
            self._write_table(read_records(self._workdir))

    def close(self) -> None:
        """Writes the table a last time, from metrics.jsonl, and closes the files."""
        self._file.close()
        self._write_table(read_records(self._workdir))

    def abandon(self) -> None:
        """Closes the files of a failed run as they are."""
        self._file.close()

    def _write_table(self, records: list[dict[str, Any]]) -> None:
        records = [record for record in records if _has_row(record)]
        self._columns = list(dict.fromkeys(["kind", "step", *(name for record in records for name in record)]))
        with accessing(self._table):
            write_atomically(self._table, _rows(records, self._columns, header=True))


def _has_row(record: dict[str, Any]) -> bool:
    return record["kind"] != "sample"


def _rows(records: Iterable[dict[str, Any]], columns: list[str], *, header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(json.loads(_line_of(record)) for record in records)  # an empty cell where the number is not finite
    return text.getvalue()


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Whether a path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
