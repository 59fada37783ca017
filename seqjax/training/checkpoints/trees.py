"""Trees of arrays as leaves by path, to fit a saved state into another structure."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from seqjax.errors import UserError
from seqjax.training import processes

Path = tuple[str, ...]
_NAMED = 4  # leaves that a message names


def by_path(tree: Any) -> dict[Path, Any]:
    """The leaves of a pytree by path; path components are keys, indices and field names alike.

    Example:
      >>> by_path({"a": [1, {"b": 2}], "c": ()})
      {('a', '0'): 1, ('a', '1', 'b'): 2}
    """
    return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _path(keys) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)


def nested(leaves: Mapping[Path, Any]) -> Any:
    """Turns leaves by path into nested dicts.

    Example:
      >>> nested({("a", "0"): 1, ("a", "1", "b"): 2})
      {'a': {'0': 1, '1': {'b': 2}}}
    """
    tree: dict[str, Any] = {}
    for (*above, last), leaf in leaves.items():
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = leaf
    return tree


def fill(target: Any, leaves: Mapping[Path, np.ndarray], what: str) -> Any:
    """Puts saved arrays into the structure of a target, each with the sharding of the target's leaf.

    Args:
      target: a pytree of arrays or `jax.ShapeDtypeStruct`s with shardings.
      leaves: numpy arrays by path.
      what: the object being read, for the message.

    Returns:
      A pytree like the target: jax arrays with its shardings, numpy arrays where the target has numpy arrays.

    Raises:
      UserError: the paths, shapes or dtypes differ; the message names the first.

    Example:
      >>> fill({"w": np.zeros(2)}, {("w",): np.ones(2)}, "checkpoint 7")
      {'w': array([1., 1.])}
    """
    places = by_path(target)
    differ = [line for path in sorted({*places, *leaves}) if (line := _difference(path, leaves, places))]
    if differ:
        more = f"; and {len(differ) - _NAMED} more" if len(differ) > _NAMED else ""
        raise UserError(
            f"{what} does not fit the model that the settings describe ({'; '.join(differ[:_NAMED])}{more}); "
            "use the settings it was trained with, or another --workdir"
        )
    return jax.tree.map_with_path(lambda keys, like: _placed(leaves[_path(keys)], like), target)


def _difference(path: Path, leaves, places) -> str | None:
    there, here = (_kind(tree[path]) if path in tree else "nothing" for tree in (leaves, places))
    return None if there == here else f"{'/'.join(path)}: {there} there, {here} here"


def _kind(leaf) -> str:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"


def _placed(value: np.ndarray, like) -> Any:
    sharding = getattr(like, "sharding", None)
    return value if sharding is None else processes.place(value, sharding)
