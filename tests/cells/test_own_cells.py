"""The two cells of docs/own_cell.md, made outside the package: the suites of the built-in cells, every engine, wrapper and layer."""

import inspect
import pathlib
import pickle
import re
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells import test_table as generic
from cells import wrapper_rows
from cells.table import B, D, H, Row, T, as_numpy, assert_same, setup

import seqjax
from seqjax.engines import fused
from seqjax.engines.dense import Layout
from seqjax.models import LanguageModel

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "own_cell.md").read_text("utf-8")
own = sys.modules["own_cell"] = types.ModuleType("own_cell")  # as if the page's code stood in a module own_cell.py
exec(compile("\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)), "own_cell.md", "exec"), vars(own))

UGRNN = Row("ugrnn", lambda **o: own.ugrnn(H, **o), None)
MOGRIFIER = Row("mogrifier", lambda **o: own.mogrifier(H, **o), None)
ROWS = [UGRNN, MOGRIFIER]
every = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
SUITE = [test for name, test in vars(generic).items() if name.startswith("test_")]
LENGTHS, RESETS = np.array([T, 2, 0]), np.random.default_rng(4).random((B, T)) < 0.3


@pytest.mark.one_in(3)
@every
@pytest.mark.parametrize("test", SUITE, ids=lambda test: test.__name__)
def test_the_suite_of_every_cell(test, row):
    assert list(inspect.signature(test).parameters) == ["row"]
    test(row)


def gradients(cell, params, xs, engine, **options):
    def loss(params, xs):
        last, ys = seqjax.unroll(cell, params, xs, engine=engine, lengths=LENGTHS, resets=RESETS, **options)
        return sum(jnp.sum(jnp.sin(a)) for a in [ys, *jax.tree.leaves(last)]), ys

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, xs)


def mogrified(p, carry, x):
    h = carry["h"]
    x = 2 * ref.sigmoid(h @ p["q0"]) * x
    h = 2 * ref.sigmoid(x @ p["r0"]) * h
    x = 2 * ref.sigmoid(h @ p["q1"]) * x
    h = 2 * ref.sigmoid(x @ p["r1"]) * h
    x = 2 * ref.sigmoid(h @ p["q2"]) * x
    return ref.LSTM.step(p, {"c": carry["c"], "h": h}, x)


def updated(p, carry, x):
    g, n = np.split(x @ p["kernel"] + p["bias"] + carry["h"] @ p["recurrent_kernel"], 2, axis=-1)
    h = ref.sigmoid(g) * carry["h"] + (1 - ref.sigmoid(g)) * np.tanh(n)
    return {"h": h}, h


@every
def test_the_equations_in_numpy(row, x64):
    cell, params, xs, carry = setup(row, 1, np.float64, param_dtype=jnp.float64)
    if row is UGRNN:
        p, reference = as_numpy(params), ref.Reference(updated)
    else:
        mixing = {f"{name}{i}": np.asarray(a) for name in "qr" for i, a in enumerate(getattr(params, name))}
        p, reference = as_numpy(params.cell) | mixing, ref.Reference(mogrified)
    mask = np.arange(T)[None] < LENGTHS[:, None]
    want_carry, want_ys = ref.forward(reference, p, as_numpy(carry), xs, mask, RESETS)[:2]
    last, ys = seqjax.unroll(cell, params, xs, carry, lengths=LENGTHS, resets=RESETS)
    assert_same((as_numpy(last), ys), (want_carry, want_ys), 1e-10, 1e-10)


@pytest.mark.parametrize("layout", [Layout(columns=False), Layout(columns=True), None], ids=["rows", "columns", "apart"])
def test_the_builder_gives_every_form_of_the_fused_engine(layout, x64, monkeypatch):
    monkeypatch.setattr(fused, "layout_of", lambda cell, batch: layout)
    cell, params, xs, _ = setup(UGRNN, 2, np.float64, param_dtype=jnp.float64)
    assert_same(*(gradients(cell, params, xs, engine) for engine in ("fused", "scan")), 1e-9, 1e-10)


def test_a_step_alone_is_for_the_scan():
    cell, params, xs, _ = setup(MOGRIFIER, 3)
    assert seqjax.explain(cell, params, xs)[0].engine == "scan"
    for engine in ("fused", "associative", "cudnn"):
        with pytest.raises(seqjax.UserError, match="engines that can: scan"):
            seqjax.unroll(cell, params, xs, engine=engine)


WRAPPERS = {
    "zoneout": lambda cell: seqjax.zoneout(cell, 0.3),
    "weight_drop": lambda cell: seqjax.weight_drop(cell, 0.3),
    "dropout": lambda cell: seqjax.dropout(cell, 0.3),
    "residual": seqjax.residual,
    "learned": wrapper_rows.learned,
    "both": lambda cell: seqjax.bidirectional(cell, cell, "sum"),
    "stack": lambda cell: seqjax.stack(cell, seqjax.lstm(H, param_dtype=jnp.float64)),
    "layer_norm": wrapper_rows.shifted,
    "recurrent_dropout": lambda cell: seqjax.recurrent_dropout(cell, 0.3),
}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("name", WRAPPERS)
@every
def test_every_wrapper_on_every_engine_in_training(row, name, x64):
    if row is MOGRIFIER and name in ("layer_norm", "recurrent_dropout"):
        with pytest.raises(seqjax.UserError, match="this mogrifier has only a step"):
            WRAPPERS[name](row.make())
        return
    cell, params, xs, _ = setup(Row(name, lambda **o: WRAPPERS[name](row.make(**o)), None), 4, np.float64, param_dtype=jnp.float64)
    for options in ({}, {"rng": jax.random.key(5)}):
        assert_same(*(gradients(cell, params, xs, engine, **options) for engine in ("auto", "scan")), 1e-9, 1e-10)


@every
def test_known_by_the_call(row):
    cell = row.make()
    assert cell == row.make() and repr(cell) == f"{row.name}({H})"
    assert pickle.loads(pickle.dumps(cell)) == cell


@every
def test_the_flax_layer_and_the_language_model(row):
    make = {"ugrnn": own.ugrnn, "mogrifier": own.mogrifier}[row.name]
    xs = np.random.default_rng(6).normal(size=(B, T, D)).astype(np.float32)
    layer = seqjax.nn.Recurrent(H, 2, cell=make, dropout=0.2)
    variables = layer.init(jax.random.key(0), xs)
    _, ys = layer.apply(variables, xs, lengths=LENGTHS)
    params = tuple(seqjax.nn.layers.from_names(cell, variables["params"][f"layer_{i}"]) for i, cell in enumerate(layer.make_cell().inner))
    assert_same(ys, seqjax.unroll(seqjax.stack(make(H), make(H)), params, xs, lengths=LENGTHS)[1])

    model, tokens = LanguageModel(7, seqjax.stack(make(H), make(H)), embed_size=D), np.arange(B * T).reshape(B, T) % 7
    variables = model.init(jax.random.key(0), tokens)

    def loss(variables):
        logits = model.apply(variables, tokens)[1]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1).mean()

    slope = jax.jit(jax.grad(loss))(variables)
    assert all(np.isfinite(a).all() and np.abs(a).max() > 0 for a in jax.tree.leaves(slope))
    downhill = jax.tree.map(lambda a, g: a - 0.1 * g, variables, slope)
    assert loss(downhill) < loss(variables)


class Memory(NamedTuple):
    h: jax.Array
    c: jax.Array


class Scaled(NamedTuple):
    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array
    scale: jax.Array


def kept(params, carry, gates):
    return carry


@pytest.mark.parametrize(
    "carry, options, message",
    [
        (own.UGRNNCarry, {"extra": {"scale": (None, ())}}, "the params of mine must have .*bias, scale, .*but DenseParams has kernel,"),
        (own.UGRNNCarry, {"params": Scaled}, "the params of mine must have .* but Scaled has kernel, recurrent_kernel, bias, scale; give"),
        (Scaled, {}, "the carry of mine needs the fields h and those of memory; Scaled has no h$"),
        (Memory, {"memory": ("s",)}, "Memory has no s$"),
        (tuple, {}, "the carry of mine must be a NamedTuple's class, got <class 'tuple'>"),
        (Memory, {"params": dict}, "the params of mine must be a NamedTuple's class, got <class 'dict'>"),
        (Memory, {"step": kept}, "mine needs either combine or step, got both"),
    ],
)
def test_fields_that_do_not_fit_are_refused_when_a_cell_is_made(carry, options, message):
    with pytest.raises(seqjax.UserError, match=message):
        seqjax.dense_cell("mine", H, carry, kept, gates=1, **options)


class Shuffled(NamedTuple):
    bias: jax.Array
    scale: jax.Array
    recurrent_kernel: jax.Array
    kernel: jax.Array


def test_parameters_are_set_by_name_whatever_the_order_of_their_fields():
    made = [seqjax.dense_cell("mine", H, Memory, kept, gates=1, params=form, extra={"scale": (None, (H,))}) for form in (Shuffled, Scaled)]
    shuffled, scaled = (cell.init(jax.random.key(0), D)._asdict() for cell in made)
    assert shuffled.keys() == scaled.keys()
    for name, value in scaled.items():
        np.testing.assert_array_equal(shuffled[name], value)


@pytest.mark.parametrize("engine", ["scan", "fused"])
@pytest.mark.parametrize(
    "combine, got",
    [
        (lambda params, carry, gates: gates[0], r"\({H},\)"),
        (lambda params, carry, gates: Memory(carry.h[:2], carry.c), r"Memory\(h=\(2,\), c=\({H},\)\)"),
        (lambda params, carry, gates: (carry.h, carry.c), r"\(\({H},\), \({H},\)\)"),
        (lambda params, carry, gates: Memory(carry.h.sum(), carry.c), r"Memory\(h=\(\), c=\({H},\)\)"),
    ],
)
def test_a_combine_that_returns_no_such_carry_is_refused(combine, got, engine):
    cell = seqjax.dense_cell("mine", H, Memory, combine, gates=1)
    params = cell.init(jax.random.key(0), D)
    with pytest.raises(seqjax.UserError, match=rf"combine \(or step\) of mine must return .*, got {got.format(H=H)}(\n|$)"):
        seqjax.unroll(cell, params, jnp.ones((B, T, D)), engine=engine)
