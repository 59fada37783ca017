"""residual: y + x, and sizes that must agree."""

import jax
import numpy as np
import pytest
from cells.table import assert_same

import seqjax

XS = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)


def test_adds_the_input_to_the_output():
    inner = seqjax.lstm(6)
    params = inner.init(jax.random.key(0), 6)
    carry, ys = seqjax.unroll(inner, params, XS)
    assert_same(seqjax.unroll(seqjax.residual(inner), params, XS), (carry, ys + XS))


def test_padded_steps_stay_zero():
    cell = seqjax.residual(seqjax.gru(6))
    params = cell.init(jax.random.key(0), 6)
    _, ys = seqjax.unroll(cell, params, XS, lengths=[5, 2])
    assert np.all(ys[1, 2:] == 0) and np.all(np.abs(ys[1, :2]).max(-1) > 0)


def test_the_output_size_of_the_inner_cell_is_kept_in_its_dtype():
    cell = seqjax.residual(seqjax.rnn(6, dtype="bfloat16"))
    params = cell.init(jax.random.key(0), 6)
    assert seqjax.unroll(cell, params, XS)[1].dtype == "bfloat16"


def test_unequal_sizes_are_refused_by_name():
    inner = seqjax.lstm(6)
    cell = seqjax.residual(inner)
    message = r"residual\(lstm\).*the input size is 4 and the output size is 6"
    with pytest.raises(ValueError, match=message):
        cell.init(jax.random.key(0), 4)
    params = inner.init(jax.random.key(0), 4)
    with pytest.raises(ValueError, match=message):
        seqjax.unroll(cell, params, XS[..., :4])
    with pytest.raises(ValueError, match=message):
        cell.step(params, cell.initial_carry(params, 2), XS[:, 0, :4])
