"""How does the memory of the gradient grow with T, with and without `remat_every`?

    python -m benchmarks.memory_remat [--batch=32] [--hidden=128] [--steps 64 256 1024 4096 16384]

The gradient of weights and inputs of an LSTM, on the scan and the fused engine: with all residuals kept, or only the carry of every
remat_every-th step, about the square root of T. Counted is XLA's own plan for the compiled program (`memory_analysis`: the size of its
temporary buffers, which hold the residuals), which is exact and needs no run; arguments and results are counted separately. Writes a plot
to docs/images/memory_remat.png.
"""

import argparse
import math
from typing import Any

import jax
import jax.numpy as jnp

import seqjax
from benchmarks import common, plots

LOOKS = {
    ("scan", False): (plots.VERMILION, "o", "-"),
    ("fused", False): (plots.BLUE, "s", "-"),
    ("scan", True): (plots.VERMILION, "o", "--"),
    ("fused", True): (plots.BLUE, "s", "--"),
}


def measure(engine: str, remat_every: int | None, steps: int, batch: int, hidden: int) -> dict[str, int]:
    """Bytes planned for the compiled gradient; nothing is run."""
    cell = seqjax.lstm(hidden)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), hidden))
    xs = jax.ShapeDtypeStruct((steps, batch, hidden), jnp.float32)

    def gradients(params, xs, cotangent):
        def apply(params, xs):
            return seqjax.unroll(cell, params, xs, time_major=True, engine=engine, remat_every=remat_every)[1]

        ys, back = jax.vjp(apply, params, xs)
        return ys, back(cotangent)

    plan = jax.jit(gradients).lower(params, xs, xs).compile().memory_analysis()
    return {
        "temporary_bytes": plan.temp_size_in_bytes,
        "argument_bytes": plan.argument_size_in_bytes,
        "result_bytes": plan.output_size_in_bytes,
    }


def plot(rows: list[dict], batch: int, hidden: int) -> Any:
    """Plots megabytes of temporaries against T, with those of inputs and outputs for comparison."""
    figure, axes = plots.make(1, 1, (7, 4.6))
    axes = axes[0, 0]
    for (engine, remat), (color, marker, style) in LOOKS.items():
        chosen = [row for row in rows if (row["engine"], row["remat_every"] is not None) == (engine, remat)]
        label = f"{engine}, remat_every = √T" if remat else f"{engine}, all residuals kept"
        megabytes = [row["temporary_bytes"] / 1e6 for row in chosen]
        axes.plot([row["steps"] for row in chosen], megabytes, color=color, marker=marker, linestyle=style, label=label)
    chosen = [row for row in rows if (row["engine"], row["remat_every"]) == ("scan", None)]
    around = [(row["argument_bytes"] + row["result_bytes"]) / 1e6 for row in chosen]
    axes.plot([row["steps"] for row in chosen], around, color="gray", linestyle=":", label="arguments and results, any engine")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([row["steps"] for row in chosen], [f"{row['steps']:,}" for row in chosen])
    title = f"Memory of an LSTM's gradient (B = {batch}, D = H = {hidden}, float32)"
    axes.set(xlabel="steps, T", ylabel="megabytes", title=title)
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.legend()
    return figure


def main() -> None:
    """Compiles, saves and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=128, help="also the number of input features")
    parser.add_argument("--tag", default="", help="suffix of the names of results and plots, so that a trial overwrites none")
    options = parser.parse_args()
    rows = []
    for steps in options.steps:
        for engine, remat in LOOKS:
            remat_every = max(1, math.isqrt(steps)) if remat else None
            sizes = measure(engine, remat_every, steps, options.batch, options.hidden)
            rows.append({"engine": engine, "steps": steps, "remat_every": remat_every, **sizes})
            print(
                f"T = {steps:6} {engine:6} remat_every {remat_every}: {sizes['temporary_bytes'] / 1e6:.1f} MB",
                flush=True,
            )
    asked = {
        "batch": options.batch,
        "hidden": options.hidden,
        "dtype": "float32",
        "device": jax.devices()[0].device_kind,
    }
    common.save(f"memory_remat{options.tag}", {"question": "peak memory of the gradient against T", **asked, "rows": rows})
    plots.save(plot(rows, options.batch, options.hidden), f"memory_remat{options.tag}")


if __name__ == "__main__":
    main()
