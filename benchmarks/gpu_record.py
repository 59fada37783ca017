"""Shared by the parts of benchmarks.gpu: results written after every case, and compiling and running sides with crashes in mind."""

import concurrent.futures
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import gpu, timing
from seqjax.errors import UserError

UNTRIED = ("cudnn",)  # may crash the process, so they run one at a time, and each is noted first


class OutOfTime(Exception):
    """A part's time is used up."""


class Recorder:
    """A part's results, written after every case, and its current case, for the next process after a crash."""

    def __init__(self, path: pathlib.Path, seconds: float):
        self._path, self._end = path, time.monotonic() + seconds
        self.data = {"cases": [], "groups": [], "lost": []} | gpu.read(path)
        if at := self.data.get("current"):
            self.data["lost"].append({"at": at, "reason": self.data.pop("error", "the process ended")})
        self.data |= {"status": "running", "current": None}

    @property
    def left(self) -> float:
        """Seconds that the part has left."""
        return self._end - time.monotonic()

    def trying(self, *at: str) -> bool:
        """Notes the next attempt; False if an earlier process was lost in it."""
        at = " / ".join(at)
        if any(lost["at"] == at for lost in self.data["lost"]):
            return False
        self.data["current"] = at
        self._write()
        return True

    def begin(self, group: str) -> bool:
        """Notes the start of a group of cases; False if it is already finished or lost. Raises OutOfTime."""
        if group in self.data["groups"]:
            return False
        if self.left <= 0:
            raise OutOfTime
        return self.trying(group)

    def finish(self, group: str, rows: Sequence[dict], **more: Any) -> None:
        """Writes the results of a group."""
        self.data["groups"].append(group)
        self.data["cases"] += rows
        self.data |= more | {"current": None}
        self._write()

    def check_alive(self, error: Exception) -> None:
        """Ends the process if an error, such as an illegal address, has left the device unusable."""
        try:
            jax.block_until_ready(jnp.ones(2) + 1)
        except Exception:
            self.fail(error)
            raise SystemExit(f"the device is lost: {error}") from None

    def fail(self, error: Exception) -> None:
        """Notes the error that ends this process."""
        self.data["error"] = one_line(error)
        self._write()

    def end(self, status: str) -> None:
        """Writes the part's final status; a part that lost something is not ok."""
        status = "incomplete" if status == "ok" and self.data["lost"] else status
        self.data |= {"status": status, "current": None}
        self._write()

    def _write(self):
        gpu.write(self._path, self.data)


def one_line(error: Exception) -> str:
    """An error as one line of moderate length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def on_gpu() -> bool:
    """Whether JAX computes on a GPU."""
    return jax.default_backend() == "gpu"


def lower(apply: Callable, params: Any, xs: Any) -> dict[str, tuple]:
    """The forward pass of `apply(params, xs) -> ys` and a training step, traced: name -> (lowered, arguments)."""
    ys = jax.eval_shape(apply, params, xs)
    cotangent = np.random.default_rng(1).standard_normal(ys.shape, np.float32).astype(ys.dtype)

    def training(params, xs, cotangent):
        ys, back = jax.vjp(apply, params, xs)
        return ys, back(cotangent)

    params, xs, cotangent = jax.device_put((params, xs, cotangent))
    return {
        "forward": (jax.jit(apply).lower(params, xs), (params, xs)),
        "training": (jax.jit(training).lower(params, xs, cotangent), (params, xs, cotangent)),
    }


class Compiled(NamedTuple):
    """One side of a comparison, ready to be timed."""

    functions: dict[str, Callable]
    seconds: dict[str, float]  # of compilation


def compile_all(recorder: Recorder, group: str, makers: dict[str, Callable]) -> tuple[dict[str, Compiled], dict]:
    """Traces each side in turn, compiles them in parallel, and runs each once; also returns refusals and failures.

    Compiling in parallel saves time, but makes each compilation somewhat slower than it would be alone.
    """
    ready, bad, traced = {}, {}, {}

    def attempt(name, function):
        """A function's result, or None with the reason recorded."""
        if not recorder.trying(group, name):
            bad[name] = {"error": "the process was lost here"}
            return None
        try:
            return function()
        except UserError as error:
            bad[name] = {"refused": one_line(error)}
        except Exception as error:
            bad[name] = {"error": one_line(error)}
            recorder.check_alive(error)
        return None

    for name, make in makers.items():
        traced[name] = attempt(name, make)
    pool = concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 2))
    recorder.trying(group)
    waiting = {}
    for name, made in traced.items():
        if made is not None and name != "torch":
            compile_ = _compile_later if name in UNTRIED else pool.submit
            waiting[name] = {what: compile_(_compile, lowered) for what, (lowered, _) in made.items()}
    concurrent.futures.wait([f for futures in waiting.values() for f in futures.values() if hasattr(f, "done")])

    def finish(name):
        if name == "torch":
            functions, seconds = traced[name], {}
        else:
            found = {what: future.result() for what, future in waiting[name].items()}
            seconds = {what: taken for what, (_, taken) in found.items()}
            functions = {what: _runner(found[what][0], traced[name][what][1]) for what in found}
        for function in functions.values():
            function()
        return Compiled(functions, seconds)

    # The untried ones last: they may end the process, and by then the others are known to work.
    for name in sorted((name for name, made in traced.items() if made is not None), key=lambda name: name in UNTRIED):
        if (made := attempt(name, lambda name=name: finish(name))) is not None:
            ready[name] = made
    recorder.trying(group)
    pool.shutdown()
    return ready, bad


class _compile_later:
    """Like a future, but computed when its result is requested."""

    def __init__(self, function, *arguments):
        self.result = lambda: function(*arguments)


def _compile(lowered):
    begin = time.perf_counter()
    return lowered.compile(), time.perf_counter() - begin


def _runner(compiled, arguments):
    return lambda: jax.block_until_ready(compiled(*arguments))


def time_group(recorder: Recorder, key: dict, makers: dict[str, Callable], rounds: int, seconds: float, add=None) -> None:
    """Times the sides of one comparison in turn, forward and training, and records a row for each; `add` adds to rows."""
    group = " ".join(key.values())
    if not recorder.begin(group):
        return
    ready, bad = compile_all(recorder, group, makers)
    rows = [key | {"engine": name} | reason for name, reason in bad.items()]
    for what in timing.WHATS:
        functions = {name: made.functions[what] for name, made in ready.items()}
        times = timing.interleave(functions, rounds, seconds) if functions else {}
        for name, row in times.items():
            del row["first_call_seconds"]  # it was already compiled
            row |= {"compile_seconds": ready[name].seconds.get(what)}
            rows.append(key | {"what": what, "engine": name} | row | (add(what, row) if add else {}))
    recorder.finish(group, rows)
