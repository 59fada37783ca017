"""The recogniser of speech: exact lengths, padding, order of time, batch statistics over real steps, chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.models import make_stack
from seqjax.models.speech import Recogniser, ShorteningConv

RNG = np.random.default_rng(5)
LENGTHS = np.array([19, 8, 0])


def made(bidirectional=True, strides=(2, 2), width=5, **others):
    model = Recogniser(6, make_stack("gru", 8, 1, bidirectional=bidirectional), filters=8, strides=strides, width=width, **others)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 12, 4)), np.array([12]))


def batch(steps=24):
    xs = RNG.normal(size=(3, steps, 4)).astype(np.float32)
    return xs, np.where(np.arange(steps)[None, :, None] < LENGTHS[:, None, None], xs, np.nan)


def test_a_convolution_by_hand():
    """Each output sees the last w inputs of its stride; zeros stand before."""
    conv, xs = ShorteningConv(3, width=4, stride=3), RNG.normal(size=(2, 11, 2)).astype(np.float32)
    variables = conv.init(jax.random.key(0), xs, np.array([11, 11]))
    (ys, buffer), _ = conv.apply(variables, xs, np.array([11, 11]), mutable=["batch_stats"])
    kernel, padded = np.asarray(variables["params"]["kernel"]), np.pad(xs, ((0, 0), (1, 0), (0, 0)))
    for t in range(3):
        expected = np.maximum(np.einsum("bwf,wfk->bk", padded[:, 3 * t : 3 * t + 4], kernel), 0) / np.sqrt(1 + 1e-5)
        np.testing.assert_allclose(ys[:, t], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(buffer[:, 0], xs[:, 8])


@pytest.mark.parametrize("strides", [(2, 2), (3, 2), (1,), (2, 1, 3)])
def test_lengths_follow_exactly(strides):
    """For every length; the scores of a padded row are those of the row alone."""
    model, variables = made(strides=strides)
    xs = RNG.normal(size=(15, 14, 4)).astype(np.float32)
    apply = jax.jit(model.apply)
    scores, steps = apply(variables, xs, np.arange(15))
    assert steps.tolist() == [n // model.shortening for n in range(15)] and scores.shape[1] == 14 // model.shortening
    for n in (5, 13):
        alone, count = apply(variables, xs[n : n + 1, :n], np.array([n]))
        assert count[0] == steps[n] == alone.shape[1]
        np.testing.assert_allclose(alone[0], scores[n, : steps[n]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_padding_is_inert(train):
    """NaN past the ends and more padding change neither scores, gradients nor batch statistics."""
    model, variables = made(dropout=0.0)
    clean, dirty = batch()
    wider = np.pad(dirty, ((0, 2), (0, 8), (0, 0)), constant_values=np.nan)

    def run(params, xs, lengths):
        how = {"train": True, "rngs": {"dropout": jax.random.key(1)}} if train else {}
        (scores, steps), new = model.apply({**variables, "params": params}, xs, lengths, mutable=["batch_stats"], **how)
        real = (jnp.arange(scores.shape[1])[None] < steps[:, None])[..., None]
        return jnp.sum(jnp.where(real, jnp.sin(scores), 0)), new

    both = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    (value, statistics), slopes = both(variables["params"], clean, LENGTHS)
    for xs, lengths in ((dirty, LENGTHS), (wider, np.append(LENGTHS, [0, 0]))):
        (again, others), same = both(variables["params"], xs, lengths)
        assert float(again) == pytest.approx(float(value), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), (statistics, slopes[0]), (others, same[0]))
        assert np.isfinite(same[1]).all() and not np.asarray(same[1])[np.isnan(xs)].any()


def test_batch_statistics_are_of_real_steps():
    model, variables = made(strides=(2,))
    _, dirty = batch()
    _, new = model.apply(variables, dirty, LENGTHS, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"])
    kernel, outputs = np.asarray(variables["params"]["convs_0"]["kernel"]), []
    for row, length in zip(dirty, LENGTHS):
        padded = np.concatenate([np.zeros((3, 4)), row[:length]])
        outputs += [np.einsum("wf,wfk->k", padded[2 * t : 2 * t + 5], kernel) for t in range(length // 2)]
    found = new["batch_stats"]["convs_0"]["norm"]
    np.testing.assert_allclose(found["mean"], 0.02 * np.mean(outputs, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], 0.98 + 0.02 * np.var(outputs, axis=0), rtol=1e-4)


def test_a_batch_of_padding_alone():
    model, variables = made()
    (scores, steps), new = model.apply(
        variables, np.full((2, 8, 4), np.nan), np.zeros(2, int), train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
    )
    assert steps.tolist() == [0, 0] and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((scores, new)))


def test_one_direction_does_not_look_ahead():
    xs = jnp.asarray(batch()[0][:1])
    for bidirectional in (False, True):
        model, variables = made(bidirectional)
        slopes = jax.jit(jax.grad(lambda x, m=model, v=variables: jnp.sum(m.apply(v, x, np.array([24]))[0][0, 2])))(xs)
        assert slopes[0, 8:12].any() and bool(slopes[0, 12:].any()) == bidirectional


def test_chunks_give_what_the_whole_gives():
    model, variables = made(bidirectional=False, strides=(2, 3))
    xs = batch(36)[0]
    whole, _ = jax.jit(model.apply)(variables, xs, np.full(3, 36))
    step = jax.jit(functools.partial(model.apply, method="step"))
    for size in (6, 12, 36):
        state, found = model.apply(variables, 3, 4, method="initial_carry"), []
        for first in range(0, 36, size):
            state, scores = step(variables, state, xs[:, first : first + size])
            found.append(scores)
        np.testing.assert_allclose(np.concatenate(found, axis=1), whole, rtol=1e-5, atol=1e-6)


def test_what_cannot_be():
    model, variables = made(bidirectional=False)
    state = model.apply(variables, 1, 4, method="initial_carry")
    with pytest.raises(ValueError, match="must be a multiple of 4"):
        model.apply(variables, state, np.zeros((1, 6, 4)), method="step")
    with pytest.raises(UserError, match="below the stride 3"):
        made(strides=(3,), width=2)
