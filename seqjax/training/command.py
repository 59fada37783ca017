"""The command line that all experiments share: flags, one clear line for whatever is wrong, an exit status."""

import errno
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping

import jax
from absl import app, flags, logging

from seqjax.errors import UserError
from seqjax.training import settings

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


def run(main: Callable[[], int | None], fields: Mapping[str, settings.Field]) -> None:
    """Parses the flags and calls main; ends the process.

    Exit status: what main returns, 0 for None; 1 after a UserError or a disk that refuses; 2 for wrong flags. Set
    SEQJAX_TRACEBACK=1 to see where an error came from.

    Args:
      main: takes no arguments.
      fields: of the experiment's config, which must be the flag `--config`.
    """

    def parse(argv):
        for name in (arg.split("=")[0].removeprefix("--config.") for arg in argv if arg.startswith("--config.")):
            if name not in fields:
                fail(settings.unknown_field(name, fields), 2)
        try:
            rest = flags.FLAGS(argv)
            flags.FLAGS["config"].value.keys()  # a config file that could not be read says so when it is first touched
        except flags.Error as error:
            fail(f"{_reason(error)}; --help lists all flags", 2)
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
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
            if error.errno not in DISK:
                raise
            fail(f"{error.filename or 'the work folder'}: {error.strerror}; what was saved before is untouched", 1)

    logging.set_verbosity(logging.ERROR)
    logging.set_stderrthreshold("error")
    app.run(call, flags_parser=parse)


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


def _reason(error: BaseException) -> str:
    """The one line that matters: of the traceback that a config file's own error comes with, it is the last."""
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return lines[-1].strip() if "config file" in lines[0] else lines[0]
