"""The size of an update relative to the weights that it changes."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.training.guard import global_norm
from seqjax.typing import Array


def update_ratios(before: Any, after: Any) -> dict[str, Array]:
    """|w' - w| / |w| of every parameter, by its path.

    About 1e-3 per step is typical; far below it a layer hardly learns, far above it training is unstable.

    Args:
      before: a pytree of arrays.
      after: the same after an update.

    Returns:
      Path, such as "rnn/0/kernel" -> (); inf if a parameter changed from all zeros, 0 if nothing changed.

    Example:
      >>> found = update_ratios({"w": jnp.full(4, 2.0), "b": jnp.zeros(4)}, {"w": jnp.full(4, 2.5), "b": jnp.ones(4)})
      >>> {name: float(ratio) for name, ratio in found.items()}
      {'b': inf, 'w': 0.25}
    """
    old, new = jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): ratio(leaf, changed) for (path, leaf), changed in zip(old, new, strict=True)
    }


def ratio(before: Any, after: Any) -> Array:
    """|w' - w| / |w| over all arrays of two pytrees; inf if they changed from all zeros, 0 if nothing changed.

    Example:
      >>> float(ratio([jnp.full(2, 3.0), jnp.full(2, 4.0)], [jnp.full(2, 6.0), jnp.full(2, 8.0)]))
      1.0
    """
    change = global_norm(jax.tree.map(lambda old, new: new - old, before, after))
    return jnp.where(change == 0, 0.0, change / global_norm(before))
