"""dropout: statistics of the masks, sharing over time, and silence in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import assert_same

import seqjax
from seqjax.typing import Cell

RATE, B, T, D = 0.3, 16, 20, 30
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32) + 3


def _echo(size):
    """A cell that returns its inputs, so that a mask is visible."""

    def step(params, carry, x):
        return carry, x

    return Cell("echo", size, lambda key, n: {}, lambda p, batch: jnp.zeros((batch, 1)), lambda p: size, step)


def _factors(shared, seed=1, **options):
    """What dropout multiplied each input by."""
    cell = seqjax.dropout(_echo(D), RATE, shared)
    return np.asarray(seqjax.unroll(cell, {}, XS, rng=jax.random.key(seed), **options)[1]) / XS


@pytest.mark.parametrize("shared", [False, True])
def test_inputs_are_dropped_at_the_rate_and_the_rest_scaled_up(shared):
    factors = _factors(shared)
    kept = factors > 0
    np.testing.assert_allclose(factors[kept], 1 / (1 - RATE), rtol=1e-5)
    draws = kept[:, 0] if shared else kept
    error = np.sqrt(RATE * (1 - RATE) / draws.size)
    assert abs(draws.mean() - (1 - RATE)) < 4 * error


def test_one_mask_for_all_time_or_one_a_step():
    shared, single = _factors(True), _factors(False)
    assert np.allclose(shared, shared[:, :1], rtol=1e-5)
    assert not np.allclose(single[:, 0] > 0, single[:, 1] > 0)
    for factors in (shared, single):
        assert not np.allclose(factors[0] > 0, factors[1] > 0)
        assert not np.allclose(factors[:, 0, 0] > 0, factors[:, 0, 1] > 0)


def test_a_key_gives_the_same_mask_again_and_another_gives_another():
    assert_same(_factors(False, 1), _factors(False, 1, reverse=True))
    assert not np.allclose(_factors(False, 1), _factors(False, 2))


def test_no_noise_without_a_key_or_in_a_step():
    inner = seqjax.lstm(8)
    cell = seqjax.dropout(inner, 0.5)
    params = cell.init(jax.random.key(0), D)
    assert_same(seqjax.unroll(cell, params, XS), seqjax.unroll(inner, params, XS), 0, 0)
    carry = cell.initial_carry(params, B)
    assert_same(cell.step(params, carry, XS[:, 0]), inner.step(params, carry, XS[:, 0]), 0, 0)
    noisy = seqjax.unroll(cell, params, XS, rng=jax.random.key(1))[1]
    assert np.abs(noisy - seqjax.unroll(inner, params, XS)[1]).max() > 0.01


def test_rate_zero_is_no_dropout():
    inner = seqjax.gru(8)
    params = inner.init(jax.random.key(0), D)
    got = seqjax.unroll(seqjax.dropout(inner, 0.0), params, XS, rng=jax.random.key(1))
    assert_same(got, seqjax.unroll(inner, params, XS), 0, 0)


def test_layers_of_a_stack_draw_their_own_masks():
    cell = seqjax.stack(seqjax.dropout(_echo(D), RATE), seqjax.dropout(_echo(D), RATE))
    factors = np.asarray(seqjax.unroll(cell, ({}, {}), XS, rng=jax.random.key(0))[1]) / XS
    kept = (factors > 0).mean()
    assert abs(kept - (1 - RATE) ** 2) < 0.02


def test_dtype_is_kept():
    cell = seqjax.dropout(_echo(D), RATE)
    assert seqjax.unroll(cell, {}, XS.astype(jnp.bfloat16), rng=jax.random.key(0))[1].dtype == jnp.bfloat16


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, float("nan")])
def test_bad_rates_are_refused(rate):
    with pytest.raises(ValueError, match="rate must be at least 0 and below 1"):
        seqjax.dropout(seqjax.lstm(4), rate)
