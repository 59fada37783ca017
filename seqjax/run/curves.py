"""The curves of a run as one picture."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seqjax.errors import printable
from seqjax.run.records import accessing

SCORES = 4  # maximum number of evaluation-only metrics to plot
MARKED = 60  # up to this many evaluations are marked with dots
SMALL_ERROR = 0.1  # below this, the error axis is logarithmic


def plot_curves(
    workdir: pathlib.Path,
    records: Iterable[dict[str, Any]],
    *,
    baselines: Mapping[str, float],
    labels: Mapping[str, str] | None = None,
    label_smoothing: float = 0.0,
) -> pathlib.Path:
    """Plots loss, gradient norm, learning rate and speed against the step to workdir/curves.png.

    The error is plotted if evaluations report one, as is each evaluation-only metric such as BLEU, up to four.

    Args:
      workdir: the run's directory.
      records: of the metrics file.
      baselines: name -> nats, drawn as horizontal lines.
      labels: name of a metric to the text of its axis, such as {"error": "1 - F1 of whole entities"}.
      label_smoothing: of the training loss, which the validation loss does not have; the legend says so.

    Returns:
      The picture's path.

    Raises:
      UserError: the picture cannot be written.

    Example:
      >>> import tempfile
      >>> records = [{"kind": "train", "step": step, "loss": 1 / step} for step in (1, 2, 3)]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_curves(pathlib.Path(folder), records, baselines={"uniform": 2.0}).name
      'curves.png'
    """
    import matplotlib
    from matplotlib.figure import Figure

    records = list(records)
    train = [r for r in records if r["kind"] == "train"]
    evaluations = [r for r in records if r["kind"] == "evaluation"]
    unit = next((n.removesuffix("_per_second") for r in train for n in r if n.endswith("_per_second")), "tokens")
    texts = {"loss": f"nats, mean over {unit}", "error": f"error rate over {unit}"} | dict(labels or {})
    trained = f"training (label smoothing {label_smoothing:g})" if label_smoothing else "training"
    has_error = any("error" in r for r in evaluations)
    scores = _only_evaluated(train, evaluations)[:SCORES]
    count = 4 + has_error + len(scores)
    columns = (count + 1) // 2
    figure = Figure(figsize=(1 + 5 * columns, 7), layout="constrained")
    panels = list(figure.subplots(2, columns).flat)
    loss, norm, *others = panels[: count - 2]
    rate, speed = panels[count - 2 : count]

    _both(loss, train, evaluations, "loss", "Loss", texts["loss"], trained)
    for name, nats in baselines.items():
        loss.axhline(nats, linestyle="--", color="tab:gray", label=_text(f"{name} ({nats:.4f})"))
    if has_error:
        _both(others[0], train, evaluations, "error", "Error", texts["error"])
        _scale_error(others[0], _values(train, "error") + _values(evaluations, "error"), _values(evaluations, "error"))
    for axes, name in zip(others[has_error:], scores):
        _both(axes, [], evaluations, name, _text(name.replace("_", " ")), texts.get(name, "on the validation part"))
    for axes in (loss, *others):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    _norm(norm, train)
    _line(rate, train, "learning_rate", "Learning rate", "learning rate")
    _line(speed, train, f"{unit}_per_second", "Speed", f"{unit} per second")
    speed.set_ylim(0, 1.1 * max([v for v in _values(train, f"{unit}_per_second") if v > 0], default=1.0))
    for axes in panels[:count]:
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    for axes in panels[count:]:
        axes.set_axis_off()
    path = workdir / "curves.png"
    with accessing(path), matplotlib.rc_context({"agg.path.chunksize": 10_000}):  # a line of a million points overflows
        figure.savefig(path, dpi=110)
    return path


def _only_evaluated(train: Sequence[Mapping], evaluations: Sequence[Mapping]) -> list[str]:
    """Names of the metrics that only evaluations report, in order."""
    known = {name for r in train for name in r} | {"kind", "step", "loss", "error", "best", "minutes"}
    return list(dict.fromkeys(name for r in evaluations for name in r if name not in known))


def _both(axes, train, evaluations, name, title, ylabel, trained="training"):
    """Plots a training and validation metric against the step, where available."""
    values = _values(train, name)
    if not all(map(math.isnan, values)):
        axes.plot(_steps(train), values, label=trained, color="tab:blue", alpha=0.6, **_alone(values))
    values = _values(evaluations, name)
    found = [value for value in values if not math.isnan(value)]
    if found:
        best = f"best {min(found):.4f}" if name in ("loss", "error") else f"last {found[-1]:.4g}"
        marker = "o" if len(found) <= MARKED else None
        axes.plot(_steps(evaluations), values, marker=marker, label=f"validation ({best})", color="tab:orange")
    axes.set(title=title, ylabel=_text(ylabel))


def _norm(axes, train):
    _line(axes, train, "grad_norm", "Gradient norm before clipping (interval mean)", "global norm")
    share = axes.twinx()
    share.set(ylim=(0, 1.05), ylabel="fraction of clipped steps")
    share.fill_between(_steps(train), _values(train, "clipped_share"), color="tab:red", alpha=0.15)


def _line(axes, records, name, title, ylabel):
    values = _values(records, name)
    axes.plot(_steps(records), values, color="tab:blue", **_alone(values))
    axes.set(title=title, ylabel=ylabel)


def _scale_error(axes, values, validation):
    """Sets a logarithmic axis if the validation error becomes small; a symlog axis if it reaches 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, SymmetricalLogLocator

    if min([value for value in validation if not math.isnan(value)], default=1.0) >= SMALL_ERROR:
        return
    found = [value for value in values if value > 0]
    if not found:
        axes.set_ylim(-0.0005, 0.01)
        return
    low, high = min(found), max(found)
    if high < 2 * low and all(value > 0 or math.isnan(value) for value in values):
        return  # too small a range for a logarithmic axis
    steps = range(2, 10) if high < 4 * low else (2, 5) if high < 1000 * low else ()
    if any(value <= 0 for value in values):
        linear = 10.0 ** math.floor(math.log10(low))  # below it
        axes.set_yscale("symlog", linthresh=linear)
        axes.set_ylim(-0.05 * linear, high * 1.3)
        transform = axes.yaxis.get_transform()
        major, minor = SymmetricalLogLocator(transform), SymmetricalLogLocator(transform, subs=steps or (2, 5))
    else:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.2, high * 1.2)
        major, minor = LogLocator(numticks=12), LogLocator(subs=steps or (2, 5), numticks=12)
    formatter = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(major)
    axes.yaxis.set_minor_locator(minor)
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.set_minor_formatter(formatter if steps else NullFormatter())


def _alone(values: Sequence[float]) -> dict[str, str]:
    """Marks values with dots if no two adjacent ones form a line."""
    there = [not math.isnan(value) for value in values]
    return {} if any(a and b for a, b in zip(there, there[1:])) else {"marker": "."}


def _text(text: str) -> str:
    """Escapes dollar signs, between which matplotlib would read mathematics."""
    return printable(text, keep="").replace("$", r"\$")


def _steps(records: Sequence[Mapping[str, Any]]) -> list[int]:
    return [record["step"] for record in records]


def _values(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """NaN, which leaves a gap in the plot, where a record has no finite value."""
    values = [record.get(name) for record in records]
    return [value if isinstance(value, (int, float)) and math.isfinite(value) else math.nan for value in values]
