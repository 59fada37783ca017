"""The gradient of a loss with respect to the carry at every step: it shows whether gradients vanish or explode."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import seqjax
from seqjax import _unroll
from seqjax.diagnostics import probes
from seqjax.errors import UserError
from seqjax.typing import Array, Carry

THROUGH = ("all", "last")


class CarryGradients(NamedTuple):
    """The gradient that reaches the carry of each step, in one call of `seqjax.unroll`."""

    norms: Carry  # structured like the carry, (B, T): Euclidean norm of dL / d carry_t, array by array
    total: Array  # (B, T): the same over the whole carry
    start: Array  # (B,): norm at the carry the run starts from
    real: Array  # bool (B, T): padded steps hold 0 and do not count


def carry_gradients(function: Callable[..., Array], *args: Any, through: str = "all") -> list[CarryGradients]:
    r"""The norm of dL / d carry_t at every step t, for each run inside a loss.

    .. math:: \frac{dL}{dc_t} = \sum_{s > t} \frac{\partial L}{\partial y_s} \frac{dy_s}{dc_t}

    plus the loss's direct dependence on the last carry. It counts paths through the steps after t, not the output of step t itself. The
    gradient is taken at zeros added to every carry, which works through any cell and wrapper. A carry before a reset gets gradient 0 from
    later steps. In float32, values below 1e-45 are 0.

    Args:
      function: function(*args) -> loss, (), which calls `seqjax.unroll` outside of any jit of its own.
      *args: its arguments, such as parameters and batch.
      through: "all" outputs, or only the "last" real one of each sequence, as for a single loss at the end. The last carry counts in both.

    Returns:
      CarryGradients for each call, in order; for a reversed run, steps are in the order of the inputs.

    Raises:
      UserError: there is no call of `seqjax.unroll`, or its inputs are not (B, T, D).
      ValueError: an unknown `through`.

    Example:
      >>> cell = seqjax.rnn(8)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> xs = jax.random.normal(jax.random.key(1), (2, 20, 4))
      >>> (found,) = carry_gradients(lambda params: seqjax.unroll(cell, params, xs)[1].sum(), params, through="last")
      >>> found.total.shape, bool(found.total[0, 1] < found.total[0, 18])
      ((2, 20), True)

    Source: Bengio, Simard, Frasconi 1994, "Learning Long-Term Dependencies with Gradient Descent is Difficult"; Pascanu,
    Mikolov, Bengio 2013 (arXiv:1211.5063).
    """
    if through not in THROUGH:
        raise ValueError(f"through must be one of {THROUGH}, and it is {through!r}")

    def zeros():
        """The zeros to add to the carry each run starts from, and after each of its steps."""
        found = []

        def watch(cell, params, xs, carry, options):
            at = probes.layout_of(cell, xs, options)
            start = cell.initial_carry(params, at.batch) if carry is None else carry
            each = jax.tree.map(lambda a: jnp.zeros((at.steps, *a.shape), a.dtype), start)
            found.append((jax.tree.map(jnp.zeros_like, start), each))
            return seqjax.unroll(cell, params, xs, carry, **options)

        with _unroll.watched(watch):
            function(*args)
        return found

    def loss(deltas):
        place, reals = iter(deltas), []

        def watch(cell, params, xs, carry, options):
            at, (first, each) = probes.layout_of(cell, xs, options), next(place)
            carry = cell.initial_carry(params, at.batch) if carry is None else carry
            carry = jax.tree.map(jnp.add, carry, first)
            cell = probes.probed(cell, at.batch, at.steps, options["reverse"])
            params = probes.Probe(params, each, (jnp.zeros(at.real.shape, bool),) * 2)
            carry, ys, *more = seqjax.unroll(cell, params, xs, carry, **options | {"engine": "scan"})
            reals.append(at.real.T)
            return carry, _last_only(ys, at, options) if through == "last" else ys, *more

        with _unroll.watched(watch):
            return function(*args), reals

    shapes = probes.some(jax.eval_shape(zeros))
    grads, reals = jax.jit(jax.grad(loss, has_aux=True))(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes))
    return [_norms(one, other, real) for (one, other), real in zip(grads, reals, strict=True)]


def _last_only(ys, at, options):
    """Outputs that pass gradients only at each sequence's last real step, in the direction of the run."""
    counted = jnp.cumsum(at.real, axis=0)
    last = at.real & (counted == (1 if options["reverse"] else counted[-1:]))
    last = last if options["time_major"] else last.T

    def keep(y):
        return jnp.where(last.reshape(last.shape + (1,) * (y.ndim - 2)), y, jax.lax.stop_gradient(y))

    return jax.tree.map(keep, ys)


def _norms(start, each, real):
    norms = jax.tree.map(lambda a: _scaled_norm(a.swapaxes(0, 1), 2), each)
    total = combined(jax.tree.leaves(norms), real.shape)
    first = combined([_scaled_norm(a, 1) for a in jax.tree.leaves(start)], real.shape[:1])
    return CarryGradients(norms, total, first, real)


def _scaled_norm(array, axes):
    """Norm over all axes after the first, without underflow or overflow of the squares."""
    flat = jnp.abs(array.reshape(*array.shape[:axes], -1))
    largest = flat.max(axis=-1, keepdims=True, initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return (jnp.linalg.norm(flat / scale, axis=-1) * scale[..., 0]).astype(jnp.promote_types(array.dtype, jnp.float32))


def combined(norms: list[Array], shape: tuple[int, ...]) -> Array:
    """The joint norm from the norms of the parts.

    Example:
      >>> float(combined([jnp.float32(3.0), jnp.float32(4.0)], ()))
      5.0
    """
    if not norms:
        raise UserError("the cell has no carry, so there is no gradient through time")
    return _scaled_norm(jnp.stack([jnp.broadcast_to(norm, shape) for norm in norms], axis=-1), len(shape))
