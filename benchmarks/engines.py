"""Which of our engines is the fastest, for which cell and shape, and does "auto" choose it?

    python -m benchmarks.engines [--cells=lstm,gru] [--what=forward,training] [--shapes 32,64,128,128 ...]

Engines run in one process, in turn: scan; fused, and if the cell's products are plain matrix products, fused with the loop's arrays in
rows, in columns, and with a separate input product, whichever it would choose itself; associative for linear recurrences; native if it can
run the cell. `training` computes outputs and the gradients of weights and inputs for a random cotangent of the outputs; zoneout draws its
masks.
"""

import contextlib
import io
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

import seqjax
from benchmarks import common, timing
from seqjax.engines import fused, native
from seqjax.engines.dense import Layout
from seqjax.typing import Dense, Linear

ALIKE = ("irnn", "minlstm", "lru")  # run as rnn and mingru do
CELLS: dict[str, Callable[..., seqjax.Cell]] = {
    **{name: make for name, make in seqjax.cells.CELLS.items() if name not in ALIKE},
    "lstm peepholes": lambda hidden: seqjax.lstm(hidden, peepholes=True),
    "lstm layer norm": lambda hidden: seqjax.lstm(hidden, layer_norm=True),
    "lstm zoneout": lambda hidden: seqjax.zoneout(seqjax.lstm(hidden), 0.1),
}
NOISY = ("lstm zoneout",)
LAYOUTS = {"rows": Layout(columns=False), "columns": Layout(columns=True), "apart": None}


def chosen(cell: seqjax.Cell, params: Any, xs: Any, **options: Any) -> str:
    """The engine that "auto" chooses for time-major inputs, with the layout if there are two."""
    with contextlib.redirect_stdout(io.StringIO()):
        (choice,) = seqjax.explain(cell, params, xs, time_major=True, **options)
    found = [layout for layout in ("rows", "columns") if f"in {layout}" in choice.reason]
    return " ".join([choice.engine, *found])


def make_case(name: str, shape: timing.Shape) -> tuple[str, dict[str, dict[str, Callable]]]:
    """The choice of "auto", and every engine's functions to time."""
    xs, cotangent = timing.make_data(shape)
    rng = jax.random.key(1) if name in NOISY else None
    cell = CELLS[name](shape.hidden)
    params = cell.init(jax.random.key(0), shape.features)
    auto = chosen(cell, params, xs, rng=rng)
    forced = list(LAYOUTS) if isinstance(cell.split, Dense) else [None]
    if auto == "fused" and isinstance(cell.split, Dense):
        auto = "fused apart"
    variants = {"scan": ("scan", None)}
    if cell.parts is not None:
        variants |= {f"fused {layout}" if layout else "fused": ("fused", layout) for layout in forced}
    if isinstance(cell.split, Linear):
        variants["associative"] = ("associative", None)
    if native.refusal(cell, params, xs) is None:
        variants["native"] = ("native", None)

    def make(engine, layout):
        def apply(params, xs):
            with forcing(layout):
                return seqjax.unroll(cell, params, xs, time_major=True, engine=engine, rng=rng)[1]

        return timing.make_functions(apply, params, xs, cotangent)

    return auto, {label: make(*variant) for label, variant in variants.items()}


def forcing(layout: str | None) -> contextlib.AbstractContextManager:
    """A context in which the fused engine takes this layout, or its own choice for None. It chooses during tracing."""
    if layout is None:
        return contextlib.nullcontext()
    return mock.patch.object(fused, "layout_of", lambda cell, batch: LAYOUTS[layout])


def show(case: dict) -> None:
    """One line for a case."""
    times = case["milliseconds"]
    listed = ", ".join(f"{name} {row['min']:.3g}" for name, row in times.items())
    auto, best = case["auto"], case["fastest"]
    verdict = "the fastest" if auto == best else f"{case['auto_over_fastest']:.2f} times {best}"
    print(f"{case['cell']:16} {case['shape']:15} {case['what']:9} auto is {auto}, {verdict} | {listed}", flush=True)


def measure(name: str, shape: timing.Shape, whats: list[str], rounds: int, seconds: float) -> list[dict]:
    """The cases of one cell and shape."""
    auto, functions = make_case(name, shape)
    cases = []
    for what in whats:
        times = timing.interleave({label: pair[what] for label, pair in functions.items()}, rounds, seconds)
        best = min(times, key=lambda label: times[label]["min"])
        verdict = {"auto": auto, "fastest": best, "auto_over_fastest": times[auto]["min"] / times[best]["min"]}
        cases.append({"cell": name, "shape": str(shape), "what": what, **verdict, "milliseconds": times})
        show(cases[-1])
    return cases


def main() -> None:
    """Measures and saves."""
    parser = timing.parser(__doc__)
    parser.add_argument("--cells", type=timing.parse_names(CELLS), default=list(CELLS))
    parser.add_argument("--what", type=timing.parse_names(timing.WHATS), default=list(timing.WHATS))
    parser.add_argument("--shapes", type=timing.parse_shape, nargs="+", default=timing.GRID, metavar="B,T,D,H")
    options = parser.parse_args()
    settings = timing.prepare()
    if native.library.missing() is None:
        settings["native"] = native.detail()
    cases = []
    for name in options.cells:
        for shape in options.shapes:
            cases += measure(name, shape, options.what, options.rounds, options.seconds)
    result = {"question": "our engines against each other", "settings": settings, "cases": cases}
    common.save(f"engines{options.tag}", result)
    for case in cases:
        show(case)


if __name__ == "__main__":
    main()
