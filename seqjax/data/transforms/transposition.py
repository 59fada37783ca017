"""Transposition of music, on the device."""

import jax
import jax.numpy as jnp


def draw_shifts(key: jax.Array, down: jax.Array, up: jax.Array, most: int) -> jax.Array:
    """Draws an interval per piece: uniform among those of at most `most` semitones that keep it on the keyboard.

    Args:
      key: a random key.
      down, up: (B,) int, how far each piece can be moved, in semitones.
      most: the largest interval, in semitones.

    Returns:
      int32 (B,), positive is up.

    Example:
      >>> draw_shifts(jax.random.key(0), jnp.array([0, 40]), jnp.array([0, 0]), 3).tolist()[0]
      0
    """
    return jax.random.randint(key, down.shape, -jnp.minimum(down, most), jnp.minimum(up, most) + 1, dtype=jnp.int32)


def transpose(frames: jax.Array, shifts: jax.Array) -> jax.Array:
    """Transposes each row of frames by an interval; notes that leave the keyboard are lost.

    Args:
      frames: (B, T, P).
      shifts: (B,) int, in semitones, positive is up.

    Returns:
      The same shape and dtype.

    Example:
      >>> transpose(jnp.array([[[1, 0, 0, 1]], [[0, 1, 1, 0]]]), jnp.array([1, -1])).tolist()
      [[[0, 1, 0, 0]], [[1, 1, 0, 0]]]
    """
    pitches = frames.shape[-1]
    source = jnp.arange(pitches)[None] - shifts[:, None]  # (B, P)
    known = (source >= 0) & (source < pitches)
    moved = jax.vmap(lambda rows, places: rows[:, places])(frames, jnp.clip(source, 0, pitches - 1))
    return jnp.where(known[:, None], moved, jnp.zeros((), frames.dtype))
