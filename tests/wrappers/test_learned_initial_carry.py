"""learned_initial_carry: the start of runs, resets to it, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import assert_same
from cells.wrapper_rows import learned

import seqjax
from seqjax.wrappers import learned_initial_carry, zoneout

B, T, D, H = 3, 5, 4, 6
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
INNER = seqjax.lstm(H)
CELL = learned(INNER)
PARAMS = CELL.init(jax.random.key(0), D)
START = jax.tree.map(lambda a: jnp.broadcast_to(a[None], (B, H)), PARAMS.carry)


def test_at_first_it_is_the_cells_own():
    cell = learned_initial_carry(seqjax.stack(INNER, seqjax.gru(3)))
    params = cell.init(jax.random.key(0), D)
    assert_same(cell.initial_carry(params, B), seqjax.stack(INNER, seqjax.gru(3)).initial_carry(params.cell, B), 0, 0)
    assert params.carry[0].c.shape == (H,)


def test_runs_start_there_and_resets_go_back_there():
    assert_same(seqjax.unroll(CELL, PARAMS, XS), seqjax.unroll(INNER, PARAMS.cell, XS, START))
    other = jax.tree.map(lambda a: a - 1, START)
    resets = np.zeros((B, T), bool)
    resets[1:, 2] = True
    _, ys = seqjax.unroll(CELL, PARAMS, XS, other, resets=resets)
    plain = seqjax.unroll(INNER, PARAMS.cell, XS, other)[1]
    again = seqjax.unroll(INNER, PARAMS.cell, XS[:, 2:], START)[1]
    assert_same(ys[:, :2], plain[:, :2])
    assert_same((ys[0, 2:], ys[1:, 2:]), (plain[0, 2:], again[1:]))
    assert np.abs(plain[1:, 2:] - again[1:]).max() > 0.01


def test_the_gradient_comes_from_the_start_and_from_resets():
    resets = np.zeros((B, T), bool)
    resets[0, 2] = resets[0, 4] = resets[2, 3] = True

    def own_loss(learned, start, resets):
        ys = seqjax.unroll(CELL, PARAMS._replace(carry=learned), XS, start, resets=resets)[1]
        return (ys**2).sum()

    def loop_loss(learned, start, resets):
        initial = jax.tree.map(lambda a: jnp.broadcast_to(a[None], (B, H)), learned)
        carry, total = initial if start is None else start, 0.0
        for t in range(T):
            carry = jax.tree.map(lambda a, b, t=t: jnp.where(resets[:, t, None], a, b), initial, carry)
            carry, y = INNER.step(PARAMS.cell, carry, XS[:, t])
            total += (y**2).sum()
        return total

    own, loop = jax.jit(jax.grad(own_loss)), jax.jit(jax.grad(loop_loss))
    for start in (None, START):
        assert_same(own(PARAMS.carry, start, resets), loop(PARAMS.carry, start, resets), 1e-4, 1e-5)
        assert all(np.abs(a).max() > 0.01 for a in own(PARAMS.carry, start, resets))
    assert all(np.all(a == 0) for a in own(PARAMS.carry, START, np.zeros((B, T), bool)))


def test_narrow_carries_have_wide_parameters():
    cell = learned_initial_carry(seqjax.lstm(H, dtype=jnp.bfloat16))
    params = cell.init(jax.random.key(0), D)
    assert params.carry.h.dtype == jnp.float32 and cell.initial_carry(params, B).h.dtype == jnp.bfloat16
    seqjax.unroll(cell, params, XS)


def test_noise_inside_is_drawn():
    cell = learned_initial_carry(zoneout(INNER, 0.5))
    params = cell.init(jax.random.key(0), D)
    noisy = seqjax.unroll(cell, params, XS, rng=jax.random.key(1))[1]
    assert np.abs(noisy - seqjax.unroll(cell, params, XS)[1]).max() > 0.01


def test_what_is_no_cell_is_refused():
    with pytest.raises(TypeError, match="cell must be a Cell, got a function"):
        learned_initial_carry(seqjax.lstm)
