"""Starts a command several times on this machine, as the processes of one run, for tests and experiments.

    python -m seqjax.launch --processes=2 -- python -m experiments.language_model --workdir=/tmp/lm

Each gets `--distributed=127.0.0.1:PORT,COUNT,INDEX` as its last argument, and runs on the CPU unless JAX_PLATFORMS says
otherwise; JAX's runtime log is hidden unless TF_CPP_MIN_LOG_LEVEL is set. SIGINT and SIGTERM are passed on to all
processes. If one exits with an error or is killed, the others have a few seconds to exit by themselves; then they are
killed. The exit status is that of the first one that failed.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

GRACE = 10.0
# On Linux each process is killed when the launcher ends, however it ends (PR_SET_PDEATHSIG, which survives exec). The
# process requests this itself: running a function between fork and exec is not safe in a program with threads.
_ASK = """import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.exit(f"error: {sys.argv[1]} cannot be started: {error.strerror}")
"""
_BEFORE = [sys.executable, "-I", "-S", "-c", _ASK] if sys.platform == "linux" else []


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that follows `--`; returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser("python -m seqjax.launch", description=str(__doc__).split("\n")[0], allow_abbrev=False)
    parser.add_argument("--processes", type=int, required=True, help="how many")
    own, command = _split(argv)
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds the others have to exit by themselves after one has failed")
    options = parser.parse_args(own)
    if options.processes < 1 or not command:
        parser.error("give --processes=N, at least 1, and after -- the command")
    return run(command, options.processes, options.grace)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Splits the arguments at the first `--` and returns what comes before and after it.

    Example:
      >>> _split(["--processes=2", "--", "python", "a.py", "--", "b"])
      (['--processes=2'], ['python', 'a.py', '--', 'b'])
    """
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


def run(command: Sequence[str], count: int, grace: float = GRACE) -> int:
    """Starts `count` processes and waits for all; returns 0, or the status of the first that failed (128 + N for signal N)."""
    address, env = f"127.0.0.1:{free_port()}", {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "4"} | os.environ
    passed_on = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    started: list[subprocess.Popen] = []

    def pass_on(number, frame):
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    try:
        for number in passed_on:
            signal.signal(number, pass_on)
        for index in range(count):
            argv = [*command, f"--distributed={address},{count},{index}"]
            # In its own session, so that a terminal's Ctrl-C arrives once, from here.
            started.append(subprocess.Popen([*_BEFORE, *argv], env=env, start_new_session=True))
        return _watch(started, grace)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
        for number, handler in passed_on.items():
            signal.signal(number, handler)


def _watch(started: list[subprocess.Popen], grace: float) -> int:
    """Waits until all have exited, or until `grace` seconds after one has failed."""
    failed, end = None, float("inf")
    while any(process.poll() is None for process in started) and time.monotonic() < end:
        if failed is None and (failed := _first_failed(started)) is not None:
            end = time.monotonic() + grace
        time.sleep(0.02)
    failed = _first_failed(started) if failed is None else failed
    if failed is None:
        return 0
    status = started[failed].returncode
    if status < 0:
        name = signal.Signals(-status).name
        print(f"error: process {failed} of {len(started)} was ended by {name}; the others were stopped", file=sys.stderr, flush=True)
    return 128 - status if status < 0 else status


def _first_failed(started: list[subprocess.Popen]) -> int | None:
    """Returns the index of a process that failed; a killed one takes precedence, since the others fail because of it."""
    codes = {index: process.returncode for index, process in enumerate(started) if process.poll()}
    return min(codes, key=lambda index: (codes[index] > 0, index), default=None)


def free_port() -> int:
    """Returns a free port on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
