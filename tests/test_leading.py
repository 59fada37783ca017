"""Inputs with no batch axis and with several: the numbers of the one batch axis that the core knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import ROWS, B, D, H, T, assert_same, setup

import seqjax

SOME = [row for row in ROWS if row.name in ("lstm", "gru", "conv_lstm", "lru", "deep", "learned")]
RNG = np.random.default_rng(5)
MASK, RESETS = RNG.random((B, T)) < 0.7, RNG.random((B, T)) < 0.3


@pytest.mark.parametrize("row", SOME, ids=lambda row: row.name)
def test_one_sequence_alone(row):
    cell, params, xs, carry = setup(row, 71)
    together = seqjax.unroll(cell, params, xs, carry, lengths=MASK, resets=RESETS, return_carries=True)
    for place in range(B):
        start = jax.tree.map(lambda a: a[place], carry)  # noqa: B023
        how = {"lengths": MASK[place], "resets": RESETS[place], "return_carries": True}
        alone = seqjax.unroll(cell, params, xs[place], start, **how)
        assert_same(alone, jax.tree.map(lambda a: a[place], together))  # noqa: B023
        turned = seqjax.unroll(cell, params, xs[place], start, time_major=True, **how)
        assert_same(turned, alone)
    shorter = seqjax.unroll(cell, params, xs[0], lengths=T - 2)[1]
    assert_same(shorter[: T - 2], seqjax.unroll(cell, params, xs[0, : T - 2])[1])
    assert not shorter[T - 2 :].any()


@pytest.mark.parametrize("row", SOME, ids=lambda row: row.name)
def test_several_batch_axes(row):
    cell, params, xs, carry = setup(row, 72, batch=6)
    mask, resets = RNG.random((6, T)) < 0.7, RNG.random((6, T)) < 0.3
    split = lambda a: jnp.asarray(a).reshape(2, 3, *a.shape[1:])  # noqa: E731
    want = jax.tree.map(split, seqjax.unroll(cell, params, xs, carry, lengths=mask, resets=resets, return_carries=True))
    start, how = jax.tree.map(split, carry), {"lengths": split(mask), "resets": split(resets), "return_carries": True}
    assert_same(seqjax.unroll(cell, params, split(xs), start, **how), want)

    front = lambda a: jnp.moveaxis(a, 2, 0)  # noqa: E731
    turned = {
        "lengths": front(how["lengths"]),
        "resets": front(how["resets"]),
        "return_carries": True,
        "time_major": True,
    }
    last, *stacked = seqjax.unroll(cell, params, front(split(xs)), start, **turned)
    assert_same((last, *jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2), stacked)), want)
    counts = np.array([[T, 0, 1], [2, 3, T]])
    ys = seqjax.unroll(cell, params, split(xs), lengths=counts)[1]
    assert_same(ys, split(seqjax.unroll(cell, params, xs, lengths=counts.ravel())[1]))


def test_a_step_alone_and_of_several_axes():
    cell, params, xs, carry = setup(SOME[0], 73, batch=6)
    resets = np.array([1, 0, 1, 0, 0, 1])
    want = seqjax.step(cell, params, carry, xs[:, 0], resets=resets)
    split = lambda a: jnp.asarray(a).reshape(2, 3, *a.shape[1:])  # noqa: E731
    got = seqjax.step(cell, params, jax.tree.map(split, carry), split(xs[:, 0]), resets=split(resets))
    assert_same(got, jax.tree.map(split, want))
    one = seqjax.step(cell, params, jax.tree.map(lambda a: a[0], carry), xs[0, 0], resets=resets[0])
    assert_same(one, jax.tree.map(lambda a: a[0], want))


def test_inside_jit_and_in_the_flax_layer():
    layer = seqjax.nn.Recurrent(H, num_layers=2, bidirectional=True)
    xs = RNG.normal(size=(2, 3, T, D)).astype(np.float32)
    variables = layer.init(jax.random.key(0), xs)
    flat = layer.apply(variables, xs.reshape(6, T, D))
    got = jax.jit(layer.apply)(variables, xs)
    assert_same(got, jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), flat))
    assert_same(layer.apply(variables, xs[0, 0])[1], got[1][0, 0])


def test_explain_takes_them_too(capsys):
    cell = seqjax.lstm(H, activation="relu")  # the fused engine's, whose layout goes by the batch
    params = cell.init(jax.random.key(0), D)
    alone = seqjax.explain(cell, params, jnp.ones((T, D)), lengths=2)
    several = seqjax.explain(cell, params, jnp.ones((T, 4, 5, D)), time_major=True, resets=np.zeros((T, 4, 5), bool))
    assert alone == seqjax.explain(cell, params, jnp.ones((1, T, D)))
    assert several == seqjax.explain(cell, params, jnp.ones((20, T, D))) != alone


def test_what_does_not_fit_names_the_axes():
    cell = seqjax.lstm(H)
    params = cell.init(jax.random.key(0), D)
    xs = jnp.ones((2, 3, T, D))
    for message, change in [
        (
            r"the batch axes of carry.c must be \(2, 3\), .* got shape \(6, 4\)",
            {"carry": cell.initial_carry(params, 6)},
        ),
        (r"the batch axes of lengths must be \(2, 3\), .* got shape \(3,\)", {"lengths": [1, 2, 3]}),
        (
            r"the batch axes of resets must be \(2, 3\), .* got shape \(3, 2, 6\)",
            {"resets": np.ones((3, 2, T), bool)},
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            seqjax.unroll(cell, params, xs, **change)
