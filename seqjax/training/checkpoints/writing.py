"""Writes one checkpoint under a temporary name, and renames it when all of it, manifest included, is on the disk."""

import json
import math
import os
import pathlib
import threading
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint._src.futures import future as orbax_futures

from seqjax.training import processes
from seqjax.training.checkpoints import shares
from seqjax.training.checkpoints.manifest import write_manifest
from seqjax.training.checkpoints.reading import by_itself
from seqjax.training.checkpoints.trees import by_path
from seqjax.training.disk import remove, sync

SAVING = ".saving"
ORBAX_SAVING = ".orbax-checkpoint-tmp"

# Orbax numbers its saves by one counter per process: two concurrent saves wait for each other's signals, and time out.
_one_at_a_time = threading.Lock()


def write(folder: pathlib.Path, run: str, state: Any, meta: dict[str, Any], loss: float, *, together: bool = False) -> pathlib.Path:
    """Writes a complete checkpoint, still under its temporary name.

    Args:
      folder: the checkpoint's directory, named by its step; does not exist yet.
      run: the run's id.
      state: a pytree of arrays; if it has a `step`, that must match the folder.
      meta: JSON values.
      loss: the evaluation loss, infinite or nan if there was none.
      together: all processes write what their devices hold; each must call this with the same step. The first returns when everything is on
        the disk and matches what the others report to have written.

    Returns:
      The directory, to pass to `commit`.

    Raises:
      TypeError: `meta` is not JSON; nothing was written.
      UserError: the files of another process differ from its report.
    """
    step = int(folder.name)
    known = by_path(state).get(("step",))
    if known is not None and int(known) != step:
        raise ValueError(f"the state of step {int(known)} was to be saved as checkpoint {step}")
    leads = processes.first() or not together
    if leads:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{step}{SAVING}*"):  # remains of a save that failed or was killed
            remove(left)
    saving = folder.with_name(f"{step}{SAVING}")
    about = {"run": run, "step": step, "loss": loss if math.isfinite(loss) else None, "meta": meta}
    json.dumps(about)  # refuse what is not JSON here: Orbax would notice it with the arrays half written, and cancel those
    who: Any = {"multiprocessing_options": _all(step) if together else by_itself()}
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(**who))
    if processes.several() and not together:
        state = jax.device_get(state)  # Orbax would take device arrays of one process to be sharded over all
    with _one_at_a_time, ocp.Checkpointer(handler, **who) as writer:
        before = set(threading.enumerate())
        try:
            writer.save(saving, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(about)))
        except BaseException:
            _release(set(threading.enumerate()) - before)
            raise
    if not leads:
        shares.tell(saving, jax.process_index())
        return saving
    write_manifest(saving, run, step, shares.collect(saving, jax.process_count()) if together else None)
    return saving


def _all(step: int) -> ocp.options.MultiprocessingOptions:
    """Options that tell Orbax that all processes write this step; they synchronise without a device, which may be training."""
    everyone = set(range(jax.process_count()))
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes=everyone, barrier_sync_key_prefix=f"step{step}")


def _release(threads: set[threading.Thread]) -> None:
    """Ends the threads left by a failed Orbax save, which would keep the process waiting five minutes for a signal.

    Their internals are private to Orbax; in versions where these differ (before 0.12) they are left to their timeout.
    """
    set_signals: Any = getattr(orbax_futures, "set_signals", None)
    left: Any = threads if set_signals else ()
    for thread in left:
        signals, operation = getattr(thread, "_receive_signals", None), getattr(thread, "_operation_id", None)
        if signals and operation:
            thread.cancel()
            set_signals(signals, operation_id=operation)


def commit(saving: pathlib.Path, folder: pathlib.Path) -> None:
    """Renames a checkpoint to its final name; from then on it survives even a power failure."""
    os.rename(saving, folder)
    sync(folder.parent)
    sync(folder.parent.parent)  # for the name of a new checkpoints/ directory
