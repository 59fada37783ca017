"""MobileNets: counts, torch's and Keras's outputs, padding, widths; their blocks alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.cnn.depthwise import DepthwiseSeparable, InvertedResidual
from seqjax.cnn.mobilenet import MobileNetV1, MobileNetV2, make_divisible

COUNTS = {MobileNetV1: 4_231_976, MobileNetV2: 3_504_872}
every_net = pytest.mark.parametrize("net", COUNTS)
SLIM = {MobileNetV1: {"width": 0.25}, MobileNetV2: {"width_mult": 0.25}}


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes_of(model, shape=(1, 32, 32, 3)):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@every_net
def test_number_of_parameters(net):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(net())["params"])) == COUNTS[net]


@pytest.mark.parametrize("width, parameters", [(0.25, 470_072), (0.5, 1_331_592), (0.75, 2_585_560)])
def test_number_of_parameters_of_keras_at_each_width(width, parameters):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(MobileNetV1(width=width))["params"])) == parameters


def test_channels_of_v2_at_other_widths():
    def channels(width_mult):
        features = shapes_of(MobileNetV2(width_mult=width_mult))["params"]["features"]
        first, last = features["0"]["0"], features["18"]["0"]
        linear = [features["1"]["conv"]["1"], *(features[i]["conv"]["2"] for i in ("2", "4", "7", "11", "14", "17"))]
        return [layer["kernel"].shape[-1] for layer in (first, *linear, last)]

    assert channels(1.0) == [32, 16, 24, 32, 64, 96, 160, 320, 1280]
    assert channels(0.35) == [16, 8, 8, 16, 24, 32, 56, 112, 1280]
    assert channels(1.4) == [48, 24, 32, 48, 88, 136, 224, 448, 1792]


@pytest.mark.parametrize("divisor", [4, 8])
def test_make_divisible_is_the_nearest_that_keeps_nine_tenths(divisor):
    for channels in np.random.default_rng(0).uniform(0.5, 200, size=300):
        multiples = divisor * np.arange(1, 60)
        kept = multiples[multiples >= 0.9 * channels]
        assert make_divisible(channels, divisor) == kept[np.argmin(abs(kept - channels))]


def test_a_width_without_channels_is_refused():
    with pytest.raises(ValueError, match="width=0.03"):
        shapes_of(MobileNetV1(width=0.03))
    with pytest.raises(ValueError, match="width_mult must be more than 0, got 0"):
        shapes_of(MobileNetV2(width_mult=0))


@every_net
@pytest.mark.parametrize("size", [(1, 1), (7, 33)])
def test_no_map_of_the_smallest_images_vanishes(net, size):
    """The mean over an empty one would be nan."""
    model, images = net(), jnp.zeros((2, *size, 3))
    shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, capture_intermediates=True))
    assert all(leaf.size for leaf in jax.tree.leaves(shapes))


# Against torch and Keras.


def pair(net):
    pytest.importorskip("torch", reason="needs torch")
    from benchmarks.torch_cnns import mobilenet as twins

    options = {"num_classes": 5, "dropout": 0.0, **SLIM[net]}
    return net(**options), getattr(twins, net.__name__)(**options)


@every_net
def test_logits_are_torchs(net):
    model, twin = pair(net)
    from cnn.parity import check_parity, random_images, randomise

    check_parity(model, randomise(twin, 1), random_images((2, 45, 38, 3)))


@pytest.mark.slow  # by default a step of ResNet is compared with torch's
@every_net
def test_a_training_step_is_torchs(net):
    model, twin = pair(net)
    from cnn.parity import check_training, random_images, randomise

    check_training(model, randomise(twin, 2), random_images((4, 64, 64, 3)), np.array([0, 4, 2, 2]))


def test_v1_is_keras():
    """Keras's own network: padding, epsilon, relu6 and the order of layers."""
    keras = pytest.importorskip("keras", reason="needs keras")
    reference = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None, classes=4, classifier_activation=None)
    rng = np.random.default_rng(0)
    for variable in reference.variables:
        if "seed" not in variable.path:
            positive = variable.path.endswith(("gamma", "variance"))
            noise = rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(0, 0.3, variable.shape)
            variable.assign(noise)

    def convolution(name):
        kernel = np.asarray(reference.get_layer(name).kernel)
        return np.swapaxes(kernel, 2, 3) if "_dw_" in name else kernel

    def block(name):
        norm = reference.get_layer(f"{name}_bn")
        params = {"conv": {"kernel": convolution(name)}, "bn": {"scale": norm.gamma.value, "bias": norm.beta.value}}
        return params, {"bn": {"mean": norm.moving_mean.value, "var": norm.moving_variance.value}}

    params, stats = {}, {}
    params["0"], stats["0"] = block("conv1")
    for i in range(1, 14):
        depthwise, pointwise = block(f"conv_dw_{i}"), block(f"conv_pw_{i}")
        params[str(i)] = {"depthwise": depthwise[0], "pointwise": pointwise[0]}
        stats[str(i)] = {"depthwise": depthwise[1], "pointwise": pointwise[1]}
    last = reference.get_layer("conv_preds")
    head = {"1": {"kernel": last.kernel.value[0, 0], "bias": last.bias.value}}
    variables = {"params": {"features": params, "classifier": head}, "batch_stats": {"features": stats}}

    images = random((3, 32, 32, 3))
    expected = np.asarray(reference(images, training=False))
    logits = jax.jit(MobileNetV1(num_classes=4, width=0.25).apply)(variables, images)
    assert expected.std(axis=0).min() > 1e-3 * expected.std()  # it does look at the images
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * expected.std())


# The blocks alone.


def separable_reference(x, depthwise, pointwise, stride):
    """Loops over positions, in float64, with what SAME says about padding."""
    kernel = depthwise.shape[0]
    sizes = [-(-n // stride) for n in x.shape[1:3]]
    before = [max((m - 1) * stride + kernel - n, 0) // 2 for m, n in zip(sizes, x.shape[1:3])]
    y = np.zeros((x.shape[0], *sizes, x.shape[-1]))
    for i, j, a, b in itertools.product(*map(range, sizes), range(kernel), range(kernel)):
        row, column = i * stride + a - before[0], j * stride + b - before[1]
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
            y[:, i, j] += x[:, row, column] * depthwise[a, b, 0]
    return y @ pointwise[0, 0]


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (6, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_separable_convolution_pads_as_tensorflow_does(size, stride):
    x = random((2, *size, 3))
    block = DepthwiseSeparable(4, strides=stride, norm=False, activation=None)
    variables = jax.jit(block.init)(jax.random.key(0), x)
    kernels = [np.asarray(variables["params"][name]["conv"]["kernel"], np.float64) for name in ("depthwise", "pointwise")]
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), separable_reference(x, *kernels, stride), rtol=1e-4, atol=1e-5)


def test_separable_convolution_of_sequences_can_be_causal():
    block = DepthwiseSeparable(5, (3,), padding="CAUSAL", kernel_dilation=2)
    x = random((1, 12, 4))
    variables = jax.jit(block.init)(jax.random.key(0), x)
    at = 7
    reach = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(block.apply(variables, x)[:, at]))))(x)
    touched = abs(reach[0]).sum(axis=-1) > 0
    assert np.flatnonzero(touched).tolist() == [at - 4, at - 2, at]


def test_a_kernel_for_images_does_not_take_sequences():
    with pytest.raises(ValueError, match=r"kernel_size=\(3, 3\) is for x of 4 axes .* got x of shape \(2, 9, 4\)"):
        DepthwiseSeparable(5).init(jax.random.key(0), jnp.zeros((2, 9, 4)))


@pytest.mark.parametrize("features, strides, adds", [(4, 1, True), (5, 1, False), (4, 2, False)], ids=["same", "channels", "stride"])
def test_an_inverted_residual_adds_its_input_where_shapes_allow(features, strides, adds):
    """With the last norm at zero the branch gives nothing."""
    x = random((2, 6, 4))
    block = InvertedResidual(features, expansion=2, strides=strides, kernel_size=(5,))
    variables = jax.jit(block.init)(jax.random.key(0), x)
    variables["params"]["conv"]["3"]["scale"] *= 0
    y = jax.jit(block.apply)(variables, x)
    np.testing.assert_array_equal(y, x if adds else np.zeros((2, 6 // strides, features)))


def test_dropout_is_on_the_last_features():
    model = MobileNetV1(num_classes=3, width=0.25, dropout=1.0)
    images = random((2, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    variables["params"]["classifier"]["1"]["bias"] += np.arange(3.0)
    train = functools.partial(model.apply, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])
    logits, _ = jax.jit(train)(variables, images)
    np.testing.assert_array_equal(logits, np.tile(np.arange(3.0), (2, 1)))
