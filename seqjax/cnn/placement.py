"""Placement of arrays on devices, where it decides what can be computed: meshes with explicit axes, and inside `jax.shard_map`."""

import jax

from seqjax.typing import Array


def takes_own(*arrays: Array) -> bool:
    """Whether our CPU formulations apply: there is a CPU, and no array is sharded along an `AxisType.Explicit` axis.

    They split and join the batch axis, which is refused if its sharding is part of its type; XLA's own operations
    define how their results are sharded there.

    Example:
      >>> takes_own(jnp.ones(3)) == (jax.default_backend() == "cpu")
      True
    """
    return jax.default_backend() == "cpu" and all(set(jax.typeof(array).sharding.spec) <= {None} for array in arrays)
