"""Losses over real tokens only, and the values derived from them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from seqjax.typing import AnyArray


class Sums(NamedTuple):
    """Loss and tokens of a batch as sums, so that parts add up exactly to the whole.

    A token is anything with one answer: a token of a text, an image of a batch.
    """

    loss: AnyArray  # (), nats, summed over real tokens
    tokens: AnyArray  # (), number of real tokens
    counts: dict[str, AnyArray] = {}  # further sums over real tokens, such as correct answers; read-only


def means(sums: Sums) -> dict[str, float]:
    """The loss and the counts per token.

    Example:
      >>> means(Sums(3.0, 4.0, {"correct": 2.0}))
      {'loss': 0.75, 'correct': 0.5}
    """
    tokens = float(sums.tokens)
    return {name: float(value) / tokens if tokens else math.inf for name, value in {"loss": sums.loss, **sums.counts}.items()}


def token_cross_entropy(logits: jax.Array, targets: jax.Array, mask: jax.Array, *, smoothing: float = 0.0) -> Sums:
    r"""Cross-entropy in nats, summed over the real tokens.

    .. math:: L = -\sum_{b,t} m_{b,t} \sum_v q_{b,t,v} \log \mathrm{softmax}(z_{b,t})_v, \quad q = (1 - s) [v = y_{b,t}] + s / V

    Args:
      logits: (B, T, V), any float type; the sum is taken in float32 or wider.
      targets: (B, T) int, ids in [0, V).
      mask: (B, T) bool, true where the token is real. Values where it is false are ignored, even NaN.
      smoothing: s, the share of the target spread over the vocabulary (label smoothing).

    Returns:
      The summed loss and the number of real tokens.

    Example:
      >>> import jax.numpy as jnp
      >>> sums = token_cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[3, 0]]), jnp.array([[True, False]]))
      >>> round(float(sums.loss), 4), float(sums.tokens)  # log 4 for the one real token
      (1.3863, 1.0)
    """
    logits = jnp.where(mask[..., None], logits, 0).astype(jnp.promote_types(logits.dtype, jnp.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if smoothing:  # -mean_v log p_v = logsumexp(z) - mean(z), and losses = logsumexp(z) - z_y
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        losses += smoothing * (chosen - jnp.mean(logits, axis=-1))
    return Sums(jnp.sum(jnp.where(mask, losses, 0)), jnp.sum(mask, dtype=losses.dtype))


def label_cross_entropy(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    r"""Cross-entropy in nats against distributions of labels, summed over the real examples.

    .. math:: L = -\sum_b m_b \sum_k t_{b,k} \log \mathrm{softmax}(z_b)_k

    Args:
      logits: (B, K), any float type; the sum is taken in float32 or wider.
      targets: (B, K), each row a distribution: one-hot, smoothed or mixed.
      mask: (B,) bool, true where the example is real. Values where it is false are ignored, even NaN.

    Returns:
      The summed loss, ().

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(label_cross_entropy(jnp.zeros((2, 4)), jnp.eye(4)[:2], jnp.array([True, False]))), 4)
      1.3863
    """
    logits = jnp.where(mask[:, None], logits, 0).astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jnp.sum(jnp.where(mask, optax.softmax_cross_entropy(logits, targets), 0))


def label_sums(logits: jax.Array, targets: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """The cross-entropy of labels, the number of examples, and how many have the largest logit at their label.

    Args:
      logits: (B, K). A row that is not finite counts as wrong.
      targets, mask: as in `label_cross_entropy`.
      labels: (B,) int, the true classes.

    Returns:
      Sums with the count "correct".

    Example:
      >>> import jax.numpy as jnp
      >>> logits, labels = jnp.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]]), jnp.array([0, 1, 1])
      >>> sums = label_sums(logits, jax.nn.one_hot(labels, 2), labels, jnp.array([True, True, False]))
      >>> float(sums.tokens), float(sums.counts["correct"])
      (2.0, 1.0)
    """
    correct = (jnp.argmax(logits, axis=-1) == labels) & jnp.isfinite(logits).all(axis=-1) & mask
    counts = {"correct": jnp.sum(correct, dtype=jnp.float32)}
    return Sums(label_cross_entropy(logits, targets, mask), jnp.sum(mask, dtype=jnp.float32), counts)


def perplexity(nats: float) -> float:
    """exp of the mean loss in nats; infinite if that overflows.

    Example:
      >>> round(perplexity(4.382), 1)
      80.0
    """
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def bits(nats: float) -> float:
    """The mean loss in bits: bits per character for a character model.

    Example:
      >>> round(bits(1.0), 3)
      1.443
    """
    return nats / math.log(2)
