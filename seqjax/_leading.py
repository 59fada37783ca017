"""Inputs with no batch axis or with several: folded into one batch axis for the core, and unfolded again."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.typing import Array


class Leading(NamedTuple):
    """The batch axes of the inputs, and whether time comes before them.

    Attributes:
      shape: the batch axes; () for a single sequence.
      time_major: whether arrays with a time axis are (T, *shape, ...) rather than (*shape, T, ...).

    Example:
      >>> import jax.numpy as jnp
      >>> several = Leading((2, 3), time_major=False)
      >>> several.fold(jnp.ones((2, 3, 5, 4)), "xs").shape, several.unfold(jnp.ones((6, 5, 8))).shape
      ((6, 5, 4), (2, 3, 5, 8))
    """

    shape: tuple[int, ...]
    time_major: bool

    def fold(self, array: Any, name: str, timed: bool = True) -> Array:
        """Folds (*shape, T, ...) or (T, *shape, ...) into (B, T, ...) or (T, B, ...); with timed=False, (*shape, ...) into (B, ...)."""
        array = array if isinstance(array, (jax.Array, np.ndarray)) else np.asarray(array)
        first = 1 if timed and self.time_major else 0
        found = array.shape[first : first + len(self.shape)]
        if found != self.shape:
            raise ValueError(f"the batch axes of {name} must be {self.shape}, like those of the inputs, got shape {array.shape}")
        return array.reshape(*array.shape[:first], math.prod(self.shape), *array.shape[first + len(self.shape) :])

    def unfold(self, array: Array, timed: bool = True) -> Array:
        """The inverse of `fold`."""
        first = 1 if timed and self.time_major else 0
        return array.reshape(*array.shape[:first], *self.shape, *array.shape[first + 1 :])

    def fold_carry(self, carry: Any) -> Any:
        """Folds a carry with arrays (*shape, ...) into one with arrays (B, ...)."""
        paths, tree = jax.tree_util.tree_flatten_with_path(carry)
        return tree.unflatten([self.fold(leaf, f"carry{jax.tree_util.keystr(path)}", timed=False) for path, leaf in paths])

    def fold_lengths(self, lengths: Any) -> Any:
        """Folds lengths (*shape), or a mask in the layout of the inputs."""
        lengths = lengths if isinstance(lengths, jax.Array) else np.asarray(lengths)
        return self.fold(lengths, "lengths", timed=lengths.dtype == bool)


def leading(xs: Array, features: int, time_major: bool | None) -> Leading | None:
    """Returns the batch axes of the inputs, or None if they have exactly one, as the core expects.

    Args:
      xs: inputs.
      features: number of axes after the leading ones: spatial axes and D.
      time_major: whether time comes first; None for inputs of one step.

    Example:
      >>> import jax.numpy as jnp
      >>> leading(jnp.ones((5, 4)), 1, False), leading(jnp.ones((2, 5, 4)), 1, False)
      (Leading(shape=(), time_major=False), None)
    """
    axes = xs.shape[: xs.ndim - features]
    steps = time_major is not None
    if len(axes) == 1 + steps or len(axes) < steps:  # the usual case, or too few axes, for which the core raises the error
        return None
    if not steps:
        return Leading(axes, False)
    return Leading(axes[1:], True) if time_major else Leading(axes[:-1], False)
