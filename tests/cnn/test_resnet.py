"""Residual networks: counts, torch's outputs and gradients, and what each option promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.cnn import resnet, resnet_cifar
from seqjax.cnn.resnet import BasicBlock, Bottleneck, ResNet, pad_shortcut
from seqjax.cnn.resnet_cifar import CIFARResNet

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20_cifar": 269_722,
    "resnet32_cifar": 464_154,
    "resnet44_cifar": 658_586,
    "resnet56_cifar": 853_018,
    "resnet110_cifar": 1_727_962,
}
MODELS = {**resnet.MODELS, **resnet_cifar.MODELS}


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes_of(model, shape=(1, 32, 32, 3)):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shaken(variables, seed=0):
    """All arrays moved away from their initial values, variances kept positive."""
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    return tree.unflatten([leaf + 0.2 * rng.uniform(size=leaf.shape).astype(np.float32) for leaf in leaves])


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters(name):
    assert count(shapes_of(MODELS[name]())["params"]) == COUNTS[name]


def test_every_model_is_counted():
    assert COUNTS.keys() == MODELS.keys()


def test_number_of_parameters_of_shortcut_b():
    """Two projections, 16 to 32 and 32 to 64, each with a scale and a bias for every channel."""
    more = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert count(shapes_of(CIFARResNet(shortcut="B"))["params"]) == COUNTS["resnet20_cifar"] + more


def test_options_change_what_they_name():
    plain, small = (
        shapes_of(ResNet())["params"],
        shapes_of(ResNet(in_channels=1, stem="small", width=8), (1, 28, 28, 1))["params"],
    )
    assert plain["conv1"]["kernel"].shape == (7, 7, 3, 64)
    assert small["conv1"]["kernel"].shape == (3, 3, 1, 8)
    assert small["layer4"]["1"]["conv2"]["kernel"].shape == (3, 3, 64, 64)
    assert small["fc"]["kernel"].shape == (64, 1000)


@pytest.mark.parametrize("option", [{"stem": "large"}, {"shortcut": "C"}])
def test_an_unknown_choice_is_refused(option):
    [(name, value)] = option.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        shapes_of(ResNet(layers=(1, 1), width=4, **option))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20_cifar"])
@pytest.mark.parametrize("size", [(1, 1), (5, 9)])
def test_no_map_of_the_smallest_images_vanishes(name, size):
    """The mean over an empty one would be nan."""
    model, images = MODELS[name](), jnp.zeros((2, *size, 3))
    shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, capture_intermediates=True))
    assert all(leaf.size for leaf in jax.tree.leaves(shapes))


# Against torch.

SHALLOW = {
    "basic": (dict(layers=(1, 2, 1), width=8), "BasicBlock"),
    "bottleneck": (dict(layers=(1, 2, 1), width=4), "Bottleneck"),
    "preactivation": (dict(layers=(1, 2), width=4, preactivation=True), "Bottleneck"),
    "preactivation, padded": (
        dict(layers=(1, 2), width=8, preactivation=True, stem="small", shortcut="A"),
        "BasicBlock",
    ),
}


def pair(case):
    pytest.importorskip("torch", reason="needs torch")
    from benchmarks.torch_cnns import resnet as twins

    options, block = SHALLOW[case]
    model = ResNet(num_classes=5, block=getattr(resnet, block), **options)
    return model, twins.ResNet(getattr(twins, block), num_classes=5, **options)


@pytest.mark.parametrize("case", SHALLOW)
def test_logits_of_shallow_networks_are_torchs(case):
    model, twin = pair(case)
    from cnn.parity import check_parity, random_images, randomise

    check_parity(model, randomise(twin, 1), random_images((3, 21, 18, 3)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20_cifar"])
def test_logits_are_torchs(name):
    pytest.importorskip("torch", reason="needs torch")
    from cnn.parity import check_parity, random_images, randomise

    from benchmarks.torch_cnns import resnet as twins

    check_parity(MODELS[name](num_classes=10), randomise(twins.MODELS[name](num_classes=10), 2), random_images((2, 32, 32, 3)))


@pytest.mark.parametrize("case", ["basic", "preactivation"])
def test_a_training_step_is_torchs(case):
    model, twin = pair(case)
    from cnn.parity import check_training, random_images, randomise

    check_training(model, randomise(twin, 3), random_images((4, 32, 32, 3)), np.array([0, 4, 2, 2]))


# What the options promise.


@pytest.mark.parametrize("strides", [1, 2, 3])
def test_padded_shortcut_against_a_loop(strides):
    x = random((2, 7, 5, 3))
    expected = np.zeros((2, -(-7 // strides), -(-5 // strides), 8), np.float32)
    for i in range(expected.shape[1]):
        for j in range(expected.shape[2]):
            expected[:, i, j, :3] = x[:, i * strides, j * strides]
    np.testing.assert_array_equal(pad_shortcut(x, 8, strides), expected)


def test_padded_shortcut_cannot_drop_channels():
    with pytest.raises(ValueError, match="x has 3, features is 2"):
        pad_shortcut(jnp.zeros((1, 4, 4, 3)), 2)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("preactivation", [False, True])
def test_zero_init_starts_with_the_shortcut_and_can_leave_it(block, preactivation):
    features = 2
    x = random((2, 6, 6, features * block.expansion))
    made = block(features, preactivation=preactivation, zero_init=True)
    variables = jax.jit(made.init)(jax.random.key(1), x)
    y, _ = jax.jit(functools.partial(made.apply, train=True, mutable=["batch_stats"]))(variables, x)
    np.testing.assert_array_equal(y, x if preactivation else np.maximum(x, 0))

    def loss(params):
        y, _ = made.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y**3)

    grads = jax.jit(jax.grad(loss))(variables["params"])
    depth = len(made.branch())
    last = grads[f"conv{depth}"]["kernel"] if preactivation else grads[f"bn{depth}"]["scale"]
    assert abs(last).min() > 1e-4  # of an exact zero behind relu there would be none


def test_zero_init_residual_reaches_every_block_and_no_other_norm():
    model = ResNet(layers=(2, 1), width=4, zero_init_residual=True, num_classes=2)
    params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 8, 8, 3)))["params"]
    zero = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "scale" in jax.tree_util.keystr(path) and not leaf.any()
    }
    assert zero == {f"['{stage}']['{i}']['bn2']['scale']" for stage, i in [("layer1", 0), ("layer1", 1), ("layer2", 0)]}


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_before_activation_the_identity_passes_everything(block):
    """y - x depends on x only through its normalisation, so a constant added to a channel, which the norm removes again, passes through
    unchanged in value and gradient; after an activation it would be clipped."""
    features = 2
    x = random((4, 6, 6, features * block.expansion))
    shift = np.linspace(-30, 30, x.shape[-1], dtype=np.float32)[None, None, None]
    made = block(features, preactivation=True)
    variables = shaken(jax.jit(made.init)(jax.random.key(0), x))

    @jax.jit
    def run(shift):
        return made.apply(variables, x + shift, train=True, mutable=["batch_stats"])[0]

    np.testing.assert_allclose(run(shift) - run(0 * shift), np.broadcast_to(shift, x.shape), atol=2e-4)
    through = jax.grad(lambda shift: jnp.sum(run(shift)))(shift)
    np.testing.assert_allclose(through, np.full(shift.shape, x[..., 0].size), rtol=1e-4)


def test_a_block_takes_sequences():
    """(B, T, D) gives the same as a map of height 1, where the outer rows of each kernel see only padding."""
    x = random((2, 9, 4))
    block = BasicBlock(6, strides=2)
    flat = jax.jit(block.init)(jax.random.key(0), x)
    deep = jax.tree.map(lambda leaf: leaf[None] if leaf.ndim == 3 else leaf, flat)
    deep = jax.tree.map(lambda leaf: np.pad(leaf, [(1, 1), *[(0, 0)] * 3]) if leaf.shape[:2] == (1, 3) else leaf, deep)
    np.testing.assert_allclose(jax.jit(block.apply)(flat, x), jax.jit(block.apply)(deep, x[:, None])[:, 0], rtol=1e-5, atol=1e-5)


def test_dtype_is_of_the_computation_alone():
    model = ResNet(layers=(1, 1), width=4, num_classes=3, dtype=jnp.bfloat16)
    variables = shapes_of(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jax.eval_shape(model.apply, variables, jnp.zeros((1, 32, 32, 3))).dtype == jnp.bfloat16
