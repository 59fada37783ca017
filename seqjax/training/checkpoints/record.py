"""The run's record in its work directory: the id by which a run recognises its own checkpoints.

It is one line of JSON:

    workdir/run.json   {"experiment": "language_model", "format": 2, "oldest": 2, "run": "3f0c..."}
"""

import json
import pathlib
import uuid
from collections.abc import Callable
from typing import NamedTuple

from seqjax.errors import UserError
from seqjax.training.checkpoints import manifest
from seqjax.training.disk import refusals, write_atomically

RECORD = "run.json"


class Run(NamedTuple):
    """The run in a work directory."""

    id: str
    experiment: str  # the experiment's name; "" if none was given
    oldest: int  # the format of its oldest checkpoints; any of an older format belongs to another run


def identify(workdir: pathlib.Path) -> Run | None:
    """The run in a work directory, from its record or else from its checkpoints; nothing is written.

    Returns:
      The run, or None if there is neither a record nor a checkpoint of format 2.

    Raises:
      UserError: the record cannot be read, or there is none and the checkpoints belong to several runs.
    """
    return _parsed(_read(workdir / RECORD)) or _from_checkpoints(workdir)


def _read(path: pathlib.Path) -> str | None:
    with refusals(f"{path} cannot be read", "try again when the disk answers"):
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None


def _parsed(text: str | None) -> Run | None:
    """Treats a damaged record as missing, since the checkpoints record their run."""
    try:
        found = json.loads(text or "")
        run = Run(found["run"], found["experiment"], found["oldest"])
    except (ValueError, KeyError, TypeError):
        return None
    return run if [type(value) for value in run] == [str, str, int] else None


def _from_checkpoints(workdir: pathlib.Path) -> Run | None:
    runs: dict[str, int] = {}
    old = False
    for step, folder in list_steps(workdir / "checkpoints").items():
        try:
            found = manifest.read_manifest(folder)
        except manifest.Fault:
            continue  # reported when the checkpoints are read
        if found.name == manifest.SEAL:
            old = True
        else:
            runs.setdefault(found.run, step)
    if len(runs) > 1:
        names = ", ".join(f"{step} of run {run[:8]}" for run, step in runs.items())
        raise UserError(
            f"{workdir} has no valid {RECORD}, and its checkpoints are of several runs ({names}); "
            f"restore {RECORD}, or move away the checkpoints that do not belong there"
        )
    oldest = 0 if old else manifest.FORMAT
    return next((Run(run, "", oldest) for run in runs), None)


def begin(workdir: pathlib.Path, experiment: str = "", *, report: Callable[[str], None] = print) -> Run:
    """Finds or creates the run of a work directory, and records it there; for the training process.

    Args:
      workdir: an existing directory.
      experiment: the experiment's name, if known.
      report: called with a line if the record had to be rewritten.

    Returns:
      The existing run, or a new one.

    Raises:
      UserError: the directory holds a run of another experiment; or as `identify`.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     begin(pathlib.Path(folder), "tagging") == begin(pathlib.Path(folder))
      True
    """
    path = workdir / RECORD
    before = _read(path)
    recorded = _parsed(before)
    run = recorded or _from_checkpoints(workdir)
    if recorded is None and (run or before is not None):
        report(f"{path} was {'missing' if before is None else 'damaged'}; it was written again")
    if run is None:
        run = Run(uuid.uuid4().hex, experiment, 0 if list_steps(workdir / "checkpoints") else manifest.FORMAT)
    if experiment and run.experiment and run.experiment != experiment:
        raise UserError(f"{workdir} holds a run of {run.experiment}, not of {experiment}; choose another --workdir")
    run = run._replace(experiment=run.experiment or experiment)
    content = {"experiment": run.experiment, "format": manifest.FORMAT, "oldest": run.oldest, "run": run.id}
    text = json.dumps(content, sort_keys=True) + "\n"
    if text != before:
        with refusals(f"{path} cannot be written", "make room, or choose another --workdir"):
            write_atomically(path, text)
    return run


def list_steps(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """The directories in `checkpoints/` named by a step, complete or not: step -> path, lowest first.

    Raises:
      UserError: the folder is something else, or cannot be read.
    """
    with refusals(f"the checkpoints in {folder} cannot be listed", "nothing was changed; try again when the disk answers"):
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            if folder.is_symlink():
                raise UserError(f"{folder} is a dangling link; restore its target, or remove it") from None
            return {}
        except NotADirectoryError:
            if not folder.exists():
                return {}  # a parent in the path is a file
            raise
    steps = sorted(int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)
    return {step: folder / str(step) for step in steps}
