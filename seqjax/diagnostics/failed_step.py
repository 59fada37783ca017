"""Finds where a training step stops being finite: in its batch, parameters, forward or backward pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from seqjax import _unroll
from seqjax.diagnostics.nonfinite import NonFinite, first_nonfinite
from seqjax.errors import UserError
from seqjax.training.accumulation import LossFn, cut
from seqjax.training.train_step import Proposal, TrainState, step_key, truncate

MOST = 8  # maximum number of items listed


def explain(
    loss_fn: LossFn, propose: Callable[[TrainState, Any], Proposal], mesh: Any, state: TrainState, batch: Any, *, accumulate: int = 1
) -> list[str]:
    """Repeats a step and reports where something is first not finite.

    Args:
      loss_fn: the model's loss function.
      propose: from `make_proposal`.
      mesh: from make_mesh.
      state: the state before the step.
      batch: the step's batch.
      accumulate: parts of the batch; the first with a fault is reported.

    Returns:
      Lines, the earliest cause first. Times, sequences and networks are counted from 0, layers from 1.

    Example:
      >>> import optax, seqjax
      >>> from seqjax.training.losses import Sums
      >>> from seqjax.training.train_step import init_state, make_mesh, make_proposal
      >>> cell = seqjax.rnn(4, "relu")
      >>> def loss_fn(params, model_state, carry, batch, rng):
      ...     return carry, model_state, Sums((seqjax.unroll(cell, params, batch)[1] ** 2).sum(), jnp.float32(batch.size))
      >>> mesh = make_mesh(2, jax.devices()[:1])
      >>> state = init_state(cell.init(jax.random.key(0), 3), (), optax.sgd(0.1), (), jax.random.key(1), mesh)
      >>> batch, propose = jnp.ones((2, 9, 3)).at[1, 5].set(jnp.inf), make_proposal(loss_fn, optax.sgd(0.1), mesh)
      >>> for line in explain(loss_fn, propose, mesh, state, batch)[:2]:
      ...     print(line)
      batch: the whole is not finite, first at [1, 5, 0]
      network 0, inputs: x is not finite from time 5, in sequence 1
    """
    before = {"parameters": state.params, "model state": state.model_state, "optimizer state": state.opt_state, "carry": state.carry}
    lines = _bad_in(before, "before the step")
    lines += [f"batch: {name} is not finite, first at {place}" for name, place in _bad_places(batch)]
    model_state = state.model_state
    for carry, part, rows, rng in _parts(state, batch, accumulate, mesh):

        def loss(params, model_state=model_state, carry=carry, part=part, rng=rng):
            _, after, sums = loss_fn(params, model_state, carry, part, rng)
            return sums.loss / jnp.maximum(sums.tokens, 1), after

        value, model_state = loss(state.params)
        found, note = _places(lambda params, loss=loss: loss(params)[0], state.params)
        lines += [note] if note else []
        if found or not np.isfinite(value):
            lines += [_told(place, np.asarray(rows)) for place in found[:MOST]]
            lines += [] if np.isfinite(value) else [f"loss: {float(value)}"]
            break
    return lines + _in_update(propose, state, batch)


def _parts(state, batch, accumulate, mesh):
    """(carry, batch, indices of its sequences, key) of each part of a step."""
    whole, rng = (truncate(state.carry), batch, jnp.arange(jax.tree.leaves(batch)[0].shape[0])), step_key(state)
    if accumulate == 1:
        return [(*whole, rng)]
    parts = cut(whole, accumulate, mesh)
    return [(*jax.tree.map(lambda a, n=n: a[n], parts), jax.random.fold_in(rng, n)) for n in range(accumulate)]


def _bad_in(parts, when):
    found = {what: [path for path, _ in _bad_places(tree)] for what, tree in parts.items()}
    return [f"{what} {when}: {_list(bad)} not finite" for what, bad in found.items() if bad]


def _bad_places(tree):
    """(path, first index) of each array that is not finite."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact):
            bad = np.argwhere(~np.isfinite(np.asarray(leaf, np.float32)))
            if len(bad):
                found.append((jax.tree_util.keystr(path, simple=True, separator="/") or "the whole", bad[0].tolist()))
    return found


def _places(loss, params):
    """The findings of `first_nonfinite`, and a reason if it cannot examine the loss."""
    try:
        return first_nonfinite(loss, params), ""
    except UserError as error:
        return [], f"recurrent networks cannot be examined: {error}"


def _told(place: NonFinite, rows: np.ndarray) -> str:
    network = f"network {place.run}, {place.layer}"
    if place.layer == "parameters":
        return f"{network}: {place.part} not finite"
    several = "sequence" + "s" * (len(place.sequences) > 1)
    where = f"in {several} {_list([int(rows[i]) for i in place.sequences])}"
    if place.part == "gradient":
        return f"{network}: values are finite; going back, the gradient of the carry first is not {_after(place)}, {where}"
    return f"{network}: {place.part} is not finite from time {place.step}, {where}"


def _after(place):
    return "before the first step" if place.step < 0 else f"after time {place.step}, where the step that follows hands it back"


def _in_update(propose, state, batch) -> list[str]:
    """Lines on the gradient, or if it is finite, on the update."""
    proposal = jax.jit(propose)(state, batch)
    if bad := [path for path, _ in _bad_places(proposal.gradient.grads)]:
        lines = [f"gradient: {_list(bad)} not finite"]
        with _unroll.watched(_by_scan):
            plain = jax.jit(lambda *arguments: propose(*arguments).gradient.grads)(state, batch)
        return lines + ([] if _bad_places(plain) else ["gradient on the engine scan: finite, so the step's own engine is the cause"])
    made = {"parameters": proposal.after, "optimizer state": proposal.opt_state}
    made |= {"model state": proposal.gradient.model_state, "carry": proposal.gradient.carry}
    return _bad_in(made, "after the step") or ["gradient and update: all finite"]


def _by_scan(cell, params, xs, carry, options):
    return seqjax.unroll(cell, params, xs, carry, **options | {"engine": "scan"})


def _list(names) -> str:
    names = [str(name) for name in names]
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more
