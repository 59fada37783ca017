"""The command line that all experiments share: flags, one-line error messages, and exit status."""

import difflib
import logging
import os
import pathlib
import re
import signal
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from absl import flags

from seqjax.errors import UserError
from seqjax.run import distributed, settings
from seqjax.run.experiment import Experiment, Flag
from seqjax.run.settings import ConfigDict
from seqjax.run.trained import WHICH
from seqjax.training import processes

ALL = ("train", "evaluate")  # the modes that every experiment has
SPLITS = ("train", "validation", "test")


class UsageError(UserError):
    """The command line itself is wrong: exit status 2."""


class Command(types.SimpleNamespace):
    """What a command line asks for.

    Attributes:
      mode: "train", "evaluate" or one of the experiment's own.
      workdir: the work directory.
      preset: the preset's name, None if none was given.
      given: dotted field -> value, for the fields that were given.
      options: the other flags of the mode, by name.
    """


def common_flags(experiment: Experiment) -> dict[str, Flag]:
    """The flags that every experiment has besides its settings."""
    read = (*experiment.modes, "evaluate")
    return {
        "checkpoint": Flag("best", "which checkpoint to read; average: the mean of the newest train.keep.", read, settings.one_of(*WHICH)),
        "split": Flag("validation", "the part of the data to evaluate on.", ("evaluate",), settings.one_of(*SPLITS)),
        "extend": Flag(False, "continue a finished or stopped run up to a new train.steps or train.epochs.", ("train",)),
        "accept_changed_data": Flag(False, "use the data although they differ from those that the run began with.", ("train", "evaluate")),
        "init_from": Flag("", "initialise from the weights of the run in this work directory (DIR, DIR:newest, DIR:STEP).", ("train",)),
        "init_partial": Flag(False, "with --init_from: list weights that do not fit and initialise them at random.", ("train",)),
        "profile": Flag("", "write a profiler trace of steps FIRST:LAST to the work directory, such as 10:12.", ("train",)),
        "sweep": Flag([], "one run per value of a setting, such as --sweep=seed=0,1,2; several flags form a grid.", ("train",)),
        "sweep_vmap": Flag(
            "auto",
            "with --sweep=seed=...: auto trains the seeds together if their batches have the same shapes.",
            ("train",),
            settings.one_of("auto", "off"),
        ),
        "distributed": Flag(
            "off",
            f"run several processes as one: {distributed.FORM}; auto asks SLURM, Open MPI, Kubernetes or Cloud TPU.",
            ALL,
            distributed.WELL_FORMED,
        ),
        "distributed_timeout": Flag(
            100, "seconds without an answer from a process after which the run is given up.", ALL, settings.within(1, 86400)
        ),
        "doctor": Flag(False, "do not train; show what each process sees and what is wrong (exit status 1).", ("train",)),
    }


def parse(experiment: Experiment, argv: Sequence[str]) -> Command:
    """Reads a command line.

    Args:
      experiment: defines the settings, modes and flags.
      argv: the program's name and its arguments.

    Raises:
      UserError: a flag is unknown, has a wrong value, or has no effect with the mode asked for.
    """
    values, others = flags.FlagValues(), common_flags(experiment) | dict(experiment.flags)
    modes = (*ALL, *experiment.modes)
    flags.DEFINE_enum("mode", "train", modes, "What to do.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics, pictures.", flag_values=values)
    presets = f"Preset: {', '.join(experiment.presets)} (default {experiment.preset})."
    flags.DEFINE_string("config", None, presets, flag_values=values)
    flags.DEFINE_bool("help", False, "Shows this help.", short_name="h", flag_values=values)
    for name, flag in others.items():
        _define(values, name, flag.default, f"{', '.join(flag.modes)}: {flag.text}")
    for name, field in experiment.fields.items():
        _define(values, f"config.{name}", field.default, field.text, optional=True)
    for argument in argv[1:]:
        name = re.match(r"--?config\.([^=]*)", argument)
        if name and name[1] not in experiment.fields:
            raise UsageError(settings.unknown_field(name[1], experiment.fields))
    try:
        rest = values(list(argv))
    except flags.UnrecognizedFlagError as error:
        near = ", ".join(difflib.get_close_matches(error.flagname, list(values)))
        near = f" (nearest: {near})" if near else ""
        raise UsageError(f"there is no flag --{error.flagname}{near}; --help lists all flags") from None
    except flags.Error as error:
        raise UsageError(f"{str(error).strip().splitlines()[0]}; --help lists all flags") from None
    if values.help:
        print(usage(experiment))
        sys.exit(0)
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not a flag; flags begin with --, and --help lists them")
    return _command(experiment, values, others)


def _command(experiment: Experiment, values: flags.FlagValues, others: Mapping[str, Flag]) -> Command:
    if values.workdir is None:
        raise UsageError("--workdir=DIR is required: the directory of the run, new or existing")
    mode, options = values.mode, types.SimpleNamespace()
    for name, flag in others.items():
        value = values[name].value
        if values[name].present and mode not in flag.modes:
            modes = " or ".join(flag.modes)
            raise UserError(f"--{name} has no effect with --mode={mode}; it is for --mode={modes}")
        if not flag.check.holds(value):
            raise UsageError(f"--{name}={value} is out of range: it must be {flag.check.text}")
        if mode in flag.modes:
            setattr(options, name, value)
    preset = values.config
    if preset is not None and preset not in experiment.presets:
        name = preset.rsplit(":", 1)[-1]
        known = f"choose one of {', '.join(experiment.presets)}"
        advice = f"presets are given by name: --config={name}" if name in experiment.presets else known
        raise UsageError(f"there is no preset {preset!r}; {advice}")
    if mode == "train" and values["sweep_vmap"].present and not options.sweep:
        raise UsageError("--sweep_vmap has no effect without --sweep")
    if values["distributed_timeout"].present and not values["distributed"].present:
        raise UsageError("--distributed_timeout has no effect without --distributed")
    given = {name: values[f"config.{name}"].value for name in experiment.fields if values[f"config.{name}"].present}
    workdir = pathlib.Path(values.workdir).expanduser()
    return Command(mode=mode, workdir=workdir, preset=preset, given=given, options=options)


def config_of(experiment: Experiment, command: Command) -> ConfigDict:
    """The settings of a new run: the preset, overridden by the command line."""
    config = settings.build(experiment.fields, changes_of(experiment, command, experiment.preset))
    settings.resolve_length(config, set(command.given))
    return config


def changes_of(experiment: Experiment, command: Command, preset: str | None = None) -> dict[str, Any]:
    """The preset's settings, without those that the given ones leave without effect, plus the given ones.

    Args:
      experiment: has the presets.
      command: with a preset or without.
      preset: used if the command has none; None: only the given settings.
    """
    name = command.preset or preset
    found = dict(experiment.presets[name]) if name else {}
    dropped = settings.left_out(found, command.given, experiment.fields)
    return {name: value for name, value in found.items() if name not in dropped} | command.given


def left_out(experiment: Experiment, command: Command) -> list[str]:
    """A line for each preset setting that the command line leaves without effect."""
    preset = experiment.presets[command.preset or experiment.preset]
    dropped = settings.left_out(preset, command.given, experiment.fields)
    return [f"the preset's {name}={preset[name]} has no effect with {cause} and is ignored" for name, cause in dropped.items()]


def _define(values: flags.FlagValues, name: str, default: Any, text: str, *, optional: bool = False) -> None:
    """Defines a flag of the default's type; an optional flag is None if not given."""
    start = None if optional else default
    if isinstance(default, bool):
        flags.DEFINE_bool(name, start, text, flag_values=values)
    elif isinstance(default, list):
        flags.DEFINE_multi_string(name, start, text, flag_values=values)
    else:
        flags.DEFINE(parser_of(default), name, start, text, flag_values=values)


def parser_of(default: bool | int | float | str) -> flags.ArgumentParser:
    """The parser for values of the default's type.

    Example:
      >>> parser_of(1).parse("1e3"), parser_of(0.5).parse("1e3"), parser_of(True).parse("false"), parser_of("").parse("1e3")
      (1000, 1000.0, False, '1e3')
    """
    kinds = {bool: flags.BooleanParser, int: settings.WholeNumber, float: flags.FloatParser, str: flags.ArgumentParser}
    return kinds[type(default)]()


def usage(experiment: Experiment) -> str:
    """The text of --help: the experiment's docstring, its flags, and every setting with its value in the default preset."""
    modes = ", ".join(("train (starts or resumes automatically; Ctrl-C saves a checkpoint and stops)", "evaluate", *experiment.modes))
    lines = [experiment.doc.strip(), "", f"Modes (--mode=...): {modes}.", "", "Flags:", ""]
    lines += ["  --workdir=DIR\n      Directory of the run: checkpoints, metrics, pictures.", "  --config=PRESET"]
    lines += [f"      One of {', '.join(experiment.presets)}; {experiment.preset} by default."]
    for name, flag in (common_flags(experiment) | dict(experiment.flags)).items():
        limits = "" if flag.check is settings.ANYTHING else f" ({flag.check.text})"
        shown = "..." if isinstance(flag.default, list) else flag.default
        lines.append(f"  --{name}={shown}\n      {', '.join(flag.modes)}: {flag.text}{limits}")
    lines += ["", f"Settings, with their values in {experiment.preset}; a run keeps its own, except how often it reports and saves:", ""]
    return "\n".join(lines) + "\n" + settings.describe(experiment.fields, experiment.presets[experiment.preset])


def call(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> None:
    """Calls main with the command line and ends the process.

    Exit status: what main returns, 0 for None; 1 after a UserError or a disk that refuses; 2 for wrong flags. Set
    SEQJAX_TRACEBACK=1 to see where an error came from.
    """

    for stream in cast(Any, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character must not end a run
    if not os.environ.get("SEQJAX_TRACEBACK"):
        # Errors come as exceptions; the background threads of a save log each of theirs with tracebacks besides.
        logging.disable(logging.ERROR)
        sys.unraisablehook = _unraisable
    flags.FLAGS.mark_as_parsed()  # ours are elsewhere; libraries that ask for their own find the defaults
    try:
        sys.exit(main(sys.argv if argv is None else argv) or 0)
    except UserError as error:
        fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        _nobody_reads()
    except OSError as error:
        fail(f"{error.filename or 'the work directory'}: {error.strerror}; what was saved before is untouched", 1)
    except KeyboardInterrupt:
        fail("interrupted; the same command resumes from the newest checkpoint", 130)
    except Exception as error:
        gone = processes.lost(error)
        if gone is not None and processes.several():
            fail(str(gone), 1)
        if processes.several():
            traceback.print_exc()
            distributed.end(1)
        raise


def _unraisable(report: Any) -> None:
    """Filters out log records of a failed save's threads about a closed event loop; the save's own error is raised."""
    if not (report.exc_type is RuntimeError and str(report.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(report)


def _nobody_reads() -> None:
    """Ends the process like a shell command whose output pipe was closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    distributed.end(128 + signal.SIGPIPE)
    sys.exit(128 + signal.SIGPIPE)


def note(line: str) -> None:
    """Prints a line on standard error, so that standard output stays machine-readable."""
    if processes.first():
        print(line, file=sys.stderr, flush=True)


def fail(message: str, status: int) -> None:
    """Prints one line on standard error and ends the process."""
    if os.environ.get("SEQJAX_TRACEBACK"):
        traceback.print_exc()
    print(f"error: {distributed.label()}{message}", file=sys.stderr, flush=True)
    distributed.end(status)
    sys.exit(status)


def profiled(text: str) -> tuple[int, int] | None:
    """The first and the last step that --profile names.

    Example:
      >>> profiled("10:12"), profiled("")
      ((10, 12), None)
    """
    if not text:
        return None
    try:
        first, last = map(int, text.split(":"))
    except ValueError:
        raise UserError(f"--profile={text} must name the first and the last step, such as 10:12") from None
    return first, last
