"""Is seqjax faster than the other libraries?

    python -m benchmarks.peers [--cells=lstm,gru,rnn] [--what=forward,training] [--shapes 32,64,128,128 ...]

One layer, float32, all libraries in one process and in turn (torch, flax.linen, flax.nnx, dm-haiku, equinox, Keras on JAX; those not
installed are named and left out). The process keeps freed memory between calls, which benefits all of them; torch has one thread per core.
`training` computes outputs and the gradients of weights and inputs for a random cotangent of the outputs. The first call, which compiles,
is reported separately. Writes a plot to docs/images/peers.png.
"""

from typing import Any

import seqjax
from benchmarks import common, libraries, plots, timing
from benchmarks.tables_speed import CELL_NAMES

OURS = "seqjax"
CELLS = {name: seqjax.cells.CELLS[name] for name in ("lstm", "gru", "rnn")}  # cells that the others have too
RATIOS = ("best_jax_peer_over_ours", "ours_over_torch")
COLORS = {
    "torch": plots.BLACK,
    "flax.linen": plots.BLUE,
    "flax.nnx": plots.SKY,
    "dm-haiku": plots.GREEN,
    "equinox": plots.ORANGE,
    "keras on jax": plots.VERMILION,
}


def make_ours(kind: str, engine: str, shape: timing.Shape, xs, cotangent) -> dict:
    """Our functions for one cell and shape."""
    import jax

    cell = CELLS[kind](shape.hidden)
    params = cell.init(jax.random.key(0), shape.features)

    def apply(params, xs):
        return seqjax.unroll(cell, params, xs, time_major=True, engine=engine)[1]

    return timing.make_functions(apply, params, xs, cotangent)


def ratios(times: dict[str, dict], which: str) -> dict[str, float | str]:
    """Our time relative to the best JAX library's and to torch's, by "min" or "median"."""
    ours = times[OURS][which]
    peers = {name: row[which] for name, row in times.items() if name not in (OURS, "torch")}
    result = {}
    if peers:
        best = min(peers, key=peers.get)
        result |= {"best_jax_peer": best, "best_jax_peer_over_ours": peers[best] / ours}
    if "torch" in times:
        result["ours_over_torch"] = ours / times["torch"][which]
    return result


def means(cases: list[dict]) -> dict:
    """Geometric means of the ratios over shapes, for each cell and over all cells."""

    def over(chosen):
        return {
            ratio: {which: timing.geometric_mean(case[which][ratio] for case in chosen) for which in ("min", "median")}
            for ratio in RATIOS
            if all(ratio in case["min"] for case in chosen)
        }

    result = {}
    for what in dict.fromkeys(case["what"] for case in cases):
        chosen = [case for case in cases if case["what"] == what]
        kinds = dict.fromkeys(case["cell"] for case in chosen)
        result[what] = {kind: over([case for case in chosen if case["cell"] == kind]) for kind in kinds}
        result[what]["all cells"] = over(chosen)
    return result


def show(case: dict) -> None:
    """One line for a case."""
    times = sorted(case["milliseconds"].items(), key=lambda item: item[1]["min"])
    summary = " ".join(f"{ratio} {case['min'][ratio]:.2f}" for ratio in RATIOS if ratio in case["min"])
    listed = ", ".join(f"{name} {row['min']:.3g}" for name, row in times)
    print(f"{case['cell']} {case['shape']} {case['what']}: {summary} | {listed}", flush=True)


def plot(cases: list[dict]) -> Any:
    """Plots every library's time over ours, with a panel for each cell and each of forward and training."""
    kinds, whats = ([*dict.fromkeys(case[key] for case in cases)] for key in ("cell", "what"))
    figure, axes = plots.make(len(kinds), len(whats), (6.2 * len(whats), 3.2 * len(kinds) + 0.8))
    handles = {}
    for i, kind in enumerate(kinds):
        for j, what in enumerate(whats):
            chosen = [case for case in cases if (case["cell"], case["what"]) == (kind, what)]
            for label, bars in _panel(axes[i, j], chosen).items():
                handles.setdefault(label, bars)
            axes[i, j].set_title(f"{CELL_NAMES[kind]}, {what}")
    figure.supylabel("time / time of seqjax", fontsize="medium")
    figure.suptitle("One layer on two CPU cores, all cases (above 1: slower than seqjax)")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def _panel(axes, cases):
    from matplotlib.ticker import FixedLocator, NullLocator

    names = [name for name in cases[0]["milliseconds"] if name != OURS]
    width, handles = 0.85 / len(names), {}
    for k, name in enumerate(names):
        library = next(library for library in COLORS if name.startswith(library))
        label, hatch = (name, "////") if "Optimized" in name else (library, "")
        places = [i + (k - (len(names) - 1) / 2) * width for i in range(len(cases))]
        # On a log axis bars start at 1, and point down where a library is faster.
        heights = [case["milliseconds"][name]["min"] / case["milliseconds"][OURS]["min"] - 1 for case in cases]
        look = {"color": COLORS[library], "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
        handles[label] = axes.bar(places, heights, width, bottom=1, **look)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(FixedLocator([2.0**k for k in range(-4, 9)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(visible=False, axis="x")
    labels = [",".join(sizes[:2]) + "\n" + ",".join(sizes[2:]) for sizes in (case["shape"].split(",") for case in cases)]
    axes.set_xticks(range(len(cases)), labels, fontsize="small")
    axes.set_xlabel("B,T above D,H", fontsize="small")
    return handles


def main() -> None:
    """Measures, saves and plots."""
    parser = timing.parser(__doc__)
    parser.add_argument("--cells", type=timing.parse_names(CELLS), default=list(CELLS))
    parser.add_argument("--what", type=timing.parse_names(timing.WHATS), default=list(timing.WHATS))
    parser.add_argument("--shapes", type=timing.parse_shape, nargs="+", default=timing.GRID, metavar="B,T,D,H")
    parser.add_argument("--engine", default="auto", help="ours")
    options = parser.parse_args()
    settings = timing.prepare()
    cases = []
    for kind in options.cells:
        for shape in options.shapes:
            data = timing.make_data(shape)
            functions = {OURS: make_ours(kind, options.engine, shape, *data)} | libraries.make_all(kind, shape, *data)
            for what in options.what:
                chosen = {name: pair[what] for name, pair in functions.items()}
                times = timing.interleave(chosen, options.rounds, options.seconds)
                case = {"cell": kind, "shape": str(shape), "what": what, "milliseconds": times}
                cases.append(case | {which: ratios(times, which) for which in ("min", "median")})
                show(cases[-1])
    result = {
        "question": "time of one layer against other libraries",
        "settings": settings | {"engine": options.engine, "dtype": "float32"},
        "left_out": {kind: libraries.left_out(kind) for kind in options.cells},
        "geometric_means": means(cases),
        "cases": cases,
    }
    common.save(f"peers{options.tag}", result)
    plots.save(plot(cases), f"peers{options.tag}")


if __name__ == "__main__":
    main()
