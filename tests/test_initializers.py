"""Initial values: what the cells start from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import initializers

KEY = jax.random.key(0)
GATES = pytest.mark.parametrize(
    ("make", "gates"), [(seqjax.rnn, 1), (seqjax.lstm, 4), (seqjax.gru, 3)], ids=["rnn", "lstm", "gru"]
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
    drawn = seqjax.lstm(2, bias_init=jax.nn.initializers.constant(2.0)).init(KEY, 2).bias
    np.testing.assert_array_equal(drawn, [2, 2, 3, 3, 2, 2, 2, 2])


def test_gru_biases():
    after, before = seqjax.gru(3).init(KEY, 2), seqjax.gru(3, reset_after=False).init(KEY, 2)
    assert after.bias.shape == (9,) and after.recurrent_bias.shape == (3,)
    assert before.bias.shape == (9,) and before.recurrent_bias is None


def test_irnn_starts_at_the_identity():
    params = seqjax.rnn(4, "relu", recurrent_init=initializers.identity(0.3)).init(KEY, 2)
    np.testing.assert_allclose(params.recurrent_kernel, 0.3 * np.eye(4, dtype=np.float32))


@pytest.mark.parametrize("make", [seqjax.rnn, seqjax.lstm, seqjax.gru], ids=["rnn", "lstm", "gru"])
def test_parameter_dtype_and_key(make, x64):
    for dtype in (jnp.float32, jnp.float64, jnp.bfloat16):
        assert {a.dtype for a in jax.tree.leaves(make(4, param_dtype=dtype).init(KEY, 3))} == {jnp.dtype(dtype)}
    one, same, other = (make(4).init(jax.random.key(seed), 3) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.kernel, same.kernel)
    assert np.abs(one.kernel - other.kernel).max() > 0.1


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"identity needs a square matrix, and the shape is \(2, 3\)"):
        initializers.identity()(KEY, (2, 3))
    with pytest.raises(ValueError, match=r"the last axis of shape \(2, 7\) does not divide into 3 gates"):
        initializers.per_gate(initializers.orthogonal(), 3)(KEY, (2, 7))
    with pytest.raises(ValueError, match=r"the last axis of shape \(7,\) does not divide into 4 gates"):
        initializers.add_to_gate(initializers.zeros, 1.0, 1, 4)(KEY, (7,))
