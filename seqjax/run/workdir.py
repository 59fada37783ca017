"""The work directory of a run: one process at a time, one config for good, small files written whole or not at all."""

import contextlib
import fcntl
import json
import os
import pathlib
import sys
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
        """Makes sure that the work directory is still the one that was locked; cheap enough for every record.

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


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[Lock]:
    """Holds the work directory for this process; the lock ends with the process, however it ends.

    Raises:
      UserError: another process holds it, or the directory cannot be made or written.
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
        yield Lock(workdir, file)


def refuse_another_config(
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    fields: Mapping[str, settings.Field],
    *,
    defaults: Mapping[str, Any] = {},
) -> None:
    """Makes sure that a config resumes the run in the work directory, if there is one.

    It is compared with the settings inside the newest good checkpoint, not with config.json. Fields that the table marks
    as free may differ, and all of them as long as nothing was saved.

    Args:
      workdir: the run's directory.
      config: JSON values.
      fields: the experiment's table.
      defaults: of settings that may be younger than the checkpoint, by names with dots.

    Raises:
      UserError: the directory holds a run with another config; names the fields that differ.
    """
    saved = saved_config(workdir, defaults)
    differ = [] if saved is None else settings.differences(saved[1], config, fields)
    if differ:
        raise UserError(
            f"the work directory {workdir} holds a run with another config ({'; '.join(differ)}); "
            "use that config to resume it, or another --workdir"
        )


def saved_config(workdir: pathlib.Path, defaults: Mapping[str, Any] = {}) -> tuple[int, dict[str, Any]] | None:
    """The step of the newest good checkpoint and the config it was trained with; None where there is none."""
    checkpoints = Checkpoints(workdir, keep=1, defaults=defaults)
    try:
        found = checkpoints.newest_meta()
    finally:
        checkpoints.close()
    return None if found is None else (found[0], found[1]["config"])


def claim(
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    fields: Mapping[str, settings.Field],
    *,
    experiment: str = "",
    defaults: Mapping[str, Any] = {},
    report: Callable[[str], None] = print,
) -> Run:
    """Records the run in the work directory and writes its config there, unless another run is there.

    Args:
      workdir: the run's directory, held by this process.
      config, fields, defaults: as for refuse_another_config.
      experiment: its name; "" where it is not to be compared.
      report: called with a line where the config there was missing or another than the checkpoint's.

    Returns:
      The run: its id, and the experiment's name.

    Raises:
      UserError: as `refuse_another_config`, or the run is of another experiment.
    """
    refuse_another_config(workdir, config, fields, defaults=defaults)
    run = begin(workdir, experiment, report=report)
    _say_of_copy(workdir, saved_config(workdir, defaults), fields, report)
    path, text = workdir / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n"
    with refusals(f"{path} cannot be written", "make room, or choose another --workdir"):
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomically(path, text)
    return run


def read_config(
    workdir: pathlib.Path,
    *,
    fields: Mapping[str, settings.Field] | None = None,
    defaults: Mapping[str, Any] = {},
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> dict[str, Any]:
    """Reads the config of the run in a work directory: that of the newest good checkpoint, or else config.json.

    Args:
      workdir: the run's directory.
      fields: the experiment's table; a free field of config.json may differ without a word.
      defaults: of settings that may be younger than the checkpoint, by names with dots.
      report: called with a line where config.json differs from the checkpoint; standard error.

    Raises:
      UserError: there is no run in it, or it has no checkpoint and its config file is damaged.
    """
    saved = saved_config(workdir, defaults)
    if saved is not None:
        _say_of_copy(workdir, saved, fields, report)
        return saved[1]
    return _read_copy(workdir)


def _say_of_copy(workdir, saved: tuple[int, dict[str, Any]] | None, fields, report) -> None:
    """Says where config.json, the copy for people, is not what the newest checkpoint holds."""
    if saved is None:
        return
    step, config = saved
    try:
        copy = _read_copy(workdir)
    except UserError:
        report(f"{workdir / CONFIG} is missing or damaged; the settings are those of checkpoint {step}")
        return
    known = settings.flatten(config)
    mine = settings.nest(known | settings.flatten(copy))  # without the settings that are younger than the copy
    differ = settings.differences(mine, config, fields)
    if differ:
        report(f"{workdir / CONFIG} differs from checkpoint {step}, which counts ({'; '.join(differ)})")


def _read_copy(workdir: pathlib.Path) -> dict[str, Any]:
    path = workdir / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no run in {workdir} (no {CONFIG}); train one first with the same --workdir") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {refusal(error)}; try again, or use another --workdir") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it or use another --workdir") from error
    return config


def write_json_lines(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> pathlib.Path:
    """Writes a line of JSON for each row, whole or not at all.

    Returns:
      The path.
    """
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def refuse_other_data(folder: pathlib.Path, what: str, fingerprint: str, meta: Mapping[str, Any]) -> None:
    """Refuses data that are not those a checkpoint was trained on.

    Args:
      folder: the work directory.
      what: the data, such as "the texts of imdb".
      fingerprint: of them.
      meta: of the checkpoint, with `facts.fingerprint`.

    Raises:
      UserError: the fingerprints differ.
    """
    if meta["facts"]["fingerprint"] != fingerprint:
        raise UserError(f"{what} are not those that the run in {folder} began with; restore them, or use another --workdir")
