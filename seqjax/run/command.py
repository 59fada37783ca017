"""What a command line does: trains, sweeps, evaluates, or runs a mode of the experiment's own."""

from seqjax.run import cli, distributed, doctor, driver, evaluation, process, resuming, sweep
from seqjax.run.experiment import Experiment


def main(experiment: Experiment, argv: list[str] | None = None) -> None:
    """Runs the command line of an experiment, and ends the process.

    Args:
      experiment: what is run.
      argv: the program's name and its arguments; the process's own by default.
    """
    cli.call(lambda argv: run(experiment, cli.parse(experiment, argv)), argv)


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
