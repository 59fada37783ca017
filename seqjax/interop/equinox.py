"""Weights from and to Equinox: eqx.nn.LSTMCell and eqx.nn.GRUCell.

How the two compare; Equinox's weights are transposed (G H, D), ours (D, G H).

  ===================  =====================  ==========================================
  Equinox              seqjax                 note
  ===================  =====================  ==========================================
  weight_ih, i f g o   kernel, i f g o        LSTM: the same order
  weight_ih, r z n     kernel, r z n          GRU: the same order; h' = n + z (h - n)
  weight_hh            recurrent_kernel       the same order
  bias                 bias                   one, as ours
  bias_n               recurrent_bias         GRU: inside the reset
  use_bias=False       bias = 0               becomes a parameter: it can be trained
  ===================  =====================  ==========================================

Equinox has only cells: no vanilla cell, no GRU with the reset before the product, no layers, no directions. An Equinox
cell runs one step of one sequence: use `jax.vmap` for a batch and `jax.lax.scan` for a sequence.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.cells import GRUParams, LSTMParams, gru, lstm
from seqjax.errors import UserError
from seqjax.interop import parts
from seqjax.typing import Cell, Params


def from_equinox(module) -> tuple[Cell, Params]:
    """Converts an Equinox cell to a cell and its params, with the same outputs.

    Args:
      module: an eqx.nn.LSTMCell or GRUCell.

    Returns:
      (cell, params). A cell without biases gets biases of zero.

    Raises:
      UserError: the module is of another kind.

    Example:
      >>> import equinox as eqx, jax, seqjax, seqjax.interop
      >>> module = eqx.nn.GRUCell(3, 8, key=jax.random.key(0))
      >>> cell, params = seqjax.interop.from_equinox(module)
      >>> x = jax.random.normal(jax.random.key(1), (2, 3))
      >>> carry, y = cell.step(params, cell.initial_carry(params, 2), x)
      >>> bool(abs(y - jax.vmap(module)(x, jax.numpy.zeros((2, 8)))).max() < 1e-5)
      True
    """
    import equinox as eqx

    if not isinstance(module, (eqx.nn.LSTMCell, eqx.nn.GRUCell)):
        raise UserError(f"from_equinox takes eqx.nn.LSTMCell and GRUCell, got {type(module).__name__}")
    parts.check_computation(module, "equinox", "__call__")
    w, u = parts.array(module.weight_ih).T, parts.array(module.weight_hh).T
    b, b_n = (None if bias is None else parts.array(bias) for bias in (module.bias, getattr(module, "bias_n", None)))
    options: dict[str, Any] = {"param_dtype": w.dtype} | ({"use_bias": False} if b is None else {})
    if isinstance(module, eqx.nn.LSTMCell):
        return lstm(module.hidden_size, **options), LSTMParams(w, u, b)
    return gru(module.hidden_size, **options), GRUParams(w, u, b, b_n)


def to_equinox(cell: Cell, params: Params):
    """Converts a cell to an Equinox cell with the same outputs.

    Args:
      cell: an lstm, or a gru with the reset after the product.
      params: its params.

    Returns:
      An eqx.nn.LSTMCell or GRUCell.

    Raises:
      UserError: Equinox does not support the cell; the message says why, and which libraries do.
      TypeError, ValueError: the params are not the cell's.

    Example:
      >>> import jax, seqjax, seqjax.interop
      >>> cell = seqjax.lstm(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> module = seqjax.interop.to_equinox(cell, params)
      >>> h, c = module(jax.numpy.ones(3), (jax.numpy.zeros(8), jax.numpy.zeros(8)))
      >>> carry, y = cell.step(params, cell.initial_carry(params, 1), jax.numpy.ones((1, 3)))
      >>> bool(abs(y[0] - h).max() < 1e-5)
      True
    """
    import equinox as eqx

    parts.check(cell, params, "equinox")
    inputs, gates = params.kernel.shape
    size = params.recurrent_kernel.shape[0]
    build = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[parts.kind(cell)]
    module = build(inputs, size, use_bias=params.bias is not None, dtype=jnp.asarray(params.kernel).dtype, key=jax.random.key(0))
    values = {"weight_ih": params.kernel.T, "weight_hh": params.recurrent_kernel.T, "bias": params.bias}
    if isinstance(params, GRUParams):
        values["bias_n"] = params.recurrent_bias
    names = tuple(name for name, value in values.items() if value is not None)
    return eqx.tree_at(lambda m: [getattr(m, name) for name in names], module, [jnp.asarray(values[n]) for n in names])
