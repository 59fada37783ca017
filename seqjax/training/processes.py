"""Several processes that train as one: placement of arrays, gathering, agreement.

All processes run the same program. Each makes its own rows of a batch and has all parameters; joint results are the same everywhere.
In a single process every function here does what JAX does anyway, or nothing.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqjax.errors import UserError

PyTree = Any
_LOST = re.compile(r"[Gg]loo|NCCL|coordination service|UNAVAILABLE|DEADLINE_EXCEEDED|[Cc]onnection (reset|closed|refused)")


def several() -> bool:
    """Whether this process is one of several.

    Example:
      >>> several()
      False
    """
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this process writes and prints: it is the first of several, or the only one.

    Example:
      >>> first()
      True
    """
    return not several() or jax.process_index() == 0


def own_share(batches: Any) -> Any:
    """The rows of each batch that this process makes.

    Args:
      batches: have `shard(index, count)`, if there are several processes.

    Raises:
      UserError: the batches cannot be shared.

    Example:
      >>> own_share([1, 2])
      [1, 2]
    """
    if not several():
        return batches
    if not hasattr(batches, "shard"):
        raise UserError("the batches of this experiment have no shard(index, count), so it runs in one process: leave --distributed out")
    return batches.shard(jax.process_index(), jax.process_count())


# Placement of arrays.


def place(tree: PyTree, where: PyTree) -> PyTree:
    """Places arrays that every process holds in full on the devices of all.

    Args:
      tree: numpy arrays or arrays on this process's devices, the same in every process; or arrays on the devices of all.
      where: one NamedSharding for the whole tree, or a matching tree of them.

    Example:
      >>> where = NamedSharding(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]), PartitionSpec())
      >>> place({"w": np.ones(2)}, where)["w"].tolist()
      [1.0, 1.0]
    """
    if not several():
        return jax.device_put(tree, where)

    def one(leaf, where):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(_same, out_shardings=where)(leaf)
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, where, leaf.__getitem__)

    return jax.tree.map(one, tree, jax.tree.broadcast(where, tree))


def place_rows(batch: PyTree, where: NamedSharding) -> PyTree:
    """Places a batch, of which this process has its own rows, on the devices of all.

    Args:
      batch: leaves (B / count, ...) in host memory, from `own_share`.
      where: shards the first axis; the devices are in the order of the processes.

    Returns:
      Leaves (B, ...).
    """
    if not several():
        return jax.device_put(batch, where)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(where, np.asarray(leaf)), batch)


def _same(leaf: jax.Array) -> jax.Array:
    return leaf


def local(tree: PyTree) -> PyTree:
    """Fully replicated arrays as arrays on a device of this process alone; nothing is sent.

    Example:
      >>> local({"w": 1})
      {'w': 1}
    """
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree) if several() else tree


def gathered(tree: PyTree) -> PyTree:
    """As `local`, for arrays that may be sharded over the devices of all; every process must call it.

    Sharded arrays are returned as numpy arrays, gathered one at a time: no device holds more than the largest.
    """
    if not several():
        return tree

    def one(leaf):
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        return np.asarray(jax.jit(_same, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf).addressable_data(0))

    return jax.tree.map(one, tree)


def whole(tree: PyTree) -> PyTree:
    """Arrays that any program of this process can use: sharded ones are gathered onto its devices; every process must call it.

    Example:
      >>> whole({"w": jnp.ones(2)})["w"].tolist()
      [1.0, 1.0]
    """
    if several():
        return jax.device_put(gathered(tree), jax.local_devices()[0])

    def one(leaf):
        if leaf.is_fully_replicated:
            return leaf
        return jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))

    return jax.tree.map(one, tree)


# Agreement.


def each(value: np.ndarray | np.generic) -> np.ndarray:
    """The values of all processes, by their index; every process must call it. They may have different numbers of devices.

    Args:
      value: has the same shape and dtype in every process.

    Example:
      >>> each(np.array([7, 8])).tolist()
      [[7, 8]]
    """
    row = np.asarray(value)[None]
    if not several():
        return row
    firsts = {device.process_index: device for device in reversed(jax.devices())}  # the first device of each
    mesh = Mesh(np.array([firsts[index] for index in range(jax.process_count())]), ("process",))
    mine = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("process")), row)
    return np.asarray(jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(mine).addressable_data(0))


def check_same(what: Mapping[str, bytes], advice: str) -> None:
    """Checks that values are the same in every process; every process must call it.

    Args:
      what: name -> content; the names are the same everywhere.
      advice: the end of the message.

    Raises:
      UserError: something differs; raised in every process, naming the first difference.

    Example:
      >>> check_same({"settings": b"lr=1"}, "start all processes with the same command")
    """
    if several():
        digests = np.stack([np.frombuffer(hashlib.sha256(content).digest(), np.uint8) for content in what.values()])
        check_rows(list(what), each(digests), advice)


def check_rows(names: list[str], rows: np.ndarray, advice: str) -> None:
    """Refuses rows (process, name, ...) that differ between processes.

    Example:
      >>> check_rows(["data", "settings"], np.array([[[1], [2]], [[1], [3]]]), "use the same command")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: the settings of process 1 are not those of process 0; use the same command
    """
    for index, row in enumerate(rows):
        for name, mine, its in zip(names, rows[0], row, strict=True):
            if not np.array_equal(mine, its):
                raise UserError(f"the {name} of process {index} are not those of process 0; {advice}")


class Listening:
    """A training step that tells every process about a signal that any of them has received.

    The signal's number is passed to the step and returned in its metrics, which are read one step later, so nothing blocks; all
    processes read it after the same step.

    Args:
      step: from make_train_step.
      states, rows: the shardings of the state and of a batch.
      mesh: the mesh over the devices of all.
    """

    def __init__(self, step: Callable[..., Any], states: PyTree, rows: NamedSharding, mesh: Mesh):
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._rows, self._size, self._number = rows, mesh.size, None

        def listening(state, batch, told):
            state, metrics = step(state, batch)
            return state, metrics._replace(signal=jnp.max(told))

        self._step = jax.jit(listening, in_shardings=(states, rows, rows), out_shardings=(states, everywhere), donate_argnums=0)
        self.tell(0)

    def tell(self, number: int) -> None:
        """Sets the number of the signal that this process has received, 0 for none."""
        if number != self._number:
            self._number = number
            told = np.full(self._size, number, np.int32)
            self._told = jax.make_array_from_callback(told.shape, self._rows, told.__getitem__)

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """As the step; its metrics have the highest number set in any process."""
        return self._step(state, batch, self._told)


def lost(error: BaseException | None) -> UserError | None:
    """A one-line error if a JAX error means that another process has ended; None for other errors.

    Example:
      >>> str(lost(ValueError("Gloo all-reduce failed: Connection closed by peer"))).split("; ")[0]
      'another process has ended or cannot be reached (Gloo all-reduce failed: Connection closed by peer)'
      >>> lost(ValueError("shapes differ")) is None
      True
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        text = str(error).strip().split("\n")[0]
        if isinstance(error, (ValueError, RuntimeError)) and _LOST.search(text):
            advice = "the same command resumes from the newest checkpoint, with any number of processes"
            return UserError(f"another process has ended or cannot be reached ({text[:160]}); {advice}")
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None
