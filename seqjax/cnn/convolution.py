"""Convolution as one function that picks the fastest formulation for the backend; all formulations give the same numbers."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax.cnn import convolution_banded, convolution_columns, convolution_shifted, convolution_winograd
from seqjax.cnn.convolution_parts import Window
from seqjax.cnn.placement import takes_own
from seqjax.placement import vary_together
from seqjax.typing import Array

OWN = {"banded": convolution_banded, "im2col": convolution_columns, "shifted": convolution_shifted, "winograd": convolution_winograd}
FORMULATIONS = ("auto", "lax", *OWN)


class Plan(NamedTuple):
    """Which formulation computes the forward pass and each gradient; static."""

    window: Window
    forward: str
    to_input: str  # the gradient with respect to the image
    to_kernel: str


def convolve(
    x: Array,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Any = 0,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
    formulation: str = "auto",
) -> Array:
    r"""Convolution of images or sequences (a correlation: the kernel is not flipped).

    .. math:: y_{b,p,f} = \sum_{q,c} w_{q,c,f} \, x_{b, \, s p + d q - \mathrm{pad}, \, c}

    Formulations:
      * lax: `jax.lax.conv_general_dilated`.
      * im2col: each window's values as a row, then one product; the rows are rebuilt in the backward pass, not kept.
      * banded: the kernel laid out along a whole row of the image as a banded matrix, then one product; for few channels.
      * shifted: for groups of one channel (depthwise): shifted images times one weight per channel, summed.
      * winograd: for kernels 3 high at stride 1 in float32 or wider: half the multiplications, rounding errors about twice lax's.
      * auto: lax, except on a CPU: there, for the forward pass and the two gradients separately, the fastest measured at
        similar shapes (`choose`), and lax if nothing else applies.

    All except lax have custom derivatives: `jax.grad` of any order, `jit` and `vmap` work; `jax.jvp` raises a
    TypeError. Groups of more than one channel run one after the other unless the formulation is lax.

    Args:
      x: (B, H, W, C), or (B, T, C).
      kernel: (h, w, C / groups, F), or (t, C / groups, F).
      strides, kernel_dilation: a number, or one for each spatial axis.
      padding: "SAME", "VALID", a number, or a number or a pair (before, after) for each axis.
      groups: channels and features are split into this many independent groups.
      formulation: one of FORMULATIONS.

    Returns:
      y (B, H', W', F), or (B, T', F).

    Raises:
      ValueError: the named formulation cannot run this case (the message says why); or an argument does not fit the
        axes.

    Example:
      >>> x, kernel = jnp.arange(16.0).reshape(1, 4, 4, 1), jnp.ones((3, 3, 1, 2))
      >>> [float(convolve(x, kernel, formulation=way)[0, 0, 0, 0]) for way in FORMULATIONS]
      [45.0, 45.0, 45.0, 45.0, 45.0, 45.0]
    """
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation must be one of {', '.join(FORMULATIONS)}, got {formulation!r}")
    axes = x.ndim - 2
    for name, value in (("strides", strides), ("padding", padding), ("kernel_dilation", kernel_dilation)):
        if isinstance(value, str) and value not in ("SAME", "VALID"):
            raise ValueError(f"{name} must be a number, one for each axis, or for padding SAME or VALID; got {value!r}")
        if not isinstance(value, str) and isinstance(value, Sequence) and len(value) != axes:
            raise ValueError(f"{name}={value!r} must have one value for each of the {axes} spatial axes of x {x.shape}")
    strides, dilation = (v if isinstance(v, Sequence) else (v,) * axes for v in (strides, kernel_dilation))
    if not isinstance(padding, str):
        each = padding if isinstance(padding, Sequence) else (padding,) * axes
        padding = tuple((p, p) if isinstance(p, int) else tuple(p) for p in each)
    return _convolve(x, kernel, tuple(strides), padding, tuple(dilation), groups, formulation)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """Replaces `jax.lax.conv_general_dilated` in `flax.linen.Conv`; calls `convolve` if that covers the case.

    Example:
      >>> from flax import linen as nn
      >>> layer = nn.Conv(4, (3, 3), conv_general_dilated=conv_general_dilated)
      >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 5, 5, 2)))[0].shape
      (1, 5, 5, 4)
    """
    spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    covered = tuple(spec) == _channels_last(lhs.ndim) and set(lhs_dilation or (1,)) == {1} and precision is None
    if not covered:
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
            precision=precision,
        )  # fmt: skip
    dilation = tuple(rhs_dilation or (1,) * (lhs.ndim - 2))
    return _convolve(lhs, rhs, tuple(window_strides), padding, dilation, feature_group_count, "auto")


def choose(x: Array, kernel: Array, window: Window) -> Plan:
    """Returns what `auto` uses on a CPU; rules from timings on 2 AVX-512 cores, 32 images, jax 0.10.2 (docs/design).

    Lax's own convolution is much slower if the kernel is larger than the image (100 times), for groups, and for
    gradients of one-tap kernels (4 times) and of strided ones; elsewhere it is within 1.5 times of the others, or the
    best.

    Args:
      x: (B, H, W, C), or its shape and dtype.
      kernel: (h, w, C / groups, F), likewise.
      window: strides, padding, dilation and groups.

    Example:
      >>> shape = lambda *n: jax.ShapeDtypeStruct(n, jnp.float32)
      >>> window = Window((1, 1), ((1, 1), (1, 1)), (1, 1))
      >>> choose(shape(32, 16, 16, 128), shape(3, 3, 128, 128), window)[1:]
      ('winograd', 'winograd', 'winograd')
    """
    height, width, channels, features = kernel.shape
    size = window.size(x.shape, kernel.shape)
    if channels == 1 and window.groups > 1:
        return Plan(window, "shifted", "shifted", "shifted")
    if height * width == 1:
        return Plan(window, "im2col", "im2col", "im2col")
    if channels * features <= 256:  # LeNet's layers
        way = "banded" if x.shape[2] <= 8 * width else "lax"
        return Plan(window, way, way, way)
    small_image = x.shape[1] < height or x.shape[2] < width
    strided = window.strides != (1, 1) and max(height, width) <= 3
    winograd = convolution_winograd.refusal(x, kernel, window) is None
    winograd = winograd and min(channels, features) >= 64 and x.shape[0] * size[0] * size[1] >= 512
    few = convolution_columns.column_bytes(x.shape[0], kernel.shape, size, x.dtype.itemsize) <= 12 * 2**20
    forward = "im2col" if small_image or strided else "winograd" if winograd else "lax"
    to_input = "im2col" if small_image or strided or few else "winograd" if winograd else "lax"
    to_kernel = "im2col" if strided and channels > 4 else "winograd" if winograd else "lax"
    return Plan(window, forward, to_input, to_kernel)


def _convolve(x, kernel, strides, padding, dilation, groups, formulation):
    """Treats sequences as images of width one; cases that are not covered go to lax."""
    auto_is_lax = formulation == "auto" and not takes_own(x, kernel)
    why_not = _uncovered(x, kernel, groups)
    if formulation == "lax" or auto_is_lax or (why_not and formulation == "auto"):
        return lax.conv_general_dilated(
            x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=groups,
            dimension_numbers=lax.ConvDimensionNumbers(*_channels_last(x.ndim)),
        )  # fmt: skip
    if why_not:
        raise ValueError(f"formulation {formulation!r} cannot run this: {why_not}")
    if isinstance(padding, str):
        spans = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation)]
        padding = lax.padtype_to_pads(x.shape[1:-1], spans, strides, padding)
    padding = tuple((int(before), int(after)) for before, after in padding)
    if x.ndim == 4:
        return _planar(x, kernel, Window(strides, padding, dilation, groups), formulation)
    window = Window((*strides, 1), (*padding, (0, 0)), (*dilation, 1), groups)
    return _planar(x[:, :, None], kernel[:, None], window, formulation)[:, :, 0]


def _uncovered(x, kernel, groups):
    """Returns why only lax can take a case, or None. If shapes do not fit, lax raises the error."""
    if x.ndim not in (3, 4) or kernel.ndim != x.ndim:
        return f"it is for (B, H, W, C) and (B, T, C), got x {x.shape} and kernel {kernel.shape}"
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        return f"x and kernel must have the same floating dtype, got {x.dtype} and {kernel.dtype}"
    if x.shape[-1] != kernel.shape[-2] * groups or kernel.shape[-1] % groups:
        return f"{groups} groups of kernel {kernel.shape} do not fit x {x.shape}"
    return None if x.size and kernel.size else f"x {x.shape} or kernel {kernel.shape} is empty"


def _planar(x, kernel, window, formulation) -> Any:
    """Drops taps that see only padding, runs groups separately, then carries out the plan."""
    kernel, window = _without_dead_taps(x, kernel, window)
    if not (kernel.size and all(window.size(x.shape, kernel.shape))):  # an empty output, or zeros
        return _lax(x, kernel, window)
    apart = window.groups > 1 and formulation != "shifted" and (formulation != "auto" or kernel.shape[2] > 1)
    if apart and formulation == "auto" and window.groups > 32:  # one program to compile for each
        return _lax(x, kernel, window)
    if apart:
        parts = zip(jnp.split(x, window.groups, axis=-1), jnp.split(kernel, window.groups, axis=-1))
        alone = window._replace(groups=1)
        return jnp.concatenate([_planar(a, b, alone, formulation) for a, b in parts], axis=-1)
    if formulation == "auto":
        plan = choose(x, kernel, window)
    else:
        why_not = OWN[formulation].refusal(x, kernel, window)
        if why_not:
            raise ValueError(f"formulation {formulation!r} {why_not}")
        plan = Plan(window, formulation, formulation, formulation)
    return _lax(x, kernel, window) if set(plan[1:]) == {"lax"} else _planned(plan, *vary_together(x, kernel))


def _without_dead_taps(x, kernel, window):
    """Removes edge rows and columns of the kernel that see only padding: of 3 x 3 over a 1 x 1 image the middle remains."""
    pads, size = list(window.padding), window.size(x.shape, kernel.shape)
    for axis in range(2):
        s, d, n = window.strides[axis], window.dilation[axis], x.shape[axis + 1]
        before, after = pads[axis]
        k = kernel.shape[axis]
        live = [i for i in range(k) if any(0 <= o * s + i * d - before < n for o in range(size[axis]))]
        first, last = (live[0], live[-1]) if live else (0, k - 1)
        kernel = lax.slice_in_dim(kernel, first, last + 1, axis=axis)
        pads[axis] = (before - first * d, after - (k - 1 - last) * d)
    return kernel, window._replace(padding=tuple(pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _planned(plan, x, kernel):
    return _lax(x, kernel, plan.window) if plan.forward == "lax" else OWN[plan.forward].forward(x, kernel, plan.window)


def _planned_forward(plan, x, kernel):
    return _planned(plan, x, kernel), (x, kernel)


def _planned_backward(plan, saved, g):
    x, kernel = saved
    window = plan.window
    if plan.to_input == "lax":
        (dx,) = jax.linear_transpose(lambda x: _lax(x, kernel, window), x)(g)
    else:
        dx = OWN[plan.to_input].input_gradient(g, kernel, window, x.shape)
    if plan.to_kernel == "lax":
        (dkernel,) = jax.linear_transpose(lambda kernel: _lax(x, kernel, window), kernel)(g)
    else:
        dkernel = OWN[plan.to_kernel].kernel_gradient(x, g, window, kernel.shape)
    return dx, dkernel


_planned.defvjp(_planned_forward, _planned_backward)


def _lax(x, kernel, window):
    return lax.conv_general_dilated(
        x, kernel, window.strides, window.padding, rhs_dilation=window.dilation, feature_group_count=window.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def _channels_last(ndim):
    """Returns the dimension numbers of (B, ..., C) and (..., C, F)."""
    between = tuple(range(1, ndim - 1))
    image = (0, ndim - 1, *between)
    return image, (ndim - 1, ndim - 2, *(i - 1 for i in between)), image
