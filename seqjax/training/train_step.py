r"""The training state, one pure step of it, and evaluation: the same for every model.

Besides the parameters, a step passes two kinds of state to the next. The carry is the recurrent state, sharded along the batch: a
long stream is read in windows of T steps; the carry's value passes from window to window, its gradient does not.
:func:`truncate` is the one place where the gradient is stopped (truncated backpropagation through time); full backpropagation
through time is the case of one window as long as the stream. The model state is other, non-recurrent state: the running statistics
of batch normalisation, the same on every device. A network without one of these has `()` there.

Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories"; Mikolov 2012 for language models.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from seqjax.errors import UserError
from seqjax.training import processes
from seqjax.training.accumulation import Gradient, LossFn, accumulated_gradient, batch_gradient
from seqjax.training.freezing import divide, unite
from seqjax.training.guard import CHECKED, faults, global_norm
from seqjax.training.losses import Sums
from seqjax.training.sharding import (
    EVERYWHERE,
    MODEL,
    batch_sharding,
    compiler_options,
    gathered,
    parameter_shardings,
)
from seqjax.training.sharding import make_mesh as make_mesh

PyTree = Any

Advance = Callable[[int, int | None], None]  # called with the number of evaluation batches done, and the total, if known


class TrainState(NamedTuple):
    """Everything that training changes, as one pytree; nothing else may differ after resuming."""

    step: jax.Array  # () int32, batches seen, including skipped ones
    params: PyTree
    model_state: PyTree  # batch statistics and the like, or ()
    opt_state: PyTree
    carry: PyTree  # recurrent state at the window boundary, leaves (B, ...), or ()
    key: jax.Array  # key data, uint32; the key of step i is fold_in(key, i)
    lr_scale: jax.Array  # () float32, factor on the learning rate; lowered when validation stalls
    skipped: jax.Array  # () int32, total steps skipped because something was not finite
    skipped_in_row: jax.Array  # () int32, the same since the last good step
    average: PyTree = ()  # moving averages of (params, model_state), or () if none are kept


class StepMetrics(NamedTuple):
    """The metrics of one training step; scalars on the device."""

    sums: Sums  # of the batch
    grad_norm: jax.Array  # global norm before clipping
    clipped: jax.Array  # 1.0 if the norm was above the limit
    learning_rate: jax.Array
    skipped: jax.Array  # steps skipped so far
    skipped_in_row: jax.Array
    faults: jax.Array  # what was not finite, as bits: see guard.fault_names; 0 if the step was taken
    signal: jax.Array | None = None  # the signal any of several processes received, or 0; None with one process


def truncate(carry: PyTree) -> PyTree:
    """The boundary between two windows: the value passes, and the gradient across it is exactly zero.

    Example:
      >>> across = lambda h: truncate({"h": 2 * h})["h"] ** 2
      >>> float(across(3.0)), float(jax.grad(across)(3.0))
      (36.0, 0.0)
    """
    return jax.tree.map(jax.lax.stop_gradient, carry)


def state_shardings(mesh: Mesh, state: PyTree = None, *, fsdp: bool = False) -> TrainState:
    """The sharding of each part of the state: the carry along the batch; parameters, averages and optimiser state as requested.

    Args:
      mesh: from make_mesh.
      state: a TrainState of arrays or shapes; needed if `parameter_shardings` should shard anything.
      fsdp: see parameter_shardings.

    Returns:
      A TrainState of NamedShardings, each for a whole part if only the carry is sharded.
    """
    everywhere, by_batch = NamedSharding(mesh, EVERYWHERE), batch_sharding(mesh)
    shardings = TrainState(*[by_batch if name == "carry" else everywhere for name in TrainState._fields])  # pyright: ignore[reportArgumentType]
    if not fsdp and MODEL not in mesh.shape:
        return shardings
    cut = {name: parameter_shardings(getattr(state, name), mesh, fsdp=fsdp) for name in ("params", "opt_state")}
    # The second part of the averages is model state, which is replicated.
    average = (parameter_shardings(state.average[0], mesh, fsdp=fsdp), everywhere) if state.average else everywhere
    return shardings._replace(**cut, average=average)


def place(state: TrainState, shardings: TrainState) -> TrainState:
    """Places a state on the mesh, as `state_shardings` says."""
    return TrainState(*[processes.place(part, where) for part, where in zip(state, shardings)])  # pyright: ignore[reportArgumentType]


def init_state(
    params: PyTree,
    model_state: PyTree,
    optimizer: optax.GradientTransformation,
    carry: PyTree,
    rng: jax.Array,
    mesh: Mesh,
    *,
    average: bool = False,
    frozen: Sequence[str] = (),
    fsdp: bool = False,
) -> TrainState:
    """The state before the first step, on the mesh; the arguments are copied, so that they survive donation.

    Args:
      params: pytree of arrays.
      model_state: batch statistics and the like, or ().
      optimizer: as for make_train_step.
      carry: the first recurrent state, leaves (B, ...), or ().
      rng: the key for all noise.
      mesh: from make_mesh.
      average: keep moving averages of parameters and model state; set it if make_train_step has an `ema_decay`.
      frozen: as for make_train_step; the optimiser keeps no state for frozen parameters.
      fsdp: see parameter_shardings.
    """
    build = functools.partial(first_state, optimizer, average=average, frozen=frozen)
    given = params, model_state, carry, rng
    cut = fsdp or MODEL in mesh.shape
    shardings = state_shardings(mesh, jax.eval_shape(build, *given) if cut else None, fsdp=fsdp)
    if not processes.several():
        return jax.jit(build, out_shardings=shardings)(*given)
    if not cut:
        return place(jax.jit(build)(*given), shardings)
    # The optimiser's state is created sharded: no process ever holds all of it.
    bare = jax.jit(lambda *given: build(*given)._replace(opt_state=()))(*given)
    state = place(bare, shardings._replace(opt_state=batch_sharding(mesh)))
    make = jax.jit(lambda params: optimizer.init(divide(params, frozen)[0]), out_shardings=shardings.opt_state)
    return state._replace(opt_state=make(state.params))


def first_state(
    optimizer: optax.GradientTransformation, params: PyTree, model_state: PyTree, carry: PyTree, rng: jax.Array, *,
    average: bool = False, frozen: Sequence[str] = (),
) -> TrainState:  # fmt: skip
    """The state before the first step, wherever its arrays are: with `jax.eval_shape`, its shapes alone. Arguments as init_state's.

    Example:
      >>> jax.eval_shape(lambda key: first_state(optax.sgd(0.1), {"w": jnp.ones(3)}, (), (), key), jax.random.key(0)).params
      {'w': ShapeDtypeStruct(shape=(3,), dtype=float32)}
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, params),
        model_state=jax.tree.map(jnp.copy, model_state),
        opt_state=optimizer.init(divide(params, frozen)[0]),
        carry=jax.tree.map(jnp.copy, carry),
        key=jax.random.key_data(rng),
        lr_scale=jnp.ones((), jnp.float32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
        average=jax.tree.map(jnp.copy, (params, model_state)) if average else (),
    )


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    *,
    clip_norm: float,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    frozen: Sequence[str] = (),
    shardings: TrainState | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, StepMetrics]]:
    """One training step as a pure function, compiled once per batch shape, with the state's buffers donated.

    The loss is the mean over the batch's real tokens. If the loss, the gradient norm or anything that would enter the state is not
    finite, only the counters of the state change: the batch is skipped.

    Args:
      loss_fn: `(params, model_state, carry, batch, rng) -> (carry, model_state, Sums)`.
      optimizer: its first transformation clips at `clip_norm`.
      schedule: the optimiser's learning rate, for logging.
      mesh: from make_mesh.
      clip_norm: for logging; infinite without clipping.
      ema_decay: d of the moving averages, a <- d a + (1 - d) new, with min(d, (1 + n) / (10 + n)) for d at update number n;
        0 keeps none.
      accumulate: number of parts the batch is cut into, computed in turn: see accumulated_gradient.
      frozen: regular expressions; parameters whose path matches one stay unchanged, bit for bit: no gradient, no weight decay, no part in
        the norm. See frozen_mask. Batch statistics are not parameters and are still updated.
      shardings: from state_shardings, if it shards parameters; None if only the carry is sharded.

    Returns:
      `step(state, batch) -> (state, StepMetrics)`.

    Raises:
      UserError: accumulate is below 1. The step raises it if a batch cannot be cut or a pattern freezes nothing.

    Example:
      >>> def loss_fn(params, model_state, carry, batch, rng):  # how far a running sum, scaled, is from 1
      ...     carry = carry + batch.sum(axis=1)
      ...     return carry, model_state, Sums(jnp.sum((params * carry - 1) ** 2), jnp.float32(carry.size))
      >>> schedule, mesh = optax.constant_schedule(0.1), make_mesh(1, jax.devices()[:1])
      >>> state = init_state(jnp.float32(0.0), (), optax.sgd(schedule), jnp.zeros(1), jax.random.key(0), mesh)
      >>> step = make_train_step(loss_fn, optax.sgd(schedule), schedule, mesh, clip_norm=1.0)
      >>> for window in jnp.array([[[0.5, 0.5]], [[-0.5, 0.5]]]):
      ...     state, metrics = step(state, jax.device_put(window, batch_sharding(mesh)))
      >>> round(float(state.params), 3), float(state.carry[0]), round(float(metrics.sums.loss), 3)
      (0.36, 1.0, 0.64)
    """
    propose = make_proposal(loss_fn, optimizer, mesh, accumulate=accumulate, frozen=frozen, shardings=shardings)

    def step(state: TrainState, batch) -> tuple[TrainState, StepMetrics]:
        found, fixed, _, trained, opt_state = propose(state, batch)
        norm = global_norm(found.grads)
        done = state.step - state.skipped
        average = ()
        if ema_decay:
            before = divide(state.average[0], frozen)[0], state.average[1]
            moved = moving_average(before, (trained, found.model_state), ema_decay, done)
            average = unite(moved[0], fixed), moved[1]
        params = unite(trained, fixed)
        checked = (found.loss, norm, opt_state, trained, found.model_state, average, found.carry)
        faulty = faults(dict(zip(CHECKED, checked, strict=True)))
        new = {"params": params, "model_state": found.model_state, "opt_state": opt_state}
        after = _taken(state, faulty == 0, new | {"carry": found.carry, "average": average})
        told = {"grad_norm": norm, "clipped": (norm > clip_norm).astype(jnp.float32), "faults": faulty}
        told |= {"skipped": after.skipped, "skipped_in_row": after.skipped_in_row}
        return after, StepMetrics(found.sums, learning_rate=schedule(done) * state.lr_scale, **told)  # pyright: ignore[reportArgumentType]

    everywhere, states = NamedSharding(mesh, EVERYWHERE), shardings or state_shardings(mesh)
    return jax.jit(
        step,
        in_shardings=(states, batch_sharding(mesh)),
        out_shardings=(states, everywhere),
        donate_argnums=0,
        compiler_options=compiler_options(mesh, shardings),
    )


class Proposal(NamedTuple):
    """The result of a step before anything is checked."""

    gradient: Gradient
    fixed: PyTree  # the frozen parameters, which `unite` joins with the others
    before: PyTree  # the trained parameters
    after: PyTree  # the trained parameters after the update
    opt_state: PyTree


def make_proposal(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    frozen: Sequence[str] = (),
    shardings: TrainState | None = None,
) -> Callable[[TrainState, Any], Proposal]:
    """The gradient and the update of a step, as a pure function of the state and the batch.

    Parameters sharded along the axis `data` are gathered once, before the loss, which is computed as if they were replicated; each device
    keeps its shard of the gradient and computes its shard of the update.

    Args: as for make_train_step.

    Raises:
      UserError: accumulate is below 1.
    """
    if accumulate < 1:
        raise UserError(f"accumulate={accumulate} must be at least 1")
    kept = None if shardings is None else shardings.params

    def propose(state: TrainState, batch) -> Proposal:
        before, fixed = divide(state.params, frozen)
        trained, others = divide(gathered(state.params, kept), frozen)

        def loss(trained, *rest):
            return loss_fn(unite(trained, others), *rest)

        arguments = loss, trained, state.model_state, truncate(state.carry), batch, step_key(state)
        found = batch_gradient(*arguments) if accumulate == 1 else accumulated_gradient(*arguments, parts=accumulate, mesh=mesh)
        if kept is not None:
            found = found._replace(grads=jax.lax.with_sharding_constraint(found.grads, divide(kept, frozen)[0]))
        updates, opt_state = optimizer.update(found.grads, state.opt_state, before)
        after = jax.tree.map(lambda p, u: p + (state.lr_scale * u).astype(p.dtype), before, updates)
        return Proposal(found, fixed, before, after, opt_state)

    return propose


def step_key(state: TrainState) -> jax.Array:
    """The key for all noise of a state's next step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def _taken(state: TrainState, good: jax.Array, new: dict[str, PyTree]) -> TrainState:
    """The state after a step; it keeps the new values only if the step is good."""
    old = {name: getattr(state, name) for name in new}
    bad = jnp.where(good, 0, 1).astype(jnp.int32)
    return state._replace(
        step=state.step + 1,
        skipped=state.skipped + bad,
        skipped_in_row=(state.skipped_in_row + bad) * bad,
        **jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old),
    )


def moving_average(average: PyTree, new: PyTree, decay: float, updates: jax.Array) -> PyTree:
    r"""One step of an exponential moving average that forgets its start quickly; integers take the new value.

    .. math:: a \leftarrow d a + (1 - d) x, \quad d = \min(\mathrm{decay}, (1 + n) / (10 + n))

    Args:
      average, new: pytrees of the same structure.
      decay: the maximum d, in [0, 1).
      updates: n, the number of steps before this one.

    Example:
      >>> float(moving_average(jnp.float32(0.0), jnp.float32(1.0), 0.99, jnp.int32(0)))  # d = 1 / 10
      0.8999999761581421
    """
    d = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))

    def one(a, x):
        return (d * a + (1 - d) * x).astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else x

    return jax.tree.map(one, average, new)


def make_evaluate(loss_fn: LossFn, mesh: Mesh) -> Callable[..., Sums]:
    """Evaluation over a whole split, passing the carry from batch to batch.

    Args:
      loss_fn: as for make_train_step; called without noise (rng None); the returned model state is ignored.
      mesh: from make_mesh.

    Returns:
      `evaluate(params, model_state, carry, batches, progress=None) -> Sums`: the sums over all batches as plain numbers, for
      `Metric.compute` or `means` (lists where the loss function returns vectors), read from the device once, at the end. They do not depend
      on how a stream is cut into windows; batches may have several shapes, each compiled once. `progress(done, total)` is called after each
      batch, with total None if `batches` has no length.

    Raises:
      ValueError: there are no batches.

    Example:
      >>> def loss_fn(params, model_state, carry, batch, rng):
      ...     return carry, model_state, Sums(jnp.sum(params * batch), jnp.float32(batch.size))
      >>> evaluate = make_evaluate(loss_fn, make_mesh(1, jax.devices()[:1]))
      >>> evaluate(jnp.float32(2.0), (), jnp.zeros(1), [jnp.array([[1.0, 2.0]]), jnp.array([[6.0, 7.0]])])
      Sums(loss=32.0, tokens=4.0, counts={})
    """
    everywhere, by_batch = NamedSharding(mesh, EVERYWHERE), batch_sharding(mesh)

    def step(params, model_state, carry, sums, batch):
        carry, _, more = loss_fn(params, model_state, carry, batch, None)
        return carry, jax.tree.map(jnp.add, sums, more)

    step = jax.jit(
        step,
        in_shardings=(everywhere, everywhere, by_batch, everywhere, by_batch),
        out_shardings=(by_batch, everywhere),
        donate_argnums=2,
    )

    zeros: list[Sums] = []  # found once: it requires tracing the whole model

    def begin(*arguments) -> Sums:
        if not zeros:
            sums = jax.eval_shape(loss_fn, *arguments, None)[2]
            zeros.append(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), sums))
        return processes.place(zeros[0], everywhere)

    def evaluate(params, model_state, carry, batches: Iterable[Any], progress: Advance | None = None) -> Sums:
        carry, sums = processes.place(jax.tree.map(jnp.copy, carry), by_batch), None
        total = len(batches) if hasattr(batches, "__len__") else None  # pyright: ignore[reportArgumentType]
        for done, batch in enumerate(batches, start=1):
            batch = processes.place_rows(batch, by_batch)
            before = begin(params, model_state, carry, batch) if sums is None else sums
            carry, sums = step(params, model_state, carry, before, batch)
            if progress is not None:
                jax.block_until_ready(before)  # so that the batches reported are done, except the current one
                progress(done, total)
        if sums is None:
            raise ValueError("batches is empty: there is nothing to evaluate")
        return jax.tree.map(lambda total: np.asarray(total, float).tolist(), jax.device_get(sums))

    return evaluate
