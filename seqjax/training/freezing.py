"""Frozen parameters, selected by patterns."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import jax

from seqjax.errors import UserError

PyTree = Any


def frozen_mask(params: PyTree, patterns: Sequence[str]) -> PyTree:
    """Which parameters the patterns freeze.

    Args:
      params: pytree of arrays.
      patterns: regular expressions, searched for in the parameter's path, such as `embed/embedding` or
        `rnn/0/recurrent_kernel`; `^embed/` freezes everything under `embed`.

    Returns:
      A pytree of bools like `params`, true if frozen.

    Raises:
      UserError: a pattern is not a regular expression or matches no parameter, or nothing is left to train.

    Example:
      >>> import jax.numpy as jnp
      >>> frozen_mask({"embed": {"embedding": jnp.ones(2)}, "rnn": (jnp.ones(1),)}, ["^embed/"])
      {'embed': {'embedding': True}, 'rnn': (False,)}
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        try:
            found = any(re.search(pattern, path) for path in paths)
        except re.error as error:
            raise UserError(f"frozen: {pattern!r} is not a regular expression: {error}") from error
        if not found:
            near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0)
            raise UserError(f"frozen: {pattern!r} matches no parameter; the closest are {', '.join(near)}")
    if patterns and all(any(re.search(pattern, path) for pattern in patterns) for path in paths):
        raise UserError(f"frozen: {', '.join(map(repr, patterns))} match every parameter; nothing is left to train")

    def frozen(path, _):
        return any(re.search(pattern, path_name(path)) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(frozen, params)


def all_frozen(params: PyTree, patterns: Sequence[str]) -> bool:
    """Whether the patterns freeze every one of these parameters.

    Args:
      params: pytree of arrays or shapes, with their names in the whole model, such as `{"encoder": ...}`.
      patterns: see `frozen_mask`.

    Example:
      >>> all_frozen({"embed": {"embedding": 1.0}}, ["^embed/"]), all_frozen({"embed": 1.0, "rnn": 1.0}, ["^embed"])
      (True, False)
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return all(any(re.search(pattern, path) for pattern in patterns) for path in paths)


def path_name(path: Sequence[Any]) -> str:
    """A parameter's path as patterns see it: keys, names and numbers joined by "/".

    Example:
      >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"rnn": [{"kernel": 1.0}]})
      >>> path_name(path)
      'rnn/0/kernel'
    """
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def divide(params: PyTree, patterns: Sequence[str]) -> tuple[PyTree, PyTree]:
    """Splits parameters into those that are trained and those that are frozen, with None in place of the others.

    Args:
      params: pytree of arrays.
      patterns: see frozen_mask.

    Returns:
      (trained, frozen), which `unite` joins again.

    Example:
      >>> divide({"embed": 1.0, "rnn": 2.0}, ["embed"])
      ({'embed': None, 'rnn': 2.0}, {'embed': 1.0, 'rnn': None})
    """
    mask = frozen_mask(params, patterns)
    trained = jax.tree.map(lambda leaf, frozen: None if frozen else leaf, params, mask)
    return trained, jax.tree.map(lambda leaf, frozen: leaf if frozen else None, params, mask)


def unite(trained: PyTree, frozen: PyTree) -> PyTree:
    """Joins what `divide` split.

    Example:
      >>> unite({"embed": None, "rnn": 2.0}, {"embed": 1.0, "rnn": None})
      {'embed': 1.0, 'rnn': 2.0}
    """
    return jax.tree.map(lambda t, f: f if t is None else t, trained, frozen, is_leaf=lambda leaf: leaf is None)
