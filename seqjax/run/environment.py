"""The environment of a run, kept in its work directory: versions, devices and threads that its numbers depend on.

    workdir/environment.json   [{"step": 0, "jax": "0.10.2", ...}, {"step": 500, "jax": "0.10.3", ...}]

An entry gives the step from which it holds. Resuming in the same environment adds no entry.
"""

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import jax

from seqjax.engines import native
from seqjax.training.disk import refusals, write_atomically

FILE = "environment.json"


def facts() -> dict[str, Any]:
    """The environment of this process.

    Example:
      >>> found = facts()
      >>> found["backend"] == jax.default_backend(), sorted(found)
      (True, ['backend', 'device', 'devices', 'jax', 'jaxlib', 'native', 'processes', 'python', 'seqjax'])
    """
    versions = {name: importlib.metadata.version(name) for name in ("seqjax", "jax", "jaxlib")}
    device = {"backend": jax.default_backend(), "device": jax.devices()[0].device_kind, "devices": jax.device_count()}
    processes = {"processes": jax.process_count(), "native": native.facts()}
    return {**versions, "python": platform.python_version(), **device, **processes}


def record(workdir: pathlib.Path, step: int, now: dict[str, Any], report: Callable[[str], None] = print) -> None:
    """Records the environment of a session if it differs from the run's previous one.

    Args:
      workdir: the run's directory, held by this process.
      step: the step that the session starts from. Entries of later steps are dropped, as is their training.
      now: the result of `facts`.
      report: takes a line that says what changed, or that the file was damaged.

    Raises:
      UserError: the disk refuses.
    """
    path = workdir / FILE
    with refusals(f"{path} cannot be read or written", "repair that, or choose another --workdir"):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        entries = [entry for entry in _parsed(path, text, report) if entry["step"] < step]
        before = dict(entries[-1], step=step) if entries else None
        if before is not None and before != {"step": step, **now}:
            changes = ", ".join(f"{name} {before.get(name)} before, {now[name]} now" for name in now if before.get(name) != now[name])
            report(f"what the run trains with has changed at step {step}: {changes}; results may differ in their last digits")
        if before != {"step": step, **now}:
            entries.append({"step": step, **now})
        new = "[\n" + ",\n".join("  " + json.dumps(entry) for entry in entries) + "\n]\n"
        if new != text:
            write_atomically(path, new)


def _parsed(path, text, report):
    """The entries of a file; none if there is no file, or a damaged one."""
    if text is None:
        return []
    try:
        entries = json.loads(text)
        if isinstance(entries, list) and all(isinstance(entry["step"], int) for entry in entries):
            return entries
    except (ValueError, TypeError, KeyError):
        pass
    report(f"{path} was damaged; it was written again, without what the run was trained with before")
    return []
