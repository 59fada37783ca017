"""Early stopping: where it stops, the same after any stop and resume, finished for good; shapes of batches are counted."""

import json
import math
import signal

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.line import MESH, OPTIMIZER, PLAN, Memory, Numbers, arrays, fit, fresh, make_task, stopped_at

from seqjax.errors import UserError
from seqjax.run import recipe, session, settings
from seqjax.training import progress, train_step
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.losses import Sums

# By step; the best is at 8, and the third evaluation in a row that is not better is at 14.
LOSSES = {2: 5.0, 4: math.nan, 6: 6.0, 8: 4.0, 10: 4.0, 12: math.inf, 14: 4.5, 16: 1.0, 18: 2.0, 20: 3.0}
EARLY = PLAN._replace(steps=20, eval_every=2, stop_patience=3)
BOTH = EARLY._replace(stall_patience=2, stall_factor=0.5)


def by_table(**more):
    return make_task(evaluate=lambda state: LOSSES[int(state.step)], **more)


def text(records):
    return json.dumps(records.all)  # where nan is nan


def without_time(reached):
    return reached._replace(seconds=0)


@pytest.fixture(scope="module", params=[EARLY, BOTH], ids=["alone", "with plateau"])
def straight(request):
    return request.param, *fit(request.param, task=by_table())


def test_it_stops_after_so_many_in_a_row(straight):
    plan, outcome, records, store = straight
    assert int(outcome.state.step) == 14 == max(store.saved) and outcome.stopped_early and outcome.signal is None
    assert outcome.progress.without_best == 3 and outcome.progress.best == 4.0
    assert float(outcome.state.lr_scale) == (0.25 if plan is BOTH else 1.0)  # lowered at 6 and 12
    assert [r["step"] for r in records.all if r["kind"] == "evaluation"] == [2, 4, 6, 8, 10, 12, 14]
    whole, _, kept = fit(plan._replace(stop_patience=0), task=by_table())
    assert int(whole.state.step) == 20 and not whole.stopped_early
    assert arrays(kept.saved[14][0]) == arrays(outcome.state)  # stopping changes nothing of what was learned before


@pytest.mark.parametrize("stop", [1, 3, 6, 8, 9, 10, 12, 13])
def test_stopped_anywhere_it_stops_early_at_the_same_step(straight, stop):
    plan, whole, records, _ = straight
    first, ours, store = fit(plan, stopped_at(stop), task=by_table())
    assert first.signal == signal.SIGINT and not first.stopped_early and max(store.saved) == stop
    outcome, ours, _ = fit(plan, Numbers(), store, ours, task=by_table())
    assert outcome[2:4] == whole[2:4] and without_time(outcome.progress) == without_time(whole.progress)
    assert arrays(outcome.state) == arrays(whole.state) and text(ours) == text(records)


def test_the_count_must_be_in_the_checkpoint():
    """The negative control: without it the run goes on for longer. A checkpoint of before there was one can be read."""
    _, _, store = fit(EARLY, stopped_at(13), task=by_table())
    state, meta, loss = store.saved[13]
    meta = json.loads(meta)
    assert meta["progress"]["without_best"] == 2
    del meta["progress"]["without_best"]
    store.saved[13] = (state, json.dumps(meta), loss)
    outcome, _, _ = fit(EARLY, Numbers(), store, task=by_table())
    assert int(outcome.state.step) == 20


@pytest.mark.parametrize("seed", range(20))
def test_both_counts_go_each_by_itself(seed):
    """Against the counts taken from the whole list of values."""
    rng = np.random.default_rng(seed)
    values = rng.choice([1.0, 2.0, 3.0, 4.0, 5.0, math.nan, math.inf, -math.inf], 30).tolist()
    plan = BOTH._replace(stall_patience=int(rng.integers(1, 4)), stop_patience=int(rng.integers(1, 9)))
    reached, lowered = progress.Progress(), []
    for place, value in enumerate(values):
        reached, lower = progress.after_evaluation(reached, plan, value)
        reached = progress.Progress(**json.loads(json.dumps(reached._asdict())))
        lowered.append(lower)
        finite = [v if math.isfinite(v) else math.inf for v in values[: place + 1]]
        best = min(finite)
        last = finite.index(best) if best < math.inf else -1  # the first of equals is the best
        assert reached.best == (None if best == math.inf else best)
        assert reached.without_best == place - last
        since = place - max([last, *[i for i, low in enumerate(lowered[:-1]) if low]])
        assert lower == (since >= plan.stall_patience)
        assert progress.stops_early(reached, plan) == (place - last >= plan.stop_patience)
        assert not progress.stops_early(reached, plan._replace(stop_patience=0))


@pytest.mark.parametrize("number", [signal.SIGINT, None])
def test_a_finished_run_stays_finished(straight, number, capsys):
    plan, whole, records, _ = straight
    first, ours, store = fit(plan, stopped_at(14, number) if number else Numbers(), task=by_table())
    assert first.stopped_early and first.signal is None  # in its last step a signal changes nothing
    saved, data = dict(store.saved), Numbers()
    again, ours, _ = fit(plan, data, store, ours, task=by_table())
    assert again.stopped_early and again.signal is None and again.shapes == 0
    assert data.place == 14 and store.saved == saved and text(ours) == text(records)
    assert arrays(again.state) == arrays(whole.state)
    assert session.conclude(again, plan.steps, "best 4", "curves.png") == 0
    said = capsys.readouterr().out
    assert "step 14 of 20" in said
    assert said.endswith("stopped early at step 14: validation did not improve in 3 evaluations\n")


def test_more_patience_goes_on_as_if_it_had_never_stopped(straight):
    plan = straight[0]
    patient = plan._replace(stop_patience=9)
    whole, records, _ = fit(patient, task=by_table())
    _, ours, store = fit(plan, task=by_table())
    outcome, ours, _ = fit(patient, Numbers(), store, ours, task=by_table())
    assert int(outcome.state.step) == 20 and not outcome.stopped_early
    assert text(ours) == text(records) and arrays(outcome.state) == arrays(whole.state)


def test_the_criterion_decides_and_the_last_step_is_not_early():
    task = by_table(criterion="other")  # -loss: the best is at 6
    outcome, _, store = fit(EARLY, task=task)
    assert int(outcome.state.step) == 12 and outcome.progress.best == -6.0
    assert store.saved[12][2] == math.inf  # -inf is no best checkpoint
    last, _, _ = fit(EARLY._replace(steps=14), task=by_table())
    assert int(last.state.step) == 14 and not last.stopped_early


def test_on_the_disk_and_in_words(tmp_path, capsys):
    """session.run as an experiment calls it: a stop, the early end, and the same command again."""
    parts = {"meta": {}, "check_meta": lambda meta: None, "config": {}}
    plan = EARLY._replace(stop_patience=2, checkpoint_every=100)  # saves are slow

    def run(data):
        outcome = session.run(tmp_path, by_table(), plan, fresh(), data, Checkpoints(tmp_path, keep=2), **parts)
        return outcome, capsys.readouterr().out, (tmp_path / "metrics.jsonl").read_bytes()

    stopped, _, _ = run(stopped_at(5))
    assert stopped.signal == signal.SIGINT
    outcome, said, records = run(Numbers())
    assert outcome.stopped_early and "from the checkpoint of step 5\n" in said
    again, said, after = run(Numbers())
    assert "resuming from the checkpoint of step 6, which is the last\n" in said
    assert again.stopped_early and again.progress.without_best == 2 and records == after
    assert arrays(again.state) == arrays(outcome.state)


def test_the_config_field():
    fields = recipe.FIELDS
    assert recipe.make_plan(settings.build(fields), 10).stop_patience == 0
    changed = settings.build(fields, {"train.stop_after": 4, "schedule.name": "plateau", "schedule.patience": 2})
    plan = recipe.make_plan(changed, 10)
    assert (plan.stop_patience, plan.stall_patience, plan.stall_factor) == (4, 2, 0.5)
    with pytest.raises(UserError, match="train.stop_after=-1 is out of range"):
        settings.validate(settings.build(fields, {"train.stop_after": -1}), fields)


# Shapes.


class Lengths(Numbers):
    """Batches of three lengths, and of two dtypes at one of them."""

    def __next__(self):
        self.place += 1
        dtype = np.int32 if self.place % 8 == 2 else np.float32
        return {"x": np.ones((2, 1 + self.place % 3), dtype)}


def test_shapes_are_counted(capsys):
    def loss_fn(params, model_state, carry, batch, rng):
        return carry, model_state, Sums(jnp.sum((params["w"] * batch["x"] - params["b"]) ** 2), jnp.float32(batch["x"].size))

    step = train_step.make_train_step(loss_fn, OPTIMIZER, optax.constant_schedule(0.1), MESH, clip_norm=1.0)
    plan = PLAN._replace(steps=9)
    outcome, _, _ = fit(plan, Lengths(), task=make_task(step))
    assert outcome.shapes == step._cache_size() == 4
    assert session.conclude(outcome, 9, "", "") == 0
    assert "compiled 4 shapes of the training step\n" in capsys.readouterr().out
    outcome, _, _ = fit(PLAN._replace(steps=2), Numbers(), Memory())
    assert outcome.shapes == 1 and session.conclude(outcome, 2, "", "") == 0
    assert "shapes" not in capsys.readouterr().out
