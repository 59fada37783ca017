"""Arrays whose types include their placement: inside `jax.shard_map`, and on meshes with explicit axes."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from seqjax.typing import Array


def vary_together(*arrays: Array) -> tuple[Array, ...]:
    """Returns the arrays; inside `jax.shard_map`, each varies over every mesh axis over which any of them does.

    A function with a custom derivative needs this: its parameters are the same on all devices, but the gradients it
    computes for them are not. JAX then sums these gradients, because it knows that the parameters were made to vary
    here.

    Example:
      >>> x, kernel = vary_together(jnp.ones((4, 2)), jnp.ones(2))
      >>> kernel.tolist()
      [1.0, 1.0]
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return arrays
    # The sum of an empty slice: a zero that varies as the array does. No public name for that type exists in all of jax
    # 0.10 to 0.12.
    empty = (jax.lax.stop_gradient(array).ravel()[:0] for array in arrays)
    nothing = cast(Array, sum(jnp.sum(none).astype(jnp.float32) for none in empty))
    return tuple(array + nothing.astype(array.dtype) for array in arrays)


def tree_varies_together(tree: Any) -> Any:
    """Applies `vary_together` to a pytree: a loop's carry must have the same type before and after each step.

    Example:
      >>> tree_varies_together({"h": jnp.zeros(2), "mask": None})["h"].tolist()
      [0.0, 0.0]
    """
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(vary_together(*leaves))


def cut_as(made: Any, xs: Any, axis: int = 0) -> Any:
    """Shards axis B of newly created arrays (a carry or masks) as axis B of the inputs is sharded.

    With axes of `jax.sharding.AxisType.Explicit` the sharding is part of an array's type, and a loop's carry must keep its own.

    Args:
      made: the new arrays (B, ...).
      xs: arrays (T, B, ...).
      axis: the position of B in the new arrays.

    Example:
      >>> cut_as({"h": jnp.zeros((2, 3))}, jnp.zeros((5, 2, 4)))["h"].shape
      (2, 3)
    """
    mesh = jax.sharding.get_abstract_mesh()
    if jax.sharding.AxisType.Explicit not in mesh.axis_types:
        return made
    axes = jax.typeof(jax.tree.leaves(xs)[0]).sharding.spec[1]

    def cut(array):
        spec = jax.sharding.PartitionSpec(*(axes if k == axis else None for k in range(array.ndim)))
        return jax.sharding.reshard(array, jax.sharding.NamedSharding(mesh, spec))

    return jax.tree.map(cut, made)


def whole() -> jax.sharding.NamedSharding | None:
    """Returns the sharding that replicates an array over a mesh with explicit axes; None if there is no such mesh.

    Example:
      >>> whole() is None
      True
    """
    mesh = jax.sharding.get_abstract_mesh()
    explicit = jax.sharding.AxisType.Explicit in mesh.axis_types
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()) if explicit else None
