"""The checkpoints of a run in several processes: the first of them writes, all read."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from seqjax.errors import UserError
from seqjax.training import processes
from seqjax.training.checkpoints.reader import Restored
from seqjax.training.checkpoints.store import Checkpoints


class Shared:
    """`Checkpoints` for several processes that see the same work directory; in a single one they are as they are.

    What is cut over the processes (the carry) is gathered, so that a checkpoint does not depend on how many there are, and the first
    process writes it. Every process reads the newest by itself, and all must have found the same one.

    Args:
      checkpoints: of the work directory.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints, self._newest = checkpoints, None
        self.wait, self.close = checkpoints.wait, checkpoints.close

    def save(self, step: int, state: Any, meta: dict[str, Any], loss: float = math.inf) -> None:
        """As Checkpoints.save; every process must call it."""
        if step != self._newest:
            self._newest = step
            whole = processes.gathered(state)
            if processes.first():
                self._checkpoints.save(step, whole, meta, loss)

    def restore(self, make_target: Callable[[dict[str, Any]], Any], *, repair: bool = True) -> Restored | None:
        """As Checkpoints.restore; only the first process changes anything in the work directory.

        Raises:
          UserError: besides, the processes found different checkpoints.
        """
        restored = self._checkpoints.restore(make_target, repair=repair and processes.first())
        found = processes.each(np.int32(-1 if restored is None else restored.step)).ravel().tolist()
        if len(set(found)) > 1:
            told = ", ".join("none" if step < 0 else str(step) for step in found)
            raise UserError(f"the processes found different newest checkpoints ({told}, by their index); do all see the same disk?")
        return restored
