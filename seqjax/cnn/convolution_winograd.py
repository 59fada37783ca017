r"""Convolution with kernels of height three by half the multiplications: Winograd's F(4, 3) along the height.

Four outputs of a 3-tap filter w over six inputs d are the coefficients of a product of two polynomials, which is
determined by its values at six points:

.. math:: y = A^T \left[ (G w) \odot (B^T d) \right]

Six products instead of twelve. The taps along the width lie side by side in the rows, as in im2col. The points are 0,
+-3/4, +-3/2 and infinity: with the usual 0, +-1, +-2 the rounding error is many times that of the direct sum, with
these about twice.

Reference:
  Lavin and Gray 2016, arXiv:1509.09308. On points: Barabasz et al. 2020, arXiv:1803.10986.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax.cnn.convolution_parts import Window, barrier, chunks, map_chunks, padded, rows
from seqjax.typing import Array

TILE, TAPS, READ = 4, 3, 6  # outputs of a tile, taps along the height, inputs of a tile
# Bytes of one image part at a time: at 32 x 32 x 32 x 64 a forward pass took 6.2 ms this way, and 9.5 ms all at once.
LIMIT = 2 * 2**20


def _matrices():
    """B^T (6, 6), G (6, 3), A^T (4, 6)."""
    points = np.array([0, 0.75, -0.75, 1.5, -1.5])

    def values(coefficients):  # of the polynomials 1, x, x^2, ...: at the points, and the leading one at infinity
        at_infinity = np.eye(coefficients)[-1:]
        return np.concatenate([points[:, None] ** np.arange(coefficients), at_infinity])

    b, g, a = np.linalg.inv(values(READ)).T, values(TAPS), values(TILE).T
    b[np.abs(b) < 1e-12] = 0
    scale = 2.0 ** np.round(np.log2(np.abs(b).max(axis=1, keepdims=True)))  # a power of two, so nothing is rounded
    return b / scale, g * scale, a


B_T, G, A_T = _matrices()


def refusal(x: Array, kernel: Array, window: Window) -> str | None:
    """Returns why F(4, 3) cannot run, or None."""
    if window.groups != 1:
        return f"works on one group, got {window.groups}"
    if kernel.shape[0] != TAPS:
        return f"is for kernels 3 high, got {kernel.shape[0]}"
    if window.strides != (1, 1) or window.dilation[0] != 1:
        return f"needs strides 1 and no dilation of the height, got strides {window.strides} and dilation {window.dilation}"
    if x.dtype not in (jnp.float32, jnp.float64):
        return f"would lose too much accuracy in {x.dtype}; it is for float32 and float64"
    return None


def forward(x: Array, kernel: Array, window: Window) -> Array:
    """A^T of the products of transformed tiles and transformed kernels."""
    size = window.size(x.shape, kernel.shape)
    features = kernel.shape[-1]
    weights = _kernels(kernel)
    most = max(math.prod(x.shape[1:]), math.prod(size) * features)

    def run(x):
        tiles = -(-size[0] // TILE)
        values = [_columns(v, kernel, window, size) @ weight for v, weight in zip(_tiles(x, window, size), weights)]
        lines = [_combine(row, values).reshape(x.shape[0], tiles, 1, size[1], features) for row in A_T]
        return jnp.concatenate(lines, axis=2).reshape(x.shape[0], tiles * TILE, size[1], features)[:, : size[0]]

    count = chunks(x.shape[0], most * x.dtype.itemsize, LIMIT)
    many = x.shape[0] * math.prod(size) >= 2048  # below, the products of half a batch are too small
    return map_chunks(run, barrier(x.shape[0], count) if many else count, x)


def input_gradient(g: Array, kernel: Array, window: Window, image: tuple[int, ...]) -> Array:
    """The flipped kernel over the cotangents."""
    return forward(g, kernel[::-1, ::-1].swapaxes(2, 3), window.flipped(image, kernel.shape))


def kernel_gradient(x: Array, g: Array, window: Window, kernel: tuple[int, ...]) -> Array:
    r"""G^T of the products of transformed tiles and A of the cotangents; the image is feature-major, which is 1.3 times as fast."""
    size = g.shape[1:3]
    missing = -size[0] % TILE
    lines = padded(g, ((0, missing), (0, 0)))
    lines = [lines[:, r::TILE] for r in range(TILE)]
    products = []
    for tile, row in zip(_tiles(x, window, size, feature_major=True), A_T.T):
        columns = jnp.concatenate([tile[..., j : j + size[1]] for j in _starts(kernel, window)])
        products.append(columns.reshape(columns.shape[0], -1) @ rows(_combine(row, lines)))
    gradient = [_combine(G[:, i], products).reshape(kernel[1:]) for i in range(TAPS)]
    return jnp.stack(gradient)


def _combine(coefficients, terms) -> Any:
    """Sums the terms, each times its coefficient."""
    return sum(float(c) * term for c, term in zip(coefficients, terms) if c)


def _tiles(x, window, size, feature_major=False):
    """B^T d: six arrays (B, tiles, W + pads, C), or (C, B, tiles, W + pads)."""
    tiles = -(-size[0] // TILE)
    (top, bottom), sides = window.padding
    pads = ((top, bottom + tiles * TILE - size[0]), sides)
    if feature_major:  # XLA would fuse a transposition after the padding and read with large strides: 3 times slower
        x, axis = padded(x.transpose(3, 0, 1, 2), pads, axis=2), 2
    else:
        x, axis = padded(x, pads), 1
    lines = [lax.slice_in_dim(x, r, r + (tiles - 1) * TILE + 1, TILE, axis=axis) for r in range(READ)]
    return [_combine(row, lines) for row in B_T]


def _kernels(kernel):
    """G w: six matrices (w C, F)."""
    products = jnp.einsum("ai,ijcf->ajcf", jnp.asarray(G, kernel.dtype), kernel)  # a sum would read a flipped kernel with large strides
    return [rows(product) for product in products]


def _columns(tile, kernel, window, size):
    """Returns what the taps along the width see, side by side: (n, w C)."""
    return rows(jnp.concatenate([tile[:, :, j : j + size[1]] for j in _starts(kernel.shape, window)], axis=-1))


def _starts(kernel, window):
    """Returns the start of each tap along the width."""
    return [j * window.dilation[1] for j in range(kernel[1])]
