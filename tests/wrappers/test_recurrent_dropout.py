"""recurrent_dropout: one mask for all time on the recurrent product alone, against NumPy."""

import jax
import numpy as np
import pytest
from cells.table import as_numpy, assert_same

import seqjax
from seqjax.cells.linear import mingru
from seqjax.wrappers import layer_norm, recurrent_dropout

B, T, D, H, RATE = 3, 5, 4, 6, 0.4
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
KEY = jax.random.key(7)


def _setup(inner):
    cell = recurrent_dropout(inner, RATE)
    params = cell.init(jax.random.key(0), D)
    carry = jax.tree.map(lambda a: a + 0.7, cell.initial_carry(params, B))
    keep = np.asarray(cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))[1].keep)
    return cell, params, carry, keep


def test_the_vanilla_cell_equals_numpy_with_one_mask_for_all_time():
    cell, params, carry, keep = _setup(seqjax.rnn(H))
    p, h, ys = as_numpy(params), np.asarray(carry.h, np.float64), []
    for t in range(T):
        h = np.tanh(XS[:, t] @ p["kernel"] + p["bias"] + (keep * h / (1 - RATE)) @ p["recurrent_kernel"])
        ys.append(h)
    last, got = seqjax.unroll(cell, params, XS, carry, rng=KEY)
    assert_same((last.h, got), (h, np.stack(ys, 1)))
    assert 0 < keep.mean() < 1 and keep.shape == (B, H)


def test_the_gru_masks_the_product_and_not_the_memory():
    cell, params, carry, keep = _setup(seqjax.gru(H))
    p, h = as_numpy(params), np.asarray(carry.h, np.float64)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    for t in range(T):
        x = np.split(XS[:, t] @ p["kernel"] + p["bias"], 3, -1)
        u = np.split((keep * h / (1 - RATE)) @ p["recurrent_kernel"], 3, -1)
        r, z = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
        h = (1 - z) * np.tanh(x[2] + r * (u[2] + p["recurrent_bias"])) + z * h
    assert_same(seqjax.unroll(cell, params, XS, carry, rng=KEY)[0].h, h)


def test_no_gradient_comes_through_a_dropped_unit_at_any_time():
    cell, params, carry, keep = _setup(seqjax.lstm(H))
    noisy, noisy_params, _ = cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))
    slope = jax.grad(lambda h: (noisy.parts.recur(noisy_params, carry._replace(h=h)) ** 2).sum())(carry.h)
    assert ((np.asarray(slope) != 0) == keep).all()
    projected = noisy.parts.project(noisy_params, XS[:, 0])
    parts = noisy.parts.after(noisy_params, carry, projected, noisy.parts.recur(noisy_params, carry))
    assert_same(parts, noisy.step(noisy_params, carry, XS[:, 0]))


def test_units_are_dropped_at_the_rate():
    cell = recurrent_dropout(seqjax.lstm(200), 0.25)
    params = cell.init(jax.random.key(0), D)
    keep = np.asarray(cell.wrap.noise(KEY, params, np.zeros((1, 50, D), np.float32))[1].keep)
    assert abs(keep.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / keep.size)


def test_evaluation_and_rate_zero_are_the_cell():
    inner = seqjax.lstm(H)
    cell, params, carry, _ = _setup(inner)
    want = seqjax.unroll(inner, params, XS, carry)
    assert_same(seqjax.unroll(cell, params, XS, carry), want, 0, 0)
    assert_same(seqjax.unroll(recurrent_dropout(inner, 0), params, XS, carry, rng=KEY), want, 0, 0)
    assert_same(cell.step(params, carry, XS[:, 0]), inner.step(params, carry, XS[:, 0]), 0, 0)


def test_what_cannot_be_is_refused():
    with pytest.raises(seqjax.UserError, match="this gru gives its step alone; with reset_after=True it has the parts"):
        recurrent_dropout(seqjax.gru(H, reset_after=False), RATE)
    with pytest.raises(seqjax.UserError, match="this mingru has no recurrent product"):
        recurrent_dropout(mingru(H), RATE)
    with pytest.raises(seqjax.UserError, match=r"in the other order, stack\(recurrent_dropout\(...\)\)"):
        recurrent_dropout(seqjax.stack(seqjax.lstm(H)), RATE)
    with pytest.raises(ValueError, match="rate must be at least 0 and below 1, and it is 1"):
        recurrent_dropout(seqjax.lstm(H), 1)
    nameless = layer_norm(seqjax.rnn(H)).replace(initial_carry=lambda params, batch: ())
    with pytest.raises(seqjax.UserError, match="recurrent_dropout works on h of the carry"):
        recurrent_dropout(nameless, RATE).init(jax.random.key(0), D)
