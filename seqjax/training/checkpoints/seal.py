"""Seals of checkpoints: the sizes and checksums of all files of a folder, by which every change is found out."""

import hashlib
import json
import os
import pathlib

from seqjax.training.disk import write_atomically

SEAL = "SEAL.json"


def seal(folder: pathlib.Path) -> None:
    """Writes the sizes and checksums of all files in a finished checkpoint beside them.

    The files are brought to the disk before and the folder's own name after, so a loss of power, too, leaves a sealed
    checkpoint whole.

    Args:
      folder: of one checkpoint, inside the folder of all of them.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as run:
      ...     folder = pathlib.Path(run) / "checkpoints" / "7"
      ...     folder.mkdir(parents=True)
      ...     (folder / "state").write_bytes(b"123") and seal(folder)
      ...     print(damage(folder))
      ...     (folder / "state").write_bytes(b"12") and print(damage(folder))
      None
      state has changed since it was saved
    """
    for path in (*folder.rglob("*"), folder):
        _sync(path)
    write_atomically(folder / SEAL, json.dumps(_digests(folder), indent=1, sort_keys=True) + "\n")
    _sync(folder.parent)
    _sync(folder.parent.parent)  # the name of a checkpoints/ that is new


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage(folder: pathlib.Path) -> str | None:
    """Says what is wrong with a checkpoint; None where it is exactly what was saved.

    Every byte of every file counts, and a file too many or too few does.
    """
    try:
        text = (folder / SEAL).read_text(encoding="utf-8")
        expected = json.loads(text)
        # Written one way only: a seal that reads the same but is not the same bytes was touched too.
        if not isinstance(expected, dict) or json.dumps(expected, indent=1, sort_keys=True) + "\n" != text:
            return f"{SEAL} is damaged"
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except ValueError:
        return f"{SEAL} is damaged"
    found = _digests(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} does not belong there"
        if expected[name] != found[name]:
            return f"{name} has changed since it was saved"
    return None


def _digests(folder: pathlib.Path) -> dict[str, list]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != SEAL and not name.startswith(f".{SEAL}"):
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[name] = [path.stat().st_size, digest]
    return digests
