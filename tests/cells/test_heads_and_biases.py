"""Recurrent weights in heads are a dense kernel with zeros between them, a cell without biases is one whose biases are zero."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells.table import B, D, T, assert_same

import seqjax
from seqjax.errors import UserError

H = 8
Carry = seqjax.cells.RNNCarry
GATES = {"rnn": 1, "lstm": 4, "gru": 3, "mgu": 2}
EVERY = pytest.mark.parametrize("name", GATES)


def drawn(cell, seed=0):
    """Random params, each leaf another, and inputs."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape)), cell.init(jax.random.key(0), D))
    return params, rng.normal(size=(B, T, D))


def value_and_gradients(cell, params, xs, engine):
    def loss(params):
        carry, ys = seqjax.unroll(cell, params, xs, engine=engine, lengths=np.array([T, 3, 0]))
        return jnp.sin(ys).sum() + sum(jnp.cos(a).sum() for a in jax.tree.leaves(carry)), ys

    (_, ys), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return ys, grads


@pytest.mark.one_in(2)
@pytest.mark.parametrize("engine", ["scan", "fused"])
@EVERY
def test_heads_are_a_dense_kernel_with_zeros_between(name, engine, x64):
    make = getattr(seqjax, name)
    cell, whole = make(H, heads=4, param_dtype=jnp.float64), make(H, param_dtype=jnp.float64)
    params, xs = drawn(cell)
    assert params.recurrent_kernel.shape == (4, 2, 2 * GATES[name])

    def dense(kernel):
        return jnp.asarray(ref._recurrent({"recurrent_kernel": np.asarray(kernel)}, GATES[name]))

    between = dense(jnp.ones_like(params.recurrent_kernel)) == 0
    ys, grads = value_and_gradients(cell, params, xs, engine)
    want, want_grads = value_and_gradients(whole, params._replace(recurrent_kernel=dense(params.recurrent_kernel)), xs, engine)
    assert_same(ys, want, 1e-12, 1e-12)
    inside = jnp.where(between, 0, want_grads.recurrent_kernel)
    grads = grads._replace(recurrent_kernel=dense(grads.recurrent_kernel))
    assert_same(grads, want_grads._replace(recurrent_kernel=inside), 1e-11, 1e-11)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("engine", ["auto", "scan", "fused"])
@pytest.mark.parametrize("name", [*GATES, "indrnn", "slstm"])
def test_no_bias_is_a_bias_of_zero(name, engine):
    make = getattr(seqjax, name)
    cell, whole = make(H, use_bias=False), make(H)
    params, xs = drawn(cell, 1)
    assert not [field for field in params._fields if "bias" in field and getattr(params, field) is not None]
    zeros = jax.tree.map(jnp.zeros_like, whole.init(jax.random.key(0), D))
    filled = zeros._replace(**{field: value for field, value in params._asdict().items() if value is not None})
    got, want = (value_and_gradients(*of, xs.astype(np.float32), engine) for of in ((cell, params), (whole, filled)))
    assert_same(got[0], want[0], 1e-6, 1e-6)  # two programs, in which the compiler may contract a product and a sum or not
    for field, value in got[1]._asdict().items():
        if value is not None:
            assert_same(value, getattr(want[1], field), 1e-5, 1e-6)


@EVERY
def test_every_head_of_every_gate_starts_orthogonal(name):
    kernel = np.asarray(getattr(seqjax, name)(H, heads=2).init(jax.random.key(0), D).recurrent_kernel)
    found = [gate for head in kernel for gate in np.split(head, GATES[name], axis=-1)]
    for gate in found:
        np.testing.assert_allclose(gate @ gate.T, np.eye(H // 2), atol=1e-5)
    assert len({round(float(gate[0, 0]), 5) for gate in found}) == len(found)


def test_a_projection_in_heads():
    params = seqjax.lstm(6, proj_size=4, heads=2).init(jax.random.key(0), D)
    assert params.recurrent_kernel.shape == (2, 2, 12) and params.projection.shape == (6, 4)


ZEROS = jax.nn.initializers.zeros


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: seqjax.rnn(8, heads=3), "hidden_size must be a multiple of heads, got 8 with heads=3"),
        (lambda: seqjax.lstm(6, proj_size=3, heads=2), "proj_size must be a multiple of heads, got 3 with heads=2"),
        (lambda: seqjax.gru(8, heads=0), "heads must be at least 1, got 0"),
        (lambda: seqjax.gru(8, use_bias=False, bias_init=ZEROS), "gru has use_bias=False, so it takes no bias_init"),
        (lambda: seqjax.lstm(8, 1.0, use_bias=False), "lstm has use_bias=False, so it takes no bias_init or forget_bias"),
        (
            lambda: seqjax.gru(8, use_bias=False, recurrent_bias_init=ZEROS),
            "recurrent_bias_init is given, but with these options the cell has no such",
        ),
        (
            lambda: seqjax.mgu(8, False, recurrent_bias_init=ZEROS),
            "recurrent_bias_init is given, but with these options the cell has no such",
        ),
        (lambda: seqjax.dense_cell("mine", 8, Carry, None, gates=1, heads=2, window=(3,)), "only a matrix can be block-diagonal"),
        (lambda: seqjax.lstm(8, peephole_init=ZEROS), "peephole_init is given, but with these options the cell has no such"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises((UserError, ValueError), match=says):
        make()
