"""One session of a run: resumes from the newest checkpoint, trains, and says how it ended."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from seqjax.run import failed, process
from seqjax.run.reporting import Reporter, Silent
from seqjax.run.resuming import Extension
from seqjax.training import processes
from seqjax.training.checkpoints.shared import Shared
from seqjax.training.loop import Data, Outcome, Plan, Progress, Task, fit, restore
from seqjax.training.progress import stops_early
from seqjax.training.train_step import TrainState


def run(
    folder: pathlib.Path,
    task: Task,
    plan: Plan,
    state: TrainState,
    data: Data,
    checkpoints: Shared,
    *,
    meta: dict[str, Any],
    config: dict[str, Any],
    check_meta: Callable[[dict[str, Any]], None],
    extension: Extension | None = None,
) -> Outcome:
    """Resumes from the newest checkpoint of a work directory, or starts, and trains to the end or a signal.

    Args:
      folder: the work directory, held by this process.
      task, plan, state, data, meta: as for fit; `state` and `data` stand at the beginning.
      checkpoints: of the work directory; closed at the end.
      config: of the run, for loggers.
      check_meta: see restore.
      extension: makes of a resumed run a longer one.

    Returns:
      The Outcome.
    """
    try:
        restored = restore(checkpoints, state, data, check_meta)  # pyright: ignore[reportArgumentType]
        state, progress, first = restored or (state, Progress(), 0)
        if restored:
            progress = extension(state, progress) if extension else progress
            last = first >= plan.steps or stops_early(progress, plan)
            print(f"resuming from the checkpoint of step {first}" + (", which is the last" if last else ""))
        print(f"ready after {process.seconds_since_start():.1f} s; Ctrl-C stops with a checkpoint, the same command resumes")
        numbers = {"first_step": first, "total_steps": plan.steps, "config": config}
        with Reporter(folder, **numbers) if processes.first() else Silent() as reporter:
            parts = {"progress": progress, "checkpoints": checkpoints, "meta": meta, "workdir": folder}
            return fit(task, plan, state, data, reporter=reporter, keep_failed=functools.partial(_keep_failed, folder), **parts)
    except BaseException:
        checkpoints.abandon()
        raise
    finally:
        checkpoints.close()


def _keep_failed(folder: pathlib.Path, step: int, state: TrainState, batch: Any, faults: int, meta: dict[str, Any]) -> str:
    """As failed.keep; of several processes each must call it, and the first one keeps the step."""
    state, batch = processes.gathered((state, batch))
    return failed.keep(folder, step, state, batch, faults, meta) if processes.first() else "process 0 saves the step"


def conclude(outcome: Outcome, steps: int, found: str, curves: pathlib.Path) -> int:
    """Reports how a run ended.

    Args:
      outcome: of run.
      steps: that the run should have.
      found: its best evaluation, in words.
      curves: the picture.

    Returns:
      The exit status: 0, or 128 and the signal's number.
    """
    minutes = outcome.progress.seconds / 60
    step = int(outcome.state.step)
    print(f"step {step} of {steps}, {minutes:.1f} minutes, {found}\ncurves: {curves}")
    if outcome.shapes > 1:
        print(f"compiled {outcome.shapes} shapes of the training step")
    if outcome.stopped_early:
        count = outcome.progress.without_best
        print(f"stopped early at step {step}: validation did not improve in {count} evaluation{'s' if count > 1 else ''}")
    if outcome.signal is not None:
        print("stopped; the same command resumes from here")
    return status(outcome)


def status(outcome: Outcome) -> int:
    """The exit status of a run: 0, or 128 and the signal's number."""
    return 0 if outcome.signal is None else 128 + outcome.signal
