"""TBPTT(k1, k2) against its definition: a block at a time, with the gradient stopped by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.errors import UserError

B, T, D, H = 3, 11, 2, 4
LENGTHS = jnp.array([11, 7, 0])
RESETS = jnp.zeros((B, T), bool).at[0, 5].set(True).at[1, 2].set(True)


def _setup(cell, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(a + 0.3 * rng.normal(size=a.shape), dtype), cell.init(jax.random.key(0), D))
    carry = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), dtype), cell.initial_carry(params, B))
    return params, jnp.asarray(rng.normal(size=(B, T, D)), dtype), carry, jnp.asarray(rng.normal(size=(B, T, H)), dtype)


def _by_hand(cell, params, xs, carry, weights, every, back, lengths, resets):
    """The loss whose gradient is that of TBPTT: each block's own outputs, from a carry without gradient k2 steps before its end."""
    total = 0.0
    for start in range(0, T, every):
        end = min(start + every, T)
        first = max(start + every - back, 0)
        before = carry
        if first:
            fixed = jax.lax.stop_gradient((params, xs, carry))
            real = jnp.arange(first)[None, :] < lengths[:, None]
            before, _ = seqjax.unroll(cell, fixed[0], fixed[1][:, :first], fixed[2], lengths=real, resets=resets[:, :first], engine="scan")
        real = jnp.arange(first, end)[None, :] < lengths[:, None]
        _, ys = seqjax.unroll(cell, params, xs[:, first:end], before, lengths=real, resets=resets[:, first:end], engine="scan")
        total += jnp.sum(ys[:, start - first :] * weights[:, start:end])
    return total


@pytest.mark.one_in(2)
@pytest.mark.parametrize("every, back", [(1, 1), (4, 4), (3, 7), (2, 30)])
@pytest.mark.parametrize("cell", [seqjax.lstm(H), seqjax.stack(seqjax.gru(3), seqjax.rnn(H))], ids=["lstm", "stack"])
def test_gradients_are_those_of_the_definition(cell, every, back, x64):
    params, xs, carry, weights = _setup(cell)

    def loss(params, xs, carry):
        _, ys = seqjax.truncated_unroll(cell, params, xs, carry, every=every, back=back, lengths=LENGTHS, resets=RESETS)
        return jnp.sum(ys * weights)

    want = jax.jit(jax.value_and_grad(lambda *a: _by_hand(cell, *a, weights, every, back, LENGTHS, RESETS), (0, 1, 2)))(params, xs, carry)
    got = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(params, xs, carry)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), got, want)


def test_values_are_those_of_unroll_and_what_is_cut_off_is_missing(x64):
    cell = seqjax.gru(H)
    params, xs, carry, weights = _setup(cell)
    want = seqjax.unroll(cell, params, xs, carry, lengths=LENGTHS, resets=RESETS)

    def gradient(**how):
        return jax.jit(jax.grad(lambda p: jnp.sum(seqjax.truncated_unroll(cell, p, xs, carry, **how)[1] * weights)))(params)

    for every, back in ((3, 3), (3, 7), (1, 40)):
        got = seqjax.truncated_unroll(cell, params, xs, carry, every=every, back=back, lengths=LENGTHS, resets=RESETS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, want)
    exact = jax.jit(jax.grad(lambda p: jnp.sum(seqjax.unroll(cell, p, xs, carry)[1] * weights)))(params)
    errors = [float(jnp.abs(gradient(every=1, back=back).recurrent_kernel - exact.recurrent_kernel).max()) for back in (1, 4, T)]
    assert errors[0] > errors[1] > 1e-6 and errors[2] < 1e-12


def test_no_gradient_reaches_an_input_more_than_so_many_steps_back(x64):
    cell = seqjax.lstm(H)
    params, xs, carry, _ = _setup(cell)

    def last(xs, every, back):
        return seqjax.truncated_unroll(cell, params, xs, carry, every=every, back=back)[1][:, -1].sum()

    for every, back, seen in ((4, 4, 3), (2, 5, 4), (1, 3, 3)):  # the last block may be short: 11 = 2 * 4 + 3 = 5 * 2 + 1
        gradient = jnp.abs(jax.grad(last)(xs, every, back)).sum((0, 2))
        assert np.flatnonzero(gradient).tolist() == list(range(T - seen, T)), (every, back)


def test_noise_in_blocks_one_after_another():
    cell = seqjax.dropout(seqjax.rnn(H), 0.5)
    params, xs, _, _ = _setup(cell, jnp.float32)
    draw = [seqjax.truncated_unroll(cell, params, xs, every=4, rng=jax.random.key(seed))[1] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).any()


@pytest.mark.parametrize(
    "how, message",
    [
        ({"every": 0}, "every must be at least 1"),
        ({"every": 3, "back": 2}, "back at least every"),
        ({"every": 3, "back": 5, "rng": True}, "does not support rng"),
        ({"every": 3, "reverse": True}, "does not support reverse"),
        ({"every": 3, "time_major": True}, "does not support time_major"),
        ({"every": 3, "return_carries": True}, "does not support return_carries"),
        ({"every": 3, "padded_outputs": "repeat"}, "does not support padded_outputs"),
    ],
)
def test_what_it_cannot_do_is_refused(how, message):
    cell = seqjax.rnn(H)
    params, xs, _, _ = _setup(cell, jnp.float32)
    how = how | ({"rng": jax.random.key(0)} if "rng" in how else {})
    with pytest.raises(UserError, match=message):
        seqjax.truncated_unroll(cell, params, xs, **how)
    both = seqjax.bidirectional(seqjax.rnn(2), seqjax.rnn(2))
    with pytest.raises(UserError, match="whole"):
        seqjax.truncated_unroll(both, both.init(jax.random.key(0), D), xs, every=3)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"lengths": np.array([11, 12, 0])}, ValueError, r"lengths must lie in 0 ... T = 11, got values from 0 to 12"),
        ({"lengths": np.array([1, 2])}, ValueError, r"lengths must have shape \(3,\)"),
        ({"lengths": np.ones(3)}, TypeError, "lengths must be integers"),
        ({"resets": np.zeros((3, 4), bool)}, ValueError, r"resets must have shape \(3, 11\)"),
        ({"resets": np.full((3, 11), 0.5)}, ValueError, "resets"),
    ],
)
@pytest.mark.parametrize("back", [4, 6])
def test_lengths_and_resets_are_checked_as_by_unroll(given, error, message, back):
    cell = seqjax.gru(H)
    params, xs, carry, _ = _setup(cell, jnp.float32)
    for run in (seqjax.unroll, lambda *args, **options: seqjax.truncated_unroll(*args, every=4, back=back, **options)):
        with pytest.raises(error, match=message):
            run(cell, params, xs, carry, **given)
