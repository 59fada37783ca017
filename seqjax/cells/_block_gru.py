"""The block GRU of world models: recurrent weights in blocks, and layer normalisation before the gates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import block_diagonal, parts
from seqjax.cells._dense import dense_cell
from seqjax.typing import Array, Cell, DType, Initializer, factory

GATES = 3


class BlockGRUParams(NamedTuple):
    """Parameters of the block GRU; the gates lie side by side in the order r, n, z."""

    kernel: Array  # input weights, (D, 3H)
    recurrent_kernel: Array  # (blocks, H / blocks, 3 H / blocks), a block's gates side by side; (H, 3H) for one
    bias: Array  # added after the normalisation, (3H,)
    gain: Array  # gain of the normalised sum of the products, (3H,)


class BlockGRUCarry(NamedTuple):
    """Carry of the block GRU."""

    h: Array  # the memory, which is the last output, (B, H), never narrower than float32


@factory
def block_gru(
    hidden_size: int,
    blocks: int = 8,
    *,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    gain_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[BlockGRUParams, BlockGRUCarry]:
    """A GRU with block-diagonal recurrent weights and layer normalisation, the memory of the Dreamer world models.

      r, n, z = LN(x W + h U) + b,  with U block-diagonal
      h' = sigmoid(z - 1) tanh(sigmoid(r) n) + (1 - sigmoid(z - 1)) h,  y = h'

    LN(a) = gain (a - mean) / sqrt(variance + 1e-5), over the three gates of all blocks at once, with statistics in float32
    or wider, as in `lstm(layer_norm=True)`; later versions of DreamerV3 divide by the root mean square alone. The -1
    makes the cell keep most of its memory at first. Unlike in `gru`, z is the weight of the candidate, and the reset
    gate multiplies the candidate's whole normalised sum. The layers that world models put before this cell are not
    included.

    Args:
      hidden_size: number of hidden units, H.
      blocks: number of blocks of U; a unit sees only the last output of its own block. It must divide hidden_size. 1
        gives a full matrix, as in DreamerV2.
      kernel_init: initializer of one gate of W, (D, H). Glorot uniform by default.
      recurrent_init: initializer of one gate and block of U, (H / blocks, H / blocks). Orthogonal by default.
      bias_init: initializer of b (3H,). Zeros by default.
      gain_init: initializer of the gain (3H,). Ones by default.
      dtype: dtype to compute the products in, and of y; the memory h is never narrower than float32. That of the
        parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with BlockGRUParams and BlockGRUCarry.

    Raises:
      ValueError: hidden_size or blocks is below 1.
      UserError: blocks does not divide hidden_size.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.block_gru(hidden_size=16, blocks=4)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.h.shape, params.recurrent_kernel.shape
      ((2, 5, 16), (2, 16), (4, 4, 12))

    Reference:
      Hafner et al. 2023, "Mastering Diverse Domains through World Models" (arXiv:2301.04104); Hafner et al. 2021,
      "Mastering Atari with Discrete World Models" (arXiv:2010.02193).
    """
    block_diagonal.check_blocks("blocks", blocks, hidden_size=hidden_size)

    def project(params, xs):
        compute = parts.compute_dtype(dtype, params.kernel)
        return xs.astype(compute) @ params.kernel.astype(compute)

    def join(params, projected, recurrent):
        wide = parts.memory_dtype(dtype, params.kernel)
        both = projected.astype(wide) + recurrent.astype(wide)
        return (parts.add_bias(parts.normalize(both, params.gain), params.bias),)

    def combine(params, carry, gates):
        r, n, z = gates
        z = parts.sigmoid(z - 1)
        return BlockGRUCarry(h=z * jnp.tanh(parts.sigmoid(r) * n) + (1 - z) * carry.h)

    cell = dense_cell(
        "block_gru",
        hidden_size,
        BlockGRUCarry,
        combine,
        gates=GATES,
        params=BlockGRUParams,
        memory=("h",),
        extra={"gain": (gain_init or jax.nn.initializers.ones, (GATES * hidden_size,))},
        heads=blocks,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        dtype=dtype,
        param_dtype=param_dtype,
    )
    return cell.replace(split=cell.parts._replace(project=project, join=join))
