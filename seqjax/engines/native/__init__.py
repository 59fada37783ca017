"""The native engine: one layer over all steps in a single call of a C++ library, on a CPU, in float32.

Each thread runs some of the sequences over all steps, forward and backward, so that threads never wait for each other
between steps. docs/design/native.md explains how, and how to build and test it. Cells: lstm (peepholes, coupled gates),
gru and mgu with the reset after the product, rnn and indrnn with tanh or relu.

Reverse mode works to any order: the first derivative runs in the library, higher ones in the scan. `jax.vmap` over
sequences makes one larger batch in the forward pass, and one call after the other in the backward pass or if weights
are mapped. There is no forward mode, and `jax.export` cannot save a program with it, since the program would need this
library where it is loaded.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp

from seqjax.engines import every, steps
from seqjax.engines.native import layer, library
from seqjax.engines.native.forms import Form, form_of
from seqjax.errors import UserError
from seqjax.typing import Array, Carry, Cell, Params


def refusal(cell: Cell, params: Params, xs: Any, **settings: Any) -> str | None:
    """Returns why this engine cannot run a case, or None if it can; the arguments are those of `scan.run` without the carries."""
    del settings
    form = form_of(every.inside(cell) or cell)
    if isinstance(form, str):
        return form
    if not jax.tree_util.all_leaves([xs]):
        return "it takes a single input array, and training noise adds more"
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, 1), params)
    computed = dict(cell.settings).get("dtype")  # a carry may be wider than a cell's compute dtype
    dtypes = {str(a.dtype) for a in jax.tree.leaves((carry, params))} | ({jnp.dtype(computed).name} if computed else set())
    if dtypes != {"float32"}:
        return f"it computes in float32, but the cell in {' and '.join(sorted(dtypes))}"
    if not all(isinstance(size, int) for size in xs.shape):
        return f"it needs concrete sizes, but jax.export made some of {xs.shape} symbolic"
    if jax.sharding.get_abstract_mesh().axis_names:
        return "it runs on one device, but the arrays are on a mesh of several"
    return _unusable()


def _unusable():
    """Returns why no case can be run here, or None."""
    if jax.default_backend() != "cpu":
        return f"it runs on a CPU, but the backend is {jax.default_backend()}"
    if library.missing():
        return library.missing()
    try:
        library.instruction_set()
    except UserError as error:
        return str(error)
    return None


def facts() -> dict[str, Any] | None:
    """Returns what the bits of a result depend on besides the cell and its numbers; None if the engine cannot be used.

    Example:
      >>> found = facts()
      >>> found is None or found["threads"] >= 1 and found["instruction_set"] in ("avx512", "avx2", "portable")
      True
    """
    return None if _unusable() else {"threads": library.threads(), "instruction_set": library.instruction_set()}


def run(
    cell: Cell,
    params: Params,
    carry: Carry,
    initial: Carry,
    xs: Array,
    *,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
    remat_every: int | None,
    offload: bool = False,
) -> tuple[Carry, Array]:
    """Runs a cell over a sequence, time-major, with the arguments and results of `scan.run`; see `refusal` first."""
    settings = {"mask": mask, "resets": resets, "reverse": reverse}

    def chunk(carry, inputs):
        xs, mask, resets = inputs
        return _at_once([(cell, params, carry, initial, xs, settings | {"mask": mask, "resets": resets})])[0]

    return steps.in_chunks(chunk, carry, (xs, mask, resets), remat_every, reverse, offload)


def run_both(first: tuple, second: tuple) -> list[tuple[Carry, Array]]:
    """Runs two cells in one call, the second in the other direction, each given as the arguments of `run` with its settings as a dict.

    They share the threads, so that each thread reads the weights of only one cell, and a single sequence uses two
    threads. Neither is recomputed in chunks: `remat_every` is None.
    """
    return _at_once([first, second])


def _at_once(runs) -> Any:
    layers, given = [], []
    for cell, params, carry, initial, xs, settings in runs:
        xs, params = jax.tree.map(lambda a: a.astype(jnp.float32), (jnp.asarray(xs), params))
        inside = every.inside(cell)
        layers.append(layer.Layer(cell, cast(Form, form_of(inside or cell)), settings["reverse"], every=inside is not None))
        given.append(layer.Given(params, carry, initial, xs, settings["mask"], settings["resets"]))
    if 0 in given[0].xs.shape:
        return [(its.carry, _empty(kind, its)) for kind, its in zip(layers, given)]
    return layer.unrolled(layer.Call(tuple(layers), library.instruction_set()), tuple(given))


def _empty(kind, its):
    ys = jnp.zeros((*its.xs.shape[:2], kind.cell.hidden_size), jnp.float32)
    return kind.output(ys, ys, its.carry)


def detail() -> str:
    """Returns the detail for `seqjax.explain`: the instruction set."""
    return f"instruction set {library.instruction_set()}"


def is_quickest(cell: Cell, params: Params, xs: Any, **settings: Any) -> bool:
    """Whether "auto" uses this engine: it can run the case, and was measured to be faster than the fused engine there.

    With AVX2 it was 1.1 to 2.6 times as fast at all six shapes of `benchmarks.engines`, forward and training
    (benchmarks/results/engines_native.json). The portable kernels were not measured, and with several devices, in this
    process or several, arrays may be on all of them: in both cases it runs only on request.
    """
    if jax.device_count() > 1:
        return False
    reason = refusal(cell, params, xs, **settings)
    if reason is not None:
        if reason == library.missing():
            library.say_missing(reason)
        return False
    return library.instruction_set() != "portable"
