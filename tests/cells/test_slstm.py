"""The sLSTM: the stabiliser changes nothing and keeps extreme gates finite, and heads are blocks of a dense kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import B, D, H, T, assert_same
from scipy.linalg import block_diag

import seqjax

FORGET = pytest.mark.parametrize("forget_gate", ["exp", "sigmoid"])


def unstabilised(forget_gate, params, xs):
    """The equations as in the paper, from an empty memory: c = f c + i z, n = f n + i, h = o c / n."""
    c, n, h, ys = 0.0, 0.0, jnp.zeros((len(xs), params.recurrent_kernel.shape[0])), []
    for x in jnp.moveaxis(xs, 1, 0):
        i, f, z, o = jnp.split(x @ params.kernel + h @ params.recurrent_kernel + params.bias[None], 4, axis=-1)
        f = jnp.exp(f) if forget_gate == "exp" else 1 / (1 + jnp.exp(-f))
        c, n = f * c + jnp.exp(i) * jnp.tanh(z), f * n + jnp.exp(i)
        h = c / n / (1 + jnp.exp(-o))
        ys.append(h)
    return jnp.stack(ys, 1)


@FORGET
def test_the_stabiliser_changes_nothing(forget_gate, x64):
    cell = seqjax.slstm(H, forget_gate=forget_gate, param_dtype=jnp.float64)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.normal(size=a.shape), cell.init(jax.random.key(0), D))
    xs = rng.normal(size=(B, 12, D))
    both = [
        jax.jit(jax.value_and_grad(lambda p, x, run=run: ((ys := run(p, x)) ** 2).sum() + ys.sum(), (0, 1)))(params, xs)
        for run in (lambda p, x: seqjax.unroll(cell, p, x)[1], lambda p, x: unstabilised(forget_gate, p, x))
    ]
    assert_same(*both, 1e-9, 1e-11)


@FORGET
@pytest.mark.parametrize("engine", ["scan", "fused"])
def test_gates_of_200_stay_finite(forget_gate, engine):
    """All 16 combinations of i, f, z and o at 200 or -200, in random order, from an empty memory and after padding."""
    cell = seqjax.slstm(1, forget_gate=forget_gate)
    params = cell.init(jax.random.key(0), 4)._replace(kernel=jnp.eye(4))
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 4), -1).reshape(16, 4).astype(np.float32)
    rng = np.random.default_rng(0)
    xs = 200 * np.stack([np.roll(signs, k, 0) for k in range(16)] + [rng.permutation(signs) for _ in range(16)])
    lengths = np.arange(32) % 17

    def loss(params, xs):
        carry, ys = seqjax.unroll(cell, params, xs, lengths=lengths, engine=engine)
        return ys.sum() + sum(a.sum() for a in carry), (carry, ys)

    gradients, (carry, ys) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, xs)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((gradients, carry, ys)))
    assert np.all(np.abs(ys) <= 1) and np.all(np.asarray(carry.n)[lengths > 0] >= 1)


@FORGET
@pytest.mark.parametrize("size", [-200.0, 0.0, 200.0])
def test_the_first_output_has_no_other_weight_than_its_own(forget_gate, size):
    """From an empty memory c / n is tanh(z), however small the input gate."""
    cell = seqjax.slstm(1, forget_gate=forget_gate)
    params = cell.init(jax.random.key(0), 4)._replace(kernel=jnp.eye(4))
    for forget in (-200.0, 0.0, 200.0):
        _, ys = seqjax.unroll(cell, params, np.array([[[size, forget, 0.7, 1.0]]], np.float32))
        np.testing.assert_allclose(ys[0, 0, 0], np.tanh(0.7) / (1 + np.exp(-1.0)), rtol=1e-6)


def dense_form(params, heads):
    """The same parameters with the matrix (H, 4H) that is zero between heads."""
    gates = np.split(np.asarray(params.recurrent_kernel), 4, axis=-1)
    return params._replace(recurrent_kernel=jnp.asarray(np.concatenate([block_diag(*gate) for gate in gates], axis=-1)))


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("engine", ["scan", "fused"])
def test_heads_are_blocks_of_a_dense_kernel(heads, engine, x64):
    cell = seqjax.slstm(8, heads, param_dtype=jnp.float64)
    params = cell.init(jax.random.key(1), D)
    assert params.recurrent_kernel.shape == (heads, 8 // heads, 32 // heads)
    xs = np.random.default_rng(2).normal(size=(B, T, D))
    dense = seqjax.slstm(8, param_dtype=jnp.float64)
    assert dense.init(jax.random.key(1), D).recurrent_kernel.shape == (8, 32)
    got = seqjax.unroll(cell, params, xs, engine=engine)
    assert_same(got, seqjax.unroll(dense, dense_form(params, heads), xs, engine="scan"), 1e-12, 1e-12)


def test_every_block_of_every_gate_starts_orthogonal():
    kernel = seqjax.slstm(12, 3).init(jax.random.key(0), D).recurrent_kernel
    blocks = np.stack(np.split(np.asarray(kernel), 4, axis=-1)).reshape(12, 4, 4)
    np.testing.assert_allclose(blocks @ blocks.swapaxes(1, 2), np.broadcast_to(np.eye(4), (12, 4, 4)), atol=1e-5)
    assert len(np.unique(np.round(blocks[:, 0, 0], 5))) == 12


def test_a_carry_that_the_cell_cannot_give_stays_finite():
    """A learned initial carry, or a decoder's (tanh of a product), may have n below 0, whose sum with exp(i - m) may be 0."""
    cell = seqjax.slstm(H, 2)
    params = cell.init(jax.random.key(0), D)._replace(bias=jnp.zeros(4 * H))
    start = cell.initial_carry(params, B)._replace(c=-jnp.ones((B, H)), n=-jnp.ones((B, H)))
    _, ys = seqjax.unroll(cell, params, np.zeros((B, T, D), np.float32), start)
    assert np.all(np.isfinite(ys)) and np.abs(ys).max() <= 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"heads": 3}, "hidden_size must be a multiple of heads, got 8 with heads=3"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"forget_gate": "tanh"}, r"forget_gate must be one of \['exp', 'sigmoid'\], got 'tanh'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        seqjax.slstm(8, **settings)
