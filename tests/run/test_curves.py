"""The picture of a run's curves: what is drawn is what was recorded, and its axes and legends say what it is."""

import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from seqjax.run.curves import plot_curves

TRAIN = {"loss": 2.25, "grad_norm": 0.5, "clipped_share": 0.25, "learning_rate": 0.1, "tokens_per_second": 1234.5}


def test_curves(tmp_path):
    train = [{"kind": "train", "step": step} | TRAIN | {"loss": 3 / step} for step in range(1, 9)]
    evaluations = [{"kind": "evaluation", "step": 4, "loss": 1.5, "best": 1.5}]
    gaps = [{"kind": kind, "step": 9} | dict.fromkeys(TRAIN) for kind in ("train", "evaluation")]
    for records in ([], train, train + evaluations, gaps, train + evaluations + gaps):
        path = plot_curves(tmp_path, records, baselines={"3-gram": 1.25})
        assert path.read_bytes().startswith(b"\x89PNG")
    assert json.dumps(train)  # plotting changes nothing that cannot be written


def drawn(workdir, records, monkeypatch, baselines=(), **options):
    """Title -> the legend and the curves with at least one point, of every panel that is shown."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: figures.append(figure))
    plot_curves(workdir, records, baselines=dict(baselines), **options)
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
    assert list(panels)[:2] == ["Loss", "Gradient norm before clipping (interval mean)"]
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


def figure_of(workdir, records, monkeypatch, **options):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: (figures.append(figure), save(figure, path, dpi=dpi)))
    plot_curves(workdir, records, baselines={}, **options)
    monkeypatch.undo()
    return {axes.get_title(): axes for axes in figures[0].axes if axes.get_title()}


def numbers(axes):
    """The numbers that stand at the y axis, as far as they are in sight."""
    low, high = axes.get_ylim()
    found = []
    for minor in (False, True):
        ticks = axes.get_yticks(minor=minor)
        labels = [label.get_text() for label in axes.get_yticklabels(minor=minor)]
        found += [float(text.replace("\N{MINUS SIGN}", "-")) for tick, text in zip(ticks, labels) if text and low <= tick <= high]
    return sorted(found)


def run_with(errors):
    return [{"kind": "evaluation", "step": step, "loss": 1.0, "error": error} for step, error in enumerate(errors, start=1)]


@pytest.mark.parametrize(
    "errors",
    [
        np.linspace(0.09, 0.045, 9), np.linspace(0.085, 0.065, 5), [0.05], [0.03, 0.0301], np.geomspace(0.5, 0.0005, 9),
        np.geomspace(0.9, 1e-7, 9), [0.2, 0.05, 0.0, 0.0], [0.0, 0.0], [0.004, 0.0], np.linspace(0.9, 0.3, 5), [0.05, math.nan, 0.03],
    ],
)  # fmt: skip
def test_the_axis_of_the_error_has_numbers(tmp_path, monkeypatch, errors):
    """At least two, among them one for zero where there is a zero; and every value is in sight."""
    axes = figure_of(tmp_path, run_with(list(map(float, errors))), monkeypatch)["Error"]
    found = numbers(axes)
    assert 2 <= len(found) <= 12 and len(set(found)) == len(found)
    low, high = axes.get_ylim()
    assert all(low <= error <= high for error in errors if not math.isnan(error))
    assert 0.0 in errors and 0.0 in found or 0.0 not in errors


def test_what_the_axes_and_the_legend_say(tmp_path, monkeypatch):
    records = [{"kind": "train", "step": 1} | TRAIN, *run_with([0.5, 0.4])]
    records[-1]["bleu"] = 20.0
    axes = figure_of(tmp_path, records, monkeypatch)
    assert axes["Error"].get_ylabel() == "error rate over tokens" and axes["bleu"].get_ylabel() == "on the validation part"
    assert axes["Loss"].get_ylabel() == "nats, mean over tokens"
    told = {"error": "1 - F1 of whole entities", "bleu": "BLEU of sacrebleu, $x$\x1b"}
    axes = figure_of(tmp_path, records, monkeypatch, labels=told, label_smoothing=0.1)
    assert axes["Error"].get_ylabel() == "1 - F1 of whole entities"
    assert axes["bleu"].get_ylabel() == r"BLEU of sacrebleu, \$x\$\x1b"
    legend = [text.get_text() for text in axes["Loss"].get_legend().get_texts()]
    assert legend == ["training (label smoothing 0.1)", "validation (best 1.0000)"]


def test_single_values_beside_gaps_are_seen(tmp_path, monkeypatch):
    values = [1.0, None, 2.0, None, 3.0]
    records = [{"kind": "train", "step": step} | TRAIN | {"loss": loss} for step, loss in enumerate(values)]
    axes = figure_of(tmp_path, records, monkeypatch)
    assert axes["Loss"].get_lines()[0].get_marker() == "." and axes["Speed"].get_lines()[0].get_marker() == "None"


def test_a_long_run(tmp_path, monkeypatch):
    steps = np.arange(60_000)
    noise = np.random.default_rng(0).uniform(0.5, 1.5, len(steps))
    records = [{"kind": "train", "step": int(s)} | TRAIN | {"grad_norm": float(n)} for s, n in zip(steps, noise)]
    axes = figure_of(tmp_path, records + run_with([0.5] * 100), monkeypatch)
    assert axes["Error"].get_lines()[0].get_marker() == "None"  # dots would hide the line
