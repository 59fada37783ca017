"""An initial carry that is learned."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.typing import Carry, CarryT, Cell, Params, Wrap, factory
from seqjax.wrappers import parts


class LearnedInitialCarryParams(NamedTuple):
    """Parameters of a cell whose initial carry is learned."""

    cell: Params  # of the inner cell
    carry: Carry  # the initial carry of every sequence, structured like the carry without B, never narrower than float32


@factory
def learned_initial_carry(cell: Cell[Any, CarryT]) -> Cell[LearnedInitialCarryParams, CarryT]:
    """Makes the initial carry a parameter, the same for all sequences.

      carry_0 = params.carry  (initialised with the cell's own initial carry: zeros)

    A run without a given carry starts from it, and every reset restores it; its gradient comes from both. A loop over
    truncated windows that creates its first carry with `initial_carry` outside the gradient learns it from the resets
    only.

    Args:
      cell: any cell, a stack or a bidirectional pair too; put this wrapper around those that work inside a step (such
        as zoneout).

    Returns:
      A Cell with LearnedInitialCarryParams and the carry of the inner cell.

    Raises:
      TypeError: cell is not a Cell.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.learned_initial_carry(seqjax.lstm(16))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> params.carry.h.shape, cell.initial_carry(params, 2).h.shape
      ((16,), (2, 16))

    Reference:
      Hinton, "Neural Networks for Machine Learning", lecture 7: initial states as parameters.
    """
    parts.check_cell("cell", cell)

    def init(key, input_size):
        inner = cell.init(key, input_size)
        start = cell.initial_carry(inner, 1)
        return LearnedInitialCarryParams(inner, jax.tree.map(lambda a: a[0].astype(_wide(a.dtype)), start))

    def initial_carry(params, batch_size):
        like = jax.eval_shape(lambda p: cell.initial_carry(p, batch_size), params.cell)
        return jax.tree.map(lambda a, s: jnp.broadcast_to(a.astype(s.dtype)[None], s.shape), params.carry, like)

    def step(params, carry, x):
        return cell.step(params.cell, carry, x)

    # The inner cell runs directly, so that engines recognise it.
    def sequence(run, params, carry, initial, xs, rng):
        return run(cell, params.cell, carry, initial, xs, rng)

    return Cell(
        name=f"learned_initial_carry({cell.name})",
        hidden_size=cell.hidden_size,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: cell.input_size(params.cell),
        step=step,
        wrap=Wrap((cell,), sequence),
        spatial=cell.spatial,
        output_spatial=cell.output_spatial,
    )


def _wide(dtype):
    """Widens parameters to float32 at least, for training; memory that is not floating point is unchanged."""
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype
