"""The block GRU: with one block against its equations, with several against a dense kernel that is zero between blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import B, D, T, assert_same
from scipy.linalg import block_diag

import seqjax
from seqjax.errors import UserError

SIZE = 8


def by_its_equations(params, xs):
    """From zeros, with the recurrent kernel a matrix (H, 3H)."""
    h, ys = jnp.zeros((len(xs), SIZE)), []
    for x in jnp.moveaxis(xs, 1, 0):
        sums = jnp.concatenate([x, h], 1) @ jnp.concatenate([params.kernel, params.recurrent_kernel])
        mean, variance = sums.mean(1, keepdims=True), sums.var(1, keepdims=True)
        sums = (sums - mean) / jnp.sqrt(variance + 1e-5) * params.gain[None] + params.bias[None]
        r, n, z = jnp.split(sums, 3, axis=1)
        new = 1 / (1 + jnp.exp(1 - z))
        h = new * jnp.tanh(n / (1 + jnp.exp(-r))) + (1 - new) * h
        ys.append(h)
    return jnp.stack(ys, 1)


def made(blocks, **options):
    cell = seqjax.block_gru(SIZE, blocks, param_dtype=jnp.float64, **options)
    rng = np.random.default_rng(blocks)
    params = jax.tree.map(lambda a: a + 0.5 * rng.normal(size=a.shape), cell.init(jax.random.key(0), D))
    return cell, params, rng.normal(size=(B, T, D))


def with_gradients(run, params, xs):
    return jax.jit(jax.value_and_grad(lambda p, x: (run(p, x) ** 2).sum(), (0, 1)))(params, xs)


@pytest.mark.parametrize("engine", ["scan", "fused"])
def test_one_block_is_the_dense_form(engine, x64):
    cell, params, xs = made(1)
    assert params.recurrent_kernel.shape == (SIZE, 3 * SIZE)
    got = with_gradients(lambda p, x: seqjax.unroll(cell, p, x, engine=engine)[1], params, xs)
    assert_same(got, with_gradients(by_its_equations, params, xs), 1e-10, 1e-12)


@pytest.mark.parametrize("blocks", [2, 8])
@pytest.mark.parametrize("engine", ["scan", "fused"])
def test_many_blocks_are_a_dense_kernel_with_zeros_between(blocks, engine, x64):
    cell, params, xs = made(blocks)
    assert params.recurrent_kernel.shape == (blocks, SIZE // blocks, 3 * SIZE // blocks)

    def dense(params, xs):
        gates = jnp.split(params.recurrent_kernel, 3, axis=-1)
        whole = jnp.concatenate([jax.scipy.linalg.block_diag(*gate) for gate in gates], axis=-1)
        return by_its_equations(params._replace(recurrent_kernel=whole), xs)

    got = with_gradients(lambda p, x: seqjax.unroll(cell, p, x, engine=engine)[1], params, xs)
    assert_same(got, with_gradients(dense, params, xs), 1e-10, 1e-12)


def test_it_starts_by_keeping_its_memory(x64):
    """With a gain of 0 all gates are 0: h' = (1 - sigmoid(-1)) h."""
    cell, params, xs = made(4, gain_init=jax.nn.initializers.zeros)
    params = params._replace(gain=0 * params.gain, bias=0 * params.bias)
    start = seqjax.cells.BlockGRUCarry(np.random.default_rng(0).normal(size=(B, SIZE)))
    _, ys = seqjax.unroll(cell, params, xs, start)
    np.testing.assert_allclose(ys[:, -1], start.h * (np.e / (1 + np.e)) ** T, rtol=1e-12)


def test_the_size_of_the_inputs_does_not_matter(x64):
    """Layer normalisation removes the input's scale at the first step, where h is 0."""
    cell, params, xs = made(2)
    once, scaled = (seqjax.unroll(cell, params, by * xs[:, :1])[1] for by in (100.0, 10000.0))
    np.testing.assert_allclose(once, scaled, rtol=1e-6)


def test_every_block_of_every_gate_starts_orthogonal():
    kernel = np.asarray(seqjax.block_gru(SIZE, 2).init(jax.random.key(0), D).recurrent_kernel)
    for gate in np.split(kernel, 3, axis=-1):
        np.testing.assert_allclose(block_diag(*gate) @ block_diag(*gate).T, np.eye(SIZE), atol=1e-5)


def test_blocks_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="hidden_size must be a multiple of blocks, got 12 with blocks=8"):
        seqjax.block_gru(12)
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        seqjax.block_gru(8, 0)
