"""The length and progress of a run, and how evaluations change them."""

import math
from typing import NamedTuple


class Plan(NamedTuple):
    """The length of a run and the intervals of its actions."""

    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    max_skipped_in_row: int
    stall_patience: int = 0  # evaluations without a new best before the learning rate is lowered; 0: never
    stall_factor: float = 1.0
    stop_patience: int = 0  # evaluations in a row without a new best that end the run; 0: never
    profile: tuple[int, int] | None = None  # the first and the last step to trace
    diagnose_every: int = 0  # steps between diagnostics; 0: never


class Progress(NamedTuple):
    """The loop's own state beside the training state; JSON-serialisable, saved with every checkpoint.

    It is independent of the plan: a run may be resumed with more steps, or with another `eval_every` unless `evaluation_matters`.
    """

    best: float | None = None  # lowest criterion of the validations so far
    since_best: int = 0  # evaluations since, or since the learning rate was lowered
    seconds: float = 0.0  # training time, over all sessions
    interval: tuple[float, ...] = (0.0,) * 6  # the sums of the current log interval: see loop
    counts: dict[str, float] = {}  # the same for the loss function's counts
    without_best: int = 0  # evaluations in a row without a new best, not reset by a lowered learning rate


def after_evaluation(progress: Progress, plan: Plan, value: float) -> tuple[Progress, bool]:
    """Updates the progress after an evaluation, and decides whether to lower the learning rate.

    A value that is not finite is never a new best. The two counts are independent: lowering the rate resets the count of stalls, but not
    that of early stopping.

    Args:
      progress: the progress before.
      plan: defines how many evaluations without a new best are a stall.
      value: the criterion; lower is better.

    Returns:
      (the progress after, whether to lower the rate).

    Example:
      >>> plan = Plan(9, 1, 1, 1, 1, stall_patience=2, stop_patience=3)
      >>> progress = Progress()
      >>> for value in (2.0, 3.0, 2.5):
      ...     progress, lower = after_evaluation(progress, plan, value)
      >>> progress.best, progress.since_best, progress.without_best, lower
      (2.0, 0, 2, True)
    """
    new = math.isfinite(value) and (progress.best is None or value < progress.best)
    since = 0 if new else progress.since_best + 1
    lower = bool(plan.stall_patience) and since >= plan.stall_patience
    after = progress._replace(
        best=value if new else progress.best,
        since_best=0 if lower else since,
        without_best=0 if new else progress.without_best + 1,
    )
    return after, lower


def stops_early(progress: Progress, plan: Plan) -> bool:
    """Whether the run stops early because validation has not improved for long enough.

    Example:
      >>> plan = Plan(9, 1, 1, 1, 1, stop_patience=2)
      >>> [stops_early(Progress(without_best=count), plan) for count in (1, 2)]
      [False, True]
    """
    return bool(plan.stop_patience) and progress.without_best >= plan.stop_patience


def evaluation_matters(plan: Plan) -> bool:
    """Whether evaluations affect training, by lowering the learning rate or ending the run.

    If not, `eval_every` may differ between sessions of a run: state, data and noise are the same bit for bit. Only the choice of the best
    checkpoint depends on it.

    Example:
      >>> evaluation_matters(Plan(9, 1, 1, 1, 1)), evaluation_matters(Plan(9, 1, 1, 1, 1, stop_patience=2))
      (False, True)
    """
    return bool(plan.stop_patience) or bool(plan.stall_patience and plan.stall_factor != 1)


def extended(progress: Progress) -> Progress:
    """The progress for training an early-stopped run further: its patience is reset, its best kept.

    Example:
      >>> plan = Plan(9, 1, 1, 1, 1, stop_patience=2)
      >>> stops_early(extended(Progress(without_best=2)), plan)
      False
    """
    return progress._replace(without_best=0)
