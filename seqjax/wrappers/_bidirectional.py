"""Two cells over a sequence, one in each direction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.errors import UserError
from seqjax.typing import Carry, Cell, Params, Wrap, factory
from seqjax.wrappers import parts

MERGES = {
    "concat": lambda f, b: jnp.concatenate([f, b], axis=-1),
    "sum": lambda f, b: f + b,
    "mean": lambda f, b: (f + b) / 2,
    "multiply": lambda f, b: f * b,
}


class BidirectionalParams(NamedTuple):
    """Parameters of the two cells."""

    forward: Params
    backward: Params


class BidirectionalCarry(NamedTuple):
    """Carries of the two cells."""

    forward: Carry  # after the last step
    backward: Carry  # after the first step, where the backward cell ends


@factory
def bidirectional(
    forward: Cell, backward: Cell, merge: str | Callable[[Any, Any], Any] | None = "concat", *, fresh_backward: bool = False
) -> Cell[BidirectionalParams, BidirectionalCarry]:
    """Runs one cell forward and one backward over each sequence, and merges their outputs step by step.

      y_t = merge(forward(x_1 ... x_t), backward(x_T ... x_t))

    The backward cell starts at each sequence's last real step. If `resets` separate sequences packed into one row, it
    restarts at the last step of each. With `rng` the two cells draw independent noise; padded outputs are zero. With
    `reverse=True` the two directions are swapped.

    Across truncated windows the carry of the backward cell means little: a window's backward cell starts at the
    window's end, while the previous window's carry describes the past. With fresh_backward=True the returned carry
    holds the initial carry for the backward cell, so that a loop that passes each window's carry to the next continues
    forward and restarts backward; without it, the carry holds the backward cell after the first step, the summary of a
    sequence that encoders use. There is no streaming step, since outputs need future inputs.

    Args:
      forward: the cell that runs from first to last.
      backward: the cell that runs from last to first.
      merge: "concat" along the features, "sum", "mean" or "multiply"; a function merge(f, b) of the outputs at one step of one
        sequence, each (H,), such as `jax.numpy.maximum`; or None, which returns the pair (f, b).
      fresh_backward: whether the returned carry holds the initial carry for the backward cell, as explained above.

    Returns:
      A Cell with BidirectionalParams and BidirectionalCarry; H is the sum of both sizes for "concat", the common size
      for the other names, the pair for None, and the size of the result for a function.

    Raises:
      ValueError: merge is unknown, the cells differ in spatial axes, or they differ in size and merge is not "concat",
        a function or None.
      TypeError: an argument is not a Cell.
      UserError: (from step) the cell works on whole sequences.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.bidirectional(seqjax.lstm(16), seqjax.lstm(16))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)), lengths=jax.numpy.array([5, 3]))
      >>> ys.shape, bool((carry.backward.h == ys[:, 0, 16:]).all())
      ((2, 5, 32), True)

    Reference:
      Schuster, Paliwal 1997, "Bidirectional Recurrent Neural Networks"; Graves, Schmidhuber 2005.
    """
    parts.check_cell("forward", forward)
    parts.check_cell("backward", backward)
    axes = [parts.spatial_axes(cell) for cell in (forward, backward)]
    if axes[0] != axes[1]:
        raise ValueError(f"the cells must agree in their spatial axes: {axes[0]} and {axes[1]}")
    merged, size, output_spatial = _merged(merge, (forward.hidden_size, backward.hidden_size), forward.output_spatial)
    name = f"bidirectional({forward.name}, {backward.name})"

    def init(key, input_size):
        keys = jax.random.split(key)
        return BidirectionalParams(forward.init(keys[0], input_size), backward.init(keys[1], input_size))

    def initial_carry(params, batch_size):
        return BidirectionalCarry(
            forward=forward.initial_carry(params.forward, batch_size),
            backward=backward.initial_carry(params.backward, batch_size),
        )

    def step(params, carry, x):
        raise UserError(f"{name} has no step, since it needs the whole sequence; run it with seqjax.unroll")

    def sequence(run, params, carry, initial, xs, rng) -> tuple[BidirectionalCarry, Any]:
        rngs = (None, None) if rng is None else jax.random.split(rng)
        (ahead, ys), (back, zs) = run.both((forward, backward), params, carry, initial, xs, rngs)
        back = initial.backward if fresh_backward else back
        return BidirectionalCarry(forward=ahead, backward=back), merged(run, ys, zs)

    return Cell(
        name=name,
        hidden_size=size,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: forward.input_size(params.forward),
        step=step,
        wrap=Wrap((forward, backward), sequence),
        spatial=forward.spatial,
        output_spatial=output_spatial,
        settings=(("merge", "pair" if merge is None else merge), ("fresh_backward", bool(fresh_backward))),
    )


def _merged(merge, sizes, spatial):
    """Returns merged(run, f, b), which combines both outputs, and the size and spatial axes of its result."""
    if merge is None:
        return lambda run, f, b: (f, b), sizes, spatial
    if callable(merge):
        cell = parts.pointwise(parts.name_of(merge), lambda both: merge(*both), sizes, spatial)
        return lambda run, *both: run(cell, (), (), (), both, None)[1], cell.hidden_size, cell.output_spatial
    if merge not in MERGES:
        raise ValueError(f"merge must be one of {list(MERGES)}, a function or None, got {merge!r}")
    if merge != "concat" and sizes[0] != sizes[1]:
        raise ValueError(f"merge={merge!r} needs cells of equal hidden_size, got {sizes[0]} and {sizes[1]}")
    if jax.tree.structure(sizes[0]) != jax.tree.structure(sizes[1]):
        raise ValueError(f"merge={merge!r} needs cells whose outputs have the same structure, got sizes {sizes[0]} and {sizes[1]}")
    size = jax.tree.map(lambda f, b: f + b if merge == "concat" else f, *sizes)
    return lambda run, f, b: jax.tree.map(MERGES[merge], f, b), size, spatial
