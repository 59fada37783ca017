"""Properties that every cell and wrapper has, over the table.

Masks and resets, which differ between runs of a row, are given as arrays of one shape, and a row's cell is made once, so that `unroll`
compiles few programs for it.
"""

import functools

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells.table import ROWS, B, D, H, T, assert_same, names
from cells.table import setup as make_setup

import seqjax

pytestmark = pytest.mark.one_in(6)
LENGTHS = np.array([T, 0, 3], np.int32)
every = pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
# unroll treats all cells alike here; the deepest wrapper represents the others.
SOME = [row for row in ROWS if row.reference is not None or row.name == "deep"]
some = pytest.mark.parametrize("row", SOME, ids=names(SOME))


@functools.cache
def setup(row):
    """As `make_setup`, once for all tests; the inputs are read-only."""
    cell, params, xs, carry = make_setup(row)
    xs.flags.writeable = False
    return cell, params, xs, carry


def _run(case, mask=None, resets=None, xs=None, **options):
    """`unroll` with a mask, by default all true, and resets, by default all false."""
    cell, params, own, carry = case
    mask = np.ones((B, T), bool) if mask is None else mask
    resets = np.zeros((B, T), bool) if resets is None else resets
    return seqjax.unroll(cell, params, own if xs is None else xs, carry, lengths=mask, resets=resets, **options)


def _by_steps(cell, params, xs, carry):
    """(the carries after each step, ys)"""
    step = jax.jit(cell.step)
    carries, ys = [], []
    for t in range(xs.shape[1]):
        carry, y = step(params, carry, xs[:, t])
        carries.append(carry)
        ys.append(y)
    return carries, jnp.stack(ys, axis=1)


def _mask(lengths):
    return np.arange(T)[None, :] < np.asarray(lengths)[:, None]


@every
def test_streaming_steps_equal_unroll(row):
    cell, params, xs, carry = setup(row)
    assert cell.hidden_size == H and cell.input_size(params) == D
    whole = seqjax.unroll(cell, params, xs, carry)
    assert whole[1].shape == (B, T, *cell.spatial, H)
    carries, ys = _by_steps(cell, params, xs, carry)
    assert_same((carries[-1], ys), whole)


@some
def test_starts_from_the_initial_carry_and_goes_on_from_a_carry(row):
    cell, params, xs, _ = setup(row)
    whole, initial = seqjax.unroll(cell, params, xs), cell.initial_carry(params, B)
    assert_same(whole, seqjax.unroll(cell, params, xs, initial))
    middle, first = seqjax.unroll(cell, params, xs[:, :3], initial)
    last, second = seqjax.unroll(cell, params, xs[:, 3:], middle)
    assert_same((last, jnp.concatenate([first, second], axis=1)), whole)


@every
def test_lengths_hold_the_carry_and_give_zeros(row):
    cell, params, xs, carry = case = setup(row)
    last, ys = _run(case, LENGTHS)
    assert_same(_run(case, _mask(LENGTHS)), (last, ys), 0, 0)
    carries, want = _by_steps(cell, params, xs, carry)
    for b, n in enumerate(LENGTHS):
        own = jax.tree.map(lambda a, b=b: a[b], (carries[n - 1] if n else carry, want[:, :n]))
        assert_same(jax.tree.map(lambda a, b=b: a[b], (last, ys[:, :n])), own)
        assert np.all(np.asarray(ys)[b, n:] == 0)


@every
def test_nan_in_padding_changes_nothing(row):
    cell, params, xs, carry = setup(row)
    padding = ~_mask(LENGTHS)
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
    cell, params, xs, carry = case = setup(row)
    at = 3
    resets = np.zeros((B, T), bool)
    resets[:2, at] = True

    last, ys = _run(case, resets=resets)
    carries, fresh_ys = _by_steps(cell, params, xs[:, at:], cell.initial_carry(params, B))
    fresh, plain = (carries[-1], fresh_ys), seqjax.unroll(cell, params, xs, carry)
    was_reset, was_not = (jax.tree.map(lambda a, s=s: a[s], (last, ys[:, at:])) for s in (slice(2), slice(2, None)))
    assert_same(was_reset, jax.tree.map(lambda a: a[:2], fresh))
    assert_same(was_not, jax.tree.map(lambda a: a[2:], (plain[0], plain[1][:, at:])))
    assert_same(ys[:, :at], plain[1][:, :at])

    def loss(xs, carry):
        return (seqjax.unroll(cell, params, xs, carry, resets=resets)[1][:, at:] ** 2).sum()

    after = jax.jit(jax.grad(loss, argnums=(0, 1)))(xs, carry)
    assert np.all(after[0][:2, :at] == 0) and np.all(np.abs(after[0][2, :at]).max(-1) > 0)
    assert all(np.all(a[:2] == 0) and np.abs(a[2]).max() > 0 for a in jax.tree.leaves(after[1]))


@every
def test_a_reset_at_a_padded_step_does_nothing(row):
    case = setup(row)
    assert_same(_run(case, LENGTHS, ~_mask(LENGTHS)), _run(case, LENGTHS), 0, 0)


@every
def test_reverse_is_a_run_over_flipped_sequences(row):
    case = setup(row)
    xs, rng = case[2], np.random.default_rng(12)
    lengths, resets = rng.integers(0, T + 1, B), rng.random((B, T)) < 0.4
    last, ys = _run(case, _mask(lengths), reverse=True)
    want_last, want_ys = _run(case, _mask(lengths), xs=ref.flip(xs, lengths))
    assert_same((last, ys), (want_last, ref.flip(np.asarray(want_ys), lengths)))
    last, ys = _run(case, resets=resets, reverse=True)
    want_last, want_ys = _run(case, resets=resets[:, ::-1], xs=xs[:, ::-1])
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
        loss = lambda x, r=reverse: (seqjax.unroll(cell, params, x, reverse=r)[1][:, t] ** 2).sum()  # noqa: E731
        grad = jax.jit(jax.grad(loss))(xs)
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
    cell, params, xs, carry = case = setup(row)
    traces = []

    @jax.jit
    def run(params, carry, xs, lengths):
        traces.append(1)
        return seqjax.unroll(cell, params, xs, carry, lengths=lengths)

    assert_same(run(params, carry, xs, LENGTHS), _run(case, LENGTHS))
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
