"""Forks processes of the experiments from one that has imported the libraries: a second, not six.

Each is a process of its own, with its own JAX, standard streams, signals and exit status. Reads one JSON object a line:

    {"experiment": name, "argv": [...], "env": {...}, "stdin": path, "stdout": path, "stderr": path,
     "faults": [[name, argument], ...]} -> pid
    {"poll": pid} -> null while it runs, then its exit status (negative: the signal)
"""

import atexit
import gc
import importlib
import json
import os
import pathlib
import runpy
import signal
import sys
import threading
import traceback


def serve() -> None:
    """Answers requests until standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = poll(request["poll"]) if "poll" in request else start(request)
        print(json.dumps(answer), flush=True)


def poll(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def start(request: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.dup2(os.open(request["stdin"], os.O_RDONLY), 0)
        os.environ.update(request["env"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import faults

        for name, argument in request["faults"]:
            getattr(faults, name)(argument)
        sys.argv = [f"experiments/{request['experiment']}.py", *request["argv"]]
        runpy.run_module(f"experiments.{request['experiment']}", run_name="__main__", alter_sys=True)
        leave(0)
    except SystemExit as error:
        leave(error.code)
    except BaseException:
        traceback.print_exc()
        leave(99)


def leave(status: int | None) -> None:
    """Ends the process as Python does, threads and exit handlers included, but without freeing every module."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def warm_up() -> None:
    """Imports what the experiments import, and starts no thread and no device."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import rich.progress  # noqa: F401
    import sacrebleu.metrics  # noqa: F401
    import seqeval.metrics.sequence_labeling  # noqa: F401
    import tensorboardX  # noqa: F401

    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
    import whole_entries

    import seqjax.data.pipeline.collate
    import seqjax.diagnostics.pictures
    import seqjax.diagnostics.sequences
    import seqjax.run.baselines  # noqa: F401
    from seqjax.text import words

    words.split_words("its expression takes a third of a second to build")
    for path in sorted(pathlib.Path(__file__).resolve().parents[2].glob("experiments/[a-z]*.py")):
        name = f"experiments.{path.stem}"
        importlib.import_module(name)
        del sys.modules[name]  # each process runs the file itself, as __main__
    whole_entries.install()


if __name__ == "__main__":
    warm_up()
    gc.freeze()  # collections do not copy what parent and children share
    gc.set_threshold(50_000, 20, 100)  # as in conftest.py
    serve()
