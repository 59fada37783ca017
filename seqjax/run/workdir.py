"""The work folder of a run: one process at a time, one config for good, small files written whole or not at all."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from seqjax.errors import UserError
from seqjax.run import settings
from seqjax.training.disk import write_atomically


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the work folder for this process; the lock ends with the process, however it ends.

    Raises:
      UserError: another process holds it, or the folder cannot be made or written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / "lock", "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write in the work folder {workdir}: {error.strerror}; choose another --workdir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"the work folder {workdir} is in use by process {owner}; wait for it, stop it, or choose another --workdir"
            ) from None
        except OSError as error:
            raise UserError(f"cannot lock the work folder {workdir}: {error.strerror}; choose one on a local disk") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def refuse_another_config(
    workdir: pathlib.Path, config: Mapping[str, Any], fields: Mapping[str, settings.Field]
) -> None:
    """Makes sure that a config goes on with the run in the work folder, if there is one.

    Fields that the table marks as free may differ, and all of them as long as nothing was saved.

    Args:
      workdir: the run's folder.
      config: JSON values.
      fields: the experiment's table.

    Raises:
      UserError: the folder holds a run with another config; names the fields that differ.
    """
    saved = workdir / "checkpoints"
    if (workdir / "config.json").exists() and saved.is_dir() and any(saved.iterdir()):
        differ = settings.differences(read_config(workdir), config, fields)
        if differ:
            raise UserError(
                f"the work folder {workdir} holds a run with another config ({'; '.join(differ)}); "
                "use that config to go on with it, or another --workdir"
            )


def claim(workdir: pathlib.Path, config: Mapping[str, Any], fields: Mapping[str, settings.Field]) -> None:
    """Writes the run's config into the work folder, unless another run is there.

    Raises:
      UserError: as `refuse_another_config`.
    """
    refuse_another_config(workdir, config, fields)
    path, text = workdir / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the config of the run in a work folder.

    Raises:
      UserError: there is no run in it, or its config file is damaged.
    """
    path = workdir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no run in {workdir} (no config.json); train one first with the same --workdir") from None
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
      folder: the work folder.
      what: the data, such as "the texts of imdb".
      fingerprint: of them.
      meta: of the checkpoint, with `facts.fingerprint`.

    Raises:
      UserError: the fingerprints differ.
    """
    if meta["facts"]["fingerprint"] != fingerprint:
        raise UserError(f"{what} are not those that the run in {folder} began with; restore them, or use another --workdir")
