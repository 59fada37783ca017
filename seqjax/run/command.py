"""What a command line does: trains, sweeps, evaluates, or runs a mode of the experiment's own; and a trained model for other code."""

import os

from seqjax.run import cli, distributed, doctor, driver, evaluation, process, resuming, sweep
from seqjax.run.experiment import Experiment, Trained


def main(experiment: Experiment, argv: list[str] | None = None) -> None:
    """Runs the command line of an experiment, and ends the process.

    Args:
      experiment: what is run.
      argv: the program's name and its arguments; the process's own by default.
    """
    cli.call(lambda argv: run(experiment, cli.parse(experiment, argv)), argv)


def load_trained(experiment: Experiment, workdir: str | os.PathLike[str], checkpoint: str = "best") -> Trained:
    """The trained model of a work directory, for your own code. Only the checkpoint is read: the data need not be there.

    Args:
      experiment: of the run: EXPERIMENT of its file.
      workdir: of the run.
      checkpoint: `best`, `newest` or `average`, as of `--checkpoint`.

    Returns:
      A Trained: config, spec, model, and the parameters that are evaluated, moving averages where the run keeps them.
      `trained.model.module.apply(trained.variables, ...)` runs a Flax module.

    Raises:
      UserError: there is no run in the work directory, or one of another experiment.

    Example:
      >>> parts = dict.fromkeys(("load", "prepare", "spec", "build", "batches"))
      >>> mine = Experiment(name="mine", doc="Mine.", fields={}, presets={"short": {}}, preset="short", **parts)
      >>> load_trained(mine, "/nowhere/run")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: there is no run with a checkpoint in /nowhere/run; train one first with the same --workdir
    """
    given = [experiment.name, f"--workdir={os.fspath(workdir)}", "--mode=evaluate", f"--checkpoint={checkpoint}"]
    return driver.read(experiment, cli.parse(experiment, given))[0]


def run(experiment: Experiment, command: cli.Command) -> int:
    """Does what a command line asks for; returns the exit status."""
    distributed.start(command.options)
    process.keep_freed_memory()
    process.use_compilation_cache()
    if command.mode == "train":
        if command.options.doctor:
            return doctor.run(experiment, command)
        return sweep.run(experiment, command) if command.options.sweep else driver.train(experiment, command)
    stored = driver.stored_run(experiment, command)  # fail before waiting for texts if there is no run
    config = resuming.settings_of(experiment, command, stored)
    for name, flag in experiment.flags.items():
        if flag.read is not None and command.mode in flag.modes:
            setattr(command.options, name, flag.read(getattr(command.options, name), config))
    trained, meta = driver.read(experiment, command)
    if command.mode == "evaluate":
        dataset = driver.load_same(experiment, command, trained, meta)
        evaluation.run(experiment, command, trained, dataset)
    else:
        experiment.modes[command.mode](trained, command.options)
    return 0
