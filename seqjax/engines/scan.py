"""The plain engine: `lax.scan` over time, differentiable in every mode and any number of times."""

import jax
import jax.numpy as jnp

from seqjax.typing import Array, Carry, Cell, Params


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
    """Runs a cell over a sequence, time-major.

    Args:
      cell: a cell without `sequence`.
      params: its parameters.
      carry: the carry to start from.
      initial: the carry that a reset goes back to.
      xs: inputs (T, B, D), zero at padded steps; or a pytree of such arrays.
      mask: bool (T, B), False at padded steps; None where every step is real.
      resets: bool (T, B), or None.
      reverse: runs from the last step to the first.
      remat_every: steps whose intermediate values are computed anew in the backward pass; None keeps them all.

    Returns:
      (carry, ys), ys (T, B, H) and zero at padded steps.
    """

    def chunk(params, initial, carry, inputs):
        return _scan(cell, params, initial, carry, inputs, reverse)

    inputs = (xs, mask, resets)
    if remat_every is None:
        return chunk(params, initial, carry, inputs)
    return _in_chunks(jax.checkpoint(chunk, prevent_cse=True), params, initial, carry, inputs, reverse, remat_every)


def _scan(cell, params, initial, carry, inputs, reverse):
    xs, mask, resets = inputs
    hoisted = cell.project is not None
    if hoisted:
        xs = cell.project(params, xs)

    def advance(carry, x):
        if hoisted:
            return cell.combine(params, carry, x, cell.recur(params, carry))
        return cell.step(params, carry, x)

    def body(carry, inputs):
        x, real, reset = inputs
        start = carry if reset is None else _select(reset, initial, carry)
        after, y = advance(start, x)
        if real is None:
            return after, y
        return _select(real, after, carry), _select(real, y, jax.tree.map(jnp.zeros_like, y))

    return jax.lax.scan(body, carry, (xs, mask, resets), reverse=reverse)


def _select(flag, on_true, on_false):
    """on_true where the sequence's flag (B,) is set, over pytrees of arrays (B, ...)."""
    return jax.tree.map(lambda a, b: jnp.where(flag.reshape(flag.shape + (1,) * (a.ndim - 1)), a, b), on_true, on_false)


def _in_chunks(chunk, params, initial, carry, inputs, reverse, size):
    """Scans over chunks of `size` steps, and then over the steps that are left."""
    steps = jax.tree.leaves(inputs)[0].shape[0]
    whole = steps // size * size
    # Chunks are counted from the end where the run begins; the rest lies at the other.
    cut = steps - whole if reverse else whole
    left, right = jax.tree.map(lambda a: a[:cut], inputs), jax.tree.map(lambda a: a[cut:], inputs)
    main, rest = (right, left) if reverse else (left, right)
    main = jax.tree.map(lambda a: a.reshape(whole // size, size, *a.shape[1:]), main)
    carry, ys = jax.lax.scan(lambda c, i: chunk(params, initial, c, i), carry, main, reverse=reverse)
    ys = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)
    if whole == steps:
        return carry, ys
    carry, ys_rest = chunk(params, initial, carry, rest)
    pair = (ys_rest, ys) if reverse else (ys, ys_rest)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *pair)
