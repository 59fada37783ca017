"""Pooling: maximum, mean, to a fixed size, and global.

`max_pool` and `avg_pool` use `jax.lax.reduce_window` where that is fast, on GPUs and TPUs. XLA's CPU compiler is slow
for overlapping windows and for the gradient of the maximum, so on CPUs both are written as one elementwise operation
over shifted slices of the image, one slice per position in the window. Values are the same. If values tie, the whole
gradient goes to the first of them in storage order.
"""

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cnn.placement import takes_own
from seqjax.typing import Array

# Larger windows are pooled along one axis after another: fewer slices, and less to compile.
_AT_ONCE = 9
# Axes with a longer window use reduce_window.
_LONGEST = 16


def max_pool(x: Array, window: Sequence[int], strides: Sequence[int] | None = None, padding: Any = 0, ceil: bool = False) -> Array:
    """Computes the maximum of each window; padding never wins.

    A window with a NaN gives NaN. On CPUs only reverse-mode derivatives are supported.

    Args:
      x: (B, ..., C).
      window: sizes along the spatial axes.
      strides: None for those of the window.
      padding: an integer, or an integer or pair for each axis.
      ceil: also count windows that extend past the end (torch's ceil_mode).

    Returns:
      (B, ..., C), with one position per window along the spatial axes.

    Raises:
      ValueError: there is not one window size for each spatial axis, or the window does not fit into the padded image.

    Example:
      >>> max_pool(jnp.arange(5.0).reshape(1, 5, 1), (2,), ceil=True).ravel().tolist()
      [1.0, 3.0, 4.0]
    """
    strides, pads = _complete(x, window, strides, padding, ceil)
    if _by_slices(x, window):
        # The last axis first, so that among equal values the first in storage order wins.
        for part in reversed(_parts(window, strides, pads)):
            x = _max_of_slices(x, tuple(x.shape[1:-1]), *part)
        return x
    low = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return jax.lax.reduce_window(x, low, jax.lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))


def avg_pool(x: Array, window: Sequence[int], strides: Sequence[int] | None = None, padding: Any = 0, ceil: bool = False) -> Array:
    """Computes the mean of each window, counting padded zeros (as torch and Caffe do).

    Sums are in float32 at least.

    Args: as max_pool.

    Returns: as max_pool.

    Raises: as max_pool.

    Example:
      >>> avg_pool(jnp.arange(4.0).reshape(1, 4, 1), (2,)).ravel().tolist()
      [0.5, 2.5]
    """
    strides, pads = _complete(x, window, strides, padding, ceil)
    sums = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if _by_slices(x, window):
        for part in _parts(window, strides, pads):
            sums = functools.reduce(operator.add, (slice_ for _, slice_ in _slices(sums, 0.0, *part)))
    else:
        sums = jax.lax.reduce_window(sums, 0.0, jax.lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))
    return (sums / int(np.prod(window))).astype(x.dtype)


def _complete(x, window, strides, padding, ceil):
    """Returns strides and (before, after) pads for each axis, the latter enlarged if windows may extend past the end."""
    axes = len(window)
    if axes != x.ndim - 2:
        raise ValueError(f"window {tuple(window)} has {axes} sizes, but images of shape {x.shape} have {x.ndim - 2} spatial axes")
    strides = tuple(strides) if strides is not None else tuple(window)
    each = [padding] * axes if isinstance(padding, int) else padding
    pads = [(p, p) if isinstance(p, int) else tuple(p) for p in each]
    if ceil:
        for i, (size, w, s, (before, after)) in enumerate(zip(x.shape[1:-1], window, strides, pads)):
            over = -(size + before + after - w) % s
            starts_inside = (size + before + after - w + over) < size + before
            pads[i] = (before, after + over if starts_inside else after)
    for size, w, (before, after) in zip(x.shape[1:-1], window, pads):
        if size + before + after < w:
            raise ValueError(f"window {tuple(window)} does not fit into images of shape {x.shape} with padding {pads}")
    return strides, tuple(pads)


def _by_slices(x, window):
    return takes_own(x) and max(window) <= _LONGEST and jnp.issubdtype(x.dtype, jnp.floating)


def _parts(window, strides, pads):
    """Returns (window, strides, pads) of successive poolings that make up the whole."""
    window = tuple(window)
    if np.prod(window) <= _AT_ONCE:
        return [(window, strides, pads)]
    axes = range(len(window))
    one = lambda values, axis, rest: tuple(value if i == axis else rest for i, value in enumerate(values))  # noqa: E731
    return [(one(window, axis, 1), one(strides, axis, 1), one(pads, axis, (0, 0))) for axis in axes]


def _slices(x, fill, window, strides, pads):
    """Yields, for each position in the window, its number and the values of all windows there, (B, ..., C)."""
    sizes = _sizes(x.shape[1:-1], window, strides, pads)
    reach = [(m - 1) * s + w for m, s, w in zip(sizes, strides, window)]  # may end before or after the padded image
    edges = [(before, r - before - n, 0) for r, n, (before, _) in zip(reach, x.shape[1:-1], pads)]
    x = jax.lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    for number, place in enumerate(itertools.product(*map(range, window))):
        ends = [p + (m - 1) * s + 1 for p, m, s in zip(place, sizes, strides)]
        yield number, jax.lax.slice(x, (0, *place, 0), (x.shape[0], *ends, x.shape[-1]), (1, *strides, 1))


def _sizes(shape, window, strides, pads):
    return [(n + sum(pad) - w) // s + 1 for n, w, s, pad in zip(shape, window, strides, pads)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_of_slices(x, shape, window, strides, pads):
    return functools.reduce(jnp.maximum, (slice_ for _, slice_ in _slices(x, -jnp.inf, window, strides, pads)))


def _max_forward(x, shape, window, strides, pads):
    """Stores the position of each maximum in its window: one byte per output value."""
    # Starts at the first position inside the image, so that the padding does not win if all values are -inf.
    winner = jnp.asarray(_first_inside(shape, window, strides, pads))[None, ..., None]
    best = None
    for number, slice_ in _slices(x, -jnp.inf, window, strides, pads):
        if best is None:
            best, winner = slice_, jnp.broadcast_to(winner, slice_.shape)
        else:
            winner = jnp.where(slice_ > best, jnp.int8(number), winner)
            best = jnp.maximum(best, slice_)
    return best, winner


def _first_inside(shape, window, strides, pads):
    """Returns the number of the first position of each window that is inside the image, -1 if there is none."""
    number, outside = np.zeros((), int), np.zeros((), bool)
    for n, w, s, (before, _), m in zip(shape, window, strides, pads, _sizes(shape, window, strides, pads)):
        start = s * np.arange(m) - before
        first = np.maximum(0, -start)
        number = number[..., None] * w + first
        outside = outside[..., None] | (first >= w) | (start >= n)
    return np.where(outside, -1, number).astype(np.int8)


def _max_backward(shape, window, strides, pads, winner, dy):
    r"""Computes the gradient of the image as one elementwise sum instead of a scatter.

    Row h of the padded image is row a of block i, h = s i + a, and position a + s r of window i - r, so with k = a + s
    r

    .. math:: dx_{si + a} = \sum_{r < w/s} dy_{i-r} [\text{winner}_{i-r} = k]

    where only k < w counts; likewise for each axis.
    """
    spans = [-(-w // s) for w, s in zip(window, strides)]
    blocks = [-(-(n + before) // s) for n, s, (before, _) in zip(shape, strides, pads)]
    edges = [(span - 1, m - out, 0) for span, m, out in zip(spans, blocks, dy.shape[1:-1])]
    winner = jax.lax.pad(winner, jnp.int8(-1), ((0, 0, 0), *edges, (0, 0, 0)))
    dy = jax.lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    within = tuple(2 * axis + 2 for axis in range(len(window)))  # the axes of a, after those of i
    dx = cast(Array, 0)
    for back in itertools.product(*map(range, spans)):
        begin = [span - 1 - r for span, r in zip(spans, back)]
        ends = [b + m for b, m in zip(begin, blocks)]
        number = jnp.expand_dims(_numbers(back, window, strides), (0, *(axis - 1 for axis in within), 2 * len(window) + 1))
        won, given = (jnp.expand_dims(jax.lax.slice(z, (0, *begin, 0), (z.shape[0], *ends, z.shape[-1])), within) for z in (winner, dy))
        dx = dx + jnp.where(won == number, given, jnp.zeros((), dy.dtype))
    dx = dx.reshape(dy.shape[0], *(m * s for m, s in zip(blocks, strides)), dy.shape[-1])
    begin = [before for before, _ in pads]
    return (jax.lax.slice(dx, (0, *begin, 0), (dx.shape[0], *(b + n for b, n in zip(begin, shape)), dx.shape[-1])),)


def _numbers(back, window, strides):
    """Returns the number of position a + s r of the window for each a, -2 if the window ends before it."""
    number, outside = np.zeros((), int), np.zeros((), bool)
    for r, w, s in zip(back, window, strides):
        place = np.arange(s) + s * r
        number, outside = number[..., None] * w + place, outside[..., None] | (place >= w)
    return np.where(outside, -2, number).astype(np.int8)


_max_of_slices.defvjp(_max_forward, _max_backward)


def adaptive_avg_pool(x: Array, size: Sequence[int]) -> Array:
    """Averages over windows that split each axis into `size` parts, floor(i n / m) to ceil((i + 1) n / m), as torch.

    Sums are in float32 at least.

    Args:
      x: (B, ..., C).
      size: m for each spatial axis.

    Example:
      >>> adaptive_avg_pool(jnp.arange(4.0).reshape(1, 4, 1), (2,)).ravel().tolist()
      [0.5, 2.5]
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    y = x
    for axis, m in enumerate(size, start=1):
        n = x.shape[axis]
        if n != m:
            means = np.zeros((n, m), dtype)
            for i in range(m):
                begin, end = i * n // m, -(-(i + 1) * n // m)
                means[begin:end, i] = 1 / (end - begin)
            y = jnp.moveaxis(jnp.tensordot(y.astype(dtype), means, (axis, 0)), -1, axis)
    return y.astype(x.dtype)


def global_avg_pool(x: Array) -> Array:
    """Computes the mean over all axes except batch and channels.

    Example:
      >>> global_avg_pool(jnp.ones((2, 3, 3, 4))).shape
      (2, 4)
    """
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
