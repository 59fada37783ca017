"""Plots of gradients through time as PNG files: carry gradients, spectra, truncation, gates, memory, updates."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

# Okabe and Ito's colours, which are safe for the colour-blind, each with its own line style.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
DPI = 110
MOST_RATIOS = 30


class Part(NamedTuple):
    """A picture and its description."""

    path: pathlib.Path
    title: str
    text: str  # two sentences


def typical(norms: Any, real: Any) -> np.ndarray:
    """Median over sequences, (T,), of norms (B, T) at real steps; NaN where no step is real.

    Example:
      >>> typical([[1.0, 2.0], [3.0, 9.0]], [[True, True], [True, False]]).tolist()
      [2.0, 2.0]
    """
    norms, real = np.asarray(norms, np.float64), np.asarray(real)
    return np.array([np.median(norms[:, t][real[:, t]]) if real[:, t].any() else np.nan for t in range(norms.shape[1])])


def by_lag(norms: Any, real: Any) -> np.ndarray:
    """Median over sequences by distance to the last real step, in real steps, (T,): 0 is the last step itself.

    Example:
      >>> by_lag([[1.0, 2.0, 4.0], [8.0, 6.0, 0.0]], [[True] * 3, [True, True, False]]).tolist()
      [5.0, 5.0, 1.0]
    """
    rows = [np.asarray(row, np.float64)[np.asarray(mask)][::-1] for row, mask in zip(np.asarray(norms), np.asarray(real))]
    return np.array([np.median([row[lag] for row in rows if len(row) > lag]) for lag in range(max(map(len, rows)))])


def median_spectrum(found: Any) -> np.ndarray:
    """Singular values of the steps, (N,), each the median over real steps and sequences."""
    return np.median(np.asarray(found.values, np.float64)[np.asarray(found.real)], axis=0)


def by_length(found: Any) -> np.ndarray:
    """Natural logarithm of the largest singular value of products of 1, 2, ... steps: medians over all such products."""
    logs, lengths = np.asarray(found.logs[..., 0], np.float64), np.where(np.asarray(found.real), found.lengths, 0)
    return np.array([np.median(logs[lengths == length]) for length in range(1, lengths.max() + 1)])


def plot_carry_gradients(folder: pathlib.Path, findings: Sequence[Any]) -> Part:
    """Plots the gradient with respect to the carry against the lag to a loss at the end, and at each step for the whole loss."""
    figure = _figure((11, 4.8))
    end, every = figure.subplots(1, 2)
    for style, found in _styled(findings):
        lags = by_lag(found.end.total, found.end.real)
        end.plot(np.arange(1, len(lags)), _positive(lags[1:] / (lags[1] if len(lags) > 1 and lags[1] else 1)), **style)
        every.plot(_positive(typical(found.all.total, found.all.real)), **style)
    end.set(xlabel="steps before the loss", ylabel="‖dL/dc‖, relative to one step before", title="loss at the last step only")
    every.set(xlabel="time step", ylabel="‖dL/dc‖ (loss per unit of carry)", title="the whole loss")
    for axes in (end, every):
        _log(axes)
        axes.grid(alpha=0.3)
    _legend(figure, [end])
    return Part(
        _save(figure, folder / "carry_gradients.png"),
        "How far back the gradient reaches",
        "The left panel shows how much of the gradient of a loss at the end still reaches the carry that many steps earlier; a line that "
        "falls straight on this logarithmic axis vanishes at a constant rate, and one that rises explodes. The right panel shows the "
        "gradient of the whole loss at every step, where nearby losses mask what distant ones have lost.",
    )


def plot_products(folder: pathlib.Path, findings: Sequence[Any]) -> Part | None:
    """Plots the largest singular value of products of Jacobians against their length, and the spectrum of single steps."""
    if not (findings := [found for found in findings if found.products is not None]):
        return None
    figure = _figure((11, 4.8))
    growth, steps = figure.subplots(1, 2)
    for style, found in _styled(findings):
        logs = by_length(found.products)
        growth.plot(np.arange(1, len(logs) + 1), logs / np.log(10), **style)
        values = median_spectrum(found.steps)
        steps.plot((np.arange(len(values)) + 1) / len(values), _positive(values, 1e-6), **style)
    growth.axhline(0, color="0.4", lw=0.8)
    steps.axhline(1, color="0.4", lw=0.8)
    growth.set(xlabel="steps multiplied", ylabel="log10 of the largest singular value", title="products of step Jacobians")
    steps.set(xlabel="rank (fraction)", ylabel="singular value", title="Jacobian of one step, median over steps", ylim=(1e-4, None))
    steps.set_yscale("log")
    for axes in (growth, steps):
        axes.grid(alpha=0.3)
    _legend(figure, [growth])
    return Part(
        _save(figure, folder / "singular_values.png"),
        "How steps change a perturbation of the carry",
        "The left panel shows the largest possible growth of a perturbation of the carry over that many steps; below 0 all shrink. The "
        "right panel shows how a single step stretches (above 1) or shrinks (below 1) the directions of the carry.",
    )


def plot_lyapunov(folder: pathlib.Path, findings: Sequence[Any]) -> Part | None:
    """Plots the Lyapunov spectra."""
    if not (findings := [found for found in findings if found.lyapunov is not None]):
        return None
    figure = _figure((8.5, 4.8))
    axes = figure.subplots()
    lowest = -0.1
    for style, found in _styled(findings):
        exponents = np.sort(np.mean(np.asarray(found.lyapunov.exponents, np.float64), axis=0))[::-1]
        exponents = np.where(np.isfinite(exponents), exponents, np.nan)
        largest = exponents[0] if np.isfinite(exponents[0]) else -np.inf
        axes.plot(np.arange(len(exponents)) + 1, exponents, **style | {"label": f"{found.label} ({largest:+.3f})"})
        lowest = min(lowest, np.nanmedian(exponents))
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set(xlabel="rank", ylabel="Lyapunov exponent (nats per step)", title="Lyapunov spectrum")
    axes.set_ylim(1.6 * lowest, None)
    axes.grid(alpha=0.3)
    _legend(figure, [axes])
    return Part(
        _save(figure, folder / "lyapunov.png"),
        "Rates of forgetting",
        "Each exponent is the mean rate at which one direction of the carry grows or decays; the largest, in brackets, dominates over "
        "long lags, where the gradient scales as exp(exponent x steps). At 0 a direction keeps its content, and above 0 perturbations "
        "grow.",
    )


def plot_truncation(folder: pathlib.Path, findings: Sequence[Any]) -> Part:
    """Plots the part of the gradient that windows cut off, and its angle to the full one."""
    figure = _figure((11, 4.8))
    lost, angle = figure.subplots(1, 2)
    for style, found in _styled(findings):
        t = found.truncation
        lost.plot(t.windows, t.cut_off, marker="o", ms=3, **style)
        angle.plot(t.windows, t.cosine, marker="o", ms=3, **style)
    lost.set(xlabel="window K (steps)", ylabel="‖g - g_K‖ / ‖g‖", title="fraction of the gradient that is cut off", ylim=(0, None))
    angle.set(xlabel="window K (steps)", ylabel="cosine of g_K and g", title="direction of the truncated gradient", ylim=(None, 1.02))
    for axes in (lost, angle):
        axes.set_xscale("log", base=2)
        ticks = sorted({int(window) for found in findings for window in found.truncation.windows})
        axes.set_xticks(ticks, ticks)
        axes.grid(alpha=0.3)
    _legend(figure, [lost])
    return Part(
        _save(figure, folder / "truncation.png"),
        "What truncation cuts off",
        "Truncated backpropagation in windows of K steps, passing the carry on, gives the gradient g_K instead of the full g. The left "
        "panel shows how much is missing, the right one whether it still points the same way. A window is long enough once both "
        "curves are flat.",
    )


def plot_gates(folder: pathlib.Path, findings: Sequence[Any]) -> Part | None:
    """Plots each unit's share of steps with its gate shut against open, one panel per gate."""
    names = list(dict.fromkeys(gate.gate for found in findings for gate in found.gates))
    if not names:
        return None
    figure = _figure((max(6, 0.6 + 2.6 * len(names)), 6))
    means, panels = figure.subplots(2, len(names), squeeze=False)
    markers = "osD^vP*"
    for axes, name in zip(means, names):
        for style, found in _styled(findings):
            for gate in (gate for gate in found.gates if gate.gate == name):
                values = np.sort(np.ravel(gate.mean))
                axes.plot((np.arange(len(values)) + 1) / len(values), values, **style)
        axes.set(xlabel="units, as a fraction", ylabel="mean value", title=f"gate {name}", ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    for place, (style, found) in enumerate(_styled(findings)):
        for axes, name in zip(panels, names):
            for gate in (gate for gate in found.gates if gate.gate == name):
                points = np.ravel(gate.shut), np.ravel(gate.open)
                axes.scatter(*points, s=16, color=style["color"], marker=markers[place % 7], alpha=0.6, lw=0)
    for axes in panels:
        axes.plot([0, 1], [1, 0], color="0.6", lw=0.8)
        axes.set(xlabel="fraction of steps below 0.1", ylabel="fraction of steps above 0.9", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    _legend(figure, means)
    return Part(
        _save(figure, folder / "gates.png"),
        "Gates",
        "The upper row shows each gate's mean value, unit by unit, from the least open to the most; a forget gate (f; z in the GRU) near "
        "1 means long memory. In the lower row each point is a unit: the closer to the grey line, the more of the time its gate is "
        "saturated, open or shut, where the gate itself learns slowly.",
    )


def plot_memory(folder: pathlib.Path, findings: Sequence[Any]) -> Part | None:
    """Plots the half-lives of the units of each layer, sorted."""
    figure = _figure((8.5, 4.8))
    axes = figure.subplots()
    for style, found in _styled(findings):
        for depth, memory in enumerate(found.memory):
            values = np.sort(np.ravel(np.asarray(memory.half_life, np.float64)))
            several = f", {memory.layer}" if len(found.memory) > 1 else ""
            line = style | {"label": f"{found.label}{several} (from {memory.source})"}
            line |= {"alpha": 1 - 0.5 * depth / len(found.memory), "marker": ".", "ms": 3}
            axes.plot((np.arange(len(values)) + 1) / len(values), np.clip(values, 1e-2, 1e6), **line)
    axes.set(xlabel="units, as a fraction of the layer", ylabel="half-life (steps)", title="effective memory of each unit", yscale="log")
    axes.grid(alpha=0.3)
    _legend(figure, [axes])
    return Part(
        _save(figure, folder / "memory.png"),
        "How long units remember",
        "The half-life is the number of steps after which half of a unit's content is gone, from its forget gate if it has one, else "
        "from the diagonal of the Jacobian, which misses memory passed between units. Dependencies much longer than the "
        "longest half-lives are hard to learn; longer ones are shown at 1,000,000, shorter ones at 0.01.",
    )


def plot_ratios(folder: pathlib.Path, findings: Sequence[Any]) -> Part | None:
    """Plots update-to-weight ratios by parameter, for models in training."""
    found = next((found for found in findings if found.ratios), None)
    if found is None:
        return None
    items = [(path, ratio) for path, ratio in found.ratios.items() if np.isfinite(ratio)][:MOST_RATIOS]
    figure = _figure((8, 1.3 + 0.3 * len(items)))
    axes = figure.subplots()
    values = [max(ratio, 1e-8) for _, ratio in items]
    axes.plot(values, [path for path, _ in items], "o", color=COLOURS[0])
    axes.set_xlim(min([*values, 1e-4]) / 3, 3 * max([*values, 1e-2]))
    axes.axvline(1e-3, color=COLOURS[3], ls="--", label="1e-3, a usual value")
    axes.set(xlabel="‖update‖ / ‖weights‖ of one step", xscale="log", title="update-to-weight ratio of each parameter")
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return Part(
        _save(figure, folder / "update_ratios.png"),
        "How large the updates are",
        "Each point is the size of one optimizer step relative to the weights it changes. Far to the left a layer hardly "
        "learns; far to the right its learning rate is too high.",
    )


ALL: tuple[Callable[[pathlib.Path, Sequence[Any]], Part | None], ...] = (
    plot_carry_gradients, plot_products, plot_lyapunov, plot_truncation, plot_gates, plot_memory, plot_ratios,
)  # fmt: skip


def _styled(findings) -> Any:
    for place, found in enumerate(findings):
        line = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)], "lw": 1.6, "label": found.label}
        yield line, found


def _positive(values: np.ndarray, least: float = 0.0) -> np.ndarray:
    """For a logarithmic axis: NaN, which leaves a gap, where a value is not above the minimum."""
    return np.where(np.isfinite(values) & (values > least), values, np.nan)


def _log(axes) -> None:
    """Sets a logarithmic axis of at most 12 decades below the largest value."""
    axes.set_yscale("log")
    tops = [np.nanmax(line.get_ydata()) for line in axes.lines if np.isfinite(line.get_ydata()).any()]
    lows = [np.nanmin(line.get_ydata()) for line in axes.lines if np.isfinite(line.get_ydata()).any()]
    if tops:
        axes.set_ylim(max(min(lows) / 2, max(tops) * 1e-12), max(tops) * 2)


def _legend(figure, panels) -> None:
    """One legend for all panels, below them."""
    handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)


def _figure(size):
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")


def _save(figure, path: pathlib.Path) -> pathlib.Path:
    figure.savefig(path)
    return path
