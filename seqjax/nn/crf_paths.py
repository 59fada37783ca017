"""The best paths through a linear-chain CRF, for `seqjax.nn.crf`: all scores are finite here."""

import functools

import jax
import jax.numpy as jnp

# Used instead of -inf: its exp is 0 next to any real score, and the difference of two of them is not NaN.
FORBIDDEN = -1e30


@jax.jit
def best_path(params, emissions, mask):
    """Finds the best path (B, T) and its score (B,), finite."""
    batch, steps, _ = emissions.shape
    if not steps:
        return jnp.zeros((batch, 0), jnp.int32), jnp.zeros(batch, emissions.dtype)
    emissions = emissions.transpose(1, 2, 0)

    def forward(alpha, inputs):
        emission, real = inputs
        best = (alpha[:, None, :] + params.transitions[:, :, None]).max(axis=0)
        return jnp.where(real[None, :], best + emission, alpha), alpha

    def backward(tag, inputs):
        alpha, real = inputs  # of the step before, and whether this one is real
        previous = jax.lax.argmax(alpha + params.transitions[:, tag], 0, jnp.int32)
        return jnp.where(real, previous, tag), jnp.where(real, tag, 0)

    alpha, alphas = jax.lax.scan(forward, params.start[:, None] + emissions[0], (emissions[1:], mask.T[1:]))
    alpha += params.end[:, None]
    first, tags = jax.lax.scan(backward, jax.lax.argmax(alpha, 0, jnp.int32), (alphas, mask.T[1:]), reverse=True)
    tags = jnp.concatenate([jnp.where(mask[:, 0], first, 0)[None], tags]).T
    return tags, jnp.where(mask[:, 0], alpha.max(axis=0), 0)


@functools.partial(jax.jit, static_argnums=3)
def best_paths(params, emissions, mask, n):
    """Finds the n best paths (B, n, T) and their scores (B, n), finite. An index is tag * n + rank among the paths to that tag."""
    batch, steps, size = emissions.shape
    alone = jnp.where(jnp.arange(n) == 0, 0, FORBIDDEN).astype(emissions.dtype)
    if not steps:
        return jnp.zeros((batch, n, 0), jnp.int32), jnp.tile(alone, (batch, 1))
    emissions = emissions.swapaxes(0, 1)

    def forward(alpha, inputs):
        emission, real = inputs
        paths = alpha[:, None, :, :] + params.transitions.T[None, :, :, None]
        best, place = jax.lax.top_k(paths.reshape(batch, size, size * n), n)
        stay = jnp.arange(size * n, dtype=place.dtype)[None, :]
        alpha = jnp.where(real[:, None, None], best + emission[..., None], alpha)
        return alpha, jnp.where(real[:, None], place.reshape(batch, size * n), stay)

    def backward(place, inputs):
        pointers, real = inputs
        return jnp.take_along_axis(pointers, place, axis=1), jnp.where(real[:, None], place // n, 0)

    alpha = (params.start[None, :] + emissions[0])[..., None] + alone[None, None, :]
    alpha, pointers = jax.lax.scan(forward, alpha, (emissions[1:], mask.T[1:]))
    scores, place = jax.lax.top_k((alpha + params.end[None, :, None]).reshape(batch, size * n), n)
    first, tags = jax.lax.scan(backward, place, (pointers, mask.T[1:]), reverse=True)
    tags = jnp.concatenate([jnp.where(mask[:, :1], first // n, 0)[None], tags]).transpose(1, 2, 0)
    return tags, jnp.where(mask[:, :1], scores, alone[None, :])
