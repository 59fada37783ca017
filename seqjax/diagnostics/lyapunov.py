"""Lyapunov exponents of a recurrent network on its inputs: the mean rate at which a perturbation of the carry grows or decays."""

from typing import Any, NamedTuple

import jax.numpy as jnp

import seqjax
from seqjax.diagnostics import jacobians, probes
from seqjax.typing import Array, Carry, Cell, Params, factory


class Lyapunov(NamedTuple):
    """Exponents in nats per step: 0 neither grows nor shrinks, -0.69 halves at every step."""

    exponents: Array  # (B, K), approximately descending: means of `growths` over the counted steps
    growths: Array  # (B, T, K): log |r_kk| of each step; 0 at padded steps
    counted: Array  # bool (B, T): the real steps after the first `skip` of the run


class _Turning(NamedTuple):
    carry: Carry
    q: Array  # (B, N, K), orthonormal columns


def lyapunov_exponents(
    cell: Cell, params: Params, xs: Array, carry: Carry | None = None, *, count: int | None = None, skip: int = 0, **options: Any
) -> Lyapunov:
    r"""The Lyapunov exponents by QR: the frame is multiplied by every step's Jacobian and re-orthonormalised.

    .. math:: J_t Q_{t-1} = Q_t R_t, \quad \lambda_k = \frac{1}{T} \sum_t \log |(R_t)_{kk}|

    The largest is the rate at which gradients vanish (below 0) or explode (above 0) over long lags: the gradient over n steps is about
    exp(n lambda_1). Each step takes only K forward-mode derivatives.

    Args:
      cell: a cell with a step; a stack is seen as a whole.
      params, xs, carry: as for `seqjax.unroll`, xs (B, T, D).
      count: K, how many of the largest exponents; all N by default, N being the size of a sequence's carry.
      skip: initial steps that align the frame and are not counted.
      **options: lengths, resets, reverse of `seqjax.unroll`. A reset restarts from the first frame; the derivative across it, which is 0,
        is not counted.

    Returns:
      Lyapunov. A direction that a step maps to 0 has -inf from there on.

    Raises:
      ValueError: count is not in 1 ... N.

    Example:
      >>> import jax
      >>> cell = seqjax.rnn(3, recurrent_init=lambda key, shape, dtype: 0.9 * jnp.eye(3, dtype=dtype))
      >>> params = cell.init(jax.random.key(0), 2)
      >>> found = lyapunov_exponents(cell, params, jnp.zeros((1, 50, 2)), count=2)
      >>> [round(float(exponent), 4) for exponent in found.exponents[0]]  # log 0.9
      [-0.1054, -0.1054]

    Source: Benettin et al. 1980; Engelken, Wolf, Abbott 2023, "Lyapunov spectra of chaotic recurrent neural networks";
    Vogt et al. 2022, "On Lyapunov Exponents for RNNs" (arXiv:2006.14123).
    """
    start = cell.initial_carry(params, xs.shape[0]) if carry is None else carry
    size = jacobians.flatten(start)[0].shape[1]
    if count is not None and not 1 <= count <= size:
        raise ValueError(f"count must be 1 ... {size}, the numbers in a sequence's carry, and it is {count}")
    turning = _turning(cell, count or size)
    _, growths = seqjax.unroll(turning, params, xs, _first_frame(start, count or size), engine="scan", **options)
    real = probes.real_steps(xs, options.get("lengths"))
    number = jnp.cumsum(real[:, ::-1], axis=1)[:, ::-1] if options.get("reverse") else jnp.cumsum(real, axis=1)
    counted = real & (number > skip)
    total = jnp.where(counted[:, :, None], growths, 0).sum(axis=1)
    return Lyapunov(total / jnp.maximum(counted.sum(axis=1), 1)[:, None], growths, counted)


def _first_frame(carry, count):
    vector = jacobians.flatten(carry)[0]
    frame = jnp.eye(vector.shape[1], count, dtype=vector.dtype)
    return _Turning(carry, jnp.broadcast_to(frame[None], (vector.shape[0], *frame.shape)))


@factory
def _turning(cell, count):
    def initial_carry(params, batch_size):
        return _first_frame(cell.initial_carry(params, batch_size), count)

    def step(params, carry, x):
        after, _ = cell.step(params, carry.carry, x)
        q, r = jnp.linalg.qr(jacobians.times_jacobian(cell, params, carry.carry, x, carry.q))
        return _Turning(after, q), jnp.log(jnp.abs(jnp.diagonal(r, axis1=1, axis2=2)))

    return cell.replace(name=f"lyapunov of {cell.name}", initial_carry=initial_carry, step=step)
