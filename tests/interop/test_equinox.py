"""Weights from and to Equinox: outputs, final states and gradients equal, both ways; unsupported features are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.parity import (
    B,
    D,
    H,
    T,
    assert_near,
    assert_same_cell,
    every,
    ours,
    random_inputs,
    random_like,
    random_params,
)

import seqjax
from seqjax import interop
from seqjax.errors import UserError

eqx = pytest.importorskip("equinox", reason="needs equinox: pip install equinox")

MODULES = {
    "lstm": lambda **o: eqx.nn.LSTMCell(D, H, key=jax.random.key(0), **o),
    "lstm-no-bias": lambda **o: eqx.nn.LSTMCell(D, H, use_bias=False, key=jax.random.key(0), **o),
    "gru": lambda **o: eqx.nn.GRUCell(D, H, key=jax.random.key(0), **o),
    "gru-no-bias": lambda **o: eqx.nn.GRUCell(D, H, use_bias=False, key=jax.random.key(0), **o),
}
OURS = {
    "lstm": lambda: seqjax.lstm(H),
    "gru": lambda: seqjax.gru(H),
    "lstm-bare": lambda: seqjax.lstm(H, use_bias=False),
    "gru-bare": lambda: seqjax.gru(H, use_bias=False),
}


def _randomise(module):
    leaves, tree = jax.tree.flatten(module)
    return jax.tree.unflatten(tree, [jnp.asarray(random_like(leaf, k)) for k, leaf in enumerate(leaves)])


def _theirs(module, xs):
    """(outputs, last state) over sequences (B, T, D)."""
    zeros = jnp.zeros((H,), xs.dtype)
    start = (zeros, zeros) if isinstance(module, eqx.nn.LSTMCell) else zeros

    def step(state, x):
        state = module(x, state)
        return state, state[0] if isinstance(state, tuple) else state

    last, ys = jax.vmap(lambda x: jax.lax.scan(step, start, x))(xs)
    return ys, last


def _assert_equal_runs(cell, params, module, xs, dtype):
    ys, (carry,) = ours(cell, params, xs)
    want, last = _theirs(module, xs)
    assert_near(ys, want, dtype)
    last = dict(zip("hc", last)) if isinstance(last, tuple) else {"h": last}
    for name, value in carry._asdict().items():
        assert_near(value, last[name], dtype)


@every(MODULES)
def test_from_equinox(name, dtype):
    module = _randomise(MODULES[name](dtype=jnp.dtype(dtype)))
    cell, params = interop.from_equinox(module)
    _assert_equal_runs(cell, params, module, random_inputs(dtype), dtype)


@every(OURS)
def test_to_equinox_and_back(name, dtype):
    cell = OURS[name]()
    params = random_params(cell, dtype)
    module = interop.to_equinox(cell, params)
    _assert_equal_runs(cell, params, module, random_inputs(dtype), dtype)
    assert_same_cell(interop.from_equinox(module), (cell, params))


def test_gradients_are_equal():
    module, xs = _randomise(MODULES["gru"]()), random_inputs("float32")
    d_ys = np.random.default_rng(3).normal(size=(B, T, H)).astype(np.float32)
    want = jax.grad(lambda m, x: (_theirs(m, x)[0] * d_ys).sum(), argnums=(0, 1))(module, xs)
    cell, params = interop.from_equinox(module)
    got = jax.jit(jax.grad(lambda p, x: (seqjax.unroll(cell, p, x)[1] * d_ys).sum(), argnums=(0, 1)))(params, xs)
    # The mapping moves weights and changes none, so gradients go the same way.
    jax.tree.map(lambda a, b: assert_near(a, b, "float32"), got, (interop.from_equinox(want[0])[1], want[1]))


def test_another_module_is_refused():
    with pytest.raises(UserError, match="from_equinox takes eqx.nn.LSTMCell and GRUCell, got Linear"):
        interop.from_equinox(eqx.nn.Linear(2, 3, key=jax.random.key(0)))


REFUSED = {
    "rnn": (lambda: seqjax.rnn(H), "the rnn of 'rnn'; to_torch and to_keras and to_flax and to_nnx and to_haiku can"),
    "reset before": (lambda: seqjax.gru(H, reset_after=False), "reset_after=False of 'gru'; to_keras and to_haiku can"),
    "a stack": (lambda: seqjax.stack(seqjax.lstm(H)), "the stack of .*cells inside, which may be converted one by one"),
    "dtype": (lambda: seqjax.lstm(H, dtype="bfloat16"), "dtype='bfloat16' of 'lstm'; to_keras"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_equinox_cannot_hold_is_refused_by_name(name):
    make, message = REFUSED[name]
    cell = make()
    with pytest.raises(UserError, match=f"to_equinox cannot represent {message}"):
        interop.to_equinox(cell, random_params(cell, "float32"))
