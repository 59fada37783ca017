"""The fused engine: one derivative of its own for every cell whose step has the three parts.

  forward    P = project(params, X) for all steps at once; in the loop recur and combine
  backward   in the loop only what the carry's cotangent needs: combine's derivative, and recur's in the carry
  after      the weights' gradients, from project's and recur's derivatives over all T B rows at once

Kept for the backward pass are the carries, P and the recurrent products, so that no product is computed twice. Vectors of
params that `combine` reads (peepholes, gains) have their gradients summed inside the loop. Cells whose products are plain
matrix products have a quicker way still, in `dense.py`. Reverse mode, any number of times; for forward mode (`jax.jvp`,
`jax.jacfwd`, `jax.hessian`) there is the scan engine.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import placement
from seqjax.engines import dense, steps
from seqjax.engines.dense import is_below
from seqjax.typing import Array, Carry, Cell, Params


def refusal(cell: Cell, params: Params, xs: Any, **settings: Any) -> str | None:
    """Why this engine cannot run a case, or None where it can."""
    del xs, settings
    if cell.project is None:
        return f"the step of {cell.name} does not split into the three parts project, recur and combine"
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, 1), params)
    if not all(jnp.issubdtype(a.dtype, jnp.inexact) for a in jax.tree.leaves(carry)):
        return f"the carry of {cell.name} holds numbers that have no derivative"
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
    """Runs a cell over a sequence, time-major; the arguments are those of `scan.run`."""
    layout = layout_of(cell, jax.tree.leaves(xs)[0].shape[1])

    def chunk(carry, inputs):
        if layout is None:
            return unrolled(cell, reverse, params, carry, initial, inputs)
        return dense.unrolled(cell, layout, reverse, params, carry, initial, inputs)

    return steps.in_chunks(chunk, carry, (xs, mask, resets), remat_every, reverse)


def layout_of(cell: Cell, batch: int) -> dense.Layout | None:
    """How the products of a step are done: in one, with arrays in this layout; or None, the input's before the loop.

    By measurement (docs/design/speed.md): on a CPU with very few sequences the product of the loop is as long as its
    kernel, so that the input's share of it is better done for all steps at once; on a GPU that is so at every size.
    """
    few = jax.default_backend() == "cpu" and cell.additive and is_below(batch, 8)
    if cell.dense is None or few or jax.default_backend() == "gpu":
        return None
    return dense.Layout(dense.prefers_columns(cell, batch))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def unrolled(
    cell: Cell, reverse: bool, params: Params, carry: Carry, initial: Carry, inputs: tuple
) -> tuple[Carry, Array]:
    """Runs any cell that has the three parts over `inputs`, which are (xs, mask, resets), time-major."""
    last, (ys, _) = _forward(cell, reverse, params, carry, initial, inputs, keep=False)
    return last, ys


def _recur(cell, params, carry):
    return 0 if cell.recur is None else cell.recur(params, carry)


def _forward(cell, reverse, params, carry, initial, inputs, keep):
    xs, mask, resets = inputs

    def body(carry, inputs):
        projected, real, reset = inputs
        start = carry if reset is None else steps.select(reset, initial, carry)
        recurrent = _recur(cell, params, start)
        after, y = cell.combine(params, start, projected, recurrent)
        kept = (start, recurrent) if keep else None
        if real is not None:
            after, y = steps.select(real, after, carry), steps.select(real, y, steps.zeros_like(y))
        return after, (y, kept)

    projected = cell.project(params, xs)
    last, (ys, kept) = jax.lax.scan(body, carry, (projected, mask, resets), reverse=reverse)
    return last, (ys, (projected, kept) if keep else None)


def _unrolled_fwd(cell, reverse, params, carry, initial, inputs):
    last, (ys, kept) = _forward(cell, reverse, params, carry, initial, inputs, keep=True)
    return (last, ys), (params, carry, inputs, kept)


def _unrolled_bwd(cell, reverse, saved, cotangents):
    params, carry, (xs, mask, resets), (projected, (starts, recurrents)) = saved
    d_last, d_ys = cotangents
    one_step = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (starts, projected, recurrents))
    read = steps.arrays_read(cell.combine, params, *one_step)
    params_read = read[: len(jax.tree.leaves(params))]
    has_derivative = [jnp.issubdtype(a.dtype, jnp.inexact) for a in jax.tree.leaves(projected)]

    def body(state, inputs):
        d_carry, d_vectors, d_initial = state
        d_y, start, projected, recurrent, real, reset = inputs
        d_after = d_carry
        if real is not None:
            d_after, d_y = steps.select(real, (d_after, d_y), steps.zeros_like((d_after, d_y)))

        def combine(vectors, start, arrays, recurrent):
            whole = steps.put_back(projected, has_derivative, arrays)
            return cell.combine(steps.put_back(params, params_read, vectors), start, whole, recurrent)

        arrays = steps.chosen(projected, has_derivative)
        _, back = jax.vjp(combine, steps.chosen(params, params_read), start, arrays, recurrent)
        d_vectors_now, d_start, d_projected, d_recurrent = back((d_after, d_y))
        if cell.recur is not None:
            (d_through,) = jax.vjp(lambda c: cell.recur(params, c), start)[1](d_recurrent)
            d_start = jax.tree.map(jnp.add, d_start, d_through)
        d_start, d_initial = steps.back_through_mask(d_start, d_carry, d_initial, real, reset)
        d_vectors = jax.tree.map(jnp.add, d_vectors, d_vectors_now)
        return (d_start, d_vectors, d_initial), (d_projected, d_recurrent if cell.recur is not None else None)

    state = (d_last, steps.zeros_like(steps.chosen(params, params_read)), steps.wide_zeros(carry))
    inputs = (d_ys, starts, projected, recurrents, mask, resets)
    state, _ = placement.tree_varies_together((state, inputs))
    (d_carry, d_vectors, d_initial), (d_arrays, d_recurrents) = jax.lax.scan(body, state, inputs, reverse=not reverse)
    d_params, d_xs = _weights_back(cell, params, xs, starts, projected, has_derivative, d_arrays, d_recurrents)
    totals = [a + b for a, b in zip(steps.chosen(d_params, params_read), d_vectors, strict=True)]
    d_initial = steps.cast_like(d_initial, carry)
    return steps.put_back(d_params, params_read, totals), d_carry, d_initial, (d_xs, None, None)


def _weights_back(cell, params, xs, starts, projected, has_derivative, d_arrays, d_recurrents):
    """The gradients of params and inputs through the two products, over all steps at once."""

    def project(params, xs):
        return steps.chosen(cell.project(params, xs), has_derivative)

    d_params, d_xs = jax.vjp(project, params, xs)[1](d_arrays)
    if cell.recur is None:
        return d_params, d_xs

    def recur(params):
        if placement.whole() is not None:  # a vmap may join T with a B that is cut, which is refused there
            return jax.lax.map(lambda start: cell.recur(params, start), starts)
        return jax.vmap(cell.recur, (None, 0))(params, starts)

    (through,) = jax.vjp(recur, params)[1](d_recurrents)
    return jax.tree.map(lambda a, b: a if a.dtype == jax.dtypes.float0 else a + b, d_params, through), d_xs


unrolled.defvjp(_unrolled_fwd, _unrolled_bwd)
