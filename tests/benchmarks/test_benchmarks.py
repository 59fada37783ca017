"""What the benchmarks' figures rest on: turns and repeats, the gradient that is timed, forced layouts, ratios."""

import argparse
from unittest import mock

import jax
import numpy as np
import pytest

import seqjax
from benchmarks import cells, common, engines, peers, scaling, timing
from seqjax.engines import dense

SHAPE = timing.Shape(2, 3, 4, 5)


def test_shapes_and_names_are_read_or_refused():
    assert timing.parse_shape("2,3,4,5") == SHAPE
    assert timing.parse_shape(str(SHAPE)) == SHAPE
    for text in ("2,3,4", "2,3,4,5,6", "2,3,4,x", "2,3,4,0"):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            timing.parse_shape(text)
    assert timing.parse_names(["lstm", "gru"])("gru,lstm") == ["gru", "lstm"]
    with pytest.raises(argparse.ArgumentTypeError, match="'lsmt'.*lstm"):
        timing.parse_names(["lstm", "gru"])("gru,lsmt")


def test_functions_run_in_turn_and_the_first_call_is_apart():
    calls = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    result = timing.interleave(functions, rounds=6, seconds=60)
    assert [row["repeats"] for row in result.values()] == [6, 6, 6]
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 1 + 6 and all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(map(tuple, rounds))) > 1, "the order never changed"
    stopped = timing.interleave(functions, rounds=100, seconds=0)
    assert [row["repeats"] for row in stopped.values()] == [4, 4, 4]


def test_what_is_timed_is_the_gradient_of_weights_and_inputs():
    xs, cotangent = timing.make_data(SHAPE)
    weights = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)

    def apply(weights, xs):
        return jax.numpy.tanh(xs @ weights)

    functions = timing.make_functions(apply, weights, xs, cotangent)
    np.testing.assert_allclose(functions["forward"](), np.tanh(xs @ weights), rtol=1e-5, atol=1e-6)
    ys, (d_weights, d_xs) = functions["training"]()
    d_sums = cotangent * (1 - np.tanh(xs @ weights) ** 2)
    np.testing.assert_allclose(ys, np.tanh(xs @ weights), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_weights, np.einsum("tbd,tbh->dh", xs, d_sums), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d_xs, d_sums @ weights.T, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(3, 2, 5\).*\(3, 2, 4\)"):
        timing.make_functions(apply, weights, xs, cotangent[..., :4])


def test_each_engine_and_layout_is_the_one_named_and_all_do_the_same_work():
    layouts = []
    unrolled = dense.unrolled

    def spy(cell, layout, *rest):
        layouts.append(layout.columns)
        return unrolled(cell, layout, *rest)

    with mock.patch.object(dense, "unrolled", spy):
        auto, functions = engines.make_case("lstm", SHAPE)
    assert auto == "fused apart"
    assert list(functions) == ["scan", "fused rows", "fused columns", "fused apart"]
    assert layouts == [False, True]
    results = [jax.tree.leaves(pair["forward"]()) for pair in functions.values()]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_which_engines_are_compared():
    assert list(engines.make_case("mingru", SHAPE)[1]) == ["scan", "fused", "associative"]
    assert list(engines.make_case("lstm layer norm", SHAPE)[1]) == ["scan", "fused"]


def test_every_cell_has_its_cost_measured():
    makers = {name for name in seqjax.cells.__all__ if name.islower()}
    measured = {cell(4).name for cell in cells.CELLS.values()} | {cells.make_convolutional()[0].name}
    assert makers == measured


def test_ratios_and_means_say_who_is_faster():
    def case(ours, torch, linen, haiku):
        times = {"seqjax": ours, "torch": torch, "flax.linen GRUCell": linen, "dm-haiku": haiku}
        times = {name: {"min": value, "median": 2 * value} for name, value in times.items()}
        both = {which: peers.ratios(times, which) for which in ("min", "median")}
        return {"cell": "gru", "shape": "2,3,4,5", "what": "forward", "milliseconds": times} | both

    first, second = case(2.0, 1.0, 8.0, 4.0), case(1.0, 1.0, 8.0, 9.0)
    assert first["min"] == {"best_jax_peer": "dm-haiku", "best_jax_peer_over_ours": 2.0, "ours_over_torch": 2.0}
    assert second["min"]["best_jax_peer"] == "flax.linen GRUCell"
    mean = peers.means([first, second])["forward"]["gru"]
    assert mean["best_jax_peer_over_ours"]["min"] == pytest.approx(4.0)
    assert mean["ours_over_torch"]["median"] == pytest.approx(2**0.5)


def test_scaling_varies_one_size():
    base = timing.Shape(32, 64, 128, 128)
    assert scaling.vary(base, "T", 7) == timing.Shape(32, 7, 128, 128)
    assert scaling.vary(base, "B", 7) == timing.Shape(7, 64, 128, 128)
    assert scaling.vary(base, "H", 7) == timing.Shape(32, 64, 7, 7)


def test_a_result_names_the_versions_installed():
    where = common.hardware()
    assert where["jax"] == jax.__version__ and where["cores"] >= 1
