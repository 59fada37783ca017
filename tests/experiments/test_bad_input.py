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
    "unknown preset": (["--config=experiments/configs/language_model.py:hallo"], ["hallo", "hello, char_small"]),
    "no config file": (["--config=nowhere.py"], ["nowhere.py"]),
    "unknown mode": (["--mode=tarin"], ["tarin", "train|evaluate|sample|score"]),
    "positional": (["extra"], ["'extra' is not a flag"]),
    "temperature": (["--temperature=-1"], ["--temperature"]),
    "nothing after =": (["--config.train.steps="], ["config.train.steps"]),
}
SETTINGS = {
    "out of range": (["--config.model.dropout=1.5"], ["config.model.dropout=1.5", "at least 0.0 and below 1.0"]),
    "negative": (["--config.data.batch_size=-4"], ["config.data.batch_size=-4", "at least 1"]),
    "not finite": (["--config.optimizer.learning_rate=nan"], ["config.optimizer.learning_rate=nan"]),
    "no such choice": (["--config.model.cell=lstn"], ["config.model.cell='lstn'", "lstm"]),
    "steps and epochs": (["--config.train.epochs=1"], ["config.train.steps", "config.train.epochs"]),
    "long warm-up": (["--config.schedule.warmup_steps=600"], ["schedule.warmup_steps=600", "600 steps"]),
    "unused setting": (["--config.optimizer.momentum=0.5"], ["momentum", "no effect", "adam"]),
    "no such text": (["--config.data.name=helo"], ["helo", "hello"]),
    "file without path": (["--config.data.source=file"], ["path"]),
    "prompt": (["--config.sample.prompt=hex"], ["sample.prompt", "'x'", "outside the vocabulary"]),
}


def test_no_workdir(server):
    server.run(HELLO).refused("workdir", status=2)


@pytest.mark.parametrize("case", COMMAND_LINE)
def test_command_line(server, tmp_path, case):
    flags, words = COMMAND_LINE[case]
    server.run(f"--workdir={tmp_path / 'run'}", *flags).refused(*words, status=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(server, tmp_path, case):
    flags, words = SETTINGS[case]
    server.run(f"--workdir={tmp_path / 'run'}", HELLO, *flags).refused(*words)
    assert not list(tmp_path.glob("run/checkpoints"))


FILES = {
    "missing": (None, ["text.txt does not exist"]),
    "empty": (b"", ["text.txt is empty"]),
    "not utf-8": (b"caf\xe9 " * 100, ["text.txt is not UTF-8 at byte 3 (0xe9)"]),
    "too short": (b"to be or not to be", ["the text has 16 tokens, but at least 40 are needed"]),
    "folder": ("folder", ["text.txt is a folder"]),
}


@pytest.mark.parametrize("case", FILES)
def test_text_file(server, tmp_path, case):
    content, words = FILES[case]
    path = tmp_path / "text.txt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    server.run(f"--workdir={tmp_path / 'run'}", *small(path)).refused(*words)
    assert not (tmp_path / "run").exists()


def test_unprepared_tfds_set_is_told_in_seconds(server, tmp_path):
    begin = time.monotonic()
    where = f"--config.data.data_dir={tmp_path / 'tfds'}"
    flags = ["--config.data.source=tfds", "--config.data.name=tiny_shakespeare"]
    server.run(f"--workdir={tmp_path / 'run'}", *flags, where).refused("tiny_shakespeare", "embedded")
    assert time.monotonic() - begin < 30


def test_workdir_that_cannot_be_one(server, text, tmp_path):
    (tmp_path / "file").write_text("kept")
    server.run(f"--workdir={tmp_path / 'file'}", *small(text)).refused("file", "choose another --workdir")
    server.run(f"--workdir={tmp_path / 'file' / 'run'}", *small(text)).refused("Not a directory", "--workdir")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("mode", ["evaluate", "sample", "score"])
def test_modes_without_a_run(server, tmp_path, mode):
    for workdir in (tmp_path, tmp_path / "nowhere"):
        server.run(f"--workdir={workdir}", f"--mode={mode}").refused("there is no run in", "train one first")
    assert not list(tmp_path.iterdir())


def test_another_config(server, text, finished):
    """Named in every mode; the finished run is not touched."""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    other = small(text, model__hidden_size=32, seed=5)
    words = ["model.hidden_size: 16 there, 32 here", "seed: 0 there, 5 here"]
    server.run(f"--workdir={finished}", *other).refused(*words, "another --workdir")
    run = server.run(f"--workdir={finished}", "--mode=evaluate", "--config.seed=5")
    run.refused(words[1], "leave the --config flags out")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_wrong_questions_to_a_run(server, finished):
    workdir = f"--workdir={finished}"
    server.run(workdir, "--mode=sample", "--prompt=Äpple").refused("the prompt", "'Ä'", "outside the vocabulary")
    server.run(workdir, "--mode=sample", "--top_p=0").refused("--top_p=0")
    server.run(workdir, "--mode=score").refused("--text")
    server.run(workdir, "--mode=score", "--text=").refused("empty")
    server.run(workdir, "--mode=score", "--text=apple", "--text=Ä").refused("'Ä'")
    server.run(workdir, "--mode=evaluate", "--split=test").refused("no test part", "train, validation")


def test_text_changed_since_the_run_began(server, finished, text, tmp_path):
    """Refused in training and in evaluation, and the checkpoints stay."""
    path, workdir = shutil.copy(text, tmp_path / "text.txt"), tmp_path / "run"
    assert server.run(f"--workdir={workdir}", *small(path, train__steps=7)).status == 0
    write_text(path, seed=1)
    before = {found: found.read_bytes() for found in workdir.glob("checkpoints/**/*") if found.is_file()}
    server.run(f"--workdir={workdir}", *small(path, train__steps=7)).refused("not the one that the run", "restore it")
    server.run(f"--workdir={workdir}", "--mode=evaluate").refused("not the one that the run", "restore it")
    assert {found: found.read_bytes() for found in workdir.glob("checkpoints/**/*") if found.is_file()} == before


def test_damaged_run_files(server, finished, text, tmp_path):
    """Every checkpoint damaged, or the small files: one line, and the folder is as it was."""
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
