"""Captions from feature maps: influence and its absence, steps against the whole, Show and Tell by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.models import make_cell
from seqjax.models.captioner import Captioner, coverage_penalty
from seqjax.models.token_decoder import ATTENTIONS, make_attention

pytestmark = pytest.mark.one_in(6)

B, S, M, T, V = 3, 7, 5, 6, 11


def make(attention, cell="lstm", layers=1, **options):
    cells = tuple(make_cell(cell, 8) for _ in range(layers))
    model = Captioner(V, M, cells, 4, make_attention(attention, M if attention == "luong_dot" else 8), **options)
    features = jax.random.normal(jax.random.key(1), (B, S, M))
    inputs = jax.random.randint(jax.random.key(2), (B, T), 4, V)
    return model, jax.jit(model.init)(jax.random.key(0), features, inputs), features, inputs


KINDS = [name for name in ATTENTIONS if name != "luong_dot"]  # which needs as many features as units


@pytest.mark.parametrize("attention", KINDS)
def test_steps_give_what_teacher_forcing_gives(attention):
    model, variables, features, inputs = make(attention, layers=2)
    out = model.apply(variables, features, inputs)
    encoded = model.apply(variables, features, method="encode")
    carry = model.apply(variables, encoded, method="initial_carry")
    step = jax.jit(functools.partial(model.apply, method="step"))
    for t in range(T):
        carry, logits = step(variables, encoded, carry, inputs[:, t])
        np.testing.assert_allclose(logits, out.logits[:, t], atol=1e-5)


@pytest.mark.parametrize("attention", KINDS)
def test_unused_positions_have_no_influence_not_even_nan_nor_on_gradients(attention):
    model, variables, features, inputs = make(attention)
    mask = jnp.arange(S)[None, :] < jnp.array([[S], [4], [1]])

    def loss(params, features):
        out = model.apply({"params": params}, features, inputs, mask)
        penalty = 0.0
        if out.weights is not None:
            penalty = coverage_penalty(out.weights, jnp.ones((B, T), bool), mask)
        return jnp.sum(out.logits**2) + penalty

    dirty = jnp.where(mask[..., None], features, jnp.nan)
    clean = jnp.where(mask[..., None], features, 0)
    both = jax.jit(jax.value_and_grad(loss, (0, 1)))
    a, b = (both(variables["params"], x) for x in (dirty, clean))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(a))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)
    alone = model.apply(variables, features[1:2, :4], inputs[1:2]).logits
    np.testing.assert_allclose(model.apply(variables, dirty, inputs, mask).logits[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("attention", [name for name in KINDS if name != "none"])
def test_attention_sums_to_one_and_every_real_position_counts(attention):
    model, variables, features, inputs = make(attention)
    mask = jnp.arange(S)[None, :] < jnp.array([[S], [4], [2]])
    weights = model.apply(variables, features, inputs, mask).weights
    assert weights.shape == (B, T, S)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert (np.asarray(weights)[np.broadcast_to(~mask[:, None], weights.shape)] == 0).all()
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(model.apply(variables, x, inputs, mask).logits ** 2)))(features)
    assert ((np.abs(gradient).sum(-1) > 0) == np.asarray(mask)).all()


@pytest.mark.parametrize("attention", KINDS)
def test_no_word_sees_a_later_one(attention):
    model, variables, features, inputs = make(attention)
    embedded = variables["params"]["embed"]["embedding"]

    def at(table, t):
        changed = {"params": {**variables["params"], "embed": {"embedding": table}}}
        return jnp.sum(model.apply(changed, features, jnp.tile(jnp.arange(4, 4 + T), (B, 1))).logits[:, t] ** 2)

    gradient = jax.jit(jax.grad(at), static_argnums=1)(embedded, 2)
    assert (np.abs(gradient[4:7]).sum(-1) > 0).all() and (gradient[7:] == 0).all()


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "mingru"])
def test_show_and_tell_takes_the_mean_as_first_input(name):
    """The first word is predicted after two steps of the plain cell: the mean of the map through the bridge, then `<bos>`."""
    model, variables, features, inputs = make("none", cell=name)
    params, cell = variables["params"], model.layers[0]
    bridge = features.mean(1) @ params["bridge"]["kernel"] + params["bridge"]["bias"][None]
    xs = jnp.concatenate([bridge[:, None], params["embed"]["embedding"][inputs]], axis=1)
    _, states = seqjax.unroll(cell, params["decoder"].layers[0], xs)
    logits = states[:, 1:] @ params["softmax"]["kernel"] + params["softmax"]["bias"][None, None]
    np.testing.assert_allclose(model.apply(variables, features, inputs).logits, logits, atol=1e-5)


def test_a_mean_of_few_positions_is_theirs():
    model, variables, features, _ = make("bahdanau")
    mask = jnp.arange(S)[None, :] < jnp.array([[2], [S], [3]])
    summary = model.apply(variables, features, mask, method="encode").summary
    np.testing.assert_allclose(summary[0], features[0, :2].mean(0), atol=1e-6)


def test_noise_is_drawn_in_training_only():
    model, variables, features, inputs = make("bahdanau", layers=2, dropout=0.5)
    out = [model.apply(variables, features, inputs, train=True, rngs={"dropout": jax.random.key(i)}).logits for i in (1, 1, 2)]
    assert (out[0] == out[1]).all() and (out[0] != out[2]).any()


def test_coverage_penalty_by_hand():
    rng = np.random.default_rng(0)
    weights = rng.random((B, T, S)).astype(np.float32)
    mask = np.arange(T)[None, :] < np.array([[T], [2], [0]])
    real = np.arange(S)[None, :] < np.array([[S], [3], [S]])
    expected = sum(
        (1 - sum(weights[b, t, s] for t in range(T) if mask[b, t])) ** 2 for b in range(B) for s in range(S) if real[b, s] and mask[b].any()
    )
    dirty = np.where(mask[..., None], weights, np.nan)
    np.testing.assert_allclose(coverage_penalty(dirty, mask, real), expected, rtol=1e-5)
    gradient = jax.grad(lambda w: coverage_penalty(w, mask, real))(jnp.asarray(dirty))
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[~mask] == 0).all()
