"""Writes one checkpoint: under another name first, renamed when all of it, manifest included, is on the disk."""

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

# Orbax numbers its saves by one counter for the whole process: two at a time wait for each other's signals, and time out.
_one_at_a_time = threading.Lock()


def write(folder: pathlib.Path, run: str, state: Any, meta: dict[str, Any], loss: float, *, together: bool = False) -> pathlib.Path:
    """Writes a checkpoint whole, still under its name for the time of writing.

    Args:
      folder: of the checkpoint, named as its step; does not exist.
      run: the run's id.
      state: a pytree of arrays; where it has a `step`, that must be the folder's.
      meta: JSON values.
      loss: of the evaluation, infinite or nan where there was none.
      together: all processes write, each what its devices hold; each must call it with the same step. The first one ends when all
        of it is on the disk and is what the others say they wrote.

    Returns:
      The directory, to be given to `commit`.

    Raises:
      TypeError: `meta` is not JSON; nothing was written.
      UserError: what another process wrote is not what it says.
    """
    step = int(folder.name)
    known = by_path(state).get(("step",))
    if known is not None and int(known) != step:
        raise ValueError(f"the state of step {int(known)} was to be saved as checkpoint {step}")
    leads = processes.first() or not together
    if leads:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{step}{SAVING}*"):  # by a save that failed or was killed
            remove(left)
    saving = folder.with_name(f"{step}{SAVING}")
    about = {"run": run, "step": step, "loss": loss if math.isfinite(loss) else None, "meta": meta}
    json.dumps(about)  # what is not JSON is refused here: Orbax meets it with the arrays half written, and cancels those
    who: Any = {"multiprocessing_options": _all(step) if together else by_itself()}
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(**who))
    if processes.several() and not together:
        state = jax.device_get(state)  # of arrays on a device Orbax would take those of one process for cut over all
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
    """What tells Orbax that all processes write this step; they wait for each other without a device, since it may be training."""
    everyone = set(range(jax.process_count()))
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes=everyone, barrier_sync_key_prefix=f"step{step}")


def _release(threads: set[threading.Thread]) -> None:
    """Ends the threads that a failed save of Orbax's left: they wait five minutes for a signal, and the process for them.

    What they are made of is private to Orbax: in a version where it has another form (before 0.12) they are left to their timeout.
    """
    set_signals: Any = getattr(orbax_futures, "set_signals", None)
    left: Any = threads if set_signals else ()
    for thread in left:
        signals, operation = getattr(thread, "_receive_signals", None), getattr(thread, "_operation_id", None)
        if signals and operation:
            thread.cancel()
            set_signals(signals, operation_id=operation)


def commit(saving: pathlib.Path, folder: pathlib.Path) -> None:
    """Renames a checkpoint to its final name; from here on it exists, even after a loss of power."""
    os.rename(saving, folder)
    sync(folder.parent)
    sync(folder.parent.parent)  # the name of a checkpoints/ that is new
