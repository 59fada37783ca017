"""AlexNet and VGG against torch; their counts; local response normalisation against NumPy and torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from seqjax.cnn.alexnet import AlexNet, local_response_norm
from seqjax.cnn.vgg import MODELS, VGG

PARAMETERS = {
    "vgg11": 132863336, "vgg13": 133047848, "vgg16": 138357544, "vgg19": 143667240,
    "vgg11_bn": 132868840, "vgg13_bn": 133053736, "vgg16_bn": 138365992, "vgg19_bn": 143678248,
}  # fmt: skip
SMALL = {"channels": (4, 6, 8, 10, 12), "hidden": 16, "num_classes": 5}


def shapes(model, side):
    images = jnp.zeros((1, side, side, model.in_channels))
    return jax.eval_shape(model.init_with_output, jax.random.key(0), images)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("lrn", [False, True])
def test_alexnet_is_torchs(lrn):
    pytest.importorskip("torch")
    from benchmarks.torch_cnns.alexnet import AlexNet as Twin
    from tests.cnn.parity import check_parity, random_images, randomise

    images = 20 * random_images((2, 70, 95, 3))  # strong enough for the normalisation to matter
    options = {"num_classes": 7, "hidden": 32, "lrn": lrn}
    check_parity(AlexNet(**options), randomise(Twin(**options), seed=1), images)


@pytest.mark.parametrize("depths, norm", [((1, 1, 2, 2, 2), False), ((1, 2, 1, 1, 2), True)])
def test_vgg_is_torchs(depths, norm):
    pytest.importorskip("torch")
    from benchmarks.torch_cnns.vgg import VGG as Twin
    from tests.cnn.parity import check_parity, check_training, random_images, randomise

    model = VGG(depths=depths, norm=norm, dropout=0.0, **SMALL)
    twin = randomise(Twin(depths, norm, dropout=0.0, **SMALL), seed=2)
    images = random_images((3, 32, 70, 3))
    check_parity(model, twin, images)
    check_training(model, twin, images, np.array([0, 4, 2]))


def test_alexnet_has_its_parameters():
    _, variables = shapes(AlexNet(), 224)
    assert count(variables) == 61100840 and variables.keys() == {"params"}


@pytest.mark.parametrize("name", MODELS)
def test_vgg_has_its_parameters(name):
    logits, variables = shapes(MODELS[name](), 224)
    assert logits.shape == (1, 1000) and count(variables["params"]) == PARAMETERS[name]
    convolutions = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(variables["params"]))
    assert convolutions + 3 == int(name[3:5])


@pytest.mark.parametrize("model, least", [(AlexNet(), 63), (VGG(), 32)])
def test_the_least_size_is_the_least(model, least):
    assert model.min_size == least and shapes(model, least)
    with pytest.raises(ValueError, match=f"at least {least} x {least}"):
        shapes(model, least - 1)
    with pytest.raises((ValueError, TypeError, ArithmeticError, RuntimeWarning)):
        shapes(type("Unchecked", (type(model),), {"min_size": 1})(), least - 1)


@pytest.mark.parametrize("model, side", [(AlexNet(hidden=16), 63), (VGG(**SMALL), 32)])
def test_dropout_is_in_training_alone(model, side):
    images = jax.random.normal(jax.random.key(0), (1, side, side, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    drawn = [train(jax.random.key(seed)) for seed in (2, 2, 3)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    everything_kept = model.clone(dropout=0.0)
    kept = jax.jit(functools.partial(everything_kept.apply, train=True))(variables, images)
    np.testing.assert_array_equal(kept, jax.jit(model.apply)(variables, images))


def test_vgg_begins_as_torchvisions():
    model = VGG(norm=True, channels=(64, 32, 32, 32, 32), hidden=64)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    features, classifier = variables["params"]["features"], variables["params"]["classifier"]
    np.testing.assert_allclose(features["0"]["kernel"].std(), (2 / (9 * 64)) ** 0.5, rtol=0.1)
    np.testing.assert_allclose(classifier["0"]["kernel"].std(), 0.01, rtol=0.05)
    assert not features["0"]["bias"].any() and not classifier["6"]["bias"].any()


def test_stages_and_channels_must_match():
    with pytest.raises(ValueError, match=r"\(1, 1\) and \(64, 128"):
        shapes(VGG(depths=(1, 1)), 32)


@pytest.mark.parametrize("size", [1, 4, 5, 9])
def test_local_response_norm_is_the_papers(size):
    x = np.random.default_rng(size).normal(size=(2, 3, 4, 7))
    alpha, beta, k = 0.3, 0.75, 2.0
    expected = np.empty_like(x)
    for i in range(7):
        near = x[..., max(0, i - size // 2) : i + (size - 1) // 2 + 1]
        expected[..., i] = x[..., i] / (k + alpha * (near**2).sum(-1)) ** beta
    given = local_response_norm(jnp.asarray(x, jnp.float32), size, alpha, beta, k)
    np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.mark.parametrize("size", [4, 5])
def test_local_response_norm_is_torchs_with_alpha_divided(size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 7)).astype(np.float32)
    theirs = torch.nn.functional.local_response_norm(torch.from_numpy(x.transpose(0, 3, 1, 2)), size, 0.4, 0.6, 1.5)
    given = local_response_norm(jnp.asarray(x), size, alpha=0.4 / size, beta=0.6, k=1.5)
    np.testing.assert_allclose(given, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_local_response_norm_has_its_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 6))
    check_grads(lambda x: local_response_norm(x, 4, 0.5), (x,), 1, modes=["rev"], rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="size must be at least 1"):
        local_response_norm(x, 0)
