"""The persistent kernel: one GPU program takes a block of sequences through all steps. Experimental: its tests
pass on an H200 (jax 0.11.2), where at H=64 it is three times as fast as the fused engine; on a CPU its kernels are tested in
interpret mode. It rests on Pallas' lowering to Triton, which JAX has deprecated, so "auto" does not choose it.

  before the loop    the input product of all steps, one product
  inside             the recurrent weights on the chip, loaded once; the carry in registers; `combine`, traced into the
                     kernel gate by gate (`pallas_tiles.py`); lengths and resets
  backward           the same loop in the other direction, which carries the cotangent of the carry and goes through the
                     derivative of `combine`; it keeps nothing but the carry of each step
  after the loop     the gradient of each weight matrix, one product over all B x T rows

It runs every cell whose recurrence is one dense product and whose `combine` is made of elementwise steps, splits and means
over gates: the vanilla network, the LSTM with its options but the projection, the GRU and the minimal gated unit with the
reset after the product. The hidden size must be a power of two, and the recurrent weights must fit on one multiprocessor:
128 units for an LSTM in bfloat16, 64 in float32.

There is one derivative, in reverse mode. Float32 products are in JAX's matmul precision, on a GPU TensorFloat32 by default.

Compiled without a GPU, by Triton 3.6 for compute capability 9.0, at the largest sizes: all products are on the tensor
cores, at most 152 KiB of shared memory, and no register is spilled but in the backward kernel of the layer-norm LSTM of 128
units in bfloat16 (0.5 KiB a thread).

What is left for a day with a GPU: block of sequences, warps and stages (`ROWS`, `WARPS`, `STAGES` in
`pallas_kernel.py`), the limit of the weights (`ON_CHIP` in `pallas_plan.py`), and timings at other sizes than H=64.
"""

import functools

import jax
import jax.numpy as jnp

from seqjax.engines import pallas_kernel as kernel
from seqjax.engines import scan, steps
from seqjax.engines.pallas_plan import Unfit, make_plan, projected_shape
from seqjax.typing import Array, Carry, Cell, Params

_interpret = jax.make_user_context(False)


def interpreted():
    """A context in which the kernels run in plain JAX, on any backend and slowly: `with interpreted(): ...`, for tests."""
    return _interpret(True)


def refusal(
    cell: Cell,
    params: Params,
    xs: Array,
    *,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
    remat_every: int | None,
) -> str | None:
    """Why this engine cannot run a case, or None where it can; the arguments are those of `run`."""
    del mask, resets, reverse, remat_every
    if not jax.tree_util.all_leaves([xs]):
        return "it takes inputs that are one array, and training noise made them several"
    try:
        make_plan(cell, params, projected_shape(cell, params, xs), kernel.ROWS)
    except Unfit as reason:
        return str(reason)
    if jax.default_backend() != "gpu" and not _interpret.value:
        return f"it needs a GPU, and the backend is {jax.default_backend()}"
    return None


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
) -> tuple[Carry, Array]:
    """Runs a cell over a sequence, time-major, with the arguments and results of `scan.run`; see `refusal` first."""
    if not xs.shape[0] or not xs.shape[1]:
        settings = {"mask": mask, "resets": resets, "reverse": reverse, "remat_every": remat_every}
        return scan.run(cell, params, carry, initial, xs, **settings)
    batch, interpret = xs.shape[1], _interpret.value
    carry, initial = _fill_blocks((carry, initial), 0, batch)

    def chunk(carry, inputs):
        xs, mask, resets = inputs
        return _loop(cell, reverse, interpret, params, initial, carry, cell.project(params, xs), mask, resets)

    inputs = _fill_blocks((xs, mask, resets), 1, batch)
    carry, ys = steps.in_chunks(chunk, carry, inputs, remat_every, reverse)
    return jax.tree.map(lambda a: a[:batch], carry), ys[:, :batch]


def _fill_blocks(arrays, axis, batch):
    """Arrays with zeros for the sequences that the last block lacks."""
    missing = -batch % kernel.ROWS
    if not missing:
        return arrays
    return jax.tree.map(lambda a: jnp.pad(a, [(0, missing if n == axis else 0) for n in range(a.ndim)]), arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _loop(cell, reverse, interpret, params, initial, carry, projected, mask, resets):
    """The loop over projected inputs (T, B, G H), with B a multiple of a block."""
    results = _forward(cell, reverse, interpret, False, params, initial, carry, projected, mask, resets)
    return results["carry"], results["ys"]


def _loop_forward(cell, reverse, interpret, params, initial, carry, projected, mask, resets):
    results = _forward(cell, reverse, interpret, True, params, initial, carry, projected, mask, resets)
    kept = (params, results["starts"], projected, mask, resets)
    return (results["carry"], results["ys"]), kept


def _loop_backward(cell, reverse, interpret, kept, cotangents):
    params, starts, projected, mask, resets = kept
    d_carry, d_ys = cotangents
    plan = make_plan(cell, params, projected, kernel.ROWS)
    # All rows at once: the recurrent product that the kernel needs again, and after it the gradient of the weights.
    recurrent, pullback = jax.vjp(cell.recur, params, jax.tree.map(_rows, starts))
    over_time = recurrent.reshape(*projected.shape[:2], -1)
    inputs = [projected + over_time] if plan.additive else [projected, over_time]
    operands = _operands(plan, params, mask, resets, inputs)
    operands |= {"starts": jax.tree.leaves(starts), "d_carry": jax.tree.leaves(d_carry), "d_ys": d_ys}
    results = kernel.backward(plan, operands, reverse=reverse, interpret=interpret)

    d_projected, d_recurrent = results["d_inputs"][0], results["d_inputs"][-1]
    d_projected = d_projected.reshape(projected.shape)
    d_params, _ = pullback(d_recurrent.reshape(recurrent.shape))
    if plan.vectors:
        d_after = jax.tree.unflatten(jax.tree.structure(starts), results["d_after"])
        d_vectors = _gradient_of_vectors(cell, params, starts, inputs, mask, d_after, d_ys)
        d_params = jax.tree.map(jnp.add, d_params, d_vectors)
    d_start = _as_carry(results["d_carry"], d_carry)
    d_initial = None if resets is None else _as_carry(results["d_initial"], d_carry)
    return d_params, d_initial, d_start, d_projected, None, None


_loop.defvjp(_loop_forward, _loop_backward)


def _forward(cell, reverse, interpret, save, params, initial, carry, projected, mask, resets):
    plan = make_plan(cell, params, projected, kernel.ROWS)
    operands = _operands(plan, params, mask, resets, [projected])
    operands["carry"] = jax.tree.leaves(carry)
    if resets is not None:
        operands["initial"] = jax.tree.leaves(initial)
    results = kernel.forward(plan, operands, reverse=reverse, save=save, interpret=interpret)
    structure = jax.tree.structure(carry)
    return {name: jax.tree.unflatten(structure, r) if isinstance(r, list) else r for name, r in results.items()}


def _operands(plan, params, mask, resets, inputs):
    """What both kernels take, each array in its layout there."""
    leaves, width = jax.tree.leaves(params), plan.width
    flags = {"mask": mask, "resets": resets}
    return {
        "weights": leaves[plan.weights].astype(plan.product).reshape(width, plan.gates, width),
        "vectors": [leaves[n].reshape(-1, width) for n in plan.vectors],
        "inputs": [a.reshape(*a.shape[:2], -1, width) for a in inputs],
        **{name: flag.astype(jnp.int32) for name, flag in flags.items() if flag is not None},
    }


def _rows(array):
    """(T, B, F) as (T B, F)."""
    return array.reshape(-1, array.shape[-1])


def _gradient_of_vectors(cell, params, starts, inputs, mask, d_after, d_ys):
    """The gradient of what `combine` reads of the params: its derivative once more, over all rows at once."""
    if mask is not None:
        d_ys = jnp.where(mask[:, :, None], d_ys, 0)
    projected, recurrent = inputs if len(inputs) == 2 else (inputs[0], jnp.zeros_like(inputs[0]))
    rows = jax.tree.map(_rows, (starts, projected, recurrent))
    _, pullback = jax.vjp(lambda p: cell.combine(p, *rows), params)
    (d_params,) = pullback(jax.tree.map(_rows, (d_after, d_ys)))
    return d_params


def _as_carry(leaves, like):
    structure, dtypes = jax.tree.structure(like), [a.dtype for a in jax.tree.leaves(like)]
    return jax.tree.unflatten(structure, [a.astype(dtype) for a, dtype in zip(leaves, dtypes, strict=True)])
