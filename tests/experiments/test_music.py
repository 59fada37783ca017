"""What is particular to music: the published protocol, pieces that come again, prompts, harmonising, scores, seeds together."""

import json
import re
import shutil

import mido
import numpy as np
import pytest
import symusic
from made_music import TUNE
from processes import config_flags, records
from table import MUSIC as ROW

from seqjax.data.music import load_music
from seqjax.data.readers.midi import read_midi
from seqjax.data.readers.rolls import to_frames
from seqjax.run import chord_baselines


@pytest.fixture(scope="module")
def sampled(runs, tmp_path_factory):
    """Samples of the finished run: flags -> (what was said, the folder)."""

    def sample(*flags):
        folder = tmp_path_factory.mktemp("song")
        run = runs.start(ROW, f"--workdir={runs.finished(ROW)}", "--mode=sample", f"--output={folder}/song", *flags).wait(300)
        assert run.status == 0, run.out + run.err
        return run.out, folder

    return sample


def frames(path):
    return to_frames(read_midi(path)["frames"][0])


def test_the_same_integer_gives_the_same_piece(sampled):
    """Alone, or among others; as MIDI that opens elsewhere, a picture, and sound."""
    said, folder = sampled("--seed=5", "--num_samples=2", "--length=12")
    _, alone = sampled("--seed=6", "--length=12")
    names = [f"song_{number}.{ending}" for number in (5, 6) for ending in ("mid", "png", "wav")]
    assert said.split() == [str(folder / name) for name in names]
    for ending in ("mid", "wav"):
        assert (folder / f"song_6.{ending}").read_bytes() == (alone / f"song_6.{ending}").read_bytes()
    assert (folder / "song_5.mid").read_bytes() != (folder / "song_6.mid").read_bytes()
    assert symusic.Score(str(folder / "song_5.mid")).note_num() > 5


def test_a_prompt_is_continued(runs, sampled):
    _, folder = sampled(f"--prompt={runs.data(ROW)}/tune.mid", "--prompt_bars=1", "--length=8")
    piece = frames(folder / "song_0.mid")
    assert piece[:4] == tuple(map(tuple, TUNE[:4])) and 4 < len(piece) <= 12


def test_a_melody_is_kept(runs, sampled, refuses):
    """Its rests are the model's own; a voice that the model writes last cannot be held."""
    _, folder = sampled(f"--melody={runs.data(ROW)}/tune.mid", "--length=6", "--temperature=0.7", "--tempo=60")
    piece = frames(folder / "song_0.mid")
    assert [max(frame) for frame, notes in zip(piece, TUNE) if notes] == [max(notes) for notes in TUNE[:6] if notes]
    assert sum(map(len, piece)) > 6
    assert mido.MidiFile(folder / "song_0.mid").length <= 6.01


def test_what_cannot_be_sampled(runs, refuses, tmp_path):
    workdir, data = f"--workdir={runs.finished(ROW)}", runs.data(ROW)
    (tmp_path / "cut.mid").write_bytes((data / "tune.mid").read_bytes()[:-9])
    tune = f"--melody={data}/tune.mid"
    for flags, words in [
        ([tune, "--voice=bass"], "in descending order, which can hold the top fixed and not the bass"),
        ([tune, f"--prompt={data}/tune.mid"], "--prompt and --melody cannot be combined"),
        ([f"--melody={data}/pieces.json"], "has 58 pieces; give a file with one"),
        ([f"--prompt={tmp_path}/cut.mid"], "cut.mid is truncated"),
        ([f"--prompt={tmp_path}/none.mid"], "none.mid does not exist"),
        (["--output=no/where/song"], "there is no folder no/where"),
    ]:
        refuses([workdir, "--mode=sample", f"--output={tmp_path}/song", *flags], words)
    refuses([workdir, "--mode=score"], "--input=FILE")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.mid"]


def test_evaluation_is_the_published_protocol(runs, tmp_path):
    """The loss is the mean over frames 2 to T of all pieces; the rows, and mode score, say the same piece by piece."""
    workdir, data = shutil.copytree(runs.finished(ROW), tmp_path / "run"), runs.data(ROW)
    run = runs.start(ROW, f"--workdir={workdir}", "--mode=evaluate", "--split=test").wait(300)
    assert run.status == 0, run.out + run.err
    scores = json.loads((workdir / "evaluation_test.json").read_text())["scores"]
    rows = [json.loads(line) for line in (workdir / "predictions_test.jsonl").read_text().splitlines()]
    assert scores["model"]["loss"] == pytest.approx(np.mean([x for row in rows for x in row["nats"][1:]]), rel=1e-4)
    assert scores["model"]["loss_with_first"] == pytest.approx(np.mean([x for row in rows for x in row["nats"]]), rel=1e-4)
    assert scores["model"]["loss"] < scores["pitch frequencies"]["loss"]
    said = runs.start(ROW, f"--workdir={workdir}", "--mode=score", f"--input={data}/pieces.json").wait(300).out
    test = re.findall(r"^ *([\d.]+) +(\d+) +.*test piece \d+$", said, re.M)
    assert [float(loss) for loss, _ in test] == pytest.approx([row["loss"] for row in rows], abs=6e-4)
    part = load_music("file", path=str(data / "pieces.json")).parts["test"]
    assert [int(count) for _, count in test] == [len(roll) for roll in part["frames"]]


def test_baselines_by_hand():
    """Independent counts of the same numbers."""
    data = load_music("embedded", name="canons")
    train, part = (data.parts[name]["frames"][:30] for name in ("train", "validation"))
    shares = (np.concatenate(train).sum(0) + 1) / (sum(map(len, train)) + 2)
    nats = [-sum(np.log(s if x else 1 - s) for s, x in zip(shares, frame)) for roll in part for frame in roll[1:]]
    assert chord_baselines.pitch_frequencies(train, part)["loss"] == pytest.approx(np.mean(nats))
    hits = sum((a & b).sum() for roll in part for a, b in zip(roll[1:], roll))
    either = sum((a | b).sum() for roll in part for a, b in zip(roll[1:], roll))
    repeated = chord_baselines.repeat_last(part, part)
    assert repeated["frame_accuracy"] == pytest.approx(hits / either)
    begins = goes = was = was_not = 0
    for roll in part:
        for last, now in zip(roll, roll[1:]):
            was, was_not = was + last.sum(), was_not + (1 - last).sum()
            goes, begins = goes + (last & now).sum(), begins + ((1 - last) & now).sum()
    a, b = (goes + 1) / (was + 2), (begins + 1) / (was_not + 2)
    frames = (goes, was - goes, begins, was_not - begins)
    nats = -np.dot(np.log([a, 1 - a, b, 1 - b]), frames) / sum(len(roll) - 1 for roll in part)
    assert repeated["loss"] == pytest.approx(nats)


def test_independent_pitches_from_midi_files(runs, tmp_path):
    """The other form of the model, whose bass can be held too; a folder of MIDI files, and seeds trained together."""
    folder, data = tmp_path / "midi", load_music("file", path=str(runs.data(ROW) / "pieces.json"))
    folder.mkdir()
    from seqjax.data.readers.midi import write_midi

    for number, roll in enumerate(data.parts["train"]["frames"][:12]):
        write_midi(folder / f"{number}.mid", to_frames(roll), frames_per_quarter=2)
    settings = {**ROW.settings(runs.data(ROW))} | {
        "data.source": "file", "data.path": folder, "data.frames_per_quarter": 2, "data.window": 20, "data.validation_fraction": 0.25,
        "model.output": "frames", "train.steps": 12, "train.eval_every": 6,
    }  # fmt: skip
    del settings["model.note_size"]
    run = runs.start(ROW, f"--workdir={tmp_path / 'sweep'}", *config_flags(settings, {}), "--sweep=seed=0,1").wait(300)
    assert run.status == 0 and "training 2 seeds together" in run.out, run.out + run.err
    workdir = tmp_path / "sweep" / "seed=1"
    assert records(workdir)[-1]["step"] == 12
    flags = [f"--melody={runs.data(ROW)}/tune.mid", "--voice=bass", f"--output={tmp_path}/song", "--seed=1"]
    run = runs.start(ROW, f"--workdir={workdir}", "--mode=sample", *flags).wait(300)
    assert run.status == 0, run.out + run.err
    piece = to_frames(read_midi(tmp_path / "song_1.mid", 2)["frames"][0])
    kept = [min(frame) for frame, notes in zip(piece, np.repeat(np.array(TUNE, object), 2)) if notes]
    assert kept == [notes[0] for notes in np.repeat(np.array(TUNE, object), 2) if notes]
