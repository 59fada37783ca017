"""The image experiment: learns, resumes exactly, evaluates, draws, predicts, and refuses what is wrong in one line."""

import random
import shutil
import signal
import time

import numpy as np
import pytest
from processes import final_state, records, sealed

from seqjax.diagnostics.pictures import WorstMistakes

EXPERIMENT = "image_classification"
PICTURES = ("confusion_validation.png", "mistakes_validation.png", "filters.png", "features_validation.png")


def write_images(path, number=150, seed=0, side=8):
    """Bright bars that stand or lie, and squares, in noise: three classes that a network can tell apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, number)
    images = rng.integers(0, 90, (number, side, side))
    for image, label in zip(images, labels):
        row, column = rng.integers(1, side - 3, 2)
        height, width = ((side, 2), (2, side), (3, 3))[label]
        image[row if height < side else 0 :][:height, column if width < side else 0 :][:, :width] += 150
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def small(path, **changes):
    """Flags of a run of 30 steps on 8 x 8 images, with all that draws random numbers and all that keeps a state."""
    settings = {
        "data.source": "file", "data.path": path, "data.batch_size": 16, "data.eval_batch_size": 16, "data.image_size": 0,
        "data.validation_fraction": 0.2, "model.name": "resnet20_cifar", "augment.crop_padding": 1, "augment.flip": True,
        "augment.mixup": 0.2, "augment.affine_degrees": 0.0, "augment.affine_translate": 0.0, "augment.affine_scale": 0.0,
        "loss.label_smoothing": 0.1, "optimizer.name": "sgd", "optimizer.learning_rate": 0.05, "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4, "optimizer.ema": 0.9, "schedule.warmup_steps": 3, "train.steps": 30,
        "train.epochs": 0.0, "train.log_every": 5, "train.eval_every": 10, "train.checkpoint_every": 4, "train.keep": 2,
    }  # fmt: skip
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--config.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def start(server):
    return lambda *argv, **options: server.start(*argv, experiment=EXPERIMENT, **options)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "bars.npz")


@pytest.fixture(scope="module")
def finished(start, images, tmp_path_factory):
    """The work folder of a run that was never stopped; not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = start(f"--workdir={workdir}", *small(images)).wait(300)
    assert run.status == 0, run.err
    return workdir


@pytest.fixture(scope="module")
def killed(start, images, tmp_path_factory):
    """A work folder whose process was killed at a random moment after its first checkpoint; copy it."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    run = start(f"--workdir={workdir}", *small(images), slow_steps=0.05)
    run.wait_for(lambda: sealed(workdir))
    time.sleep(random.uniform(0, 0.5))
    assert run.kill().status == -signal.SIGKILL
    assert sealed(workdir)[-1] < 30
    return workdir


def test_killed_and_resumed_ends_the_same(start, images, finished, killed, tmp_path):
    workdir = shutil.copytree(killed, tmp_path / "run")
    run = start(f"--workdir={workdir}", *small(images)).wait()
    assert run.status == 0 and "going on from the checkpoint of step" in run.out, run.err
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)
    assert any(name.startswith("state/carry/batch_stats") for name in final_state(workdir))


@pytest.mark.parametrize(
    "what, changes", [("carry", "carry"), ("average", "average"), ("key", "params"), ("data", "params"), ("opt_state", "params")]
)
def test_what_a_checkpoint_must_hold(start, images, finished, killed, tmp_path, what, changes):
    """The negative controls: with one part left out of the restored checkpoint the end is another."""
    workdir = shutil.copytree(killed, tmp_path / "run")
    run = start(f"--workdir={workdir}", *small(images), forget=what).wait()
    assert run.status == 0, run.err
    ours, theirs = final_state(workdir), final_state(finished)
    assert ours.keys() == theirs.keys()
    part = {name for name in ours if name.startswith(f"state/{changes}") and ours[name] != b"none"}
    assert len(part) > 10 and sum(ours[name] != theirs[name] for name in part) > 0.9 * len(part)


def test_stopped_by_ctrl_c(start, images, finished, tmp_path):
    workdir = tmp_path / "run"
    run = start(f"--workdir={workdir}", *small(images), slow_steps=0.05)
    run.wait_until_ready()
    run.wait_for(lambda: sealed(workdir))
    run.signal(signal.SIGINT)
    assert run.wait().status == 130 and "stopped; the same command goes on from here" in run.out, run.err
    assert start(f"--workdir={workdir}", *small(images)).wait().status == 0
    assert final_state(workdir) == final_state(finished)


def test_it_learns_evaluates_and_draws(start, images, finished, tmp_path):
    """Accuracy is what the records say; four pictures are drawn, none of them empty."""
    told = records(finished)
    losses = [r["loss"] for r in told if r["kind"] == "train"]
    assert losses[-1] < losses[0] and all({"error", "accuracy"} <= r.keys() for r in told)
    workdir = shutil.copytree(finished, tmp_path / "run")
    best = min(r["error"] for r in told if r["kind"] == "evaluation")
    run = start(f"--workdir={workdir}", "--mode=evaluate").wait()
    assert run.status == 0 and f"accuracy {1 - best:.2%}" in run.out, run.err
    for name in PICTURES:
        content = (workdir / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 3000, name
    one = start(f"--workdir={workdir}", "--mode=evaluate", "--config.data.eval_batch_size=7").wait()
    assert [line for line in one.out.split("\n") if "accuracy" in line] == [
        line for line in run.out.split("\n") if "accuracy" in line
    ]


def test_predict(start, finished, images, tmp_path):
    from PIL import Image

    stored = np.load(images)
    files = []
    for label in range(3):
        image = stored["images"][np.flatnonzero(stored["labels"] == label)[0]]
        files.append(tmp_path / f"{label}.png")
        Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST).save(files[-1])
    run = start(f"--workdir={finished}", "--mode=predict", "--top=2", *[f"--image={file}" for file in files]).wait()
    assert run.status == 0, run.err
    lines = [line for line in run.out.split("\n") if ".png: " in line]
    assert len(lines) == 3 and all(line.count("%") == 2 for line in lines)
    start(f"--workdir={finished}", "--mode=predict").wait().refused("--image=FILE")
    start(f"--workdir={finished}", "--mode=predict", f"--image={tmp_path / 'no.png'}").refused("no.png does not exist")
    (tmp_path / "text.png").write_text("no picture")
    start(f"--workdir={finished}", "--mode=predict", f"--image={tmp_path / 'text.png'}").refused("text.png")


WRONG = {
    "unknown network": ({"model.name": "resnet19"}, ["config.model.name='resnet19'", "resnet18"]),
    "unknown option": ({"model.options": "widht=3"}, ["no option 'widht'", "nearest: width"]),
    "option not name=value": ({"model.options": "small"}, ["'small'", "name=value"]),
    "image too small": ({"model.name": "inception_v3"}, ["at least 75 x 75", "8, 8"]),
    "image too small for the auxiliary head": ({"model.name": "inception_v3", "data.image_size": 80}, ["299", "aux_logits=False"]),
    "smoothing": ({"loss.label_smoothing": 1.0}, ["config.loss.label_smoothing=1.0", "below 1.0"]),
    "weight decay for adam": ({"optimizer.name": "adam", "optimizer.momentum": 0.0}, ["weight_decay", "no effect"]),
    "milestones": ({"schedule.name": "step", "schedule.milestones": "0.9,0.5"}, ["milestones", "rising"]),
    "milestones without step": ({"schedule.milestones": "0.1"}, ["milestones", "no effect"]),
    "batch larger than the set": ({"data.batch_size": 500}, ["batch_size", "500", "120"]),
    "no such file": ({"data.path": "/nowhere.npz"}, ["/nowhere.npz"]),
    "no such set": ({"data.source": "embedded", "data.path": "", "data.name": "digit"}, ["digit", "digits"]),
    "no network to tfds": (
        {"data.source": "tfds", "data.path": "", "data.name": "cifar10", "data.data_dir": "/nowhere"}, ["cifar10", "digits"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings(start, images, tmp_path, case):
    changes, words = WRONG[case]
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    start(f"--workdir={tmp_path / 'run'}", *small(images), *flags).refused(*words)
    assert not list(tmp_path.glob("run/checkpoints"))


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--config.augment.flp=True"], ["config.augment.flp", "did you mean config.augment.flip?"]),
        (["--config=experiments/configs/image_classification.py:mnst"], ["mnst", "digits"]),
        (["--mode=sample"], ["sample", "train|evaluate|predict"]),
    ],
)
def test_wrong_command_line(start, tmp_path, flags, words):
    start(f"--workdir={tmp_path / 'run'}", *flags).refused(*words, status=2)


def test_flags_of_another_mode_are_refused(start, tmp_path):
    for flag, mode in (("--checkpoint=best", "evaluate or predict"), ("--top=2", "predict")):
        start(f"--workdir={tmp_path / 'run'}", flag).refused(flag.split("=")[0], "no effect with --mode=train", mode)


def test_one_class_is_nothing_to_learn(start, tmp_path):
    np.savez(tmp_path / "ones.npz", images=np.zeros((50, 8, 8), np.uint8), labels=np.zeros(50, np.int64))
    start(f"--workdir={tmp_path / 'run'}", *small(tmp_path / "ones.npz")).refused("ones.npz", "one class only")


def test_kept_mistakes_do_not_keep_their_batches():
    worst, images, shares = WorstMistakes(["cat", "dog"]), np.zeros((4, 2, 2, 1), np.uint8), np.full((4, 2), [0.9, 0.1])
    worst.add(images, np.ones(4, np.int64), shares)
    assert len(worst.titles()) == 4
    assert not any(np.shares_memory(kept, batch) for entry in worst._kept for kept, batch in ((entry[2], images), (entry[4], shares)))


def test_images_changed_since_the_run_began(start, images, tmp_path):
    path, workdir = shutil.copy(images, tmp_path / "bars.npz"), tmp_path / "run"
    assert start(f"--workdir={workdir}", *small(path, train__steps=4)).wait().status == 0
    write_images(path, seed=1)
    start(f"--workdir={workdir}", *small(path, train__steps=4)).refused("not those that the run", "restore them")
    start(f"--workdir={workdir}", "--mode=evaluate").refused("not those that the run", "restore them")


def test_losses_that_are_not_finite_stop_the_run(start, images, tmp_path):
    flags = small(images, train__max_skipped=5)
    start(f"--workdir={tmp_path / 'run'}", *flags, nan_logits=True).refused("not finite 5 times in a row", "learning_rate")


def test_an_interval_without_one_good_step_is_reported(start, images, tmp_path):
    flags = small(images, train__steps=10, schedule__warmup_steps=0, model__name="lenet5", data__image_size=28)
    run = start(f"--workdir={tmp_path / 'run'}", *flags, nan_logits=True).wait(300)
    assert run.status == 0, run.err
    lines = [record for record in records(tmp_path / "run") if record["kind"] == "train"]
    assert [line["step"] for line in lines] == [5, 10]
    assert all(line["accuracy"] is None and line["skipped_steps"] == line["step"] for line in lines)
