"""ConvNormActivation against convolution by loops and batch normalisation written out, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqjax.cnn.blocks import ConvNormActivation, he_fan_out, torch_bias, torch_kernel

pytestmark = pytest.mark.one_in(3)

CASES = {
    "plain": ((2, 6, 5, 3), {"features": 4, "kernel_size": (3, 3), "padding": 1}),
    "asymmetric": ((2, 6, 5, 2), {"features": 4, "kernel_size": (3, 2), "strides": 2, "padding": ((0, 1), (1, 0))}),
    "grouped": ((2, 5, 5, 4), {"features": 6, "kernel_size": (2, 3), "feature_group_count": 2, "padding": (0, 1)}),
    "depthwise": ((2, 6, 6, 3), {"features": 3, "kernel_size": (3, 3), "feature_group_count": 3, "strides": (2, 1), "padding": 1}),
    "dilated": ((2, 7, 7, 2), {"features": 3, "kernel_size": (2, 2), "kernel_dilation": (2, 3)}),
    "sequence": ((2, 9, 3), {"features": 4, "kernel_size": (3,), "strides": 2, "kernel_dilation": 2, "padding": ((4, 0),)}),
}
cases = pytest.mark.parametrize("shape, options", CASES.values(), ids=CASES)


def _each(value, axes):
    return (value,) * axes if isinstance(value, int) else value


def _convolve(x, kernel, bias, options):
    """A convolution by a loop over output positions and kernel taps."""
    taps, axes = kernel.shape[:-2], kernel.ndim - 2
    strides, dilation = (_each(options.get(name, 1), axes) for name in ("strides", "kernel_dilation"))
    pads = [_each(pad, 2) for pad in _each(options.get("padding", 0), axes)]
    groups = options.get("feature_group_count", 1)
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    sizes = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[1:], taps, dilation, strides)]
    out = np.zeros((len(x), *sizes, kernel.shape[-1]))
    inputs, outputs = kernel.shape[-2], kernel.shape[-1] // groups
    for place, tap in itertools.product(itertools.product(*map(range, sizes)), itertools.product(*map(range, taps))):
        pixel = x[(slice(None), *(p * s + t * d for p, s, t, d in zip(place, strides, tap, dilation)))]
        for g in range(groups):
            ins, outs = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
            out[(slice(None), *place, outs)] += pixel[:, ins] @ kernel[tap][:, outs]
    return out + bias


def _draw(block, shape, seed=0):
    """Random input and variables, none at its initial value."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    variables = jax.eval_shape(block.init, jax.random.key(0), x)
    fill = {"var": (0.5, 1.5), "scale": (0.5, 1.5)}
    return x, jax.tree_util.tree_map_with_path(
        lambda path, a: jnp.asarray(rng.uniform(*fill.get(path[-1].key, (-0.8, 0.8)), a.shape), a.dtype), variables
    )


@cases
def test_evaluation_and_training_with_the_running_statistics(shape, options):
    block = ConvNormActivation(**options, momentum=0.7, epsilon=0.1)
    x, variables = _draw(block, shape)
    numbers = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
    norm, old = numbers["params"]["bn"], numbers["batch_stats"]["bn"]
    assert "bias" not in numbers["params"]["conv"]
    h = _convolve(np.asarray(x, np.float64), numbers["params"]["conv"]["kernel"], 0, options)

    def normalise(mean, var):
        return np.maximum((h - mean) / np.sqrt(var + 0.1) * norm["scale"] + norm["bias"], 0)

    np.testing.assert_allclose(block.apply(variables, x), normalise(old["mean"], old["var"]), 1e-3, 1e-4)
    ys, state = block.apply(variables, x, train=True, mutable=["batch_stats"])
    over = tuple(range(h.ndim - 1))
    mean, var = h.mean(axis=over), h.var(axis=over)
    np.testing.assert_allclose(ys, normalise(mean, var), 1e-3, 1e-4)
    new = state["batch_stats"]["bn"]
    np.testing.assert_allclose(new["mean"], 0.7 * old["mean"] + 0.3 * mean, 1e-4, 1e-5)
    np.testing.assert_allclose(new["var"], 0.7 * old["var"] + 0.3 * var, 1e-4, 1e-5)  # the biased one, unlike torch's


@cases
def test_without_norm_there_is_a_bias_and_nothing_to_train_apart(shape, options):
    block = ConvNormActivation(**options, norm=False, activation=jnp.tanh)
    x, variables = _draw(block, shape)
    assert variables.keys() == {"params"} and variables["params"].keys() == {"conv"}
    conv = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"]["conv"])
    want = np.tanh(_convolve(np.asarray(x, np.float64), conv["kernel"], conv["bias"], options))
    for train in False, True:
        np.testing.assert_allclose(block.apply(variables, x, train=train), want, 1e-3, 1e-4)


def test_without_activation_and_with_names_of_ones_own():
    block = ConvNormActivation(4, (1, 1), activation=None, conv_name="0", norm_name="1", kernel_init=nn.initializers.ones)
    x, variables = _draw(block, (2, 3, 3, 2))
    assert variables["params"].keys() == {"0", "1"} and variables["batch_stats"].keys() == {"1"}
    assert np.any(np.asarray(block.apply(variables, x)) < 0)
    np.testing.assert_array_equal(block.init(jax.random.key(0), x)["params"]["0"]["kernel"], np.ones((1, 1, 2, 4)))


def test_gradients_by_finite_differences(x64):
    block = ConvNormActivation(3, (2, 2), padding=1, kernel_dilation=2, activation=jnp.tanh)
    x, variables = _draw(block, (3, 4, 4, 2))
    params, x = jax.tree.map(lambda a: a.astype(jnp.float64), (variables["params"], x))
    statistics = variables["batch_stats"]

    def f(params, x):
        own = {"params": params, "batch_stats": statistics}
        return block.apply(own, x, train=True, mutable=["batch_stats"])[0]

    rng = np.random.default_rng(1)
    weight = jnp.asarray(rng.normal(size=f(params, x).shape))
    move = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), (params, x))
    loss = jax.jit(lambda at: (f(*at) * weight).sum())
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, m: (g * m).sum(), jax.jit(jax.grad(loss))((params, x)), move)))
    ends = [loss(jax.tree.map(lambda a, m, h=h: a + h * m, (params, x), move)) for h in (-1e-4, 1e-4)]
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 2e-4, 1e-3)


def test_the_initial_values_are_those_named():
    key, shape = jax.random.key(0), (3, 3, 40, 50)
    kernel = torch_kernel(key, shape)
    bound = 1 / np.sqrt(3 * 3 * 40)
    assert 0.98 * bound < np.abs(kernel).max() <= bound and np.isclose(kernel.std(), bound / np.sqrt(3), 0.02)
    assert np.isclose(he_fan_out(key, shape).std(), np.sqrt(2 / (3 * 3 * 50)), 0.02)
    bias = torch_bias(360)(key, (5000,))
    assert 0.98 * bound < np.abs(bias).max() <= bound and np.isclose(bias.std(), bound / np.sqrt(3), 0.05)


def test_bfloat16_computation_keeps_parameters_and_statistics():
    block = ConvNormActivation(4, (3, 3), dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 5, 5, 3), jnp.float32)
    variables = jax.eval_shape(block.init, jax.random.key(0), x)
    ys, state = jax.eval_shape(lambda v, x: block.apply(v, x, train=True, mutable=["batch_stats"]), variables, x)
    assert ys.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((variables, state))} == {jnp.dtype(jnp.float32)}
