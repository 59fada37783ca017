"""Stacks of cells."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.typing import Cell, Wrap, factory
from seqjax.wrappers import parts

Layer = Cell | Callable[[Any], Any]


@factory
def stack(*cells: Layer | Iterable[Layer], skip_connections: str | None = None) -> Cell[tuple[Any, ...], tuple[Any, ...]]:
    """Stacks cells: each layer's outputs are the inputs of the next.

      (carry_l', y_l) = step_l(params_l, carry_l, z_l),  l = 1 ... L

      skip_connections  None     "input"         "all"
      z_l               y_{l-1}  [x, y_{l-1}]    [x, y_1 ... y_{l-1}],  and z_1 = x
      y                 y_L      [y_1 ... y_L]   [y_1 ... y_L]

    Over a whole sequence the layers run one after the other, each on its own engine; a streaming step runs through all
    of them. Both give the same numbers. Layers without a carry, functions and `seqjax.dense`, are computed for all
    steps at once.

    Args:
      *cells: the layers from the bottom up, of any kinds and sizes, or one sequence of them. Any but the first may be a
        function y -> y' of one step of one sequence, (*spatial, H) -> (*spatial', H'), such as `jax.nn.relu` or a mean
        over space; or of the pytree that the layer below gives.
      skip_connections: "input" also feeds the inputs to every layer and concatenates all layers' outputs as the output
        (`hk.deep_rnn_with_skip_connections`); "all" feeds each layer the outputs of all layers below. None does
        neither. To add a layer's input to its output, wrap the layer or a stack in `seqjax.residual`.

    Returns:
      A Cell whose params and carry are tuples with one entry per layer, () for a function.

    Raises:
      ValueError: there is no cell, the spatial axes of a layer's outputs differ from those of the next layer's inputs,
        skip_connections is unknown, or a layer does not accept the output of the one below.
      TypeError: an argument is neither a Cell nor a function.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.stack(seqjax.lstm(16), seqjax.gru(8))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry[0].c.shape, carry[1].h.shape
      ((2, 5, 8), (2, 16), (2, 8))

    Reference:
      Graves, Mohamed, Hinton 2013, "Speech Recognition with Deep Recurrent Neural Networks"; Graves 2013, "Generating
      Sequences With Recurrent Neural Networks", for "input"; Ding, Xia et al. 2018, "Densely Connected Bidirectional
      LSTM", for "all".
    """
    if len(cells) == 1 and isinstance(cells[0], Iterable):
        return stack(*cells[0], skip_connections=skip_connections)
    if skip_connections not in (None, "input", "all"):
        raise ValueError(f'skip_connections must be "input", "all" or None, got {skip_connections!r}')
    layers = []
    for cell in cells:
        layers.append(_layer(cell, layers, skip_connections))
    if not layers:
        raise ValueError("stack needs at least one cell")
    joints = [(below.output_spatial, above.spatial) for below, above in zip(layers, layers[1:])]
    if skip_connections:  # everything that is concatenated has the same layout
        joints += [(layer.output_spatial, layers[0].spatial) for layer in layers]
    if any(given != taken for given, taken in joints):
        spatial = ", ".join(f"{layer.name} {parts.spatial_axes(layer)}" for layer in layers)
        raise ValueError(f"the layers of a stack must agree in their spatial axes, got {spatial}")

    sizes = [layer.hidden_size for layer in layers]

    def taken(x, ys, join):
        """Returns the next layer's input, from the inputs and the outputs so far."""
        return join({None: ys[-1:] or [x], "input": [x, *ys[-1:]], "all": [x, *ys]}[skip_connections])

    def given(ys, join):
        """Returns the output of the stack."""
        return join(ys if skip_connections else ys[-1:])

    def through(x, runs):
        carries, ys = [], []
        for run in runs:
            carry, y = run(taken(x, ys, _concatenated))
            carries.append(carry)
            ys.append(y)
        return tuple(carries), given(ys, _concatenated)

    def init(key, input_size):
        keys, inputs = jax.random.split(key, len(layers)), [taken(input_size, sizes[:depth], _total) for depth in range(len(layers))]
        return tuple(layer.init(k, size) for layer, k, size in zip(layers, keys, inputs, strict=True))

    def initial_carry(params, batch_size):
        return tuple(layer.initial_carry(p, batch_size) for layer, p in zip(layers, params, strict=True))

    def step(params, carry, x):
        return through(x, [functools.partial(layer.step, p, c) for layer, p, c in zip(layers, params, carry, strict=True)])

    def sequence(run, params, carry, initial, xs, rng):
        rngs = [None] * len(layers) if rng is None else jax.random.split(rng, len(layers))
        each = zip(layers, params, carry, initial, rngs, strict=True)
        return through(xs, [functools.partial(run, *layer, rng=key) for *layer, key in each])

    return Cell(
        name=f"stack({', '.join(layer.name for layer in layers)})",
        hidden_size=given(sizes, _total),
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: layers[0].input_size(params[0]),
        step=step,
        wrap=Wrap(tuple(layers), sequence),
        spatial=layers[0].spatial,
        output_spatial=layers[-1].output_spatial,
        settings=(("skip_connections", skip_connections),),
    )


def _concatenated(outputs):
    return jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]


def _total(sizes):
    return sum(sizes) if len(sizes) > 1 else sizes[0]


def _layer(cell, below, skip_connections):
    """Returns a layer of the stack as a Cell that accepts the output of those below."""
    if not isinstance(cell, Cell) and not callable(cell):
        raise TypeError(f"cells must be Cells, functions or one sequence of them, got a {type(cell).__name__}")
    taken = below[-1].hidden_size if below else 0
    if isinstance(cell, Cell):
        for size in (taken, cell.hidden_size if skip_connections else 0):
            if not parts.is_array(size):
                raise ValueError(
                    f"the cells of a stack take one array, but {cell.name} would get a pytree of sizes {size}; put a function "
                    "in between that makes one array of it, such as lambda ys: ys[0]"
                )
        return cell
    name = parts.name_of(cell)
    if not below or skip_connections:
        raise ValueError(
            f"{name} is a function, and a function in a stack takes only the outputs of the layer below: "
            + ("with skip_connections use cells" if skip_connections else "the first layer must be a Cell")
        )
    return parts.pointwise(name, cell, taken, below[-1].output_spatial)
