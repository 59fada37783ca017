"""Loads a trained model from a work directory, in the same way for all experiments."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from seqjax.errors import UserError
from seqjax.training.checkpoints import Checkpoints, Restored

WHICH = ("best", "newest", "average")


def read_model(
    folder: pathlib.Path,
    make_target: Callable[[dict[str, Any]], Any],
    *,
    keep: int,
    which: str = "best",
    parts: tuple[str, ...] = ("params",),
    report: Callable[[str], None] = print,
) -> Restored:
    """Reads the best checkpoint of a run, the newest, or the mean of the newest ones; nothing in the folder is changed.

    Args:
      folder: the work directory.
      make_target: from the checkpoint's meta to a TrainState of the same structure, shapes, dtypes and shardings.
      keep: `config.train.keep`: how many of the newest checkpoints stay, and so how many are averaged.
      which: one of WHICH.
      parts: fields of the TrainState that "average" averages: with batch normalisation,
        ("params", "model_state"); the rest is as in the newest.
      report: takes the lines that say which checkpoint it is and what was passed over.

    Returns:
      The step, the state and the meta of the checkpoint, for "average" those of the newest with the means in its state.

    Raises:
      UserError: there is no checkpoint, or none that is whole; "average" of a run that keeps a moving average already.

    Example:
      >>> read_model(pathlib.Path("nowhere"), lambda meta: None, keep=3)
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: the run in nowhere has no checkpoint yet; train it first
    """
    if which not in WHICH:
        raise ValueError(f"which={which!r} must be one of {', '.join(WHICH)}")

    def averaged_once(meta):
        target = make_target(meta)
        if jax.tree.leaves(target.average):
            raise UserError(
                f"the run in {folder} keeps a moving average (optimizer.ema), which is what is evaluated; "
                "checkpoints of it are not averaged again: take the best or the newest"
            )
        return target

    checkpoints = Checkpoints(folder, keep=keep, report=report)
    try:
        if which == "average":
            restored = checkpoints.restore_average(averaged_once, keep, parts=parts)
        else:
            restored = checkpoints.restore(make_target, repair=False, best=which == "best")
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(f"the run in {folder} has no checkpoint yet; train it first")
    if which != "average":
        report(f"checkpoint of step {restored.step}")
    return restored
