"""A network up to a layer: the map is that of the whole network, and only the layers it needs have parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import cnn
from seqjax.errors import UserError

CASES = [
    ("resnet18", {"width": 8}, "layer2.1", (40, 40, 3)),
    ("resnet20_cifar", {"width": 4}, "layer1", (16, 16, 3)),
    ("vgg11_bn", {}, "features.4", (32, 32, 3)),
    ("lenet5", {}, "conv2", (28, 28, 1)),
    ("mobilenet_v2", {}, "features.2", (32, 32, 3)),
    ("googlenet", {"aux_logits": False}, "inception3a", (64, 64, 3)),
]


def flat(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


DEEP = ("resnet18", "vgg11_bn", "mobilenet_v2", "googlenet")  # in the slow tests


@pytest.mark.parametrize(
    "name, options, layer, shape", [pytest.param(*case, id=case[0], marks=[pytest.mark.slow] if case[0] in DEEP else []) for case in CASES]
)
def test_the_map_is_that_of_the_whole_network(name, options, layer, shape):
    module = cnn.create(name, in_channels=shape[-1], **options)
    features, images = cnn.Features(module, layer, shape), jax.random.normal(jax.random.key(1), (2, *shape))
    whole = jax.jit(module.init)(jax.random.key(0), images)
    own = features.part(whole)
    expected = jax.jit(lambda variables, x: cnn.feature_maps(module, variables, x, [layer])[layer])(whole, images)
    found, state = jax.jit(features.apply)(own, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape == (2, *features.shape)
    jax.tree.map(np.testing.assert_array_equal, state, {name: values for name, values in own.items() if name != "params"})
    assert set(flat(own)) < set(flat(dict(whole)))
    assert jax.tree.map(jnp.shape, jax.eval_shape(features.init, jax.random.key(3))) == jax.tree.map(jnp.shape, own)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(features.apply({**own, "params": p}, images)[0] ** 2)))(own["params"])
    kernels = [leaf for leaf in jax.tree.leaves(gradient) if leaf.ndim == 4]
    assert all(np.abs(kernel).sum() > 0 for kernel in kernels), "a kernel that the layer does not need is kept"


def test_statistics_in_training_are_those_of_the_whole_network():
    module = cnn.create("resnet18", width=8)
    features, images = cnn.Features(module, "layer1", (40, 40, 3)), jax.random.normal(jax.random.key(1), (4, 40, 40, 3))
    whole = jax.jit(module.init)(jax.random.key(0), images)
    _, updated = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))(whole, images)
    own = features.part(whole)
    found, state = jax.jit(functools.partial(features.apply, train=True))(own, images)
    assert state.keys() == {"batch_stats"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, features.part(updated))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["batch_stats"], own["batch_stats"])
    assert all(jax.tree.leaves(moved))
    assert (found != jax.jit(features.apply)(own, images)[0]).any()


def test_layers_that_are_none():
    module = cnn.create("resnet18", width=8)
    with pytest.raises(UserError, match="no layer 'layer9'.*nearest: layer"):
        cnn.Features(module, "layer9", (40, 40, 3))
    with pytest.raises(UserError, match=r"fc of ResNet gives \(1, 1000\), which is not a feature map"):
        cnn.Features(module, "fc", (40, 40, 3))
