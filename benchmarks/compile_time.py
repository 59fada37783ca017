"""How long does an LSTM's training step take to compile, compared with Flax's, and is anything compiled twice?

    python -m benchmarks.compile_time [--rounds=3] [--layers 1 3] [--shape=32,64,128,128]

A step of gradient descent on the mean square of the outputs of a stack of LSTMs: ours on the scan and the fused engine,
flax.linen with `nn.RNN` layers of either LSTM cell. Each measurement runs in a fresh process, in turn, without the persistent compilation
cache; tracing, lowering and compiling are reported separately. Also counted: how often a layer's cell is traced (calls of its Python
function; `fused` traces it again for its own derivative), and programs compiled by a second call of the step, and by a second call of
`unroll` outside jit.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter

from benchmarks import common, timing

SIDES = ("seqjax scan", "seqjax fused", "flax.linen LSTMCell", "flax.linen OptimizedLSTMCell")
PHASES = ("trace", "lower", "compile")


def make_ours(engine: str, layers: int, hidden: int, traces: Counter):
    """A seqjax stack whose cells count how often they are traced: (init, apply)."""
    import seqjax

    def counted(layer):
        cell = seqjax.lstm(hidden)

        def combine(*given):
            traces[layer] += 1
            return cell.split.combine(*given)

        return cell.replace(split=cell.split._replace(combine=combine))

    stack = seqjax.stack(counted(layer) for layer in range(layers))

    def init(key, xs):
        return stack.init(key, xs.shape[-1])

    def apply(params, xs):
        return seqjax.unroll(stack, params, xs, time_major=True, engine=engine)[1]

    return init, apply


def make_flax(cell: str, layers: int, hidden: int, traces: Counter):
    """The same in flax.linen, with one `nn.RNN` per layer: (init, apply)."""
    from flax import linen as nn

    class Counted(getattr(nn, cell)):
        layer: int = 0

        def __call__(self, carry, inputs):
            traces[self.layer] += 1
            return super().__call__(carry, inputs)

    stack = nn.Sequential([nn.RNN(Counted(hidden, layer=layer), time_major=True) for layer in range(layers)])
    return stack.init, stack.apply


def measure(side: str, layers: int, shape: timing.Shape) -> dict:
    """Compiles one step in this process."""
    import jax

    compiled = []

    def listen(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    library, name = side.split()
    traces = Counter()
    make = make_ours if library == "seqjax" else make_flax
    init, apply = make(name, layers, shape.hidden, traces)
    first, second = (jax.device_put(timing.make_data(shape, seed)[0]) for seed in range(2))
    params = jax.jit(init)(jax.random.key(0), first)

    def train(params, xs):
        loss, gradients = jax.value_and_grad(lambda p: (apply(p, xs) ** 2).mean())(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), loss

    traces.clear()
    clock = [time.perf_counter()]
    traced = jax.jit(train).trace(params, first)
    clock.append(time.perf_counter())
    lowered = traced.lower()
    clock.append(time.perf_counter())
    lowered.compile()
    clock.append(time.perf_counter())
    seconds = dict(zip(PHASES, (after - before for before, after in zip(clock, clock[1:])), strict=True))
    result = {"seconds": seconds, "traces_of_each_cell": [traces[layer] for layer in range(layers)]}

    step = jax.jit(train)
    for key, function in (("step", step), ("unroll_outside_jit", apply)):
        if library == "seqjax" or key == "step":
            given, _ = jax.block_until_ready((params, function(params, first)))
            before = len(compiled)
            jax.block_until_ready(function(given, second))
            result[f"compiled_by_second_{key}"] = len(compiled) - before
    if not compiled:
        raise RuntimeError("JAX reported no compilation at all: the counts of second calls would mean nothing")
    return result


def summed_up(runs: list[dict]) -> dict:
    """One row of the table, from the repeats of one side."""
    totals = [sum(run["seconds"].values()) for run in runs]
    phases = {phase: common.summary([run["seconds"][phase] for run in runs]) for phase in PHASES}
    counts = {key: value for key, value in runs[-1].items() if key != "seconds"}
    return {"seconds": common.summary(totals), "seconds_by_phase": phases, **counts}


def run_apart(side: str, layers: int, shape: timing.Shape) -> dict:
    """`measure` in a separate process."""
    asked = [f"--side={side}", f"--layers={layers}", f"--shape={shape}"]
    command = [sys.executable, "-m", "benchmarks.compile_time", *asked]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def show(table: dict[str, dict[str, dict]]) -> None:
    """A line for each side and number of layers."""
    for layers, rows in table.items():
        for side, row in rows.items():
            second = [value for key, value in row.items() if key.startswith("compiled_by_second")]
            counts = f"traces of each cell {row['traces_of_each_cell']}, compiled by second calls {second}"
            print(f"{layers} layers, {side:29} {row['seconds']['min']:.2f} s (median {row['seconds']['median']:.2f}), {counts}")


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--shape", type=timing.parse_shape, default=timing.GRID[0], metavar="B,T,D,H")
    parser.add_argument("--tag", default="", help="suffix of the result's name, so that a trial overwrites none")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.layers[0], options.shape)))
        return
    table = {}
    for layers in options.layers:
        runs = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side, results in runs.items():
                results.append(run_apart(side, layers, options.shape))
        table[str(layers)] = {side: summed_up(results) for side, results in runs.items()}
    result = {"question": "compile time of an LSTM's training step", "shape": str(options.shape), "layers": table}
    common.save(f"compile_time{options.tag}", result)
    show(table)


if __name__ == "__main__":
    main()
