r"""Truncated backpropagation through time: the training state, one pure step of it, and evaluation with the carry kept.

A long stream is read in windows of T steps. The recurrent carry goes on from window to window by value, its gradient does
not: :func:`truncate` is the one place where it is cut. Full backpropagation through time is the case of one window that
is as long as the stream.

Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories"; Mikolov 2012 for language models.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqjax.errors import UserError
from seqjax.training.losses import Sums

PyTree = Any

# (params, carry, batch, rng) -> (carry, Sums); rng is None in evaluation, where there is no noise.
LossFn = Callable[[PyTree, PyTree, Any, jax.Array | None], tuple[PyTree, Sums]]


class TrainState(NamedTuple):
    """All that training changes, as one pytree; what is not in here cannot differ after a resume."""

    step: jax.Array  # () int32, batches seen, skipped ones included
    params: PyTree
    opt_state: PyTree
    carry: PyTree  # recurrent state at the window's border, leaves (B, ...)
    key: jax.Array  # key data, uint32; the key of step i is fold_in(key, i)
    lr_scale: jax.Array  # () float32, factor on the learning rate; lowered when validation stalls
    skipped: jax.Array  # () int32, steps skipped for a non-finite loss or gradient, in all
    skipped_in_row: jax.Array  # () int32, the same since the last good step


class StepMetrics(NamedTuple):
    """What one training step tells; scalars on the device."""

    loss: jax.Array  # nats, summed over the batch's real tokens
    tokens: jax.Array  # real tokens in the batch
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


def state_shardings(mesh: Mesh) -> TrainState:
    """Where each part of the state lies: the carry cut along its batch axis, all else on every device."""
    everywhere, by_batch = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    return TrainState(*[by_batch if name == "carry" else everywhere for name in TrainState._fields])


def place(state: TrainState, mesh: Mesh) -> TrainState:
    """Puts a state onto the mesh."""
    shardings = state_shardings(mesh)
    return TrainState(*[jax.device_put(part, where) for part, where in zip(state, shardings)])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch lies: cut along its first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation, carry: PyTree, rng: jax.Array, mesh: Mesh
) -> TrainState:
    """The state before the first step, on the mesh; `params` and `carry` are copied, so that donation leaves them whole."""

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
        )

    return jax.jit(build, out_shardings=state_shardings(mesh))(params, carry, rng)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    *,
    clip_norm: float,
) -> Callable[[TrainState, Any], tuple[TrainState, StepMetrics]]:
    """One training step as a pure function, compiled once, the state's buffers donated.

    The loss is the mean over the batch's real tokens. Where the loss or the gradient's norm is not finite, nothing of the
    state changes but the counters: the batch is skipped.

    Args:
      loss_fn: `(params, carry, batch, rng) -> (carry, Sums)`.
      optimizer: its first part clips at `clip_norm`.
      schedule: the optimiser's learning rate, for the log.
      mesh: from make_mesh.
      clip_norm: for the log.

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
      >>> round(float(state.params), 3), float(state.carry[0]), round(float(metrics.loss), 3)
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
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p + (state.lr_scale * u).astype(p.dtype), state.params, updates)

        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        new, old = (params, opt_state, carry), (state.params, state.opt_state, state.carry)
        params, opt_state, carry = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        bad = jnp.where(good, 0, 1).astype(jnp.int32)
        after = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            carry=carry,
            skipped=state.skipped + bad,
            skipped_in_row=(state.skipped_in_row + bad) * bad,
        )
        rate = schedule(state.step - state.skipped) * state.lr_scale
        metrics = StepMetrics(
            sums.loss, sums.tokens, norm, (norm > clip_norm).astype(jnp.float32), rate, after.skipped, after.skipped_in_row
        )
        return after, metrics

    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(state_shardings(mesh), batch_sharding(mesh)),
        out_shardings=(state_shardings(mesh), everywhere),
        donate_argnums=0,
    )


def make_evaluate(loss_fn: LossFn, mesh: Mesh) -> Callable[[PyTree, PyTree, Iterable[Any]], float]:
    """Evaluation over a whole split with the carry passed on from window to window.

    Returns:
      `evaluate(params, carry, batches) -> nats`: the mean loss over all real tokens, read from the device once, at the
      end. It does not depend on how the stream is cut into windows.

    Example:
      >>> def loss_fn(params, carry, batch, rng):
      ...     return carry, Sums(jnp.sum(params * batch), jnp.float32(batch.size))
      >>> evaluate = make_evaluate(loss_fn, make_mesh(1, jax.devices()[:1]))
      >>> evaluate(jnp.float32(2.0), jnp.zeros(1), [jnp.array([[1.0, 2.0]]), jnp.array([[6.0, 7.0]])])
      8.0
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def step(params, carry, sums, batch):
        carry, more = loss_fn(params, carry, batch, None)
        return carry, Sums(*[a + b for a, b in zip(sums, more)])

    carries = batch_sharding(mesh)
    step = jax.jit(
        step,
        in_shardings=(everywhere, carries, everywhere, carries),
        out_shardings=(carries, everywhere),
        donate_argnums=(1, 2),
    )

    def evaluate(params, carry, batches) -> float:
        carry = jax.device_put(jax.tree.map(jnp.copy, carry), carries)
        sums = jax.device_put(Sums(jnp.zeros(()), jnp.zeros(())), everywhere)
        for batch in batches:
            carry, sums = step(params, carry, sums, jax.device_put(batch, carries))
        return float(sums.loss) / float(sums.tokens)

    return evaluate
