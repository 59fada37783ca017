"""Every cell and wrapper inside JAX's transformations, on each engine that it claims to run on."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import ROWS, B, D, T, assert_same, names, setup
from jax import export
from jax.experimental import checkify

import seqjax

LENGTHS = np.array([T, 2, 0], np.int32)
RESETS = np.random.default_rng(4).random((B, T)) < 0.3
pytestmark = pytest.mark.one_in(6)
EVERY = pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
ENGINES = pytest.mark.parametrize("engine", ["auto", "scan"])


def loss_of(cell, engine):
    def loss(params, xs, carry, lengths, resets):
        last, ys = seqjax.unroll(cell, params, xs, carry, lengths=lengths, resets=resets, engine=engine)
        return sum(jnp.sum(jnp.sin(a)) for a in [ys, *jax.tree.leaves(last)])

    return loss


@pytest.mark.one_in(16)
@ENGINES
@EVERY
def test_export_with_open_sizes_serialised_and_read_back(row, engine):
    cell, params, xs, _ = setup(row, 51)

    def forward(params, xs, lengths, resets):
        return seqjax.unroll(cell, params, xs, lengths=lengths, resets=resets, engine=engine)[1]

    b, t = export.symbolic_shape("b,t")
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    data = ((b, t, *cell.spatial, D), jnp.float32), ((b,), jnp.int32), ((b, t), bool)
    exported = export.export(jax.jit(lambda leaves, *rest: forward(jax.tree.unflatten(tree, leaves), *rest)))
    leaves, tree = jax.tree.flatten(params)
    open_sizes = exported(jax.tree.leaves(shapes), *(jax.ShapeDtypeStruct(*pair) for pair in data))
    again = export.deserialize(open_sizes.serialize())
    for batch, steps in ((B, T), (2, T - 1)):
        inputs = (xs[:batch, :steps], np.minimum(LENGTHS, steps)[:batch], RESETS[:batch, :steps])
        assert_same(again.call(leaves, *inputs), forward(params, *inputs), 1e-5, 1e-5)


@EVERY
def test_the_initial_carry_can_be_donated(row):
    cell, params, xs, _ = setup(row, 52)
    run = jax.jit(lambda carry, xs: seqjax.unroll(cell, params, xs, carry), donate_argnums=0)
    given = cell.initial_carry(params, B)
    assert_same(run(jax.tree.map(jnp.asarray, given), xs), seqjax.unroll(cell, params, xs))


@EVERY
def test_no_transfer_with_everything_on_the_device(row):
    cell, params, xs, carry = setup(row, 53)
    arrays = jax.device_put((xs, carry, LENGTHS, RESETS))
    with jax.transfer_guard("disallow"):
        xs, carry, lengths, resets = arrays
        seqjax.unroll(cell, params, xs, carry, lengths=lengths, resets=resets)


@pytest.mark.one_in(16)
@ENGINES
@EVERY
def test_vmap_over_seeds_and_over_sequences(row, engine):
    cell, params, xs, carry = setup(row, 54)
    grad = jax.grad(loss_of(cell, engine))
    seeds = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), params)
    both = jax.vmap(lambda params: grad(params, xs, carry, LENGTHS, RESETS))(seeds)
    for place in (0, 1):
        one = jax.tree.map(lambda a: a[place], seeds)  # noqa: B023
        got = jax.tree.map(lambda a: a[place], both)  # noqa: B023
        assert_same(got, grad(one, xs, carry, LENGTHS, RESETS), 1e-4, 1e-5)

    def alone(x, start, length, reset):
        start = jax.tree.map(lambda a: a[None], start)
        return seqjax.unroll(cell, params, x[None], start, lengths=length[None], resets=reset[None], engine=engine)[1][0]

    got = jax.vmap(alone)(xs, carry, LENGTHS, RESETS)
    assert_same(got, seqjax.unroll(cell, params, xs, carry, lengths=LENGTHS, resets=RESETS, engine=engine)[1])


@EVERY
def test_checkify_finds_a_nan_and_nothing_else(row):
    cell, params, xs, carry = setup(row, 55)
    checked = checkify.checkify(jax.jit(loss_of(cell, "auto")), errors=checkify.float_checks)
    assert checked(params, xs, carry, LENGTHS, RESETS)[0].get() is None
    broken = jax.tree.map(lambda a: jnp.full_like(a, jnp.inf), params)
    assert "nan" in checked(broken, xs, carry, LENGTHS, RESETS)[0].get()


@pytest.mark.one_in(1)
@pytest.mark.parametrize("share", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_two_devices_give_what_one_gives(share):
    """In a process of its own, since the number of devices is fixed when JAX starts: values and gradients of every row.

    A default run takes one half of the rows in one kind and the other half in the other; slow tests the reverse.
    """
    script = pathlib.Path(__file__).with_name("two_devices.py")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, script, str(share)], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert re.fullmatch(r"\d+ comparisons", ran.stdout.splitlines()[-1]) and int(ran.stdout.split()[-2]) > len(ROWS), ran.stdout
