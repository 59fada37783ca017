"""What engines may know about a cell besides its step: how the step splits into parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


def added(params: Any, projected: Array, recurrent: Array) -> tuple[Array, ...]:
    """Adds the two products, which is all that most cells read.

    Example:
      >>> added(None, jnp.ones(2), jnp.ones(2))[0].tolist()
      [2.0, 2.0]
    """
    del params
    return (projected + recurrent,)


def apart(params: Any, projected: Array, recurrent: Array) -> tuple[Array, ...]:
    """Keeps the two products apart, for a cell that applies something to one of them, like the GRU's reset.

    Example:
      >>> len(apart(None, jnp.ones(2), jnp.ones(2)))
      2
    """
    del params
    return projected, recurrent


class Split(NamedTuple):
    """A step in parts: what depends only on the input, the product with the carry, and the elementwise rest.

      step(params, carry, x) = combine(params, carry, gates),  gates = join(params, project(params, x), recur(params, carry))

    Attributes:
      gates: how many gates lie side by side along the last axis of an array that `join` gives, G.
      project: project(params, xs) -> projected, with xs (..., D); it takes any number of leading axes.
      recur: recur(params, carry) -> recurrent, linear in the carry; None if there is no such product.
      combine: combine(params, carry, gates) -> (carry, y), for a single sequence: no array has an axis B, and a gate is
        (H,). gates is a tuple with G gates of each array that `join` gives, followed in training by the noise that
        accompanies xs.
      join: join(params, projected, recurrent) -> tuple of arrays, as `added` or `apart`.
    """

    gates: int
    project: Callable[[Any, Array], Any]
    recur: Callable[[Any, Any], Any] | None
    combine: Callable[[Any, Any, tuple[Array, ...]], tuple[Any, Any]]
    join: Callable[[Any, Any, Any], tuple[Array, ...]] = added

    def parts(self) -> "Split":
        """Returns itself; the other kinds of split return their parts here."""
        return self

    def after(self, params: Any, carry: Any, projected: Any, recurrent: Any, others: Any = ()) -> tuple[Any, Any]:
        """Finishes a step, given its two products and the noise that accompanies the inputs: (carry, y)."""
        joined = self.join(params, projected, recurrent)
        gates = [gate for array in joined for gate in side_by_side(array, self.gates, -1)]
        return by_sequence(self.combine, params, carry, (*gates, *others))

    def step(self, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        """Runs one step; xs is an array (B, ..., D) or a pytree whose first array is one."""
        x, *others = jax.tree.leaves(xs)
        recurrent = None if self.recur is None else self.recur(params, carry)
        return self.after(params, carry, self.project(params, x), recurrent, others)


class Dense(NamedTuple):
    """A step whose products are plain matrix products, which an engine may compute in its own way.

      gates = x W + b + h U, or x W + b and h U apart

    Attributes:
      gates: number of gates, G, side by side in the kernels.
      products: products(params) -> (W (D, G H), U (H, G H), b (G H,)), in the compute dtype; h is that of the carry.
      combine: as in `Split`. It gets G gates, or 2 G if the products are not added.
      additive: whether `combine` reads the sum of the two products.
    """

    gates: int
    products: Callable[[Any], tuple[Array, Array, Array]]
    combine: Callable[[Any, Any, tuple[Array, ...]], tuple[Any, Any]]
    additive: bool = True

    def parts(self) -> Split:
        """Returns the same step as a `Split`."""

        def project(params, xs):
            kernel, _, bias = self.products(params)
            return xs.astype(kernel.dtype) @ kernel + bias.reshape((1,) * (xs.ndim - 1) + bias.shape)

        def recur(params, carry):
            _, kernel, _ = self.products(params)
            return carry.h.astype(kernel.dtype) @ kernel

        return Split(self.gates, project, recur, self.combine, added if self.additive else apart)

    def step(self, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        """Runs one step, as `Split.step` does."""
        return self.parts().step(params, carry, xs)


class Linear(NamedTuple):
    """A step that is a linear recurrence, h_t = a_t h_{t-1} + b_t, elementwise, whose a and b depend only on the input.

    The state h is one array (..., N), real or complex; a and b have its dtype. Carries stay real, so that checkpoints,
    optimisers and casts never see a complex number; `state` and `carry` convert between the two.

    Attributes:
      coefficients: coefficients(params, xs) -> (a, b), with xs (..., D), and a and b (..., N).
      output: output(params, hs, xs) -> ys, with hs the states *after* each step (..., N), and ys (..., H).
      state: state(carry) -> h.
      carry: carry(h) -> carry, the inverse of `state`.
      elementwise: whether `output` is elementwise in hs and does not read xs, so that it can be part of a `combine`.
    """

    coefficients: Callable[[Any, Array], tuple[Array, Array]]
    output: Callable[[Any, Array, Any], Any]
    state: Callable[[Any], Array]
    carry: Callable[[Array], Any]
    elementwise: bool = False

    def parts(self) -> Split | None:
        """Returns the same step as a `Split` without a recurrent product, or None."""

        def combine(params, carry, gates):
            a, b = gates
            h = a * self.state(carry) + b
            return self.carry(h), self.output(params, h, None)

        def join(params, projected, recurrent):
            del params, recurrent
            return projected

        return Split(1, self.coefficients, None, combine, join) if self.elementwise else None

    def step(self, params: Any, carry: Any, x: Array) -> tuple[Any, Any]:
        """Runs one step, x (B, D)."""
        a, b = self.coefficients(params, x)
        h = a * self.state(carry) + b
        return self.carry(h), self.output(params, h, x)


class Pointwise(NamedTuple):
    """A step without a carry: a function applied to each step independently, so all steps are computed at once.

    Attributes:
      function: function(params, x) -> y, for one step of one sequence: x is (D,), without axes T and B.
    """

    function: Callable[[Any, Any], Any]

    def parts(self) -> None:
        """None: such a step has no parts."""

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        """Runs one step, x (B, D); the carry passes through unchanged."""
        return carry, jax.vmap(self.function, (None, 0))(params, x)

    def every_step(self, params: Any, xs: Any) -> Any:
        """Computes the outputs for xs (T, B, D)."""
        return jax.vmap(jax.vmap(self.function, (None, 0)), (None, 0))(params, xs)


TAKE_PARAMS = ("project", "recur", "combine", "join", "products", "coefficients", "output", "function")


def on_params(split: Any, change: Callable[[Any], Any]) -> Any:
    """Returns the split with functions that use change(params) instead of params; None for None."""
    return split and split._replace(**{name: through(getattr(split, name), change) for name in split._fields if name in TAKE_PARAMS})


def through(function: Callable | None, change: Callable[[Any], Any]) -> Callable | None:
    """Wraps a function of (params, ...) so that it is called with change(params)."""
    return function and (lambda params, *rest: function(change(params), *rest))


def side_by_side(array: Array, gates: int, axis: int) -> list[Array]:
    """Splits an array into its gates."""
    return [array] if gates == 1 else jnp.split(array, gates, axis)


def by_sequence(combine: Callable, params: Any, carry: Any, gates: tuple, axis: int = 0, columns: Any = None) -> Any:
    """Maps combine over axis B, which is at `axis`; `columns` says which params have it too, by default none."""
    return jax.vmap(combine, (columns, axis, axis), axis)(params, carry, gates)
