"""The tagging experiment: entities with the conditional random field, parts of speech with a softmax, and bad input."""

import json
import random
import re
import shutil
import signal

import pytest
from processes import config_flags, final_state, records, sealed

EXPERIMENT = "tagging"
PEOPLE, PLACES = ["Ada", "Alan", "Emmy", "Kurt", "Noether", "Turing"], ["Rome", "Oslo", "Lima", "Bonn", "Bath", "York"]
OTHERS = ["lives", "in", "and", "works", "near", "with", "the", "of"]
CLASSES = {"NOUN": ["dog", "cat", "tree", "song"], "VERB": ["sees", "likes", "hears"], "DET": ["the", "a", "every"]}


def made_entities(chooser, words):
    """(word, BIO tag) pairs: names of one or two words among others."""
    found = []
    while len(found) < words:
        kind, names = chooser.choice([("PER", PEOPLE), ("LOC", PLACES), ("", OTHERS), ("", OTHERS)])
        if kind:
            found += [(chooser.choice(names), f"{start}-{kind}") for start in "BI"[: chooser.randint(1, 2)]]
        found.append((chooser.choice(OTHERS), "O"))
    return found[:words]


def write_entities(path, number, seed, extra=()):
    """Columns of words and BIO tags; `extra` are lengths of further sentences."""
    chooser = random.Random(seed)
    lengths = [*(chooser.randint(1, 8) for _ in range(number)), *extra]
    sentences = [made_entities(chooser, words) for words in lengths]
    path.write_text("\n".join("".join(f"{word} {tag}\n" for word, tag in sentence) for sentence in sentences))
    return path


def write_conllu(path, number, seed):
    """CoNLL-U with comments and multiword ranges: a determiner, a noun and a verb, again and again."""
    chooser, lines = random.Random(seed), []
    for _ in range(number):
        lines += ["# text = made up", "1-2\tdoesn't" + "\t_" * 8]
        for i in range(chooser.randint(1, 9)):
            tag = ("DET", "NOUN", "VERB")[i % 3]
            lines.append(f"{i + 1}\t{chooser.choice(CLASSES[tag])}\t_\t{tag}" + "\t_" * 6)
        lines.append("")
    path.write_text("\n".join(lines))
    return path


SHARED = {
    "data.source": "file", "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2, "data.max_word_length": 6,
    "words.min_count": 2, "model.cell": "gru", "model.hidden_size": 8, "model.embed_size": 6, "model.char_embed_size": 4,
    "model.char_size": 6, "model.dropout": 0.1, "model.embed_dropout": 0.1, "model.word_dropout": 0.1,
    "optimizer.learning_rate": 0.03, "optimizer.ema": 0.0, "schedule.warmup_steps": 2, "train.epochs": 0.0,
    "train.log_every": 5, "train.checkpoint_every": 4, "train.keep": 2,
}  # fmt: skip


def small(data, **changes):
    """Flags of a run of 40 steps on entities, with the random field."""
    settings = SHARED | {
        "data.path": data / "train.bio", "data.validation_path": data / "validation.bio", "model.crf": True,
        "train.steps": 40, "train.eval_every": 10,
    }  # fmt: skip
    return config_flags(settings, changes)


def small_pos(data, **changes):
    """Flags of a run of 30 steps on parts of speech, with a softmax and a recurrent network over characters."""
    settings = SHARED | {
        "data.path": data / "train.conllu", "data.test_path": data / "test.conllu", "data.max_length": 7, "words.lower": True,
        "data.validation_fraction": 0.2, "model.char_features": "rnn", "train.steps": 30, "train.eval_every": 15,
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


@pytest.fixture(scope="module")
def start(server):
    return lambda *argv, **options: server.start(*argv, experiment=EXPERIMENT, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of sentences; one of the validation part is longer than the largest bucket."""
    folder = tmp_path_factory.mktemp("sentences")
    write_entities(folder / "train.bio", 80, seed=0)
    write_entities(folder / "validation.bio", 30, seed=1, extra=[30])
    write_conllu(folder / "train.conllu", 60, seed=2)
    write_conllu(folder / "test.conllu", 20, seed=3)
    return folder


@pytest.fixture(scope="module")
def finished(start, data, tmp_path_factory):
    """The work folder of a run on entities that was never stopped; not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = start(f"--workdir={workdir}", *small(data)).wait(300)
    assert run.status == 0 and "5 tags of entities" in run.out and "2 shapes to compile" in run.out, run.out + run.err
    return workdir


def test_stopped_by_sigterm_and_resumed_ends_the_same(start, data, finished, tmp_path):
    workdir = tmp_path / "run"
    run = start(f"--workdir={workdir}", *small(data), slow_steps=0.1)
    run.wait_for(lambda: sealed(workdir))
    run.signal(signal.SIGTERM)
    assert run.wait().status == 143 and "stopped; the same command goes on from here" in run.out, run.err
    assert sealed(workdir)[-1] < 40
    run = start(f"--workdir={workdir}", *small(data)).wait()
    assert run.status == 0 and "going on from the checkpoint of step" in run.out, run.err
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)


def test_entities_are_scored_by_f1(start, finished, tmp_path):
    """The best checkpoint is that of the best F1; what is printed is what the file of predictions says."""
    found = [record for record in records(finished) if record["kind"] == "evaluation"]
    assert all(record["error"] == pytest.approx(1 - record["f1"]) for record in found)
    assert found[-1]["best"] == min(record["error"] for record in found) < 0.5
    assert any(record["f1"] != pytest.approx(record["accuracy"]) for record in found)
    workdir = shutil.copytree(finished, tmp_path / "run")
    run = start(f"--workdir={workdir}", "--mode=evaluate").wait()
    assert run.status == 0, run.err
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text().splitlines()]
    assert len(rows) == 31 and max(len(row["predicted"]) for row in rows) == 30
    true, given = (
        {(i, *span) for i, row in enumerate(rows) for span in spans(row[name])} for name in ("tags", "predicted")
    )
    f1 = 2 * len(true & given) / (len(true) + len(given))
    right = [a == b for row in rows for a, b in zip(row["tags"], row["predicted"], strict=True)]
    assert re.search(
        rf"^model: accuracy {sum(right) / len(right):.2%} .*\n  entities: .* F1 {f1:.2%}$", run.out, re.M
    ), run.out
    assert f1 == pytest.approx(1 - found[-1]["best"])
    assert re.search(r"^most frequent tag: accuracy .*\n  entities: precision", run.out, re.M)
    for row in rows:  # the random field lets no entity continue that was not begun
        before = ["O", *row["predicted"]]
        assert all(here[0] != "I" or there[1:] == here[1:] for there, here in zip(before, before[1:]))
    content = (workdir / "confusion_validation.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 2000
    start(f"--workdir={workdir}", "--mode=evaluate", "--split=test").refused("no test part", "train, validation")


def test_the_mean_of_the_newest_checkpoints(start, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--checkpoint=average").wait()
    assert run.status == 0 and "params averaged over 2 checkpoints: steps 36, 40\n" in run.out, run.out + run.err
    newest = [record["loss"] for record in records(finished) if record["kind"] == "evaluation"][-1]
    found = float(re.search(r"^loss ([\d.]+) for each word", run.out, re.M)[1])
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
    shown = [
        " ".join(f"{word}/{tag}" for word, tag in zip(row["words"], row["tags"], strict=True)) for row in reversed(rows)
    ]
    assert run.out == "".join(line + "\n" for line in shown)


def test_parts_of_speech(start, data, tmp_path):
    """CoNLL-U without a random field: learns, evaluates the test part, tags words it has not seen."""
    workdir = tmp_path / "run"
    run = start(f"--workdir={workdir}", *small_pos(data)).wait(300)
    assert run.status == 0 and re.search(
        r"left out of training: \d+ of 48 sentences, longer than data.max_length=7", run.out
    ), run.err
    assert "3 tags\n" in run.out and "12 of 60 training sentences" in run.out
    found = [record for record in records(workdir) if record["kind"] == "evaluation"]
    assert all(record["error"] == pytest.approx(1 - record["accuracy"]) and "f1" not in record for record in found)
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--split=test").wait()
    accuracy = re.search(r"^model: accuracy ([\d.]+)%", run.out, re.M)
    assert run.status == 0 and float(accuracy[1]) > 90 and "entities" not in run.out, run.out + run.err
    assert "test part of train.conllu, 20 sentences" in run.out
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
    "no span tag": ("validation.bio", BIO + b"Emmy PER\n", ["validation.bio line 7", "'PER'", "no span tag"]),
    "unknown entity": ("validation.bio", BIO + b"Nile B-RIV\n", ["validation.bio line 7", "'B-RIV'", "does not occur in training"]),
}  # fmt: skip
FIELDS = {
    "folder": ({"data.path": "{}/folder.conllu"}, ["is a folder"]),
    "column": ({"data.column": "upo"}, ["column='upo'", "nearest: upos"]),
    "missing file": ({"data.test_path": "{}/no.conllu"}, ["no.conllu does not exist"]),
    "ending": ({"data.test_path": "{}/x.doc"}, ["x.doc", "ending", ".conllu"]),
    "narrow vectors": ({"model.vectors": "{}/vectors.txt"}, ["have 3 numbers", "embed_size is 6"]),
    "characters that are not read": ({"model.char_features": "none"}, ["config.data.max_word_length=6", "no effect", "'none'"]),
    "no such criterion": ({"criterion": "f1"}, ["config.criterion='f1'", "error"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_bad_files(start, data, tmp_path, case):
    name, content, words = FILES[case]
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / name).write_bytes(content)
    flags = small(folder) if name.endswith(".bio") else small_pos(folder)
    start(f"--workdir={tmp_path / 'run'}", *flags).refused(*words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", FIELDS)
def test_bad_fields(start, data, tmp_path, case):
    changes, words = FIELDS[case]
    (tmp_path / "vectors.txt").write_text("the 1 2 3\ndog 4 5 6\n")
    (tmp_path / "x.doc").write_text("the DET\n")
    (tmp_path / "folder.conllu").mkdir()
    changes = {name: value.format(tmp_path) for name, value in changes.items()}
    start(f"--workdir={tmp_path / 'run'}", *small_pos(data, **changes)).refused(*words)
    assert not (tmp_path / "run").exists()


def test_wrong_command_lines(start, finished, tmp_path):
    run = start(f"--workdir={tmp_path / 'run'}", "--config.model.crv=True")
    run.refused("config.model.crv", "did you mean config.model.crf?", status=2)
    for flag, mode, belongs in (("pretokenized", "train", "predict"), ("format=text", "evaluate", "predict")):
        run = start(f"--workdir={finished}", f"--mode={mode}", f"--{flag}")
        run.refused(f"--{flag.split('=')[0]} has no effect with --mode={mode}", belongs)
    start(f"--workdir={finished}", "--mode=predict", "--input=/nowhere.txt").refused("/nowhere.txt does not exist")
    (tmp_path / "begun").mkdir()
    shutil.copy(finished / "config.json", tmp_path / "begun")
    start(f"--workdir={tmp_path / 'begun'}", "--mode=evaluate").refused("has no checkpoint yet", "train it first")


def test_sentences_changed_since_the_run_began(start, data, finished, tmp_path):
    path, workdir = data / "validation.bio", shutil.copytree(finished, tmp_path / "run")
    content = path.read_bytes()
    try:
        path.write_bytes(content + b"\n" + BIO)
        trained = start(f"--workdir={workdir}", *small(data))
        evaluated = start(f"--workdir={workdir}", "--mode=evaluate")
        for run in (trained, evaluated):
            run.refused("the sentences of train.bio are not those that the run", "restore them")
    finally:
        path.write_bytes(content)
