"""Sweeps: seeds trained together are the runs trained alone, resume exactly, and fail alone; grids, names, tables."""

import csv
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import ROOT, final_state, sealed, small, write_text

from seqjax import run
from seqjax.errors import UserError
from seqjax.run import cli, driver, reporting, settings, sweep, together
from seqjax.run.records import read_records

SEEDS = "--sweep=seed=3,4,5"
NAMES = ("seed=3", "seed=4", "seed=5")


def _load():
    spec = importlib.util.spec_from_file_location("mine", pathlib.Path(__file__).with_name("mine.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["mine"] = module
    spec.loader.exec_module(module)
    return module


MINE = _load()


def start(workdir, *flags, experiment=MINE.EXPERIMENT):
    """The exit status of a sweep in this process."""
    return sweep.run(experiment, cli.parse(experiment, ["mine", f"--workdir={workdir}", *flags]))


@pytest.fixture(scope="module")
def jointly(tmp_path_factory):
    """A finished sweep over three seeds, trained together; not to be changed."""
    workdir = tmp_path_factory.mktemp("together") / "sweep"
    assert start(workdir, SEEDS) == 0
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same, one after another."""
    workdir = tmp_path_factory.mktemp("alone") / "sweep"
    assert start(workdir, SEEDS, "--sweep_vmap=off") == 0
    return workdir


def records(workdir):
    """metrics.jsonl without what time decides."""
    return [{k: v for k, v in r.items() if k != "minutes" and not k.endswith("_per_second")} for r in read_records(workdir)]


def assert_same_records(here, there, rel=1e-5):
    ours, theirs = records(here), records(there)
    assert [(r["kind"], r["step"]) for r in ours] == [(r["kind"], r["step"]) for r in theirs] and ours
    for one, other in zip(ours, theirs):
        for name in ("loss", "best", "grad_norm"):
            if name in one:
                assert one[name] == pytest.approx(other[name], rel=rel), (one, other)
        assert one.get("accuracy") == other.get("accuracy")


def results(workdir):
    return json.loads((workdir / "sweep.json").read_text(encoding="utf-8"))


def test_seeds_trained_together_are_the_runs_trained_alone(jointly, alone):
    for name in NAMES:
        assert_same_records(jointly / name, alone / name)
        assert sealed(jointly / name) == sealed(alone / name)
        assert (jointly / name / "environment.json").read_bytes() == (alone / name / "environment.json").read_bytes()
        ours, theirs = final_state(jointly / name), final_state(alone / name)
        assert ours.keys() == theirs.keys()
        for part in (part for part in ours if part.startswith("state/params")):
            np.testing.assert_allclose(np.frombuffer(ours[part], np.float32), np.frombuffer(theirs[part], np.float32), rtol=1e-4, atol=1e-6)
        assert ours["state/key"] == theirs["state/key"]
    losses = [[r["loss"] for r in records(jointly / name) if r["kind"] == "train"] for name in NAMES]
    assert losses[0] != losses[1] != losses[2]


@pytest.mark.slow
def test_it_says_which_way(tmp_path, capsys, jointly):
    start(tmp_path / "off", SEEDS, "--sweep_vmap=off", "--config.train.steps=1")
    assert "training one after another: --sweep_vmap=off" in capsys.readouterr().out
    start(tmp_path / "auto", SEEDS, "--config.train.steps=1")
    assert "training 3 seeds together, one vmapped step for all: seed=3, seed=4, seed=5" in capsys.readouterr().out


def test_finished_points_are_not_even_loaded(jointly, capsys):
    def load(config):
        raise AssertionError("loaded")

    assert start(jointly, SEEDS, experiment=MINE.EXPERIMENT._replace(load=load)) == 0
    out = capsys.readouterr().out
    assert "3 runs, 3 of them finished" in out and "standard deviation" in out


@pytest.fixture
def stop_at():
    """Sends this process a signal when the record of a step is written, once."""
    waiting = []

    def at(step):
        waiting.append(step)

        class Stopper:
            def __init__(self, workdir, config):
                pass

            def log(self, kind, number, values):
                if waiting == [number]:
                    waiting.clear()
                    os.kill(os.getpid(), signal.SIGTERM)

            def close(self):
                pass

        reporting.register_logger(Stopper)

    before = list(reporting._factories)
    yield at
    reporting._factories[:] = before


@pytest.mark.parametrize("vmap", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_a_stopped_sweep_resumes_byte_for_byte(vmap, request, stop_at, tmp_path):
    whole = request.getfixturevalue("jointly" if vmap == "auto" else "alone")
    stop_at(12)
    flags = (SEEDS, f"--sweep_vmap={vmap}")
    assert start(tmp_path, *flags) == 128 + signal.SIGTERM
    assert {entry["status"] for entry in results(tmp_path)["points"]} == {"not finished"}
    steps = [sealed(tmp_path / name)[-1] for name in NAMES if (tmp_path / name).exists()]
    assert steps and max(steps) <= 13
    assert start(tmp_path, *flags) == 0
    for name in NAMES:
        assert final_state(tmp_path / name) == final_state(whole / name)
        assert records(tmp_path / name) == records(whole / name)


@pytest.mark.slow
def test_runs_at_different_steps_come_together_again(jointly, stop_at, tmp_path):
    """One seed was alone for a while (another command), one lost its newest checkpoints in a kill, one has not begun."""
    command = cli.parse(MINE.EXPERIMENT, ["mine", f"--workdir={tmp_path / 'seed=3'}", "--config.seed=3"])
    stop_at(18)
    assert driver.train(MINE.EXPERIMENT, command) == 128 + signal.SIGTERM
    command = cli.parse(MINE.EXPERIMENT, ["mine", f"--workdir={tmp_path / 'seed=5'}", "--config.seed=5"])
    stop_at(6)
    assert driver.train(MINE.EXPERIMENT, command) == 128 + signal.SIGTERM
    begun = [sealed(tmp_path / name)[-1] for name in ("seed=3", "seed=5")]
    assert begun[0] > begun[1]
    assert start(tmp_path, SEEDS) == 0
    for name in NAMES:
        assert_same_records(tmp_path / name, jointly / name)


@pytest.mark.slow
def test_seeds_that_stop_early_leave_the_others(tmp_path):
    flags = (SEEDS, "--config.train.eval_every=2", "--config.train.stop_after=1", "--config.optimizer.learning_rate=0.3")
    assert start(tmp_path / "together", *flags) == 0
    assert start(tmp_path / "alone", *flags, "--sweep_vmap=off") == 0
    ends = [entry["last_step"] for entry in results(tmp_path / "together")["points"]]
    assert ends == [entry["last_step"] for entry in results(tmp_path / "alone")["points"]]
    assert len(set(ends)) > 1 and min(ends) < 24
    for name in NAMES:
        assert_same_records(tmp_path / "together" / name, tmp_path / "alone" / name, rel=1e-4)


@pytest.mark.slow
def test_a_seed_that_diverges_fails_alone(jointly, tmp_path, capsys):
    def batches(config, spec, part, training):
        broken = config.seed == 4 and training
        return MINE.batches(config, spec, part * np.float32(np.nan) if broken else part, training)

    experiment = MINE.EXPERIMENT._replace(batches=batches)
    for vmap in ("auto", "off"):
        workdir = tmp_path / vmap
        assert start(workdir, SEEDS, f"--sweep_vmap={vmap}", "--config.train.max_skipped=3", experiment=experiment) == 1
        found = results(workdir)
        assert [entry["status"] for entry in found["points"]] == ["finished", "failed", "finished"]
        assert "3 times in a row" in found["points"][1]["error"] and found["spread"][0]["seeds"] == 2
        assert "failed: stopped at step 3" in capsys.readouterr().out
        for name in ("seed=3", "seed=5"):
            assert_same_records(workdir / name, jointly / name)


@pytest.mark.slow
def test_a_seed_whose_data_cannot_be_read_is_saved_and_ends_alone(jointly, tmp_path):
    """The others' iterators go back to where they stood, and all resume to what they would have been."""
    broken = {4}

    class Spoiled:
        def __init__(self, batches, seed):
            self.batches, self.seed, self.number = batches, seed, 0
            self.batches_per_epoch, self.get_state = batches.batches_per_epoch, batches.get_state

        def __next__(self):
            if self.seed in broken and self.batches.get_state()["batch"] == 9:
                raise UserError("sequence 9 is broken; repair it")
            return next(self.batches)

        def set_state(self, state):
            self.batches.set_state(state)

    def batches(config, spec, part, training):
        found = MINE.batches(config, spec, part, training)
        return Spoiled(found, config.seed) if training else found

    experiment = MINE.EXPERIMENT._replace(batches=batches)
    assert start(tmp_path, SEEDS, experiment=experiment) == 1
    found = results(tmp_path)["points"]
    assert [entry["status"] for entry in found] == ["finished", "failed", "finished"]
    assert found[1]["error"] == "sequence 9 is broken; repair it; the run is saved at step 9, and the same command resumes it"
    assert sealed(tmp_path / "seed=4")[-1] == 9
    broken.clear()
    assert start(tmp_path, SEEDS, experiment=experiment) == 0
    for name in NAMES:
        assert_same_records(tmp_path / name, jointly / name, rel=1e-4)


@pytest.mark.slow
def test_data_that_depend_on_the_seed_and_buckets_are_trained_apart(tmp_path, capsys):
    def load(config):
        return MINE.load(config)._replace(fingerprint=str(config.seed))

    def batches(config, spec, part, training):
        def collate(places, rows, steps):
            xs, mask = np.zeros((rows, spec.steps, 1), np.float32), np.arange(rows) < len(places)
            xs[: len(places)] = part[places]
            return {"xs": xs, "mask": mask}

        return run.bucketed(config, [3, 5] * (len(part) // 2), collate, [3, 5], training)

    for change, reason in (({"load": load}, "the data depend"), ({"batches": batches}, "padded to several lengths")):
        workdir = tmp_path / reason
        assert start(workdir, SEEDS, "--config.train.steps=2", experiment=MINE.EXPERIMENT._replace(**change)) == 0
        assert reason in capsys.readouterr().out.replace("\n", " ") and (workdir / "seed=5").is_dir()


def test_batches_of_different_shapes_are_refused_with_advice(tmp_path):
    class Growing:
        batches_per_epoch = 12

        def __init__(self, seed):
            self.seed = self.place = seed

        def __next__(self):
            self.place += 1
            rows = 8 if self.seed == 3 else 4
            return {"xs": np.zeros((rows, 5, 1), np.float32), "mask": np.ones(rows, bool)}

        def get_state(self):
            return {"place": self.place}

        def set_state(self, state):
            self.place = state["place"]

    def batches(config, spec, part, training):
        return Growing(config.seed) if training else MINE.batches(config, spec, part, training)

    with pytest.raises(UserError, match="different shapes.*--sweep_vmap=off"):
        start(tmp_path, SEEDS, experiment=MINE.EXPERIMENT._replace(batches=batches))


def test_a_grid_has_a_directory_and_a_row_for_each_point(tmp_path, capsys):
    flags = ("--sweep=model.hidden_size=4,6", "--sweep=seed=0,1", "--config.train.steps=3", "--config.train.eval_every=1")
    assert start(tmp_path, *flags) == 0
    names = [f"model.hidden_size={size},seed={seed}" for size in (4, 6) for seed in (0, 1)]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set(names)
    found = results(tmp_path)
    with (tmp_path / "sweep.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model.hidden_size"], row["seed"]) for row in rows] == [("4", "0"), ("4", "1"), ("6", "0"), ("6", "1")]
    for name, entry, row in zip(names, found["points"], rows):
        evaluations = [r for r in records(tmp_path / name) if r["kind"] == "evaluation"]
        best = min(evaluations, key=lambda r: r["loss"])
        assert entry["point"] == name and entry["values"] == sweep.values_of(name, MINE.FIELDS)
        assert (entry["step"], entry["metrics"]["loss"]) == (best["step"], best["loss"])
        assert (int(row["step"]), float(row["loss"])) == (best["step"], best["loss"])
        config = json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))
        assert (config["model"]["hidden_size"], config["seed"]) == tuple(entry["values"].values())
    losses = [entry["metrics"]["loss"] for entry in found["points"]]
    for spread, pair in zip(found["spread"], (losses[:2], losses[2:]), strict=True):
        expected = {"mean": np.mean(pair), "standard deviation": np.std(pair, ddof=1), "minimum": min(pair), "maximum": max(pair)}
        assert spread["seeds"] == 2 and spread["metrics"]["loss"] == pytest.approx(expected)
    out = capsys.readouterr().out
    assert "model.hidden_size=6, standard deviation" in out and out.count("training 2 seeds together") == 2
    assert start(tmp_path, *flags) == 0 and "4 of them finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--sweep=seed"], ["name a setting and its values"]),
        (["--sweep=sed=1,2"], ["did you mean config.seed?"]),
        (["--sweep=seed=1,x"], ["whole number"]),
        (["--sweep=seed=1,1.0"], ["twice"]),
        (["--sweep=seed=1,2", "--sweep=config.seed=3"], ["seed twice"]),
        (["--sweep=seed=1,2", "--config.seed=3"], ["leave one out"]),
        (["--sweep=seed=1,-2"], ["config.seed=-2", "out of range"]),
        (["--sweep_vmap=off"], ["no effect without --sweep"]),
        (["--sweep=seed=1,2", "--mode=evaluate"], ["no effect with --mode=evaluate"]),
    ],
)
def test_what_cannot_be_swept_is_refused(flags, words, tmp_path):
    with pytest.raises(UserError) as caught:
        start(tmp_path / "new", *flags)
    for word in words:
        assert word in str(caught.value)
    assert not list(tmp_path.glob("new/*=*"))


def test_a_directory_that_holds_a_run_is_refused(jointly):
    with pytest.raises(UserError, match="holds a run itself"):
        start(jointly / "seed=3", SEEDS)


TABLE = {
    "seed": settings.Field(0, "."),
    "a.rate": settings.Field(0.5, "."),
    "a.text": settings.Field("", "."),
    "b": settings.Field(False, "."),
}


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.booleans())
def test_names_of_points_can_be_read_back_and_are_one_part_of_a_path(seed, rate, text, flag):
    values = {"seed": seed, "a.rate": rate, "a.text": text.encode("utf-8", "ignore").decode(), "b": flag}
    name = sweep.name_of(values)
    assert sweep.values_of(name, TABLE) == values
    assert not set(name) & set('/\\:*?"<>|\0\n') and name.count(",") == 3


@pytest.mark.slow
def test_four_devices_train_seeds_together_with_a_carry_from_window_to_window(tmp_path):
    text = write_text(tmp_path / "small.txt")
    command = [sys.executable, "-m", "seqjax", "language_model", *small(text, train__steps=20), "--sweep=seed=0,1"]
    outs = []
    for flags, devices in (([f"--workdir={tmp_path / 'four'}"], 4), ([f"--workdir={tmp_path / 'one'}", "--sweep_vmap=off"], 1)):
        devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        env = os.environ | {"XLA_FLAGS": devices, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*command, *flags], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        outs.append(done.stdout)
    assert "on 4 cpu device(s)" in outs[0] and "training 2 seeds together" in outs[0]
    for name in ("seed=0", "seed=1"):
        assert_same_records(tmp_path / "four" / name, tmp_path / "one" / name, rel=1e-4)


def test_what_trains_together_returns_a_reason_before_anything_is_written(tmp_path):
    experiment = MINE.EXPERIMENT._replace(load=lambda config: MINE.load(config)._replace(fingerprint=str(config.seed)))
    command = cli.parse(experiment, ["mine", f"--workdir={tmp_path}", SEEDS])
    runs = [(point.name, point.command) for point in sweep.points(experiment, command)]
    assert together.train(experiment, runs) == "the data depend on the seed" and not list(tmp_path.iterdir())
    command = cli.parse(MINE.EXPERIMENT, ["mine", f"--workdir={tmp_path}", SEEDS, "--config.mesh.shard=fsdp"])
    runs = [(point.name, point.command) for point in sweep.points(MINE.EXPERIMENT, command)]
    assert "mesh.shard cut the parameters" in together.train(MINE.EXPERIMENT, runs) and not list(tmp_path.iterdir())
