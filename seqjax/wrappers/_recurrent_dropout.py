"""Dropout on the recurrent connections, with one mask for all steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.typing import Array, CarryT, Cell, Params, ParamsT, factory
from seqjax.wrappers import parts


class RecurrentDropoutParams(NamedTuple):
    """Params during one training unroll; `init` returns the params of the inner cell."""

    cell: Params  # of the inner cell
    keep: Array  # which units of h enter the recurrent product, bool, shaped like h; with per_gate (G, *h.shape)


@factory
def recurrent_dropout(cell: Cell[ParamsT, CarryT], rate: float, *, per_gate: bool = False) -> Cell[ParamsT, CarryT]:
    """Drops units of h in the recurrent product during training, the same ones at every step of an unroll.

      recurrent_t = (m h_{t-1} / (1 - rate)) U,  m ~ Bernoulli(1 - rate), (B, H), one m for all t and all gates
      per_gate:  gate g of it is (m_g h_{t-1} / (1 - rate)) U_g, with one m_g per gate

    Only the product sees the mask: other uses of h, such as the GRU's z h, are unchanged. The mask is drawn once,
    before the loop; noise is applied only in `seqjax.unroll(..., rng=key)`. The variational RNN of the paper is
    `dropout(recurrent_dropout(cell, rate), rate, shared_over_time=True)`.

    Args:
      cell: a cell with the three parts (project, recur, combine) and `h` in its carry.
      rate: fraction of units dropped, 0 <= rate < 1.
      per_gate: draws a mask per gate: the paper's untied weights, and what Keras does. It costs one product per gate.
        For a cell with one gate it makes no difference.

    Returns:
      A Cell with the params and the carry of the inner cell.

    Raises:
      ValueError: rate is not in [0, 1).
      UserError: the cell has no separate recurrent product (the GRU with the reset before the product), no h (from
        init), or works on whole sequences.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.recurrent_dropout(seqjax.lstm(16), rate=0.25)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)), rng=jax.random.key(1))
      >>> ys.shape
      (2, 5, 16)

    Reference:
      Gal, Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks".
    """
    parts.check_inside_step("recurrent_dropout", cell, split=True)
    rate = parts.check_rate("rate", rate)
    gates = cell.parts.gates if per_gate else 1
    name = f"recurrent_dropout({cell.name}, {rate:g})"

    def init(key, input_size):
        params = cell.init(key, input_size)
        parts.check_field("recurrent_dropout", cell, jax.eval_shape(lambda p: cell.initial_carry(p, 1), params), "h")
        return params

    def noise(rng, params, xs):
        mask_key, cell_key = jax.random.split(rng)
        h = jax.eval_shape(lambda p: cell.initial_carry(p, xs.shape[1]), params).h
        keep = jax.random.bernoulli(mask_key, 1 - rate, (gates, *h.shape) if gates > 1 else h.shape)
        inner, params, xs = parts.draw(cell, cell_key, params, xs)
        return _masked(inner, rate, gates, name), RecurrentDropoutParams(params, keep), xs

    settings = (("rate", rate), ("per_gate", gates > 1))
    return parts.noisy(cell, noise if rate else None, name, init=init, settings=settings)


def _masked(cell, rate, gates, name):
    """Returns the cell with the masks in its params applied to the h of its recurrent product."""
    inside = cell.on_params(lambda params: params.cell)

    def recur(params, carry):
        def masked(keep):
            h = jnp.where(keep, carry.h / (1 - rate), 0).astype(carry.h.dtype)
            return params, carry._replace(h=h)

        if gates > 1:
            return parts.gate_by_gate(inside, "recur", masked, params.keep)
        return inside.parts.recur(*masked(params.keep))

    return inside.replace(name=name, split=inside.parts._replace(recur=recur))
