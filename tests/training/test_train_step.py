"""One training step: against an update by hand, donation, the learning rate, noise, several devices."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import tiny

from seqjax.training import train_step
from seqjax.training.losses import Sums, means
from seqjax.training.optimizers import make_optimizer, make_schedule

ONE = jax.devices()[:1]
B, T = 3, 4
KEY = jax.random.key(7)


def _start(model, optimizer):
    """The first state of a language model with plain random parameters."""
    params, carry = tiny.init(model, B)
    return train_step.init_state(params, (), optimizer, carry, KEY, train_step.make_mesh(B, ONE))


# Against an update by hand.


def _hand_update(model, optimizer):
    """One step written out: mean of -log p over the real tokens, its gradient, the optimiser, plain addition."""

    @jax.jit
    def update(params, opt_state, carry, batch, rng):
        def mean_loss(params):
            variables = {"params": params}
            noise = {"train": True, "rngs": {"dropout": rng}}
            last, logits = model.apply(variables, batch.inputs, carry, resets=batch.resets, **noise)
            log_p = logits - jax.scipy.special.logsumexp(logits, axis=-1, keepdims=True)
            picked = (log_p * jax.nn.one_hot(batch.targets, tiny.V)).sum(-1)
            return -(picked * batch.mask).sum() / batch.mask.sum(), last

        (loss, carry_after), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, carry_after, loss, optax.tree.norm(grads)

    return update


def test_steps_are_those_of_an_update_by_hand():
    model = tiny.language_model(dropout=0.3)
    params, carry = tiny.init(model, B)
    schedule = make_schedule("cosine", 0.05, steps=6, warmup_steps=2)
    optimizer = make_optimizer("adamw", schedule, clip_norm=0.6, weight_decay=0.1)
    mesh = train_step.make_mesh(B, ONE)
    traces, loss_fn = [], tiny.loss_of(model)

    def counted(*arguments):
        traces.append(arguments)
        return loss_fn(*arguments)

    step = train_step.make_train_step(counted, optimizer, schedule, mesh, clip_norm=0.6)
    state = train_step.init_state(params, (), optimizer, carry, KEY, mesh)
    hand, by_hand = (params, optimizer.init(params), carry), _hand_update(model, optimizer)
    batches = tiny.windows(tiny.stream(40), B, T)
    assert not batches[-1].mask.all()
    clipped = set()
    for number, batch in enumerate(batches):
        state, metrics = step(state, batch)
        *hand, loss, norm = by_hand(*hand, batch, jax.random.fold_in(KEY, number))
        tiny.assert_close((state.params, state.opt_state, state.carry), tuple(hand), 2e-4, 2e-6)
        assert float(metrics.sums.tokens) == batch.mask.sum()
        np.testing.assert_allclose(metrics.sums.loss, loss * batch.mask.sum(), rtol=1e-5)
        np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-4)  # before clipping
        assert bool(metrics.clipped) == (float(norm) > 0.6)
        np.testing.assert_allclose(metrics.learning_rate, schedule(number), rtol=1e-6)
        clipped.add(bool(metrics.clipped))
    assert clipped == {True, False} and int(state.step) == len(batches) and int(state.skipped) == 0
    assert len(traces) == 1  # compiled once


def test_what_stands_under_the_mask_has_no_influence():
    model = tiny.language_model()
    mesh = train_step.make_mesh(B, ONE)
    optimizer, schedule = optax.sgd(0.5), optax.constant_schedule(0.5)
    step = train_step.make_train_step(tiny.loss_of(model), optimizer, schedule, mesh, clip_norm=1.0)
    batch = tiny.windows(tiny.stream(40), B, T)[-1]
    following = tiny.windows(tiny.stream(40, seed=1), B, T)[0]  # each row starts fresh, as at an epoch's start
    rng = np.random.default_rng(3)

    def run(inputs, targets):
        state = _start(model, optimizer)
        real = batch._replace(
            inputs=np.where(batch.mask, batch.inputs, inputs).astype(np.int32),
            targets=np.where(batch.mask, batch.targets, targets).astype(np.int32),
        )
        state, first = step(state, real)
        state, second = step(state, following)
        return state.params, first, second, state.carry

    padded = run(tiny.PAD, tiny.PAD)
    assert 0 < batch.mask.sum() < batch.mask.size and float(padded[1].sums.tokens) == batch.mask.sum()
    tiny.assert_equal(padded, run(rng.integers(0, tiny.V, (B, T)), rng.integers(0, tiny.V, (B, T))))
    tiny.assert_equal(padded, run(tiny.PAD, rng.choice([-1, tiny.V, 10**6], (B, T))))  # no ids at all: log p is NaN


# The mechanics, on a loss linear in the parameters: the gradient is the mean of the batch's rows.

ROWS = np.random.default_rng(0).normal(size=(6, B, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def linear():
    """(step, start): sgd, whose rate changes at every update, and a fresh state from parameters of zero."""
    schedule = make_schedule("cosine", 1.0, steps=50)
    optimizer = make_optimizer("sgd", schedule, clip_norm=0.4)
    mesh = train_step.make_mesh(B, ONE)
    step = train_step.make_train_step(tiny.linear_loss, optimizer, schedule, mesh, clip_norm=0.4)
    return step, lambda: train_step.init_state(jnp.zeros(4), (), optimizer, jnp.zeros(B), KEY, mesh), schedule


def test_the_norm_is_before_clipping_and_the_update_after_it(linear):
    step, start, _ = linear
    for rows, clipped in ((ROWS[0], 1.0), (0.1 * ROWS[0], 0.0)):
        state, metrics = step(start(), rows)
        gradient = rows.mean(0)
        norm = np.linalg.norm(gradient)
        assert float(metrics.clipped) == clipped == float(norm > 0.4)
        np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-6)
        np.testing.assert_allclose(state.params, -gradient * min(1, 0.4 / norm), rtol=1e-5)


def test_buffers_are_donated(linear):
    step, start, _ = linear
    state = start()
    after, _ = step(state, ROWS[0])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(state.params)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_what_init_state_was_given_is_not_donated():
    params, carry, mesh = jnp.arange(4.0), jnp.zeros(B), train_step.make_mesh(B, ONE)
    optimizer = optax.sgd(1.0)
    step = train_step.make_train_step(tiny.linear_loss, optimizer, optax.constant_schedule(1.0), mesh, clip_norm=1.0)
    step(train_step.init_state(params, (), optimizer, carry, KEY, mesh), ROWS[0])
    np.testing.assert_array_equal(params, np.arange(4.0))
    np.testing.assert_array_equal(carry, np.zeros(B))
    assert jax.random.key_data(KEY).shape == (2,)


def test_one_compilation_also_after_the_host_changed_the_rate(linear):
    step, start, _ = linear
    state = start()
    for rows in ROWS[:3]:
        state, _ = step(state, jax.device_put(rows, train_step.batch_sharding(train_step.make_mesh(B, ONE))))
        state = _scaled(state, 0.5)
    assert float(state.lr_scale) == 0.125
    assert step._cache_size() <= 2  # one for batches from the host, and one for batches on the device


def _scaled(state, factor):
    """As the loop does when validation stalls."""
    scale = jnp.float32(state.lr_scale * factor)
    return state._replace(lr_scale=jax.device_put(scale, state.lr_scale.sharding))


def test_lr_scale_scales_the_update_exactly(linear):
    step, start, schedule = linear
    whole, metrics = step(start(), ROWS[0])
    for factor in (0.5, 0.125, 0.0):
        part, scaled = step(_scaled(start(), factor), ROWS[0])
        np.testing.assert_array_equal(part.params, factor * np.asarray(whole.params))
        assert float(scaled.learning_rate) == factor * float(metrics.learning_rate) == factor * float(schedule(0))


def test_the_reported_rate_is_the_one_applied(linear):
    step, start, schedule = linear
    state = _scaled(start(), 0.3)
    for number, rows in enumerate(ROWS):
        before = np.array(state.params)
        state, metrics = step(state, rows)
        direction = rows.mean(0) * min(1, 0.4 / np.linalg.norm(rows.mean(0)))
        applied = (before - np.asarray(state.params)) @ direction / (direction @ direction)
        assert applied == pytest.approx(float(metrics.learning_rate), rel=1e-4)
        assert float(metrics.learning_rate) == pytest.approx(0.3 * float(schedule(number)), rel=1e-6)


def test_noise_is_new_each_step_and_the_same_for_the_same_step(linear):
    step, start, _ = linear
    state, sums = start(), [np.zeros(B)]
    for number, rows in enumerate(ROWS):
        state, _ = step(state, rows)
        sums.append(np.array(state.carry))
        want = jax.random.uniform(jax.random.fold_in(KEY, number), (B,))
        np.testing.assert_allclose(sums[-1] - sums[-2], want, rtol=1e-4, atol=1e-6)
    assert len({tuple(noise) for noise in np.diff(sums, axis=0)}) == len(ROWS)
    again = start()
    for rows in ROWS:
        again, _ = step(again, rows)
    tiny.assert_equal(again, state)
    later, _ = step(start()._replace(step=jax.device_put(jnp.int32(3), state.step.sharding)), ROWS[0])
    np.testing.assert_allclose(later.carry, sums[4] - sums[3], rtol=1e-4, atol=1e-6)


def test_a_skipped_step_uses_up_its_noise(linear):
    step, start, _ = linear
    state, metrics = step(start(), np.full_like(ROWS[0], np.nan))
    assert int(metrics.skipped) == 1 and np.all(np.asarray(state.carry) == 0)
    state, _ = step(state, ROWS[1])
    np.testing.assert_allclose(state.carry, jax.random.uniform(jax.random.fold_in(KEY, 1), (B,)), rtol=1e-6)


# Batches of several shapes, as length buckets give them, and a model that carries nothing.


def squares(params, model_state, carry, batch, rng):
    """A loss whose mean is over the tokens under the mask, and a count."""
    errors = jnp.where(batch["mask"], (params["w"] * batch["x"] - 1) ** 2, 0)
    large = jnp.sum(errors > 1, dtype=jnp.float32)
    return carry, model_state, Sums(jnp.sum(errors), jnp.sum(batch["mask"], dtype=jnp.float32), {"large": large})


def buckets(seed, sizes):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=s).astype(np.float32), "mask": rng.random(s) < 0.7} for s in sizes]


def test_evaluation_over_several_shapes_is_that_of_all_tokens():
    traces = []

    def counted(*arguments):
        traces.append(arguments[3]["x"].shape)
        return squares(*arguments)

    evaluate = train_step.make_evaluate(counted, train_step.make_mesh(B, ONE))
    sizes = [(B, 2), (B, 5), (B, 2), (2 * B, 5), (B, 5)]
    for seed in range(2):
        batches = buckets(seed, sizes)
        x, mask = (np.concatenate([b[name].ravel() for b in batches]).astype(np.float64) for name in ("x", "mask"))
        errors = (0.75 * x[mask > 0] - 1) ** 2
        found = means(evaluate({"w": jnp.float32(0.75)}, (), (), iter(batches)))
        assert found == pytest.approx({"loss": errors.mean(), "large": (errors > 1).mean()}, rel=1e-5)
    assert len(traces) == len(set(sizes)) + 1  # once for each shape, and one that finds the zeros
    with pytest.raises(ValueError, match="batches is empty"):
        evaluate({"w": jnp.float32(0.75)}, (), (), [])


def test_steps_of_several_shapes_go_on_from_each_other():
    optimizer, mesh = optax.sgd(0.1), train_step.make_mesh(B, ONE)
    step = train_step.make_train_step(squares, optimizer, optax.constant_schedule(0.1), mesh, clip_norm=jnp.inf)
    state, w = train_step.init_state({"w": jnp.float32(0.5)}, (), optimizer, (), KEY, mesh), 0.5
    for batch in buckets(0, [(B, 2), (B, 5), (2 * B, 3), (B, 5), (B, 2)]):
        state, metrics = step(state, jax.device_put(batch, train_step.batch_sharding(mesh)))
        x = batch["x"][batch["mask"]]
        assert float(metrics.sums.loss) == pytest.approx(((w * x - 1) ** 2).sum(), rel=1e-5)
        w -= 0.1 * (2 * (w * x - 1) * x).mean()
        assert float(state.params["w"]) == pytest.approx(w, rel=1e-5)
    assert step._cache_size() == 3


@pytest.mark.parametrize("bad", [(), (1,)])
def test_the_average_follows_the_good_steps(bad):
    """Moving averages of parameters and model state, by hand; a counter of integers is taken as it is."""
    mesh, optimizer = train_step.make_mesh(B, ONE), optax.sgd(0.5)

    def loss_fn(params, model_state, carry, batch, rng):
        mean = 0.5 * model_state["mean"] + 0.5 * batch.mean(axis=0)
        return carry, {"mean": mean, "count": model_state["count"] + 1}, Sums(jnp.sum(batch @ params), jnp.float32(B))

    step = train_step.make_train_step(loss_fn, optimizer, optax.constant_schedule(0.5), mesh, clip_norm=jnp.inf, ema_decay=0.3)
    kept = {"mean": jnp.zeros(4), "count": jnp.int32(0)}
    state = train_step.init_state(jnp.arange(4.0), kept, optimizer, (), KEY, mesh, average=True)
    params, mean, averages = np.arange(4.0), np.zeros(4), [np.arange(4.0), np.zeros(4)]
    rows, good = np.random.default_rng(0).normal(size=(4, B, 4)).astype(np.float32), 0
    for i, batch in enumerate(rows):
        fed = np.full_like(batch, np.nan) if i in bad else batch
        state, metrics = step(state, jax.device_put(fed, train_step.batch_sharding(mesh)))
        assert float(metrics.clipped) == 0
        if i not in bad:
            params, mean = params - 0.5 * batch.mean(axis=0), 0.5 * mean + 0.5 * batch.mean(axis=0)
            d = min(0.3, (1 + good) / (10 + good))
            averages, good = [d * a + (1 - d) * new for a, new in zip(averages, (params, mean))], good + 1
    np.testing.assert_allclose(state.params, params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.model_state["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.average[0], averages[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.average[1]["mean"], averages[1], rtol=1e-5, atol=1e-6)
    assert int(state.average[1]["count"]) == int(state.model_state["count"]) == 4 - len(bad) == good
    assert int(state.skipped) == len(bad)


# Several devices.

ON_DEVICES = """
import jax, numpy as np
jax.config.update("jax_numpy_rank_promotion", "raise")
from training import tiny
from seqjax.training import train_step
from seqjax.training.optimizers import make_optimizer, make_schedule

assert len(jax.devices()) == 4
model, B = tiny.language_model(layers=1, dropout=0.3), 8
schedule = make_schedule("constant", 0.05, steps=9)
optimizer = make_optimizer("adam", schedule, clip_norm=0.5)
batches = tiny.windows(tiny.stream(90), B, 4)
assert len(batches) == 3 and not batches[-1].mask.all()

def run(devices):
    mesh = train_step.make_mesh(B, devices)
    params, carry = tiny.init(model, B)
    state = train_step.init_state(params, (), optimizer, carry, jax.random.key(7), mesh)
    step = train_step.make_train_step(tiny.loss_of(model), optimizer, schedule, mesh, clip_norm=0.5)
    told = []
    for batch in batches:
        state, metrics = step(state, jax.device_put(batch, train_step.batch_sharding(mesh)))
        told.append(metrics)
    assert step._cache_size() == 1
    for leaf in jax.tree.leaves(state.carry):
        assert leaf.addressable_shards[0].data.shape[0] == B // len(devices), leaf.sharding
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        assert leaf.sharding.is_fully_replicated and len(leaf.addressable_shards) == len(devices)
    nats = train_step.make_evaluate(tiny.loss_of(model), mesh)(state.params, (), model.initial_carry(params, B), batches)
    return jax.device_get((told, state.params, state.carry, nats))

one, four = run(jax.devices()[:1]), run(jax.devices())
tiny.assert_close(one, four, 1e-3, 2e-5)
print("equal", one[-1].loss, four[-1].loss)
"""


def test_four_devices_do_what_one_does():
    tests = pathlib.Path(__file__).resolve().parents[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    path = os.pathsep.join([str(tests.parent), str(tests)])
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", ON_DEVICES], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0 and done.stdout.startswith("equal"), done.stdout + done.stderr
