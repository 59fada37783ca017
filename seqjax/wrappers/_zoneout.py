"""Zoneout: units that randomly keep their old value."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import placement
from seqjax.errors import UserError
from seqjax.typing import Array, CarryT, Cell, Dense, ParamsT, Wrap, factory
from seqjax.wrappers import parts


class Zoned(NamedTuple):
    """Inputs in training: each step comes with its masks."""

    inner: Any  # inputs of the inner cell, (..., D)
    keep: dict[str, Array]  # for each zoned-out field of the carry, bool (..., H), true where the old value is kept


@factory
def zoneout(cell: Cell[ParamsT, CarryT], rate: float, memory_rate: float | None = None) -> Cell[ParamsT, CarryT]:
    """Makes random units keep their old value at each training step; evaluation uses the expectation.

      training:    h_t = m_t h_{t-1} + (1 - m_t) h~_t,  m_t ~ Bernoulli(rate),  h~_t the cell's output
      evaluation:  h_t = rate h_{t-1} + (1 - rate) h~_t
      and the same for the LSTM's c with memory_rate;  y_t = h_t

    The LSTM's h~ is made from the new c before it is zoned out, as in the paper. All masks are drawn once, before the
    loop over time. The streaming `step` is the one of evaluation.

    Args:
      cell: a cell with `h` in its carry, which is also its output; the cell needs only a step.
      rate: probability that a unit of h keeps its value, 0 <= rate < 1.
      memory_rate: the same for c, if the carry has one. `rate` by default.

    Returns:
      A Cell with the params and the carry of the inner cell, and with its three parts if it has them.

    Raises:
      ValueError: a rate is not in [0, 1).
      UserError: the carry has no h, memory_rate is given but the carry has no c, or the output is not h (from init); or
        the cell works on whole sequences.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.zoneout(seqjax.lstm(16), rate=0.05, memory_rate=0.5)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)), rng=jax.random.key(1))
      >>> ys.shape, bool((carry.h == ys[:, -1]).all())
      ((2, 5, 16), True)

    Reference:
      Krueger et al. 2017, "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations".
    """
    parts.check_inside_step("zoneout", cell)
    rates = {"h": parts.check_rate("rate", rate)}
    rates["c"] = rates["h"] if memory_rate is None else parts.check_rate("memory_rate", memory_rate)
    name = f"zoneout({cell.name}, {', '.join(f'{r:g}' for r in dict.fromkeys(rates.values()))})"
    settings = (("rate", rates["h"]), ("memory_rate", rates["c"]))

    def init(key, input_size):
        params = cell.init(key, input_size)
        x = jax.ShapeDtypeStruct((1, *cell.spatial, input_size), jnp.float32)
        carry, y = jax.eval_shape(lambda p, x: cell.step(p, cell.initial_carry(p, 1), x), params, x)
        parts.check_field("zoneout", cell, carry, "h")
        if memory_rate is not None:
            parts.check_field("zoneout with memory_rate", cell, carry, "c")
        if jax.tree.map(jnp.shape, y) != carry.h.shape or jnp.iscomplexobj(carry.h):
            gives = jax.tree.map(lambda y: f"{y.dtype} {y.shape}", y)
            raise UserError(
                f"zoneout needs a cell whose output is its h, but {cell.name} gives {gives} from an h of {carry.h.dtype} {carry.h.shape}"
            )
        return params

    def noise(rng, params, xs):
        mask_key, cell_key = jax.random.split(rng)
        carry = jax.eval_shape(lambda p: cell.initial_carry(p, xs.shape[1]), params)
        keep = {
            field: jax.random.bernoulli(key, rates[field], (xs.shape[0], *getattr(carry, field).shape))
            for field, key in zip(rates, jax.random.split(mask_key))
            if hasattr(carry, field) and rates[field]
        }
        keep = placement.cut_as(keep, xs, axis=1)
        inner, params, xs = parts.draw(cell, cell_key, params, xs)
        return _training(inner, sorted(keep)).replace(name=name, settings=settings), params, Zoned(xs, keep)

    if not any(rates.values()):
        return parts.noisy(cell, None, name, init=init, settings=settings)
    return _evaluation(cell, rates).replace(name=name, init=init, settings=settings, wrap=Wrap((cell,), noise=noise))


def _evaluation(cell, rates):
    """Returns the cell whose units are updated by the expectation."""

    def mix(old, after, y):
        share = {field: rate for field, rate in rates.items() if hasattr(after, field)}
        new = {field: rate * getattr(old, field) + (1 - rate) * getattr(after, field) for field, rate in share.items()}
        after = after._replace(**new)
        return after, after.h.astype(y.dtype)

    def step(params, carry, x):
        return mix(carry, *cell.step(params, carry, x))

    def combined(combine):
        return lambda params, carry, gates: mix(carry, *combine(params, carry, gates))

    return _changed(cell, combined, step)


def _training(cell, fields):
    """Returns the cell that applies the masks of these fields, which come with its inputs."""

    def mix(keep, old, after, y):
        after = after._replace(**{f: jnp.where(m, getattr(old, f), getattr(after, f)) for f, m in keep.items()})
        return after, after.h.astype(y.dtype)

    def step(params, carry, x):
        return mix(x.keep, carry, *cell.step(params, carry, x.inner))

    def combined(combine):
        def masked(params, carry, gates):
            keep = dict(zip(fields, gates[-len(fields) :]))
            return mix(keep, carry, *combine(params, carry, gates[: -len(fields)]))

        return masked

    return _changed(cell, combined, step)


def _changed(cell, combined, step):
    """Returns the cell with another `combine`, or with another step if it has no `combine`."""
    if cell.parts is None:
        return cell.replace(step=step)
    split = cell.split if isinstance(cell.split, Dense) else cell.parts
    return cell.replace(split=split._replace(combine=combined(split.combine)))
