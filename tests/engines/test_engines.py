"""Every engine against the plain scan, over the table of cells: values, final carries and all gradients."""

import functools
from unittest import mock

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import CELLS, ROWS, WRAPPERS, B, D, H, T, assert_same, names, setup

import seqjax
from seqjax import engines
from seqjax.engines import fused, native
from seqjax.engines.dense import Layout
from seqjax.typing import Dense, Linear

TIGHT = {"rtol": 1e-9, "atol": 1e-10}
LENGTHS = np.array([T, 0, 1], np.int32)
LAYOUT_OF = fused.layout_of


def row_of(name):
    return next(row for row in ROWS if row.name == name)


def engine_of(cell):
    """The engine, besides the scan, that the cell is tested on."""
    if isinstance(cell.split, Linear):
        return "associative"
    return "fused" if cell.parts is not None else None


def run_with(engine, cell, params, carry, xs, **options):
    """(last carry, ys, gradients of everything): the loss weighs every output and carry by numbers of its own."""

    def loss(params, carry, xs):
        last, ys = seqjax.unroll(cell, params, xs, carry, engine=engine, **options)
        leaves = [ys, *jax.tree.leaves(last)]
        weights = [jnp.asarray(np.random.default_rng(i).normal(size=a.shape), a.dtype) for i, a in enumerate(leaves)]
        total = sum((w * a).astype(jnp.float32 if a.dtype == jnp.bfloat16 else a.dtype).sum() for w, a in zip(weights, leaves))
        return total, (last, ys)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, carry, xs)


def cases(seed):
    rng = np.random.default_rng(seed)
    return {
        "lengths-resets-reverse": {"lengths": LENGTHS, "resets": rng.random((B, T)) < 0.3, "reverse": True},
        "holes-resets-remat": {
            "lengths": rng.random((B, T)) < 0.6,
            "resets": rng.random((B, T)) < 0.3,
            "remat_every": 4,
        },
    }


@pytest.mark.one_in(8)
@pytest.mark.parametrize("case", cases(0))
@pytest.mark.parametrize("row", CELLS, ids=names(CELLS))
def test_the_engine_of_a_cell_equals_the_scan(row, case, x64):
    cell, params, xs, carry = setup(row, 21, np.float64, param_dtype=jnp.float64)
    engine = engine_of(cell)
    if engine is None:
        with pytest.raises(ValueError, match="does not split into the three parts"):
            seqjax.unroll(cell, params, xs, engine="fused")
        return
    options = cases(5)[case]
    got, want = (run_with(name, cell, params, carry, xs, **options) for name in (engine, "scan"))
    assert_same(got, want, **TIGHT)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(got[0]))


@pytest.mark.one_in(6)
@pytest.mark.parametrize("layout", [Layout(columns=False), Layout(columns=True), None], ids=["rows", "columns", "apart"])
@pytest.mark.parametrize("row", [r for r in CELLS if isinstance(r.make().split, Dense)], ids=lambda row: row.name)
def test_every_way_to_do_the_products_equals_the_scan(row, layout, x64, monkeypatch):
    monkeypatch.setattr(fused, "layout_of", lambda cell, batch: layout)
    cell, params, xs, carry = setup(row, 22, np.float64, param_dtype=jnp.float64)
    for options in cases(6).values():
        got, want = (run_with(name, cell, params, carry, xs, **options) for name in ("fused", "scan"))
        assert_same(got, want, **TIGHT)


def test_noise_along_with_the_inputs_in_every_layout(x64, monkeypatch):
    for layout in (Layout(columns=False), Layout(columns=True)):
        monkeypatch.setattr(fused, "layout_of", lambda cell, batch, layout=layout: layout)
        cell = seqjax.zoneout(seqjax.lstm(H, peepholes=True, param_dtype=jnp.float64), 0.4)
        params = jax.tree.map(lambda a: a + 0.3, cell.init(jax.random.key(0), D))
        xs = np.random.default_rng(9).normal(size=(B, T, D))
        options = {"rng": jax.random.key(3), "lengths": LENGTHS}
        carry = cell.initial_carry(params, B)
        got, want = (run_with(name, cell, params, carry, xs, **options) for name in ("fused", "scan"))
        assert_same(got, want, **TIGHT)


@pytest.mark.parametrize("cell", [seqjax.lstm(300), seqjax.gru(300), seqjax.rnn(300)], ids=lambda cell: cell.name)
def test_the_layout_goes_by_cell_and_batch(cell):
    found = [LAYOUT_OF(cell, batch) for batch in (1, 32)]
    expected = {"lstm": [None, Layout(True)], "gru": [Layout(False)] * 2, "rnn": [None, Layout(False)]}
    if jax.default_backend() == "gpu":
        expected = dict.fromkeys(expected, [None] * 2)
    assert found == expected[cell.name]


def test_on_a_gpu_small_cells_of_one_gate_alone_take_columns(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = {make.__name__: LAYOUT_OF(make(128), 32) for make in (seqjax.rnn, seqjax.lstm, seqjax.gru)}
    assert found == {"rnn": Layout(columns=True), "lstm": None, "gru": None}
    assert LAYOUT_OF(seqjax.rnn(129), 32) is None


@pytest.mark.one_in(10)
@pytest.mark.parametrize("row", WRAPPERS, ids=names(WRAPPERS))
def test_training_noise_is_the_same_on_every_engine(row, x64):
    cell, params, xs, carry = setup(row, 23, np.float64, param_dtype=jnp.float64)
    options = {"lengths": LENGTHS, "resets": cases(7)["lengths-resets-reverse"]["resets"], "rng": jax.random.key(8)}
    got, want = (run_with(name, cell, params, carry, xs, **options) for name in ("auto", "scan"))
    assert_same(got, want, **TIGHT)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("layout", [Layout(columns=False), Layout(columns=True), None], ids=["rows", "columns", "apart"])
def test_a_cell_of_ones_own_that_uses_a_parameter_twice(layout, x64, monkeypatch):
    """The bias in the product and in combine, an initial carry that is a parameter, and a carry besides h."""
    monkeypatch.setattr(fused, "layout_of", lambda cell, batch: layout)
    inner = seqjax.rnn(H, param_dtype=jnp.float64)

    def combine(params, carry, gates):
        (s,) = gates
        h = jnp.tanh(s) * jnp.cos(params.bias) + 0.1 * carry.c
        return seqjax.LSTMCarry(c=h * carry.c + s, h=h), h

    def initial_carry(params, batch):
        start = jnp.broadcast_to(params.bias[None], (batch, H))
        return seqjax.LSTMCarry(c=start, h=2 * start)

    cell = inner.replace(split=inner.split._replace(combine=combine), initial_carry=initial_carry)
    params = jax.tree.map(lambda a: a + 0.2, cell.init(jax.random.key(1), D))
    xs = np.random.default_rng(31).normal(size=(B, T, D))
    for options in cases(6).values():
        got, want = (run_with(name, cell, params, None, xs, **options) for name in ("fused", "scan"))
        assert_same(got, want, **TIGHT)


@functools.cache
def both_engines(name, reverse):
    """A function of lengths and resets: values and gradients on the cell's engine and on the scan, compiled once."""
    cell, params, xs, carry = setup(row_of(name), 24)
    rows = Layout(columns=False)

    def run(lengths, resets):
        options = {"lengths": lengths, "resets": resets, "reverse": reverse}
        with mock.patch.object(fused, "layout_of", lambda cell, batch: rows if isinstance(cell.split, Dense) else None):
            return [run_with(engine, cell, params, carry, xs, **options) for engine in (engine_of(cell), "scan")]

    return jax.jit(run)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    lengths=hnp.arrays(np.int32, B, elements=st.integers(0, T)),
    resets=hnp.arrays(bool, (B, T)),
    reverse=st.booleans(),
    name=st.sampled_from(["lstm", "gru", "lstm-all", "mingru"]),
)
def test_random_lengths_and_resets(lengths, resets, reverse, name):
    got, want = both_engines(name, reverse)(lengths, resets)
    assert_same(got, want, 1e-4, 1e-5)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "lstm-all", "mingru"])
def test_bfloat16_is_near_the_scan(name):
    cell, params, xs, carry = setup(row_of(name), 25, dtype=jnp.bfloat16)
    carry = jax.tree.map(lambda a, like: a.astype(like.dtype), carry, cell.initial_carry(params, B))
    got, want = (run_with(engine, cell, params, carry, xs) for engine in (engine_of(cell), "scan"))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        scale = np.abs(np.asarray(b, np.float32)).max()
        # A bfloat16 has 8 bits; sums over B T rows are made in another order.
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=0.04 * scale)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("engine", ["scan", "fused"])
@pytest.mark.parametrize("layout", [Layout(columns=False), None], ids=["rows", "apart"])
def test_gradients_of_bfloat16_params_add_up_wide(engine, layout, monkeypatch):
    """Over 2,000 steps; a sum in bfloat16 stops growing at 256 times its terms."""
    monkeypatch.setattr(fused, "layout_of", lambda cell, batch: layout)
    xs = np.random.default_rng(32).normal(size=(1, 2000, D)).astype(jnp.bfloat16)

    def gradient(dtype, **options):
        cell = seqjax.gru(H, dtype=jnp.bfloat16, param_dtype=dtype)
        start = seqjax.gru(H).init(jax.random.key(2), D)
        params = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(dtype), start)
        loss = jax.jit(lambda p: seqjax.unroll(cell, p, xs, engine=engine, **options)[1].astype(jnp.float32).sum())
        return jax.grad(loss)(params)

    for options in ({}, {"remat_every": 2}):
        got, want = gradient(jnp.bfloat16, **options), gradient(jnp.float32, **options)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert a.dtype == jnp.bfloat16
            scale = np.abs(b).max()
            np.testing.assert_allclose(np.asarray(a, np.float32), b, atol=0.02 * scale)


@pytest.mark.parametrize("name", ["lstm-all", "lstm"])
def test_nan_in_padding_has_no_influence(name):
    cell, params, xs, carry = setup(row_of(name), 26)
    padding = np.arange(T)[None, :, None] >= LENGTHS[:, None, None]
    clean = run_with("fused", cell, params, carry, xs, lengths=LENGTHS)
    dirty = run_with("fused", cell, params, carry, np.where(padding, np.nan, xs).astype(np.float32), lengths=LENGTHS)
    assert_same(clean, dirty, 0, 0)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(clean))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["gru", "lstm-all", "mingru"])
def test_second_derivatives(name, x64):
    cell, params, xs, carry = setup(row_of(name), 27, np.float64, batch=2, steps=3, param_dtype=jnp.float64)

    def slope(engine):
        def loss(params):
            return (seqjax.unroll(cell, params, xs, carry, engine=engine)[1] ** 2).sum()

        def squared(params):
            return sum((g**2).sum() for g in jax.tree.leaves(jax.grad(loss)(params)))

        return jax.jit(jax.grad(squared))(params)

    assert_same(slope(engine_of(cell)), slope("scan"), 1e-8, 1e-8)


@pytest.mark.parametrize("compile", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_both_directions_refuse_forward_mode_too(compile):
    cell = seqjax.bidirectional(seqjax.lstm(4), seqjax.gru(4))
    params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 5, 3))
    with pytest.raises(seqjax.UserError, match='needs engine="scan"'):
        jax.jvp(compile(lambda x: seqjax.unroll(cell, params, x)[1].sum()), (xs,), (xs,))


def test_forward_mode_is_the_scans():
    cell, params, xs, _ = setup(row_of("lstm"), 28)

    def run(engine):
        return jax.jvp(lambda x: seqjax.unroll(cell, params, x, engine=engine)[1], (xs,), (np.ones_like(xs),))

    assert np.isfinite(run("scan")[1]).all()
    for engine in ("fused", "auto"):
        with pytest.raises(seqjax.UserError, match="of lstm needs engine=\"scan\", got engine='(fused|native)'"):
            run(engine)


@pytest.mark.parametrize("way", ["jvp of jit", "jit of jvp", "jacfwd of jit", "hessian", "vmap of jvp"])
def test_forward_mode_under_jit_and_vmap_is_refused_by_the_engine_and_names_the_scan(way):
    cell, params, xs, _ = setup(row_of("gru"), 28, batch=1, steps=2)
    sums = lambda x: seqjax.unroll(cell, params, x, engine="fused")[1].sum()  # noqa: E731
    along = lambda x: jax.jvp(sums, (x,), (x,))  # noqa: E731
    ways = {
        "jvp of jit": lambda x: jax.jvp(jax.jit(sums), (x,), (x,)),
        "jit of jvp": jax.jit(along),
        "hessian": jax.hessian(sums),
        "jacfwd of jit": jax.jacfwd(jax.jit(sums)),
        "vmap of jvp": lambda x: jax.vmap(along)(x[None]),
    }
    with pytest.raises(seqjax.UserError, match="of gru needs engine=\"scan\", got engine='fused'"):
        ways[way](xs)


@pytest.mark.parametrize("engine", ["fused", "scan"])
def test_gradients_under_vmap(engine):
    cell, params, xs, carry = setup(row_of("gru"), 29)

    def gradient(x):
        return jax.jit(jax.grad(lambda p: (seqjax.unroll(cell, p, x, carry, engine=engine)[1] ** 2).sum()))(params)

    both = jax.vmap(gradient)(np.stack([xs, -xs]))
    assert_same(jax.tree.map(lambda a: a[1], both), gradient(-xs), 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("name", "engine", "reason"),
    [
        ("lstm", "associative", "lstm is not a linear recurrence.*engines that can: scan, fused"),
        ("gru-before", "fused", "gru does not split into the three parts.*engines that can: scan"),
        ("gru", "cudnn", "cuDNN has only the plain LSTM"),
        ("lstm", "cudnn", "needs a GPU"),
    ],
)
def test_an_engine_that_cannot_run_a_case_says_why(name, engine, reason):
    cell, params, xs, _ = setup(row_of(name), 30)
    with pytest.raises(ValueError, match=reason):
        seqjax.unroll(cell, params, xs, engine=engine)


def test_a_carry_with_integers_is_for_the_scan():
    inner = seqjax.gru(H)

    def initial_carry(params, batch):
        return (inner.initial_carry(params, batch), jnp.zeros(batch, jnp.int32))

    def recur(params, carry):
        return inner.parts.recur(params, carry[0])

    def combine(params, carry, gates):
        after, y = inner.parts.combine(params, carry[0], gates)
        return (after, carry[1] + 1), y

    cell = inner.replace(initial_carry=initial_carry, split=inner.parts._replace(recur=recur, combine=combine))
    params = cell.init(jax.random.key(0), D)
    xs = np.ones((B, T, D), np.float32)
    assert seqjax.explain(cell, params, xs)[0].engine == "scan"
    assert seqjax.unroll(cell, params, xs)[0][1].tolist() == [T] * B
    with pytest.raises(ValueError, match="holds arrays that are not differentiable"):
        seqjax.unroll(cell, params, xs, engine="fused")


# What "auto" takes for a plain LSTM, by whether the native engine's library is there.
QUICKEST = "native" if native.library.missing() is None and native.library.instruction_set() != "portable" else "fused"


def test_explain_names_each_cell_inside(capsys):
    cell = seqjax.stack(
        seqjax.bidirectional(seqjax.lstm(4), seqjax.gru(4, reset_after=False)),
        seqjax.dropout(seqjax.mingru(4), 0.5),
        seqjax.lstm(H, layer_norm=True),
    )
    params = cell.init(jax.random.key(0), D)
    choices = seqjax.explain(cell, params, np.ones((2, 5, D), np.float32), lengths=[5, 2])
    assert [(c.cell, c.engine) for c in choices] == [
        ("lstm", QUICKEST),
        ("gru", "scan"),
        ("mingru", "associative"),
        ("lstm", "fused"),
    ]
    printed = capsys.readouterr().out.strip().split("\n")
    assert printed == [f"{c.cell}: {c.engine}, {c.reason}" for c in choices]
    with pytest.raises(ValueError, match="lengths must lie in 0 ... T = 5"):
        seqjax.explain(cell, params, np.ones((2, 5, D), np.float32), lengths=[6, 2])


@pytest.mark.parametrize("engine", ["scan", "fused"])
def test_a_stack_traces_a_cell_once_a_layer(engine):
    traces = []

    def traced(cell):
        def combine(*args):
            traces.append(1)
            return cell.split.combine(*args)

        return cell.replace(split=cell.split._replace(combine=combine))

    cell = seqjax.stack(*(traced(seqjax.gru(H)) for _ in range(3)))
    params = cell.init(jax.random.key(0), D)
    run = jax.jit(lambda x: seqjax.unroll(cell, params, x, engine=engine)[1])
    run(np.ones((B, T, D), np.float32))
    assert len(traces) == 3
    run(np.zeros((B, T, D), np.float32))
    assert len(traces) == 3


@pytest.mark.parametrize("layout", [Layout(columns=False), Layout(columns=True), None], ids=["rows", "columns", "apart"])
def test_a_training_step_traces_a_cell_three_times(layout, monkeypatch):
    """Forward alone, forward for the derivative, and its derivative."""
    monkeypatch.setattr(fused, "layout_of", lambda cell, batch: layout)
    traces = []
    cell = seqjax.lstm(H)

    def combine(*args):
        traces.append(1)
        return cell.split.combine(*args)

    traced = cell.replace(split=cell.split._replace(combine=combine))
    params = cell.init(jax.random.key(0), D)
    loss = lambda params, xs: seqjax.unroll(traced, params, xs, engine="fused")[1].sum()  # noqa: E731
    jax.jit(jax.value_and_grad(loss))(params, np.ones((B, T, D), np.float32))
    assert len(traces) == 3


def test_an_engine_that_was_removed_says_so():
    cell, params, xs, _ = setup(row_of("lstm"), 30)
    with pytest.raises(seqjax.UserError, match="one of .*'scan', 'fused'.*'pallas', which was removed"):
        seqjax.unroll(cell, params, xs, engine="pallas")


def test_the_table_of_engines():
    assert list(engines.ENGINES) == ["scan", "fused", "associative", "cudnn", "native"]
    assert all(callable(engine.run) and callable(engine.refusal) for engine in engines.ENGINES.values())
