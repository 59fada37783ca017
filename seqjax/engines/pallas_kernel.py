"""The two kernels of the Pallas engine: a block of sequences through all steps, and back.

Arrays are time-major, and gates have an axis of their own: inputs (T, B, G, H), recurrent weights (H, G, H), vectors
(n, H), flags (T, B) as int32. One program of the grid has `ROWS` sequences; it loads the recurrent weights once, keeps the
carry in registers from step to step, and touches the main memory only for what belongs to a step.
"""

import functools

import jax
import jax.numpy as jnp

from seqjax.engines.pallas_plan import Plan
from seqjax.engines.pallas_tiles import join, members, with_expansions

ROWS = 16  # sequences of a program; not tuned
WARPS = 8  # not tuned
STAGES = 1  # not tuned: the loop carries its state, so loads of the next step are all there is to overlap


def forward(plan: Plan, operands: dict, *, reverse: bool, save: bool, interpret: bool) -> dict:
    """All steps from the first to the last.

    Args:
      plan: the cell.
      operands: "weights", "vectors", "carry" and "initial" (leaves), "inputs" ([projected]); and "mask", "resets"
        where there are any.
      reverse: runs from the last step to the first.
      save: whether to keep the carry that each step starts from.
      interpret: runs in plain JAX.

    Returns:
      "carry" (leaves), "ys" (T, B, H), and with `save` "starts" (leaves, (T, B, H)).
    """
    steps, batch = operands["inputs"][0].shape[:2]
    over_time = functools.partial(jax.ShapeDtypeStruct, (steps, batch, plan.width))
    results = {
        "carry": [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands["carry"]],
        "ys": over_time(plan.output.dtype),
    }
    if save:
        results["starts"] = [over_time(a.dtype) for a in operands["carry"]]
    kernel = functools.partial(_forward_kernel, plan, reverse)
    return _call(kernel, operands, results, interpret)


def backward(plan: Plan, operands: dict, *, reverse: bool, interpret: bool) -> dict:
    """All steps from the last to the first, with the cotangent of the carry in the place of the carry.

    Args:
      plan: the cell.
      operands: "weights", "vectors", "starts" (leaves), "inputs" ([projected, recurrent], or [their sum] for an
        additive cell), "d_carry" (leaves), "d_ys"; and "mask", "resets" where there are any.
      reverse: that of the run forward.
      interpret: runs in plain JAX.

    Returns:
      "d_carry" (leaves), "d_inputs" (as inputs), with resets "d_initial" (leaves), and with vectors "d_after": the
      cotangent of the carry after each real step, zero after a padded one (leaves, (T, B, H)).
    """
    d_carry = [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in operands["d_carry"]]
    results = {
        "d_carry": d_carry,
        "d_inputs": [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands["inputs"]],
    }
    if "resets" in operands:
        results["d_initial"] = d_carry
    if operands["vectors"]:
        results["d_after"] = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands["starts"]]
    kernel = functools.partial(_backward_kernel, plan, reverse)
    return _call(kernel, operands, results, interpret)


def _forward_kernel(plan, reverse, refs, results):
    weights, vectors = _load_weights(plan, refs), [_load_vector(ref) for ref in refs["vectors"]]
    initial = [ref[...] for ref in refs["initial"]] if "resets" in refs else None
    steps = refs["inputs"][0].shape[0]

    def step(i, carry):
        t = steps - 1 - i if reverse else i
        start = carry
        if initial is not None:
            start = _select(refs["resets"][t, :] != 0, initial, carry)
        if "starts" in results:
            for ref, value in zip(results["starts"], start, strict=True):
                ref[t, :, :] = value
        recurrent = _recurrent(plan, start[plan.memory], weights)
        after, y = plan.combine(vectors, start, _load_tiles(refs["inputs"][0], t), recurrent)
        if "mask" in refs:
            real = refs["mask"][t, :] != 0
            after, y = _select(real, after, carry), _select(real, [y], [jnp.zeros_like(y)])[0]
        results["ys"][t, :, :] = y
        return after

    last = jax.lax.fori_loop(0, steps, step, [ref[...] for ref in refs["carry"]])
    for ref, value in zip(results["carry"], last, strict=True):
        ref[...] = value


def _backward_kernel(plan, reverse, refs, results):
    weights, vectors = _load_weights(plan, refs), [_load_vector(ref) for ref in refs["vectors"]]
    steps = refs["inputs"][0].shape[0]

    def step(i, state):
        d_carry, d_initial = state
        t = i if reverse else steps - 1 - i
        d_after, d_y = d_carry, refs["d_ys"][t, :, :]
        if "mask" in refs:
            real = refs["mask"][t, :] != 0
            zeros = [jnp.zeros_like(a) for a in d_carry]
            d_after, d_past = _select(real, d_carry, zeros), _select(real, zeros, d_carry)
            d_y = _select(real, [d_y], [jnp.zeros_like(d_y)])[0]

        start = [ref[t, :, :] for ref in refs["starts"]]
        inputs = [_load_tiles(ref, t) for ref in refs["inputs"]]
        d_after = [d.astype(a.dtype) for d, a in zip(d_after, start, strict=True)]
        d_start, d_inputs = with_expansions(functools.partial(_pullback, plan), vectors, start, inputs, (d_after, d_y))
        for ref, value in zip(results["d_inputs"], d_inputs, strict=True):
            _store_tiles(ref, t, value)
        for ref, value in zip(results.get("d_after", ()), d_after):
            ref[t, :, :] = value
        d_start = [d.astype(jnp.float32) for d in d_start]
        d_start[plan.memory] += _recurrent_transposed(plan, d_inputs[-1], weights)

        if "resets" in refs:
            reset, zeros = refs["resets"][t, :] != 0, [jnp.zeros_like(a) for a in d_start]
            d_initial = [a + b for a, b in zip(d_initial, _select(reset, d_start, zeros), strict=True)]
            d_start = _select(reset, zeros, d_start)
        if "mask" in refs:
            d_start = [a + b for a, b in zip(d_start, d_past, strict=True)]
        return d_start, d_initial

    d_carry = [ref[...].astype(jnp.float32) for ref in refs["d_carry"]]
    d_initial = [jnp.zeros_like(a) for a in d_carry] if "resets" in refs else []
    d_carry, d_initial = jax.lax.fori_loop(0, steps, step, (d_carry, d_initial))
    for ref, value in zip([*results["d_carry"], *results.get("d_initial", [])], [*d_carry, *d_initial], strict=True):
        ref[...] = value


def _pullback(plan, vectors, carry, inputs, cotangents):
    """The cotangents of carry and inputs, through `combine` of the two inputs, or of their sum and zeros."""

    def combine(carry, inputs):
        projected, *rest = inputs
        recurrent = rest[0] if rest else jax.tree.map(jnp.zeros_like, projected)
        return plan.combine(vectors, carry, projected, recurrent)

    return jax.vjp(combine, carry, inputs)[1](cotangents)


def _recurrent(plan, memory, weights):
    factor = memory.astype(plan.product)
    products = (jnp.dot(factor, w, preferred_element_type=jnp.float32) for w in weights)
    return join([p.astype(plan.recurrent) for p in products])


def _recurrent_transposed(plan, d_recurrent, weights):
    """The cotangent of the memory through the recurrent product: the sum over gates of d_g W_g'."""
    over_columns = (((1,), (1,)), ((), ()))
    parts = [
        jax.lax.dot_general(d.astype(plan.product), w, over_columns, preferred_element_type=jnp.float32)
        for d, w in zip(members(d_recurrent), weights, strict=True)
    ]
    return sum(parts[1:], parts[0])


def _load_weights(plan, refs):
    return [refs["weights"][:, g, :] for g in range(plan.gates)]


def _load_vector(ref):
    return join([ref[n, :] for n in range(ref.shape[0])])


def _load_tiles(ref, t):
    return join([ref[t, :, g, :] for g in range(ref.shape[2])])


def _store_tiles(ref, t, value):
    for g, tile in enumerate(members(value)):
        ref[t, :, g, :] = tile


def _select(flags, on_true, on_false):
    """on_true where a sequence's flag (B,) is set, over lists of arrays (B, H)."""
    return [jnp.where(flags[:, None], a, b) for a, b in zip(on_true, on_false, strict=True)]


def _call(kernel, operands, results, interpret):
    """Calls a kernel with one program for every `ROWS` sequences."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    programs = operands["inputs"][0].shape[1] // ROWS
    return pl.pallas_call(
        kernel,
        out_shape=results,
        grid=(programs,),
        in_specs=[_blocks(pl, operands)],
        out_specs=_blocks(pl, results),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
    )(operands)


# The axis along which the array of a name is cut into blocks of sequences; None where every program sees the whole.
_BATCH_AXIS = {
    "weights": None, "vectors": None, "carry": 0, "initial": 0, "inputs": 1, "mask": 1, "resets": 1, "ys": 1, "starts": 1,
    "d_carry": 0, "d_ys": 1, "d_inputs": 1, "d_initial": 0, "d_after": 1,
}  # fmt: skip


def _blocks(pl, arrays):
    def spec(name, array):
        axis = _BATCH_AXIS[name]
        shape = tuple(ROWS if n == axis else size for n, size in enumerate(array.shape))
        return pl.BlockSpec(shape, lambda i: tuple(i if n == axis else 0 for n in range(len(shape))))

    return {name: jax.tree.map(functools.partial(spec, name), value) for name, value in arrays.items()}
