"""Runs a function gate by gate: every array as wide as several gates is held as a tuple of tiles as wide as one.

A GPU kernel cannot cut an array of registers at a gate's edge, and Triton has no array whose size is not a power of two.
`combine` does both, `jnp.split(projected + recurrent, 3, axis=-1)`. So the kernel never makes the wide array: it
traces `combine` once, and then goes through the equations with tuples in the place of wide arrays, in which a split is a
choice of members, an addition adds member by member, and a mean over all gates adds up the tiles' sums. That is exact, and
derivatives of it are again made of tiles alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from seqjax.typing import Array

Tiled = Array | tuple[Array, ...]  # an array (..., width), or the tiles of one that is (..., n * width), n > 1

_ELEMENTWISE = frozenset(
    "abs add add_any and cbrt ceil clamp convert_element_type copy copy_p cos div eq erf exp exp2 expm1 floor ge gt "
    "integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow rem round rsqrt select_n sign sin sqrt "
    "square stop_gradient sub tan tanh xor".split()
)
_SUMS = {"reduce_sum": jax.lax.add, "reduce_max": jax.lax.max, "reduce_min": jax.lax.min}
_CALLS = ("jit", "pjit", "closed_call", "core_call")


def join(tiles: Sequence[Array]) -> Tiled:
    """Tiles side by side: a tuple, or the tile itself where there is one."""
    return tiles[0] if len(tiles) == 1 else tuple(tiles)


def members(value: Tiled) -> tuple[Array, ...]:
    """The tiles of a value, the inverse of `join`."""
    return value if isinstance(value, tuple) else (value,)


def by_tiles(function: core.ClosedJaxpr, width: int) -> Callable[..., list[Tiled]]:
    """A traced function on tiles.

    Args:
      function: what `jax.make_jaxpr` gave.
      width: the width of a tile, H.

    Returns:
      A function of as many arguments as the traced one, in which those wider than a tile are tuples, that returns a list
      of as many results, likewise.

    Raises:
      NotImplementedError: (from the function) a step of it cannot be done tile by tile; the message names the step.
    """

    def run(*arguments: Tiled) -> list[Tiled]:
        return _evaluate(function.jaxpr, function.consts, arguments, width)

    return run


def with_expansions(function: Callable, *arguments: Any) -> Any:
    """function(*arguments), in which a reshape that adds an axis is an expansion.

    Derivatives of means are full of such reshapes. Triton gives up the layout of an array at a reshape and keeps it at an
    expansion: compiled for compute capability 9.0, the backward kernel of a layer-norm LSTM of 64 units spilled 5.7 KiB of
    registers a thread with the one, and none with the other.
    """
    trace, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    # No array is as wide as a tile of infinite width, so that all arrays here are whole.
    results = _evaluate(trace.jaxpr, trace.consts, jax.tree.leaves(arguments), math.inf)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _evaluate(jaxpr, consts, arguments, width):
    known = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars], width)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation, values, width):
    name = equation.primitive.name
    wide = any(isinstance(value, tuple) for value in values)
    if name == "broadcast_in_dim" and (wide or _makes_tiles(equation, width)):
        return [_broadcast(equation, *values, width)]
    if name == "concatenate" and (wide or _lines_up(equation, width)):
        return [_concatenate(equation, values)]
    if name in _CALLS:
        inner = equation.params["jaxpr" if "jaxpr" in equation.params else "call_jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, values, width)
    if name == "reshape" and not wide:
        return [_expand(equation, *values)]
    if not wide:
        return _bind(equation, values)
    if name in _ELEMENTWISE:
        return [tuple(_bind(equation, row)[0] for row in zip(*_aligned(equation, values), strict=True))]
    if name in _SUMS:
        return [_reduce(equation, *values)]
    if name in _ON_ONE:
        return _ON_ONE[name](equation, *values, width)
    raise _unable(equation)


def _bind(equation, values, **changed):
    results = equation.primitive.bind(*values, **(equation.primitive.get_bind_params(equation.params) | changed))
    return results if equation.primitive.multiple_results else [results]


def _unable(equation):
    shapes = ", ".join(str(atom.aval.shape) for atom in equation.invars)
    return NotImplementedError(f"{equation.primitive.name} of {shapes} cannot be done gate by gate")


def _aligned(equation, values):
    """The values with as many tiles each; one number, and a column, go with every tile."""
    tiles = next(len(value) for value in values if isinstance(value, tuple))
    aligned = []
    for atom, value in zip(equation.invars, values, strict=True):
        if isinstance(value, tuple) and len(value) == tiles:
            aligned.append(value)
        elif not isinstance(value, tuple) and (not atom.aval.shape or atom.aval.shape[-1] == 1):
            aligned.append((value,) * tiles)
        else:
            raise _unable(equation)
    return aligned


def _makes_tiles(equation, width):
    """Whether a narrow array is broadcast along its last axis to several tiles."""
    operand, shape = equation.invars[0].aval, equation.params["shape"]
    if len(shape) < 2 or shape[-1] == width or shape[-1] % width:
        return False
    kept = len(shape) - 1 in equation.params["broadcast_dimensions"]
    return not kept or operand.shape[-1] == 1


def _broadcast(equation, value, width):
    shape = equation.params["shape"]
    keeps_last = equation.params["broadcast_dimensions"][-1:] == (len(shape) - 1,)
    if isinstance(value, tuple):
        if not keeps_last:
            raise _unable(equation)
        return tuple(_bind(equation, [tile], shape=(*shape[:-1], width))[0] for tile in value)
    (tile,) = _bind(equation, [value], shape=(*shape[:-1], width))
    return (tile,) * (shape[-1] // width)


def _lines_up(equation, width):
    """Whether arrays as wide as one tile are put side by side."""
    return _is_last(equation, equation.params["dimension"]) and all(
        atom.aval.shape[-1] % width == 0 for atom in equation.invars
    )


def _concatenate(equation, values):
    if not _is_last(equation, equation.params["dimension"]):
        raise _unable(equation)
    return join([tile for value in values for tile in members(value)])


def _is_last(equation, axis):
    return axis == len(equation.invars[0].aval.shape) - 1


def _reduce(equation, value):
    partial = [_bind(equation, [tile])[0] for tile in value]
    if not any(_is_last(equation, axis) for axis in equation.params["axes"]):
        return tuple(partial)
    total = partial[0]
    for part in partial[1:]:
        total = _SUMS[equation.primitive.name](total, part)
    return total


def _split(equation, value, width):
    if not _is_last(equation, equation.params["axis"]):
        raise _unable(equation)
    return _cut_members(equation, value, equation.params["sizes"], width)


def _cut_members(equation, value, sizes, width):
    if any(size % width for size in sizes):
        raise _unable(equation)
    results, start = [], 0
    for size in sizes:
        results.append(join(value[start : start + size // width]))
        start += size // width
    return results


def _slice(equation, value, width):
    start, limit = equation.params["start_indices"], equation.params["limit_indices"]
    strides, shape = equation.params["strides"], equation.invars[0].aval.shape
    others_whole = start[:-1] == (0,) * (len(shape) - 1) and tuple(limit[:-1]) == shape[:-1]
    if not others_whole or any(stride != 1 for stride in strides or ()):
        raise _unable(equation)
    sizes = (start[-1], limit[-1] - start[-1])
    if any(size % width for size in sizes):
        raise _unable(equation)
    return [join(value[start[-1] // width : limit[-1] // width])]


def _reshape(equation, value, width):
    shape, new = equation.invars[0].aval.shape, equation.params["new_sizes"]
    if new[-1:] != shape[-1:]:
        raise _unable(equation)
    return [tuple(_bind(equation, [tile], new_sizes=(*new[:-1], width))[0] for tile in value)]


def _expand(equation, value):
    shape, new = equation.invars[0].aval.shape, equation.params["new_sizes"]
    added = [axis for axis in range(len(new)) if new[axis] == 1 and (*new[:axis], *new[axis + 1 :]) == shape]
    return jax.lax.expand_dims(value, added[:1]) if added else _bind(equation, [value])[0]


def _squeeze(equation, value, width):
    del width
    return [tuple(_bind(equation, [tile])[0] for tile in value)]


_ON_ONE = {"split": _split, "slice": _slice, "reshape": _reshape, "squeeze": _squeeze}
