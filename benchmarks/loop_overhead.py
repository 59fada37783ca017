"""How much of the bare jitted step's speed does the training loop keep?

    python -m benchmarks.loop_overhead [--preset=char_small] [--blocks=6]

Both sides take the same step on the same batches of the embedded text, alternating in blocks of steps. The bare side has its batches on the
device already and blocks once, at the end of a block. The loop's side reads the data, moves the progress bar, reads every step's metrics,
writes the log, the metrics file and the TensorBoard events, and saves a checkpoint in the background once per block, as the preset does
every 250 steps. Evaluation is excluded: it is other work. Target: 97 % or more.
"""

import argparse
import pathlib
import tempfile
import time

import jax

from benchmarks import common
from benchmarks.experiment import config_of, make_ready
from experiments.language_model import EXPERIMENT
from seqjax.run import process, reporting
from seqjax.training import loop, train_step
from seqjax.training.checkpoints import Checkpoints


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="char_small")
    parser.add_argument("--blocks", type=int, default=6)
    options = parser.parse_args()
    process.keep_freed_memory()
    config = config_of(EXPERIMENT, options.preset)
    steps = config.train.checkpoint_every
    _, _, _, data, setup, task = make_ready(EXPERIMENT, config)
    batches = [task.place_batch(batch) for batch in data.one_pass()]
    bare_state = train_step.place(jax.tree.map(jax.numpy.copy, setup.state), train_step.state_shardings(setup.mesh))
    plan = loop.Plan(10**9, config.train.log_every, 10**9, steps, config.train.max_skipped)
    times = {"bare": [], "loop": []}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder), keep=3)
        with reporting.Reporter(pathlib.Path(folder), first_step=0, total_steps=10**6) as reporter:
            run = loop.Run(task, plan, setup.state, data, loop.Progress(), reporter, checkpoints, {})
            for block in range(options.blocks + 1):
                begin = time.perf_counter()
                for i in range(steps):
                    bare_state, metrics = task.step(bare_state, batches[(block * steps + i) % len(batches)])
                jax.block_until_ready((bare_state, metrics))
                middle = time.perf_counter()
                for _ in range(steps):
                    run.advance()
                run.flush()
                jax.block_until_ready(run.state)
                end = time.perf_counter()
                if block:  # the first block compiles
                    times["bare"].append((middle - begin) / steps)
                    times["loop"].append((end - middle) / steps)
        checkpoints.close()
    shares = [bare / whole for bare, whole in zip(times["bare"], times["loop"])]
    result = {
        "question": "share of the bare step's speed that the training loop keeps",
        "preset": options.preset,
        "steps_per_block": steps,
        "milliseconds_per_step": {side: common.summary([1e3 * t for t in values]) for side, values in times.items()},
        "share_of_bare_speed": common.summary(shares),
    }
    common.save(f"loop_overhead_{options.preset}", result)


if __name__ == "__main__":
    main()
