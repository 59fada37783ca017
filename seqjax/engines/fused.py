"""The fused engine: a custom derivative for every cell whose step has the three parts.

  forward    P = project(params, X) for all steps at once; in the loop recur, join and combine
  backward   in the loop only what the carry's cotangent needs: the derivative of these, of recur only in the carry
  after      the weights' gradients, from project's and recur's derivatives over all T B rows at once

The carries, P and the recurrent products are kept for the backward pass, so that no product is computed twice.
Gradients of vectors in params that `join` and `combine` read (peepholes, gains) are summed inside the loop. Cells with
plain matrix products have an even faster path, in `dense.py`. Reverse mode works to any order; for forward mode
(`jax.jvp`, `jax.jacfwd`, `jax.hessian`) use the scan engine.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import placement
from seqjax.engines import dense, steps
from seqjax.engines.dense import is_below
from seqjax.typing import Array, Carry, Cell, Dense, Params


def refusal(cell: Cell, params: Params, xs: Any, **settings: Any) -> str | None:
    """Returns why this engine cannot run a case, or None if it can."""
    del xs, settings
    if cell.parts is None:
        return f"the step of {cell.name} does not split into the three parts project, recur and combine"
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, 1), params)
    if not all(jnp.issubdtype(a.dtype, jnp.inexact) for a in jax.tree.leaves(carry)):
        return f"the carry of {cell.name} holds arrays that are not differentiable"
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
    offload: bool = False,
) -> tuple[Carry, Array]:
    """Runs a cell over a sequence, time-major; the arguments are those of `scan.run`."""
    layout = layout_of(cell, jax.tree.leaves(xs)[0].shape[1])

    def chunk(carry, inputs):
        if layout is None:
            return unrolled(cell, reverse, params, carry, initial, inputs)
        return dense.unrolled(cell, layout, reverse, params, carry, initial, inputs)

    return steps.in_chunks(chunk, carry, (xs, mask, resets), remat_every, reverse, offload)


def layout_of(cell: Cell, batch: int) -> dense.Layout | None:
    """Chooses how to compute a step's products: as one, in this layout; or None, the input's before the loop.

    By measurement (docs/design/speed.md): on a CPU with very few sequences the product in the loop takes as long as
    reading its kernel, so the input's part is better computed for all steps at once; on a GPU this holds at every size
    except for small cells with one gate, whose step is mostly launches.
    """
    if not isinstance(cell.split, Dense):
        return None
    if jax.default_backend() == "gpu":
        small = cell.split.gates == 1 and max(jax.tree.leaves(cell.hidden_size)) <= 128
        return dense.Layout(columns=True) if small else None
    if jax.default_backend() == "cpu" and cell.split.additive and is_below(batch, 8):
        return None
    return dense.Layout(dense.prefers_columns(cell, batch))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def unrolled(cell: Cell, reverse: bool, params: Params, carry: Carry, initial: Carry, inputs: tuple) -> tuple[Carry, Array]:
    """Runs any cell that has the three parts over `inputs`, which are (xs, mask, resets), time-major."""
    return _forward(cell, reverse, params, carry, initial, inputs, keep=False)[:2]


def _forward(cell, reverse, params, carry, initial, inputs, keep):
    xs, mask, resets = inputs
    parts, (x, *others) = cell.parts, jax.tree.leaves(xs)
    read = None

    def body(carry, inputs):
        nonlocal read
        projected, others, real, reset = inputs
        start = carry if reset is None else steps.select(reset, initial, carry)
        recurrent = None if parts.recur is None else parts.recur(params, start)
        if keep:
            (after, y), read = steps.with_reads(parts.after, params, start, projected, recurrent, others)
        else:
            after, y = parts.after(params, start, projected, recurrent, others)
        kept = (start, recurrent) if keep else None
        if real is not None:
            after, y = steps.select(real, after, carry), steps.select(real, y, steps.zeros_like(y))
        return after, (y, kept)

    projected = parts.project(params, x)
    last, (ys, kept) = jax.lax.scan(body, carry, (projected, others, mask, resets), reverse=reverse)
    return last, ys, (projected, kept, read) if keep else None


def _unrolled_fwd(cell, reverse, params, carry, initial, inputs):
    last, ys, kept = _forward(cell, reverse, params, carry, initial, inputs, keep=True)
    return (last, ys), (params, carry, inputs, kept)


def _unrolled_bwd(cell, reverse, saved, cotangents):
    params, carry, (xs, mask, resets), (projected, (starts, recurrents), read) = saved
    d_last, d_ys = cotangents
    parts, ((x, *others), tree) = cell.parts, jax.tree.flatten(xs)
    read = read[0]

    def body(state, inputs):
        d_carry, d_vectors, d_initial = state
        d_y, start, projected, recurrent, others, real, reset = inputs
        d_after = d_carry
        if real is not None:
            d_after, d_y = steps.select(real, (d_after, d_y), steps.zeros_like((d_after, d_y)))

        def after(vectors, start, projected, recurrent):
            return parts.after(steps.put_back(params, read, vectors), start, projected, recurrent, others)

        _, back = jax.vjp(after, steps.chosen(params, read), start, projected, recurrent)
        d_vectors_now, d_start, d_projected, d_recurrent = back((d_after, d_y))
        if parts.recur is not None:
            (d_through,) = jax.vjp(lambda c: parts.recur(params, c), start)[1](d_recurrent)
            d_start = jax.tree.map(jnp.add, d_start, d_through)
        d_start, d_initial = steps.back_through_mask(d_start, d_carry, d_initial, real, reset)
        d_vectors = jax.tree.map(jnp.add, d_vectors, d_vectors_now)
        return (d_start, d_vectors, d_initial), (d_projected, d_recurrent)

    state = (d_last, steps.zeros_like(steps.chosen(params, read)), steps.wide_zeros(carry))
    inputs = (d_ys, starts, projected, recurrents, others, mask, resets)
    state, _ = placement.tree_varies_together((state, inputs))
    (d_carry, d_vectors, d_initial), d_products = jax.lax.scan(body, state, inputs, reverse=not reverse)
    d_params, d_x = _weights_back(parts, params, x, starts, *d_products)
    totals = [a + b for a, b in zip(steps.chosen(d_params, read), d_vectors, strict=True)]
    d_xs = tree.unflatten([d_x, *(None for _ in others)])
    return steps.put_back(d_params, read, totals), d_carry, steps.cast_like(d_initial, carry), (d_xs, None, None)


def _weights_back(parts, params, x, starts, d_projected, d_recurrents):
    """Computes the gradients of params and inputs through the two products, over all steps at once."""
    d_params, d_x = jax.vjp(parts.project, params, x)[1](d_projected)
    if parts.recur is None:
        return d_params, d_x

    def recur(params):
        if placement.whole() is not None:  # a vmap may join T with a sharded B, which is refused there
            return jax.lax.map(lambda start: parts.recur(params, start), starts)
        return jax.vmap(parts.recur, (None, 0))(params, starts)

    (through,) = jax.vjp(recur, params)[1](d_recurrents)
    return jax.tree.map(lambda a, b: a if a.dtype == jax.dtypes.float0 else a + b, d_params, through), d_x


unrolled.defvjp(_unrolled_fwd, _unrolled_bwd)
