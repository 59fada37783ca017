"""A language model and a text so small that a test can look at every number, and a model that is smaller still."""

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.data.pipeline.windows import TokenStream, Windows
from seqjax.models import LanguageModel, make_stack
from seqjax.training.losses import Sums, token_cross_entropy

V, D, H = 11, 5, 6
PAD, BOS = 0, 2


def language_model(cell="lstm", layers=2, dropout=0.0):
    return LanguageModel(V, make_stack(cell, H, layers, dropout=dropout), D, dropout)


def init(model, batch, seed=0):
    """Random parameters, none of them zero, and the carry before the first token."""
    params = jax.jit(model.init)(jax.random.key(seed), np.zeros((1, 1), np.int32))["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.3 * rng.normal(size=p.shape).astype(p.dtype)), as_numpy(params))
    return params, model.initial_carry(params, batch)


def loss_of(model):
    """A LossFn, as an experiment has it."""

    def loss_fn(params, model_state, carry, batch, rng):
        noise = {} if rng is None else {"rngs": {"dropout": rng}}
        variables = {"params": params}
        carry, logits = model.apply(variables, batch.inputs, carry, resets=batch.resets, train=rng is not None, **noise)
        return carry, model_state, token_cross_entropy(logits, batch.targets, batch.mask)

    return loss_fn


def stream(tokens, seed=0, starts=0.1):
    """Random text of random documents."""
    rng = np.random.default_rng(seed)
    begins = rng.random(tokens) < starts
    begins[0] = True
    return TokenStream(rng.integers(4, V, tokens).astype(np.int32), np.flatnonzero(begins))


def windows(text, batch, window):
    return list(Windows(text, batch, window, bos_id=BOS, pad_id=PAD).one_pass())


def as_numpy(tree):
    """Copies that no donation can free."""
    return jax.tree.map(lambda a: np.array(a, copy=True), tree)


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def assert_equal(a, b):
    assert_close(a, b, 0, 0)


def linear_loss(params, model_state, carry, batch, rng):
    """A loss linear in the parameters: its gradient is the mean of the batch's rows. The carry sums up the noise."""
    noise = jax.random.uniform(rng, carry.shape)
    return carry + noise, model_state, Sums(jnp.sum(batch @ params), jnp.float32(batch.shape[0]))
