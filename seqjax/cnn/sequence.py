"""What the networks for sequences share: the check of their input, and which of its steps are real."""

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.typing import Array


def check_sequences(name: str, xs: Array, features: int, what: str, min_length: int = 1) -> None:
    """Refuses what is not float sequences (B, T, D) of the right width and length.

    Args:
      name: of the network.
      xs: what it was given.
      features: the D that it takes.
      what: the option that says so.
      min_length: the least T.

    Raises:
      ValueError: the shape does not fit.
      TypeError: they are not floats.

    Example:
      >>> check_sequences("TCN", jnp.ones((2, 9, 3)), 1, "in_channels")
      Traceback (most recent call last):
      ...
      ValueError: TCN takes sequences of shape (B, T, 1), and these are (2, 9, 3): in_channels is 1, the sequences have 3
    """
    shape = tuple(xs.shape)
    if len(shape) != 3:
        raise ValueError(f"{name} takes sequences of shape (B, T, {features}), and these are {shape}")
    if shape[-1] != features:
        raise ValueError(
            f"{name} takes sequences of shape (B, T, {features}), and these are {shape}: "
            f"{what} is {features}, the sequences have {shape[-1]}"
        )
    if shape[1] < min_length:
        raise ValueError(f"{name} takes sequences of at least {min_length} steps, and these are {shape}; pad them")
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        raise TypeError(f"{name} takes sequences of a float type, and these are {xs.dtype}")


def real_steps(lengths: Array | None, batch: int, steps: int) -> Array | None:
    """Says which steps are real.

    Args:
      lengths: integers (B,), or a boolean mask (B, T), true where a step is real; None where all are.
      batch: B.
      steps: T.

    Returns:
      A mask (B, T), or None. Inside jit, where their values are not known, lengths outside 0 ... T count as the nearest.

    Raises:
      ValueError: the shape is another, or a length is outside 0 ... T.
      TypeError: neither integers nor bool.

    Example:
      >>> real_steps(jnp.array([1, 3]), 2, 3).astype(int).tolist()
      [[1, 0, 0], [1, 1, 1]]
    """
    if lengths is None:
        return None
    concrete = not isinstance(lengths, jax.core.Tracer)
    lengths = np.asarray(lengths) if concrete else lengths
    if lengths.dtype == bool:
        if lengths.shape != (batch, steps):
            raise ValueError(f"lengths as a mask must have shape {(batch, steps)}, and its shape is {lengths.shape}")
        return jnp.asarray(lengths)
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(f"lengths must be integers (B,) or a boolean mask, and its dtype is {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"lengths must have shape {(batch,)}, one for each sequence, and its shape is {lengths.shape}")
    if concrete and lengths.size and not 0 <= lengths.min() <= lengths.max() <= steps:
        raise ValueError(f"lengths must lie in 0 ... T = {steps}, and they go from {lengths.min()} to {lengths.max()}")
    return jnp.arange(steps)[None, :] < jnp.asarray(lengths)[:, None]


def last_real(mask: Array) -> Array:
    """The number of steps up to the last real one.

    Args:
      mask: (B, T), true where a step is real.

    Returns:
      Integers (B,), 0 where no step is real.

    Example:
      >>> last_real(jnp.array([[True, False, True, False], [False] * 4])).tolist()
      [3, 0]
    """
    return jnp.max(jnp.where(mask, jnp.arange(1, mask.shape[1] + 1)[None, :], 0), axis=1)
