"""The files of a checkpoint written by each of several processes, reported to the first one with checksums.

    checkpoints/1300.saving/shares/1.json   {"files": {name: [size, SHA-256]}, "sha256": ...}, while it is being written

With Orbax every process writes the array shards that its devices hold. Each then syncs its own files to the disk and reports their digests;
the first process compares them with what it reads before it writes the manifest.
"""

import json
import pathlib
import time

from seqjax.errors import UserError
from seqjax.training.checkpoints.manifest import MANIFEST, checksum, file_digests
from seqjax.training.disk import remove, sync, write_atomically

SHARES = "shares"
LIMIT = 300.0  # seconds that a process waits for the files of another, as in Orbax
_OFTEN = 0.02


def writer_of(name: str) -> int:
    """The process that wrote a file of a jointly written checkpoint; files outside a process's folder are the first one's.

    Args:
      name: the path within the checkpoint.

    Example:
      >>> [writer_of(name) for name in ("state/ocdbt.process_3/d/ab", "state/array_metadatas/process_12", "state/d/ab", "meta/metadata")]
      [3, 12, 0, 0]
    """
    for part in pathlib.PurePosixPath(name).parts:
        number = part.removeprefix("ocdbt.").removeprefix("process_")
        if part in (f"ocdbt.process_{number}", f"process_{number}") and number.isdecimal():
            return int(number)
    return 0


def tell(saving: pathlib.Path, index: int, *, limit: float = LIMIT) -> None:
    """Reports what this process wrote of a checkpoint, once all of it is on the disk.

    Args:
      saving: the directory being written.
      index: this process's index.
      limit: seconds until the directory, which the first process has just renamed, must be visible.

    Raises:
      UserError: it is not visible in time.
    """
    _wait_for(saving, saving.is_dir, limit)
    own = file_digests(saving, MANIFEST, lambda name: writer_of(name) == index)
    for path in [saving / name for name in own]:
        sync(path)
        sync(path.parent)
    (saving / SHARES).mkdir(exist_ok=True)
    write_atomically(saving / SHARES / f"{index}.json", json.dumps({"files": own, "sha256": checksum({"files": own})}))


def collect(saving: pathlib.Path, count: int, *, limit: float = LIMIT) -> dict[str, list]:
    """The digests of all files of a checkpoint as read by this process, checked against their writers' reports.

    Args:
      saving: the directory being written; the reports are removed from it.
      count: the number of processes.
      limit: seconds each process has to report.

    Returns:
      name -> [size, SHA-256].

    Raises:
      UserError: a file differs from what its writer reported, or a process has not reported.
    """
    told: dict[str, list] = {}
    for index in range(1, count):
        path = saving / SHARES / f"{index}.json"
        _wait_for(path, path.is_file, limit)
        told |= _read(path, index)
    remove(saving / SHARES)
    seen = file_digests(saving, MANIFEST)
    for name in sorted(told.keys() | {name for name in seen if 0 < writer_of(name)}):
        if told.get(name) != seen.get(name):
            raise _other(saving / name, writer_of(name))
    return seen


def _read(path: pathlib.Path, index: int) -> dict[str, list]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["sha256"] == checksum({"files": found["files"]}):
            return found["files"]
    except (ValueError, KeyError, TypeError):
        pass  # damaged
    raise _other(path, index)


def _other(path: pathlib.Path, index: int) -> UserError:
    return UserError(
        f"{path} is not what process {index} wrote, as process 0 reads it; do all see the same disk? "
        "The earlier checkpoints are untouched: the same command resumes from the newest"
    )


def _wait_for(path: pathlib.Path, there, limit: float) -> None:
    """Waits until another process's file or directory is visible."""
    end = time.monotonic() + limit
    while not there():
        if time.monotonic() > end:
            raise UserError(f"{path} of another process has not appeared within {limit:g} seconds; do all see the same disk?")
        time.sleep(_OFTEN)
