"""Pictures of forecasts as PNG files: intervals and true values, calibration, and the error at each horizon."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.nn.outputs import LEVELS

COLOURS = (
    "tab:orange",
    "tab:green",
    "tab:red",
    "tab:purple",
    "tab:brown",
    "tab:pink",
    "tab:olive",
    "black",
)  # of the others
BANDS = ((0.025, 0.975, "95 %", 0.18), (0.1, 0.9, "80 %", 0.3), (0.25, 0.75, "50 %", 0.45))


class Drawn(NamedTuple):
    """One forecast to draw."""

    title: str
    history_times: np.ndarray  # (P,)
    history: np.ndarray  # (P,), NaN where missing
    times: np.ndarray  # (H,)
    quantiles: np.ndarray  # (H, Q) at LEVELS
    truth: np.ndarray | None = None  # (H,)


def plot_forecasts(path: pathlib.Path, forecasts: Sequence[Drawn], *, unit: str = "") -> pathlib.Path:
    """Plots forecasts with their 50, 80 and 95 % intervals and the true values, after the values before them.

    Args:
      path: the PNG file to write.
      forecasts: at least one.
      unit: unit of the values, for the axis label.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> times = np.datetime64("2024-01-01") + np.arange(9)
      >>> one = Drawn("sales", times[:5], np.arange(5.0), times[5:], np.arange(4.0)[:, None] + LEVELS)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_forecasts(pathlib.Path(folder) / "forecasts.png", [one]).name
      'forecasts.png'
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    columns = 2 if len(forecasts) > 1 else 1
    rows = -(-len(forecasts) // columns)
    figure = _figure((6.5 * columns, 2.7 * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, one in zip(grid, forecasts):
        axes.plot(one.history_times, one.history, color="0.25", lw=1)
        _bands(axes, one)
        if one.truth is not None:
            axes.plot(one.times, one.truth, color="black", lw=1.2, marker=".", ms=3, label="observed")
        locator = AutoDateLocator(minticks=3)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.set_title(one.title, fontsize=9)
        axes.set_ylabel(unit, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.01)
    for axes in grid[len(forecasts) :]:
        axes.set_axis_off()
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=6)
    return _save(figure, path)


def _bands(axes: Any, one: Drawn) -> None:
    """Draws the bands from the last known value on, for continuity; a one-step forecast as a bar."""
    start = np.isfinite(one.history[-1:])
    times = np.concatenate([one.history_times[-1:][start], one.times])
    values = np.concatenate([np.repeat(one.history[-1:][start][:, None], len(LEVELS), 1), one.quantiles])
    for low, high, label, alpha in BANDS:
        below, above = (values[:, np.argmin(np.abs(LEVELS - level))] for level in (low, high))
        axes.fill_between(times, below, above, color="tab:blue", alpha=alpha, lw=0, label=label)
    axes.plot(times, values[:, len(LEVELS) // 2], color="tab:blue", lw=1.4, label="median")


def plot_calibration(path: pathlib.Path, coverage: Mapping[str, np.ndarray], transform: np.ndarray) -> pathlib.Path:
    """Plots calibration: observed against nominal coverage, and a histogram of the PIT.

    Args:
      path: the PNG file to write.
      coverage: "model" and each baseline -> the share of values below each quantile, (Q,) at LEVELS.
      transform: (N,), `probability_transform` of the model's forecasts.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_calibration(pathlib.Path(folder) / "calibration.png", {"model": LEVELS}, np.array([0.2, 0.7])).name
      'calibration.png'
    """
    figure = _figure((10, 4.6))
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
    for place, (name, shares) in enumerate(coverage.items()):
        left.plot(LEVELS, shares, label=name, zorder=9 - place, **_style(name, place))
    left.set(xlabel="level of the quantile", ylabel="fraction of values below it", title="calibration", xlim=(0, 1), ylim=(0, 1))
    left.set_aspect("equal")
    left.legend(fontsize=8)
    bins = 20 if len(transform) >= 400 else 10
    density = np.histogram(transform, bins, (0, 1))[0] * bins / max(len(transform), 1)
    right.bar((np.arange(bins) + 0.5) / bins, density, 1 / bins, color="tab:blue", alpha=0.6)
    right.axhline(1, color="0.4", lw=1, ls="--")
    right.set(
        xlabel="probability of a value below the true one (PIT)",
        ylabel="density",
        title="model: flat is calibrated",
        xlim=(0, 1),
    )
    return _save(figure, path)


def plot_by_horizon(path: pathlib.Path, errors: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Plots the mean CRPS at each step ahead.

    Args:
      path: the PNG file to write.
      errors: "model" and each baseline -> (H,).

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_by_horizon(pathlib.Path(folder) / "horizon.png", {"model": np.array([0.5, 0.8])}).name
      'horizon.png'
    """
    figure = _figure((7, 4.2))
    axes = figure.subplots()
    steps = np.arange(1, max(map(len, errors.values())) + 1)
    for place, (name, values) in enumerate(errors.items()):
        axes.plot(steps, values, label=name, marker="." if len(steps) < 40 else None, zorder=9 - place, **_style(name, place))
    axes.set(xlabel="steps ahead", ylabel="mean CRPS", title="error by horizon")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)
    return _save(figure, path)


def _style(name: str, place: int) -> dict[str, Any]:
    """Line style: the model stands out."""
    return {"lw": 2.4, "color": "tab:blue"} if name == "model" else {"lw": 1.1, "color": COLOURS[place % len(COLOURS)]}


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    figure.savefig(path, dpi=110)
    return path
