"""How arrays lie on devices, where that decides what may be computed: meshes with explicit axes, and the inside of `jax.shard_map`."""

import jax

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
