"""Shared parts of the engines: masks and resets of a step, runs in chunks, and which arrays a function reads."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import jaxpr_as_fun

from seqjax.typing import Array, Carry, Cell, Params

CARRY = "carry before a chunk"  # its name for `jax.checkpoint`, by which it is offloaded


def select(flag: Array, on_true: Any, on_false: Any, axis: int = 0) -> Any:
    """Selects on_true where the sequence's flag (B,) is set, over pytrees of arrays with B at the given axis."""

    def pick(a, b):
        return jnp.where(flag.reshape(flag.shape + (1,) * (a.ndim - 1) if axis == 0 else (1,) * axis + flag.shape), a, b)

    return jax.tree.map(pick, on_true, on_false)


def held(stacked: Any, mask: Array, reverse: bool, before: Any = None) -> Any:
    """Fills padded steps with the value of the last real step before them, in the direction of the run.

    Args:
      stacked: pytree of arrays (T, B, ...).
      mask: bool (T, B), False at padded steps.
      reverse: the direction of the run.
      before: pytree of arrays (B, ...), used where there was no real step yet; zeros by default.

    Returns:
      A pytree like `stacked`.
    """
    length = mask.shape[0]
    if length == 0:
        return stacked
    outside, latest = (length, jax.lax.cummin) if reverse else (-1, jax.lax.cummax)
    last = latest(jnp.where(mask, jnp.arange(length, dtype=jnp.int32)[:, None], outside), axis=0, reverse=reverse)
    take = jax.vmap(lambda array, step: array.at[step].get(mode="clip"), 1, 1)

    def hold(stacked, before=None):
        none = (last == outside).reshape(mask.shape + (1,) * (stacked.ndim - 2))
        return jnp.where(none, 0 if before is None else before[None].astype(stacked.dtype), take(stacked, last))

    return jax.tree.map(hold, stacked) if before is None else jax.tree.map(hold, stacked, before)


def flip_resets(resets: Array | None, mask: Array | None, reverse: bool) -> Array | None:
    """Converts resets for the other direction: they go before a step whose predecessor there is in another sequence.

    A reset at step t separates t from the real step before it in the run; the other direction crosses that boundary on
    its way from t to that step.
    """
    if resets is None:
        return None
    real = jnp.ones_like(resets) if mask is None else mask
    # The number of the sequence that each step belongs to, counted in the direction of the run.
    number = jax.lax.cumsum((resets & real).astype(jnp.int32), axis=0, reverse=reverse)
    last = jnp.iinfo(jnp.int32).max
    # That of the next real step, in the direction of the run; the number never falls, so it is the smallest to come.
    coming = jax.lax.cummin(jnp.where(real, number, last), axis=0, reverse=not reverse)
    edge = jnp.full_like(coming[:1], last)
    after = jnp.concatenate([edge, coming[:-1]] if reverse else [coming[1:], edge])
    return (after != number) & (after != last)


def zeros_like(tree: Any) -> Any:
    """Returns zeros in place of every array."""
    return jax.tree.map(jnp.zeros_like, tree)


def wide_zeros(tree: Any) -> Any:
    """Returns zeros to accumulate gradients in: one for every array, never narrower than float32."""
    return jax.tree.map(lambda a: jnp.zeros_like(a, _wide(a.dtype)), tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Casts the arrays of a pytree to the dtypes of another."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), tree, like)


def with_wide_params(cell: Cell, params: Params) -> tuple[Cell, Params]:
    """Widens params to float32 at least, and returns a cell that first casts them back to their own dtypes.

    The numbers are the same. The gradient, which a backward pass sums over thousands of steps, is accumulated in
    float32; a sum in bfloat16 stops growing after a few hundred.
    """
    leaves, tree = jax.tree.flatten(params)
    dtypes = [leaf.dtype for leaf in leaves]
    wide = [leaf.astype(_wide(dtype)) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    if all(a.dtype == dtype for a, dtype in zip(wide, dtypes, strict=True)):
        return cell, params

    def narrow(params):
        return tree.unflatten([a.astype(dtype) for a, dtype in zip(jax.tree.leaves(params), dtypes, strict=True)])

    return cell.on_params(narrow), tree.unflatten(wide)


def _wide(dtype):
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


@jax.tree_util.register_static
class Flags(tuple):
    """Whether each array of each argument was read; passed from a forward pass to its backward pass as static data."""


def with_reads(function: Callable, *args: Any) -> tuple[Any, Flags]:
    """Traces a function once: its result, and for each argument whether each of its arrays is read and differentiable."""
    leaves, tree = jax.tree.flatten(args)
    closed, shapes = jax.make_jaxpr(lambda leaves: function(*jax.tree.unflatten(tree, leaves)), return_shape=True)(leaves)
    read = {id(v) for equation in closed.jaxpr.eqns for v in equation.invars} | {id(v) for v in closed.jaxpr.outvars}
    flags = iter(id(v) in read and jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in closed.jaxpr.invars)
    flags = Flags(tuple(next(flags) for _ in jax.tree.leaves(arg)) for arg in args)
    return jax.tree.unflatten(jax.tree.structure(shapes), jaxpr_as_fun(closed)(*leaves)), flags


def chosen(tree: Any, flags: tuple[bool, ...]) -> list[Array]:
    """Returns the arrays of a pytree whose flag is set."""
    return [leaf for leaf, flag in zip(jax.tree.leaves(tree), flags, strict=True) if flag]


def put_back(tree: Any, flags: tuple[bool, ...], arrays: list[Any]) -> Any:
    """Returns the pytree with these arrays where the flag is set."""
    leaves, structure = jax.tree.flatten(tree)
    chosen = iter(arrays)
    return structure.unflatten([next(chosen) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)])


def back_through_mask(
    d_start: Any, d_carry: Any, d_initial: Any, real: Array | None, reset: Array | None, axis: int = 0
) -> tuple[Any, Any]:
    """Runs the backward pass through a step's reset and mask.

    Args:
      d_start: cotangent of the carry that the step started from.
      d_carry: cotangent of the carry after the step, which a padded step passes on unchanged.
      d_initial: the cotangent of the initial carry accumulated so far.
      real: bool (B,), False at a padded step; or None.
      reset: bool (B,), or None.
      axis: position of B in the arrays.

    Returns:
      (cotangent of the carry before the step, d_initial plus the contribution of a reset).
    """
    if reset is not None:
        none = zeros_like(d_start)
        # d_start is zero at a padded step, so that a reset there adds nothing.
        d_initial = jax.tree.map(jnp.add, d_initial, select(reset, d_start, none, axis))
        d_start = select(reset, none, d_start, axis)
    if real is not None:
        d_start = select(real, d_start, d_carry, axis)
    return d_start, d_initial


def _offloaded(chunk):
    """Returns `chunk`, which keeps its first carry in the host's memory and recomputes everything else in the backward pass."""
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[CARRY], offload_src="device", offload_dst="pinned_host"
    )

    def named(carry, inputs):
        return chunk(checkpoint_name(carry, CARRY), inputs)

    return jax.checkpoint(named, prevent_cse=True, policy=policy)


def in_chunks(chunk: Callable, carry: Carry, inputs: Any, size: int | None, reverse: bool, offload: bool = False) -> tuple[Carry, Any]:
    """Runs over time in chunks of `size` steps, whose inner values the backward pass recomputes.

    Args:
      chunk: chunk(carry, inputs) -> (carry, ys) over some steps.
      carry: the carry to start from.
      inputs: pytree of arrays (T, ...).
      size: steps in a chunk; None runs all at once and keeps what the backward pass needs.
      reverse: runs from the last step to the first.
      offload: keeps the carries between chunks in the host's memory until the backward pass needs them.

    Returns:
      (carry, ys), ys (T, ...).
    """
    if size is None:
        return chunk(carry, inputs)
    chunk = _offloaded(chunk) if offload else jax.checkpoint(chunk, prevent_cse=True)
    steps = jax.tree.leaves(inputs)[0].shape[0]
    whole = steps // size * size
    # Chunks are counted from the end where the run begins; the remainder is at the other end.
    cut = steps - whole if reverse else whole
    left, right = jax.tree.map(lambda a: a[:cut], inputs), jax.tree.map(lambda a: a[cut:], inputs)
    main, rest = (right, left) if reverse else (left, right)
    main = jax.tree.map(lambda a: a.reshape(whole // size, size, *a.shape[1:]), main)
    carry, ys = jax.lax.scan(chunk, carry, main, reverse=reverse)
    ys = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)
    if whole == steps:
        return carry, ys
    carry, ys_rest = chunk(carry, rest)
    pair = (ys_rest, ys) if reverse else (ys, ys_rest)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *pair)
