"""The summary against XLA's own count and published figures; feature maps against what the network computes."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqjax import cnn
from seqjax.cnn.inspection import feature_maps, feature_names, summary


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(6, use_bias=False, name="dense")(x)


class Plain(nn.Module):
    """Convolutions and dense layers alone, one inside another module."""

    padding: str = "VALID"

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        spatial = (3,) * (x.ndim - 2)
        x = nn.Conv(8, spatial, strides=2, padding=self.padding, use_bias=False, name="strided")(x)
        x = nn.Conv(8, spatial, feature_group_count=8, padding=self.padding, use_bias=False, name="depthwise")(x)
        x = nn.Conv(4, spatial, feature_group_count=2, padding=self.padding, use_bias=False, name="grouped")(x)
        x = nn.Conv(4, spatial, kernel_dilation=2, padding=self.padding, use_bias=False, name="dilated")(x)
        x = Inner(name="inner")(x)
        return nn.Dense(5, use_bias=False, name="head")(x.reshape(len(x), -1))


class Training(nn.Module):
    """A layer that runs only in training, a layer that runs twice, and a parameter of the network itself."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        layer = nn.Dense(x.shape[-1], name="shared")
        x = layer(layer(x)) * self.param("gain", nn.initializers.ones, (1, 1))
        if train or self.is_initializing():
            nn.Dense(7, name="aux")(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


def _xla_flops(model, shape):
    """XLA's count for the whole evaluation: 2 per multiply-add, none for weights on padding."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
    return jax.jit(model.apply).lower(variables, x).cost_analysis()["flops"]


@pytest.mark.parametrize("shape", [(2, 29, 24, 3), (1, 32, 3)])
def test_multiply_adds_equal_half_of_what_xla_counts(shape):
    found = summary(Plain(), shape)
    assert 2 * found.multiply_adds == _xla_flops(Plain(), shape)
    assert all(row.multiply_adds > 0 for row in found.rows if row.module in ("Conv", "Dense"))


def test_weights_that_meet_padding_count_and_xla_leaves_them_out():
    """A 3 x 3 convolution over n x n pixels meets padding at n of each of the two outer taps' 2 edges: (3 n - 2)^2 real."""
    model = nn.Conv(5, (3, 3), padding="SAME", use_bias=False)
    n, channels = 7, 5 * 2
    assert summary(model, (1, n, n, 2)).multiply_adds == channels * (3 * n) ** 2
    assert _xla_flops(model, (1, n, n, 2)) == 2 * channels * (3 * n - 2) ** 2


def _convolutions(jaxpr, found):
    """All convolutions and products of matrices in a traced function, inner ones too."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
            found.append(eqn)
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            _convolutions(inner, found)
    return found


def _counted_by_xla(eqn, counts):
    """Half of XLA's flops for one operation, with a convolution's padding made part of its input so that it counts."""
    lhs, rhs = (var.aval for var in eqn.invars)
    params = dict(eqn.params)
    if eqn.primitive.name == "conv_general_dilated":
        pads, spec = params["padding"], params["dimension_numbers"].lhs_spec
        shape = list(lhs.shape)
        for axis, pad in zip(spec[2:], pads):
            shape[axis] += sum(pad)
        lhs, params["padding"] = jax.ShapeDtypeStruct(tuple(shape), lhs.dtype), ((0, 0),) * len(pads)
    key = (lhs.shape, rhs.shape, str(sorted(params.items(), key=str)))
    if key not in counts:
        lowered = jax.jit(lambda a, b: eqn.primitive.bind(a, b, **params)).lower(lhs, rhs)
        counts[key] = lowered.cost_analysis()["flops"] / 2
    return counts[key]


SOME = ("alexnet", "resnet18", "mobilenet_v2")


@pytest.mark.parametrize(
    "name, size",
    [
        (name, 224) if name in SOME else pytest.param(name, 299 if name == "inception_v3" else 224, marks=pytest.mark.slow)
        for name in (
            *SOME,
            "vgg11",
            "vgg16",
            "vgg19",
            "googlenet",
            "inception_v3",
            "resnet34",
            "resnet50",
            "mobilenet_v1",
        )
    ],
)
def test_published_multiply_adds_equal_what_xla_counts_of_every_convolution_and_product(name, size, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # where every convolution is lax's, which XLA counts
    model, x = cnn.create(name), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
    operations = _convolutions(jax.make_jaxpr(model.apply)(variables, x).jaxpr, [])
    counts = {}
    assert sum(_counted_by_xla(eqn, counts) for eqn in operations) == summary(model, x).multiply_adds


def test_rows_by_hand():
    found = summary(Plain("SAME"), (1, 16, 16, 3))
    rows = {row.path: row for row in found.rows}
    assert rows[""] == ("", "Plain", (1, 5), 0, 0)
    assert rows["strided"] == ("strided", "Conv", (1, 8, 8, 8), 9 * 3 * 8, 8 * 8 * 9 * 3 * 8)
    assert rows["depthwise"] == ("depthwise", "Conv", (1, 8, 8, 8), 9 * 8, 8 * 8 * 9 * 8)
    assert rows["grouped"] == ("grouped", "Conv", (1, 8, 8, 4), 9 * 4 * 4, 8 * 8 * 9 * 4 * 4)
    assert rows["inner.dense"] == ("inner.dense", "Dense", (1, 8, 8, 6), 4 * 6, 8 * 8 * 4 * 6)
    assert list(rows)[-3:] == ["inner", "inner.dense", "head"]
    assert found.parameters == sum(row.parameters for row in found.rows) == 216 + 72 + 144 + 144 + 24 + 1920
    folded = found.fold(1)
    assert (folded.parameters, folded.multiply_adds) == (found.parameters, found.multiply_adds)
    assert [row for row in folded.rows if row.path == "inner"] == [("inner", "Inner", (1, 8, 8, 6), 24, 8 * 8 * 24)]


def test_what_runs_in_training_only_what_runs_twice_and_what_no_layer_owns():
    rows = {row.path: row for row in summary(Training(), (1, 3)).rows}
    assert rows[""].parameters == 1
    assert rows["shared"] == ("shared", "Dense", (1, 3), 12, 2 * 9)
    assert rows["aux"] == ("aux", "Dense", None, 28, 0)
    assert "not run" in str(summary(Training(), (1, 3)))
    assert {row.path: row for row in summary(Training(), (1, 3), train=True).rows}["aux"].multiply_adds == 21
    assert "aux" not in feature_names(Training(), (1, 3)) and "aux" in feature_names(Training(), (1, 3), train=True)


def test_a_module_may_count_its_own_multiply_adds_and_an_input_may_be_of_any_type():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return nn.Embed(7, 3)(tokens)

        def multiply_adds(self, out):
            return 10 * out.size

    found = summary(Own(), jax.ShapeDtypeStruct((2, 5), jnp.int32))
    assert (found.multiply_adds, found.parameters) == (300, 21)
    assert summary(Own(), np.zeros((2, 5), int)) == found


def test_the_table_is_aligned():
    lines = str(summary(Plain(), (1, 29, 29, 3))).split("\n")
    assert len({len(line) for line in lines}) == 1 and len(lines) == 12
    assert lines[0].split() == ["path", "module", "output", "parameters", "multiply-adds"]
    assert lines[-1].split()[-1] == f"{summary(Plain(), (1, 29, 29, 3)).multiply_adds:,}"


def test_feature_maps_are_what_the_modules_give():
    x = jax.random.normal(jax.random.key(1), (2, 20, 3))
    model = Plain()
    variables = model.init(jax.random.key(0), x)
    params = variables["params"]
    maps = feature_maps(model, variables, x, ["head", "strided"])
    assert list(maps) == ["head", "strided"]
    want = nn.Conv(8, (3,), strides=2, padding="VALID", use_bias=False).apply({"params": params["strided"]}, x)
    np.testing.assert_allclose(maps["strided"], want, 1e-5, 1e-5)
    np.testing.assert_array_equal(maps["head"], model.apply(variables, x))
    everything = feature_maps(model, variables, x)
    assert sorted(everything) == sorted(feature_names(model, x.shape))
    shapes = {row.path: row.shape for row in summary(model, x).rows}
    assert all(map.shape == shapes[name] for name, map in everything.items())


def test_maps_of_a_layer_that_runs_twice_and_of_training():
    model, x = Training(), jnp.arange(6.0).reshape(2, 3)
    variables = model.init(jax.random.key(0), x)
    layer = nn.Dense(3)
    first, second = feature_maps(model, variables, x, ["shared"])["shared"]
    np.testing.assert_allclose(first, layer.apply({"params": variables["params"]["shared"]}, x), 1e-6)
    np.testing.assert_allclose(second, layer.apply({"params": variables["params"]["shared"]}, first), 1e-5)
    rngs = {"dropout": jax.random.key(2)}
    maps = feature_maps(model, variables, x, ["aux", "Dropout_0"], train=True, rngs=rngs)
    np.testing.assert_array_equal(maps["Dropout_0"], model.apply(variables, x, train=True, rngs=rngs))
    assert maps["aux"].shape == (2, 7)


def test_an_unknown_name_is_refused_with_the_nearest():
    def ask(model, shape, name):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        jax.eval_shape(lambda x: feature_maps(model, model.init(jax.random.key(0), x), x, [name]), x)

    with pytest.raises(ValueError, match=r"Plain has no feature map 'grupped' \(nearest: grouped\); it has 7"):
        ask(Plain(), (1, 32, 3), "grupped")
    with pytest.raises(ValueError, match="'aux' .*; it has 2, see feature_names"):
        ask(Training(), (1, 3), "aux")


def test_only_what_is_asked_for_is_computed_under_jit():
    model, x = Plain(), jax.ShapeDtypeStruct((1, 29, 29, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)

    def flops(*names):
        compiled = jax.jit(lambda v, x: feature_maps(model, v, x, names)).lower(variables, x).compile()
        return compiled.cost_analysis()["flops"]

    rows = {row.path: row for row in summary(model, x).rows}
    assert flops("strided") == 2 * rows["strided"].multiply_adds
    assert flops("head") == 2 * summary(model, x).multiply_adds


def test_nothing_is_computed():
    """A network of far more parameters than there is memory."""
    assert summary(nn.Dense(2**22), (1, 2**22)).parameters == 2**44 + 2**22
    assert math.log2(summary(nn.Dense(2**22), (1, 2**22)).multiply_adds) == 44
