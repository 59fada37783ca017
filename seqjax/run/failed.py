"""The step that stopped a run because something in it was not finite, saved for inspection.

The work directory then has:

    workdir/failed/checkpoints/1200/   the state that step 1200 began with, and its batch: one step, with checksums as in a checkpoint
"""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.errors import UserError
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.disk import refusals, remove
from seqjax.training.guard import fault_names
from seqjax.training.train_step import TrainState

FOLDER = "failed"


class Failed(NamedTuple):
    """A saved step."""

    step: int  # its number, from 1
    state: TrainState  # before the step
    batch: list[Any]  # its arrays
    meta: dict[str, Any]  # of the run, as in its checkpoints, with "faults", what was not finite, and the "arrays" of the batch


def keep(folder: pathlib.Path, step: int, state: TrainState, batch: Any, faults: int, meta: dict[str, Any]) -> str:
    """Saves a step, replacing the one saved before.

    Args:
      folder: the work directory, held by this process.
      step: its number.
      state, batch: what it began with.
      faults: what was not finite, of `guard.faults`.
      meta: JSON values that every checkpoint of the run holds.

    Returns:
      What the user can do next, or why the step could not be saved.
    """
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    arrays = [[_name(path), list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves]
    target = folder / FOLDER
    told = meta | {"arrays": arrays, "faults": fault_names(faults)}
    try:
        with refusals(f"{target} cannot be replaced", "remove it yourself"):
            if target.exists():
                remove(target)
        with contextlib.closing(Checkpoints(target, keep=1)) as checkpoints:
            checkpoints.save(step, {"state": state, "batch": [leaf for _, leaf in leaves]}, told)
    except UserError as error:
        return f"the failed step could not be saved for inspection: {error}"
    return f"to see where it began: python -m seqjax gradient_flow --workdir={folder} --failed"


def newest_meta(folder: pathlib.Path) -> dict[str, Any]:
    """The meta of the step saved in a work directory.

    Raises:
      UserError: there is none, or it is damaged.
    """
    with contextlib.closing(Checkpoints(folder / FOLDER, keep=1)) as checkpoints:
        found = checkpoints.newest_meta()
    if found is None:
        raise UserError(f"{folder} has no failed step; a run saves one when it stops because something was not finite")
    return found[1]


def read(folder: pathlib.Path, make_state: Callable[[dict[str, Any]], TrainState], defaults: dict[str, Any]) -> Failed:
    """The step saved in a work directory; nothing there is changed.

    Args:
      folder: the work directory.
      make_state: from the meta to a state of the same structure.
      defaults: of settings that may be younger than the run.

    Raises:
      UserError: there is none, or it is damaged.
    """
    newest_meta(folder)

    def target(meta):
        return {"state": make_state(meta), "batch": [np.zeros(shape, dtype) for _, shape, dtype in meta["arrays"]]}

    with contextlib.closing(Checkpoints(folder / FOLDER, keep=1, defaults=defaults)) as checkpoints:
        found = checkpoints.restore(target, repair=False)
    return Failed(found.step, found.state["state"], found.state["batch"], found.meta)  # pyright: ignore[reportOptionalMemberAccess]


def built_as(failed: Failed, example: Any) -> Any:
    """The batch of a failed step in the structure of another one.

    Raises:
      UserError: they hold other arrays.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(example)
    there, here = [name for name, _, _ in failed.meta["arrays"]], [_name(path) for path, _ in paths]
    if there != here:
        raise UserError(f"the batch of the failed step holds {', '.join(there)}, and those of the data now {', '.join(here)}")
    return jax.tree.unflatten(structure, failed.batch)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
