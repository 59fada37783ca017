"""The real command does what the driver's own tests show in parts: runs that go further, and the faults that were found."""

import gzip
import json
import os
import shutil
import time

import jax
import numpy as np
import pytest
from processes import final_state, records, sealed, small

from seqjax.training.checkpoints import read_weights
from seqjax.training.checkpoints.reader import Reader

QUICK = {"train__steps": 8, "train__eval_every": 8, "train__log_every": 4, "train__checkpoint_every": 4}


def ended(run):
    assert run.wait().status == 0, run.err + run.out
    return run.out


def params(workdir):
    leaves = jax.tree_util.tree_leaves_with_path(read_weights(workdir, "newest")[1]["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


# Runs that go further.


def test_extended_and_started_from_other_weights(server, text, finished, tmp_path):
    longer = shutil.copytree(finished, tmp_path / "longer")
    said = ended(server.run(f"--workdir={longer}", "--extend", "--config.train.steps=70"))
    assert "extended from 60 to 70 steps: the cosine schedule is recomputed over 70" in said
    assert sealed(longer)[-1] == 70 and records(longer)[: len(records(finished))] == records(finished)
    other = tmp_path / "other.txt"
    other.write_text(text.read_text().replace("sour", "SOUR"))
    flags = [f"--workdir={tmp_path / 'run'}", f"--init_from={finished}", *small(other, train__steps=1)]
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    server.run(*flags).refused("do not all fit", "params/embed/embedding (shape (25, 8) there, (29, 8) here)", "--init_partial")
    said = ended(server.run(*flags, "--init_partial"))
    assert f"initialised from the weights of step 60 of the run in {finished}" in said and "not taken: params/embed/embedding" in said
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_frozen_parameters_stay_and_the_others_move(server, text, tmp_path):
    flags = small(text, optimizer__frozen="^embed, recurrent_kernel", **QUICK)
    said = ended(server.run(f"--workdir={tmp_path / 'run'}", *flags))
    first, last = (Reader(tmp_path / "run", {}).leaves(step)[1] for step in (4, 8))
    frozen = {path for path in last if path[0] == "params" and first[path].tobytes() == last[path].tobytes()}
    named = {path for path in last if path[0] == "params" and (path[1] == "embed" or path[-1] == "recurrent_kernel")}
    assert len(named) == 2 and frozen == named
    assert f", {sum(last[path].size for path in named):,} of them frozen\n" in said


@pytest.mark.slow
def test_a_batch_in_parts_teaches_the_same(server, text, tmp_path):
    """Up to rounding, where there is no noise; half of the batch does not."""
    whole, parts, half = (tmp_path / name for name in ("whole", "parts", "half"))
    plain = {"model__dropout": 0.0, "optimizer__name": "sgd", "optimizer__learning_rate": 1.0, **QUICK}
    ended(server.run(f"--workdir={whole}", *small(text, **plain)))
    ended(server.run(f"--workdir={parts}", *small(text, train__accumulate=2, **plain)))
    ended(server.run(f"--workdir={half}", *small(text, data__batch_size=2, **plain)))
    one, two, other = map(params, (whole, parts, half))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6)
    assert any(not np.array_equal(two[name], one[name]) for name in one)  # it was computed in parts
    assert max(np.abs(other[name] - one[name]).max() for name in one) > 1e-3
    assert [r["loss"] for r in records(parts)[:1]] == pytest.approx([r["loss"] for r in records(whole)[:1]], rel=1e-5)


@pytest.mark.slow
def test_a_profile_is_written_and_the_way_to_view_it_said(server, text, tmp_path):
    run = tmp_path / "run"
    said = ended(server.run(f"--workdir={run}", "--profile=3:4", *small(text, **QUICK)))
    assert f"trace of steps 3 to 4: {run / 'profile'}; open its perfetto_trace.json.gz at https://ui.perfetto.dev" in said
    (trace,) = run.glob("profile/**/perfetto_trace.json.gz")
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    server.run(f"--workdir={run}", "--profile=3:4", *small(text, **QUICK)).refused("profile=3:4", "steps of this session")


# Fault 3: the work directory is removed during training.


def test_a_removed_work_directory_is_an_error(server, text, tmp_path):
    run = tmp_path / "run"
    process = server.start(f"--workdir={run}", *small(text), slow_steps=0.05)
    process.wait_for(lambda: sealed(run))
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)  # a save may have been under way
    process.refused("was removed or replaced during training", "start again")


@pytest.mark.slow
def test_a_second_run_in_the_place_of_a_removed_one_is_unhurt(server, text, finished, tmp_path):
    run = tmp_path / "run"
    first = server.start(f"--workdir={run}", *small(text), slow_steps=0.1)
    first.wait_for(lambda: sealed(run))
    run.rename(tmp_path / "away")
    second = server.start(f"--workdir={run}", *small(text))
    first.refused("was removed or replaced during training")
    ended(second)
    assert final_state(run) == final_state(finished) and records(run) == records(finished)


# Fault 4: config.json is a copy for people.


def test_without_config_json_other_settings_are_refused(refused, finished, text, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "config.json").unlink()
    words = ["optimizer.learning_rate: 0.01 there, 0.05 here", "seed: 0 there, 5 here", "another --workdir"]
    refused([f"--workdir={workdir}", *small(text, optimizer__learning_rate=0.05, seed=5)], *words)
    config = json.loads((finished / "config.json").read_text())
    config["model"]["hidden_size"] = 32
    (workdir / "config.json").write_text(json.dumps(config))
    refused([f"--workdir={workdir}", *small(text, model__hidden_size=32)], "model.hidden_size: 16 there, 32 here")
    assert json.loads((workdir / "config.json").read_text()) == config


# Fault 6: what is not finite does not enter the state.


def test_a_rate_that_makes_parameters_infinite(server, refused, text, tmp_path):
    run, wild = tmp_path / "run", {"optimizer__name": "sgd", "optimizer__clip_norm": 0, "train__max_skipped": 3, **QUICK}
    refused([f"--workdir={run}", *small(text, optimizer__learning_rate=1e39, **wild)], "learning_rate=1e+39", "3.4e38")
    steps = server.run(f"--workdir={run}", *small(text, optimizer__learning_rate=3e38, **wild), huge_loss=1e6)
    steps.refused("not finite in the last: the parameters", "lower optimizer.learning_rate")
    assert not sealed(run)  # nothing was a good step


def test_a_carry_that_overflows_is_not_kept(server, text, tmp_path):
    run = tmp_path / "run"
    flags = small(text, train__max_skipped=3, **QUICK)
    server.run(f"--workdir={run}", *flags, carry_overflows_at=6).refused("stopped at step 8", "not finite in the last: the carry")
    assert sealed(run) == [4]
    again = server.run(f"--workdir={run}", *flags, carry_overflows_at=8)  # one step is skipped: the last
    assert "step 8 of 8" in ended(again)
    state = Reader(run, {}).leaves(8)[1]
    assert all(np.isfinite(leaf).all() for path, leaf in state.items() if path[0] in ("params", "carry", "opt_state"))
    assert int(state["skipped",]) == 1


def test_a_gradient_whose_square_overflows_is_clipped(server, text, tmp_path):
    """Clipped to the same length, it teaches what the plain one does."""
    run, plain = tmp_path / "run", tmp_path / "plain"
    flags = small(text, optimizer__name="sgd", optimizer__learning_rate=1.0, optimizer__clip_norm=0.01, **QUICK)
    ended(server.run(f"--workdir={run}", *flags, huge_loss=1e25))
    ended(server.run(f"--workdir={plain}", *flags))
    last = [record for record in records(run) if record["kind"] == "train"][-1]
    assert last["clipped_share"] == 1 and "skipped_steps" not in last and last["grad_norm"] > 2e19
    ours, theirs = params(run), params(plain)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5)


# Fault 7: what a full disk left in the compilation cache.


@pytest.mark.slow
def test_empty_entries_of_the_compilation_cache_are_replaced(server, text, tmp_path):
    cache, flags = tmp_path / "cache", small(text, **QUICK)
    ended(server.run(f"--workdir={tmp_path / 'first'}", *flags, compilation_cache=str(cache)))
    entries = sorted(cache.glob("*-cache"))
    assert len(entries) > 3
    for path in entries:
        path.write_bytes(b"")
        os.utime(path, (time.time() - 60,) * 2)
    second = server.run(f"--workdir={tmp_path / 'second'}", *flags, compilation_cache=str(cache))
    ended(second)
    assert second.err == f"removed {len(entries)} damaged entries from the compilation cache {cache}\n"
    assert all(path.stat().st_size for path in entries)
    third = server.run(f"--workdir={tmp_path / 'third'}", *flags, compilation_cache=str(cache))
    assert ended(third) and not third.err
    assert final_state(tmp_path / "first") == final_state(tmp_path / "second") == final_state(tmp_path / "third")
