"""zoneout: a loop by hand with the same masks, the expectation in evaluation, and the cells it wraps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import assert_same

import seqjax
from seqjax.wrappers import bidirectional, layer_norm, learned_initial_carry, zoneout

B, T, D, H = 3, 5, 4, 6
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
KEY = jax.random.key(7)


def _loop(step, xs, carry, mix, resets=None, initial=None):
    ys = []
    for t in range(xs.shape[1]):
        start = {k: np.asarray(v) for k, v in carry._asdict().items()}
        if resets is not None:
            start = {k: np.where(resets[:, t, None], getattr(initial, k), v) for k, v in start.items()}
        after, y = step(type(carry)(**start), xs[:, t])
        mixed = {k: mix(t, k, start[k], np.asarray(v)) for k, v in after._asdict().items()}
        carry = type(carry)(**mixed)
        ys.append(mixed["h"].astype(y.dtype))
    return carry, np.stack(ys, axis=1)


def _setup(inner, *rates):
    cell = zoneout(inner, *rates)
    params = cell.init(jax.random.key(0), D)
    start = cell.initial_carry(params, B)
    carry = jax.tree.map(lambda a: jax.random.normal(jax.random.key(1), a.shape, a.dtype), start)
    return cell, params, carry, jax.jit(lambda c, x: inner.step(params, c, x))


@pytest.mark.parametrize("inner", [seqjax.lstm(H), seqjax.gru(H, reset_after=False)], ids=["lstm", "step-alone"])
def test_training_equals_a_loop_with_the_masks_it_drew(inner):
    cell, params, carry, step = _setup(inner, 0.4, 0.7 if inner.name == "lstm" else None)
    keep = jax.tree.map(np.asarray, cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))[2].keep)
    assert keep.keys() == ({"h", "c"} if inner.name == "lstm" else {"h"})
    resets = np.random.default_rng(2).random((B, T)) < 0.3
    initial = cell.initial_carry(params, B)
    want = _loop(step, XS, carry, lambda t, k, old, new: np.where(keep[k][t], old, new), resets, initial)
    assert_same(seqjax.unroll(cell, params, XS, carry, rng=KEY, resets=resets), want)


def test_evaluation_moves_by_the_expectation():
    cell, params, carry, step = _setup(seqjax.lstm(H), 0.4, 0.7)
    share = {"h": 0.4, "c": 0.7}
    want = _loop(step, XS, carry, lambda t, k, old, new: share[k] * old + (1 - share[k]) * new)
    assert_same(seqjax.unroll(cell, params, XS, carry), want)
    after, y = cell.step(params, carry, XS[:, 0])
    assert_same(after.h, y, 0, 0)


def test_units_keep_their_value_at_their_rate_and_anew_each_step():
    cell = zoneout(seqjax.lstm(40), 0.2, 0.6)
    params = cell.init(jax.random.key(0), D)
    xs = np.zeros((30, 16, D), np.float32)
    keep = cell.wrap.noise(KEY, params, xs)[2].keep
    for field, rate in (("h", 0.2), ("c", 0.6)):
        mask = np.asarray(keep[field])
        assert mask.shape == (30, 16, 40) and mask.dtype == bool
        assert abs(mask.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / mask.size)
        for axis in range(3):
            assert 0 < np.abs(mask.mean(axis) - rate).max() < 0.5
    assert abs(np.corrcoef(np.asarray(keep["h"]).ravel(), np.asarray(keep["c"]).ravel())[0, 1]) < 0.05


def test_the_memory_goes_by_the_rate_of_h_unless_told():
    both, own = zoneout(seqjax.lstm(H), 0.3), zoneout(seqjax.lstm(H), 0.3, 0.3)
    params = own.init(jax.random.key(0), D)
    assert_same(seqjax.unroll(both, params, XS, rng=KEY), seqjax.unroll(own, params, XS, rng=KEY), 0, 0)
    memory = zoneout(seqjax.lstm(H), 0.0, 0.5)
    assert set(memory.wrap.noise(KEY, params, XS)[2].keep) == {"c"}


def test_rate_zero_is_the_cell():
    inner = seqjax.lstm(H)
    params = inner.init(jax.random.key(0), D)
    assert_same(seqjax.unroll(zoneout(inner, 0.0), params, XS, rng=KEY), seqjax.unroll(inner, params, XS), 0, 0)


@pytest.mark.parametrize("inner", [seqjax.lstm(H), layer_norm(seqjax.gru(H))], ids=["lstm", "layer_norm"])
def test_the_three_parts_survive_in_training_and_evaluation(inner):
    cell = zoneout(inner, 0.3)
    params = cell.init(jax.random.key(0), D)
    carry = jax.tree.map(lambda a: a + 0.5, cell.initial_carry(params, B))
    xs = XS.swapaxes(0, 1)
    for split, p, inputs in ((cell, params, xs), cell.wrap.noise(KEY, params, xs)):
        x, *masks = jax.tree.leaves(jax.tree.map(lambda a: a[2], inputs))
        want = split.step(p, carry, jax.tree.map(lambda a: a[2], inputs))
        products = split.parts.project(p, x), split.parts.recur(p, carry)
        assert_same(split.parts.after(p, carry, *products, masks), want)
        assert type(split.split) is type(inner.split) and split.split._replace(combine=None) == inner.split._replace(combine=None)


def test_around_dropout_both_act():
    inner = seqjax.dropout(seqjax.lstm(H), 0.5)
    cell = zoneout(inner, 0.4)
    params = cell.init(jax.random.key(0), D)
    noisy, _, zoned = cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))
    dropped = np.asarray(zoned.inner) == 0
    assert 0.2 < dropped.mean() < 0.8 and noisy.parts is not None
    step = jax.jit(lambda c, x: seqjax.lstm(H).step(params, c, x))
    keep = jax.tree.map(np.asarray, zoned.keep)
    xs = np.asarray(zoned.inner).swapaxes(0, 1)
    want = _loop(step, xs, cell.initial_carry(params, B), lambda t, k, old, new: np.where(keep[k][t], old, new))
    assert_same(seqjax.unroll(cell, params, XS, rng=KEY), want)


def test_narrow_outputs_keep_wide_memory():
    cell = zoneout(seqjax.gru(H, dtype=jnp.bfloat16), 0.3)
    params = cell.init(jax.random.key(0), D)
    for rng in (None, KEY):
        carry, ys = seqjax.unroll(cell, params, XS, rng=rng)
        assert (carry.h.dtype, ys.dtype) == (jnp.float32, jnp.bfloat16)


def test_what_cannot_be_is_refused():
    lstm, gru = seqjax.lstm(H), seqjax.gru(H)
    for inner, order in (
        (seqjax.stack(lstm, gru), r"stack\(zoneout"),
        (bidirectional(lstm, gru), r"bidirectional\(zoneout"),
        (seqjax.residual(lstm), r"residual\(zoneout"),
        (learned_initial_carry(lstm), r"learned_initial_carry\(zoneout"),
    ):
        with pytest.raises(seqjax.UserError, match=rf"zoneout works inside a step.* in the other order, {order}"):
            zoneout(inner, 0.1)
    with pytest.raises(ValueError, match="memory_rate must be at least 0 and below 1, got 1.5"):
        zoneout(lstm, 0.1, 1.5)
    with pytest.raises(seqjax.UserError, match="zoneout with memory_rate works on c of the carry, but the carry of gru has h"):
        zoneout(gru, 0.1, 0.2).init(jax.random.key(0), D)
    nameless = gru.replace(name="echo", initial_carry=lambda params, batch: jnp.zeros((batch, H)))
    with pytest.raises(seqjax.UserError, match="zoneout works on h of the carry|no attribute 'h'|has no named fields"):
        zoneout(nameless.replace(step=lambda p, c, x: (c, c)), 0.1).init(jax.random.key(0), D)
    doubled = gru.replace(step=lambda p, c, x: (c, jnp.concatenate([c.h, c.h], -1)))
    with pytest.raises(seqjax.UserError, match=r"whose output is its h, but gru gives float32 \(1, 12\) from an h of"):
        zoneout(doubled, 0.1).init(jax.random.key(0), D)
    with pytest.raises(TypeError, match="cell must be a Cell, got a float"):
        zoneout(0.1, lstm)
