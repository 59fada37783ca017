"""Offloading: the carries that `remat_every` keeps are kept in the host's memory, and numbers do not change.

A CPU has no second memory, so the programs are looked at instead: as JAX traces them, and as they are lowered for a GPU.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax.errors import UserError
from seqjax.nn import Recurrent
from seqjax.nn.nnx import Recurrent as NnxRecurrent

B, T, D, H, EVERY = 2, 13, 4, 8, 3
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
CELLS = {"scan": seqjax.lstm(H), "fused": seqjax.lstm(H), "associative": seqjax.mingru(H)}


@pytest.fixture
def elsewhere(monkeypatch):
    """`unroll` takes the backend for a GPU; JAX still computes on the CPU, where moving to the host is no move."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def gradient_of(engine, **options):
    cell = CELLS[engine]
    params = cell.init(jax.random.key(0), D)

    def loss(params, xs):
        carry, ys = seqjax.unroll(cell, params, xs, engine=engine, **options)
        return (ys**2).sum() + sum(jnp.sin(a).sum() for a in jax.tree.leaves(carry))

    return jax.grad(loss, argnums=(0, 1)), (params, XS)


def outputs_of_scans(jaxpr):
    """The output types of every scan in a jaxpr, inner jaxprs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield from (variable.aval for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from outputs_of_scans(getattr(inner, "jaxpr", inner))


def kept(engine, **options):
    """Counts the stacks of carries between chunks: (on the device, on the host)."""
    gradient, arrays = gradient_of(engine, remat_every=EVERY, **options)
    stacks = [a for a in outputs_of_scans(jax.make_jaxpr(gradient)(*arrays).jaxpr) if a.shape == (T // EVERY, B, H)]
    on_host = [a for a in stacks if a.memory_space == jax.memory.Space.Host]
    return len(stacks) - len(on_host), len(on_host)


@pytest.mark.parametrize("engine", CELLS)
@pytest.mark.parametrize("case", ["plain", "mask, resets", "reverse"])
def test_gradients_are_those_without_it(elsewhere, engine, case):
    rng = np.random.default_rng(1)
    options = {"reverse": case == "reverse"}
    if case == "mask, resets":
        options |= {"lengths": rng.random((B, T)) < 0.7, "resets": rng.random((B, T)) < 0.3}
    gradient, arrays = gradient_of(engine, **options)
    offloaded, _ = gradient_of(engine, remat_every=EVERY, offload=True, **options)
    want, got = jax.jit(gradient)(*arrays), jax.jit(offloaded)(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-6), want, got)


@pytest.mark.parametrize("engine", CELLS)
def test_the_carries_are_on_the_host_and_nowhere_else(elsewhere, engine):
    carries = len(jax.tree.leaves(CELLS[engine].initial_carry(CELLS[engine].init(jax.random.key(0), D), B)))
    assert kept(engine) == (carries, 0)
    assert kept(engine, offload=True) == (0, carries)


def test_lowered_for_a_gpu_it_moves_every_carry_there_and_back(elsewhere):
    gradient, arrays = gradient_of("fused", remat_every=EVERY, offload=True)
    text = jax.jit(gradient).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    moves = [line for line in text.splitlines() if "annotate_device_placement" in line]
    there = [line for line in moves if '"pinned_host"' in line]
    # c and h, in the loop over whole chunks and in the remainder.
    assert len(there) == 4 and len(moves) == 8


def test_it_is_refused_where_it_would_do_nothing():
    cell = CELLS["scan"]
    params = cell.init(jax.random.key(0), D)
    with pytest.raises(ValueError, match="needs remat_every"):
        seqjax.unroll(cell, params, XS, offload=True)
    for call, how in itertools.product((seqjax.unroll, seqjax.explain), ({}, {"engine": "native"})):
        with pytest.raises(UserError, match="the backend here is a CPU"):
            call(cell, params, XS, remat_every=EVERY, offload=True, **how)


def test_a_second_derivative_needs_forward_mode(elsewhere):
    """JAX's limit. Where this fails because reverse mode works twice, the docstring of `unroll` has a sentence too many."""
    cell = CELLS["scan"]
    params = cell.init(jax.random.key(0), D)

    def loss(xs):
        return (seqjax.unroll(cell, params, xs, engine="scan", remat_every=EVERY, offload=True)[1] ** 2).sum()

    assert jax.eval_shape(jax.hessian(loss), XS).shape == XS.shape * 2
    with pytest.raises(ValueError, match="<host>"):
        jax.eval_shape(jax.grad(lambda xs: (jax.grad(loss)(xs) ** 2).sum()), XS)


def test_layers_pass_it_on():
    with pytest.raises(UserError, match="the backend here is a CPU"):
        Recurrent(H, remat_every=EVERY, offload=True).init(jax.random.key(0), XS)
    layer = NnxRecurrent(D, H, remat_every=EVERY, offload=True, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="the backend here is a CPU"):
        layer(XS)
