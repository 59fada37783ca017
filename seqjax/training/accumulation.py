"""The gradient of a batch's mean loss, computed at once or accumulated over parts, which needs less memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqjax.errors import UserError
from seqjax.training.losses import Sums
from seqjax.training.sharding import DATA, batch_sharding

PyTree = Any

# (params, model_state, carry, batch, rng) -> (carry, model_state, Sums); rng is None in evaluation, where there is no noise and the
# returned model state is ignored.
LossFn = Callable[[PyTree, PyTree, PyTree, Any, jax.Array | None], tuple[PyTree, PyTree, Sums]]


class Gradient(NamedTuple):
    """Loss and gradient of a batch."""

    loss: jax.Array  # (), mean over the real tokens
    grads: PyTree  # of the mean loss, like the parameters
    carry: PyTree
    model_state: PyTree
    sums: Sums


def batch_gradient(loss_fn: LossFn, params: PyTree, model_state: PyTree, carry: PyTree, batch: Any, rng: jax.Array) -> Gradient:
    """Loss and gradient of a whole batch at once.

    Args: as a LossFn.

    Example:
      >>> def loss_fn(params, model_state, carry, batch, rng):
      ...     return carry, model_state, Sums(jnp.sum(params * batch), jnp.float32(batch.size))
      >>> found = batch_gradient(loss_fn, jnp.float32(2.0), (), (), jnp.array([1.0, 3.0]), jax.random.key(0))
      >>> float(found.loss), float(found.grads)
      (4.0, 2.0)
    """

    def mean_loss(params):
        after, new_state, sums = loss_fn(params, model_state, carry, batch, rng)
        return sums.loss / jnp.maximum(sums.tokens, 1), (after, new_state, sums)

    (loss, rest), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
    return Gradient(loss, grads, *rest)


def accumulated_gradient(
    loss_fn: LossFn,
    params: PyTree,
    model_state: PyTree,
    carry: PyTree,
    batch: Any,
    rng: jax.Array,
    *,
    parts: int,
    mesh: Mesh,
) -> Gradient:
    r"""Loss and gradient of a batch, accumulated over parts computed in turn.

    .. math:: \nabla L = \frac{\sum_i \nabla \ell_i}{\sum_i n_i}

    with l the loss of a part summed over its n tokens, so that the gradient equals the whole batch's up to rounding, whatever the parts'
    lengths. Two things are per part, not per batch: noise, drawn for each part, and batch statistics, which are updated part by part.

    Args:
      loss_fn, params, model_state, carry, batch, rng: as for batch_gradient.
      parts: number of parts.
      mesh: parts are cut within each device's share of the batch, so that all devices work on every part.

    Raises:
      UserError: the batch cannot be cut into equal parts.

    Example:
      >>> from seqjax.training.train_step import make_mesh
      >>> def loss_fn(params, model_state, carry, batch, rng):
      ...     return carry, model_state, Sums(jnp.sum(params * batch), jnp.float32(batch.size))
      >>> mesh, batch = make_mesh(2, jax.devices()[:1]), jnp.array([1.0, 3.0])
      >>> found = accumulated_gradient(loss_fn, jnp.float32(2.0), (), (), batch, jax.random.key(0), parts=2, mesh=mesh)
      >>> float(found.loss), float(found.grads)
      (4.0, 2.0)
    """

    def advance(before, part):
        model_state, grads = before
        number, carry, batch = part

        def summed_loss(params):
            after, new_state, sums = loss_fn(params, model_state, carry, batch, jax.random.fold_in(rng, number))
            return sums.loss, (after, new_state, sums)

        more, (after, model_state, sums) = jax.grad(summed_loss, has_aux=True)(params)
        return (model_state, jax.tree.map(jnp.add, grads, more)), (after, sums)

    inputs = jnp.arange(parts), cut(carry, parts, mesh), cut(batch, parts, mesh)
    begin = model_state, jax.tree.map(jnp.zeros_like, params)
    (model_state, grads), (carries, sums) = jax.lax.scan(advance, begin, inputs)
    sums = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums)
    tokens = jnp.maximum(sums.tokens, 1)
    grads = jax.tree.map(lambda leaf: (leaf / tokens).astype(leaf.dtype), grads)
    return Gradient(sums.loss / tokens, grads, join(carries, mesh), model_state, sums)


def cut(tree: PyTree, parts: int, mesh: Mesh) -> PyTree:
    """Cuts arrays along their first axis into equal parts, within each device's share.

    Args:
      tree: leaves (B, ...).
      parts: N, the number of parts.
      mesh: from make_mesh, with D devices along the axis that shards B.

    Returns:
      Leaves (N, B / N, ...), sharded over the devices along the second axis.

    Raises:
      UserError: B is not a multiple of N D.

    Example:
      >>> from seqjax.training.train_step import make_mesh
      >>> cut(jnp.arange(4), 2, make_mesh(4, jax.devices()[:1])).tolist()
      [[0, 1], [2, 3]]
    """
    where, devices = NamedSharding(mesh, PartitionSpec(None, DATA)), mesh.shape[DATA]

    def one(leaf):
        rows, *rest = leaf.shape
        if rows % (parts * devices):
            over = f" on {devices} devices" if devices > 1 else ""
            raise UserError(
                f"accumulate={parts} cannot cut a batch of {rows} into equal parts{over}; the batch must be a multiple "
                f"of {parts * devices}: choose another batch size, or accumulate in fewer parts"
            )
        shares = leaf.reshape(devices, parts, rows // (parts * devices), *rest)
        whole = jnp.swapaxes(shares, 0, 1).reshape(parts, rows // parts, *rest)
        return jax.lax.with_sharding_constraint(whole, where)

    return jax.tree.map(one, tree)


def join(tree: PyTree, mesh: Mesh) -> PyTree:
    """Joins what `cut` split.

    Args:
      tree: leaves (N, B / N, ...).
      mesh: as for cut.

    Returns:
      Leaves (B, ...).

    Example:
      >>> from seqjax.training.train_step import make_mesh
      >>> join(jnp.array([[0, 1], [2, 3]]), make_mesh(4, jax.devices()[:1])).tolist()
      [0, 1, 2, 3]
    """
    where, devices = batch_sharding(mesh), mesh.shape[DATA]

    def one(leaf):
        parts, rows, *rest = leaf.shape
        shares = leaf.reshape(parts, devices, rows // devices, *rest)
        return jax.lax.with_sharding_constraint(jnp.swapaxes(shares, 0, 1).reshape(parts * rows, *rest), where)

    return jax.tree.map(one, tree)
