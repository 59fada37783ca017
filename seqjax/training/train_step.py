r"""The training state, one pure step of it, and evaluation: the same for every model.

What one step hands to the next beside the parameters is the carry. For a recurrent network it is the recurrent state, cut
along the batch: a long stream is read in windows of T steps, the carry goes on from window to window by value, its gradient
does not. :func:`truncate` is the one place where it is cut (truncated backpropagation through time); full backpropagation
through time is the case of one window as long as the stream. For a network with batch normalisation the carry is its running
statistics, the same on every device; for one that keeps nothing it is `()`.

Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories"; Mikolov 2012 for language models.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqjax.errors import UserError
from seqjax.training.losses import Sums, means

PyTree = Any

# (params, carry, batch, rng) -> (carry, Sums); rng is None in evaluation, where there is no noise.
LossFn = Callable[[PyTree, PyTree, Any, jax.Array | None], tuple[PyTree, Sums]]

# (params, carry) -> what of them a moving average is kept of.
Averaged = Callable[[PyTree, PyTree], PyTree]


class TrainState(NamedTuple):
    """All that training changes, as one pytree; what is not in here cannot differ after a resume."""

    step: jax.Array  # () int32, batches seen, skipped ones included
    params: PyTree
    opt_state: PyTree
    carry: PyTree  # recurrent state at the window's border, leaves (B, ...), or batch statistics, or ()
    key: jax.Array  # key data, uint32; the key of step i is fold_in(key, i)
    lr_scale: jax.Array  # () float32, factor on the learning rate; lowered when validation stalls
    skipped: jax.Array  # () int32, steps skipped for a non-finite loss or gradient, in all
    skipped_in_row: jax.Array  # () int32, the same since the last good step
    average: PyTree = ()  # moving average of the parameters, or () where none is kept


class StepMetrics(NamedTuple):
    """What one training step tells; scalars on the device."""

    sums: Sums  # of the batch
    grad_norm: jax.Array  # global norm before clipping
    clipped: jax.Array  # 1.0 where the norm was above the limit
    learning_rate: jax.Array
    skipped: jax.Array  # steps skipped so far
    skipped_in_row: jax.Array


def truncate(carry: PyTree) -> PyTree:
    """The border between two windows: the value goes on, the gradient across it is exactly zero.

    Example:
      >>> across = lambda h: truncate({"h": 2 * h})["h"] ** 2
      >>> float(across(3.0)), float(jax.grad(across)(3.0))
      (36.0, 0.0)
    """
    return jax.tree.map(jax.lax.stop_gradient, carry)


def make_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """All devices along one axis, `data`; one device is a mesh of one.

    Raises:
      UserError: the batch cannot be cut evenly.

    Example:
      >>> make_mesh(4, jax.devices()[:1]).axis_names
      ('data',)
    """
    devices = devices or jax.devices()
    if batch_size % len(devices):
        raise UserError(f"batch_size={batch_size} cannot be cut evenly over {len(devices)} devices; make it a multiple")
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


BY_BATCH, EVERYWHERE = PartitionSpec("data"), PartitionSpec()


def state_shardings(mesh: Mesh, carry_spec: PartitionSpec = BY_BATCH) -> TrainState:
    """Where each part of the state lies: the carry as `carry_spec` says, all else on every device."""
    everywhere, carry = NamedSharding(mesh, EVERYWHERE), NamedSharding(mesh, carry_spec)
    return TrainState(*[carry if name == "carry" else everywhere for name in TrainState._fields])


def place(state: TrainState, mesh: Mesh, carry_spec: PartitionSpec = BY_BATCH) -> TrainState:
    """Puts a state onto the mesh."""
    shardings = state_shardings(mesh, carry_spec)
    return TrainState(*[jax.device_put(part, where) for part, where in zip(state, shardings)])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch lies: cut along its first axis."""
    return NamedSharding(mesh, BY_BATCH)


def init_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    carry: PyTree,
    rng: jax.Array,
    mesh: Mesh,
    *,
    carry_spec: PartitionSpec = BY_BATCH,
    averaged: Averaged | None = None,
) -> TrainState:
    """The state before the first step, on the mesh; `params` and `carry` are copied, so that donation leaves them whole.

    Args: as make_train_step, with the first carry, and the key that all noise comes from.
    """

    def build(params, carry, rng):
        counter = jnp.zeros((), jnp.int32)
        return TrainState(
            step=counter,
            params=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
            carry=jax.tree.map(jnp.copy, carry),
            key=jax.random.key_data(rng),
            lr_scale=jnp.ones((), jnp.float32),
            skipped=counter,
            skipped_in_row=counter,
            average=() if averaged is None else jax.tree.map(jnp.copy, averaged(params, carry)),
        )

    return jax.jit(build, out_shardings=state_shardings(mesh, carry_spec))(params, carry, rng)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    *,
    clip_norm: float,
    carry_spec: PartitionSpec = BY_BATCH,
    averaged: Averaged | None = None,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Any], tuple[TrainState, StepMetrics]]:
    """One training step as a pure function, compiled once for each shape of batch, the state's buffers donated.

    The loss is the mean over the batch's real tokens. Where the loss or the gradient's norm is not finite, nothing of the
    state changes but the counters: the batch is skipped.

    Args:
      loss_fn: `(params, carry, batch, rng) -> (carry, Sums)`.
      optimizer: its first part clips at `clip_norm`.
      schedule: the optimiser's learning rate, for the log.
      mesh: from make_mesh.
      clip_norm: for the log; infinite where nothing is clipped.
      carry_spec: BY_BATCH for a recurrent carry, EVERYWHERE for batch statistics.
      averaged: what a moving average is kept of, such as `lambda params, carry: params`; None for nothing.
      ema_decay: d of the average, a <- d a + (1 - d) new, with min(d, (1 + n) / (10 + n)) for d at update number n.

    Returns:
      `step(state, batch) -> (state, StepMetrics)`.

    Example:
      >>> def loss_fn(params, carry, batch, rng):  # how far a running sum, scaled, is from 1
      ...     carry = carry + batch.sum(axis=1)
      ...     return carry, Sums(jnp.sum((params * carry - 1) ** 2), jnp.float32(carry.size))
      >>> schedule, mesh = optax.constant_schedule(0.1), make_mesh(1, jax.devices()[:1])
      >>> state = init_state(jnp.float32(0.0), optax.sgd(schedule), jnp.zeros(1), jax.random.key(0), mesh)
      >>> step = make_train_step(loss_fn, optax.sgd(schedule), schedule, mesh, clip_norm=1.0)
      >>> for window in jnp.array([[[0.5, 0.5]], [[-0.5, 0.5]]]):
      ...     state, metrics = step(state, jax.device_put(window, batch_sharding(mesh)))
      >>> round(float(state.params), 3), float(state.carry[0]), round(float(metrics.sums.loss), 3)
      (0.36, 1.0, 0.64)
    """

    def step(state: TrainState, batch) -> tuple[TrainState, StepMetrics]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        before = truncate(state.carry)

        def mean_loss(params):
            carry, sums = loss_fn(params, before, batch, rng)
            return sums.loss / jnp.maximum(sums.tokens, 1), (carry, sums)

        (loss, (carry, sums)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p + (state.lr_scale * u).astype(p.dtype), state.params, updates)
        updates_before = state.step - state.skipped
        average = () if averaged is None else moving_average(state.average, averaged(params, carry), ema_decay, updates_before)

        new, old = (params, opt_state, carry, average), (state.params, state.opt_state, state.carry, state.average)
        params, opt_state, carry, average = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        bad = jnp.where(good, 0, 1).astype(jnp.int32)
        after = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            carry=carry,
            skipped=state.skipped + bad,
            skipped_in_row=(state.skipped_in_row + bad) * bad,
            average=average,
        )
        rate = schedule(updates_before) * state.lr_scale
        clipped = (norm > clip_norm).astype(jnp.float32)
        return after, StepMetrics(sums, norm, clipped, rate, after.skipped, after.skipped_in_row)

    everywhere, states = NamedSharding(mesh, EVERYWHERE), state_shardings(mesh, carry_spec)
    return jax.jit(
        step, in_shardings=(states, batch_sharding(mesh)), out_shardings=(states, everywhere), donate_argnums=0
    )


def moving_average(average: PyTree, new: PyTree, decay: float, updates: jax.Array) -> PyTree:
    r"""One step of an exponential moving average that forgets its beginning quickly.

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
    return jax.tree.map(lambda a, x: (d * a + (1 - d) * x).astype(a.dtype), average, new)


def make_evaluate(
    loss_fn: LossFn, mesh: Mesh, *, carry_spec: PartitionSpec = BY_BATCH
) -> Callable[[PyTree, PyTree, Iterable[Any]], dict[str, float]]:
    """Evaluation over a whole split with the carry passed on from batch to batch.

    Returns:
      `evaluate(params, carry, batches) -> {"loss": nats, ...}`: the mean loss over all real tokens, and each count of the
      Sums divided by the tokens too; read from the device once, at the end. It does not depend on how a stream is cut into
      windows; batches may be of several shapes, for each of which it is compiled once.

    Raises:
      ValueError: there is no batch.

    Example:
      >>> def loss_fn(params, carry, batch, rng):
      ...     return carry, Sums(jnp.sum(params * batch), jnp.float32(batch.size))
      >>> evaluate = make_evaluate(loss_fn, make_mesh(1, jax.devices()[:1]))
      >>> evaluate(jnp.float32(2.0), jnp.zeros(1), [jnp.array([[1.0, 2.0]]), jnp.array([[6.0, 7.0]])])
      {'loss': 8.0}
    """
    everywhere, carries, by_batch = NamedSharding(mesh, EVERYWHERE), NamedSharding(mesh, carry_spec), batch_sharding(mesh)

    def step(params, carry, sums, batch):
        carry, more = loss_fn(params, carry, batch, None)
        return carry, jax.tree.map(jnp.add, sums, more)

    step = jax.jit(
        step,
        in_shardings=(everywhere, carries, everywhere, by_batch),
        out_shardings=(carries, everywhere),
        donate_argnums=(1, 2),
    )

    zeros: list[Sums] = []  # found once: it takes a trace of the whole model

    def begin(*arguments) -> Sums:
        if not zeros:
            sums = jax.eval_shape(loss_fn, *arguments, None)[1]
            zeros.append(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), sums))
        return jax.device_put(zeros[0], everywhere)

    def evaluate(params, carry, batches) -> dict[str, float]:
        carry, sums = jax.device_put(jax.tree.map(jnp.copy, carry), carries), None
        for batch in batches:
            batch = jax.device_put(batch, by_batch)
            sums = begin(params, carry, batch) if sums is None else sums
            carry, sums = step(params, carry, sums, batch)
        if sums is None:
            raise ValueError("batches is empty: there is nothing to evaluate")
        return means(jax.device_get(sums))

    return evaluate
