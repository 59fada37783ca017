"""What `combine` is written with: gates that may come apart or side by side, in either layout, and a quick sigmoid."""

import jax.numpy as jnp

from seqjax.typing import Array


def split(product: Array | tuple[Array, ...], gates: int) -> tuple[Array, ...]:
    """The gates of a product: blocks of its last axis, or the tuple of arrays that an engine has made of them already.

    Args:
      product: (B, G H), or a tuple of G arrays, each (B, H) or feature-major (H, B).
      gates: how many gates there are, G.

    Returns:
      G arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> r, z, n = split(jnp.ones((2, 12)), 3)
      >>> r.shape
      (2, 4)
    """
    return product if isinstance(product, tuple) else tuple(jnp.split(product, gates, axis=-1))


def total(projected: Array | tuple[Array, ...], recurrent: Array | int, gates: int) -> tuple[Array, ...]:
    """The gates of projected + recurrent; where the first is a tuple of gates, it is the sum already.

    Args:
      projected: (B, G H), or a tuple of G arrays.
      recurrent: (B, G H), or 0.
      gates: how many gates there are, G.

    Returns:
      G arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> i, f, g, o = total(jnp.ones((2, 12)), jnp.ones((2, 12)), 4)
      >>> i.shape, float(i[0, 0])
      ((2, 3), 2.0)
    """
    return projected if isinstance(projected, tuple) else split(projected + recurrent, gates)


def along(vector: Array, like: Array) -> Array:
    """A vector of parameters (H,) as a row (1, H) that goes with (B, H); a column (H, 1), which an engine gives, as it is.

    Args:
      vector: (H,) or, where `like` is feature-major (H, B), (H, 1).
      like: the array it is to go with.

    Returns:
      The vector with as many axes as `like`.

    Example:
      >>> import jax.numpy as jnp
      >>> along(jnp.ones(3), jnp.ones((2, 3))).shape
      (1, 3)
    """
    return vector if vector.ndim == like.ndim else vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def split_vector(vector: Array, like: Array, parts: int) -> tuple[Array, ...]:
    """The blocks of a parameter that holds one weight a unit for several gates, each to go with `like`.

    Args:
      vector: (..., N H), where `like` is (B, ..., H); or, where an engine has `like` feature-major (H, B), (N H, 1).
      like: the array that the blocks are to go with.
      parts: how many blocks there are, N.

    Returns:
      N arrays, each (1, ..., H) or (H, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> a, b = split_vector(jnp.ones(6), jnp.ones((2, 3)), 2)
      >>> a.shape
      (1, 3)
    """
    if vector.ndim == like.ndim:
        return tuple(jnp.split(vector, parts, axis=0))
    return tuple(jnp.split(vector[None], parts, axis=-1))


def sigmoid(x: Array) -> Array:
    """The logistic function by one tanh, which compilers turn into quicker loops than an exponential and a division.

    sigmoid(x) = 1/2 + 1/2 tanh(x / 2)

    Args:
      x: any shape.

    Returns:
      An array as x, in 0 ... 1.

    Example:
      >>> import jax.numpy as jnp
      >>> float(sigmoid(jnp.zeros(())))
      0.5
    """
    return 0.5 * jnp.tanh(0.5 * x) + 0.5
