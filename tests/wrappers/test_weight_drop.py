"""weight_drop: the plain cell with some of its recurrent weights at zero."""

import jax
import numpy as np
import pytest
from cells.table import assert_same

import seqjax
from seqjax.cells.linear import mingru
from seqjax.wrappers import layer_norm, weight_drop, zoneout

B, T, D, H, RATE = 3, 5, 4, 40, 0.4
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
KEY = jax.random.key(7)
INNER = seqjax.lstm(H)
CELL = weight_drop(INNER, RATE)
PARAMS = CELL.init(jax.random.key(0), D)


def test_the_cell_runs_as_it_is_with_weights_dropped_once():
    noisy, dropped, xs = CELL.wrap.noise(KEY, PARAMS, XS)
    assert noisy == INNER and xs is XS
    ratio = np.asarray(dropped.recurrent_kernel) / np.asarray(PARAMS.recurrent_kernel)
    kept = ratio > 0
    np.testing.assert_allclose(ratio[kept], 1 / (1 - RATE), rtol=1e-5)
    assert abs(kept.mean() - (1 - RATE)) < 4 * np.sqrt(RATE * (1 - RATE) / kept.size)
    assert_same(dropped._replace(recurrent_kernel=0), PARAMS._replace(recurrent_kernel=0), 0, 0)
    got = seqjax.unroll(CELL, PARAMS, XS, rng=KEY)
    assert_same(got, seqjax.unroll(INNER, dropped, XS))
    assert np.abs(got[1] - seqjax.unroll(INNER, PARAMS, XS)[1]).max() > 0.01

    slope = jax.jit(jax.grad(lambda p: (seqjax.unroll(CELL, p, XS, rng=KEY)[1] ** 2).sum()))(PARAMS).recurrent_kernel
    assert ((np.asarray(slope) != 0) == kept).all()


def test_evaluation_and_rate_zero_are_the_cell():
    want = seqjax.unroll(INNER, PARAMS, XS)
    assert_same(seqjax.unroll(CELL, PARAMS, XS), want, 0, 0)
    assert_same(seqjax.unroll(weight_drop(INNER, 0.0), PARAMS, XS, rng=KEY), want, 0, 0)


def test_finds_the_kernel_inside_other_wrappers():
    cell = weight_drop(zoneout(layer_norm(seqjax.gru(H)), 0.2), RATE)
    params = cell.init(jax.random.key(0), D)
    dropped = cell.wrap.noise(KEY, params, XS)[1].cell.recurrent_kernel
    assert abs((np.asarray(dropped) == 0).mean() - RATE) < 0.05


def test_what_cannot_be_is_refused():
    with pytest.raises(seqjax.UserError, match="needs a cell with a recurrent_kernel, but the params of mingru have kernel, bias"):
        weight_drop(mingru(H), RATE).init(jax.random.key(0), D)
    with pytest.raises(seqjax.UserError, match=r"in the other order, stack\(weight_drop\(...\)\)"):
        weight_drop(seqjax.stack(INNER), RATE)
    with pytest.raises(ValueError, match="rate must be at least 0 and below 1"):
        weight_drop(INNER, -0.1)
