"""DropConnect on the recurrent weights."""

import jax
import jax.numpy as jnp

from seqjax.errors import UserError
from seqjax.typing import CarryT, Cell, ParamsT, factory
from seqjax.wrappers import parts


@factory
def weight_drop(cell: Cell[ParamsT, CarryT], rate: float) -> Cell[ParamsT, CarryT]:
    """Drops recurrent weights in training (DropConnect): one mask for all the steps and sequences of one unroll.

      U~ = M U / (1 - rate),  M ~ Bernoulli(1 - rate), of the shape of U

    Kept weights are scaled up, so that evaluation uses the weights unchanged. The cell itself runs on any engine that
    supports it, with its `recurrent_kernel` changed once, before the loop; noise is applied only in
    `seqjax.unroll(..., rng=key)`.

    Args:
      cell: a cell with a `recurrent_kernel` among its params, or a wrapper that holds one as `cell`.
      rate: fraction of weights dropped, 0 <= rate < 1.

    Returns:
      A Cell with the params and the carry of the inner cell.

    Raises:
      ValueError: rate is not in [0, 1).
      UserError: the params have no recurrent_kernel (from init), or the cell works on whole sequences.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.weight_drop(seqjax.lstm(16), rate=0.5)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)), rng=jax.random.key(1))
      >>> ys.shape
      (2, 5, 16)

    Reference:
      Merity, Keskar, Socher 2018, "Regularizing and Optimizing LSTM Language Models"; Wan et al. 2013, "Regularization
      of Neural Networks using DropConnect".
    """
    parts.check_inside_step("weight_drop", cell)
    rate = parts.check_rate("rate", rate)

    def init(key, input_size):
        params = cell.init(key, input_size)
        _change(cell, params, lambda kernel: kernel)
        return params

    def noise(rng, params, xs):
        mask_key, cell_key = jax.random.split(rng)

        def drop(kernel):
            keep = jax.random.bernoulli(mask_key, 1 - rate, kernel.shape)
            return jnp.where(keep, kernel / (1 - rate), 0).astype(kernel.dtype)

        return parts.draw(cell, cell_key, _change(cell, params, drop), xs)

    name = f"weight_drop({cell.name}, {rate:g})"
    return parts.noisy(cell, noise if rate else None, name, init=init, settings=(("rate", rate),))


def _change(cell, params, change):
    """Returns the params with their recurrent kernel changed; a wrapper's params hold it under `cell`."""
    if hasattr(params, "recurrent_kernel"):
        return params._replace(recurrent_kernel=change(params.recurrent_kernel))
    if hasattr(params, "cell"):
        return params._replace(cell=_change(cell, params.cell, change))
    known = ", ".join(getattr(params, "_fields", ())) or "no named fields"
    raise UserError(f"weight_drop needs a cell with a recurrent_kernel, but the params of {cell.name} have {known}")
