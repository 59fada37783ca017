"""What is particular to translation: BLEU, beams, attention, the tokenizers of two sides, and files that do not match."""

import json
import re
import shutil

import pytest
from matplotlib.image import imread
from processes import ROOT, config_flags, records
from table import TRANSLATION as ROW

from seqjax.data.parallel import load_parallel
from seqjax.data.readers.stories import make_stories
from seqjax.run import cli


@pytest.fixture(scope="module")
def finished(runs):
    return runs.finished(ROW)


def test_what_it_says_of_the_data(runs):
    said = runs.said(ROW)
    assert "vocabularies: 9 and 9\n" in said and "2 shapes to compile" in said
    assert "baseline to beat: source copied, validation BLEU 0.00" in said


def evaluations(workdir):
    return [record for record in records(workdir) if record["kind"] == "evaluation"]


def test_it_learns_and_scores(start, finished, tmp_path):
    """Greedy BLEU chooses the best checkpoint; what evaluate prints is what sacrebleu makes of the file of outputs."""
    import sacrebleu

    told = records(finished)
    losses = [record["loss"] for record in told if record["kind"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
    assert all(record["error"] == pytest.approx(1 - record["bleu"] / 100) for record in evaluations(finished))
    assert evaluations(finished)[-1]["best"] == min(record["error"] for record in evaluations(finished))
    assert all(record["text"].count(" -> ") >= 1 for record in told if record["kind"] == "sample")
    workdir = shutil.copytree(finished, tmp_path / "run")
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--checkpoint=newest", "--beam=1").wait(300)
    assert run.status == 0, run.err
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text(encoding="utf-8").splitlines()]
    outputs, targets = ([row[name] for row in rows] for name in ("output", "target"))
    bleu, exact = sacrebleu.corpus_bleu(outputs, [targets]).score, sum(a == b for a, b in zip(outputs, targets)) / 16
    assert len(rows) == 16 and re.search(rf"^model .* BLEU {bleu:.2f}  chrF .* exact {exact:.2%}", run.out, re.M), run.out
    assert "source copied  BLEU 0.00" in run.out and "beam 1;" in run.out
    assert "validation part of numbers (validation.de and validation.en): 16\n" in run.out
    content = (workdir / "attention_validation.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 5000
    # Greedily, the newest gives the metrics that were recorded last.
    last = evaluations(finished)[-1]
    assert "checkpoint of step 40\n" in run.out and f"loss {last['loss']:.4f}" in run.out, run.out + run.err
    assert f"  BLEU {last['bleu']:.2f}  " in run.out and f"exact {last['exact']:.2%}" in run.out


SOURCES = ["eins zwei", "", "drei", " ".join(["fünf vier"] * 7), "sieben"]


def test_predict(start, finished, tmp_path):
    """N-best lists as JSON lines from a file, and for people from the standard input, in another order and batch size."""
    (tmp_path / "sources.jsonl").write_text("".join(json.dumps({"text": source}) + "\n" for source in SOURCES))
    flags = [f"--workdir={finished}", "--mode=predict", "--beam=2"]
    picture = tmp_path / "attention.png"
    run = start(*flags, "--n_best=2", "--format=jsonl", f"--input={tmp_path / 'sources.jsonl'}", f"--attention={picture}").wait(300)
    assert run.status == 0 and "checkpoint of step" in run.err, run.err
    rows = [json.loads(line) for line in run.out.splitlines()]
    assert [row["source"] for row in rows] == SOURCES and picture.read_bytes().startswith(b"\x89PNG")
    for row in rows:
        first, second = row["translations"]
        assert first["score"] >= second["score"] and first["text"] != second["text"] and first["log_prob"] < 0
    people = ["--n_best=2", "--config.data.eval_batch_size=3"]
    run = start(*flags, *people, stdin="\n".join(reversed(SOURCES))).wait(300)
    assert run.status == 0, run.err
    lines = iter(run.out.splitlines())
    for row in reversed(rows):
        assert next(lines) == row["source"]
        for place, best in enumerate(row["translations"], 1):
            number, score, text = re.fullmatch(r"(\d)  +(-?[\d.]+)  (.*)", next(lines)).groups()
            assert int(number) == place and text == best["text"] and float(score) == pytest.approx(best["score"], abs=1e-4)
    assert not list(lines)


@pytest.mark.slow
def test_pieces_of_words_without_attention(runs, refuses, start, tmp_path):
    """The other tokenizer, one vocabulary for both sides, no attention, and exact matches to choose by."""
    workdir = tmp_path / "run"
    flags = runs.flags(
        ROW, tokenizer__kind="subword", tokenizer__vocab_size=28, tokenizer__joint=True, model__attention="none",
        model__input_feeding=False, model__share_embeddings=True, model__hidden_size=8, model__scheduled_sampling=0.0,
        data__buckets=1, criterion="exact", train__steps=8, train__eval_every=8, train__checkpoint_every=8,
    )  # fmt: skip
    run = start(f"--workdir={workdir}", *flags).wait(300)
    assert run.status == 0 and "vocabularies: 28 and 28\n" in run.out, run.out + run.err
    assert evaluations(workdir)[-1]["error"] == pytest.approx(1 - evaluations(workdir)[-1]["exact"])
    ask = [f"--workdir={workdir}", "--mode=predict"]
    (sources := tmp_path / "sources.txt").write_text("eins\n")
    refuses([*ask, f"--input={sources}", f"--attention={tmp_path / 'a.png'}"], "has no attention to draw", "leave --attention out")
    run = start(*ask, "--beam=1", stdin="eins\n\n").wait(300)
    assert run.status == 0 and run.out.count("\n") == 2, run.out + run.err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_questions_of_the_users_own(start, tmp_path):
    """Two files or a table give the same pairs; one of long stories is trained on, asked, and drawn over its words."""
    told = make_stories("train", 40) + tuple(story for story in make_stories("train", 400) if story.sentences > 12)[:20]
    (tmp_path / "questions").write_text("".join(f"{story.text}\n" for story in told))
    (tmp_path / "answers").write_text("".join(f"{story.answer}\n" for story in told))
    table = tmp_path / "stories.tsv"
    table.write_text("question\tanswer\n" + "".join(f"{story.text}\t{story.answer}\n" for story in told))
    files = {"path": str(tmp_path / "questions"), "target_path": str(tmp_path / "answers")}
    fields = {"path": str(table), "source_field": "question", "target_field": "answer"}
    pairs, rows = (load_parallel("file", **settings).parts for settings in (files, fields))
    for part in ("train", "validation"):
        assert dict(pairs[part].columns) == dict(rows[part].columns)
    assert sum(map(len, rows.values())) == len(told)
    small = {"data.source": "file", "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 1, "model.hidden_size": 8}
    small |= {"model.embed_size": 8, "train.epochs": 0.0, "train.steps": 2, "train.log_every": 1}
    small |= {f"data.{name}": value for name, value in fields.items()}
    workdir = f"--workdir={tmp_path / 'run'}"
    run = start(workdir, "--config=stories", *config_flags(small, {})).wait(300)
    assert run.status == 0 and "step 2 of 2" in run.out, run.out + run.err
    table.write_text("question\n" + "".join(f"{story.text}\n" for story in told[-2:]))
    ask = ["--mode=predict", "--beam=1", "--format=jsonl", f"--input={table}", f"--attention={tmp_path / 'a.png'}"]
    run = start(workdir, *ask).wait(300)
    assert run.status == 0, run.out + run.err
    assert [json.loads(line)["source"] for line in run.out.splitlines()] == [story.text for story in told[-2:]]
    height, width = imread(tmp_path / "a.png").shape[:2]
    assert 500 < width < 1000  # words in lines; a heat map of 80 words or more would be wider


def test_the_commands_of_the_page_on_stories():
    page = (ROOT / "docs" / "stories.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m experiments\.translation (.*)$", page, re.M)
    assert len(commands) == 5
    for command in commands:
        parsed = cli.parse(ROW.experiment, ["translation", *command.split()])
        if parsed.mode == "train":
            config = cli.config_of(ROW.experiment, parsed)
            assert config.data.source == "file" or config.data.name == "stories"
    for line in re.findall(r"^(?:Where|Who) .*\.$", page, re.M):
        assert line.count(". ") >= 2  # the questions to ask are in the form of the stories


FILES = {
    "unequal": ("validation.en", b"one\ntwo\n", ["validation.de has 16 lines", "validation.en has 2"]),
    "empty file": ("train.en", b"", ["train.en is empty"]),
    "not UTF-8": ("train.de", b"f\xfcnf\n", ["train.de is not UTF-8 at byte 1 (0xfc)"]),
    "nothing on one side": ("validation.en", b" \n" * 16, ["validation part of numbers", "words on both sides"]),
}
FIELDS = {
    "folder": ({"data.target_path": "{}"}, ["is a folder"]),
    "half a test part": ({"data.test_target_path": ""}, ["test_target_path"]),
    "all too long": ({"data.max_length": 1}, ["all training pairs are longer than data.max_length=1"]),
    "feeding without attention": ({"model.attention": "none", "model.embed_size": 16}, ["model.input_feeding=True", "Luong"]),
    "feeding with bahdanau": ({"model.attention": "bahdanau"}, ["model.input_feeding=True", "Luong"]),
    "tied without attention": (
        {"model.attention": "none", "model.input_feeding": False},
        ["model.tie_embeddings", "model.embed_size=8", "16"],
    ),
    "shared without a joint vocabulary": ({"model.share_embeddings": True}, ["share_embeddings=True has no effect", "tokenizer.joint"]),
    "too many pieces": ({"tokenizer.kind": "subword"}, ["8000", "at most"]),
    "attention": ({"model.attention": "luong"}, ["config.model.attention='luong'", "luong_dot"]),
    "language of files": ({"data.source_language": "de"}, ["config.data.source_language='de' has no effect", "'file'"]),
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
    folder = shutil.copytree(runs.data(ROW), tmp_path / "data")
    changes = {name: value.format(folder) if isinstance(value, str) else value for name, value in changes.items()}
    refuses([f"--workdir={tmp_path / 'run'}", *runs.flags(ROW, folder, **changes)], *words)
    assert not (tmp_path / "run").exists()


def test_wrong_questions_to_a_run(refuses, refused, finished):
    refused([f"--workdir={finished}", "--mode=predict", "--beam=0"], "--beam=0", status=2, experiment=ROW.experiment)
    refuses([f"--workdir={finished}", "--mode=predict", "--input=/nowhere.txt"], "/nowhere.txt does not exist")
