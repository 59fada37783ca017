"""Convolution as one product: the positions that each window sees lie side by side in a row (im2col)."""

import math
from typing import cast

import jax.numpy as jnp
from jax import lax

from seqjax.cnn.convolution_parts import Window, chunks, map_chunks, padded, rows, seen, sum_chunks
from seqjax.typing import Array

# Bytes of rows per part. The forward pass of 32 x 32 x 32 x 64 took 11 ms this way and 16 ms all at once; the sums of
# the kernel's gradient are as large as the kernel and are faster in fewer parts.
FORWARD, BACKWARD = 4 * 2**20, 16 * 2**20


def refusal(x: Array, kernel: Array, window: Window) -> str | None:
    """Returns why im2col cannot run: never, once the groups are separated."""
    return None if window.groups == 1 else f"works on one group, got {window.groups}"


def forward(x: Array, kernel: Array, window: Window) -> Array:
    """Multiplies the rows that the windows see by the kernel."""
    size = window.size(x.shape, kernel.shape)

    def run(x):
        return (rows(_columns(x, kernel.shape, window, size)) @ rows(kernel)).reshape(x.shape[0], *size, -1)

    return map_chunks(run, _count(x, kernel.shape, size, FORWARD), x)


def input_gradient(g: Array, kernel: Array, window: Window, image: tuple[int, ...]) -> Array:
    """Adds the cotangents of the rows to the positions they were read from."""
    height, width, channels, _ = kernel.shape
    size = window.size(image, kernel.shape)
    wide = jnp.promote_types(g.dtype, jnp.float32)

    def run(g):
        columns = lax.dot_general(rows(g), rows(kernel), (((1,), (1,)), ((), ())), preferred_element_type=wide)
        columns = columns.reshape(g.shape[0], *size, height, width, channels)
        taps = ((i, j) for i in range(height) for j in range(width))
        total = cast(Array, sum(_put_back(columns[:, :, :, i, j], i, j, window, image) for i, j in taps))
        return total.astype(g.dtype)

    return map_chunks(run, _count(g, kernel.shape, size, BACKWARD), g)


def kernel_gradient(x: Array, g: Array, window: Window, kernel: tuple[int, ...]) -> Array:
    """Multiplies the rows that the windows see, transposed, by the cotangents."""
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def run(x, g):
        columns = rows(_columns(x, kernel, window, g.shape[1:3]))
        product = lax.dot_general(columns, rows(g), (((0,), (0,)), ((), ())), preferred_element_type=wide)
        return product.reshape(kernel)

    return sum_chunks(run, _count(x, kernel, g.shape[1:3], BACKWARD), x, g, kernel).astype(x.dtype)


def column_bytes(batch: int, kernel: tuple[int, ...], size: tuple[int, ...], itemsize: int) -> int:
    """Returns the bytes that the rows of a batch take."""
    return batch * math.prod(size) * math.prod(kernel[:3]) * itemsize


def _count(x, kernel, size, limit):
    """Returns the limit for a part; a one-tap kernel copies nothing, so it is not split."""
    if kernel[0] * kernel[1] == 1:
        return 1
    return chunks(x.shape[0], column_bytes(1, kernel, size, x.dtype.itemsize), limit)


def _columns(x, kernel, window, size):
    """(B, *size, h w C)."""
    x = padded(x, window.padding)
    taps = [seen(x, i, j, window, size) for i in range(kernel[0]) for j in range(kernel[1])]
    return taps[0] if len(taps) == 1 else jnp.concatenate(taps, axis=-1)


def _put_back(part, i, j, window, image):
    """The transpose of padding and `seen`: zeros wherever the tap did not look."""
    pads = []
    for axis, tap in enumerate((i, j)):
        before = tap * window.dilation[axis] - window.padding[axis][0]
        reach = (part.shape[axis + 1] - 1) * window.strides[axis] + 1
        pads.append((before, image[axis + 1] - before - reach))
    return padded(part, tuple(pads), window.strides)
