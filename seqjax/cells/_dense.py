"""The builder of cells with plain matrix products: you write the equation, and the builder adds the rest."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import block_diagonal, parts
from seqjax.errors import UserError
from seqjax.typing import Array, Carry, Cell, Dense, DType, Initializer, MaybeArray, Params


class DenseParams(NamedTuple):
    """Parameters of a cell with plain matrix products; its G gates lie side by side."""

    kernel: Array  # input weights, (D, G H)
    recurrent_kernel: Array  # (H, G H)
    bias: MaybeArray  # (G H,); None with use_bias=False


def dense_cell(
    name: str,
    hidden_size: int,
    carry: type,
    combine: Callable[[Params, Carry, tuple[Array, ...]], Carry] | None = None,
    *,
    gates: int,
    params: type = DenseParams,
    memory: tuple[str, ...] = (),
    additive: bool = True,
    step: Callable[..., Carry] | None = None,
    heads: int = 1,
    use_bias: bool = True,
    output_size: int | None = None,
    extra: Mapping[str, tuple[Initializer | None, tuple[int, ...]] | None] | None = None,
    window: tuple[int, ...] = (),
    spatial: tuple[int, ...] = (),
    recurrent_shape: tuple[int, ...] | None = None,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    settings: tuple[tuple[str, Any], ...] = (),
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell:
    """Builds a cell with matrix products of its input and last output as gates, and elementwise otherwise.

      g_1 ... g_G = x W + b + h U
      carry' = combine(params, carry, (g_1 ... g_G)),  y = h'

    `combine` is written for one sequence: its arrays are (H,), without the axes B and T, in the widest dtype of the carry.
    The builder adds parameters, the initial carry, dtypes and everything that engines and wrappers need.

    Args:
      name: the name used in messages.
      hidden_size: H.
      carry: a NamedTuple of arrays (H,), among them `h`, the output. The initial carry is zeros.
      combine: combine(params, carry, gates) -> carry, elementwise.
      gates: number of gates, G.
      params: a NamedTuple with kernel, recurrent_kernel, bias and the names of `extra`.
      memory: fields of the carry that are never narrower than float32, as accumulated memory must be.
      additive: False if `combine` reads the two products separately: its gates are then G of x W + b and G of h U.
      step: step(params, carry, gates, product) -> carry, instead of combine, if one product needs the result of
        another: its arrays have the axis B, gates are those of x W + b, and product(h, first, last) gives those gates
        of h U. Such a cell has no split and runs only on the scan engine.
      heads: number of blocks of a block-diagonal U; a unit sees only the last output of its own block. It must divide H
        and the output's size. U is then (heads, H / heads, G H / heads), with the gates of a block side by side, and
        the split is not a Dense.
      use_bias: whether to add b; if False, it is None in the parameters.
      output_size: size of h, if it is not H.
      extra: further parameters by name: (initializer or None for zeros, shape); or None for an absent one.
      window: axes of both kernels before their last two, for products that are convolutions.
      spatial: axes of the carry between B and H.
      recurrent_shape: shape of a recurrent kernel that is not a matrix.
      kernel_init: initializer of one gate of W, (D, H). Glorot uniform by default.
      recurrent_init: initializer of one gate of U, (H, H). Orthogonal by default.
      bias_init: initializer of b (G H,). Zeros by default.
      settings: the settings to record, as in `Cell`; heads, use_bias and the dtype are added.
      dtype: dtype to compute the products in, and of y. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell. Call it in a function under `seqjax.typing.factory`, so that equal calls give equal cells.

    Raises:
      ValueError: hidden_size or heads is below 1.
      UserError: heads does not divide the sizes, or is combined with a window or recurrent_shape; an initializer is given for
        a bias that the cell does not have; carry or params is no NamedTuple or lacks a field; there is neither combine nor
        step, or both; or (from a step) combine returns another carry.

    Example:
      >>> import jax, seqjax
      >>> class Carry(NamedTuple):
      ...     h: Array
      >>> def leaky(params, carry, gates):
      ...     return Carry(0.9 * carry.h + 0.1 * jnp.tanh(gates[0]))
      >>> cell = seqjax.dense_cell("leaky", 8, Carry, leaky, gates=1)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> seqjax.unroll(cell, params, jnp.ones((2, 5, 4)))[1].shape
      (2, 5, 8)
    """
    size = parts.check_size("hidden_size", hidden_size)
    out, wide, extra = output_size or size, gates * size, extra or {}
    kernel_init = _each(kernel_init or initializers.glorot_uniform(), gates)
    recurrent_init = recurrent_init or initializers.orthogonal()
    if block_diagonal.check_blocks("heads", heads, hidden_size=size, proj_size=out) > 1:
        recurrent_init = block_diagonal.per_block(recurrent_init)
    recurrent_init = _each(recurrent_init, gates)
    if heads > 1 and (window or recurrent_shape):
        raise UserError(f"{name} has heads={heads} and a window or recurrent_shape; only a matrix can be block-diagonal")
    if bias_init and not use_bias:
        raise UserError(f"{name} has use_bias=False, so it takes no bias_init or forget_bias")
    _check_fields(name, carry, params, memory, extra)
    if (combine is None) == (step is None):
        raise UserError(f"{name} needs either combine or step, got {'neither' if step is None else 'both'}")

    def init(key, input_size):
        keys = jax.random.split(key, 3)
        more = {
            name: (found[0] or initializers.zeros)(jax.random.fold_in(key, number), found[1], param_dtype) if found else None
            for number, (name, found) in enumerate(extra.items(), 3)
        }
        recurrent = recurrent_shape or (*window, *block_diagonal.kernel_shape(heads, out, wide))
        return params(
            kernel=kernel_init(keys[0], (*window, parts.check_size("input_size", input_size), wide), param_dtype),
            recurrent_kernel=recurrent_init(keys[1], recurrent, param_dtype),
            bias=(bias_init or initializers.zeros)(keys[2], (wide,), param_dtype) if use_bias else None,
            **more,
        )

    def initial_carry(params, batch_size):
        narrow, broad = (of(dtype, params.kernel) for of in (parts.compute_dtype, parts.memory_dtype))
        return carry(
            **{
                field: jnp.zeros((batch_size, *spatial, out if field == "h" else size), broad if field in memory else narrow)
                for field in carry._fields
            }
        )

    def products(params) -> Any:
        compute = parts.compute_dtype(dtype, params.kernel)
        bias = params.bias if use_bias else jnp.zeros(wide, compute)
        return tuple(a.astype(compute) for a in (params.kernel, params.recurrent_kernel, bias))

    def settled(params, before, after):
        """Returns the new carry in its dtypes, and the output."""
        old, new = (jax.tree.map(jnp.shape, a) for a in (before, after))
        if jax.tree.structure(after) != jax.tree.structure(before) or new != old:
            raise UserError(f"the combine (or step) of {name} must return a carry like the one it got, {old}, got {new}")
        after = jax.tree.map(lambda a, b: a.astype(b.dtype), after, before)
        return after, after.h.astype(parts.compute_dtype(dtype, params.kernel))

    def whole(params, before, gates):
        """Applies `combine` in the widest dtype of the carry."""
        broad = jnp.result_type(*before)
        params = params._replace(**{name: getattr(params, name).astype(broad) for name, found in extra.items() if found})
        after = combine(params, before, tuple(gate.astype(broad) for gate in gates))  # pyright: ignore[reportOptionalCall]
        return settled(params, before, after)

    def stepwise(params, before, x):
        kernel, recurrent_kernel, bias = products(params)
        broad = jnp.result_type(*before)

        def product(h, first, last):
            columns = recurrent_kernel[..., first * size // heads : last * size // heads]
            return jnp.split(block_diagonal.product(h, columns, last - first).astype(broad), last - first, axis=-1)

        xs = (parts.affine(x, kernel, bias, kernel.dtype)).astype(broad)
        return settled(params, before, step(params, before, jnp.split(xs, gates, axis=-1), product))  # pyright: ignore[reportOptionalCall]

    def recur(params, carry):
        return block_diagonal.product(carry.h, products(params)[1], gates)

    split = None if step else Dense(gates, products, whole, additive)
    shown = (("heads", heads),) * (heads > 1) + (("use_bias", False),) * (not use_bias)
    return Cell(
        name=name,
        hidden_size=out,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: params.kernel.shape[-2],
        step=cast(Any, step and stepwise),
        split=split.parts()._replace(recur=recur) if split and heads > 1 else split,
        spatial=spatial,
        settings=(*settings, *shown, ("dtype", dtype)),
    )


def _check_fields(name, carry, params, memory, extra):
    """Raises the error for a carry or params that are no NamedTuples, or lack what the other arguments name."""
    for what, form in (("carry", carry), ("params", params)):
        if not hasattr(form, "_fields"):
            raise UserError(f"the {what} of {name} must be a NamedTuple's class, got {form!r}")
    if missing := {"h", *memory} - set(carry._fields):
        raise UserError(f"the carry of {name} needs the fields h and those of memory; {carry.__name__} has no {', '.join(sorted(missing))}")
    needed = ("kernel", "recurrent_kernel", "bias", *extra)
    if set(needed) != set(params._fields):
        raise UserError(
            f"the params of {name} must have the fields {', '.join(needed)}, as extra says, but {params.__name__} has "
            f"{', '.join(params._fields)}; give a NamedTuple with these, params=..."
        )


def option(there: bool, name: str, init: Initializer | None, shape: tuple[int, ...]) -> tuple | None:
    """Returns an entry of `extra` that an option of a cell turns on; None if it is off.

    Raises:
      UserError: it is off, and an initializer is given for it.
    """
    if init and not there:
        raise UserError(f"{name} is given, but with these options the cell has no such parameter")
    return (init, shape) if there else None


def _each(init, gates):
    """Returns an initializer that draws each gate separately."""
    return init if gates == 1 else initializers.per_gate(init, gates)
