"""The native engine against the plain scan in float64: cells, sizes, settings, gradients, transformations, threads, building."""

import concurrent.futures
import functools
import os
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.engines import every, native, scan
from seqjax.engines.native import build, layer, library
from seqjax.engines.native.forms import form_of

SETTINGS = {"mask": None, "resets": None, "reverse": False, "remat_every": None}
CELLS = {
    "lstm": lambda h, **o: seqjax.lstm(h, **o),
    "lstm-peepholes": lambda h, **o: seqjax.lstm(h, peepholes=True, **o),
    "lstm-coupled": lambda h, **o: seqjax.lstm(h, coupled=True, **o),
    "lstm-coupled-peepholes": lambda h, **o: seqjax.lstm(h, coupled=True, peepholes=True, **o),
    "gru": lambda h, **o: seqjax.gru(h, **o),
    "mgu": lambda h, **o: seqjax.mgu(h, **o),
    "rnn": lambda h, **o: seqjax.rnn(h, **o),
    "rnn-relu": lambda h, **o: seqjax.rnn(h, "relu", **o),
    "indrnn": lambda h, **o: seqjax.indrnn(h, **o),
    "indrnn-tanh": lambda h, **o: seqjax.indrnn(h, "tanh", **o),
    "lstm-bare": lambda h, **o: seqjax.lstm(h, peepholes=True, use_bias=False, **o),
    "gru-bare": lambda h, **o: seqjax.gru(h, use_bias=False, **o),
    "rnn-bare": lambda h, **o: seqjax.rnn(h, use_bias=False, **o),
}
SIZES = [  # B, T, D, H
    (1, 1, 1, 1),
    (2, 3, 5, 16),
    (13, 2, 33, 1),
    (3, 5, 70, 65),
    (2, 70, 1, 3),  # several chunks of steps
    (270, 2, 2, 5),  # more sequences than a thread takes at once
    (7, 4, 6, 129),
]
EVERY = {"holes", "resets", "reverse"}

pytestmark = pytest.mark.one_in(6)
needs_library = pytest.mark.skipif(bool(library.missing()), reason=f"native engine: {library.missing()}")


def make(name, sizes, features=(), seed=0, dtype=np.float32, scale=0.5):
    """A cell, (params, carry, initial carry, xs), cotangents of the results, and settings; none of the numbers is zero."""
    batch, steps, inputs, units = sizes
    rng = np.random.default_rng(seed)
    cell = CELLS[name](units, param_dtype=dtype)
    draw = lambda a, scale=1.0: jnp.asarray((scale * rng.normal(size=a.shape)).astype(np.float32), dtype)  # noqa: E731
    params = jax.tree.map(lambda a: draw(a, scale), jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs)))
    start = jax.eval_shape(lambda p: cell.initial_carry(p, batch), params)
    carry, initial, d_carry = (jax.tree.map(draw, start) for _ in range(3))
    xs, d_ys = draw(np.zeros((steps, batch, inputs))), draw(np.zeros((steps, batch, units)))
    mask = jnp.asarray(rng.random((steps, batch)) < 0.6) if "holes" in features else None
    if "lengths" in features:
        mask = jnp.arange(steps)[:, None] < jnp.asarray(np.resize([steps, 0, 1, steps - 1], batch))[None]
    if mask is not None:
        xs = jnp.where(mask[:, :, None], xs, 0)
    resets = jnp.asarray(rng.random((steps, batch)) < 0.3) if "resets" in features else None
    settings = SETTINGS | {"mask": mask, "resets": resets, "reverse": "reverse" in features}
    if "carries" in features:
        cell = every.recorded(cell)
        d_ys = (d_ys, jax.tree.map(lambda a: draw(np.zeros((steps, *a.shape))), carry))
    return cell, (params, carry, initial, xs), (d_carry, d_ys), settings


def results(engine, cell, arrays, cotangents, settings):
    """(last carry, ys) and the gradients of params, carry, initial carry and xs."""

    def both(arrays, cotangents):
        found, back = jax.vjp(lambda *arrays: engine.run(cell, *arrays, **settings), *arrays)
        return found, back(cotangents)

    return jax.jit(both)(arrays, cotangents)


def assert_near(got, want, bound=1e-5):
    """Every array within `bound` of the largest number of its own kind."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * max(1, np.abs(b).max(initial=0)), err_msg=jax.tree_util.keystr(path))


def compare(name, sizes, features, seed=0):
    """The engine in float32 against the scan in float64."""
    case = make(name, sizes, features, seed)
    got = results(native, *case)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(got))
    assert_near(got, results(scan, *make(name, sizes, features, seed, np.float64)))


@needs_library
@pytest.mark.parametrize("features", [(), EVERY, {"lengths"}, EVERY | {"carries"}], ids=["plain", "all", "lengths", "carries"])
@pytest.mark.parametrize("name", CELLS)
def test_values_and_all_gradients_equal_the_scan_in_float64(name, features, x64):
    compare(name, (5, 6, 4, 7), features)


@needs_library
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", ["lstm-peepholes", "gru", "indrnn-tanh"])
def test_sizes_that_fill_no_vector_tile_or_chunk(name, sizes, x64):
    compare(name, sizes, EVERY if sizes[0] % 2 else {"carries"}, seed=sum(sizes))


@needs_library
@pytest.mark.parametrize("name", ["lstm-coupled-peepholes", "mgu", "rnn"])
@pytest.mark.parametrize("instruction_set", build.INSTRUCTION_SETS)
def test_each_instruction_set(instruction_set, name, x64, monkeypatch):
    if not library.runs(instruction_set):
        pytest.skip(f"this processor does not run {instruction_set}")
    monkeypatch.setenv(library.CHOICE, instruction_set)
    assert native.detail() == f"instruction set {instruction_set}"
    compare(name, (5, 9, 11, 37), EVERY | {"carries"}, seed=2)


@needs_library
def test_its_error_is_that_of_the_scan_in_float32(x64):
    """Over many steps, in every result: at most twice the scan's error against float64, or a few roundings."""
    for name in ("lstm", "gru", "rnn"):
        single, double = (make(name, (4, 60, 24, 32), ("lengths",), 3, dtype, scale=0.18) for dtype in (np.float32, np.float64))
        want = results(scan, *double)
        for a, b, exact in zip(*map(jax.tree.leaves, (results(native, *single), results(scan, *single), want)), strict=True):
            largest = np.abs(exact).max(initial=0)
            assert np.abs(a - exact).max() <= 2 * np.abs(b - exact).max() + 4e-7 * largest, name


@needs_library
def test_nan_at_padded_steps_has_no_influence_and_gets_none():
    cell, (params, carry, initial, xs), (d_carry, d_ys), settings = make("lstm-peepholes", (5, 6, 4, 7), EVERY)
    padded = ~settings["mask"][:, :, None]
    clean = results(native, cell, (params, carry, initial, xs), (d_carry, d_ys), settings)
    dirty = (params, carry, initial, jnp.where(padded, jnp.nan, xs)), (d_carry, jnp.where(padded, jnp.nan, d_ys))
    found = results(native, cell, *dirty, settings)
    assert_near(found, clean, 0)
    assert not np.where(padded, found[0][1], 0).any() and not np.where(padded, found[1][3], 0).any()


@needs_library
def test_a_nan_that_is_no_padding_stays_one():
    cell, arrays, cotangents, settings = make("gru", (5, 6, 4, 7))
    arrays = (*arrays[:3], arrays[3].at[2, 3, 1].set(jnp.nan))
    (_, ys), _ = results(native, cell, arrays, cotangents, settings)
    assert np.isnan(ys[2:, 3]).all() and np.isfinite(np.delete(ys, 3, axis=1)).all() and np.isfinite(ys[:2]).all()


@needs_library
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "mgu", "indrnn-tanh"])
@pytest.mark.parametrize("instruction_set", build.INSTRUCTION_SETS)
def test_what_is_saturated_is_one_and_lets_no_gradient_through(instruction_set, name, monkeypatch):
    """Also where sums are infinite: a tanh that is only nearly 1 gives a gradient of 1e13 there, and then NaN."""
    if not library.runs(instruction_set):
        pytest.skip(f"this processor does not run {instruction_set}")
    monkeypatch.setenv(library.CHOICE, instruction_set)
    cell, (params, *carries, xs), cotangents, settings = make(name, (5, 3, 1, 21))  # one input: no infinity less another
    for scale in (1e19, 1e30):  # of the inputs: with these weights sums are finite, and infinite
        arrays = (params._replace(kernel=1e19 * params.kernel), *carries, xs * scale)
        (_, ys), found = results(native, cell, arrays, cotangents, settings)
        (_, plain), want = results(scan, cell, arrays, cotangents, settings)
        np.testing.assert_array_equal(np.isfinite(ys), np.isfinite(plain))
        assert name == "lstm" or np.array_equal(np.abs(ys) == 1, np.abs(plain) == 1)
        assert all(np.array_equal(np.isfinite(a), np.isfinite(b)) for a, b in zip(*map(jax.tree.leaves, (found, want)), strict=True))
        np.testing.assert_array_equal(np.asarray(found[3]) == 0, np.asarray(want[3]) == 0)


@needs_library
def test_the_same_bits_again_and_from_several_threads_at_once():
    cell, arrays, cotangents, settings = make("lstm", (9, 20, 12, 40), EVERY)
    run = jax.jit(lambda *a: results(native, cell, *a, settings))
    want = jax.tree.map(np.asarray, run(arrays, cotangents))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: jax.block_until_ready(run(arrays, cotangents)), range(24)):
            assert_near(found, want, 0)


@needs_library
def test_vmap_over_batches_and_over_weights():
    """Three batches of two sequences, with masks and resets of their own; values and gradients, one batch at a time and all."""
    cell, (params, carry, initial, xs), _, settings = make("lstm", (6, 5, 4, 3), {"holes", "resets"})
    batched = jax.tree.map(lambda a: a.reshape(3, 2, -1), (carry, initial))
    by_time = [a.reshape(5, 3, 2, *a.shape[2:]) for a in (xs, settings["mask"], settings["resets"])]
    scaled = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a, -a]), params)

    def loss(engine, params, carries, x, mask, resets):
        settings = SETTINGS | {"mask": mask, "resets": resets}
        last, (ys, carries) = engine.run(every.recorded(cell), params, *carries, x, **settings)
        return (ys**2 * jnp.arange(1.0, 3)[None, :, None]).sum() + last.c.sum() + (carries.c**3).sum()

    def everything(engine, weights, axis):
        run = functools.partial(loss, engine)
        axes = (axis, 0, 1, 1, 1)
        total = jax.grad(lambda w: jax.vmap(run, axes)(w, batched, *by_time).sum())
        each = jax.vmap(jax.grad(run, argnums=(0, 1, 2)), axes)
        return jax.jit(lambda: (jax.vmap(run, axes)(weights, batched, *by_time), each(weights, batched, *by_time), total(weights)))()

    for weights, axis in ((params, None), (scaled, 0)):
        assert_near(everything(native, weights, axis), everything(scan, weights, axis))


@needs_library
def test_vmap_over_sequences_is_one_call():
    cell, (params, carry, initial, xs), _, _ = make("gru", (2, 5, 4, 6))
    one = lambda x: native.run(cell, params, carry, initial, x, **SETTINGS)[1]  # noqa: E731
    text = jax.jit(jax.vmap(one)).lower(jnp.stack([xs] * 3)).as_text()
    assert text.count("@seqjax_native_forward") == 1 and "tensor<5x6x4xf32>" in text and "while" not in text


@needs_library
def test_auto_takes_it_for_the_carry_after_every_step_too(capsys):
    cell, (params, carry, _, xs), _, _ = make("lstm-coupled", (3, 5, 4, 6))
    how = {"time_major": True, "lengths": np.array([5, 2, 0]), "remat_every": 2, "return_carries": True}
    (choice,) = seqjax.explain(cell, params, xs, carry, **how)
    assert choice.engine == ("fused" if library.instruction_set() == "portable" else "native")
    assert_near(*(seqjax.unroll(cell, params, xs, carry, engine=engine, **how) for engine in ("native", "scan")))
    assert every.recorded(cell) == every.recorded(cell) and every.inside(every.recorded(cell)) == cell
    assert every.inside(cell) is None and "modified" in native.refusal(every.recorded(cell.replace(name="lstm")), params, xs, **SETTINGS)


@needs_library
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_second_derivatives_are_the_scans(name):
    cell, (params, carry, initial, xs), _, settings = make(name, (3, 4, 2, 3), EVERY)

    def slope(engine):
        def loss(params, carry, xs):
            last, (ys, carries) = engine.run(every.recorded(cell), params, carry, initial, xs, **settings)
            return (ys**3).sum() + (last.h**2).sum() + sum((a**4).sum() for a in carries)

        def squared(*arrays):
            gradients = jax.grad(loss, argnums=(0, 1, 2))(*arrays)
            return sum((g**2).sum() for g in jax.tree.leaves(gradients))

        return jax.jit(jax.grad(squared, argnums=(0, 1, 2)))(params, carry, xs)

    assert_near(slope(native), slope(scan))


@needs_library
def test_there_is_no_forward_mode():
    cell, (params, carry, initial, xs), _, _ = make("gru", (3, 4, 2, 3))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: native.run(cell, params, carry, initial, x, **SETTINGS), (xs,), (xs,))


@needs_library
@pytest.mark.parametrize("remat_every", [1, 4, 100])
def test_computing_anew_changes_nothing(remat_every):
    cell, arrays, cotangents, settings = make("lstm", (3, 10, 4, 6), EVERY)
    want = results(native, cell, arrays, cotangents, settings)
    assert_near(results(native, cell, arrays, cotangents, settings | {"remat_every": remat_every}), want, 1e-6)

    def loss(params):
        return (native.run(cell, params, *arrays[1:], **settings)[1] ** 2).sum()

    assert_near(jax.grad(jax.checkpoint(loss))(arrays[0]), jax.grad(loss)(arrays[0]), 1e-6)


@needs_library
def test_no_steps_and_no_sequences_give_the_carry():
    cell, (params, carry, initial, xs), _, _ = make("lstm", (3, 4, 2, 5))
    last, ys = native.run(cell, params, carry, initial, xs[:0], **SETTINGS)
    assert_near(last, carry, 0)
    assert ys.shape == (0, 3, 5)
    empty = jax.tree.map(lambda a: a[:0], carry)
    assert native.run(cell, params, empty, empty, xs[:, :0], **SETTINGS)[1].shape == (4, 0, 5)


PAIRS = {  # cells and features
    "plain": (seqjax.lstm(5), seqjax.lstm(5), set()),
    "all": (seqjax.lstm(5, peepholes=True), seqjax.gru(3), EVERY | {"carries"}),
    "lengths": (seqjax.mgu(4), seqjax.lstm(6, coupled=True), {"lengths"}),
    "remat": (seqjax.rnn(4), seqjax.gru(4), {"holes", "remat"}),
    "noise": (seqjax.weight_drop(seqjax.lstm(5), 0.5), seqjax.weight_drop(seqjax.gru(5), 0.5), {"holes", "resets"}),
    "fused besides": (seqjax.lstm(5), seqjax.gru(5, reset_after=False), {"resets"}),
    "inside": (seqjax.stack(seqjax.gru(4), seqjax.gru(4)), seqjax.dropout(seqjax.lstm(3), 0.5), {"resets"}),
}


@needs_library
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("batch", [1, 7])
def test_both_directions_in_one_call_are_those_of_the_scan(name, batch):
    *cells, features = PAIRS[name]
    cell, rng = seqjax.bidirectional(*cells), np.random.default_rng(4)
    draw = lambda like: jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), like)  # noqa: E731
    params = draw(cell.init(jax.random.key(0), 3))
    arrays = params, draw(cell.initial_carry(params, batch)), draw(np.zeros((batch, 9, 3)))
    masks = {"holes": rng.random((batch, 9)) < 0.6, "lengths": np.resize([9, 0, 4], batch)}
    how = {"lengths": next((mask for feature, mask in masks.items() if feature in features), None)}
    how |= {"resets": rng.random((batch, 9)) < 0.3 if "resets" in features else None, "reverse": "reverse" in features}
    how |= {"return_carries": "carries" in features, "remat_every": 2 if "remat" in features else None}
    how |= {"rng": jax.random.key(3) if name in ("noise", "inside") else None}

    def everything(engine):
        found, back = jax.vjp(lambda params, carry, xs: seqjax.unroll(cell, params, xs, carry, engine=engine, **how), *arrays)
        weights = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), found)
        return found, back(weights)

    assert_near(everything("auto"), everything("scan"))
    text = jax.jit(lambda params, carry, xs: seqjax.unroll(cell, params, xs, carry, **how)).lower(*arrays).as_text()
    if library.instruction_set() != "portable" and name in ("plain", "all", "lengths", "noise"):
        assert text.count("@seqjax_native_forward") == 1


@needs_library
def test_both_directions_under_vmap_and_twice_differentiated():
    cell = seqjax.bidirectional(seqjax.lstm(3), seqjax.gru(4))
    params = cell.init(jax.random.key(0), 2)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4, 2)), jnp.float32)
    scaled = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a, -a]), params)
    resets = np.random.default_rng(1).random((2, 4)) < 0.3

    def everything(engine):
        def loss(params, xs):
            carry, ys = seqjax.unroll(cell, params, xs, resets=resets, engine=engine)
            return (ys**3).sum() + (carry.forward.c * carry.backward.h[:, :3]).sum()

        def squared(params, xs):
            return sum((g**2).sum() for g in jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(params, xs)))

        each = [jax.vmap(loss, axes)(weights, xs) for weights, axes in ((params, (None, 0)), (scaled, (0, 0)))]
        return *each, jax.vmap(jax.grad(loss), (0, 0))(scaled, xs), jax.grad(squared, argnums=(0, 1))(params, xs[0])

    assert_near(jax.jit(functools.partial(everything, "native"))(), jax.jit(functools.partial(everything, "scan"))())


@needs_library
def test_unroll_and_explain_with_wrappers_around(capsys):
    cell = seqjax.stack(seqjax.bidirectional(seqjax.lstm(4), seqjax.gru(4)), seqjax.dropout(seqjax.rnn(3), 0.5))
    params = cell.init(jax.random.key(0), 2)
    xs = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)
    options = {"lengths": np.array([6, 0, 2]), "rng": jax.random.key(1)}
    got, want = (seqjax.unroll(cell, params, xs, engine=engine, **options) for engine in ("native", "scan"))
    assert_near(got, want)
    seqjax.explain(cell, params, xs, engine="native")
    assert f"lstm: native, asked for; {native.detail()}" in capsys.readouterr().out


def arrays_of(name, units=5):
    """A call of one layer, its arrays, the shapes of its results, and of those that the backward pass takes besides."""
    cell, (params, carry, initial, xs), (d_carry, d_ys), _ = make(name, (2, 3, 4, units))
    kind = layer.Layer(cell, form_of(cell), False)
    given = layer.Given(params, carry, initial, xs, jnp.ones((3, 2), bool), jnp.ones((3, 2), bool))
    rows = 2 if kind.form.memory else 0
    shapes = [(3, 2, units), (2, units), (rows, units), (3, 2, kind.form.saved, 16), (3 if rows else 0, 2, units)]
    more = [jnp.zeros(shape) for shape in (shapes[0], shapes[3], shapes[0], shapes[1], shapes[2], shapes[4])]
    call = layer.Call((kind,), library.instruction_set())
    return call, [*layer._arrays(kind, given), *layer._flags(given)], shapes, more


@needs_library
@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("target", library.TARGETS)
def test_the_library_refuses_shapes_that_do_not_fit(target, name):
    """Of each argument and each result: another last size, or steps where there are none."""
    call, arrays, shapes, more = arrays_of(name)
    if target == library.TARGETS[1]:
        shapes, arrays = [a.shape for a in arrays[:9]], [*arrays, *more]

    def run(arrays, shapes):
        jax.block_until_ready(jax.ffi.ffi_call(target, layer._shapes(*shapes))(*arrays, **call.attributes))

    run(arrays, shapes)
    for place, array in enumerate(arrays):
        for other in (jnp.concatenate([array] * 2, axis=-1), jnp.zeros((7, *array.shape[1:]), array.dtype)):
            with pytest.raises(Exception, match="native engine: .* that does not fit"):
                run([*arrays[:place], other, *arrays[place + 1 :]], shapes)
        with pytest.raises(Exception, match="native engine: .* has another dtype"):
            run([*arrays[:place], array.astype(jnp.int32), *arrays[place + 1 :]], shapes)
    for place, shape in enumerate(shapes):
        for other in ((*shape[:-1], 7), (7, *shape[1:])):
            with pytest.raises(Exception, match="native engine: .* that does not fit"):
                run(arrays, [*shapes[:place], other, *shapes[place + 1 :]])
    for some, fault in ((arrays[:-1], ""), ([*arrays, arrays[0]], "more arrays")):
        with pytest.raises(Exception, match=f"native engine: .*{fault}"):
            run(some, shapes)


@needs_library
@pytest.mark.parametrize("wrong", [{"cells": "elman"}, {"cells": "gru,elman"}, {"instruction_set": "mmx"}])
def test_the_library_refuses_names_that_it_does_not_know(wrong):
    call, arrays, shapes, _ = arrays_of("gru")
    function = jax.ffi.ffi_call(library.TARGETS[0], layer._shapes(*shapes))
    with pytest.raises(Exception, match="no cell of that name|does not run the instruction set"):
        jax.block_until_ready(function(*arrays, **(call.attributes | wrong)))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (seqjax.conv_lstm(4, 3, (4,)), "it supports lstm, gru, mgu, rnn, indrnn, got conv_lstm"),
        (seqjax.lstm(4, layer_norm=True), "does not support lstm with layer_norm=True"),
        (seqjax.lstm(4, proj_size=3), "does not support lstm with proj_size=3"),
        (seqjax.lstm(4, activation="relu"), "does not support lstm with activation='relu'"),
        (seqjax.gru(4, gate_activation="hard_sigmoid"), "does not support gru with gate_activation='hard_sigmoid'"),
        (seqjax.gru(4, reset_after=False), "does not support gru with the reset before the product"),
        (seqjax.rnn(4, heads=2), "does not support rnn with heads=2"),
        (seqjax.rnn(4, "silu"), "rnn with tanh or relu, got activation 'silu'"),
        (seqjax.gru(4).replace(step=seqjax.gru(4).step), "this gru was modified after that"),
        (seqjax.lstm(4, dtype=jnp.bfloat16), "in float32, but the cell in bfloat16 and float32"),
        (seqjax.zoneout(seqjax.gru(4), 0.1), ", got zoneout"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_it_cannot_run_is_refused_with_the_reason(cell, reason):
    params = cell.init(jax.random.key(0), 3)
    assert reason in native.refusal(cell, params, jnp.zeros((5, 2, 3)), **SETTINGS)


def test_several_inputs_open_sizes_and_meshes_are_refused():
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    assert "a single input array" in native.refusal(cell, params, (xs, xs), **SETTINGS)
    open_batch = jax.ShapeDtypeStruct((3, *jax.export.symbolic_shape("b"), 4), jnp.float32)
    assert "jax.export" in native.refusal(cell, params, open_batch, **SETTINGS)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("data",))):
        assert "on a mesh" in native.refusal(cell, params, xs, **SETTINGS)


@pytest.mark.parametrize("name", ["gru", "mgu", "lstm"])
@pytest.mark.parametrize("options", [{"dtype": jnp.bfloat16}, {"param_dtype": jnp.bfloat16}], ids=["dtype", "param_dtype"])
def test_narrow_cells_are_for_others_also_where_their_carry_is_wide(name, options):
    cell = getattr(seqjax, name)(4, **options)
    params, xs = cell.init(jax.random.key(0), 4), jnp.ones((2, 5, 4), jnp.bfloat16)
    assert "computes in float32" in native.refusal(cell, params, xs, **SETTINGS)
    assert seqjax.unroll(cell, params, xs)[1].dtype == jnp.bfloat16


@needs_library
def test_export_says_that_the_program_needs_the_library():
    cell, (params, carry, initial, xs), _, _ = make("gru", (2, 3, 4, 5))
    with pytest.raises(ValueError, match="seqjax_native_forward"):
        jax.export.export(jax.jit(lambda x: native.run(cell, params, carry, initial, x, **SETTINGS)))(xs)


@needs_library
def test_auto_takes_it_where_it_was_measured_to_win(monkeypatch):
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    fast = library.instruction_set() != "portable"
    assert seqjax.explain(cell, params, xs)[0].engine == ("native" if fast else "fused")
    other = seqjax.lstm(5, layer_norm=True)
    assert seqjax.explain(other, other.init(jax.random.key(0), 4), xs)[0].engine == "fused"
    with monkeypatch.context() as several:
        several.setattr(jax, "device_count", lambda: 2)
        assert seqjax.explain(cell, params, xs)[0].engine == "fused"
    monkeypatch.setenv(library.CHOICE, "portable")
    assert seqjax.explain(cell, params, xs)[0].engine == "fused"


@needs_library
@pytest.mark.parametrize("asked", ["mmx", "avx512"])
def test_an_instruction_set_that_there_is_not(asked, monkeypatch):
    if library.runs(asked):
        pytest.skip(f"this processor runs {asked}")
    monkeypatch.setenv(library.CHOICE, asked)
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    assert library.CHOICE in native.refusal(cell, params, xs, **SETTINGS)


def test_it_was_built_where_it_could_have_been():
    """SEQJAX_WITHOUT_NATIVE=1 says that the library is left out on purpose."""
    if os.environ.get(library.WITHOUT) or build.find_compiler() is None:
        pytest.skip("no compiler, or the library is left out on purpose")
    assert library.missing() is None


def test_without_the_library_it_says_how_to_build_it(monkeypatch, tmp_path):
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    for content, reason in ((None, "was not built"), (b"no library", "cannot be loaded")):
        monkeypatch.setattr(build, "LIBRARY", str(tmp_path / "absent.so"))
        if content:
            (tmp_path / "absent.so").write_bytes(content)
        library._load.cache_clear()
        found = native.refusal(cell, params, xs, **SETTINGS)
        assert reason in found and "python -m seqjax.engines.native" in found
    monkeypatch.undo()
    library._load.cache_clear()


@needs_library
def test_a_library_of_other_sources_is_not_used_and_said_once(monkeypatch):
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    monkeypatch.delenv(library.WITHOUT, raising=False)
    library._load.cache_clear()
    monkeypatch.setattr(build, "sources", lambda: "others")
    try:
        assert "different sources" in native.refusal(cell, params, xs, **SETTINGS)
        with pytest.warns(UserWarning, match="built from different sources: run `python -m seqjax.engines.native`"):
            assert seqjax.explain(cell, params, xs)[0].engine == "fused"
        with warnings.catch_warnings(action="error"):
            seqjax.explain(cell, params, xs)
            seqjax.explain(seqjax.lstm(5, layer_norm=True), seqjax.lstm(5, layer_norm=True).init(jax.random.key(0), 4), xs)
    finally:
        monkeypatch.undo()
        library._load.cache_clear()
        library.say_missing.cache_clear()


def test_without_a_compiler_building_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler"):
        build.build(tmp_path / "library.so")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError, match="the compiler failed"):
        build.build(tmp_path / "library.so")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(build.find_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_no_sanitizer_finds_a_fault(sanitizer, tmp_path):
    """The kernels alone, in a program without Python, over random cases of every cell and instruction set."""
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    source, objects, defines = build.HERE / "src", [], []
    for name in build.instruction_sets():
        options = build.kernel_flags(name)
        if name == "avx512" and not library.runs(name):  # the same tiles, compiled for this processor
            options, defines = [o for o in options if not o.startswith("-m")], ["-DANY_PROCESSOR"]
        objects.append(str(tmp_path / f"{name}.o"))
        subprocess.run([build.find_compiler(), *flags, *options, "-c", str(source / "kernels.cc"), "-o", objects[-1]], check=True)
    if not library.missing() and sys.platform == "linux":  # nothing but the table of kernels is visible to the linker
        listed = subprocess.run(["nm", "--defined-only", "-C", *objects], capture_output=True, text=True, check=True).stdout
        visible = [line for line in listed.splitlines() if len(line.split()) > 2 and line.split()[1] in "TWVuiDBR"]
        assert all("::kernels" in line or "asan" in line for line in visible), visible
    driver = pathlib.Path(__file__).with_name("native_driver.cc")
    program = str(tmp_path / "driver")
    command = [build.find_compiler(), *flags, *defines, "-I", str(source), str(driver), *objects, "-o", program, "-pthread"]
    subprocess.run(command, check=True)
    ran = subprocess.run([program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-4000:]
    assert "120 cases" in ran.stdout
