"""The legend of axis letters, the types of the core, and `Cell`, the contract that every recurrent cell fulfils.

Axis letters, used in names, types and docstrings throughout seqjax:

  ======  ==================================================
  B       batch: sequences side by side
  T       time: steps of a sequence
  D       input features of a cell
  H       hidden units of a cell
  G       gates of a cell: 4 for the LSTM, 3 for the GRU
  V       vocabulary: tokens, classes
  L       layers of a stack
  ======  ==================================================

Shapes are written (B, T, D). Every array in a carry has B as its first axis.
"""

import dataclasses
import operator
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from seqjax._calls import Call, recorded

Array = jax.Array
Key = jax.Array  # a key of jax.random
DType = Any  # whatever jnp.dtype() takes
Params = Any  # a pytree of arrays, as a rule a NamedTuple
Carry = Any  # a pytree of arrays, each (B, ...)

Initializer = Callable[..., Array]  # init(key, shape, dtype) -> array, as in jax.nn.initializers
Activation = str | Callable[[Array], Array]  # a name of `seqjax.cells.parts.ACTIVATIONS`, or an elementwise function
Run = Callable[..., tuple[Carry, Array]]  # run(cell, params, carry, initial, xs, rng, flip=False) -> (carry, ys)


class Linear(NamedTuple):
    """A linear recurrence h_t = a_t h_{t-1} + b_t, elementwise, whose a and b depend on the input alone.

    The state h is one array (..., N), real or complex; a and b have its dtype. Carries stay real, so that whatever takes
    them (checkpoints, optimisers, casts) meets no complex number; `state` and `carry` turn one into the other.

    Attributes:
      coefficients: coefficients(params, xs) -> (a, b), with xs (..., D), and a and b (..., N).
      output: output(params, hs, xs) -> ys, with hs the states *after* each step (..., N), and ys (..., H).
      state: state(carry) -> h.
      carry: carry(h) -> carry, the inverse of `state`.
    """

    coefficients: Callable[[Params, Array], tuple[Array, Array]]
    output: Callable[[Params, Array, Array], Array]
    state: Callable[[Carry], Array]
    carry: Callable[[Array], Carry]


class Dense(NamedTuple):
    """Says that a cell's two products are plain matrix products, so that an engine may do them in its own way.

    project(params, xs) is xs @ kernel + bias in the first array of xs, with the others passed on as they are, and
    recur(params, carry) is carry.h @ recurrent_kernel. `combine` is elementwise and takes each product as a tuple of G
    gates too, all arrays being (H, B) then in the place of (B, H), and vectors of params columns (H, 1).

    Attributes:
      gates: number of gates, G.
      products: products(params) -> (kernel (D, G H), recurrent_kernel (H, G H), bias (G H,)), in the compute dtype.
    """

    gates: int
    products: Callable[[Params], tuple[Array, Array, Array]]


def factory(build: Callable[..., "Cell"]) -> Callable[..., "Cell"]:
    """Makes a function that returns cells one whose cells are known by the call: equal calls give equal cells.

    A cell so made has the hash and the repr of its call, and is pickled as it. What is compiled for one is there for the
    other. Arguments that cannot be hashed (arrays, lists) leave the cell equal to itself alone.

    Args:
      build: a function at the top of a module, whose cells depend on its arguments and on nothing else.

    Returns:
      The function, with its docstring and signature.

    Example:
      >>> import seqjax
      >>> @factory
      ... def doubled(hidden_size: int) -> Cell:
      ...     return seqjax.gru(hidden_size).replace(name="doubled")
      >>> doubled(8) == doubled(hidden_size=8), doubled(8) == doubled(9), doubled(8)
      (True, False, doubled(8))
    """
    # A cell that another factory made, and this one gives as it is, stays that one's.
    return recorded(build, lambda cell, call: cell if cell.made else dataclasses.replace(cell, made=call))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cell:
    """A recurrent cell: pure functions with their settings closed over, as an optax transformation is.

    Every cell has `init`, `initial_carry`, `input_size` and `step`. A cell whose step splits into

      step(params, carry, x) = combine(params, carry, project(params, x), recur(params, carry))

    also gives the three parts, on which the fast engines rest: `project` holds all that depends on the input alone and
    takes any number of leading axes, `recur` is the product of the carry with the recurrent weights, `combine` is
    elementwise. A wrapper that must see the whole sequence (a stack, dropout) gives `sequence`.

    Cells made by equal calls are equal, `lstm(8) == lstm(8)`, and have one hash, so that one can be a static argument of
    `jax.jit` and nothing is compiled twice; `factory` does the same for cells of one's own. They can be pickled. A cell is
    no pytree: its numbers are its params.

    Attributes:
      name: what error messages and tables call it, such as "lstm".
      hidden_size: number of features of an output, H.
      init: init(key, input_size) -> params.
      initial_carry: initial_carry(params, batch_size) -> carry, each array (B, ...).
      input_size: input_size(params) -> D, the number of input features that these params take.
      step: step(params, carry, x) -> (carry, y), one time step with x (B, D) and y (B, H), never with noise.
      project: project(params, xs) -> projected, with xs (..., D); None where the cell has no split.
      recur: recur(params, carry) -> recurrent, linear in the carry; None where the cell has no split.
      combine: combine(params, carry, projected, recurrent) -> (carry, y); None where the cell has no split.
      sequence: sequence(run, params, carry, initial, xs, rng) -> (carry, ys), with xs (T, B, D) and ys (T, B, H); None
        for a cell that engines run themselves. `run(cell, params, carry, initial, xs, rng, flip=False)` runs an inner
        cell over the whole sequence, with the lengths, resets, direction and engine of this unroll (`flip`: in the other
        direction, with resets where that direction enters a new sequence); `initial` is the carry that a reset goes
        back to; `rng` is None in evaluation. xs is zero at padded steps, and ys must be so too.
      dense: says that the two products are plain matrix products; None where they are not.
      additive: True where `combine` reads projected + recurrent only (of a pytree, its first array), so that the
        first may be their sum and the second 0.
      noise: noise(rng, params, xs) -> (cell, params, xs), with xs (T, B, D): what engines run in training in the place
        of this cell. All masks are drawn here, before the loop: those of a step go along with xs, which may become a
        pytree of arrays (T, B, ...), those for all time go into the params. None where training is as evaluation.
      linear: the same step as a linear recurrence; None where it is none.
      spatial: the axes between batch and features, for a convolutional cell: xs are (B, T, *spatial, D).
      settings: what the cell computes, for those who describe or convert it: pairs of a name and a hashable value, such
        as (("activation", "relu"), ("dtype", None)), without initializers. An option that is off is False, None or 0.
        A wrapper's own settings are here, and those of what it wraps in `inner`.
      inner: the cells that a wrapper holds; none for a cell of its own.
      noise_only: says that a wrapper differs from the one cell inside in training alone, by `noise`; `replace` clears it.
      made: the call that made the cell, or None; `factory` sets it, and `replace` clears it.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.lstm(hidden_size=8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> carry, y = cell.step(params, cell.initial_carry(params, 2), jax.numpy.ones((2, 3)))
      >>> y.shape
      (2, 8)
      >>> cell == seqjax.lstm(8), cell
      (True, lstm(8))
    """

    name: str
    hidden_size: int
    init: Callable[[Key, int], Params]
    initial_carry: Callable[[Params, int], Carry]
    input_size: Callable[[Params], int]
    step: Callable[[Params, Carry, Array], tuple[Carry, Array]]
    project: Callable[[Params, Array], Any] | None = None
    recur: Callable[[Params, Carry], Any] | None = None
    combine: Callable[[Params, Carry, Any, Any], tuple[Carry, Array]] | None = None
    sequence: Callable[..., tuple[Carry, Array]] | None = None
    dense: Dense | None = None
    additive: bool = False
    noise: Callable[[Key, Params, Array], tuple["Cell", Params, Any]] | None = None
    linear: Linear | None = None
    spatial: tuple[int, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    inner: tuple["Cell", ...] = ()
    noise_only: bool = False
    made: Call | None = None

    def replace(self, **changes: Any) -> "Cell":
        """The cell with other values in some fields; it is no longer the one that the call made.

        Example:
          >>> import seqjax
          >>> seqjax.lstm(8).replace(name="mine") == seqjax.lstm(8)
          False
        """
        return dataclasses.replace(self, **{"noise_only": False, "made": None} | changes)

    def _replace(self, **changes: Any) -> "Cell":
        raise TypeError("a Cell is not a NamedTuple any more: use cell.replace(...), not cell._replace(...)")

    def _key(self) -> tuple:
        """What it is equal by: the call, or else every field."""
        return self.made or tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cell):
            return NotImplemented
        return self is other or self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<cell {self.name}>" if self.made is None else str(self.made)

    def __reduce__(self) -> tuple:
        if self.made is None:
            raise pickle.PicklingError(
                f"{self!r} is known by no call that could make it again; see seqjax.typing.factory"
            )
        return operator.methodcaller("again"), (self.made,)
