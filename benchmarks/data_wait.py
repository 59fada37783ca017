"""What does data cost: a batch of each pipeline, and the share of training time spent waiting for it?

    python -m benchmarks.data_wait [--experiments=tagging,translation] [--steps=200] [--rounds=3] [--seconds=2]

A batch: `next` of windows of a text, of length buckets (texts, tagged words, pairs) and of shuffled images in memory, at the
default sizes of the experiments; whole, and one of four shards. CPU time, block by block. Targets:
2 microseconds for a window batch, 40 for a bucket batch.

The wait: the default run of each experiment, stepping like the loop. Time in `next(pipeline)` and `place_batch`, until the step is
dispatched, over the time of all steps; the rest of the loop (logs, evaluation, checkpoints) is excluded. The first steps, which compile
every shape, are not counted. Target: 3 % or less. On a CPU the previous step is still running, and if it uses all cores, part of the time
is spent waiting for a core: `worked_per_step` is the thread's own CPU time. Both need an otherwise idle machine.
"""

import argparse
import importlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import common
from benchmarks.experiment import config_of, make_ready
from seqjax.data.pipeline.buckets import BucketBatches
from seqjax.run import process

EXPERIMENTS = (
    "language_model", "image_classification", "text_classification", "tagging", "translation", "captioning", "speech", "video",
)  # fmt: skip
KINDS = {"Windows": "windows", "BucketBatches": "buckets", "ImageBatches": "shuffled", "Ahead": "ahead"}


def microseconds(pipeline: Any, seconds: float) -> dict[str, float]:
    """CPU time of one batch, measured in blocks; the first epoch's order is made beforehand."""
    next(pipeline)
    found, until, count = [], time.perf_counter() + seconds, 1
    while time.perf_counter() < until or not found:
        begin = time.thread_time()
        for _ in itertools.repeat(None, count):
            next(pipeline)
        used = time.thread_time() - begin
        if used < 0.01:  # too short to time
            count *= 2
        else:
            found.append(1e6 * used / count)
    return common.summary(found)


def every_shape(pipeline: Any) -> Iterator[Any]:
    """A batch of each shape; afterwards the pipeline is in its old state."""
    state = pipeline.get_state()
    lengths = [shape.steps for shape in pipeline.epoch(0)] if isinstance(pipeline, BucketBatches) else [0]
    for place in sorted({length: i for i, length in enumerate(lengths)}.values()):
        pipeline.set_state({**state, "batch": place} if len(lengths) > 1 else state)
        yield next(pipeline)
    pipeline.set_state(state)


def wait(pipeline: Any, task: Any, state: Any, steps: int) -> tuple[dict[str, float], Any]:
    """The share of the steps' time spent on data, and the milliseconds per step."""
    clock, waited, worked, unread = time.perf_counter, 0.0, 0.0, None
    jax.block_until_ready(state)
    begin = clock()
    for _ in range(steps):
        before, used = clock(), time.thread_time()
        batch = task.place_batch(next(pipeline))
        waited, worked = waited + clock() - before, worked + time.thread_time() - used
        state, metrics = task.step(state, batch)
        if unread is not None:
            jax.device_get(unread)  # one step late, as the loop does
        unread = metrics
    jax.block_until_ready(state)
    whole = clock() - begin
    times = {"milliseconds_per_step": whole, "waited_per_step": waited, "worked_per_step": worked}
    return {"share": waited / whole} | {name: 1e3 * spent / steps for name, spent in times.items()}, state


def measured(name: str, steps: int, rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Both measurements for an experiment's default run."""
    experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    say(f"{name}: loading")
    config = config_of(experiment, experiment.preset)
    _, _, _, pipeline, setup, task = make_ready(experiment, config)
    kind, rows = KINDS[type(pipeline).__name__], config.data.batch_size
    count = next(count for count in (4, 3, 2, 1) if rows % count == 0)
    batch = {
        "pipeline": kind,
        "rows": rows,
        "batches_per_epoch": pipeline.batches_per_epoch,
        "whole": microseconds(pipeline.shard(0, 1), seconds),
        "shards": count,
        "one_shard": microseconds(pipeline.shard(0, count), seconds),
    }
    state = setup.state
    for made in every_shape(pipeline):
        state, _ = task.step(state, task.place_batch(made))
    found = []
    for turn in range(rounds + 1):
        result, state = wait(pipeline, task, state, steps)
        found += [result] if turn else []
    shares = common.summary([result["share"] for result in found])
    say(f"{name}: {100 * shares['median']:.2f} % of the time is spent waiting, a batch takes {batch['whole']['min']:.1f} microseconds")
    per_step = {key: float(np.median([result[key] for result in found])) for key in found[0] if key != "share"}
    return {"preset": experiment.preset, "microseconds_per_batch": batch, "share_of_waiting": shares, **per_step}


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--tag", default="", help="suffix of the result's name, so that a trial overwrites none")
    options = parser.parse_args()
    process.keep_freed_memory()
    found = {name: measured(name, options.steps, options.rounds, options.seconds, print) for name in options.experiments.split(",")}
    common.save(f"data_wait{options.tag}", {
        "question": "microseconds of the processor for a batch, and the share of training time spent waiting for data",
        "targets": {"windows": 2, "buckets": 40, "share_of_waiting": 0.03}, "steps_per_round": options.steps, "experiments": found,
    })  # fmt: skip


if __name__ == "__main__":
    main()
