"""Properties that every cell and wrapper has, over the table."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells.table import ROWS, B, D, H, T, assert_same, names, setup

import seqjax

LENGTHS = np.array([T, 0, 3], np.int32)
every = pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
# What unroll does the same for all; of the wrappers the deepest stands for the others.
SOME = [row for row in ROWS if row.reference is not None or row.name == "deep"]
some = pytest.mark.parametrize("row", SOME, ids=names(SOME))


def _by_steps(cell, params, xs, carry):
    step = jax.jit(cell.step)
    ys = []
    for t in range(xs.shape[1]):
        carry, y = step(params, carry, xs[:, t])
        ys.append(y)
    return carry, jnp.stack(ys, axis=1)


@every
def test_streaming_steps_equal_unroll(row):
    cell, params, xs, carry = setup(row)
    assert cell.hidden_size == H and cell.input_size(params) == D
    whole = seqjax.unroll(cell, params, xs, carry)
    assert whole[1].shape == (B, T, *cell.spatial, H)
    assert_same(_by_steps(cell, params, xs, carry), whole)


@some
def test_starts_from_the_initial_carry_and_goes_on_from_a_carry(row):
    cell, params, xs, _ = setup(row)
    whole = seqjax.unroll(cell, params, xs)
    assert_same(whole, seqjax.unroll(cell, params, xs, cell.initial_carry(params, B)))
    middle, first = seqjax.unroll(cell, params, xs[:, :3])
    last, second = seqjax.unroll(cell, params, xs[:, 3:], middle)
    assert_same((last, jnp.concatenate([first, second], axis=1)), whole)


@every
def test_lengths_hold_the_carry_and_give_zeros(row):
    cell, params, xs, carry = setup(row)
    last, ys = seqjax.unroll(cell, params, xs, carry, lengths=LENGTHS)
    mask = np.arange(T)[None, :] < LENGTHS[:, None]
    assert_same(seqjax.unroll(cell, params, xs, carry, lengths=mask), (last, ys), 0, 0)
    for b, n in enumerate(LENGTHS):
        own = jax.tree.map(lambda a, b=b: a[b : b + 1], carry)
        want = seqjax.unroll(cell, params, xs[b : b + 1, :n], own)
        assert_same((jax.tree.map(lambda a, b=b: a[b : b + 1], last), ys[b : b + 1, :n]), want)
        assert np.all(np.asarray(ys)[b, n:] == 0)


@every
def test_nan_in_padding_changes_nothing(row):
    cell, params, xs, carry = setup(row)
    padding = np.arange(T)[None, :] >= LENGTHS[:, None]
    padding = padding.reshape(padding.shape + (1,) * (xs.ndim - 2))

    @jax.jit
    def run(params, carry, xs):
        def loss(params, carry, xs):
            last, ys = seqjax.unroll(cell, params, xs, carry, lengths=LENGTHS, rng=jax.random.key(3))
            return sum((a**2).sum() for a in jax.tree.leaves((last, ys))), (last, ys)

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, carry, xs)

    clean, dirty = run(params, carry, xs), run(params, carry, np.where(padding, np.nan, xs).astype(np.float32))
    assert_same(clean, dirty, 0, 0)
    assert np.all(np.isfinite(clean[1][2])) and np.all(np.where(padding, clean[1][2], 0) == 0)
    assert np.abs(clean[1][2]).max() > 0


@every
def test_a_reset_forgets(row):
    cell, params, xs, carry = setup(row)
    at = 3
    resets = np.zeros((B, T), bool)
    resets[:2, at] = True

    def outputs(xs, carry, params=params):
        return seqjax.unroll(cell, params, xs, carry, resets=resets)

    last, ys = outputs(xs, carry)
    fresh = seqjax.unroll(cell, params, xs[:, at:])
    plain = seqjax.unroll(cell, params, xs, carry)
    was_reset, was_not = (jax.tree.map(lambda a, s=s: a[s], (last, ys[:, at:])) for s in (slice(2), slice(2, None)))
    assert_same(was_reset, jax.tree.map(lambda a: a[:2], fresh))
    assert_same(was_not, jax.tree.map(lambda a: a[2:], (plain[0], plain[1][:, at:])))
    assert_same(ys[:, :at], plain[1][:, :at])
    after = jax.jit(jax.grad(lambda x, c: (outputs(x, c)[1][:, at:] ** 2).sum(), argnums=(0, 1)))(xs, carry)
    assert np.all(after[0][:2, :at] == 0) and np.all(np.abs(after[0][2, :at]).max(-1) > 0)
    assert all(np.all(a[:2] == 0) and np.abs(a[2]).max() > 0 for a in jax.tree.leaves(after[1]))


@every
def test_a_reset_at_a_padded_step_does_nothing(row):
    cell, params, xs, carry = setup(row)
    resets = np.arange(T)[None, :] >= LENGTHS[:, None]
    run = jax.jit(lambda resets: seqjax.unroll(cell, params, xs, carry, lengths=LENGTHS, resets=resets))
    assert_same(run(resets), run(np.zeros_like(resets)), 0, 0)


@every
def test_reverse_is_a_run_over_flipped_sequences(row):
    cell, params, xs, carry = setup(row, 11)
    lengths = np.random.default_rng(12).integers(0, T + 1, B)
    last, ys = seqjax.unroll(cell, params, xs, carry, lengths=lengths, reverse=True)
    want_last, want_ys = seqjax.unroll(cell, params, ref.flip(xs, lengths), carry, lengths=lengths)
    assert_same((last, ys), (want_last, ref.flip(np.asarray(want_ys), lengths)))
    resets = np.random.default_rng(13).random((B, T)) < 0.4
    last, ys = seqjax.unroll(cell, params, xs, carry, reverse=True, resets=resets)
    want_last, want_ys = seqjax.unroll(cell, params, xs[:, ::-1], carry, resets=resets[:, ::-1])
    assert_same((last, ys), (want_last, want_ys[:, ::-1]))


@some
def test_time_major_is_the_same_run(row):
    cell, params, xs, carry = setup(row)
    resets = np.random.default_rng(1).random((B, T)) < 0.3
    mask = np.random.default_rng(2).random((B, T)) < 0.7
    settings = {"reverse": True, "rng": jax.random.key(5)}
    last, ys = seqjax.unroll(cell, params, xs, carry, lengths=mask, resets=resets, **settings)
    turned = xs.swapaxes(0, 1)
    got = seqjax.unroll(cell, params, turned, carry, lengths=mask.T, resets=resets.T, time_major=True, **settings)
    assert_same(got, (last, ys.swapaxes(0, 1)))


@every
def test_causality_by_gradient(row):
    cell, params, xs, _ = setup(row)
    t = 2
    for reverse in (False, True):
        grad = jax.grad(lambda x, r=reverse: (seqjax.unroll(cell, params, x, reverse=r)[1][:, t] ** 2).sum())(xs)
        reached = np.abs(grad.swapaxes(0, 1)).reshape(T, -1).max(axis=1) > 0
        assert reached.tolist() == [(s >= t) if reverse else (s <= t) for s in range(T)]


@some
def test_remat_gives_the_same_gradients(row):
    reverse = row.name in ("rnn", "lstm", "deep")
    cell, params, xs, carry = setup(row)
    resets = np.random.default_rng(1).random((B, T)) < 0.2

    def gradients(every):
        def loss(params, carry, xs):
            options = {"lengths": LENGTHS, "resets": resets, "rng": jax.random.key(1), "reverse": reverse}
            last, ys = seqjax.unroll(cell, params, xs, carry, remat_every=every, **options)
            return (ys**2).sum() + sum(a.sum() for a in jax.tree.leaves(last)), (last, ys)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, carry, xs)

    want = gradients(None)
    for size in (3, 4, 9) if row.name in ("lstm", "gru") else (4,):
        assert_same(gradients(size), want)


@every
def test_jit_vmap_and_no_second_compilation(row):
    cell, params, xs, carry = setup(row)
    traces = []

    @jax.jit
    def run(params, carry, xs, lengths):
        traces.append(1)
        return seqjax.unroll(cell, params, xs, carry, lengths=lengths)

    want = seqjax.unroll(cell, params, xs, carry, lengths=LENGTHS)
    assert_same(run(params, carry, xs, LENGTHS), want)
    run(params, carry, xs + 1, LENGTHS[::-1])
    assert len(traces) == 1
    pair = np.stack([xs, -xs])
    got = jax.vmap(lambda x: seqjax.unroll(cell, params, x, carry))(pair)
    one = seqjax.unroll(cell, params, -xs, carry)
    assert_same(jax.tree.map(lambda a: a[1], got), one)


@some
def test_no_steps_give_the_carry(row):
    cell, params, xs, carry = setup(row)
    for every in (None, 2):
        last, ys = seqjax.unroll(cell, params, xs[:, :0], carry, remat_every=every)
        assert_same(last, carry, 0, 0)
        assert ys.shape == (B, 0, *cell.spatial, H)


@every
def test_params_and_carry_survive_serialization(row):
    cell, params, _, carry = setup(row)
    other = cell.init(jax.random.key(7), D), cell.initial_carry(params, B)
    back = flax.serialization.from_bytes(other, flax.serialization.to_bytes((params, carry)))
    assert_same(back, (params, carry), 0, 0)
    assert jax.tree.map(lambda a: a.dtype, back) == jax.tree.map(lambda a: a.dtype, (params, carry))
