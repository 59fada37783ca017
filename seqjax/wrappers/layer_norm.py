"""Layer normalisation of the two products of a cell."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells.parts import add_bias, normalize, step_of
from seqjax.errors import UserError
from seqjax.typing import Array, Cell, Params, factory
from seqjax.wrappers import parts


class LayerNormParams(NamedTuple):
    """Parameters of a layer-normalised cell; gains are ones and the bias zeros at first."""

    cell: Params  # of the cell inside
    gain: Array  # of the input's product, (G H,)
    bias: Array  # of the input's product, (G H,)
    recurrent_gain: Array  # of the recurrent product, (G H,)


@factory
def layer_norm(cell: Cell) -> Cell:
    """Normalises what a cell projects from its input and its recurrent product, each over all its features.

      projected = LN(x W + b) gain + bias,  recurrent = LN(h U) recurrent_gain
      LN(a) = (a - mean(a)) / sqrt(var(a) + 1e-5)

    Mean and variance are over the G H features of all gates together, and computed in float32 at least. What else a
    cell has is left alone: the LSTM's c is not normalised here, and `seqjax.lstm(layer_norm=True)`, the paper's LSTM,
    normalises it on its way to the output. The cell's own bias shifts its input's product before the normalisation.

    Args:
      cell: a cell with the three parts whose products are arrays: the vanilla cell, the LSTM, the GRU with the reset
        after the product.

    Returns:
      A Cell with LayerNormParams and the carry of the one inside.

    Raises:
      TypeError: cell is no Cell.
      UserError: the cell has no recurrent product of its own, works on whole sequences, or (from init) its parts are
        not arrays, as those of zoneout: wrap zoneout(layer_norm(cell)).

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
        features, recurrent_features = _features(cell, inner, input_size)
        dtype = jnp.result_type(*jax.tree.leaves(inner))
        return LayerNormParams(
            cell=inner,
            gain=jnp.ones((features,), dtype),
            bias=jnp.zeros((features,), dtype),
            recurrent_gain=jnp.ones((recurrent_features,), dtype),
        )

    def noise(rng, params, xs):
        inner, inner_params, xs = cell.noise(rng, params.cell, xs)
        return _normalised(inner), params._replace(cell=inner_params), xs

    return _normalised(cell).replace(init=init, noise=cell.noise and noise)


def _features(cell, params, input_size):
    """The sizes of the two products, which must be arrays, in training too."""

    def products(params):
        rng, inner, inner_params = jax.random.key(0), cell, params
        xs = jnp.zeros((1, 1, *cell.spatial, input_size))
        if cell.noise is not None:
            inner, inner_params, xs = cell.noise(rng, params, xs)
        return inner.project(inner_params, xs), inner.recur(inner_params, cell.initial_carry(params, 1))

    pair = jax.eval_shape(products, params)
    for part, product in zip(("project", "recur"), pair):
        if not isinstance(product, jax.ShapeDtypeStruct):
            raise UserError(
                f"layer_norm normalises arrays, and {part} of {cell.name} gives a {type(product).__name__}; wrap the "
                f"cell inside, as in zoneout(layer_norm(...))"
            )
    return [product.shape[-1] for product in pair]


def _normalised(cell):
    def project(params, xs):
        product = cell.project(params.cell, xs)
        return add_bias(_scaled(product, params.gain), params.bias).astype(product.dtype)

    def recur(params, carry):
        return cell.recur(params.cell, carry)

    def combine(params, carry, projected, recurrent):
        recurrent = _scaled(recurrent, params.recurrent_gain).astype(recurrent.dtype)
        return cell.combine(params.cell, carry, projected, recurrent)

    return cell.replace(
        name=f"layer_norm({cell.name})",
        initial_carry=lambda params, batch_size: cell.initial_carry(params.cell, batch_size),
        input_size=lambda params: cell.input_size(params.cell),
        step=step_of(project, recur, combine),
        project=project,
        recur=recur,
        combine=combine,
        additive=False,
        dense=None,
        settings=(),
        inner=(cell,),
        noise=None,
        linear=None,
    )


def _scaled(a, gain):
    """LN(a) gain, in float32 at least."""
    return normalize(a.astype(jnp.promote_types(a.dtype, jnp.float32)), gain)
