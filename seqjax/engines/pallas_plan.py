"""What the Pallas engine must know of a cell: its recurrent weights, what its `combine` reads, and `combine` by tiles."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.engines.pallas_tiles import by_tiles
from seqjax.typing import Array, Cell, DType, Params

DTYPES = ("float32", "bfloat16")
NARROWEST = 16  # the least rows, columns and depth of a product on the tensor cores
ON_CHIP = 128 * 1024  # bytes of recurrent weights that one multiprocessor holds, of some 200 KiB of shared memory


class Unfit(Exception):
    """Why a cell cannot run on this engine, in words for an error message."""


class Plan(NamedTuple):
    """A cell as the kernels see it. Leaves are numbered in the order of `jax.tree.leaves`."""

    width: int  # H, features of a tile
    gates: int  # tiles of the recurrent product, G
    weights: int  # number of the leaf of the params that holds the recurrent weights, (H, G H)
    memory: int  # number of the leaf of the carry that is multiplied with them, (B, H)
    product: DType  # dtype of the factors of the recurrent product
    recurrent: DType  # dtype of its result
    vectors: tuple[int, ...]  # numbers of the leaves of the params that combine reads, each (n H,)
    additive: bool  # whether combine may be given the sum of its two inputs, and zeros
    output: jax.ShapeDtypeStruct  # y of a block of rows
    combine: Callable  # combine(vectors, carry, projected, recurrent) -> (carry, y), lists of leaves, in tiles


def projected_shape(cell: Cell, params: Params, xs: Array) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a cell's input product; or raises `Unfit`."""
    if cell.project is None or cell.recur is None or cell.combine is None:
        raise Unfit(f"{cell.name} has no three-part split (project, recur, combine)")
    if cell.spatial:
        raise Unfit(f"it takes inputs (T, B, D), and those of {cell.name} have axes in between")
    projected = jax.eval_shape(cell.project, params, xs)
    _check_one_array("the input product", projected)
    return projected


def make_plan(cell: Cell, params: Params, projected: Array, rows: int) -> Plan:
    """The plan of a cell for blocks of so many sequences, with its input product (..., G H); or raises `Unfit`."""
    shapes = jax.eval_shape(lambda p: p, params)
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, rows), shapes)
    projected = jax.ShapeDtypeStruct((rows, projected.shape[-1]), projected.dtype)
    try:
        recurrent = jax.eval_shape(cell.recur, shapes, carry)
        _check_one_array("the recurrent product", recurrent)
        after, y = jax.eval_shape(cell.combine, shapes, carry, projected, recurrent)
        _check_one_array("the output", y)
    except (TypeError, ValueError) as error:  # masks in the params, drawn for all time, are as long as the whole batch
        raise Unfit(f"it runs {rows} sequences at a time, and {cell.name} cannot: {error}") from None
    width = cell.hidden_size
    _check_shapes(width, rows, carry, projected, recurrent, y)
    weights, memory, product = _find_product(cell, shapes, carry, width)
    vectors, combine = _trace_combine(cell, shapes, carry, projected, recurrent, width)
    _check_combine(combine, shapes, vectors, carry, projected, recurrent, width)
    if jax.tree.leaves(after) != jax.tree.leaves(carry):
        raise Unfit("its combine changes the shape or dtype of the carry")
    same = (projected.shape, projected.dtype) == (recurrent.shape, recurrent.dtype)
    return Plan(
        width=width,
        gates=recurrent.shape[-1] // width,
        weights=weights,
        memory=memory,
        product=product,
        recurrent=recurrent.dtype,
        vectors=vectors,
        additive=cell.additive and same,
        output=y,
        combine=combine,
    )


def _check_one_array(name, tree):
    if not jax.tree_util.all_leaves([tree]):
        raise Unfit(f"{name} must be one array")


def _check_shapes(width, rows, carry, projected, recurrent, y):
    if width < NARROWEST or width & (width - 1):
        raise Unfit(f"the hidden size must be a power of two and at least {NARROWEST}, and it is {width}")
    for leaf in (*jax.tree.leaves(carry), y):
        if leaf.shape != (rows, width):
            raise Unfit(f"carry and output must be (B, {width}), and one is {('B', *leaf.shape[1:])}")
    for leaf in (projected, recurrent):
        if leaf.shape[:-1] != (rows,) or leaf.shape[-1] % width:
            raise Unfit(f"the products must be (B, G H), and one is {('B', *leaf.shape[1:])}")
    for leaf in (*jax.tree.leaves(carry), projected, recurrent, y):
        if str(leaf.dtype) not in DTYPES:
            raise Unfit(f"it computes in {' or '.join(DTYPES)}, and the cell in {leaf.dtype}")


def _find_product(cell, params, carry, width):
    """The two factors of `recur`, read off its trace: it must be one product of carry and params, casts apart."""
    trace = jax.make_jaxpr(cell.recur)(params, carry).jaxpr
    origin = {variable: number for number, variable in enumerate(trace.invars)}
    factors = None
    for equation in trace.eqns:
        if equation.primitive.name == "convert_element_type":
            origin[equation.outvars[0]] = origin.get(equation.invars[0])
        elif equation.primitive.name == "dot_general" and factors is None:
            factors = [origin.get(atom) for atom in equation.invars]
            plain = equation.params["dimension_numbers"] == (((1,), (0,)), ((), ()))
            origin[equation.outvars[0]] = "product"
            dtype = equation.invars[0].aval.dtype
        else:
            factors = None
            break
    count = len(jax.tree.leaves(params))
    if not factors or not plain or None in factors or origin.get(trace.outvars[0]) != "product":
        raise Unfit("its recurrent product is not one dense product of the carry and a parameter")
    memory, weights = factors[0] - count, factors[1]
    if memory < 0 or weights >= count:
        raise Unfit("its recurrent product is not one dense product of the carry and a parameter")
    leaf = jax.tree.leaves(params)[weights]
    size = leaf.size * jnp.dtype(dtype).itemsize
    if size > ON_CHIP:
        shape = f"{leaf.shape} in {jnp.dtype(dtype)}"
        raise Unfit(
            f"the recurrent weights, {shape}, are {size // 1024} KiB, and {ON_CHIP // 1024} KiB fit on the chip"
        )
    return weights, memory, dtype


def _trace_combine(cell, params, carry, projected, recurrent, width):
    """The numbers of the params that `combine` reads, and `combine` by tiles, of lists of leaves."""
    trace = jax.make_jaxpr(cell.combine)(params, carry, projected, recurrent)
    if any(jnp.ndim(constant) for constant in trace.consts):
        raise Unfit("its combine holds a constant array")
    read = {id(atom) for equation in trace.jaxpr.eqns for atom in equation.invars}
    read |= {id(atom) for atom in trace.jaxpr.outvars}
    leaves = jax.tree.leaves(params)
    vectors = tuple(n for n, variable in enumerate(trace.jaxpr.invars[: len(leaves)]) if id(variable) in read)
    for leaf in (leaves[n] for n in vectors):
        if leaf.ndim != 1 or leaf.size % width or str(leaf.dtype) not in DTYPES:
            raise Unfit(f"its combine reads a parameter {leaf.shape} of {leaf.dtype}, which is no vector over units")
    tiled, states = by_tiles(trace, width), len(jax.tree.leaves(carry))

    def combine(read, carry, projected, recurrent):
        everything = [None] * len(leaves)
        for number, value in zip(vectors, read, strict=True):
            everything[number] = value
        results = tiled(*everything, *carry, projected, recurrent)
        return results[:states], results[states]

    return vectors, combine


def _check_combine(combine, params, vectors, carry, projected, recurrent, width):
    """Goes once through `combine` by tiles, so that what it cannot do is known before there is a kernel."""

    def tiles(leaf):
        tile = jax.ShapeDtypeStruct((*leaf.shape[:-1], width), leaf.dtype)
        count = leaf.shape[-1] // width
        return tile if count == 1 else (tile,) * count

    leaves = jax.tree.leaves(params)
    try:
        jax.eval_shape(
            combine,
            [tiles(leaves[n]) for n in vectors],
            jax.tree.leaves(carry),
            tiles(projected),
            tiles(recurrent),
        )
    except NotImplementedError as error:
        raise Unfit(f"its combine does not run gate by gate: {error}") from None
