"""Weights from and to Haiku: outputs, final states and gradients equal, both ways; unsupported features are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.parity import B, H, T, assert_near, described, every, ours, random_inputs, random_like, random_params

import seqjax
from seqjax import interop
from seqjax.errors import UserError
from seqjax.wrappers import bidirectional

hk = pytest.importorskip("haiku", reason="needs dm-haiku: pip install dm-haiku")

CORES = {
    "lstm": lambda: hk.LSTM(H),
    "gru": lambda: hk.GRU(H),
    "vanilla": lambda: hk.VanillaRNN(H),
    "vanilla-one-bias": lambda: hk.VanillaRNN(H, double_bias=False),
}
OURS = {
    "lstm": lambda: seqjax.lstm(H),
    "gru": lambda: seqjax.gru(H, reset_after=False),
    "rnn": lambda: seqjax.rnn(H, "relu"),
}


def _network(make):
    def network(xs):
        core = make()
        start = jax.tree.map(lambda a: a.astype(xs.dtype), core.initial_state(xs.shape[0]))
        return hk.dynamic_unroll(core, xs, start, time_major=False)

    return hk.without_apply_rng(hk.transform(network))


def _random_variables(network, xs):
    leaves, tree = jax.tree.flatten(jax.eval_shape(network.init, jax.random.key(0), xs))
    return jax.tree.unflatten(tree, [jnp.asarray(random_like(np.zeros(leaf.shape, xs.dtype), k)) for k, leaf in enumerate(leaves)])


def _assert_equal_runs(cell, params, network, variables, xs, dtype):
    ys, (carry,) = ours(cell, params, xs)
    with jax.numpy_rank_promotion("allow"):
        want, last = network.apply(variables, xs)
    assert_near(ys, want, dtype)
    if hasattr(last, "hidden"):
        assert_near(carry.h, last.hidden, dtype)
        assert_near(carry.c, last.cell, dtype)
    else:
        assert_near(carry.h, last, dtype)


@every(CORES)
def test_from_a_core(name, dtype):
    network, xs = _network(CORES[name]), random_inputs(dtype)
    variables = _random_variables(network, xs)
    cell, params = interop.from_haiku(variables)
    _assert_equal_runs(cell, params, network, variables, xs, dtype)


@every(OURS)
def test_to_haiku_and_back(name, dtype):
    cell = OURS[name]()
    params = random_params(cell, dtype)
    make, variables = interop.to_haiku(cell, params)
    _assert_equal_runs(cell, params, _network(make), variables, random_inputs(dtype), dtype)
    back, back_params = interop.from_haiku(variables)
    assert described(back) == described(cell)
    # The forget bias loses 1 and gains 1, which may cost its last bit.
    jax.tree.map(lambda a, b: assert_near(a, b, dtype), back_params, params)


def test_a_core_among_others_is_found_by_its_name():
    def network(xs):
        cores = hk.DeepRNN([hk.LSTM(2), hk.LSTM(H), hk.GRU(H, name="top")])
        return hk.dynamic_unroll(cores, xs, cores.initial_state(B), time_major=False)

    network, xs = hk.without_apply_rng(hk.transform(network)), random_inputs("float32")
    variables = _random_variables(network, xs)
    cells, params = zip(*(interop.from_haiku(variables, name) for name in ("lstm", "lstm_1", "top")))
    with jax.numpy_rank_promotion("allow"):
        want, _ = network.apply(variables, xs)
    assert_near(ours(seqjax.stack(cells), params, xs)[0], want, "float32")
    with pytest.raises(UserError, match=r"needs the name of one core, since the params are of \['lstm', 'lstm_1', 'top'\]"):
        interop.from_haiku(variables)
    with pytest.raises(UserError, match="finds no VanillaRNN, LSTM, GRU or ConvLSTM named 'lstm_2'; the params are of"):
        interop.from_haiku(variables, "lstm_2")


def test_gradients_are_equal():
    network, xs = _network(CORES["gru"]), random_inputs("float32")
    variables = _random_variables(network, xs)
    d_ys = np.random.default_rng(3).normal(size=(B, T, H)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        want = jax.jit(jax.grad(lambda v, x: (network.apply(v, x)[0] * d_ys).sum(), argnums=(0, 1)))(variables, xs)
    cell, params = interop.from_haiku(variables)
    got = jax.jit(jax.grad(lambda p, x: (seqjax.unroll(cell, p, x)[1] * d_ys).sum(), argnums=(0, 1)))(params, xs)
    # The mapping moves weights and turns signs, so gradients go the same way.
    jax.tree.map(lambda a, b: assert_near(a, b, "float32"), got, (interop.from_haiku(want[0])[1], want[1]))


def test_a_linear_layer_is_no_lstm():
    with pytest.raises(UserError, match=r"head/linear does not belong to an LSTM: its w must be \(D \+ H, 4H\), got shape \(2, 8\)"):
        interop.from_haiku({"head/linear": {"w": jnp.zeros((2, 8)), "b": jnp.zeros(8)}})


REFUSED = {
    "tanh": (lambda: seqjax.rnn(H), "activation='tanh' of 'rnn'; to_torch and to_keras and to_flax and to_nnx can"),
    "reset after": (lambda: seqjax.gru(H), "reset_after=True of 'gru'; to_torch .* to_equinox can"),
    "a projection": (lambda: seqjax.lstm(H, proj_size=2), "proj_size=2 of 'lstm'; to_torch can"),
    "a stack": (lambda: seqjax.stack(seqjax.lstm(H), seqjax.lstm(H)), "the stack of .*cells inside"),
    "two directions": (lambda: bidirectional(seqjax.lstm(H), seqjax.lstm(H)), "the bidirectional of"),
    "dtype": (lambda: seqjax.lstm(H, dtype="bfloat16"), "dtype='bfloat16' of 'lstm'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_haiku_cannot_hold_is_refused_by_name(name):
    make, message = REFUSED[name]
    cell = make()
    with pytest.raises(UserError, match=f"to_haiku cannot represent {message}"):
        interop.to_haiku(cell, random_params(cell, "float32"))
