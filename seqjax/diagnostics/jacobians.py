"""Jacobians of a cell's step, and the singular values of them and of their products, as logarithms.

For one sequence, with the carry as one vector c of N numbers:

    J_t = d c_t / d c_{t-1},   d c_t / d c_s = J_t J_{t-1} ... J_{s+1}

A product starts at the start of the sequence, and restarts at each reset, across which the derivative is exactly 0. A padded step passes
the carry on, so its Jacobian is the identity, and it is not counted.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import seqjax
from seqjax.diagnostics import probes
from seqjax.typing import Array, Carry, Cell, Params, factory


class SingularValues(NamedTuple):
    """Singular values of the Jacobian of each step."""

    values: Array  # (B, T, N), descending; 0 at padded steps
    real: Array  # bool (B, T): padded steps do not count


class ProductSingularValues(NamedTuple):
    """Singular values of the products J_t ... J_{s+1} from the start or the last reset, s, to each step t."""

    logs: Array  # (B, T, N), natural logarithms, descending; at a padded step those of the step before
    lengths: Array  # int (B, T): number of factors, t - s
    real: Array  # bool (B, T): padded steps do not count


class _Product(NamedTuple):
    """A product as U diag(exp d) W: U orthogonal, W well conditioned."""

    carry: Carry
    u: Array  # (B, N, N)
    d: Array  # (B, N)
    w: Array  # (B, N, N)
    length: Array  # int (B,)


def flatten(carry: Carry) -> tuple[Array, Callable[[Array], Carry]]:
    """A carry as one vector per sequence, (B, N), and the function that restores a carry from such vectors.

    Example:
      >>> cell = seqjax.lstm(8)
      >>> vector, unflatten = flatten(cell.initial_carry(cell.init(jax.random.key(0), 4), 2))
      >>> vector.shape, unflatten(vector).c.shape
      ((2, 16), (2, 8))
    """
    leaves, tree = jax.tree.flatten(carry)
    batch = leaves[0].shape[0]
    flat = [leaf.reshape(batch, -1) for leaf in leaves]
    ends = list(itertools.accumulate(part.shape[1] for part in flat))[:-1]

    def unflatten(vector):
        parts = jnp.split(vector, ends, axis=1)
        return tree.unflatten([a.reshape(-1, *leaf.shape[1:]).astype(leaf.dtype) for a, leaf in zip(parts, leaves)])

    return jnp.concatenate(flat, axis=1), unflatten


def _alone(cell, params, carry):
    """The step of one sequence, (N,), (*spatial, D) -> (N,), and the carries as vectors (B, N)."""
    vector, unflatten = flatten(carry)

    def step(v, x):
        after, _ = cell.step(params, unflatten(v[None]), x[None])
        return flatten(after)[0][0].astype(v.dtype)

    return step, vector


def step_jacobians(cell: Cell, params: Params, carry: Carry, x: Array) -> Array:
    """The Jacobian of one step with respect to its initial carry, J_t, for each sequence.

    To get all steps of a run at once, give the carries from `carries_before`, or guesses of them, as a batch (B T, ...). These are the
    Jacobians that Newton's method linearises with, and that RTRL multiplies its influence matrix by.

    Args:
      cell: a cell with a step; a stack is one cell, whose Jacobian is block lower triangular.
      params: its parameters.
      carry: the carry before the step, each array (B, ...).
      x: inputs (B, D).

    Returns:
      (B, N, N): row i, column j holds d after_i / d before_j, with the carry's arrays concatenated as in `flatten`.

    Example:
      >>> cell = seqjax.rnn(3)
      >>> params = cell.init(jax.random.key(0), 2)
      >>> found = step_jacobians(cell, params, cell.initial_carry(params, 1), jnp.zeros((1, 2)))
      >>> bool(jnp.allclose(found[0], params.recurrent_kernel.T))  # tanh has slope 1 at 0
      True
    """
    step, vector = _alone(cell, params, carry)
    return jax.vmap(jax.jacfwd(step))(vector, x)


def times_jacobian(cell: Cell, params: Params, carry: Carry, x: Array, columns: Array) -> Array:
    """J_t times a matrix for each sequence, without forming the Jacobian: K forward-mode derivatives.

    Args:
      cell, params, carry, x: as for `step_jacobians`.
      columns: (B, N, K).

    Returns:
      (B, N, K).

    Example:
      >>> cell = seqjax.gru(3)
      >>> params = cell.init(jax.random.key(0), 2)
      >>> at = cell.initial_carry(params, 1), jnp.ones((1, 2))
      >>> found = times_jacobian(cell, params, *at, jnp.eye(3)[None, :, :2])
      >>> bool(jnp.allclose(found, step_jacobians(cell, params, *at)[:, :, :2], atol=1e-6))
      True
    """
    step, vector = _alone(cell, params, carry)

    def one(v, x, columns):
        return jax.vmap(jax.linearize(lambda v: step(v, x), v)[1], 1, 1)(columns)

    return jax.vmap(one)(vector, x, columns.astype(vector.dtype))


def carries_before(cell: Cell, params: Params, xs: Array, carry: Carry | None = None, **options: Any) -> Carry:
    """The carry that each step starts from: that of the previous step, or after a reset the initial one.

    Args:
      cell, params, xs, carry: as for `seqjax.unroll`, xs (B, T, D).
      **options: lengths, resets, reverse of `seqjax.unroll`.

    Returns:
      Structured like the carry, arrays (B, T, ...); 0 at padded steps.

    Example:
      >>> cell = seqjax.gru(3)
      >>> params = cell.init(jax.random.key(0), 2)
      >>> found = carries_before(cell, params, jnp.ones((1, 4, 2)), resets=jnp.array([[False, False, True, False]]))
      >>> (found.h == 0).all(axis=2).tolist()
      [[True, False, True, False]]
    """
    return seqjax.unroll(probes.watching(cell, probes.carry_before), params, xs, carry, engine="scan", **options)[1]


def _values_of_step(cell, params, before, x, after):
    del after
    return jnp.linalg.svd(step_jacobians(cell, params, before, x), compute_uv=False)


def singular_values(cell: Cell, params: Params, xs: Array, carry: Carry | None = None, **options: Any) -> SingularValues:
    """The singular values of every step's Jacobian: how much it stretches or shrinks a perturbation of the carry.

    The Jacobians are computed step by step, B N^2 numbers at a time.

    Args:
      cell, params, xs, carry: as for `seqjax.unroll`, xs (B, T, D).
      **options: lengths, resets, reverse of `seqjax.unroll`. After a reset the Jacobian is that at the initial carry.

    Returns:
      SingularValues.

    Example:
      >>> cell = seqjax.rnn(3)  # its recurrent kernel is orthogonal at first
      >>> params = cell.init(jax.random.key(0), 2)
      >>> singular_values(cell, params, jnp.zeros((1, 4, 2))).values[0, 3].round(3).tolist()
      [1.0, 1.0, 1.0]
    """
    found = seqjax.unroll(probes.watching(cell, _values_of_step), params, xs, carry, engine="scan", **options)[1]
    return SingularValues(found, probes.real_steps(xs, options.get("lengths")))


def product_singular_values(
    cell: Cell, params: Params, xs: Array, carry: Carry | None = None, *, sweeps: int = 8, **options: Any
) -> ProductSingularValues:
    r"""The singular values of the products of the steps' Jacobians, however small or large: d c_t / d c_s over a growing lag.

    .. math:: J_t \cdots J_{s+1} = U_t \, e^{D_t} \, W_t

    A product is kept as an orthogonal matrix, logarithms and a well-conditioned matrix, so that nothing under- or overflows and small
    values are not lost next to large ones. The singular values of the last two factors come from `sweeps` steps of QR iteration; two close
    ones may be off by a fraction of their distance.

    Args:
      cell, params, xs, carry: as for `seqjax.unroll`, xs (B, T, D).
      sweeps: of the QR iteration.
      **options: lengths, resets, reverse of `seqjax.unroll`. A reset starts the product afresh.

    Returns:
      ProductSingularValues.

    Example:
      >>> cell = seqjax.rnn(3, recurrent_init=lambda key, shape, dtype: 0.5 * jnp.eye(3, dtype=dtype))
      >>> params = cell.init(jax.random.key(0), 2)
      >>> found = product_singular_values(cell, params, jnp.zeros((1, 400, 2)))  # 2^-400 is below the smallest float32
      >>> [round(float(log), 3) for log in found.logs[0, -1] / 400]
      [-0.693, -0.693, -0.693]

    Source: Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063) for the products; Stewart 1992 and Bai, Lee, Li, Xu 2011, "Stable
    solutions of linear systems involving long chain of matrix multiplications", for their graded form.
    """
    start = cell.initial_carry(params, xs.shape[0]) if carry is None else carry
    fresh = _fresh_product(start)
    _, (logs, lengths) = seqjax.unroll(_products(cell, sweeps), params, xs, fresh, engine="scan", **options)
    return ProductSingularValues(logs, lengths, probes.real_steps(xs, options.get("lengths")))


def _fresh_product(carry):
    vector = flatten(carry)[0]
    unit = jnp.broadcast_to(jnp.eye(vector.shape[1], dtype=vector.dtype)[None], (*vector.shape, vector.shape[1]))
    return _Product(carry, unit, jnp.zeros_like(vector), unit, jnp.zeros(vector.shape[:1], jnp.int32))


@factory
def _products(cell, sweeps):
    def initial_carry(params, batch_size):
        return _fresh_product(cell.initial_carry(params, batch_size))

    def step(params, carry, x):
        ahead = times_jacobian(cell, params, carry.carry, x, carry.u)
        after, _ = cell.step(params, carry.carry, x)
        u, d, t = graded_qr(ahead, carry.d)
        new = _Product(after, u, d, t @ carry.w, carry.length + 1)
        return new, (graded_logs(new.d, new.w, sweeps), new.length)

    return cell.replace(name=f"products of {cell.name}", initial_carry=initial_carry, step=step)


def graded_qr(matrix: Array, d: Array) -> tuple[Array, Array, Array]:
    r"""Factors A diag(exp d) = Q diag(exp d') T, where T has no entry above 1 and d' is unrestricted.

    Args:
      matrix: A, (..., N, N).
      d: natural logarithms, (..., N).

    Returns:
      (Q, d', T): Q orthogonal, T triangular except for the order of its columns. A direction that A maps to 0 has d' of -inf.

    Example:
      >>> q, d, t = graded_qr(jnp.array([[2.0, 0.0], [0.0, 3.0]]), jnp.array([-200.0, 0.0]))
      >>> [round(float(log), 3) for log in d], jnp.abs(t).tolist()
      ([1.099, -199.307], [[0.0, 1.0], [1.0, 0.0]])
    """
    norms = jnp.log(jnp.linalg.norm(matrix, axis=-2)) + d
    order = jnp.argsort(-norms, axis=-1)  # the largest column first: then R is graded, and QR keeps small columns accurate
    q, r = jnp.linalg.qr(jnp.take_along_axis(matrix, order[..., None, :], axis=-1))
    logs = jnp.log(jnp.abs(r)) + jnp.take_along_axis(d, order, axis=-1)[..., None, :]
    new = logs.max(axis=-1)
    t = jnp.sign(r) * jnp.exp(logs - jnp.where(jnp.isfinite(new), new, 0)[..., None])
    return q, new, jnp.take_along_axis(t, jnp.argsort(order, axis=-1)[..., None, :], axis=-1)


def graded_logs(d: Array, w: Array, sweeps: int) -> Array:
    """Natural logarithms of the singular values of diag(exp d) W, descending.

    Args:
      d: (..., N).
      w: well conditioned, (..., N, N).
      sweeps: QR iterations, each of which brings the factors closer to diagonal.

    Returns:
      (..., N).

    Example:
      >>> graded_logs(jnp.array([-500.0, 0.0]), jnp.eye(2), 2).tolist()
      [0.0, -500.0]
    """

    def sweep(state, _):
        d, w = state
        _, d, w = graded_qr(w.swapaxes(-1, -2), d)  # of the transpose, W^T diag(exp d)
        return (d, w), None

    (d, w), _ = jax.lax.scan(sweep, (d, w), None, length=sweeps)
    _, r = jnp.linalg.qr(w.swapaxes(-1, -2))
    logs = d + jnp.log(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))
    return -jnp.sort(-logs, axis=-1)
