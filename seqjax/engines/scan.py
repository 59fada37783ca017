"""The plain engine: `lax.scan` over the step, differentiable in every mode and any number of times.

The other engines are tested against it. The whole step runs in the loop, including the input product.
"""

from typing import Any

import jax

from seqjax.engines import steps
from seqjax.typing import Array, Carry, Cell, Params


def refusal(cell: Cell, params: Params, xs: Any, **settings: Any) -> str | None:
    """Returns None: this engine runs every case."""
    del cell, params, xs, settings
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
    """Runs a cell over a sequence, time-major.

    Args:
      cell: a cell without `sequence` in its wrap.
      params: its parameters.
      carry: the carry to start from.
      initial: the carry that a reset restores.
      xs: inputs (T, B, D), zero at padded steps; or a pytree of such arrays.
      mask: bool (T, B), False at padded steps; None where every step is real.
      resets: bool (T, B), or None.
      reverse: runs from the last step to the first.
      remat_every: steps whose intermediate values are recomputed in the backward pass; None keeps them all.
      offload: keeps the carries of `remat_every` in the host's memory.

    Returns:
      (carry, ys), ys (T, B, H) and zero at padded steps.
    """

    def body(carry, inputs):
        x, real, reset = inputs
        start = carry if reset is None else steps.select(reset, initial, carry)
        after, y = cell.step(params, start, x)
        if real is None:
            return after, y
        return steps.select(real, after, carry), steps.select(real, y, steps.zeros_like(y))

    def chunk(carry, inputs):
        return jax.lax.scan(body, carry, inputs, reverse=reverse)

    return steps.in_chunks(chunk, carry, (xs, mask, resets), remat_every, reverse, offload)
