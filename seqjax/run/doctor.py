"""--doctor: what each process of a run would see, without training: packages, devices, its rows of a batch, the model, the disk.

Every process checks itself; the first one collects the findings, prints them, and says what is wrong and what to do.
Nothing is left in the work directory. The model is traced and never made, and of the run's own checkpoint only the settings are read.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from seqjax.engines.native import library
from seqjax.errors import UserError
from seqjax.run import cli, distributed, doctor_model, doctor_report, driver, process, reporting, resuming, settings, sweep
from seqjax.run.experiment import Experiment
from seqjax.run.recipe import data_mesh, make_recipe
from seqjax.training import processes
from seqjax.training.disk import refusal

PACKAGES = ("seqjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
VARIABLES = (
    *doctor_report.SAME_VARIABLES,
    "CUDA_VISIBLE_DEVICES",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "OMP_NUM_THREADS",
)
_PROBE = 8 << 20  # bytes written to measure the speed of the disk


def run(experiment: Experiment, command: cli.Command) -> int:
    """Runs the checks, prints the report and returns the exit status, the same in every process: 1 if something is wrong, else 0.

    A sweep has a report for each of its runs.
    """
    if command.options.sweep:
        return max([run(experiment, point.command) for point in sweep.points(experiment, command)])
    seen = gathered(see(experiment, command))
    lines = doctor_report.lines(seen, look_at_disk(command.workdir), seconds_together())
    several = f"{len(seen)} processes" if len(seen) > 1 else "1 process"
    print(f"{experiment.name}, {several}, --workdir={command.workdir}", *doctor_report.shown(lines), sep="\n", flush=True)
    return 1 if doctor_report.wrong(lines) else 0


# What a process sees.


def see(experiment: Experiment, command: cli.Command) -> dict[str, Any]:
    """The findings of this process as JSON values; `errors` has what failed, by section of the report."""
    errors: dict[str, str] = {}
    found: dict[str, Any] = {"errors": errors, "pid": os.getpid(), "host": socket.gethostname(), **machine()}
    _tried(errors, "packages", reporting.require_extras)
    stored = _tried(errors, "settings", lambda: resuming.stored(command.workdir, experiment))
    config = None if errors.get("settings") else _tried(errors, "settings", lambda: resuming.settings_of(experiment, command, stored))
    if config is None:
        return found
    found |= {"step": stored.step if stored else 0, "settings": _digest(json.dumps(settings.to_json(config), sort_keys=True))}
    found |= {"batch": config.data.batch_size, "eval_batch": config.data.eval_batch_size}
    found["all_write"] = processes.several() and (config.mesh.shard != "none" or config.mesh.model > 1)
    mesh = _tried(errors, "mesh", lambda: data_mesh(config))
    if mesh is not None:
        own = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
        found |= {"mesh": {name: int(size) for name, size in mesh.shape.items()}, "used": own}
    dataset = _tried(errors, "data", lambda: experiment.load(config))
    if dataset is None:
        return found
    parts = {name: len(part) for name, part in dataset.parts.items()}
    found["data"] = {"name": dataset.name, "unit": experiment.records, "parts": parts, "fingerprint": dataset.fingerprint}
    batches = None if mesh is None else _tried(errors, "batches", lambda: _batches(experiment, command, config, stored, dataset, errors))
    return found | (batches or {})


def _batches(
    experiment: Experiment, command: cli.Command, config: Any, stored: Any, dataset: Any, errors: dict[str, str]
) -> dict[str, Any]:
    """The rows of a batch that this process makes, the seconds that the first took, the length of the run, and the model."""
    spec = resuming.accepted_spec(experiment, command, stored, dataset, experiment.prepare(config, dataset))
    if stored is not None:
        accepted = command.options.accept_changed_data
        trained_on = experiment, command.workdir, dataset, spec, stored.meta
        _tried(errors, "data", lambda: resuming.check_data(*trained_on, accepted=accepted))
    with driver.closing(processes.own_share(experiment.batches(config, spec, dataset.parts["train"], training=True))) as pipeline:
        steps = make_recipe(config, pipeline.batches_per_epoch).steps
        begin = time.perf_counter()
        leaves = jax.tree.leaves(driver.peek(pipeline))
        found = {"rows": int(leaves[0].shape[0]), "seconds": time.perf_counter() - begin, "steps": steps}
        given = experiment, command, config, stored, dataset, spec, pipeline
        return found | {"model": _tried(errors, "model", lambda: doctor_model.see(*given))}


def machine() -> dict[str, Any]:
    """The packages, devices, processor and environment of this process.

    Example:
      >>> found = machine()
      >>> found["backend"] == jax.default_backend(), found["devices"] == len(jax.local_devices())
      (True, True)
    """
    local = jax.local_devices()
    memory = (local[0].memory_stats() or {}).get("bytes_limit")
    unusable = library.missing()
    return {
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES},
        "backend": jax.default_backend(),
        "kind": local[0].device_kind,
        "devices": len(local),
        "memory": memory,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "native": "" if unusable else library.instruction_set(),
        "native_missing": unusable or "",
        "cache": process.cache_folder(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name in VARIABLES or name.startswith("NCCL_")},
    }


def _tried(errors: dict[str, str], part: str, make: Callable[[], Any]) -> Any:
    """The function's result; None after an error of the user's input or the disk, which is recorded."""
    try:
        return make()
    except (UserError, OSError) as error:
        errors[part] = refusal(error) or str(error) if isinstance(error, OSError) else str(error)
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Communication between the processes.


def gathered(found: Any) -> list[Any]:
    """The findings of all processes, by index; every process must call it. They may have different numbers of devices.

    Args:
      found: JSON values.

    Example:
      >>> gathered({"host": "a"})
      [{'host': 'a'}]
    """
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    sizes = processes.each(np.array([len(text)], np.int32)).ravel()
    rows = processes.each(np.pad(text, (0, sizes.max() - len(text))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def seconds_together() -> float:
    """The shortest of five round trips between all processes; 0 for a single process."""
    if not processes.several():
        return 0.0
    times = []
    for _ in range(6):  # the first one compiles
        begin = time.perf_counter()
        processes.each(np.zeros(1, np.int32))
        times.append(time.perf_counter() - begin)
    return min(times[1:])


# The disk.


def look_at_disk(workdir: pathlib.Path) -> dict[str, Any]:
    """Whether all processes see the first one's work directory, whether it can be written and locked, and its free space.

    Every process must call it with its own work directory. If that does not exist yet, its nearest existing parent is examined.

    Returns:
      folder, type (of the file system, in each process), free (bytes), speed (bytes per second, on the disk), error (why it cannot
      be used, or ""), user (the process that holds the run, or ""); blind, unlocked and unwritable: the processes that do not see
      the directory, that could lock what the first one holds, and that cannot write there.
    """
    folder = next(path for path in (workdir, *workdir.absolute().parents) if path.is_dir())
    mine = {"folder": str(folder), "probe": f".doctor-{secrets.token_hex(8)}", "error": "", "user": "", "free": 0, "speed": 0.0}
    probe = folder / mine["probe"]
    held = None
    try:
        if processes.first() and workdir.exists() and not workdir.is_dir():
            mine |= {"folder": str(workdir), "error": "it is not a directory"}
        elif processes.first():
            held, mine = _probed(probe, workdir, mine)
        told = gathered(mine)[0]
        looked = {"blind": False, "unlocked": False, "unwritable": False, "type": file_system(folder)}
        if not told["error"] and not processes.first():
            looked |= _from_outside(folder / told["probe"])
        others = gathered(looked)
    finally:
        if held is not None:
            held.close()
        if processes.first() and probe.exists():
            probe.unlink()
    names = {name: [index for index, one in enumerate(others) if one[name]] for name in ("blind", "unlocked", "unwritable")}
    return told | names | {"type": [one["type"] for one in others]}


def _probed(probe: pathlib.Path, workdir: pathlib.Path, found: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Writes and locks a file; returns the file (None if the disk refuses) and the findings."""
    second, data = probe.with_suffix(".speed"), os.urandom(_PROBE)
    try:
        begin = time.perf_counter()
        try:
            with open(second, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        finally:
            second.unlink(missing_ok=True)
        found = found | {"speed": _PROBE / (time.perf_counter() - begin), "free": shutil.disk_usage(probe.parent).free}
        probe.write_text(probe.name, encoding="utf-8")
        held = open(probe, "r+", encoding="utf-8")
    except OSError as error:
        return None, found | {"error": f"it cannot be written: {refusal(error)}"}
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return held, found | {"user": _user(workdir / "lock")}
    except OSError as error:
        return held, found | {"error": f"it cannot be locked: {refusal(error)}"}


def _from_outside(probe: pathlib.Path) -> dict[str, Any]:
    """What another process sees of the file that the first process holds."""
    if not distributed.shows(probe, probe.name):
        return {"blind": True}
    try:
        with open(probe, "r+", encoding="utf-8") as file:
            return {"unlocked": _locks(file)}
    except OSError:
        return {"unwritable": True}


def _locks(file: Any) -> bool:
    """Whether a file can be locked; closing it releases the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _user(lock: pathlib.Path) -> str:
    """The process that holds a run; "" if there is none."""
    if not lock.exists():
        return ""
    with open(lock, "r+", encoding="utf-8") as file:
        return "" if _locks(file) else file.read().strip() or "unknown"


def file_system(folder: pathlib.Path) -> str:
    """The type of the file system that a directory is on, as Linux names it; "unknown" on other systems.

    Example:
      >>> file_system(pathlib.Path("/proc")) in ("proc", "unknown")
      True
    """
    try:
        lines = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    best, kind = -1, "unknown"
    for words in (line.split() for line in lines):
        mount = words[4].replace("\\040", " ")
        if folder.absolute().is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), words[words.index("-") + 1]
    return kind
