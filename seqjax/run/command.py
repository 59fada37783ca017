"""The command line that all experiments share: flags, one clear line for whatever is wrong, an exit status."""

import logging
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from seqjax.errors import UserError
from seqjax.run import settings
from seqjax.run.workdir import read_config
from seqjax.training.disk import refusal


def define_config(path: pathlib.Path, preset: str, fields: Mapping[str, settings.Field]) -> flags.FlagHolder:
    """Defines the flag `--config` with its overrides `--config.FIELD=VALUE`; refuses fields that do not exist.

    Args:
      path: the config file whose `get_config(preset)` is called when --config is not given.
      preset: the default.
      fields: of the config.
    """
    # ml_collections reads the command line as soon as the flag is defined, so unknown names are caught before.
    for name in (found[1] for arg in sys.argv if (found := re.match(r"--?config\.([^=]*)", arg))):
        if name not in fields:
            fail(settings.unknown_field(name, fields), 2)
    return config_flags.DEFINE_config_file("config", f"{path}:{preset}", "FILE.py:PRESET.")


def refuse_idle_flags(mode: str, modes: Mapping[str, str | tuple[str, ...]]) -> None:
    """Refuses flags that have no effect in this mode.

    Args:
      mode: the one at hand.
      modes: flag to the mode, or the modes, it belongs to.

    Raises:
      UserError: a flag was given that belongs to another mode.
    """
    for name, belongs in modes.items():
        belongs = (belongs,) if isinstance(belongs, str) else belongs
        if flags.FLAGS[name].present and mode not in belongs:
            raise UserError(f"--{name} has no effect with --mode={mode}; it is for --mode={' or '.join(belongs)}")


def stored_config(workdir: pathlib.Path, fields: Mapping[str, settings.Field]) -> ConfigDict:
    """The config of the run in a work folder, with the free fields as the command line says.

    Raises:
      UserError: there is no run, or the command line asks for another config than the run's.
    """
    saved = settings.flatten(read_config(workdir))
    added = {name: field.default for name, field in fields.items() if field.free and name not in saved}  # since that run began
    stored = settings.nest(saved | added)
    settings.validate(stored, fields)
    flag = flags.FLAGS["config"]
    asked = settings.flatten(flag.value) if flag.present else config_flags.get_override_values(flag)
    known = settings.flatten(stored)
    differ = [f"{name}: {known[name]} there, {value} here" for name, value in asked.items() if known[name] != value]
    differ = [line for line in differ if not fields[line.split(":")[0]].free]
    if differ:
        raise UserError(f"the run in {workdir} has another config ({'; '.join(differ)}); leave the --config flags out")
    stored.update_from_flattened_dict({name: value for name, value in asked.items() if fields[name].free})
    settings.validate(stored, fields)
    return stored.lock()


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags and calls main; ends the process.

    Exit status: what main returns, 0 for None; 1 after a UserError or a disk that refuses; 2 for wrong flags. Set
    SEQJAX_TRACEBACK=1 to see where an error came from.

    Args:
      main: takes no arguments.
    """

    def parse(argv):
        try:
            rest = flags.FLAGS(argv)
        except SystemExit:  # --help was printed, which absl takes for a failure
            sys.exit(0)
        except BrokenPipeError:
            _nobody_reads()
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
            fail(f"{_reason(error)}; --help lists all flags", 2)
        try:
            flags.FLAGS["config"].value.keys()  # a config file that could not be read says so when it is first touched
        except OSError as error:
            fail(f"--config cannot be read: {_reason(error)}", 2)
        if len(rest) > 1:
            fail(f"{rest[1]!r} is not a flag; flags begin with --, and --help lists them", 2)
        return rest

    def call(_):
        try:
            sys.exit(main() or 0)
        except UserError as error:
            fail(str(error), 1)
        except BrokenPipeError:
            _nobody_reads()
        except OSError as error:
            fail(f"{error.filename or 'the work directory'}: {refusal(error)}; what was saved before is untouched", 1)
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on from the newest checkpoint", 130)

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character must not end a run
    if not os.environ.get("SEQJAX_TRACEBACK"):
        # Errors come as exceptions; the background threads of a save log each of theirs with tracebacks besides.
        logging.disable(logging.ERROR)
        sys.unraisablehook = _unraisable
    app.run(call, flags_parser=parse)


def _unraisable(report) -> None:
    """Leaves out what the threads of a failed save say to an event loop that is closed; its own error is raised."""
    if not (report.exc_type is RuntimeError and str(report.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(report)


def _nobody_reads() -> None:
    """Ends the process as a shell's own commands end when whoever read their output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


def chosen_part(data: Any, split: str) -> Any:
    """The part of a data set that --split names.

    Args:
      data: with a `name` and a dict of `parts`.
      split: the part's name.

    Raises:
      UserError: the set has no such part.
    """
    if split not in data.parts:
        raise UserError(f"{data.name} has no {split} part; it has {', '.join(data.parts)}")
    return data.parts[split]


def note(line: str) -> None:
    """Prints a line beside the output of a command, on standard error, so that a program can read the output."""
    print(line, file=sys.stderr, flush=True)


def fail(message: str, status: int) -> None:
    """Prints one line on standard error and ends the process."""
    if os.environ.get("SEQJAX_TRACEBACK"):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


def _reason(error: BaseException) -> str:
    """The one line that matters: of the traceback that a config file's own error comes with, it is the last."""
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return lines[-1].strip() if "config file" in lines[0] else lines[0]
