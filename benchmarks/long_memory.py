"""Which cells solve the long-memory tasks, and up to what length?

    python -m benchmarks.long_memory --workdir=/tmp/cells --tasks=parity,cycle_navigation --cells=tanh,lstm,gru,lru --seeds=0,1,2
        trains every cell on every task, all seeds together, evaluates each on the test part, and prints a table

Further flags are those of `experiments.long_memory`, such as --config.train.steps=2000. A stopped command resumes where it stopped;
finished parts are not repeated. Writes results/long_memory.json (--tag=_x: long_memory_x.json), and for each task a plot of accuracy by
length to WORKDIR/TASK.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
from typing import Any

from benchmarks import common
from experiments.long_memory import EXPERIMENT
from seqjax.data.memory_tasks import TASKS
from seqjax.diagnostics.memory import Bin, plot_by_length
from seqjax.errors import UserError
from seqjax.models.memory import KINDS
from seqjax.run import cli, command, records, sweep

SOLVED = 0.999  # share of right answers


def run(*flags: str) -> int:
    """One command line of the experiment; its exit status."""
    return command.run(EXPERIMENT, cli.parse(EXPERIMENT, [sys.argv[0], *flags]))


def tested(folder: pathlib.Path) -> dict[str, Any]:
    """The scores of a finished run on the test part; evaluates it unless its best step was evaluated before."""
    path = folder / "evaluation_test.json"
    best = records.best_evaluation(records.read_records(folder), "loss")
    if best is None:
        raise UserError(f"the run in {folder} has no evaluation with a finite loss; leave its cell out, or train it in another way")
    if not path.exists() or json.loads(path.read_text())["step"] != best["step"]:
        run(f"--workdir={folder}", "--mode=evaluate", "--split=test")
    return json.loads(path.read_text())["scores"]


def validation(folder: pathlib.Path) -> float:
    """The lowest validation loss of a run; infinite if no evaluation has a finite one."""
    best = records.best_evaluation(records.read_records(folder), "loss")
    return math.inf if best is None else best["loss"]


def interval(values: list[float]) -> dict[str, Any]:
    """Mean, minimum and maximum over seeds, and all values."""
    return {"mean": statistics.mean(values), "minimum": min(values), "maximum": max(values), "values": values}


def of_cell(folder: pathlib.Path, cell: str, seeds: list[str]) -> dict[str, Any]:
    """The results of one cell over its seeds."""
    folders = [folder / sweep.name_of({"model.cell": cell, "seed": int(seed)}) for seed in seeds]
    every = [tested(each) for each in folders]
    names = [name for name in every[0] if name.endswith(" steps")]
    evaluations = [[r for r in records.read_records(each) if r["kind"] == "evaluation"] for each in folders]
    found = {
        "test loss": interval([scores["model"]["loss"] for scores in every]),
        "validation loss": interval([validation(each) for each in folders]),
        "minutes of all seeds together": max(rows[-1]["minutes"] for rows in evaluations),
    }
    if "accuracy" in every[0]["model"]:
        found["test accuracy"] = interval([scores["model"]["accuracy"] for scores in every])
    if names:
        found["accuracy by length"] = {name: interval([scores[name]["accuracy"] for scores in every]) for name in names}
        solved = [0 if (rows[-1].get("accuracy") or 0) < SOLVED else _longest(scores, names) for scores, rows in zip(every, evaluations)]
        found["solved up to"] = solved  # steps, per seed; 0 if not even the training lengths are solved
    return found


def _longest(scores: dict[str, Any], names: list[str]) -> int:
    longest = int(names[0].split()[0]) - 1
    for name in names:
        if scores[name]["accuracy"] < SOLVED:
            break
        longest = int(name.split()[2])
    return longest


def picture(path: pathlib.Path, task: str, cells: dict[str, Any]) -> None:
    """Plots accuracy by length, the mean over seeds for each cell."""
    bins, first = {}, math.inf
    for cell, found in cells.items():
        bins[cell] = []
        for name, over in found["accuracy by length"].items():
            low, high = int(name.split()[0]), int(name.split()[2])
            first = min(first, low)
            bins[cell].append(Bin(low, high, over["mean"], 0, math.nan))
    print(plot_by_length(path, bins, learned=int(first) - 1, chance=1 / TASKS[task].classes, title=task))


def main() -> None:
    """Trains, evaluates and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--tasks", default=",".join(name for name, task in TASKS.items() if task.regular))
    parser.add_argument("--cells", default=",".join(KINDS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tag", default="")
    own, rest = parser.parse_known_args()
    seeds, results = own.seeds.split(","), {}
    for task in own.tasks.split(","):
        folder = own.workdir / task
        status = run(f"--workdir={folder}", f"--config={task}", f"--sweep=model.cell={own.cells}", f"--sweep=seed={own.seeds}", *rest)
        if status > 1:
            sys.exit(status)
        results[task] = {cell: of_cell(folder, cell, seeds) for cell in own.cells.split(",")}
        if TASKS[task].regular:
            picture(folder / "lengths.png", task, results[task])
    common.save(f"long_memory{own.tag}", {"command": " ".join(["python -m benchmarks.long_memory", *_shown(own), *rest]), "tasks": results})
    for task, cells in results.items():
        for cell, found in cells.items():
            solved = f"  solved up to {found['solved up to']}" if "solved up to" in found else ""
            print(f"{task:<20}{cell:<16}test loss {found['test loss']['mean']:.6f}{solved}")


def _shown(own: argparse.Namespace) -> list[str]:
    return [f"--{name}={getattr(own, name)}" for name in ("tasks", "cells", "seeds")]


if __name__ == "__main__":
    main()
