"""Shared parts of the wrappers: checks of cells and rates, and the noise of the inner cell."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax._split import side_by_side
from seqjax.errors import UserError
from seqjax.typing import Array, Carry, Cell, Dense, Key, Params, Pointwise, Wrap


def check_rate(name: str, rate: float) -> float:
    """Returns a valid noise rate, or raises an error that names the argument."""
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {rate!r}")
    return float(rate)


def check_cell(name: str, cell: Any) -> Cell:
    """Returns a Cell, or raises an error that names the argument."""
    if not isinstance(cell, Cell):
        raise TypeError(f"{name} must be a Cell, got a {type(cell).__name__}")
    return cell


def spatial_axes(cell: Cell) -> str:
    """Formats the spatial axes for messages: those of the inputs, and of the outputs if they differ."""
    return f"{cell.spatial}" + (f" -> {cell.output_spatial}" if cell.output_spatial != cell.spatial else "")


def is_array(sizes: Any) -> bool:
    """Whether outputs of this `hidden_size` are one array rather than a pytree of several."""
    return jax.tree_util.all_leaves([sizes])


def pointwise(name: str, function: Callable[[Any], Any], sizes: Any, spatial: tuple[int, ...]) -> Cell:
    """Wraps a function of the outputs at one step of one sequence as a cell; `sizes` are the `hidden_size`s of its inputs."""
    taken = jax.tree.map(lambda size: jax.ShapeDtypeStruct((*spatial, size), jnp.float32), sizes)
    found = jax.eval_shape(function, taken)
    axes = {y.shape[:-1] for y in jax.tree.leaves(found) if y.shape}
    if len(axes) != 1 or not all(y.shape for y in jax.tree.leaves(found)):
        raise ValueError(f"the function {name} must return arrays (*spatial, H) for one step of one sequence, got {found} for {taken}")
    return Cell(
        name=name,
        hidden_size=jax.tree.map(lambda y: y.shape[-1], found),
        init=lambda key, input_size: (),
        initial_carry=lambda params, batch_size: (),
        input_size=lambda params: sizes,
        split=Pointwise(lambda params, x: function(x)),
        spatial=spatial,
        output_spatial=axes.pop(),
    )


def name_of(function: Callable) -> str:
    """Returns the name of a function for messages."""
    return getattr(function, "__name__", type(function).__name__)


def check_inside_step(wrapper: str, cell: Cell, *, split: bool = False) -> None:
    """Refuses cells that see whole sequences, and with `split` also those without the three parts."""
    check_cell("cell", cell)
    if cell.wrap and cell.wrap.sequence:
        outer = cell.name.split("(")[0]
        raise UserError(
            f"{wrapper}({cell.name}) is not possible: {wrapper} works inside a step, and {outer} on whole sequences; wrap in "
            f"the other order, {outer}({wrapper}(...))"
        )
    if split and (cell.parts is None or cell.parts.recur is None):
        lack = "has no recurrent product" if cell.parts else "has only a step"
        raise UserError(
            f"{wrapper}({cell.name}) is not possible: {wrapper} needs the recurrent product as a separate part (project, "
            f"recur, combine), but this {cell.name} {lack}"
            + ("" if ("reset_after", False) not in cell.settings else "; with reset_after=True it has the parts")
        )


def check_field(wrapper: str, cell: Cell, carry: Carry, field: str) -> None:
    """Refuses a cell whose carry lacks a field that the wrapper works on."""
    if not hasattr(carry, field):
        known = ", ".join(getattr(carry, "_fields", ())) or "no named fields"
        raise UserError(f"{wrapper} works on {field} of the carry, but the carry of {cell.name} has {known}")


def draw(cell: Cell, rng: Key, params: Params, xs: Any) -> tuple[Cell, Params, Any]:
    """Applies the noise of the inner cell, if it has any."""
    return cell.wrap.noise(rng, params, xs) if cell.wrap and cell.wrap.noise else (cell, params, xs)


def noisy(cell: Cell, noise: Any, name: str, **changes: Any) -> Cell:
    """Builds a wrapper that runs the inner cell in evaluation and the result of `noise` in training; None keeps that cell's noise."""
    inner = noise or (cell.wrap and cell.wrap.noise)
    return cell.replace(name=name, wrap=Wrap((cell,), noise=inner, training_only=True), **changes)


def gate_by_gate(cell: Cell, part: str, arguments: Callable[[Array], tuple], masks: Iterable[Array]) -> Array:
    """Returns a cell's product, "project" or "recur", whose g-th gate is computed from the arguments with the g-th mask."""
    parts = (_one_gate(cell.split, g) for g in range(cell.parts.gates))
    return jnp.concatenate([getattr(one, part)(*arguments(mask)) for one, mask in zip(parts, masks, strict=True)], -1)


def _one_gate(split, g):
    """Returns the split with the products of one gate only; for plain matrix products, no others are computed."""

    def gate(array):
        return side_by_side(array, split.gates, -1)[g]

    if isinstance(split, Dense):
        return split._replace(products=lambda params: tuple(map(gate, split.products(params)))).parts()
    whole = split.parts()

    def project(params, xs):
        return gate(whole.project(params, xs))

    def recur(params, carry):
        return gate(whole.recur(params, carry))

    return whole._replace(project=project, recur=recur)
