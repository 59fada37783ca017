"""Convolution as one product with a banded matrix: the kernel is laid out along a whole row of the image.

For few channels, where rows of a window's positions are too short to fill vector units: LeNet's layers of 1, 6 and 16
channels. Most of the matrix is zeros; the extra cost, W / w times the multiplications, is far outweighed for narrow
images.
"""

from typing import cast

import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax.cnn.convolution_parts import Window, barrier, map_chunks, rows
from seqjax.typing import Array


def refusal(x: Array, kernel: Array, window: Window) -> str | None:
    """Returns why it cannot run: never, once the groups are separated."""
    return None if window.groups == 1 else f"works on one group, got {window.groups}"


def forward(x: Array, kernel: Array, window: Window) -> Array:
    """Multiplies the image rows that a row of the output sees, side by side, by the banded matrix."""
    batch, (height, width) = x.shape[0], window.size(x.shape, kernel.shape)
    band = _band(kernel, window, x.shape[2], width)
    return (rows(_strips(x, kernel.shape[0], window, height)) @ band).reshape(batch, height, width, -1)


def input_gradient(g: Array, kernel: Array, window: Window, image: tuple[int, ...]) -> Array:
    """Adds the cotangents of those rows to the rows they were read from."""
    (_, height, width, _), taps, (stride, _) = g.shape, kernel.shape[0], window.strides
    wide = jnp.promote_types(g.dtype, jnp.float32)
    band = _band(kernel, window, image[2], width)

    def run(g):
        strips = lax.dot_general(_lines(g), band, (((1,), (1,)), ((), ())), preferred_element_type=wide)
        strips = strips.reshape(g.shape[0], height, taps, -1)
        total = cast(Array, 0)
        for i in range(taps):
            before = i * window.dilation[0] - window.padding[0][0]
            edge = (before, image[1] - before - (height - 1) * stride - 1, stride - 1)
            total += lax.pad(strips[:, :, i], jnp.zeros((), wide), ((0, 0, 0), edge, (0, 0, 0)))
        return total.astype(g.dtype)

    return map_chunks(run, barrier(g.shape[0]), g).reshape(image)


def kernel_gradient(x: Array, g: Array, window: Window, kernel: tuple[int, ...]) -> Array:
    """Multiplies the transposed rows by the cotangents and sums along the bands."""
    taps, across, channels, features = kernel
    (_, height, width, _), wide = g.shape, jnp.promote_types(x.dtype, jnp.float32)
    strips = rows(_strips(x, taps, window, height))
    product = lax.dot_general(strips, _lines(g), (((0,), (0,)), ((), ())), preferred_element_type=wide)
    product = product.reshape(taps, x.shape[2], channels, width, features)
    meets = _meets(across, window, x.shape[2], width).astype(wide)
    return jnp.einsum("jno,incof->ijcf", meets, product).astype(x.dtype)


def _lines(g):
    """(B H', W' F)."""
    return g.reshape(g.shape[0] * g.shape[1], -1)


def _strips(x, taps, window, height):
    """(B, H', h W C): the h rows of the image that each row of the output sees."""
    x = x.reshape(*x.shape[:2], -1)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*window.padding[0], 0), (0, 0, 0)))
    starts = [i * window.dilation[0] for i in range(taps)]
    reach = (height - 1) * window.strides[0] + 1
    return jnp.concatenate([x[:, start : start + reach : window.strides[0]] for start in starts], axis=-1)


def _meets(across, window, columns, width):
    """1 where tap j of a row of the kernel meets column n of the image for column o of the output: (w, W, W')."""
    j, n, o = np.ogrid[:across, :columns, :width]
    return n == o * window.strides[1] + j * window.dilation[1] - window.padding[1][0]


def _band(kernel, window, columns, width):
    """(h W C, W' F)."""
    taps, across, channels, features = kernel.shape
    meets = _meets(across, window, columns, width).astype(kernel.dtype)
    return jnp.einsum("ijcf,jno->incof", kernel, meets).reshape(taps * columns * channels, width * features)
