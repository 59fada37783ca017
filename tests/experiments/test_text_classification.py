"""What is particular to the text experiment: early stopping, a bag of words beside it, predictions, labels and word vectors."""

import json
import os
import re
import shutil
import signal

import pytest
from made import TOPICS
from processes import final_state, records, sealed
from table import TEXT_CLASSIFICATION as ROW


@pytest.fixture(scope="module")
def finished(runs):
    return runs.finished(ROW)


def test_it_stops_early_and_says_what_it_began_with(runs, finished):
    said = runs.said(ROW)
    (told,) = re.findall(r"stopped early at step (\d+): validation did not improve in 3 evaluations", said)
    assert int(told) == sealed(finished)[-1] == records(finished)[-1]["step"] < 60
    assert said.count("vectors of 6 numbers for 10 tokens") == 1 and "2 shapes to compile" in said
    assert "compiled 2 shapes of the training step" in said


def evaluations(workdir):
    return {record["step"]: record for record in records(workdir) if record["kind"] == "evaluation"}


@pytest.fixture(scope="module")
def killed(runs, start, finished, tmp_path_factory):
    """A work directory whose process was killed while it waited for a better validation; copy it."""
    workdir, last = tmp_path_factory.mktemp("killed") / "run", sealed(finished)[-1]
    run = start(f"--workdir={workdir}", *runs.flags(ROW), kill_at_batch=last)
    assert run.wait(300).status == -signal.SIGKILL, run.err
    newest = workdir / "checkpoints" / str(sealed(workdir)[-1]) / "meta" / "metadata"
    assert json.loads(newest.read_text())["meta"]["progress"]["without_best"] >= 1
    return workdir


@pytest.mark.slow
def test_killed_while_waiting_and_resumed_ends_the_same(runs, start, finished, killed, tmp_path):
    """Early stopping counts on, and the moving average continues, where they were."""
    workdir = shutil.copytree(killed, tmp_path / "run")
    run = start(f"--workdir={workdir}", *runs.flags(ROW)).wait()
    assert run.status == 0 and "resuming from the checkpoint of step" in run.out, run.err
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)
    averages = {name for name, value in final_state(workdir).items() if name.startswith("state/average") and value != b"none"}
    assert len(averages) > 5


@pytest.mark.parametrize("what, changes", [("average", "average"), pytest.param("data", "params", marks=pytest.mark.slow)])
def test_what_a_checkpoint_must_hold(runs, start, finished, killed, tmp_path, what, changes):
    """The negative controls: with one part left out of the restored checkpoint the end is another."""
    workdir = shutil.copytree(killed, tmp_path / "run")
    run = start(f"--workdir={workdir}", *runs.flags(ROW), forget=what).wait()
    assert run.status == 0, run.err
    ours, theirs = final_state(workdir), final_state(finished)
    part = {name for name in ours if name.startswith(f"state/{changes}") and ours[name] != b"none"}
    assert len(part) > 5 and all(ours[name] != theirs.get(name) for name in part)


def test_a_run_that_stopped_early_continues_when_it_may(runs, start, finished, tmp_path):
    """The same command ends at once; with more patience it trains on."""
    workdir, last = shutil.copytree(finished, tmp_path / "run"), sealed(finished)[-1]
    run = start(f"--workdir={workdir}", *runs.flags(ROW)).wait()
    assert run.status == 0 and f"step {last}, which is the last" in run.out, run.out + run.err
    run = start(f"--workdir={workdir}", *runs.flags(ROW, train__stop_after=4)).wait()
    assert run.status == 0 and sealed(workdir)[-1] > last, run.out + run.err


def test_it_learns_evaluates_and_draws(runs, finished):
    """The printed accuracy is that of the records and of the file of predictions."""
    best = min(record["error"] for record in evaluations(finished).values())
    assert best < 0.2  # always the most frequent class: about two thirds
    workdir, run = runs.evaluated(ROW)
    assert re.search(rf"^model .* accuracy {1 - best:.2%}", run.out, re.M), run.out
    assert re.search(r"^always \w+ +accuracy", run.out, re.M) and "bag of word n-grams, logistic regression" in run.out
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text().splitlines()]
    assert len(rows) == 31 and sum(row["label"] == row["answer"] for row in rows) / 31 == pytest.approx(1 - best)
    for name in ("confusion_validation.png", "words_validation.png"):
        content = (workdir / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 2000, name


def test_checkpoints_to_choose_from(refuses, runs, start, finished, tmp_path):
    """The newest gives the recorded loss, whatever the batch size; the best reads another part; a moving average is enough."""
    workdir, found = shutil.copytree(finished, tmp_path / "run"), evaluations(finished)
    last = max(found)
    newest = ["--checkpoint=newest", "--config.data.eval_batch_size=7"]
    run = start(f"--workdir={workdir}", "--mode=evaluate", *newest).wait()
    assert f"checkpoint of step {last}\n" in run.out and f"  loss {found[last]['loss']:.4f}  " in run.out, run.out + run.err
    workdir, run = runs.evaluated(ROW, "test")
    best = min(found, key=lambda step: found[step]["error"])
    assert f"checkpoint of step {best}\n" in run.out and "test part of test.jsonl: 14\n" in run.out, run.out + run.err
    files = {path.name for path in workdir.iterdir()}
    assert {"predictions_test.jsonl", "confusion_test.png", "words_test.png"} <= files
    words = ["moving average", "optimizer.ema", "newest"]
    refuses([f"--workdir={workdir}", "--mode=evaluate", "--checkpoint=average"], *words)


TEXTS = ["ripe apple and pear", "", "wave the tide and salt", "saw " * 50, "zebra", "rust of the hammer"]


@pytest.fixture(scope="module")
def answers(start, finished, tmp_path_factory):
    """TEXTS as the command predicts them, as JSON lines."""
    path = tmp_path_factory.mktemp("inputs") / "texts.txt"
    path.write_text("".join(text + "\n" for text in TEXTS))
    run = start(f"--workdir={finished}", "--mode=predict", f"--input={path}", "--format=jsonl", "--top=3").wait()
    assert run.status == 0 and "checkpoint of step" in run.err, run.err
    return [json.loads(line) for line in run.out.splitlines()]


def test_predictions_are_lines_of_json(answers):
    assert [row["text"] for row in answers] == TEXTS
    labels = [row["label"] for row in answers]
    assert [labels[i] for i in (0, 2, 3, 5)] == ["fruit", "sea", "tool", "tool"]
    for row in answers:
        assert max(row["probabilities"], key=row["probabilities"].get) == row["label"]
        assert row["probabilities"].keys() == TOPICS.keys() and sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_predictions_for_people_from_standard_input(start, finished, answers):
    """In another order and another batch size, the same answers; nothing else on standard output."""
    flags = [f"--workdir={finished}", "--mode=predict", "--top=2", "--config.data.eval_batch_size=4"]
    run = start(*flags, stdin="\n".join(reversed(TEXTS))).wait()
    assert run.status == 0, run.err
    lines = run.out.removesuffix("\n").split("\n")
    assert len(lines) == len(TEXTS)
    for line, row in zip(lines, reversed(answers)):
        (first, share), (second, _) = re.findall(r"(\w+) ([\d.]+)%", line)[:2]
        assert first == row["label"] and second != first
        assert float(share) / 100 == pytest.approx(row["probabilities"][first], abs=6e-4)
        assert len(line) < 110 and line.endswith(row["text"] if len(row["text"]) <= 60 else row["text"][:57] + "...")


@pytest.mark.slow
def test_two_devices_give_the_same_losses(runs, start, finished, tmp_path):
    two = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}
    run = start(f"--workdir={tmp_path / 'run'}", *runs.flags(ROW, train__steps=10), env=two).wait(300)
    assert run.status == 0 and "on 2 cpu device(s)\n" in run.out, run.out + run.err
    ours, theirs = records(tmp_path / "run"), records(finished)
    assert [(r["kind"], r["step"]) for r in ours] == [
        ("train", 5),
        ("evaluation", 5),
        ("train", 10),
        ("evaluation", 10),
    ]
    for here, there in zip(ours, theirs):
        for name in {"loss", "grad_norm"} & here.keys():
            assert here[name] == pytest.approx(there[name], rel=1e-4), (here, there)


@pytest.mark.slow
def test_an_interval_without_one_good_step_is_reported(runs, start, tmp_path):
    flags = runs.flags(ROW, train__steps=6, train__eval_every=6, data__buckets=1)
    run = start(f"--workdir={tmp_path / 'run'}", *flags, nan_logits=True).wait(300)
    assert run.status == 0, run.err
    lines = [record for record in records(tmp_path / "run") if record["kind"] == "train"]
    assert [(line["step"], line["accuracy"], line["skipped_steps"]) for line in lines] == [(5, None, 5), (6, None, 6)]


# Bad input: each case changes files or fields of a good run.

GOOD = b'{"text": "ripe pear", "label": "fruit"}\n'
FILES = {
    "unknown label": (
        "validation.jsonl",
        GOOD + b'{"text": "a", "label": "fruits"}\n',
        ["validation.jsonl line 2", "'fruits'", "nearest: fruit"],
    ),
    "not JSON": ("train.jsonl", GOOD + b"pear\n", ["train.jsonl line 2 is not JSON"]),
    "no label": ("test.jsonl", b'{"text": "pear"}\n', ["test.jsonl line 1", "'label'", "only text"]),
    "empty text": ("train.jsonl", GOOD * 2 + b'{"text": " ", "label": "sea"}\n', ["train.jsonl line 3", "empty text"]),
    "one class": ("train.jsonl", GOOD * 9, ["train.jsonl", "one class"]),
    "empty file": ("train.jsonl", b"", ["train.jsonl is empty"]),
    "not UTF-8": ("validation.jsonl", b'{"text": "caf\xe9", "label": "sea"}\n', ["validation.jsonl is not UTF-8 at byte 13 (0xe9)"]),
    "narrow vectors": ("vectors.txt", b"apple 1 2 3\npear 4 5 6\n", ["vectors.txt have 3 numbers", "embed_size is 6"]),
    "uneven vectors": ("vectors.txt", b"apple 1 2 3 4 5 6\npear 4 5 6\n", ["vectors.txt: line 2 has 3 numbers", "expected 6"]),
}
FIELDS = {
    "an end kept of what is not cut": ({"data.keep": "end", "data.max_length": 0}, ["data.keep='end' has no effect", "max_length"]),
    "vectors of characters": ({"tokenizer.kind": "char", "tokenizer.lower": False}, ["model.vectors", "no effect", "'char'"]),
    "too many pieces": ({"tokenizer.kind": "subword", "model.vectors": "", "tokenizer.vocab_size": 9000}, ["9000", "at most"]),
    "pooling": ({"model.pooling": "sum"}, ["config.model.pooling='sum'", "attention"]),
    "path of the embedded set": ({"data.source": "embedded"}, ["config.data.path", "no effect", "'embedded'"]),
    "a folder that is none": ({"data.path": "/nowhere"}, ["/nowhere"]),
    "both lengths": ({"train.epochs": 2.0}, ["config.train.steps", "config.train.epochs"]),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files(runs, refuses, tmp_path, case):
    name, content, words = FILES[case]
    folder = shutil.copytree(runs.data(ROW), tmp_path / "data")
    (folder / name).write_bytes(content)
    refuses([f"--workdir={tmp_path / 'run'}", *runs.flags(ROW, folder)], *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", FIELDS)
def test_bad_fields(runs, refuses, tmp_path, case):
    changes, words = FIELDS[case]
    refuses([f"--workdir={tmp_path / 'run'}", *runs.flags(ROW, **changes)], *words)
    assert not (tmp_path / "run").exists()


def test_wrong_questions_to_a_run(start, refuses, finished, tmp_path):
    ask = [f"--workdir={finished}", "--mode=predict"]
    refuses([*ask, "--input=/nowhere.txt"], "/nowhere.txt does not exist")
    refuses([*ask, f"--input={tmp_path}"], "is a folder")
    run = start(*ask).wait()
    assert run.status == 1 and run.err == "error: standard input is empty; give a file with some text\n", run.err
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    refuses([*ask, f"--input={tmp_path / 'latin.txt'}"], "latin.txt is not UTF-8 at byte 3")
    (tmp_path / "rows.jsonl").write_text('{"txt": "a"}')
    refuses([*ask, f"--input={tmp_path / 'rows.jsonl'}"], "rows.jsonl line 1", "'text'", "nearest: txt")
    (tmp_path / "begun").mkdir()
    shutil.copy(finished / "config.json", tmp_path / "begun")
    words = ["there is no run with a checkpoint in", "train one first"]
    refuses([f"--workdir={tmp_path / 'begun'}", "--mode=predict"], *words)
