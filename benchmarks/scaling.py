"""How does the time of a step grow with T, B and H?

    python -m benchmarks.scaling [--what=training] [--base=32,64,128,128]

An LSTM on our scan and fused engines and in torch, if installed, in one process and in turn. One of T, B and H is varied at a time, the
others are as in `base`; D equals H. The time of a step is that of the whole sequence divided by T. Writes a plot to
docs/images/scaling.png.
"""

import jax

import seqjax
from benchmarks import common, libraries, plots, timing

SIZES = {
    "T": (16, 64, 256, 1024),
    "B": (1, 4, 16, 64, 256),
    "H": (16, 32, 64, 128, 256, 512, 1024),
}
ENGINES = ("scan", "fused")
LOOKS = {
    "seqjax scan": (plots.SKY, "o"),
    "seqjax fused": (plots.BLUE, "s"),
    "torch": (plots.VERMILION, "^"),
}


def vary(base: timing.Shape, axis: str, size: int) -> timing.Shape:
    """The base with one size changed; features change with hidden units."""
    fields = {"T": ("steps",), "B": ("batch",), "H": ("features", "hidden")}[axis]
    return base._replace(**dict.fromkeys(fields, size))


def make_functions(shape: timing.Shape) -> dict[str, dict]:
    """Our engines' functions and torch's."""
    data = timing.make_data(shape)
    made = {}
    for engine in ENGINES:
        cell = seqjax.lstm(shape.hidden)
        params = cell.init(jax.random.key(0), shape.features)

        def apply(params, xs, cell=cell, engine=engine):
            return seqjax.unroll(cell, params, xs, time_major=True, engine=engine)[1]

        made[f"seqjax {engine}"] = timing.make_functions(apply, params, *data)
    if "torch" not in libraries.left_out("lstm"):
        made |= libraries.torch("lstm", shape, *data)
    return made


def show(point: dict) -> None:
    """One line for a shape."""
    times = {name: 1e3 * row["min"] / point["T"] for name, row in point["milliseconds"].items()}
    listed = ", ".join(f"{name} {time:.3g}" for name, time in times.items())
    print(f"{point['axis']} = {point['size']:5}: microseconds a step: {listed}", flush=True)


def plot(points: list[dict], what: str, base: timing.Shape, name: str) -> None:
    """Plots microseconds per step against each of the three sizes."""
    figure, axes = plots.make(1, 3, (13, 4.2), sharey=True)
    labels = {"T": "steps, T", "B": "batch, B", "H": "hidden units and features, H = D"}
    for panel, (axis, label) in zip(axes[0], labels.items(), strict=True):
        chosen = [point for point in points if point["axis"] == axis]
        for side, (color, marker) in LOOKS.items():
            line = [(p["size"], 1e3 * p["milliseconds"][side]["min"] / p["T"]) for p in chosen if side in p["milliseconds"]]
            if line:
                panel.plot(*zip(*line), color=color, marker=marker, label=side)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set(xlabel=label)
        panel.set_xticks([point["size"] for point in chosen], [point["size"] for point in chosen])
        panel.grid(alpha=0.3)
    axes[0, 0].set_ylabel("microseconds a step")
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].legend()
    figure.suptitle(f"LSTM, {what}; what is not varied is B,T,D,H = {base}")
    plots.save(figure, name)


def main() -> None:
    """Measures, saves and plots."""
    parser = timing.parser(__doc__)
    parser.add_argument("--what", choices=timing.WHATS, default="training")
    parser.add_argument("--base", type=timing.parse_shape, default=timing.GRID[0], metavar="B,T,D,H")
    parser.add_argument("--largest", type=int, help="leave out larger sizes")
    options = parser.parse_args()
    settings = timing.prepare()
    points = []
    for axis, sizes in SIZES.items():
        for size in sizes:
            if options.largest and size > options.largest:
                continue
            shape = vary(options.base, axis, size)
            functions = {name: pair[options.what] for name, pair in make_functions(shape).items()}
            times = timing.interleave(functions, options.rounds, options.seconds)
            points.append({"axis": axis, "size": size, "T": shape.steps, "shape": str(shape), "milliseconds": times})
            show(points[-1])
    question = "time of a step of an LSTM against T, B and H"
    asked = {"what": options.what, "base": str(options.base)}
    common.save(f"scaling{options.tag}", {"question": question, **asked, "settings": settings, "points": points})
    plot(points, options.what, options.base, f"scaling{options.tag}")


if __name__ == "__main__":
    main()
