"""bidirectional: every packed sequence run separately, merges, windows, noise, and nesting."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells.table import as_numpy, assert_same
from cells.wrapper_rows import learned

import seqjax
from seqjax.wrappers import bidirectional, residual, stack, zoneout

B, T, D, H = 3, 7, 2, 3
LENGTHS = np.array([T, 0, 1])
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
CELLS = (seqjax.gru(H), seqjax.lstm(H))
PAIR = bidirectional(*CELLS)
PARAMS = PAIR.init(jax.random.key(0), D)


def _random_carry(cell, params, seed=1):
    rng = np.random.default_rng(seed)
    start = cell.initial_carry(params, B)
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype), start)


PACKED = bidirectional(learned(seqjax.rnn(H)), learned(seqjax.rnn(2)))
PACKED_PARAMS = PACKED.init(jax.random.key(3), D)
PACKED_CARRY = _random_carry(PACKED, PACKED_PARAMS)


def _segments(steps, resets):
    """The real steps of a row, split before each reset; and whether the first part starts from the initial carry."""
    parted = []
    for t in steps:
        if not parted or resets[t]:
            parted.append([])
        parted[-1].append(t)
    return parted


def _apart(params, start, fresh, x, segments, size):
    """Runs each segment by itself: the first from `start`, the others from `fresh`. Outputs by step, and the carry."""
    ys, carry = np.zeros((T, size)), start
    for number, steps in enumerate(segments):
        carry = start if number == 0 else fresh
        carry, out = ref.forward(ref.RNN_TANH, params, carry, x[None, steps])
        ys[steps] = out[0]
    return ys, carry


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(mask=hnp.arrays(bool, (B, T)), resets=hnp.arrays(bool, (B, T)), reverse=st.booleans(), seed=st.integers(0, 99))
def test_packed_sequences_with_holes_run_each_apart(mask, resets, reverse, seed):
    xs = np.random.default_rng(seed).normal(size=XS.shape).astype(np.float32)
    last, ys = seqjax.unroll(PACKED, PACKED_PARAMS, xs, PACKED_CARRY, lengths=mask, resets=resets, reverse=reverse)
    for b in range(B):
        steps = [t for t in range(T) if mask[b, t]]
        ahead = _segments(steps[::-1] if reverse else steps, resets[b])
        back = [segment[::-1] for segment in ahead[::-1]]
        fresh_start = bool(ahead) and bool(resets[b, ahead[0][0]])
        for part, segments, size, out in (("forward", ahead, H, ys[b, :, :H]), ("backward", back, 2, ys[b, :, H:])):
            params = getattr(PACKED_PARAMS, part)
            fresh = {"h": np.asarray(params.carry.h, np.float64)[None]}
            start = {"h": np.asarray(getattr(PACKED_CARRY, part).h, np.float64)[b : b + 1]}
            start = fresh if fresh_start and part == "forward" else start
            want, carry = _apart(as_numpy(params.cell), start, fresh, xs[b].astype(np.float64), segments, size)
            assert_same(np.asarray(out), want)
            assert_same(np.asarray(getattr(last, part).h[b : b + 1]), carry["h"])


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "multiply"])
def test_merges_each_cell_in_its_direction_at_every_length(merge):
    carry = _random_carry(PAIR, PARAMS)
    last, ys = seqjax.unroll(bidirectional(*CELLS, merge), PARAMS, XS, carry, lengths=LENGTHS)
    ahead, f = seqjax.unroll(CELLS[0], PARAMS.forward, XS, carry.forward, lengths=LENGTHS)
    back, b = seqjax.unroll(CELLS[1], PARAMS.backward, XS, carry.backward, lengths=LENGTHS, reverse=True)
    f, b = np.asarray(f), np.asarray(b)
    want = {"concat": np.concatenate([f, b], -1), "sum": f + b, "mean": (f + b) / 2, "multiply": f * b}[merge]
    assert_same((last, ys), (type(last)(ahead, back), want))
    assert bidirectional(*CELLS, merge).hidden_size == ys.shape[-1]
    assert np.all(np.asarray(ys)[np.arange(T)[None] >= LENGTHS[:, None]] == 0) and np.abs(ys[2, 0]).max() > 0
    assert_same(jax.tree.map(lambda a: a[1], last), jax.tree.map(lambda a: a[1], carry), 0, 0)


def test_no_merge_gives_the_pair_and_a_function_what_it_makes_of_it():
    settings = {"lengths": LENGTHS, "resets": np.arange(T)[None] % np.array([[3], [9], [2]]) == 1}
    last, both = seqjax.unroll(bidirectional(*CELLS), PARAMS, XS, **settings)
    pair = bidirectional(*CELLS, None)
    assert pair.hidden_size == (H, H)
    assert_same(seqjax.unroll(pair, PARAMS, XS, **settings), (last, (both[..., :H], both[..., H:])))
    # One step of one sequence is what it gets, and its value at padded steps does not show.
    merge = lambda f, b: {"outer": jnp.outer(f, b).reshape(H * H) + 1, "most": jnp.maximum(f, b)}  # noqa: E731
    cell = bidirectional(*CELLS, merge)
    assert cell.hidden_size == {"outer": H * H, "most": H}
    f, b = np.asarray(both[..., :H]), np.asarray(both[..., H:])
    real = (np.arange(T)[None] < LENGTHS[:, None])[..., None]
    outer = np.einsum("btf,btg->btfg", f, b).reshape(B, T, H * H) + 1
    assert_same(seqjax.unroll(cell, PARAMS, XS, **settings), (last, {"outer": outer * real, "most": np.maximum(f, b)}))
    assert bidirectional(*CELLS, jnp.maximum) == bidirectional(*CELLS, jnp.maximum) != bidirectional(*CELLS, jnp.minimum)


def test_a_pair_in_a_stack_goes_through_a_function():
    choose = lambda pair: pair[0] * jax.nn.sigmoid(pair[1])  # noqa: E731
    cell = stack(bidirectional(*CELLS, None), choose, bidirectional(*CELLS, None))
    params = cell.init(jax.random.key(0), D)
    f, b = seqjax.unroll(cell.inner[0], params[0], XS, lengths=LENGTHS)[1]
    want = seqjax.unroll(cell.inner[2], params[2], f * jax.nn.sigmoid(b), lengths=LENGTHS)[1]
    assert_same(seqjax.unroll(cell, params, XS, lengths=LENGTHS)[1], want)


def test_cells_whose_outputs_are_pairs():
    inside = bidirectional(seqjax.gru(H), seqjax.gru(2), None)
    for merge, size in (("concat", (6, 4)), ("sum", (3, 2)), (None, ((3, 2), (3, 2)))):
        cell = bidirectional(inside, inside, merge)
        assert cell.hidden_size == size
        params = cell.init(jax.random.key(0), D)
        ys = seqjax.unroll(cell, params, XS, lengths=LENGTHS)[1]
        assert jax.tree.map(lambda a: a.shape[-1], ys) == size
        f, b = (seqjax.unroll(inside, p, XS, lengths=LENGTHS, reverse=r)[1] for p, r in zip(params, (False, True)))
        made = {"concat": lambda x, y: np.concatenate([x, y], -1), "sum": np.add}.get(merge)
        assert_same(ys, (f, b) if merge is None else jax.tree.map(made, f, b))


def test_padding_has_no_influence_and_every_real_step_has():
    padding = np.arange(T)[None, :, None] >= LENGTHS[:, None, None]

    @jax.jit
    def run(params, xs):
        def loss(params, xs):
            last, ys = seqjax.unroll(PAIR, params, xs, lengths=LENGTHS)
            return (ys[:, 2] ** 2).sum() + (ys[2] ** 2).sum(), (last, ys)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, xs)

    clean, dirty = run(PARAMS, XS), run(PARAMS, np.where(padding, np.nan, XS).astype(np.float32))
    assert_same(clean, dirty, 0, 0)
    reached = np.abs(clean[1][1]).max(-1) > 0
    assert reached.tolist() == (np.arange(T)[None] < LENGTHS[:, None]).tolist()


def test_layouts_jit_and_remat_give_the_same():
    resets = np.random.default_rng(1).random((B, T)) < 0.3
    want = seqjax.unroll(PAIR, PARAMS, XS, lengths=LENGTHS, resets=resets, reverse=True)
    turned = XS.swapaxes(0, 1)
    settings = {"lengths": LENGTHS, "reverse": True, "remat_every": 3}
    last, ys = seqjax.unroll(PAIR, PARAMS, turned, resets=resets.T, time_major=True, **settings)
    assert_same((last, ys.swapaxes(0, 1)), want)


def test_windows_that_start_anew_backward():
    cell = bidirectional(*CELLS, fresh_backward=True)
    middle, first = seqjax.unroll(cell, PARAMS, XS[:, :4])
    last, second = seqjax.unroll(cell, PARAMS, XS[:, 4:], middle)
    assert_same(last.backward, cell.initial_carry(PARAMS, B).backward, 0, 0)
    ahead, f = seqjax.unroll(CELLS[0], PARAMS.forward, XS)
    assert_same((last.forward, jnp.concatenate([first, second], 1)[..., :H]), (ahead, f))
    assert_same(second, jnp.concatenate([f[:, 4:], seqjax.unroll(PAIR, PARAMS, XS[:, 4:])[1][..., H:]], -1))
    summary = seqjax.unroll(PAIR, PARAMS, XS[:, :4])[0].backward
    assert np.abs(summary.h).max() > 0


def test_nested_in_a_stack_residual_and_each_other():
    wide = bidirectional(seqjax.gru(H), seqjax.rnn(H))
    cell = stack(PAIR, residual(wide))
    params = cell.init(jax.random.key(1), D)
    settings = {"lengths": np.array([5, 2, 7]), "resets": np.arange(T)[None] % np.array([[3], [9], [2]]) == 1}
    last, ys = seqjax.unroll(cell, params, XS, **settings)
    first, hand = seqjax.unroll(PAIR, params[0], XS, **settings)
    second, more = seqjax.unroll(wide, params[1], hand, **settings)
    assert_same((last, ys), ((first, second), hand + more))
    # Backward of backward is forward.
    twice = bidirectional(seqjax.rnn(1), PAIR)
    params = twice.init(jax.random.key(2), D)
    last, ys = seqjax.unroll(twice, params, XS, **settings)
    f = seqjax.unroll(CELLS[1], params.backward.backward, XS, **settings)[1]
    assert_same(ys[..., 1 + H :], f)


def test_each_direction_draws_its_own_noise():
    echo = seqjax.dropout(seqjax.rnn(D, "relu"), 0.5)
    eye = seqjax.RNNParams(jnp.eye(D), jnp.zeros((D, D)), jnp.zeros(D))
    cell = bidirectional(echo, echo)
    xs = np.abs(np.random.default_rng(0).normal(size=(20, 20, D)).astype(np.float32)) + 1
    ys = np.asarray(seqjax.unroll(cell, type(PARAMS)(eye, eye), xs, rng=jax.random.key(0))[1])
    kept = (ys > 0).astype(float)
    assert abs(np.corrcoef(kept[..., :D].ravel(), kept[..., D:].ravel())[0, 1]) < 0.15
    around = seqjax.unroll(
        seqjax.dropout(bidirectional(seqjax.rnn(D, "relu"), seqjax.rnn(D, "relu")), 0.5), type(PARAMS)(eye, eye), xs, rng=jax.random.key(0)
    )[1]
    assert_same(around[..., :D], around[..., D:])
    assert 0.4 < (np.asarray(around) > 0).mean() < 0.6


def test_what_cannot_be_is_refused():
    with pytest.raises(seqjax.UserError, match=r"bidirectional\(gru, lstm\) has no step.* run it with seqjax.unroll"):
        PAIR.step(PARAMS, PAIR.initial_carry(PARAMS, B), XS[:, 0])
    with pytest.raises(ValueError, match="merge='sum' needs cells of equal hidden_size, got 3 and 4"):
        bidirectional(seqjax.lstm(3), seqjax.lstm(4), "sum")
    with pytest.raises(ValueError, match=r"merge must be one of \['concat'.*got 'max'"):
        bidirectional(*CELLS, "max")
    with pytest.raises(ValueError, match=r"outputs have the same structure, got sizes 3 and \(3, 3\)"):
        bidirectional(CELLS[0], bidirectional(*CELLS, None))
    with pytest.raises(ValueError, match="the function dot must return arrays"):
        bidirectional(*CELLS, jnp.dot)
    with pytest.raises(seqjax.UserError, match="to_flax cannot represent merge='pair' .*to_keras can"):
        seqjax.interop.to_flax(bidirectional(*CELLS[:1] * 2, None), PARAMS._replace(backward=PARAMS.forward))
    with pytest.raises(ValueError, match=r"the input size is 2 and the output size is \(3, 3\)"):
        residual(bidirectional(*CELLS, None)).init(jax.random.key(0), D)
    with pytest.raises(TypeError, match="backward must be a Cell, got a str"):
        bidirectional(CELLS[0], "gru")
    with pytest.raises(ValueError, match="agree in their spatial axes"):
        bidirectional(CELLS[0], CELLS[1].replace(spatial=(2,)))
    with pytest.raises(seqjax.UserError, match=r"wrap in the other order, bidirectional\(zoneout\(...\)\)"):
        zoneout(PAIR, 0.1)
