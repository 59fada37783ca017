"""What a run tells: a metrics file as if the run had never been stopped, the same for TensorBoard, errors seen."""

import errno
import json
import math
import struct
import sys

import pytest
from matplotlib.figure import Figure
from tensorboardX.proto import event_pb2

from seqjax.errors import UserError
from seqjax.run import reporting
from seqjax.run.reporting import METRICS, Reporter, plot_curves, read_records

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
    """JSON has no NaN; a file that an earlier version wrote with it is mended."""

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
    assert str(caught.value) == f"this needs {', '.join(missing)}: pip install 'seqjax[experiments]'"
    assert not list(tmp_path.iterdir())


def test_tensorboard_hides_what_is_made_again(tmp_path, monkeypatch):
    write(tmp_path, 0, [1, 2, 3])
    monkeypatch.setattr("time.time", lambda clock=reporting.time.time: clock() + 100)  # the file's name is its second
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

    with pytest.raises(OSError, match="No space left"), Reporter(tmp_path, first_step=0, total_steps=99) as reporter:
        file = reporter._events._writer._py_recordio_writer
        file.close()
        file._writer = Full()
        for step in range(1, 99):
            reporter.record("train", step, TRAIN)


def test_curves(tmp_path):
    train = [{"kind": "train", "step": step} | TRAIN | {"loss": 3 / step} for step in range(1, 9)]
    evaluations = [{"kind": "evaluation", "step": 4, "loss": 1.5, "best": 1.5}]
    gaps = [{"kind": kind, "step": 9} | dict.fromkeys(TRAIN) for kind in ("train", "evaluation")]
    for records in ([], train, train + evaluations, gaps, train + evaluations + gaps):
        path = plot_curves(tmp_path, records, baselines={"3-gram": 1.25})
        assert path.read_bytes().startswith(b"\x89PNG")
    assert json.dumps(train)  # plotting changes nothing that cannot be written


def drawn(workdir, records, monkeypatch, baselines=()):
    """Title -> the legend and the curves with at least one point, of every panel that is shown."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: figures.append(figure))
    plot_curves(workdir, records, baselines=dict(baselines))
    panels = {}
    for axes in figures[0].axes:
        if axes.axison and axes.get_title():
            legend = axes.get_legend()
            labels = [text.get_text() for text in legend.get_texts()] if legend else None
            lines = [list(line.get_ydata()) for line in axes.get_lines()]
            panels[axes.get_title()] = labels, lines
    return panels


def test_figures_that_only_evaluations_have(tmp_path, monkeypatch):
    train = [{"kind": "train", "step": step} | TRAIN for step in (1, 2)]
    scores = {"loss": 1.5, "error": 0.25, "bleu": 28.5, "entity_f1": None, "best": 0.25, "minutes": 1.0}
    evaluations = [{"kind": "evaluation", "step": 1} | scores, {"kind": "evaluation", "step": 2} | scores | {"bleu": 29.5}]
    panels = drawn(tmp_path, train + evaluations, monkeypatch)
    assert list(panels)[:2] == ["Loss", "Gradient norm before clipping (mean of interval)"]
    assert set(panels) == {*list(panels)[:2], "Error", "bleu", "entity f1", "Learning rate", "Speed"}
    assert panels["Loss"] == (["training", "validation (best 1.5000)"], [[2.25, 2.25], [1.5, 1.5]])
    assert panels["Error"] == (["validation (best 0.2500)"], [[0.25, 0.25]])  # no line of nothing for the training
    assert panels["bleu"] == (["validation (last 29.5)"], [[28.5, 29.5]])
    assert panels["entity f1"] == (None, [])
    # As before where both give the same figures.
    same = {"kind": "evaluation", "step": 2, "loss": 1.5, "best": 1.5, "minutes": 1.0}
    plain = drawn(tmp_path, [*train, same], monkeypatch, {"3-gram": 1.25}.items())
    assert len(plain) == 4 and plain["Loss"][0] == ["training", "validation (best 1.5000)", "3-gram (1.2500)"]
    both = [record | {"error": 0.5, "accuracy": 0.5} for record in (*train, same)]
    assert len(drawn(tmp_path, both, monkeypatch)) == 5
    many = same | {f"score_{i}": 0.5 for i in range(9)}
    assert len(drawn(tmp_path, [*train, many], monkeypatch)) == 8  # four of them
    assert drawn(tmp_path, [same], monkeypatch)["Loss"][0] == ["validation (best 1.5000)"]


def test_the_bar_shows_the_first_figure_whatever_it_is(tmp_path, capsys):
    with Reporter(tmp_path, first_step=0, total_steps=3) as reporter:
        reporter.show("train", 1, {"cost": 2.0, "grad_norm": 1.0})
        assert reporter._progress.tasks[0].fields["figures"] == "cost 2.000"
        reporter.show("evaluation", 1, {"bleu": 28.5})
        assert reporter._progress.tasks[0].fields["figures"] == "cost 2.000"
    assert "bleu 28.5" in capsys.readouterr().out
