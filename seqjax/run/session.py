"""One session of a run: resumes from the newest checkpoint, trains, and says how it ended."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

from seqjax.run.reporting import Reporter
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.loop import Data, Outcome, Plan, Progress, Task, fit, restore
from seqjax.training.progress import stops_early
from seqjax.training.train_step import TrainState


def run(
    folder: pathlib.Path,
    task: Task,
    plan: Plan,
    state: TrainState,
    data: Data,
    *,
    meta: dict[str, Any],
    check_meta: Callable[[dict[str, Any]], None],
    keep: int,
    begin: float,
) -> Outcome:
    """Goes on from the newest checkpoint of a work folder, or from the beginning, to the end or a signal.

    Args:
      folder: the work folder, held by this process.
      task, plan, state, data, meta: as for fit; `state` and `data` stand at the beginning.
      check_meta: see restore.
      keep: how many of the newest checkpoints stay.
      begin: when the process began, by time.perf_counter.

    Returns:
      The Outcome.
    """
    checkpoints = Checkpoints(folder, keep=keep)
    restored = restore(checkpoints, state, data, check_meta)
    state, progress, first = restored or (state, Progress(), 0)
    if restored:
        last = first >= plan.steps or stops_early(progress, plan)
        print(f"going on from the checkpoint of step {first}" + (", which is the last" if last else ""))
    print(f"ready after {time.perf_counter() - begin:.1f} s; Ctrl-C stops with a checkpoint, the same command goes on")
    parts = {"progress": progress, "checkpoints": checkpoints, "meta": meta}
    with Reporter(folder, first_step=first, total_steps=plan.steps) as reporter:
        try:
            return fit(task, plan, state, data, reporter=reporter, **parts)
        finally:
            checkpoints.close()


def conclude(outcome: Outcome, steps: int, found: str, curves: pathlib.Path) -> int:
    """Says how a run ended.

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
        print(f"stopped early at step {step}: no better validation in {count} evaluation{'s' if count > 1 else ''}")
    if outcome.signal is None:
        return 0
    print("stopped; the same command goes on from here")
    return 128 + outcome.signal
