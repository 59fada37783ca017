"""What does each cell cost?

    python -m benchmarks.cells [--shape=32,64,128,128] [--cells=lstm,gru]

All cells side by side at one shape, each on the engine that "auto" chooses: milliseconds of the forward pass, and of forward plus gradients
of weights and inputs (`training`), the number of parameters, and the first call, which compiles. The projected LSTM has half as many
outputs as hidden units. The convolutional LSTM has its own shape, since its units are maps: 4 sequences of 8 steps, 16 x 16 points, 8
features in and 16 out. Writes a plot to docs/images/cells.png.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import seqjax
from benchmarks import common, engines, plots, timing

CELLS: dict[str, Callable[[int], seqjax.Cell]] = {
    **seqjax.cells.CELLS,
    "lstm peepholes": lambda hidden: seqjax.lstm(hidden, peepholes=True),
    "lstm coupled": lambda hidden: seqjax.lstm(hidden, coupled=True),
    "lstm projected": lambda hidden: seqjax.lstm(hidden, proj_size=max(1, hidden // 2)),
    "lstm layer norm": lambda hidden: seqjax.lstm(hidden, layer_norm=True),
    "gru reset before": lambda hidden: seqjax.gru(hidden, reset_after=False),
    "mgu reset before": lambda hidden: seqjax.mgu(hidden, reset_after=False),
}
CONVOLUTIONAL = "conv_lstm 16x16x16"


def make_convolutional() -> tuple[seqjax.Cell, np.ndarray, np.ndarray]:
    """The convolutional LSTM, its inputs and a cotangent of its outputs, time-major."""
    cell = seqjax.conv_lstm(features=16, kernel_size=3, spatial_shape=(16, 16))
    rng = np.random.default_rng(0)
    return cell, *(rng.standard_normal((8, 4, *cell.spatial, size), np.float32) for size in (8, 16))


def make_case(name: str, shape: timing.Shape) -> tuple[dict[str, Any], dict[str, Callable]]:
    """The facts about a cell before it runs, and its functions to time."""
    if name == CONVOLUTIONAL:
        cell, xs, cotangent = make_convolutional()
    else:
        cell = CELLS[name](shape.hidden)
        xs, cotangent = timing.make_data(shape._replace(hidden=cell.hidden_size))
    params = cell.init(jax.random.key(0), xs.shape[-1])

    def apply(params, xs):
        return seqjax.unroll(cell, params, xs, time_major=True)[1]

    facts = {
        "engine": engines.chosen(cell, params, xs),
        "parameters": sum(a.size for a in jax.tree.leaves(params)),
    }
    return facts, timing.make_functions(apply, params, xs, cotangent)


def show(rows: dict[str, dict]) -> None:
    """A line for each cell."""
    print(f"{'cell':20}{'engine':15}{'parameters':>11}{'forward ms':>12}{'training ms':>13}{'first calls s':>15}")
    for name, row in rows.items():
        times = [row["milliseconds"][what] for what in timing.WHATS]
        first = "/".join(f"{t['first_call_seconds']:.1f}" for t in times)
        numbers = f"{row['parameters']:>11}{times[0]['min']:>12.2f}{times[1]['min']:>13.2f}{first:>15}"
        print(f"{name:20}{row['engine']:15}{numbers}")


def plot(rows: dict[str, dict], shape: str) -> Any:
    """Plots a bar for the forward pass and one for training, for each cell."""
    figure, axes = plots.make(1, 1, (8.5, 0.36 * len(rows) + 1.4))
    axes = axes[0, 0]
    for offset, what, color in ((-0.2, "forward", plots.SKY), (0.2, "training", plots.BLUE)):
        widths = [row["milliseconds"][what]["min"] for row in rows.values()]
        bars = axes.barh([i + offset for i in range(len(rows))], widths, 0.4, color=color, label=what)
        axes.bar_label(bars, fmt="%.3g", padding=3, fontsize="small")
    axes.set_yticks(range(len(rows)), [f"{cell} ({row['engine']})" for cell, row in rows.items()])
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("milliseconds, the fastest of the repeats")
    batch, steps, features, units = shape.split(",")
    figure.suptitle(
        f"One layer of each cell, and its engine: {batch} sequences of {steps} steps, {features} features, {units} units\n"
        "(conv_lstm: 4 sequences of 8 steps, 16 x 16 points)"
    )
    axes.legend()
    return figure


def main() -> None:
    """Measures, saves and plots."""
    known = [*CELLS, CONVOLUTIONAL]
    parser = timing.parser(__doc__)
    parser.add_argument("--cells", type=timing.parse_names(known), default=known)
    parser.add_argument("--shape", type=timing.parse_shape, default=timing.GRID[0], metavar="B,T,D,H")
    options = parser.parse_args()
    settings = timing.prepare()
    cases = {name: make_case(name, options.shape) for name in options.cells}
    rows = {name: facts | {"milliseconds": {}} for name, (facts, _) in cases.items()}
    for what in timing.WHATS:
        functions = {name: pair[what] for name, (_, pair) in cases.items()}
        # `seconds` is meant for a handful of functions, and these are about sixteen.
        times = timing.interleave(functions, options.rounds, 2 * options.seconds)
        for name, row in times.items():
            rows[name]["milliseconds"][what] = row
    result = {"question": "cost of each cell", "settings": settings, "shape": str(options.shape), "cells": rows}
    common.save(f"cells{options.tag}", result)
    show(rows)
    plots.save(plot(rows, str(options.shape)), f"cells{options.tag}")


if __name__ == "__main__":
    main()
