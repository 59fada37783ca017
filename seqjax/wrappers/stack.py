"""Layers one above the other."""

from collections.abc import Iterable

import jax

from seqjax.typing import Cell, Wrap, factory
from seqjax.wrappers import parts


@factory
def stack(*cells: Cell | Iterable[Cell]) -> Cell:
    """Stacks cells: each layer's outputs are the inputs of the next.

      (carry_l', y_l) = step_l(params_l, carry_l, y_{l-1}),  y_0 = x,  y = y_L

    Over a whole sequence the layers run one after the other, each on its own engine; a streaming step runs through all
    of them. The two give the same numbers.

    Args:
      *cells: the layers from the bottom up, of any kinds and sizes, or one sequence of them.

    Returns:
      A Cell whose params and carry are tuples with one entry a layer.

    Raises:
      ValueError: there is no cell, or a layer's outputs have other spatial axes than the inputs of the next.
      TypeError: an argument is not a Cell.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.stack(seqjax.lstm(16), seqjax.gru(8))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry[0].c.shape, carry[1].h.shape
      ((2, 5, 8), (2, 16), (2, 8))

    Reference:
      Graves, Mohamed, Hinton 2013, "Speech Recognition with Deep Recurrent Neural Networks".
    """
    if len(cells) == 1 and isinstance(cells[0], Iterable):
        return stack(*cells[0])
    layers = cells
    if not layers:
        raise ValueError("stack needs at least one cell, and there is none")
    for layer in layers:
        if not isinstance(layer, Cell):
            raise TypeError(f"cells must be Cells or one sequence of them, and one is a {type(layer).__name__}")
    if any(below.output_spatial != above.spatial for below, above in zip(layers, layers[1:])):
        spatial = ", ".join(f"{layer.name} {parts.spatial_axes(layer)}" for layer in layers)
        raise ValueError(f"the layers of a stack must agree in their spatial axes, and they have {spatial}")

    def init(key, input_size):
        sizes = (input_size, *(layer.hidden_size for layer in layers[:-1]))
        keys = jax.random.split(key, len(layers))
        return tuple(layer.init(k, size) for layer, k, size in zip(layers, keys, sizes, strict=True))

    def initial_carry(params, batch_size):
        return tuple(layer.initial_carry(p, batch_size) for layer, p in zip(layers, params, strict=True))

    def step(params, carry, x):
        carries = []
        for layer, layer_params, layer_carry in zip(layers, params, carry, strict=True):
            layer_carry, x = layer.step(layer_params, layer_carry, x)
            carries.append(layer_carry)
        return tuple(carries), x

    def sequence(run, params, carry, initial, xs, rng):
        rngs = [None] * len(layers) if rng is None else jax.random.split(rng, len(layers))
        carries = []
        for layer, layer_params, layer_carry, reset_to, key in zip(layers, params, carry, initial, rngs, strict=True):
            layer_carry, xs = run(layer, layer_params, layer_carry, reset_to, xs, key)
            carries.append(layer_carry)
        return tuple(carries), xs

    return Cell(
        name=f"stack({', '.join(layer.name for layer in layers)})",
        hidden_size=layers[-1].hidden_size,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: layers[0].input_size(params[0]),
        step=step,
        wrap=Wrap(layers, sequence),
        spatial=layers[0].spatial,
        output_spatial=layers[-1].output_spatial,
    )
