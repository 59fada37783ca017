"""What do length buckets cost the training loop, and what do they save?

    python -m benchmarks.bucket_overhead [--preset=dates] [--blocks=6] [--steps=300]

The cost: the translation experiment's step on the embedded dates, in the preset's buckets. Both sides take the same batches in the same
order, alternating in blocks of steps. The bare side has its batches on the device already and blocks once, at the end of a block. The
loop's side makes them, moves the progress bar, reads every step's metrics, writes the log, the metrics file and the TensorBoard events, and
saves a checkpoint in the background once per block. Evaluation is excluded: it is other work. Target: 95 % of the bare step's speed or
more.

The saving: the bare step on every batch shape, in turn, with 1 bucket and with the preset's; each shape's median time, times the number of
its batches per epoch, summed over shapes. The first calls, which compile, are excluded.
"""

import argparse
import collections
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks import common, timing
from benchmarks.experiment import config_of, make_ready
from experiments.translation import EXPERIMENT
from seqjax.data.pipeline.buckets import BucketBatches
from seqjax.run import reporting
from seqjax.training import loop, train_step
from seqjax.training.checkpoints import Checkpoints


class Run(NamedTuple):
    """What is timed."""

    task: loop.Task
    state: train_step.TrainState
    make_batches: Callable[[], BucketBatches]  # returns a pipeline at its first batch


def make_runs(config: Any, buckets: list[int]) -> dict[int, Run]:
    """The experiment's run for each of these numbers of buckets."""
    runs = {}
    for number in buckets:
        with config.unlocked():
            config.data.buckets = number
        config, dataset, spec, _, setup, task = make_ready(EXPERIMENT, config)

        made = config.copy_and_resolve_references()

        def make(config=made, spec=spec, part=dataset.parts["train"]):
            return EXPERIMENT.batches(config, spec, part, training=True)

        runs[number] = Run(task, setup.state, make)
    return runs


def copy_of(state: Any) -> Any:
    """A state that may be donated while the other is kept."""
    return jax.tree.map(lambda leaf: jax.device_put(jax.numpy.copy(leaf), leaf.sharding), state)


def first_batches(run: Run) -> dict[int, Any]:
    """The first batch of each length in the first epoch."""
    batches, found = run.make_batches(), {}
    for place, shape in enumerate(batches.epoch(0)):
        if shape.steps not in found:
            batches.set_state({"epoch": 0, "batch": place})
            found[shape.steps] = next(batches)
    return found


def shares(run: Run, blocks: int, steps: int, log_every: int) -> dict[str, Any]:
    """Seconds per step on both sides, and the share of the bare step's speed that the loop keeps, block by block."""
    seconds = {"bare": [], "loop": []}
    bare_state = copy_of(run.state)
    source = run.make_batches()
    plan = loop.Plan(10**9, log_every, 10**9, steps, 20)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder), keep=3)
        with reporting.Reporter(pathlib.Path(folder), first_step=0, total_steps=10**6) as reporter:
            state, data = copy_of(run.state), run.make_batches()
            whole = loop.Run(run.task, plan, state, data, loop.Progress(), reporter, checkpoints, {})
            for batch in first_batches(run).values():  # so that every shape is compiled
                bare_state, _ = run.task.step(bare_state, run.task.place_batch(batch))
            for block in range(blocks + 1):
                placed = [run.task.place_batch(batch) for batch in itertools.islice(source, steps)]
                jax.block_until_ready((placed, bare_state))
                begin = time.perf_counter()
                for batch in placed:
                    bare_state, metrics = run.task.step(bare_state, batch)
                jax.block_until_ready((bare_state, metrics))
                middle = time.perf_counter()
                for _ in range(steps):
                    whole.advance()
                whole.flush()
                jax.block_until_ready(whole.state)
                end = time.perf_counter()
                if block:  # the first block opens files
                    seconds["bare"].append((middle - begin) / steps)
                    seconds["loop"].append((end - middle) / steps)
        checkpoints.close()
    kept = [bare / looped for bare, looped in zip(seconds["bare"], seconds["loop"], strict=True)]
    return {
        "milliseconds_per_step": {side: common.summary([1e3 * s for s in values]) for side, values in seconds.items()},
        "share_of_bare_speed": common.summary(kept),
    }


def epochs(runs: dict[int, Run], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """For each number of buckets, the seconds of an epoch's bare steps, from the time of each shape."""
    functions, counts = {}, {}
    for number, run in runs.items():
        kept = [copy_of(run.state)]
        counts[number] = collections.Counter(shape.steps for shape in run.make_batches().epoch(0))
        for length, batch in first_batches(run).items():
            placed = run.task.place_batch(batch)

            def step(kept=kept, batch=placed, task=run.task):
                kept[0], _ = task.step(kept[0], batch)
                jax.block_until_ready(kept[0])

            functions[number, length] = step
    times = timing.interleave(functions, rounds, seconds, again=True)
    return {
        str(number): {
            "buckets": len(counted),
            "seconds_per_epoch": sum(n * times[number, length]["median"] / 1e3 for length, n in counted.items()),
            "padding": runs[number].make_batches().padding(),
            "milliseconds": {str(length): times[number, length] | {"batches": n} for length, n in sorted(counted.items())},
        }
        for number, counted in counts.items()
    }


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="dates")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=300, help="of a block")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tag", default="", help="suffix of the result's name, so that a trial overwrites none")
    options = parser.parse_args()
    settings, config = timing.prepare(), config_of(EXPERIMENT, options.preset)
    runs = make_runs(config, [1, config.data.buckets])
    by_buckets = epochs(runs, options.rounds, options.seconds)  # first, so that its first calls compile
    found = shares(runs[config.data.buckets], options.blocks, options.steps, config.train.log_every)
    common.save(f"bucket_overhead{options.tag}", {
        "question": "share of the bare step's speed that the training loop keeps with length buckets, and what buckets save",
        "preset": options.preset, "steps_per_block": options.steps, "target_share": 0.95, "settings": settings, **found,
        "epochs_by_buckets": by_buckets,
    })  # fmt: skip


if __name__ == "__main__":
    main()
