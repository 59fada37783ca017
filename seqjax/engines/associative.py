"""The engine for linear recurrences h_t = a_t h_{t-1} + b_t: exact, in chunks of time, with a derivative of equal cost.

How a chunk is solved. Measured on 2 cores (AVX-512, jax 0.10.2, other processes running), in nanoseconds per state
element and step, forward / forward with gradients of a, b and the first state, minimum of interleaved runs:

  ==========================  ============  ============  =============  ============
  T, B, N                     loop          tree          unrolled by 4  plain scan
  ==========================  ============  ============  =============  ============
  1000, 1, 256                0.9 / 2.2     2.7 / 4.9     2.2 / 5.3      0.7 / 2.1
  1000, 16, 128               1.3 / 3.6     5.3 / 38.7    2.4 / 6.0      1.1 / 4.2
  256, 32, 256                1.2 / 4.1     4.7 / 24.2    2.3 / 6.0      0.9 / 4.2
  64, 16, 128                 0.9 / 2.5     2.5 / 4.2     2.2 / 4.9      0.9 / 2.2
  1000, 16, 128, complex      2.6 / 12.6    16.2 / 32.3   4.4 / 16.6     2.2 / 15.0
  64, 16, 128, complex        1.4 / 3.3     3.3 / 4.8     3.4 / 7.0      1.4 / 3.3
  ==========================  ============  ============  =============  ============

The last column is `lax.scan` differentiated by JAX. So a CPU uses the loop; other backends, where each step of a loop
costs a launch, use the tree (not measured yet).

What the backward pass keeps. minGRU, nanoseconds of CPU time per token, forward / with gradients of weights and inputs;
chunks of 16, 4 and 512 steps except in the first column:

  ==================  ==============  ===============  ==================  ==================
  T, B, D, H          no chunks       keep everything  recompute a, b      recompute chunk
  ==================  ==============  ===============  ==================  ==================
  1000, 16, 64, 128   540 / 3946      636 / 4824       526 / 4227          615 / 2962
  256, 32, 256, 256   5033 / 12503    2114 / 16254     2311 / 10860        2074 / 9920
  8000, 1, 32, 64     221 / 683       259 / 977        305 / 1133          64 / 1111
  ==================  ==============  ===============  ==================  ==================

The last is always used: it keeps one state per chunk and nothing else.

How long a chunk is. The same, by tokens (steps times sequences) per chunk:

  ========================  ============  ============  ============  ============  ============
  T, B, D, H                64            128           256           512           1024
  ========================  ============  ============  ============  ============  ============
  minGRU 20000, 1, 32, 64   268 / 828     246 / 777     238 / 834     233 / 1017    238 / 1151
  minGRU 4000, 1, 128, 256  1275 / 6195   1226 / 6152   1268 / 5697   1219 / 5617   1207 / 6193
  minGRU 1024, 16, 64, 128  389 / 1628    363 / 1973    365 / 2042    423 / 2178    412 / 2399
  minGRU 256, 32, 256, 256  2015 / 9579   1941 / 8976   1942 / 8518   1844 / 8497   1830 / 8852
  LRU 1024, 16, 64, 128     805 / 5529    777 / 5324    953 / 5660    945 / 5860    908 / 6517
  ========================  ============  ============  ============  ============  ============

Longer chunks do not fit in the cache; shorter ones accumulate the weight gradients too often.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp

from seqjax.engines import steps
from seqjax.typing import Array, Carry, Cell, Linear, Params

# Tokens per chunk: the best measured on a CPU; elsewhere as many as bounded memory allows, since more run in parallel.
CHUNK = {"loop": 256, "tree": 2**15}


def refusal(cell: Cell, params: Params, xs: Any, **settings: Any) -> str | None:
    """Returns why this engine cannot run a cell; None if it can, with any mask, resets, direction and remat_every."""
    del params, xs, settings
    if not isinstance(cell.split, Linear):
        return f"{cell.name} is not a linear recurrence: what a step does to its carry depends on the carry"
    return None


def run(
    cell: Cell,
    params: Params,
    carry: Carry,
    initial: Carry,
    xs: Array,
    *,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
    remat_every: int | None,
    offload: bool = False,
) -> tuple[Carry, Array]:
    """Runs a cell whose split is `Linear` over a sequence, time-major. Arguments and results are those of `scan.run`.

    Differentiable in every mode and any number of times. In the backward pass each chunk is recomputed from the state
    before it; remat_every shortens the chunks if it is below their length. A non-finite value is cleared by the next
    reset, in outputs and in reverse-mode gradients.
    """
    linear = cast(Linear, cell.split)
    h = linear.state(carry)
    length, batch = jax.tree.leaves(xs)[0].shape[:2]
    method = _method() if isinstance(length, int) else "loop"  # a tree over a symbolic number of steps (`jax.export`) has no depth
    size = _chunk_size(length, batch, CHUNK[method], remat_every)

    def chunk(h, inputs):
        return _chunk(linear, method, params, initial, h, inputs, reverse)

    h, ys = steps.in_chunks(chunk, h, (xs, mask, resets), size, reverse, offload)
    return linear.carry(h), ys


def _chunk_size(length: Any, batch: Any, tokens: int, remat_every: int | None) -> int | None:
    """Returns the steps per chunk; with symbolic sizes (`jax.export`) it is `remat_every`, or None for all at once."""
    if not (isinstance(length, int) and isinstance(batch, int)):
        return remat_every
    size = max(1, tokens // max(1, batch))
    size = min(size, remat_every or size, max(1, length))
    # If chunks divide the steps there is no remainder, and no copy to concatenate its outputs.
    return next((n for n in range(size, size // 2, -1) if length % n == 0), size)


def _method():
    """Chooses by the default backend: the tree, with log T launches, where each loop step costs a launch."""
    return "loop" if jax.default_backend() == "cpu" else "tree"


def _chunk(linear, method, params, initial, h, inputs, reverse):
    """Runs one chunk: (the state after it, ys)."""
    xs, mask, resets = inputs
    a, b = linear.coefficients(params, xs)
    first, last = (-1, 0) if reverse else (0, -1)
    if resets is not None:
        reset = (resets if mask is None else resets & mask)[..., None]
        start = linear.state(initial)
        a, b = jnp.where(reset, 0, a), jnp.where(reset, a * start[None] + b, b)
        # Its factor is 0 already; but 0 times a state that is not finite would be NaN.
        h = jnp.where(reset[first], start, h)
    if mask is not None:
        real = mask[..., None]
        a, b = jnp.where(real, a, 1), jnp.where(real, b, 0)
    hs = linear_recurrence(a, b, h, reverse=reverse, method=method)
    ys = linear.output(params, hs, xs)
    return hs[last], ys if mask is None else jax.tree.map(lambda y: jnp.where(real, y, 0), ys)


def linear_recurrence(a: Array, b: Array, h: Array, *, reverse: bool = False, method: str = "loop") -> Array:
    """Computes all states of an elementwise linear recurrence, real or complex.

      h_t = a_t h_{t-1} + b_t,  t = 1 ... T

    The states solve the bidiagonal system h_t - a_t h_{t-1} = b_t and are presented to JAX as its solution. All
    derivatives follow from that and solve systems of the same kind: with g_t = dh_t + a_{t+1} g_{t+1}, which is the
    transposed system, db_t = g_t and da_t = g_t h_{t-1}. Only a and the states are kept for them.

    Args:
      a: factors (T, ...), T at least 1.
      b: terms (T, ...).
      h: the state to start from (...).
      reverse: runs from the last step to the first.
      method: "loop", T steps one after the other; or "tree", about 2 log2 T steps, each over many pairs in parallel.

    Returns:
      The states (T, ...), each after its step.

    Example:
      >>> import jax.numpy as jnp
      >>> linear_recurrence(jnp.full(4, 0.5), jnp.ones(4), jnp.array(0.0)).tolist()
      [1.0, 1.5, 1.75, 1.875]
    """
    solve, first = METHODS[method], -1 if reverse else 0

    def residual(hs):
        return hs - a * _shift(hs, reverse)

    def solve_transposed(_, g):
        return solve(_shift(a, not reverse), g, not reverse)

    b = b.at[first].add(a[first] * h)
    return jax.lax.custom_linear_solve(residual, b, lambda _, b: solve(a, b, reverse), solve_transposed)


def _shift(a, reverse):
    """Returns the values of the previous step, in the direction of the run; zeros at the first."""
    zero = jnp.zeros_like(a[:1])
    return jnp.concatenate([a[1:], zero]) if reverse else jnp.concatenate([zero, a[:-1]])


def _times(a, h):
    """Computes a h, with 0 where a is 0 even if h is not finite: a reset clears a NaN too."""
    return jnp.where(a == 0, 0, a * h)


def _loop(a, b, reverse):
    def body(h, ab):
        h = _times(ab[0], h) + ab[1]
        return h, h

    return jax.lax.scan(body, jnp.zeros_like(b[0]), (a, b), reverse=reverse)[1]


def _tree(a, b, reverse):
    def join(first, second):
        return _times(second[0], first[0]), _times(second[0], first[1]) + second[1]

    return jax.lax.associative_scan(join, (a, b), reverse=reverse)[1]


METHODS = {"loop": _loop, "tree": _tree}
