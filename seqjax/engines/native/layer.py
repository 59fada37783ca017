"""One layer over all steps as one call of the library, and its derivatives.

The first derivative is a call of the library too. The derivative of that derivative goes through the plain scan, so that
second and higher derivatives in reverse mode are right, and as fast as the scan engine's.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.engines import scan
from seqjax.engines.native.forms import UNITS, Form
from seqjax.typing import Array, Carry, Cell, Params


class Call(NamedTuple):
    """What a call of the library is besides its arrays."""

    cell: Cell
    form: Form
    instruction_set: str
    reverse: bool
    every: bool = False  # whether the output is (y, carry), as `every.recorded` makes it

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the library's functions."""
        return {"cell": self.form.name, "instruction_set": self.instruction_set, "reverse": self.reverse}

    def carry(self, h: Array, c: Array, like: Carry) -> Carry:
        """A carry of the cell."""
        return like._replace(h=h, c=c) if self.form.memory else like._replace(h=h)

    def output(self, ys: Array, cs: Array, like: Carry) -> Any:
        """What the cell gives of all steps; h is the output in each of the library's cells."""
        return (ys, self.carry(ys, cs, like)) if self.every else ys


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def unrolled(call: Call, params: Params, carry: Carry, initial: Carry, inputs: tuple) -> tuple[Carry, Array]:
    """Runs a cell over `inputs`, which are (xs, mask, resets), time-major; all numbers are float32."""
    return _forward(call, params, carry, initial, inputs, keep=False)[0]


def _forward(call, params, carry, initial, inputs, keep):
    """((last carry, ys), what is kept)."""
    arrays = _arrays(call, params, carry, initial, inputs)
    ys, h, c, saved, cs = _call_forward(call, keep, *arrays, *_flags(inputs))
    return (call.carry(h, c, carry), call.output(ys, cs, carry)), (ys, saved)


def _arrays(call, params, carry, initial, inputs):
    """The arrays of the library's functions, those that have a derivative; one that is absent has no rows."""
    xs, _, resets = inputs
    none = jnp.zeros((0, xs.shape[1] and call.cell.hidden_size), jnp.float32)
    kernel, recurrent, bias, vectors = call.form.arrays(params)
    start = [carry.h, carry.c if call.form.memory else none]
    again = [none, none] if resets is None else [initial.h, initial.c if call.form.memory else none]
    return xs, kernel, recurrent, bias, vectors, *start, *again


def _flags(inputs):
    xs, mask, resets = inputs
    none = jnp.zeros((0, xs.shape[1]), bool)
    return none if mask is None else mask, none if resets is None else resets


def _shapes(*shapes):
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


# ---- the two functions of the library, on arrays alone


def _call_forward(call, keep, *arrays):
    """(ys, last h, last c, what is saved, every c) of arrays; under vmap over sequences they become one larger batch."""

    def plain(*arrays):
        (steps, batch, _), (_, units) = arrays[0].shape, arrays[3].shape
        saved = (steps if keep else 0, batch, call.form.saved, -(-units // UNITS) * UNITS)
        memory, every = (batch, steps if call.every else 0) if call.form.memory else (0, 0)
        shapes = _shapes((steps, batch, units), (batch, units), (memory, units), saved, (every, batch, units))
        return jax.ffi.ffi_call("seqjax_native_forward", shapes, vmap_method="sequential")(*arrays, **call.attributes)

    mapped = jax.custom_batching.custom_vmap(plain)

    @mapped.def_vmap
    def _(size, batched, *arrays):
        if any(batched[1:5]):  # weights of their own: one call after the other
            found = jax.vmap(plain, [0 if flag else None for flag in batched])(*arrays)
        else:
            joined = [a if k in range(1, 5) else _join(a, _axis(k), size, flag) for k, (a, flag) in enumerate(zip(arrays, batched))]
            found = [_part(a, axis, size) for a, axis in zip(mapped(*joined), (1, 0, 0, 1, 1))]
        return found, [True] * 5

    return mapped(*arrays)


def _axis(k):
    """Where B is in the k-th array of a call: first in carries, after T in xs, mask and resets."""
    return 0 if 5 <= k <= 8 else 1


def _join(array, axis, size, batched):
    """The mapped axis, which is the first, put before axis B and both made one."""
    if not batched:
        array = jnp.broadcast_to(array[None], (size, *array.shape))
    array = jnp.moveaxis(array, 0, axis)
    return array.reshape(*array.shape[:axis], array.shape[axis] * array.shape[axis + 1], *array.shape[axis + 2 :])


def _part(array, axis, size):
    """`_join` undone."""
    array = array.reshape(*array.shape[:axis], size, array.shape[axis] // size, *array.shape[axis + 1 :])
    return jnp.moveaxis(array, axis, 0)


def _call_backward(call, arrays, flags, kept, cotangents):
    """The gradient of each of `arrays`; under vmap one call after the other."""
    shapes = _shapes(*(a.shape for a in arrays))
    function = jax.ffi.ffi_call("seqjax_native_backward", shapes, vmap_method="sequential")
    return function(*arrays, *flags, *kept, *cotangents, **call.attributes)


# ---- derivatives


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unrolled_kept(call, params, carry, initial, inputs):
    """What `unrolled` gives, and what is kept for the backward pass; apart, so that this too has a derivative."""
    return _forward(call, params, carry, initial, inputs, keep=True)


def _unrolled_fwd(call, params, carry, initial, inputs):
    found, kept = _unrolled_kept(call, params, carry, initial, inputs)
    return found, (params, carry, initial, inputs, kept)


def _unrolled_bwd(call, saved, cotangents):
    params, carry, initial, (xs, *flags), kept = saved
    *found, d_xs = _gradients(call, (params, carry, initial, xs), flags, kept, cotangents)
    return *found, (d_xs, None, None)


def _unrolled_kept_fwd(call, params, carry, initial, inputs):
    found, kept = _unrolled_kept(call, params, carry, initial, inputs)
    return (found, kept), (params, carry, initial, inputs, kept)


def _unrolled_kept_bwd(call, saved, cotangents):
    """The cotangent of what is kept is zero: `_gradients` alone reads it, and hands none back."""
    return _unrolled_bwd(call, saved, cotangents[0])


unrolled.defvjp(_unrolled_fwd, _unrolled_bwd)
_unrolled_kept.defvjp(_unrolled_kept_fwd, _unrolled_kept_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(call, primals, flags, kept, cotangents):
    """The cotangents of (params, carry, initial, xs); `flags` are mask and resets."""

    def arrays_of(params, carry, initial, xs):
        return _arrays(call, params, carry, initial, (xs, *flags))

    arrays, back = jax.vjp(arrays_of, *primals)
    (d_last, d_ys), d_cs = cotangents, jnp.zeros((0, *kept[0].shape[1:]), jnp.float32)
    if call.every:
        d_ys, d_carries = d_ys
        d_ys, d_cs = d_ys + d_carries.h, d_carries.c if call.form.memory else d_cs
    d_c = d_last.c if call.form.memory else jnp.zeros((0, d_last.h.shape[1]), jnp.float32)
    found = _call_backward(call, arrays, _flags((primals[-1], *flags)), kept, (d_ys, d_last.h, d_c, d_cs))
    return back(tuple(found))


def _gradients_fwd(call, primals, flags, kept, cotangents):
    return _gradients(call, primals, flags, kept, cotangents), (primals, flags, kept, cotangents)


def _gradients_bwd(call, saved, d_gradients):
    """By the scan. What was kept is a function of the primals, which the derivative by the scan takes into account."""
    primals, (mask, resets), kept, cotangents = saved

    def run(params, carry, initial, xs):
        settings = {"mask": mask, "resets": resets, "reverse": call.reverse, "remat_every": None}
        return scan.run(call.cell, params, carry, initial, xs, **settings)

    def gradients(primals, cotangents):
        return jax.vjp(run, *primals)[1](cotangents)

    d_primals, d_cotangents = jax.vjp(gradients, primals, cotangents)[1](d_gradients)
    return d_primals, None, jax.tree.map(jnp.zeros_like, kept), d_cotangents


_gradients.defvjp(_gradients_fwd, _gradients_bwd)
