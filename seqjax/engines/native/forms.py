"""The cells that the library supports: the calls that make them, and their parameters as its arrays (`src/kernels.h`)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from seqjax.cells._gru import gru
from seqjax.cells._lstm import lstm
from seqjax.cells.minimal import mgu
from seqjax.cells.vanilla import indrnn, rnn
from seqjax.typing import Array, Cell, Params

UNITS = 16  # what is saved per step is padded to a multiple of this many units


class Form(NamedTuple):
    """A cell of the library."""

    name: str  # there
    saved: int  # numbers that a step saves per unit for the backward pass
    arrays: Callable[[Params], tuple[Array, Array, Array, Array]]  # (kernel, recurrent kernel, bias, vectors)
    memory: bool = False  # whether the carry has a c


def _lstm_arrays(gates, peepholes):
    def arrays(params):
        bias = _bias(params, gates)
        vectors = params.peepholes.reshape(bias[1:].shape) if peepholes else _no_rows(bias.shape[1])
        return params.kernel, params.recurrent_kernel, bias, vectors

    return arrays


def _reset_after(order):
    """Arrays of cells whose candidate has two sums, n of x first and n of h last; `order` is the gate order of the bias."""

    def arrays(params):
        gates = _bias(params, len(order))
        last = jnp.zeros_like(gates[0]) if params.recurrent_bias is None else params.recurrent_bias
        bias = jnp.stack([*(gates[k] for k in order), last])
        return params.kernel, params.recurrent_kernel, bias, _no_rows(bias.shape[1])

    return arrays


def _rnn_arrays(params):
    return params.kernel, params.recurrent_kernel, _bias(params, 1), _no_rows(params.kernel.shape[1])


def _indrnn_arrays(params):
    return params.kernel, _no_rows(params.kernel.shape[1]), _bias(params, 1), params.recurrent_kernel[None]


def _bias(params, gates):
    """Returns the bias (G, H), zeros if the cell has none."""
    bias = jnp.zeros(params.kernel.shape[1], jnp.float32) if params.bias is None else params.bias
    return bias.reshape(gates, -1)


def _no_rows(units):
    return jnp.zeros((0, units), jnp.float32)


_LSTM = {  # by (coupled, peepholes)
    (False, False): Form("lstm", 5, _lstm_arrays(4, False), memory=True),
    (False, True): Form("lstm peepholes", 5, _lstm_arrays(4, True), memory=True),
    (True, False): Form("lstm coupled", 4, _lstm_arrays(3, False), memory=True),
    (True, True): Form("lstm coupled peepholes", 4, _lstm_arrays(3, True), memory=True),
}
_GRU = Form("gru", 4, _reset_after((2, 0, 1)))
_MGU = Form("mgu", 3, _reset_after((1, 0)))
_RNN = {name: Form(f"rnn {name}", 0, _rnn_arrays) for name in ("tanh", "relu")}
_INDRNN = {name: Form(f"indrnn {name}", 0, _indrnn_arrays) for name in ("tanh", "relu")}

_FACTORIES = {"lstm": lstm, "gru": gru, "mgu": mgu, "rnn": rnn, "indrnn": indrnn}


def form_of(cell: Cell) -> Form | str:
    """Returns the form of a cell, or one line that says why the library has none."""
    factory = _FACTORIES.get(cell.name)
    if factory is None:
        return f"it supports {', '.join(_FACTORIES)}, got {cell.name}"
    if cell.made is None or cell.made.function is not factory:
        return f"it recognises a cell by the call of seqjax.{cell.name}, but this {cell.name} was modified after that"
    settings = dict(cell.settings)
    own = {"lstm": ("peepholes", "coupled"), "rnn": ("activation",), "indrnn": ("activation",)}.get(cell.name, ("reset_after",))
    other = [f"{name}={value!r}" for name, value in settings.items() if value and name not in (*own, "dtype")]
    if other:
        return f"it does not support {cell.name} with {', '.join(other)}"
    if cell.name in ("rnn", "indrnn"):
        forms = _RNN if cell.name == "rnn" else _INDRNN
        name = settings["activation"]
        return forms[name] if name in forms else f"it supports {cell.name} with tanh or relu, got activation {name!r}"
    if cell.name == "lstm":
        return _LSTM[settings["coupled"], settings["peepholes"]]
    if not settings["reset_after"]:
        return f"it does not support {cell.name} with the reset before the product"
    return _GRU if cell.name == "gru" else _MGU
