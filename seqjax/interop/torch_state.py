"""Recurrent layers from a plain torch state dict: names and arrays, without the module and without torch."""

import re
from collections.abc import Mapping
from typing import Any, cast

import jax.numpy as jnp

from seqjax.cells import GRUParams, LSTMParams, RNNParams, gru, lstm, rnn
from seqjax.errors import UserError
from seqjax.interop import parts
from seqjax.typing import Array, Cell, Params
from seqjax.wrappers import BidirectionalParams, bidirectional
from seqjax.wrappers import dropout as dropped

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
_KINDS = {number: kind for kind, number in GATES.items()}
_NAME = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(\d+)(_reverse)?)?")
_NEEDED = ("weight_ih", "weight_hh")


def from_torch_state(
    state: Mapping[str, Any], prefix: str = "", *, nonlinearity: str = "tanh", dropout: float = 0.0
) -> tuple[Cell, Params]:
    """Converts the recurrent layers in a torch state dict to a cell and its params; torch itself is not needed.

    The structure is inferred from names and shapes: layers from `_l0`, `_l1`, ..., directions from `_reverse`, a
    projection from `weight_hr`, and the kind from the recurrent weights, which hold four gates of H rows for an LSTM,
    three for a GRU and one for an RNN. A state dict does not contain the nonlinearity and the dropout rate, which are
    arguments.

    Args:
      state: names to arrays or torch tensors, as from `module.state_dict()`, `torch.load` or safetensors.
      prefix: the prefix of the layers' names, such as "encoder.rnn."; everything else in the state dict is ignored.
      nonlinearity: that of an RNN, "tanh" or "relu".
      dropout: the rate between layers.

    Returns:
      (cell, params), as from `from_torch`.

    Raises:
      UserError: no recurrent weights have such names, or some of a layer are missing or do not fit the others.

    Example:
      >>> import numpy as np, seqjax.interop
      >>> state = {"rnn.weight_ih_l0": np.ones((24, 3), "f"), "rnn.weight_hh_l0": np.ones((24, 8), "f"), "head.bias": np.ones(8)}
      >>> cell, params = seqjax.interop.from_torch_state(state, "rnn.")
      >>> cell.name, cell.hidden_size, params.kernel.shape
      ('gru', 8, (3, 24))
    """
    if nonlinearity not in ("tanh", "relu"):
        raise UserError(f"nonlinearity={nonlinearity!r} is not one of torch's; choose tanh or relu")
    found = _by_place(state, prefix)
    depth, directions = 1 + max(layer for layer, _ in found), 1 + max(reverse for _, reverse in found)
    pairs = []
    for layer in range(depth):
        made = [_read(found, prefix, layer, reverse, nonlinearity) for reverse in range(directions)]
        cell, params = made[0]
        if directions == 2:
            cell, params = bidirectional(cell, made[1][0]), BidirectionalParams(params, made[1][1])
        pairs.append((dropped(cell, dropout) if dropout and layer else cell, params))
    return parts.stacked(pairs)


def cell_of(kind: str, weights: Mapping[str, Array], nonlinearity: str = "tanh") -> tuple[Cell, Params]:
    """Converts one direction of one layer to a cell and its params.

    Args:
      kind: "rnn", "lstm" or "gru".
      weights: torch's, by their names without layer and direction; without biases the cell has none either.
      nonlinearity: that of an RNN.

    Example:
      >>> cell_of("rnn", {"weight_ih": jnp.ones((8, 3)), "weight_hh": jnp.ones((8, 8))})[1].bias is None
      True
    """
    w, u = weights["weight_ih"].T, weights["weight_hh"].T
    size, dtype = w.shape[1] // GATES[kind], w.dtype
    b, b_h = weights.get("bias_ih"), cast(Array, weights.get("bias_hh"))  # neither, or both
    options: dict[str, Any] = {"param_dtype": dtype} | ({"use_bias": False} if b is None else {})
    if kind == "gru":
        # b_hn is inside the reset, so it is not summed.
        biases = (None, None) if b is None else (b + b_h.at[2 * size :].set(0), b_h[2 * size :])
        return gru(size, **options), GRUParams(w, u, *biases)
    b = None if b is None else b + b_h
    if kind == "lstm":
        projection = weights["weight_hr"].T if "weight_hr" in weights else None
        options |= {} if projection is None else {"proj_size": projection.shape[1]}
        return lstm(size, **options), LSTMParams(w, u, b, projection=projection)
    return rnn(size, nonlinearity, **options), RNNParams(w, u, b)


def _by_place(state, prefix):
    """(layer, 1 if it runs backwards) -> torch's weights by their names without layer and direction."""
    found: dict[tuple[int, int], dict[str, Array]] = {}
    for name, value in state.items():
        match = _NAME.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match:
            part, layer, reverse = match.groups()
            found.setdefault((int(layer or 0), int(bool(reverse))), {})[part] = array_of(value)
    if not found:
        others = sorted({name[: name.index("weight_hh")] for name in state if "weight_hh" in name})
        hint = f"; there are some after {', '.join(map(repr, others))}" if others else ""
        raise UserError(f"the state dict has no recurrent weights with names that begin with {prefix!r}{hint}")
    return found


def array_of(value: Any) -> Array:
    """Copies an array or torch tensor to a JAX array; bfloat16 goes through float32, since NumPy lacks it.

    Example:
      >>> import numpy as np
      >>> array_of(np.float32([1, 2])).tolist()
      [1.0, 2.0]
    """
    if not hasattr(value, "detach"):
        return parts.array(value)
    tensor = value.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        return parts.array(tensor.float().numpy()).astype(jnp.bfloat16)
    return parts.array(tensor.numpy())


def _read(found, prefix, layer, reverse, nonlinearity):
    """Returns the weights of one direction of one layer, with shapes checked."""
    where = f"{prefix}*_l{layer}{'_reverse' * reverse}"
    weights = found.get((layer, reverse), {})
    if missing := [name for name in _NEEDED if name not in weights]:
        raise UserError(f"the state dict has no {' and no '.join(missing)} of {where}, but has other layers or directions")
    if ("bias_ih" in weights) != ("bias_hh" in weights):
        raise UserError(f"{where} has one bias; torch has two, or none")
    rows, outputs = weights["weight_hh"].shape
    size = weights["weight_hr"].shape[1] if "weight_hr" in weights else outputs
    kind = _KINDS.get(rows // size if rows % size == 0 else 0)
    if kind is None or ("weight_hr" in weights and kind != "lstm"):
        raise UserError(
            f"weight_hh of {where} has shape {(rows, outputs)}, but that many rows are not gates of {size} units: "
            "an LSTM has 4 times as many, a GRU 3 times, an RNN as many"
        )
    expected = {"weight_ih": (rows, weights["weight_ih"].shape[-1]), "bias_ih": (rows,), "bias_hh": (rows,), "weight_hr": (outputs, size)}
    for name, shape in expected.items():
        if name in weights and weights[name].shape != shape:
            raise UserError(f"{name} of {where} must have shape {shape}, got shape {weights[name].shape}")
    return cell_of(kind, weights, nonlinearity)
