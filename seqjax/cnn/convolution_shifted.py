"""Depthwise convolution as a sum of shifted images, each times one weight per channel, without a matrix product."""

from typing import cast

import jax.numpy as jnp

from seqjax.cnn.convolution_parts import Window, barrier, map_chunks, padded, rows, seen
from seqjax.typing import Array


def refusal(x: Array, kernel: Array, window: Window) -> str | None:
    """Returns why shifted images cannot be used, or None."""
    if kernel.shape[2] != 1:
        return f"is for groups of one channel, got {kernel.shape[2]} channels in each of {window.groups}"
    return None


def forward(x: Array, kernel: Array, window: Window) -> Array:
    """Sums, over taps, what the tap sees times its weights."""
    size = window.size(x.shape, kernel.shape)

    def run(x):
        image = padded(x, window.padding)
        taps = ((i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))
        total = cast(Array, sum(_outer(seen(image, i, j, window, size), kernel[i, j, 0], x.shape[-1]) for i, j in taps))
        return total.reshape(x.shape[0], *size, -1).astype(x.dtype)

    return map_chunks(run, barrier(x.shape[0]), x)


def input_gradient(g: Array, kernel: Array, window: Window, image: tuple[int, ...]) -> Array:
    """Applies the flipped kernel to the cotangents, spread by the strides."""
    height, width, _, features = kernel.shape
    channels, size = image[-1], image[1:3]
    back = window.flipped(image, kernel.shape)

    def run(g):
        spread = padded(g, back.padding, window.strides)
        total = cast(Array, 0.0)
        for i in range(height):
            for j in range(width):
                part = _outer(seen(spread, i, j, back, size), kernel[height - 1 - i, width - 1 - j, 0], features)
                total = total + part.reshape(g.shape[0], *size, channels, features // channels).sum(-1)
        return total.astype(g.dtype)

    return map_chunks(run, barrier(g.shape[0]), g)


def kernel_gradient(x: Array, g: Array, window: Window, kernel: tuple[int, ...]) -> Array:
    """Sums, for each tap, what it saw times the cotangents over all positions.

    XLA sums long columns one number at a time. So quarters of the batch are added first, position by position in the
    loop that multiplies, and a product with ones does the rest.
    """
    size, features = g.shape[1:3], g.shape[-1]
    image = padded(x, window.padding)
    parts = next(n for n in (4, 2, 1) if x.shape[0] % n == 0)
    each = x.shape[0] // parts
    sums = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            tap = seen(image, i, j, window, size)
            pieces = [slice(n * each, (n + 1) * each) for n in range(parts)]
            folded = rows(cast(Array, sum(_times(tap[piece], g[piece]) for piece in pieces)))
            sums.append(jnp.ones((1, folded.shape[0]), folded.dtype) @ folded)
    return jnp.concatenate(sums).reshape(*kernel[:2], 1, features).astype(x.dtype)


def _outer(x, weights, channels):
    """Multiplies x (..., C or F) by weights (F), in float32 at least: (..., F), where F is C times the multiplier."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x, weights = x.astype(wide), weights.astype(wide)
    if x.shape[-1] == weights.shape[0]:
        return x * weights.reshape(1, 1, 1, -1)
    return (x[..., None] * weights.reshape(1, 1, 1, channels, -1)).reshape(*x.shape[:-1], -1)


def _times(x, g):
    """Multiplies x (..., C) by g (..., F), in float32 at least: (..., F)."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x, g = x.astype(wide), g.astype(wide)
    if x.shape != g.shape:
        g = g.reshape(*x.shape, -1)
        return (x[..., None] * g).reshape(*x.shape[:-1], -1)
    return x * g
