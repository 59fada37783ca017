"""The convolutional LSTM from and to Keras 3, Flax linen and Haiku, for `from_keras`, `to_flax` and the others.

How they compare; all keep kernels as (*kernel_size, C, 4F).

  ================================  ==============================  ====================================================
  Keras ConvLSTM1D, 2D, 3D          seqjax                          note
  ================================  ==============================  ====================================================
  kernel, recurrent_kernel, bias    the same                        gates i f c o are our i f g o; `unit_forget_bias`
                                                                    only says how the bias starts
  strides, padding, dilation_rate   the same                        of the input convolution alone; Keras has "valid" by
                                                                    default
  use_bias=False                    use_bias=False
  the input's spatial axes          spatial_shape                   known once the layer is built
  ================================  ==============================  ====================================================

  ================================  ==============================  ====================================================
  Flax ConvLSTMCell, Haiku          seqjax                          note
  Conv1DLSTM, 2D, 3D
  ================================  ==============================  ====================================================
  ih, input_to_hidden, i g f o      kernel, i f g o                 gates in another order
  hh, hidden_to_hidden, i g f o     recurrent_kernel, i f g o
  the sum of both biases            bias                            both add 1 to f at every step: ours is 1 more. On
                                                                    the way out the second bias is -1 for f, else 0, so
                                                                    that what comes back is ours to the bit
  nothing                           spatial_shape                   an argument of `from_flax` and `from_haiku`
  ================================  ==============================  ====================================================

None of them supports peepholes. Keras's `dropout` and `recurrent_dropout` have different masks for every gate, so they
are refused; a Dropout layer before it is supported. Flax's strides and padding apply to both convolutions, whose sum
exists only if the spatial shape is kept: only "SAME" with strides of 1 is supported. Flax and Haiku have no dilation,
no other activations, and no cell without the 1 that is added to f.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqjax.cells import ConvLSTMParams, conv_lstm
from seqjax.errors import UserError
from seqjax.interop import parts
from seqjax.typing import Array, Cell


def from_keras_cell(cell: Any, weights: tuple[Array, Array, Array | None], options: Mapping[str, Any]) -> tuple[Cell, ConvLSTMParams]:
    """Converts the cell of a built Keras ConvLSTM with its weights.

    Raises:
      UserError: it has dropout, its channels come first, or it overrides the convolutions.
    """
    if cell.dropout or cell.recurrent_dropout:
        rates = f"dropout={cell.dropout:g} and recurrent_dropout={cell.recurrent_dropout:g}"
        raise UserError(
            f"{cell.name} has {rates}, whose masks differ from gate to gate; build the layer without dropout, and wrap the "
            "cell in seqjax.dropout"
        )
    if cell.data_format != "channels_last":
        raise UserError(
            f"{cell.name} has data_format={cell.data_format!r}, but cells here have the channels last; its "
            'weights are the same: set them in a layer with data_format="channels_last"'
        )
    parts.check_computation(cell, "keras", "input_conv", "recurrent_conv")
    of_input = {"strides": cell.strides, "padding": cell.padding, "dilation_rate": cell.dilation_rate}
    return conv_lstm(cell.filters, cell.kernel_size, cell.spatial_dims, **of_input, **options), ConvLSTMParams(*weights)


def to_keras_layer(cell: Cell, options: Mapping[str, Any]) -> Any:
    """Builds a ConvLSTM1D, 2D or 3D with a cell's settings and the options of any layer.

    Raises:
      UserError: it has dropout with one mask for all steps.
    """
    import keras

    if options.get("dropout") or options.get("recurrent_dropout"):
        raise UserError(
            "to_keras cannot represent dropout with shared_over_time=True on a conv_lstm: Keras draws a separate mask for "
            "every gate; shared_over_time=False is supported"
        )
    settings, axes = parts.settings(cell), len(cell.spatial)
    build = {1: keras.layers.ConvLSTM1D, 2: keras.layers.ConvLSTM2D, 3: keras.layers.ConvLSTM3D}[axes]
    of_input = {"strides": settings["strides"] or 1, "dilation_rate": settings["dilation_rate"] or 1}
    return build(cell.hidden_size, settings["kernel_size"], padding=settings["padding"] or "same", **of_input, **options)


def from_flax_cell(
    module: nn.ConvLSTMCell, params: Mapping[str, Any], spatial_shape: int | Sequence[int] | None
) -> tuple[Cell, ConvLSTMParams]:
    """Converts a Flax ConvLSTMCell and its params.

    Raises:
      UserError: there is no spatial_shape, or its strides or padding change the spatial shape.
    """
    strides = (module.strides,) if isinstance(module.strides, int) else module.strides or (1,)
    if max(strides) > 1 or module.padding != "SAME":
        raise UserError(
            f"ConvLSTMCell has strides={module.strides} and padding={module.padding!r} for its recurrent "
            'convolution too, which keeps the spatial shape here; use strides of 1 and padding="SAME"'
        )
    return _from_pair(params["ih"], params["hh"], "kernel", "bias", spatial_shape, "ConvLSTMCell", module.dtype)


def to_flax_cell(cell: Cell, params: ConvLSTMParams, options: Mapping[str, Any]) -> tuple[nn.ConvLSTMCell, dict[str, Any]]:
    """Builds a Flax ConvLSTMCell and its params."""
    module = nn.ConvLSTMCell(cell.hidden_size, parts.settings(cell)["kernel_size"], **options)
    return module, _pair(params, "ih", "hh", "kernel", "bias")


def from_haiku_core(
    given: Mapping[str, Any], recurrent: Mapping[str, Any], spatial_shape: int | Sequence[int] | None
) -> tuple[Cell, ConvLSTMParams]:
    """Converts the params of the two convolutions of a Haiku Conv1DLSTM, 2D or 3D.

    Raises:
      UserError: there is no spatial_shape.
    """
    return _from_pair(given, recurrent, "w", "b", spatial_shape, f"Conv{given['w'].ndim - 2}DLSTM")


def to_haiku_core(cell: Cell, params: ConvLSTMParams) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Returns the constructor of a Haiku Conv1DLSTM, 2D or 3D, and its params."""
    import haiku as hk

    axes = len(cell.spatial)
    build = {1: hk.Conv1DLSTM, 2: hk.Conv2DLSTM, 3: hk.Conv3DLSTM}[axes]
    given, recurrent = (f"conv{axes}_dlstm/{side}_to_hidden" for side in ("input", "hidden"))
    pair = _pair(params, given, recurrent, "w", "b")
    return lambda: build(cell.spatial, cell.hidden_size, parts.settings(cell)["kernel_size"]), pair


def refuse_spatial_shape(spatial_shape: int | Sequence[int] | None, name: str) -> None:
    """Raises the error for a spatial_shape given for a module without spatial axes."""
    if spatial_shape is not None:
        raise UserError(f"spatial_shape is given, but {name} is not a convolutional LSTM; leave it out")


def _from_pair(given, recurrent, kernel, bias, spatial_shape, name, dtype=None):
    """Builds a cell and its params from two convolutions, whose weights have these names."""
    w, u = (parts.reorder(parts.array(side[kernel]), "igfo", "ifgo") for side in (given, recurrent))
    if spatial_shape is None or np.size(spatial_shape) != w.ndim - 2:
        raise UserError(
            f"a {name} does not store the spatial axes of its inputs: give spatial_shape, here {w.ndim - 2} of the "
            f"sizes (depth, height, width), got {spatial_shape}"
        )
    zeros = jnp.zeros(w.shape[-1], w.dtype)
    b, b_h = (parts.reorder(parts.array(side[bias]), "igfo", "ifgo") if bias in side else zeros for side in (given, recurrent))
    # Added to the second, so that the -1 of an earlier conversion cancels before the sum.
    params = ConvLSTMParams(w, u, b + parts.add_to_forget(b_h, parts.FORGET_BIAS))
    options = {"dtype": parts.narrower(dtype, w.dtype), "param_dtype": w.dtype}
    return conv_lstm(w.shape[-1] // 4, w.shape[:-2], spatial_shape, **options), params


def _pair(params, given, recurrent, kernel, bias):
    """Returns the two convolutions' weights by these names."""
    b_h = parts.add_to_forget(jnp.zeros_like(params.bias), -parts.FORGET_BIAS)
    values = {given: (params.kernel, params.bias), recurrent: (params.recurrent_kernel, b_h)}
    return {side: {kernel: parts.reorder(w, "ifgo", "igfo"), bias: parts.reorder(b, "ifgo", "igfo")} for side, (w, b) in values.items()}
