"""Building blocks of the Flax layers: one stack of cells from torch's options, and parameters by name."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from seqjax import wrappers
from seqjax.cells import CELLS
from seqjax.errors import UserError
from seqjax.typing import Cell, DType, Params


@functools.lru_cache(maxsize=512)  # Flax rebuilds layers at every call; a rebuilt layer gets the same cell
def layers(
    hidden_size: int,
    num_layers: int = 1,
    cell: str | Callable[[int], Cell] = "lstm",
    *,
    dropout: float = 0.0,
    bidirectional: bool = False,
    merge: str | Callable[[Any, Any], Any] | None = "concat",
    proj_size: int = 0,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell:
    """Builds a stack of equal cells, with torch's options.

    Args:
      hidden_size: H of every cell.
      num_layers: L.
      cell: a name of `seqjax.cells.CELLS`, or a function of hidden_size that returns any Cell, such as a wrapped one.
      dropout: fraction of each layer's outputs dropped in training, except the last layer's.
      bidirectional: whether every layer has a cell in each direction.
      merge: how the two directions become one output, as in `seqjax.bidirectional`.
      proj_size: size of the projected output of an "lstm"; 0 for none.
      dtype: dtype to compute in.
      param_dtype: dtype of the parameters.

    Returns:
      A stack, with the layers in its `inner`.

    Raises:
      UserError: the name is unknown, dropout is set with only one layer, or an option does not fit the cell.

    Example:
      >>> layers(8, 2, "gru", dropout=0.1, bidirectional=True).hidden_size
      16
    """
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {num_layers}")
    if dropout and num_layers == 1:
        raise UserError(f"dropout={dropout:g} applies between layers, but num_layers=1; drop the inputs or outputs outside")
    make = _maker(cell, proj_size, dtype, param_dtype)
    stacked = []
    for depth in range(num_layers):
        layer: Cell = make(hidden_size)
        if bidirectional:
            layer = wrappers.bidirectional(layer, make(hidden_size), merge)
        stacked.append(wrappers.dropout(layer, dropout) if dropout and depth else layer)
    return wrappers.stack(*stacked)


def _maker(cell, proj_size, dtype, param_dtype) -> Callable[[int], Cell]:
    """Returns the function of hidden_size that makes one cell."""
    if proj_size and cell != "lstm":
        name = repr(cell) if isinstance(cell, str) else "a function"
        raise UserError(f"proj_size={proj_size} is an option of cell='lstm' only, got cell={name}")
    if not isinstance(cell, str):
        if not callable(cell) or isinstance(cell, Cell):
            raise TypeError(f"cell must be a name or a function of hidden_size, got a {type(cell).__name__}")
        if dtype is not None or jnp.dtype(param_dtype) != jnp.float32:
            raise UserError("dtype and param_dtype apply to cells given by name; set them inside the function given as cell")
        return cast(Callable[[int], Cell], cell)
    if cell not in CELLS:
        raise UserError(f"cell={cell!r} is unknown; choose one of {', '.join(CELLS)}, or give a function of hidden_size")
    options = {"dtype": dtype, "param_dtype": param_dtype}
    if proj_size:
        options["proj_size"] = proj_size
    return functools.partial(CELLS[cell], **options)


def has_noise(cell: str | Callable[[int], Cell], dropout: float) -> bool:
    """Whether training may need a random key.

    Example:
      >>> has_noise("lstm", 0.0), has_noise("lstm", 0.1)
      (False, True)
    """
    return bool(dropout) or not isinstance(cell, str)


def to_names(params: Params) -> dict[str, Any]:
    """Converts parameters to nested dicts keyed by field name, as Flax keeps them.

    Args:
      params: what `cell.init` returned.

    Returns:
      Dicts of the same arrays; a field that is None is left out, and an entry of a tuple is named by its index.

    Example:
      >>> import jax, seqjax
      >>> sorted(to_names(seqjax.lstm(4).init(jax.random.key(0), 3)))
      ['bias', 'kernel', 'recurrent_kernel']
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *folders, name = _names(path)
        place = named
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return named


def from_names(cell: Cell, named: dict[str, Any]) -> Params:
    """Builds the parameters of a cell from nested dicts, the inverse of `to_names`.

    Args:
      cell: the cell that they belong to.
      named: what `to_names` returned.

    Returns:
      Params structured as by `cell.init`.

    Raises:
      UserError: a parameter is missing.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.gru(4)
      >>> from_names(cell, to_names(cell.init(jax.random.key(0), 3))).kernel.shape
      (3, 12)
    """
    # Any valid input size gives the structure; if the cell's own size is not one, one of its kernels' sizes is.
    sizes = [leaf.shape[0] for leaf in jax.tree.leaves(named) if jnp.ndim(leaf) > 1]
    paths, tree = _structure(cell, tuple(dict.fromkeys([*jax.tree.leaves(cell.hidden_size), *sizes])))
    leaves = []
    for path in paths:
        leaf = named
        for name in path:
            if name not in leaf:
                raise UserError(f"the parameters of {cell.name} lack {'/'.join(path)}; there are {', '.join(leaf)}")
            leaf = leaf[name]
        leaves.append(leaf)
    return jax.tree.unflatten(tree, leaves)


@functools.lru_cache(maxsize=512)
def _structure(cell, sizes) -> Any:
    """Returns the names and structure of a cell's parameters, which do not depend on the input size; uses the first valid one."""
    for size in sizes:
        try:
            params = jax.eval_shape(lambda size=size: cell.init(jax.random.key(0), size))
        except ValueError:
            if size == sizes[-1]:
                raise
            continue
        with_paths, tree = jax.tree_util.tree_flatten_with_path(params)
        return [_names(path) for path, _ in with_paths], tree


def _names(path):
    """Returns the names along a path; a lone array is called `value`."""
    return [jax.tree_util.keystr((key,), simple=True) for key in path] or ["value"]
