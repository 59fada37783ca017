"""layer_norm: the two products normalised, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import as_numpy, assert_same
from cells.wrapper_rows import shifted

import seqjax
from seqjax.cells.linear import mingru
from seqjax.typing import Dense
from seqjax.wrappers import layer_norm, recurrent_dropout, zoneout

B, T, D, H = 3, 5, 4, 6
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)


def _ln(a):
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)


def _sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_the_lstm_equals_numpy():
    cell = shifted(seqjax.lstm(H))
    params = cell.init(jax.random.key(0), D)
    p, g = as_numpy(params.cell), {k: np.asarray(v, np.float64) for k, v in params._asdict().items() if k != "cell"}
    c = h = np.zeros((B, H))
    ys = []
    for t in range(T):
        x = _ln(XS[:, t] @ p["kernel"] + p["bias"]) * g["gain"] + g["bias"]
        i, f, j, o = np.split(x + _ln(h @ p["recurrent_kernel"]) * g["recurrent_gain"], 4, -1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(j)
        h = _sigmoid(o) * np.tanh(c)
        ys.append(h)
    last, got = seqjax.unroll(cell, params, XS)
    assert_same((last.c, last.h, got), (c, h, np.stack(ys, 1)))


def test_the_scale_of_the_weights_does_not_matter_and_every_gain_learns():
    cell = layer_norm(seqjax.gru(H))
    params = cell.init(jax.random.key(0), D)
    bigger = params.cell._replace(kernel=30 * params.cell.kernel, recurrent_kernel=30 * params.cell.recurrent_kernel)
    start = cell.initial_carry(params, B)._replace(h=jnp.asarray(np.random.default_rng(1).normal(size=(B, H)), "f4"))
    assert_same(seqjax.unroll(cell, params._replace(cell=bigger), XS, start), seqjax.unroll(cell, params, XS, start), 1e-3, 1e-3)
    slope = jax.jit(jax.grad(lambda p: (seqjax.unroll(cell, p, XS)[1] ** 2).sum()))(params)
    assert all(np.abs(a).max() > 0 and np.isfinite(a).all() for a in jax.tree.leaves(slope))


def test_the_parts_and_dtypes():
    cell = shifted(seqjax.lstm(H, dtype=jnp.bfloat16))
    params = cell.init(jax.random.key(0), D)
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    carry = jax.tree.map(lambda a: a + 0.5, cell.initial_carry(params, B))
    projected, recurrent = cell.parts.project(params, XS[:, 0]), cell.parts.recur(params, carry)
    assert projected.dtype == recurrent.dtype == jnp.bfloat16 and not isinstance(cell.split, Dense)
    assert_same(cell.parts.after(params, carry, projected, recurrent), cell.step(params, carry, XS[:, 0]), 1e-2, 1e-2)


def test_around_noise_the_noise_stays():
    inner = recurrent_dropout(seqjax.dropout(seqjax.lstm(H), 0.5), 0.5)
    cell = layer_norm(inner)
    params = cell.init(jax.random.key(0), D)
    key = jax.random.key(1)
    noisy, noisy_params, xs = cell.wrap.noise(key, params, XS.swapaxes(0, 1))
    want = inner.wrap.noise(key, params.cell, XS.swapaxes(0, 1))
    assert_same((noisy_params.cell, xs), want[1:], 0, 0)
    noisy = noisy.replace(init=lambda key, size: noisy_params)
    by_hand = seqjax.unroll(noisy, noisy_params, np.asarray(xs).swapaxes(0, 1))
    assert_same(seqjax.unroll(cell, params, XS, rng=key), by_hand)
    assert layer_norm(seqjax.lstm(H)).wrap.noise is None


def test_around_zoneout_is_zoneout_around_it():
    inside, outside = layer_norm(zoneout(seqjax.lstm(H), 0.3)), zoneout(layer_norm(seqjax.lstm(H)), 0.3)
    params = inside.init(jax.random.key(0), D)
    for rng in (None, jax.random.key(1)):
        assert_same(seqjax.unroll(inside, params, XS, rng=rng), seqjax.unroll(outside, params, XS, rng=rng), 1e-6, 1e-6)


def test_what_cannot_be_is_refused():
    for inner, message in (
        (seqjax.gru(H, reset_after=False), "this gru has only a step"),
        (mingru(H), "this mingru has no recurrent product"),
        (seqjax.stack(seqjax.lstm(H)), r"in the other order, stack\(layer_norm\(...\)\)"),
    ):
        with pytest.raises(seqjax.UserError, match=message):
            layer_norm(inner)
