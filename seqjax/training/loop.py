"""The one training loop: any step over any checkpointable iterator, with evaluation, reports, checkpoints and exact resume."""

import functools
import math
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.training import processes
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.guard import fault_names
from seqjax.training.interruption import signals
from seqjax.training.losses import Sums
from seqjax.training.metrics import Metric
from seqjax.training.profiling import Profile
from seqjax.training.progress import Plan, Progress, after_evaluation, stops_early
from seqjax.training.train_step import Advance, StepMetrics, TrainState


class Data(Protocol):
    """Batches that can be resumed exactly (grain's protocol)."""

    def __next__(self) -> Any:
        """The next batch; there is always one."""

    def get_state(self) -> dict[str, Any]:
        """The iterator state before the next batch, JSON-serialisable."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state from get_state."""


class Reporter(Protocol):
    """The loop's interface for reporting."""

    def at(self, step: int) -> None:
        """Reports the number of steps done."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Stores a record: kind is train, evaluation or sample."""

    def show(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Shows a record."""

    def say(self, text: str) -> None:
        """Shows a line."""

    def evaluating(self, done: int, total: int | None) -> None:
        """Reports the number of evaluation batches done; total is None if unknown."""


class Task(NamedTuple):
    """What the loop needs to know about an experiment."""

    step: Callable[[TrainState, Any], tuple[TrainState, StepMetrics]]
    place_batch: Callable[[Any], Any]  # host batch -> device
    evaluate: Callable[[TrainState, Advance], dict[str, float]]  # metrics on the validation part, the loss first
    metric: Metric  # turns the Sums of a training interval into the logged values
    sample: Callable[[TrainState], str] | None = None  # samples from the model as text, shown at evaluations
    criterion: str = "loss"  # the value of an evaluation by which the best checkpoint is chosen; lower is better
    unit: str = "tokens"  # the unit of a prediction, in the plural
    tell: Callable[[int], None] | None = None  # with several processes: passes a signal's number to all
    diagnose: Callable[[TrainState, Any], dict[str, jax.Array]] | None = None  # scalars of the next step: see Plan.diagnose_every


KeepFailed = Callable[[int, TrainState, Any, int, dict[str, Any]], str]  # (step, state, batch, faults, meta) -> advice


class Outcome(NamedTuple):
    """The outcome of a call of fit."""

    state: TrainState
    progress: Progress
    signal: int | None  # the signal that stopped it, None if the run is finished
    stopped_early: bool = False  # finished before its last step: see Plan.stop_patience
    shapes: int = 0  # distinct batch shapes in this session; the step is compiled once for each


def fit(
    task: Task,
    plan: Plan,
    state: TrainState,
    data: Data,
    *,
    progress: Progress,
    reporter: Reporter,
    checkpoints: Checkpoints,
    meta: dict[str, Any],
    workdir: pathlib.Path | None = None,
    keep_failed: KeepFailed | None = None,
) -> Outcome:
    """Trains from `state` to `plan.steps`, or until validation has not improved for `plan.stop_patience` evaluations.

    The loop never blocks on the device: each step's metrics are read after the next step is dispatched. The first SIGINT or SIGTERM ends
    the loop after the current step with a checkpoint; a second one interrupts immediately. Each iteration first writes records, then
    saves the checkpoint, then shows lines: a failing terminal loses no steps, and a kill leaves no checkpoint without its records.

    Args:
      task: the step, the evaluation and the sample.
      plan: the length of the run and the intervals of its actions.
      state: the initial state; its buffers are donated.
      data: positioned at the batch that follows `state`.
      progress: from the checkpoint, or a new one.
      reporter: receives the records.
      checkpoints: saves the state.
      meta: JSON values stored in every checkpoint with the iterator state and the progress.
      workdir: `plan.profile` writes its trace to the folder `profile` in it.
      keep_failed: called with the step that stops a run, its initial state, its batch, what was not finite (see guard.fault_names) and
        `meta`; returns a line that ends the error.

    Returns:
      The Outcome.

    Raises:
      UserError: steps were not finite `plan.max_skipped_in_row` times in a row, the steps to profile are not among those ahead, or the next
        batch cannot be read, in which case the run is saved in its state before that batch.
    """
    run = Run(task, plan, state, data, progress, reporter, checkpoints, meta, keep_failed)
    profile = Profile(plan.profile, workdir, first=run.step, last=plan.steps, say=reporter.say)
    with signals() as received, profile:
        while not run.finished() and not run.stopped_by(received):
            with profile.around(run.step + 1, run.wait):
                run.advance()
        run.finish()
        checkpoints.wait()
        run.show()
    number = None if run.finished() else run.stopped_by(received)
    early = run.step < plan.steps and run.finished()
    return Outcome(run.state, run.progress, number, early, len(run.shapes))


class Run:
    """The state of the loop; `advance` takes a step, and `taken` does everything that follows it."""

    def __init__(self, task, plan, state, data, progress, reporter, checkpoints, meta, keep_failed=None):
        self.task, self.plan, self.state, self.data = task, plan, state, data
        self.progress, self.reporter, self.checkpoints, self.meta = progress, reporter, checkpoints, meta
        self.step = int(state.step)
        self._first = self.step
        self._heard = 0  # with several processes: the signal that all know of, 0 for none
        self._unread: Callable[[], StepMetrics] | None = None  # fetches those of the last step dispatched
        self._validation: float | None = None  # the criterion at this step, if it was evaluated
        self._since = time.perf_counter()
        self._tokens = 0.0  # tokens read since _since
        self._unshown: list[Callable[[], None]] = []  # lines to show at the end of the iteration
        self.shapes: set[Any] = set()  # shapes of the batches so far
        self._diagnosed: set[Any] = set()  # shapes of the batches diagnosed
        self._diagnosis: Any = None  # of the last step dispatched, if it was diagnosed
        self.batch: Any = None  # of the last step dispatched
        self._keep_failed, self._skipped_in_row = keep_failed, int(state.skipped_in_row)

    def finished(self) -> bool:
        """Whether training is complete."""
        return self.step >= self.plan.steps or stops_early(self.progress, self.plan)

    def stopped_by(self, received: list[int]) -> int | None:
        """The number of the signal that ends the run here; several processes agree on it.

        Args:
          received: signals received by this process.
        """
        number = received[0] if received else 0
        if self.task.tell is not None:
            self.task.tell(number)
            number = self._heard
        return number or None

    def advance(self) -> None:
        """Takes a step with the next batch."""
        if self.near_failure():
            self.flush()
        try:
            batch = next(self.data)
        except Exception as error:
            self.stop_for(error)
        self.batch = batch = self.task.place_batch(batch)
        shapes = _shapes(batch)
        if shapes not in self.shapes:
            self.shapes.add(shapes)
            self.reporter.say(f"compiling the training step for {_described(batch)}")
        found = self._diagnose(batch, shapes)
        self.state, metrics = self.task.step(self.state, batch)
        self.taken(lambda: jax.device_get(metrics), found)

    def _diagnose(self, batch: Any, shapes: Any) -> Any:
        """Diagnoses the step of this batch before the state's buffers are donated; None if no diagnosis is due."""
        every = self.plan.diagnose_every
        if self.task.diagnose is None or not every or (self.step + 1) % every:
            return None
        if shapes not in self._diagnosed:
            self._diagnosed.add(shapes)
            self.reporter.say(f"compiling the diagnostics for {_described(batch)}")
        return self.task.diagnose(self.state, batch)

    def near_failure(self) -> bool:
        """Whether the last dispatched step may be the one that stops the run; then it is read before another changes the state."""
        return self._unread is not None and self._skipped_in_row + 1 >= self.plan.max_skipped_in_row

    def taken(self, fetch: Callable[[], StepMetrics], diagnosis: Any = None) -> None:
        """Reads the metrics of the step before the one just dispatched; then evaluates, saves and shows when due.

        Args:
          fetch: waits for the metrics of the step just dispatched and returns them; called one step later.
          diagnosis: the result of `Task.diagnose` for that step, or None.
        """
        self.step += 1
        self._read(self.step - 1)
        self._unread, self._validation, self._diagnosis = fetch, None, diagnosis
        if self.step % self.plan.eval_every == 0 or self.step == self.plan.steps:
            self.flush()
            self._evaluate()
        if self.step % self.plan.checkpoint_every == 0:
            self.flush()
            self.save()
        self.show()

    def stop_for(self, error: Exception) -> NoReturn:
        """Saves the run because the next batch cannot be read, and raises the error.

        Raises:
          UserError: if the error is one, extended by how to resume the run; else the error itself.
        """
        if processes.several():  # the others may be in their next step: nothing can be gathered from them
            raise error
        self.finish()
        self.checkpoints.wait()
        self.show()
        if isinstance(error, UserError):
            first, *rest = error.args
            raise UserError(f"{first}; the run is saved at step {self.step}, and the same command resumes it", *rest) from error
        raise error

    def finish(self) -> None:
        """Saves the run, including its training time."""
        self.flush()
        self._clock()
        self.save()

    def show(self) -> None:
        """Shows the lines of this iteration, after its checkpoint has been started."""
        lines, self._unshown = self._unshown, []
        for line in lines:
            line()

    def _record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self.reporter.record(kind, step, values)
        self._unshown.append(functools.partial(self.reporter.show, kind, step, values))

    def flush(self) -> None:
        """Reads the outstanding metrics, so that progress covers all steps up to this one."""
        self._read(self.step)

    def wait(self) -> None:
        """Waits for the device."""
        jax.block_until_ready(self.state)

    def _read(self, step: int) -> None:
        if self._unread is None:
            return
        metrics = jax.tree.map(float, self._unread())
        self._unread, self._skipped_in_row = None, int(metrics.skipped_in_row)
        if metrics.signal and not self._heard:
            self._heard = int(metrics.signal)
            text = f"stopping after this step: {signal.Signals(self._heard).name} has reached one of the processes"
            self._unshown.append(functools.partial(self.reporter.say, text))
        self._add(metrics)
        self.reporter.at(step)
        if step == self._first + 1:
            text = f"first step after {time.perf_counter() - self._since:.1f} s, compilation included"
            self._unshown.append(functools.partial(self.reporter.say, text))
        if metrics.skipped_in_row >= self.plan.max_skipped_in_row:
            names = " and ".join(f"the {name}" for name in fault_names(int(metrics.faults)))
            raise UserError(
                f"stopped at step {step}: steps were skipped {int(metrics.skipped_in_row)} times in a row; not finite in the last: "
                f"{names} (gradient norm {metrics.grad_norm}); the parameters are those of the last good step; "
                "restart in another --workdir with a lower optimizer.learning_rate or optimizer.clip_norm, or a longer warm-up"
                + self._failed(step, int(metrics.faults))
            )
        if step % self.plan.log_every == 0 or step == self.plan.steps:
            self._log(step, metrics)
        if self._diagnosis is not None:
            self.reporter.record("diagnostics", step, {name: float(v) for name, v in sorted(jax.device_get(self._diagnosis).items())})
            self._diagnosis = None

    def _failed(self, step: int, faults: int) -> str:
        """Saves the failed step that stops the run, which left the state unchanged; returns advice for the user."""
        if self._keep_failed is None or self.step != step:
            return ""
        return f"; {self._keep_failed(step, self.state._replace(step=self.state.step - 1), self.batch, faults, self.meta)}"

    def _add(self, metrics: StepMetrics) -> None:
        new, counts = (0.0,) * 5 + (1.0,), {}
        if not metrics.faults:
            new = (metrics.sums.loss, metrics.sums.tokens, metrics.grad_norm, metrics.clipped, 1.0, 0.0)
            counts = metrics.sums.counts
        interval = tuple(a + b for a, b in zip(self.progress.interval, new))
        counts = self.progress.counts | {name: self.progress.counts.get(name, 0.0) + n for name, n in counts.items()}
        self.progress = self.progress._replace(interval=interval, counts=counts)
        self._tokens += metrics.sums.tokens

    def _log(self, step: int, metrics: StepMetrics) -> None:
        loss, tokens, norm, clipped, good, bad = self.progress.interval
        values = dict(self.task.metric.compute(Sums(loss, tokens, self.progress.counts)))
        values |= {"grad_norm": norm / max(good, 1.0), "clipped_share": clipped / max(good, 1.0)}
        values |= {"learning_rate": metrics.learning_rate, f"{self.task.unit}_per_second": self._tokens / self._clock()}
        if metrics.skipped:
            values["skipped_steps"] = int(metrics.skipped)
        self._record("train", step, values)
        self.progress = self.progress._replace(interval=Progress().interval, counts={})

    def _clock(self) -> float:
        """Seconds of training since the last call; adds them to the total."""
        now = time.perf_counter()
        seconds, self._since, self._tokens = now - self._since, now, 0.0
        self.progress = self.progress._replace(seconds=self.progress.seconds + seconds)
        return max(seconds, 1e-9)

    def _evaluate(self) -> None:
        self._clock()
        begin = time.perf_counter()
        found = self.task.evaluate(self.state, self.reporter.evaluating)
        value = found[self.task.criterion]
        self.progress, lower = after_evaluation(self.progress, self.plan, value)
        if lower:
            scale = jnp.float32(self.state.lr_scale * self.plan.stall_factor)
            self.state = self.state._replace(lr_scale=jax.device_put(scale, self.state.lr_scale.sharding))
        values = found | {"best": self.progress.best}
        seconds = time.perf_counter() - begin
        self._record("evaluation", self.step, values | {"minutes": (self.progress.seconds + seconds) / 60})
        if self.task.sample is not None:
            self._record("sample", self.step, {"text": self.task.sample(self.state)})
        self._validation = value if math.isfinite(value) else None
        self.save()
        self._clock()

    def save(self) -> None:
        """Starts saving the run."""
        value = math.inf if self._validation is None else self._validation
        seconds = self.progress.seconds + time.perf_counter() - self._since
        progress = self.progress._replace(seconds=seconds)._asdict()
        meta = self.meta | {"data": self.data.get_state(), "progress": progress}
        self.checkpoints.save(self.step, self.state, meta, value)


def _shapes(batch: Any) -> Any:
    """The key of a compilation: structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)


def _described(batch: Any) -> str:
    """A batch's shape in words: B and T for sequences, otherwise (images, videos) B and the shape of a row of its largest array."""
    shapes: list[tuple[int, ...]] = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    lengths = dict.fromkeys(str(shape[1]) for shape in shapes if len(shape) == 2 and shape[1])
    largest = max(shapes, key=math.prod)
    if lengths and len(largest) < 4:
        return f"B={largest[0]}, T={' and '.join(lengths)}"  # pyright: ignore[reportGeneralTypeIssues]
    return f"B={largest[0]}" + (f", {' x '.join(map(str, largest[1:]))}" if largest[1:] else "")


def restore(
    checkpoints: Checkpoints, state: TrainState, data: Data, check_meta: Callable[[dict[str, Any]], None], *, repair: bool = True
) -> tuple[TrainState, Progress, int] | None:
    """Restores state and data from the newest good checkpoint.

    The plan is not restored: a run may be resumed for more or fewer steps than originally planned.

    Args:
      checkpoints: the run's checkpoints.
      state: a fresh state, for structure, shapes, dtypes and shardings.
      data: is set to its saved iterator state.
      check_meta: raises if the checkpoint does not belong to this run.
      repair: see Checkpoints.restore.

    Returns:
      (state, progress, step), or None if there is no checkpoint yet.
    """

    def target(meta):
        check_meta(meta)
        return state

    restored = checkpoints.restore(target, repair=repair)
    if restored is None:
        return None
    data.set_state(restored.meta["data"])
    saved = restored.meta["progress"]
    return restored.state, Progress(**saved | {"interval": tuple(saved["interval"])}), restored.step
