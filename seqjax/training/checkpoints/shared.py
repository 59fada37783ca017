"""The checkpoints of a multi-process run: the first process writes, or all do if each has a part; all read."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from seqjax.errors import UserError
from seqjax.training import processes
from seqjax.training.checkpoints.reader import Restored
from seqjax.training.checkpoints.store import FAILED, UNDER_WAY, Checkpoints
from seqjax.training.sharding import is_cut

_OFTEN = 0.02  # seconds between polls of all processes
_LAST = 5.0  # seconds to wait for a save in progress when the run ends with an error


class Shared:
    """`Checkpoints` for several processes that share a work directory; in a single process, it only delegates.

    If parameters or the optimiser's state are sharded over the processes, each writes its shards with Orbax, and the first process
    adds the manifest after comparing all files with their writers' digests. Otherwise only the carry is sharded: it is gathered, and
    the first process writes. Either way a checkpoint holds whole arrays, independent of the sharding. Each process reads the newest
    checkpoint itself, and all must find the same one.

    Args:
      checkpoints: those of the work directory.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints, self._newest, self._together = checkpoints, None, False
        self.close = checkpoints.close

    def save(self, step: int, state: Any, meta: dict[str, Any], loss: float = math.inf) -> None:
        """As Checkpoints.save; every process must call it."""
        if step == self._newest:
            return
        self._newest = step
        if processes.several() and is_cut(state._replace(carry=())):
            self.wait()
            self._together = True
            self._checkpoints.save(step, state, meta, loss, together=True)
        else:
            whole = processes.gathered(state)
            if processes.first():
                self._checkpoints.save(step, whole, meta, loss)

    def wait(self) -> None:
        """As Checkpoints.wait; every process must call it.

        If all write, they exchange their progress until all are done. So a lost process is noticed immediately; Orbax would wait for it for
        minutes.

        Raises:
          UserError: also if another process could not write its part.
        """
        while self._together:
            told = processes.each(np.int32(self._checkpoints.status())).ravel().tolist()
            if FAILED in told and told[jax.process_index()] != FAILED:
                raise UserError(f"process {told.index(FAILED)} could not write its part of a checkpoint; the same command resumes")
            self._together = UNDER_WAY in told and FAILED not in told
            if self._together:
                time.sleep(_OFTEN)
        self._checkpoints.wait()

    def abandon(self) -> None:
        """Called before this process ends with an error: a joint save may never finish, so the wait is short."""
        if self._together:
            self._checkpoints.abandon(_LAST)

    def restore(self, make_target: Callable[[dict[str, Any]], Any], *, repair: bool = True) -> Restored | None:
        """As Checkpoints.restore; only the first process changes anything in the work directory.

        Raises:
          UserError: also if the processes found different checkpoints.
        """
        restored = self._checkpoints.restore(make_target, repair=repair and processes.first())
        found = processes.each(np.int32(-1 if restored is None else restored.step)).ravel().tolist()
        if len(set(found)) > 1:
            told = ", ".join("none" if step < 0 else str(step) for step in found)
            raise UserError(f"the processes found different newest checkpoints ({told}, by their index); do all see the same disk?")
        return restored
