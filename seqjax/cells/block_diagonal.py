"""Block-diagonal recurrent weights: units in groups, each of which sees its own group alone."""

import jax
import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.errors import UserError
from seqjax.typing import Array, Initializer


def check_blocks(name: str, blocks: int, hidden_size: int) -> int:
    """A number of blocks that divides hidden_size, or an error that names the argument."""
    blocks = parts.check_size(name, blocks)
    if parts.check_size("hidden_size", hidden_size) % blocks:
        raise UserError(f"hidden_size must be a multiple of {name}, and it is {hidden_size} with {name}={blocks}")
    return blocks


def kernel_shape(blocks: int, hidden_size: int, gates: int) -> tuple[int, ...]:
    """The shape of a recurrent kernel: (K, H / K, G H / K) for K blocks, and the matrix (H, G H) for one.

    Example:
      >>> kernel_shape(2, 8, 3), kernel_shape(1, 8, 3)
      ((2, 4, 12), (8, 24))
    """
    size = hidden_size // blocks
    return (size, gates * size) if blocks == 1 else (blocks, size, gates * size)


def product(h: Array, kernel: Array, gates: int) -> Array:
    """The product of h with a kernel of `kernel_shape`, computed in the kernel's dtype.

    Args:
      h: (..., H).
      kernel: (K, H / K, G H / K), the gates of a block side by side; or a matrix (H, G H).
      gates: number of gates, G.

    Returns:
      (..., G H), the gates side by side, each with its K blocks in order.

    Example:
      >>> product(jnp.arange(4.0), jnp.ones((2, 2, 4)), 2).tolist()
      [1.0, 1.0, 5.0, 5.0, 1.0, 1.0, 5.0, 5.0]
    """
    h = h.astype(kernel.dtype)
    if kernel.ndim == 2:
        return h @ kernel
    blocks, size, _ = kernel.shape
    lead = h.shape[:-1]
    found = jnp.einsum("...ks,ksw->...kw", h.reshape(*lead, blocks, size), kernel)
    by_gate = jnp.swapaxes(found.reshape(*lead, blocks, gates, size), -3, -2)
    return by_gate.reshape(*lead, gates * blocks * size)


def per_block(init: Initializer) -> Initializer:
    """An initializer of kernels (K, rows, columns) that draws each block on its own; of a matrix, that very initializer."""

    def draw(key, shape, dtype=jnp.float32):
        if len(shape) == 2:
            return init(key, shape, dtype)
        return jnp.stack([init(k, shape[1:], dtype) for k in jax.random.split(key, shape[0])])

    return draw
