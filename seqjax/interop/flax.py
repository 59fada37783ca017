"""Weights from and to Flax linen: SimpleCell, LSTMCell, OptimizedLSTMCell and GRUCell, RNN, Bidirectional, Sequential;
ConvLSTMCell by `conv`.

How the two compare; Flax keeps one matrix per gate, we keep them side by side.

  ==========================  =============================  =================================================
  Flax linen                  seqjax                         note
  ==========================  =============================  =================================================
  SimpleCell i, h             kernel, recurrent_kernel
  LSTMCell ii if ig io        kernel, i f g o                OptimizedLSTMCell has the same parameters
  LSTMCell hi hf hg ho        recurrent_kernel, bias         the bias is on the recurrent side; the sum is ours
  GRUCell ir iz in            kernel, bias, r z n            reset after the product
  GRUCell hr hz hn            recurrent_kernel               hn alone has a bias: recurrent_bias
  RNN(cell)                   no part of a cell              time_major, return_carry, unroll neither
  Bidirectional               bidirectional                  merge_fn: concatenation, jnp.add, jnp.multiply, or
                                                             `average`
  Sequential                  stack
  activation_fn, gate_fn      activation, gate_activation    by name where `jax.nn` has it, else the function itself
  dtype                       dtype
  ==========================  =============================  =================================================

Flax does not support a GRU with the reset before the product, peepholes, coupled gates, projections or layer norm. Its
MGUCell is neither the minimal gated unit of the paper nor ours: there the same gate value resets and *keeps*, h' = (1 -
f) n + f h, while here and in the paper it resets and *writes*; no change of weights converts one into the other, so it
is refused. An RNN with reverse=True (use `seqjax.unroll`), SimpleCell(residual=True) and initial carries other than
zeros are not converted from Flax.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqjax.cells import GRUParams, LSTMParams, RNNParams, gru, lstm, rnn
from seqjax.errors import UserError
from seqjax.interop import conv, parts
from seqjax.typing import Array, Cell, Params
from seqjax.wrappers import BidirectionalParams, bidirectional

SUPPORTED = "SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell, ConvLSTMCell, RNN, Bidirectional and Sequential"


def average(a: Array, b: Array) -> Array:
    """Averages two outputs: a merge_fn for Flax's Bidirectional, which has none for the mean.

    Example:
      >>> import flax.linen as nn, seqjax.interop
      >>> rnns = nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4))
      >>> layer = nn.Bidirectional(*rnns, merge_fn=seqjax.interop.flax.average)
    """
    return (a + b) / 2


MERGES = {"concat": nn.Bidirectional.merge_fn, "sum": jnp.add, "mean": average, "multiply": jnp.multiply}


def from_flax(module: nn.Module, variables: Mapping[str, Any], *, spatial_shape: int | Sequence[int] | None = None) -> tuple[Cell, Params]:
    """Converts a Flax linen recurrent module and its variables to a cell and its params, with the same outputs.

    Args:
      module: a SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell or ConvLSTMCell; an RNN around one, a Bidirectional of two, or a
        Sequential of these. For NNX modules use `from_nnx`.
      variables: what the module's `init` returned: {"params": ...}.
      spatial_shape: for ConvLSTMCells, the spatial axes of their inputs, which they do not store.

    Returns:
      (cell, params).

    Raises:
      UserError: the module is of another kind or has a setting that cells lack, or spatial_shape does not fit it; or the variables
        are of another module.

    Example:
      >>> import flax.linen as nn, jax, seqjax, seqjax.interop
      >>> module = nn.Bidirectional(nn.RNN(nn.LSTMCell(8)), nn.RNN(nn.LSTMCell(8)))
      >>> xs = jax.random.normal(jax.random.key(0), (2, 5, 3))
      >>> variables = module.init(jax.random.key(1), xs)
      >>> cell, params = seqjax.interop.from_flax(module, variables)
      >>> carry, ys = seqjax.unroll(cell, params, xs)
      >>> bool(abs(ys - module.apply(variables, xs)).max() < 1e-5)
      True
    """
    if "params" not in variables:
        raise UserError(f"from_flax takes the variables that init returned, {{'params': ...}}, got a mapping of {sorted(variables)}")
    own = nn.unbox(variables)["params"]
    try:
        return _read(module, own, spatial_shape)
    except KeyError as error:
        raise UserError(
            f"the variables are not those of this {type(module).__name__}: they lack {error}, and their params are {sorted(own)}. "
            "Of a larger model give the part of the recurrent module; linen keeps the cell of an RNN beside the RNN, so there "
            "give the cell itself, from_flax(cell, {'params': params['LSTMCell_0']})"
        ) from error


def to_flax(cell: Cell, params: Params) -> tuple[nn.Module, dict[str, Any]]:
    """Converts a cell to a Flax linen module and its variables, with the same outputs.

    Args:
      cell: an rnn, lstm, gru, or a conv_lstm that keeps its spatial shape; two of them bidirectional; or a stack of such.
      params: its params.

    Returns:
      (module, variables). The module is an nn.RNN around OptimizedLSTMCell, GRUCell, SimpleCell or ConvLSTMCell, with
      return_carry=True, or a Bidirectional of two; or for a stack a Sequential, which returns only the outputs.

    Raises:
      UserError: Flax does not support the cell; the message says why, and which libraries do.
      TypeError, ValueError: the params are not the cell's.

    Example:
      >>> import jax, seqjax, seqjax.interop
      >>> cell = seqjax.gru(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> module, variables = seqjax.interop.to_flax(cell, params)
      >>> xs = jax.random.normal(jax.random.key(1), (2, 5, 3))
      >>> h, outputs = module.apply(variables, xs)
      >>> carry, ys = seqjax.unroll(cell, params, xs)
      >>> bool(abs(ys - outputs).max() < 1e-5), type(module.cell).__name__
      (True, 'GRUCell')
    """
    parts.check(cell, params, "flax")
    layers = parts.layers(cell, params)
    if len(layers) == 1:
        module, own = _write_layer(layers[0], return_carry=True)
        return module, {"params": own}
    modules, own = zip(*(_write_layer(layer, return_carry=False) for layer in layers))
    return nn.Sequential(modules), {"params": {f"layers_{k}": value for k, value in enumerate(own)}}


def _read(module, params, spatial_shape):
    if isinstance(module, nn.Sequential):
        parts.check_computation(module, "flax", "__call__")
        return parts.stacked([_read(inner, params[f"layers_{k}"], spatial_shape) for k, inner in enumerate(module.layers)])
    if isinstance(module, nn.Bidirectional):
        merge = next((name for name, function in MERGES.items() if function is module.merge_fn), None)
        if merge is None:
            raise UserError(
                "from_flax recognises the merge_fn of a Bidirectional by identity: its default, jnp.add, jnp.multiply and "
                f"seqjax.interop.flax.average, got {module.merge_fn!r}"
            )
        for one in (module, module.forward_rnn, module.backward_rnn):
            parts.check_computation(one, "flax", "__call__")
        # Bidirectional sets the directions itself, regardless of its two RNNs.
        ahead, back = cast(nn.RNN, module.forward_rnn), cast(nn.RNN, module.backward_rnn)
        forward, forward_params = _read(ahead.cell, params["forward_rnn"]["cell"], spatial_shape)
        backward, backward_params = _read(back.cell, params["backward_rnn"]["cell"], spatial_shape)
        return bidirectional(forward, backward, merge), BidirectionalParams(forward_params, backward_params)
    if isinstance(module, nn.RNN):
        parts.check_computation(module, "flax", "__call__")
        if module.reverse:
            raise UserError("an RNN with reverse=True: a cell has no direction; convert it without, and unroll with reverse=True")
        return _read(module.cell, params["cell"], spatial_shape)
    cell, own = _read_cell(module, params, spatial_shape)
    if cell.hidden_size != module.features:
        raise UserError(f"the variables are those of {cell.hidden_size} features, but this {type(module).__name__} has {module.features}")
    return cell, own


def _read_cell(module, params, spatial_shape):
    if isinstance(module, nn.MGUCell):
        raise UserError("Flax's MGUCell keeps with the gate that resets, while seqjax.mgu writes with it; neither converts to the other")
    if not isinstance(module, (nn.SimpleCell, nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.ConvLSTMCell)):
        raise UserError(f"from_flax takes {SUPPORTED}, got {type(module).__name__}; for NNX modules use from_nnx")
    parts.check_computation(module, "flax", "__call__")
    if module.carry_init is not jax.nn.initializers.zeros:
        raise UserError(f"{type(module).__name__} has a custom carry_init; wrap the cell in seqjax.learned_initial_carry")
    if isinstance(module, nn.ConvLSTMCell):
        return conv.from_flax_cell(module, params, spatial_shape)
    conv.refuse_spatial_shape(spatial_shape, type(module).__name__)
    activations = parts.flax_activations(module)
    if isinstance(module, nn.SimpleCell):
        w, u, b = (parts.array(value) for value in (params["i"]["kernel"], params["h"]["kernel"], params["i"]["bias"]))
        return rnn(w.shape[1], **activations, **_dtypes(module, w)), RNNParams(w, u, b)
    if isinstance(module, nn.GRUCell):
        w, b = (_joint(params, "i", "rzn", part) for part in ("kernel", "bias"))
        u, b_n = _joint(params, "h", "rzn", "kernel"), parts.array(params["hn"]["bias"])
        return gru(u.shape[0], **activations, **_dtypes(module, w)), GRUParams(w, u, b, b_n)
    w = _joint(params, "i", "ifgo", "kernel")
    u, b = (_joint(params, "h", "ifgo", part) for part in ("kernel", "bias"))
    return lstm(u.shape[0], **activations, **_dtypes(module, w)), LSTMParams(w, u, b)


def _dtypes(module, kernel):
    return {"dtype": parts.narrower(module.dtype, kernel.dtype), "param_dtype": kernel.dtype}


def _joint(params, side, gates, part):
    """Concatenates the kernels or biases of one side, gate by gate."""
    return jnp.concatenate([parts.array(params[side + gate][part]) for gate in gates], axis=-1)


def _write_layer(layer, return_carry):
    (forward, own), *backward = (_write_cell(cell, params) for cell, params in zip(layer.cells, layer.params))
    if layer.merge is None:
        return nn.RNN(forward, return_carry=return_carry), {"cell": own}
    ((backward, backward_own),) = backward
    module = nn.Bidirectional(nn.RNN(forward), nn.RNN(backward), merge_fn=MERGES[layer.merge], return_carry=return_carry)
    return module, {"forward_rnn": {"cell": own}, "backward_rnn": {"cell": backward_own}}


def _write_cell(cell, params):
    settings, size = parts.settings(cell), cell.hidden_size
    stored = jnp.asarray(params.kernel).dtype
    options = {"dtype": parts.narrower(settings["dtype"], stored), "param_dtype": stored, **parts.to_flax_activations(cell)}
    if parts.kind(cell) == "conv_lstm":
        return conv.to_flax_cell(cell, params, options)
    if parts.kind(cell) == "rnn":
        values = {"i": {"kernel": params.kernel, "bias": params.bias}, "h": {"kernel": params.recurrent_kernel}}
        return nn.SimpleCell(size, **options), values
    if parts.kind(cell) == "lstm":
        values = _apart(params.kernel, "i", "ifgo", "kernel") | _apart(params.recurrent_kernel, "h", "ifgo", "kernel")
        for name, value in _apart(params.bias, "h", "ifgo", "bias").items():
            values[name] |= value
        return nn.OptimizedLSTMCell(size, **options), values
    values = _apart(params.kernel, "i", "rzn", "kernel") | _apart(params.recurrent_kernel, "h", "rzn", "kernel")
    for name, value in _apart(params.bias, "i", "rzn", "bias").items():
        values[name] |= value
    values["hn"] |= {"bias": params.recurrent_bias}
    return nn.GRUCell(size, **options), values


def _apart(value, side, gates, part):
    """Splits a concatenated array into its gates."""
    return {side + gate: {part: own} for gate, own in zip(gates, jnp.split(value, len(gates), axis=-1))}
