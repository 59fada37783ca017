"""One run in several processes, on one machine or many: how they find each other, what they must share, how they end.

Every process runs the same command with --distributed; JAX's own runtime connects them. The first one writes and prints.
"""

import ctypes
import os
import pathlib
import re
import secrets
import signal
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.errors import UserError
from seqjax.run.settings import Check
from seqjax.training import processes
from seqjax.training.sharding import ONE_ORDER

FORM = "auto, off, or HOST:PORT,COUNT,INDEX"
VISIBLE = ".processes"  # the file by which all make sure that they see the same work directory
_LAST = 1.0  # seconds that the others are given to say what is wrong themselves, before the first one ends
_kept: list[Any] = []  # what C calls must not be collected
_SOON = 10.0  # seconds that a network's file system is given to show a new file


class Address(NamedTuple):
    """The address by which one of several processes finds the others."""

    coordinator: str  # HOST:PORT of process 0
    count: int
    index: int


def parse(text: str) -> Address | str:
    """Parses --distributed: "auto", "off" or an address.

    Raises:
      ValueError: it is none of these.

    Example:
      >>> parse("10.0.0.1:9000,4,0"), parse("off")
      (Address(coordinator='10.0.0.1:9000', count=4, index=0), 'off')
    """
    if text in ("auto", "off"):
        return text
    found = re.fullmatch(r"([^,\s]+:(\d+)),(\d+),(\d+)", text)
    if not found or not 0 < int(found[2]) < 65536 or not int(found[4]) < int(found[3]):
        raise ValueError(f"{text!r} is not {FORM}")
    return Address(found[1], int(found[3]), int(found[4]))


def _holds(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


WELL_FORMED = Check(f"{FORM}, with INDEX below COUNT", _holds)


def start(options: Any) -> None:
    """Connects this process with the others, where a command line asks for it; before any device is touched.

    Args:
      options: of the command, with `distributed` and `distributed_timeout`; a command without them runs in a single process.

    Raises:
      UserError: the others cannot be reached in time, or the command cannot run in several processes.
    """
    asked = parse(getattr(options, "distributed", "off"))
    if asked == "off":
        return
    limit = options.distributed_timeout
    # JAX would take SIGTERM for itself; here it stops the run with a checkpoint, as in a single process.
    jax.config.update("jax_enable_preemption_service", False)
    flags = os.environ.get("XLA_FLAGS")
    if not isinstance(asked, Address) or asked.count > 1:
        one_order()
    times = {"initialization_timeout": limit, "heartbeat_timeout_seconds": limit, "shutdown_timeout_seconds": max(3600, limit)}
    _say_before_abort(f"--distributed={options.distributed}: the processes did not find each other within {limit} seconds")
    address = tuple(asked) if isinstance(asked, Address) else (None, None, None)
    try:
        jax.distributed.initialize(*address, **times)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        if asked == "auto" and re.search("(should|must) be defined", str(error)):
            print("--distributed=auto: there is no cluster that JAX knows; this is a single process")
            _say_before_abort("")
            _restore(flags)
            return
        raise UserError(f"--distributed={options.distributed}: {_first_line(error)}") from error
    except RuntimeError as error:
        raise UserError(f"--distributed={options.distributed}: the processes do not find each other ({_first_line(error)})") from error
    if not processes.several():
        return
    _say_before_abort(f"{label()}another process has ended or does not answer; the same command resumes from the newest checkpoint")
    if getattr(options, "sweep", None):
        raise UserError("--sweep runs in a single process: leave --distributed out, or start a run for each value")
    if not processes.first():
        silence()


def _restore(flags: str | None) -> None:
    """Leaves XLA_FLAGS as they were, for a single process; XLA reads them when the first device is used."""
    if flags is None:
        os.environ.pop("XLA_FLAGS", None)
    else:
        os.environ["XLA_FLAGS"] = flags


def one_order() -> None:
    """Has XLA run the operations of a CPU program one after another, unless XLA_FLAGS says otherwise; before its first program.

    Operations that do not depend on each other may run at once by default, each process in an order of its own: where these are
    reductions between processes, one takes part in another reduction than the others (gradients in parts, of train.accumulate).
    """
    flag, flags = f"--{ONE_ORDER}", os.environ.get("XLA_FLAGS", "")
    if flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}=false".strip()


def _say_before_abort(text: str) -> None:
    """Has this process end with one line of its own where JAX's runtime would abort it; with "" it is left to abort.

    The runtime does so from a thread of its own when the first process is gone, or when another one has not answered for
    --distributed_timeout and no collective operation has failed before; and while it waits for the others at the start. Its own
    lines come before, unless TF_CPP_MIN_LOG_LEVEL=4 hides them.
    """

    def say(number):
        os.write(2, f"error: {text}\n".encode())
        os._exit(1)

    _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(say) if text else None)  # None is SIG_DFL
    ctypes.CDLL(None).signal(signal.SIGABRT, _kept[-1])  # Python's own handlers run in the main thread only, which may be waiting


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def silence() -> None:
    """From here on standard output is nowhere, that of libraries too: one of several processes prints."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def label() -> str:
    """Begins what a process says of an error: which one of several it is; "" for the first, and for a single one.

    Example:
      >>> label()
      ''
    """
    return "" if processes.first() else f"process {jax.process_index()}: "


def check_visible(workdir: pathlib.Path) -> None:
    """Makes sure that all processes see the work directory of the first one; every process must call it.

    Args:
      workdir: the first process holds it.

    Raises:
      UserError: one does not see it; in every process.
    """
    if not processes.several():
        return
    path, token = workdir / VISIBLE, processes.each(np.frombuffer(secrets.token_bytes(16), np.uint8))[0].tobytes().hex()
    if processes.first():
        path.write_text(token, encoding="utf-8")
    processes.each(np.int32(0))  # from here on it is written
    seen = processes.each(np.int32(shows(path, token))).ravel()
    if processes.first():
        path.unlink(missing_ok=True)
    if not seen.all():
        blind = ", ".join(str(index) for index in np.flatnonzero(seen == 0))
        raise UserError(
            f"process {blind} does not see the work directory {workdir} of process 0; it must be on a file system that all processes share"
        )


def shows(path: pathlib.Path, token: str) -> bool:
    """Whether a file has a content, or gets it soon."""
    end = time.monotonic() + _SOON
    while True:
        try:
            if path.read_text(encoding="utf-8") == token:
                return True
        except OSError:
            pass  # not there, or not there yet
        if time.monotonic() > end:
            return False
        time.sleep(0.05)


def end(status: int) -> None:
    """Ends one of several processes at once after an error: no waiting for the others, which find it gone; returns in a single one."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if processes.first():  # JAX ends the others with lines of its own as soon as this one is gone
            time.sleep(_LAST)
        os._exit(status)
