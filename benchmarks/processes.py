"""Do several processes on this machine give the losses of one, and what do they cost?

    python -m benchmarks.processes [--counts=1,2,4] [--steps=80]

Starts the language model's default preset with `seqjax.launch` in several processes, one CPU device each, and reads its records.
"""

import argparse
import pathlib
import resource
import statistics
import sys
import tempfile
from typing import Any

from benchmarks import common
from seqjax import launch
from seqjax.run import records

EXPERIMENT, LAST = "experiments.language_model", 10


def measured(count: int, steps: int) -> dict[str, Any]:
    """A run in `count` processes: its last losses, its speed, and their total CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "train.steps": steps,
            "train.log_every": LAST,
            "train.eval_every": steps,
            "ngram_order": 0,
            "sample.length": 0,
            "data.batch_size": 32,
        }
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        status = launch.run([sys.executable, "-m", EXPERIMENT, f"--workdir={folder}/run", *flags], count)
        if status:
            sys.exit(status)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = [row for row in records.read_records(pathlib.Path(folder) / "run") if row["kind"] == "train"]
    speeds = [row["tokens_per_second"] for row in rows[2:]]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {f"loss over the last {LAST} steps": rows[-1]["loss"], "tokens per second": statistics.median(speeds), "CPU seconds": seconds}


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1,2,4")
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    found = {count: measured(int(count), options.steps) for count in options.counts.split(",")}
    question = f"language_model, char_small, {options.steps} steps: one run in several processes of this machine, a CPU device each"
    common.save("processes", {"question": question, "processes": found})


if __name__ == "__main__":
    main()
