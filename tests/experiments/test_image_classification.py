"""What is particular to the image experiment: batch statistics, pictures, networks and images that do not fit each other."""

import shutil

import numpy as np
import pytest
from processes import final_state, records
from table import IMAGE_CLASSIFICATION as ROW

from seqjax.diagnostics.pictures import WorstMistakes

PICTURES = ("confusion_validation.png", "mistakes_validation.png", "filters.png", "features_validation.png")


PARTS = [("average", "average"), ("key", "params"), ("data", "params"), ("opt_state", "params")]


@pytest.mark.parametrize(
    "what, changes", [("model_state", "model_state"), *(pytest.param(*part, marks=pytest.mark.slow) for part in PARTS)]
)
def test_what_a_checkpoint_must_hold(runs, tmp_path, what, changes):
    """The negative controls: with one part left out of the restored checkpoint the end is another."""
    workdir = runs.stopped(ROW, tmp_path / "run")
    run = runs.start(ROW, f"--workdir={workdir}", *runs.flags(ROW), forget=what).wait(300)
    assert run.status == 0, run.err
    ours, theirs = final_state(workdir), final_state(runs.finished(ROW))
    assert any(name.startswith("state/model_state/batch_stats") for name in ours)
    assert ours.keys() == theirs.keys()
    part = {name for name in ours if name.startswith(f"state/{changes}") and ours[name] != b"none"}
    assert len(part) > 10 and sum(ours[name] != theirs[name] for name in part) > 0.9 * len(part)


def test_it_learns_evaluates_and_draws(runs, tmp_path):
    """Accuracy is what the records say; four pictures are drawn, none of them empty."""
    told = records(runs.finished(ROW))
    assert all({"error", "accuracy"} <= r.keys() for r in told)
    best = min(r["error"] for r in told if r["kind"] == "evaluation")
    workdir, run = runs.evaluated(ROW)
    assert f"accuracy {1 - best:.2%}" in run.out
    for name in PICTURES:
        content = (workdir / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 3000, name
    workdir = shutil.copytree(runs.finished(ROW), tmp_path / "run")
    one = runs.start(ROW, f"--workdir={workdir}", "--mode=evaluate", "--config.data.eval_batch_size=7").wait(300)
    assert [line for line in one.out.split("\n") if "accuracy" in line] == [line for line in run.out.split("\n") if "accuracy" in line]


def test_predict(runs, refuses, tmp_path):
    data, workdir = runs.data(ROW), f"--workdir={runs.finished(ROW)}"
    images = [f"--image={data / f'{label}.png'}" for label in range(3)]
    run = runs.start(ROW, workdir, "--mode=predict", "--top=2", *images).wait(300)
    assert run.status == 0, run.err
    lines = run.out.splitlines()
    assert len(lines) == 3 and all(".png: " in line and line.count("%") == 2 for line in lines)
    refuses([workdir, "--mode=predict"], "--image=FILE")
    refuses([workdir, "--mode=predict", f"--image={tmp_path / 'no.png'}"], "no.png does not exist")
    (tmp_path / "text.png").write_text("no picture")
    refuses([workdir, "--mode=predict", f"--image={tmp_path / 'text.png'}"], "text.png")


WRONG = {
    "unknown network": ({"model.name": "resnet19", "model.options": ""}, ["config.model.name='resnet19'", "resnet18"]),
    "unknown option": ({"model.options": "widht=3"}, ["no option 'widht'", "nearest: width"]),
    "option not name=value": ({"model.options": "small"}, ["'small'", "name=value"]),
    "image too small": ({"model.name": "inception_v3", "model.options": ""}, ["at least 75 x 75", "8, 8"]),
    "image too small for the auxiliary head": (
        {"model.name": "inception_v3", "model.options": "", "data.image_size": 80},
        ["299", "aux_logits=False"],
    ),
    "smoothing": ({"loss.label_smoothing": 1.0}, ["config.loss.label_smoothing=1.0", "below 1.0"]),
    "weight decay for adam": (
        {"optimizer.name": "adam", "optimizer.momentum": 0.0, "optimizer.weight_decay": 1e-4},
        ["weight_decay", "no effect"],
    ),
    "milestones": ({"schedule.name": "step", "schedule.milestones": "0.9,0.5"}, ["milestones", "increasing"]),
    "milestones without step": ({"schedule.milestones": "0.1"}, ["milestones", "no effect"]),
    "batch larger than the set": ({"data.batch_size": 500}, ["batch_size", "500", "120"]),
    "no such file": ({"data.path": "/nowhere.npz"}, ["/nowhere.npz"]),
    "no such set": ({"data.source": "embedded", "data.path": "", "data.name": "digit"}, ["digit", "digits"]),
    "no network to tfds": (
        {"data.source": "tfds", "data.path": "", "data.name": "cifar10", "data.data_dir": "/nowhere"},
        ["cifar10", "digits"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings(runs, refuses, tmp_path, case):
    changes, words = WRONG[case]
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    refuses([f"--workdir={tmp_path / 'run'}", *runs.flags(ROW), *flags], *words)
    assert not (tmp_path / "run").exists()


def test_one_class_is_nothing_to_learn(runs, refuses, tmp_path):
    np.savez(tmp_path / "bars.npz", images=np.zeros((50, 8, 8), np.uint8), labels=np.zeros(50, np.int64))
    refuses([f"--workdir={tmp_path / 'run'}", *runs.flags(ROW, tmp_path)], "bars.npz has only one class, 0")


def test_kept_mistakes_do_not_keep_their_batches():
    worst, images, shares = WorstMistakes(["cat", "dog"]), np.zeros((4, 2, 2, 1), np.uint8), np.full((4, 2), [0.9, 0.1])
    worst.add(images, np.ones(4, np.int64), shares)
    assert len(worst.titles()) == 4
    assert not any(np.shares_memory(kept, batch) for entry in worst._kept for kept, batch in ((entry[2], images), (entry[4], shares)))


def test_losses_that_are_not_finite_stop_the_run(runs, tmp_path):
    lenet = {"model__name": "lenet5", "model__options": "", "data__image_size": 28}  # compiles in a fifth of the time
    flags = runs.flags(ROW, train__max_skipped=5, **lenet)
    run = runs.start(ROW, f"--workdir={tmp_path / 'run'}", *flags, nan_logits=True).wait(300)
    run.refused("skipped 5 times in a row", "not finite in the last: the loss", "learning_rate")


@pytest.mark.slow
def test_an_interval_without_one_good_step_is_reported(runs, tmp_path):
    flags = runs.flags(ROW, train__steps=10, schedule__warmup_steps=0, model__name="lenet5", model__options="", data__image_size=28)
    run = runs.start(ROW, f"--workdir={tmp_path / 'run'}", *flags, nan_logits=True).wait(300)
    assert run.status == 0, run.err
    lines = [record for record in records(tmp_path / "run") if record["kind"] == "train"]
    assert [line["step"] for line in lines] == [5, 10]
    assert all(line["accuracy"] is None and line["skipped_steps"] == line["step"] for line in lines)
