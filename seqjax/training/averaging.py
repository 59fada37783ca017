"""The running mean of trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.training import processes


class RunningMean:
    """Averages trees of float arrays, summed on the host in float64 so that no addition is lost.

    Example:
      >>> mean = RunningMean()
      >>> for number in (1.0, 2.0, 4.5):
      ...     mean.add({"w": jnp.float32(number)})
      >>> float(mean.result({"w": jnp.float32(0)})["w"])
      2.5
    """

    def __init__(self):
        self._sums: Any = None
        self._count = 0

    def add(self, tree: Any) -> None:
        """Adds a tree.

        Raises:
          UserError: a leaf that is not of floats, so that its mean is meaningless.
          ValueError: the structure or a shape differs from that of earlier trees.
        """
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                name = jax.tree_util.keystr(path)
                raise UserError(f"checkpoints cannot be averaged: {name} is of {leaf.dtype}; take the best or the newest")
        new = jax.tree.map(lambda leaf: np.array(leaf, np.float64), tree)
        if self._sums is None:
            self._sums = new
        else:
            jax.tree.map(_add_in_place, self._sums, new)
        self._count += 1

    def result(self, like: Any) -> Any:
        """The mean, with the dtypes and devices of the arrays in `like`."""
        return jax.tree.map(lambda total, leaf: processes.place((total / self._count).astype(leaf.dtype), leaf.sharding), self._sums, like)


def _add_in_place(total: np.ndarray, leaf: np.ndarray) -> None:
    if total.shape != leaf.shape:
        raise ValueError(f"trees to be averaged differ: a leaf of shape {leaf.shape} where others have {total.shape}")
    total += leaf
