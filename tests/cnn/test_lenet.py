"""LeNet-5 of today against torch; that of 1998 against the paper's numbers and a NumPy network written from the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.cnn.lenet import C3_READS, CODE_LENGTH, LeNet5, LeNet5Of1998, TableConv, class_codes, uniform_fan_in

# The paper's table I as it is printed: rows are maps of S2, columns maps of C3.
TABLE_1 = """
    X . . . X X X . . X X X X . X X
    X X . . . X X X . . X X X X . X
    X X X . . . X X X . . X . X X X
    . X X X . . X X X X . . X . X X
    . . X X X . . X X X X . X X . X
    . . . X X X . . X X X X . X X X
"""


def shapes(model, side=32):
    images = jnp.zeros((1, side, side, model.in_channels))
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "options, twin_options, side",
    [
        ({}, {}, 32),
        ({}, {"padding": 2}, 28),
        ({"num_classes": 4, "in_channels": 3, "padding": 1}, {"num_classes": 4, "in_channels": 3, "padding": 1}, 20),
    ],
)
def test_lenet5_is_torchs(options, twin_options, side):
    pytest.importorskip("torch")
    from benchmarks.torch_cnns.lenet import LeNet5 as Twin
    from tests.cnn.parity import check_parity, check_training, random_images, randomise

    model, twin = LeNet5(**options), randomise(Twin(**twin_options, side=side), seed=side)
    images = random_images((4, side, side, model.in_channels))
    check_parity(model, twin, images)
    check_training(model, twin, images, np.array([0, 1, 2, 3]))


def test_lenet5_has_its_parameters():
    assert count(shapes(LeNet5())) == count(shapes(LeNet5(), 28)) == 61706
    assert shapes(LeNet5(), 16)["fc1"]["kernel"].shape == (16, 120)


@pytest.mark.parametrize("model", [LeNet5(), LeNet5Of1998()])
def test_the_least_size_is_the_least(model):
    assert shapes(model, 16)
    with pytest.raises(ValueError, match="at least 16 x 16"):
        shapes(model, 15)
    with pytest.raises((ValueError, TypeError, ArithmeticError, RuntimeWarning)):
        shapes(type("Unchecked", (type(model),), {"min_size": 1})(), 15)


def test_padding_of_28_is_that_of_32():
    inner = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    framed = jnp.pad(inner, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for model in (LeNet5(), LeNet5Of1998()):
        variables, apply = jax.jit(model.init)(jax.random.key(1), framed), jax.jit(model.apply)
        np.testing.assert_allclose(apply(variables, inner), apply(variables, framed), atol=1e-6)


def test_c3_reads_what_the_paper_prints():
    printed = [line.split() for line in TABLE_1.strip().splitlines()]
    assert [tuple(row for row in range(6) if printed[row][column] == "X") for column in range(16)] == list(C3_READS)


def test_the_layers_of_1998_have_the_papers_counts():
    expected = {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164}
    rbf, dense = shapes(LeNet5Of1998(output="rbf")), shapes(LeNet5Of1998())
    assert {name: count(layer) for name, layer in rbf.items()} == expected and sum(expected.values()) == 60000
    assert {name: count(layer) for name, layer in dense.items()} == expected | {"output": 850}


def convolve(x, kernel, bias):
    """Valid convolution of one image, one window at a time."""
    height, width = kernel.shape[:2]
    rows, columns = x.shape[0] - height + 1, x.shape[1] - width + 1
    y = np.empty((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            y[i, j] = np.tensordot(x[i : i + height, j : j + width], kernel, 3) + bias
    return y


def subsample(x, layer):
    sums = x[0::2, 0::2] + x[0::2, 1::2] + x[1::2, 0::2] + x[1::2, 1::2]
    return sums * layer["coefficient"] + layer["bias"]


def lenet_1998(params, image, codes):
    """The paper's network in float64; C3 map by map."""

    def f(a):
        return 1.7159 * np.tanh(2 / 3 * a)

    x = f(convolve(image, params["c1"]["kernel"], params["c1"]["bias"]))
    x = f(subsample(x, params["s2"]))
    maps, used = [], 0
    for reads, bias in zip(C3_READS, params["c3"]["bias"]):
        kernel = params["c3"]["connections"][:, :, used : used + len(reads), None]
        maps.append(convolve(x[:, :, list(reads)], kernel, bias))
        used += len(reads)
    x = f(subsample(f(np.concatenate(maps, axis=-1)), params["s4"]))
    x = f(convolve(x, params["c5"]["kernel"], params["c5"]["bias"])).ravel()
    x = f(x @ params["f6"]["kernel"] + params["f6"]["bias"])
    if codes is None:
        return x @ params["output"]["kernel"] + params["output"]["bias"]
    return np.array([-((x - code) ** 2).sum() for code in codes])


@pytest.mark.parametrize("output, codes", [("dense", None), ("rbf", class_codes(7))])
def test_the_network_of_1998_is_the_papers(output, codes):
    model = LeNet5Of1998(num_classes=7, in_channels=2, output=output)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 2))
    # Four times the initial values: with those every layer weakens the signal, and an error in the first would not be seen.
    variables = jax.tree.map(lambda x: 4 * x, jax.jit(model.init)(jax.random.key(1), images))
    expected = [lenet_1998(jax.tree.map(np.float64, variables["params"]), image, codes) for image in np.float64(images)]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), expected, rtol=1e-5, atol=1e-4)


def test_the_initial_values_of_1998_fill_their_ranges():
    params = jax.jit(LeNet5Of1998().init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))["params"]
    for layer, name, inputs in [
        ("c1", "kernel", 25),
        ("c5", "kernel", 400),
        ("f6", "kernel", 120),
        ("output", "kernel", 84),
    ]:
        largest = abs(params[layer][name]).max()
        assert 0.8 * 2.4 / inputs < largest <= 2.4 / inputs, layer
    used = 0
    for reads in C3_READS:
        own = params["c3"]["connections"][:, :, used : used + len(reads)]
        used += len(reads)
        assert 0.8 * 2.4 / 25 / len(reads) < abs(own).max() <= 2.4 / 25 / len(reads)


def test_a_table_conv_without_gaps_is_a_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    y, variables = TableConv(((0, 1, 2),) * 4, (3, 2)).init_with_output(jax.random.key(1), x)
    kernel = variables["params"]["connections"].reshape(3, 2, 4, 3).transpose(0, 1, 3, 2)
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(y, expected + variables["params"]["bias"].reshape(1, 1, 1, 4), atol=1e-5)


def test_any_two_codes_differ_in_half_their_places():
    codes = class_codes(CODE_LENGTH)
    assert set(np.unique(codes)) == {-1, 1} and len(codes) == CODE_LENGTH
    np.testing.assert_array_equal(codes @ codes.T, CODE_LENGTH * np.eye(CODE_LENGTH))
    np.testing.assert_array_equal(class_codes(10), codes[:10])
    with pytest.raises(ValueError, match="at most 84 classes, got num_classes=85"):
        class_codes(85)


def test_an_unknown_output_is_refused():
    with pytest.raises(ValueError, match="'softmax'"):
        shapes(LeNet5Of1998(output="softmax"))


def test_ranges_follow_the_last_axis():
    values = uniform_fan_in(np.array([24, 240]))(jax.random.key(0), (500, 2))
    np.testing.assert_allclose(abs(values).max(0), [0.1, 0.01], rtol=0.05)


@pytest.mark.parametrize("model", [LeNet5(dtype=jnp.bfloat16), LeNet5Of1998(dtype=jnp.bfloat16, output="rbf")])
def test_logits_are_of_the_computations_dtype(model):
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert logits.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
