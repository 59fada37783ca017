"""The cuDNN engine, on a CPU with JAX's own plain version of cuDNN's LSTM in place of cuDNN, and on a GPU for real."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import assert_same
from jax.experimental import rnn

import seqjax
from seqjax.engines import cudnn, scan

B, T, D, H = 4, 5, 3, 6
GPU = jax.default_backend() == "gpu"
SETTINGS = {"mask": None, "resets": None, "reverse": False, "remat_every": None}
LENGTHS = np.arange(T)[:, None] < np.array([T, 0, 1, 3])[None, :]
MASKS = {"none": None, "lengths": LENGTHS, "holes": np.random.default_rng(0).random((T, B)) < 0.5}


def _case(dtype=None, seed=0):
    cell = seqjax.lstm(H, bias_init=jax.random.normal, dtype=dtype)
    params = cell.init(jax.random.key(seed), D)
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(T, B, D)).astype(np.float32)
    draw = lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype)  # noqa: E731
    return cell, params, xs, jax.tree.map(draw, cell.initial_carry(params, B))


def _value_and_gradients(run, cell, params, carry, xs, **settings):
    rng = np.random.default_rng(9)
    d_ys, d_c, d_h = rng.normal(size=(T, B, H)), rng.normal(size=(B, H)), rng.normal(size=(B, H))

    def loss(params, carry, xs):
        last, ys = run(cell, params, carry, cell.initial_carry(params, B), xs, **(SETTINGS | settings))
        return (ys * d_ys).sum() + (last.c * d_c).sum() + (last.h * d_h).sum(), (last, ys)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(params, carry, xs)


def _plain_lstm(x, h, c, weights, lengths, *sizes_and_settings):
    """As cuDNN, with NaN beyond each length; and everywhere where a length is below 1, which cuDNN refuses."""
    *settings, precision = sizes_and_settings
    assert precision in (jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST) and lengths.dtype == jnp.int32
    shapes = (settings[0], settings[1], settings[2], settings[4])
    ys, h, c = rnn.lstm_ref(x, h, c, *rnn.unpack_lstm_weights(weights, *shapes), lengths, *settings)
    ys = jnp.where((jnp.arange(x.shape[1])[None, :] < lengths[:, None])[:, :, None], ys, jnp.nan)
    return jax.tree.map(lambda a: jnp.where((lengths >= 1).all(), a, jnp.nan), (ys, h, c))


@pytest.fixture
def cudnn_lstm(monkeypatch):
    """cuDNN where there is a GPU, else the plain version."""
    if GPU:
        with jax.default_matmul_precision("highest"):
            yield
    else:
        monkeypatch.setattr(rnn, "lstm", _plain_lstm)
        yield


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_values_and_gradients_equal_the_plain_scan(mask, reverse, cudnn_lstm):
    cell, params, xs, carry = _case()
    if mask is not None:
        xs = np.where(mask[:, :, None], xs, 0)
    want = _value_and_gradients(scan.run, cell, params, carry, xs, mask=mask, reverse=reverse)
    got = _value_and_gradients(cudnn.run, cell, params, carry, xs, mask=mask, reverse=reverse)
    assert_same(got, want, rtol=1e-4 if GPU else 1e-5, atol=1e-4 if GPU else 1e-6)


@pytest.mark.skipif(not GPU, reason="needs a GPU with cuDNN")
def test_it_runs_on_a_gpu():
    cell, params, xs, carry = _case()
    assert cudnn.refusal(cell, params, xs, **SETTINGS) is None
    want = _value_and_gradients(scan.run, cell, params, carry, xs, mask=LENGTHS)
    assert_same(_value_and_gradients(cudnn.run, cell, params, carry, xs, mask=LENGTHS), want, rtol=2e-2, atol=2e-2)


def test_every_array_of_the_call_and_of_its_derivative_is_pinned_to_row_major_order(cudnn_lstm):
    """The call asks for no order of its own, and on a GPU XLA then passes transposed arrays: the outputs were off by 40 %."""
    cell, params, xs, carry = _case()

    def loss(params, carry, xs):
        last, ys = cudnn.run(cell, params, carry, carry, xs, **SETTINGS)
        return (ys**2).sum() + (last.h**2).sum() + (last.c**2).sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(params, carry, xs).as_text()
    pins = [line for line in text.splitlines() if "@LayoutConstraint" in line]
    found = [re.search(r"result_layouts = \[dense<\[?([\d, ]+)\]?> .* -> tensor<([\dx]+)xf32>", line) for line in pins]
    orders = {order for order, _ in (each.groups() for each in found)}
    assert orders == {"2, 1, 0", "0"}  # minor to major
    shapes = sorted(shape for _, shape in (each.groups() for each in found))
    weights = str(rnn.get_num_params_in_lstm(D, H, 1, False))
    once = [f"{B}x{T}x{D}", f"{B}x{T}x{H}", *[f"1x{B}x{H}"] * 4, weights]  # xs, ys, h and c before and after, weights
    assert shapes == sorted(2 * once)  # and the cotangent of each


def test_flat_weights_are_what_jax_unpacks():
    _, params, _, _ = _case()
    flat = cudnn.flat_weights(params)
    assert flat.shape == (rnn.get_num_params_in_lstm(D, H, 1, False),)
    kernel, recurrent_kernel, bias, second = (w[0] for w in rnn.unpack_lstm_weights(flat, D, H, 1, False))
    assert_same((kernel.T, recurrent_kernel.T, bias), tuple(params)[:3], 0, 0)
    assert not second.any()


def test_no_steps_and_no_sequences_give_the_carry():
    cell, params, xs, carry = _case()
    last, ys = cudnn.run(cell, params, carry, carry, xs[:0], **SETTINGS)
    assert_same(last, carry, 0, 0)
    assert ys.shape == (0, B, H)
    assert cudnn.run(cell, params, carry, carry, xs[:, :0], **SETTINGS)[1].shape == (T, 0, H)


def test_precision_follows_the_setting_of_jax():
    assert rnn._lstm_cudnn_allow_tf32(cudnn._precision())
    for setting, tf32 in {"highest": False, "float32": False, "tensorfloat32": True, "bfloat16": True}.items():
        with jax.default_matmul_precision(setting):
            assert rnn._lstm_cudnn_allow_tf32(cudnn._precision()) == tf32


@pytest.mark.parametrize(
    "make, settings, reason",
    [
        (lambda: seqjax.gru(H), {}, "only the plain LSTM, got gru with reset_after=True"),
        (lambda: seqjax.lstm(H).replace(settings=(("peepholes", True),)), {}, "only the plain LSTM, got lstm with peepholes=True"),
        (lambda: seqjax.lstm(H).replace(hidden_size=(H, H)), {}, "got an lstm that was modified after the call"),
        (lambda: seqjax.lstm(H, dtype=jnp.bfloat16), {}, "computes in float32, but the cell in bfloat16 and float32"),
        (lambda: seqjax.lstm(H), {"resets": LENGTHS}, "no resets"),
        (lambda: seqjax.lstm(H), {"remat_every": 3}, "remat_every"),
        (lambda: seqjax.lstm(H), {}, None if GPU else "needs a GPU, but the backend is cpu"),
    ],
)
def test_what_it_cannot_run_is_refused_with_the_reason(make, settings, reason):
    cell = make()
    params, xs = cell.init(jax.random.key(0), D), np.zeros((T, B, D), np.float32)
    got = cudnn.refusal(cell, params, xs, **(SETTINGS | settings))
    assert got is None if reason is None else reason in got


def test_several_inputs_are_refused():
    cell, params, xs, _ = _case()
    assert "a single input array" in cudnn.refusal(cell, params, (xs, xs), **SETTINGS)
