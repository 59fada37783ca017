"""Weights from and to Keras 3: outputs, final states and gradients equal, both ways; unsupported features are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.parity import (
    B,
    D,
    H,
    T,
    assert_near,
    assert_same_cell,
    every,
    ours,
    random_inputs,
    random_like,
    random_params,
)

import seqjax
from seqjax import interop
from seqjax.errors import UserError
from seqjax.interop import parts
from seqjax.wrappers import bidirectional, recurrent_dropout, residual

keras = pytest.importorskip("keras", reason="needs keras on its JAX backend: pip install keras")
layers = keras.layers
STATES = {"rnn": ["h"], "gru": ["h"], "lstm": ["h", "c"]}  # in the order of Keras


@pytest.fixture(autouse=True)
def own_rank_rules():
    """Keras promotes ranks inside, which the other tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


def _stacked_cells(**o):
    cells = layers.StackedRNNCells([layers.GRUCell(2, **o), layers.LSTMCell(H, **o)], **o)
    return layers.RNN(cells, return_sequences=True, return_state=True, **o)


LAYERS = {
    "rnn-relu": lambda **o: layers.SimpleRNN(H, activation="relu", return_sequences=True, return_state=True, **o),
    "lstm": lambda **o: layers.LSTM(H, return_sequences=True, return_state=True, **o),
    "gru": lambda **o: layers.GRU(H, return_sequences=True, return_state=True, **o),
    "gru-before": lambda **o: layers.GRU(H, reset_after=False, return_sequences=True, return_state=True, **o),
    "lstm-activations": lambda **o: layers.LSTM(H, "silu", "hard_sigmoid", return_sequences=True, return_state=True, **o),
    "gru-activations": lambda **o: layers.GRU(H, "softsign", "linear", return_sequences=True, return_state=True, **o),
    "rnn-elu": lambda **o: layers.SimpleRNN(H, "elu", return_sequences=True, return_state=True, **o),
    "gru-no-bias": lambda **o: layers.GRU(H, use_bias=False, return_sequences=True, return_state=True, **o),
    "cells": _stacked_cells,
}
MERGES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "multiply"}


def _randomise(layer):
    for k, weight in enumerate(layer.weights):
        weight.assign(random_like(keras.ops.convert_to_numpy(weight.value), k))
    return layer


def _built(layer):
    layer.build((None, None, D))
    return _randomise(layer)


def _wide(layer):
    """Keras's own tanh on JAX computes float64 in float32; that would hide what is compared here."""
    for cell in (one for one in layer._flatten_layers() if hasattr(one, "recurrent_kernel")):
        if cell.kernel.dtype == "float64" and cell.activation is keras.activations.tanh:
            cell.activation = jnp.tanh
    return layer


def _values(tensors):
    return [keras.ops.convert_to_numpy(one) for one in jax.tree.leaves(tensors)]


def _assert_equal_runs(cell, params, layer, xs, dtype):
    """A layer with return_state: outputs first, then the states of each plain cell."""
    ys, carries = ours(cell, params, xs)
    ys, theirs = jax.tree.leaves(ys), _values(_wide(layer)(jnp.asarray(xs)))  # Keras makes NumPy's float64 float32
    for value, want in zip(ys, theirs):
        assert_near(value, want, dtype)
    last = theirs[len(ys) :]
    ordered = [getattr(one, name) for one in carries for name in ("h", "c") if hasattr(one, name)]
    assert len(ordered) == len(last)
    for value, other in zip(ordered, last):
        assert_near(value, other, dtype)


@every(LAYERS)
def test_from_a_layer(name, dtype):
    layer = _built(LAYERS[name](dtype=dtype))
    cell, params = interop.from_keras(layer)
    _assert_equal_runs(cell, params, layer, random_inputs(dtype), dtype)


@pytest.mark.parametrize("merge", MERGES)
def test_from_a_bidirectional_layer(merge):
    inside = layers.LSTM(H, return_sequences=True, return_state=True)
    layer = _built(layers.Bidirectional(inside, merge_mode=merge))
    cell, params = interop.from_keras(layer)
    assert dict(cell.settings)["merge"] == MERGES[merge]
    _assert_equal_runs(cell, params, layer, random_inputs("float32"), "float32")


def _sequential():
    first = layers.LSTM(H, return_sequences=True)
    second = layers.Bidirectional(layers.GRU(2, return_sequences=True))
    last = layers.SimpleRNN(H, dropout=0.3, return_sequences=True)
    return keras.Sequential([first, layers.Dropout(0.1), second, layers.SpatialDropout1D(0.2), last])


def test_a_sequential_model_and_its_dropout():
    model = _built(_sequential())
    cell, params = interop.from_keras(model)
    assert cell.name == "stack(lstm, dropout(bidirectional(gru, gru), 0.1), dropout(dropout(rnn, 0.3), 0.2))"
    shared = [dict(inner.settings).get("shared_over_time") for inner in cell.inner]
    assert shared == [None, False, True]
    xs = random_inputs("float32")
    assert_near(ours(cell, params, xs)[0], _values(model(xs))[0], "float32")


OURS = {
    "rnn": lambda: seqjax.rnn(H),
    "gru": lambda: seqjax.gru(H),
    "gru-bare": lambda: seqjax.gru(H, use_bias=False),
    "gru-before-bare": lambda: seqjax.gru(H, reset_after=False, use_bias=False),
    "bare": lambda: bidirectional(seqjax.lstm(H, use_bias=False), seqjax.rnn(2, use_bias=False)),
    "gru-before": lambda: seqjax.gru(H, reset_after=False),
    "lstm-dropped": lambda: seqjax.dropout(seqjax.lstm(H), 0.25, shared_over_time=True),
    "bidirectional": lambda: bidirectional(seqjax.lstm(H), seqjax.lstm(2)),
    "pair": lambda: bidirectional(seqjax.gru(H), seqjax.lstm(2), None),
}


@every(OURS)
def test_to_keras_and_back(name, dtype):
    cell = OURS[name]()
    params = random_params(cell, dtype)
    layer = interop.to_keras(cell, params)
    assert_same_cell(interop.from_keras(layer), (cell, params))
    _assert_equal_runs(cell, params, layer, random_inputs(dtype), dtype)


@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
def test_a_stack_to_keras_and_back(dtype):
    pair = bidirectional(seqjax.gru(H), seqjax.gru(H, reset_after=False), "mean")
    cell = seqjax.stack(seqjax.dropout(seqjax.lstm(2), 0.1), pair, seqjax.dropout(seqjax.rnn(H), 0.2))
    params = random_params(cell, dtype)
    model = interop.to_keras(cell, params)
    assert_same_cell(interop.from_keras(model), (cell, params))
    xs = jnp.asarray(random_inputs(dtype))
    assert_near(_values(_wide(model)(xs))[0], ours(cell, params, xs)[0], dtype)
    assert np.abs(_values(model(xs, training=True))[0] - ours(cell, params, xs)[0]).max() > 0.01


def test_a_mixed_policy_is_a_compute_dtype():
    cell = seqjax.lstm(H, dtype="bfloat16")
    params = random_params(cell, "float32")
    layer = interop.to_keras(cell, params)
    assert layer.dtype_policy.name == "mixed_bfloat16" and layer.cell.kernel.dtype == "float32"
    assert_same_cell(interop.from_keras(layer), (cell, params))


def test_gradients_are_equal():
    layer = _built(layers.GRU(H, return_sequences=True))
    cell, params = interop.from_keras(layer)
    xs, d_ys = random_inputs("float32"), np.random.default_rng(3).normal(size=(B, T, H)).astype(np.float32)
    weights = [weight.value for weight in layer.trainable_variables]
    others = [weight.value for weight in layer.non_trainable_variables]

    def theirs(weights, xs):
        return (layer.stateless_call(weights, others, xs)[0] * d_ys).sum()

    want, want_xs = jax.jit(jax.grad(theirs, argnums=(0, 1)))(weights, xs)
    got, got_xs = jax.jit(jax.grad(lambda p, x: (seqjax.unroll(cell, p, x)[1] * d_ys).sum(), argnums=(0, 1)))(params, xs)
    assert_near(got_xs, want_xs, "float32")
    for ours_too, other in zip((got.kernel, got.recurrent_kernel, got.bias), (*want[:2], want[2][0])):
        r, z, n = jnp.split(ours_too, 3, axis=-1)
        assert_near(jnp.concatenate([z, r, n], axis=-1), other, "float32")
    assert_near(got.recurrent_bias, want[2][1, 2 * H :], "float32")


def _own_tanh():
    def tanh(x):
        return 2 * keras.ops.tanh(x)

    return tanh


REFUSED_OF_KERAS = {
    "activation": (lambda: layers.LSTM(H, activation="gelu"), "has activation='gelu'; of Keras's, cells here support .*elu"),
    "gates": (lambda: layers.GRU(H, recurrent_activation="relu6"), "has recurrent_activation='relu6'; of Keras's, cells here"),
    "a function": (lambda: layers.SimpleRNN(H, activation=jnp.sin), "has activation="),
    "a function of a known name": (lambda: layers.LSTM(H, recurrent_activation=_own_tanh()), "has recurrent_activation='tanh'"),
    "recurrent dropout": (
        lambda: layers.GRU(H, recurrent_dropout=0.1, reset_after=False),
        "this gru has only a step; with reset_after=True it has the parts",
    ),
    "backwards": (lambda: layers.LSTM(H, go_backwards=True), "go_backwards=True; .* unroll with reverse=True"),
    "a last dropout": (
        lambda: keras.Sequential([layers.GRU(H, return_sequences=True), layers.Dropout(0.1)]),
        "ends with dropout",
    ),
    "noise shape": (
        lambda: keras.Sequential([layers.Dropout(0.1, noise_shape=(None, 1, 1)), layers.GRU(H)]),
        r"noise_shape=\(None, 1, 1\)",
    ),
    "another layer": (lambda: keras.Sequential([layers.Dense(2), layers.GRU(H)]), "got Dense; from_keras_model takes whole models"),
}


@pytest.mark.parametrize("name", REFUSED_OF_KERAS)
def test_what_a_cell_has_not_is_refused(name):
    make, message = REFUSED_OF_KERAS[name]
    layer = make()
    layer.build((None, T, D))
    with pytest.raises(UserError, match=message):
        interop.from_keras(layer)


def test_a_layer_without_weights_is_refused():
    with pytest.raises(UserError, match="has no weights yet; build the layer, or call it once"):
        interop.from_keras(layers.LSTM(H))


@pytest.mark.parametrize("name", parts.KERAS_ACTIVATIONS)
def test_activations_are_the_same_functions(name):
    xs = np.linspace(-5, 5, 101, dtype=np.float32)
    ours_, theirs = parts.ACTIVATIONS[name](xs), keras.activations.get(parts.KERAS_ACTIVATIONS[name])(xs)
    np.testing.assert_allclose(ours_, theirs, atol=1e-6)


@pytest.mark.parametrize("make", [lambda **o: seqjax.lstm(H, **o), lambda **o: seqjax.gru(H, reset_after=False, **o)])
def test_activations_go_there_and_come_back(make):
    cell = make(activation="relu", gate_activation="hard_sigmoid")
    params = random_params(cell, "float32")
    assert_same_cell(interop.from_keras(interop.to_keras(cell, params)), (cell, params))


REFUSED = {
    "gelu": (lambda: seqjax.lstm(H, activation="gelu"), "cannot represent activation='gelu' of 'lstm'; to_flax and to_nnx can"),
    "a function": (lambda: seqjax.gru(H, gate_activation=jnp.sin), "cannot represent gate_activation=.*; to_flax and to_nnx can"),
    "peepholes": (lambda: seqjax.lstm(H, peepholes=True), "to_keras cannot represent peepholes=True of 'lstm'; none"),
    "a projection": (lambda: seqjax.lstm(H, proj_size=2), "cannot represent proj_size=2 of 'lstm'; to_torch can"),
    "a residual": (lambda: residual(seqjax.gru(D)), r"cannot represent the residual of 'residual\(gru\)'; none"),
    "recurrent dropout": (lambda: recurrent_dropout(seqjax.gru(H), 0.1), "one mask for all gates of .*: per_gate=True"),
    "gates dropped": (
        lambda: seqjax.dropout(seqjax.gru(H), 0.1, True, per_gate=True),
        r"cannot represent per_gate=True of 'dropout\(gru, 0.1\)'; Keras has it only with recurrent dropout",
    ),
    "dropout inside": (
        lambda: recurrent_dropout(seqjax.dropout(seqjax.gru(H), 0.1, True), 0.1, per_gate=True),
        "put recurrent_dropout around a plain cell, and dropout around both",
    ),
    "dropped stack": (
        lambda: seqjax.dropout(seqjax.stack(seqjax.gru(H)), 0.1),
        "around the one cell whose inputs it drops",
    ),
    "dropped direction": (
        lambda: bidirectional(seqjax.gru(H), seqjax.dropout(seqjax.gru(H), 0.1)),
        "each direction must be one plain cell",
    ),
    "dtype": (lambda: seqjax.rnn(H, dtype="float64"), "cannot represent dtype='float64' with params of float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_keras_cannot_hold_is_refused_by_name(name):
    make, message = REFUSED[name]
    cell = make()
    with pytest.raises(UserError, match=message):
        interop.to_keras(cell, random_params(cell, "float32"))


def test_two_dropouts_in_a_row_are_two():
    model = keras.Sequential([layers.Dropout(0.1), layers.Dropout(0.5), layers.LSTM(H, return_sequences=True)])
    model.build((None, 5, D))
    cell, _ = interop.from_keras(model)
    assert cell.name == "dropout(dropout(lstm, 0.5), 0.1)"


RECURRENT = {
    "rnn": (lambda **o: layers.SimpleRNN(H, **o), 1),
    "lstm": (lambda **o: layers.LSTM(H, **o), 4),
    "gru": (lambda **o: layers.GRU(H, **o), 3),
}


def _force_masks(cell, layer, params, xs):
    """Gives the Keras cell the masks that ours draws, in its own order of gates."""
    drawn = cell.wrap.noise(jax.random.key(5), params, jnp.asarray(xs).swapaxes(0, 1))[1]

    def theirs(keep, rate):
        scaled = np.asarray(keep, np.float32) / (1 - rate)
        if scaled.ndim == 2:
            return jnp.asarray(scaled)
        return [jnp.asarray(scaled[g]) for g in ((1, 0, 2) if len(scaled) == 3 else range(len(scaled)))]

    if hasattr(drawn.cell, "keep"):
        layer.cell._dropout_mask = theirs(drawn.keep, layer.cell.dropout)
        drawn = drawn.cell
    layer.cell._recurrent_dropout_mask = theirs(drawn.keep, layer.cell.recurrent_dropout)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_dropout_is_the_same_function_of_its_masks(name):
    make, gates = RECURRENT[name]
    both = {"dropout": 0.4} if gates > 1 else {}  # with one gate the masks of the inputs are no params
    layer = _built(make(recurrent_dropout=0.3, return_sequences=True, **both))
    cell, params = interop.from_keras(layer)
    xs = random_inputs("float32")
    _force_masks(cell, layer, params, xs)
    want = _values(layer(xs, training=True))[0]
    assert_near(seqjax.unroll(cell, params, xs, rng=jax.random.key(5))[1], want, "float32")
    assert np.abs(want - ours(cell, params, xs)[0]).max() > 0.1
    assert_near(_values(layer(xs))[0], ours(cell, params, xs)[0], "float32")


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_dropout_drops_as_often_as_keras_and_each_gate_on_its_own(name):
    """The share that is kept, and that the masks of two gates do not go together, of both."""
    make, gates = RECURRENT[name]
    layer = make(recurrent_dropout=0.3)
    layer.build((None, None, D))
    cell, params = interop.from_keras(layer)
    keep = np.asarray(cell.wrap.noise(jax.random.key(1), params, np.zeros((1, 500, D), np.float32))[1].keep).reshape(gates, -1)
    layer.cell.get_recurrent_dropout_mask(jnp.ones((500, H)))
    theirs = np.reshape(layer.cell._recurrent_dropout_mask, (gates, -1)) > 0
    for drawn in (keep, theirs):
        assert abs(drawn.mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / drawn.size)
        both = np.corrcoef(drawn) if gates > 1 else np.eye(1)
        assert np.abs(both - np.eye(gates)).max() < 4 / np.sqrt(drawn.shape[1])


DROPPED = {
    "recurrent": lambda: recurrent_dropout(seqjax.lstm(H), 0.1, per_gate=True),
    "one gate": lambda: seqjax.dropout(recurrent_dropout(seqjax.rnn(H), 0.1), 0.3, True),
    "both": lambda: seqjax.dropout(recurrent_dropout(seqjax.gru(H), 0.1, per_gate=True), 0.3, True, per_gate=True),
    "directions": lambda: bidirectional(
        seqjax.dropout(recurrent_dropout(seqjax.gru(H), 0.1, per_gate=True), 0.3, True, per_gate=True),
        seqjax.dropout(seqjax.lstm(H), 0.2, True),
    ),
    "a direction pair": lambda: seqjax.dropout(bidirectional(seqjax.gru(H), seqjax.gru(H)), 0.2, True),
    "two": lambda: seqjax.dropout(seqjax.dropout(recurrent_dropout(seqjax.lstm(H), 0.1, per_gate=True), 0.2, True), 0.3),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", DROPPED)
def test_dropout_goes_there_and_comes_back(name):
    cell = DROPPED[name]()
    params = random_params(cell, "float32")
    layer = interop.to_keras(cell, params)
    assert_same_cell(interop.from_keras(layer), (cell, params))
    xs = random_inputs("float32")
    assert_near(jax.tree.leaves(layer(xs))[0], ours(cell, params, xs)[0], "float32")
    drawn = np.stack([_values(layer(xs, training=True))[0] for _ in range(12)])  # two alone may be equal by chance
    assert np.abs(drawn - ours(cell, params, xs)[0]).max() > 0.01 and np.ptp(drawn, axis=0).max() > 0.01
