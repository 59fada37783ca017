"""What do cells achieve on the tasks of long memory with a learning rate, and a time step, of their own?

    python -m benchmarks.long_memory_tuned --workdir=/tmp/tuned --tasks=recall,adding --cells=cornn,unicornn,lem

For every cell, each learning rate (--rates) with each of the cell's options (OPTIONS: the time steps of the oscillators and of LEM) is
trained with the first seed; the pair with the lowest validation loss is then trained with all seeds (--seeds) and evaluated once on the
test part. A loss that is not finite is higher than any other. Further flags are those of `experiments.long_memory`. A stopped command
resumes where it was. Writes results/long_memory_tuned.json (--tag=_x: long_memory_tuned_x.json).
"""

import argparse
import itertools
import math
import pathlib
import sys
from typing import Any

from benchmarks import common
from benchmarks.long_memory import of_cell, run, validation
from seqjax.run import sweep

# Besides each cell's defaults: the authors' values for other lengths, and for UnICORNN two smaller steps.
OPTIONS = {
    "cornn": ("", "dt=0.06,gamma=66,epsilon=15", "dt=0.016,gamma=94.5,epsilon=9.5"),
    "unicornn": ("", "dt=0.06", "dt=0.02"),
    "lem": ("", "dt=0.21", "dt=0.0242"),
}
RATES = "1e-3,3e-3,1e-2,2e-2"


def train(folder: pathlib.Path, task: str, cell: str, rate: str, options: str, seeds: str, rest: list[str]) -> None:
    """Trains the seeds of one choice, or resumes them; ends the program if that was interrupted."""
    chosen = [f"--config.optimizer.learning_rate={rate}", f"--config.model.options={options}"]
    status = run(f"--workdir={folder}", f"--config={task}", f"--sweep=model.cell={cell}", f"--sweep=seed={seeds}", *chosen, *rest)
    if status > 1:
        sys.exit(status)


def tuned(folder: pathlib.Path, task: str, cell: str, own: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """Chooses a rate and options by the first seed's validation loss, and evaluates all seeds with them."""
    seeds, trials = own.seeds.split(","), {}
    for rate, options in itertools.product(own.rates.split(","), OPTIONS.get(cell, ("",))):
        at = folder / cell / f"{rate} {options}".strip()
        train(at, task, cell, rate, options, seeds[0], rest)
        trials[rate, options] = validation(at / sweep.name_of({"model.cell": cell, "seed": int(seeds[0])}))
    rate, options = min(trials, key=trials.__getitem__)
    at = folder / cell / f"{rate} {options}".strip()
    train(at, task, cell, rate, options, own.seeds, rest)
    losses = {choice: loss if math.isfinite(loss) else None for choice, loss in trials.items()}
    tried = [{"learning rate": rate, "options": options, "validation loss": loss} for (rate, options), loss in losses.items()]
    return {"learning rate": rate, "options": options, **of_cell(at, cell, seeds), "tried": tried}


def main() -> None:
    """Trains, chooses, evaluates and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--tasks", default="recall,adding")
    parser.add_argument("--cells", default=",".join(OPTIONS))
    parser.add_argument("--rates", default=RATES)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tag", default="")
    own, rest = parser.parse_known_args()
    results: dict[str, dict] = {}
    for task, cell in itertools.product(own.tasks.split(","), own.cells.split(",")):
        results.setdefault(task, {})[cell] = found = tuned(own.workdir / task, task, cell, own, rest)
        print(f"{task:<12}{cell:<16}rate {found['learning rate']} {found['options']}  test loss {found['test loss']['values']}", flush=True)
    flags = [f"--{name}={getattr(own, name)}" for name in ("tasks", "cells", "rates", "seeds")]
    command = " ".join(["python -m benchmarks.long_memory_tuned", *flags, *rest])
    common.save(f"long_memory_tuned{own.tag}", {"command": command, "tasks": results})


if __name__ == "__main__":
    main()
