"""How the benchmarks time things: the grid of shapes, data, one gradient, functions in turn, ratios."""

import argparse
import math
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common
from seqjax.run import process

WHATS = ("forward", "training")


class Shape(NamedTuple):
    """Sizes of one layer and its inputs."""

    batch: int
    steps: int
    features: int
    hidden: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


GRID = (
    Shape(32, 64, 128, 128),
    Shape(16, 256, 256, 256),
    Shape(64, 35, 650, 650),
    Shape(64, 100, 512, 512),
    Shape(1, 200, 64, 64),
    Shape(128, 784, 1, 128),
)


def parse_shape(text: str) -> Shape:
    """A shape from "B,T,D,H"."""
    try:
        shape = Shape(*map(int, text.split(",")))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"a shape is four integers B,T,D,H, and this is {text!r}") from None
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"every size of a shape is at least 1, and this is {text!r}")
    return shape


def parse_names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names, each one of `known`."""
    known = list(known)

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))}: not among {', '.join(known)}")
        return names

    return parse


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with the options of all speed benchmarks."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=30, help="maximum number of repeats of every function")
    made.add_argument("--seconds", type=float, default=6.0, help="no new round of a case after this time, once 4 are done")
    made.add_argument("--tag", default="", help="suffix of the names of results and plots, so that a trial overwrites none")
    return made


def prepare() -> dict[str, Any]:
    """Prepares the timing process: keeps freed memory, and disables the persistent compilation cache.

    Returns:
      The settings, to be stored in the result.
    """
    kept = process.keep_freed_memory()
    jax.config.update("jax_enable_compilation_cache", False)
    return {"keeps_freed_memory": kept, "device": jax.devices()[0].device_kind}


def make_data(shape: Shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs (T, B, D) and a normal cotangent of the outputs (T, B, H)."""
    rng = np.random.default_rng(seed)
    before = (shape.steps, shape.batch)
    return tuple(rng.standard_normal((*before, size), np.float32) for size in (shape.features, shape.hidden))


def make_functions(apply: Callable[[Any, Any], Any], params: Any, xs: Any, cotangent: Any) -> dict[str, Callable]:
    """The forward pass of `apply(params, xs) -> ys`, and forward with gradients of params and inputs, to time.

    The cotangent is an argument and the outputs are results, so that the compiler cannot remove what a training step needs.
    """
    expected = jax.eval_shape(apply, params, xs)
    if expected.shape != cotangent.shape:
        raise ValueError(f"outputs have shape {expected.shape}, and their cotangent has {cotangent.shape}")

    def gradients(params, xs, cotangent):
        ys, back = jax.vjp(apply, params, xs)
        return ys, back(cotangent)

    forward, training = jax.jit(apply), jax.jit(gradients)
    params, xs, cotangent = jax.device_put((params, xs, cotangent))
    return {
        "forward": lambda: jax.block_until_ready(forward(params, xs)),
        "training": lambda: jax.block_until_ready(training(params, xs, cotangent)),
    }


def interleave(functions: dict[str, Callable[[], Any]], rounds: int, seconds: float, *, again: bool = False) -> dict[str, dict[str, float]]:
    """Times functions in turn, in a new random order each round, so that all see the same machine load.

    The order is random because the previous function matters: threads of one library may still be spinning when the next starts.

    Args:
      functions: name -> function without arguments that returns when its work is done.
      rounds: maximum number of rounds.
      seconds: no further round starts after this time, once 4 are done.
      again: call each function twice per turn and time the second call, as in consecutive training steps; the first call meets the caches
        and spinning threads left by the previous function.

    Returns:
      For each name min and median milliseconds, the number of repeats, and the seconds of the first call, which compiles and is not counted
      as a repeat.
    """
    first = {name: _seconds(function) for name, function in functions.items()}
    milliseconds = {name: [] for name in functions}
    order, shuffler = list(functions), random.Random(0)
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= 4 and time.perf_counter() - begin > seconds:
            break
        shuffler.shuffle(order)
        for name in order:
            if again:
                functions[name]()
            milliseconds[name].append(1e3 * _seconds(functions[name]))
    return {name: common.summary(milliseconds[name]) | {"first_call_seconds": first[name]} for name in functions}


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of positive numbers."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))
