"""Pooling of a padded sequence to one vector: the last step, the mean, the maximum, or a learned weighted mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import parts
from seqjax.nn.masks import check_sequences, masked_softmax, real_steps
from seqjax.typing import Array, Key

POOLS = ("last", "mean", "max", "attention")


class PoolParams(NamedTuple):
    """Parameters of attention pooling."""

    kernel: Array  # W, (H, A)
    bias: Array  # b, (A,)
    score: Array  # u, the vector that steps are compared with, (A,)


def pool_init(key: Key, size: int, attention_size: int) -> PoolParams:
    """Initialises attention pooling, for `attention_pooling` and `pool`.

    Args:
      key: a random key.
      size: H, features of the sequence.
      attention_size: A, hidden units.

    Returns:
      PoolParams: Glorot uniform, with bias 0.

    Raises:
      ValueError: a size is below 1.

    Example:
      >>> import jax
      >>> pool_init(jax.random.key(0), 4, 8).kernel.shape
      (4, 8)
    """
    size, hidden = parts.check_size("size", size), parts.check_size("attention_size", attention_size)
    keys = jax.random.split(key)
    init = initializers.glorot_uniform()
    return PoolParams(kernel=init(keys[0], (size, hidden)), bias=jnp.zeros(hidden), score=init(keys[1], (hidden, 1))[:, 0])


def attention_pooling(params: PoolParams, ys: Array, lengths: Array | None = None) -> tuple[Array, Array]:
    """Computes the mean of a sequence's real steps, weighted by their learned importance.

      weights_t = softmax_t(u' tanh(W y_t + b)),  pooled = sum_t weights_t y_t

    Args:
      params: what `pool_init` returned.
      ys: (B, T, H). Values at padded steps, even NaN, have no effect.
      lengths: integers (B,), each 0 to T, or a bool mask (B, T); None if all steps are real.

    Returns:
      pooled (B, H) in the dtype of ys, and weights (B, T) in float32 or wider, 0 at padded steps. For length 0 both are 0.

    Raises:
      ValueError: a shape does not fit.
      TypeError: lengths are neither integers nor bool.

    Example:
      >>> import jax
      >>> params = pool_init(jax.random.key(0), 4, 8)
      >>> pooled, weights = attention_pooling(params, jax.numpy.ones((1, 3, 4)), jax.numpy.array([2]))
      >>> pooled.tolist(), weights.tolist()
      ([[1.0, 1.0, 1.0, 1.0]], [[0.5, 0.5, 0.0]])

    Reference:
      Yang et al. 2016, "Hierarchical Attention Networks for Document Classification".
    """
    ys = check_sequences("ys", ys, "(B, T, H)")
    mask = real_steps(lengths, *ys.shape[:2])
    ys = jnp.where(mask[..., None], ys, 0)
    hidden = jnp.tanh(parts.affine(ys, params.kernel, params.bias, ys.dtype))
    weights = masked_softmax(hidden @ params.score.astype(ys.dtype), mask)
    return jnp.einsum("bt,bth->bh", weights.astype(ys.dtype), ys), weights


def pool(
    kind: str,
    ys: Array,
    lengths: Array | None = None,
    *,
    params: PoolParams | None = None,
    bidirectional: bool = False,
) -> Array:
    """Pools each sequence to one vector.

      last:       y_n, n the last real step; bidirectional: [forward half of y_n; backward half of y_1]
      mean, max:  of each feature over the real steps
      attention:  see `attention_pooling`

    Args:
      kind: "last", "mean", "max" or "attention".
      ys: (B, T, H), the outputs of a recurrent layer. Values at padded steps, even NaN, have no effect.
      lengths: integers (B,), each 0 to T, or a bool mask (B, T); None if all steps are real.
      params: for "attention", what `pool_init` returned.
      bidirectional: for "last": the second half of the features comes from a layer that ran backward, which has read
        the whole sequence at the first real step. The other kinds ignore it.

    Returns:
      (B, H) in the dtype of ys; 0 for a sequence of length 0.

    Raises:
      ValueError: the kind is unknown or a shape does not fit; bidirectional with odd H; params and kind do not match.
      TypeError: lengths are neither integers nor bool.

    Example:
      >>> import jax.numpy as jnp
      >>> ys = jnp.array([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]])
      >>> pool("mean", ys, jnp.array([2])).tolist(), pool("last", ys, jnp.array([2]), bidirectional=True).tolist()
      ([[1.5, 15.0]], [[2.0, 10.0]])
    """
    if kind not in POOLS:
        raise ValueError(f"kind must be one of {', '.join(POOLS)}, got {kind!r}")
    if (params is not None) != (kind == "attention"):
        raise ValueError(f"kind='attention' needs params, and other kinds take none; got kind={kind!r} and params {type(params).__name__}")
    ys = check_sequences("ys", ys, "(B, T, H)")
    if params is not None:
        return attention_pooling(params, ys, lengths)[0]
    mask = real_steps(lengths, *ys.shape[:2])
    if kind == "last":
        return _last(ys, mask, bidirectional)
    wide = jnp.promote_types(ys.dtype, jnp.float32)
    if kind == "mean":
        total = jnp.where(mask[..., None], ys, 0).sum(axis=1, dtype=wide)
        return (total / jnp.maximum(mask.sum(axis=1, dtype=wide), 1)[:, None]).astype(ys.dtype)
    highest = jnp.where(mask[..., None], ys, jnp.finfo(ys.dtype).min).max(axis=1)
    return jnp.where(mask.any(axis=1)[:, None], highest, 0)


def _last(ys, mask, bidirectional):
    """Returns the outputs at the last real step; for two directions, the second half at the first real step."""
    steps, features = ys.shape[1:]
    last = steps - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    there = jnp.take_along_axis(ys, last[:, None, None], axis=1)[:, 0]
    if bidirectional:
        if features % 2:
            raise ValueError(f"bidirectional outputs must have an even number of features, got ys of shape {ys.shape}")
        half = features // 2
        start = jnp.argmax(mask, axis=1)
        here = jnp.take_along_axis(ys[..., half:], start[:, None, None], axis=1)[:, 0]
        there = jnp.concatenate([there[:, :half], here], axis=-1)
    return jnp.where(mask.any(axis=1)[:, None], there, 0)
