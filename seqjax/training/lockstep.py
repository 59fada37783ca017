"""Several runs that differ only in their seeds, trained together: their states stacked, with one vmapped step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqjax.errors import UserError
from seqjax.training.interruption import signals
from seqjax.training.loop import Outcome, Run
from seqjax.training.progress import stops_early
from seqjax.training.sharding import BY_BATCH, EVERYWHERE
from seqjax.training.train_step import Advance, TrainState, state_shardings

PyTree = Any
STACKED_BY_BATCH = PartitionSpec(None, *BY_BATCH)


class Joint(NamedTuple):
    """The functions that runs share."""

    step: Callable[..., Any]  # the step of one run, from make_train_step
    mesh: Mesh
    evaluate: Callable[[TrainState, Sequence[int], Advance], None]  # (stacked state, which runs, progress): for their tasks


def fit_together(runs: Sequence[Run], joint: Joint) -> list[Outcome | UserError]:
    """Trains all runs to completion, or until a signal, as `fit` does with one.

    Those furthest behind step together, so runs stopped at different steps catch up with each other. A run that stops early or
    cannot continue leaves the group.

    Args:
      runs: runs with the same plan and batch shapes.
      joint: the functions they share.

    Returns:
      For each run its Outcome, or the error that ended it.
    """
    group = _Group(runs, joint)
    with signals() as received:
        while not received and (behind := group.furthest_behind()):
            group.stretch(behind, received)
        for place, run in enumerate(runs):
            group.attempt(place, run.finish)
            group.attempt(place, run.checkpoints.wait)
            group.attempt(place, run.show)
    return [group.errors.get(place) or _outcome(run, received) for place, run in enumerate(runs)]


def _outcome(run: Run, received: list[int]) -> Outcome:
    number = received[0] if received and not run.finished() else None
    return Outcome(run.state, run.progress, number, run.step < run.plan.steps and stops_early(run.progress, run.plan))


class _Group:
    """The runs, the errors that ended some of them, and the compiled functions."""

    def __init__(self, runs: Sequence[Run], joint: Joint):
        self.runs, self.errors = runs, {}
        self._evaluate, self._shapes, mesh = joint.evaluate, set(), joint.mesh
        everywhere, self._where = NamedSharding(mesh, EVERYWHERE), NamedSharding(mesh, STACKED_BY_BATCH)
        stacked = TrainState(
            *[  # pyright: ignore[reportArgumentType]  # their shardings
                self._where if name == "carry" else everywhere for name in TrainState._fields
            ]
        )
        self._step = jax.jit(
            jax.vmap(joint.step), in_shardings=(stacked, self._where), out_shardings=(stacked, everywhere), donate_argnums=0
        )
        self._stack = jax.jit(lambda states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), out_shardings=stacked)
        self._row = jax.jit(lambda stacked, row: jax.tree.map(lambda x: x[row], stacked), out_shardings=state_shardings(mesh))

    def furthest_behind(self) -> list[int]:
        """The unfinished runs that have taken the fewest steps."""
        going = {i: run.step for i, run in enumerate(self.runs) if i not in self.errors and not run.finished()}
        return [i for i, step in going.items() if step == min(going.values())]

    def stretch(self, places: list[int], received: list[int]) -> None:
        """Steps some runs until one needs its own state, others wait at the same step, or a signal arrives."""
        runs = [self.runs[i] for i in places]
        others = [run.step for i, run in enumerate(self.runs) if i not in places and i not in self.errors]
        meet = min((step for step in others if step > runs[0].step), default=None)
        stacked, apart = self._stack([run.state for run in runs]), False
        while not apart and not received and not any(i in self.errors for i in places):
            if any(run.near_failure() for run in runs):
                self._give_back(runs, stacked)
                for i in places:
                    self.attempt(i, self.runs[i].flush)
                if any(i in self.errors for i in places):
                    return
            batches = self._next_batches(places, stacked)
            if not batches:
                return
            stacked, metrics = self._step(stacked, self._stacked(runs, batches))
            step, plan = runs[0].step + 1, runs[0].plan
            evaluates = step % plan.eval_every == 0 or step == plan.steps
            if evaluates:
                self._evaluate(stacked, places, runs[0].reporter.evaluating)
            apart = evaluates or step % plan.checkpoint_every == 0 or step == meet
            if apart:
                self._give_back(runs, stacked)
            fetch = functools.cache(functools.partial(jax.device_get, metrics))
            for row, i in enumerate(places):
                self.runs[i].batch = batches[row]
                self.attempt(i, self.runs[i].taken, functools.partial(_row, fetch, row))
        if not apart:
            self._give_back(runs, stacked)

    def _next_batches(self, places: list[int], stacked: TrainState) -> list[PyTree]:
        """The next batch of each run; [] if one cannot be read: that run is saved and ends, and the others do not move."""
        runs = [self.runs[i] for i in places]
        before, batches = [run.data.get_state() for run in runs], []
        for i, run in zip(places, runs):
            try:
                batches.append(next(run.data))
            except Exception as error:
                for other, state in zip(runs[: len(batches)], before):
                    other.data.set_state(state)
                self._give_back(runs, stacked)
                self.attempt(i, run.stop_for, error)
                return []
        return batches

    def _stacked(self, runs: list[Run], batches: list[PyTree]) -> PyTree:
        if any(_shapes(batch) != _shapes(batches[0]) for batch in batches):
            raise UserError(
                "the batches of these seeds have different shapes, so they cannot be trained together; "
                "--sweep_vmap=off resumes them one after another"
            )
        key = len(runs), str(_shapes(batches[0]))
        if key not in self._shapes:
            self._shapes.add(key)
            runs[0].reporter.say(f"compiling the training step for {len(runs)} runs together")
        return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *batches), self._where)

    def _give_back(self, runs: list[Run], stacked: TrainState) -> None:
        for row, run in enumerate(runs):
            run.state = self._row(stacked, row)

    def attempt(self, place: int, call: Callable[..., None], *arguments: Any) -> None:
        """Calls a function of a run unless the run has failed; an error ends only that run."""
        if place not in self.errors:
            try:
                call(*arguments)
            except UserError as error:
                self.errors[place] = error


def _shapes(batch: PyTree) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(batch)]


def _row(fetch: Callable[[], PyTree], row: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[row], fetch())
