"""Run as `two_devices.py 0|1` with two devices: every second row by shard_map, the others by explicit axes, against one device."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from cells.table import ROWS, D, H, Row, T, setup
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import seqjax
from seqjax.wrappers import recurrent_dropout, zoneout

# Noise on spatial axes, and on heads that are not plain products; the rows of the table have the rest.
NOISY = [
    Row("conv", lambda **o: zoneout(recurrent_dropout(seqjax.dropout(seqjax.conv_lstm(H, 3, 4, **o), 0.2), 0.3), 0.3), None),
    Row("blocks", lambda **o: zoneout(recurrent_dropout(seqjax.block_gru(H, 2, **o), 0.3, per_gate=True), 0.2), None),
]
BATCH = 4
LENGTHS = np.array([T, 2, 1, 0], np.int32)
RESETS = np.random.default_rng(4).random((BATCH, T)) < 0.3
PLAIN_TOO = ("lstm", "gru", "lru", "deep")
TRAINING_TOO = ("deep", "zoneout-step", "per_gate", "regularised", *(row.name for row in NOISY))
KEY = jax.random.key(3)
ROWS_OF, WHOLE = PartitionSpec("data"), PartitionSpec()


def loss_of(row, cell, rng=None):
    how = {"rng": rng, "padded_outputs": "repeat" if row.name == "joined" else "zeros"}

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


def by_halves(loss, params, *batch):
    """What shard_map computes, on one device: the noise of each half is drawn by itself, from one key."""

    def whole(params, *batch):
        halves = (jax.tree.map(lambda a, part=part: a[part], batch) for part in (slice(0, 2), slice(2, 4)))
        return sum(loss(params, *half) for half in halves)

    return jax.jit(jax.value_and_grad(whole))(params, *batch)


def main(share):
    wrong, count = [], 0
    for place, row in enumerate([*ROWS, *NOISY]):
        kind = "shard_map" if place % 2 == int(share) else "explicit"
        cell, params, xs, carry = setup(row, 56, batch=BATCH)
        assert xs.shape[-1] == D
        given, plain = (xs, carry, LENGTHS, RESETS), (xs, None, None, None)
        cases = [(given, None)] * (row in ROWS) + [(plain, None)] * (row.name in PLAIN_TOO) + [(given, KEY)] * (row.name in TRAINING_TOO)
        count += len(cases)
        for batch, rng in cases:
            try:
                compare(kind, loss_of(row, cell, rng), params, jax.tree.map(jnp.asarray, batch), rng)
            except Exception as error:  # every row is tried, and each failure told
                wrong.append(f"{row.name} by {kind}{' in training' * (rng is not None)}: {type(error).__name__}: {error}"[:600])
    print(*wrong, f"{count} comparisons", sep="\n")
    sys.exit(bool(wrong))


def compare(kind, loss, params, batch, rng):
    run = {"shard_map": by_shard_map, "explicit": by_explicit_axes}[kind]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit if kind == "explicit" else AxisType.Auto,))
    halves = rng is not None and kind == "shard_map"
    want = by_halves(loss, params, *batch) if halves else jax.jit(jax.value_and_grad(loss))(params, *batch)
    found = run(loss, mesh, params, *batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, want)


if __name__ == "__main__":
    main(*sys.argv[1:])
