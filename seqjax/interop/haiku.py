"""Weights from and to Haiku: hk.VanillaRNN, hk.LSTM and hk.GRU; hk.Conv1DLSTM, 2D and 3D by `conv`.

How the two compare; D is the number of inputs.

  ==============================  ==============================  ====================================================
  Haiku                           seqjax                          note
  ==============================  ==============================  ====================================================
  LSTM linear w[:D], i g f o      kernel, i f g o                 one matrix over [x, h]; gates in another order
  LSTM linear w[D:], i g f o      recurrent_kernel, i f g o       the rows of h
  LSTM linear b, i g f o          bias, i f g o                   Haiku adds 1 to f at every step: ours is 1 more
  GRU w_i, w_h, b, z r a          -, r z n                        h' = (1 - z) h + z a: its z is our 1 - z, so its sign
                                                                  is turned; the reset is before the product
  VanillaRNN linear w, linear_1   kernel, recurrent_kernel        relu, always
  linear b + linear_1 b           bias                            two biases, or one with double_bias=False
  ==============================  ==============================  ====================================================

Haiku does not support a vanilla cell with tanh, a GRU with the reset after the product, or two directions.
"""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp

from seqjax.cells import GRUParams, LSTMParams, RNNParams, gru, lstm, rnn
from seqjax.errors import UserError
from seqjax.interop import conv, parts
from seqjax.typing import Array, Cell, Params


def from_haiku(
    params: Mapping[str, Mapping[str, Array]], name: str | None = None, *, spatial_shape: int | Sequence[int] | None = None
) -> tuple[Cell, Params]:
    """Converts the params of one Haiku core to a cell and its params, with the same outputs.

    Haiku's modules exist only while a transformed function runs, so the kind of core is inferred from the params.

    Args:
      params: what `init` of the transformed function returned.
      name: the core's name in there, such as "lstm" or "model/~/lstm_1". May be omitted if there is only one core.
      spatial_shape: of a Conv1DLSTM, Conv2DLSTM or Conv3DLSTM, the spatial axes of its inputs, which its params do not
        contain.

    Returns:
      (cell, params).

    Raises:
      UserError: there is no core of that name, or several and no name is given, or it is not a VanillaRNN, LSTM or GRU;
        or spatial_shape does not fit it.

    Example:
      >>> import haiku as hk, jax, seqjax, seqjax.interop
      >>> def network(xs):
      ...     core = hk.LSTM(8)
      ...     return hk.dynamic_unroll(core, xs, core.initial_state(2), time_major=False)[0]
      >>> network = hk.without_apply_rng(hk.transform(network))
      >>> xs = jax.random.normal(jax.random.key(0), (2, 5, 3))
      >>> variables = network.init(jax.random.key(1), xs)
      >>> cell, params = seqjax.interop.from_haiku(variables, "lstm")
      >>> carry, ys = seqjax.unroll(cell, params, xs)
      >>> bool(abs(ys - network.apply(variables, xs)).max() < 1e-5)
      True
    """
    name = _only_core(params) if name is None else name
    given, recurrent = (params.get(f"{name}/{side}_to_hidden") for side in ("input", "hidden"))
    if given is not None and recurrent is not None:
        return conv.from_haiku_core(given, recurrent, spatial_shape)
    conv.refuse_spatial_shape(spatial_shape, name)
    linear, recurrent = params.get(f"{name}/linear"), params.get(f"{name}/linear_1")
    if recurrent is not None and linear is not None:
        return _read_vanilla(linear, recurrent)
    if linear is not None:
        return _read_lstm(name, linear)
    if {"w_i", "w_h", "b"} <= params.get(name, {}).keys():
        return _read_gru(params[name])
    raise UserError(f"from_haiku finds no VanillaRNN, LSTM, GRU or ConvLSTM named {name!r}; the params are of {sorted(params)}")


def to_haiku(cell: Cell, params: Params) -> tuple[Callable[[], object], dict[str, dict[str, Array]]]:
    """Converts a cell to a Haiku core with the same outputs.

    Args:
      cell: an rnn with relu, an lstm, a gru with reset_after=False, or a conv_lstm that keeps its spatial shape.
      params: its params.

    Returns:
      (make, params): `make()` creates the core inside a transformed function, under Haiku's own name for it ("lstm");
      params are for `apply` of a function that creates no other module.

    Raises:
      UserError: Haiku does not support the cell; the message says why, and which libraries do.
      TypeError, ValueError: the params are not the cell's.

    Example:
      >>> import haiku as hk, jax, seqjax, seqjax.interop
      >>> cell = seqjax.gru(8, reset_after=False)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> make, variables = seqjax.interop.to_haiku(cell, params)
      >>> x, h = jax.numpy.ones((2, 3)), jax.numpy.zeros((2, 8))
      >>> y, h = hk.without_apply_rng(hk.transform(lambda x, h: make()(x, h))).apply(variables, x, h)
      >>> carry, ours = cell.step(params, cell.initial_carry(params, 2), x)
      >>> bool(abs(y - ours).max() < 1e-5)
      True
    """
    import haiku as hk

    parts.check(cell, params, "haiku")
    size, name = cell.hidden_size, parts.kind(cell)
    if name == "conv_lstm":
        return conv.to_haiku_core(cell, params)
    if name == "rnn":
        joint = {
            "linear": (params.kernel, params.bias),
            "linear_1": (params.recurrent_kernel, jnp.zeros_like(params.bias)),
        }
        return lambda: hk.VanillaRNN(size), {f"vanilla_rnn/{k}": {"w": w, "b": b} for k, (w, b) in joint.items()}
    if name == "lstm":
        joint = jnp.concatenate([params.kernel, params.recurrent_kernel])
        bias = parts.add_to_forget(params.bias, -parts.FORGET_BIAS)
        w, b = (parts.reorder(value, "ifgo", "igfo") for value in (joint, bias))
        return lambda: hk.LSTM(size), {"lstm/linear": {"w": w, "b": b}}
    own = (params.kernel, params.recurrent_kernel, params.bias)
    w_i, w_h, b = (_turn_first(parts.reorder(value, "rzn", "zrn")) for value in own)
    return lambda: hk.GRU(size), {"gru": {"w_i": w_i, "w_h": w_h, "b": b}}


def _only_core(params):
    """Returns the name of the only core among the params."""
    endings = ("/linear", "/linear_1", "/input_to_hidden", "/hidden_to_hidden")
    names = sorted({next((key.removesuffix(end) for end in endings if key.endswith(end)), key) for key in params})
    if len(names) != 1:
        raise UserError(f"from_haiku needs the name of one core, since the params are of {names}")
    return names[0]


def _read_vanilla(linear, recurrent):
    w, u, b = (parts.array(value) for value in (linear["w"], recurrent["w"], linear["b"]))
    b = b + parts.array(recurrent["b"]) if "b" in recurrent else b
    return rnn(w.shape[1], "relu", param_dtype=w.dtype), RNNParams(w, u, b)


def _read_lstm(name, linear):
    joint, bias = (parts.reorder(parts.array(linear[part]), "igfo", "ifgo") for part in ("w", "b"))
    size = joint.shape[1] // 4
    if joint.shape[0] <= size:
        raise UserError(f"{name}/linear does not belong to an LSTM: its w must be (D + H, 4H), got shape {joint.shape}")
    kernel, recurrent_kernel = joint[:-size], joint[-size:]
    params = LSTMParams(kernel, recurrent_kernel, parts.add_to_forget(bias, parts.FORGET_BIAS))
    return lstm(size, param_dtype=joint.dtype), params


def _read_gru(core):
    w, u, b = (parts.reorder(_turn_first(parts.array(core[part])), "zrn", "rzn") for part in ("w_i", "w_h", "b"))
    return gru(u.shape[0], reset_after=False, param_dtype=w.dtype), GRUParams(w, u, b, None)


def _turn_first(gates):
    """Flips the sign of the first of three gates: sigmoid(-a) = 1 - sigmoid(a)."""
    size = gates.shape[-1] // 3
    return jnp.asarray(gates).at[..., :size].multiply(-1)
