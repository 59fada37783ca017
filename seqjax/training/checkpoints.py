"""Checkpoints that are whole or are not loaded: Orbax saves them in the background, a manifest of checksums seals them.

    workdir/checkpoints/1200/            written by Orbax under another name and renamed when complete
    workdir/checkpoints/1200/SEAL.json   size and SHA-256 of every file in it, written last

A folder without a seal is a save that was cut off: it is passed over. A folder whose content does not match its seal is
damaged: it is passed over, put aside and reported, and the run goes on from the one before it. Where none is left, nothing
is deleted and the run stops.
"""

import concurrent.futures
import hashlib
import json
import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from seqjax.errors import UserError
from seqjax.training.workdir import write_atomically

SEAL = "SEAL.json"


class Restored(NamedTuple):
    """A checkpoint that was read back whole."""

    step: int
    state: Any  # as the target given to restore
    meta: dict[str, Any]  # the JSON that was saved beside it


def seal(folder: pathlib.Path) -> None:
    """Writes the sizes and checksums of all files in a finished checkpoint beside them."""
    write_atomically(folder / SEAL, json.dumps(_digests(folder), indent=1, sort_keys=True) + "\n")


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
        if path.is_file() and path.name != SEAL and not path.name.startswith(f".{SEAL}"):
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return digests


class Checkpoints:
    """The checkpoints of one run: the newest `keep` and the best one.

    Args:
      workdir: the run's folder.
      keep: how many of the newest stay.
      report: called with a line for the user when something was passed over.

    Saving runs in the background on a copy of the state, so the caller may donate its buffers at once. Errors of the
    background (a full disk, say) are raised by the next call of `save` or `close`.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int, report: Callable[[str], None] = print):
        self._folder = workdir.absolute() / "checkpoints"
        self._report = report
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._newest: int | None = None  # the step saved last by this process
        self._saving: concurrent.futures.Future | None = None
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

    def save(self, step: int, state: Any, meta: dict[str, Any], loss: float = math.inf) -> None:
        """Begins to save a checkpoint; returns while it is being written.

        Args:
          step: its name; a step that is saved already is left as it is.
          state: a pytree of arrays.
          meta: JSON values to keep beside it.
          loss: the evaluation at this step, where there was one; the checkpoint with the lowest is kept.
        """
        if step == self._newest:
            return
        self.wait()
        if step in self.steps():
            return
        self._newest = step
        manager = self._open()
        manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(self._copy(state)), meta=ocp.args.JsonSave(meta)),
            metrics={"loss": loss},
        )
        self._saving = self._background.submit(self._finish, manager, step)

    def _finish(self, manager: ocp.CheckpointManager, step: int) -> None:
        manager.wait_until_finished()
        seal(self._folder / str(step))

    def wait(self) -> None:
        """Waits until the save under way is on the disk and sealed; raises its error where it failed."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        if not self._folder.is_dir():
            return []
        names = [path.name for path in self._folder.iterdir() if path.name.isdigit() and (path / SEAL).exists()]
        return sorted(int(name) for name in names)

    def best_step(self) -> int | None:
        """The evaluated checkpoint with the lowest loss, None where there is none."""
        losses = {}
        for step in self.steps():
            try:
                losses[step] = json.loads((self._folder / str(step) / "metrics" / "metrics").read_text())["loss"]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (ValueError, KeyError):
                self._report(f"checkpoint {step} has unreadable metrics; it is passed over in the search for the best one")
        best = min(losses, key=losses.get, default=None)
        return best if best is not None and losses[best] < math.inf else None

    def restore(self, make_target: Callable[[dict[str, Any]], Any], *, mend: bool = True, best: bool = False) -> Restored | None:
        """Reads the newest good checkpoint back.

        Args:
          make_target: from the checkpoint's meta to a state of the same structure, shapes, dtypes and shardings.
          mend: put damaged and cut-off checkpoints out of the way, so that their steps can be saved anew; for the process
            that trains. Without it nothing in the folder is changed.
          best: begin with the best one instead of the newest.

        Returns:
          The checkpoint, or None where none was ever completed.

        Raises:
          UserError: there are checkpoints and all are damaged.
        """
        if mend:
            self._clear_unfinished()
        order = sorted(self.steps(), reverse=True)
        if best and (step := self.best_step()) is not None:
            order.remove(step)
            order.insert(0, step)
        bad: list[tuple[int, str]] = []
        for step in order:
            wrong = damage(self._folder / str(step))
            if wrong is None:
                restored = self._load(step, make_target)
                for other, why in bad:
                    moved = f"; it was moved to {self._put_aside(other)}" if mend else ""
                    self._report(f"checkpoint {other} is damaged ({why}); going on from checkpoint {step}{moved}")
                return restored
            bad.append((step, wrong))
        if bad:
            what = "; ".join(f"{step}: {why}" for step, why in bad)
            raise UserError(
                f"all checkpoints in {self._folder} are damaged ({what}); nothing was deleted: "
                "restore one from a backup, or start again in another --workdir"
            )
        return None

    def _load(self, step: int, make_target) -> Restored:
        folder = self._folder / str(step)
        meta = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / "meta")
        target = jax.tree.map(_abstract, make_target(meta))
        with ocp.StandardCheckpointer() as reader:
            state = reader.restore(folder / "state", target)
        return Restored(step, state, meta)

    def _clear_unfinished(self) -> None:
        """Deletes what a killed save left: never a sealed checkpoint."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                cut_off = path.name.isdigit() and not (path / SEAL).exists()
                if cut_off or ".orbax-checkpoint-tmp" in path.name:
                    shutil.rmtree(path)

    def _put_aside(self, step: int) -> pathlib.Path:
        aside = self._folder.parent / "damaged"
        aside.mkdir(exist_ok=True)
        number = 0
        while (target := aside / f"{step}-{number}").exists():
            number += 1
        (self._folder / str(step)).rename(target)
        return target

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            newest = policies.LatestN(self._keep)
            best = policies.BestN(get_metric_fn=lambda m: -m["loss"], n=1, keep_checkpoints_without_metrics=False)
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy([newest, best]),
                    best_fn=lambda m: m["loss"],  # has the metrics written beside the state; the policy above decides
                    best_mode="min",
                    create=True,
                ),
            )
        return self._manager

    def close(self) -> None:
        """Waits for the save under way; raises its error where it failed."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            if self._manager is not None:
                self._manager.close()
                self._manager = None


def _abstract(leaf):
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.asarray(leaf)
