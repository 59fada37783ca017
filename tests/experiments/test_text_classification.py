"""The text experiment: learns, resumes exactly, stops early, evaluates, predicts, and refuses what is wrong in one line."""

import json
import random
import re
import shutil
import signal

import pytest
from processes import config_flags, final_state, records, sealed

EXPERIMENT = "text_classification"
TOPICS = {
    "fruit": ["apple", "pear", "plum", "peel", "ripe"],
    "sea": ["wave", "tide", "boat", "harbour", "salt"],
    "tool": ["saw", "drill", "bolt", "hammer", "rust"],
}
ANYWHERE = ["the", "a", "and", "of", "is", "was"]


def made_text(chooser, label, words):
    """Words of which about half tell the label."""
    return " ".join(chooser.choice(TOPICS[label] if i % 2 == 0 else ANYWHERE) for i in range(words))


def write_texts(path, number, seed, longest=9, extra=()):
    """JSON lines, three classes; `extra` are (label, words) of texts of other lengths."""
    chooser = random.Random(seed)
    sizes = [(chooser.choice(list(TOPICS)), chooser.randint(1, longest)) for _ in range(number)] + list(extra)
    rows = [{"text": made_text(chooser, label, words), "label": label} for label, words in sizes]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small(data, **changes):
    """Flags of a run of 60 steps that stops early, with noise of every kind, a moving average and word vectors."""
    settings = {
        "data.source": "file", "data.path": data / "train.jsonl", "data.validation_path": data / "validation.jsonl",
        "data.test_path": data / "test.jsonl", "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2,
        "tokenizer.min_count": 1, "tokenizer.lower": True, "data.max_length": 0, "model.cell": "gru", "model.hidden_size": 8,
        "model.embed_size": 6, "model.vectors": data / "vectors.txt", "model.dropout": 0.1, "model.embed_dropout": 0.1,
        "model.word_dropout": 0.1, "model.recurrent_dropout": 0.1, "loss.label_smoothing": 0.1, "optimizer.learning_rate": 0.03,
        "optimizer.ema": 0.8, "schedule.name": "constant", "schedule.warmup_steps": 0, "train.steps": 60,
        "train.epochs": 0.0, "train.log_every": 5, "train.eval_every": 5, "train.checkpoint_every": 3, "train.keep": 2,
        "train.stop_after": 3,
    }  # fmt: skip
    return config_flags(settings, changes)


@pytest.fixture(scope="module")
def start(server):
    return lambda *argv, **options: server.start(*argv, experiment=EXPERIMENT, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of texts; one of the validation part is longer than the largest bucket, and half the words have vectors."""
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder / "train.jsonl", 90, seed=0)
    write_texts(folder / "validation.jsonl", 30, seed=1, extra=[("sea", 40)])
    write_texts(folder / "test.jsonl", 14, seed=2)
    words = [*TOPICS["fruit"], *TOPICS["sea"]]
    chooser = random.Random(3)
    lines = [" ".join([word, *(f"{chooser.gauss(0, 1):.3f}" for _ in range(6))]) for word in words]
    (folder / "vectors.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def finished(start, data, tmp_path_factory):
    """The work folder of a run that was never stopped; not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = start(f"--workdir={workdir}", *small(data)).wait(300)
    assert run.status == 0, run.err
    (told,) = re.findall(r"stopped early at step (\d+): no better validation in 3 evaluations", run.out)
    assert int(told) == sealed(workdir)[-1] == records(workdir)[-1]["step"] < 60
    assert "vectors of 6 numbers for 10 tokens" in run.out and "2 shapes to compile" in run.out
    assert "compiled 2 shapes of the training step" in run.out
    return workdir


def evaluations(workdir):
    return {record["step"]: record for record in records(workdir) if record["kind"] == "evaluation"}


@pytest.fixture(scope="module")
def killed(start, data, finished, tmp_path_factory):
    """A work folder whose process was killed while it waited for a better validation; copy it."""
    workdir, last = tmp_path_factory.mktemp("killed") / "run", sealed(finished)[-1]
    run = start(f"--workdir={workdir}", *small(data), kill_at_batch=last)
    assert run.wait(300).status == -signal.SIGKILL, run.err
    newest = workdir / "checkpoints" / str(sealed(workdir)[-1]) / "meta" / "metadata"
    assert json.loads(newest.read_text())["progress"]["without_best"] >= 1
    return workdir


def test_killed_and_resumed_ends_the_same(start, data, finished, killed, tmp_path):
    """Early stopping counts on, and the moving average goes on, where they were."""
    workdir = shutil.copytree(killed, tmp_path / "run")
    run = start(f"--workdir={workdir}", *small(data)).wait()
    assert run.status == 0 and "going on from the checkpoint of step" in run.out, run.err
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)
    averages = {
        name for name, value in final_state(workdir).items() if name.startswith("state/average") and value != b"none"
    }
    assert len(averages) > 5


@pytest.mark.parametrize("what, changes", [("average", "average"), ("data", "params")])
def test_what_a_checkpoint_must_hold(start, data, finished, killed, tmp_path, what, changes):
    """The negative controls: with one part left out of the restored checkpoint the end is another."""
    workdir = shutil.copytree(killed, tmp_path / "run")
    run = start(f"--workdir={workdir}", *small(data), forget=what).wait()
    assert run.status == 0, run.err
    ours, theirs = final_state(workdir), final_state(finished)
    part = {name for name in ours if name.startswith(f"state/{changes}") and ours[name] != b"none"}
    assert len(part) > 5 and all(ours[name] != theirs.get(name) for name in part)


def test_a_finished_early_run_is_gone_on_with_when_it_may(start, data, finished, tmp_path):
    """The same command ends at once; with more patience it trains on."""
    workdir, last = shutil.copytree(finished, tmp_path / "run"), sealed(finished)[-1]
    run = start(f"--workdir={workdir}", *small(data)).wait()
    assert run.status == 0 and f"step {last}, which is the last" in run.out, run.out + run.err
    run = start(f"--workdir={workdir}", *small(data, train__stop_after=4)).wait()
    assert run.status == 0 and sealed(workdir)[-1] > last, run.out + run.err


def test_it_learns_evaluates_and_draws(start, finished, tmp_path):
    """The printed accuracy is that of the records and of the file of predictions."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    best = min(record["error"] for record in evaluations(finished).values())
    assert best < 0.2  # always the most frequent class: about two thirds
    run = start(f"--workdir={workdir}", "--mode=evaluate").wait()
    assert run.status == 0 and f"model: accuracy {1 - best:.2%}" in run.out, run.out + run.err
    assert re.search(r"^always \w+: accuracy", run.out, re.M) and "bag of word n-grams, logistic regression" in run.out
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text().splitlines()]
    assert len(rows) == 31 and sum(row["label"] == row["answer"] for row in rows) / 31 == pytest.approx(1 - best)
    for name in ("confusion_validation.png", "words_validation.png"):
        content = (workdir / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 2000, name


def test_checkpoints_to_choose_from(start, finished, tmp_path):
    """The newest gives the recorded loss, whatever the batch size; the best reads another part; a moving average is enough."""
    workdir, found = shutil.copytree(finished, tmp_path / "run"), evaluations(finished)
    last = max(found)
    newest = ["--checkpoint=newest", "--config.data.eval_batch_size=7"]
    run = start(f"--workdir={workdir}", "--mode=evaluate", *newest).wait()
    assert f"checkpoint of step {last}\n" in run.out and f"loss {found[last]['loss']:.4f}\n" in run.out, (
        run.out + run.err
    )
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--split=test").wait()
    best = min(found, key=lambda step: found[step]["error"])
    assert f"checkpoint of step {best}\n" in run.out and "test part of train.jsonl, 14 texts" in run.out, (
        run.out + run.err
    )
    assert {"predictions_test.jsonl", "confusion_test.png", "words_test.png"} <= {
        path.name for path in workdir.iterdir()
    }
    start(f"--workdir={workdir}", "--mode=evaluate", "--checkpoint=average").refused(
        "moving average", "optimizer.ema", "newest"
    )


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
        assert row["probabilities"].keys() == TOPICS.keys() and sum(row["probabilities"].values()) == pytest.approx(
            1, abs=1e-5
        )


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


def test_two_devices_give_the_same_losses(start, data, finished, tmp_path):
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    run = start(f"--workdir={tmp_path / 'run'}", *small(data, train__steps=10), env=two).wait(300)
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


def test_an_interval_without_one_good_step_is_reported(start, data, tmp_path):
    flags = small(data, train__steps=6, train__eval_every=6, data__buckets=1)
    run = start(f"--workdir={tmp_path / 'run'}", *flags, nan_logits=True).wait(300)
    assert run.status == 0, run.err
    lines = [record for record in records(tmp_path / "run") if record["kind"] == "train"]
    assert [(line["step"], line["accuracy"], line["skipped_steps"]) for line in lines] == [(5, None, 5), (6, None, 6)]


# Bad input: each case changes files or fields of a good run.

GOOD = b'{"text": "ripe pear", "label": "fruit"}\n'
FILES = {
    "unknown label": ("validation.jsonl", GOOD + b'{"text": "a", "label": "fruits"}\n',
        ["validation.jsonl line 2", "'fruits'", "nearest: fruit"]),
    "not JSON": ("train.jsonl", GOOD + b"pear\n", ["train.jsonl line 2 is not JSON"]),
    "no label": ("test.jsonl", b'{"text": "pear"}\n', ["test.jsonl line 1", "'label'", "only text"]),
    "empty text": ("train.jsonl", GOOD * 2 + b'{"text": " ", "label": "sea"}\n', ["train.jsonl line 3", "empty text"]),
    "one class": ("train.jsonl", GOOD * 9, ["train.jsonl", "one class"]),
    "empty file": ("train.jsonl", b"", ["train.jsonl is empty"]),
    "not UTF-8": ("validation.jsonl", b'{"text": "caf\xe9", "label": "sea"}\n', ["validation.jsonl is not UTF-8 at byte 13 (0xe9)"]),
    "narrow vectors": ("vectors.txt", b"apple 1 2 3\npear 4 5 6\n", ["vectors.txt have 3 numbers", "embed_size is 6"]),
    "uneven vectors": ("vectors.txt", b"apple 1 2 3 4 5 6\npear 4 5 6\n", ["vectors.txt: line 2 has 3 numbers", "expected 6"]),
}  # fmt: skip
FIELDS = {
    "an end kept of what is not cut": ({"data.keep": "end", "data.max_length": 0}, ["data.keep='end' has no effect", "max_length"]),
    "vectors of characters": ({"tokenizer.kind": "char", "tokenizer.lower": False}, ["model.vectors", "no effect", "'char'"]),
    "too many pieces": ({"tokenizer.kind": "subword", "model.vectors": "", "tokenizer.vocab_size": 9000}, ["9000", "at most"]),
    "pooling": ({"model.pooling": "sum"}, ["config.model.pooling='sum'", "attention"]),
    "path of the embedded set": ({"data.source": "embedded"}, ["config.data.path", "no effect", "'embedded'"]),
    "a folder that is none": ({"data.path": "/nowhere"}, ["/nowhere"]),
    "both lengths": ({"train.epochs": 2.0}, ["config.train.steps", "config.train.epochs"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_bad_files(start, data, tmp_path, case):
    name, content, words = FILES[case]
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / name).write_bytes(content)
    start(f"--workdir={tmp_path / 'run'}", *small(folder)).refused(*words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", FIELDS)
def test_bad_fields(start, data, tmp_path, case):
    changes, words = FIELDS[case]
    start(f"--workdir={tmp_path / 'run'}", *small(data, **changes)).refused(*words)
    assert not (tmp_path / "run").exists()


def test_unknown_fields_and_presets(start, tmp_path):
    run = start(f"--workdir={tmp_path / 'run'}", "--config.model.poling=max")
    run.refused("config.model.poling", "did you mean config.model.pooling?", status=2)
    run = start(f"--workdir={tmp_path / 'run'}", "--config=experiments/configs/text_classification.py:imbd")
    run.refused("imbd", "docstrings, imdb, names", status=2)


@pytest.mark.parametrize("flag, mode, belongs", [
    ("top=2", "train", "predict"), ("checkpoint=best", "train", "evaluate or predict"), ("split=test", "predict", "evaluate"),
])  # fmt: skip
def test_flags_of_another_mode(start, finished, flag, mode, belongs):
    name = flag.split("=")[0]
    start(f"--workdir={finished}", f"--mode={mode}", f"--{flag}").refused(
        f"--{name} has no effect with --mode={mode}", belongs
    )


def test_wrong_questions_to_a_run(start, finished, tmp_path):
    ask = [f"--workdir={finished}", "--mode=predict"]
    start(*ask, "--input=/nowhere.txt").refused("/nowhere.txt does not exist")
    start(*ask, f"--input={tmp_path}").refused("is a folder")
    start(*ask).refused("standard input is empty")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    start(*ask, f"--input={tmp_path / 'latin.txt'}").refused("latin.txt is not UTF-8 at byte 3")
    (tmp_path / "rows.jsonl").write_text('{"txt": "a"}')
    start(*ask, f"--input={tmp_path / 'rows.jsonl'}").refused("rows.jsonl line 1", "'text'", "nearest: txt")
    start(f"--workdir={tmp_path}", "--mode=predict").refused("there is no run in")
    (tmp_path / "begun").mkdir()
    shutil.copy(finished / "config.json", tmp_path / "begun")
    start(f"--workdir={tmp_path / 'begun'}", "--mode=predict", stdin="a").refused(
        "has no checkpoint yet", "train it first"
    )


def test_texts_changed_since_the_run_began(start, data, finished, tmp_path):
    """Refused in training and in evaluation, and the checkpoints stay."""
    path, workdir = data / "train.jsonl", shutil.copytree(finished, tmp_path / "run")
    before, content = {p: p.read_bytes() for p in workdir.glob("checkpoints/**/*") if p.is_file()}, path.read_bytes()
    try:
        path.write_bytes(content + GOOD)
        trained = start(f"--workdir={workdir}", *small(data))
        evaluated = start(f"--workdir={workdir}", "--mode=evaluate")
        for run in (trained, evaluated):
            run.refused("the texts of train.jsonl are not those that the run", "restore them")
    finally:
        path.write_bytes(content)
    assert {p: p.read_bytes() for p in workdir.glob("checkpoints/**/*") if p.is_file()} == before
