"""What is particular to speech: error rates, transcripts that do not fit, language models, times of words, sounds that are no good."""

import json
import shutil

import numpy as np
import pytest
from made_speech import RATE, spell, write_words
from processes import config_flags, records
from table import SPEECH as ROW

from seqjax.data.readers.sounds import write_sound
from seqjax.training.metrics.speech import error_rates


def evaluated(runs, tmp_path, *flags):
    """Scores of the validation part, and what was said."""
    workdir = tmp_path / "run"
    if not workdir.exists():
        shutil.copytree(runs.finished(ROW), workdir)
    run = runs.start(ROW, f"--workdir={workdir}", "--mode=evaluate", *flags).wait(300)
    assert run.status == 0, run.out + run.err
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text().splitlines()]
    return json.loads((workdir / "evaluation_validation.json").read_text())["scores"], rows, run.out


def test_error_rates_are_of_the_rows(runs, tmp_path):
    scores, rows, said = evaluated(runs, tmp_path, "--beam=1")
    rates = error_rates([row["output"] for row in rows], [row["transcript"] for row in rows])
    assert scores["model"]["wer"] == pytest.approx(rates.wer) and scores["model"]["cer"] == pytest.approx(rates.cer)
    assert (tmp_path / "run" / "heard_validation.png").exists() and "WER" in said


def test_error_rates_by_hand():
    found = error_rates(["a b", "x c c", ""], ["a c", "c c", "d"])
    assert (found.word_errors, found.words) == (3, 5) and found.wer == pytest.approx(0.6)
    with pytest.raises(ValueError, match="no word"):
        error_rates(["a"], [""])


def test_a_language_model_of_text(runs, tmp_path):
    """An n-gram that knows one word only, and counts for everything: nothing else is heard."""
    (tmp_path / "words.txt").write_text("abab\n" * 20)
    flags = [f"--lm={tmp_path}/words.txt", "--lm_weight=300", "--lm_order=4"]
    _, rows, _ = evaluated(runs, tmp_path, *flags)
    assert {row["output"] for row in rows} <= {"abab"[:n] for n in range(5)} | {"ababab"}


@pytest.mark.slow
def test_a_recurrent_language_model(runs, refuses, tmp_path):
    """A run of language_model, of the same kind of tokens; another kind is refused."""
    (tmp_path / "text.txt").write_text("abcd dcba\n" * 200)
    from table import LANGUAGE_MODEL

    settings = {
        "data.source": "file", "data.path": tmp_path / "text.txt", "data.batch_size": 4, "data.window": 10, "data.eval_batch_size": 4,
        "model.hidden_size": 8, "model.embed_size": 4, "train.steps": 6, "train.epochs": 0.0, "ngram_order": 0, "sample.length": 0,
    }  # fmt: skip
    for kind in ("char", "word"):
        run = runs.start(LANGUAGE_MODEL, f"--workdir={tmp_path}/{kind}", *config_flags(settings | {"tokenizer.kind": kind}, {})).wait(300)
        assert run.status == 0, run.out + run.err
    plain, _, _ = evaluated(runs, tmp_path)
    with_model, rows, _ = evaluated(runs, tmp_path, f"--lm={tmp_path}/char", "--lm_weight=1.0", "--lm_bonus=1.0")
    assert rows and with_model["model"]["loss"] == plain["model"]["loss"]
    words = f"--workdir={tmp_path}/run", "--mode=evaluate", f"--lm={tmp_path}/word"
    refuses([*words], "has another kind of tokens (word)")


def test_transcripts_that_cannot_be(runs, tmp_path):
    """In training they are left out with a notice; at evaluation told, and with --strict an error that names each."""
    data = tmp_path / "data"
    data.mkdir()
    for name, number in (("train", 16), ("test", 6)):
        write_words(data, name, number, 3)
    for name, text in (("train", "abcdabcdabcdabcd"), ("test", "aaaaaaaaaaaaaaaaa")):
        write_sound(data / f"short_{name}.wav", spell("a", np.random.default_rng(0)), RATE)
        with open(data / f"{name}.jsonl", "a") as file:
            file.write(json.dumps({"audio": f"short_{name}.wav", "text": text}) + "\n")
    write_sound(data / "new.wav", spell("axbxc", np.random.default_rng(1)), RATE)
    with open(data / "test.jsonl", "a") as file:
        file.write(json.dumps({"audio": "new.wav", "text": "axb"}) + "\n")
    settings = ROW.settings(data) | {
        "data.source": "file",
        "data.path": data / "train.jsonl",
        "data.validation_path": data / "test.jsonl",
        "train.steps": 4,
        "train.eval_every": 4,
        "data.workers": 0,
    }
    run = runs.start(ROW, f"--workdir={tmp_path / 'run'}", *config_flags(settings, {})).wait(300)
    assert run.status == 0, run.out + run.err
    assert "left out of training: 1 of 17 sounds, too short for their transcripts: short_train.wav" in run.out
    losses = [record["loss"] for record in records(tmp_path / "run") if "loss" in record]
    assert losses and np.isfinite(losses).all()
    _, rows, said = evaluated(runs, tmp_path)
    assert len(rows) == 8 and "1 sounds are too short for their transcripts and are not in the loss: short_test.wav" in said
    assert "1 transcripts have labels that the training part lacks: new.wav" in said
    run = runs.start(ROW, f"--workdir={tmp_path / 'run'}", "--mode=evaluate", "--strict").wait(300)
    assert run.status == 1 and len(run.err.splitlines()) == 3, run.err
    for words in ("transcripts that cannot be recognised: 2 faults", "new.wav", "'axb'", "short_test.wav", "needs 33 steps"):
        assert words in run.err


def test_prediction_and_its_picture(runs, tmp_path):
    """Files of other rates, alone and in a folder; the same text in JSON and for people, with times within the sound."""
    (tmp_path / "sounds").mkdir()
    for name, rate in (("a.wav", 1000), ("b.flac", 4000)):
        write_sound(tmp_path / "sounds" / name, spell("abcd", np.random.default_rng(2), rate), rate)
    ask = [f"--workdir={runs.finished(ROW)}", "--mode=predict", f"--input={tmp_path}/sounds", "--beam=4"]
    run = runs.start(ROW, *ask, "--format=jsonl", "--n_best=3", f"--picture={tmp_path}/heard.png").wait(300)
    assert run.status == 0, run.out + run.err
    found = [json.loads(line) for line in run.out.splitlines()]
    assert [row["sound"].rsplit("/", 1)[1] for row in found] == ["a.wav", "b.flac"]
    for row in found:
        assert row["text"] == row["n_best"][0]["text"] and 1 <= len(row["n_best"]) <= 3
        assert [word["word"] for word in row["words"]] == row["text"].split()
        assert all(0 <= word["start"] < word["end"] <= row["seconds"] for word in row["words"])
    assert (tmp_path / "heard.png").read_bytes().startswith(b"\x89PNG")
    run = runs.start(ROW, *ask).wait(300)
    assert [line.split(": ")[1] for line in run.out.splitlines() if ".wav:" in line or ".flac:" in line] == [row["text"] for row in found]


def test_sounds_that_cannot_be_predicted(runs, refuses, tmp_path):
    workdir = f"--workdir={runs.finished(ROW)}"
    write_sound(tmp_path / "two.wav", np.zeros((800, 2), np.int16), 1000)
    (tmp_path / "no.wav").write_bytes(b"no sound at all")
    (tmp_path / "folder").mkdir()
    for flags, words in [
        ([f"--input={tmp_path}/two.wav"], "has 2 channels"),
        ([f"--input={tmp_path}/no.wav"], "cannot be read as sound"),
        ([f"--input={tmp_path}/none.wav"], "does not exist"),
        ([f"--input={tmp_path}/folder"], "has no sound files"),
        ([], "--input=FILE"),
        ([f"--input={runs.data(ROW)}/train_0.wav", "--n_best=9", "--beam=2"], "--n_best=9 is more than --beam=2"),
    ]:
        refuses([workdir, "--mode=predict", *flags], words)
