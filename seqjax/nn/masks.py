"""Which steps of a padded batch are real, and a softmax over only those."""

import jax
import jax.numpy as jnp

from seqjax._checks import check_mask
from seqjax.typing import Array


def real_steps(lengths: Array | None, batch: int, steps: int) -> Array:
    """Returns a mask of the real steps.

    Args:
      lengths: integers (B,), each 0 to T; or a bool mask (B, T); or None if all steps are real.
      batch: B.
      steps: T.

    Returns:
      (B, T) bool. Inside jit, where values are not known, lengths outside 0 ... T are clipped.

    Raises:
      ValueError: the shape does not fit, or a length is outside 0 ... T.
      TypeError: lengths are neither integers nor bool.

    Example:
      >>> import jax.numpy as jnp
      >>> real_steps(jnp.array([2, 0]), 2, 3).tolist()
      [[True, True, False], [False, False, False]]
    """
    return check_mask(lengths, batch, steps)


def masked_softmax(scores: Array, mask: Array) -> Array:
    """Computes a softmax over the real steps.

      w_s = exp(a_s) / sum_r exp(a_r),  r and s real steps

    Args:
      scores: a, (..., S). Padded steps, even NaN, affect neither values nor gradients.
      mask: true where a step is real, of the same shape or one that broadcasts to it.

    Returns:
      (..., S) in float32 or wider; exactly 0 at padded steps, and everywhere in a row without real steps.

    Example:
      >>> import jax.numpy as jnp
      >>> masked_softmax(jnp.array([1.0, 1.0, jnp.nan]), jnp.array([True, True, False])).tolist()
      [0.5, 0.5, 0.0]
    """
    wide = jnp.promote_types(scores.dtype, jnp.float32)
    scores = jnp.where(mask, scores.astype(wide), jnp.finfo(wide).min)
    highest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    shares = jnp.where(mask, jnp.exp(scores - highest), 0)
    total = shares.sum(axis=-1, keepdims=True)
    return shares / jnp.where(total > 0, total, 1)


def check_sequences(name: str, values: Array, layout: str) -> Array:
    """Converts to a JAX array; raises an error if it is not floating point with three axes.

    Raises:
      ValueError: it does not have three axes.
      TypeError: it is not floating point.

    Example:
      >>> import numpy as np
      >>> check_sequences("ys", np.zeros((2, 3), np.float32), "(B, T, H)")
      Traceback (most recent call last):
      ...
      ValueError: ys must have three axes, (B, T, H), got shape (2, 3)
    """
    values = jnp.asarray(values)
    if values.ndim != 3:
        raise ValueError(f"{name} must have three axes, {layout}, got shape {values.shape}")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got dtype {values.dtype}")
    return values
