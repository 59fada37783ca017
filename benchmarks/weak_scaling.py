"""How much longer does a data-parallel training step take on n devices, each with as many rows as one had?

    python -m benchmarks.weak_scaling                                           # the model: only shapes are computed
    python -m benchmarks.weak_scaling --measure=cpu|gpu [--counts=1,2] [--steps=60] [--rows=32]

The model: a step of one device, as measured on an H200 (benchmarks/results/gpu_h200.json), followed by a ring all-reduce of the gradients:
2 (n - 1) / n of their bytes over the bandwidth, and 2 (n - 1) times the latency of a hop, twice (gradients, sums of the loss). Nothing
overlaps: the gradient of a recurrent kernel is ready only when the loop over time has ended, at the end of the step. A TPU's step is
assumed to take as long as an H200's; a longer one would hide more.

The measurement runs the language model with --rows rows for each device: on forced devices of a CPU (which shows that it runs: they share
the cores), or on the first n GPUs of a machine.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import jax

from benchmarks import common
from seqjax.run import records

LAST = 10  # steps between records
SLOW = 10  # times the assumed latency, the least certain of the assumptions


class Link(NamedTuple):
    """How devices are connected."""

    name: str
    devices: int
    bandwidth: float  # bytes per second that one device can send around a ring
    reached: float  # share of it that a reduction reaches (assumed)
    latency: float  # seconds per hop (assumed)
    source: str


LINKS = (
    Link(
        "8 x H200, NVLink 4", 8, 450e9, 0.8, 3e-6,
        "NVIDIA's data sheet: 900 GB/s a GPU in both directions; share and latency assumed, as NCCL's ring has them in one machine",
    ),
    Link(
        "TPU v5e-16, ICI", 16, 100e9, 0.8, 1e-6,
        "Google's table of v5e: 400 GB/s a chip over 4 ports in both directions; a ring through the 4 x 4 mesh, run both ways, uses two "
        "ports' 50 GB/s each; share and latency assumed",
    ),
)  # fmt: skip


class Case(NamedTuple):
    """The work of one device."""

    name: str
    seconds: float  # of a step
    count: int  # parameters, whose gradients are float32
    source: str  # of the seconds


def ring(size: float, devices: int, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes.

    Example:
      >>> ring(8e9, 4, bandwidth=1e9, latency=0.5)  # 2 * 3 / 4 * 8 seconds, and 6 hops
      15.0
    """
    return 2 * (devices - 1) / devices * size / bandwidth + 2 * (devices - 1) * latency


def modelled(case: Case, link: Link) -> list[dict[str, Any]]:
    """For 1, 2, 4, ... devices: the time of the reductions and of the step, the efficiency, and the efficiency with slow hops."""

    def seconds(devices: int, latency: float) -> float:
        return sum(ring(size, devices, link.bandwidth * link.reached, latency) for size in (4 * case.count, 8))

    rows, devices = [], 1
    while devices <= link.devices:
        once, slow = seconds(devices, link.latency), seconds(devices, SLOW * link.latency)
        step = case.seconds + once
        row = {"devices": devices, "reductions_ms": 1e3 * once, "step_ms": 1e3 * step, "efficiency": case.seconds / step}
        rows.append(row | {"efficiency_at_slow_hops": case.seconds / (case.seconds + slow)})
        devices *= 2
    return rows


def lstm_count(inputs: int, units: int) -> int:
    """Parameters of an LSTM.

    Example:
      >>> lstm_count(2, 3)  # 4 gates of 2 x 3, 3 x 3 and 3
      72
    """
    return 4 * units * (inputs + units + 1)


def layer_seconds() -> dict[str, float]:
    """B,T,D,H -> seconds of an LSTM layer, forward and backward, in float32 on an H200, with seqjax's fastest engine."""
    parts = json.loads((common.RESULTS / "gpu_h200.json").read_text(encoding="utf-8"))["parts"]
    found: dict[str, float] = {}
    for row in parts["layers"]["cases"] + parts["shapes"]["cases"]:
        wanted = row["cell"] == "lstm" and row["dtype"] == "float32" and row["what"] == "training"
        if wanted and row["engine"] not in ("torch", "flax"):
            found[row["shape"]] = min(row["min"] / 1e3, found.get(row["shape"], float("inf")))
    return found


def cases() -> list[Case]:
    """Measured LSTM layers, and two presets of the language model, whose step is assumed to take no longer than its layers."""
    layers, found = layer_seconds(), []
    for shape in ("32,64,128,128", "64,100,512,512", "64,35,650,650", "16,1024,768,768"):
        batch, steps, inputs, units = map(int, shape.split(","))
        name = f"LSTM {inputs} to {units}, {batch} x {steps}"
        found.append(Case(name, layers[shape], lstm_count(inputs, units), "measured, the layer alone"))
    for preset, number in (("char_small", 1), ("char_large", 2)):
        source = f"{number} x the layer of 128 units, 32 x 64: less than the step takes, so that the efficiency is too low"
        found.append(Case(preset, number * layers["32,64,128,128"], preset_count(preset), source))
    return found


def preset_count(preset: str) -> int:
    """Parameters of a preset of the language model."""
    from experiments import language_model
    from seqjax.run import cli

    experiment = language_model.EXPERIMENT
    config = cli.config_of(experiment, cli.parse(experiment, ["language_model", "--workdir=unused", f"--config={preset}"]))
    model = experiment.build(config, experiment.prepare(config, experiment.load(config)))
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))["params"]))


def measured(platform: str, counts: list[int], rows: int, steps: int) -> list[dict[str, Any]]:
    """Tokens per second of the language model on each number of devices, with `rows` rows each."""
    found = []
    for count in counts:
        env = dict(os.environ)
        if platform == "cpu":
            env |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{env.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"}
        elif platform == "gpu":
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(count)))
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                "train.steps": steps, "train.log_every": LAST, "train.eval_every": steps, "ngram_order": 0, "sample.length": 0,
                "data.batch_size": rows * count, "data.eval_batch_size": rows * count,
            }  # fmt: skip
            flags = [f"--config.{name}={value}" for name, value in settings.items()]
            command = [sys.executable, "-m", "experiments.language_model", f"--workdir={folder}/run", *flags]
            said = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
            if f" on {count} " not in said:
                sys.exit(f"there are no {count} devices:\n{said}")
            kept = [row for row in records.read_records(pathlib.Path(folder) / "run") if row["kind"] == "train"]
        speed = statistics.median(row["tokens_per_second"] for row in kept[2:])
        found.append({"devices": count, "tokens_per_second": speed})
        found[-1]["efficiency"] = speed * found[0]["devices"] / count / found[0]["tokens_per_second"]
    return found


def main() -> None:
    """Computes or measures, and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=("cpu", "gpu"))
    parser.add_argument("--counts", default="1,2")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=32)
    options = parser.parse_args()
    question = "weak scaling: a step on n devices, each with the rows that one device had"
    if options.measure:
        found = measured(options.measure, list(map(int, options.counts.split(","))), options.rows, options.steps)
        result = {"question": question, "platform": options.measure, "rows a device": options.rows, "measured": found}
        common.save(f"weak_scaling_{options.measure}", result)
        return
    made = [
        {"case": case.name, "parameters": case.count, "step_from": case.source, "link": link.name, "rows": modelled(case, link)}
        for case in cases()
        for link in LINKS
    ]
    common.save("weak_scaling", {"question": question, "links": [link._asdict() for link in LINKS], "modelled": made})


if __name__ == "__main__":
    main()
