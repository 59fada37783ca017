"""Cells configured for long memory, and the network that reads with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.errors import UserError
from seqjax.models.memory import KINDS, SequenceReader, make_memory_cell


@pytest.mark.parametrize("kind", KINDS)
def test_equal_calls_give_equal_cells_that_can_be_set_up(kind):
    cell = make_memory_cell(kind, 6, 2, 100)
    assert cell == make_memory_cell(kind, 6, 2, 100) and cell.hidden_size == 6
    assert make_memory_cell(kind, 6, 1, 100, dtype=jnp.bfloat16) != make_memory_cell(kind, 6, 1, 100)
    jax.eval_shape(lambda key: cell.init(key, 3), jax.random.key(0))


def test_initialisers_go_by_the_length_of_the_task():
    def bias(kind, longest):
        cell = make_memory_cell(kind, 200, 1, longest)
        return np.asarray(jax.jit(lambda key: cell.init(key, 2).bias)(jax.random.key(0)))  # no other parameter is computed

    forget = bias("lstm_chrono", 100)[200:400]
    assert np.exp(forget).max() <= 99 and np.exp(forget).mean() == pytest.approx(50, rel=0.2)
    assert not bias("lstm_forget_0", 100).any() and (bias("lstm", 100)[200:400] == 1).all()
    for longest in (2, 500):
        u = np.asarray(make_memory_cell("indrnn", 200, 1, longest).init(jax.random.key(0), 2).recurrent_kernel)
        assert 0 <= u.min() and 0.96 * 2 ** (1 / longest) < u.max() <= 2 ** (1 / longest)
    irnn = make_memory_cell("irnn", 5, 1, 100).init(jax.random.key(0), 2)
    np.testing.assert_array_equal(irnn.recurrent_kernel, np.eye(5))
    plain = make_memory_cell("tanh", 64, 1, 100).init(jax.random.key(0), 2).recurrent_kernel
    assert np.abs(plain @ plain.T - np.eye(64)).max() > 0.1


def test_options_reach_the_cell():
    assert make_memory_cell("cornn", 8, 1, 100, options=" dt=0.06, gamma=66,use_bias=False") == seqjax.cornn(
        8, dt=0.06, gamma=66, use_bias=False, dtype=None
    )
    assert make_memory_cell("lstm", 8, 1, 100, options="activation=relu").settings == seqjax.lstm(8, activation="relu").settings


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("warp", "", "model.cell='warp' is unknown; choose one of tanh, "),
        ("cornn", "dt", "must be of the form name=value"),
        ("cornn", "df=1", "'df=1' does not fit cornn: .*df.*; available are dt, gamma, epsilon, use_bias"),
        ("cornn", "dt=-1", "does not fit cornn: dt must be positive"),
        ("lstm_chrono", "peephole=True", "available are .*peepholes"),
    ],
)
def test_what_a_cell_does_not_have_is_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        make_memory_cell(kind, 8, 1, 100, options=options)


def test_a_window_changes_gradients_and_no_answer():
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 3)), jnp.float32)
    whole, cut = (SequenceReader(seqjax.gru(4), 2, window) for window in (0, 3))
    params = whole.init(jax.random.key(0), xs)
    lengths = jnp.array([9, 4])
    np.testing.assert_allclose(whole.apply(params, xs, lengths), cut.apply(params, xs, lengths), rtol=1e-5, atol=1e-6)
    gradients = [jax.grad(lambda p: model.apply(p, xs)[:, -1].sum())(params)["params"]["rnn"] for model in (whole, cut)]  # noqa: B023
    assert float(jnp.abs(gradients[0].recurrent_kernel - gradients[1].recurrent_kernel).max()) > 1e-3
