"""Functions shared by several processes, as far as one process can test them; tests/experiments/test_several_processes.py starts
several."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqjax.errors import UserError
from seqjax.training import processes, train_step
from seqjax.training.losses import Sums

MESH = train_step.make_mesh(2, jax.devices()[:1])
SCHEDULE = optax.constant_schedule(0.1)


def loss(params, model_state, carry, batch, rng):
    return carry + batch, model_state, Sums(jnp.sum((params - batch) ** 2), jnp.float32(batch.size))


def start():
    step = train_step.make_train_step(loss, optax.sgd(SCHEDULE), SCHEDULE, MESH, clip_norm=1.0)
    return step, train_step.init_state(jnp.float32(1.0), (), optax.sgd(SCHEDULE), jnp.zeros(2), jax.random.key(0), MESH)


def test_a_step_that_listens_is_the_step_and_tells_the_signal():
    batch = processes.place_rows(np.array([2.0, 3.0], np.float32), train_step.batch_sharding(MESH))
    plain, state = start()
    state, metrics = plain(state, batch)
    step, heard = start()
    listening = processes.Listening(step, train_step.state_shardings(MESH), train_step.batch_sharding(MESH), MESH)
    heard, told = listening(heard, batch)
    assert metrics.signal is None and int(told.signal) == 0
    jax.tree.map(np.testing.assert_array_equal, (state, metrics), (heard, told._replace(signal=None)))
    listening.tell(15)
    assert [int(listening(start()[1], batch)[1].signal) for _ in range(2)] == [15, 15]
    listening.tell(0)
    assert int(listening(start()[1], batch)[1].signal) == 0


def test_what_differs_is_named_with_its_process():
    rows = np.zeros((3, 2, 4), np.uint8)
    processes.check_rows(["settings", "data"], rows, "advice")
    rows[2, 1, 3] = 1
    with pytest.raises(UserError, match="^the data of process 2 are not those of process 0; advice$"):
        processes.check_rows(["settings", "data"], rows, "advice")


def test_batches_without_shards_are_refused_in_several_processes(monkeypatch):
    monkeypatch.setattr(processes, "several", lambda: True)
    with pytest.raises(UserError, match="have no shard"):
        processes.own_share(iter([]))


def test_only_errors_of_the_connection_mean_a_lost_process():
    for text in ("Gloo all-reduce failed: x", "INTERNAL: NCCL operation failed: remote process exited", "UNAVAILABLE: Socket closed"):
        assert processes.lost(RuntimeError(text)) is not None
    for error in (ValueError("operands have other shapes"), KeyError("gloo"), RuntimeError("RESOURCE_EXHAUSTED: out of memory")):
        assert processes.lost(error) is None
