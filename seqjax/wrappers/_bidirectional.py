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
    """What the two cells remember."""

    forward: Carry  # after the last step
    backward: Carry  # after the first step, where the backward cell ends


@factory
def bidirectional(
    forward: Cell, backward: Cell, merge: str | Callable[[Any, Any], Any] | None = "concat", *, fresh_backward: bool = False
) -> Cell[BidirectionalParams, BidirectionalCarry]:
    """Runs one cell forward and one backward over each sequence, and merges their outputs step by step.

      y_t = merge(forward(x_1 ... x_t), backward(x_T ... x_t))

    The backward cell starts at each sequence's last real step. Where `resets` part sequences that are packed into one
    row, it starts fresh at the last step of each. With `rng` the two draw their own noise; padded outputs are zero. A
    run with `reverse=True` swaps the directions of both.

    Across truncated windows the carry of the backward cell means little: a window's backward cell starts at the
    window's end, and what the window before left it with is the past. With fresh_backward=True the carry that comes
    out holds the initial carry for the backward cell, so that a loop that hands each window's carry to the next goes on
    forward and starts fresh backward; without it, it holds the backward cell after the first step, the summary of a
    sequence that encoders use. There is no streaming step: outputs need what is still to come.

    Args:
      forward: the cell that runs from first to last.
      backward: the cell that runs from last to first.
      merge: "concat" along the features, "sum", "mean" or "multiply"; a function merge(f, b) of the outputs at one step of one
        sequence, each (H,), such as `jax.numpy.maximum`; or None, which gives them as the pair (f, b).
      fresh_backward: what the carry returned holds for the backward cell, as said above.

    Returns:
      A Cell with BidirectionalParams and BidirectionalCarry; H is the sum of both for "concat", else that of each; for None
      the pair of both, and for a function what it makes of them.

    Raises:
      ValueError: merge is unknown, or the cells differ in spatial axes, or in size where merge is none of "concat", a function
        or None.
      TypeError: an argument is no Cell.
      UserError: (from step) it works on whole sequences.

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
        raise UserError(f"{name} has no step, since it needs the whole sequence; run it by seqjax.unroll")

    def sequence(run, params, carry, initial, xs, rng):
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
    """How both outputs become one, merged(run, f, b), and the size and the spatial axes of that."""
    if merge is None:
        return lambda run, f, b: (f, b), sizes, spatial
    if callable(merge):
        cell = parts.pointwise(parts.name_of(merge), lambda both: merge(*both), sizes, spatial)
        return lambda run, *both: run(cell, (), (), (), both, None)[1], cell.hidden_size, cell.output_spatial
    if merge not in MERGES:
        raise ValueError(f"merge must be one of {list(MERGES)}, a function or None, and it is {merge!r}")
    if merge != "concat" and sizes[0] != sizes[1]:
        raise ValueError(f"merge={merge!r} needs cells of one hidden_size, and they are {sizes[0]} and {sizes[1]}")
    if jax.tree.structure(sizes[0]) != jax.tree.structure(sizes[1]):
        raise ValueError(f"merge={merge!r} needs cells whose outputs are built alike, and their sizes are {sizes[0]} and {sizes[1]}")
    size = jax.tree.map(lambda f, b: f + b if merge == "concat" else f, *sizes)
    return lambda run, f, b: jax.tree.map(MERGES[merge], f, b), size, spatial
