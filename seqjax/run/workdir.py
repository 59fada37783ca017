"""The work directory of a run: one process at a time, one fixed config, and atomic writes of small files."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from seqjax.errors import UserError
from seqjax.run import settings
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.checkpoints.record import Run, begin
from seqjax.training.disk import refusal, refusals, write_atomically

CONFIG = "config.json"


class Lock:
    """A work directory that this process holds; see `locked`."""

    def __init__(self, workdir: pathlib.Path, file: TextIO):
        self._workdir, self._file = workdir, file

    def check(self) -> None:
        """Checks that the work directory is still the one that was locked; cheap enough to call for every record.

        Raises:
          UserError: it was removed or replaced, or cannot be looked at.
        """
        try:
            there, held = os.stat(self._workdir / "lock"), os.fstat(self._file.fileno())
            same = (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
        except (FileNotFoundError, NotADirectoryError):
            same = False
        except OSError as error:
            raise UserError(f"the work directory {self._workdir} cannot be read: {refusal(error)}") from error
        if not same:
            raise UserError(
                f"the work directory {self._workdir} was removed or replaced during training; what was trained since the "
                "last checkpoint in it is lost: restore it, or start again"
            )


class Unlocked:
    """The work directory for processes that do not write: the first process holds the lock."""

    def check(self) -> None:
        """Does nothing: the first process checks."""


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[Lock]:
    """Holds the work directory for this process; the lock ends with the process, however it ends.

    Raises:
      UserError: another process holds it, or the directory cannot be made or written; in place of another error, that the
        directory was removed meanwhile.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / "lock", "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write in the work directory {workdir}: {refusal(error)}; choose another --workdir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"the work directory {workdir} is in use by process {owner}; wait for it, stop it, or choose another --workdir"
            ) from None
        except OSError as error:
            raise UserError(f"cannot lock the work directory {workdir}: {refusal(error)}; choose one on a local disk") from error
        with refusals(f"cannot write in the work directory {workdir}", "choose another --workdir"):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        lock = Lock(workdir, file)
        try:
            yield lock
        except (UserError, OSError):
            lock.check()  # if the directory is gone, that is the cause
            raise


def claim(
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    *,
    experiment: str = "",
    defaults: Mapping[str, Any] = {},
    report: Callable[[str], None] = print,
) -> Run:
    """Records the run in the work directory, and writes its settings there as a readable copy.

    What the settings are compared with when a run is resumed is inside its checkpoints; where the copy says something else,
    that is reported, and it is written again.

    Args:
      workdir: the run's directory, held by this process.
      config: JSON values; those of the run, as far as they are not free.
      experiment: its name; "" if it is not to be recorded.
      defaults: of settings that may be younger than the checkpoints, by names with dots.
      report: called with a line where the copy or the record was missing or wrong.

    Returns:
      The run: its id, and the experiment's name.

    Raises:
      UserError: the run is of another experiment, no checkpoint can be used, or the disk refuses.
    """
    run = begin(workdir, experiment, report=report)
    checkpoints = Checkpoints(workdir, keep=1, defaults=defaults)
    try:
        saved = checkpoints.newest_meta()
    finally:
        checkpoints.close()
    path, text = workdir / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n"
    with refusals(f"{path} cannot be read or written", "repair that, or choose another --workdir"):
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        if saved is not None and "config" in saved[1]:
            _compare(path, before, *saved, report)
        if before != text:
            write_atomically(path, text)
    return run


def _compare(path: pathlib.Path, text: str | None, step: int, meta: Mapping[str, Any], report) -> None:
    """Reports where config.json differs from the newest checkpoint."""
    try:
        copy = json.loads(text or "")
        if not isinstance(copy, dict):
            raise ValueError("not an object")
    except ValueError:
        how = "missing" if text is None else "damaged"
        report(f"{path} was {how}; it was written again: the settings are those in checkpoint {step}")
        return
    kept = settings.flatten(meta["config"])
    differ = settings.differences(settings.nest(kept | settings.flatten(copy)), meta["config"])
    if differ:
        report(f"{path} was not what checkpoint {step} holds, which counts ({'; '.join(differ)})")


def write_json_lines(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> pathlib.Path:
    """Writes a line of JSON for each row, atomically.

    Returns:
      The path.
    """
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
