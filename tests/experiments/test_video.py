"""What is particular to videos: clips whose label is their order, next frames, predictions for one's own files, what is refused."""

import json
import random
import shutil

import numpy as np
import pytest
from made_video import moving_square, write_class_folders, write_video
from PIL import Image
from processes import config_flags
from table import VIDEO as ROW

CLIPS = {
    "data.window": 0, "data.clip_frames": 6, "data.sampling": "rate", "data.label_field": "way,shade", "model.cnn": "lenet5",
    "model.options": "", "model.layer": "", "augment.crop_padding": 2, "augment.jitter": 0.0, "model.dropout": 0.0,
    "loss.label_smoothing": 0.0, "model.pooling": "last", "model.hidden_size": 24, "optimizer.learning_rate": 0.006, "optimizer.ema": 0.0,
    "schedule.name": "cosine", "train.steps": 400, "train.eval_every": 200, "train.checkpoint_every": 200, "data.batch_size": 12,
}  # fmt: skip
NEXT = {
    "data.clip_frames": 6, "data.context": 3, "data.batch_size": 4, "model.hidden_size": 4, "train.steps": 4, "train.epochs": 0.0,
    "train.eval_every": 4, "schedule.warmup_steps": 0,
}  # fmt: skip


def small(data, **changes):
    return config_flags({**ROW.settings(data), **ROW.data.sources(data)} | CLIPS, changes)


def smaller(**changes):
    return ["--config=moving_digits_next", *config_flags(NEXT, changes)]


@pytest.fixture(scope="module")
def clips(start, data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("video") / "clips"
    run = start(f"--workdir={workdir}", *small(data)).wait(300)
    assert run.status == 0 and "clips: 6 steps of each video" in run.out, run.out + run.err
    return workdir


def evaluated(start, workdir, copy):
    shutil.copytree(workdir, copy)
    run = start(f"--workdir={copy}", "--mode=evaluate", "--split=train", "--checkpoint=newest").wait(300)
    assert run.status == 0, run.out + run.err
    return json.loads((copy / "evaluation_train.json").read_text())["scores"], run.out


@pytest.mark.slow
def test_the_way_is_in_the_order_of_frames_alone(start, clips, tmp_path):
    """A model that knows the way falls to chance where frames are shuffled or stand still, and the shade it still knows."""
    scores, said = evaluated(start, clips, tmp_path / "run")
    assert scores["model"]["way_accuracy"] > 0.95 and scores["model"]["shade_accuracy"] > 0.95
    for name in (
        "model, frames shuffled",
        "model, middle frame only",
        "most frequent",
        "logistic regression on one frame",
    ):
        assert scores[name]["way_accuracy"] < 0.8, (name, scores)
    assert scores["model, middle frame only"]["shade_accuracy"] > 0.9
    for name in ("filmstrips_train.png", "confusion_way_train.png", "confusion_shade_train.png", "clips_train.gif"):
        assert (tmp_path / "run" / name).stat().st_size > 1000 and name in said
    with Image.open(tmp_path / "run" / "clips_train.gif") as gif:
        assert gif.n_frames == 6 and gif.is_animated
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions_train.jsonl").read_text().splitlines()]
    assert np.mean([row["way"] == row["way_answer"] for row in rows]) == pytest.approx(scores["model"]["way_accuracy"])


@pytest.mark.slow
def test_the_users_own_videos(start, clips, tmp_path):
    """Clip after clip of a file, with times; of a folder of frames with their numbers; and pictures where they are asked for."""
    turns = np.concatenate([moving_square(random.Random(1), way, "bright", 6) for way in ("left", "right", "left")])
    film, folders = write_video(tmp_path / "film.mp4", turns), {"whole": turns, "second": turns[6:13]}
    for name, frames in folders.items():
        (tmp_path / name).mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(tmp_path / name / f"{i}.png")
    inputs = [f"--input={path}" for path in (film, tmp_path / "whole", tmp_path / "second")]
    flags = ["--mode=predict", *inputs, f"--output={tmp_path}/shown"]
    run = start(f"--workdir={clips}", *flags, "--format=jsonl").wait(300)
    assert run.status == 0, run.err
    rows = [json.loads(line) for line in run.out.splitlines()]
    assert [row["frames"] for row in rows] == [[1, 6], [7, 12], [13, 18]] * 2 + [[1, 6]]
    assert [row.get("seconds") for row in rows[:4]] == [[0.0, 0.6], [0.6, 1.2], [1.2, 1.8], None]
    assert rows[4]["answers"] == rows[6]["answers"] != rows[3]["answers"]  # the second clip, from the whole or alone
    for number in (1, 2, 3):
        assert (tmp_path / f"shown_{number}.png").stat().st_size > 1000 and (tmp_path / f"shown_{number}.gif").exists()
    run = start(f"--workdir={clips}", *flags[:2], "--top=1").wait(300)
    lines = run.out.splitlines()
    assert len(lines) == 3 and lines[1].split("\t")[1] == "0.6 to 1.2 s" and "way: " in lines[1] and "shade: " in lines[1], run.out
    (tmp_path / "empty.mp4").touch()
    run = start(f"--workdir={clips}", "--mode=predict", f"--input={tmp_path}/empty.mp4", "--input=gone.avi").wait(300)
    assert run.status == 1 and "empty.mp4 is empty" in run.err and "gone.avi does not exist" in run.err


def test_next_frames_and_their_pictures(start, data, tmp_path):
    workdir = tmp_path / "next"
    run = start(f"--workdir={workdir}", *smaller()).wait(300)
    assert run.status == 0 and "baseline to beat: last frame again, validation mse" in run.out, run.out + run.err
    run = start(f"--workdir={workdir}", "--mode=evaluate").wait(300)
    scores = json.loads((workdir / "evaluation_validation.json").read_text())["scores"]
    assert run.status == 0 and {"mse", "mae", "ssim", "bce"} <= scores["model"].keys() and scores["last frame again"]["mse"] > 0, run.err
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text().splitlines()]
    assert len(rows) == 1000 and np.mean([row["mse"] for row in rows]) == pytest.approx(scores["model"]["mse"], rel=1e-3)
    for name in ("frames_validation.png", "steps_validation.png", "frames_validation.gif"):
        assert (workdir / name).stat().st_size > 1000
    film = write_video(tmp_path / "film.avi", np.repeat(np.zeros((5, 16, 16, 1), np.uint8), 3, axis=-1))
    run = start(f"--workdir={workdir}", "--mode=predict", f"--input={film}", f"--output={tmp_path}/after").wait(300)
    assert run.status == 0 and "after_1.png and" in run.out and (tmp_path / "after_1.gif").exists(), run.err


@pytest.mark.slow
def test_convolutional_lstms_and_folders_of_classes(start, tmp_path):
    folder = write_class_folders(tmp_path / "set", 10, seed=0)
    settings = {
        "data.source": "file", "data.path": folder, "data.channels": 1, "data.clip_frames": 9, "data.pad_short": True, "data.batch_size": 4,
        "model.kind": "conv_lstm", "model.hidden_size": 4, "model.filters": 4, "train.epochs": 0.0, "train.steps": 4, "train.eval_every": 4,
        "schedule.warmup_steps": 0, "data.validation_fraction": 0.3, "augment.affine_degrees": 0.0, "augment.affine_scale": 0.0,
        "model.cnn": "lenet5", "model.feature_size": 128,
    }  # fmt: skip
    run = start(f"--workdir={tmp_path / 'run'}", *config_flags(settings, {})).wait(300)
    assert run.status == 0 and "2 classes in the training part: " in run.out, run.out + run.err


def test_what_is_refused(refuses, data, tmp_path):
    workdir, source = f"--workdir={tmp_path / 'run'}", {**ROW.settings(data), **ROW.data.sources(data)}
    for flags, words in (
        (smaller(model__kind="conv_lstm", model__patch=2), ["task='forecast' and model.kind='forecaster' belong together"]),
        (small(data, data__label_field="wey"), ["label_field", "wey", "way"]),
        (small(data, model__layer="layer1"), ["model.layer='layer1' is not a layer of the network", "nearest"]),
        (small(data, data__clip_rate=5.0, data__sampling="even"), ["data.clip_rate=5.0 has no effect with data.sampling='even'"]),
        (config_flags(source, {"data__clip_frames": 7}), ["data.clip_frames=7 has no effect with data.window=5"]),
        (smaller(data__context=6), ["data.context=6 leaves none of data.clip_frames=6 to predict"]),
        (smaller(model__kind="lrcn", model__patch=4), ["model.patch=4 has no effect"]),
        (smaller(task="classify"), ["data.context=3 has no effect"]),
        (smaller(model__patch=3), ["model.patch=3 does not divide frames of 16 x 16"]),
    ):
        refuses([workdir, *flags], *words)
    assert not (tmp_path / "run").exists()
