"""unroll: refusals, compilations, and random lengths with resets against NumPy."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells.table import CELLS, B, T, as_numpy, assert_same, setup

import seqjax

LSTM = next(row for row in CELLS if row.name == "lstm")
CELL, PARAMS, XS, CARRY = setup(LSTM)
SMALL = CELL.initial_carry(PARAMS, 2)
OTHER = seqjax.gru(4).init(jax.random.key(0), 4)
WIDER = seqjax.lstm(8).init(jax.random.key(0), 4)
NARROW = CARRY._replace(h=CARRY.h.astype(jnp.bfloat16))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    lengths=hnp.arrays(np.int32, B, elements=st.integers(0, T)),
    resets=hnp.arrays(bool, (B, T)),
    reverse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_lengths_and_resets_equal_numpy(lengths, resets, reverse, seed):
    xs = np.random.default_rng(seed).normal(size=XS.shape).astype(np.float32)
    last, ys = seqjax.unroll(CELL, PARAMS, xs, CARRY, lengths=lengths, resets=resets, reverse=reverse)
    turn = (lambda a: ref.flip(a, lengths)) if reverse else (lambda a: a)
    mask = np.arange(T)[None, :] < lengths[:, None]
    want_last, want_ys = ref.forward(LSTM.reference, as_numpy(PARAMS), as_numpy(CARRY), turn(xs), mask, turn(resets))
    assert_same((as_numpy(last), ys), (want_last, turn(want_ys)))


def test_a_mask_may_have_holes():
    mask = np.random.default_rng(0).random((B, T)) < 0.5
    last, ys = seqjax.unroll(CELL, PARAMS, XS, CARRY, lengths=mask)
    want_last, want_ys = ref.forward(LSTM.reference, as_numpy(PARAMS), as_numpy(CARRY), XS, mask)
    assert_same((as_numpy(last), ys), (want_last, want_ys))


def test_resets_go_to_the_initial_carry_of_the_cell():
    start = jax.tree.map(lambda a: np.full(a.shape, 0.3, np.float32), CARRY)
    cell = CELL.replace(initial_carry=lambda params, batch: jax.tree.map(lambda a: jnp.asarray(a[:batch]), start))
    resets = np.zeros((B, T), bool)
    resets[:, 2] = True
    _, ys = seqjax.unroll(cell, PARAMS, XS, CARRY, resets=resets)
    assert_same(ys[:, 2:], seqjax.unroll(CELL, PARAMS, XS[:, 2:], start)[1])


def test_an_eager_call_is_compiled_once(monkeypatch):
    steps = []

    def step(params, carry, x):
        steps.append(1)
        return CELL.step(params, carry, x)

    cell = CELL.replace(step=step)
    seqjax.unroll(cell, PARAMS, XS)
    first = len(steps)
    seqjax.unroll(cell, PARAMS, XS + 1)
    assert first > 0 and len(steps) == first


def test_remat_keeps_fewer_values():
    def bytes_kept(every):
        xs = np.random.default_rng(0).normal(size=(2, 64, XS.shape[-1])).astype(np.float32)
        _, back = jax.vjp(lambda p: seqjax.unroll(CELL, p, xs, remat_every=every)[1], PARAMS)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(back))

    assert bytes_kept(8) < bytes_kept(None) / 2


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, r"xs must have 3 axes, \(B, T, D\), got shape \(4,\)", {"xs": XS[0, 0]}),
        (TypeError, "cell must be a Cell, got a function", {"cell": seqjax.lstm}),
        (ValueError, r"xs has shape \(3, 6, 3\), .* the params of lstm take D = 4", {"xs": XS[..., :3]}),
        (TypeError, "xs must be floating point, got int32; embed or one-hot", {"xs": XS.astype(np.int32)}),
        (ValueError, r"carry.c must have shape \(3, 4\) .* got shape \(2, 4\)", {"carry": SMALL}),
        (TypeError, "carry.h must be float32, got bfloat16", {"carry": NARROW}),
        (TypeError, "carry must be built as LSTMCarry", {"carry": tuple(CARRY)}),
        (ValueError, r"lengths must have shape \(3,\), .* got shape \(2,\)", {"lengths": np.array([1, 2])}),
        (TypeError, "lengths must be integers .* got dtype float32", {"lengths": np.ones(3, np.float32)}),
        (ValueError, "lengths must lie in 0 ... T = 6, got values from 1 to 7", {"lengths": [1, 7, 2]}),
        (ValueError, "lengths must lie in 0 ... T = 6, got values from -1 to 2", {"lengths": [1, -1, 2]}),
        (ValueError, r"lengths as a mask must have shape \(3, 6\), got shape \(6, 3\)", {"lengths": np.ones((6, 3), bool)}),
        (ValueError, r"resets must have shape \(3, 6\), got shape \(3,\)", {"resets": np.ones(3, bool)}),
        (ValueError, "resets must be bool, or numbers that are 0 and 1", {"resets": np.full((3, 6), 2, np.int32)}),
        (ValueError, "resets must be bool, or numbers that are 0 and 1", {"resets": np.full((3, 6), 0.5)}),
        (TypeError, "resets must be bool, or numbers .* got dtype <U1", {"resets": np.full((3, 6), "1")}),
        (ValueError, r"engine must be one of \['auto', 'scan', 'fused', .*\], got 'warp'", {"engine": "warp"}),
        (TypeError, "params are not those of lstm: got a ndarray", {"params": XS}),
        (TypeError, "params of lstm must be built as .*LSTMParams.*got .*GRUParams", {"params": OTHER}),
        (ValueError, r"params.kernel of lstm must have shape \(4, 16\), got shape \(4, 32\)", {"params": WIDER}),
        (TypeError, "rng must be one key of jax.random, .*, got 0", {"rng": 0}),
        (ValueError, "remat_every must be at least 1 step, got 0", {"remat_every": 0}),
    ],
)
def test_what_does_not_fit_is_refused(error, message, change):
    with pytest.raises(error, match=message):
        seqjax.unroll(**{"cell": CELL, "params": PARAMS, "xs": XS, **change})


def test_traced_lengths_are_not_checked_for_their_values():
    run = jax.jit(lambda n: seqjax.unroll(CELL, PARAMS, XS, lengths=n)[1])
    assert_same(run(np.array([2, 3, 6])), seqjax.unroll(CELL, PARAMS, XS, lengths=[2, 3, 6])[1])


def test_auto_is_the_engine_that_explain_names():
    (choice,) = seqjax.explain(CELL, PARAMS, XS)
    assert_same(seqjax.unroll(CELL, PARAMS, XS, engine=choice.engine), seqjax.unroll(CELL, PARAMS, XS), 0, 0)
