r"""Connectionist temporal classification: a loss for labels that are not aligned with the steps.

The loss sums over all alignments: paths that assign a label or blank to each step, and reduce to the labels when repeats are merged and
then blanks dropped. It is computed in log space over the 2 U + 1 states blank, y_1, blank, ..., y_U, blank:

  alpha_t(s) = log p_t(state s) + logsumexp(alpha_{t-1}(s), alpha_{t-1}(s - 1), alpha_{t-1}(s - 2) where s may be reached from there)
"""

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.nn.masks import real_steps
from seqjax.typing import Array

BLANK = 0
NEVER = -1e30  # stands for log 0: finite, so that no gradient is NaN, and below any path's log probability


def steps_needed(labels: np.ndarray) -> int:
    """The minimum number of steps to align these labels: one per label, and a blank between equal neighbours.

    Example:
      >>> steps_needed(np.array([4, 4, 5])), steps_needed(np.array([], int))
      (4, 0)
    """
    labels = np.asarray(labels)
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


def ctc_nats(logits: Array, steps: Array, labels: Array, label_lengths: Array) -> Array:
    r"""-log p(labels | logits) of each row.

    .. math:: L = -\log \sum_{\pi: \mathcal{B}(\pi) = y} \prod_{t=1}^{T} \mathrm{softmax}(z_t)_{\pi_t}

    Args:
      logits: z, (B, T, V) of any float type; blank is 0. Values at padded steps, even NaN, have no effect.
      steps: int (B,), the real steps of each row.
      labels: int (B, U), ids from 1; ids past a row's end have no effect.
      label_lengths: int (B,).

    Returns:
      (B,) in float32 or wider, never negative. For a row whose labels do not fit its steps (`steps_needed`) it is meaningless, and its
      gradient is 0: find and drop such rows beforehand.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.6, 0.4], [0.5, 0.5]]]))  # p(blank), p(label 1)
      >>> nats = ctc_nats(logits, jnp.array([2]), jnp.array([[1]]), jnp.array([1]))
      >>> round(float(jnp.exp(-nats[0])), 4)  # 0.4 0.5 + 0.6 0.5 + 0.4 0.5
      0.7

    Source: Graves et al. 2006, "Connectionist Temporal Classification".
    """
    steps, label_lengths = jnp.asarray(steps), jnp.asarray(label_lengths)
    real = real_steps(steps, *logits.shape[:2])
    logits = jnp.where(real[..., None], logits, 0).astype(jnp.promote_types(logits.dtype, jnp.float32))
    own = jnp.where(real_steps(label_lengths, *labels.shape), labels, BLANK)
    states = jnp.stack([jnp.full_like(own, BLANK), own], axis=2).reshape(own.shape[0], -1)
    states = jnp.pad(states, ((0, 0), (0, 1)))  # blank, y_1, blank, ..., y_U, blank
    chosen = jax.nn.one_hot(states, logits.shape[-1], dtype=logits.dtype)
    scores = jnp.einsum("btv,bsv->tbs", jax.nn.log_softmax(logits), chosen, precision=jax.lax.Precision.HIGHEST)
    skips = (states[:, 2:] != BLANK) & (states[:, 2:] != states[:, :-2])
    skips = jnp.pad(skips, ((0, 0), (2, 0)))
    # Before the first step every path is in the first blank, where it may stay, or move to y_1.
    first = jnp.where(jnp.arange(states.shape[1])[None] == 0, 0.0, NEVER).astype(scores.dtype)

    def advance(alpha, now):
        score, going = now
        new = score + _log_sum(alpha, _shifted(alpha, 1), jnp.where(skips, _shifted(alpha, 2), NEVER))
        return jnp.where(going[:, None], new, alpha), None

    alpha, _ = jax.lax.scan(advance, jnp.broadcast_to(first, states.shape), (scores, real.T))
    last = 2 * label_lengths[:, None]
    at_blank = jnp.take_along_axis(alpha, last, axis=1)[:, 0]
    at_label = jnp.take_along_axis(alpha, jnp.maximum(last - 1, 0), axis=1)[:, 0]
    total = _log_sum(at_blank, jnp.where(label_lengths > 0, at_label, NEVER))
    fits = total > NEVER / 2
    nats = jnp.where(fits, -total, 0)
    # Rounding may raise the log of a probability near 1 above 0; the gradient is still that of the sum.
    return nats + jax.lax.stop_gradient(jnp.maximum(-nats, 0))


def _shifted(alpha: Array, by: int) -> Array:
    return jnp.pad(alpha, ((0, 0), (by, 0)), constant_values=NEVER)[:, : alpha.shape[1]]


def _log_sum(*terms: Array) -> Array:
    highest = jax.lax.stop_gradient(jnp.stack(terms).max(axis=0))
    return highest + jnp.log(sum(jnp.exp(term - highest) for term in terms))
