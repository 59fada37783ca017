"""Weights from and to Flax NNX: SimpleCell, LSTMCell, OptimizedLSTMCell and GRUCell, RNN, Bidirectional, Sequential.

How the two compare; an NNX module carries its weights.

  ===============================  =============================  ================================================
  Flax NNX                         seqjax                         note
  ===============================  =============================  ================================================
  SimpleCell dense_i, dense_h      kernel, bias, recurrent_kernel tanh or relu
  LSTMCell ii if_ ig io            kernel, i f g o                one matrix per gate
  LSTMCell hi hf hg ho             recurrent_kernel, bias         the bias is on the recurrent side; the sum is ours
  OptimizedLSTMCell dense_i        kernel, i f g o                side by side, the same order
  OptimizedLSTMCell dense_h        recurrent_kernel, bias
  GRUCell dense_i, dense_h         kernel, bias, recurrent_kernel r z n, the same order, reset after the product
  ---                              recurrent_bias                 NNX's GRU has no b_hn: zero from it, and only a zero
                                                                  one goes to it
  RNN, Bidirectional, Sequential   ---, bidirectional, stack      as in linen
  ===============================  =============================  ================================================

It does not support what linen does not, nor a GRU whose b_hn is not zero, which linen supports.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax.cells import GRUParams, LSTMParams, RNNParams, gru, lstm, rnn
from seqjax.errors import UserError
from seqjax.interop import parts
from seqjax.interop.flax import SUPPORTED, average
from seqjax.typing import Cell, Params
from seqjax.wrappers import BidirectionalParams, bidirectional

MERGES = {"concat": nnx.Bidirectional.merge_fn, "sum": jnp.add, "mean": average, "multiply": jnp.multiply}


def from_nnx(module: nnx.Module) -> tuple[Cell, Params]:
    """Converts a Flax NNX recurrent module to a cell and its params, with the same outputs.

    Args:
      module: a SimpleCell, LSTMCell, OptimizedLSTMCell or GRUCell; an RNN around one, a Bidirectional of two, or a
        Sequential of these.

    Returns:
      (cell, params). A GRUCell's recurrent_bias is zero, since NNX's has none; further training may change it.

    Raises:
      UserError: the module is of another kind, or has a setting that cells lack.

    Example:
      >>> import jax, seqjax, seqjax.interop
      >>> from flax import nnx
      >>> module = nnx.RNN(nnx.OptimizedLSTMCell(3, 8, rngs=nnx.Rngs(0)))
      >>> cell, params = seqjax.interop.from_nnx(module)
      >>> xs = jax.random.normal(jax.random.key(0), (2, 5, 3))
      >>> carry, ys = seqjax.unroll(cell, params, xs)
      >>> bool(abs(ys - module(xs)).max() < 1e-5)
      True
    """
    if isinstance(module, nnx.Sequential):
        parts.check_computation(module, "flax", "__call__")
        return parts.stacked([from_nnx(inner) for inner in module.layers])  # pyright: ignore[reportArgumentType]
    if isinstance(module, nnx.Bidirectional):
        merge = next((name for name, function in MERGES.items() if function is module.merge_fn), None)
        if merge is None:
            raise UserError(
                "from_nnx recognises the merge_fn of a Bidirectional by identity: its default, jnp.add, jnp.multiply and "
                f"seqjax.interop.flax.average, got {module.merge_fn!r}"
            )
        for one in (module, module.forward_rnn, module.backward_rnn):
            parts.check_computation(one, "flax", "__call__")
        # Bidirectional sets the directions itself, regardless of its two RNNs.
        (forward, forward_params), (backward, backward_params) = (
            _read_cell(one.cell)  # pyright: ignore[reportAttributeAccessIssue]
            for one in (module.forward_rnn, module.backward_rnn)
        )
        return bidirectional(forward, backward, merge), BidirectionalParams(forward_params, backward_params)
    if isinstance(module, nnx.RNN):
        parts.check_computation(module, "flax", "__call__")
        if module.reverse:
            raise UserError("an RNN with reverse=True: a cell has no direction; convert it without, and unroll with reverse=True")
        return _read_cell(module.cell)
    return _read_cell(module)


def to_nnx(cell: Cell, params: Params) -> nnx.Module:
    """Converts a cell to a Flax NNX module with the same outputs.

    Args:
      cell: an rnn, lstm or gru; two of them bidirectional; or a stack of such.
      params: its params. A gru's recurrent_bias must be zero.

    Returns:
      An nnx.RNN around OptimizedLSTMCell, GRUCell or SimpleCell, with return_carry=True, or a Bidirectional of two; or
      for a stack a Sequential, which returns only the outputs.

    Raises:
      UserError: NNX does not support the cell; the message says why, and which libraries do.
      TypeError, ValueError: the params are not the cell's.

    Example:
      >>> import jax, seqjax, seqjax.interop
      >>> cell = seqjax.rnn(8, "relu")
      >>> params = cell.init(jax.random.key(0), 3)
      >>> module = seqjax.interop.to_nnx(cell, params)
      >>> xs = jax.random.normal(jax.random.key(1), (2, 5, 3))
      >>> h, outputs = module(xs)
      >>> carry, ys = seqjax.unroll(cell, params, xs)
      >>> bool(abs(ys - outputs).max() < 1e-5)
      True
    """
    parts.check(cell, params, "nnx")
    layers = parts.layers(cell, params)
    if len(layers) == 1:
        return _write_layer(layers[0], return_carry=True)
    return nnx.Sequential(*(_write_layer(layer, return_carry=False) for layer in layers))


def _read_cell(module):
    if not isinstance(module, (nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell)):
        raise UserError(f"from_nnx takes NNX's {SUPPORTED}, got {type(module).__name__}")
    parts.check_computation(module, "flax", "__call__")
    activations = parts.flax_activations(module)
    if module.carry_init is not None and module.carry_init is not jax.nn.initializers.zeros:
        raise UserError(f"{type(module).__name__} has a custom carry_init; wrap the cell in seqjax.learned_initial_carry")
    if isinstance(module, nnx.LSTMCell):
        w, u = (_joint(module, names, "kernel") for names in (("ii", "if_", "ig", "io"), ("hi", "hf", "hg", "ho")))
        b = _joint(module, ("hi", "hf", "hg", "ho"), "bias")
    else:
        w, u = (parts.array(dense.kernel[...]) for dense in (module.dense_i, module.dense_h))
        biased = module.dense_h if isinstance(module, nnx.OptimizedLSTMCell) else module.dense_i
        b = parts.array(biased.bias[...])  # pyright: ignore[reportOptionalSubscript]
    options = {"dtype": parts.narrower(module.dtype, w.dtype), "param_dtype": w.dtype, **activations}
    if isinstance(module, nnx.SimpleCell):
        return rnn(u.shape[0], **options), RNNParams(w, u, b)
    if isinstance(module, nnx.GRUCell):
        return gru(u.shape[0], **options), GRUParams(w, u, b, jnp.zeros(u.shape[:1], b.dtype))
    return lstm(u.shape[0], **options), LSTMParams(w, u, b)


def _joint(module, names, part):
    """Concatenates the kernels or biases of single gates."""
    return jnp.concatenate([parts.array(getattr(getattr(module, name), part)[...]) for name in names], axis=-1)


def _write_layer(layer, return_carry):
    forward, *backward = (nnx.RNN(_write_cell(cell, own)) for cell, own in zip(layer.cells, layer.params))
    if layer.merge is None:
        forward.return_carry = return_carry
        return forward
    return nnx.Bidirectional(forward, *backward, merge_fn=MERGES[layer.merge], return_carry=return_carry)


def _write_cell(cell, params):
    settings, (inputs, _) = parts.settings(cell), params.kernel.shape
    stored = jnp.asarray(params.kernel).dtype
    # SimpleCell computes in float32 by default; the others in the dtype of their weights.
    options = {"dtype": parts.narrower(settings["dtype"], stored) or stored, "param_dtype": stored, "rngs": nnx.Rngs(0)}
    options |= parts.to_flax_activations(cell)
    name = parts.kind(cell)
    if name == "gru" and np.any(np.asarray(params.recurrent_bias) != 0):
        raise UserError("to_nnx cannot represent a nonzero recurrent_bias of 'gru', since NNX's GRU has none; to_flax can")
    kinds = {"rnn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}
    module = kinds[name](inputs, cell.hidden_size, **options)
    module.dense_i.kernel[...] = jnp.asarray(params.kernel)
    module.dense_h.kernel[...] = jnp.asarray(params.recurrent_kernel)
    biased = module.dense_h if name == "lstm" else module.dense_i
    biased.bias[...] = jnp.asarray(params.bias)
    return module
