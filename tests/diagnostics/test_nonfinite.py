"""Where numbers first become infinite or NaN; and the probes that all diagnostics share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import through_time as tt

import seqjax
from seqjax import _unroll
from seqjax.diagnostics import probes
from seqjax.diagnostics.nonfinite import first_nonfinite
from seqjax.diagnostics.ratios import update_ratios
from seqjax.errors import UserError


def growing(scale):
    """A relu network that multiplies by `scale` at each step, above one that does nothing of the kind."""
    cell = seqjax.stack(seqjax.gru(3), seqjax.rnn(3, "relu"))
    params = cell.init(jax.random.key(0), tt.D)
    upper = params[1]._replace(recurrent_kernel=scale * jnp.eye(3), bias=jnp.ones(3))
    return cell, (params[0], upper)


def test_an_overflow_is_found_where_it_happens():
    """1e10 at each step passes the largest float32, 3e38, at the fourth product."""
    cell, params = growing(1e10)
    xs = jnp.ones((2, 9, tt.D))
    (place,) = first_nonfinite(lambda params: seqjax.unroll(cell, params, xs, lengths=jnp.array([3, 9]))[1].sum(), params)
    _, ys = seqjax.unroll(cell, params, xs, lengths=jnp.array([3, 9]))
    step = int(np.flatnonzero(~np.isfinite(np.asarray(ys[1])).all(axis=1))[0])
    assert place == (0, "layer 2 (rnn)", "h", step, (1,)) and 3 <= step <= 4


def test_inputs_parameters_and_both_directions():
    cell = seqjax.bidirectional(seqjax.gru(3), seqjax.gru(3))
    params, xs = cell.init(jax.random.key(0), tt.D), jnp.ones((2, 6, tt.D)).at[0, 2, 1].set(jnp.nan)
    found = first_nonfinite(lambda params: seqjax.unroll(cell, params, xs)[1].sum(), params)
    assert [(place.layer, place.step) for place in found] == [
        ("inputs", 2),
        ("layer 1 (gru, forward)", 2),
        ("layer 2 (gru, backward)", 2),
    ]
    bad = params._replace(backward=params.backward._replace(bias=params.backward.bias.at[0].set(jnp.inf)))
    places = first_nonfinite(lambda params: seqjax.unroll(cell, params, jnp.ones((2, 6, tt.D)))[1].sum(), bad)
    assert (places[0].layer, places[0].part, places[0].step) == ("parameters", "backward/bias", -1)


def test_a_gradient_that_explodes_where_values_do_not():
    """Values stay below 1e10 and the loss is finite; its gradient passes 3e38 on the way back."""
    cell, params = tt.linear(np.float32(1e4) * np.eye(2, dtype=np.float32))
    xs = jnp.zeros((1, 12, tt.D))
    (place,) = first_nonfinite(lambda params: seqjax.unroll(cell, params, xs)[1][:, -1].sum(), params)
    assert place.part == "gradient" and place.step == 11 - 10 and place.sequences == (0,)  # 1e40 after ten steps back
    assert first_nonfinite(lambda params: seqjax.unroll(cell, params, xs[:, :5])[1].sum(), params) == []


def test_captured_runs_are_those_of_the_function():
    cell = seqjax.gru(3)
    params, xs = cell.init(jax.random.key(0), tt.D), jnp.arange(24.0).reshape(2, 4, tt.D)

    def loss(major):
        resets = jnp.zeros((2, 4), bool).at[1, 2].set(True)
        ahead = xs.swapaxes(0, 1) if major else xs
        return seqjax.unroll(cell, params, ahead, resets=resets.T if major else resets, time_major=major, rng=jax.random.key(0))[1].sum()

    for major in (False, True):
        (run,) = probes.captured(loss, major)
        assert run.cell == cell and run.carry is None and set(run.options) == {"resets"}
        np.testing.assert_array_equal(run.xs, xs)
        assert run.options["resets"][1, 2]
    with pytest.raises(UserError, match="inside a jit"):
        probes.captured(jax.jit(loss, static_argnums=0), False)
    with pytest.raises(UserError, match="never calls"):
        probes.captured(lambda: None)
    assert _unroll._watch.get() is None
    with pytest.raises(ZeroDivisionError):
        probes.captured(lambda: 1 / 0)
    assert _unroll._watch.get() is None  # an error leaves nothing behind


def test_update_ratios_of_many_sizes():
    before = {"a": {"w": tt.drawn((4, 4)), "b": jnp.zeros(3)}, "c": (jnp.full(2, 1e30),)}
    after = {"a": {"w": 1.01 * before["a"]["w"], "b": jnp.zeros(3)}, "c": (jnp.full(2, 3e30),)}
    found = update_ratios(before, after)
    np.testing.assert_allclose([found[name] for name in ("a/b", "a/w", "c/0")], [0, 0.01, 2], rtol=1e-4)
