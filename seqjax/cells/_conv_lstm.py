"""The convolutional LSTM, over one, two or three spatial axes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.cells._dense import dense_cell, option
from seqjax.cells._lstm import GATES, forget_bias_init, memory
from seqjax.errors import UserError, refuse_unknown
from seqjax.placement import whole
from seqjax.typing import Activation, Array, Cell, DType, Initializer, MaybeArray, factory


class ConvLSTMParams(NamedTuple):
    """Parameters of the convolutional LSTM; the gates' channels lie side by side in the order i, f, g, o."""

    kernel: Array  # input weights, (*kernel_size, C, 4F)
    recurrent_kernel: Array  # (*kernel_size, F, 4F)
    bias: MaybeArray  # the only bias; includes the forget bias, (4F,)
    peepholes: MaybeArray = None  # from the memory to i, f and o, one weight for each position and channel, (*output, 3F)


class ConvLSTMCarry(NamedTuple):
    """Carry of the convolutional LSTM; `output` stands for the spatial axes of the outputs."""

    c: Array  # the memory, (B, *output, F), never narrower than float32
    h: Array  # the last output, (B, *output, F)


@factory
def conv_lstm(
    features: int,
    kernel_size: int | Sequence[int],
    spatial_shape: int | Sequence[int],
    forget_bias: float | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "same",
    dilation_rate: int | Sequence[int] = 1,
    peepholes: bool = False,
    activation: Activation = "tanh",
    gate_activation: Activation = "sigmoid",
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    peephole_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[ConvLSTMParams, ConvLSTMCarry]:
    """The LSTM with convolutions as products: xs (B, T, *spatial, C) -> ys (B, T, *output, F).

      i, f, g, o = x * W + b + h * U
      c' = sigmoid(f) c + sigmoid(i) tanh(g)
      h' = sigmoid(o) tanh(c'),  y = h'

      peepholes:  i += p_i c,  f += p_f c,  o += p_o c', elementwise

    The convolution h * U keeps the spatial shape by zero padding, and so does x * W by default. Strides s, dilation d
    and padding apply to x * W only; with a kernel of size k, an axis of size n becomes

      "same":   output = ceil(n / s)
      "valid":  output = ceil((n - d (k - 1)) / s)

    Args:
      features: number of channels of the memory and of the output, F.
      kernel_size: size of both kernels along each spatial axis; one integer applies to all axes.
      spatial_shape: sizes of the spatial axes of the inputs, such as (height, width); an integer for one axis. One to
        three axes.
      forget_bias: added to the forget gate's part of the bias at initialisation only. Defaults to 1,
        or to 0 if bias_init is given, which is then the whole bias, or if there is no bias.
      strides: step of the input convolution along each spatial axis; one integer applies to all axes.
      padding: "same", zeros around the inputs, at the end of an axis as many as at its start or one more; or "valid",
        no padding.
      dilation_rate: distance between neighbouring taps of W along each spatial axis; one integer applies to all axes.
      peepholes: whether the gates see the memory, with one weight per position and channel, as in the paper.
      activation: for the candidate and for the memory in the output: "tanh", another of `jax.nn` by name ("relu", "silu",
        "hard_tanh", ...), or an elementwise function.
      gate_activation: for the gates, instead of sigmoid: "hard_sigmoid", another by name, or a function.
      use_bias: whether to add a bias; if False, it is None in the parameters and there is no forget bias.
      kernel_init: initializer of one gate of W, (*kernel_size, C, F). Glorot uniform by default, with the fans of a
        patch: C and F times the size of the kernel.
      recurrent_init: initializer of one gate of U, (*kernel_size, F, F). Orthogonal by default: the filters of the F
        outputs have norm 1 and are orthogonal to each other.
      bias_init: initializer of the whole bias (4F,). Zeros by default.
      peephole_init: initializer of the peephole weights (*output, 3F). Zeros by default.
      dtype: dtype to compute in, and of h and y; c is never narrower than float32. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with ConvLSTMParams and ConvLSTMCarry, whose input_size is the number of input channels, C, and whose
      output_spatial are the spatial axes of ys.

    Raises:
      ValueError: a size is below 1, there are more than three spatial axes, or an option does not fit their number.
      UserError: the padding is unknown, strides come with a dilation, or "valid" leaves nothing of the inputs; or an
        initializer or a forget_bias is given for a parameter that the cell does not have.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.conv_lstm(features=8, kernel_size=3, spatial_shape=(6, 5))
      >>> params = cell.init(jax.random.key(0), 2)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((4, 7, 6, 5, 2)))
      >>> ys.shape, carry.c.shape, params.kernel.shape
      ((4, 7, 6, 5, 8), (4, 6, 5, 8), (3, 3, 2, 32))
      >>> seqjax.conv_lstm(8, 3, (6, 5), strides=2, padding="valid").output_spatial
      (2, 2)

    Reference:
      Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting".
      Dumoulin, Visin 2016, "A guide to convolution arithmetic for deep learning", for the sizes of the outputs.
    """
    size = parts.check_size("features", features)
    act, gate, settings = parts.gate_activations(activation, gate_activation)
    spatial = _check_sizes("spatial_shape", spatial_shape)
    options = {"kernel_size": kernel_size, "strides": strides, "dilation_rate": dilation_rate}
    window, steps, dilation = (_check_sizes(name, value, len(spatial)) for name, value in options.items())
    output = _output_shape(spatial, window, steps, padding, dilation)

    def project(params, xs):
        xs = xs.astype(parts.compute_dtype(dtype, params.kernel))
        return parts.add_bias(_convolve(xs, params.kernel, steps, padding, dilation), params.bias)

    def recur(params, carry):
        return _convolve(carry.h, params.recurrent_kernel)

    def combine(params, carry, gates):
        c, o = memory(GATES, gates, carry.c, params.peepholes, act, gate)
        return ConvLSTMCarry(c=c, h=o * act(c))

    cell = dense_cell(
        "conv_lstm",
        size,
        ConvLSTMCarry,
        combine,
        gates=len(GATES),
        params=ConvLSTMParams,
        memory=("c",),
        extra={"peepholes": option(peepholes, "peephole_init", peephole_init, (*output, (len(GATES) - 1) * size))},
        window=window,
        spatial=output,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        use_bias=use_bias,
        bias_init=forget_bias_init(bias_init, forget_bias, GATES, use_bias),
        settings=(
            ("kernel_size", window),
            ("strides", steps if max(steps) > 1 else None),
            ("padding", padding if padding != "same" else None),
            ("dilation_rate", dilation if max(dilation) > 1 else None),
            ("peepholes", bool(peepholes)),
            *settings,
        ),
        dtype=dtype,
        param_dtype=param_dtype,
    )
    split = cell.parts._replace(project=project, recur=recur)
    return cell.replace(split=split, spatial=spatial, output_spatial=output)


def _check_sizes(name, value, axes=None):
    """Returns a tuple of positive integers, one per spatial axis."""
    if not isinstance(value, Sequence):
        value = (value,) * (axes or 1)
    sizes = tuple(parts.check_size(name, v) for v in value)
    if axes is None and not 1 <= len(sizes) <= 3:
        raise ValueError(f"{name} must have one to three axes, got {sizes}")
    if axes is not None and len(sizes) != axes:
        raise ValueError(f"{name} must have {axes} entries, one per spatial axis, got {sizes}")
    return sizes


def _output_shape(spatial, window, strides, padding, dilation):
    """Returns the spatial axes of the input convolution's outputs."""
    refuse_unknown(f"padding={padding!r} is not a padding", padding, ("same", "valid"))
    if max(strides) > 1 and max(dilation) > 1:
        raise UserError(f"strides={strides} and dilation_rate={dilation} cannot go together; leave one of them at 1")
    lost = tuple(d * (k - 1) * (padding == "valid") for d, k in zip(dilation, window))
    if any(n <= less for n, less in zip(spatial, lost)):
        seen = tuple(less + 1 for less in lost)
        raise UserError(
            f'padding="valid" leaves nothing of spatial_shape={spatial}, since the kernel spans {seen}; use a '
            'smaller kernel_size or dilation_rate, or padding="same"'
        )
    return tuple(-(-(n - less) // s) for n, less, s in zip(spatial, lost, strides))


def _convolve(xs, kernel, strides=None, padding="same", dilation=None):
    """Convolves xs (..., *spatial, C) with a kernel (*kernel_size, C, N), in the dtype of xs."""
    axes = "DHW"[-(kernel.ndim - 2) :]
    if xs.ndim > len(axes) + 2 and whole() is not None:  # joining T with a sharded B is refused there
        return jax.lax.map(lambda x: _convolve(x, kernel, strides, padding, dilation), xs)
    lead = xs.shape[: xs.ndim - len(axes) - 1]
    ys = jax.lax.conv_general_dilated(
        xs.reshape(math.prod(lead), *xs.shape[len(lead) :]),
        kernel.astype(xs.dtype),
        window_strides=strides or (1,) * len(axes),
        padding=padding.upper(),
        rhs_dilation=dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )
    return ys.reshape(*lead, *ys.shape[1:])
