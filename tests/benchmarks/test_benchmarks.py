"""The basis of the benchmarks' numbers: turns and repeats, the timed gradient, forced layouts, ratios."""

import argparse
import json
import pathlib
from unittest import mock

import jax
import numpy as np
import optax
import pytest

import seqjax
from benchmarks import (
    beam,
    bucket_overhead,
    cells,
    common,
    engines,
    long_memory,
    long_memory_tuned,
    peers,
    scaling,
    text_training,
    timing,
    weak_scaling,
)
from seqjax.data.pipeline.buckets import BucketBatches
from seqjax.engines import dense, native
from seqjax.errors import UserError
from seqjax.nn.crf import CRFParams, crf_log_likelihood
from seqjax.text import EOS
from seqjax.training import loop, train_step
from seqjax.training.losses import Sums
from seqjax.training.metrics import token_loss

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
    built = [] if native.library.missing() else ["native"]
    assert auto == ("native" if built and native.library.instruction_set() != "portable" else "fused apart")
    assert list(functions) == ["scan", "fused rows", "fused columns", "fused apart", *built]
    assert layouts == [False, True]
    results = [jax.tree.leaves(pair["forward"]()) for pair in functions.values()]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_which_engines_are_compared():
    assert list(engines.make_case("mingru", SHAPE)[1]) == ["scan", "fused", "associative"]
    assert list(engines.make_case("lstm layer norm", SHAPE)[1]) == ["scan", "fused"]


def test_every_cell_has_its_cost_measured():
    makers = {name for name in seqjax.cells.__all__ if name.islower()} - {"dense_cell", "dense"}  # the builder, and a layer without a carry
    measured = {cell(8).name for cell in cells.CELLS.values()} | {cells.make_convolutional()[0].name}
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


SMALL_TEXTS = {
    "text": (text_training.Text(30, 3, 4, 5, 4, 6, 3, 0.0), 3),
    "tags": (text_training.Tags(True, 30, 12, 5, 4, 3, 6, 5, 4, 6, 3, 7, 0.0), 5),
    "pairs": (text_training.Pairs("luong_general", True, 4, 30, 8, 4, 6, 3, 0.0, 0.0), 30),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", SMALL_TEXTS)
def test_models_of_text_have_a_twin_in_torch_and_both_learn(name):
    pytest.importorskip("torch")
    case, answers = SMALL_TEXTS[name]
    made = text_training.sides(case)  # which compares the numbers of parameters
    assert list(made) == ["ours", "torch", "torch padded"]
    for side, step in made.items():
        losses = [step() for _ in range(61)]
        assert losses[0] == pytest.approx(np.log(answers), rel=0.3), side
        assert np.mean(losses[-4:]) < np.mean(losses[:4]), side
    with mock.patch.object(text_training, "_doubled", lambda *_: 0), pytest.raises(ValueError, match="parameters"):
        text_training.sides(case)


def test_batches_of_text_have_one_shape_and_no_token_at_padding():
    case = text_training.CASES["tagger"]
    for batch in text_training.make_batches(case):
        assert batch.words.shape == (case.batch, case.steps) and batch.lengths.max() == case.steps
        real = np.arange(case.steps) < batch.lengths[:, None]
        assert ((batch.words > 0) == real).all() and ((batch.chars > 0).any(axis=2) == real).all()


def test_the_crf_in_torch_is_ours():
    torch = pytest.importorskip("torch")
    from benchmarks import torch_texts

    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((5, 5), (5,), (5,))]
    emissions, tags = rng.normal(size=(3, 6, 5)).astype(np.float32), rng.integers(0, 5, (3, 6))
    lengths = np.array([6, 1, 4])
    theirs = torch_texts.CRF(5)
    with torch.no_grad():
        for parameter, value in zip((theirs.transitions, theirs.start, theirs.end), weights, strict=True):
            parameter.copy_(torch.tensor(value))
        nats = theirs(*map(torch.tensor, (emissions, tags, lengths)))
    ours = crf_log_likelihood(CRFParams(*weights), emissions, tags.astype(np.int32), lengths.astype(np.int32))
    np.testing.assert_allclose(nats, -ours, rtol=1e-5, atol=1e-5)


def test_both_decoders_write_their_full_length():
    made = beam.sides(beam.make_model(vocab=6, embed=3, hidden=4), batch=2, width=3, length=5)
    tokens = {name: np.asarray(run()) for name, run in made.items()}
    assert {name: t.shape for name, t in tokens.items()} == {"greedy": (2, 5), "beam": (2, 1, 5), "wide step": (6, 5)}
    assert min(t.min() for t in tokens.values()) > EOS
    np.testing.assert_array_equal(tokens["wide step"][::3], tokens["greedy"])


def test_the_loop_with_buckets_takes_the_bare_sides_batches():
    mesh = train_step.make_mesh(2, jax.devices()[:1])
    optimizer = optax.sgd(0.1)
    state = train_step.init_state(jax.numpy.zeros(()), (), optimizer, (), jax.random.key(0), mesh)

    def loss_fn(params, model_state, carry, batch, rng):
        return carry, model_state, Sums(jax.numpy.sum((params - batch) ** 2), jax.numpy.float32(batch.size))

    step = train_step.make_train_step(loss_fn, optimizer, lambda count: 0.1, mesh, clip_norm=1.0)
    taken = []

    def spy(state, batch):
        taken.append(np.asarray(batch))
        return step(state, batch)

    def collate(places, rows, steps):
        return np.pad(places.astype(np.float32), (0, rows - len(places)))[:, None].repeat(steps, axis=1)

    task = loop.Task(spy, lambda batch: jax.device_put(batch, train_step.batch_sharding(mesh)), None, token_loss())
    run = bucket_overhead.Run(task, state, lambda: BucketBatches([2, 2, 1, 3, 3, 3], collate, 2, (2, 3), seed=1))
    found = bucket_overhead.shares(run, blocks=1, steps=4, log_every=2)
    assert found["share_of_bare_speed"]["repeats"] == 1
    shapes, rest = taken[:2], taken[2:]
    assert sorted(batch.shape for batch in shapes) == [(2, 2), (2, 3)] and len(rest) == 2 * 2 * 4
    for bare, looped in ((rest[:4], rest[4:8]), (rest[8:12], rest[12:])):
        for a, b in zip(bare, looped, strict=True):
            np.testing.assert_array_equal(a, b)
    result = bucket_overhead.epochs({2: run}, rounds=4, seconds=0)["2"]
    times = result["milliseconds"]
    assert {length: row["batches"] for length, row in times.items()} == {"2": 1, "3": 2}
    assert result["seconds_per_epoch"] == pytest.approx((times["2"]["median"] + 2 * times["3"]["median"]) / 1e3)


def test_weak_scaling_by_hand():
    """8 devices, 100 million float32 gradients, half of 100 GB/s reached, 1 ms of work, 1 us per hop."""
    link = weak_scaling.Link("by hand", 8, 100e9, 0.5, 1e-6, "")
    rows = weak_scaling.modelled(weak_scaling.Case("by hand", 1e-3, 100_000_000, ""), link)
    assert [row["devices"] for row in rows] == [1, 2, 4, 8]
    assert rows[0] == {"devices": 1, "reductions_ms": 0, "step_ms": 1, "efficiency": 1, "efficiency_at_slow_hops": 1}
    # 2 * 7 / 8 * 0.4 GB at 50 GB/s are 14 ms; 14 hops for the gradients and 14 for the sums of 8 bytes are 28 us
    assert rows[-1]["reductions_ms"] == pytest.approx(14.028, rel=1e-6) and rows[-1]["step_ms"] == pytest.approx(15.028, rel=1e-6)
    assert rows[-1]["efficiency"] == pytest.approx(1 / 15.028, rel=1e-6)
    assert rows[-1]["efficiency_at_slow_hops"] == pytest.approx(1 / 15.28, rel=1e-6)
    assert weak_scaling.lstm_count(650, 650) == 4 * 650 * 1301
    assert weak_scaling.layer_seconds()["64,35,650,650"] == pytest.approx(2.941e-3, rel=1e-3)  # cudnn's, not torch's


def test_a_choice_whose_loss_is_not_finite_is_not_taken(tmp_path, monkeypatch):
    losses = {"1": [None], "1e-2": [], "1e-3": [2.0, 0.5], "3e-3": [0.75, None]}

    def run(*flags):
        given = dict(flag.removeprefix("--").split("=", 1) for flag in flags if not flag.startswith("--sweep"))
        folder = pathlib.Path(given["workdir"], "model.cell=gru,seed=0")
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{"kind": "evaluation", "step": k, "loss": loss} for k, loss in enumerate(losses[given["config.optimizer.learning_rate"]])]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return 0

    monkeypatch.setattr(long_memory_tuned, "run", run)
    monkeypatch.setattr(long_memory_tuned, "of_cell", lambda *given: {})
    found = long_memory_tuned.tuned(tmp_path, "recall", "gru", argparse.Namespace(seeds="0,1", rates=",".join(losses)), [])
    assert found["learning rate"] == "1e-3" and [trial["validation loss"] for trial in found["tried"]] == [None, None, 0.5, 0.75]
    with pytest.raises(UserError, match="1/model.cell=gru,seed=0 has no evaluation with a finite loss"):
        long_memory.tested(tmp_path / "gru" / "1" / "model.cell=gru,seed=0")
