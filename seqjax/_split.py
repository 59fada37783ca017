"""What engines may know of a cell besides its step: how the step splits into parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


def added(params: Any, projected: Array, recurrent: Array) -> tuple[Array, ...]:
    """The sum of the two products: what most cells read of them.

    Example:
      >>> added(None, jnp.ones(2), jnp.ones(2))[0].tolist()
      [2.0, 2.0]
    """
    del params
    return (projected + recurrent,)


def apart(params: Any, projected: Array, recurrent: Array) -> tuple[Array, ...]:
    """The two products as they are: for a cell that puts something between them, as the GRU its reset.

    Example:
      >>> len(apart(None, jnp.ones(2), jnp.ones(2)))
      2
    """
    del params
    return projected, recurrent


class Split(NamedTuple):
    """A step in parts: what depends on the input alone, the product with the carry, and what is elementwise.

      step(params, carry, x) = combine(params, carry, gates),  gates = join(params, project(params, x), recur(params, carry))

    Attributes:
      gates: how many gates lie side by side along the last axis of an array that `join` gives, G.
      project: project(params, xs) -> projected, with xs (..., D); it takes any number of leading axes.
      recur: recur(params, carry) -> recurrent, linear in the carry; None where there is no such product.
      combine: combine(params, carry, gates) -> (carry, y), for one sequence alone: no array has an axis B, a gate is (H,). gates
        is a tuple, G of each array that `join` gives. In training what noise goes along with xs follows them.
      join: join(params, projected, recurrent) -> tuple of arrays, as `added` or `apart`.
    """

    gates: int
    project: Callable[[Any, Array], Any]
    recur: Callable[[Any, Any], Any] | None
    combine: Callable[[Any, Any, tuple[Array, ...]], tuple[Any, Any]]
    join: Callable[[Any, Any, Any], tuple[Array, ...]] = added

    def parts(self) -> "Split":
        """Itself; the other kinds have their parts here."""
        return self

    def after(self, params: Any, carry: Any, projected: Any, recurrent: Any, others: Any = ()) -> tuple[Any, Any]:
        """What a step gives from its two products and what goes along with the inputs: (carry, y)."""
        joined = self.join(params, projected, recurrent)
        gates = [gate for array in joined for gate in side_by_side(array, self.gates, -1)]
        return by_sequence(self.combine, params, carry, (*gates, *others))

    def step(self, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        """One step, xs an array (B, ..., D) or a pytree whose first array is that."""
        x, *others = jax.tree.leaves(xs)
        recurrent = None if self.recur is None else self.recur(params, carry)
        return self.after(params, carry, self.project(params, x), recurrent, others)


class Dense(NamedTuple):
    """A step whose products are plain matrix products, which an engine may do in its own way.

      gates = x W + b + h U, or x W + b and h U apart

    Attributes:
      gates: number of gates, G, side by side in the kernels.
      products: products(params) -> (W (D, G H), U (H, G H), b (G H,)), in the compute dtype; h is that of the carry.
      combine: as in `Split`. It gets G gates, or 2 G where they are not added.
      additive: whether `combine` reads the sum of the two products.
    """

    gates: int
    products: Callable[[Any], tuple[Array, Array, Array]]
    combine: Callable[[Any, Any, tuple[Array, ...]], tuple[Any, Any]]
    additive: bool = True

    def parts(self) -> Split:
        """The same as a `Split`."""

        def project(params, xs):
            kernel, _, bias = self.products(params)
            return xs.astype(kernel.dtype) @ kernel + bias.reshape((1,) * (xs.ndim - 1) + bias.shape)

        def recur(params, carry):
            _, kernel, _ = self.products(params)
            return carry.h.astype(kernel.dtype) @ kernel

        return Split(self.gates, project, recur, self.combine, added if self.additive else apart)

    def step(self, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        """One step, as that of `Split`."""
        return self.parts().step(params, carry, xs)


class Linear(NamedTuple):
    """A step that is a linear recurrence, h_t = a_t h_{t-1} + b_t, elementwise, whose a and b depend on the input alone.

    The state h is one array (..., N), real or complex; a and b have its dtype. Carries stay real, so that whatever takes
    them (checkpoints, optimisers, casts) meets no complex number; `state` and `carry` turn one into the other.

    Attributes:
      coefficients: coefficients(params, xs) -> (a, b), with xs (..., D), and a and b (..., N).
      output: output(params, hs, xs) -> ys, with hs the states *after* each step (..., N), and ys (..., H).
      state: state(carry) -> h.
      carry: carry(h) -> carry, the inverse of `state`.
      elementwise: says that `output` is elementwise in hs and reads no xs, so that it may stand in a `combine`.
    """

    coefficients: Callable[[Any, Array], tuple[Array, Array]]
    output: Callable[[Any, Array, Any], Any]
    state: Callable[[Any], Array]
    carry: Callable[[Array], Any]
    elementwise: bool = False

    def parts(self) -> Split | None:
        """The same as a `Split` without a recurrent product, or None."""

        def combine(params, carry, gates):
            a, b = gates
            h = a * self.state(carry) + b
            return self.carry(h), self.output(params, h, None)

        def join(params, projected, recurrent):
            del params, recurrent
            return projected

        return Split(1, self.coefficients, None, combine, join) if self.elementwise else None

    def step(self, params: Any, carry: Any, x: Array) -> tuple[Any, Any]:
        """One step, x (B, D)."""
        a, b = self.coefficients(params, x)
        h = a * self.state(carry) + b
        return self.carry(h), self.output(params, h, x)


class Pointwise(NamedTuple):
    """A step without a carry: a function of every step by itself. Nothing recurs, so that all steps are done at once.

    Attributes:
      function: function(params, x) -> y, for one step of one sequence: x is (D,) and has neither an axis T nor B.
    """

    function: Callable[[Any, Any], Any]

    def parts(self) -> None:
        """There are none."""

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        """One step, x (B, D); the carry is handed on."""
        return carry, jax.vmap(self.function, (None, 0))(params, x)

    def every_step(self, params: Any, xs: Any) -> Any:
        """The outputs for xs (T, B, D)."""
        return jax.vmap(jax.vmap(self.function, (None, 0)), (None, 0))(params, xs)


TAKE_PARAMS = ("project", "recur", "combine", "join", "products", "coefficients", "output", "function")


def on_params(split: Any, change: Callable[[Any], Any]) -> Any:
    """The split whose functions take change(params) instead of params; None for None."""
    return split and split._replace(**{
        name: through(getattr(split, name), change) for name in split._fields if name in TAKE_PARAMS
    })  # fmt: skip


def through(function: Callable | None, change: Callable[[Any], Any]) -> Callable | None:
    """The function of (params, ...) that is given change(params)."""
    return function and (lambda params, *rest: function(change(params), *rest))


def side_by_side(array: Array, gates: int, axis: int) -> list[Array]:
    """The gates of an array."""
    return [array] if gates == 1 else jnp.split(array, gates, axis)


def by_sequence(combine: Callable, params: Any, carry: Any, gates: tuple, axis: int = 0, columns: Any = None) -> Any:
    """combine over arrays that have the axis B at `axis`; `columns` says which of params have it too, by default none."""
    return jax.vmap(combine, (columns, axis, axis), axis)(params, carry, gates)
