"""Checkpoints that are whole or are not loaded: Orbax saves them in the background, a manifest of checksums seals them.

    workdir/checkpoints/1200/            written by Orbax under another name and renamed when complete
    workdir/checkpoints/1200/SEAL.json   size and SHA-256 of every file in it, written last, when all are on the disk
    workdir/checkpoints/600.deleting/    an old one that is being deleted
    workdir/damaged/900-0/               what was put aside

A folder without a seal is a save that was cut off, one whose content does not match its seal is damaged: both are passed
over, put aside and reported, and the run goes on from the one before. Where none is left, nothing is deleted and the run
stops; only a single folder without a seal is taken for the first save of a run.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from seqjax.errors import UserError
from seqjax.training.averaging import RunningMean
from seqjax.training.checkpoints.seal import SEAL, damage, seal
from seqjax.training.disk import DISK_ERRORS

DELETING = ".deleting"
_TRIES = 5  # of reading while another process deletes


class Restored(NamedTuple):
    """A checkpoint that was read back whole."""

    step: int
    state: Any  # as the target given to restore
    meta: dict[str, Any]  # the JSON that was saved beside it


class _Gone(Exception):
    """A checkpoint was deleted by another process between listing and reading."""


class Checkpoints:
    """The checkpoints of one run: the newest `keep` and the best one.

    Args:
      workdir: the run's folder.
      keep: how many of the newest stay.
      report: called with a line for the user when something was passed over.

    Saving runs in the background on a copy of the state, so the caller may donate its buffers at once. Errors of the
    background are raised by the next call of `save`, `wait` or `close`; a disk that refuses is a UserError. An older
    checkpoint is deleted only after the newer one is whole and sealed.
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
        with self._refusals(step):
            self._open().save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(self._copy(state)), meta=ocp.args.JsonSave(meta)),
                metrics={"loss": loss},
            )
        self._saving = self._background.submit(self._finish, step)

    def _finish(self, step: int) -> None:
        with self._refusals(step):
            self._open().wait_until_finished()
            seal(self._folder / str(step))
        self._prune()

    @contextlib.contextmanager
    def _refusals(self, step: int) -> Iterator[None]:
        """Says in one line that the disk refused a save; other errors stay as they are."""
        try:
            yield
        except Exception as error:
            manager, self._manager = self._manager, None
            if manager is not None:
                with contextlib.suppress(Exception):  # closing raises the same error once more
                    manager.close()
            reason = _refusal(error)
            if reason is None:
                raise
            raise UserError(
                f"checkpoint {step} could not be saved in {self._folder}: {reason}; the earlier checkpoints are "
                "untouched: make room, and the same command goes on from the newest"
            ) from error

    def _prune(self) -> None:
        """Deletes all but the newest `keep` and the best; renames each first, so that what is half deleted is known."""
        best = self.best_step()
        for step in self.steps()[: -self._keep]:
            if step != best:
                leaving = self._folder / f"{step}{DELETING}"
                if leaving.exists():  # of an earlier sitting that was killed
                    shutil.rmtree(leaving)
                shutil.rmtree((self._folder / str(step)).rename(leaving))

    def wait(self) -> None:
        """Waits until the save under way is on the disk and sealed; raises its error where it failed."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        return [step for step in self._all_steps() if self._sealed(step)]

    def _all_steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    def _sealed(self, step: int) -> bool:
        return (self._folder / str(step) / SEAL).exists()

    def best_step(self) -> int | None:
        """The evaluated checkpoint with the lowest loss, the earliest among equals, None where there is none."""
        losses = {step: loss for step in self.steps() if (loss := self._loss(step)) is not None}
        best = min(losses, key=losses.get, default=None)
        return best if best is not None and losses[best] < math.inf else None

    def _loss(self, step: int) -> float | None:
        """The evaluation saved with a checkpoint, infinite where there was none; None where it cannot be read or has changed."""
        folder = self._folder / str(step)
        try:
            content = (folder / "metrics" / "metrics").read_bytes()
            sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))["metrics/metrics"]
            loss = json.loads(content)["loss"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if sealed != [len(content), hashlib.sha256(content).hexdigest()]:
            return None  # a loss that was changed must not make another checkpoint the best in silence
        if not isinstance(loss, float):
            return None
        return math.inf if math.isnan(loss) else loss

    def _best_first(self, step: int) -> tuple[float, int]:
        """Sorts by loss, the earliest first among equals, then the newest of those that were not evaluated.

        What cannot be read comes before all, to be found out.
        """
        loss = self._loss(step)
        return (-math.inf if loss is None else loss, step if loss is None or loss < math.inf else -step)

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
          UserError: there are checkpoints and all are damaged or lack their seals.
        """
        return self._undisturbed(lambda: self._restore(make_target, mend, best))

    def restore_average(
        self, make_target: Callable[[dict[str, Any]], Any], number: int, *, parts: tuple[str, ...] = ("params",)
    ) -> Restored | None:
        """Reads the newest good checkpoint with the mean of the newest `number` in place of its parameters.

        They are read one at a time and summed up on the host. A damaged one is left out; no older one takes its place,
        since the best one, which stays too, may be of another time. Nothing in the folder is changed.

        Args:
          make_target: as for restore; called once, for the newest.
          number: how many of the newest checkpoints count, at most.
          parts: the fields of the state, a NamedTuple, that are averaged.

        Returns:
          The checkpoint, or None where none was ever completed.

        Raises:
          UserError: all that count are damaged, or a part has leaves that are not floats.

        Reference: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), section 6.1.
        """
        if number < 1:
            raise ValueError(f"number={number} must be at least 1")
        return self._undisturbed(lambda: self._restore_average(make_target, number, parts))

    def _undisturbed(self, read: Callable[[], Restored | None]) -> Restored | None:
        """Reads anew where another process deleted what was being read."""
        for _ in range(_TRIES):
            with contextlib.suppress(_Gone):
                return read()
        raise UserError(f"the checkpoints in {self._folder} are deleted while they are read; try again")

    def _restore_average(self, make_target, number: int, parts: tuple[str, ...]) -> Restored | None:
        newest, steps, mean, bad, target = None, [], RunningMean(), {}, []

        def first_target(meta):
            target.extend([] if target else [make_target(meta)])
            return target[0]

        for step in reversed(self.steps()[-number:]):
            restored = self._read(step, first_target)
            if isinstance(restored, str):
                bad[step] = restored
                continue
            mean.add({part: getattr(restored.state, part) for part in parts})
            steps.append(step)
            newest = restored if newest is None else newest
            del restored  # before the next one is read
        if newest is None:
            self._none_good(bad, f"the newest {len(bad)}")
            return None
        for step, why in bad.items():
            self._report(f"checkpoint {step} is damaged ({why}); it is left out of the average")
        several, numbers = "s" if len(steps) > 1 else "", ", ".join(map(str, sorted(steps)))
        self._report(f"{' and '.join(parts)} averaged over {len(steps)} checkpoint{several}: step{several} {numbers}")
        averages = mean.result({part: getattr(newest.state, part) for part in parts})
        return newest._replace(state=newest.state._replace(**averages))

    def _restore(self, make_target, mend: bool, best: bool) -> Restored | None:
        order = sorted(self.steps(), key=self._best_first if best else lambda step: -step)
        bad: dict[int, str] = {}
        for step in order:
            restored = self._read(step, make_target)
            if isinstance(restored, Restored):
                self._report_bad(bad, step, mend)
                if mend:
                    self._clear_unfinished()
                return restored
            bad[step] = restored
        self._none_good(bad)
        if mend:
            self._clear_unfinished()
        return None

    def _read(self, step: int, make_target) -> Restored | str:
        """One checkpoint, or what is wrong with it."""
        with self._deleted_meanwhile(step):
            wrong = damage(self._folder / str(step))
            if wrong is not None and not self._sealed(step):
                raise _Gone
            return self._load(step, make_target) if wrong is None else wrong

    def _none_good(self, bad: dict[int, str], which: str = "all") -> None:
        """Stops where there are checkpoints and none can be read; returns where there is at most the first save, cut off."""
        if bad:
            what = "; ".join(f"{step}: {why}" for step, why in bad.items())
            raise UserError(
                f"{which} checkpoints in {self._folder} are damaged ({what}); nothing was deleted: "
                "restore one from a backup, or start again in another --workdir"
            )
        unsealed = [step for step in self._all_steps() if not self._sealed(step)]
        if len(unsealed) > 1:
            raise UserError(
                f"all checkpoints in {self._folder} lack their {SEAL} ({', '.join(map(str, unsealed))}); "
                "nothing was deleted: restore them from a backup, or start again in another --workdir"
            )

    @contextlib.contextmanager
    def _deleted_meanwhile(self, step: int) -> Iterator[None]:
        """Raises _Gone in place of whatever went wrong because another process deleted the checkpoint."""
        try:
            yield
        except Exception as error:
            if self._sealed(step):
                raise
            raise _Gone from error

    def _report_bad(self, bad: dict[int, str], good: int, mend: bool) -> None:
        for step, why in bad.items():
            moved = f"; it was moved to {self._put_aside(step)}" if mend else ""
            self._report(f"checkpoint {step} is damaged ({why}); going on from checkpoint {good}{moved}")

    def _load(self, step: int, make_target) -> Restored:
        folder = self._folder / str(step)
        meta = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / "meta")
        target = jax.tree.map(_abstract, make_target(meta))
        with ocp.StandardCheckpointer() as reader:
            state = reader.restore(folder / "state", target)
        return Restored(step, state, meta)

    def _clear_unfinished(self) -> None:
        """Clears away what a killed save or deletion left; a step's folder is never deleted, only moved."""
        if not self._folder.is_dir():
            return
        for path in list(self._folder.iterdir()):
            if ".orbax-checkpoint-tmp" in path.name or path.name.endswith(DELETING):
                shutil.rmtree(path)
        for step in self._all_steps():
            if not self._sealed(step):
                self._report(f"checkpoint {step} was not completed; it was moved to {self._put_aside(step)}")

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
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.EveryNSteps(1),  # all: see _prune
                    best_fn=lambda m: m["loss"],  # has the metrics written beside the state
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
            manager, self._manager = self._manager, None
            if manager is not None:
                manager.close()


def _refusal(error: Exception) -> str | None:
    """The reason in words where a save failed because the disk refused it; None for any other error."""
    if isinstance(error, OSError):
        number = error.errno
    else:  # tensorstore's: a ValueError that ends in [os_error_code='28']
        found = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(found[1]) if found else None
    return os.strerror(number) if number in DISK_ERRORS else None


def _abstract(leaf):
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.asarray(leaf)
