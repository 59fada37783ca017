"""Reads the checkpoints of a work directory, newest or best first, without changing anything."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from seqjax.errors import UserError
from seqjax.training.averaging import RunningMean
from seqjax.training.checkpoints import record
from seqjax.training.checkpoints.manifest import MANIFEST, Fault, has_manifest
from seqjax.training.checkpoints.reading import Saved, check_files, read_leaves, read_saved
from seqjax.training.checkpoints.trees import Path, fill

_TRIES = 5  # attempts to read while another process deletes

MakeTarget = Callable[[dict[str, Any]], Any]


class Restored(NamedTuple):
    """A checkpoint that was read back."""

    step: int
    state: Any  # as the target given to restore
    meta: dict[str, Any]  # the JSON that was saved with it, in the current format


class Gone(Exception):
    """A checkpoint was deleted by another process between listing and reading."""


class Reader:
    """Read access to the checkpoints of a work directory.

    Args:
      workdir: the work directory.
      defaults: defaults of settings, by dotted name, for checkpoints older than a setting; see migrate.with_defaults.
    """

    def __init__(self, workdir: pathlib.Path, defaults: Mapping[str, Any]):
        self.workdir = workdir.absolute()
        self.folder = self.workdir / "checkpoints"
        self._defaults = defaults

    def path(self, step: int) -> pathlib.Path:
        """The directory of a checkpoint."""
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        return [step for step, path in record.list_steps(self.folder).items() if has_manifest(path)]

    def incomplete(self) -> list[int]:
        """The steps of checkpoints without a manifest: interrupted saves of an older version."""
        return [step for step, path in record.list_steps(self.folder).items() if not has_manifest(path)]

    # One checkpoint. Each method raises Fault if it cannot be used.

    def peek(self, step: int) -> Saved:
        """Everything but the state, checked."""
        with self._deleted_meanwhile(step):
            return read_saved(self.path(step), record.identify(self.workdir), self._defaults)

    def leaves(self, step: int) -> tuple[Saved, dict[Path, np.ndarray]]:
        """The whole checkpoint, checked, with the state as arrays by path."""
        saved = self._whole(step)
        return saved, self._state(step, saved)

    def restored(self, step: int, make_target: MakeTarget) -> Restored:
        """The whole checkpoint, checked, in the structure of a target."""
        saved = self._whole(step)
        target = make_target(saved.meta)  # may refuse before the state is read
        state = fill(target, self._state(step, saved), f"checkpoint {step} in {self.folder}")
        return Restored(step, state, saved.meta)

    def _whole(self, step: int) -> Saved:
        saved = self.peek(step)
        with self._deleted_meanwhile(step):
            check_files(self.path(step))
        return saved

    def _state(self, step: int, saved: Saved) -> dict[Path, np.ndarray]:
        with self._deleted_meanwhile(step):
            return read_leaves(self.path(step), saved)

    @contextlib.contextmanager
    def _deleted_meanwhile(self, step: int) -> Iterator[None]:
        """Raises Gone instead of any error that arose because another process deleted the checkpoint."""
        try:
            yield
        except Exception as error:
            if has_manifest(self.path(step)):
                raise
            raise Gone from error

    # The best checkpoint, and the order.

    def loss(self, step: int) -> float | None:
        """The evaluation loss saved with a checkpoint, infinite if there was none; None if it cannot be trusted."""
        try:
            return self.peek(step).loss
        except (Fault, Gone):
            return None

    def best_step(self) -> int | None:
        """The evaluated checkpoint with the lowest loss, the earliest on a tie; None if there is none."""
        losses = {step: loss for step in self.steps() if (loss := self.loss(step)) is not None}
        best = min(losses, key=lambda step: losses[step], default=None)
        return best if best is not None and losses[best] < math.inf else None

    def order(self, *, best: bool) -> list[int]:
        """The steps, newest first or best first: by loss, the earliest on a tie, then the newest of those without a loss.

        A checkpoint whose loss cannot be trusted comes first, so that its fault is found.
        """
        steps = self.steps()[::-1]
        if not best:
            return steps
        losses = {step: self.loss(step) for step in steps}

        def key(step):
            loss = losses[step]
            return (-math.inf if loss is None else loss, step if loss is None or loss < math.inf else -step)

        return sorted(steps, key=key)

    def first(self, read: Callable[[int], Any], *, best: bool) -> tuple[Any, dict[int, Fault]]:
        """Applies `read` to the newest or best checkpoint without a fault.

        Returns:
          (the result, or None if no checkpoint was ever completed; the faults of those tried before it).

        Raises:
          UserError: there are checkpoints, and none can be used.
        """

        def search():
            faults: dict[int, Fault] = {}
            for step in self.order(best=best):
                try:
                    return read(step), faults
                except Fault as fault:
                    faults[step] = fault
            self._none_good(faults)
            return None, {}

        return self.undisturbed(search)

    def average(self, make_target: MakeTarget, number: int, parts: tuple[str, ...]) -> tuple[Restored | None, list[int], dict[int, Fault]]:
        """The newest of `number` checkpoints, with the mean of all of them in `parts`; the steps used, and the faults."""
        return self.undisturbed(lambda: self._average(make_target, number, parts))

    def _average(self, make_target, number, parts):
        newest, steps, mean, faults, target = None, [], RunningMean(), {}, []

        def first_target(meta):
            target.extend([] if target else [make_target(meta)])
            return target[0]

        for step in reversed(self.steps()[-number:]):
            try:
                restored = self.restored(step, first_target)
            except Fault as fault:
                faults[step] = fault
                continue
            mean.add({part: getattr(restored.state, part) for part in parts})
            steps.append(step)
            newest = restored if newest is None else newest
            del restored  # before the next one is read
        if newest is None:
            self._none_good(faults, f"the newest {len(faults)}")
            return None, [], {}
        averages = mean.result({part: getattr(newest.state, part) for part in parts})
        return newest._replace(state=newest.state._replace(**averages)), sorted(steps), faults

    def undisturbed(self, read: Callable[[], Any]) -> Any:
        """Retries if another process deleted what was being read."""
        for _ in range(_TRIES):
            with contextlib.suppress(Gone):
                return read()
        raise UserError(f"the checkpoints in {self.folder} are deleted while they are read; try again")

    def _none_good(self, faults: dict[int, Fault], which: str = "all") -> None:
        """Raises if there are checkpoints and none can be used; returns if there is at most an interrupted first save."""
        if faults:
            verdicts = {fault.verdict for fault in faults.values()}
            are = {"is damaged": "are damaged", "cannot be read": "cannot be read"}.get(
                verdicts.pop() if len(verdicts) == 1 else "", "cannot be used"
            )
            what = "; ".join(f"{step}: {fault.why}" for step, fault in faults.items())
            again = "try again when the disk can read them, " if any(fault.unreadable for fault in faults.values()) else ""
            raise UserError(
                f"{which} checkpoints in {self.folder} {are} ({what}); nothing was deleted: "
                f"{again}restore one from a backup, or start again in another --workdir"
            )
        bare = self.incomplete()
        if len(bare) > 1:
            raise UserError(
                f"all checkpoints in {self.folder} lack their {MANIFEST} ({', '.join(map(str, bare))}); "
                "nothing was deleted: restore them from a backup, or start again in another --workdir"
            )
