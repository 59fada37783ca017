"""Whatever is wrong with the input: one clear line on standard error, a status other than zero, nothing changed."""

import shutil
import time

import pytest
from processes import HELLO, small, write_text

COMMAND_LINE = {
    "unknown field": (["--config.modle.cell=gru"], ["config.modle.cell", "did you mean config.model.cell?"]),
    "unknown field, one dash": (["-config.train.stps=8"], ["config.train.stps", "did you mean config.train.steps?"]),
    "unknown flag": (["--tempreature=1"], ["tempreature", "temperature"]),
    "not a number": (["--config.data.batch_size=many"], ["config.data.batch_size", "many"]),
    "not whole": (["--config.data.batch_size=1.5"], ["config.data.batch_size", "1.5"]),
    "unknown preset": (["--config=hallo"], ["no preset 'hallo'", "hello, char_small"]),
    "a preset as it was given before": (
        ["--config=experiments/configs/language_model.py:hello"],
        ["presets are given by name: --config=hello"],
    ),
    "no config file": (["--config=nowhere.py"], ["nowhere.py"]),
    "unknown mode": (["--mode=tarin"], ["tarin", "train|evaluate|sample|score"]),
    "positional": (["extra"], ["'extra' is not a flag"]),
    "temperature": (["--mode=sample", "--temperature=-1"], ["--temperature=-1", "at least 0"]),
    "nothing after =": (["--config.train.steps="], ["config.train.steps"]),
}
SETTINGS = {
    "out of range": (["--config.model.dropout=1.5"], ["config.model.dropout=1.5", "at least 0.0 and below 1.0"]),
    "negative": (["--config.data.batch_size=-4"], ["config.data.batch_size=-4", "at least 1"]),
    "not finite": (["--config.optimizer.learning_rate=nan"], ["config.optimizer.learning_rate=nan"]),
    "no such choice": (["--config.model.cell=lstn"], ["config.model.cell='lstn'", "lstm"]),
    "steps and epochs": (["--config.train.epochs=1", "--config.train.steps=9"], ["config.train.steps=9", "config.train.epochs=1"]),
    "neither": (["--config.train.steps=0"], ["config.train.steps", "config.train.epochs"]),
    "warm-up": (["--config.schedule.warmup_steps=-1"], ["schedule.warmup_steps=-1", "at least 0"]),
    "infinite in float32": (["--config.optimizer.learning_rate=1e39"], ["config.optimizer.learning_rate=1e+39", "3.4e38"]),
    "nothing is frozen": (["--config.optimizer.frozen=embde"], ["'embde' matches no parameter", "embed/embedding"]),
    "nothing is trained": (["--config.optimizer.frozen=."], ["nothing is left to train"]),
    "uneven parts": (["--config.train.accumulate=2"], ["config.train.accumulate=2", "config.data.batch_size=1"]),
    "no steps to profile": (["--profile=3"], ["--profile=3", "10:12"]),
    "steps after the end": (["--profile=599:601"], ["profile=599:601 must be steps of this session, 1 to 600"]),
    "unused setting": (["--config.optimizer.momentum=0.5"], ["momentum", "no effect", "adam"]),
    "no such text": (["--config.data.name=helo"], ["helo", "hello"]),
    "file without path": (["--config.data.source=file"], ["path"]),
    "prompt": (["--config.sample.prompt=hex"], ["sample.prompt", "'x'", "outside the vocabulary"]),
}


def test_no_workdir(refused):
    refused([HELLO], "workdir", status=2)


@pytest.mark.parametrize("case", COMMAND_LINE)
def test_command_line(refused, tmp_path, case):
    flags, words = COMMAND_LINE[case]
    refused([f"--workdir={tmp_path / 'run'}", *flags], *words, status=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(refused, tmp_path, case):
    flags, words = SETTINGS[case]
    refused([f"--workdir={tmp_path / 'run'}", HELLO, *flags], *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("table", [COMMAND_LINE, SETTINGS])
def test_the_real_command_says_it_in_one_line(server, tmp_path, table):
    """What the `refused` of the others leaves out: standard error and the exit status of a process."""
    flags, words = next(iter(table.values()))
    run = server.run(f"--workdir={tmp_path / 'run'}", *flags)
    run.refused(*words, status=2 if table is COMMAND_LINE else 1)
    assert not run.out and not (tmp_path / "run").exists()


FILES = {
    "missing": (None, ["text.txt does not exist"]),
    "empty": (b"", ["text.txt is empty"]),
    "not utf-8": (b"caf\xe9 " * 100, ["text.txt is not UTF-8 at byte 3 (0xe9)"]),
    "too short": (b"to be or not to be", ["the text has 16 tokens, but at least 40 are needed"]),
    "folder": ("folder", ["text.txt is a folder"]),
}


@pytest.mark.parametrize("case", FILES)
def test_text_file(refused, tmp_path, case):
    content, words = FILES[case]
    path = tmp_path / "text.txt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    refused([f"--workdir={tmp_path / 'run'}", *small(path)], *words)
    assert not (tmp_path / "run").exists()


def test_unprepared_tfds_set_is_told_in_seconds(refused, tmp_path):
    begin = time.monotonic()
    where = f"--config.data.data_dir={tmp_path / 'tfds'}"
    flags = ["--config.data.source=tfds", "--config.data.name=tiny_shakespeare"]
    refused([f"--workdir={tmp_path / 'run'}", *flags, where], "tiny_shakespeare", "embedded")
    assert time.monotonic() - begin < 30


def test_workdir_that_cannot_be_one(refused, text, tmp_path):
    (tmp_path / "file").write_text("kept")
    refused([f"--workdir={tmp_path / 'file'}", *small(text)], "file", "choose another --workdir")
    refused([f"--workdir={tmp_path / 'file' / 'run'}", *small(text)], "Not a directory", "--workdir")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("mode", ["evaluate", "sample", "score"])
def test_modes_without_a_run(refused, tmp_path, mode):
    for workdir in (tmp_path, tmp_path / "nowhere"):
        refused([f"--workdir={workdir}", f"--mode={mode}"], "there is no run with a checkpoint in", "train one first")
    assert not list(tmp_path.iterdir())


def test_another_config(refused, text, finished):
    """Named in every mode; the finished run is not touched."""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    other = small(text, model__hidden_size=32, seed=5)
    words = ["model.hidden_size: 16 there, 32 here", "seed: 0 there, 5 here"]
    refused([f"--workdir={finished}", *other], *words, "another --workdir")
    refused([f"--workdir={finished}", "--mode=evaluate", "--config.seed=5"], words[1], "leave the --config flags out")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_wrong_questions_to_a_run(refused, finished):
    workdir = f"--workdir={finished}"
    refused([workdir, "--mode=sample", "--prompt=Äpple"], "the prompt", "'Ä'", "outside the vocabulary")
    refused([workdir, "--mode=sample", "--top_p=0"], "--top_p=0", status=2)
    refused([workdir, "--mode=score"], "--text")
    refused([workdir, "--mode=score", "--text="], "empty")
    refused([workdir, "--mode=score", "--text=apple", "--text=Ä"], "'Ä'")
    refused([workdir, "--mode=evaluate", "--split=test"], "no test part", "train, validation")


def test_text_changed_since_the_run_began(server, refused, text, tmp_path):
    """Refused in training and in evaluation, and the checkpoints stay."""
    path, workdir = shutil.copy(text, tmp_path / "text.txt"), tmp_path / "run"
    assert server.run(f"--workdir={workdir}", *small(path, train__steps=7)).status == 0
    write_text(path, seed=1)
    before = {found: found.read_bytes() for found in workdir.glob("checkpoints/**/*") if found.is_file()}
    words = ["the text of", "not those that the run", "restore them"]
    server.run(f"--workdir={workdir}", *small(path, train__steps=7)).refused(*words)
    refused([f"--workdir={workdir}", "--mode=evaluate"], *words)
    assert {found: found.read_bytes() for found in workdir.glob("checkpoints/**/*") if found.is_file()} == before


def test_damaged_run_files(server, finished, text, tmp_path):
    """Every checkpoint damaged, or the small files: one line, and the work directory is as it was."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    for manifest in workdir.glob("checkpoints/*/MANIFEST.json"):
        manifest.write_bytes(manifest.read_bytes()[:-2])
    (workdir / "lock").write_text("")
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != "lock"}
    run = server.run(f"--workdir={workdir}", *small(text))
    run.refused("all checkpoints in", "60: MANIFEST.json is damaged", "nothing was deleted")
    server.run(f"--workdir={workdir}", "--mode=sample").refused("all checkpoints in")
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != "lock"} == before
    workdir = shutil.copytree(finished, tmp_path / "again")
    for harm, word in ((lambda path: path.write_text("{"), "damaged"), (lambda path: path.unlink(), "missing")):
        harm(workdir / "config.json")  # a copy for people: the settings are in the checkpoints
        run = server.run(f"--workdir={workdir}", *small(text))
        assert run.status == 0 and f"config.json was {word}; it was written again" in run.out, run.err
        assert (workdir / "config.json").read_bytes() == (finished / "config.json").read_bytes()
