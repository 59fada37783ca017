"""How soon is speech recognised while it is spoken, and how much of one core does it take?

    python -m benchmarks.speech_streaming [--seconds=60] [--cells=gru,lstm] [--sizes=128x1,512x5]

A recogniser with unidirectional cells follows 8 kHz sound block by block (`seqjax.decoding.streaming`). Time of a block, from its
samples to its log probabilities: median and the longest of a hundred. Real-time factor: that time over the block's own length. Latency:
the block's length, which is how long its first sample waits, plus its time. Weights are random; times do not depend on them. Greedy
decoding of a block is an argmax and is included. On one core: the process is pinned to the first one available.
"""

import argparse
import os
import time

import jax
import numpy as np

from benchmarks import common
from seqjax.data.transforms.sounds import FrontEnd
from seqjax.decoding.ctc import collapse
from seqjax.decoding.streaming import SpeechStream
from seqjax.models import make_stack
from seqjax.models.speech import Recogniser

FRONT = FrontEnd(rate=8000, window=200, hop=80, mels=40, normalize="running")


def measured(cell: str, hidden_size: int, layers: int, steps: int, seconds: float) -> dict[str, float]:
    """Milliseconds of a block, the real-time factor and the latency."""
    model = Recogniser(30, make_stack(cell, hidden_size, layers), filters=64)
    variables = model.init(jax.random.key(0), np.zeros((1, 4, FRONT.mels), np.float32), np.array([4]))
    stream, rng = SpeechStream(model, FRONT, steps=steps), np.random.default_rng(0)
    state, times, length = stream.start(variables), [], stream.samples / FRONT.rate
    for _ in range(max(int(seconds / length), 30)):
        samples = rng.normal(size=stream.samples).astype(np.float32) / 10
        begin = time.perf_counter()
        state, scores = stream.feed(variables, state, samples)
        collapse(scores.argmax(axis=1))
        times.append(time.perf_counter() - begin)
    times = np.sort(times[5:])  # without those that compile
    typical, slow = float(np.median(times)), float(times[int(0.99 * len(times))])
    return {
        "block_seconds": length,
        "milliseconds": 1e3 * typical,
        "milliseconds_99_percent": 1e3 * slow,
        "real_time_factor": typical / length,
        "latency_milliseconds": 1e3 * (length + slow),
        "blocks": len(times),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    }


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cells", default="gru,lstm")
    parser.add_argument("--sizes", default="128x1,512x5")
    parser.add_argument("--steps", default="1,5,25")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = {}
    for cell in options.cells.split(","):
        for size in options.sizes.split(","):
            for steps in map(int, options.steps.split(",")):
                name = f"{cell} {size}, blocks of {steps} steps"
                found[name] = measured(cell, *map(int, size.split("x")), steps, options.seconds)
                print(f"{name}: {found[name]['milliseconds']:.2f} ms, real-time factor {found[name]['real_time_factor']:.4f}", flush=True)
    common.save("speech_streaming", {
        "question": "time of a block, real-time factor and latency of streaming recognition on one core", "step_seconds": 0.04,
        "load": os.getloadavg(), "measured": found,
    })  # fmt: skip


if __name__ == "__main__":
    main()
