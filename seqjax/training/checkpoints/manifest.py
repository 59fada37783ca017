"""Checksum manifests: the run, the step and every file of a checkpoint, so that any change is detected.

    checkpoints/1200/MANIFEST.json   {"format": 2, "run": ..., "step": 1200, "files": {name: [size, SHA-256]}, "sha256": ...}

The last entry is the checksum of everything before it.

Formats 0 and 1 have `SEAL.json` instead, which lists only the files.
"""

import hashlib
import json
import os
import pathlib
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from seqjax.errors import UserError
from seqjax.training.disk import refusal, sync, write_atomically

FORMAT = 2
MANIFEST = "MANIFEST.json"
SEAL = "SEAL.json"  # the manifest of formats 0 and 1


class Manifest(NamedTuple):
    """The expected content of a checkpoint."""

    name: str  # the file's name: MANIFEST or SEAL
    run: str  # the run's id; "" in a SEAL
    step: int | None  # None in a SEAL
    files: dict[str, list]  # name -> [size, SHA-256]


DAMAGED, STRANGER, UNREADABLE = "is damaged", "does not belong there", "cannot be read"


class Fault(Exception):
    """Why a checkpoint cannot be used.

    Args:
      why: what is wrong.
      verdict: DAMAGED, STRANGER, or UNREADABLE: the disk cannot read it now, so it may be intact and readable later.
    """

    def __init__(self, why: str, verdict: str = DAMAGED):
        super().__init__(why)
        self.why, self.verdict = why, verdict

    def __str__(self) -> str:
        return f"{self.verdict} ({self.why})"

    @property
    def unreadable(self) -> bool:
        """Whether it may be readable later."""
        return self.verdict == UNREADABLE


def write_manifest(folder: pathlib.Path, run: str, step: int, digests: dict[str, list] | None = None) -> None:
    """Writes the manifest of a finished checkpoint into it.

    All files are synced to the disk first, so a checkpoint with a manifest is complete even after a power failure.

    Args:
      folder: the checkpoint's directory.
      run: the run's id.
      step: the checkpoint's step.
      digests: name -> [size, SHA-256] of its files; None computes them.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as run:
      ...     folder = pathlib.Path(run) / "7"
      ...     folder.mkdir()
      ...     (folder / "state").write_bytes(b"123") and write_manifest(folder, "a1b2", 7)
      ...     print(damage(folder))
      ...     (folder / "state").write_bytes(b"12") and print(damage(folder))
      None
      state has changed since it was saved
    """
    for path in (*folder.rglob("*"), folder):
        sync(path)
    content = {"format": FORMAT, "run": run, "step": step, "files": file_digests(folder, MANIFEST) if digests is None else digests}
    write_atomically(folder / MANIFEST, _text(content | {"sha256": checksum(content)}))


def has_manifest(folder: pathlib.Path) -> bool:
    """Whether a checkpoint was completed; also true if this cannot be determined, so that reading it reports the error."""
    for name in (MANIFEST, SEAL):
        try:
            os.lstat(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return True
        return True
    return False


def read_manifest(folder: pathlib.Path) -> Manifest:
    """Reads a checkpoint's manifest.

    Raises:
      Fault: it is missing, damaged or unreadable.
      UserError: a newer version of seqjax wrote it.
    """
    name = MANIFEST
    try:
        try:
            content = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            name = SEAL
            content = (folder / SEAL).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise Fault(f"{MANIFEST} is missing") from None
    except OSError as error:
        raise unreadable(name, error) from error
    found = _parsed(content)
    if found is None:
        raise Fault(f"{name} is damaged")
    if name == SEAL:
        return Manifest(SEAL, "", None, found)
    if type(found.get("format")) is int and found["format"] > FORMAT:
        raise UserError(f"{folder} was written by a newer version of seqjax (format {found['format']}); use that version")
    told = found.pop("sha256", None)
    kinds = {"format": int, "run": str, "step": int, "files": dict}
    if told != checksum(found) or {key: type(value) for key, value in found.items()} != kinds:
        raise Fault(f"{name} is damaged")
    return Manifest(MANIFEST, found["run"], found["step"], found["files"])


def _parsed(content: bytes) -> dict[str, Any] | None:
    """A manifest has exactly one valid form: one that parses alike but has different bytes was modified."""
    try:
        found = json.loads(content.decode("utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) and _text(found).encode() == content else None


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def checksum(content: dict[str, Any]) -> str:
    """The SHA-256 of JSON values, as stored in a manifest."""
    return hashlib.sha256(_text(content).encode()).hexdigest()


def unreadable(name: str, error: BaseException) -> Fault:
    """The fault of a file that the disk cannot read."""
    return Fault(f"{name}: {refusal(error)}", UNREADABLE)


def damage(folder: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint's files; None if they are exactly those that were saved.

    Every byte of every file counts, and so does a missing or additional file.

    Raises:
      Fault: a file cannot be read.
      UserError: as read_manifest.
    """
    try:
        manifest = read_manifest(folder)
    except Fault as fault:
        if fault.unreadable:
            raise
        return fault.why
    found = file_digests(folder, manifest.name)
    for name in sorted(manifest.files.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in manifest.files:
            return f"{name} does not belong there"
        if manifest.files[name] != found[name]:
            return f"{name} has changed since it was saved"
    return None


def read_checked(folder: pathlib.Path, name: str, manifest: Manifest) -> bytes:
    """Checks one file of a checkpoint against the manifest.

    Raises:
      Fault: it differs from what was saved, or cannot be read.
    """
    try:
        content = (folder / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise Fault(f"{name} is missing") from None
    except OSError as error:
        raise unreadable(name, error) from error
    if manifest.files.get(name) != [len(content), hashlib.sha256(content).hexdigest()]:
        raise Fault(f"{name} has changed since it was saved")
    return content


def file_digests(folder: pathlib.Path, manifest: str, which: Callable[[str], bool] = lambda name: True) -> dict[str, list]:
    """Sizes and checksums of files selected by `which`, without the manifest; irregular files, such as pipes, have neither."""
    digests = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name == manifest or name.startswith(f".{manifest}") or not which(name):
            continue
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                digests[name] = [0, "not a regular file"]
                continue
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                digests[name] = [os.fstat(file.fileno()).st_size, digest]
        except FileNotFoundError:
            continue  # a dangling link, or deleted in the meantime: missing
        except OSError as error:
            raise unreadable(name, error) from error
    return digests


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder. Path.rglob would silently skip unreadable directories."""

    def refuse(error: OSError):
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            name = pathlib.Path(error.filename).relative_to(folder).as_posix() if error.filename else "."
            raise unreadable(name, error) from error

    return [pathlib.Path(place) / name for place, _, names in sorted(os.walk(folder, onerror=refuse)) for name in sorted(names)]
