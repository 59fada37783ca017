"""Jacobians, singular values of products and Lyapunov exponents, against loops, numpy in float64 and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import through_time as tt

import seqjax
from seqjax.diagnostics.jacobians import (
    carries_before,
    flatten,
    product_singular_values,
    singular_values,
    step_jacobians,
)
from seqjax.diagnostics.lyapunov import lyapunov_exponents


def links(cell, params, xs, real, resets):
    """The Jacobian of each real step, made by reverse mode, column of the loss after column, and its factors' start."""
    found, step = {}, jax.jit(cell.step)
    jacobian = jax.jit(jax.jacrev(lambda v, x: flatten(cell.step(params, flatten(cell.initial_carry(params, 1))[1](v[None]), x)[0])[0][0]))
    for b in range(xs.shape[0]):
        carry = cell.initial_carry(params, 1)
        for t in range(xs.shape[1]):
            if real[b, t]:
                start = cell.initial_carry(params, 1) if resets[b, t] else carry
                found[b, t] = np.asarray(jacobian(flatten(start)[0][0], xs[b, t][None]))
                carry, _ = step(params, start, xs[b, t][None])
    return found


@pytest.mark.parametrize("name", ["lstm", "gru-before", "slstm", "lru", "learned"])
def test_brute_force(name, x64):
    cell = tt.cells()[name]
    params, xs = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D))
    options = {"lengths": tt.REAL, "resets": tt.RESETS}
    steps, products = (f(cell, params, xs, **options) for f in (singular_values, product_singular_values))
    expected = links(cell, params, xs, tt.REAL, tt.RESETS)
    for b in range(tt.B):
        product, length = np.eye(steps.values.shape[2]), 0
        for t in range(tt.T):
            if tt.REAL[b, t]:
                fresh = tt.RESETS[b, t]
                product, length = expected[b, t] @ (np.eye(len(product)) if fresh else product), 1 if fresh else length + 1
                np.testing.assert_allclose(steps.values[b, t], np.linalg.svd(expected[b, t])[1], rtol=1e-8, atol=1e-12)
                true = np.linalg.svd(product)[1]
                large = true > 1e-9 * true[0]  # numpy is blind to smaller ones
                np.testing.assert_allclose(np.exp(products.logs[b, t])[large], true[large], rtol=0.03)
                np.testing.assert_allclose(products.logs[b, t][large].sum(), np.log(true[large]).sum(), atol=0.03)
                assert products.lengths[b, t] == length
    assert (np.asarray(steps.real) == tt.REAL).all() and (np.asarray(products.real) == tt.REAL).all()


def test_many_steps_at_once_are_the_steps_one_by_one(x64):
    """As for Newton's method: the Jacobians of all steps, at the carries of a run, in one call."""
    cell = tt.cells()["stack"]
    params, xs = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D))
    before = carries_before(cell, params, xs, lengths=tt.REAL, resets=tt.RESETS)
    merged = jax.tree.map(lambda a: a.reshape(tt.B * tt.T, *a.shape[2:]), before)
    found = step_jacobians(cell, params, merged, xs.reshape(tt.B * tt.T, tt.D)).reshape(tt.B, tt.T, 9, 9)
    for (b, t), expected in links(cell, params, xs, tt.REAL, tt.RESETS).items():
        np.testing.assert_allclose(found[b, t], expected, rtol=1e-9, atol=1e-12)
    assert (found[:, :, :6, 6:] == 0).all()  # the layer below does not depend on the one above


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_exact_rates_of_linear_networks(scale):
    """Eigenvalues of a linear RNN are its exponents, in float32 and over products far outside of its range."""
    values = scale * np.array([1.0, 0.7, 0.4, 0.1], np.float32)
    q, _ = np.linalg.qr(np.asarray(tt.drawn((4, 4))))
    for matrix in (q @ np.diag(values) @ q.T, q @ (np.diag(values) + np.triu(np.ones((4, 4)), 1)) @ q.T):
        cell, params = tt.linear(np.asarray(matrix, np.float32))
        found = lyapunov_exponents(cell, params, jnp.zeros((1, 400, tt.D)), skip=100)
        np.testing.assert_allclose(found.exponents[0], np.log(values), atol=2e-3)
        products = product_singular_values(cell, params, jnp.zeros((1, 400, tt.D)))
        rates = (products.logs[0, 399] - products.logs[0, 199]) / 200
        np.testing.assert_allclose(rates, np.log(values), atol=2e-3)
    assert products.logs[0, -1, -1] < -200 or scale > 1


def test_an_orthogonal_network_loses_nothing():
    cell = seqjax.rnn(6, tt.identity)
    params = cell.init(jax.random.key(0), tt.D)
    xs = jax.random.normal(jax.random.key(1), (2, 300, tt.D))
    np.testing.assert_allclose(lyapunov_exponents(cell, params, xs).exponents, 0, atol=1e-5)
    np.testing.assert_allclose(product_singular_values(cell, params, xs).logs, 0, atol=1e-3)
    np.testing.assert_allclose(singular_values(cell, params, xs).values, 1, atol=1e-5)


def test_cells_whose_units_are_apart():
    """IndRNN with relu that is never shut: log |u|; the LRU: log |lambda|, each twice, for its real and imaginary parts."""
    cell = seqjax.indrnn(5)
    params = cell.init(jax.random.key(0), tt.D)._replace(bias=jnp.full(5, 30.0))
    found = lyapunov_exponents(cell, params, jax.random.normal(jax.random.key(1), (1, 40, tt.D)))
    np.testing.assert_allclose(np.sort(found.exponents[0]), np.sort(np.log(params.recurrent_kernel)), atol=1e-5)
    cell = seqjax.lru(4, state_size=3, r_min=0.5)
    params = cell.init(jax.random.key(0), tt.D)
    found = lyapunov_exponents(cell, params, jnp.ones((1, 40, tt.D)))
    np.testing.assert_allclose(np.sort(found.exponents[0]), np.sort(np.repeat(-np.exp(params.nu_log), 2)), atol=1e-4)


def test_the_forget_gate_alone(x64):
    """An LSTM without recurrent weights: d c_t / d c_s is the product of its forget gates."""
    cell = seqjax.lstm(4, **tt.WIDE)
    params = tt.init(cell)
    params = params._replace(recurrent_kernel=jnp.zeros_like(params.recurrent_kernel))
    xs = tt.drawn((1, 500, tt.D))
    forget = jax.nn.sigmoid(np.asarray(xs[0] @ params.kernel) + np.asarray(params.bias))[:, 4:8]
    before = jax.tree.map(lambda a: a[0], carries_before(cell, params, xs))
    jacobians = step_jacobians(cell, params, before, xs[0])
    np.testing.assert_allclose(jacobians[:, :4, :4], jax.vmap(jnp.diag)(forget), atol=1e-12)  # c comes first in the carry
    np.testing.assert_array_equal(jacobians[:, :, 4:], 0)
    found = lyapunov_exponents(cell, params, xs, count=4)
    np.testing.assert_allclose(np.sort(found.exponents[0]), np.sort(np.log(forget).mean(axis=0)), atol=2e-3)


def test_resets_and_padding_of_exponents(x64):
    """Each stretch between resets counts from its own start, padding not at all, a run in reverse from its end."""
    cell = tt.cells()["gru"]
    params, xs = tt.init(cell), tt.drawn((1, 9, tt.D))
    resets = jnp.zeros((1, 9), bool).at[0, 4].set(True)
    whole = lyapunov_exponents(cell, params, xs, lengths=jnp.array([7]), resets=resets)
    parts = [lyapunov_exponents(cell, params, xs[:, a:b]).growths for a, b in ((0, 4), (4, 7))]
    np.testing.assert_allclose(whole.growths[:, :7], np.concatenate(parts, axis=1), atol=1e-9)
    assert (whole.growths[:, 7:] == 0).all()
    np.testing.assert_allclose(whole.exponents, whole.growths.sum(axis=1) / 7, atol=1e-9)
    back = lyapunov_exponents(cell, params, xs[:, ::-1], reverse=True, skip=2)
    ahead = lyapunov_exponents(cell, params, xs, skip=2)
    np.testing.assert_allclose(back.exponents, ahead.exponents, atol=1e-9)
    np.testing.assert_allclose(ahead.exponents, ahead.growths[:, 2:].mean(axis=1), atol=1e-9)


def test_a_lost_direction_stays_lost():
    """A dead unit makes a product of rank one less: its logarithm is -inf, the others are as they were."""
    cell, params = tt.linear(np.diag([0.5, 0.0, 2.0]).astype(np.float32))
    xs = jnp.zeros((1, 20, tt.D))
    logs = product_singular_values(cell, params, xs).logs[0, -1]
    np.testing.assert_allclose(logs, [20 * np.log(2), -20 * np.log(2), -np.inf], rtol=1e-5)
    assert lyapunov_exponents(cell, params, xs).exponents[0, 1] == -np.inf
    with pytest.raises(ValueError, match="count must be 1 ... 3"):
        lyapunov_exponents(cell, params, xs, count=4)
