"""What a run tells: a metrics file as if the run had never been stopped, the same for TensorBoard, errors seen."""

import csv
import errno
import json
import math
import os
import pathlib
import re
import shutil
import struct
import sys
import time

import pytest
from tensorboardX.proto import event_pb2

from seqjax.diagnostics.sequences import colour_tags
from seqjax.errors import UserError
from seqjax.run import reporting
from seqjax.run.reporting import METRICS, Reporter, read_records, register_logger

TRAIN = {"loss": 2.25, "grad_norm": 0.5, "clipped_share": 0.25, "learning_rate": 0.1, "tokens_per_second": 1234.5}


def write(workdir, first, steps, scale=1.0):
    with Reporter(workdir, first_step=first, total_steps=9) as reporter:
        for step in steps:
            reporter.at(step)
            reporter.record("train", step, TRAIN | {"loss": scale * step})


def events(workdir):
    """All events of all files, in order, read with nothing of tensorboardX's writer."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            found.append(event_pb2.Event.FromString(data[place + 12 : place + 12 + length]))
            place += 16 + length
    return found


def test_records_of_lost_steps_are_taken_out(tmp_path):
    write(tmp_path, 0, range(1, 6))
    write(tmp_path, 3, range(4, 8), scale=10.0)
    records = read_records(tmp_path)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert [record["loss"] for record in records] == [1, 2, 3, 40, 50, 60, 70]
    assert records[0] == {"kind": "train", "step": 1} | TRAIN | {"loss": 1}


def test_a_line_that_was_cut_off_is_left_out(tmp_path, capsys):
    write(tmp_path, 0, range(1, 4))
    path = tmp_path / METRICS
    whole = path.read_bytes()
    for cut in (1, 7, len(whole) // 3 - 1):
        path.write_bytes(whole[:-cut])
        assert [record["step"] for record in read_records(tmp_path)] == [1, 2]
        assert "cut off" in capsys.readouterr().err
    write(tmp_path, 2, [3])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("harm", [b'"step" 2', b'"stop": 2', b'"step": null', b'"step": "2"'])
def test_a_damaged_file_is_refused_and_kept(tmp_path, harm):
    write(tmp_path, 0, range(1, 4))
    path = tmp_path / METRICS
    path.write_bytes(path.read_bytes().replace(b'"step": 2', harm))
    before = path.read_bytes()
    with pytest.raises(UserError, match="metrics.jsonl is damaged") as caught:
        write(tmp_path, 3, [4])
    assert path.read_bytes() == before and "\n" not in str(caught.value)
    assert read_records(tmp_path / "nowhere") == []


def test_every_kind_of_value(tmp_path, capsys):
    lines = []
    with Reporter(tmp_path, first_step=0, total_steps=3) as reporter:
        for kind, values in (
            ("train", TRAIN | {"loss": math.inf, "perplexity": 123456.7}),
            ("evaluation", {"loss": math.nan, "best": None}),
            ("sample", {"text": "Ä line\nand another"}),
        ):
            reporter.record(kind, 1, values)
            assert not capsys.readouterr().out  # shown only when asked
            lines.append((kind, 1, values))
        for line in lines:
            reporter.show(*line)
    shown = capsys.readouterr().out
    assert "perplexity 123,457" in shown and "    Ä line\n    and another\n" in shown and "best None" in shown
    first, second, third = read_records(tmp_path)
    assert first["loss"] is None and second["loss"] is None and third["text"] == "Ä line\nand another"
    values = {value.tag: value for event in events(tmp_path) for value in event.summary.value}
    assert "train/loss" not in values and "evaluation/best" not in values
    assert values["train/grad_norm"].simple_value == 0.5
    assert values["sample/text/text_summary"].tensor.string_val[0].decode() == "Ä line\nand another"


def test_other_readers_can_read_it(tmp_path):
    """JSON has no NaN; a file that an earlier version wrote with it is repaired."""

    def refuse(word):
        raise AssertionError(word)

    bad = {"kind": "evaluation", "step": 1, "loss": math.nan, "best": math.inf}
    (tmp_path / METRICS).write_text(json.dumps(bad) + "\n")
    with Reporter(tmp_path, first_step=1, total_steps=3) as reporter:
        reporter.record("train", 2, {"loss": -math.inf, "grad_norm": math.nan, "skipped_steps": 3})
    lines = (tmp_path / METRICS).read_text().splitlines()
    first, second = [json.loads(line, parse_constant=refuse) for line in lines]
    assert first == {"kind": "evaluation", "step": 1, "loss": None, "best": None}
    assert second == {"kind": "train", "step": 2, "loss": None, "grad_norm": None, "skipped_steps": 3}


@pytest.mark.parametrize("missing", [("matplotlib",), ("rich", "tensorboardX")])
def test_a_missing_package_is_told_before_anything_is_done(tmp_path, monkeypatch, missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)  # as import sees one that is not there
    with pytest.raises(UserError) as caught:
        Reporter(tmp_path, first_step=0, total_steps=3)
    assert str(caught.value) == (
        f"experiments need {' and '.join(missing)}, which is not installed; run pip install -e '.[experiments]' in a clone of seqjax"
    )
    assert not list(tmp_path.iterdir())


def test_tensorboard_hides_what_is_made_again(tmp_path, monkeypatch):
    write(tmp_path, 0, [1, 2, 3])
    monkeypatch.setattr("time.time", lambda clock=time.time: clock() + 100)  # the file's name is its second
    write(tmp_path, 2, [3, 4])
    found = events(tmp_path)
    starts = [(place, event.step) for place, event in enumerate(found) if event.HasField("session_log")]
    assert [step for _, step in starts] == [1, 3]
    losses = [(event.step, v.simple_value) for event in found for v in event.summary.value if v.tag == "train/loss"]
    assert losses == [(1, 1), (2, 2), (3, 3), (3, 3), (4, 4)]
    assert all(event.wall_time > 0 for event in found)


def test_a_full_disk_is_an_error_not_a_hang(tmp_path):
    """SummaryWriter's thread would die unseen, and the run wait for ever."""

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        flush = close = lambda self: None

    refused = pytest.raises(UserError, match=f"{tmp_path}/tensorboard cannot be written: No space left .*; make room, then")
    with refused, Reporter(tmp_path, first_step=0, total_steps=99) as reporter:
        file = reporter._loggers["TensorBoard"]._writer._py_recordio_writer
        file.close()
        file._writer = Full()
        for step in range(1, 99):
            reporter.record("train", step, TRAIN)


def test_the_bar_shows_the_first_metric_whatever_it_is(tmp_path, capsys):
    with Reporter(tmp_path, first_step=0, total_steps=3) as reporter:
        reporter.show("train", 1, {"cost": 2.0, "grad_norm": 1.0})
        assert reporter._progress.tasks[0].fields["metric"] == "cost 2.000"
        reporter.show("evaluation", 1, {"bleu": 28.5})
        assert reporter._progress.tasks[0].fields["metric"] == "cost 2.000"
    assert "bleu 28.5" in capsys.readouterr().out


# The table


def table(workdir):
    with open(workdir / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_what_the_records_have(tmp_path):
    """At every moment of a run, also across a resume; except for the text of samples."""

    def expected():
        records = [record for record in read_records(tmp_path) if record["kind"] != "sample"]
        names = dict.fromkeys(["kind", "step", *(name for record in records for name in record)])
        cell = lambda value: "" if value is None else str(value)  # noqa: E731
        return [{name: cell(record.get(name)) for name in names} for record in records]

    for first, last in ((0, 8), (5, 12)):
        with Reporter(tmp_path, first_step=first, total_steps=12) as reporter:
            assert table(tmp_path) == expected()
            for step in range(first + 1, last):
                reporter.record("train", step, TRAIN | {"loss": math.nan if step == 3 else 1 / step})
                assert table(tmp_path) == expected()
                if step % 3 == 0:
                    reporter.record("evaluation", step, {"loss": 2.0, f"score, {step}": 0.1, "name": 'a "b"\nc'})
                    reporter.record("sample", step, {"text": "not in the table"})
                    assert table(tmp_path) == expected()
        assert table(tmp_path) == expected()
    assert [row["step"] for row in table(tmp_path) if row["kind"] == "train"] == [str(step) for step in range(1, 12)]
    assert "not in the table" not in (tmp_path / "metrics.csv").read_text()


# Loggers


class Plain:
    """What a user would write."""

    def __init__(self, workdir, config):
        self.workdir, self.config, self.got, self.closed = workdir, config, [], False
        made.append(self)

    def log(self, kind, step, values):
        assert read_records(self.workdir)[-1]["step"] == step, "the record is on the disk before"
        self.got.append((kind, step, dict(values)))
        values.clear()  # harms nobody

    def close(self):
        self.closed = True


made = []


@pytest.fixture
def loggers(monkeypatch):
    monkeypatch.setattr(reporting, "_factories", [])
    made.clear()
    return reporting._factories


def test_a_registered_logger_gets_every_record(tmp_path, loggers):
    class Second(Plain):
        pass

    assert register_logger(Plain) is Plain and register_logger(Plain) is Plain and len(loggers) == 1
    register_logger(Second)
    with Reporter(tmp_path, first_step=0, total_steps=3, config={"seed": 7}) as reporter:
        reporter.record("train", 1, TRAIN | {"loss": math.inf})
        reporter.record("sample", 1, {"text": "a\x1bb"})
        assert len(made) == 2 and not any(logger.closed for logger in made)
    for logger in made:
        assert logger.closed and logger.workdir == tmp_path and logger.config == {"seed": 7}
        assert logger.got == [("train", 1, TRAIN | {"loss": math.inf}), ("sample", 1, {"text": "a\x1bb"})]
    assert len(read_records(tmp_path)) == 2


@pytest.mark.parametrize("where", ["__init__", "log", "close"])
def test_an_error_in_a_logger_ends_the_run_and_names_it(tmp_path, loggers, monkeypatch, where):
    def fail(*_):
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr(Plain, where, fail)
    register_logger(Plain)
    with pytest.raises(UserError) as caught, Reporter(tmp_path, first_step=0, total_steps=3) as reporter:
        reporter.record("train", 1, TRAIN)
    said = {"__init__": "could not start", "log": "failed at step 1", "close": "could not be closed"}[where]
    assert f"test_reporting.Plain {said} (RuntimeError: no network\\nat all); " in str(caught.value)
    assert len(read_records(tmp_path)) == (0 if where == "__init__" else 1)
    assert where != "log" or made[0].closed


def test_the_first_error_is_the_one_that_is_raised(tmp_path, loggers, monkeypatch, capsys):
    monkeypatch.setattr(Plain, "close", lambda self: 1 / 0)
    register_logger(Plain)
    with pytest.raises(KeyError, match="of the loop"), Reporter(tmp_path, first_step=0, total_steps=3):
        raise KeyError("of the loop")
    assert re.search(r"besides: the logger .*Plain could not be closed \(ZeroDivisionError: ", capsys.readouterr().err)


# Lines


class Terminal:
    """Standard output of a terminal, as far as a reporter can tell."""

    def __init__(self, stream):
        self.write, self.flush, self.isatty = stream.write, stream.flush, lambda: True


def test_lines_fit_the_terminal(tmp_path, monkeypatch, capsys):
    values = {f"metric_{i}": 1.5 * 10**-i for i in range(9)}
    shown = {}
    for width in (30, 60, 100, 400):
        monkeypatch.setenv("COLUMNS", str(width))
        for terminal in (True, False):
            if terminal:
                monkeypatch.setattr(sys, "stdout", Terminal(sys.stdout))
            with Reporter(tmp_path, first_step=0, total_steps=3) as reporter:
                reporter.show("evaluation", 3, values)
            shown[width, terminal] = capsys.readouterr().out.rstrip("\n").split("\n")
            monkeypatch.undo() if terminal else None
            monkeypatch.setenv("COLUMNS", str(width))
    for (width, terminal), lines in shown.items():
        assert " ".join(" ".join(lines).split()) == " ".join(shown[400, True][0].split())  # nothing is lost
        assert len(lines) == 1 if not terminal or width == 400 else len(lines) > 1
        if terminal and width >= 60:
            assert max(map(len, lines)) <= width and all(line.startswith(" " * 21) for line in lines[1:])
    assert max(map(len, shown[30, True][1:])) <= 30


def test_no_line_steers_the_terminal(tmp_path, capsys):
    """Escape sequences of the training text are shown, not sent; our own colours stay."""
    evil = "a\x1b[2J\x9b31m\u202eb\r\x07\x7fc\ttab\nend"
    line = colour_tags([evil, "dog"], ["X", "Y"], colour=True)
    with Reporter(tmp_path, first_step=0, total_steps=3) as reporter:
        reporter.record("sample", 1, {"text": evil})
        reporter.show("sample", 1, {"text": evil})
        reporter.show("train", 1, {evil: 1.0})
        reporter.say(evil)
        out = capsys.readouterr().out
        assert not set(out) & set("\x1b\x9b\u202e\r\x07\x7f") and out.count("a\\x1b[2J\\x9b31m\\u202eb\\r\\x07\\x7fc\ttab") == 3
        assert "    end\n" in out
        reporter.record("sample", 2, {"text": line})
        reporter.show("sample", 2, {"text": line})
        assert capsys.readouterr().out == f"    {line}\n" and "\x1b[38;5;" in line
    assert [record["text"] for record in read_records(tmp_path)] == [evil, line.plain]  # no codes on the disk
    raw = (tmp_path / METRICS).read_bytes()
    assert not set(raw) & set(b"\x1b\r\x07\x7f\x9b") and raw.isascii()
    texts = [v.tensor.string_val[0].decode() for e in events(tmp_path) for v in e.summary.value]
    assert not any(set(text) & set("\x1b\x9b\u202e") for text in texts)


def test_a_bar_for_evaluations(tmp_path, capsys):
    with Reporter(tmp_path, first_step=0, total_steps=3) as reporter:
        _, bar = reporter._progress.tasks
        for done, total, visible in ((0, 5, True), (3, 5, True), (5, 5, False), (1, 2, True), (2, 2, False)):
            reporter.evaluating(done, total)
            assert (bar.completed, bar.total, bar.visible) == (done, total, visible)
        reporter.evaluating(7, None)  # nobody knows how many there are: the bar goes with the evaluation's record
        assert (bar.completed, bar.total, bar.visible) == (7, None, True)
        reporter.record("evaluation", 1, {"loss": 1.0})
        assert not bar.visible
    assert capsys.readouterr() == ("", "")  # where there is no terminal


# Disks that refuse


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", "tensorboard", "curves.png"])
def test_something_else_is_in_the_way(tmp_path, name):
    write(tmp_path, 0, [1])
    path = tmp_path / name
    if name == "tensorboard":
        shutil.rmtree(path)
        path.write_text("a file")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    with pytest.raises(UserError) as caught:
        write(tmp_path, 1, [2])
        reporting.plot_curves(tmp_path, [], baselines={})
    assert str(caught.value).startswith(f"{path} cannot be ") and "; move it away, then the same command" in str(caught.value)
    if name != "metrics.jsonl":
        assert read_records(tmp_path)[0]["step"] == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_a_record_that_cannot_be_written(tmp_path, monkeypatch, code, capsys):
    with pytest.raises(UserError) as caught, Reporter(tmp_path, first_step=0, total_steps=9) as reporter:
        reporter.record("train", 1, TRAIN)

        sync, metrics = os.fsync, reporter._files._file.fileno()

        def refuse(number):
            if number == metrics:
                raise OSError(code, os.strerror(code))
            sync(number)

        monkeypatch.setattr(os, "fsync", refuse)
        reporter.record("train", 2, TRAIN)
    assert f"{tmp_path}/metrics.jsonl cannot be written: {os.strerror(code)}; " in str(caught.value)
    assert capsys.readouterr().err == ""  # once


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_said_once(tmp_path, capsys):
    with pytest.raises(UserError, match="metrics.jsonl cannot be written: No space left on device; make room"):
        with Reporter(tmp_path, first_step=0, total_steps=9) as reporter:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, reporter._files._file.fileno())
            os.close(full)
            (tmp_path / METRICS).unlink()
            (tmp_path / METRICS).symlink_to("/dev/full")
            reporter.record("train", 1, TRAIN)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("moved"))])
def test_a_work_directory_that_is_gone_ends_the_run(tmp_path, harm):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with pytest.raises(UserError, match="metrics.jsonl was moved or removed"):
        with Reporter(workdir, first_step=0, total_steps=9) as reporter:
            reporter.record("train", 1, TRAIN)
            harm(workdir)
            reporter.record("train", 2, TRAIN)


def test_a_metrics_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / METRICS).write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="metrics.jsonl is damaged"):
        read_records(tmp_path)
