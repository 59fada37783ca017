"""Block-diagonal recurrent weights: units in groups, each of which sees only its own group."""

import jax
import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.errors import UserError
from seqjax.typing import Array, Initializer


def check_blocks(name: str, blocks: int, **sizes: int) -> int:
    """Checks that the number of blocks divides the sizes; the error names the arguments."""
    blocks = parts.check_size(name, blocks)
    for argument, size in sizes.items():
        if parts.check_size(argument, size) % blocks:
            raise UserError(f"{argument} must be a multiple of {name}, got {size} with {name}={blocks}")
    return blocks


def kernel_shape(blocks: int, rows: int, columns: int) -> tuple[int, ...]:
    """Returns the shape of a recurrent kernel with these rows and columns: K blocks, or a matrix for one.

    Example:
      >>> kernel_shape(2, 8, 24), kernel_shape(1, 8, 24)
      ((2, 4, 12), (8, 24))
    """
    return (rows, columns) if blocks == 1 else (blocks, rows // blocks, columns // blocks)


def product(h: Array, kernel: Array, gates: int) -> Array:
    """Multiplies h by a kernel of `kernel_shape`, in the kernel's dtype.

    Args:
      h: (..., R).
      kernel: (K, R / K, G H / K), the gates of a block side by side; or a matrix (R, G H).
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
    blocks, rows, columns = kernel.shape
    lead = h.shape[:-1]
    found = jnp.einsum("...kr,krc->...kc", h.reshape(*lead, blocks, rows), kernel)
    by_gate = jnp.swapaxes(found.reshape(*lead, blocks, gates, columns // gates), -3, -2)
    return by_gate.reshape(*lead, blocks * columns)


def per_block(init: Initializer) -> Initializer:
    """Returns an initializer of kernels (K, rows, columns) that draws each block separately."""

    def draw(key, shape, dtype=jnp.float32):
        return jnp.stack([init(k, shape[1:], dtype) for k in jax.random.split(key, shape[0])])

    return draw
