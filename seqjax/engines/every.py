"""The carry after every step, on any engine, by making the cell's carry part of its output."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.engines import steps
from seqjax.typing import Array, Carry, Cell, Linear, factory


class Carries(NamedTuple):
    """The result of a run, in place of the last carry."""

    last: Carry  # leaves (B, ...)
    every: Carry  # leaves (T, B, ...)


@factory
def recorded(cell: Cell) -> Cell:
    """Returns a cell whose output is (y, carry after the step).

    Example:
      >>> import seqjax
      >>> cell = seqjax.lstm(4)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> after, (y, same) = recorded(cell).step(params, cell.initial_carry(params, 2), jnp.ones((2, 3)))
      >>> after is same
      True
    """

    def with_carry(function):
        def called(*args):
            after, y = function(*args)
            return after, (y, after)

        return called

    split: Any = cell.split
    if isinstance(split, Linear):
        output, carry = split.output, split.carry
        split = split._replace(output=lambda params, hs, xs: (output(params, hs, xs), carry(hs)))
    elif split is not None:
        split = split._replace(combine=with_carry(split.combine))
    return cell.replace(name=f"{cell.name} with every carry", step=with_carry(cell.step), split=split)


def collected(start: Carry, last: Carry, found: tuple[Array, Carry], mask: Array | None, reverse: bool) -> tuple[Carries, Array]:
    """Splits the result of a recorded cell's run, with the carry held at padded steps.

    Args:
      start: the carry that the run started from.
      last: the carry after the last step.
      found: (ys, carries) of the run, (T, B, ...), zero at padded steps.
      mask: bool (T, B), or None.
      reverse: the direction of the run.

    Returns:
      (Carries, ys).
    """
    ys, carries = found
    return Carries(last, carries if mask is None else steps.held(carries, mask, reverse, start)), ys


def _is_carries(node: Any) -> bool:
    return isinstance(node, Carries)


def last_of(carry: Any) -> Carry:
    """Returns the last carry, from the `Carries` of one or several cells."""
    return jax.tree.map(lambda node: node.last if _is_carries(node) else node, carry, is_leaf=_is_carries)


def all_of(carry: Any, steps: int) -> Carry:
    """Returns the carries of every step; a carry set by hand is repeated at each."""

    def spread(node):
        return node.every if _is_carries(node) else jnp.broadcast_to(node[None], (steps, *node.shape))

    return jax.tree.map(spread, carry, is_leaf=_is_carries)


def inside(cell: Cell) -> Cell | None:
    """Returns the cell that `recorded` was given, or None if this one is not recorded."""
    return dict(cell.made.arguments)["cell"] if cell.made and cell.made.function is recorded else None
