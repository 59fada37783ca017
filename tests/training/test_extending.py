"""Extended runs, evaluations at other steps, traces, and the loop's messages."""

import gzip
import json
import signal

import jax
import numpy as np
import optax
import pytest
from training import line
from training.line import PLAN, Memory, Numbers, Records, arrays, fit, make_task, stopped_at

from seqjax.errors import UserError
from seqjax.training import loop, train_step
from seqjax.training.losses import Sums
from seqjax.training.progress import Plan, Progress, evaluation_matters, extended, stops_early

# Extended runs.


@pytest.mark.parametrize("first", [5, 8])
def test_a_finished_run_is_extended(first):
    """The state is that of a run that was longer from the start, and the records after the old end are too."""
    _, records, store = fit(PLAN._replace(steps=first))
    old = list(records.all)
    outcome, records, _ = fit(PLAN, Numbers(), store, records)
    whole, wanted, _ = fit(PLAN)
    assert outcome.signal is None and not outcome.stopped_early
    assert arrays(outcome.state) == arrays(whole.state)
    assert records.all[: len(old)] == old
    assert [r for r in records.all if r["step"] > 10] == [r for r in wanted.all if r["step"] > 10]


def test_a_stopped_run_may_be_made_shorter():
    _, records, store = fit(PLAN, stopped_at(7))
    outcome, records, _ = fit(PLAN._replace(steps=9), Numbers(), store, records)
    assert outcome.signal is None and int(outcome.state.step) == max(store.saved) == 9
    outcome, records, _ = fit(PLAN._replace(steps=6), Numbers(), store, records)
    assert int(outcome.state.step) == 9


def test_a_run_that_stopped_early_goes_further():
    """With more patience by itself, with the same where its progress is `extended`."""
    task = make_task(evaluate=lambda state: float(state.step))  # never better after the first
    plan = PLAN._replace(stop_patience=1, steps=24)
    early, _, store = fit(plan, task=task)
    assert early.stopped_early and int(early.state.step) == 8
    more, _, _ = fit(plan._replace(stop_patience=2), Numbers(), store, task=task)
    assert more.stopped_early and int(more.state.step) == 12
    state, progress, _ = loop.restore(store, line.fresh(), data := Numbers(), lambda meta: None)
    assert stops_early(progress, plan._replace(stop_patience=2)) and progress.best == 4.0
    outcome = loop.fit(
        task, plan._replace(stop_patience=2), state, data, progress=extended(progress), reporter=Records(),
        checkpoints=store, meta={},
    )  # fmt: skip
    assert outcome.stopped_early and int(outcome.state.step) == 20 and outcome.progress.best == 4.0


# Evaluations at other steps.


@pytest.mark.parametrize(
    "more, matters",
    [
        ({}, False),
        ({"stall_patience": 1, "stall_factor": 0.5}, True),
        ({"stall_patience": 1}, False),
        ({"stop_patience": 1}, True),
    ],
)
def test_evaluation_matters_where_something_learned_depends_on_it(more, matters):
    plan = PLAN._replace(**more)
    assert evaluation_matters(plan) == matters
    task = lambda: make_task(evaluate=lambda state: float(state.step))  # noqa: E731
    whole, _, _ = fit(plan, task=task())
    _, records, store = fit(plan, stopped_at(5), task=task())
    outcome, _, _ = fit(plan._replace(eval_every=2), Numbers(), store, records, task=task())
    assert (arrays(outcome.state) != arrays(whole.state)) == matters


def test_progress_keeps_nothing_of_the_plan():
    assert not set(Progress._fields) & set(Plan._fields)


# What is said.


class Talk(Records):
    def __init__(self):
        super().__init__()
        self.events = []

    def say(self, text):
        self.events.append(text)

    def evaluating(self, done, total):
        self.events.append((done, total))

    def at(self, step):
        self.events.append(step)


class Shapes(Numbers):
    """Batches of two lengths, in turn."""

    def __next__(self):
        self.place += 1
        rng = np.random.default_rng(self.place)
        return {"x": rng.normal(size=(2, 5 + self.place % 2)).astype(np.float32), "lengths": np.ones(2, np.int32)}


def test_what_is_compiled_is_said_before_it_is():
    talk = Talk()

    def step(state, batch):
        talk.events.append(f"step {int(state.step) + 1}")
        sums = Sums(np.float32(1.0), np.float32(1.0))
        return state._replace(step=state.step + 1), train_step.StepMetrics(sums, *np.zeros(6, np.float32))

    fit(PLAN._replace(steps=4, eval_every=4), Shapes(), records=talk, task=make_task(step))
    said = [event for event in talk.events if isinstance(event, str) and not event.startswith("first")]
    compiling = "compiling the training step for B=2, T="
    assert said == [f"{compiling}6", "step 1", f"{compiling}5", "step 2", "step 3", "step 4"]
    assert (1, 1) in talk.events  # the evaluation's progress


@pytest.mark.parametrize(
    "shapes, said",
    [
        ([(64, 20)], "B=64, T=20"),
        ([(8, 20), (8, 25), (8,)], "B=8, T=20 and 25"),
        ([(8, 20), (8, 20, 12), (8, 20), (8,)], "B=8, T=20"),
        ([(32, 28, 28, 1), (32,)], "B=32, 28 x 28 x 1"),
        ([(7,)], "B=7"),
    ],
)
def test_shapes_in_words(shapes, said):
    assert loop._described([np.zeros(shape) for shape in shapes]) == said


def test_a_terminal_that_fails_while_it_says_so_loses_no_checkpoint():
    class Broken(Records):
        def say(self, text):
            if "T=5" in text:
                raise OSError("the terminal is gone")

    class Late(Shapes):
        def __next__(self):
            batch = super().__next__()
            return batch | {"x": batch["x"][:, : 5 if self.place == 4 else 4]}

    def loss_fn(params, model_state, carry, batch, rng):
        return carry, model_state, Sums(jax.numpy.sum((params["w"] * batch["x"]) ** 2), jax.numpy.float32(batch["x"].size))

    store = Memory()
    step = train_step.make_train_step(loss_fn, line.OPTIMIZER, optax.constant_schedule(0.1), line.MESH, clip_norm=1.0)
    with pytest.raises(OSError, match="gone"):
        fit(PLAN, Late(), store, Broken(), make_task(step))
    assert max(store.saved) == 3


# Traces.


def _profiled(plan, folder, data=None, store=None, task=None):
    talk = Talk()
    store, data = store or Memory(), data or Numbers()
    state, progress, _ = loop.restore(store, line.fresh(), data, lambda meta: None) or (line.fresh(), Progress(), 0)
    outcome = loop.fit(task or make_task(), plan, state, data, progress=progress, reporter=talk, checkpoints=store, meta={}, workdir=folder)
    return outcome, [event for event in talk.events if isinstance(event, str) and event.startswith("trace")]


def test_a_trace_holds_the_steps_asked_for(tmp_path):
    calls = []

    def step(state, batch):
        calls.append(int(state.step) + 1)
        with jax.profiler.TraceAnnotation(f"seqjax-step-{calls[-1]}"):
            return line.STEP(state, batch)

    outcome, said = _profiled(PLAN._replace(profile=(6, 8)), tmp_path, task=make_task(step))
    assert arrays(outcome.state) == arrays(fit()[0].state)
    assert len(said) == 1 and f"steps 6 to 8: {tmp_path / 'profile'}" in said[0] and "ui.perfetto.dev" in said[0]
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    names = {event.get("name", "") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    found = {name for name in names if name.startswith("seqjax-step-")}
    assert found == {"seqjax-step-6", "seqjax-step-7", "seqjax-step-8"}


def test_a_signal_ends_the_trace(tmp_path):
    outcome, said = _profiled(PLAN._replace(profile=(2, 9)), tmp_path, data=stopped_at(4))
    assert outcome.signal == signal.SIGINT and len(said) == 1
    assert list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))
    jax.profiler.start_trace(tmp_path / "another")  # none is running
    jax.profiler.stop_trace()


@pytest.mark.parametrize("steps", [(0, 3), (5, 4), (10, 13), (13, 14)])
def test_steps_that_do_not_come_cannot_be_traced(tmp_path, steps):
    with pytest.raises(UserError, match=f"profile={steps[0]}:{steps[1]} must be steps of this session, 1 to 12"):
        _profiled(PLAN._replace(profile=steps), tmp_path)
    _, _, store = fit(PLAN._replace(steps=8))
    with pytest.raises(UserError, match="must be steps of this session, 9 to 12"):
        _profiled(PLAN._replace(profile=(8, 9)), tmp_path, store=store)
    with pytest.raises(ValueError, match="work directory"):
        _profiled(PLAN._replace(profile=(8, 9)), None)
    assert not (tmp_path / "profile").exists()
