"""Cells with other activations: their equations in NumPy, every engine, and conversion to other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import B, D, H, T, assert_same

import seqjax
from seqjax import interop
from seqjax.cells.parts import ACTIVATIONS

XS = np.random.default_rng(0).normal(size=(B, T, D))


def silu(a):
    return a / (1 + np.exp(-a))


def hard_sigmoid(a):
    return np.clip(a + 3, 0, 6) / 6


def one_step(name, params, h, c, x):
    """(h', c') by the equations, with silu and the hard sigmoid."""
    w, u, b = (np.asarray(a) for a in (params.kernel, params.recurrent_kernel, params.bias))
    if name == "lstm":
        i, f, g, o = np.split(x @ w + b + h @ u, 4, axis=-1)
        c = hard_sigmoid(f) * c + hard_sigmoid(i) * silu(g)
        return hard_sigmoid(o) * silu(c), c
    b_n = np.asarray(params.recurrent_bias)
    if name == "gru":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x @ w + b, 3, axis=-1), np.split(h @ u, 3, axis=-1)
        r, z = hard_sigmoid(x_r + h_r), hard_sigmoid(x_z + h_z)
        return (1 - z) * silu(x_n + r * (h_n + b_n)) + z * h, c
    (x_f, x_n), (h_f, h_n) = np.split(x @ w + b, 2, axis=-1), np.split(h @ u, 2, axis=-1)
    f = hard_sigmoid(x_f + h_f)
    return (1 - f) * h + f * silu(x_n + f * (h_n + b_n)), c


def made(build, **options):
    cell = build(H, param_dtype=jnp.float64, **options)
    params = cell.init(jax.random.key(0), D)
    return cell, jax.tree.map(lambda a: a + 0.3 * jnp.sin(jnp.arange(a.size).reshape(a.shape)), params)


@pytest.mark.parametrize("name", ["lstm", "gru", "mgu"])
def test_the_equations(name, x64):
    cell, params = made(getattr(seqjax, name), activation="silu", gate_activation="hard_sigmoid")
    h = c = np.zeros((B, H))
    for t, y in enumerate(np.asarray(seqjax.unroll(cell, params, XS)[1]).swapaxes(0, 1)):
        h, c = one_step(name, params, h, c, XS[:, t])
        np.testing.assert_allclose(y, h, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["rnn", "indrnn"])
def test_any_function_of_the_vanilla_cells(name, x64):
    cell, params = made(getattr(seqjax, name), activation=jnp.sin)
    w, u, b = (np.asarray(a) for a in params)
    h = np.zeros((B, H))
    for t, y in enumerate(np.asarray(seqjax.unroll(cell, params, XS)[1]).swapaxes(0, 1)):
        h = np.sin(XS[:, t] @ w + b + (h @ u if name == "rnn" else h * u))
        np.testing.assert_allclose(y, h, rtol=1e-10, atol=1e-12)


GATED = {
    "lstm": lambda **o: seqjax.lstm(H, peepholes=True, coupled=True, layer_norm=True, **o),
    "gru": lambda **o: seqjax.gru(H, **o),
    "gru-before": lambda **o: seqjax.gru(H, reset_after=False, **o),
    "mgu-before": lambda **o: seqjax.mgu(H, reset_after=False, **o),
    "conv_lstm": lambda **o: seqjax.conv_lstm(H, 3, 4, **o),
}


@pytest.mark.parametrize("name", GATED)
def test_every_engine_and_every_form_of_a_cell(name, x64):
    cell = GATED[name](activation="elu", gate_activation=jax.nn.relu, param_dtype=jnp.float64)
    params, xs = cell.init(jax.random.key(1), D), XS if not cell.spatial else np.stack([XS] * 4, axis=2)

    def loss(params, engine):
        return jnp.sum(jnp.sin(seqjax.unroll(cell, params, xs, engine=engine)[1]))

    auto, scan = (jax.value_and_grad(loss)(params, engine) for engine in ("auto", "scan"))
    assert_same(auto, scan, 1e-9, 1e-10)
    usual = GATED[name](param_dtype=jnp.float64)
    assert not np.allclose(seqjax.unroll(usual, params, xs)[1], seqjax.unroll(cell, params, xs)[1])
    again = GATED[name](activation="tanh", gate_activation="sigmoid", param_dtype=jnp.float64)
    assert again == usual and again.settings == usual.settings


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_name_is_the_function_of_that_name(name, x64):
    xs = jnp.linspace(-4, 4, 41)
    reference = {"tanh": jnp.tanh}.get(name) or getattr(jax.nn, name)
    np.testing.assert_allclose(ACTIVATIONS[name](xs), reference(xs), rtol=1e-12, atol=1e-12)
    assert seqjax.rnn(H, name) != seqjax.rnn(H, "tanh") or name == "tanh"


def test_converters_refuse_what_the_other_side_would_compute_otherwise():
    pytest.importorskip("torch")
    others = interop.to_torch, interop.to_equinox
    for cell, what, converters in [
        (seqjax.lstm(H, activation="relu"), "activation='relu'", (*others, interop.to_haiku)),
        (seqjax.gru(H, gate_activation="hard_sigmoid"), "gate_activation='hard_sigmoid'", others),
        (seqjax.rnn(H, "silu"), "activation='silu'", (interop.to_torch, interop.to_haiku)),
        (seqjax.lstm(H, activation="gelu"), "activation='gelu'", (interop.to_keras,)),  # Keras's is another function
    ]:
        params = cell.init(jax.random.key(0), D)
        for convert in converters:
            with pytest.raises(seqjax.UserError, match=f"cannot represent {what}"):
                convert(cell, params)
