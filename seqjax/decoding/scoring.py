"""The likelihood of whole sequences under a model, and their ranking."""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.typing import AnyArray


class Score(NamedTuple):
    """Likelihoods of B sequences."""

    log_prob: jax.Array  # float32 (B,): the sum of log p(token) over real tokens, in nats
    tokens: jax.Array  # int32 (B,): how many real tokens
    perplexity: jax.Array  # float32 (B,): exp(-log_prob / tokens); 1 for an empty sequence


def sequence_log_probs(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes the log probability of each sequence, over its real tokens.

      log_prob[b] = sum over t with mask[b, t] of log_softmax(logits[b, t])[targets[b, t]]

    Where the mask is false, logits and targets affect neither values nor gradients, even if they are NaN or outside the
    vocabulary.

    Args:
      logits: (B, T, V).
      targets: int (B, T).
      mask: bool (B, T), true for a real token.

    Returns:
      float32 (B,), in nats.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75]]]))
      >>> log_probs = sequence_log_probs(logits, jnp.array([[0, 1]]), jnp.array([[True, True]]))
      >>> print(np.exp(np.asarray(log_probs)).round(3))
      [0.375]
    """
    logits = jnp.where(mask[..., None], jnp.asarray(logits, jnp.float32), 0.0)
    ids = jnp.where(mask, targets, 0)
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(mask, log_probs, 0.0), axis=-1)


def score(apply: Callable[[jax.Array, jax.Array], jax.Array], inputs: AnyArray, targets: AnyArray, mask: AnyArray) -> Score:
    """Computes the likelihood of each sequence under a model.

    Args:
      apply: (inputs (B, T), mask (B, T)) -> logits (B, T, V).
      inputs: int (B, T), the token before each target, bos first.
      targets: int (B, T).
      mask: bool (B, T), true for a real token.

    Returns:
      A Score of log probability, token count and perplexity, each (B,).

    Example:
      >>> uniform = lambda inputs, mask: jnp.zeros((*inputs.shape, 8))
      >>> ids, mask = jnp.array([[1, 2, 3]]), jnp.array([[True, True, False]])
      >>> result = score(uniform, ids, ids, mask)
      >>> print(result.tokens, np.asarray(result.perplexity).round(3))
      [2] [8.]
    """
    log_prob = sequence_log_probs(apply(inputs, mask), targets, mask)
    tokens = jnp.sum(mask, axis=-1, dtype=jnp.int32)
    return Score(log_prob, tokens, jnp.exp(-log_prob / jnp.maximum(tokens, 1)))


def apply_from_step(step: Callable[[Any, jax.Array], tuple[Any, jax.Array]], carry: Any) -> Callable:
    """Builds the `apply` for `score` from the `step` for `sampling.sample`.

    Padding must be at the end of a row: a padded step does change the carry, but only padding follows it.

    Args:
      step: (carry, tokens int (B,)) -> (carry, logits (B, V)).
      carry: the model's carry before the first input.

    Returns:
      (inputs (B, T), mask) -> logits (B, T, V).

    Example:
      >>> step = lambda carry, tokens: (carry + 1, jnp.stack([carry, tokens], axis=-1))
      >>> apply_from_step(step, jnp.zeros((1,), jnp.int32))(jnp.array([[5, 6]]), None).tolist()
      [[[0, 5], [1, 6]]]
    """

    def apply(inputs: jax.Array, mask: Any = None) -> jax.Array:
        return jnp.swapaxes(jax.lax.scan(step, carry, jnp.swapaxes(inputs, 0, 1))[1], 0, 1)

    return apply


def rank(scores: Score, by: str = "perplexity") -> np.ndarray:
    """Ranks sequences from the likeliest to the least likely; ties go to the earlier.

    Args:
      scores: what `score` returned, (B,).
      by: "perplexity" (lowest first: lengths do not matter) or "log_prob" (highest first: of the whole sequence).

    Returns:
      int (B,): the indices of the sequences, best first.

    Raises:
      UserError: `by` is unknown.

    Example:
      >>> rank(Score(jnp.array([-9.0, -2.0]), jnp.array([9, 1]), jnp.exp(jnp.array([1.0, 2.0])))).tolist()
      [0, 1]
    """
    keys = {"perplexity": lambda: scores.perplexity, "log_prob": lambda: -scores.log_prob}
    if by not in keys:
        raise UserError(f"by={by!r} is not an order; choose 'perplexity' or 'log_prob'")
    return np.argsort(np.asarray(keys[by]()), kind="stable")
