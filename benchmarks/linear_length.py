"""Does a token of a linear recurrence cost the same in a sequence of a thousand steps as in one of a million?

    python -m benchmarks.linear_length [--cell=mingru] [--lengths 1000 10000 100000 1000000] [--fresh-memory]

One layer over random inputs, time-major: the plain scan, the plain scan that keeps the carry of every 1,000th step, and
the associative engine, each length in a separate process, so that each has its own peak of resident memory. Forward, and forward with
gradients of weights and inputs; compile time is reported separately. At a million steps of 32 inputs and 64 units, inputs take 128 MB and
outputs 256 MB, and each has a gradient of the same size. Freed memory is kept between calls, as in training runs (`seqjax.run.process`);
peaks of memory come from a second process, which does not keep it. With --fresh-memory there is only that one, and the cost per token grows
with the length, since the system maps new pages.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from benchmarks import common

SIDES = {"scan": ("scan", None), "scan, remat_every=1000": ("scan", 1000), "associative": ("associative", None)}


def resident_megabytes() -> int:
    """The highest resident memory of this process so far. Linux counts it in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(side: str, steps: int, options: argparse.Namespace) -> dict:
    """Times one engine at one length in this process."""
    import jax
    import numpy as np

    import seqjax
    from seqjax.run import process

    if not options.fresh_memory:
        process.keep_freed_memory()
    engine, every = SIDES[side]
    cell = seqjax.cells.CELLS[options.cell](options.hidden)
    params = cell.init(jax.random.key(0), options.features)
    shape = (steps, options.batch, options.features)
    xs = jax.numpy.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))

    def forward(params, xs):
        return seqjax.unroll(cell, params, xs, time_major=True, engine=engine, remat_every=every)[1]

    def both(params, xs):
        return jax.grad(lambda *given: (forward(*given) ** 2).mean(), argnums=(0, 1))(params, xs)

    result = {"megabytes_before": resident_megabytes()}
    for name, function in (("forward", forward), ("forward_and_gradient", both)):
        begin = time.perf_counter()
        compiled = jax.jit(function).lower(params, xs).compile()
        compile_seconds = time.perf_counter() - begin
        seconds = []
        for _ in range(max(options.repeats, min(50, 20_000 // steps)) + 1):
            begin = time.perf_counter()
            jax.block_until_ready(compiled(params, xs))
            seconds.append(time.perf_counter() - begin)
        nanoseconds = [1e9 * s / (steps * options.batch) for s in seconds[1:]]
        result[name] = {
            "nanoseconds_per_token": common.summary(nanoseconds),
            "compile_seconds": compile_seconds,
            "peak_megabytes": resident_megabytes(),
        }
    return result


def in_a_process(side: str, steps: int, sizes: list[str], fresh_memory: bool) -> dict:
    """`measure` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.linear_length", f"--side={side}", f"--lengths={steps}", *sizes]
    command += ["--fresh-memory"] if fresh_memory else []
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def show(table: dict) -> None:
    """Prints a row for each engine and length."""
    print(f"{'engine':24}{'steps':>9}{'forward ns':>12}{'gradient ns':>13}{'forward MB':>12}{'gradient MB':>13}")
    for side, rows in table.items():
        for steps, row in rows.items():
            costs = [row[name]["nanoseconds_per_token"]["min"] for name in ("forward", "forward_and_gradient")]
            peaks = [row[name]["peak_megabytes"] for name in ("forward", "forward_and_gradient")]
            print(f"{side:24}{steps:>9}{costs[0]:>12.0f}{costs[1]:>13.0f}{peaks[0]:>12}{peaks[1]:>13}")


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="mingru", choices=["mingru", "minlstm", "lru"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fresh-memory", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.lengths[0], options)))
        return
    sizes = [f"--{name}={getattr(options, name)}" for name in ("cell", "batch", "features", "hidden", "repeats")]
    table = {side: {} for side in SIDES}
    for steps in options.lengths:
        for side, rows in table.items():
            rows[str(steps)] = in_a_process(side, steps, sizes, options.fresh_memory)
            if not options.fresh_memory:
                fresh = in_a_process(side, steps, sizes, True)
                for name in ("forward", "forward_and_gradient"):
                    rows[str(steps)][name]["peak_megabytes"] = fresh[name]["peak_megabytes"]
    shape = {name: getattr(options, name) for name in ("batch", "features", "hidden")}
    question = "cost of a token and peak memory against the number of steps"
    setting = {"question": question, "cell": options.cell, **shape, "fresh_memory": options.fresh_memory}
    common.save("linear_length", setting | {"engines": table})
    show(table)


if __name__ == "__main__":
    main()
