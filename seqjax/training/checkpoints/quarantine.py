"""Quarantine for unusable checkpoints, `workdir/damaged/STEP-NUMBER`; the newest few are kept."""

import pathlib
import re
from collections.abc import Callable

from seqjax.training.disk import refusals, remove

KEPT = 5


def quarantine(path: pathlib.Path, aside: pathlib.Path, report: Callable[[str], None]) -> pathlib.Path:
    """Moves a checkpoint to the quarantine and removes the oldest ones there, so that KEPT remain.

    Args:
      path: the checkpoint; if it is a link, the link is moved.
      aside: the quarantine directory; created if needed.
      report: called with a line when a checkpoint is removed.

    Returns:
      The new path.

    Raises:
      UserError: a disk error.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as run:
      ...     folder = pathlib.Path(run) / "checkpoints" / "7"
      ...     folder.mkdir(parents=True)
      ...     quarantine(folder, pathlib.Path(run) / "damaged", print).name
      '7-0'
    """
    with refusals(f"{path} cannot be used and cannot be moved to {aside}", "move it away yourself"):
        aside.mkdir(exist_ok=True)
        target = aside / f"{path.name}-{max(_numbered(aside), default=-1) + 1}"
        path.rename(target)
    numbered = _numbered(aside)
    for number in sorted(numbered)[:-KEPT]:
        for old in numbered[number]:
            with refusals(f"{old} cannot be removed", "remove it yourself"):
                remove(old)
            report(f"{old} was removed: the newest {KEPT} checkpoints that could not be used are kept")
    return target


def _numbered(aside: pathlib.Path) -> dict[int, list[pathlib.Path]]:
    """The quarantined checkpoints, by the running number that ends their names; older versions counted per step."""
    found: dict[int, list[pathlib.Path]] = {}
    for path in sorted(aside.iterdir()):
        name = re.fullmatch(r"\d+-(\d+)", path.name)
        if name:
            found.setdefault(int(name[1]), []).append(path)
    return found
