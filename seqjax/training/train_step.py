r"""The training state, one pure step of it, and evaluation: the same for every model.

What one step hands to the next beside the parameters is of two kinds. The carry is the recurrent state, cut along the batch: a
long stream is read in windows of T steps, the carry passes from window to window by value, its gradient does not.
:func:`truncate` is the one place where it is cut (truncated backpropagation through time); full backpropagation through time is
the case of one window as long as the stream. The model state is what a network keeps besides parameters that is not
recurrent: the running statistics of batch normalisation, the same on every device. A network that keeps nothing of a kind has
`()` there.

Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories"; Mikolov 2012 for language models.
"""

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

Advance = Callable[[int, int | None], None]  # told how many batches of an evaluation are done, and of how many, if that is known


class TrainState(NamedTuple):
    """Everything that training changes, as one pytree; what is not in here cannot differ after resuming."""

    step: jax.Array  # () int32, batches seen, skipped ones included
    params: PyTree
    model_state: PyTree  # batch statistics and the like, or ()
    opt_state: PyTree
    carry: PyTree  # recurrent state at the window's border, leaves (B, ...), or ()
    key: jax.Array  # key data, uint32; the key of step i is fold_in(key, i)
    lr_scale: jax.Array  # () float32, factor on the learning rate; lowered when validation stalls
    skipped: jax.Array  # () int32, steps skipped because something was not finite, in all
    skipped_in_row: jax.Array  # () int32, the same since the last good step
    average: PyTree = ()  # moving averages of (params, model_state), or () if none are kept


class StepMetrics(NamedTuple):
    """The metrics of one training step; scalars on the device."""

    sums: Sums  # of the batch
    grad_norm: jax.Array  # global norm before clipping
    clipped: jax.Array  # 1.0 where the norm was above the limit
    learning_rate: jax.Array
    skipped: jax.Array  # steps skipped so far
    skipped_in_row: jax.Array
    faults: jax.Array  # what was not finite, as bits: see guard.fault_names; 0 where the step was taken
    signal: jax.Array | None = None  # the number of one that any of several processes has received, 0 for none; None in a single one


def truncate(carry: PyTree) -> PyTree:
    """The border between two windows: the value passes, the gradient across it is exactly zero.

    Example:
      >>> across = lambda h: truncate({"h": 2 * h})["h"] ** 2
      >>> float(across(3.0)), float(jax.grad(across)(3.0))
      (36.0, 0.0)
    """
    return jax.tree.map(jax.lax.stop_gradient, carry)


def state_shardings(mesh: Mesh, state: PyTree = None, *, fsdp: bool = False) -> TrainState:
    """Where each part of the state lies: the carry cut along the batch; parameters, averages and the optimiser's state as asked.

    Args:
      mesh: from make_mesh.
      state: a TrainState of arrays or shapes; needed where `parameter_shardings` is to cut something, which the default is not.
      fsdp: see parameter_shardings.

    Returns:
      A TrainState of NamedShardings, each for a whole part where nothing but the carry is cut.
    """
    everywhere, by_batch = NamedSharding(mesh, EVERYWHERE), batch_sharding(mesh)
    shardings = TrainState(*[by_batch if name == "carry" else everywhere for name in TrainState._fields])  # pyright: ignore[reportArgumentType]
    if not fsdp and MODEL not in mesh.shape:
        return shardings
    cut = {name: parameter_shardings(getattr(state, name), mesh, fsdp=fsdp) for name in ("params", "opt_state")}
    # Of the averages the second part is model state, which is everywhere.
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
    """The state before the first step, on the mesh; what is given is copied, so that donation leaves it whole.

    Args:
      params: pytree of arrays.
      model_state: batch statistics and the like, or ().
      optimizer: as make_train_step's.
      carry: the first recurrent state, leaves (B, ...), or ().
      rng: the key that all noise comes from.
      mesh: from make_mesh.
      average: keep moving averages of parameters and model state; true where make_train_step has an `ema_decay`.
      frozen: as make_train_step's; the optimiser keeps nothing of frozen parameters.
      fsdp: see parameter_shardings.
    """

    def build(params, model_state, carry, rng):
        counter = jnp.zeros((), jnp.int32)
        kept = params, model_state
        return TrainState(
            step=counter,
            params=jax.tree.map(jnp.copy, params),
            model_state=jax.tree.map(jnp.copy, model_state),
            opt_state=optimizer.init(divide(params, frozen)[0]),
            carry=jax.tree.map(jnp.copy, carry),
            key=jax.random.key_data(rng),
            lr_scale=jnp.ones((), jnp.float32),
            skipped=counter,
            skipped_in_row=counter,
            average=jax.tree.map(jnp.copy, kept) if average else (),
        )

    given = params, model_state, carry, rng
    cut = fsdp or MODEL in mesh.shape
    shardings = state_shardings(mesh, jax.eval_shape(build, *given) if cut else None, fsdp=fsdp)
    if not processes.several():
        return jax.jit(build, out_shardings=shardings)(*given)
    if not cut:
        return place(jax.jit(build)(*given), shardings)
    # The optimiser's state is made in parts: no process has it whole.
    bare = jax.jit(lambda *given: build(*given)._replace(opt_state=()))(*given)
    state = place(bare, shardings._replace(opt_state=batch_sharding(mesh)))
    make = jax.jit(lambda params: optimizer.init(divide(params, frozen)[0]), out_shardings=shardings.opt_state)
    return state._replace(opt_state=make(state.params))


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
    """One training step as a pure function, compiled once for each shape of batch, the state's buffers donated.

    The loss is the mean over the batch's real tokens. Where the loss, the gradient's norm or anything that would enter the
    state is not finite, nothing of the state changes but the counters: the batch is skipped.

    Args:
      loss_fn: `(params, model_state, carry, batch, rng) -> (carry, model_state, Sums)`.
      optimizer: its first part clips at `clip_norm`.
      schedule: the optimiser's learning rate, for the log.
      mesh: from make_mesh.
      clip_norm: for the log; infinite if nothing is clipped.
      ema_decay: d of the moving averages, a <- d a + (1 - d) new, with min(d, (1 + n) / (10 + n)) for d at update number n;
        0 keeps none.
      accumulate: how many parts the batch is cut into, computed one after another: see accumulated_gradient.
      frozen: regular expressions; parameters whose path one of them is found in stay as they are, bit for bit: no gradient,
        no weight decay, no part in the norm. See frozen_mask. Batch statistics are not parameters and keep being updated.
      shardings: from state_shardings, where it cuts parameters; None where only the carry is cut.

    Returns:
      `step(state, batch) -> (state, StepMetrics)`.

    Raises:
      UserError: accumulate is below 1. The step raises it where a batch cannot be cut or a pattern freezes nothing.

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
    """What a step would make of the state, before anything is checked."""

    gradient: Gradient
    fixed: PyTree  # the parameters that are frozen, which `unite` puts together with the others
    before: PyTree  # the parameters that are trained
    after: PyTree  # the same with the update
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

    Where parameters are cut along the axis `data` they are gathered once, before the loss, which is computed as if they were whole;
    each device keeps its part of the gradient and makes its part of the update.

    Args: those of make_train_step.

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
    """The key of all noise of the step that follows a state."""
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
    r"""One step of an exponential moving average that forgets its beginning quickly; of integers the new value is kept.

    .. math:: a \leftarrow d a + (1 - d) x, \quad d = \min(\mathrm{decay}, (1 + n) / (10 + n))

    Args:
      average, new: pytrees alike.
      decay: the largest d, in [0, 1).
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
    """Evaluation over a whole split with the carry passed on from batch to batch.

    Args:
      loss_fn: as make_train_step's; called without noise (rng None), and the model state that it returns is ignored.
      mesh: from make_mesh.

    Returns:
      `evaluate(params, model_state, carry, batches, progress=None) -> Sums`: the sums over all batches as plain numbers, for
      `Metric.compute` or `means` (as lists where the loss function gives vectors), read from the device once, at the end. They
      do not depend on how a stream is cut into windows; batches may be of several shapes, for each of which it is compiled
      once. `progress(done, total)` is called after each batch, with total None where `batches` has no length.

    Raises:
      ValueError: there is no batch.

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

    zeros: list[Sums] = []  # found once: it takes a trace of the whole model

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
                jax.block_until_ready(before)  # so that what is told is done, except for the batch under way
                progress(done, total)
        if sums is None:
            raise ValueError("batches is empty: there is nothing to evaluate")
        return jax.tree.map(lambda total: np.asarray(total, float).tolist(), jax.device_get(sums))

    return evaluate
