"""Shared parts of the augmentations: checks, one random draw per image, and a barrier between operations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def require_images(images: jax.Array) -> None:
    """Refuses anything but a batch of float images (B, H, W, C).

    Raises:
      ValueError: the number of axes is not four.
      TypeError: the type is not a float.

    Example:
      >>> require_images(jnp.zeros((2, 8, 8)))
      Traceback (most recent call last):
      ...
      ValueError: images must have shape (batch, height, width, channels), not (2, 8, 8)
    """
    if jnp.ndim(images) != 4:
        raise ValueError(f"images must have shape (batch, height, width, channels), not {jnp.shape(images)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be floats in [0, 1], not {images.dtype}; to_float makes them from uint8")


def require_within(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Refuses a setting outside [low, high].

    Raises:
      ValueError: the value is outside, or not a number.

    Example:
      >>> require_within("probability", 1.5, 0, 1)
      Traceback (most recent call last):
      ...
      ValueError: probability must be within [0, 1], not 1.5
    """
    if not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"within [{low}, {high}]"
        raise ValueError(f"{name} must be {bounds}, not {value}")


def draw_each(key: jax.Array, batch_size: int, draw: Callable[[jax.Array], Any]) -> Any:
    """One draw per image of a batch; image n's is from `fold_in(key, n)`, independent of B and the other images.

    Args:
      key: a random key.
      batch_size: B.
      draw: key -> a pytree of arrays.

    Returns:
      The draws, each leaf with a leading axis (B, ...).

    Example:
      >>> key, draw = jax.random.key(0), jax.random.uniform
      >>> bool((draw_each(key, 5, draw)[:2] == draw_each(key, 2, draw)).all())
      True
    """
    return jax.vmap(lambda n: draw(jax.random.fold_in(key, n)))(jnp.arange(batch_size, dtype=jnp.uint32))


def computed_once(images: jax.Array) -> jax.Array:
    """Returns the same images, computed before anything reads them.

    On the CPU, XLA fuses an operation into the one that reads its result and recomputes it for each read, so each operation in a chain
    multiplies the work of the earlier ones. It fuses across `lax.optimization_barrier`, but not across a loop, so the images pass through a
    loop, in the smallest number of equal parts above one. This does nothing on other devices, for one image, or for a batch sharded along
    an explicit axis.

    Args:
      images: (B, H, W, C).

    Returns:
      The images (B, H, W, C).

    Example:
      >>> images = jnp.arange(4.0).reshape(4, 1, 1, 1)
      >>> computed_once(images).ravel().tolist()
      [0.0, 1.0, 2.0, 3.0]
    """
    batch = len(images)
    parts = next((n for n in range(2, batch + 1) if batch % n == 0), 1)
    whole = set(jax.typeof(images).sharding.spec) <= {None}
    if parts == 1 or not whole or jax.default_backend() != "cpu":
        return images
    # The barrier is for JAX, which drops a loop that returns its input.
    return lax.map(lax.optimization_barrier, images.reshape(parts, -1, *images.shape[1:])).reshape(images.shape)
