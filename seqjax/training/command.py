"""The command line that all experiments share: flags, one clear line for whatever is wrong, an exit status."""

import ctypes
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Mapping

import jax
from absl import app, flags
from ml_collections import config_flags

from seqjax.errors import UserError
from seqjax.training import settings
from seqjax.training.workdir import DISK_ERRORS


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
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            fail(f"{error.filename or 'the work folder'}: {error.strerror}; what was saved before is untouched", 1)
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on from the newest checkpoint", 130)

    if not os.environ.get("SEQJAX_TRACEBACK"):
        # Errors come as exceptions; the background threads of a save log each of theirs with tracebacks besides.
        logging.disable(logging.ERROR)
        sys.unraisablehook = _unraisable
    app.run(call, flags_parser=parse)


def _unraisable(report) -> None:
    """Leaves out what the threads of a failed save say to an event loop that is closed; its own error is raised."""
    if not (report.exc_type is RuntimeError and str(report.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(report)


def fail(message: str, status: int) -> None:
    """Prints one line on standard error and ends the process."""
    if os.environ.get("SEQJAX_TRACEBACK"):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, in ~/.cache/seqjax unless JAX_COMPILATION_CACHE_DIR names a folder."""
    if not jax.config.jax_compilation_cache_dir:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "seqjax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def keep_freed_memory() -> bool:
    """Tells the C library to keep what a step frees for the next step, instead of giving it back to the system.

    Without it every training step on a CPU maps its large temporaries anew and the kernel fills them with zeros page by
    page: measured on 2 cores, a step of 32 x 64 characters took 42 ms and takes 30, one of 20 x 35 words with a
    vocabulary of 33,280 took 430 ms and takes 250 (benchmarks/memory_reuse.py). The memory stays with the process.

    Returns:
      False where the C library is not glibc and nothing was changed.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    # One arena: those of other threads cannot hold blocks above 64 MiB and would map them anew.
    return all([mallopt(m_arena_max, 1), mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, 2**31 - 1)])


def _reason(error: BaseException) -> str:
    """The one line that matters: of the traceback that a config file's own error comes with, it is the last."""
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return lines[-1].strip() if "config file" in lines[0] else lines[0]
