"""The checkpoints of a run: saved in the background, checked on every read; the newest and the best are kept.

    workdir/run.json                         the run's id
    workdir/checkpoints/1200/                a checkpoint: state/ and meta/ by Orbax
    workdir/checkpoints/1200/MANIFEST.json   format, run, step, and size and SHA-256 of every file
    workdir/checkpoints/1300.saving/         one being written, renamed when all of it is on the disk
    workdir/checkpoints/600.deleting/        an old one being deleted
    workdir/damaged/900-0/                   one in quarantine

A checkpoint that is damaged, does not match its name or belongs to another run is skipped, reported, and quarantined by the training
process; an older good one is used instead. One that the disk cannot read is also skipped and reported, but never moved, deleted or
overwritten. If none is left, nothing is changed and the run stops. A directory without a manifest is an interrupted save of an older
version; if it is the only one, it is taken to be the first save of a run.
"""

import concurrent.futures
import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.training import processes
from seqjax.training.checkpoints import record
from seqjax.training.checkpoints.manifest import Fault
from seqjax.training.checkpoints.quarantine import quarantine
from seqjax.training.checkpoints.reader import Gone, MakeTarget, Reader, Restored
from seqjax.training.checkpoints.writing import ORBAX_SAVING, SAVING, commit, write
from seqjax.training.disk import refusals, remove

DELETING = ".deleting"
UNDER_WAY, DONE, FAILED = range(3)


class Checkpoints:
    """The checkpoints of one run: the newest `keep` and the best one.

    Args:
      workdir: the run's work directory.
      keep: how many of the newest to keep.
      report: called with a line for the user when a checkpoint is skipped.
      check: called before anything is written; raises UserError if the work directory no longer belongs to this run.
      defaults: defaults of settings, by dotted name, for checkpoints older than a setting; see migrate.with_defaults.

    Saving runs in the background on a copy of the state, so the caller may donate its buffers immediately. Background errors are raised by
    the next call of `save`, `wait` or `close`; disk errors are UserErrors. An older checkpoint is deleted only after the newer one is
    complete.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: int,
        report: Callable[[str], None] = print,
        check: Callable[[], None] = lambda: None,
        defaults: Mapping[str, Any] = {},
    ):
        self._reader = Reader(workdir, defaults)
        self._workdir, self._folder, self._path = self._reader.workdir, self._reader.folder, self._reader.path
        self._keep, self._report, self._check = keep, report, check
        self._background: Any = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")  # None once abandoned
        self._saving: concurrent.futures.Future | None = None
        self._newest: int | None = None  # the step last saved by this process
        self._unreadable: set[int] = set()  # steps that this process could not read
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

    # Saving.

    def save(self, step: int, state: Any, meta: dict[str, Any], loss: float = math.inf, *, together: bool = False) -> None:
        """Starts saving a checkpoint, and returns while it is being written.

        Args:
          step: its name; a step already saved is left unchanged.
          state: a pytree of arrays.
          meta: JSON values to store with it.
          loss: the evaluation loss at this step, if any; the checkpoint with the lowest is kept.
          together: all processes write, and each must call this; see write.

        Raises:
          UserError: a disk error in this save or the previous one, or raised by `check`.
        """
        if step == self._newest:
            return
        self.wait()
        self._check()
        there = processes.first() and self._in_place(step)
        if processes.each(np.int32(there))[0] if together else there:
            return
        self._newest = step
        self._saving = self._background.submit(self._write, step, self._copy(state), meta, loss, together)

    def _in_place(self, step: int) -> bool:
        """Whether a step is already saved; anything else with its name is moved away, unless the disk cannot read it."""
        if step not in record.list_steps(self._folder):
            return False
        if step in self._reader.incomplete():
            self._quarantine(step, "was not completed")
            return False
        try:
            self._reader.peek(step)
        except Fault as fault:
            if fault.unreadable:
                self._unreadable.add(step)
                self._report(
                    f"step {step} is not saved: {self._path(step)} is in its place and {fault}; "
                    "it is left as it is: move it away to have the step saved"
                )
                return True
            self._quarantine(step, f"{fault}; it was where the new one belongs")
            return False
        return True

    def _write(self, step: int, state: Any, meta: dict[str, Any], loss: float, together: bool) -> None:
        with refusals(
            f"checkpoint {step} could not be saved in {self._folder}",
            "the earlier checkpoints are untouched: repair that, and the same command resumes from the newest",
        ):
            if not processes.first():
                write(self._path(step), "", state, meta, loss, together=True)
                return
            self._workdir.mkdir(parents=True, exist_ok=True)
            run = record.begin(self._workdir, report=self._report)
            saving = write(self._path(step), run.id, state, meta, loss, together=together)
            self._check()
            commit(saving, self._path(step))
        with refusals(f"an old checkpoint in {self._folder} could not be deleted", f"checkpoint {step} is saved"):
            self._prune()

    def _prune(self) -> None:
        """Deletes all but the newest `keep` and the best; renames each first, so that a half-deleted one is recognised.

        Unreadable ones are neither counted nor deleted: they may turn out to be the best.
        """
        best = self.best_step()
        for step in [step for step in self.steps() if step not in self._unreadable][: -self._keep]:
            if step == best:
                continue
            try:
                self._reader.peek(step)
            except Fault as fault:
                if not fault.unreadable:
                    self._quarantine(step, str(fault))
                continue
            except Gone:
                continue
            leaving = self._folder / f"{step}{DELETING}"
            with contextlib.suppress(FileNotFoundError):  # it exists if an earlier session was killed
                remove(leaving)
            remove(self._path(step).rename(leaving))

    def wait(self) -> None:
        """Waits until the save in progress is on the disk; raises its error if it failed."""
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        try:
            saving.result()
        except BaseException:
            self._newest = None
            raise

    def status(self) -> int:
        """The status of the last save started: UNDER_WAY, DONE or FAILED."""
        if self._saving is None or self._saving.cancelled():
            return DONE
        if not self._saving.done():
            return UNDER_WAY
        return DONE if self._saving.exception() is None else FAILED

    def abandon(self, seconds: float) -> None:
        """Waits at most this long for the save in progress, then gives up: for a process that ends with an error."""
        if self._saving is not None:
            concurrent.futures.wait([self._saving], seconds)
        self._background.shutdown(wait=False)
        if self.status() == UNDER_WAY:
            self._saving, self._background = None, None

    def close(self) -> None:
        """Waits for the save in progress; raises its error if it failed."""
        try:
            self.wait()
        finally:
            if self._background is not None:
                self._background.shutdown()

    # Listing.

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        return self._reader.steps()

    def best_step(self) -> int | None:
        """The evaluated checkpoint with the lowest loss, the earliest on a tie; None if there is none."""
        return self._reader.best_step()

    def newest_meta(self) -> tuple[int, dict[str, Any]] | None:
        """The step and the meta of the newest good checkpoint; its state is not read.

        Returns:
          None if none was ever completed.

        Raises:
          UserError: there are checkpoints, and none has a valid meta.
        """
        return self._meta(best=False)

    def best_meta(self) -> tuple[int, dict[str, Any]] | None:
        """As newest_meta, for the best checkpoint."""
        return self._meta(best=True)

    def _meta(self, *, best: bool) -> tuple[int, dict[str, Any]] | None:
        return self._reader.first(lambda step: (step, self._reader.peek(step).meta), best=best)[0]

    # Reading.

    def restore(self, make_target: MakeTarget, *, repair: bool = True, best: bool = False) -> Restored | None:
        """Reads the newest good checkpoint back.

        Args:
          make_target: maps the checkpoint's meta to a state with the structure, shapes, dtypes and shardings to restore into.
          repair: quarantine unusable checkpoints, so that their steps can be saved again, and clear the remains of a killed process; for
            the training process. Without it nothing in the work directory is changed.
          best: start with the best one instead of the newest.

        Returns:
          The checkpoint, or None if none was ever completed.

        Raises:
          UserError: there are checkpoints and none can be used, or the state does not fit the target.
        """
        if repair:
            self._check()
        restored, faults = self._reader.first(lambda step: self._reader.restored(step, make_target), best=best)
        for step, fault in faults.items():
            told = f"{fault}; checkpoint {restored.step} is used instead"
            if fault.unreadable:
                self._unreadable.add(step)
                self._report(f"checkpoint {step} {told}; it is left where it is")
            elif repair:
                self._quarantine(step, told)
            else:
                self._report(f"checkpoint {step} {told}")
        if repair:
            self._clear_unfinished()
        return restored

    def restore_average(self, make_target: MakeTarget, number: int, *, parts: tuple[str, ...] = ("params",)) -> Restored | None:
        """Reads the newest good checkpoint, with its parameters replaced by the mean of the newest `number`.

        They are read one at a time and summed on the host. An unusable one is left out and not replaced by an older one, since the best
        checkpoint, which is kept too, may be much older. Nothing in the work directory is changed.

        Args:
          make_target: as for restore; called once, for the newest.
          number: maximum number of newest checkpoints to average.
          parts: the fields of the state (a NamedTuple) to average.

        Returns:
          The checkpoint, or None if none was ever completed.

        Raises:
          UserError: none of them can be used, or a part has leaves that are not floats.

        Reference: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), section 6.1.
        """
        if number < 1:
            raise ValueError(f"number={number} must be at least 1")
        restored, steps, faults = self._reader.average(make_target, number, parts)
        for step, fault in faults.items():
            self._report(f"checkpoint {step} {fault}; it is left out of the average")
        if restored is not None:
            several, numbers = "s" if len(steps) > 1 else "", ", ".join(map(str, steps))
            named = " and ".join(part for part in parts if jax.tree.leaves(getattr(restored.state, part)))
            self._report(f"{named} averaged over {len(steps)} checkpoint{several}: step{several} {numbers}")
        return restored

    # Unusable checkpoints.

    def _clear_unfinished(self) -> None:
        """Clears the remains of a killed save or deletion; a step's directory is never deleted, only moved."""
        with refusals(f"what a killed process left in {self._folder} cannot be removed", "remove it yourself"):
            for path in list(self._folder.iterdir()) if self._folder.is_dir() else ():
                if ORBAX_SAVING in path.name or path.name.endswith((SAVING, DELETING)):
                    remove(path)
        for step in self._reader.incomplete():
            self._quarantine(step, "was not completed")

    def _quarantine(self, step: int, why: str) -> None:
        moved = quarantine(self._path(step), self._workdir / "damaged", self._report)
        self._report(f"checkpoint {step} {why}; it was moved to {moved}")
