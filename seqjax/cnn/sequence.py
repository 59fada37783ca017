"""Shared by the networks for sequences: the check of the input, and which steps are real."""

import jax.numpy as jnp

from seqjax.nn import masks
from seqjax.typing import Array


def check_sequences(name: str, xs: Array, features: int, what: str, min_length: int = 1) -> None:
    """Checks for float sequences (B, T, D) of the right width and length.

    Args:
      name: the network's name.
      xs: the input.
      features: the required D.
      what: the option that sets it.
      min_length: the smallest T.

    Raises:
      ValueError: the shape does not fit.
      TypeError: they are not floats.

    Example:
      >>> check_sequences("TCN", jnp.ones((2, 9, 3)), 1, "in_channels")
      Traceback (most recent call last):
      ...
      ValueError: TCN takes sequences of shape (B, T, 1), got shape (2, 9, 3): in_channels is 1, the sequences have 3
    """
    shape = tuple(xs.shape)
    if len(shape) != 3:
        raise ValueError(f"{name} takes sequences of shape (B, T, {features}), got shape {shape}")
    if shape[-1] != features:
        raise ValueError(
            f"{name} takes sequences of shape (B, T, {features}), got shape {shape}: {what} is {features}, the sequences have {shape[-1]}"
        )
    if shape[1] < min_length:
        raise ValueError(f"{name} takes sequences of at least {min_length} steps, got shape {shape}; pad them")
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        raise TypeError(f"{name} takes sequences of a float type, got {xs.dtype}")


def real_steps(lengths: Array | None, batch: int, steps: int) -> Array | None:
    """Returns which steps are real, as `seqjax.nn.masks.real_steps`, but None if all are.

    Example:
      >>> real_steps(jnp.array([1, 3]), 2, 3).astype(int).tolist()
      [[1, 0, 0], [1, 1, 1]]
      >>> real_steps(None, 2, 3) is None
      True
    """
    return None if lengths is None else masks.real_steps(lengths, batch, steps)


def last_real(mask: Array) -> Array:
    """Returns the number of steps up to the last real one.

    Args:
      mask: (B, T), true where a step is real.

    Returns:
      Integers (B,), 0 where no step is real.

    Example:
      >>> last_real(jnp.array([[True, False, True, False], [False] * 4])).tolist()
      [3, 0]
    """
    return jnp.max(jnp.where(mask, jnp.arange(1, mask.shape[1] + 1)[None, :], 0), axis=1)
