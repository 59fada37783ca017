"""Finds where numbers first became infinite or NaN: the layer, the time step and the sequences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from seqjax.diagnostics import probes
from seqjax.diagnostics.carry_gradients import carry_gradients
from seqjax.typing import Array, Carry, Params


class NonFinite(NamedTuple):
    """Where something is first not finite in one layer."""

    run: int  # which call of `seqjax.unroll`, from 0
    layer: str  # a layer's name, or "inputs", "parameters"
    part: str  # a field of the carry, or "carry"; "gradient" is that of the carry after the step
    step: int  # time step, from 0; -1 for values without time, and for the carry a run starts from
    sequences: tuple[int, ...]  # of the batch, from 0


def first_nonfinite(function: Callable[..., Array], *args: Any) -> list[NonFinite]:
    """Where a loss's forward pass first became non-finite; if it did not, its backward pass.

    Args:
      function: function(*args) -> loss, (), which calls `seqjax.unroll` outside of any jit of its own.
      *args: its arguments: the parameters of the last good step and the batch that failed.

    Returns:
      The non-finite values, earliest step first and lowest layer first within a step; for gradients latest step first, since they flow
      backward. Empty if all are finite.

    Raises:
      UserError: there is no call of `seqjax.unroll`, or it is inside a jit.

    Example:
      >>> cell = seqjax.stack(seqjax.rnn(4, "relu"), seqjax.gru(4))
      >>> params = cell.init(jax.random.key(0), 2)
      >>> xs = jnp.ones((3, 8, 2)).at[1, 5].set(jnp.inf)
      >>> place = first_nonfinite(lambda params: seqjax.unroll(cell, params, xs)[1].sum(), params)[0]
      >>> place.layer, place.step, place.sequences
      ('inputs', 5, (1,))
    """
    runs = probes.captured(function, *args, noise=True)
    found = [place for number, run in enumerate(runs) for place in _of_run(number, run)]
    if found:
        return sorted(found, key=lambda place: (place.run, place.step, place.layer != "inputs"))
    grads = zip(runs, carry_gradients(function, *args), strict=True)
    return [place for number, pair in reversed(list(enumerate(grads))) for place in _of_gradients(number, *pair)]


def _of_run(number, run):
    real = np.asarray(probes.real_steps(run.xs, run.options.get("lengths")))
    found = []
    if bad := [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in _leaves(run.params) if not _finite(leaf)]:
        found.append(NonFinite(number, "parameters", ", ".join(bad), -1, ()))
    found += _places(number, "inputs", {"x": run.xs}, real, run.options)
    watching = probes.watching_layers(run.cell, carry_after)
    _, seen = seqjax.unroll(watching, run.params, run.xs, run.carry, engine="scan", **run.options)
    for (name, _), carry in zip(probes.layers(run.cell), seen, strict=True):
        parts = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in _leaves(carry)}
        found += _places(number, name, parts, real, run.options)
    return found


def carry_after(cell: Any, params: Params, before: Carry, x: Array, after: Carry) -> Carry:
    """An `Observe`: the carry after the step."""
    del cell, params, before, x
    return after


def _of_gradients(number, run, grads):
    """The last step of each layer, in its direction, with a non-finite carry gradient; on a tie the upper layer first."""
    reverse, found = bool(run.options.get("reverse")), []
    for name, norms in probes.by_layer(run.cell, grads.norms)[::-1]:
        bad = np.any([~np.isfinite(np.asarray(norm)) for norm in jax.tree.leaves(norms)], axis=0) & np.asarray(grads.real)
        steps = bad.any(axis=0).nonzero()[0]
        if len(steps):
            step = int(steps.min() if reverse != name.endswith("backward)") else steps.max())
            found.append(NonFinite(number, name, "gradient", step, tuple(map(int, bad[:, step].nonzero()[0]))))
    if not found and len(bad := (~np.isfinite(np.asarray(grads.start))).nonzero()[0]):
        return [NonFinite(number, "carry that the run starts from", "gradient", -1, tuple(map(int, bad)))]
    return sorted(found, key=lambda place: place.step if reverse else -place.step)


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def _finite(array):
    return bool(jnp.isfinite(array).all()) if jnp.issubdtype(array.dtype, jnp.inexact) else True


def _places(number, layer, parts, real, options):
    """The first step, in the direction of the run, at which one of these arrays (B, T, ...) is not finite, if any."""
    bad = {part: ~np.isfinite(np.asarray(a, np.float32)).reshape(*real.shape, -1).all(axis=2) & real for part, a in parts.items()}
    steps = {part: b.any(axis=0).nonzero()[0] for part, b in bad.items()}
    backward = bool(options.get("reverse")) != layer.endswith("backward)")
    first = {part: int(s.max() if backward else s.min()) for part, s in steps.items() if len(s)}
    if not first:
        return []
    part = (max if backward else min)(first, key=lambda part: first[part])
    return [NonFinite(number, layer, part, first[part], tuple(map(int, bad[part][:, first[part]].nonzero()[0])))]
