"""The convolutional LSTM from and to Keras, Flax and Haiku in one to three axes, and the sums of Keras's own tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from interop.parity import B, H, T, assert_near, assert_same_cell, described, ours, random_like, random_params

import seqjax
from seqjax import interop
from seqjax.errors import UserError

pytestmark = pytest.mark.one_in(3)

C = 2  # channels of the inputs
RUN = {"return_sequences": True, "return_state": True}
# Options of the input convolution and its sizes, at least one in each number of axes.
PLAIN = {
    "1d": {"kernel_size": (3,), "spatial_shape": (5,)},
    "2d": {"kernel_size": (2, 3), "spatial_shape": (3, 4)},
    "3d": {"kernel_size": (1, 2, 2), "spatial_shape": (2, 3, 2)},
}
OPTIONS = PLAIN | {
    "valid": {"kernel_size": (2,), "spatial_shape": (5,), "padding": "valid"},
    "strided": {"kernel_size": (3, 2), "spatial_shape": (5, 4), "strides": (2, 1)},
    "strided-valid": {"kernel_size": (1, 2, 2), "spatial_shape": (3, 4, 3), "strides": (2, 2, 1), "padding": "valid"},
    "dilated": {"kernel_size": (2, 3), "spatial_shape": (3, 4), "dilation_rate": (1, 2)},
    "dilated-valid": {"kernel_size": (2, 1), "spatial_shape": (4, 2), "dilation_rate": (3, 1), "padding": "valid"},
    "activations": PLAIN["1d"] | {"activation": "relu", "gate_activation": "hard_sigmoid"},
    "no-bias": PLAIN["2d"] | {"use_bias": False},
}
every_option = pytest.mark.parametrize(
    "name, dtype", [*((name, "float64") for name in OPTIONS), ("strided", "float32")], indirect=["dtype"]
)
every_plain = pytest.mark.parametrize("name, dtype", [*((name, "float64") for name in PLAIN), ("2d", "float32")], indirect=["dtype"])


@pytest.fixture(autouse=True)
def own_rank_rules():
    """Keras and Haiku promote ranks inside, which the other tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def keras():
    return pytest.importorskip("keras", reason="needs keras on its JAX backend: pip install keras")


@pytest.fixture
def hk():
    return pytest.importorskip("haiku", reason="needs dm-haiku: pip install dm-haiku")


def _inputs(cell, dtype):
    return np.random.default_rng(1).normal(size=(B, T, *cell.spatial, C)).astype(dtype)


def _params(cell, dtype):
    """Small enough for gates that are not all open or shut."""
    return jax.tree.map(lambda a: 0.5 * a, random_params(cell, dtype, C))


def _small(variables):
    return jax.tree.map(lambda a: jnp.asarray(0.5 * random_like(np.zeros(a.shape, a.dtype), a.size)), variables)


def _assert_runs(cell, params, xs, want, h, c, dtype):
    ys, (carry,) = ours(cell, params, xs)
    for got, other in ((ys, want), (carry.h, h), (carry.c, c)):
        assert_near(got, other, dtype)


# Keras's published numbers.


def _constant(axes, channels, features, bias, spatial, **options):
    """Kernels of 0.01 and 0.02 everywhere, a bias that is the forget gate's 1 and elsewhere one number."""
    cell = seqjax.conv_lstm(features, 3, (spatial,) * axes, **options)
    start = np.repeat([bias, 1, bias, bias], features)
    kernel, recurrent = (np.full((3,) * axes + (n, 4 * features), value) for n, value in ((channels, 0.01), (features, 0.02)))
    return cell, seqjax.ConvLSTMParams(*(jnp.asarray(a, jnp.float32) for a in (kernel, recurrent, start)))


def _counted(*shape, over):
    return (np.arange(np.prod(shape)).reshape(shape) / over).astype(np.float32)


def test_published_sums_of_a_step():
    cell, params = _constant(2, 3, 4, 0.0, 5)
    start = _counted(2, 5, 5, 4, over=10)
    carry, y = seqjax.step(cell, params, seqjax.ConvLSTMCarry(start, start), _counted(2, 5, 5, 3, over=10))
    np.testing.assert_allclose([y.sum(), carry.h.sum(), carry.c.sum()], [188.89505, 188.89505, 2170.4446], rtol=1e-6)


def test_published_sum_of_a_sequence():
    cell, params = _constant(2, 3, 4, 0.0, 5)
    start = _counted(2, 5, 5, 4, over=100)
    _, ys = seqjax.unroll(cell, params, _counted(2, 3, 5, 5, 3, over=100), seqjax.ConvLSTMCarry(start, start))
    np.testing.assert_allclose(ys[:, -1].sum(), 119.81243, rtol=1e-6)


# The last outputs of each sequence, the same in both channels: the first places.
PUBLISHED = {
    1: (10, [[0.40807986, 0.46421072], [0.80933154, 0.8233646]]),
    2: (100, [[0.48694518, 0.50237733, 0.5461202, 0.5598283], [0.8661607, 0.86909103, 0.8774414, 0.8800861]]),
    3: (
        100,
        [
            [0.99149036, 0.99180907, 0.99258363, 0.9927925, 0.99413764, 0.99420583, 0.9943788, 0.9944278],
            [0.9950547] * 8,
        ],
    ),
}


@pytest.mark.parametrize("axes", PUBLISHED)
def test_published_outputs_in_one_two_and_three_axes(axes):
    over, want = PUBLISHED[axes]
    cell, params = _constant(axes, 5, 2, 0.03, 4, padding="valid")
    _, ys = seqjax.unroll(cell, params, _counted(2, 3, *(4,) * axes, 5, over=over))
    for channel in range(2):
        np.testing.assert_allclose(ys[:, -1, ..., channel].reshape(2, -1), want, rtol=0, atol=1e-6)


# Keras.


def _keras_layer(keras, options, dtype):
    """A Keras layer made by Keras's own names, with random weights."""
    options, axes = dict(options), len(options["spatial_shape"])
    if "gate_activation" in options:
        options["recurrent_activation"] = options.pop("gate_activation")
    spatial = options.pop("spatial_shape")
    layer = getattr(keras.layers, f"ConvLSTM{axes}D")(H, **{"padding": "same"} | options, **RUN, dtype=dtype)
    layer.build((None, None, *spatial, C))
    for k, weight in enumerate(layer.weights):
        weight.assign(0.5 * random_like(keras.ops.convert_to_numpy(weight.value), k))
    return layer


def _keras_run(keras, layer, xs):
    """In the layer's dtype: Keras's own tanh on JAX computes float64 in float32."""
    if xs.dtype == np.float64 and layer.cell.activation is keras.activations.tanh:
        layer.cell.activation = jnp.tanh
    return [keras.ops.convert_to_numpy(one) for one in layer(jnp.asarray(xs))]


@every_option
def test_from_a_keras_layer(name, dtype, keras):
    layer = _keras_layer(keras, OPTIONS[name], dtype)
    cell, params = interop.from_keras(layer)
    assert described(cell) == described(seqjax.conv_lstm(H, **OPTIONS[name]))
    xs = _inputs(cell, dtype)
    _assert_runs(cell, params, xs, *_keras_run(keras, layer, xs), dtype)


@every_option
def test_to_keras_and_back(name, dtype, keras):
    cell = seqjax.conv_lstm(H, **OPTIONS[name])
    params, xs = _params(cell, dtype), _inputs(cell, dtype)
    layer = interop.to_keras(cell, params)
    assert_same_cell(interop.from_keras(layer), (cell, params))
    _assert_runs(cell, params, xs, *_keras_run(keras, layer, xs), dtype)


def test_a_stack_and_two_directions_to_keras_and_back(keras):
    first = seqjax.conv_lstm(3, 3, (6, 5), strides=2, padding="valid")
    pair = seqjax.bidirectional(*(seqjax.conv_lstm(2, 2, (2, 2)) for _ in range(2)))
    cell = seqjax.stack(first, seqjax.dropout(pair, 0.1), seqjax.conv_lstm(H, 2, (2, 2), padding="valid"))
    params, xs = _params(cell, "float32"), _inputs(cell, "float32")
    model = interop.to_keras(cell, params)
    assert_same_cell(interop.from_keras(model), (cell, params))
    assert_near(model(xs), ours(cell, params, xs)[0], "float32")


def test_gradients_of_keras_are_equal(keras):
    layer = _keras_layer(keras, OPTIONS["strided-valid"], "float32")
    cell, params = interop.from_keras(layer)
    xs = _inputs(cell, "float32")
    d_ys = np.random.default_rng(3).normal(size=(B, T, *cell.output_spatial, H)).astype(np.float32)
    weights, others = ([one.value for one in of] for of in (layer.trainable_variables, layer.non_trainable_variables))
    theirs = lambda weights, xs: (layer.stateless_call(weights, others, xs)[0][0] * d_ys).sum()  # noqa: E731
    want = jax.jit(jax.grad(theirs, argnums=(0, 1)))(weights, jnp.asarray(xs))
    got = jax.jit(jax.grad(lambda p, x: (seqjax.unroll(cell, p, x)[1] * d_ys).sum(), argnums=(0, 1)))(params, jnp.asarray(xs))
    for value, other in zip((*got[0][:3], got[1]), (*want[0], want[1]), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-5)


# Flax.


@every_plain
def test_from_flax(name, dtype):
    options = PLAIN[name]
    module = nn.RNN(nn.ConvLSTMCell(H, options["kernel_size"], param_dtype=dtype), return_carry=True)
    cell = seqjax.conv_lstm(H, **options)
    xs = _inputs(cell, dtype)
    variables = _small(jax.eval_shape(module.init, jax.random.key(0), xs))
    read, params = interop.from_flax(module, variables, spatial_shape=options["spatial_shape"])
    (c, h), want = module.apply(variables, xs)
    _assert_runs(read, params, xs, want, h, c, dtype)


@every_plain
def test_to_flax_and_back(name, dtype):
    cell = seqjax.conv_lstm(H, **PLAIN[name])
    params, xs = _params(cell, dtype), _inputs(cell, dtype)
    module, variables = interop.to_flax(cell, params)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, jax.eval_shape(module.init, jax.random.key(0), xs))
    (c, h), want = module.apply(variables, xs)
    _assert_runs(cell, params, xs, want, h, c, dtype)
    assert_same_cell(interop.from_flax(module, variables, spatial_shape=cell.spatial), (cell, params))


def test_flax_without_biases_two_directions_and_a_dtype():
    inside = (nn.RNN(nn.ConvLSTMCell(n, (3,), use_bias=False, strides=1)) for n in (2, 3))
    module = nn.Sequential([nn.Bidirectional(*inside), nn.RNN(nn.ConvLSTMCell(H, (2,)))])
    xs = np.random.default_rng(1).normal(size=(B, T, 4, C)).astype(np.float32)
    variables = _small(jax.eval_shape(module.init, jax.random.key(0), xs))
    cell, params = interop.from_flax(module, variables, spatial_shape=4)
    np.testing.assert_array_equal(params[0].forward.bias, np.repeat([0, 1, 0, 0], 2))
    assert_near(ours(cell, params, xs)[0], module.apply(variables, xs), "float32")
    narrow = seqjax.conv_lstm(H, 2, 4, dtype="bfloat16")
    there = interop.to_flax(narrow, _params(narrow, "float32"))
    assert there[0].cell.dtype == "bfloat16"
    assert_same_cell(interop.from_flax(*there, spatial_shape=4), (narrow, _params(narrow, "float32")))


# Haiku.


def _network(hk, make):
    def network(xs):
        core = make()
        start = jax.tree.map(lambda a: a.astype(xs.dtype), core.initial_state(xs.shape[0]))
        return hk.dynamic_unroll(core, xs, start, time_major=False)

    return hk.without_apply_rng(hk.transform(network))


@every_plain
def test_from_haiku(name, dtype, hk):
    options = PLAIN[name]
    build = getattr(hk, f"Conv{len(options['spatial_shape'])}DLSTM")
    network = _network(hk, lambda: build(options["spatial_shape"], H, options["kernel_size"]))
    xs = _inputs(seqjax.conv_lstm(H, **options), dtype)
    variables = _small(jax.eval_shape(network.init, jax.random.key(0), xs))
    cell, params = interop.from_haiku(variables, spatial_shape=options["spatial_shape"])
    want, last = network.apply(variables, xs)
    _assert_runs(cell, params, xs, want, last.hidden, last.cell, dtype)


@every_plain
def test_to_haiku_and_back(name, dtype, hk):
    cell = seqjax.conv_lstm(H, **PLAIN[name])
    params, xs = _params(cell, dtype), _inputs(cell, dtype)
    make, variables = interop.to_haiku(cell, params)
    want, last = _network(hk, make).apply(variables, xs)
    _assert_runs(cell, params, xs, want, last.hidden, last.cell, dtype)
    assert_same_cell(interop.from_haiku(variables, spatial_shape=cell.spatial), (cell, params))


# Refusals.

REFUSED_OF_KERAS = {
    "dropout": ({"dropout": 0.1}, r"dropout=0.1 and recurrent_dropout=0, whose masks differ from gate to gate"),
    "recurrent dropout": ({"recurrent_dropout": 0.1}, "recurrent_dropout"),
    "channels first": (
        {"data_format": "channels_first"},
        "data_format='channels_first', but cells here have the channels last",
    ),
    "gelu": ({"activation": "gelu"}, "has activation='gelu'"),
    "backwards": ({"go_backwards": True}, "unroll with reverse=True"),
}


@pytest.mark.parametrize("name", REFUSED_OF_KERAS)
def test_what_a_cell_has_not_is_refused(name, keras):
    options, message = REFUSED_OF_KERAS[name]
    layer = keras.layers.ConvLSTM1D(H, 2, **options)
    layer.build((None, T, 5, 5))
    with pytest.raises(UserError, match=message):
        interop.from_keras(layer)


def test_a_layer_that_is_not_built_or_computes_otherwise_is_refused(keras):
    with pytest.raises(UserError, match="has no weights yet"):
        interop.from_keras(keras.layers.ConvLSTM2D(H, 2))
    layer = keras.layers.ConvLSTM1D(H, 2)
    layer.build((None, T, 5, C))
    layer.cell.input_conv = lambda *args, **options: 2.0
    with pytest.raises(UserError, match="its own input_conv"):
        interop.from_keras(layer)


REFUSED = {
    "peepholes": (
        "keras flax haiku",
        {"peepholes": True},
        "cannot represent peepholes=True of 'conv_lstm'; none of the libraries here can",
    ),
    "valid": ("flax haiku", {"padding": "valid"}, "cannot represent padding='valid' of 'conv_lstm'; to_keras can"),
    "strides": ("flax haiku", {"strides": 2}, r"cannot represent strides=\(2,\) of 'conv_lstm'; to_keras can"),
    "dilation": ("flax haiku", {"dilation_rate": 2}, r"cannot represent dilation_rate=\(2,\) of 'conv_lstm'; to_keras can"),
    "no bias": ("flax haiku", {"use_bias": False}, "cannot represent use_bias=False of 'conv_lstm'; to_keras can"),
    "relu": ("flax haiku", {"activation": "relu"}, "cannot represent activation='relu' of 'conv_lstm'; to_keras can"),
    "gelu": ("keras flax haiku", {"gate_activation": "gelu"}, "cannot represent gate_activation='gelu' of 'conv_lstm'; none"),
    "nnx": ("nnx", {}, "cannot represent the conv_lstm of 'conv_lstm'; to_keras and to_flax and to_haiku can"),
    "torch": ("torch", {}, "cannot represent the conv_lstm of 'conv_lstm'; to_keras and to_flax and to_haiku can"),
    "equinox": ("equinox", {}, "cannot represent the conv_lstm of 'conv_lstm'; to_keras and to_flax and to_haiku can"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_library_cannot_hold_is_refused_by_name(name):
    libraries, options, message = REFUSED[name]
    cell = seqjax.conv_lstm(H, 2, 4, **options)
    for library in libraries.split():
        pytest.importorskip("flax" if library == "nnx" else library)
        with pytest.raises(UserError, match=f"to_{library} {message}"):
            getattr(interop, f"to_{library}")(cell, random_params(cell, "float32", C))


def test_one_mask_for_all_steps_is_refused(keras):
    cell = seqjax.dropout(seqjax.conv_lstm(H, 2, 4), 0.1, shared_over_time=True)
    with pytest.raises(UserError, match="shared_over_time=True on a conv_lstm: Keras draws a separate mask for every gate"):
        interop.to_keras(cell, random_params(cell, "float32", C))


def test_spatial_shapes_that_do_not_fit_are_refused(hk):
    module, variables = interop.to_flax(cell := seqjax.conv_lstm(H, 2, (4, 3)), random_params(cell, "float32", C))
    of_haiku = interop.to_haiku(cell, random_params(cell, "float32", C))[1]
    for shape in (None, 4, (4, 3, 2)):
        message = r"does not store the spatial axes of its inputs: give spatial_shape, here 2 of the sizes .* got "
        with pytest.raises(UserError, match="ConvLSTMCell " + message):
            interop.from_flax(module, variables, spatial_shape=shape)
        with pytest.raises(UserError, match="Conv2DLSTM " + message):
            interop.from_haiku(of_haiku, spatial_shape=shape)
    plain = seqjax.lstm(H)
    with pytest.raises(UserError, match="spatial_shape is given, but OptimizedLSTMCell is not a convolutional LSTM"):
        interop.from_flax(*interop.to_flax(plain, random_params(plain, "float32")), spatial_shape=4)
    with pytest.raises(UserError, match="spatial_shape is given, but lstm is not a convolutional LSTM"):
        interop.from_haiku(interop.to_haiku(plain, random_params(plain, "float32"))[1], spatial_shape=4)


@pytest.mark.parametrize("options", [{"strides": 2}, {"strides": (1, 2)}, {"padding": "VALID"}, {"padding": ((1, 0), (1, 0))}])
def test_flax_convolutions_that_change_the_shape_are_refused(options):
    with pytest.raises(UserError, match="ConvLSTMCell has strides=.* for its recurrent convolution too"):
        interop.from_flax(nn.ConvLSTMCell(H, (2, 2), **options), {"params": {}}, spatial_shape=(4, 4))
