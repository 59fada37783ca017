"""Truncated gradients: they are those of TBPTT, and dependencies within the window are kept in full."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import through_time as tt

import seqjax
from seqjax.diagnostics.truncation import truncation
from seqjax.errors import UserError


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def compare(found, place, gradient, whole):
    g, full = flat(gradient), flat(whole)
    np.testing.assert_allclose(found.cut_off[place], np.linalg.norm(g - full) / np.linalg.norm(full), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.cosine[place], g @ full / np.linalg.norm(g) / np.linalg.norm(full), rtol=1e-8)
    np.testing.assert_allclose(found.norm[place], np.linalg.norm(g), rtol=1e-8)
    np.testing.assert_allclose(found.full_norm, np.linalg.norm(full), rtol=1e-8)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["lstm", "gru-before", "stack", "learned"])
def test_windows_with_the_carry_passed_on(name, x64):
    """The sum of the gradients of consecutive windows, with the carry passed on by value."""
    cell = tt.cells()[name]
    params, xs, weights = tt.init(cell), tt.drawn((2, 9, tt.D)), tt.drawn((2, 9, 1), 5)
    resets = jnp.zeros((2, 9), bool).at[0, 3].set(True).at[1, 5].set(True)  # one of them where a window of 3 begins

    def loss(params, carry, part, size):
        cut = slice(part * size, (part + 1) * size)
        carry, ys = seqjax.unroll(cell, params, xs[:, cut], carry, resets=resets[:, cut])
        return (weights[:, cut] * ys**2).sum(), carry

    found = truncation(lambda params: loss(params, None, 0, 9)[0], params, windows=(1, 3, 4, 9, 50))
    whole = jax.jit(jax.grad(lambda params: loss(params, None, 0, 9)[0]))(params)
    for place, size in enumerate(found.windows):
        total, carry = jax.tree.map(jnp.zeros_like, params), None
        for part in range(-(-9 // size)):
            grads, carry = jax.grad(loss, has_aux=True)(params, carry, part, size)
            total = jax.tree.map(jnp.add, total, grads)
        compare(found, place, total, whole)
    np.testing.assert_allclose(found.cut_off[3:], 0, atol=1e-14)
    np.testing.assert_allclose(found.cosine[3:], 1, rtol=1e-12)
    if name == "lstm":
        lost, cosine = found.by_parameter["kernel"]
        assert lost[0] > 0.01 and lost[-1] < 1e-14 and cosine[-1] == pytest.approx(1)


def test_holes_and_padding(x64):
    cell = tt.cells()["gru"]
    params, xs = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D))

    def loss(ys):
        return (ys**2).sum()

    def plain(params):
        return loss(seqjax.unroll(cell, params, xs, lengths=tt.REAL, resets=tt.RESETS)[1])

    found = truncation(plain, params, windows=(2, 3, 7))
    for place, size in enumerate((2, 3, 7)):
        by_loop = jax.grad(lambda params, cut: loss(tt.loop(cell, params, xs, tt.REAL, tt.RESETS, cut=cut)[0]))
        compare(found, place, by_loop(params, range(0, tt.T, size)), jax.jit(jax.grad(plain))(params))


def test_the_way_back_is_cut_at_the_same_borders(x64):
    """Of a bidirectional network both directions are cut between the same steps."""
    both = seqjax.bidirectional(seqjax.gru(3, **tt.WIDE), seqjax.gru(3, **tt.WIDE))
    params, xs = tt.init(both), tt.drawn((1, 7, tt.D))

    def part(cell, params, xs, reverse):
        return (seqjax.unroll(cell, params, xs, reverse=reverse)[1] ** 2).sum()

    def cut(params):
        total = 0
        for reverse, cell, p in ((False, both.inner[0], params.forward), (True, both.inner[1], params.backward)):
            carry = None
            for window in ((0, 3), (3, 6), (6, 7))[:: -1 if reverse else 1]:
                carry, ys = seqjax.unroll(cell, p, xs[:, slice(*window)], carry, reverse=reverse)
                carry, total = jax.tree.map(jax.lax.stop_gradient, carry), total + (ys**2).sum()
        return total

    def plain(params):
        return (seqjax.unroll(both, params, xs)[1] ** 2).sum()

    compare(truncation(plain, params, windows=(3,)), 0, jax.jit(jax.grad(cut))(params), jax.jit(jax.grad(plain))(params))


def test_a_linear_network_loses_the_sum_that_is_cut(x64):
    """h' = a h + w x, x = 1, a loss at the end: dL/dw = 1 + a + ... + a^(T-1), and the last window's part of it is kept."""
    cell, params = tt.linear(np.array([[0.9]]))
    xs = jnp.zeros((1, 24, tt.D)).at[:, :, 0].set(1)
    found = truncation(lambda params: seqjax.unroll(cell, params, xs)[1][0, -1, 0], params, windows=(1, 4, 12, 24))
    kept = (1 - 0.9 ** np.array([1, 4, 12, 24])) / (1 - 0.9**24)
    lost, cosine = found.by_parameter["kernel"]
    np.testing.assert_allclose(lost, 1 - kept, atol=1e-12)
    np.testing.assert_allclose(cosine, 1)


def test_refusals():
    with pytest.raises(UserError, match="each at least 1"):
        truncation(lambda params: params, jnp.ones(()), windows=(0, 3))
    with pytest.raises(UserError, match="never calls seqjax.unroll"):
        truncation(lambda params: params, jnp.ones(()), windows=(3,))
