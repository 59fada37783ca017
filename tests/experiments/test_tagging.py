"""What is particular to tagging: entities with the random field, parts of speech with a softmax, files of both."""

import json
import re
import shutil

import pytest
from processes import config_flags, records
from table import TAGGING as ROW


@pytest.fixture(scope="module")
def finished(runs):
    return runs.finished(ROW)


def small_pos(data, **changes):
    """Flags of a run of 30 steps on parts of speech, with a softmax and a recurrent network over characters."""
    settings = {**ROW.settings(data)} | {
        "data.source": "file", "data.path": data / "train.conllu", "data.test_path": data / "test.conllu",
        "data.max_length": 7, "data.validation_fraction": 0.2, "words.lower": True, "model.char_features": "rnn",
        "model.crf": False, "train.steps": 30, "train.eval_every": 15,
    }  # fmt: skip
    return config_flags(settings, changes)


def spans(tags):
    """(type, first, end) of each entity of a BIO sentence, read letter by letter."""
    found, first = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if first is not None and tag != f"I-{tags[first][2:]}":
            found.add((tags[first][2:], first, i))
            first = None
        if tag.startswith("B-"):
            first = i
    return found


def test_what_it_says_of_the_data(runs):
    assert "tags: 5 of entities\n" in runs.said(ROW) and "2 shapes to compile" in runs.said(ROW)


def test_entities_are_scored_by_f1(runs, finished):
    """The best checkpoint is that of the best F1; what is printed is what the file of predictions says."""
    found = [record for record in records(finished) if record["kind"] == "evaluation"]
    assert all(record["error"] == pytest.approx(1 - record["f1"]) for record in found)
    assert found[-1]["best"] == min(record["error"] for record in found) < 0.5
    assert any(record["f1"] != pytest.approx(record["accuracy"]) for record in found)
    workdir, run = runs.evaluated(ROW)
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text().splitlines()]
    assert len(rows) == 31 and max(len(row["predicted"]) for row in rows) == 30
    true, given = ({(i, *span) for i, row in enumerate(rows) for span in spans(row[name])} for name in ("tags", "predicted"))
    f1 = 2 * len(true & given) / (len(true) + len(given))
    right = [a == b for row in rows for a, b in zip(row["tags"], row["predicted"], strict=True)]
    share = sum(right) / len(right)
    assert re.search(rf"^model .* accuracy {share:.2%} .*  F1 {f1:.2%}$", run.out, re.M), run.out
    assert f1 == pytest.approx(1 - found[-1]["best"])
    assert re.search(r"^most frequent tag +accuracy .*  precision", run.out, re.M)
    for row in rows:  # the random field lets no entity continue that was not begun
        before = ["O", *row["predicted"]]
        assert all(here[0] != "I" or there[1:] == here[1:] for there, here in zip(before, before[1:]))
    content = (workdir / "confusion_validation.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 2000


@pytest.mark.slow
def test_the_mean_of_the_newest_checkpoints(start, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--checkpoint=average").wait()
    assert run.status == 0 and "params averaged over 2 checkpoints: steps 36, 40\n" in run.out, run.out + run.err
    newest = [record["loss"] for record in records(finished) if record["kind"] == "evaluation"][-1]
    found = float(re.search(r"^model +loss ([\d.]+) ", run.out, re.M)[1])
    assert 1e-4 < abs(found - newest) < 0.2 * newest


LINES = ["Ada lives in Rome", "", "the unheard-of Zuse", " ".join(["Kurt works near Oslo"] * 9)]


def test_predict(start, finished, tmp_path):
    """As JSON lines from a file, and for people from the standard input in another order and batch size."""
    (tmp_path / "lines.txt").write_text("\n".join(LINES) + "\n")
    flags = [f"--workdir={finished}", "--mode=predict"]
    run = start(*flags, "--format=jsonl", f"--input={tmp_path / 'lines.txt'}").wait()
    assert run.status == 0 and "checkpoint of step" in run.err, run.err
    rows = [json.loads(line) for line in run.out.splitlines()]
    assert [row["words"] for row in rows] == [
        ["Ada", "lives", "in", "Rome"],
        [],
        ["the", "unheard-of", "Zuse"],
        LINES[3].split(),
    ]
    assert rows[0]["tags"] == ["B-PER", "O", "O", "B-LOC"] and rows[1]["tags"] == [] and len(rows[3]["tags"]) == 36
    run = start(*flags, "--pretokenized", "--config.data.eval_batch_size=3", stdin="\n".join(reversed(LINES))).wait()
    assert run.status == 0, run.err
    shown = [" ".join(f"{word}/{tag}" for word, tag in zip(row["words"], row["tags"], strict=True)) for row in reversed(rows)]
    assert run.out == "".join(line + "\n" for line in shown)


@pytest.mark.slow
def test_parts_of_speech(start, data, tmp_path):
    """CoNLL-U without a random field: learns, evaluates the test part, tags words it has not seen."""
    workdir = tmp_path / "run"
    run = start(f"--workdir={workdir}", *small_pos(data)).wait(300)
    assert run.status == 0 and re.search(r"left out of training: \d+ of 48 sentences, longer than data.max_length=7", run.out), run.err
    assert run.out.count("left out of training") == 1
    assert "tags: 3\n" in run.out and "12 of 60 training sentences" in run.out
    found = [record for record in records(workdir) if record["kind"] == "evaluation"]
    assert all(record["error"] == pytest.approx(1 - record["accuracy"]) and "f1" not in record for record in found)
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--split=test").wait()
    accuracy = re.search(r"^model .* accuracy ([\d.]+)%", run.out, re.M)
    assert run.status == 0 and float(accuracy[1]) > 90 and "F1" not in run.out, run.out + run.err
    assert "test part of test.conllu: 20\n" in run.out
    assert (workdir / "predictions_test.jsonl").exists() and (workdir / "confusion_test.png").exists()
    run = start(f"--workdir={workdir}", "--mode=predict", "--pretokenized", stdin="the dog don't a\n").wait()
    assert re.fullmatch(r"the/DET dog/NOUN don't/\w+ a/\w+\n", run.out), run.out + run.err


def conllu(*rows):
    return "".join("\t".join([*row[:2], "_", row[2], *"______"]) + "\n" for row in rows).encode()


GOOD = conllu(("1", "the", "DET"), ("2", "dog", "NOUN")) + b"\n"
LONG = conllu(*((str(i + 1), "dog", ("NOUN", "VERB", "DET")[i % 3]) for i in range(9)))
BIO = b"Ada B-PER\nsleeps O\n\nin O\nRome B-LOC\n\n"
FILES = {
    "unknown tag in the test part": ("test.conllu", GOOD + conllu(("1", "dog", "NOUM")), ["test.conllu line 4", "'NOUM'", "nearest: NOUN"]),
    "missing column": ("train.conllu", GOOD + b"1\tdog\tNOUN\n", ["train.conllu line 4 has 3 columns", "10"]),
    "wrong number": ("train.conllu", GOOD + conllu(("2", "dog", "NOUN")), ["train.conllu line 4", "ID '2' where 1 is due"]),
    "empty file": ("train.conllu", b"", ["train.conllu is empty"]),
    "comments only": ("test.conllu", b"# nothing\n\n", ["test.conllu has no sentence"]),
    "not UTF-8": ("train.conllu", b"# caf\xe9\n", ["train.conllu is not UTF-8 at byte 5 (0xe9)"]),
    "one tag": ("train.conllu", (conllu(("1", "dog", "NOUN")) + b"\n") * 5, ["no tag but 'NOUN'"]),
    "all too long": ("train.conllu", (LONG + b"\n") * 4, ["all training sentences are longer than data.max_length=7"]),
    "uneven columns": ("train.bio", BIO + b"to\n", ["train.bio line 7 has 1 column", "line 1 has 2"]),
    "no span tag": ("validation.bio", BIO + b"Emmy PER\n", ["validation.bio line 7", "'PER'", "not a span tag"]),
    "unknown entity": ("validation.bio", BIO + b"Nile B-RIV\n", ["validation.bio line 7", "'B-RIV'", "does not occur in training"]),
}
FIELDS = {
    "folder": ({"data.path": "{}/folder.conllu"}, ["is a folder"]),
    "column": ({"data.column": "upo"}, ["column='upo'", "nearest: upos"]),
    "missing file": ({"data.test_path": "{}/no.conllu"}, ["no.conllu does not exist"]),
    "ending": ({"data.test_path": "{}/x.doc"}, ["x.doc", "ending", ".conllu"]),
    "narrow vectors": ({"model.vectors": "{}/vectors.txt"}, ["have 3 numbers", "embed_size is 6"]),
    "characters that are not read": ({"model.char_features": "none"}, ["config.data.max_word_length=6", "no effect", "'none'"]),
    "no such criterion": ({"criterion": "f1"}, ["config.criterion='f1'", "error"]),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files(runs, refuses, data, tmp_path, case):
    name, content, words = FILES[case]
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / name).write_bytes(content)
    flags = runs.flags(ROW, folder) if name.endswith(".bio") else small_pos(folder)
    refuses([f"--workdir={tmp_path / 'run'}", *flags], *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", FIELDS)
def test_bad_fields(refuses, data, tmp_path, case):
    changes, words = FIELDS[case]
    (tmp_path / "vectors.txt").write_text("the 1 2 3\ndog 4 5 6\n")
    (tmp_path / "x.doc").write_text("the DET\n")
    (tmp_path / "folder.conllu").mkdir()
    changes = {name: value.format(tmp_path) for name, value in changes.items()}
    refuses([f"--workdir={tmp_path / 'run'}", *small_pos(data, **changes)], *words)
    assert not (tmp_path / "run").exists()


def test_wrong_questions_to_a_run(refuses, finished):
    refuses([f"--workdir={finished}", "--mode=predict", "--input=/nowhere.txt"], "/nowhere.txt does not exist")
