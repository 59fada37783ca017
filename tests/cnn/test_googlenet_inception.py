"""GoogLeNet and Inception v3: counts, parity with torch, the auxiliary heads, the limits of image size."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqjax.cnn import googlenet
from seqjax.cnn.base import Outputs
from seqjax.cnn.blocks import ConvNormActivation
from seqjax.cnn.googlenet import GoogLeNet
from seqjax.cnn.inception import InceptionV3, InceptionV3Aux
from seqjax.cnn.inception_blocks import InceptionBranches, Unit, to_plus_minus_one
from seqjax.cnn.inspection import summary
from seqjax.cnn.normalization import BatchNorm

pytestmark = pytest.mark.one_in(3)

KEY = jax.random.key(0)
NETWORKS = {"googlenet": (GoogLeNet, 33, 2), "inception_v3": (InceptionV3, 299, 1)}  # a size that trains, and the heads
# GoogLeNet by default; the deeper one in the slow tests.
each_network = pytest.mark.parametrize(
    "network, size, heads",
    [pytest.param(*values, id=name, marks=[pytest.mark.slow] if "inception" in name.lower() else []) for name, values in NETWORKS.items()],
)


def images_of(model, size):
    return jax.ShapeDtypeStruct((2, size, size, model.in_channels), jnp.float32)


@functools.cache
def variables_of(model, size, train=False):
    """The variables, as shapes."""
    return jax.eval_shape(functools.partial(model.init, train=train), {"params": KEY, "dropout": KEY}, images_of(model, size))


def output_of(model, size, train=False):
    """The output for two images, as shapes."""
    apply = functools.partial(model.apply, train=train, rngs={"dropout": KEY}, mutable=["batch_stats"])
    return jax.eval_shape(apply, variables_of(model, size, train), images_of(model, size))[0]


def count(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


# Counts


@pytest.mark.parametrize(
    "model, expected",
    [
        (GoogLeNet(), 13_004_888),
        (GoogLeNet(aux_logits=False), 6_624_904),
        (InceptionV3(), 27_161_264),
        (InceptionV3(aux_logits=False), 23_834_568),
    ],
)
def test_parameters(model, expected):
    assert count(variables_of(model, model.min_size)) == expected


@each_network
def test_init_makes_the_same_in_training_and_evaluation(network, size, heads):
    small, large = variables_of(network(), network.min_size), variables_of(network(), size, train=True)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, large)


@pytest.mark.parametrize("model, size, expected", [(GoogLeNet(), 224, 1.498), (InceptionV3(), 299, 5.713)])
def test_multiply_adds(model, size, expected):
    """In evaluation, where no head runs."""
    table = summary(model, (1, size, size, 3))
    assert round(table.multiply_adds / 1e9, 3) == expected
    heads = [row for row in table.rows if row.path.lower().startswith("aux")]
    assert heads and all(row.shape is None for row in heads)


def test_the_paper_s_5x5():
    """The third branches grow by 25 - 9 weights for each pair of channels, and nothing else does."""
    ours, paper = (variables_of(GoogLeNet(aux_logits=False, kernel_5x5=wide), 32) for wide in (False, True))
    pairs = sum(reduce5 * five for _, _, _, reduce5, five, _ in googlenet.CHANNELS.values())
    assert count(paper) - count(ours) == (25 - 9) * pairs
    assert paper["params"]["inception4c"]["branch3"]["1"]["conv"]["kernel"].shape == (5, 5, 24, 64)


# Initial values and statistics


STDDEVS = {
    GoogLeNet: {"conv3/conv": 0.01, "inception4a/branch2/0/conv": 0.01, "aux1/fc1": 0.01, "fc": 0.01},
    InceptionV3: {"Mixed_6c/branch7x7_3/conv": 0.1, "AuxLogits/conv1/conv": 0.01, "AuxLogits/fc": 0.001, "fc": 0.1},
}


@functools.cache
def initial_kernels(network):
    """The kernels in STDDEVS, by path."""

    @jax.jit  # so that the other parameters are not computed
    def kernels(key):
        params = network(num_classes=500).init(key, jnp.zeros((1, 75, 75, 3)))["params"]
        return {path: functools.reduce(dict.__getitem__, path.split("/"), params)["kernel"] for path in STDDEVS[network]}

    return kernels(KEY)


@pytest.mark.one_in(1)
@pytest.mark.parametrize("network, path", [(network, path) for network, paths in STDDEVS.items() for path in paths])
def test_initial_kernels_are_normal_and_cut_at_two_deviations(network, path):
    """A standard normal truncated at -2 and 2 has standard deviation 0.8796."""
    values = initial_kernels(network)[path] / STDDEVS[network][path]
    assert 1.9 < abs(values).max() <= 2
    np.testing.assert_allclose([values.mean(), values.std()], [0, 0.8796], atol=0.02)


@pytest.mark.parametrize(
    "model, size, rates",
    [(GoogLeNet(dropout=0.1, aux_dropout=0.4), 33, [0.4, 0.4, 0.1]), (InceptionV3(dropout=0.1), 299, [0.1])],
)
def test_norms_and_dropout(model, size, rates):
    """Every norm has torchvision's epsilon and momentum, every dropout its option, and all are in training mode."""
    norms, dropouts = set(), []

    def record(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm):
            norms.add((context.module.epsilon, context.module.momentum, kwargs["use_running_average"]))
        if isinstance(context.module, nn.Dropout):
            dropouts.append((context.module.rate, context.module.deterministic))
        return call(*args, **kwargs)

    keys, images = {"params": KEY, "dropout": KEY}, jnp.zeros((2, size, size, 3))
    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(model.init, train=True), keys, images)
    assert norms == {(1e-3, 0.9, False)}
    assert dropouts == [(rate, False) for rate in rates]
    assert (GoogLeNet.dropout, GoogLeNet.aux_dropout, InceptionV3.dropout) == (0.2, 0.7, 0.5)


# Parity with torch


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("options", [{}, {"kernel_5x5": True, "aux_logits": False, "in_channels": 1}])
def test_googlenet_gives_torch_s_logits(torch, options):
    from benchmarks.torch_cnns.googlenet import GoogLeNet as Twin
    from tests.cnn.parity import check_parity, random_images, randomise

    options = {"num_classes": 7, **options}
    images = random_images((2, 37, 50, options.get("in_channels", 3)))
    check_parity(GoogLeNet(**options), randomise(Twin(**options), 1), images)


@pytest.mark.slow  # by default a step of ResNet is compared with torch's
def test_googlenet_trains_as_torch_s(torch, x64):
    """Loss with both heads and all gradients, with the statistics of the batch.

    In float64: in float32 each library crosses relu's kink at different values, and torch's own gradients are off by up to 15 %.
    """
    from benchmarks.torch_cnns.googlenet import GoogLeNet as Twin
    from seqjax.interop.torchvision import from_torch_cnn, to_torch_cnn
    from tests.cnn.parity import random_images, randomise

    options = {"num_classes": 5, "dropout": 0.0, "aux_dropout": 0.0}
    model, twin = GoogLeNet(**options), randomise(Twin(**options), 2).double().train()
    images, labels = random_images((4, 64, 64, 3)).astype(np.float64), [0, 3, 1, 4]
    variables = from_torch_cnn(model, twin.state_dict())
    variables = jax.tree.map(lambda value: jnp.asarray(value, jnp.float64), variables)

    logits, aux = twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    entropy = functools.partial(torch.nn.functional.cross_entropy, target=torch.tensor(labels))
    expected = entropy(logits) + googlenet.AUX_WEIGHT * sum(map(entropy, aux))
    expected.backward()

    @jax.jit
    @jax.value_and_grad
    def step(params):
        outputs, _ = model.apply(variables | {"params": params}, jnp.asarray(images), train=True, mutable=["batch_stats"])
        each = [-jnp.mean(jax.nn.log_softmax(x)[jnp.arange(4), jnp.array(labels)]) for x in (outputs.logits, *outputs.aux)]
        return each[0] + googlenet.AUX_WEIGHT * sum(each[1:])

    loss, grads = step(variables["params"])
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-9)
    ours = to_torch_cnn(model, variables | {"params": grads}, tensors=False)
    for name, value in twin.named_parameters():
        assert abs(value.grad).max() > 1e-6, name
        np.testing.assert_allclose(ours[name], value.grad, rtol=0, atol=1e-9 * abs(value.grad).max(), err_msg=name)


def test_inception_v3_gives_torch_s_logits(torch):
    from benchmarks.torch_cnns.inception import InceptionV3 as Twin
    from tests.cnn.parity import check_parity, random_images, randomise

    check_parity(InceptionV3(num_classes=7), randomise(Twin(num_classes=7), 3), random_images((2, 75, 107, 3)))


def test_inception_v3_s_head_trains_as_torch_s(torch):
    """The head alone, on a map whose sides the pool does not divide: logits and gradients, with batch statistics."""
    from benchmarks.torch_cnns.inception import Aux as Twin
    from tests.cnn.parity import random_images, randomise

    twin, x = randomise(Twin(16, 5), 4).train(), random_images((3, 18, 22, 16))
    given = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = twin(given)
    expected.square().sum().backward()
    weights = {name: jnp.asarray(value.detach().numpy()) for name, value in twin.named_parameters()}

    def block(name):
        kernel = weights[f"{name}.conv.weight"].transpose(2, 3, 1, 0)
        return {
            "conv": {"kernel": kernel},
            "bn": {"scale": weights[f"{name}.bn.weight"], "bias": weights[f"{name}.bn.bias"]},
        }

    params = {name: block(name) for name in ("conv0", "conv1")}
    params["fc"] = {"kernel": weights["fc.weight"].T, "bias": weights["fc.bias"]}
    head = InceptionV3Aux(num_classes=5)
    stats = jax.jit(head.init)(KEY, jnp.asarray(x))["batch_stats"]

    def loss(params, x):
        logits, _ = head.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(logits**2), logits

    (_, logits), (grads, grad_x) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, jnp.asarray(x))
    np.testing.assert_allclose(logits, expected.detach(), atol=1e-4)
    np.testing.assert_allclose(grad_x.transpose(0, 3, 1, 2), given.grad, atol=1e-4 * abs(given.grad).max())
    kernel = twin.conv1.conv.weight.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(grads["conv1"]["conv"]["kernel"], kernel, atol=1e-3 * abs(kernel).max())


@pytest.mark.parametrize("name", ["googlenet", "inception"])
def test_min_size_is_the_least_that_torch_takes_too(torch, name):
    from benchmarks.torch_cnns.googlenet import GoogLeNet as TwinGoogLeNet
    from benchmarks.torch_cnns.inception import InceptionV3 as TwinInceptionV3

    model, twin = {"googlenet": (GoogLeNet(), TwinGoogLeNet()), "inception": (InceptionV3(), TwinInceptionV3())}[name]
    least = model.min_size
    with torch.no_grad():
        assert twin.eval()(torch.zeros(1, 3, least, least)).shape == (1, 1000)
        with pytest.raises(RuntimeError):
            twin(torch.zeros(1, 3, least - 1, least - 1))
    assert output_of(model, least).shape == (2, 1000)
    with pytest.raises(ValueError, match=f"at least {least} x {least}.*{least - 1}"):
        variables_of(model, least - 1)


# Auxiliary heads


@each_network
def test_heads_run_in_training_alone(network, size, heads):
    model = network(num_classes=9, dtype=jnp.bfloat16)
    variables, logits = variables_of(model, size), output_of(model, size)
    outputs = output_of(model, size, train=True)
    assert logits.shape == (2, 9) and isinstance(outputs, Outputs)
    assert [(each.shape, each.dtype) for each in (outputs.logits, *outputs.aux)] == [((2, 9), jnp.bfloat16)] * (1 + heads)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@each_network
def test_heads_stand_behind_the_blocks_that_they_read(network, size, heads):
    order = [row.path for row in summary(network(), (1, size, size, 3), train=True).rows if "." not in row.path]
    behind = {"aux1": "inception4a", "aux2": "inception4d", "AuxLogits": "Mixed_6e"}
    found = {head: order[order.index(head) - 1] for head in behind if head in order}
    assert len(found) == heads and found.items() <= behind.items()


@each_network
def test_without_heads_training_gives_logits_and_there_are_no_parameters(network, size, heads):
    model = network(aux_logits=False)
    assert output_of(model, size, train=True).shape == (2, 1000)
    assert not [name for name in variables_of(model, size, train=True)["params"] if name.lower().startswith("aux")]


def test_inception_v3_s_head_says_what_it_needs():
    variables_of(InceptionV3(), 299, train=True)
    variables_of(InceptionV3(aux_logits=False), 96, train=True)
    with pytest.raises(ValueError, match=r"299 x 299.*\(2, 16, 16, 768\).*aux_logits=False"):
        variables_of(InceptionV3(), 298, train=True)


# Parts


class Times(nn.Module):
    """Replaces a convolution: multiplies by `features`, and keeps every other value if it has a stride."""

    features: float
    kernel_size: tuple[int, int]
    strides: int
    padding: object

    def __call__(self, x, *, train):
        keeps_size = tuple((k // 2, k // 2) for k in self.kernel_size)
        assert self.padding == (keeps_size if self.strides == 1 else 0)
        return x[:, :: self.strides, :: self.strides] * self.features


def test_branches_run_in_turn_fork_and_join():
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    branches = (
        (Unit("a", 2), Unit("b", 5, (1, 7))),
        (Unit("c", 3, 3), ((Unit("d", 7),), (lambda x: -x, Unit("e", 11)))),
        (),
    )
    expected = np.concatenate([x * 10, x * 21, x * -33, x], axis=-1)
    np.testing.assert_allclose(InceptionBranches(branches, Times).apply({}, x), expected, rtol=1e-6)
    halving = ((Unit("f", 2, 3, strides=2),), (lambda x: x[:, ::2, ::2],))
    expected = np.concatenate([x * 2, x], axis=-1)[:, ::2, ::2]
    np.testing.assert_allclose(InceptionBranches(halving, Times).apply({}, x), expected, rtol=1e-6)


def test_transform_input():
    """Undoes ImageNet's normalisation and scales to [-1, 1]."""
    raw = np.random.default_rng(1).uniform(size=(2, 15, 15, 3))
    normalised = jnp.asarray((raw - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], jnp.float32)
    np.testing.assert_allclose(to_plus_minus_one(normalised), 2 * raw - 1, atol=1e-6)


@each_network
def test_transform_input_is_done_first(network, size, heads):
    class Reached(Exception):
        """Ends the call at the first convolution."""

    def stop(call, args, kwargs, context):
        if isinstance(context.module, ConvNormActivation):
            raise Reached(args[0])
        return call(*args, **kwargs)

    images = jax.random.normal(KEY, (1, 75, 75, 3))
    for transform, expected in [(True, to_plus_minus_one(images)), (False, images)]:
        with nn.intercept_methods(stop), pytest.raises(Reached) as reached:
            network(transform_input=transform).init(KEY, images)
        np.testing.assert_array_equal(reached.value.args[0], expected)
    with pytest.raises(ValueError, match=r"3 channels.*\(2, 300, 300, 1\)"):
        variables_of(network(transform_input=True, in_channels=1), 300)
