"""A residual connection around a cell."""

from seqjax.typing import CarryT, Cell, ParamsT, Wrap, factory
from seqjax.wrappers import parts


@factory
def residual(cell: Cell[ParamsT, CarryT]) -> Cell[ParamsT, CarryT]:
    """Adds a cell's input to its output.

      (carry', u) = step(params, carry, x),  y = u + x

    Args:
      cell: a cell whose input size is its output size.

    Returns:
      A Cell with the params and the carry of the inner cell.

    Raises:
      ValueError: the spatial axes of the cell's outputs differ from those of its inputs; (from init and unroll) the
        input size differs from the output size.
      TypeError: cell is not a Cell.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.residual(seqjax.gru(16))
      >>> params = cell.init(jax.random.key(0), 16)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 16)))
      >>> ys.shape
      (2, 5, 16)

    Reference:
      Wu et al. 2016, "Google's Neural Machine Translation System", section 3.1.
    """
    parts.check_cell("cell", cell)
    if cell.spatial != cell.output_spatial:
        raise ValueError(
            f"residual({cell.name}) adds its input to its output, so their spatial axes must be equal, got {parts.spatial_axes(cell)}"
        )

    def check(input_size):
        if input_size != cell.hidden_size:
            raise ValueError(
                f"residual({cell.name}) adds its input to its output, so their sizes must be equal: the input size is "
                f"{input_size} and the output size is {cell.hidden_size}"
            )

    def init(key, input_size):
        check(input_size)
        return cell.init(key, input_size)

    def step(params, carry, x):
        check(x.shape[-1])
        carry, y = cell.step(params, carry, x)
        return carry, y + x.astype(y.dtype)

    def sequence(run, params, carry, initial, xs, rng):
        check(xs.shape[-1])
        carry, ys = run(cell, params, carry, initial, xs, rng)
        return carry, ys + xs.astype(ys.dtype)

    return Cell(
        name=f"residual({cell.name})",
        hidden_size=cell.hidden_size,
        init=init,
        initial_carry=cell.initial_carry,
        input_size=cell.input_size,
        step=step,
        wrap=Wrap((cell,), sequence),
        spatial=cell.spatial,
    )
