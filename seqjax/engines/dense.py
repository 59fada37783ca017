"""The fused engine for cells whose two products are plain matrix products: one product per step.

With v = [x, 1, h] and the kernels stacked to match, K = [W; b; U], the two products of a step and its bias are one, v K.
Going back, with ds the cotangent of the gates' sums,

  [dx, 1, dh] = ds K'     one product per step
  dK = V' dS              one product for all weights, over all T B rows at once, after the loop

so the backward loop carries only the carry's cotangent (and sums over B for vectors that `combine` reads, such as
peepholes). It needs V, the gates' sums, and those parts of the carry that `combine` reads. A cell that reads the two
products separately (the GRU's reset) computes two of them, with [x, 1] and with h.

Inside the loop arrays are rows, (B, G H), or columns, (G H, B). Arrays stacked over time are (T, B, ...) except for the
sums, so that the long product has rows on both sides. docs/design/speed.md lists the measurements, and what was tried
and rejected.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from seqjax import placement
from seqjax._split import by_sequence, side_by_side
from seqjax.engines import steps
from seqjax.typing import Array, Carry, Cell, Dense, Params


class Layout(NamedTuple):
    """The layout of arrays inside the loop."""

    columns: bool  # (features, B) instead of (B, features)

    @property
    def features(self) -> int:
        """The axis of features."""
        return 0 if self.columns else 1

    @property
    def batch(self) -> int:
        """The axis of sequences."""
        return 1 if self.columns else 0

    def turn(self, tree: Any) -> Any:
        """Converts rows to this layout and back, by the last two axes of every array."""
        return jax.tree.map(lambda a: a.swapaxes(-1, -2), tree) if self.columns else tree


def prefers_columns(cell: Cell, batch: int) -> bool:
    """Whether columns are faster, by measurement: on a CPU, for an LSTM, if its one product is large.

    XLA's product of the transposed kernel with (H, B) runs at the processor's peak, while that of (B, H) with the
    kernel reaches two thirds of it; for smaller products, transposing the outputs costs more than it gains.
    """
    large = max(jax.tree.leaves(cell.hidden_size)) >= 256 and not is_below(batch, 8)
    split = cast(Dense, cell.split)
    return large and jax.default_backend() == "cpu" and split.additive and split.gates >= 3


def is_below(size: Any, limit: int) -> bool:
    """Whether an array size is below a limit; False for a symbolic size of `jax.export`."""
    return isinstance(size, int) and size < limit


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def unrolled(cell: Cell, layout: Layout, reverse: bool, params: Params, carry: Carry, initial: Carry, inputs: tuple) -> tuple[Carry, Array]:
    """Runs a cell whose split is `Dense` over `inputs`, which are (xs, mask, resets), time-major."""
    last, (ys, _), _ = _forward(cell, layout, reverse, params, carry, initial, inputs, keep=False)
    return last, ys


def _kernels(cell, params):
    """Returns [W; b; U] as one, or [W; b] and U."""
    kernel, recurrent_kernel, bias = cell.split.products(params)
    with_bias = jnp.concatenate([kernel, bias[None]])
    return (jnp.concatenate([with_bias, recurrent_kernel]),) if cell.split.additive else (with_bias, recurrent_kernel)


def _operands(cell, layout, x, h):
    """Returns what the kernels are multiplied by: [x, 1, h], or [x, 1] and h."""
    ones = jnp.ones_like(jax.lax.slice_in_dim(x, 0, 1, axis=layout.features))
    with_one = jnp.concatenate([x, ones], layout.features)
    h = h.astype(x.dtype)
    return (jnp.concatenate([with_one, h], layout.features),) if cell.split.additive else (with_one, h)


def _combine(cell, layout, params, carry, sums, others):
    """Calls cell.split.combine with the sums split into gates, followed by the noise that accompanies x."""
    gates = [gate for s in sums for gate in side_by_side(s, cell.split.gates, layout.features)]
    if not layout.columns:
        return by_sequence(cell.split.combine, params, carry, (*gates, *others))
    # Vectors in params are broadcast over B, so that all arrays have one layout and nothing is transposed.
    batch = gates[0].shape[1]
    spread = jax.tree.map(lambda p: jnp.broadcast_to(p[:, None], (p.size, batch)) if p.ndim == 1 else p, params)
    columns = jax.tree.map(lambda p: 1 if p.ndim == 1 else None, params)
    return by_sequence(cell.split.combine, spread, carry, (*gates, *others), axis=1, columns=columns)


def _forward(cell, layout, reverse, params, carry, initial, inputs, keep):
    xs, mask, resets = inputs
    x, *others = jax.tree.leaves(xs)
    initial = layout.turn(initial)
    kernels = _kernels(cell, params)
    x = x.astype(kernels[0].dtype)
    if layout.columns:
        # The barrier keeps the transposed copy, made once; otherwise XLA would transpose inside the product, which is
        # slow.
        kernels = jax.lax.optimization_barrier(layout.turn(kernels))
    combine = functools.partial(_combine, cell, layout)
    read = None

    def body(carry, inputs):
        nonlocal read
        x, others, real, reset = inputs
        start = carry if reset is None else steps.select(reset, initial, carry, layout.batch)
        operands = _operands(cell, layout, layout.turn(x), start.h)
        sums = tuple(k @ v if layout.columns else v @ k for k, v in zip(kernels, operands, strict=True))
        combined = params, start, sums, layout.turn(others)
        if keep:
            (after, y), read = steps.with_reads(combine, *combined)
            kept = layout.turn(operands), sums, steps.chosen(start, read[1])
        else:
            (after, y), kept = combine(*combined), None
        if real is not None:
            held = (carry, steps.zeros_like(y))
            after, y = steps.select(real, (after, y), held, layout.batch)
        return after, (layout.turn(y), kept)

    last, stacked = jax.lax.scan(body, layout.turn(carry), (x, others, mask, resets), reverse=reverse)
    return layout.turn(last), stacked, read


def _unrolled_fwd(cell, layout, reverse, params, carry, initial, inputs):
    last, (ys, kept), read = _forward(cell, layout, reverse, params, carry, initial, inputs, keep=True)
    return (last, ys), (params, carry, inputs, kept, read)


def _unrolled_bwd(cell, layout, reverse, saved, cotangents):
    params, carry, (xs, mask, resets), (operands, sums, starts), read = saved
    d_last, d_ys = cotangents
    (x, *others), tree = jax.tree.flatten(xs)
    kernels, kernels_back = jax.vjp(lambda p: _kernels(cell, p), params)
    params_read, carry_read, *_ = read
    any_carry, width = layout.turn(carry), carry.h.shape[-1]

    def body(state, inputs):
        d_carry, d_vectors, d_initial = state
        d_y, sums, start, others, real, reset = inputs
        d_after, d_y = d_carry, layout.turn(d_y)
        if real is not None:
            none = steps.zeros_like((d_after, d_y))
            d_after, d_y = steps.select(real, (d_after, d_y), none, layout.batch)
        # Parts that combine does not read may be anything of the right shape.
        start = steps.put_back(any_carry, carry_read, start)
        others = layout.turn(others)

        def combine(vectors, start, sums):
            return _combine(cell, layout, steps.put_back(params, params_read, vectors), start, sums, others)

        _, back = jax.vjp(combine, steps.chosen(params, params_read), start, sums)
        d_vectors_now, d_start, d_sums = back((d_after, d_y))
        d_operands = [k @ d if layout.columns else d @ k.T for k, d in zip(kernels, d_sums, strict=True)]
        d_h = jax.lax.slice_in_dim(d_operands[-1], -width, None, axis=layout.features)
        d_start = d_start._replace(h=d_start.h + d_h.astype(d_start.h.dtype))
        d_start, d_initial = steps.back_through_mask(d_start, d_carry, d_initial, real, reset, layout.batch)
        d_vectors = jax.tree.map(jnp.add, d_vectors, d_vectors_now)
        d_x = jax.lax.slice_in_dim(d_operands[0], 0, x.shape[-1], axis=layout.features)
        return (d_start, d_vectors, d_initial), layout.turn((d_x, d_sums))

    state = (layout.turn(d_last), steps.zeros_like(steps.chosen(params, params_read)), steps.wide_zeros(any_carry))
    inputs = (d_ys, sums, starts, others, mask, resets)
    state, _ = placement.tree_varies_together((state, inputs))
    (d_carry, d_vectors, d_initial), (d_x, d_sums) = jax.lax.scan(body, state, inputs, reverse=not reverse)
    weigh = functools.partial(jnp.einsum, "tbk,tbg->kg", out_sharding=placement.whole())
    (d_params,) = kernels_back(tuple(weigh(v, d) for v, d in zip(operands, d_sums, strict=True)))
    totals = [a + b for a, b in zip(steps.chosen(d_params, params_read), d_vectors, strict=True)]
    d_xs = tree.unflatten([d_x.astype(x.dtype), *(None for _ in others)])
    d_params = steps.put_back(d_params, params_read, totals)
    d_initial = steps.cast_like(layout.turn(d_initial), carry)
    return d_params, layout.turn(d_carry), d_initial, (d_xs, None, None)


unrolled.defvjp(_unrolled_fwd, _unrolled_bwd)
