"""Weights from and to Keras 3: SimpleRNN, LSTM and GRU, Bidirectional, and Sequential stacks of them; ConvLSTMs by `conv`.

How the two compare; both keep kernels as (D, G H).

  ==================================  ================================  ==============================================
  Keras                               seqjax                            note
  ==================================  ================================  ==============================================
  kernel, recurrent_kernel i f c o    the same, i f g o                 LSTM: the same order; `unit_forget_bias` only
                                                                        says how the bias starts
  kernel, recurrent_kernel z r h      the same, r z n                   GRU: another order; h' = z h + (1 - z) hh
  bias (3H,), reset_after=False       bias                              GRU
  bias (2, 3H), reset_after=True      bias, recurrent_bias              GRU: the two are summed except for h, whose second
                                                                        part is b_hn
  use_bias=False                      bias = 0                          becomes a parameter: it can be trained
  Bidirectional(merge_mode=)          bidirectional(merge=)             concat, sum, ave, mul, None are concat, sum, mean,
                                                                        multiply, None
  Sequential, RNN([cell, ...])        stack
  Dropout before a layer              dropout
  LSTM(dropout=), SpatialDropout1D,   dropout(shared_over_time=True)    Keras draws this one mask for all steps
  Dropout(noise_shape=(_, 1, _))
  recurrent_dropout=                  recurrent_dropout(per_gate=True)  one mask of h for all steps, for the LSTM and GRU
                                                                        one for each gate, and then of the inputs too:
                                                                        dropout(shared_over_time=True, per_gate=True)
  activation, recurrent_activation    activation, gate_activation       those of `parts.KERAS_ACTIVATIONS`
  dtype policy                        dtype, param_dtype
  return_sequences, return_state,     no part of a cell
  stateful, unroll
  ==================================  ================================  ==============================================

Keras does not support peepholes, coupled gates, projections, layer norm or one recurrent dropout mask for all gates.
Activations that `jax.nn` lacks, recurrent_dropout of a GRU with reset_after=False, and a single layer that runs
backwards are not converted from Keras. Whole models, from tokens to classes, are in `keras_models`.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells import GRUParams, LSTMParams, RNNParams, gru, lstm, rnn
from seqjax.errors import UserError
from seqjax.interop import conv, parts
from seqjax.typing import Array, Cell, Params
from seqjax.wrappers import BidirectionalParams, bidirectional, dropout, recurrent_dropout

MERGES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "multiply", None: "pair"}


def from_keras(layer) -> tuple[Cell, Params]:
    """Converts a Keras recurrent layer to a cell and its params, with the same outputs at every step.

    Args:
      layer: a built keras.layers.SimpleRNN, LSTM, GRU or ConvLSTM1D, 2D, 3D, one of their cells, an RNN around cells, a
        Bidirectional, or a keras.Sequential of these and of Dropout.

    Returns:
      (cell, params). The params are copies in the layer's dtype. A layer without biases gets biases of zero.

    Raises:
      UserError: the layer is not built, is of another kind, has a setting that cells lack, or is float64 while JAX's
        64-bit types are off.

    Example:
      >>> import keras, seqjax.interop
      >>> layer = keras.layers.GRU(8, recurrent_initializer="glorot_normal", dropout=0.1)
      >>> layer.build((None, None, 3))
      >>> cell, params = seqjax.interop.from_keras(layer)
      >>> cell.name, params.kernel.shape, params.recurrent_bias.shape
      ('dropout(gru, 0.1)', (3, 24), (8,))
    """
    return parts.stacked(_read(layer))


def to_keras(cell: Cell, params: Params):
    """Converts a cell to a Keras layer with the same outputs at every step.

    Args:
      cell: an rnn, lstm, conv_lstm or gru, of either reset; or a bidirectional or dropped one, or a stack of such.
      params: its params.

    Returns:
      A built keras.layers.SimpleRNN, LSTM, GRU, ConvLSTM1D, 2D, 3D or Bidirectional with return_sequences=True and
      return_state=True; or for a stack, or dropout with a new mask at each step, a keras.Sequential, which returns only
      the outputs.

    Raises:
      UserError: Keras does not support the cell; the message says why, and which libraries do.
      TypeError, ValueError: the params are not the cell's.

    Example:
      >>> import jax, seqjax, seqjax.interop
      >>> cell = seqjax.stack(seqjax.lstm(8), seqjax.dropout(seqjax.lstm(8), 0.1))
      >>> params = cell.init(jax.random.key(0), 3)
      >>> model = seqjax.interop.to_keras(cell, params)
      >>> [type(layer).__name__ for layer in model.layers]
      ['LSTM', 'Dropout', 'LSTM']
    """
    import keras

    parts.check(cell, params, "keras")
    layers = parts.layers(cell, params)
    # Keras's own initialisers promote ranks, which a program may have forbidden.
    with jax.numpy_rank_promotion("allow"):
        if len(layers) == 1 and not layers[0].drops:
            return _write(layers[0], return_state=True)
        first = layers[0]
        made = [keras.Input(_input_shape(first), dtype=_policy(first.cells[0], first.params[0]))]
        for layer in layers:
            policy = _policy(layer.cells[0], layer.params[0])
            made += [_write_dropout(drop, policy) for drop in layer.drops]
            made.append(_write(layer, return_state=False))
        return keras.Sequential(made)


def _input_shape(layer):
    """Of one sequence."""
    return None, *layer.cells[0].spatial, layer.cells[0].input_size(layer.params[0])


def _read(layer) -> list[tuple[Any, Any]]:
    """Returns the inner layers, from the bottom up, as pairs of a cell and its params."""
    import keras

    if isinstance(layer, keras.layers.Layer):
        methods = ("call", "__call__", "inner_loop", "get_initial_state")
        parts.check_computation(layer, "keras", *(name for name in methods if hasattr(type(layer), name)))
    if isinstance(layer, keras.Sequential):
        return _read_sequential(layer)
    if isinstance(layer, keras.layers.Bidirectional):
        return [_read_bidirectional(layer)]
    if isinstance(layer, keras.layers.RNN):
        if layer.go_backwards:
            raise UserError(
                f"{layer.name} has go_backwards=True; a cell has no direction: convert it without, and unroll with reverse=True"
            )
        return _read(layer.cell)
    if isinstance(layer, keras.layers.StackedRNNCells):
        return [pair for cell in layer.cells for pair in _read(cell)]
    return [_read_cell(layer)]


def _read_sequential(model):
    import keras

    pairs, drops = [], []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            drops.append(read_dropout(layer))
            continue
        found = _read(layer)
        for drop in reversed(drops):
            cell, params = found[0]
            found[0] = dropout(cell, *drop), params
        pairs, drops = pairs + found, []
    if drops:
        raise UserError(f"{model.name} ends with dropout, but a cell drops its inputs; remove that layer")
    return pairs


def read_dropout(layer) -> tuple[float, bool]:
    """Returns the rate of a Keras dropout layer, and whether its mask is shared over time."""
    import keras

    parts.check_computation(layer, "keras", "call", "__call__")
    spatial = isinstance(layer, keras.layers.SpatialDropout1D)
    shape = None if spatial or layer.noise_shape is None else tuple(layer.noise_shape)
    if shape is not None and (len(shape) != 3 or shape[0] is not None or shape[1] != 1 or shape[2] is not None):
        raise UserError(f"{layer.name} has noise_shape={shape}; dropout here has a mask per step or (None, 1, None)")
    return layer.rate, spatial or shape is not None


def _read_bidirectional(layer):
    if layer.forward_layer.go_backwards:
        raise UserError(f"{layer.name} has a forward layer with go_backwards=True; swap its two layers")
    for one in (layer.forward_layer, layer.backward_layer):
        parts.check_computation(one, "keras", "call", "inner_loop", "__call__", "get_initial_state")
    (forward, forward_params), (backward, backward_params) = (
        parts.stacked(_read(one.cell)) for one in (layer.forward_layer, layer.backward_layer)
    )
    merge = None if layer.merge_mode is None else MERGES[layer.merge_mode]  # Keras refuses all others
    return bidirectional(forward, backward, merge), BidirectionalParams(forward_params, backward_params)


def _read_cell(cell):
    import keras
    from keras.src.layers.rnn.conv_lstm import ConvLSTMCell  # Keras gives it no public name

    plain = (keras.layers.SimpleRNNCell, keras.layers.LSTMCell, keras.layers.GRUCell, ConvLSTMCell)
    if not isinstance(cell, plain):
        raise UserError(
            "from_keras takes SimpleRNN, LSTM, GRU, ConvLSTM1D to 3D, their cells, Bidirectional, and Sequential or RNN of "
            f"these, got {type(cell).__name__}; from_keras_model takes whole models"
        )
    if not cell.built:
        raise UserError(f"{cell.name} has no weights yet; build the layer, or call it once on some input")
    activations = _activations(cell)
    w, u = from_variable(cell.kernel), from_variable(cell.recurrent_kernel)
    b = None if cell.bias is None else from_variable(cell.bias)
    options = {"dtype": parts.narrower(cell.compute_dtype, w.dtype), "param_dtype": w.dtype, **activations}
    options |= {"use_bias": False} if b is None else {}
    if isinstance(cell, ConvLSTMCell):
        return conv.from_keras_cell(cell, (w, u, b), options)
    if isinstance(cell, keras.layers.GRUCell):
        ours = gru(cell.units, cell.reset_after, **options), _read_gru(cell, w, u, b)
    elif isinstance(cell, keras.layers.LSTMCell):
        ours = lstm(cell.units, **options), LSTMParams(w, u, b)
    else:
        ours = rnn(cell.units, **options), RNNParams(w, u, b)
    return _with_dropout(cell, ours[0]), ours[1]


def _with_dropout(cell, ours):
    """Keras draws one mask for all steps, and with implementation=1, which recurrent_dropout sets, one for each gate."""
    per_gate = getattr(cell, "implementation", 2) == 1
    if cell.recurrent_dropout:
        ours = recurrent_dropout(ours, cell.recurrent_dropout, per_gate=per_gate)
    return dropout(ours, cell.dropout, shared_over_time=True, per_gate=per_gate) if cell.dropout else ours


def _activations(cell):
    """Converts the activations to options of our cells; refuses those that cells lack."""
    import keras

    known = {keras.activations.get(theirs): ours for ours, theirs in parts.KERAS_ACTIVATIONS.items()}
    options = {}
    for setting, option in (("activation", "activation"), ("recurrent_activation", "gate_activation")):
        function = getattr(cell, setting, None)
        if function is not None:
            if function not in known:  # a user's function may have the name of another
                names = ", ".join(parts.KERAS_ACTIVATIONS.values())
                raise UserError(f"{cell.name} has {setting}={cell.get_config()[setting]!r}; of Keras's, cells here support {names}")
            options[option] = known[function]
    return options


def _read_gru(cell, w, u, b):
    if b is None:
        return GRUParams(parts.reorder(w, "zrn", "rzn"), parts.reorder(u, "zrn", "rzn"), None, None)
    if b.ndim == 1:
        b_n = jnp.zeros((cell.units,), w.dtype) if cell.reset_after else None
    else:
        b, b_h = b
        # The last part of the second is inside the reset, so it is not summed.
        b, b_n = b + b_h.at[2 * cell.units :].set(0), b_h[2 * cell.units :]
    w, u, b = (parts.reorder(value, "zrn", "rzn") for value in (w, u, b))
    return GRUParams(w, u, b, b_n)


def _write(layer, return_state):
    """Builds one layer and sets its weights."""
    import keras

    run = {"return_sequences": True, "return_state": return_state}
    made = [_make(cell, params, go_backwards=backwards, **run) for cell, params, backwards in zip(layer.cells, layer.params, (False, True))]
    whole = made[0]
    if layer.merge is not None:
        names = {ours: theirs for theirs, ours in MERGES.items()}
        policy = _policy(layer.cells[0], layer.params[0])
        whole = keras.layers.Bidirectional(made[0], names[layer.merge], backward_layer=made[1], dtype=policy)
    whole.build((None, *_input_shape(layer)))
    # Bidirectional copies the given forward layer.
    directions = (whole.forward_layer, whole.backward_layer) if layer.merge is not None else (whole,)
    for one, params in zip(directions, layer.params):
        for variable, value in values(one.cell, params):
            variable.assign(np.asarray(value))
    return whole


def _write_dropout(drop, policy):
    import keras

    settings = parts.settings(drop)
    if settings["per_gate"]:
        raise UserError(
            f"to_keras cannot represent per_gate=True of {drop.name!r}; Keras has it only with recurrent dropout: put "
            "recurrent_dropout(..., per_gate=True) around the cell"
        )
    kind = keras.layers.SpatialDropout1D if settings["shared_over_time"] else keras.layers.Dropout
    return kind(settings["rate"], dtype=policy)


def _make(cell, params, **options):
    """Creates a Keras layer with a cell's settings."""
    import keras

    options["dtype"] = _policy(cell, params)
    while cell.inner:
        options[parts.kind(cell)] = parts.settings(cell)["rate"]
        by_gate, outer, cell = parts.settings(cell)["per_gate"], cell, cell.inner[0]
        if parts.kind(outer) == "recurrent_dropout" and by_gate != (parts.kind(cell) != "rnn"):
            raise UserError(
                f"to_keras cannot represent one mask for all gates of {outer.name!r}; Keras draws one for each gate: per_gate=True"
            )
    name, settings = parts.kind(cell), parts.settings(cell)
    options["use_bias"] = params.bias is not None
    for option, setting in (("activation", "activation"), ("recurrent_activation", "gate_activation")):
        if settings.get(setting):
            options[option] = parts.KERAS_ACTIVATIONS[settings[setting]]
    if name == "conv_lstm":
        return conv.to_keras_layer(cell, options)
    if name == "rnn":
        return keras.layers.SimpleRNN(cell.hidden_size, **options)
    if name == "lstm":
        return keras.layers.LSTM(cell.hidden_size, **options)
    return keras.layers.GRU(cell.hidden_size, reset_after=settings["reset_after"], **options)


def _policy(cell, params):
    """Returns the name of Keras's dtype policy; it has two mixed ones, which store float32."""
    stored = jnp.asarray(params.kernel).dtype.name
    compute = parts.narrower(parts.settings(parts.innermost(cell))["dtype"], stored)
    if compute is None:
        return stored
    if stored != "float32" or compute not in ("bfloat16", "float16"):
        raise UserError(f"to_keras cannot represent dtype={compute!r} with params of {stored} in {cell.name!r}; to_flax can")
    return f"mixed_{compute}"


def values(cell, params: Params) -> list[tuple]:
    """Returns pairs of a variable of a built Keras cell and its value."""
    variables = cell.kernel, cell.recurrent_kernel, cell.bias
    return [(variable, value) for variable, value in zip(variables, _weights(params), strict=True) if variable is not None]


def _weights(params):
    """Returns the kernel, the recurrent kernel and the bias as Keras stores them."""
    if not isinstance(params, GRUParams):
        return params.kernel, params.recurrent_kernel, params.bias
    w, u, b = (parts.reorder(jnp.asarray(value), "rzn", "zrn") if value is not None else cast(Any, None) for value in params[:3])
    if params.recurrent_bias is not None:
        b_h = jnp.zeros_like(b).at[2 * params.recurrent_bias.shape[0] :].set(params.recurrent_bias)
        b = jnp.stack([b, b_h])
    return w, u, b


def from_variable(variable) -> Array:
    """Copies a Keras variable to a JAX array."""
    import keras

    return parts.array(keras.ops.convert_to_numpy(variable.value))
