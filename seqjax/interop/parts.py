"""Shared by the converters: which library supports what, arrays in and out, and gates in another order."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.typing import Array, Cell, DType, Params
from seqjax.wrappers import stack

# Which library supports what: a cell, or one setting of a cell, "kind name=value" before "kind name" before "name".
# What is not listed is supported by none. An option that is off needs no line, unless "off" is itself a choice that
# some lack.
HOLDERS = {
    "rnn": ("torch", "keras", "flax", "nnx", "haiku"),
    "rnn use_bias=False": ("torch", "keras"),
    "rnn activation='tanh'": ("torch", "keras", "flax", "nnx"),
    "rnn activation='relu'": ("torch", "keras", "flax", "nnx", "haiku"),
    "rnn activation": ("keras", "flax", "nnx"),
    "lstm": ("torch", "keras", "flax", "nnx", "haiku", "equinox"),
    "lstm use_bias=False": ("torch", "keras", "equinox"),
    "lstm proj_size": ("torch",),
    "lstm activation": ("keras", "flax", "nnx"),
    "lstm gate_activation": ("keras", "flax", "nnx"),
    "gru": ("torch", "keras", "flax", "nnx", "haiku", "equinox"),
    "gru use_bias=False": ("torch", "keras", "equinox"),
    "gru reset_after=True": ("torch", "keras", "flax", "nnx", "equinox"),
    "gru reset_after=False": ("keras", "haiku"),
    "gru activation": ("keras", "flax", "nnx"),
    "gru gate_activation": ("keras", "flax", "nnx"),
    "conv_lstm": ("keras", "flax", "haiku"),
    "conv_lstm kernel_size": ("keras", "flax", "haiku"),
    "conv_lstm strides": ("keras",),
    "conv_lstm padding": ("keras",),
    "conv_lstm dilation_rate": ("keras",),
    "conv_lstm use_bias=False": ("keras",),
    "conv_lstm activation": ("keras",),
    "conv_lstm gate_activation": ("keras",),
    "stack": ("torch", "keras", "flax", "nnx"),
    "bidirectional": ("torch", "keras", "flax", "nnx"),
    "bidirectional merge='concat'": ("torch", "keras", "flax", "nnx"),
    **{f"bidirectional merge={merge!r}": ("keras", "flax", "nnx") for merge in ("sum", "mean", "multiply")},
    "bidirectional merge='pair'": ("keras",),
    "dropout": ("torch", "keras"),
    "dropout rate": ("torch", "keras"),
    "dropout shared_over_time": ("keras",),
    "dropout per_gate": ("keras",),
    "recurrent_dropout": ("keras",),
    "recurrent_dropout rate": ("keras",),
    "recurrent_dropout per_gate": ("keras",),
    "dtype": ("keras", "flax", "nnx"),
}

FORGET_BIAS = 1  # what the LSTMs of Haiku and the ConvLSTMs of Haiku and Flax add to the forget gate at every step

# The activation functions of Flax, linen and NNX.
ACTIVATIONS = {
    "tanh": jnp.tanh,
    **{
        name: getattr(jax.nn, name)
        for name in (
            "elu", "gelu", "hard_sigmoid", "hard_tanh", "identity", "leaky_relu", "relu", "selu", "sigmoid", "silu", "softplus",
            "soft_sign",
        )
    },
}  # fmt: skip
# Activations of Keras by our names; its gelu and leaky_relu differ by default, so they are not listed.
KERAS_ACTIVATIONS = {name: name for name in ("elu", "hard_sigmoid", "hard_tanh", "relu", "selu", "sigmoid", "silu", "softplus", "tanh")} | {
    "identity": "linear",
    "soft_sign": "softsign",
}


class Layer(NamedTuple):
    """One layer of a stack, as other libraries see it: cells in one or two directions, and dropout before them."""

    cells: tuple[Cell, ...]  # one, or the forward and the backward one, each as `is_single` requires
    params: tuple[Params, ...]  # of each of them
    merge: str | None  # how two directions are merged, "pair" for not at all; None for one direction
    drops: tuple[Cell, ...] = ()  # the dropouts of its inputs, in order


def kind(cell: Cell) -> str:
    """Returns the kind of a cell without what it wraps: "dropout" of "dropout(lstm, 0.1)"."""
    return cell.name.partition("(")[0]


def settings(cell: Cell) -> dict[str, Any]:
    """Returns a cell's settings by name."""
    return dict(cell.settings)


def check(cell: Cell, params: Params, target: str) -> None:
    """Refuses what a library does not support, by name, and params that are not the cell's.

    Args:
      cell: any cell.
      params: its parameters.
      target: the library's name, as in HOLDERS.

    Raises:
      UserError: the library does not support the cell or one of its settings; the message says which do.
      ValueError: the params do not have the shapes of the cell's.
      TypeError: the params are not structured like the cell's, or have more than one dtype.
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"cell must be a Cell, got a {type(cell).__name__}")
    dtype = _check_params(cell, params)
    for holder, what, holders in _features(cell, dtype):
        if target not in holders:
            can = " and ".join(f"to_{name}" for name in holders) + " can" if holders else "none of the libraries here can"
            inside = "; cell.inner has the cells inside, which may be converted one by one" if holder.inner else ""
            raise UserError(f"to_{target} cannot represent {what} of {holder.name!r}; {can}{inside}")


def _features(cell, dtype) -> Iterator[tuple[Cell, str, tuple[str, ...]]]:
    """Yields (cell, what, which libraries support it) for a cell, each of its settings, and all inner cells."""
    name = kind(cell)
    yield cell, f"the {name}", HOLDERS.get(name, ())
    for setting, value in cell.settings:
        if setting == "dtype":
            value = None if value is None or jnp.dtype(value) == dtype else jnp.dtype(value).name
        exact, loose = f"{name} {setting}={value!r}", f"{name} {setting}"
        if exact in HOLDERS or value not in (False, None, 0):
            holders = HOLDERS.get(exact, HOLDERS.get(loose, HOLDERS.get(setting, ())))
            if setting.endswith("activation") and value not in KERAS_ACTIVATIONS:
                holders = tuple(library for library in holders if library != "keras")
            yield cell, f"{setting}={value!r}", holders
    for inside in cell.inner:
        yield from _features(inside, dtype)


def _check_params(cell, params):
    """Returns the dtype of the params, which must have the structure and shapes of the cell's."""
    try:
        size = cell.input_size(params)
        expected = jax.eval_shape(lambda key: cell.init(key, size), jax.random.key(0))
    except (AttributeError, TypeError, IndexError, KeyError):
        raise TypeError(f"params must be what init of {cell.name!r} gives, got {_built(params)}") from None
    if jax.tree.structure(params) != jax.tree.structure(expected):
        raise TypeError(f"params of {cell.name!r} must be built as {_built(expected)}, got {_built(params)}")
    for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(params)):
        if np.shape(got) != want.shape:
            where = f"params{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} of {cell.name!r} must have shape {want.shape}, got shape {np.shape(got)}")
    dtypes = sorted({jnp.asarray(leaf).dtype.name for leaf in jax.tree.leaves(params)})
    if len(dtypes) > 1:
        raise TypeError(f"params of {cell.name!r} must have one dtype, got {dtypes}")
    return jnp.dtype(dtypes[0])


def _built(params):
    return jax.tree.structure(params)


def layers(cell: Cell, params: Params) -> list[Layer]:
    """Returns the layers of a checked cell from the bottom up, with stacks flattened, and dropout and directions separated."""
    if kind(cell) == "stack":
        return [layer for inner, own in zip(cell.inner, params, strict=True) for layer in layers(inner, own)]
    if kind(cell) == "dropout" and not is_single(cell):
        if kind(cell.inner[0]) == "stack":
            raise UserError(f"{cell.name!r} cannot be converted: put the dropout around the one cell whose inputs it drops")
        layer = layers(cell.inner[0], params)[0]
        return [layer._replace(drops=(cell, *layer.drops))]
    if kind(cell) == "bidirectional":
        wrapped = next((inner for inner in cell.inner if not is_single(inner)), None)
        if wrapped is not None:
            raise UserError(f"{wrapped.name!r} in {cell.name!r} cannot be converted: each direction must be one plain cell")
        return [Layer(cell.inner, (params.forward, params.backward), settings(cell)["merge"])]
    if not is_single(cell):
        raise UserError(f"{cell.name!r} cannot be converted: put recurrent_dropout around a plain cell, and dropout around both")
    return [Layer((cell,), (params,), None)]


def is_single(cell: Cell) -> bool:
    """Whether it is a plain cell, possibly with the time-shared masks that Keras has as options of its cells.

    Example:
      >>> import seqjax
      >>> is_single(seqjax.dropout(seqjax.lstm(8), 0.1, shared_over_time=True)), is_single(seqjax.dropout(seqjax.lstm(8), 0.1))
      (True, False)
    """
    inside = cell.inner[0] if kind(cell) == "dropout" and settings(cell)["shared_over_time"] else cell
    by_gate = kind(inside) == "recurrent_dropout" and settings(inside)["per_gate"]
    if inside is not cell and settings(cell)["per_gate"] != by_gate:
        return False
    return not (inside.inner[0] if kind(inside) == "recurrent_dropout" else inside).inner


def innermost(cell: Cell) -> Cell:
    """Returns the plain cell inside wrappers of one cell."""
    return innermost(cell.inner[0]) if cell.inner else cell


def stacked(pairs: list[tuple[Cell, Params]]) -> tuple[Cell, Params]:
    """Returns one layer unchanged, several as a stack."""
    if len(pairs) == 1:
        return pairs[0]
    cells, params = zip(*pairs)
    return stack(*cells), tuple(params)


def array(value: Any) -> Array:
    """Converts another library's array to a JAX array of the same dtype.

    Raises:
      UserError: it is float64, and JAX's 64-bit types are off.
    """
    value = value if isinstance(value, jax.Array) else np.asarray(value)
    if value.dtype == np.float64 and jnp.result_type(float) != np.float64:
        raise UserError(
            "the weights are float64 and JAX's 64-bit types are off; call jax.config.update('jax_enable_x64', True) "
            "first, or convert the weights to float32"
        )
    # A copy: asarray may keep the memory of the other library, which may change it.
    return jnp.array(value)


def check_computation(module: Any, library: str, *methods: str) -> None:
    """Refuses a module that overrides how it computes: only weights are read here, so the outputs would differ.

    Args:
      module: an instance of a class of the library, or of a subclass, which may add anything except these methods.
      library: the package of the class, such as "torch".
      *methods: the methods that compute.

    Raises:
      UserError: the subclass, or the module itself, has another of these methods.
    """
    kind = type(module)
    own = next(base for base in kind.__mro__ if base.__module__.split(".")[0] == library)
    changed = [name for name in methods if name in vars(module) or getattr(kind, name) is not getattr(own, name)]
    if changed:
        where = kind.__name__ if kind is not own else f"this {kind.__name__}"
        raise UserError(
            f"{where} has its own {' and '.join(changed)}, so its outputs do not follow from its weights; "
            f"pass a plain {own.__name__} with these weights, and do the rest outside"
        )


def reorder(gates: Array, order: str, wanted: str, axis: int = -1) -> Array:
    """Reorders concatenated gates.

    Example:
      >>> import jax.numpy as jnp
      >>> reorder(jnp.array([1, 2, 3]), "zrn", "rzn").tolist()
      [2, 1, 3]
    """
    by_name = dict(zip(order, jnp.split(gates, len(order), axis), strict=True))
    return jnp.concatenate([by_name[gate] for gate in wanted], axis)


def add_to_forget(bias: Array, value: float) -> Array:
    """Adds to the second of the gates i, f, g, o.

    Example:
      >>> add_to_forget(jnp.zeros(4), 1).tolist()
      [0.0, 1.0, 0.0, 0.0]
    """
    size = bias.shape[0] // 4
    return jnp.asarray(bias).at[size : 2 * size].add(value)


def narrower(compute: DType | None, stored: DType) -> DType | None:
    """Returns the compute dtype as cells take it: None if it is that of the parameters."""
    return None if compute is None or jnp.dtype(compute) == jnp.dtype(stored) else jnp.dtype(compute).name


def flax_activations(module: Any) -> dict[str, Any]:
    """Converts a linen or NNX cell's activations to options of ours: by name if in `jax.nn`, else the function.

    Raises:
      UserError: the module adds the state before the activation, which no cell here does.
    """
    if getattr(module, "residual", False):
        raise UserError(f"{type(module).__name__} has residual=True, which adds the state before the activation; no cell here does")
    options = {"activation": _by_name(module.activation_fn)}
    if hasattr(module, "gate_fn"):
        options["gate_activation"] = _by_name(module.gate_fn)
    return options


def to_flax_activations(cell: Cell) -> dict[str, Any]:
    """Converts the activations of a cell to options of Flax's cells, if they differ from the defaults."""
    given = {"activation_fn": settings(cell).get("activation"), "gate_fn": settings(cell).get("gate_activation")}
    return {name: ACTIVATIONS.get(value, value) for name, value in given.items() if value is not None}


def _by_name(function):
    return next((name for name, known in ACTIVATIONS.items() if known is function), function)
