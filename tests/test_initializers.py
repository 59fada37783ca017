"""Initial values: what the cells start from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import initializers

KEY = jax.random.key(0)
GATES = pytest.mark.parametrize(
    ("make", "gates"),
    [
        (seqjax.rnn, 1),
        (seqjax.lstm, 4),
        (functools.partial(seqjax.lstm, coupled=True), 3),
        (seqjax.gru, 3),
        (seqjax.mgu, 2),
    ],
    ids=["rnn", "lstm", "lstm-coupled", "gru", "mgu"],
)


@GATES
def test_recurrent_kernels_are_orthogonal_gate_by_gate(make, gates):
    params = make(8).init(KEY, 5)
    blocks = np.split(np.asarray(params.recurrent_kernel), gates, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(8), atol=1e-5)
    for i, block in enumerate(blocks[1:]):
        assert np.abs(block - blocks[i]).max() > 0.1


@GATES
def test_kernels_are_glorot_uniform_for_the_fans_of_a_gate(make, gates):
    kernel = np.asarray(make(64).init(KEY, 32).kernel)
    limit = np.sqrt(6 / (32 + 64))
    assert kernel.shape == (32, gates * 64)
    assert limit * 0.98 < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.05)


def test_the_forget_bias_is_in_the_parameters():
    np.testing.assert_array_equal(seqjax.lstm(3).init(KEY, 2).bias, [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(seqjax.lstm(2, forget_bias=0.5).init(KEY, 2).bias, [0, 0, 0.5, 0.5, 0, 0, 0, 0])
    np.testing.assert_array_equal(seqjax.lstm(2, coupled=True).init(KEY, 2).bias, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(seqjax.conv_lstm(1, 3, 5).init(KEY, 2).bias, [0, 1, 0, 0])


@pytest.mark.parametrize("make", [seqjax.lstm, functools.partial(seqjax.conv_lstm, kernel_size=3, spatial_shape=5)])
def test_a_bias_that_is_given_is_the_whole_bias_unless_a_forget_bias_is_given_too(make):
    twos = jax.nn.initializers.constant(2.0)
    np.testing.assert_array_equal(make(1, bias_init=twos).init(KEY, 2).bias, [2, 2, 2, 2])
    np.testing.assert_array_equal(make(1, bias_init=twos, forget_bias=0.5).init(KEY, 2).bias, [2, 2.5, 2, 2])


@pytest.mark.parametrize(("make", "gates"), [(seqjax.gru, 3), (seqjax.mgu, 2)], ids=["gru", "mgu"])
def test_the_bias_inside_the_reset_has_its_own_initializer(make, gates):
    ones, twos = jax.nn.initializers.ones, jax.nn.initializers.constant(2.0)
    after = make(3, bias_init=ones).init(KEY, 2)
    assert after.bias.tolist() == [1] * 3 * gates and after.recurrent_bias.tolist() == [0] * 3
    assert make(3, recurrent_bias_init=twos).init(KEY, 2).recurrent_bias.tolist() == [2] * 3
    before = make(3, reset_after=False).init(KEY, 2)
    assert before.bias.shape == (3 * gates,) and before.recurrent_bias is None


def test_the_options_of_the_lstm_start_as_the_plain_one():
    plain, full = seqjax.lstm(3).init(KEY, 2), seqjax.lstm(3, peepholes=True, proj_size=3, layer_norm=True).init(KEY, 2)
    assert plain[3:] == (None,) * 6
    for one, other in zip(plain[:3], full[:3]):
        np.testing.assert_array_equal(one, other)
    assert full.peepholes.tolist() == [0] * 9 and full.memory_bias.tolist() == [0] * 3
    gains = full.kernel_gain, full.recurrent_gain, full.memory_gain
    assert [g.tolist() for g in gains] == [[1] * 12, [1] * 12, [1] * 3]
    drawn = seqjax.lstm(3, coupled=True, peepholes=True, peephole_init=jax.nn.initializers.normal(0.1)).init(KEY, 2)
    assert drawn.peepholes.shape == (6,) and np.all(drawn.peepholes != 0)


def test_params_made_before_there_were_options_still_run():
    params = seqjax.LSTMParams(np.ones((2, 12), np.float32), np.ones((3, 12), np.float32), np.ones(12, np.float32))
    assert seqjax.unroll(seqjax.lstm(3), params, np.ones((1, 4, 2), np.float32))[1].shape == (1, 4, 3)


def test_indrnn_starts_between_forgetting_and_keeping():
    u = np.asarray(seqjax.indrnn(2000).init(KEY, 1).recurrent_kernel)
    assert u.shape == (2000,) and 0 <= u.min() < 0.01 and 0.99 < u.max() < 1
    np.testing.assert_allclose(u.mean(), 0.5, atol=0.03)


CHRONO = [
    ("lstm", seqjax.lstm, {}, (-1, 1, 0, 0)),
    ("coupled", functools.partial(seqjax.lstm, coupled=True), {"keep": 0, "write": None, "gates": 3}, (1, 0, 0)),
    ("gru", seqjax.gru, {"keep": 1, "write": None, "gates": 3}, (0, 1, 0)),
    ("mgu", seqjax.mgu, {"keep": None, "write": 0, "gates": 2}, (-1, 0)),
]


@pytest.mark.parametrize(("make", "settings", "signs"), [row[1:] for row in CHRONO], ids=[row[0] for row in CHRONO])
def test_chrono_biases_lie_where_the_cell_keeps_its_memory(make, settings, signs):
    longest = 100
    chrono = initializers.chrono(longest, **settings)
    bias = make(3000, bias_init=chrono, recurrent_init=initializers.zeros).init(KEY, 1).bias
    blocks = np.asarray(bias).reshape(len(signs), -1)
    amount = np.abs(blocks).max(axis=0)
    for block, sign in zip(blocks, signs, strict=True):
        np.testing.assert_array_equal(block, sign * amount)
    times = np.exp(amount)  # uniform in 1 ... T - 1: the odds of the gate are the steps that a memory lasts
    assert 0.99 < times.min() < 1.5 and longest - 2 < times.max() < longest - 0.99
    np.testing.assert_allclose(np.quantile(times, [0.25, 0.5, 0.75]), 1 + 98 * np.array([0.25, 0.5, 0.75]), rtol=0.06)


@pytest.mark.parametrize(("make", "settings"), [row[1:3] for row in CHRONO], ids=[row[0] for row in CHRONO])
def test_a_memory_lasts_as_long_as_chrono_says(make, settings):
    """Without weights a unit fades to 1/e within a time of the order of its own: after T steps none remembers half."""
    zeros = {"kernel_init": initializers.zeros, "recurrent_init": initializers.zeros}
    cell = make(500, bias_init=initializers.chrono(50, **settings), **zeros)
    params = cell.init(KEY, 1)
    carry = jax.tree.map(jnp.ones_like, cell.initial_carry(params, 1))
    left = []
    for steps in (25, 150):
        last, _ = seqjax.unroll(cell, params, jnp.zeros((1, steps, 1)), carry)
        left.append(np.asarray(last[0])[0])
    assert 0.4 < left[0].max() < 0.65 and left[1].max() < 0.06
    # Of the times, uniform in 1 ... 49, those above 17.5 leave more than a quarter: t / (t + 1) to the 25th.
    np.testing.assert_allclose(np.mean(left[0] > 0.25), (49 - 17.5) / 48, atol=0.06)


def test_irnn_starts_at_the_identity():
    params = seqjax.rnn(4, "relu", recurrent_init=initializers.identity(0.3)).init(KEY, 2)
    np.testing.assert_allclose(params.recurrent_kernel, 0.3 * np.eye(4, dtype=np.float32))


MAKES = {
    "rnn": seqjax.rnn,
    "indrnn": seqjax.indrnn,
    "lstm": functools.partial(seqjax.lstm, peepholes=True, proj_size=3, layer_norm=True, bias_init=initializers.chrono(9)),
    "gru": seqjax.gru,
    "mgu": seqjax.mgu,
    "conv_lstm": functools.partial(seqjax.conv_lstm, kernel_size=3, spatial_shape=5, peepholes=True),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_parameter_dtype_and_key(make, x64):
    for dtype in (jnp.float32, jnp.float64, jnp.bfloat16):
        assert {a.dtype for a in jax.tree.leaves(make(4, param_dtype=dtype).init(KEY, 3))} == {jnp.dtype(dtype)}
    one, same, other = (make(4).init(jax.random.key(seed), 3) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.kernel, same.kernel)
    assert np.abs(one.kernel - other.kernel).max() > 0.1


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"identity needs a square matrix, got shape \(2, 3\)"):
        initializers.identity()(KEY, (2, 3))
    with pytest.raises(ValueError, match=r"the last axis of shape \(2, 7\) does not divide into 3 gates"):
        initializers.per_gate(initializers.orthogonal(), 3)(KEY, (2, 7))
    with pytest.raises(ValueError, match=r"the last axis of shape \(7,\) does not divide into 4 gates"):
        initializers.add_to_gate(initializers.zeros, 1.0, 1, 4)(KEY, (7,))
    with pytest.raises(ValueError, match=r"the last axis of shape \(6,\) does not divide into 4 gates"):
        seqjax.lstm(2, coupled=True, bias_init=initializers.chrono(10)).init(KEY, 1)
    with pytest.raises(ValueError, match="max_steps must be more than 2, got 2"):
        initializers.chrono(2)
