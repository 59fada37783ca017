"""The networks for sequences: causality by gradient, no influence of padding, parity with torch's weight normalisation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.cnn.inspection import summary
from seqjax.cnn.sequence import real_steps
from seqjax.cnn.tcn import MODELS, TCN, TemporalBlock, TemporalConvNet, WeightNormConv, pool_steps
from seqjax.cnn.text_cnn import TextCNN

RNG = np.random.default_rng(0)


def _normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def _moved(params):
    """Every parameter moved from its initial value, so that a forgotten one shows."""
    return jax.tree.map(lambda a: a + 0.3 * _normal(*a.shape), params)


def _network(**options):
    settings = {"num_classes": 3, "in_channels": 2, "channels": (4, 4), "kernel_size": 3, "dropout": 0.0}
    model = TCN(**(settings | options))
    return model, {"params": _moved(jax.jit(model.init)(jax.random.key(1), _normal(2, 9, 2))["params"])}


def _block(params, x, dilation):
    """A temporal block by loops over time and taps, in float64."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def convolve(x, p):
        v = p["kernel"]
        w = p["scale"] * v / np.sqrt(np.sum(v**2, axis=(0, 1), keepdims=True))
        y = np.zeros((*x.shape[:2], w.shape[-1]))
        for t, k in itertools.product(range(x.shape[1]), range(len(w))):
            past = t - (len(w) - 1 - k) * dilation
            if past >= 0:
                y[:, t] += x[:, past] @ w[k]
        return np.maximum(y + p["bias"], 0)

    y = convolve(convolve(x, params["conv1"]), params["conv2"])
    if "downsample" in params:
        x = x @ params["downsample"]["kernel"][0] + params["downsample"]["bias"]
    return np.maximum(y + x, 0)


@pytest.mark.parametrize("widths, dilation", [((2, 4), 2), ((3, 3), 1)])
def test_a_block_is_what_its_equation_says(widths, dilation):
    x = _normal(2, 9, widths[0])
    block = TemporalBlock(widths[1], kernel_size=3, dilation=dilation)
    params = _moved(jax.jit(block.init)(jax.random.key(0), x)["params"])
    assert ("downsample" in params) == (widths[0] != widths[1])
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x), _block(params, np.float64(x), dilation), 1e-4, 1e-5)


def test_weight_normalisation_starts_as_a_plain_convolution_and_forgets_the_length_of_v():
    x, layer = _normal(2, 7, 3), WeightNormConv(4, (3,), padding="CAUSAL")
    params = layer.init(jax.random.key(0), x)["params"]
    plain = jax.lax.conv_general_dilated(x, params["kernel"], (1,), [(2, 0)], dimension_numbers=("NWC", "WIO", "NWC"))
    want = layer.apply({"params": params}, x)
    np.testing.assert_allclose(want, plain, 1e-5, 1e-5)
    longer = params | {"kernel": params["kernel"] * jnp.array([2.0, 3.0, 0.5, 7.0]).reshape(1, 1, 4)}
    np.testing.assert_allclose(layer.apply({"params": longer}, x), want, 1e-5, 1e-5)


def test_a_block_equals_torch():
    torch = pytest.importorskip("torch")
    x = _normal(2, 9, 2)
    block = TemporalBlock(4, kernel_size=3, dilation=2)
    params = _moved(jax.jit(block.init)(jax.random.key(0), x)["params"])

    def tensor(a):
        return torch.tensor(np.asarray(a)).requires_grad_()

    def layer(p, norm):
        width, *ends = p["kernel"].shape
        conv = torch.nn.Conv1d(*ends, width, dilation=2 if norm else 1)
        conv.bias.data = tensor(p["bias"])
        if norm:
            torch.nn.utils.parametrizations.weight_norm(conv)
            conv.parametrizations.weight.original0.data = tensor(p["scale"].reshape(-1, 1, 1))
            conv.parametrizations.weight.original1.data = tensor(p["kernel"].transpose(2, 1, 0))
        else:
            conv.weight.data = tensor(p["kernel"].transpose(2, 1, 0))
        return conv

    conv1, conv2 = layer(params["conv1"], True), layer(params["conv2"], True)
    downsample, padded = layer(params["downsample"], False), torch.nn.ConstantPad1d((4, 0), 0.0)
    h = tensor(x.swapaxes(1, 2))
    theirs = torch.relu(torch.relu(conv2(padded(torch.relu(conv1(padded(h)))))) + downsample(h))
    ours, vjp = jax.vjp(lambda params: block.apply({"params": params}, x), params)
    np.testing.assert_allclose(ours, theirs.detach().numpy().swapaxes(1, 2), 1e-4, 1e-5)
    weight = _normal(*ours.shape)
    (theirs * torch.tensor(np.asarray(weight)).transpose(1, 2)).sum().backward()
    grads = vjp(weight)[0]["conv1"]
    normed = conv1.parametrizations.weight
    np.testing.assert_allclose(grads["kernel"].transpose(2, 1, 0), normed.original1.grad.numpy(), 1e-3, 1e-4)
    np.testing.assert_allclose(grads["scale"], normed.original0.grad.numpy().ravel(), 1e-3, 1e-4)


def test_causal_by_gradient_and_no_farther_than_the_receptive_field():
    model, variables = _network(channels=(4, 4, 4), kernel_size=2, pool="none")
    steps, t = 24, 20
    xs = jnp.abs(_normal(1, steps, 2))
    positive = jax.tree.map(jnp.abs, variables)  # no relu is off, so nothing vanishes by chance

    def output(xs):
        return model.apply(positive, xs)[0, t].sum()

    influence = np.abs(np.asarray(jax.jit(jax.grad(output))(xs))[0]).sum(axis=-1)
    first = t - model.receptive_field + 1
    assert first == 6
    assert np.all(influence[t + 1 :] == 0) and np.all(influence[:first] == 0)
    assert np.all(influence[first : t + 1] > 0)


@pytest.mark.parametrize("pool", ["last", "mean", "none"])
def test_padding_has_no_influence(pool):
    model, variables = _network(pool=pool)
    lengths = np.array([9, 4, 0])
    xs = _normal(3, 9, 2)
    mask = np.arange(9)[None, :] < lengths[:, None]
    dirty = jnp.where(mask[..., None], xs, jnp.nan)

    @jax.jit
    def apply(xs, lengths=None):
        return model.apply(variables, xs, lengths)

    ys = np.asarray(apply(dirty, lengths))
    np.testing.assert_array_equal(ys, apply(dirty, jnp.asarray(mask)))
    np.testing.assert_array_equal(ys, apply(xs, lengths))
    for b, n in enumerate(lengths[:2]):
        np.testing.assert_allclose(ys[b : b + 1, :n] if pool == "none" else ys[b : b + 1], apply(xs[b : b + 1, :n]), 1e-4, 1e-5)
    empty = np.zeros((9, 3)) if pool == "none" else np.asarray(variables["params"]["linear"]["bias"])
    np.testing.assert_allclose(ys[2], empty, 1e-6)
    if pool == "none":
        assert np.all(ys[~mask] == 0)

    loss = lambda variables, xs: (model.apply(variables, xs, lengths) ** 2).sum()  # noqa: E731
    to_params, to_xs = jax.device_get(jax.jit(jax.grad(loss, (0, 1)))(variables, dirty))
    assert np.all(to_xs[~mask] == 0) and np.all(np.isfinite(to_xs)) and np.any(to_xs[0] != 0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(to_params))


def test_pools_of_a_mask_with_holes():
    hs, mask = _normal(2, 4, 3), jnp.array([[True, False, True, False], [False] * 4])
    np.testing.assert_allclose(pool_steps(hs, mask, "last"), np.stack([hs[0, 2], np.zeros(3)]))
    np.testing.assert_allclose(pool_steps(hs, mask, "mean"), np.stack([(hs[0, 0] + hs[0, 2]) / 2, np.zeros(3)]), 1e-6)
    mean = pool_steps(jnp.ones((1, 1000, 1), jnp.bfloat16), jnp.ones((1, 1000), bool), "mean")
    assert mean.dtype == jnp.bfloat16 and mean.item() == 1


@pytest.mark.parametrize("drop_channels", [False, True])
def test_dropout_of_channels_drops_them_for_all_steps(drop_channels):
    net = TemporalConvNet((64,), kernel_size=1, dropout=0.5, drop_channels=drop_channels)
    x = jnp.abs(_normal(2, 6, 64)) + 1  # the residual keeps all above zero, so what is dropped shows as x itself
    variables = {"params": jax.tree.map(jnp.abs, _moved(jax.jit(net.init)(jax.random.key(0), x)["params"]))}
    ys = net.apply(variables, x, train=True, rngs={"dropout": jax.random.key(3)})
    dropped = np.asarray(ys == x)
    assert 0.3 < dropped.mean() < 0.7
    assert np.all(dropped == dropped[:, :1]) == drop_channels
    assert not np.any(np.asarray(net.apply(variables, x) == x))


def test_the_authors_network_for_sequential_mnist_has_about_70_thousand_parameters():
    assert summary(MODELS["tcn"](), (1, 784, 1)).parameters == 66_910
    assert MODELS["tcn"]().receptive_field == 1 + 2 * 6 * 255


def _sentence(**options):
    settings = {"num_classes": 3, "vocab_size": 11, "embed_size": 4, "widths": (2, 4), "maps": 5}
    model = TextCNN(**(settings | options))
    params = _moved(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 6), int))["params"])
    return model, {"params": params}


def test_a_text_cnn_is_what_its_equation_says():
    model, variables = _sentence()
    tokens = RNG.integers(0, 11, (3, 7))
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    xs, pooled = params["embedding"]["embedding"][tokens], []
    for i, width in enumerate(model.widths):
        conv = params["convs"][str(i)]
        windows = np.stack([xs[:, t : t + width].reshape(3, -1) for t in range(8 - width)], axis=1)
        pooled.append(np.maximum(windows @ conv["kernel"].reshape(-1, 5) + conv["bias"], 0).max(axis=1))
    want = np.concatenate(pooled, axis=-1) @ params["fc"]["kernel"] + params["fc"]["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, tokens), want, 1e-4, 1e-5)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, jnp.asarray(xs, jnp.float32)), want, 1e-4, 1e-5)


def test_a_padded_sentence_gives_what_it_gives_alone():
    model, variables = _sentence()
    tokens, lengths = RNG.integers(0, 11, (4, 9)), np.array([9, 5, 2, 0])
    mask = np.arange(9)[None, :] < lengths[:, None]
    ys = jax.jit(model.apply)(variables, tokens, lengths)
    np.testing.assert_array_equal(ys, jax.jit(model.apply)(variables, np.where(mask, tokens, 99), mask))  # 99 is no token
    table = variables["params"]["embedding"]["embedding"]
    xs = jnp.where(mask[..., None], table[tokens], 0)
    for b, n in enumerate(np.maximum(lengths, max(model.widths))):  # the shortest as if padded to the widest window
        np.testing.assert_allclose(ys[b : b + 1], jax.jit(model.apply)(variables, xs[b : b + 1, :n]), 1e-4, 1e-5)
    assert np.abs(np.asarray(ys[1] - jax.jit(model.apply)(variables, tokens)[1])).max() > 1e-3


def test_what_does_not_fit_is_refused_with_what_was_expected():
    tcn, text = TCN(in_channels=2), TextCNN(embed_size=4)

    def refused(error, text, model, *args):
        with pytest.raises(error, match=text):
            jax.eval_shape(lambda: model.init(jax.random.key(0), *args))

    floats, tokens = jnp.zeros((2, 9, 2)), jnp.zeros((2, 9), int)
    refused(ValueError, r"\(B, T, 2\), got shape \(2, 9, 3\): in_channels is 2", tcn, jnp.zeros((2, 9, 3)))
    refused(ValueError, r"\(B, T, 2\), got shape \(2, 9\)", tcn, jnp.zeros((2, 9)))
    refused(TypeError, "float type, got int32", tcn, jnp.zeros((2, 9, 2), int))
    refused(ValueError, r"\(B, T, 4\), got shape \(2, 9, 2\): embed_size is 4", text, floats)
    refused(ValueError, r"at least 5 steps, got shape \(2, 4\)", text, jnp.zeros((2, 4), int))
    refused(ValueError, r"at least 5 steps, got shape \(2, 4, 4\)", text, jnp.zeros((2, 4, 4)))
    refused(ValueError, r"tokens \(B, T\) or embeddings \(B, T, 4\), got shape \(2,\)", text, jnp.zeros(2, int))
    refused(TypeError, "integer type, got float32", text, jnp.zeros((2, 9)))
    refused(ValueError, "pool='first' is unknown; choose one of last, mean, none", TCN(in_channels=2, pool="first"), floats)
    for model, xs in (tcn, floats), (text, tokens):
        refused(ValueError, r"0 ... T = 9, got values from 3 to 10", model, xs, np.array([3, 10]))
        refused(ValueError, r"shape \(2,\), one for each sequence, got shape \(3,\)", model, xs, np.ones(3, int))
        refused(ValueError, r"mask must have shape \(2, 9\), got shape \(2, 8\)", model, xs, np.ones((2, 8), bool))
        refused(TypeError, "integers .* got dtype float32", model, xs, np.ones(2, np.float32))


def test_lengths_inside_jit():
    mask = jax.jit(lambda lengths: real_steps(lengths, 2, 3))(jnp.array([-1, 7]))
    np.testing.assert_array_equal(mask, [[False] * 3, [True] * 3])
