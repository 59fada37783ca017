"""How arrays lie on devices, where that decides what may be computed: meshes with explicit axes, and the inside of `jax.shard_map`."""

import jax
import jax.numpy as jnp

from seqjax.typing import Array


def takes_own(*arrays: Array) -> bool:
    """Whether our formulations for CPUs apply: there is a CPU, and no array is cut along an axis of `jax.sharding.AxisType.Explicit`.

    They cut and join the axis of the batch, which is refused where its sharding is part of its type; XLA's own operations say
    there how their results are sharded.

    Example:
      >>> takes_own(jnp.ones(3)) == (jax.default_backend() == "cpu")
      True
    """
    return jax.default_backend() == "cpu" and all(set(jax.typeof(array).sharding.spec) <= {None} for array in arrays)


def vary_together(*arrays: Array) -> tuple[Array, ...]:
    """The arrays; inside `jax.shard_map` each varies over all axes of the mesh over which any of them does.

    A function with a derivative of its own needs that: it gives parameters that are the same everywhere a gradient that is not. JAX
    then adds these gradients up, since it knows that the parameters were made to vary here.

    Example:
      >>> x, kernel = vary_together(jnp.ones((4, 2)), jnp.ones(2))
      >>> kernel.tolist()
      [1.0, 1.0]
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return arrays
    # The sum of nothing: zero, of a type that varies as the array does. No public name for that type holds from jax 0.10 to 0.12.
    nothing = sum(jnp.sum(jax.lax.stop_gradient(array).ravel()[:0]).astype(jnp.float32) for array in arrays)
    return tuple(array + nothing.astype(array.dtype) for array in arrays)
