"""One time step: `cell.step` with resets, as unroll does them, and with checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import ROWS, B, D, H, assert_same, setup

import seqjax

RESETS = np.array([True, False, True])
STREAMED = [row for row in ROWS if "bidirectional" not in row.name]


@pytest.mark.parametrize("row", STREAMED, ids=lambda row: row.name)
def test_a_step_is_an_unroll_over_one(row):
    cell, params, xs, carry = setup(row, 61, steps=1)
    for resets in (None, RESETS):
        last, ys = seqjax.unroll(cell, params, xs, carry, resets=None if resets is None else resets[:, None])
        assert_same(seqjax.step(cell, params, carry, xs[:, 0], resets=resets), (last, ys[:, 0]))


@pytest.mark.parametrize("kind", [np.int32, np.float32, np.uint8, jnp.bfloat16])
def test_flags_may_be_numbers(kind):
    cell, params, xs, carry = setup(STREAMED[0], 62)
    want = seqjax.step(cell, params, carry, xs[:, 0], resets=RESETS)
    flags = jnp.asarray(RESETS, kind)
    assert_same(seqjax.step(cell, params, carry, xs[:, 0], resets=flags), want)
    inside = jax.jit(lambda flags: seqjax.step(cell, params, carry, xs[:, 0], resets=flags))(flags)
    assert_same(inside, want)
    many = np.stack([RESETS] * xs.shape[1], axis=1)
    got = seqjax.unroll(cell, params, xs, resets=jnp.asarray(many, kind))
    assert_same(got, seqjax.unroll(cell, params, xs, resets=many))


def test_what_does_not_fit_is_refused():
    cell = seqjax.lstm(H)
    params = cell.init(jax.random.key(0), D)
    carry, x = cell.initial_carry(params, B), jnp.ones((B, D))
    for error, message, change in [
        (ValueError, r"the batch axes of carry.c must be \(3, 1\), .* got shape \(3, 4\)", {"x": x[:, None]}),
        (TypeError, "cell must be a Cell, got a function", {"cell": seqjax.lstm}),
        (ValueError, r"x has shape \(3, 3\), \(B, D\), and the params of lstm take D = 4", {"x": x[:, 1:]}),
        (TypeError, "x must be floating point, got int32", {"x": jnp.ones((B, D), jnp.int32)}),
        (ValueError, r"carry.c must have shape \(3, 4\)", {"carry": cell.initial_carry(params, 2)}),
        (TypeError, "carry must be built as", {"carry": tuple(carry)}),
        (ValueError, r"resets must have shape \(3,\), got shape \(2,\)", {"resets": RESETS[:2]}),
        (ValueError, "resets must be bool, or numbers that are 0 and 1", {"resets": np.array([0, 1, 2])}),
        (TypeError, "params are not those of lstm", {"params": x}),
    ]:
        with pytest.raises(error, match=message):
            seqjax.step(**({"cell": cell, "params": params, "carry": carry, "x": x} | change))
    both = seqjax.bidirectional(cell, cell)
    params = both.init(jax.random.key(0), D)
    with pytest.raises(seqjax.UserError, match="it needs the whole sequence"):
        seqjax.step(both, params, both.initial_carry(params, B), x)
