"""Whole Keras models: random chains of layers against Keras itself, including masks, round trips; other models are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from interop.parity import assert_near, random_like

import seqjax
from seqjax import interop
from seqjax.interop import keras_layers

keras = pytest.importorskip("keras", reason="needs keras on its JAX backend: pip install keras")
layers = keras.layers
B, T, D, V, K = 3, 5, 3, 7, 2
# Of a model that is given a mask: it goes to the layers inside all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not support masking")


@pytest.fixture(autouse=True)
def own_rank_rules():
    """Keras promotes ranks inside, which the other tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


def _randomise(model, seed=0):
    for k, weight in enumerate(model.weights):
        if weight.dtype != "uint32":  # the state of a random generator
            weight.assign(random_like(keras.ops.convert_to_numpy(weight.value), seed + k))
    return model


def _weights(model):
    return [keras.ops.convert_to_numpy(weight.value) for weight in model.trainable_variables]


def _theirs(model, *inputs, **options):
    return keras.ops.convert_to_numpy(model(*inputs, **options))


def _recurrent(rng, sequences, **options):
    """A recurrent layer at random."""
    options |= {"return_sequences": sequences}

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    def plain(**more):
        more |= options
        noise = {"dropout": pick(0.0, 0.3), "recurrent_dropout": pick(0.0, 0.2)}
        return pick(
            lambda: layers.SimpleRNN(3, pick("tanh", "relu"), use_bias=pick(True, False), **noise, **more),
            lambda: layers.LSTM(4, pick("tanh", "softsign"), use_bias=pick(True, False), **noise, **more),
            lambda: layers.GRU(4, use_bias=pick(True, False), **noise, **more),
            lambda: layers.GRU(2, reset_after=False, **more),
            lambda: layers.RNN([layers.GRUCell(2, dropout=0.2), layers.LSTMCell(3)], **more),
            lambda: layers.RNN(layers.StackedRNNCells([layers.SimpleRNNCell(3), layers.SimpleRNNCell(2)]), **more),
            lambda: layers.LSTM(2, zero_output_for_mask=True, **more),
            lambda: layers.GRU(2, unroll=True, **more),
        )()

    if rng.random() < 0.3:
        options["unroll"] = pick(True, False)
        make = pick(layers.LSTM, layers.GRU, layers.SimpleRNN)
        merge = pick("concat", "sum", "ave", "mul")
        if rng.random() < 0.3:
            backward = make(3, go_backwards=True, **options)
            return layers.Bidirectional(make(3, **options), merge, backward_layer=backward)
        return layers.Bidirectional(make(3, dropout=0.1, **options), merge)
    return plain(go_backwards=pick(False, False, True))


def _random_model(seed):
    """A chain of layers at random, Sequential or functional or with a model inside, and whether it takes tokens."""
    rng = np.random.default_rng(seed)
    tokens, sequences = rng.random() < 0.5, rng.random() < 0.5
    made = [keras.Input((T,), dtype="int32") if tokens else keras.Input((T, D))]
    made += [layers.Embedding(V, D, mask_zero=rng.random() < 0.7)] if tokens else []
    made += [] if tokens or rng.random() < 0.3 else [layers.Masking(mask_value=float(rng.integers(2)))]
    depth = int(rng.integers(1, 4))
    for level in range(depth):
        made += [[layers.Dropout(0.3)], [layers.SpatialDropout1D(0.3)], []][rng.integers(3)]
        made += [layers.Dense(4, "relu")] if rng.random() < 0.2 else []
        made.append(_recurrent(rng, sequences or level < depth - 1))
    heads = [
        [layers.Dense(K, "softmax")],
        [layers.Dropout(0.2), layers.Dense(4, "gelu", use_bias=False), layers.Dense(K)],
        [layers.Dense(K, "leaky_relu"), layers.Activation("log_softmax")],
        [layers.TimeDistributed(layers.Dense(K, "sigmoid"))] if sequences else [],
    ]
    made += heads[rng.integers(len(heads))]
    form = rng.integers(3)
    if form == 0:
        return keras.Sequential(made), tokens
    if form == 1:
        cut = int(rng.integers(1, len(made)))
        made = [*made[:cut], keras.Sequential(made[cut : cut + 2]), *made[cut + 2 :]]
    value = made[0]
    for layer in made[1:]:
        value = layer(value)
    return keras.Model(made[0], value), tokens


def _inputs(tokens, seed=0):
    """Padding at the start, at the end, in between and everywhere: zeros in tokens, zeros or ones in all features."""
    rng = np.random.default_rng(seed)
    real = rng.random((B, T)) < 0.7
    real[0], real[1, :2], real[1, 2:], real[2, -1] = False, False, True, False
    if tokens:
        return np.where(real, rng.integers(1, V, (B, T)), 0).astype(np.int32)
    return np.where(real[..., None], rng.normal(size=(B, T, D)), rng.integers(2, size=(B, 1, 1))).astype(np.float32)


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 40))])
def test_a_random_chain_gives_what_keras_gives_and_comes_back(seed):
    model, tokens = _random_model(seed)
    _randomise(model, seed)
    before = _weights(model)
    ours, params = interop.from_keras_model(model)
    inputs = _inputs(tokens, seed)
    assert_near(jax.jit(ours.apply)(params, inputs), _theirs(model, inputs, training=False), "float32")
    assert interop.to_keras_model(params, model) is model
    jax.tree.map(np.testing.assert_array_equal, _weights(model), before)

    # into another model of the same layers, whose weights are others
    again = keras.models.clone_model if seed % 2 else lambda model: type(model).from_config(model.get_config())
    other = _randomise(again(model), 99)
    assert interop.from_keras_model(other)[0] == ours and not np.allclose(_theirs(other, inputs), _theirs(model, inputs))
    trained = _moved(model, params)
    interop.to_keras_model(trained, other)
    jax.tree.map(np.testing.assert_array_equal, interop.from_keras_model(other)[1], trained)
    assert_near(ours.apply(trained, inputs), _theirs(other, inputs), "float32")


def _moved(model, params):
    """Other params; biases that the model has not stay zero."""
    bare = any(not getattr(cell, "use_bias", True) for layer in model._flatten_layers() for cell in [layer])
    return jax.tree.map(lambda a: a if bare and not a.any() else (0.9 * a + 0.01 * (a != 0)).astype(a.dtype), params)


def test_lengths_are_keras_masks():
    model = _randomise(keras.Sequential([keras.Input((T, D)), layers.LSTM(4, return_sequences=True), layers.Dense(K)]))
    ours, params = interop.from_keras_model(model)
    xs, lengths = _inputs(False), jnp.array([0, 3, 5])
    mask = np.arange(T) < np.asarray(lengths)[:, None]
    want = _theirs(model, xs, mask=jnp.asarray(mask))
    assert_near(ours.apply(params, xs, lengths), want, "float32")
    assert_near(ours.apply(params, np.where(mask[..., None], xs, np.nan), mask), want, "float32")
    assert not np.allclose(ours.apply(params, xs), want)


def test_lengths_hold_beside_the_mask_of_the_model():
    model = _randomise(keras.Sequential([keras.Input((T,)), layers.Embedding(V, D, mask_zero=True), layers.GRU(4)]))
    ours, params = interop.from_keras_model(model)
    tokens = np.array([[1, 0, 2, 3, 4]])
    got = ours.apply(params, tokens, jnp.array([3]))
    assert_near(got, _theirs(model, np.array([[1, 0, 2, 0, 0]])), "float32")


@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
def test_float64_and_a_mixed_policy(dtype):
    made = [keras.Input((T, D)), layers.GRU(4, "relu", return_sequences=True, dtype=dtype), layers.Dense(K, dtype=dtype)]
    model = _randomise(keras.Sequential(made))
    ours, params = interop.from_keras_model(model)
    xs = jnp.asarray(_inputs(False))
    got, want = ours.apply(params, xs), _theirs(model, xs)
    assert got.dtype == want.dtype == np.float64
    np.testing.assert_allclose(got, want, atol=1e-6)  # Keras's sigmoid is float32's
    mixed = [keras.Input((T, D)), layers.LSTM(4, dtype="mixed_bfloat16"), layers.Dense(K, dtype="mixed_bfloat16")]
    model = _randomise(keras.Sequential(mixed))
    ours, params = interop.from_keras_model(model)
    got, want = ours.apply(params, xs), model(xs)
    assert got.dtype == want.dtype == jnp.bfloat16 and {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), atol=0.05)


def test_activations_of_heads_are_the_same_functions():
    xs = np.linspace(-7, 7, 42, dtype=np.float32).reshape(6, 7)
    for name, ours in keras_layers.ACTIVATIONS.items():
        np.testing.assert_allclose(ours(xs), keras.activations.get(name)(xs), atol=1e-6, rtol=1e-6, err_msg=name)


def test_training_drops_and_gradients_reach_every_parameter():
    made = [keras.Input((T,)), layers.Embedding(V, D), layers.Dropout(0.5), layers.LSTM(4, recurrent_dropout=0.3), layers.Dense(K)]
    model = _randomise(keras.Sequential(made))
    ours, params = interop.from_keras_model(model)
    tokens = _inputs(True) + 0
    keys = jax.random.split(jax.random.key(0), 3)
    noisy = [ours.apply(params, tokens, rng=key) for key in (keys[0], keys[0], keys[1])]
    assert (noisy[0] == noisy[1]).all() and np.abs(noisy[0] - noisy[2]).max() > 1e-3
    optimizer, targets = optax.adam(0.05), jnp.array([0, 1, 0])
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, key):
        def loss(params):
            logits = ours.apply(params, tokens, rng=key)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        value, slopes = jax.jit(jax.value_and_grad(loss))(params)
        changes, state = optimizer.update(slopes, state)
        return optax.apply_updates(params, changes), state, value, slopes

    first = None
    for step in range(40):
        params, state, value, slopes = update(params, state, jax.random.fold_in(keys[2], step))
        first = first or float(value)
        assert step or all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))
    assert ours.apply(params, tokens).argmax(-1).tolist() == targets.tolist() and value < first
    assert_near(ours.apply(params, tokens), _theirs(interop.to_keras_model(params, model), tokens), "float32")


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_drops_as_keras_says(shared):
    layer = (layers.SpatialDropout1D if shared else layers.Dropout)(0.3)
    ours, params = interop.from_keras_model(keras.Sequential([keras.Input((20, 50)), layer]))
    kept = np.asarray(ours.apply(params, np.ones((8, 20, 50), np.float32), rng=jax.random.key(0)))
    np.testing.assert_allclose(kept[kept > 0], 1 / 0.7, rtol=1e-6)
    draws = kept[:, 0] if shared else kept
    assert abs((draws > 0).mean() - 0.7) < 4 * np.sqrt(0.21 / draws.size)
    assert (kept == kept[:, :1]).all() == shared


def _sequential(*made, shape=(T, D)):
    return keras.Sequential([keras.Input(shape), *made])


def _functional(function, shape=(T, D)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


def _twice():
    layer = layers.GRU(D, return_sequences=True)
    return _functional(lambda x: layer(layer(x)))


def _two_outputs():
    inputs = keras.Input((T, D))
    return keras.Model(inputs, [layers.GRU(2)(inputs), layers.LSTM(2)(inputs)])


def _lora():
    model = _sequential(layers.GRU(2), layers.Dense(4))
    model.layers[-1].enable_lora(1)
    return model


def _own_call():
    class Scaled(layers.Dense):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs)

    return _sequential(layers.GRU(2), Scaled(2))


def _own_mask():
    class Unmasked(layers.Masking):
        def compute_mask(self, inputs, mask=None):
            return None

    return _sequential(Unmasked(), layers.GRU(2))


def _own_cell():
    class Started(layers.GRUCell):
        def get_initial_state(self, batch_size=None):
            return [keras.ops.ones((batch_size, 2))]

    return _sequential(layers.RNN(Started(2)))


def _subclassed():
    class Mine(keras.Model):
        def call(self, inputs):
            return inputs

    return Mine()


def _subclassed_functional():
    class Doubled(keras.Model):
        def call(self, inputs, **how):
            return 2 * super().call(inputs, **how)

    inputs = keras.Input((T, D))
    return Doubled(inputs, layers.GRU(2)(inputs))


def _own_softmax():
    def softmax(x):
        return x

    return _sequential(layers.GRU(2), layers.Dense(2, activation=softmax))


REFUSED = {
    "a layer": (lambda: layers.LSTM(2), "got LSTM; from_keras takes single layers"),
    "not built": (lambda: keras.Sequential([layers.LSTM(2)]), "is not built yet; begin it with keras.Input"),
    "subclassed": (_subclassed, "Mine has its own call"),
    "subclassed functional": (_subclassed_functional, "Doubled has its own call"),
    "own call": (_own_call, "Scaled has its own call"),
    "own mask": (_own_mask, "Unmasked has its own compute_mask"),
    "own initial state": (_own_cell, "Started has its own get_initial_state"),
    "two outputs": (_two_outputs, "has 1 inputs and 2 outputs; a chain"),
    "two branches": (lambda: _functional(lambda x: layers.Add()([layers.GRU(2)(x), layers.LSTM(2)(x)])), "add.* does not have one input"),
    "an operation": (lambda: _functional(lambda x: layers.GRU(2)(x) + 1), "has the operation add.* between its layers"),
    "twice": (_twice, "uses gru.* twice; a chain has each of its layers once"),
    "a state": (lambda: _functional(lambda x: layers.Dense(2)(layers.GRU(2, return_state=True)(x)[1])), "gru.* passes its state on"),
    "training": (lambda: _functional(lambda x: layers.GRU(2)(layers.Dropout(0.5)(x, training=True))), "is called with training;"),
    "a start": (lambda: _functional(lambda x: layers.GRU(D)(x, initial_state=x[:, 0])), "is called with initial_state;"),
    "a mask": (lambda: _functional(lambda x: layers.GRU(D)(x, mask=x[..., 0] > 0)), "is called with mask;"),
    "another layer": (lambda: _sequential(layers.Conv1D(2, 1), layers.GRU(2)), r"conv1d.* is a Conv1D, .*; it takes Embedding, .*Dense"),
    "a late embedding": (lambda: _sequential(layers.Masking(), layers.Embedding(3, 2)), "is an Embedding after other layers"),
    "stateful": (
        lambda: keras.Sequential([keras.Input((T, D), batch_size=B), layers.GRU(2, stateful=True)]),
        "gru.* is stateful, but a pure function keeps no state",
    ),
    "no merge": (lambda: _functional(lambda x: layers.Bidirectional(layers.GRU(2), merge_mode=None)(x)[0]), "merge_mode=None"),
    "lora": (_lora, "dense.* is quantized or has LoRA weights"),
    "own activation": (_own_softmax, "dense.* has activation='softmax', and those taken are Keras's own .*leaky_relu"),
    "a parametrised activation": (
        lambda: _sequential(layers.GRU(2), layers.Dense(2, keras.ops.hard_shrink)),
        "has activation=.*, and those taken",
    ),
    "dropped steps": (lambda: _sequential(layers.Dropout(0.1, noise_shape=(None, 1, 1)), layers.GRU(2)), "noise_shape="),
    "distributed": (lambda: _sequential(layers.TimeDistributed(layers.Dropout(0.1))), "a TimeDistributed of a Dropout"),
    "a recurrent activation": (lambda: _sequential(layers.LSTM(2, "gelu")), "has activation='gelu'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_chain_of_known_layers_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(seqjax.UserError, match=message) as refusal:
        interop.from_keras_model(make())
    assert "\n" not in str(refusal.value)


def test_params_and_inputs_that_do_not_fit_are_refused():
    model = _sequential(layers.GRU(2, use_bias=False), layers.Dense(K))
    ours, params = interop.from_keras_model(model)
    before = _weights(model)
    with pytest.raises(seqjax.UserError, match=r"must be features \(B, T, D\), got shape \(3, 5\)"):
        ours.apply(params, _inputs(True))
    with pytest.raises(seqjax.UserError, match="one entry per layer, 2, got 1"):
        ours.apply(params[:1], _inputs(False))
    with pytest.raises(seqjax.UserError, match="must be built as"):
        interop.to_keras_model(params[:1], model)
    with pytest.raises(seqjax.UserError, match=r"dense.* takes float32 \(2, 2\), got float32 \(3, 2\)"):
        interop.to_keras_model((params[0], {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}), model)
    with pytest.raises(seqjax.UserError, match="must be built as"):
        interop.to_keras_model((params[0]._replace(bias=jnp.ones(6)), jax.tree.map(jnp.ones_like, params[1])), model)
    jax.tree.map(np.testing.assert_array_equal, _weights(model), before)
    tokens = keras.Sequential([keras.Input((T,)), layers.Embedding(V, D), layers.GRU(2)])
    with pytest.raises(seqjax.UserError, match="begins with embedding.*, so inputs must be integers, got float32"):
        interop.from_keras_model(tokens)[0].apply(interop.from_keras_model(tokens)[1], np.ones((B, T), np.float32))
