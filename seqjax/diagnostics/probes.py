"""Probes of the diagnostics: observing steps, zeros added to every carry, gradients cut between windows.

Each wraps a cell, so that `seqjax.unroll` runs it with lengths, resets and in either direction like any other cell; `captured` finds the
runs inside a whole model.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp

import seqjax
from seqjax import _unroll
from seqjax.errors import UserError
from seqjax.typing import Array, Carry, Cell, Params, Pointwise, Wrap, factory

# observe(cell, params, before, x, after) -> pytree of arrays (B, ...): the observations in one step of a cell.
Observe = Callable[[Cell, Params, Carry, Array, Carry], Any]


class Unrolled(NamedTuple):
    """One call of `seqjax.unroll`, batch-major: `function(*run[:4], **run.options)` runs a diagnostic on it."""

    cell: Cell
    params: Params
    xs: Array  # (B, T, D)
    carry: Carry | None  # each array (B, ...)
    options: dict[str, Any]  # lengths, resets, reverse, if given


class Probe(NamedTuple):
    """Params of a probed cell."""

    params: Params
    deltas: Carry  # zeros added to the carry after each step, leaves (T, B, ...)
    cuts: tuple[Array, ...]  # bool (T, B): steps after which the gradient is cut, for a forward and a backward run


class _Probed(NamedTuple):
    """An array of the carry with its zeros, passed through wrappers to its cell."""

    start: Array
    deltas: Array


class _Step(NamedTuple):
    inner: Any  # inputs of the inner cell
    deltas: Carry
    cut: Array


@factory
def watching(cell: Cell, observe: Observe) -> Cell:
    """The cell, as one step, whose output is what `observe` returns; a stack is observed as a whole.

    Example:
      >>> cell = seqjax.stack(seqjax.lstm(8), seqjax.gru(8))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> _, seen = seqjax.unroll(watching(cell, carry_before), params, jnp.ones((2, 5, 4)))
      >>> seen[0].c.shape
      (2, 5, 8)
    """

    def step(params, carry, x):
        after, _ = cell.step(params, carry, x)
        return after, observe(cell, params, carry, x, after)

    return cell.replace(name=f"watching({cell.name})", step=step)


@factory
def watching_layers(cell: Cell, observe: Observe) -> Cell:
    """The cell whose output is a tuple of what `observe` returns for each of `layers(cell)`, through any wrapper.

    Example:
      >>> cell = seqjax.bidirectional(seqjax.lstm(8), seqjax.gru(8))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> _, (forward, backward) = seqjax.unroll(watching_layers(cell, carry_before), params, jnp.ones((2, 5, 4)))
      >>> forward.c.shape, backward.h.shape
      ((2, 5, 8), (2, 5, 8))
    """

    def sequence(run, params, carry, initial, xs, rng) -> tuple[Carry, Any]:
        found = []

        def through(layer, p, carry, initial, xs, rng, flip, run):
            def step(p, carry, x):
                after, y = layer.step(p, carry, x)
                return after, (y, observe(layer, p, carry, x, after))

            carry, (ys, seen) = run(layer.replace(step=step), p, carry, initial, xs, None, flip)
            found.append(seen)
            return carry, ys

        carry, _ = _EachLayer(run, through)(cell, params, carry, initial, xs, rng)
        return carry, tuple(found)

    return cell.replace(name=f"watching_layers({cell.name})", wrap=Wrap((cell,), sequence))


@factory
def probed(cell: Cell, batch: int, steps: int, reverse: bool = False) -> Cell:
    """The cell with zeros added to the carry after every step and gradients cut after some: see `Probe`."""

    def init(key, input_size):
        params = cell.init(key, input_size)
        zeros = jax.tree.map(lambda a: jnp.zeros((steps, *a.shape), a.dtype), cell.initial_carry(params, batch))
        return Probe(params, zeros, (jnp.zeros((steps, batch), bool),) * 2)

    def sequence(run, params, carry, initial, xs, rng):
        def through(layer, p, carry, initial, xs, rng, flip, run):
            start, deltas = _started(carry), _zeros(carry, steps)

            def step(p, carry, x):
                after, y = layer.step(p, carry, x.inner)
                cut = jax.tree.map(jax.lax.stop_gradient, after)
                after = jax.tree.map(lambda a, b, d: jnp.where(_wide(x.cut, a), b, a) + d, after, cut, x.deltas)
                return after, y

            xs = _Step(xs, deltas, params.cuts[flip != reverse])
            return run(layer.replace(step=step), p, start, initial, xs, None, flip)

        carry = jax.tree.map(_Probed, carry, params.deltas)
        return _EachLayer(run, through)(cell, params.params, carry, initial, xs, rng)

    inside = cell.on_params(lambda params: params.params)
    return inside.replace(name=f"probed({cell.name})", init=init, wrap=Wrap((cell,), sequence))


def _is_probed(node):
    return isinstance(node, _Probed)


def _started(carry):
    return jax.tree.map(lambda node: node.start if _is_probed(node) else node, carry, is_leaf=_is_probed)


def _zeros(carry, steps):
    """The zeros of each array; those of an array that a wrapper creates itself do not count."""

    def zeros(node):
        return node.deltas if _is_probed(node) else jnp.zeros((steps, *node.shape), node.dtype)

    return jax.tree.map(zeros, carry, is_leaf=_is_probed)


def _wide(flag, like):
    return flag.reshape(flag.shape + (1,) * (like.ndim - flag.ndim))


@dataclasses.dataclass(frozen=True)
class _EachLayer:
    """A run that descends into wrappers and calls `through(..., flip, run)` for each cell that an engine would run."""

    run: Callable[..., Any]
    through: Callable[..., Any]
    flipped: bool = False

    def __call__(self, layer, params, carry, initial, xs, rng, flip=False):
        flip = self.flipped != flip
        if layer.wrap and layer.wrap.sequence:
            return layer.wrap.sequence(dataclasses.replace(self, flipped=flip), params, carry, initial, xs, rng)
        if rng is not None and layer.wrap and layer.wrap.noise:
            layer, params, xs = layer.wrap.noise(rng, params, xs)
        while layer.wrap and layer.wrap.training_only:
            (layer,) = layer.inner
        if isinstance(layer.split, Pointwise):
            return self.run(layer, params, carry, initial, xs, None, flip)
        return self.through(layer, params, carry, initial, xs, rng, flip, self.run)

    def both(self, cells, params, carries, initials, xs, rngs):
        """Two cells in turn, the second in the other direction."""
        each = zip(cells, params, carries, initials, (xs, xs), rngs, (False, True))
        return [self(*its) for its in each]


def carry_before(cell: Cell, params: Params, before: Carry, x: Array, after: Carry) -> Carry:
    """An `Observe`: the carry that the step starts from, the initial one after a reset."""
    del cell, params, x, after
    return before


def layers(cell: Cell) -> list[tuple[str, Cell]]:
    """The inner cells that have a carry, by name, in running order.

    Example:
      >>> [name for name, _ in layers(seqjax.stack(seqjax.dropout(seqjax.lstm(8), 0.5), jnp.tanh, seqjax.gru(8)))]
      ['layer 1 (lstm)', 'layer 2 (gru)']
    """

    def found(cell, note):
        if not (cell.wrap and cell.wrap.sequence):
            return [] if isinstance(innermost(cell).split, Pointwise) else [(f"{innermost(cell).name}{note}", cell)]
        both = cell.name.startswith("bidirectional")
        notes = (f"{note}, forward", f"{note}, backward") if both else (note,) * len(cell.inner)
        return [pair for inner, note in zip(cell.inner, notes) for pair in found(inner, note)]

    return [(f"layer {place} ({name})", inner) for place, (name, inner) in enumerate(found(cell, ""), 1)]


def innermost(cell: Cell) -> Cell:
    """The cell inside all wrappers.

    Example:
      >>> innermost(seqjax.dropout(seqjax.zoneout(seqjax.lstm(8), 0.1), 0.5))
      lstm(8)
    """
    while len(cell.inner) == 1:
        (cell,) = cell.inner
    return cell


def real_steps(xs: Array, lengths: Array | None) -> Array:
    """Bool (B, T): the real steps of xs (B, T, ...), from lengths (B,) or a mask.

    Example:
      >>> real_steps(jnp.ones((2, 3, 1)), jnp.array([1, 3])).sum(axis=1).tolist()
      [1, 3]
    """
    if lengths is None:
        return jnp.ones(xs.shape[:2], bool)
    lengths = jnp.asarray(lengths)
    return lengths if lengths.ndim == 2 else jnp.arange(xs.shape[1])[None, :] < lengths[:, None]


def by_layer(cell: Cell, carry: Carry) -> list[tuple[str, Carry]]:
    """The part of a carry, or of a similar pytree, that belongs to each of `layers(cell)`, by name.

    Example:
      >>> cell = seqjax.stack(seqjax.lstm(8), jnp.tanh, seqjax.bidirectional(seqjax.gru(4), seqjax.gru(4)))
      >>> carry = cell.initial_carry(cell.init(jax.random.key(0), 4), 2)
      >>> [(name, carry.h.shape) for name, carry in by_layer(cell, carry)][1:]
      [('layer 2 (gru, forward)', (2, 4)), ('layer 3 (gru, backward)', (2, 4))]
    """

    def found(cell, carry):
        if not (cell.wrap and cell.wrap.sequence):
            return [] if isinstance(innermost(cell).split, Pointwise) else [carry]
        its = carry if cell.name.startswith(("stack(", "bidirectional(")) else (carry,)  # other wrappers keep the inner carry unchanged
        return [part for inner, one in zip(cell.inner, its, strict=True) for part in found(inner, one)]

    return [(name, part) for (name, _), part in zip(layers(cell), found(cell, carry), strict=True)]


def captured(function: Callable, *args: Any, noise: bool = False) -> list[Unrolled]:
    """The runs inside a function, such as a model's loss: the arguments of each call of `seqjax.unroll`, in order.

    Args:
      function: function(*args) calls `seqjax.unroll`, outside of any jit of its own.
      *args: its arguments.
      noise: keep the key of training noise, as the option `rng`; otherwise runs are as in evaluation.

    Returns:
      An Unrolled for each call.

    Raises:
      UserError: there was no such call, or it was inside a jit, grad or vmap.

    Example:
      >>> cell = seqjax.gru(8)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> (run,) = captured(lambda xs: seqjax.unroll(cell, params, xs)[1].sum(), jnp.ones((2, 5, 4)))
      >>> run.cell, run.xs.shape
      (gru(8), (2, 5, 4))
    """
    found = []

    def watch(cell, params, xs, carry, options):
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, xs, carry, options["lengths"], options["resets"]))):
            raise UserError("seqjax.unroll is called inside a jit, grad, vmap or scan, where values are unknown; give the plain function")
        found.append(unrolled(cell, params, xs, carry, options, noise=noise))
        return seqjax.unroll(cell, params, xs, carry, **options)

    with _unroll.watched(watch):
        function(*args)
    return some(found)


def unrolled(cell: Cell, params: Params, xs: Array, carry: Carry | None, options: dict[str, Any], *, noise: bool) -> Unrolled:
    """A watched call with the arguments from `_unroll.watched`, made batch-major; with or without its noise key."""
    names = ("lengths", "resets", "rng") if noise else ("lengths", "resets")
    kept = {name: options[name] for name in names if options[name] is not None}
    if options["time_major"]:
        kept = {name: value.T if name != "rng" and jnp.ndim(value) > 1 else value for name, value in kept.items()}
    ahead = jnp.swapaxes(xs, 0, 1) if options["time_major"] else xs
    return Unrolled(cell, params, ahead, carry, kept | ({"reverse": True} if options["reverse"] else {}))


class Layout(NamedTuple):
    """The layout of a watched call."""

    batch: int
    steps: int
    real: Array  # bool (T, B)


def layout_of(cell: Cell, xs: Array, options: dict[str, Any]) -> Layout:
    """The sizes of a call of `unroll`, and which of its steps are real.

    Raises:
      UserError: the inputs have no batch axis, or several.
    """
    if xs.ndim != 3 + len(cell.spatial):
        raise UserError(f"the diagnostics take inputs (B, T, D), one batch axis, and these have shape {xs.shape}")
    major = options["time_major"]
    steps, batch = xs.shape[:2] if major else xs.shape[1::-1]
    lengths = options["lengths"]
    if major and lengths is not None and jnp.ndim(lengths) == 2:
        lengths = jnp.asarray(lengths).T
    return Layout(batch, steps, real_steps(jnp.zeros((batch, steps)), lengths).T)


def borders(window: Array, real: Array) -> tuple[Array, Array]:
    """The steps after which the gradient is cut, for consecutive windows of this many steps.

    Args:
      window: steps in a window, ().
      real: bool (T, B); the next step of a sequence is its next real one.

    Returns:
      Bool (T, B) for a forward run, and for a backward run.

    Example:
      >>> [cuts[:, 0].tolist() for cuts in borders(jnp.int32(2), jnp.ones((4, 1), bool))]
      [[False, True, False, False], [False, False, True, False]]
    """
    steps, large = real.shape[0], jnp.int32(2**30)
    number = jnp.broadcast_to((jnp.arange(steps, dtype=jnp.int32) // window)[:, None], real.shape)
    edge = jnp.full_like(number[:1], -1)
    after = jnp.concatenate([jax.lax.cummin(jnp.where(real, number, large), reverse=True)[1:], edge])
    before = jnp.concatenate([edge, jax.lax.cummax(jnp.where(real, number, -1))[:-1]])
    return (after != number) & (after != -1) & (after != large), (before != number) & (before != -1)


def some(found: list) -> list:
    """The recorded calls.

    Raises:
      UserError: there are none.
    """
    if not found:
        raise UserError("the function never calls seqjax.unroll (or it was compiled before); give one that runs a recurrent network")
    return found
