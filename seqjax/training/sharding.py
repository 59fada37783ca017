"""The devices of a run, and the part of its state on each of them.

The mesh has an axis `data` that shards batches, and on request an axis `model` that shards units. XLA's partitioner does the rest: nothing
here communicates.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqjax.errors import UserError
from seqjax.training import processes

PyTree = Any
Device = Any  # a jax.Device, a class that JAX makes at run time

DATA, MODEL = "data", "model"
BY_BATCH, EVERYWHERE = PartitionSpec(DATA), PartitionSpec()
ONE_ORDER = "xla_cpu_enable_concurrency_optimized_scheduler"
SMALLEST = 4096  # smaller parameters are not sharded: the communication would cost more than the memory saved


def make_mesh(batch_size: int, devices: Sequence[Device] | None = None, model: int = 1) -> Mesh:
    """A mesh of devices along the axis `data`, in the given order with several processes; one device is a mesh of one.

    Args:
      batch_size: size of the batch, which is sharded along `data`.
      devices: all by default.
      model: length of the axis `model`, made of neighbours in `devices`; 1 for no such axis.

    Raises:
      UserError: the batch or the devices cannot be divided evenly.

    Example:
      >>> make_mesh(4, jax.devices()[:1]).axis_names
      ('data',)
    """
    devices = list(devices or jax.devices())
    if len(devices) % model:
        raise UserError(f"{len(devices)} devices cannot be cut into groups of model={model}; make it a divisor")
    count = len(devices) // model
    if batch_size % count:
        raise UserError(f"batch_size={batch_size} cannot be cut evenly over {count} devices; make it a multiple")
    shape, names = ((count,), (DATA,)) if model == 1 else ((count, model), (DATA, MODEL))
    kinds = (AxisType.Auto,) * len(names)
    if processes.several():  # jax.make_mesh may reorder devices
        return Mesh(np.array(devices).reshape(shape), names, axis_types=kinds)
    return jax.make_mesh(shape, names, axis_types=kinds, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: along its first axis."""
    return NamedSharding(mesh, BY_BATCH)


def parameter_shardings(params: PyTree, mesh: Mesh, *, fsdp: bool) -> PyTree:
    """Shardings of parameters, and of arrays with their shapes, such as an optimiser's moments: a function of the shapes alone.

    Arrays with fewer than SMALLEST values or only one axis are replicated. In others the last axis divisible by the length of `model` is
    sharded along it: the units of kernels, with the gates side by side, the features of an embedding, the vocabulary of a softmax, the
    output channels of a convolution. With `fsdp` the longest of the other axes divisible by the length of `data`, the first on a tie, is
    sharded along that; if there is none, the parts of the axis already sharded. Axes that are not divisible are not sharded.

    Args:
      params: pytree of arrays or `jax.ShapeDtypeStruct`s.
      mesh: from make_mesh.
      fsdp: also shard along `data`.

    Returns:
      A pytree of NamedShardings like `params`.

    Example:
      >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
      >>> params = {"embedding": jax.ShapeDtypeStruct((1000, 64), "float32"), "bias": jax.ShapeDtypeStruct((1000,), "float32")}
      >>> {name: tuple(s.spec) for name, s in parameter_shardings(params, mesh, fsdp=True).items()}
      {'bias': (), 'embedding': ('data', 'model')}
    """

    def one(leaf):
        cuts: list[tuple[str, ...]] = [()] * leaf.ndim
        if leaf.ndim > 1 and leaf.size >= SMALLEST:
            if MODEL in mesh.shape:
                _cut(cuts, MODEL, mesh, leaf.shape, reversed(range(leaf.ndim)))
            if fsdp:
                _cut(cuts, DATA, mesh, leaf.shape, sorted(range(leaf.ndim), key=lambda axis: (len(cuts[axis]), -leaf.shape[axis])))
        return NamedSharding(mesh, _spec(cuts))

    return jax.tree.map(one, params)


def _cut(cuts: list[tuple[str, ...]], name: str, mesh: Mesh, shape: Sequence[int], order: Iterable[int]) -> None:
    """Shards the first axis, in this order, whose parts are divisible by a mesh axis."""
    for axis in order:
        parts = math.prod(mesh.shape[other] for other in cuts[axis])
        if shape[axis] % (parts * mesh.shape[name]) == 0:
            cuts[axis] += (name,)
            return


def _spec(cuts: Iterable[tuple[str, ...]]) -> PartitionSpec:
    """The mesh axes that each axis of an array is sharded along."""
    entries = [names[0] if len(names) == 1 else names or None for names in cuts]
    return PartitionSpec(*entries) if any(entries) else EVERYWHERE


def without_data(shardings: PyTree) -> PyTree:
    """The same shardings, replicated along `data`: those a step computes with.

    Example:
      >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
      >>> tuple(without_data(NamedSharding(mesh, PartitionSpec("data", "model"))).spec)
      (None, 'model')
    """

    def one(sharding):
        cuts = [entry if isinstance(entry, tuple) else (entry,) for entry in sharding.spec]
        return NamedSharding(sharding.mesh, _spec(tuple(name for name in names if name not in (DATA, None)) for names in cuts))

    return jax.tree.map(one, shardings)


def gathered(params: PyTree, shardings: PyTree | None) -> PyTree:
    """Parameters inside a jit, gathered along `data`; unchanged if nothing is sharded.

    On CPU they are gathered one at a time: see `compiler_options`. There XLA orders collectives only by data dependencies, and devices
    or processes that gather different arrays at the same time would deadlock.

    Args:
      params: pytree of arrays.
      shardings: from parameter_shardings, or None.
    """
    if shardings is None or not jax.tree.leaves(params):
        return params
    leaves, kept, whole = map(jax.tree.leaves, (params, shardings, without_data(shardings)))
    in_turn, before, found = kept[0].mesh.devices.flat[0].platform == "cpu", None, []
    for leaf, cut, where in zip(leaves, kept, whole, strict=True):
        gathers = in_turn and cut != where
        found.append(jax.lax.with_sharding_constraint(_after(leaf, before) if gathers else leaf, where))
        before = found[-1] if gathers else before
    return jax.tree.unflatten(jax.tree.structure(params), found)


def _after(array: jax.Array, other: jax.Array | None) -> jax.Array:
    """The same array bit for bit, made dependent on the other one, so that XLA cannot compute it first."""
    if other is None:
        return array
    first = jnp.real(other[(0,) * other.ndim]).astype(jnp.float32)
    never = jax.lax.bitcast_convert_type(first, jnp.uint32) == jnp.uint32(0x7FEDCBA9)
    return jnp.where(never, jnp.zeros_like(array), array)


def compiler_options(mesh: Mesh, shardings: PyTree | None) -> dict[str, bool] | None:
    """Compiler options of `jax.jit` for programs with sharded parameters; None for XLA's defaults.

    On CPU XLA starts independent operations concurrently. If these are collectives across devices of this process, each blocks a
    thread to wait for the other devices, and with few threads the program may never end. With several processes the option is in
    XLA_FLAGS (see `seqjax.run.distributed.one_order`), since a nested jit takes no options.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {ONE_ORDER: False} if shardings is not None and on_cpu and not processes.several() else None


def is_cut(tree: PyTree) -> bool:
    """Whether any array is sharded over several devices.

    Example:
      >>> is_cut({"w": jax.numpy.ones(2)})
      False
    """
    return not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree))


def bytes_per_device(tree: PyTree) -> int:
    """Bytes of a tree of arrays on a device of this process: the maximum over its devices.

    Example:
      >>> bytes_per_device({"w": jax.numpy.ones(2, "float32")})
      8
    """
    held: dict[Device, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values(), default=0)
