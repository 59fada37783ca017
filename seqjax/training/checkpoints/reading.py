"""Reads one checkpoint in the current format, and checks that it is complete and matches its name."""

import json
import math
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from seqjax.training import processes
from seqjax.training.checkpoints import migrate
from seqjax.training.checkpoints.manifest import (
    FORMAT,
    MANIFEST,
    SEAL,
    STRANGER,
    Fault,
    Manifest,
    damage,
    read_checked,
    read_manifest,
    unreadable,
)
from seqjax.training.checkpoints.record import Run
from seqjax.training.checkpoints.trees import Path, by_path
from seqjax.training.disk import refusal

META = "meta/metadata"  # where Orbax writes JSON
_OLD_LOSS = "metrics/metrics"  # of formats 0 and 1


class Saved(NamedTuple):
    """The content of a checkpoint beside its state."""

    format: int  # the format it was written in
    run: str  # the run's id; "" before format 2
    loss: float  # the evaluation loss at its step, infinite if there was none
    meta: dict[str, Any]  # in the current format


def read_saved(folder: pathlib.Path, run: Run | None, defaults: Mapping[str, Any]) -> Saved:
    """Reads everything but the state, and checks it against the manifest, the directory's name and the run.

    Args:
      folder: the checkpoint's directory, named by its step.
      run: the run that it must belong to; None accepts any run.
      defaults: see migrate.with_defaults.

    Raises:
      Fault: it is damaged, is a different checkpoint, belongs to another run, or cannot be read.
    """
    manifest = read_manifest(folder)
    content = json.loads(read_checked(folder, META, manifest))
    if manifest.name == SEAL:
        saved = _read_old(folder, manifest, content, run)
    else:
        if (content["run"], content["step"]) != (manifest.run, manifest.step):
            raise Fault(f"{MANIFEST} has changed since it was saved")
        if manifest.step != int(folder.name):
            raise Fault(f"it is checkpoint {manifest.step} under another name", STRANGER)
        if run is not None and manifest.run != run.id:
            raise Fault(f"it is of another run, {manifest.run[:8]} instead of {run.id[:8]}", STRANGER)
        saved = Saved(FORMAT, manifest.run, math.inf if content["loss"] is None else content["loss"], content["meta"])
    if "config" in saved.meta:
        saved = saved._replace(meta=saved.meta | {"config": migrate.with_defaults(saved.meta["config"], defaults)})
    return saved


def _read_old(folder: pathlib.Path, manifest: Manifest, meta: dict[str, Any], run: Run | None) -> Saved:
    number = migrate.format_of(meta) if "config" in meta else 1
    if run is not None and number < run.oldest:
        raise Fault("it is of another run, older than this one", STRANGER)
    loss = json.loads(read_checked(folder, _OLD_LOSS, manifest))["loss"]
    if "config" in meta:  # an experiment's
        for migrated in migrate.META[number:]:
            meta = migrated(meta)
    return Saved(number, "", math.inf if math.isnan(loss) else loss, meta)


def check_files(folder: pathlib.Path) -> None:
    """Checks every byte of a checkpoint against its manifest.

    Raises:
      Fault: a byte differs, or a file cannot be read.
    """
    wrong = damage(folder)
    if wrong is not None:
        raise Fault(wrong)


def read_leaves(folder: pathlib.Path, saved: Saved) -> dict[Path, np.ndarray]:
    """The arrays of a checkpoint's state by path, in the current format, whatever structure they were saved in.

    Raises:
      Fault: the state is of another step, or cannot be read.
    """
    try:
        leaves = by_path(_read_arrays(folder / "state"))
    except Exception as error:
        if refusal(error) is None:
            raise
        raise unreadable("state", error) from error
    step = leaves.get(("step",))
    if step is not None and int(step) != int(folder.name):
        raise Fault(f"it is checkpoint {int(step)} under another name", STRANGER)
    for migrated in migrate.LEAVES[saved.format :]:
        leaves = migrated(leaves)
    return leaves


def by_itself() -> ocp.options.MultiprocessingOptions:
    """Options that tell Orbax that this process reads or writes alone and waits for no other.

    Example:
      >>> by_itself() == ocp.options.MultiprocessingOptions()
      True
    """
    if not processes.several():
        return ocp.options.MultiprocessingOptions()
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}")


def _read_arrays(folder: pathlib.Path) -> Any:
    """The arrays saved by Orbax, as numpy arrays in dicts and lists."""
    alone: Any = {"multiprocessing_options": by_itself()}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**alone), **alone) as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about no structure being given
        tree = reader.handler.metadata(folder).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
