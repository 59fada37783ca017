"""The loop: metrics read one step late, exact resume of records and state, bookkeeping, signals, losses not finite."""

import json
import math
import os
import signal

import jax
import numpy as np
import optax
import pytest
from training.line import (
    MESH,
    OPTIMIZER,
    PLAN,
    Memory,
    Numbers,
    Records,
    arrays,
    fit,
    make_task,
    regression,
    stopped_at,
)

from seqjax.errors import UserError
from seqjax.training import loop, train_step
from seqjax.training.losses import Sums


@pytest.fixture(scope="module")
def straight():
    return fit(PLAN._replace(stall_patience=1, stall_factor=0.5))


def test_counts_are_means_over_the_interval_and_the_criterion_chooses_the_best(straight):
    step_by_step = fit(PLAN._replace(log_every=1))[1].all
    shares = [r["positive"] for r in step_by_step if r["kind"] == "train"]
    assert 0 < np.mean(shares) < 1
    means = [r["positive"] for r in straight[1].all if r["kind"] == "train"]
    np.testing.assert_allclose(means, [np.mean(shares[:5]), np.mean(shares[5:10]), np.mean(shares[10:])])
    outcome, records, store = fit(task=make_task(evaluate=lambda state: -float(state.step), criterion="other", unit="images"))
    assert outcome.progress.best == pytest.approx(4.0) and store.saved[12][2] == pytest.approx(12.0)
    assert [r["best"] for r in records.all if r["kind"] == "evaluation"] == [4.0, 4.0, 4.0]
    assert all("tokens_per_second" not in r for r in records.all)


@pytest.mark.parametrize("error", [UserError("7.png is broken; repair it", "and 8.png"), RuntimeError("a mistake in the pipeline")])
def test_a_batch_that_cannot_be_read_stops_the_run_which_is_saved_before_it(error):
    data, store, kept = Numbers(), Memory(), Records()

    def fail():
        data.place -= 1  # an iterator stays where it is
        raise error

    data.hooks[8] = fail
    with pytest.raises(type(error)) as caught:
        fit(data=data, store=store, records=kept)
    assert max(store.saved) == 7 and json.loads(store.saved[7][1])["data"] == {"place": 7}
    if isinstance(error, UserError):
        saved = "the run is saved at step 7, and the same command resumes it"
        assert caught.value.args == (f"7.png is broken; repair it; {saved}", "and 8.png")
    outcome, records, store = fit(store=store, records=kept)
    straight, all_records, _ = fit()
    assert arrays(outcome.state) == arrays(straight.state) and records.all == all_records.all


def test_metrics_are_read_after_the_next_step_was_sent():
    events = []

    class Late:
        def __init__(self, step, value):
            self.step, self.value = step, value

        def __array__(self, *_, **__):
            events.append(("read", self.step))
            return np.float32(self.value)

    def step(state, batch):
        number = int(state.step) + 1
        events.append(("sent", number))
        sums = Sums(Late(number, 2.0), Late(number, 1.0), {"right": Late(number, 0.5)})
        metrics = train_step.StepMetrics(sums, *[Late(number, value) for value in (0.5, 0.0, 0.1, 0, 0, 0)])
        return state._replace(step=state.step + 1), metrics

    plan = loop.Plan(steps=9, log_every=2, eval_every=100, checkpoint_every=6, max_skipped_in_row=3)
    _, records, _ = fit(plan, task=make_task(step))
    for number in range(1, 10):
        if number in (6, 9):  # a checkpoint holds all steps up to its own
            assert events.index(("read", number)) > events.index(("sent", number))
        else:
            assert events.index(("read", number)) > events.index(("sent", number + 1))
            assert number == 8 or events.index(("read", number)) < events.index(("sent", number + 2))
    assert [record["step"] for record in records.all if record["kind"] == "train"] == [2, 4, 6, 8, 9]


@pytest.mark.parametrize("stop", range(1, 12))
def test_stopped_anywhere_the_records_and_the_state_are_the_same(straight, stop):
    plan = PLAN._replace(stall_patience=1, stall_factor=0.5)
    first, records, store = fit(plan, stopped_at(stop))
    assert first.signal == signal.SIGINT and int(first.state.step) == stop == max(store.saved)
    outcome, records, _ = fit(plan, Numbers(), store, records)
    assert outcome.signal is None
    assert records.all == straight[1].all
    assert arrays(outcome.state) == arrays(straight[0].state)
    assert outcome.progress._replace(seconds=0) == straight[0].progress._replace(seconds=0)


@pytest.mark.parametrize("lost", ["interval", "best", "since_best"])
def test_progress_must_be_in_the_checkpoint(lost):
    """The negative control of the test above: without one of its fields the records are others."""
    evaluations = {4: 5.0, 8: 6.0, 12: 5.5, 16: 5.2}

    def run(stop=None):
        task = make_task(evaluate=lambda state: evaluations[int(state.step)])
        plan = PLAN._replace(steps=16, stall_patience=2, stall_factor=0.5)
        _, records, store = fit(plan, stopped_at(stop) if stop else Numbers(), task=task)
        if stop:
            state, meta, loss = store.saved[stop]
            meta = json.loads(meta)
            meta["progress"][lost] = loop.Progress()._asdict()[lost]
            store.saved[stop] = (state, json.dumps(meta), loss)
            outcome, records, _ = fit(plan, Numbers(), store, records, task=task)
            return outcome, records
        return _, records

    (_, whole), (_, broken) = run(), run(stop=9)
    assert whole.all != broken.all


def test_records_then_the_checkpoint_then_the_terminal():
    events = []

    class Terminal(Records):
        def record(self, kind, step, values):
            events.append(("record", kind, step))
            super().record(kind, step, values)

        def show(self, kind, step, values):
            events.append(("show", kind, step))
            if (kind, step) == failing:
                raise OSError("the terminal is gone")

    class Disk(Memory):
        def save(self, step, state, meta, loss=math.inf):
            if step not in self.saved:
                events.append(("save", step))
            super().save(step, state, meta, loss)

    task, plan = make_task(sample=lambda state: "text"), PLAN._replace(steps=8, log_every=8, eval_every=8)
    failing = None
    straight = fit(plan, store=Disk(), records=Terminal(), task=task)[1]
    kinds = ("train", "evaluation", "sample")
    turn = [("record", kind, 8) for kind in kinds] + [("save", 8)] + [("show", kind, 8) for kind in kinds]
    assert events == [("save", 3), ("save", 6)] + turn
    for kind in kinds:
        failing, store, records = (kind, 8), Disk(), Terminal()
        with pytest.raises(OSError, match="terminal"):
            fit(plan, store=store, records=records, task=task)
        assert max(store.saved) == 8 and records.all == straight.all


@pytest.mark.parametrize("terminal", [False, True])
def test_a_signal_is_answered_at_once_and_all_time_is_counted(capfd, monkeypatch, terminal):
    now, written = [100.0], []
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    data = Numbers()

    def stop():
        now[0] += 7.0
        os.kill(os.getpid(), signal.SIGTERM)
        written.append(tuple(capfd.readouterr()))

    data.hooks = {2: stop, 1: lambda: now.__setitem__(0, now[0] + 5.0)}
    outcome, _, store = fit(data=data)
    line = "stopping after this step; press again to stop immediately\n"
    assert written == [("", "\n" + line) if terminal else (line, "")]
    assert outcome.progress.seconds == 12.0
    assert json.loads(store.saved[2][1])["progress"]["seconds"] == 12.0
    data = Numbers()
    data.hooks = {3: lambda: now.__setitem__(0, now[0] + 1.0)}
    outcome, _, store = fit(data=data, store=store)
    assert json.loads(store.saved[3][1])["progress"]["seconds"] == 13.0 == outcome.progress.seconds


def test_best_and_plateau():
    losses = iter([3.0, math.nan, 2.0, 2.5, 2.5, 2.2, 2.1, 1.0, math.inf])
    plan = loop.Plan(9, 100, 1, checkpoint_every=100, max_skipped_in_row=3, stall_patience=2, stall_factor=0.5)
    scales = []

    def sample(state):
        scales.append(float(state.lr_scale))
        return "text"

    outcome, records, store = fit(plan, task=make_task(evaluate=lambda state: next(losses), sample=sample))
    evaluations = [record for record in records.all if record["kind"] == "evaluation"]
    assert [record["best"] for record in evaluations] == [3, 3, 2, 2, 2, 2, 2, 1, 1]
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert float(outcome.state.lr_scale) == 0.25 and outcome.progress.since_best == 1
    assert evaluations[2]["double"] == 4.0
    assert [store.saved[step][2] for step in (1, 3, 8)] == [3.0, 2.0, 1.0]
    assert [record["text"] for record in records.all if record["kind"] == "sample"] == ["text"] * 9


def test_a_first_evaluation_that_is_no_number_is_not_the_best():
    losses = iter([math.nan, 2.0, 3.0])
    outcome, records, _ = fit(PLAN, task=make_task(evaluate=lambda state: next(losses)))
    assert [record["best"] for record in records.all if record["kind"] == "evaluation"] == [None, 2.0, 2.0]
    assert outcome.progress.best == 2.0


def test_log_is_the_mean_over_its_steps():
    plan = PLAN._replace(log_every=1)
    _, every, _ = fit(plan)
    _, some, _ = fit(PLAN)
    one = [record for record in every.all if record["kind"] == "train"]
    five = [record for record in some.all if record["kind"] == "train"]
    assert [record["step"] for record in five] == [5, 10, 12]
    for begin, end, record in ((0, 5, five[0]), (5, 10, five[1]), (10, 12, five[2])):
        for name in ("loss", "grad_norm", "clipped_share"):
            assert record[name] == pytest.approx(np.mean([r[name] for r in one[begin:end]]), rel=1e-6)
    assert len({r["loss"] for r in one}) == 12


def test_compiled_once():
    """Over evaluations, a lowered rate, a stop and a resume."""
    step = train_step.make_train_step(regression, OPTIMIZER, optax.constant_schedule(0.1), MESH, clip_norm=1.0)
    plan = PLAN._replace(stall_patience=1, stall_factor=0.5)
    _, records, store = fit(plan, stopped_at(7), task=make_task(step, evaluate=lambda state: float(state.step)))
    outcome, _, _ = fit(plan, Numbers(), store, records, task=make_task(step, evaluate=lambda state: float(state.step)))
    assert float(outcome.state.lr_scale) == 0.25
    assert step._cache_size() == 1


def test_steps_that_are_not_finite_are_skipped_and_counted():
    plan = PLAN._replace(log_every=1)
    outcome, records, _ = fit(plan, Numbers(bad=(3, 6, 7)))
    train = [record for record in records.all if record["kind"] == "train"]
    assert [record.get("skipped_steps", 0) for record in train] == [0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3]
    assert all(math.isfinite(value) for value in outcome.state.params.values())
    kept, _, _ = fit(PLAN._replace(steps=2, eval_every=2))
    also, _, _ = fit(PLAN._replace(steps=3, eval_every=3), Numbers(bad=(3,)))
    assert arrays(kept.state.params) == arrays(also.state.params)
    assert arrays(kept.state.opt_state) == arrays(also.state.opt_state)
    # A log interval counts its good steps only.
    _, few, _ = fit(PLAN._replace(log_every=4, steps=4), Numbers(bad=(3,)))
    good = [record for record in train if record["step"] in (1, 2, 4)]
    assert few.all[0]["loss"] == pytest.approx(np.mean([record["loss"] for record in good]), rel=1e-6)


@pytest.mark.parametrize("checkpoint_every", [1, 3, 100])
def test_too_many_in_a_row_stop_the_run(checkpoint_every):
    plan = PLAN._replace(checkpoint_every=checkpoint_every, eval_every=100)
    store = Memory()
    with pytest.raises(UserError) as caught:
        fit(plan, Numbers(bad=(2, 5, 6, 7, 8)), store)
    message = str(caught.value)
    assert "step 7" in message and "3 times in a row" in message and "norm nan" in message
    assert "lower optimizer.learning_rate" in message and "\n" not in message
    parameters = [state.params for state, _, _ in store.saved.values()]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(parameters))
    assert max(store.saved, default=0) <= 7


def test_signals_are_given_back_and_a_second_one_is_not_kept_from_others():
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        mine = signal.getsignal(signal.SIGINT)
        data = stopped_at(4)
        once = data.hooks[4]
        data.hooks[4] = lambda: [once() for _ in range(3)]
        outcome, _, store = fit(data=data)
        assert outcome.signal == signal.SIGINT and max(store.saved) == 4
        assert heard == [signal.SIGINT] * 2  # the first one is the loop's
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_in_the_last_step_changes_nothing():
    outcome, _, store = fit(data=stopped_at(12, signal.SIGTERM))
    assert outcome.signal is None and max(store.saved) == 12


def test_a_finished_run_started_again_does_nothing(straight):
    plan = PLAN._replace(stall_patience=1, stall_factor=0.5)
    _, records, store = fit(plan)
    saved = dict(store.saved)
    outcome, records, _ = fit(plan, Numbers(), store, records)
    assert records.all == straight[1].all and store.saved == saved
    assert arrays(outcome.state) == arrays(straight[0].state)
