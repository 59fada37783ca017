"""Layer normalisation of the two products of a cell."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells.parts import add_bias, normalize
from seqjax.typing import Array, CarryT, Cell, Params, Wrap, factory
from seqjax.wrappers import parts


class LayerNormParams(NamedTuple):
    """Parameters of a layer-normalised cell; gains start at one and the bias at zero."""

    cell: Params  # of the inner cell
    gain: Array  # of the input's product, (G H,)
    bias: Array  # of the input's product, (G H,)
    recurrent_gain: Array  # of the recurrent product, (G H,)


@factory
def layer_norm(cell: Cell[Any, CarryT]) -> Cell[LayerNormParams, CarryT]:
    """Normalises a cell's input product and its recurrent product, each over all its features.

      projected = LN(x W + b) gain + bias,  recurrent = LN(h U) recurrent_gain
      LN(a) = (a - mean(a)) / sqrt(var(a) + 1e-5)

    Mean and variance are over the G H features of all gates together, computed in float32 at least. The rest of the
    cell is unchanged: the LSTM's c is not normalised here, while `seqjax.lstm(layer_norm=True)`, the paper's LSTM,
    normalises it for the output. The cell's own bias shifts its input product before the normalisation.

    Args:
      cell: a cell with the three parts: the vanilla cell, the LSTM, the GRU with the reset after the product.

    Returns:
      A Cell with LayerNormParams and the carry of the inner cell.

    Raises:
      TypeError: cell is not a Cell.
      UserError: the cell has no separate recurrent product, or works on whole sequences.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.layer_norm(seqjax.gru(16))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, params.gain.shape
      ((2, 5, 16), (48,))

    Reference:
      Ba, Kiros, Hinton 2016, "Layer Normalization", equation 20.
    """
    parts.check_inside_step("layer_norm", cell, split=True)

    def init(key, input_size):
        inner = cell.init(key, input_size)
        x = jax.ShapeDtypeStruct((1, *cell.spatial, input_size), jnp.float32)
        wide = jax.eval_shape(cell.parts.project, inner, x).shape[-1]
        dtype = jnp.result_type(*jax.tree.leaves(inner))
        gain, bias, recurrent_gain = (fill((wide,), dtype) for fill in (jnp.ones, jnp.zeros, jnp.ones))
        return LayerNormParams(inner, gain, bias, recurrent_gain)

    def noise(rng, params, xs):
        inner, inner_params, xs = parts.draw(cell, rng, params.cell, xs)
        return _normalised(inner), params._replace(cell=inner_params), xs

    wrap = Wrap((cell,), noise=noise if cell.wrap and cell.wrap.noise else None)
    return _normalised(cell).replace(name=f"layer_norm({cell.name})", init=init, settings=(), wrap=wrap)


def _normalised(cell):
    inside = cell.on_params(lambda params: params.cell)
    parts = inside.parts

    def project(params, xs):
        product = parts.project(params, xs)
        return add_bias(_scaled(product, params.gain), params.bias).astype(product.dtype)

    def join(params, projected, recurrent):
        scaled = _scaled(recurrent, params.recurrent_gain).astype(recurrent.dtype)
        return parts.join(params, projected, scaled)

    return inside.replace(split=parts._replace(project=project, join=join))


def _scaled(a, gain):
    """Computes LN(a) gain, in float32 at least."""
    return normalize(a.astype(jnp.promote_types(a.dtype, jnp.float32)), gain)
