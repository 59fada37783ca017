"""Dropout on the inputs of a cell."""

import jax
import jax.numpy as jnp

from seqjax.typing import Cell, Wrap, factory
from seqjax.wrappers import parts


@factory
def dropout(cell: Cell, rate: float, shared_over_time: bool = False) -> Cell:
    """Drops inputs of a cell in training: each step its own, or the same for all time (variational dropout).

      x~_t = m_t x_t / (1 - rate),  m_t ~ Bernoulli(1 - rate),  one m for all t where shared_over_time

    There is noise only in `seqjax.unroll(..., rng=key)`; without rng, and in the streaming `step`, there is none. All
    masks are drawn once, before the loop over time. A cell with the three parts keeps them.

    Args:
      cell: the cell whose inputs (B, T, D) are dropped; a stack or a bidirectional pair too.
      rate: share of inputs dropped, 0 <= rate < 1.
      shared_over_time: True draws one mask (B, D) for all the steps of one unroll.

    Returns:
      A Cell with the params and the carry of the one inside.

    Raises:
      ValueError: rate is not in [0, 1).
      TypeError: cell is no Cell.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.dropout(seqjax.lstm(16), rate=0.1)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)), rng=jax.random.key(1))
      >>> ys.shape
      (2, 5, 16)

    Reference:
      Zaremba, Sutskever, Vinyals 2014, "Recurrent Neural Network Regularization"; Gal, Ghahramani 2016, "A
      Theoretically Grounded Application of Dropout in Recurrent Neural Networks" for shared_over_time.
    """
    parts.check_cell("cell", cell)
    rate = parts.check_rate("rate", rate)
    settings, name = (("rate", rate), ("shared_over_time", bool(shared_over_time))), f"dropout({cell.name}, {rate:g})"

    def drop(rng, xs):
        shape = (1, *xs.shape[1:]) if shared_over_time else xs.shape
        keep = jax.random.bernoulli(rng, 1 - rate, shape)
        return jnp.where(keep, xs / (1 - rate), 0).astype(xs.dtype)

    def noise(rng, params, xs):
        mask_key, cell_key = jax.random.split(rng)
        return parts.draw(cell, cell_key, params, drop(mask_key, xs))

    def sequence(run, params, carry, initial, xs, rng):
        if rng is None or rate == 0:
            return run(cell, params, carry, initial, xs, rng)
        mask_key, cell_key = jax.random.split(rng)
        return run(cell, params, carry, initial, drop(mask_key, xs), cell_key)

    if cell.wrap and cell.wrap.sequence:
        return cell.replace(name=name, settings=settings, wrap=Wrap((cell,), sequence))
    return parts.noisy(cell, noise if rate else None, name, settings=settings)
