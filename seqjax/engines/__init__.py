"""Engines: ways to run a cell over a sequence, one file per engine; their table, and the choice between them.

Each has `run`, with the signature of `scan.run`, and `refusal`, with the same arguments except the carries, which
returns the reason why it cannot run a case, or None. All give the same numbers up to a few units of rounding, which a
shared test suite checks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from seqjax.engines import associative, cudnn, fused, native, scan, steps
from seqjax.engines._reverse_only import reverse_only
from seqjax.errors import UserError
from seqjax.typing import Array, Carry, Cell, Params

ENGINES = {"scan": scan, "fused": fused, "associative": associative, "cudnn": cudnn, "native": native}
FORWARD = ("scan", "associative")  # those with forward-mode derivatives
REMOVED = ("pallas",)  # it used a lowering that JAX is removing


class Choice(NamedTuple):
    """The choice of an engine for a cell."""

    cell: str  # the name of the cell
    engine: str  # the name of the engine
    reason: str  # why it was chosen


def check_name(engine: str) -> None:
    """Refuses a name that no engine has."""
    if engine not in ("auto", *ENGINES):
        gone = ", which was removed" if engine in REMOVED else ""
        raise UserError(f"engine must be one of {['auto', *ENGINES]}, got {engine!r}{gone}")


def run(choice: Choice, cell: Cell, params: Params, carry: Carry, initial: Carry, xs: Any, **settings: Any) -> tuple[Carry, Array]:
    """Runs a cell on the engine chosen; the arguments are those of `scan.run`."""
    return ENGINES[choice.engine].run(*_given(choice, cell, params, carry, initial, xs), **settings)


def run_both(first: tuple, second: tuple) -> list[tuple[Carry, Array]]:
    """Runs two cells on the native engine, the second in the other direction; each is (choice, the arguments of `run`, settings)."""
    return native.run_both(*((*_given(*its), settings) for *its, settings in (first, second)))


def _given(choice: Choice, cell: Cell, params: Params, carry: Carry, initial: Carry, xs: Any) -> tuple:
    """Prepares an engine's arguments: widens the parameters, and marks the arguments if it has no forward mode."""
    if choice.engine != "cudnn":  # cuDNN has only float32, and recognises the LSTM by its params
        cell, params = steps.with_wide_params(cell, params)
    if choice.engine not in FORWARD:
        params, carry, initial, xs = reverse_only((params, carry, initial, xs), cell.name, choice.engine)
    return cell, params, carry, initial, xs


def choose(engine: str, cell: Cell, params: Params, xs: Any, **settings: Any) -> Choice:
    """Returns the named engine, or raises an error if it cannot run the case; "auto" takes the fastest measured.

    Args:
      engine: "auto", or a name in ENGINES.
      cell: a cell without `sequence` in its wrap.
      params: its parameters.
      xs: inputs (T, B, D), or a pytree of such arrays.
      **settings: mask, resets, reverse, remat_every and offload of the run.

    Returns:
      A Choice.

    Raises:
      UserError: the engine asked for cannot run this case; the message says why, and which engines can.
    """
    if engine == "auto":
        return _quickest(cell, params, xs, settings)
    reason = ENGINES[engine].refusal(cell, params, xs, **settings)
    if reason is not None:
        able = [name for name in ENGINES if ENGINES[name].refusal(cell, params, xs, **settings) is None]
        raise UserError(f"engine {engine!r} cannot run {cell.name} here: {reason}; engines that can: {', '.join(able)}")
    return Choice(cell.name, engine, f"asked for; {native.detail()}" if engine == "native" else "asked for")


def choosers() -> tuple[Callable, ...]:
    """The functions by which engines choose a method; tests and benchmarks replace them, so they are part of the compilation key."""
    return fused.layout_of, associative._method


def _quickest(cell, params, xs, settings):
    """Chooses by the results of benchmarks/engines.py on a CPU and benchmarks/gpu.py on a GPU (docs/design/speed.md)."""
    where = f"on {jax.default_backend()}"
    if associative.refusal(cell, params, xs, **settings) is None:
        return Choice(cell.name, "associative", f"a linear recurrence; in chunks, with least memory {where}")
    if native.is_quickest(cell, params, xs, **settings):
        return Choice(cell.name, "native", f"one call of the library {where}; {native.detail()}")
    reason = fused.refusal(cell, params, xs, **settings)
    if reason is not None:
        return Choice(cell.name, "scan", reason)
    layout = fused.layout_of(cell, jax.tree.leaves(xs)[0].shape[1])
    if layout is None:
        return Choice(cell.name, "fused", "it has the three parts: input product before the loop, weight gradients after it")
    products = "one product" if cell.split.additive else "two products"
    lying = "columns" if layout.columns else "rows"
    return Choice(cell.name, "fused", f"plain matrix products: {products} a step, in {lying}, {where}")
