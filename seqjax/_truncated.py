"""Truncated backpropagation through time within a sequence: TBPTT(k1, k2)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax._checks import check_mask, check_resets
from seqjax._unroll import unroll
from seqjax.errors import UserError
from seqjax.typing import Array, CarryT, Cell, ParamsT


def truncated_unroll(
    cell: Cell[ParamsT, CarryT],
    params: ParamsT,
    xs: ArrayLike,
    carry: CarryT | None = None,
    *,
    every: int,
    back: int | None = None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    **options: Any,
) -> tuple[CarryT, Array]:
    r"""`seqjax.unroll` whose gradients are those of truncated backpropagation, TBPTT(k1, k2).

    The values are those of `unroll`. The T steps are cut into blocks of k1 = `every`; the gradient of a block's outputs
    flows through its own steps and those before it, k2 = `back` steps in all, and no further:

      dL/dparams = sum over blocks j of dL_j/dparams through the steps (j + 1) k1 - k2 ... (j + 1) k1 - 1

    With k2 = k1 the carry passes from block to block but gradients do not, which is how language models are trained.
    With k2 > k1 every loss is seen by at least k2 - k1 + 1 steps, for k2 / k1 times the work; all blocks are then run
    side by side, as rows of one batch, from the carries of a first pass. k2 >= T with k1 = 1 is exact.

    Args:
      cell, params, xs, carry, lengths, resets: as in `unroll`; xs (B, T, ..., D).
      every: k1, the number of steps per block.
      back: k2, at least k1; k1 by default.
      **options: further arguments of `unroll`, such as `engine`, except `reverse`, `time_major`, `return_carries` and
        `padded_outputs`, and with k2 > k1 also `rng`.

    Returns:
      (carry, ys) as from `unroll`. No gradient flows into the initial carry from beyond k2 steps, nor through the last
      carry.

    Raises:
      ValueError, TypeError: as `unroll`.
      UserError: every or back is too small, or an option is not supported.

    Example:
      >>> import seqjax
      >>> cell = seqjax.rnn(8)
      >>> params, xs = cell.init(jax.random.key(0), 4), jnp.ones((2, 12, 4))
      >>> loss = lambda params, **how: seqjax.truncated_unroll(cell, params, xs, **how)[1].sum()
      >>> exact = jax.grad(lambda params: seqjax.unroll(cell, params, xs)[1].sum())(params)
      >>> near, whole = jax.grad(loss)(params, every=3, back=6), jax.grad(loss)(params, every=1, back=12)
      >>> bool(jnp.allclose(whole.kernel, exact.kernel, rtol=1e-4)), bool(jnp.allclose(near.kernel, exact.kernel, rtol=1e-4))
      (True, False)

    Reference:
      Williams, Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network Trajectories",
      BPTT(h; h') with h = k2 and h' = k1.
    """
    back = every if back is None else back
    if every < 1 or back < every:
        raise UserError(f"every={every} and back={back}: every must be at least 1, and back at least every")
    refused = [name for name in ("reverse", "time_major", "return_carries") if options.get(name)]
    refused += ["padded_outputs"] * (options.get("padded_outputs", "zeros") != "zeros")
    refused += ["rng"] * (options.get("rng") is not None and back > every)
    if refused:
        raise UserError(f"truncated_unroll with every={every} and back={back} does not support {', '.join(refused)}")
    batch, steps = jax.tree.leaves(xs)[0].shape[:2]
    carry = cell.initial_carry(params, batch) if carry is None else carry
    jax.eval_shape(cell.step, params, carry, jax.tree.map(lambda a: a[:, 0], xs))  # raises if a cell needs whole sequences
    real = check_mask(lengths, batch, steps)
    resets = jnp.zeros((batch, steps), bool) if resets is None else check_resets(resets, (batch, steps))
    if every >= steps:
        return unroll(cell, params, xs, carry, lengths=real, resets=resets, **options)
    if back == every:
        return _one_after_another(cell, params, xs, carry, real, resets, every, options)
    return _side_by_side(cell, params, xs, carry, real, resets, every, back, options)


def _padded(a, before, after):
    return jnp.pad(a, ((0, 0), (before, after), *((0, 0),) * (a.ndim - 2)))


def _one_after_another(cell, params, xs, carry, real, resets, every, options):
    """Runs the blocks in a scan; no gradient flows through the carry from one block to the next."""
    steps = real.shape[1]
    blocks = -(-steps // every)
    rng = options.pop("rng", None)

    def by_block(a):
        a = _padded(a, 0, blocks * every - steps)
        return jnp.moveaxis(a.reshape(a.shape[0], blocks, every, *a.shape[2:]), 1, 0)

    def run(carry, block):
        number, xs, real, resets = block
        noise = {} if rng is None else {"rng": jax.random.fold_in(rng, number)}
        carry = jax.tree.map(lambda a: jnp.where(number > 0, jax.lax.stop_gradient(a), a), carry)
        return unroll(cell, params, xs, carry, lengths=real, resets=resets, **noise, **options)

    carry, ys = jax.lax.scan(run, carry, (jnp.arange(blocks), jax.tree.map(by_block, xs), by_block(real), by_block(resets)))

    def joined(a):
        a = jnp.moveaxis(a, 0, 1)
        return a.reshape(a.shape[0], blocks * every, *a.shape[3:])[:, :steps]

    return carry, jax.tree.map(joined, ys)


def _side_by_side(cell, params, xs, carry, real, resets, every, back, options):
    """Runs the blocks as rows of one batch, each with the steps before it, from carries of a pass without gradients."""
    batch, steps = real.shape
    blocks, before = -(-steps // every), back - every
    fixed = jax.lax.stop_gradient((params, xs, carry))
    kept = options | {"lengths": real, "resets": resets, "return_carries": True}
    *_, every_carry = unroll(cell, *fixed, **kept)
    firsts = jnp.arange(blocks) * every - before  # where each row begins; steps before 0 are padding and change nothing

    def rows(a):
        a = _padded(a, before, blocks * every - steps)
        return jnp.stack([a[:, j * every : j * every + back] for j in range(blocks)]).reshape(blocks * batch, back, *a.shape[2:])

    def start(initial, carries):
        at = carries[:, jnp.maximum(firsts - 1, 0)]  # (B, blocks, ...)
        fresh = (firsts <= 0).reshape(1, blocks, *(1,) * (at.ndim - 2))
        return jnp.moveaxis(jnp.where(fresh, initial[:, None], at), 1, 0).reshape(blocks * batch, *at.shape[2:])

    starts = jax.tree.map(start, carry, every_carry)
    last, ys = unroll(cell, params, jax.tree.map(rows, xs), starts, lengths=rows(real), resets=rows(resets), **options)

    def joined(a):
        a = a.reshape(blocks, batch, back, *a.shape[2:])[:, :, before:]
        return jnp.moveaxis(a, 0, 1).reshape(batch, blocks * every, *a.shape[3:])[:, :steps]

    return jax.tree.map(lambda a: a[-batch:], last), jax.tree.map(joined, ys)
