"""The devices of a run, and the part of its state on each of them.

The mesh has an axis `data`, along which batches are cut, and where asked for an axis `model`, along which units are. XLA's partitioner
does the rest: nothing here sends anything.
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
SMALLEST = 4096  # values: what a parameter must have to be cut; sending a smaller one takes longer than its memory is worth


def make_mesh(batch_size: int, devices: Sequence[Device] | None = None, model: int = 1) -> Mesh:
    """Devices along the axis `data`, of several processes in the order given; one device is a mesh of one.

    Args:
      batch_size: of a batch that is cut along `data`.
      devices: all by default.
      model: length of the axis `model`, for which neighbours in `devices` are taken; there is none where it is 1.

    Raises:
      UserError: the batch cannot be cut evenly, or the devices cannot.

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
    if processes.several():  # make_mesh may choose an order of its own
        return Mesh(np.array(devices).reshape(shape), names, axis_types=kinds)
    return jax.make_mesh(shape, names, axis_types=kinds, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch lies: cut along its first axis."""
    return NamedSharding(mesh, BY_BATCH)


def parameter_shardings(params: PyTree, mesh: Mesh, *, fsdp: bool) -> PyTree:
    """Where parameters lie, and what has their shapes, such as an optimiser's moments: a function of the shapes alone.

    An array of fewer than SMALLEST values, or with one axis only, is whole on every device. Of others the last axis that the axis
    `model` divides is cut along it: the units of kernels, gate beside gate, the features of an embedding, the vocabulary of a
    softmax, the output channels of a convolution. With `fsdp` the longest of the other axes that `data` divides, the first of
    equals, is cut along that; where there is none, the parts of the axis that is cut already. An axis that does not divide is not cut.

    Args:
      params: pytree of arrays or `jax.ShapeDtypeStruct`s.
      mesh: from make_mesh.
      fsdp: cut along `data` too.

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
    """Cuts the first axis in this order whose parts an axis of the mesh divides."""
    for axis in order:
        parts = math.prod(mesh.shape[other] for other in cuts[axis])
        if shape[axis] % (parts * mesh.shape[name]) == 0:
            cuts[axis] += (name,)
            return


def _spec(cuts: Iterable[tuple[str, ...]]) -> PartitionSpec:
    """The axes of the mesh that each axis of an array is cut along."""
    entries = [names[0] if len(names) == 1 else names or None for names in cuts]
    return PartitionSpec(*entries) if any(entries) else EVERYWHERE


def without_data(shardings: PyTree) -> PyTree:
    """The same of arrays that every device along `data` has whole: what a step computes with.

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
    """Parameters inside a jit, gathered along `data`; as they are where nothing is cut.

    On a CPU one is gathered after the other: see `compiler_options`. There XLA keeps no order between collectives but that of their
    data, and devices or processes that gather different arrays at the same time wait for each other for ever.

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
    """The same array to the bit, which XLA cannot have before the other: unless that begins with a NaN that nobody computes."""
    if other is None:
        return array
    first = jnp.real(other[(0,) * other.ndim]).astype(jnp.float32)
    never = jax.lax.bitcast_convert_type(first, jnp.uint32) == jnp.uint32(0x7FEDCBA9)
    return jnp.where(never, jnp.zeros_like(array), array)


def compiler_options(mesh: Mesh, shardings: PyTree | None) -> dict[str, bool] | None:
    """What `jax.jit` needs besides for a program whose parameters are cut; None for XLA's defaults.

    XLA begins operations on a CPU that do not depend on each other at once. Where these are collectives of several devices of this
    process, each waits in a thread for the other devices, and with few threads a program may never end. Several processes have the
    option in XLA_FLAGS (see `seqjax.run.distributed.one_order`), since a jit inside another takes none.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {ONE_ORDER: False} if shardings is not None and on_cpu and not processes.several() else None


def is_cut(tree: PyTree) -> bool:
    """Whether any array lies in parts on several devices.

    Example:
      >>> is_cut({"w": jax.numpy.ones(2)})
      False
    """
    return not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree))


def bytes_per_device(tree: PyTree) -> int:
    """What one device of this process holds of a tree of arrays: the most that any of them does.

    Example:
      >>> bytes_per_device({"w": jax.numpy.ones(2, "float32")})
      8
    """
    held: dict[Device, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values(), default=0)
