"""The translation experiment: learns, resumes exactly, scores, draws attention, translates, and refuses what is wrong."""

import json
import random
import re
import shutil
import signal
import time

import pytest
from processes import config_flags, final_state, records, sealed

EXPERIMENT = "translation"
WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "fünf": "five"}


def write_pairs(folder, part, number, seed, extra=()):
    """PART.de and PART.en, the numbers that stand for each other word by word; `extra` are lengths of further pairs."""
    chooser = random.Random(seed)
    lengths = [*(chooser.randint(1, 6) for _ in range(number)), *extra]
    sources = [[chooser.choice(list(WORDS)) for _ in range(length)] for length in lengths]
    (folder / f"{part}.de").write_text("".join(" ".join(words) + "\n" for words in sources), encoding="utf-8")
    (folder / f"{part}.en").write_text("".join(" ".join(WORDS[word] for word in words) + "\n" for words in sources))


def small(data, **changes):
    """Flags of a run of 40 steps with attention, input feeding, tied embeddings and noise of every kind."""
    settings = {
        "data.source": "file", "data.name": "numbers", "data.path": data / "train.de", "data.target_path": data / "train.en",
        "data.validation_path": data / "validation.de", "data.validation_target_path": data / "validation.en",
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2, "tokenizer.kind": "word", "model.cell": "gru",
        "model.hidden_size": 16, "model.embed_size": 8, "model.attention": "luong_general", "model.input_feeding": True,
        "model.tie_embeddings": True, "model.dropout": 0.05, "model.recurrent_dropout": 0.05, "model.scheduled_sampling": 0.1,
        "loss.label_smoothing": 0.05, "criterion": "bleu", "optimizer.learning_rate": 0.03, "schedule.warmup_steps": 2,
        "train.steps": 40, "train.epochs": 0.0, "train.log_every": 5, "train.eval_every": 20, "train.checkpoint_every": 4,
        "train.keep": 2,
    }  # fmt: skip
    return config_flags(settings, changes)


@pytest.fixture(scope="module")
def start(server):
    return lambda *argv, **options: server.start(*argv, experiment=EXPERIMENT, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of pairs; one of the validation part is longer than the largest bucket."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, "train", 80, seed=0)
    write_pairs(folder, "validation", 15, seed=1, extra=[11])
    return folder


@pytest.fixture(scope="module")
def finished(start, data, tmp_path_factory):
    """The work folder of a run that was never stopped; not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = start(f"--workdir={workdir}", *small(data)).wait(300)
    assert run.status == 0 and "vocabularies: 9 and 9\n" in run.out and "2 shapes to compile" in run.out, (
        run.out + run.err
    )
    assert "baseline: the source copied, validation BLEU 0.00" in run.out
    return workdir


def evaluations(workdir):
    return [record for record in records(workdir) if record["kind"] == "evaluation"]


def test_killed_at_a_random_moment_and_resumed_ends_the_same(start, data, finished, tmp_path):
    workdir = tmp_path / "run"
    run = start(f"--workdir={workdir}", *small(data), slow_steps=0.1)
    run.wait_for(lambda: sealed(workdir), 300)
    time.sleep(random.uniform(0, 0.5))
    assert run.kill().status == -signal.SIGKILL and sealed(workdir)[-1] < 40
    run = start(f"--workdir={workdir}", *small(data)).wait(300)
    assert run.status == 0 and "going on from the checkpoint of step" in run.out, run.err
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)


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
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--beam=2").wait(300)
    assert run.status == 0, run.err
    rows = [
        json.loads(line) for line in (workdir / "outputs_validation.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    outputs, targets = ([row[name] for row in rows] for name in ("output", "target"))
    bleu, exact = sacrebleu.corpus_bleu(outputs, [targets]).score, sum(a == b for a, b in zip(outputs, targets)) / 16
    assert len(rows) == 16 and re.search(rf"^model: BLEU {bleu:.2f}  chrF .* exact {exact:.2%}", run.out, re.M), run.out
    assert "source copied: BLEU 0.00" in run.out and "validation part of numbers, 16 pairs, beam 2" in run.out
    content = (workdir / "attention_validation.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 5000
    start(f"--workdir={workdir}", "--mode=evaluate", "--split=test").refused("numbers has no test part")


def test_greedy_evaluation_of_the_newest_gives_the_recorded_figures(start, finished, tmp_path):
    workdir, last = shutil.copytree(finished, tmp_path / "run"), evaluations(finished)[-1]
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--checkpoint=newest", "--beam=1").wait(300)
    assert "checkpoint of step 40\n" in run.out and f"loss {last['loss']:.4f}" in run.out, run.out + run.err
    assert f"model: BLEU {last['bleu']:.2f}" in run.out and f"exact {last['exact']:.2%}" in run.out


SOURCES = ["eins zwei", "", "drei", " ".join(["fünf vier"] * 7), "sieben"]


def test_predict(start, finished, tmp_path):
    """N-best lists as JSON lines from a file, and for people from the standard input, in another order and batch size."""
    (tmp_path / "sources.jsonl").write_text("".join(json.dumps({"text": source}) + "\n" for source in SOURCES))
    flags = [f"--workdir={finished}", "--mode=predict", "--beam=2"]
    picture = tmp_path / "attention.png"
    run = start(
        *flags, "--n_best=2", "--format=jsonl", f"--input={tmp_path / 'sources.jsonl'}", f"--attention={picture}"
    ).wait(300)
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
            assert (
                int(number) == place and text == best["text"] and float(score) == pytest.approx(best["score"], abs=1e-4)
            )
    assert not list(lines)


def test_pieces_of_words_without_attention(start, data, tmp_path):
    """The other tokenizer, one vocabulary for both sides, no attention, and exact matches to choose by."""
    workdir = tmp_path / "run"
    flags = small(
        data, tokenizer__kind="subword", tokenizer__vocab_size=28, tokenizer__joint=True, model__attention="none",
        model__input_feeding=False, model__share_embeddings=True, model__hidden_size=8, model__scheduled_sampling=0.0,
        data__buckets=1, criterion="exact", train__steps=8, train__eval_every=8, train__checkpoint_every=8,
    )  # fmt: skip
    run = start(f"--workdir={workdir}", *flags).wait(300)
    assert run.status == 0 and "vocabularies: 28 and 28\n" in run.out, run.out + run.err
    assert evaluations(workdir)[-1]["error"] == pytest.approx(1 - evaluations(workdir)[-1]["exact"])
    ask = [f"--workdir={workdir}", "--mode=predict"]
    start(*ask, f"--attention={tmp_path / 'a.png'}", stdin="eins").refused(
        "has no attention to draw", "leave --attention out"
    )
    run = start(*ask, "--beam=1", stdin="eins\n\n").wait(300)
    assert run.status == 0 and run.out.count("\n") == 2, run.out + run.err
    assert not (tmp_path / "a.png").exists()


FILES = {
    "unequal": ("validation.en", b"one\ntwo\n", ["validation.de has 16 lines", "validation.en has 2"]),
    "empty file": ("train.en", b"", ["train.en is empty"]),
    "not UTF-8": ("train.de", b"f\xfcnf\n", ["train.de is not UTF-8 at byte 1 (0xfc)"]),
    "nothing on one side": ("validation.en", b" \n" * 16, ["validation part of numbers", "words on both sides"]),
}
FIELDS = {
    "folder": ({"data.target_path": "{}"}, ["is a folder"]),
    "half a test part": ({"data.test_path": "{}/train.de"}, ["test_target_path"]),
    "all too long": ({"data.max_length": 1}, ["all training pairs are longer than data.max_length=1"]),
    "feeding without attention": ({"model.attention": "none", "model.embed_size": 16}, ["model.input_feeding=True", "Luong"]),
    "feeding with bahdanau": ({"model.attention": "bahdanau"}, ["model.input_feeding=True", "Luong"]),
    "tied without attention": (
        {"model.attention": "none", "model.input_feeding": False}, ["model.tie_embeddings", "model.embed_size=8", "16"],
    ),
    "shared without a joint vocabulary": ({"model.share_embeddings": True}, ["share_embeddings=True has no effect", "tokenizer.joint"]),
    "too many pieces": ({"tokenizer.kind": "subword"}, ["8000", "at most"]),
    "attention": ({"model.attention": "luong"}, ["config.model.attention='luong'", "luong_dot"]),
    "language of files": ({"data.source_language": "de"}, ["config.data.source_language='de' has no effect", "'file'"]),
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
    folder = shutil.copytree(data, tmp_path / "data")
    changes = {name: value.format(folder) if isinstance(value, str) else value for name, value in changes.items()}
    start(f"--workdir={tmp_path / 'run'}", *small(folder, **changes)).refused(*words)
    assert not (tmp_path / "run").exists()


def test_wrong_command_lines(start, finished, tmp_path):
    run = start(f"--workdir={tmp_path / 'run'}", "--config.model.atention=none")
    run.refused("config.model.atention", "did you mean config.model.attention?", status=2)
    start(f"--workdir={finished}", "--mode=predict", "--beam=0").refused("--beam", status=2)
    for flag, mode, belongs in (
        ("beam=2", "train", "evaluate or predict"), ("n_best=2", "evaluate", "predict"), ("split=test", "predict", "evaluate"),
    ):  # fmt: skip
        run = start(f"--workdir={finished}", f"--mode={mode}", f"--{flag}")
        run.refused(f"--{flag.split('=')[0]} has no effect with --mode={mode}", belongs)
    start(f"--workdir={finished}", "--mode=predict", "--input=/nowhere.txt").refused("/nowhere.txt does not exist")
    (tmp_path / "begun").mkdir()
    shutil.copy(finished / "config.json", tmp_path / "begun")
    start(f"--workdir={tmp_path / 'begun'}", "--mode=predict", stdin="eins").refused(
        "has no checkpoint yet", "train it first"
    )


def test_pairs_changed_since_the_run_began(start, data, finished, tmp_path):
    path, workdir = data / "train.en", shutil.copytree(finished, tmp_path / "run")
    content = path.read_bytes()
    try:
        path.write_bytes(content.replace(b"one", b"five", 1))
        trained = start(f"--workdir={workdir}", *small(data))
        evaluated = start(f"--workdir={workdir}", "--mode=evaluate")
        for run in (trained, evaluated):
            run.refused("the pairs of numbers are not those that the run", "restore them")
    finally:
        path.write_bytes(content)
