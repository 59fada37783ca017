"""A network with batch statistics and a carried recurrent state: it trains, and resumes byte for byte from the disk."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import line, tiny

import seqjax
from seqjax.training import loop, train_step
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.losses import Sums, means
from seqjax.training.metrics import token_loss
from seqjax.training.optimizers import make_optimizer

B, T, D, H = 4, 3, 2, 5
MESH = train_step.make_mesh(B, jax.devices()[:1])
SCHEDULE = optax.constant_schedule(0.03)
OPTIMIZER = make_optimizer("adam", SCHEDULE, clip_norm=1.0)
CELL = seqjax.lstm(H)
PLAN = loop.Plan(steps=9, log_every=2, eval_every=4, checkpoint_every=100, max_skipped_in_row=3)


class Network(nn.Module):
    """An LSTM over normalised inputs that predicts the running mean of a stream."""

    @nn.compact
    def __call__(self, xs, carry, train=False):
        xs = nn.BatchNorm(use_running_average=not train, momentum=0.9)(xs)
        params = self.param("lstm", lambda key: CELL.init(key, D))
        carry, ys = seqjax.unroll(CELL, params, xs, carry)
        return carry, nn.Dense(1)(ys)[..., 0]


NETWORK = Network()


def loss_fn(params, model_state, carry, batch, rng):
    variables = {"params": params, "batch_stats": model_state}
    if rng is None:
        carry, ys = NETWORK.apply(variables, batch["x"], carry)
    else:
        (carry, ys), new = NETWORK.apply(variables, batch["x"], carry, train=True, mutable=["batch_stats"])
        model_state = new["batch_stats"]
    return carry, model_state, Sums(jnp.sum((ys - batch["y"]) ** 2), jnp.float32(batch["y"].size))


class Streams(line.Numbers):
    """Windows of streams whose target, the mean so far, must be remembered from window to window."""

    def __next__(self):
        self.place += 1
        self.hooks.get(self.place, lambda: None)()
        whole = 3 + 2 * np.random.default_rng(0).normal(size=(B, 40 * T, D)).astype(np.float32)
        mean = np.cumsum(whole[..., 0], axis=1) / np.arange(1, 40 * T + 1)
        part = slice((self.place - 1) % 40 * T, ((self.place - 1) % 40 + 1) * T)
        return {"x": whole[:, part], "y": mean[:, part].astype(np.float32)}


def start():
    zero = CELL.initial_carry(CELL.init(jax.random.key(0), D), B)
    variables = NETWORK.init(jax.random.key(1), jnp.zeros((B, T, D)), zero)
    stats = variables["batch_stats"]
    return train_step.init_state(variables["params"], stats, OPTIMIZER, zero, jax.random.key(2), MESH, average=True)


STEP = train_step.make_train_step(loss_fn, OPTIMIZER, SCHEDULE, MESH, clip_norm=1.0, ema_decay=0.9)
EVALUATE = train_step.make_evaluate(loss_fn, MESH)


def evaluate(state, progress):
    batches = [next(data) for data in [Streams()] for _ in range(5)]
    carry = jax.tree.map(jnp.zeros_like, state.carry)
    return means(EVALUATE(*state.average, carry, batches, progress))


def fit(folder, plan=PLAN, data=None, records=None):
    data, records = data or Streams(), records or line.Records()
    store = Checkpoints(folder, keep=3)
    restored = loop.restore(store, start(), data, lambda meta: None)
    state, progress, first = restored or (start(), loop.Progress(), 0)
    records.all = [record for record in records.all if record["step"] <= first]
    place = lambda batch: jax.device_put(batch, train_step.batch_sharding(MESH))  # noqa: E731
    task = loop.Task(STEP, place, evaluate, token_loss())
    try:
        outcome = loop.fit(task, plan, state, data, progress=progress, reporter=records, checkpoints=store, meta={}, workdir=folder)
    finally:
        store.close()
    return outcome, records


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_it_resumes_byte_for_byte(straight, tmp_path, stop):
    data = Streams()
    data.hooks = line.stopped_at(stop).hooks
    first, records = fit(tmp_path, data=data)
    assert first.signal and int(first.state.step) == stop
    outcome, records = fit(tmp_path, records=records)
    assert line.arrays(outcome.state) == line.arrays(straight[0].state)
    assert records.all == straight[1].all and int(outcome.state.skipped) == 0


@pytest.mark.parametrize("part", ["model_state", "carry", "average"])
def test_each_part_of_the_state_counts(straight, part):
    """The negative control: a state without the part continues differently."""
    reached = fit_from(start(), 6)
    lost = reached._replace(**{part: jax.tree.map(jnp.zeros_like, getattr(reached, part))})
    whole, broken = fit_from(reached, 3, 6), fit_from(lost, 3, 6)
    assert line.arrays(whole) == line.arrays(straight[0].state) != line.arrays(broken)


def fit_from(state, steps, place=0):
    data, state = Streams(), jax.tree.map(jnp.copy, state)
    data.set_state({"place": place})
    for _ in range(steps):
        state, _ = STEP(state, jax.device_put(next(data), train_step.batch_sharding(MESH)))
    return state


def test_it_learns_with_statistics_that_are_the_datas(tmp_path):
    state = fit_from(start(), 400)
    batches = [next(data) for data in [Streams()] for _ in range(40)]
    carry = jax.tree.map(jnp.zeros_like, state.carry)
    before = means(EVALUATE(start().params, start().model_state, carry, batches))["loss"]
    after = means(EVALUATE(state.params, state.model_state, carry, batches))["loss"]
    assert after < 0.2 * before
    inputs = np.concatenate([batch["x"] for batch in batches]).reshape(-1, D)
    (stats,) = state.model_state.values()
    np.testing.assert_allclose(stats["mean"], inputs.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(stats["var"], inputs.var(axis=0), rtol=0.4)


def test_evaluation_leaves_the_model_state_alone_and_tells_its_progress():
    state, told = start(), []
    batches = [next(data) for data in [Streams()] for _ in range(3)]
    before = tiny.as_numpy(state)
    with_length, without = (
        EVALUATE(state.params, state.model_state, state.carry, given, lambda *done: told.append(done)) for given in (batches, iter(batches))
    )
    assert with_length == without and type(with_length.loss) is float
    assert told == [(1, 3), (2, 3), (3, 3), (1, None), (2, None), (3, None)]
    tiny.assert_equal(state, before)


def test_what_the_loss_makes_of_the_model_state_in_evaluation_is_ignored():
    def greedy(params, model_state, carry, batch, rng):
        return carry, model_state + 1, Sums(jnp.sum(model_state * batch), jnp.float32(batch.size))

    run = train_step.make_evaluate(greedy, MESH)
    assert run((), jnp.float32(2), (), [np.ones((B, 1), np.float32)] * 3).loss == 2 * 3 * B
