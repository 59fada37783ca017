"""Shared by the tests of the diagnostics: cells in float64, and runs as Python loops over the step."""

import operator

import jax
import jax.numpy as jnp
import numpy as np

import seqjax

D = 3
WIDE = {"param_dtype": jnp.float64}


def linear(matrix):
    """A linear RNN, h' = x W + A h, and its params; A multiplies h from the left."""
    matrix = np.asarray(matrix)
    cell = seqjax.rnn(len(matrix), identity, param_dtype=matrix.dtype)
    params = cell.init(jax.random.key(0), D)
    return cell, params._replace(recurrent_kernel=jnp.asarray(matrix.T))


def identity(x):
    return x


def drawn(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def init(cell, seed=0):
    """Params different from their initial values, so that nothing is zero."""
    params = cell.init(jax.random.key(seed), D)
    return jax.tree.map(lambda a: a + 0.3 * drawn(a.shape, a.size), params)


def cells():
    """A few cells of every kind that have a step, by name."""
    return {
        "lstm": seqjax.lstm(4, peepholes=True, **WIDE),
        "gru": seqjax.gru(4, **WIDE),
        "gru-before": seqjax.gru(4, reset_after=False, **WIDE),
        "slstm": seqjax.slstm(4, **WIDE),
        "lru": seqjax.lru(4, state_size=3, **WIDE),
        "stack": seqjax.stack(seqjax.dropout(seqjax.lstm(3, **WIDE), 0.5), jnp.tanh, seqjax.residual(seqjax.gru(3, **WIDE))),
        "learned": seqjax.learned_initial_carry(seqjax.stack(seqjax.zoneout(seqjax.lstm(3, **WIDE), 0.2), seqjax.indrnn(3, **WIDE))),
    }


def loop(cell, params, xs, real, resets, deltas=None, cut=()):
    """The outputs (B, T, H), zero where padded, and the carries after each step, by a loop over single sequences and steps.

    `deltas` (B, T, carry) are added to the carry after each real step; before the steps of `cut` gradients are stopped.
    """
    every, ends, step = [], [], jax.jit(cell.step)
    for b in range(xs.shape[0]):
        carry, ys = cell.initial_carry(params, 1), []
        for t in range(xs.shape[1]):
            if t in cut:
                carry = jax.tree.map(jax.lax.stop_gradient, carry)
            if not real[b, t]:
                ys.append(jnp.zeros(cell.hidden_size, xs.dtype))
                continue
            start = cell.initial_carry(params, 1) if resets[b, t] else carry
            carry, y = step(params, start, xs[b, t][None])
            if deltas is not None:
                carry = jax.tree.map(jnp.add, carry, jax.tree.map(operator.itemgetter((slice(b, b + 1), t)), deltas))
            ys.append(y[0])
        every.append(jnp.stack(ys))
        ends.append(carry)
    return jnp.stack(every), ends


B, T = 2, 7  # sequences and steps
REAL = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1, 0]], bool)  # with a hole and padding
RESETS = np.array([[0, 0, 0, 1, 0, 0, 0], [1, 0, 1, 0, 1, 0, 1]], bool)
