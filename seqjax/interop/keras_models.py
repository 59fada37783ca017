"""Whole Keras 3 models, from tokens or features to their outputs, as pure functions and a pytree of parameters.

Supported: a `keras.Sequential` or a functional `keras.Model` that is a chain of these layers, also nested.

  ====================================  ========================  =======================================================
  Keras                                 here                      params
  ====================================  ========================  =======================================================
  Embedding, also with mask_zero        Embedding                 {"embeddings": (V, D)}
  Masking                               Masking                   ()
  SimpleRNN, LSTM, GRU, RNN(cells)      Recurrent, with a Cell    those of the cell; a tuple for stacked cells
  Bidirectional of these                Bidirectional             BidirectionalParams
  Dropout, SpatialDropout1D             Dropout                   ()
  Dense, TimeDistributed(Dense)         Dense                     {"kernel": (D, H), "bias": (H,)}, or without bias
  Activation                            Activation                ()
  ====================================  ========================  =======================================================

`keras_layers` describes how masks work. Regularizers and constraints are for training in Keras and not part of the
function.
"""

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.interop import keras as cells
from seqjax.interop import parts
from seqjax.interop.keras_layers import (
    ACTIVATIONS,
    Activation,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    KerasModel,
    Masking,
    Recurrent,
)
from seqjax.typing import Params
from seqjax.wrappers import BidirectionalParams

HELD = (
    "Embedding, Masking, SimpleRNN, LSTM, GRU, RNN of their cells, Bidirectional, Dropout, SpatialDropout1D, Dense, "
    "TimeDistributed(Dense) and Activation"
)


def from_keras_model(model) -> tuple[KerasModel, Params]:
    """Converts a Keras model that is a chain of layers to pure functions, with the same outputs.

    Args:
      model: a built keras.Sequential or functional keras.Model of the layers above.

    Returns:
      (model, params): `model.apply(params, inputs)` gives the same outputs as the Keras model; params are a pytree of
      copies, with one entry per layer, for `jax.grad` and optax. `to_keras_model` converts them back.

    Raises:
      UserError: the model is not built, is not a chain, or has an unsupported layer or setting, which the message
        names.

    Example:
      >>> import keras, jax, seqjax.interop
      >>> from keras import layers
      >>> tagger = keras.Sequential([
      ...     keras.Input((None,), dtype="int32"), layers.Embedding(50, 4, mask_zero=True), layers.LSTM(8, recurrent_dropout=0.2),
      ...     layers.Dense(3, "softmax"),
      ... ])
      >>> model, params = seqjax.interop.from_keras_model(tagger)
      >>> tokens = jax.numpy.array([[5, 6, 7], [8, 0, 0]])
      >>> bool(abs(model.apply(params, tokens) - tagger(tokens)).max() < 1e-6)
      True
      >>> model.apply(params, tokens, rng=jax.random.key(0)).shape, model.layers[1].cell.name
      ((2, 3), 'recurrent_dropout(lstm, 0.2)')
    """
    pairs = [_read(layer) for layer in _chain(model)]
    for number, (layer, _) in enumerate(pairs):
        if isinstance(layer, Embedding) and number:
            raise UserError(f"{layer.name} is an Embedding after other layers; from_keras_model takes one only as the first layer")
    layers, params = zip(*pairs, strict=True)
    return KerasModel(layers), params


def to_keras_model(params: Params, model):
    """Puts params into a Keras model of the same layers.

    Args:
      params: those of the function that `from_keras_model` returns for this model, or for another with the same layers.
      model: a built Keras model, as for `from_keras_model`. A layer that already has these values is left unchanged, so
        that a round trip changes no bit; a GRU's two biases, which are one here except for the candidate, come back in
        the first.

    Returns:
      The model, with other weights.

    Raises:
      UserError: the params do not fit the model or are not supported by it; no weight is changed then.

    Example:
      >>> import keras, jax, seqjax.interop
      >>> tagger = keras.Sequential([keras.Input((None, 4)), keras.layers.GRU(8), keras.layers.Dense(3)])
      >>> model, params = seqjax.interop.from_keras_model(tagger)
      >>> trained = jax.tree.map(lambda a: 0.9 * a, params)
      >>> xs = jax.numpy.ones((2, 5, 4))
      >>> bool(abs(seqjax.interop.to_keras_model(trained, tagger)(xs) - model.apply(trained, xs)).max() < 1e-6)
      True
    """
    layers = _chain(model)
    found, now = from_keras_model(model)
    if jax.tree.structure(params) != jax.tree.structure(now):
        raise UserError(f"params of {model.name} must be built as {jax.tree.structure(now)}, got {jax.tree.structure(params)}")
    for layer, own, old in zip(found.layers, params, now, strict=True):
        for new, was in zip(jax.tree.leaves(own), jax.tree.leaves(old), strict=True):
            if np.shape(new) != was.shape or jnp.asarray(new).dtype != was.dtype:
                raise UserError(f"{layer.name} takes {was.dtype} {was.shape}, got {jnp.asarray(new).dtype} {np.shape(new)}")
    changed = [
        (layer, own)
        for layer, own, old in zip(layers, params, now, strict=True)
        if not all(map(_same_bits, jax.tree.leaves(own), jax.tree.leaves(old)))
    ]
    for variable, value in [pair for layer, own in changed for pair in _values(layer, own)]:
        variable.assign(np.asarray(value))
    return model


def _same_bits(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _values(layer, params):
    """Returns pairs of a variable and its value, for a layer that `_read` has accepted."""
    import keras

    kinds = keras.layers
    if isinstance(layer, kinds.Embedding):
        return [(layer.embeddings, params["embeddings"])]
    if isinstance(layer, kinds.TimeDistributed):
        return _values(layer.layer, params)
    if isinstance(layer, kinds.Dense):
        return [(getattr(layer, name), value) for name, value in params.items()]
    if isinstance(layer, kinds.Bidirectional):
        directions = zip((layer.forward_layer, layer.backward_layer), params, strict=True)
        return [pair for one, own in directions for pair in _values(one, own)]
    if isinstance(layer, kinds.RNN):
        return _values(layer.cell, params)
    if isinstance(layer, kinds.StackedRNNCells):
        each = params if len(layer.cells) > 1 else (params,)
        return [pair for cell, own in zip(layer.cells, each, strict=True) for pair in _values(cell, own)]
    return cells.values(layer, params) if hasattr(layer, "recurrent_kernel") else []


def _read(layer):
    """Converts a Keras layer to one of ours, and its params."""
    import keras

    kinds = keras.layers
    options = {"name": layer.name, "dtype": getattr(layer, "compute_dtype", None)}
    if isinstance(layer, kinds.RNN):
        return _read_recurrent(layer, options)
    if isinstance(layer, kinds.Bidirectional):
        return _read_bidirectional(layer, options)
    plain = (kinds.Embedding, kinds.Masking, kinds.Dropout, kinds.Dense, kinds.Activation, kinds.TimeDistributed)
    if not isinstance(layer, plain):
        raise UserError(f"{layer.name} is a {type(layer).__name__}, which from_keras_model does not take; it takes {HELD}")
    _check(layer, "kernel", "embeddings")
    if isinstance(layer, kinds.TimeDistributed):
        inner, params = _read(layer.layer)
        if not isinstance(inner, Dense | Activation):
            raise UserError(f"{layer.name} is a TimeDistributed of a {type(layer.layer).__name__}; only Dense is supported there")
        return inner._replace(**options), params
    if isinstance(layer, kinds.Masking):
        return Masking(**options, mask_value=layer.mask_value), ()
    if isinstance(layer, kinds.Dropout):
        rate, shared_over_time = cells.read_dropout(layer)
        return Dropout(**options, rate=rate, shared_over_time=shared_over_time), ()
    if isinstance(layer, kinds.Activation):
        return Activation(**options, activation=_activation(layer)), ()
    if layer.quantization_mode or layer.lora_enabled:
        raise UserError(f"{layer.name} is quantized or has LoRA weights; merge them into plain weights first")
    if isinstance(layer, kinds.Embedding):
        return Embedding(**options, mask_zero=layer.mask_zero), {"embeddings": cells.from_variable(layer.embeddings)}
    names = ("kernel", "bias") if layer.use_bias else ("kernel",)
    params = {name: cells.from_variable(getattr(layer, name)) for name in names}
    return Dense(**options, activation=_activation(layer)), params


def _read_recurrent(layer, options):
    _check(layer, "inner_loop")
    if layer.stateful:
        raise UserError(f"{layer.name} is stateful, but a pure function keeps no state; use from_keras and pass the carry on")
    cell, params = cells.from_keras(layer.cell)
    return Recurrent(
        **options,
        cell=cell,
        return_sequences=layer.return_sequences,
        go_backwards=layer.go_backwards,
        zero_output=layer.zero_output_for_mask and not layer.unroll,  # which Keras forgets where it unrolls
    ), params


def _read_bidirectional(layer, options):
    _check(layer)
    both = (layer.forward_layer, layer.backward_layer)
    (forward, forward_params), (backward, backward_params) = map(_read, both)
    if not isinstance(forward, Recurrent) or not isinstance(backward, Recurrent):
        raise UserError(f"{layer.name} is a Bidirectional of {' and '.join(type(one).__name__ for one in both)}, not of RNNs")
    if layer.merge_mode is None:
        raise UserError(f"{layer.name} has merge_mode=None, but a layer of a model has one output here; from_keras takes it on its own")
    merge = cells.MERGES[layer.merge_mode]
    return Bidirectional(**options, forward=forward, backward=backward, merge=merge), BidirectionalParams(forward_params, backward_params)


def _check(layer, *more):
    """Checks that the layer computes as its Keras class does, and has weights."""
    methods = [name for name in ("call", "__call__", "compute_mask", *more) if hasattr(type(layer), name)]
    parts.check_computation(layer, "keras", *methods)
    if not layer.built:
        raise UserError(f"{layer.name} has no weights yet; build the model, or call it once on some input")


def _activation(layer):
    """Returns the name of a layer's activation."""
    import keras

    name = next((name for name in ACTIVATIONS if keras.activations.get(name) is layer.activation), None)
    if name is None:
        raise UserError(
            f"{layer.name} has activation={keras.activations.serialize(layer.activation)!r}, and those taken are Keras's "
            f"own {', '.join(ACTIVATIONS)}"
        )
    return name


def _chain(model):
    """Returns the layers of a model in order, including those of nested models."""
    import keras

    if not isinstance(model, keras.Model):
        raise UserError(
            f"from_keras_model takes a keras.Sequential or a functional keras.Model, got {type(model).__name__}; "
            "from_keras takes single layers"
        )
    parts.check_computation(model, "keras", "call", "__call__")
    if isinstance(model, keras.Sequential) and not model.built:
        raise UserError(f"{model.name} is not built yet; begin it with keras.Input, or call it once on some input")
    outputs = getattr(model, "outputs", None)
    if outputs is None:
        raise UserError(f"{model.name} has no graph of layers, unlike a Sequential or functional model")
    if len(model.inputs) != 1 or len(outputs) != 1:
        raise UserError(f"{model.name} has {len(model.inputs)} inputs and {len(outputs)} outputs; a chain of layers has one of each")
    found, tensor = [], outputs[0]
    while True:
        layer, node_index, output_index = tensor._keras_history
        if isinstance(layer, keras.layers.InputLayer):
            break
        node = layer._inbound_nodes[node_index]
        _check_node(model, layer, node, output_index)
        found = (_chain(layer) if isinstance(layer, keras.Model) else [layer]) + found
        tensor = node.arguments.args[0]
    twice = next((layer.name for number, layer in enumerate(found) if any(layer is other for other in found[:number])), None)
    if twice or not found:
        raise UserError(f"{model.name} {f'uses {twice} twice' if twice else 'has no layers'}; a chain has each of its layers once")
    return found


def _check_node(model, layer, node, output_index):
    """Checks that a layer was called on one tensor, and with nothing else that matters."""
    import keras

    args, kwargs = node.arguments.args, node.arguments.kwargs
    if not isinstance(layer, keras.layers.Layer):
        raise UserError(
            f"{model.name} has the operation {layer.name} between its layers, which from_keras_model does not take; it takes {HELD}"
        )
    single = len(args) == 1 and isinstance(args[0], keras.KerasTensor)
    given = {name: value for name, value in kwargs.items() if value is not None and value is not False}
    if single and "mask" in given and _same(given["mask"], getattr(args[0], "_keras_mask", None)):
        del given["mask"]
    other = list(given)
    if not single or other or output_index:
        how = f"is called with {', '.join(other)}" if other else "passes its state on" if output_index else "does not have one input"
        raise UserError(f"{layer.name} of {model.name} {how}; from_keras_model takes chains, each layer a function of the one before")


def _same(a, b):
    """Whether two symbolic tensors are identical or come from the same operations, like the masks of a loaded or cloned model."""
    import keras

    if not isinstance(a, keras.KerasTensor) or not isinstance(b, keras.KerasTensor):
        return type(a) is type(b) and a == b
    if a is b:
        return True
    (op, *where), (other, *there) = a._keras_history, b._keras_history  # pyright: ignore[reportAttributeAccessIssue]
    if op is other or isinstance(op, keras.layers.Layer) or type(op) is not type(other):
        return op is other and where == there
    (args, kwargs), (others, options) = (
        (node.arguments.args, {**node.arguments.kwargs, **one.get_config(), "name": None})
        for one, node in ((op, op._inbound_nodes[where[0]]), (other, other._inbound_nodes[there[0]]))
    )
    return len(args) == len(others) and all(map(_same, args, others)) and kwargs == options
