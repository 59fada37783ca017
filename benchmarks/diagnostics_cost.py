"""What share of a run's time does diagnostics.every take?

    python -m benchmarks.diagnostics_cost [--experiment=language_model] [--preset=char_small] [--every=200] [--repeats=7]

The step and its diagnosis are compiled, then run in turn on the same batch, from the run's initial state. CPU time of the process is
measured, since other processes may share its cores; on an accelerator it is wall-clock time. Target: 5 % or less of the time of the steps
between two diagnoses.
"""

import argparse
import importlib
import time

import jax

from benchmarks import common
from benchmarks.experiment import config_of, make_ready
from seqjax.run import process
from seqjax.training import train_step


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="language_model")
    parser.add_argument("--preset", default="char_small")
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    process.keep_freed_memory()
    experiment = importlib.import_module(f"experiments.{options.experiment}").EXPERIMENT
    _, _, _, data, setup, task = make_ready(experiment, config_of(experiment, options.preset))
    batch, clock = task.place_batch(next(data)), time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    state = train_step.place(jax.tree.map(jax.numpy.copy, setup.state), train_step.state_shardings(setup.mesh))
    times = {"step": [], "look": []}
    for _ in range(options.repeats + 1):
        begin = clock()
        jax.block_until_ready(task.diagnose(state, batch))
        middle = clock()
        state, metrics = task.step(state, batch)
        jax.block_until_ready((state, metrics))
        times["look"].append(middle - begin)
        times["step"].append(clock() - middle)
    compiled = {name: values[0] - min(values[1:]) for name, values in times.items()}
    step, look = (min(times[name][1:]) for name in ("step", "look"))
    result = {
        "question": "share of a run's time that diagnostics.every takes",
        "experiment": options.experiment,
        "preset": options.preset,
        "every": options.every,
        "seconds_to_compile": compiled,
        "milliseconds": {name: common.summary([1e3 * t for t in values[1:]]) for name, values in times.items()},
        "steps_that_a_look_costs": look / step,
        "share_of_the_steps_between": look / (options.every * step),
    }
    common.save(f"diagnostics_cost_{options.experiment}_{options.preset}", result)


if __name__ == "__main__":
    main()
