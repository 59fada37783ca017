"""The command line that all experiments share: flags, one clear line for whatever is wrong, an exit status."""

import errno
import os
import pathlib
import sys
import traceback
from collections.abc import Callable

import jax
from absl import app, flags, logging

from seqjax.errors import UserError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


def run(main: Callable[[], int | None], unknown_config_field: Callable[[str], str]) -> None:
    """Parses the flags and calls main; ends the process.

    Exit status: what main returns, 0 for None; 1 after a UserError or a disk that refuses; 2 for wrong flags. Set
    SEQJAX_TRACEBACK=1 to see where an error came from.

    Args:
      main: takes no arguments.
      unknown_config_field: dotted name -> message, for a `--config.NAME` that does not exist.
    """

    def parse(argv):
        try:
            rest = flags.FLAGS(argv, known_only=False)
        except flags.Error as error:
            fail(f"{_first_line(error)}; --help lists all flags", 2)
        except AttributeError as error:  # what ml_collections raises for an unknown field
            names = [a.removeprefix("--config.").split("=")[0] for a in argv if a.startswith("--config.")]
            unknown = [name for name in names if not _known(name)]
            fail(unknown_config_field(unknown[0]) if unknown else _first_line(error), 2)
        except (ValueError, TypeError, OSError) as error:
            fail(f"--config cannot be read: {_last_line(error)}", 2)
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


def _known(name: str) -> bool:
    config = flags.FLAGS["config"].value
    for part in name.split("."):
        try:
            config = config[part]
        except (KeyError, TypeError, AttributeError):
            return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[-1]
