"""The gradient with respect to every carry, against loops over the step and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import through_time as tt

import seqjax
from seqjax.diagnostics.carry_gradients import carry_gradients
from seqjax.errors import UserError

WEIGHTS = tt.drawn((tt.B, tt.T, 1), 5)


def norms_by_loop(cell, params, xs, real, resets, last):
    zeros = jax.tree.map(lambda a: jnp.zeros((tt.B, tt.T, *a.shape[1:])), cell.initial_carry(params, 1))

    def loss(deltas):
        ys, ends = tt.loop(cell, params, xs, real, resets, deltas)
        if last:
            at = [int(np.flatnonzero(row).max()) for row in real]
            ys = jnp.stack([jnp.zeros_like(y).at[t].set(y[t]) for y, t in zip(ys, at)])
        return (WEIGHTS * ys**2).sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(ends))

    return jax.tree.map(lambda g: jnp.sqrt((g.reshape(tt.B, tt.T, -1) ** 2).sum(axis=2)), jax.jit(jax.grad(loss))(zeros))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("through", ["all", "last"])
@pytest.mark.parametrize("name", ["lstm", "gru-before", "stack", "learned"])
def test_brute_force(name, through, x64):
    cell = tt.cells()[name]
    params, xs = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D))

    def loss(params):
        carry, ys = seqjax.unroll(cell, params, xs, lengths=tt.REAL, resets=tt.RESETS)
        return (WEIGHTS * ys**2).sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(carry))

    (found,) = carry_gradients(loss, params, through=through)
    expected = norms_by_loop(cell, params, xs, tt.REAL, tt.RESETS, through == "last")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found.norms, expected)
    total = np.sqrt(sum(np.square(leaf) for leaf in jax.tree.leaves(expected)))
    np.testing.assert_allclose(found.total, total, rtol=1e-9, atol=1e-12)
    assert (np.asarray(found.real) == tt.REAL).all() and (found.total[~tt.REAL] == 0).all()
    assert (found.total[0, 2] == 0) and (found.total[1, 3] == 0)  # a reset follows: nothing comes across
    assert (found.start[0] > 0) == (through == "all") and found.start[1] == 0  # the second begins with a reset


def test_both_directions(x64):
    """A run in reverse, and the backward half of a bidirectional one, are the run over the flipped inputs."""
    cell = seqjax.gru(4, **tt.WIDE)
    params, xs = tt.init(cell), tt.drawn((1, tt.T, tt.D))
    both = seqjax.bidirectional(cell, cell)

    def loss(cell, params, xs, **options):
        return (seqjax.unroll(cell, params, xs, **options)[1] ** 2).sum()

    plain, flipped = (carry_gradients(lambda x: loss(cell, params, x), x)[0].norms.h for x in (xs, xs[:, ::-1]))
    (back,) = carry_gradients(lambda: loss(cell, params, xs, reverse=True))
    (pair,) = carry_gradients(lambda: loss(both, type(both.init(jax.random.key(0), 3))(params, params), xs))
    np.testing.assert_allclose(back.norms.h, flipped[:, ::-1], rtol=1e-9)
    np.testing.assert_allclose(pair.norms.forward.h, plain, rtol=1e-9)
    np.testing.assert_allclose(pair.norms.backward.h, flipped[:, ::-1], rtol=1e-9)
    (last,) = carry_gradients(lambda: loss(cell, params, xs, reverse=True), through="last")
    (ahead,) = carry_gradients(lambda: loss(cell, params, xs[:, ::-1]), through="last")
    np.testing.assert_allclose(last.norms.h, ahead.norms.h[:, ::-1], rtol=1e-9)


def test_the_predicted_rate(x64):
    """A loss at the end of h' = s Q h, Q orthogonal, reaches each step back s times as strongly; s = 1 loses nothing."""
    q, _ = np.linalg.qr(tt.drawn((5, 5)))
    for scale in (0.5, 1.0, 1.5):
        (found,) = carry_gradients(lambda *run: seqjax.unroll(*run)[1][:, -1].sum(), *tt.linear(scale * q), tt.drawn((1, 50, tt.D)))
        np.testing.assert_allclose(found.total[0, :-1], np.sqrt(5) * scale ** np.arange(49.0, 0, -1), rtol=1e-9)


def test_noise_is_that_of_the_plain_run():
    """With a key the same masks are drawn: a probed run in training has the outputs of the plain one."""
    cell = seqjax.stack(seqjax.dropout(seqjax.zoneout(seqjax.lstm(4), 0.3), 0.5), seqjax.recurrent_dropout(seqjax.gru(4), 0.5))
    params, xs, losses = cell.init(jax.random.key(0), tt.D), jnp.ones((2, 6, tt.D)), []

    def loss():
        ys = seqjax.unroll(cell, params, xs, rng=jax.random.key(3))[1]
        jax.debug.callback(losses.append, ys.sum())
        return ys.sum()

    carry_gradients(loss)
    jax.effects_barrier()
    expected = seqjax.unroll(cell, params, xs, rng=jax.random.key(3), engine="scan")[1].sum()
    np.testing.assert_allclose(losses[-1], expected, rtol=1e-5)


def test_several_runs_and_time_major():
    encoder, decoder = seqjax.gru(4), seqjax.gru(4)
    params = encoder.init(jax.random.key(0), tt.D), decoder.init(jax.random.key(1), tt.D)
    xs = jax.random.normal(jax.random.key(2), (2, 5, tt.D))

    def loss(params, major=False):
        ahead = xs.swapaxes(0, 1) if major else xs
        carry, _ = seqjax.unroll(encoder, params[0], ahead, time_major=major, lengths=jnp.array([5, 3]))
        return seqjax.unroll(decoder, params[1], ahead[:, :3] if not major else ahead[:3], carry, time_major=major)[1].sum()

    found = carry_gradients(loss, params)
    assert [grads.total.shape for grads in found] == [(2, 5), (2, 3)] and (found[0].total[0] > 0).all()
    for a, b in zip(found, carry_gradients(lambda params: loss(params, True), params), strict=True):
        np.testing.assert_allclose(a.total, b.total, rtol=1e-5)
    # What reaches the decoder's first carry is what reaches the encoder's last.
    np.testing.assert_allclose(found[0].total[0, -1], found[1].start[0], rtol=1e-5)


def test_refusals():
    with pytest.raises(UserError, match="never calls seqjax.unroll"):
        carry_gradients(lambda: jnp.zeros(()))
    with pytest.raises(ValueError, match="through must be one of"):
        carry_gradients(lambda: jnp.zeros(()), through="first")
    cell = seqjax.gru(4)
    params = cell.init(jax.random.key(0), tt.D)
    with pytest.raises(UserError, match="one batch axis"):
        carry_gradients(lambda: seqjax.unroll(cell, params, jnp.ones((5, tt.D)))[1].sum())
