"""The native engine against the plain scan in float64: cells, sizes, settings, gradients, transformations, threads, building."""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_cases import CELLS, EVERY, SETTINGS, SIZES, assert_near, compare, make, needs_library, results

import seqjax
from seqjax.engines import every, native, scan
from seqjax.engines.native import build, library

pytestmark = pytest.mark.one_in(12)


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
