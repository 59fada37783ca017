"""What a training step does to each layer, and how far its gradient reaches back: scalars cheap enough to compute during training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

import seqjax
from seqjax import _unroll
from seqjax.diagnostics import carry_gradients, gates, probes
from seqjax.diagnostics.ratios import ratio
from seqjax.errors import UserError
from seqjax.training.accumulation import LossFn, cut
from seqjax.training.guard import global_norm
from seqjax.training.sharding import EVERYWHERE, batch_sharding, compiler_options, gathered
from seqjax.training.train_step import Proposal, TrainState, state_shardings, step_key, truncate
from seqjax.typing import Array, Carry

SMALL = 1e-3  # a gradient below this share of the largest in its sequence counts as vanished
NETWORK, LAYER = "network{}", "layer{}"  # networks are numbered from 0, by calls of `unroll`, and their layers from 1

Diagnose = Callable[[TrainState, Any], dict[str, Array]]


def make_diagnose(
    loss_fn: LossFn,
    propose: Callable[[TrainState, Any], Proposal],
    mesh: Any,
    *,
    accumulate: int = 1,
    shardings: TrainState | None = None,
) -> Diagnose:
    """Makes a function that examines the next step of a state and a batch; neither is changed or donated.

    Args:
      loss_fn: the model's; it calls `seqjax.unroll` outside of any jit or scan of its own.
      propose: from `make_proposal`, so that gradient and update are those of the step itself.
      mesh: from make_mesh.
      accumulate: parts of the batch; to save memory, the carry and the gates are examined in the first part only.
      shardings: as for make_train_step.

    Returns:
      diagnose(state, batch) -> scalars by name, compiled once per batch shape:

      - gradient_norm/LAYER, update_ratio/LAYER: of the parameters of a layer together, |g| and |w' - w| / |w|;
      - carry_gradient_start/networkN/layerL and carry_gradient_end: norm of dL / d carry through only the last output of each sequence,
      after the first and the last but one step in the layer's direction, mean over sequences;
      - carry_gradient_vanished: share of the steps in between where it is below 1e-3 of the largest in its sequence;
      - gate_mean, gate_open and gate_shut/networkN/layerL/GATE: as `gate_statistics`, mean over units. Undefined values, such as the share
      if the last output has no gradient, are NaN.

    Raises:
      UserError: (from diagnose) the loss runs no recurrent network, or one inside a jit or scan of its own.

    Example:
      >>> import optax
      >>> from seqjax.training.losses import Sums
      >>> from seqjax.training.train_step import init_state, make_mesh, make_proposal
      >>> cell = seqjax.gru(8)
      >>> def loss_fn(params, model_state, carry, batch, rng):
      ...     carry, ys = seqjax.unroll(cell, params["rnn"], batch, carry)
      ...     return carry, model_state, Sums((ys**2).sum(), jnp.float32(ys.size))
      >>> mesh, params = make_mesh(2, jax.devices()[:1]), {"rnn": cell.init(jax.random.key(0), 4)}
      >>> state = init_state(params, (), optax.sgd(0.1), cell.initial_carry(params["rnn"], 2), jax.random.key(1), mesh)
      >>> diagnose = make_diagnose(loss_fn, make_proposal(loss_fn, optax.sgd(0.1), mesh), mesh)
      >>> found = diagnose(state, jnp.ones((2, 9, 4)))
      >>> [name for name in sorted(found) if "gate_" not in name]  # doctest: +NORMALIZE_WHITESPACE
      ['carry_gradient_end/network0/layer1', 'carry_gradient_start/network0/layer1', 'carry_gradient_vanished/network0/layer1',
       'gradient_norm/rnn', 'update_ratio/rnn']
    """

    def diagnose(state: TrainState, batch) -> dict[str, Array]:
        proposal = propose(state, batch)
        carry, rng = truncate(state.carry), step_key(state)
        if accumulate > 1:
            carry, batch = jax.tree.map(lambda a: a[0], cut((carry, batch), accumulate, mesh))
            rng = jax.random.fold_in(rng, 0)

        def loss(params):
            _, _, sums = loss_fn(params, state.model_state, carry, batch, rng)
            return sums.loss / jnp.maximum(sums.tokens, 1)

        params = gathered(state.params, None if shardings is None else shardings.params)
        return _of_layers(proposal) | _of_networks(loss, params)

    everywhere, states = jax.NamedSharding(mesh, EVERYWHERE), shardings or state_shardings(mesh)
    options = compiler_options(mesh, shardings)
    return jax.jit(diagnose, in_shardings=(states, batch_sharding(mesh)), out_shardings=everywhere, compiler_options=options)


def _of_layers(proposal: Proposal) -> dict[str, Array]:
    """Scalars of the parameters by layer: a layer is a subtree, such as rnn/0 with its kernels and bias."""
    layers: dict[str, list[tuple[Array, Array, Array]]] = {}
    trees = jax.tree_util.tree_leaves_with_path(proposal.before), jax.tree.leaves(proposal.after), jax.tree.leaves(proposal.gradient.grads)
    for (path, before), after, grad in zip(*trees, strict=True):
        name = jax.tree_util.keystr(path[:-1] or path, simple=True, separator="/")
        layers.setdefault(name, []).append((before, after, grad))
    found = {}
    for name, parts in layers.items():
        before, after, grads = zip(*parts)
        found |= {f"gradient_norm/{name}": global_norm(grads), f"update_ratio/{name}": ratio(before, after)}
    return found


def _of_networks(loss: Callable[[Any], Array], params: Any) -> dict[str, Array]:
    runs, found = [], {}

    def watch(cell, its, xs, carry, options):
        if get_opaque_trace_state(convention="flax") != around:
            raise UserError("a recurrent network runs inside a jit or scan (as truncated_unroll's does), where it cannot be examined")
        runs.append(probes.unrolled(cell, its, xs, carry, options, noise=True))
        return seqjax.unroll(cell, its, xs, carry, **options)

    around = get_opaque_trace_state(convention="flax")
    with _unroll.watched(watch):
        loss(params)
    if not runs:
        raise UserError("the model runs no recurrent network over whole sequences (by seqjax.unroll), so there is nothing to examine")
    for number, (run, grads) in enumerate(zip(runs, carry_gradients.carry_gradients(loss, params, through="last"), strict=True)):
        network = NETWORK.format(number)
        for place, (name, norms) in enumerate(probes.by_layer(run.cell, grads.norms), 1):
            backward = bool(run.options.get("reverse")) != name.endswith("backward)")
            for what, value in _reach(norms, grads.real, backward).items():
                found[f"carry_gradient_{what}/{network}/{LAYER.format(place)}"] = value
        for gate in gates.gate_statistics(*run[:4], **run.options):
            place = gate.layer.split(" ")[1]
            for what in ("mean", "open", "shut"):
                found[f"gate_{what}/{network}/{LAYER.format(place)}/{gate.gate}"] = getattr(gate, what).mean()
    return found


def _reach(norms: Carry, real: Array, backward: bool) -> dict[str, Array]:
    """How the norms (B, T) of a layer's carry gradients develop from the first step to the last but one, in its direction."""
    total = carry_gradients.combined(jax.tree.leaves(norms), real.shape)
    total, real = (a[:, ::-1] if backward else a for a in (total, real))
    done = jnp.cumsum(real, axis=1)
    followed = real & (done < done[:, -1:])  # the last output does not depend on the carry after the last step
    largest = jnp.max(jnp.where(followed, total, 0), axis=1, keepdims=True)
    counted = followed & (largest > 0)
    return {
        "start": _mean(total, followed & (done == 1)),
        "end": _mean(total, followed & (done == done[:, -1:] - 1)),
        "vanished": _mean(total < SMALL * largest, counted),
    }


def _mean(values, where):
    return jnp.sum(jnp.where(where, values, 0)) / jnp.sum(where)
