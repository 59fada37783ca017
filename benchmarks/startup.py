"""How long does it take from the command to the first training step?

    python -m benchmarks.startup [--rounds=3]

Runs the README's training command for one step in a fresh process, with an empty compilation cache and then with the filled one, and
measures the time from the start of the process to the line that the loop prints after the first step. Target: under 10 seconds with a warm
cache.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from benchmarks import common


def seconds_to_first_step(cache: str) -> float:
    """Wall-clock from starting the process to its first training step."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-u", "-m", "experiments.language_model", f"--workdir={workdir}/run"]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for line in process.stdout:
            if line.startswith("first step"):
                seconds = time.perf_counter() - begin
                process.kill()
                process.wait()
                return seconds
        raise RuntimeError(f"the run ended with status {process.wait()} before its first step")


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        cold = [seconds_to_first_step(cache)]
        warm = [seconds_to_first_step(cache) for _ in range(options.rounds)]
    common.save(
        "startup",
        {
            "question": "seconds from the command to the first training step, preset char_small, embedded text",
            "cold_cache_seconds": common.summary(cold),
            "warm_cache_seconds": common.summary(warm),
        },
    )


if __name__ == "__main__":
    main()
