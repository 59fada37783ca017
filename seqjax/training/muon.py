"""Muon for the kernels of recurrent cells: momentum orthogonalised gate by gate."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from seqjax.errors import UserError

PyTree = Any
MATRICES = ("kernel", "recurrent_kernel")


def muon_by_gate(
    others: optax.GradientTransformation, rate: float, *, momentum: float = 0.95, ns_steps: int = 3
) -> optax.GradientTransformation:
    r"""Update directions: Muon's for the kernels and recurrent kernels of cells, and those of `others` for everything else.

    For each gate W_g (D, H) of a kernel, with its momentum M_g (Nesterov's):

      update_g = rate sqrt(max(1, H / D)) U V^T,  M_g = U S V^T

    A few Newton-Schulz iterations approximate U V^T: all but the smallest singular values end up between 0.7 and 1.2. The gates lie side by
    side in one kernel and differ in scale, so each is treated as a separate matrix; so is each block of a block-diagonal recurrent kernel.

    Args:
      others: the transformation for embeddings, biases, output layers and everything else; usually `optax.scale_by_adam`.
      rate: scale of Muon's directions relative to those of `others`.
      momentum: momentum of the gradient.
      ns_steps: number of Newton-Schulz iterations, each of 6 D^2 H operations per gate. With 3 an LSTM of 256 units learned as well as with
        5.

    Returns:
      An optax transformation whose output is to be scaled by the negative learning rate.

    Raises:
      UserError: on init, if no parameter is a kernel of a recurrent cell.

    Example:
      >>> import jax.numpy as jnp, seqjax
      >>> params = {"rnn": seqjax.gru(8).init(jax.random.key(0), 8), "softmax": jnp.ones((8, 3))}
      >>> optimizer = muon_by_gate(optax.scale_by_adam(), rate=1.0, ns_steps=5)
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
      >>> singular = jnp.linalg.svd(updates["rnn"].recurrent_kernel[:, 8:16])[1]  # of the gate z: all about 1
      >>> bool(singular.min() > 0.5), bool(singular.max() < 1.3)
      (True, True)

    Reference:
      Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; `optax.contrib.scale_by_muon`.
    """
    orthogonal = scale_by_muon(beta=momentum, ns_steps=ns_steps, weight_dimension_numbers=_dimensions)
    parts: dict[Any, Any] = {"cell": optax.chain(orthogonal, optax.stateless(_by_width), optax.scale(rate)), "other": others}

    def inner(tree):
        return optax.partition(parts, _labels(tree))

    def init(params):
        return inner(params).init(_apart(params))

    def update(updates, state, params=None):
        apart, state = inner(updates).update(_apart(updates), state, None if params is None else _apart(params))
        return jax.tree.map(lambda found, like: found.reshape(like.shape), apart, updates), state

    return optax.GradientTransformation(init, update)


def _is_cell(node: Any) -> bool:
    return set(MATRICES) <= set(getattr(node, "_fields", ()))


def _each_cell(function: Callable[[Any], Any], other: Callable[[Any], Any], tree: PyTree) -> PyTree:
    return jax.tree.map(lambda node: function(node) if _is_cell(node) else other(node), tree, is_leaf=_is_cell)


def _gates(cell: Any) -> int:
    """How many gates lie side by side in a cell's kernel; 1 if its recurrent kernel is frozen, and so None."""
    projection, recurrent = getattr(cell, "projection", None), cell.recurrent_kernel
    if recurrent is None:
        return 1
    hidden = math.prod(recurrent.shape[:-1] or recurrent.shape) if projection is None else projection.shape[0]
    wide = recurrent.shape[-1] * (math.prod(recurrent.shape[:-2]) if recurrent.ndim > 2 else 1)
    return 1 if wide % hidden else wide // hidden


def _matrices(cell: Any) -> list[str]:
    """The fields of a cell that are matrices or blocks of one; none for convolutions and independent units."""
    if cell.kernel is not None and cell.kernel.ndim != 2:
        return []
    return [name for name in MATRICES if getattr(cell, name) is not None and getattr(cell, name).ndim > 1]


def _labels(params: PyTree) -> PyTree:
    """Which parameters Muon updates."""

    def of_cell(cell):
        return jax.tree.map(lambda a: "other", cell)._replace(**dict.fromkeys(_matrices(cell), "cell"))

    labels = _each_cell(of_cell, lambda leaf: "other", params)
    if "cell" not in jax.tree.leaves(labels):
        raise UserError("optimizer.name='muon' is for the kernels of recurrent cells, and there are none; choose adam")
    return labels


def _apart(tree: PyTree) -> PyTree:
    """Muon's parameters (..., D, G H) as (..., D, G, H)."""

    def of_cell(cell):
        gates = _gates(cell)
        return cell._replace(**{name: getattr(cell, name).reshape(*getattr(cell, name).shape[:-1], gates, -1) for name in _matrices(cell)})

    return _each_cell(of_cell, lambda leaf: leaf, tree)


def _dimensions(apart: PyTree) -> PyTree:
    """In a kernel (..., D, G, H) each (D, H) is a matrix."""
    return jax.tree.map(lambda a: MuonDimensionNumbers(a.ndim - 3, a.ndim - 1), apart)


def _by_width(updates: PyTree, params: PyTree) -> PyTree:
    del params
    return jax.tree.map(lambda u: math.sqrt(max(1.0, u.shape[-1] / u.shape[-3])) * u, updates)
