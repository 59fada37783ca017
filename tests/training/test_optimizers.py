"""Schedules against their formulas and optimisers against NumPy, both written again here."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqjax.errors import UserError
from seqjax.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule, warmup_length

RATE = 0.03


def _rates(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)), np.float64)


def _warmup(step, length):
    return min(1.0, (step + 1) / length) if length else 1.0


def _cosine(step, steps, warmup, final):
    done = min(max(step - warmup, 0) / (steps - warmup), 1.0)
    return _warmup(step, warmup) * (final + (1 - final) * 0.5 * (1 + np.cos(np.pi * done)))


def _held(step, per_epoch, hold, decay, warmup):
    epoch = step // per_epoch  # the first is 0
    return _warmup(step, warmup) * decay ** max(0, epoch - hold + 1)


@pytest.mark.parametrize("name", ["constant", "plateau"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_constant(name, warmup):
    rates = _rates(make_schedule(name, RATE, steps=50, warmup_steps=warmup), 60)
    np.testing.assert_allclose(rates, [RATE * _warmup(step, warmup) for step in range(60)], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 20])
@pytest.mark.parametrize("final", [0.0, 0.1, 0.99])
def test_cosine(warmup, final):
    rates = _rates(make_schedule("cosine", RATE, steps=97, warmup_steps=warmup, final_fraction=final), 120)
    want = [RATE * _cosine(step, 97, warmup, final) for step in range(120)]
    np.testing.assert_allclose(rates, want, rtol=1e-5, atol=1e-7 * RATE)
    np.testing.assert_allclose(rates[97:], RATE * final, rtol=1e-6, atol=1e-9)
    assert rates[max(warmup - 1, 0)] == rates.max() == pytest.approx(RATE, rel=1e-6)


@pytest.mark.parametrize("warmup", [0, 5, 25])
@pytest.mark.parametrize("hold", [1, 4])
def test_hold_then_decay(warmup, hold):
    settings = {"steps_per_epoch": 10, "hold_epochs": hold, "decay": 1 / 1.2}
    rates = _rates(make_schedule("hold_then_decay", RATE, steps=200, warmup_steps=warmup, **settings), 200)
    want = [RATE * _held(step, 10, hold, 1 / 1.2, warmup) for step in range(200)]
    np.testing.assert_allclose(rates, want, rtol=2e-6)


@pytest.mark.parametrize("per_epoch", [1, 3, 1327, 16_777_213])
def test_hold_then_decay_changes_at_the_first_step_of_an_epoch(per_epoch):
    schedule = make_schedule("hold_then_decay", 1.0, steps=1, steps_per_epoch=per_epoch, hold_epochs=6, decay=0.5)
    begins = per_epoch * np.arange(6, 20)
    rates = np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(np.stack([begins - 1, begins]))))
    np.testing.assert_array_equal(rates, 0.5 ** np.stack([np.arange(14.0), np.arange(1.0, 15.0)]))


def test_a_python_int_and_an_array_give_the_same_rate():
    for name in SCHEDULES:
        schedule = make_schedule(name, RATE, steps=30, warmup_steps=4, steps_per_epoch=5)
        assert float(schedule(17)) == float(schedule(jnp.int32(17)))


def test_impossible_schedules_are_refused():
    with pytest.raises(UserError, match=r"schedule.name='linear' is unknown; choose one of constant, cosine, "):
        make_schedule("linear", RATE, steps=10)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("asked, steps, taken", [(10, 11, 10), (100, 100, 10), (100, 99, 9), (1000, 12, 1), (7, 7, 0), (1, 1, 0)])
def test_a_warm_up_shrinks_with_the_run(name, asked, steps, taken):
    more = {"steps_per_epoch": 10, "milestones": (0.5,)}
    rates = _rates(make_schedule(name, RATE, steps=steps, warmup_steps=asked, **more), steps + 2)
    wanted = _rates(make_schedule(name, RATE, steps=steps, warmup_steps=taken, **more), steps + 2)
    np.testing.assert_array_equal(rates, wanted)
    assert name == "step" or rates[0] == pytest.approx(RATE / max(taken, 1), rel=1e-6)
    assert warmup_length(asked, steps) == taken
    if name == "constant":
        np.testing.assert_allclose(rates, [RATE * _warmup(step, taken) for step in range(steps + 2)], rtol=1e-6)


# Optimisers.


class Layer(NamedTuple):
    kernel: Any
    bias: Any
    absent: Any = None


def _random(rng, size=1.0):
    def draw(*shape):
        return np.asarray(size * rng.normal(size=shape))

    return {"embed": draw(4, 3), "rnn": (Layer(draw(3, 2), draw(2)), Layer(draw(2, 2), draw(2))), "scale": draw()}


def _clip(grads, limit):
    norm = np.sqrt(sum((g**2).sum() for g in grads))
    return [g * min(1.0, limit / norm) for g in grads], norm > limit


def _numpy_run(name, params, all_grads, rates, clip_norm, b1=0.9, b2=0.999, momentum=0.0, weight_decay=0.0, nesterov=False):
    """The parameters after each step, in float64, over flat lists of arrays."""
    params = [np.array(p, np.float64) for p in params]
    first, second = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    history, clipped = [], []
    for number, (grads, rate) in enumerate(zip(all_grads, rates, strict=True), 1):
        grads, was_clipped = _clip(grads, clip_norm)
        clipped.append(was_clipped)
        for i, g in enumerate(grads):
            if name == "sgd":
                g = g + weight_decay * params[i] * (params[i].ndim > 1)
                first[i] = momentum * first[i] + g
                direction = g + momentum * first[i] if nesterov else first[i]
            else:
                first[i] = b1 * first[i] + (1 - b1) * g
                second[i] = b2 * second[i] + (1 - b2) * g**2
                direction = first[i] / (1 - b1**number) / (np.sqrt(second[i] / (1 - b2**number)) + 1e-8)
                direction = direction + weight_decay * params[i] * (params[i].ndim > 1)
            params[i] = params[i] - rate * direction
        history.append([p.copy() for p in params])
    assert any(clipped) and not all(clipped)  # both cases are seen
    return history


@pytest.mark.parametrize(
    "name, settings",
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.8}),
        ("sgd", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.3}),
        ("sgd", {"weight_decay": 0.3}),
        ("adam", {}),
        ("adam", {"b1": 0.7, "b2": 0.95}),
        ("adamw", {"weight_decay": 0.3}),
        ("adamw", {"weight_decay": 0.3, "b1": 0.5, "b2": 0.9}),
        ("adamw", {}),
    ],
)
def test_optimiser_against_numpy(name, settings):
    rng = np.random.default_rng(1)
    start, all_grads = _random(rng), [_random(rng, size) for size in (0.1, 5.0, 0.2, 0.1, 9.0, 0.3)]
    schedule = make_schedule("cosine", RATE, steps=8, warmup_steps=2)
    optimizer = make_optimizer(name, schedule, clip_norm=2.0, **settings)
    params = jax.tree.map(jnp.float32, start)
    state = optimizer.init(params)
    rates = [RATE * _cosine(step, 8, 2, 0.0) for step in range(6)]
    want = _numpy_run(name, jax.tree.leaves(start), [jax.tree.leaves(g) for g in all_grads], rates, 2.0, **settings)
    update = jax.jit(optimizer.update)
    for grads, expected in zip(all_grads, want, strict=True):
        updates, state = update(jax.tree.map(jnp.float32, grads), state, params)
        params = optax.apply_updates(params, updates)
        assert params["rnn"][0].absent is None
        for got, hand in zip(jax.tree.leaves(params), expected, strict=True):
            np.testing.assert_allclose(got, hand, rtol=2e-5, atol=1e-6)


def test_a_gradient_above_the_limit_counts_by_its_direction_only():
    rng = np.random.default_rng(2)
    params, grads = jax.tree.map(jnp.float32, _random(rng)), jax.tree.map(jnp.float32, _random(rng))
    optimizer = make_optimizer("sgd", optax.constant_schedule(1.0), clip_norm=0.5)
    state = optimizer.init(params)
    updates, _ = optimizer.update(grads, state, params)
    huge, _ = optimizer.update(jax.tree.map(lambda g: 1e6 * g, grads), state, params)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-6)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(huge), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_weight_decay_is_on_matrices_only():
    params = jax.tree.map(jnp.float32, _random(np.random.default_rng(3)))
    optimizer = make_optimizer("adamw", optax.constant_schedule(0.5), clip_norm=1.0, weight_decay=0.1)
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(nothing, optimizer.init(params), params)
    for update, param in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(update, -0.05 * param if param.ndim == 2 else 0 * param, rtol=1e-6)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("adagrad", {}, "optimizer.name='adagrad' is unknown; choose one of adam, adamw, sgd"),
        ("adam", {"weight_decay": 0.1}, "optimizer.weight_decay=0.1 has no effect with adam; choose adamw"),
        ("sgd", {"nesterov": True}, "optimizer.nesterov has no effect without optimizer.momentum"),
        ("adam", {"momentum": 0.9}, "optimizer.momentum=0.9 has no effect with adam; choose sgd"),
        ("adamw", {"momentum": 0.9}, "optimizer.momentum=0.9 has no effect with adamw"),
        ("sgd", {"b1": 0.8}, "optimizer.b1 and b2 have no effect with sgd"),
        ("sgd", {"b2": 0.8}, "optimizer.b1 and b2 have no effect with sgd"),
    ],
)
def test_what_would_be_ignored_is_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(name, optax.constant_schedule(RATE), clip_norm=1.0, **settings)


def test_nothing_is_clipped_where_the_limit_is_infinite():
    params = jax.tree.map(jnp.float32, _random(np.random.default_rng(4)))
    optimizer = make_optimizer("sgd", optax.constant_schedule(1.0), clip_norm=math.inf)
    grads = jax.tree.map(lambda p: 1e4 * p, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for update, grad in zip(jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True):
        np.testing.assert_array_equal(update, -grad)


def test_step_schedule():
    schedule = make_schedule("step", 0.1, steps=64000, milestones=(0.5, 0.75), decay=0.1, warmup_steps=400)
    rates = [float(schedule(jnp.int32(s))) for s in (0, 199, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999)]
    np.testing.assert_allclose(rates, [0.1 / 400, 0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5)


def test_the_tables_name_what_exists():
    for name in OPTIMIZERS:
        make_optimizer(name, optax.constant_schedule(RATE), clip_norm=1.0)
    for name in SCHEDULES:
        make_schedule(name, RATE, steps=10)
