"""Dropout on the inputs of a cell."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.errors import UserError
from seqjax.typing import Array, CarryT, Cell, Params, ParamsT, Wrap, factory
from seqjax.wrappers import parts


class DropoutParams(NamedTuple):
    """Params during one training unroll with per_gate; `init` returns the params of the inner cell."""

    cell: Params  # of the inner cell
    keep: Array  # which inputs of each gate are kept, bool (G, B, D)


@factory
def dropout(cell: Cell[ParamsT, CarryT], rate: float, shared_over_time: bool = False, *, per_gate: bool = False) -> Cell[ParamsT, CarryT]:
    """Drops inputs of a cell in training, with a new mask at each step or one for all steps (variational dropout).

      x~_t = m_t x_t / (1 - rate),  m_t ~ Bernoulli(1 - rate),  one m for all t if shared_over_time
      per_gate:  gate g of x W is (m_g x_t / (1 - rate)) W_g, with one m_g per gate, for all t

    Noise is applied only in `seqjax.unroll(..., rng=key)`, not without rng or in the streaming `step`. All masks are
    drawn once, before the loop over time. A cell with the three parts keeps them.

    Args:
      cell: the cell whose inputs (B, T, D) are dropped; a stack or a bidirectional pair too.
      rate: fraction of inputs dropped, 0 <= rate < 1.
      shared_over_time: True draws one mask (B, D) for all the steps of one unroll.
      per_gate: with shared_over_time, draws a mask per gate: the paper's untied weights, and what Keras does together
        with recurrent dropout. It costs one product per gate. For a cell with one gate it makes no difference.

    Returns:
      A Cell with the params and the carry of the inner cell.

    Raises:
      ValueError: rate is not in [0, 1).
      TypeError: cell is not a Cell.
      UserError: per_gate is given without shared_over_time, or the cell lacks the three parts that it needs.

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
    if per_gate and not shared_over_time:
        raise UserError("dropout with per_gate=True shares its masks over time; pass shared_over_time=True too")
    if per_gate:
        parts.check_inside_step("per-gate dropout", cell, split=True)
    gates, name = cell.parts.gates if per_gate else 1, f"dropout({cell.name}, {rate:g})"
    settings = (("rate", rate), ("shared_over_time", bool(shared_over_time)), ("per_gate", gates > 1))

    def drop(rng, xs):
        shape = (1, *xs.shape[1:]) if shared_over_time else xs.shape
        return _dropped(jax.random.bernoulli(rng, 1 - rate, shape), xs, rate)

    def noise(rng, params, xs):
        mask_key, cell_key = jax.random.split(rng)
        if gates == 1:
            return parts.draw(cell, cell_key, params, drop(mask_key, xs))
        keep = jax.random.bernoulli(mask_key, 1 - rate, (gates, *xs.shape[1:]))
        inner, params, xs = parts.draw(cell, cell_key, params, xs)
        return _masked(inner, rate, gates, name), DropoutParams(params, keep), xs

    def sequence(run, params, carry, initial, xs, rng):
        if rng is None or rate == 0:
            return run(cell, params, carry, initial, xs, rng)
        mask_key, cell_key = jax.random.split(rng)
        return run(cell, params, carry, initial, drop(mask_key, xs), cell_key)

    if cell.wrap and cell.wrap.sequence:
        return cell.replace(name=name, settings=settings, wrap=Wrap((cell,), sequence))
    return parts.noisy(cell, noise if rate else None, name, settings=settings)


def _dropped(keep, xs, rate):
    return jnp.where(keep, xs / (1 - rate), 0).astype(xs.dtype)


def _masked(cell, rate, gates, name):
    """Returns the cell with the masks in its params applied to the inputs of its gates."""
    inside = cell.on_params(lambda params: params.cell)

    def project(params, xs):
        masks = params.keep.reshape(gates, *(1,) * (xs.ndim - params.keep.ndim + 1), *params.keep.shape[1:])
        return parts.gate_by_gate(inside, "project", lambda keep: (params, _dropped(keep, xs, rate)), masks)

    return inside.replace(name=name, split=inside.parts._replace(project=project))
