"""The files that each of several processes wrote of a checkpoint, reported to the first one with checksums.

    checkpoints/1300.saving/shares/1.json   {"files": {name: [size, SHA-256]}, "sha256": ...}, while it is being written

Orbax lets every process write the parts of arrays that its devices hold. Each then brings its own files to the disk and says what is in
them; the first process holds what it reads there against that before it writes the manifest.
"""

import json
import pathlib
import time

from seqjax.errors import UserError
from seqjax.training.checkpoints.manifest import MANIFEST, checksum, file_digests
from seqjax.training.disk import remove, sync, write_atomically

SHARES = "shares"
LIMIT = 300.0  # seconds that a process waits for the files of another one, the same as in Orbax
_OFTEN = 0.02


def writer_of(name: str) -> int:
    """Which process wrote a file of a checkpoint that all wrote together; what is not in a folder of a process's is the first one's.

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
    """Says what this process wrote of a checkpoint, once all of it is on the disk.

    Args:
      saving: the directory that is being written.
      index: this process's.
      limit: seconds until the directory must be seen, which the first process has just given its name.

    Raises:
      UserError: it is not.
    """
    _wait_for(saving, saving.is_dir, limit)
    own = file_digests(saving, MANIFEST, lambda name: writer_of(name) == index)
    for path in [saving / name for name in own]:
        sync(path)
        sync(path.parent)
    (saving / SHARES).mkdir(exist_ok=True)
    write_atomically(saving / SHARES / f"{index}.json", json.dumps({"files": own, "sha256": checksum({"files": own})}))


def collect(saving: pathlib.Path, count: int, *, limit: float = LIMIT) -> dict[str, list]:
    """The digests of all files of a checkpoint, as this process reads them, where they are those that their writers told.

    Args:
      saving: the directory that is being written; what was told is removed from it.
      count: of the processes.
      limit: seconds that each has to tell.

    Returns:
      name -> [size, SHA-256].

    Raises:
      UserError: a file is not what its writer wrote, or a process has not told.
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
    """Waits until another process's file or directory can be seen."""
    end = time.monotonic() + limit
    while not there():
        if time.monotonic() > end:
            raise UserError(f"{path} of another process has not appeared within {limit:g} seconds; do all see the same disk?")
        time.sleep(_OFTEN)
