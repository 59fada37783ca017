"""One layer over all steps, or both directions of one, as one call of the library, and its derivatives.

The first derivative is a call of the library too. Derivatives of that derivative go through the plain scan, so that
second and higher derivatives in reverse mode are correct, and as fast as the scan engine's.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from seqjax.engines import scan
from seqjax.engines.native.forms import UNITS, Form
from seqjax.typing import Array, Carry, Cell, Params


class Layer(NamedTuple):
    """The static settings of a layer."""

    cell: Cell
    form: Form
    reverse: bool
    every: bool = False  # whether the output is (y, carry), as from `every.recorded`

    def carry(self, h: Array, c: Array, like: Carry) -> Carry:
        """Builds a carry of the cell."""
        return like._replace(h=h, c=c) if self.form.memory else like._replace(h=h)

    def output(self, ys: Array, cs: Array, like: Carry) -> Any:
        """Builds the cell's outputs of all steps; h is the output in each of the library's cells."""
        return (ys, self.carry(ys, cs, like)) if self.every else ys


class Call(NamedTuple):
    """The static settings of a call of the library."""

    layers: tuple[Layer, ...]  # one layer, or two, of which the second runs in the other direction
    instruction_set: str

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the library's functions."""
        names = ",".join(layer.form.name for layer in self.layers)
        return {"cells": names, "instruction_set": self.instruction_set, "reverse": self.layers[0].reverse}


class Given(NamedTuple):
    """The arrays of a layer; all numbers are float32."""

    params: Params
    carry: Carry
    initial: Carry
    xs: Array  # time-major
    mask: Array | None
    resets: Array | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def unrolled(call: Call, given: tuple[Given, ...]) -> tuple[tuple[Carry, Array], ...]:
    """Runs the layers of a call and returns (last carry, ys) of each."""
    return _forward(call, given, keep=False)[0]


def _forward(call, given, keep):
    """Returns ((last carry, ys), residuals) of each layer."""
    arrays = [a for layer, its in zip(call.layers, given) for a in (*_arrays(layer, its), *_flags(its))]
    arrays = _call_forward(call, keep, *arrays)
    results, kept = [], []
    for k, (layer, its) in enumerate(zip(call.layers, given)):
        ys, h, c, saved, cs = arrays[RESULTS * k : RESULTS * (k + 1)]
        results.append((layer.carry(h, c, its.carry), layer.output(ys, cs, its.carry)))
        kept.append((ys, saved))
    return tuple(results), tuple(kept)


ARRAYS, RESULTS = 11, 5  # of a layer, in the forward pass


def _arrays(layer, its):
    """Returns the differentiable arrays of the library's functions; an absent one has no rows."""
    none = jnp.zeros((0, layer.cell.hidden_size), jnp.float32)
    kernel, recurrent, bias, vectors = layer.form.arrays(its.params)
    start = [its.carry.h, its.carry.c if layer.form.memory else none]
    again = [none, none] if its.resets is None else [its.initial.h, its.initial.c if layer.form.memory else none]
    return its.xs, kernel, recurrent, bias, vectors, *start, *again


def _flags(its):
    none = jnp.zeros((0, its.xs.shape[1]), bool)
    return none if its.mask is None else its.mask, none if its.resets is None else its.resets


def _shapes(*shapes):
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


# ---- the two functions of the library, on arrays alone


def _call_forward(call, keep, *arrays):
    """Returns (ys, last h, last c, saved, every c) of each layer; a vmap over sequences becomes one larger batch."""

    def plain(*arrays):
        shapes = []
        for k, (_, form, _, every) in enumerate(call.layers):
            xs, _, _, bias = arrays[ARRAYS * k : ARRAYS * k + 4]
            (steps, batch, _), (_, units) = xs.shape, bias.shape
            saved = (steps if keep else 0, batch, form.saved, -(-units // UNITS) * UNITS)
            memory, each = (batch, steps if every else 0) if form.memory else (0, 0)
            shapes += [(steps, batch, units), (batch, units), (memory, units), saved, (each, batch, units)]
        function = jax.ffi.ffi_call("seqjax_native_forward", _shapes(*shapes), vmap_method="sequential")
        return function(*arrays, **call.attributes)

    mapped = jax.custom_batching.custom_vmap(plain)

    @mapped.def_vmap
    def _(size, batched, *arrays):
        if any(flag for k, flag in enumerate(batched) if _is_weight(k)):  # different weights: one call after the other
            found = jax.vmap(plain, [0 if flag else None for flag in batched])(*arrays)
        else:
            joined = [a if _is_weight(k) else _join(a, _axis(k), size, flag) for k, (a, flag) in enumerate(zip(arrays, batched))]
            found = [_part(a, axis, size) for a, axis in zip(mapped(*joined), (1, 0, 0, 1, 1) * len(call.layers))]
        return found, [True] * len(found)

    return mapped(*arrays)


def _is_weight(k):
    """Whether the k-th array of a call has no axis B."""
    return 1 <= k % ARRAYS <= 4


def _axis(k):
    """Returns the position of B in the k-th array of a call: first in carries, after T in xs, mask and resets."""
    return 0 if 5 <= k % ARRAYS <= 8 else 1


def _join(array, axis, size, batched):
    """Moves the mapped axis, which is the first, before axis B and merges the two."""
    if not batched:
        array = jnp.broadcast_to(array[None], (size, *array.shape))
    array = jnp.moveaxis(array, 0, axis)
    return array.reshape(*array.shape[:axis], array.shape[axis] * array.shape[axis + 1], *array.shape[axis + 2 :])


def _part(array, axis, size):
    """Inverts `_join`."""
    array = array.reshape(*array.shape[:axis], size, array.shape[axis] // size, *array.shape[axis + 1 :])
    return jnp.moveaxis(array, axis, 0)


# ---- derivatives


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unrolled_kept(call, given):
    """Returns the result of `unrolled` and the residuals; separate, so that it is differentiable too."""
    return _forward(call, given, keep=True)


def _unrolled_fwd(call, given):
    found, kept = cast(Any, _unrolled_kept(call, given))
    return found, (given, kept)


def _unrolled_bwd(call, saved, cotangents):
    given, kept = saved
    found = _gradients(call, tuple(its[:4] for its in given), tuple(its[4:] for its in given), kept, cotangents)
    return (tuple(Given(*gradients, mask=None, resets=None) for gradients in cast(Any, found)),)


def _unrolled_kept_fwd(call, given):
    found, kept = cast(Any, _unrolled_kept(call, given))
    return (found, kept), (given, kept)


def _unrolled_kept_bwd(call, saved, cotangents):
    """Drops the cotangent of the residuals, which is zero: only `_gradients` reads them, and returns none."""
    return _unrolled_bwd(call, saved, cotangents[0])


unrolled.defvjp(_unrolled_fwd, _unrolled_bwd)
_unrolled_kept.defvjp(_unrolled_kept_fwd, _unrolled_kept_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(call, primals, flags, kept, cotangents):
    """Returns the cotangents of (params, carry, initial, xs) of each layer; `flags` are mask and resets. A vmap runs calls in turn."""
    given = [Given(*its, *bools) for its, bools in zip(primals, flags)]
    arrays, backs = zip(*(jax.vjp(functools.partial(_arrays_of, *parts), its) for *parts, its in zip(call.layers, flags, primals)))
    parts = zip(call.layers, given, arrays, kept, cotangents)
    inputs = [a for layer, its, own, saved, back in parts for a in (*own, *_flags(its), *saved, *_cotangents(layer, *back))]
    shapes = _shapes(*(a.shape for own in arrays for a in own))
    found = jax.ffi.ffi_call("seqjax_native_backward", shapes, vmap_method="sequential")(*inputs, **call.attributes)
    count = len(arrays[0])
    return tuple(back(tuple(found[count * k : count * (k + 1)]))[0] for k, back in enumerate(backs))


def _arrays_of(layer, flags, primals):
    return _arrays(layer, Given(*primals, *flags))


def _cotangents(layer, d_last, d_ys):
    """Returns the cotangents of ys, the last h, the last c and every c."""
    d_cs = jnp.zeros((0, *d_last.h.shape), jnp.float32)
    if layer.every:
        d_ys, d_carries = d_ys
        d_ys, d_cs = d_ys + d_carries.h, d_carries.c if layer.form.memory else d_cs
    return d_ys, d_last.h, d_last.c if layer.form.memory else d_cs[:, 0], d_cs


def _gradients_fwd(call, *args):
    return _gradients(call, *args), args


def _gradients_bwd(call, saved, d_gradients):
    """Differentiates through the scan. The residuals are a function of the primals, which this derivative takes into account."""
    primals, flags, kept, cotangents = saved

    def back_through(layer, flags, primals, cotangents):
        settings = {"mask": flags[0], "resets": flags[1], "reverse": layer.reverse, "remat_every": None}
        return jax.vjp(lambda *primals: scan.run(layer.cell, *primals, **settings), *primals)[1](cotangents)

    def gradients(primals, cotangents):
        return tuple(map(back_through, call.layers, flags, primals, cotangents))

    d_primals, d_cotangents = jax.vjp(gradients, primals, cotangents)[1](d_gradients)
    return d_primals, None, jax.tree.map(jnp.zeros_like, kept), d_cotangents


_gradients.defvjp(_gradients_fwd, _gradients_bwd)
