"""Networks that read videos: padding without influence, windows against wholes, batch statistics by hand, frames one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import cnn
from seqjax.cnn.normalization import BatchNorm
from seqjax.data.pipeline.clips import VideoBatch
from seqjax.data.video_columns import Head
from seqjax.errors import UserError
from seqjax.models import make_stack
from seqjax.models.video import (
    FrameFeatures,
    FrameReader,
    MapReader,
    VideoClassifier,
    VideoForecaster,
    from_patches,
    pooled_log_probabilities,
    to_patches,
)
from seqjax.training.video import answer_loss

pytestmark = pytest.mark.one_in(6)

SIDE, HEADS = 8, (Head("a", ("x", "y", "z")), Head("b", ("l", "r")))


def lrcn(layer="layer1.0", cell="gru"):
    network = cnn.create("resnet20_cifar", in_channels=1, width=2, num_classes=4)
    reader = FrameReader(FrameFeatures(network, layer), make_stack(cell, 5, 2), size=6 if layer else 0)
    return VideoClassifier((3, 2), reader)


def maps():
    return VideoClassifier((3, 2), MapReader(seqjax.stack(*(seqjax.conv_lstm(3, 3, (4, 4)) for _ in range(2))), filters=4))


MODELS = {"lrcn": lrcn, "maps": maps}
every = pytest.mark.parametrize("name", MODELS)


@functools.cache
def made(name):
    model = MODELS[name]()
    variables = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 4, SIDE, SIDE, 1)), jnp.array([4]))
    return model, variables


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def loss_of(model, variables, frames, lengths, train):
    """A scalar of all real scores, and the other outputs: scores, batch statistics."""
    rest = {key: value for key, value in variables.items() if key != "params"}
    real = jnp.arange(frames.shape[1])[None] < lengths[:, None]

    def loss(params, frames):
        out, updated = model.apply(
            {"params": params, **rest},
            frames,
            lengths,
            train=train,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )
        scores = [jnp.where(real[..., None], score, 0) for score in out[1]]
        return sum(jnp.sum(jnp.sin(score)) for score in scores), (scores, updated)

    (_, (scores, updated)), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables["params"], frames)
    return scores, updated, *grads


@every
@pytest.mark.parametrize("train", [False, True])
def test_padded_frames_have_no_influence(name, train):
    """NaN in padded frames changes no bit of scores, statistics and gradients; nor do rows of padding that are longer."""
    model, variables = made(name)
    frames, lengths = drawn(3, 4, SIDE, SIDE, 1), jnp.array([4, 2, 0])
    padded = frames.copy()
    padded[1, 2:], padded[2] = np.nan, np.inf
    zeros = frames.copy()
    zeros[1, 2:], zeros[2] = 0, 0
    for one, other in zip(*(jax.tree.leaves(loss_of(model, variables, x, lengths, train)) for x in (zeros, padded))):
        np.testing.assert_array_equal(one, other)
    grad = loss_of(model, variables, padded, lengths, train)[3]
    assert (grad[1, 2:] == 0).all() and (grad[2] == 0).all() and (grad[0] != 0).any()


def test_batch_statistics_are_those_of_the_real_frames_alone():
    """The statistics after a padded batch are those that the network itself keeps of the real frames in one batch."""
    model, variables = made("lrcn")
    frames, lengths = drawn(3, 4, SIDE, SIDE, 1), np.array([4, 1, 2])
    _, updated, *_ = loss_of(model, variables, jnp.asarray(frames), jnp.asarray(lengths), True)
    real = np.concatenate([frames[row, :length] for row, length in enumerate(lengths)])
    network, own = (
        model.reader.features.cnn,
        jax.tree.map(lambda leaf: leaf["reader"]["features"]["cnn"], dict(variables), is_leaf=_top),
    )
    whole = jax.jit(network.init)(jax.random.key(0), real[:1])
    whole = jax.tree_util.tree_map_with_path(lambda path, leaf: _found(own, path, leaf), whole)
    _, expected = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))(whole, real)
    kept = updated["batch_stats"]["reader"]["features"]["cnn"]
    assert jax.tree.leaves(kept)
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
        np.testing.assert_allclose(leaf, _at(expected["batch_stats"], path), rtol=1e-4, atol=1e-5)


def _top(tree):
    return isinstance(tree, dict) and "reader" in tree


def _at(tree, path):
    return functools.reduce(lambda inner, key: inner[key.key], path, tree)


def _found(tree, path, leaf):
    """The same leaf of a tree that may lack it: what lies beyond the layer that is read."""
    try:
        return _at(tree, path)
    except KeyError:
        return leaf


@pytest.mark.parametrize("shape", [(6, 3), (5, 4, 3, 2)], ids=str)
def test_masked_batch_norm_is_that_of_the_real_rows(shape):
    x, mask, norm = drawn(*shape), np.array([True, False, True, True, False, True])[: shape[0]], BatchNorm(momentum=0.7)
    variables = norm.init(jax.random.key(0), x, use_running_average=False)
    variables = jax.tree.map(lambda leaf: leaf + 0.3, variables)

    def run(x, **options):
        def loss(params, x):
            y, new = norm.apply({**variables, "params": params}, x, use_running_average=False, mutable=["batch_stats"], **options)
            kept = y[mask] if options else y
            return jnp.sum(jnp.sin(kept)) + sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(new)), (kept, new)

        grads, (y, new) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], x)
        return y, new, grads[0], grads[1][mask] if options else grads[1]

    noisy = np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan)
    for ours, theirs in zip(*map(jax.tree.leaves, (run(noisy, mask=jnp.asarray(mask)), run(x[mask])))):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@every
def test_windows_with_a_carry_are_the_whole(name):
    """And a fresh row forgets: it is as the first window of a video of its own."""
    model, variables = made(name)
    frames, apply = jnp.asarray(drawn(2, 7, SIDE, SIDE, 1)), jax.jit(model.apply)
    whole = apply(variables, frames, jnp.array([7, 7]))[1]
    carry, pieces = model.apply(variables, 2, method="initial_carry"), []
    for begin, fresh in ((0, True), (3, False), (6, False)):
        window = jnp.pad(frames[:, begin : begin + 3], ((0, 0), (0, max(begin - 4, 0)), (0, 0), (0, 0), (0, 0)), constant_values=9)
        lengths = jnp.full(2, min(3, 7 - begin))
        carry, scores = apply(variables, window, lengths, carry, jnp.array([fresh, fresh]))
        pieces.append([score[:, : int(lengths[0])] for score in scores])
    for head in (0, 1):
        np.testing.assert_allclose(jnp.concatenate([piece[head] for piece in pieces], axis=1), whole[head], rtol=1e-4, atol=1e-5)
    _, after = apply(variables, frames[:, :3], jnp.array([3, 3]), carry, jnp.array([True, False]))
    np.testing.assert_allclose(after[0][0], whole[0][0, :3], rtol=1e-4, atol=1e-5)
    assert not np.allclose(after[0][1], whole[0][1, :3], atol=1e-3)


@every
def test_scores_depend_on_the_frames_before_and_on_their_order(name):
    model, variables = made(name)
    frames = jnp.asarray(drawn(1, 4, SIDE, SIDE, 1))
    grads = jax.jit(jax.grad(lambda x: model.apply(variables, x, jnp.array([4]))[1][0][0, 2].sum()))(frames)
    assert (grads[0, 3] == 0).all() and (grads[0, :3] != 0).any(axis=(1, 2, 3)).all()
    last = [jax.jit(model.apply)(variables, x, jnp.array([4]))[1][0][0, -1] for x in (frames, frames[:, ::-1])]
    assert not np.allclose(*last, atol=1e-3)


def test_features_of_a_layer_are_those_of_the_whole_network():
    network = cnn.create("resnet20_cifar", in_channels=1, width=2, num_classes=4)
    x = jnp.asarray(drawn(2, SIDE, SIDE, 1))
    whole = jax.jit(network.init)(jax.random.key(0), x)
    for layer, pooling in (("layer2.1.conv1", "flatten"), ("layer1", "mean"), ("", "flatten")):
        features = FrameFeatures(network, layer, pooling)
        own = jax.eval_shape(features.init, jax.random.key(0), x)
        own = jax.tree_util.tree_map_with_path(lambda path, leaf: _at(whole, (path[0], *path[2:])), own)
        assert len(jax.tree.leaves(own)) < len(jax.tree.leaves(whole)) or not layer  # nothing is made beyond the layer
        found = jax.jit(features.apply)(own, x)
        maps_of = jax.jit(lambda v, x, layer=layer: cnn.feature_maps(network, v, x, [layer])[layer] if layer else network.apply(v, x))
        expected = maps_of(whole, x)
        expected = expected.mean(axis=(1, 2)) if pooling == "mean" else expected.reshape(2, -1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"'layer9' is not a layer of the network \(nearest: layer"):
        FrameFeatures(network, "layer9").init(jax.random.key(0), x)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_pooled_answers_by_hand(pooling):
    scores, lengths = drawn(4, 5, 3), np.array([5, 2, 1, 0])
    found = np.exp(pooled_log_probabilities(jnp.asarray(scores), jnp.asarray(lengths), pooling))
    shares = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    for row, length in enumerate(lengths[:3]):
        expected = shares[row, length - 1] if pooling == "last" else shares[row, :length].mean(axis=0)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)
    assert np.isfinite(found).all()
    with pytest.raises(UserError, match="choose one of last, mean"):
        pooled_log_probabilities(jnp.asarray(scores), jnp.asarray(lengths), "first")


@pytest.mark.parametrize("pooling, carried", [("last", False), ("mean", False), ("last", True)])
def test_the_loss_by_hand(pooling, carried):
    """In training and in evaluation, with smoothing, padded frames and rows of padding."""
    model, variables = made("maps")
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, SIDE, SIDE, 1)).astype(np.uint8)
    lengths, labels = np.array([4, 2, 0]), np.array([[1, 0], [2, 1], [0, 0]])
    batch = VideoBatch(frames, lengths, labels, np.ones(3, bool))
    loss = answer_loss(
        model, HEADS, mean=[0.4], std=[0.3], pooling=pooling, carried=carried, label_smoothing=0.1,
    )  # fmt: skip
    carry = model.apply(variables, 3, method="initial_carry") if carried else ()
    _, scores = model.apply(variables, (frames / 255 - 0.4) / np.float32(0.3), jnp.asarray(lengths))
    shares = [np.exp(score) / np.exp(score).sum(axis=-1, keepdims=True) for score in map(np.asarray, scores)]
    for rng, smoothing in ((None, 0.0), (jax.random.key(0), 0.1)):
        _, _, sums = loss(variables["params"], (), carry, batch, rng)
        total = 0.0
        for row, length in enumerate(lengths):
            for i, own in enumerate(shares):
                size = own.shape[-1]
                target = (1 - smoothing) * np.eye(size)[labels[row, i]] + smoothing / size
                nats = [-(target * np.log(own[row, t])).sum() for t in range(length)]
                if carried:
                    total += sum(nats)
                elif length and pooling == "last":
                    total += nats[-1]
                elif length:
                    total += np.mean(nats) if rng is not None else -(target * np.log(own[row, :length].mean(axis=0))).sum()
        np.testing.assert_allclose(sums.loss, total, rtol=1e-4)
        assert float(sums.tokens) == (6 if carried else 2)
    right = [own.argmax(axis=-1) == labels[:, i, None] for i, own in enumerate(shares)]
    if pooling == "last":
        steps = [[*range(length)] if carried else [*range(length)][-1:] for length in lengths]
        places = [(row, t) for row, own in enumerate(steps) for t in own]
        counts = loss(variables["params"], (), carry, batch, None)[2].counts
        assert float(counts["correct"]) == sum(all(own[place] for own in right) for place in places)
        assert float(counts["correct_b"]) == sum(right[1][place] for place in places)


# The forecaster


def test_patches_and_back():
    frames = drawn(2, 3, 8, 12, 3)
    patches = to_patches(jnp.asarray(frames), 4)
    np.testing.assert_array_equal(patches[1, 2, 1, 2].reshape(4, 4, 3), frames[1, 2, 4:8, 8:12])
    np.testing.assert_array_equal(from_patches(patches, 4), frames)


def test_the_forecaster_is_two_stacks_step_by_step():
    """A Python loop over the cells' steps: layer 2 reads layer 1, the writers start from the readers' carries and read nothing."""
    model, frames = VideoForecaster((SIDE, SIDE, 1), (3, 4), 3, 2), drawn(2, 3, SIDE, SIDE, 1)
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), frames, 2)
    found, params = jax.jit(model.apply, static_argnums=2)(variables, frames, 2), variables["params"]
    cells = [seqjax.conv_lstm(size, 3, (4, 4)) for size in (3, 4)]
    step = [jax.jit(cell.step) for cell in cells]
    carries = [cell.initial_carry(params[f"encoder_{i}"], 2) for i, cell in enumerate(cells)]
    for t in range(3):
        x = to_patches(frames[:, t], 2)
        for i in (0, 1):
            carries[i], x = step[i](params[f"encoder_{i}"], carries[i], x)
    for t in range(2):
        x, outputs = jnp.zeros((2, 4, 4, 1)), []
        for i in (0, 1):
            carries[i], x = step[i](params[f"forecaster_{i}"], carries[i], x)
            outputs.append(x)
        logits = np.concatenate(outputs, axis=-1) @ np.asarray(params["pixels"]["kernel"]) + np.asarray(params["pixels"]["bias"])
        np.testing.assert_allclose(found[:, t], from_patches(logits, 2), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="model.patch=3 does not divide frames of 8 x 8"):
        VideoForecaster((SIDE, SIDE, 1), (3,), 3, 3).init(jax.random.key(0), frames, 2)
