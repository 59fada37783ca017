"""The carry after every step: what runs that end there give, on every engine, held at padded steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import CELLS, ROWS, WRAPPERS, B, D, H, T, assert_same, names, setup

import seqjax

LENGTHS = np.array([T, 2, 0], np.int32)


def one_by_one(cell, params, xs, carry, resets, mask, reverse):
    """The carries by the streaming step alone."""
    initial, found = cell.initial_carry(params, B), [None] * T

    @jax.jit
    def held(carry, x, reset, real):
        return _where(real, cell.step(params, _where(reset, initial, carry), x)[0], carry)

    for t in range(T)[:: -1 if reverse else 1]:
        found[t] = carry = held(carry, xs[:, t], resets[:, t], mask[:, t])
    return jax.tree.map(lambda *steps: jnp.stack(steps, axis=1), *found)


def _where(flags, on_true, on_false):
    along = lambda like: flags.reshape(flags.shape + (1,) * (like.ndim - 1))  # noqa: E731
    return jax.tree.map(lambda a, b: jnp.where(along(a), a, b), on_true, on_false)


@pytest.mark.one_in(8)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("row", [row for row in ROWS if "bidirectional" not in row.name], ids=lambda row: row.name)
def test_they_are_those_of_the_streaming_step(row, reverse, x64):
    cell, params, xs, carry = setup(row, 41, np.float64, param_dtype=jnp.float64)
    rng = np.random.default_rng(3)
    mask, resets = rng.random((B, T)) < 0.6, rng.random((B, T)) < 0.3
    how = {"lengths": mask, "resets": resets, "reverse": reverse}
    last, ys, carries = seqjax.unroll(cell, params, xs, carry, return_carries=True, **how)
    assert_same(carries, one_by_one(cell, params, xs, carry, resets, mask, reverse), 1e-9, 1e-10)
    assert_same((last, ys), seqjax.unroll(cell, params, xs, carry, **how), 1e-12, 1e-12)
    assert_same(last, jax.tree.map(lambda a: a[:, 0 if reverse else -1], carries), 1e-12, 1e-12)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("row", CELLS, ids=names(CELLS))
def test_gradients_through_them_are_those_of_the_scan(row, x64):
    cell, params, xs, carry = setup(row, 42, np.float64, param_dtype=jnp.float64)

    def loss(params, carry, xs, engine):
        found = seqjax.unroll(cell, params, xs, carry, lengths=LENGTHS, engine=engine, remat_every=4, return_carries=True)
        leaves = jax.tree.leaves(found)
        weights = [np.random.default_rng(i).normal(size=a.shape) for i, a in enumerate(leaves)]
        return sum((w * a).sum() for w, a in zip(weights, leaves))

    grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    auto, scan = (grad(params, carry, xs, engine) for engine in ("auto", "scan"))
    assert_same(auto, scan, 1e-9, 1e-10)


@pytest.mark.parametrize("row", [row for row in WRAPPERS if row.name in ("deep", "dropout")], ids=lambda row: row.name)
def test_with_training_noise(row):
    cell, params, xs, carry = setup(row)
    how = {"rng": jax.random.key(0), "lengths": LENGTHS}
    last, ys, carries = seqjax.unroll(cell, params, xs, carry, return_carries=True, **how)
    assert_same((last, ys), seqjax.unroll(cell, params, xs, carry, **how))
    assert_same(last, jax.tree.map(lambda a: a[:, -1], carries))


def test_both_directions_and_time_major():
    cell = seqjax.bidirectional(seqjax.lstm(H), seqjax.gru(H))
    params = cell.init(jax.random.key(0), D)
    xs = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    last, _, carries = seqjax.unroll(cell, params, xs, lengths=LENGTHS, return_carries=True)
    assert_same(last.forward, jax.tree.map(lambda a: a[:, -1], carries.forward))
    assert_same(last.backward, jax.tree.map(lambda a: a[:, 0], carries.backward))
    turned = seqjax.unroll(cell, params, xs.swapaxes(0, 1), lengths=LENGTHS, time_major=True, return_carries=True)[2]
    assert_same(turned, jax.tree.map(lambda a: a.swapaxes(0, 1), carries))
    alone = seqjax.unroll(seqjax.gru(H), params.backward, xs, lengths=LENGTHS, reverse=True, return_carries=True)[2]
    assert_same(carries.backward, alone)
    fresh = seqjax.bidirectional(seqjax.lstm(H), seqjax.gru(H), fresh_backward=True)
    found = seqjax.unroll(fresh, params, xs, return_carries=True)[2].backward.h
    assert found.shape == (B, T, H) and not found.any()


def test_no_steps():
    cell = seqjax.lstm(H)
    params = cell.init(jax.random.key(0), D)
    _, ys, carries = seqjax.unroll(cell, params, np.zeros((B, 0, D), np.float32), lengths=np.zeros(B, int), return_carries=True)
    assert ys.shape == carries.c.shape == carries.h.shape == (B, 0, H)
