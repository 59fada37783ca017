"""What every experiment must do, over the table of them: train, resume exactly, refuse, evaluate, answer, offer its presets."""

import json
import math
import pathlib
import re
import shutil

import jax
import pytest
from processes import ROOT, final_state, records, sealed
from table import ROWS, sources

from seqjax.run import cli, settings
from seqjax.run.cli import SPLITS
from seqjax.run.recipe import make_recipe
from seqjax.training import train_step

pytestmark = pytest.mark.one_in(7)  # of what needs a process of its own; each experiment trains in every run
whole = pytest.mark.one_in(1)
LINES = 260  # of an experiment's file
PRESETS = [(name, preset) for name, row in ROWS.items() for preset in row.experiment.presets]
# A step of each preset takes a second; by default that of the experiment's own choice stands for the others.
FIRST = {(name, row.experiment.preset) for name, row in ROWS.items()}
STEPPED = [pytest.param(*pair, marks=() if pair in FIRST else pytest.mark.slow) for pair in PRESETS]


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


def source_of(row):
    return (ROOT / "experiments" / f"{row.module}.py").read_text(encoding="utf-8")


def test_the_table_has_every_experiment():
    files = {path.stem for path in (ROOT / "experiments").glob("[a-z]*.py")}
    assert ROWS.keys() == files - {"gradient_flow"}  # which trains nothing


@whole
def test_the_file_is_short(row):
    lines = source_of(row).splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= 120
    assert "flags.DEFINE" not in source_of(row)


# Training.


@whole
def test_it_trains(row, runs):
    """The loss falls, the best evaluation is the lowest of what the run is judged by, and the curves are drawn."""
    workdir = runs.finished(row)
    told = records(workdir)
    losses = [record["loss"] for record in told if record["kind"] == "train"]
    assert losses[-1] < losses[0] and all(map(math.isfinite, losses))
    config = settings.nest(runs.settings(row) | {"criterion": runs.settings(row).get("criterion", "error")})
    criterion = row.experiment.criterion(config)
    found = [record[criterion] for record in told if record["kind"] == "evaluation"]
    assert len(found) > 1
    assert [record["best"] for record in told if record["kind"] == "evaluation"][-1] == min(found)
    assert sealed(workdir)[-1] == told[-1]["step"] and is_picture(workdir / "curves.png")
    assert re.search(r"^step \d+ of \d+, .* minutes, best validation loss ", runs.said(row), re.M)
    if row.experiment.baselines is not None:
        assert re.search(r"^baseline to beat: .+, validation \w", runs.said(row), re.M)


def is_picture(path):
    content = path.read_bytes()
    return content.startswith(b"\x89PNG") and len(content) > 2000


@pytest.mark.one_in(13)
def test_a_stopped_run_is_resumed_and_ends_the_same(row, runs, tmp_path):
    workdir, finished = runs.stopped(row, tmp_path / "run"), runs.finished(row)
    run = runs.start(row, f"--workdir={workdir}", *runs.flags(row)).wait(300)
    assert run.status == 0 and "resuming from the checkpoint of step" in run.out, run.out + run.err
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)


def test_a_finished_run_stays_as_it_is(row, runs, tmp_path):
    workdir = shutil.copytree(runs.finished(row), tmp_path / "run")
    run = runs.start(row, f"--workdir={workdir}", *runs.flags(row)).wait(300)
    assert run.status == 0 and f"step {sealed(workdir)[-1]}, which is the last" in run.out, run.out + run.err
    assert final_state(workdir) == final_state(runs.finished(row))


# Refusals: in one line each, and nothing is touched.


@whole
def test_wrong_command_lines(row, refused, tmp_path):
    workdir, experiment = f"--workdir={tmp_path / 'run'}", row.experiment
    name = "optimizer.learning_rate"
    wrong = {
        f"--config.{name}x=1": [f"config.{name}x", f"did you mean config.{name}?"],
        "--config=nothing": ["no preset 'nothing'", ", ".join(experiment.presets)],
        f"--config=experiments/configs/{row.module}.py:{experiment.preset}": [f"by name: --config={experiment.preset}"],
        "--mode=tarin": ["tarin", "|".join(("train", "evaluate", *experiment.modes))],
        "extra": ["'extra' is not a flag"],
    }
    for flag, words in wrong.items():
        refused([workdir, flag], *words, status=2, experiment=experiment)
    assert not (tmp_path / "run").exists()


@whole
def test_flags_of_another_mode_have_no_effect(row, refused, tmp_path):
    experiment = row.experiment
    for name, flag in (cli.common_flags(experiment) | dict(experiment.flags)).items():
        value = "" if isinstance(flag.default, bool) else "=1" if isinstance(flag.default, (int, float)) else "=best"
        value = {"split": "=test", "format": "=jsonl"}.get(name, value)
        for mode in {"train", "evaluate", *experiment.modes} - set(flag.modes):
            words = f"--{name} has no effect with --mode={mode}; it is for --mode={' or '.join(flag.modes)}"
            refused([f"--workdir={tmp_path}", f"--mode={mode}", f"--{name}{value}"], words, experiment=experiment)


@whole
def test_other_settings_in_the_same_workdir(row, runs, refused):
    workdir = runs.finished(row)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    words = ["seed: 0 there, 5 here", "another --workdir"]
    refused([f"--workdir={workdir}", *runs.flags(row, seed=5)], *words, experiment=row.experiment)
    flags = ["--mode=evaluate", "--config.seed=5"]
    refused([f"--workdir={workdir}", *flags], words[0], "leave the --config flags out", experiment=row.experiment)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_the_workdir_of_another_experiment(row, runs, refused):
    other, workdir = runs.another(row)
    for flags in (runs.flags(row), ["--mode=evaluate"]):
        refused([f"--workdir={workdir}", *flags], f"belongs to the experiment {other.module}, not {row.module}", experiment=row.experiment)


@whole
def test_modes_without_a_run(row, refused, tmp_path):
    for mode in ("evaluate", *row.experiment.modes):
        refused([f"--workdir={tmp_path}", f"--mode={mode}"], "there is no run", "train one first", experiment=row.experiment)
    assert not list(tmp_path.iterdir())


def test_data_changed_since_the_run_began(row, runs, refused, tmp_path):
    """Refused in training and in evaluation, and the checkpoints stay; with the old data, both are well again."""
    if row.data.change is None:
        pytest.skip("its data are drawn, not read: other ones are other settings")
    data, workdir = runs.data(row), shutil.copytree(runs.finished(row), tmp_path / "run")
    before = {path: path.read_bytes() for path in workdir.glob("checkpoints/**/*") if path.is_file()}
    kept = {path: path.read_bytes() for path in data.iterdir()}
    words = [f"the {row.experiment.records} of ", "not those that the run", "restore them", "another --workdir"]
    try:
        row.data.change(data)
        runs.start(row, f"--workdir={workdir}", *runs.flags(row)).wait(300).refused(*words)
        refused([f"--workdir={workdir}", "--mode=evaluate"], *words, experiment=row.experiment)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert {path: path.read_bytes() for path in workdir.glob("checkpoints/**/*") if path.is_file()} == before


# Evaluation and the other modes.


@pytest.mark.one_in(13)
def test_it_evaluates_every_split_beside_baselines(row, runs, refused):
    """What is printed is what evaluation_SPLIT.json says; the predictions are lines of JSON, the pictures are pictures."""
    finished, experiment = runs.finished(row), row.experiment
    parts = experiment.load(settings.build(experiment.fields, runs.settings(row))).parts
    assert {"train", "validation"} <= parts.keys()
    for split in SPLITS:
        if split not in parts:
            words = [f"no {split} part", ", ".join(parts)]
            refused([f"--workdir={finished}", "--mode=evaluate", f"--split={split}"], *words, experiment=experiment)
            continue
        workdir, run = runs.evaluated(row, split)
        found = json.loads((workdir / f"evaluation_{split}.json").read_text(encoding="utf-8"))
        assert found["split"] == split and f"checkpoint of step {found['step']}\n" in run.out
        assert "model" in found["scores"] and len(found["scores"]) > 1
        for name, scores in found["scores"].items():
            assert re.search(rf"^{re.escape(name)} +\w", run.out, re.M) and scores, name
            for value in scores.values():
                middle, low, high = value if isinstance(value, list) else [value] * 3
                assert low <= middle <= high and math.isfinite(middle)
        shared = set.intersection(*({*scores} for scores in found["scores"].values()))
        assert shared, "the model and its baselines have nothing that can be compared"
        for path in map(pathlib.Path, re.findall(r"^(\S+\.(?:png|jsonl|json))$", run.out, re.M)):
            assert path.parent == workdir
            if path.suffix == ".png":
                assert is_picture(path), path
            if path.suffix == ".jsonl":
                rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
                assert len(rows) == len(parts[split][0] if hasattr(parts[split], "_fields") else parts[split])


@pytest.mark.one_in(13)
def test_the_size_of_a_batch_and_the_choice_of_the_checkpoint(row, runs, tmp_path):
    """The newest gives the loss that was recorded last, whatever the batch size; the best that of the best evaluation."""
    workdir = shutil.copytree(runs.finished(row), tmp_path / "run")
    told = [record for record in records(workdir) if record["kind"] == "evaluation"]
    flags = ["--checkpoint=newest", "--config.data.eval_batch_size=2"]
    run = runs.start(row, f"--workdir={workdir}", "--mode=evaluate", *flags).wait(300)
    assert run.status == 0, run.out + run.err
    best = next(record for record in told if record["best"] == told[-1]["best"])
    for folder, record in ((workdir, told[-1]), (runs.evaluated(row)[0], best)):
        found = json.loads((folder / "evaluation_validation.json").read_text(encoding="utf-8"))
        assert found["step"] == record["step"]
        elsewhere = row.module == "language_model" and folder == workdir  # where its streams begin
        tolerance = 0.05 if elsewhere else 1e-5
        assert found["scores"]["model"]["loss"] == pytest.approx(record["loss"], rel=tolerance)


def test_its_modes_answer(row, runs):
    assert {question.mode for question in row.questions} == row.experiment.modes.keys()
    workdir = runs.finished(row)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    for question in row.questions:
        flags = [flag.format(data=runs.data(row)) for flag in question.flags]
        run = runs.start(row, f"--workdir={workdir}", f"--mode={question.mode}", *flags, stdin=question.stdin).wait(300)
        assert run.status == 0 and run.out, run.err
        assert re.search(r"^checkpoint of step \d+$", run.err, re.M) and "checkpoint of step" not in run.out
        if question.lines:
            assert [type(json.loads(line)) for line in run.out.splitlines()] == [dict] * question.lines
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


# Presets and --help.


@pytest.mark.parametrize("name, preset", PRESETS)
def test_the_settings_of_a_preset_are_valid(name, preset):
    experiment = ROWS[name].experiment
    config = settings.build(experiment.fields, dict(experiment.presets[preset]))
    settings.validate(config, experiment.fields)
    if experiment.check is not None:
        experiment.check(config)
    assert make_recipe(config, 100).steps > 100


@pytest.mark.parametrize("name, preset", STEPPED)
def test_preset(name, preset, runs):
    """At its sizes, on the table's data, a training step keeps shapes and types."""
    row = ROWS[name]
    experiment, values = row.experiment, dict(row.experiment.presets[preset])
    flat = settings.flatten(settings.build(experiment.fields, values))
    config = settings.build(experiment.fields, values | sources(row, runs.data(row)) | row.presets(flat))
    dataset = experiment.load(config)
    spec = experiment.prepare(config, dataset)
    batch = next(iter(experiment.batches(config, spec, dataset.parts["validation"], training=False)))
    recipe, rows = make_recipe(config, 100), config.data.eval_batch_size
    model, mesh = experiment.build(config, spec), train_step.make_mesh(rows, jax.devices()[:1])
    average = config.optimizer.ema > 0
    step = train_step.make_train_step(
        model.loss, recipe.optimizer, recipe.schedule, mesh, clip_norm=recipe.clip_norm, ema_decay=config.optimizer.ema
    )

    def first(key, batch):
        variables = dict(model.init(key))
        params = variables.pop("params")
        carry = model.initial_carry(params, rows)
        state = train_step.init_state(params, variables or (), recipe.optimizer, carry, key, mesh, average=average)
        return state, *step(state, batch)

    before, after, found = jax.eval_shape(first, jax.random.key(0), batch)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (before, after)]
    assert shapes[0] == shapes[1] and bool(jax.tree.leaves(after.average)) == average
    assert found.sums.loss.shape == ()


def test_help(row, runs):
    """Modes, presets, flags, and every config field with a line of explanation; the examples name what exists."""
    run, experiment = runs.start(row, "--help").wait(), row.experiment
    assert run.status == 0 and not run.err, run.err
    flat, first = " ".join(run.out.split()), experiment.presets[experiment.preset]
    for name, field in experiment.fields.items():
        assert f"--config.{name}={first.get(name, field.default)}\n" in run.out, name
        assert len(field.text) > 5 and " ".join(field.text.split()) in flat, name
    known = cli.common_flags(experiment) | dict(experiment.flags)
    for name, flag in known.items():
        assert f" --{name}=" in flat and f"{', '.join(flag.modes)}: {flag.text}" in flat, name
    for word in ("train", "evaluate", *experiment.modes, *experiment.presets):
        assert word in flat, word
    assert set(re.findall(r" --(\w+)", experiment.doc)) <= {*known, "workdir", "mode", "config"}
    assert set(re.findall(r"--config\.([\w.]+)=", experiment.doc)) <= experiment.fields.keys()
    assert set(re.findall(r"--config=(\w+)", experiment.doc)) <= experiment.presets.keys()
    assert set(re.findall(r"--mode=(\w+)", experiment.doc)) <= {"train", "evaluate", *experiment.modes}
