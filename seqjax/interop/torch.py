"""Weights from and to PyTorch: nn.RNN, nn.LSTM and nn.GRU with layers and directions, and their cells.

How the two compare; torch's weights are transposed (G H, D), ours (D, G H).

  ============================  =====================================  ========================================
  torch                         seqjax                                 note
  ============================  =====================================  ========================================
  weight_ih, i f g o            kernel, i f g o                        LSTM: the same order
  weight_ih, r z n              kernel, r z n                          GRU: the same order
  weight_hh                     recurrent_kernel                       the same order
  bias_ih + bias_hh             bias                                   torch keeps two where one does
  bias_hh of n                  recurrent_bias                         GRU: inside the reset, so not summed
  weight_hr (P, H)              projection (H, P)                      LSTM with proj_size
  bias=False                    bias = 0                               becomes a parameter: it can be trained
  suffix _l1                    the second entry of a stack            layers
  suffix _reverse               backward of bidirectional              directions, outputs concatenated
  dropout=p                     dropout(cell, p) of layers 1, 2, ...   torch drops all outputs but the last layer's
  batch_first                   no part of a cell                      `unroll(..., time_major=True)` where False
  ============================  =====================================  ========================================

Torch does not support a GRU with the reset before the product, peepholes, coupled gates, layer norm, activations other
than tanh and relu, layers of different sizes, dropout that is shared over time, or a compute dtype other than the
parameters'.
"""

import jax.numpy as jnp
import numpy as np

from seqjax.cells import GRUParams
from seqjax.errors import UserError
from seqjax.interop import parts
from seqjax.interop.torch_state import GATES, array_of, cell_of
from seqjax.typing import Cell, Params
from seqjax.wrappers import BidirectionalParams, bidirectional, dropout

MODULES = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}


def from_torch(module) -> tuple[Cell, Params]:
    """Converts a torch recurrent module to a cell and its params, with the same outputs.

    Args:
      module: a torch.nn.RNN, LSTM or GRU, or an RNNCell, LSTMCell or GRUCell.

    Returns:
      (cell, params). The params are copies in the module's dtype; layers become a stack, directions a bidirectional
      cell, and `dropout` between layers `seqjax.dropout`. A module without biases gets biases of zero.

    Raises:
      UserError: the module is of another kind, computes differently (a subclass with another `forward`, hooks,
        parametrizations), or is float64 while JAX's 64-bit types are off.

    Example:
      >>> import jax, seqjax, seqjax.interop, torch
      >>> module = torch.nn.LSTM(3, 8, num_layers=2, dropout=0.1, batch_first=True).eval()
      >>> cell, params = seqjax.interop.from_torch(module)
      >>> cell.name
      'stack(lstm, dropout(lstm, 0.1))'
      >>> xs = torch.randn(2, 5, 3)
      >>> carry, ys = seqjax.unroll(cell, params, xs.numpy())
      >>> bool(abs(ys - module(xs)[0].detach().numpy()).max() < 1e-5)
      True
    """
    import torch

    if not isinstance(module, (torch.nn.RNNCellBase, torch.nn.RNNBase)):
        raise UserError(f"from_torch takes torch.nn's RNN, LSTM, GRU and their cells, got {type(module).__name__}")
    parts.check_computation(module, "torch", "forward", "__call__")
    _check_attached(module)
    if isinstance(module, torch.nn.RNNCellBase):
        return _read(module, "")
    return parts.stacked([_read_layer(module, k) for k in range(module.num_layers)])


def to_torch(cell: Cell, params: Params):
    """Converts a cell to a torch module with the same outputs.

    Args:
      cell: an rnn, lstm or gru; or a stack of equal ones, each bidirectional if the first is, and with one dropout
        rate in all layers but the first.
      params: its params.

    Returns:
      A torch.nn.RNN, LSTM or GRU on the CPU, with batch_first=True, in training mode like all new modules, in the
      params' dtype. It has two biases, of which the second is zero except for b_hn of the GRU; or none, if the cells
      have none.

    Raises:
      UserError: torch does not support the cell; the message says why, and which libraries do.
      TypeError, ValueError: the params are not the cell's.

    Example:
      >>> import jax, seqjax, seqjax.interop, torch
      >>> cell = seqjax.gru(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> module = seqjax.interop.to_torch(cell, params)
      >>> module
      GRU(3, 8, batch_first=True)
      >>> xs = torch.randn(2, 5, 3)
      >>> carry, ys = seqjax.unroll(cell, params, xs.numpy())
      >>> bool(abs(ys - module(xs)[0].detach().numpy()).max() < 1e-5)
      True
    """
    import torch

    parts.check(cell, params, "torch")
    layers = parts.layers(cell, params)
    _check_uniform(cell, layers)
    first, own = layers[0].cells[0], layers[0].params[0]
    name, set_to = parts.kind(first), parts.settings(first)
    options = {"nonlinearity": set_to["activation"]} if name == "rnn" else {}
    if set_to.get("proj_size"):
        options["proj_size"] = set_to["proj_size"]
    module = getattr(torch.nn, MODULES[name])(
        own.kernel.shape[0],
        own.kernel.shape[1] // GATES[name],
        num_layers=len(layers),
        bias=own.bias is not None,
        bidirectional=len(layers[0].cells) == 2,
        dropout=_rate(layers[-1]),
        batch_first=True,
        dtype=getattr(torch, jnp.asarray(own.kernel).dtype.name),
        **options,
    )
    for k, layer in enumerate(layers):
        for suffix, own in zip(("", "_reverse"), layer.params):
            _write(module, f"_l{k}{suffix}", own)
    return module


def _check_attached(module):
    """Refuses hooks and the like, which change a module's outputs or weights as it runs."""
    attached = {
        "forward hooks": module._forward_hooks,
        "forward pre-hooks (as of pruning and of weight_norm)": module._forward_pre_hooks,
        "parametrizations": getattr(module, "parametrizations", ()),
    }
    found = [name for name, value in attached.items() if len(value)]
    if found:
        raise UserError(
            f"this {type(module).__name__} has {' and '.join(found)}, so its outputs do not follow from its weights; "
            "remove them first (torch.nn.utils has a function for each), so that the weights are the effective ones"
        )


def _read_layer(module, k):
    """Converts layer k of a torch module, in one direction or two."""
    cell, params = _read(module, f"_l{k}")
    if module.bidirectional:
        backward, backward_params = _read(module, f"_l{k}_reverse")
        cell, params = bidirectional(cell, backward), BidirectionalParams(params, backward_params)
    return (dropout(cell, module.dropout) if module.dropout and k else cell), params


def _read(module, suffix):
    """Converts one direction of one layer."""
    from torch import nn

    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * bool(module.bias) + ["weight_hr"] * bool(getattr(module, "proj_size", 0))
    weights = {name: array_of(getattr(module, f"{name}{suffix}")) for name in names}
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return cell_of("lstm", weights)
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        return cell_of("gru", weights)
    nonlinearity = module.mode.removeprefix("RNN_").lower() if hasattr(module, "mode") else module.nonlinearity
    return cell_of("rnn", weights, nonlinearity)


def _write(module, suffix, params):
    """Copies the params of one direction of one layer into a torch module."""
    values = {"weight_ih": _to_numpy(params.kernel).T, "weight_hh": _to_numpy(params.recurrent_kernel).T}
    if params.bias is not None:
        values["bias_ih"] = _to_numpy(params.bias)
        values["bias_hh"] = np.zeros_like(values["bias_ih"])
        if isinstance(params, GRUParams):
            values["bias_hh"][-params.recurrent_bias.shape[0] :] = _to_numpy(params.recurrent_bias)
    if getattr(module, "proj_size", 0):
        values["weight_hr"] = _to_numpy(params.projection).T  # pyright: ignore[reportAttributeAccessIssue]
    for name, value in values.items():
        weight = getattr(module, f"{name}{suffix}")
        weight.data.copy_(weight.new_tensor(value))


def _check_uniform(cell, layers):
    """Checks that all layers have one kind, size and rate, as in torch."""
    first = layers[0]
    plain = [inside for layer in layers for inside in layer.cells]
    for inside in plain:
        if (inside.name, inside.hidden_size, inside.settings) != (plain[0].name, plain[0].hidden_size, plain[0].settings):
            raise UserError(
                f"to_torch cannot represent layers that differ, but {cell.name!r} has {plain[0].name}({plain[0].hidden_size}) "
                f"and {inside.name}({inside.hidden_size}); to_keras and to_flax can, or convert cell.inner one by one"
            )
    if len({len(layer.cells) for layer in layers}) > 1:
        raise UserError(f"to_torch cannot represent one and two directions in one module, as in {cell.name!r}; to_keras can")
    if max(len(layer.drops) for layer in layers) > 1:
        raise UserError(f"to_torch cannot represent two dropouts around one cell, as in {cell.name!r}; to_keras can")
    if _rate(first):
        raise UserError(f"to_torch cannot represent dropout({_rate(first):g}) before the first layer of {cell.name!r}; to_keras can")
    rates = [_rate(layer) for layer in layers[1:]]
    if len(set(rates)) > 1:
        raise UserError(f"to_torch cannot represent dropout rates that differ, but those of {cell.name!r} are {rates}; to_keras can")


def _rate(layer):
    return parts.settings(layer.drops[0])["rate"] if layer.drops else 0.0


def _to_numpy(array):
    """Converts to NumPy, in float32 if NumPy has no such dtype."""
    array = jnp.asarray(array)
    return np.array(array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array)
