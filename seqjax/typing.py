"""The axis letters, the types of the core, and `Cell`, the interface that every recurrent cell implements.

Axis letters, used in names, types and docstrings throughout seqjax:

  ======  ==================================================
  B       batch: sequences in parallel
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
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypedDict, TypeVar, cast

import jax
from jax.typing import ArrayLike

from seqjax import _split
from seqjax._calls import Call, recorded
from seqjax._split import Dense, Linear, Pointwise, Split

Array = jax.Array
MaybeArray = Array | Any  # an array, or None if a cell has none; type checkers see an array
AnyArray = Array | Any  # likewise an array of JAX, or of NumPy as pipelines give it
MaybeSplit = Split | Any  # likewise a split, or None
Key = jax.Array  # a key of jax.random
DType = Any  # anything that jnp.dtype() accepts
Params = Any  # a pytree of arrays, usually a NamedTuple
Carry = Any  # a pytree of arrays, each (B, ...)
ParamsT = TypeVar("ParamsT")  # the params of a cell as type checkers see them: lstm(8) is a Cell[LSTMParams, LSTMCarry]
CarryT = TypeVar("CarryT")
Arguments = ParamSpec("Arguments")
Made = TypeVar("Made", bound="Cell")

Initializer = Callable[..., Array]  # init(key, shape, dtype) -> array, as in jax.nn.initializers
Activation = str | Callable[[Array], Array]  # a name of `seqjax.cells.parts.ACTIVATIONS`, or an elementwise function
Run = Callable[..., tuple[Carry, Array]]  # run(cell, params, carry, initial, xs, rng, flip=False) -> (carry, ys)


class Wrap(NamedTuple):
    """What a wrapper does besides its step, and the cells it holds.

    Attributes:
      inner: the cells inside.
      sequence: sequence(run, params, carry, initial, xs, rng) -> (carry, ys), with xs (T, B, D) and ys (T, B, H): for a wrapper
        that must see the whole sequence (a stack, two directions). `run(cell, params, carry, initial, xs, rng, flip=False)`
        runs an inner cell over all of it, with the lengths, resets, direction and engine of this unroll (`flip`: in the other
        direction, with resets where that direction enters a new sequence), and `run.both(cells, params, carries, initials, xs, rngs)`
        two of them, the second in the other direction; `initial` is the carry that a reset restores; `rng` is None in
        evaluation. xs is zero at padded steps, and ys must be too.
      noise: noise(rng, params, xs) -> (cell, params, xs), with xs (T, B, D): what engines run in training instead of
        the cell. All masks are drawn here, before the loop: per-step masks accompany xs, which becomes a pytree of
        arrays (T, B, ...) whose first is xs, and `combine` gets them after its gates; masks shared over time go into
        the params. None if training and evaluation are the same.
      training_only: whether the wrapper differs from its inner cell only in training, so that evaluation runs the inner
        cell.
    """

    inner: tuple["Cell", ...]
    sequence: Callable[..., tuple[Carry, Array]] | None = None
    noise: Callable[[Key, Params, Array], tuple["Cell", Params, Any]] | None = None
    training_only: bool = False


def factory(build: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """Decorates a function that returns cells so that equal calls give equal cells.

    Such a cell has the hash and the repr of its call and is pickled as the call; equal cells share compiled programs.
    With unhashable arguments (arrays, lists) a cell is equal only to itself.

    Args:
      build: a module-level function whose cells depend only on its arguments.

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
    # A cell made by another factory and returned unchanged keeps that factory's call.
    return recorded(build, lambda cell, call: cell if cell.made else dataclasses.replace(cell, made=call))


# Where the former fields went.
MOVED = {
    **dict.fromkeys(("project", "recur", "combine"), "a field of cell.parts"),
    **dict.fromkeys(("dense", "linear", "additive"), "given by cell.split"),
    **dict.fromkeys(("sequence", "noise"), "a field of cell.wrap"),
    "noise_only": "cell.wrap.training_only",
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cell(Generic[ParamsT, CarryT]):
    """A recurrent cell: pure functions that close over their settings, like an optax transformation.

    Every cell has `init`, `initial_carry`, `input_size` and `step`. What else engines may know about the step is its
    `split`, which the fast engines need; what a wrapper does besides the step, and the cells it holds, is its `wrap`.

    Cells made by equal calls are equal, `lstm(8) == lstm(8)`, and have the same hash, so a cell can be a static
    argument of `jax.jit` without recompilation; `factory` does the same for your own cells. Cells can be pickled. A
    cell is not a pytree: its arrays are in its params.

    Attributes:
      name: the name used in error messages and tables, such as "lstm".
      hidden_size: number of features of an output, H; the pytree of these numbers where an output is a pytree of arrays.
      init: init(key, input_size) -> params.
      initial_carry: initial_carry(params, batch_size) -> carry, each array (B, ...).
      input_size: input_size(params) -> D, the number of input features that these params take.
      step: step(params, carry, x) -> (carry, y), one time step with x (B, D) and y (B, H), or a pytree of such arrays,
        never with noise. The step of the split by default.
      split: how the step splits: a `Dense`, a `Split`, a `Linear`, a `Pointwise`, or None.
      wrap: what a wrapper does; None for a cell that is not a wrapper.
      spatial: the axes between batch and features, for a convolutional cell: xs are (B, T, *spatial, D).
      output_spatial: the spatial axes of the outputs, (B, T, *output_spatial, H), if a convolution changes them;
        `spatial` by default.
      settings: what the cell computes, for code that describes or converts it: pairs of a name and a hashable value,
        such as (("activation", "relu"), ("dtype", None)), without initializers. An option that is off is False, None or
        0. A wrapper's own settings are here; those of the cells it wraps are in `inner`.
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
    hidden_size: Any  # an int, or a pytree of ints
    init: Callable[[Key, int], ParamsT]
    initial_carry: Callable[[ParamsT, int], CarryT]
    input_size: Callable[[ParamsT], int]
    step: Callable[[ParamsT, CarryT, Array], tuple[CarryT, Array]] = cast(Any, None)  # __post_init__ sets it
    split: Dense | Split | Linear | Pointwise | None = None
    wrap: Wrap | None = None
    spatial: tuple[int, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    output_spatial: tuple[int, ...] | None = None
    made: Call | None = None

    def __post_init__(self):
        if self.step is None:
            if self.split is None:
                raise TypeError(f"the cell {self.name} needs a step, or a split that gives it")
            object.__setattr__(self, "step", self.split.step)
        if self.output_spatial is None:
            object.__setattr__(self, "output_spatial", self.spatial)

    @property
    def inner(self) -> tuple["Cell", ...]:
        """The cells that a wrapper holds; empty for other cells."""
        return self.wrap.inner if self.wrap else ()

    @property
    def parts(self) -> MaybeSplit:
        """The step in its three parts; None if it does not split."""
        return self.split and self.split.parts()

    def replace(self, **changes: Any) -> "Cell":
        """Returns the cell with some fields replaced; it is no longer identified by the call that made it.

        A new step drops the split and the wrap unless these are given too, and a new split replaces the step, so that
        neither engines nor training can run the old one.

        Example:
          >>> import seqjax
          >>> seqjax.lstm(8).replace(name="mine") == seqjax.lstm(8)
          False
          >>> print(seqjax.lstm(8).replace(step=lambda params, carry, x: (carry, carry.h)).split)
          None
        """
        for name in MOVED.keys() & changes:
            raise TypeError(f"a Cell no longer has a field {name}: it is now {MOVED[name]}, see seqjax.typing.Cell")
        wrap = self.wrap and self.wrap._replace(training_only=False)
        if "step" in changes:
            changes = {"split": None, "wrap": None} | changes
        elif "split" in changes:
            changes = {"step": None, "wrap": None} | changes
        return dataclasses.replace(self, **{"wrap": wrap, "made": None} | changes)

    def on_params(self, change: Callable[[Params], Params]) -> "Cell":
        """Returns the cell with functions that use change(params) instead of params, for a wrapper with its own params.

        Example:
          >>> import jax, seqjax
          >>> cell = seqjax.gru(8).on_params(lambda params: params["inside"])
          >>> cell.input_size({"inside": seqjax.gru(8).init(jax.random.key(0), 3)})
          3
        """
        names = ("step", "initial_carry", "input_size")
        functions = {name: _split.through(getattr(self, name), change) for name in names}
        return self.replace(split=_split.on_params(self.split, change), **functions)

    if not TYPE_CHECKING:  # hidden from type checkers, so that unknown attributes are errors

        def __getattr__(self, name: str) -> Any:
            if name in MOVED:
                raise AttributeError(f"Cell.{name} was removed: it is now {MOVED[name]}, see seqjax.typing.Cell")
            raise AttributeError(f"a Cell has no {name!r}")

        def _replace(self, **changes: Any) -> "Cell":
            raise TypeError("a Cell is no longer a NamedTuple: use cell.replace(...), not cell._replace(...)")

    def _key(self) -> tuple:
        """Returns what equality compares: the call, or else every field."""
        if self.made:
            return self.made
        sizes, tree = jax.tree.flatten(self.hidden_size)  # a pytree such as a dict has no hash
        others = (getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "hidden_size")
        return (tree, *sizes, *others)

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
            raise pickle.PicklingError(f"{self!r} cannot be pickled: the call that made it is not known; see seqjax.typing.factory")
        return operator.methodcaller("again"), (self.made,)


class UnrollOptions(TypedDict, total=False):
    """The options of `seqjax.unroll` for type checkers, without `return_carries`, which changes the return type."""

    lengths: ArrayLike | None
    resets: ArrayLike | None
    rng: Key | None
    reverse: bool
    time_major: bool
    engine: str
    remat_every: int | None
    offload: bool
    padded_outputs: str
