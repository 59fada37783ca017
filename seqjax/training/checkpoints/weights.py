"""The weights of a run, read without knowing its model."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from seqjax.errors import UserError
from seqjax.training.checkpoints.manifest import Fault
from seqjax.training.checkpoints.reader import Reader
from seqjax.training.checkpoints.trees import nested

PARTS = ("params", "model_state")


def read_weights(
    workdir: pathlib.Path,
    which: str | int = "best",
    *,
    report: Callable[[str], None] = print,
    defaults: Mapping[str, Any] = {},
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Reads the parameters of any run, for example to initialise another run; nothing is changed.

    Args:
      workdir: the run's work directory.
      which: "best", "newest", or the step of a checkpoint.
      report: called with a line when a checkpoint is skipped.
      defaults: see Checkpoints.

    Returns:
      (step, weights, meta). The weights are {"params": ..., "model_state": ...}, each a nested dict of numpy arrays, {} if there are none;
      an index becomes a key, such as "0". They are the weights the run evaluates: its moving averages, if it keeps them. The meta also has
      the run's id as "run" ("" in formats without ids).

    Raises:
      UserError: no such checkpoint, or none that can be used.

    Example:
      >>> read_weights(pathlib.Path("nowhere"))
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: the run in nowhere has no checkpoint yet; train it first
    """
    reader = Reader(workdir, defaults)
    if which in ("best", "newest"):
        found, faults = reader.first(lambda step: (step, *reader.leaves(step)), best=which == "best")
        if found is None:
            raise UserError(f"the run in {workdir} has no checkpoint yet; train it first")
        for step, fault in faults.items():
            report(f"checkpoint {step} {fault}; checkpoint {found[0]} is used instead")
    elif type(which) is not int:
        raise ValueError(f"which={which!r} must be best, newest or a step")
    elif which not in reader.steps():
        known = ", ".join(map(str, reader.steps())) or "none"
        raise UserError(f"the run in {workdir} has no checkpoint of step {which}; it has {known}")
    else:
        try:
            found = which, *reader.undisturbed(lambda: reader.leaves(which))
        except Fault as fault:
            raise UserError(f"checkpoint {which} in {reader.folder} {fault}; choose another") from fault
    step, saved, leaves = found
    tree = nested(leaves)
    averages = tree.get("average", {})
    weights = {part: averages.get(str(index)) or tree.get(part) or {} for index, part in enumerate(PARTS)}
    return step, weights, saved.meta | {"run": saved.run}
