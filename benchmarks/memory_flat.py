"""Over a long run, does memory stay flat and is nothing recompiled?

    python -m benchmarks.memory_flat [--steps=20000]

Trains a small model with the real loop, including logs, checkpoints and evaluations, and reads the process's resident memory at ten points.
Linux only.
"""

import argparse
import pathlib
import tempfile

from benchmarks import common
from benchmarks.experiment import config_of, make_ready
from experiments.language_model import EXPERIMENT
from seqjax.run import process, reporting
from seqjax.training import loop
from seqjax.training.checkpoints import Checkpoints


def resident_megabytes() -> float:
    """Resident memory of this process."""
    for line in pathlib.Path("/proc/self/status").read_text().split("\n"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmRSS")


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    process.keep_freed_memory()
    sizes = {"model.hidden_size": 64, "data.batch_size": 8, "data.window": 32, "train.steps": options.steps}
    config = config_of(EXPERIMENT, "char_small", sizes)
    _, _, _, data, setup, task = make_ready(EXPERIMENT, config)
    tenth = options.steps // 10
    state, progress, megabytes = setup.state, loop.Progress(), {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder), keep=3)
        with reporting.Reporter(pathlib.Path(folder), first_step=0, total_steps=options.steps) as reporter:
            for end in range(tenth, options.steps + 1, tenth):
                plan = loop.Plan(end, 200, 2 * tenth // 4, tenth // 4, config.train.max_skipped)
                state, progress, *_ = loop.fit(
                    task, plan, state, data, progress=progress, reporter=reporter, checkpoints=checkpoints, meta={}
                )
                megabytes[end] = resident_megabytes()
        checkpoints.close()
    common.save(
        "memory_flat",
        {
            "question": "resident memory over a long run, and how often the training step was compiled",
            "megabytes_after_step": megabytes,
            "growth_second_half_megabytes": max(list(megabytes.values())[5:]) - list(megabytes.values())[4],
            "compilations_of_the_step": task.step._cache_size(),
        },
    )


if __name__ == "__main__":
    main()
