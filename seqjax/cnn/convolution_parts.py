"""Shared by the formulations of a convolution: the window, zero padding, and what one tap of the kernel sees."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from seqjax.placement import vary_together
from seqjax.typing import Array


class Window(NamedTuple):
    """How a kernel moves over an image; static, so that a plan can be chosen while tracing."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # zeros before and after, for height and width; negative values crop
    dilation: tuple[int, ...]  # of the kernel: distance between its taps
    groups: int = 1

    def size(self, image: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """Returns height and width of the output for shapes (B, H, W, C) and (h, w, C / groups, F).

        Example:
          >>> Window((2, 1), ((1, 1), (0, 0)), (1, 1)).size((1, 8, 8, 3), (3, 3, 3, 4))
          (4, 6)
        """
        spans = [n + sum(pads) - (k - 1) * d for n, pads, k, d in zip(image[1:3], self.padding, kernel, self.dilation)]
        return tuple(max(0, (span - 1) // s + 1) for span, s in zip(spans, self.strides))

    def flipped(self, image: tuple[int, ...], kernel: tuple[int, ...]) -> "Window":
        """Returns the window with which a flipped kernel maps the output's cotangents, spread by the strides, back to the image."""
        pads = []
        for axis, n in enumerate(self.size(image, kernel)):
            reach = (kernel[axis] - 1) * self.dilation[axis]
            before = reach - self.padding[axis][0]
            pads.append((before, image[axis + 1] + reach - before - ((n - 1) * self.strides[axis] + 1)))
        return Window((1, 1), tuple(pads), self.dilation, self.groups)


def padded(x: Array, pads: tuple[tuple[int, int], ...], spread: tuple[int, ...] = (1, 1), axis: int = 1) -> Array:
    """Pads x (B, H, W, C) with zeros, and puts `spread` - 1 zeros between positions; H is at `axis`, W after it."""
    config = [(0, 0, 0)] * 4
    for i in range(2):
        config[axis + i] = (*pads[i], spread[i] - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def seen(x: Array, i: int, j: int, window: Window, size: tuple[int, ...]) -> Array:
    """Returns what tap (i, j) of the kernel sees of a padded image: (B, *size, C)."""
    starts = [tap * d for tap, d in zip((i, j), window.dilation)]
    stops = [start + (n - 1) * s + 1 for start, n, s in zip(starts, size, window.strides)]
    return lax.slice(x, (0, *starts, 0), (x.shape[0], *stops, x.shape[3]), (1, *window.strides, 1))


def chunks(batch: int, bytes_each: int, limit: int) -> int:
    """Returns the number of equal parts of a batch such that one takes at most `limit` bytes, or is one image."""
    return next(n for n in range(1, batch + 1) if batch % n == 0 and (batch // n * bytes_each <= limit or n == batch))


def barrier(batch: int, count: int = 1) -> int:
    """Returns `count`, or the smallest number of equal parts above 1: XLA does not fuse such a loop.

    Without it every reader of the result would recompute it: for a sum over 9 taps that feeds another, 81 of them.
    """
    return count if count > 1 else next((n for n in range(2, batch + 1) if batch % n == 0), 1)


def map_chunks(function: Callable[..., Array], count: int, x: Array) -> Array:
    """Computes function(x), one part of the batch after the other."""
    if count == 1:
        return function(x)
    y = lax.map(function, x.reshape(count, -1, *x.shape[1:]))
    return y.reshape(x.shape[0], *y.shape[2:])


def sum_chunks(function: Callable[..., Array], count: int, x: Array, g: Array, shape: tuple[int, ...]) -> Array:
    """Computes function(x, g) of this shape, summed over the parts of the batch in float32 at least."""
    if count == 1:
        return function(x, g)
    parts = tuple(a.reshape(count, -1, *a.shape[1:]) for a in (x, g))
    zeros, *_ = vary_together(jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32)), x, g)
    return lax.scan(lambda total, part: (total + function(*part), None), zeros, parts)[0]


def rows(x: Array) -> Array:
    """Reshapes x (..., C) to a matrix of rows (n, C)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
