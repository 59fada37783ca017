"""Run as `two_devices.py shard_map` or `explicit` with two devices: sharded runs of every row against one device."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from cells.table import ROWS, D, T, setup
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import seqjax

BATCH = 4
LENGTHS = np.array([T, 2, 1, 0], np.int32)
RESETS = np.random.default_rng(4).random((BATCH, T)) < 0.3
PLAIN_TOO = ("lstm", "gru", "lru", "deep")
ROWS_OF, WHOLE = PartitionSpec("data"), PartitionSpec()


def loss_of(row, cell):
    how = {"padded_outputs": "repeat"} if row.name == "joined" else {}

    def loss(params, xs, carry, lengths, resets):
        last, ys = seqjax.unroll(cell, params, xs, carry, lengths=lengths, resets=resets, **how)
        return sum(jnp.sum(jnp.sin(a)) for a in [ys, *jax.tree.leaves(last)])

    return loss


def by_shard_map(loss, mesh, params, *batch):
    def part(params, *batch):
        value, grad = jax.value_and_grad(loss)(params, *batch)  # the gradient of what all share is summed by JAX
        return jax.lax.psum(value, "data"), grad

    specs = jax.tree.map(lambda _: ROWS_OF, batch)
    return jax.jit(jax.shard_map(part, mesh=mesh, in_specs=(WHOLE, *specs), out_specs=WHOLE))(params, *batch)


def by_explicit_axes(loss, mesh, params, *batch):
    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, WHOLE))
        batch = jax.device_put(batch, NamedSharding(mesh, ROWS_OF))
        return jax.jit(jax.value_and_grad(loss))(params, *batch)


def main(kind):
    run = {"shard_map": by_shard_map, "explicit": by_explicit_axes}[kind]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit if kind == "explicit" else AxisType.Auto,))
    wrong = []
    for row in ROWS:
        cell, params, xs, carry = setup(row, 56, batch=BATCH)
        assert xs.shape[-1] == D
        batches = [(xs, carry, LENGTHS, RESETS), (xs, None, None, None)]
        for batch in batches if row.name in PLAIN_TOO else batches[:1]:
            batch, loss = jax.tree.map(jnp.asarray, batch), loss_of(row, cell)
            want = jax.jit(jax.value_and_grad(loss))(params, *batch)
            try:
                found = run(loss, mesh, params, *batch)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, want)
            except Exception as error:  # every row is tried, and each failure told
                wrong.append(f"{row.name}: {type(error).__name__}: {error}"[:600])
    print(*wrong, f"{len(ROWS)} rows", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(sys.argv[1])
