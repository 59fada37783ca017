"""The plain engine: `lax.scan` over time, differentiable in every mode and any number of times.

Where the input product is done. Measured on 2 cores (AVX-512, jax 0.10.2, others busy), one LSTM layer, time-major,
milliseconds forward / forward and gradient to weights and inputs, minimum of 5 to 30 interleaved runs:

  ===================  ===================  ====================  ========================
  B, T, D, H           before the loop      two products a step   one product [x, h] a step
  ===================  ===================  ====================  ========================
  32, 64, 256, 256     20.3 / 86.2          17.3 / 73.2           15.7 / 61.7
  32, 64, 70, 256      13.3 / 45.7          9.2 / 31.2            8.8 / 25.0
  64, 35, 650, 650     89.0 / 249.6         76.7 / 268.0          71.5 / 231.9
  20, 35, 200, 200     4.1 / 14.2           2.9 / 18.1            3.0 / 13.4
  128, 784, 1, 128     423 / 1322           446 / 1112            202 / 743
  ===================  ===================  ====================  ========================

The large projected array (T, B, G H) and its cotangent cost more than they save, so on a CPU the whole step is in the
loop; the LSTM and the vanilla cell make one product of their two (`cells/parts.py`), and a GRU (32, 64, 70, 256), which
cannot, takes 8.7 / 36.4 in place of 19.2 / 76.0. On other devices, where a loop of small products leaves the device
idle, the input product is done before the loop (not measured yet).

With freed memory kept between steps (`seqjax.training.command.keep_freed_memory`) the order is the same for the LSTM
(32, 64, 70, 256: gradient 67 before the loop, 65, 53); a GRU's gradient is then 10 % slower before the loop at that
shape, and 8 to 17 % faster at 64, 35, 650, 650 and 20, 35, 200, 200.

Tried and left out, since none gained 5 % at every shape through the noise of a busy machine: sigmoid by tanh, one tanh
for all four gates, an optimization barrier before the gates, and a checkpoint that keeps only the gates' sums.
The last looked up to 1.5 times faster at the larger shapes and slower at 32, 64, 70, 256: measure it again when quiet.
"""

import jax
import jax.numpy as jnp

from seqjax.typing import Array, Carry, Cell, Params


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
) -> tuple[Carry, Array]:
    """Runs a cell over a sequence, time-major.

    Args:
      cell: a cell without `sequence`.
      params: its parameters.
      carry: the carry to start from.
      initial: the carry that a reset goes back to.
      xs: inputs (T, B, D), zero at padded steps; or a pytree of such arrays.
      mask: bool (T, B), False at padded steps; None where every step is real.
      resets: bool (T, B), or None.
      reverse: runs from the last step to the first.
      remat_every: steps whose intermediate values are computed anew in the backward pass; None keeps them all.

    Returns:
      (carry, ys), ys (T, B, H) and zero at padded steps.
    """

    def chunk(params, initial, carry, inputs):
        return _scan(cell, params, initial, carry, inputs, reverse)

    inputs = (xs, mask, resets)
    if remat_every is None:
        return chunk(params, initial, carry, inputs)
    return _in_chunks(jax.checkpoint(chunk, prevent_cse=True), params, initial, carry, inputs, reverse, remat_every)


def _scan(cell, params, initial, carry, inputs, reverse):
    xs, mask, resets = inputs
    def body(carry, inputs):
        x, real, reset = inputs
        start = carry if reset is None else _select(reset, initial, carry)
        after, y = cell.step(params, start, x)
        if real is None:
            return after, y
        return _select(real, after, carry), _select(real, y, jax.tree.map(jnp.zeros_like, y))

    return jax.lax.scan(body, carry, (xs, mask, resets), reverse=reverse)


def _select(flag, on_true, on_false):
    """on_true where the sequence's flag (B,) is set, over pytrees of arrays (B, ...)."""
    return jax.tree.map(lambda a, b: jnp.where(flag.reshape(flag.shape + (1,) * (a.ndim - 1)), a, b), on_true, on_false)


def _in_chunks(chunk, params, initial, carry, inputs, reverse, size):
    """Scans over chunks of `size` steps, and then over the steps that are left."""
    steps = jax.tree.leaves(inputs)[0].shape[0]
    whole = steps // size * size
    # Chunks are counted from the end where the run begins; the rest lies at the other.
    cut = steps - whole if reverse else whole
    left, right = jax.tree.map(lambda a: a[:cut], inputs), jax.tree.map(lambda a: a[cut:], inputs)
    main, rest = (right, left) if reverse else (left, right)
    main = jax.tree.map(lambda a: a.reshape(whole // size, size, *a.shape[1:]), main)
    carry, ys = jax.lax.scan(lambda c, i: chunk(params, initial, c, i), carry, main, reverse=reverse)
    ys = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)
    if whole == steps:
        return carry, ys
    carry, ys_rest = chunk(params, initial, carry, rest)
    pair = (ys_rest, ys) if reverse else (ys, ys_rest)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *pair)
