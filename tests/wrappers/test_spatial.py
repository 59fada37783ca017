"""Wrappers around convolutional cells, whose steps have axes between batch and features."""

import jax
import numpy as np
import pytest
from cells.table import assert_same

import seqjax
from seqjax.cells._conv_lstm import conv_lstm
from seqjax.wrappers import (
    bidirectional,
    dropout,
    layer_norm,
    learned_initial_carry,
    recurrent_dropout,
    residual,
    stack,
    weight_drop,
    zoneout,
)

B, T, SPACE, F = 2, 4, (3, 2), 2
XS = np.random.default_rng(0).normal(size=(B, T, *SPACE, F)).astype(np.float32)
LENGTHS = np.array([T, 2])


def _conv():
    return conv_lstm(F, 3, SPACE)


def _inside():
    return zoneout(layer_norm(recurrent_dropout(weight_drop(dropout(_conv(), 0.2), 0.2), 0.2)), 0.2)


def test_every_wrapper_keeps_the_spatial_axes_lengths_and_streaming():
    cell = stack(learned_initial_carry(_inside()), residual(dropout(_conv(), 0.3, shared_over_time=True)))
    assert cell.spatial == SPACE
    params = cell.init(jax.random.key(0), F)
    carry, ys = seqjax.unroll(cell, params, XS)
    now = cell.initial_carry(params, B)
    for t in range(T):
        now, y = cell.step(params, now, XS[:, t])
        assert_same(y, ys[:, t])
    assert_same(now, carry)
    noisy = np.asarray(seqjax.unroll(cell, params, XS, lengths=LENGTHS, rng=jax.random.key(1))[1])
    assert noisy.shape == XS.shape and np.all(noisy[1, 2:] == 0) and np.abs(noisy[0] - ys[0]).max() > 0.01


def test_masks_are_drawn_for_every_place():
    cell = _inside()
    params = cell.init(jax.random.key(0), F)
    keep = cell.wrap.noise(jax.random.key(1), params, XS.swapaxes(0, 1))[2].keep
    assert keep["h"].shape == keep["c"].shape == (T, B, *SPACE, F)


def test_both_directions():
    cell = bidirectional(_conv(), _conv(), "sum")
    params = cell.init(jax.random.key(0), F)
    got = seqjax.unroll(cell, params, XS, lengths=LENGTHS)[1]
    ahead = seqjax.unroll(_conv(), params.forward, XS, lengths=LENGTHS)[1]
    assert_same(got, ahead + seqjax.unroll(_conv(), params.backward, XS, lengths=LENGTHS, reverse=True)[1])


def test_layers_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"agree in their spatial axes, got conv_lstm \(3, 2\), lstm \(\)"):
        stack(_conv(), seqjax.lstm(3))
