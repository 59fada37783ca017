"""Shared by the tests of all converters: random weights, our outputs, and tolerances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.interop import parts

B, T, D, H = 3, 5, 3, 4
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def every(table):
    """All the rows of a table in float64, where no error hides, and the first one in float32."""
    rows = [*((name, "float64") for name in table), (next(iter(table)), "float32")]
    return pytest.mark.parametrize("name, dtype", rows, indirect=["dtype"])


def random_like(array, seed=0):
    """Weights far from initial values: no zeros, no orthogonal kernels."""
    rng = np.random.default_rng([seed, *np.shape(array)])
    return (0.7 * rng.normal(size=np.shape(array))).astype(np.asarray(array).dtype)


def random_params(cell, dtype, input_size=D, seed=0):
    """Random params for a cell, each leaf another."""
    template = jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))
    leaves, tree = jax.tree.flatten(template)
    drawn = [random_like(np.zeros(leaf.shape, dtype), seed + k) for k, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in drawn])


def random_inputs(dtype, seed=1):
    return np.random.default_rng(seed).normal(size=(B, T, D)).astype(dtype)


def states(cell, carry):
    """The carries of a network's plain cells, layer by layer, forward before backward."""
    if parts.kind(cell) == "stack":
        return [one for inner, own in zip(cell.inner, carry) for one in states(inner, own)]
    if parts.kind(cell) == "bidirectional":
        return [one for inner, own in zip(cell.inner, carry) for one in states(inner, own)]
    return [carry] if not cell.inner else states(cell.inner[0], carry)


def ours(cell, params, xs, **options):
    """(outputs, [carry of each plain cell])"""
    carry, ys = seqjax.unroll(cell, params, xs, **options)
    return jax.tree.map(np.asarray, ys), states(cell, carry)


def assert_near(got, want, dtype):
    assert np.shape(got) == np.shape(want) and np.asarray(got).dtype == np.asarray(want).dtype == dtype
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=0, atol=TOLERANCE[dtype])


def assert_same_cell(got, want):
    """The same cell with the same params, to the last bit."""
    (cell, params), (want_cell, want_params) = got, want
    assert described(cell) == described(want_cell)
    assert jax.tree.structure(params) == jax.tree.structure(want_params)
    jax.tree.map(np.testing.assert_array_equal, params, want_params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {leaf.dtype for leaf in jax.tree.leaves(want_params)}


def described(cell):
    return cell.name, cell.hidden_size, cell.settings, tuple(described(inner) for inner in cell.inner)
