"""What is not finite never enters the state, and a norm that does not overflow."""

import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import line, tiny

from seqjax.errors import UserError
from seqjax.training import loop, train_step
from seqjax.training.guard import CHECKED, clip_by_global_norm, fault_names, faults, global_norm
from seqjax.training.losses import Sums
from seqjax.training.optimizers import make_optimizer, make_schedule

ONE = jax.devices()[:1]
B, T = 3, 4
KEY = jax.random.key(7)

# Steps that are not finite.


class Poisoned(NamedTuple):
    """A batch whose rows say what goes wrong: 0 nothing, else an index of KINDS."""

    batch: Any
    kind: np.ndarray


KINDS = {
    "nothing": [],
    "loss is nan": ["loss"],
    "loss is inf": ["loss"],
    "gradient is inf": ["gradient norm", "optimizer state", "parameters", "moving average"],
    "gradient is nan": ["gradient norm", "optimizer state", "parameters", "moving average"],
    "norm overflows": ["gradient norm"],
    "carry is inf": ["carry"],
    "model state is nan": ["model state", "moving average"],
}  # and what is told of each


def _poisoned_loss(model):
    loss_fn = tiny.loss_of(model)

    def poisoned(params, model_state, carry, batch, rng):
        kind = batch.kind[0]
        carry, _, sums = loss_fn(params, model_state, carry, batch.batch, None)
        p, q = params["softmax"]["bias"][0], params["softmax"]["bias"][1]
        zero, more = p - jax.lax.stop_gradient(p), q - jax.lax.stop_gradient(q)  # always 0, with a gradient of 1
        harm = jnp.where(kind == 1, jnp.nan, 0.0) + jnp.where(kind == 2, -jnp.inf, 0.0)
        steep = jnp.sqrt(jnp.where((kind == 3) | (kind == 4), zero, 1.0))  # 0 there, with an infinite gradient
        harm += jnp.where(kind == 3, 1.0, 0.0) * steep
        harm += sums.tokens * (jnp.where(kind == 5, 3e38, 0.0) * (zero + more))
        carry = jax.tree.map(lambda leaf: jnp.where(kind == 6, jnp.inf, leaf), carry)
        model_state = {"seen": jnp.where(kind == 7, jnp.nan, model_state["seen"] + 1)}
        return carry, model_state, Sums(sums.loss + harm, sums.tokens)

    return poisoned


@pytest.fixture(scope="module")
def poisonous():
    model, mesh = tiny.language_model(), train_step.make_mesh(B, ONE)
    schedule = make_schedule("cosine", 0.1, steps=9, warmup_steps=3)
    optimizer = make_optimizer("adam", schedule, clip_norm=1.0)
    step = train_step.make_train_step(_poisoned_loss(model), optimizer, schedule, mesh, clip_norm=1.0, ema_decay=0.9)
    batches = tiny.windows(tiny.stream(60), B, T)[:4]

    def run(kinds):
        params, carry = tiny.init(model, B)
        seen = {"seen": jnp.float32(0)}
        state, told, states = train_step.init_state(params, seen, optimizer, carry, KEY, mesh, average=True), [], []
        good = iter(batches)
        for kind in kinds:
            batch = batches[0] if kind else next(good)
            state, metrics = step(state, Poisoned(batch, np.full(B, kind)))
            told.append(metrics)
            states.append(tiny.as_numpy(state))
        return states, told

    return run, schedule, run([0, 0, 0, 0])


@pytest.mark.parametrize("kind", range(1, len(KINDS)), ids=list(KINDS)[1:])
def test_a_step_that_is_not_finite_changes_nothing(poisonous, kind):
    run, schedule, (clean, clean_told) = poisonous
    kinds = [0, 0, kind, kind, 0, kind, 0]
    states, told = run(kinds)
    harmed = (float(told[2].sums.loss), float(told[2].grad_norm))
    assert np.isfinite(harmed).tolist() == [kind >= 3, kind < 3 or kind > 5]
    assert np.isnan(harmed).tolist() == [kind == 1, kind == 4]
    assert fault_names(int(told[2].faults)) == list(KINDS.values())[kind]
    good = 0
    for number, (state, metrics) in enumerate(zip(states, told, strict=True)):
        good += kinds[number] == 0
        same = clean[good - 1]
        kept = [(s.params, s.model_state, s.opt_state, s.carry, s.average) for s in (state, same, states[number - 1])]
        tiny.assert_equal(kept[0], kept[1])  # bit for bit as without it
        if kinds[number]:
            tiny.assert_equal(kept[0], kept[2])
        assert (int(metrics.faults) != 0) == (kinds[number] != 0)
        assert int(state.step) == number + 1
        assert int(state.skipped) == int(metrics.skipped) == number + 1 - good
        before = good - (kinds[number] == 0)
        assert float(metrics.learning_rate) == pytest.approx(float(schedule(before)), rel=1e-6)
    assert [int(s.skipped_in_row) for s in states] == [int(m.skipped_in_row) for m in told] == [0, 0, 1, 2, 0, 1, 0]
    counts = [int(leaf) for leaf in jax.tree.leaves(states[-1].opt_state) if leaf.dtype == np.int32]
    assert counts and set(counts) == {4}  # the optimiser's own count of updates
    assert float(told[-1].sums.loss) == float(clean_told[-1].sums.loss)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of the rate, which is the point
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_learning_rate_that_overflows_leaves_the_parameters(name):
    mesh = train_step.make_mesh(B, ONE)
    schedule = make_schedule("constant", 1e39, steps=5)
    optimizer = make_optimizer(name, schedule, clip_norm=1.0)
    step = train_step.make_train_step(tiny.linear_loss, optimizer, schedule, mesh, clip_norm=1.0)
    state = train_step.init_state(jnp.arange(4.0), (), optimizer, jnp.zeros(B), KEY, mesh)
    before = tiny.as_numpy(state)
    state, metrics = step(state, np.random.default_rng(0).normal(size=(B, 4)).astype(np.float32))
    assert np.isfinite(metrics.sums.loss) and np.isfinite(metrics.grad_norm) and int(metrics.skipped) == 1
    assert fault_names(int(metrics.faults)) == ["parameters"]
    tiny.assert_equal((state.params, state.opt_state, state.carry), (before.params, before.opt_state, before.carry))


def test_the_run_stops_and_says_what_was_not_finite():
    schedule = optax.constant_schedule(math.inf)
    optimizer = make_optimizer("sgd", schedule, clip_norm=1.0)
    step = train_step.make_train_step(line.regression, optimizer, schedule, line.MESH, clip_norm=1.0)
    params = {"w": jnp.float32(0.5), "b": jnp.float32(-0.25)}
    state = train_step.init_state(params, (), optimizer, jnp.array([0.5, -1.0]), KEY, line.MESH)
    store = line.Memory()
    with pytest.raises(UserError, match="at step 3: .* 3 times in a row; not finite in the last: the parameters .gradient"):
        loop.fit(
            line.make_task(step), line.PLAN._replace(checkpoint_every=1), state, line.Numbers(), progress=loop.Progress(),
            reporter=line.Records(), checkpoints=store, meta={},
        )  # fmt: skip
    for saved, meta, _ in store.saved.values():
        assert saved.params == params and json.loads(meta)["progress"]["interval"][:5] == [0.0] * 5


# Faults and their names.


def test_faults_are_the_parts_that_are_not_finite():
    rng = np.random.default_rng(1)
    for bits in rng.integers(0, 1 << len(CHECKED), 20):
        bad = [name for place, name in enumerate(CHECKED) if bits >> place & 1]
        values = {name: rng.choice([np.nan, np.inf, -np.inf]) if name in bad else 3e38 for name in CHECKED}
        parts = {name: {"i": jnp.arange(3), "x": (jnp.float32(value), jnp.ones(2))} for name, value in values.items()}
        assert fault_names(int(faults(parts))) == bad
    assert int(faults({"model state": (), "carry": {"of no floats": jnp.ones(3, bool)}})) == 0


# The norm.


def _tree(seed, size):
    rng = np.random.default_rng(seed)
    shapes = {"a": (7, 5), "b": (5,), "c": (2, 3, 4), "d": ()}
    return {name: (size * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def _float64_norm(tree):
    return math.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-18, 1e-3, 1.0, 1e3, 1e9])
def test_an_ordinary_norm_and_its_clipping_are_optaxs_bit_for_bit(size, jitted):
    compiled = jax.jit if jitted else lambda function: function
    for seed in range(5):
        tree = _tree(seed, size)
        for limit in (0.3, 1e3):
            ours, theirs = clip_by_global_norm(limit), optax.clip_by_global_norm(limit)
            state = ours.init(None)
            assert state == theirs.init(None)
            got, want = (compiled(clip.update)(tree, state)[0] for clip in (ours, theirs))
            tiny.assert_equal(got, want)
        norm = compiled(global_norm)(tree)
        assert norm.dtype == jnp.float32 and float(norm) == float(compiled(optax.tree.norm)(tree))


@pytest.mark.parametrize("size", [1e11, 1e12, 1e19, 1e25, 1e36, 3e37])
def test_a_norm_whose_square_overflows(size):
    for seed in range(5):
        tree = _tree(seed, size)
        assert float(global_norm(tree)) == pytest.approx(_float64_norm(tree), rel=1e-6)
        clip = clip_by_global_norm(0.3)
        for got, leaf in zip(jax.tree.leaves(clip.update(tree, clip.init(None))[0]), jax.tree.leaves(tree), strict=True):
            np.testing.assert_allclose(got, np.float64(leaf) * 0.3 / _float64_norm(tree), rtol=2e-6)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_norm_of_what_is_not_finite_is_not_finite(value):
    assert not np.isfinite(global_norm({"a": jnp.array([1.0, value]), "b": jnp.array([1e30])}))


def test_the_norm_of_nothing_is_zero():
    assert float(global_norm(())) == 0 and float(global_norm({"a": jnp.zeros((0, 3))})) == 0


def test_a_step_whose_gradients_square_overflows_is_clipped_and_taken():
    def loss_fn(params, model_state, carry, batch, rng):
        return carry, model_state, Sums(jnp.sum(batch @ (params - jax.lax.stop_gradient(params))), jnp.float32(B))

    mesh, schedule = train_step.make_mesh(B, ONE), optax.constant_schedule(1.0)
    optimizer = make_optimizer("sgd", schedule, clip_norm=0.5)
    step = train_step.make_train_step(loss_fn, optimizer, schedule, mesh, clip_norm=0.5)
    state = train_step.init_state(jnp.zeros(4), (), optimizer, (), KEY, mesh)
    rows = (1e25 * np.random.default_rng(2).normal(size=(B, 4))).astype(np.float32)
    state, metrics = step(state, rows)
    gradient = rows.astype(np.float64).mean(axis=0)
    assert int(metrics.skipped) == 0 and float(metrics.clipped) == 1
    assert float(metrics.grad_norm) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    np.testing.assert_allclose(state.params, -0.5 * gradient / np.linalg.norm(gradient), rtol=1e-5)
