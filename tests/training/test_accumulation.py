"""Batches taken in parts: the whole batch's gradient, carry and counts, in less memory, on several devices."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import tiny

from seqjax.errors import UserError
from seqjax.training import train_step
from seqjax.training.accumulation import cut, join
from seqjax.training.losses import Sums
from seqjax.training.optimizers import make_optimizer

ONE = jax.devices()[:1]
B, T = 6, 4
KEY = jax.random.key(7)


def _run(loss_fn, params, model_state, carry, batches, accumulate, rows=B):
    mesh = train_step.make_mesh(rows, ONE)
    optimizer = make_optimizer("adam", optax.constant_schedule(0.05), clip_norm=0.5)
    step = train_step.make_train_step(loss_fn, optimizer, optax.constant_schedule(0.05), mesh, clip_norm=0.5, accumulate=accumulate)
    state, told = train_step.init_state(params, model_state, optimizer, carry, KEY, mesh), []
    for batch in batches:
        state, metrics = step(state, batch)
        told.append(metrics)
    assert step._cache_size() == 1
    return tiny.as_numpy(state), told


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_steps_in_parts_are_those_of_the_whole_batch(parts):
    """A language model whose rows hold unlike numbers of real tokens, so that a mean of means would be another number."""
    model = tiny.language_model()
    params, carry = tiny.init(model, B)
    lengths = np.array([4, 1, 0, 3, 2, 2])
    batches = [b._replace(mask=b.mask & (np.arange(T) < lengths[:, None])) for b in tiny.windows(tiny.stream(90), B, T)]
    assert len(set(batches[0].mask.reshape(parts, -1).sum(axis=1))) > 1 and len(batches) > 2
    whole, told = _run(tiny.loss_of(model), params, (), carry, batches, 1)
    state, same = _run(tiny.loss_of(model), params, (), carry, batches, parts)
    tiny.assert_close(state, whole, 1e-3, 1e-5)
    tiny.assert_close(same, told, 1e-4, 1e-6)


def test_parts_have_noise_of_their_own_and_the_model_state_in_order():
    def loss_fn(params, model_state, carry, batch, rng):
        noise = jax.random.uniform(rng, carry.shape)
        seen = 10 * model_state + batch[0, 0]
        return carry + noise, seen, Sums(jnp.sum(batch @ params), jnp.float32(batch.shape[0]), {"rows": jnp.sum(batch[:, 0])})

    rows = np.arange(1.0, 7.0, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    state, (told,) = _run(loss_fn, jnp.ones(2), jnp.float32(0), jnp.zeros(B), [rows], 3)
    assert float(state.model_state) == 135  # rows 1, 3 and 5 begin the parts
    assert len(set(state.carry.tolist())) == B and np.all(state.carry > 0)
    assert float(told.sums.tokens) == B and float(told.sums.counts["rows"]) == 21
    whole, _ = _run(loss_fn, jnp.ones(2), jnp.float32(0), jnp.zeros(B), [rows], 1)
    assert float(whole.model_state) == 1 and not np.any(np.isclose(state.carry, whole.carry))


def test_the_carry_keeps_its_rows():
    def loss_fn(params, model_state, carry, batch, rng):
        return carry + batch, model_state, Sums(jnp.sum(params * batch), jnp.float32(batch.size))

    rows = np.arange(6.0, dtype=np.float32)
    state, _ = _run(loss_fn, jnp.float32(1), (), jnp.zeros(B), [rows, rows], 3)
    np.testing.assert_array_equal(state.carry, 2 * rows)


def test_a_part_that_is_not_finite_skips_the_step():
    rows = np.random.default_rng(0).normal(size=(B, 4)).astype(np.float32)
    bad = np.where(np.arange(B)[:, None] == 4, np.float32(np.nan), rows)
    state, (told,) = _run(tiny.linear_loss, jnp.zeros(4), (), jnp.zeros(B), [bad], 3)
    assert int(told.skipped) == 1 and np.all(state.params == 0) and np.all(state.carry == 0)


def test_parts_need_less_memory():
    def loss_fn(params, model_state, carry, batch, rng):
        hidden = jnp.tanh(batch @ params["in"])
        for _ in range(4):
            hidden = jnp.tanh(hidden @ params["mid"])
        return carry, model_state, Sums(jnp.sum(hidden**2), jnp.float32(batch.shape[0]))

    mesh, optimizer, schedule = train_step.make_mesh(4096, ONE), optax.sgd(0.1), optax.constant_schedule(0.1)
    params = {"in": jnp.ones((8, 64)), "mid": jnp.ones((64, 64))}
    state, needed = train_step.init_state(params, (), optimizer, (), KEY, mesh), {}
    for parts in (1, 4, 16):
        step = train_step.make_train_step(loss_fn, optimizer, schedule, mesh, clip_norm=1.0, accumulate=parts)
        compiled = step.lower(state, jax.ShapeDtypeStruct((4096, 8), jnp.float32)).compile()
        needed[parts] = compiled.memory_analysis().temp_size_in_bytes
    assert needed[4] < 0.5 * needed[1] and needed[16] < 0.5 * needed[4], needed


@pytest.mark.parametrize("rows, parts", [(5, 2), (2, 4), (6, 4)])
def test_a_batch_that_cannot_be_cut_is_refused(rows, parts):
    with pytest.raises(UserError, match=f"accumulate={parts} cannot cut a batch of {rows} into equal parts; .* multiple of {parts}:"):
        _run(tiny.linear_loss, jnp.zeros(4), (), jnp.zeros(rows), [np.ones((rows, 4), np.float32)], parts, rows=rows)


def test_less_than_one_part_is_refused():
    with pytest.raises(UserError, match="accumulate=0 must be at least 1"):
        _run(tiny.linear_loss, jnp.zeros(4), (), jnp.zeros(B), [], 0)


def test_what_is_cut_is_joined_again():
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(12, 2)), "b": rng.normal(size=12)}
    mesh = train_step.make_mesh(12, ONE)
    for parts in (1, 3, 12):
        pieces = cut(tree, parts, mesh)
        assert jax.tree.map(np.shape, pieces) == {"a": (parts, 12 // parts, 2), "b": (parts, 12 // parts)}
        tiny.assert_equal(join(pieces, mesh), jax.tree.map(jnp.asarray, tree))


ON_DEVICES = """
import jax, numpy as np
jax.config.update("jax_numpy_rank_promotion", "raise")
from training import tiny
from seqjax.errors import UserError
from seqjax.training import train_step
from seqjax.training.accumulation import cut, join
from seqjax.training.optimizers import make_optimizer, make_schedule

assert len(jax.devices()) == 4
model, B = tiny.language_model(layers=1), 16
schedule = make_schedule("constant", 0.05, steps=9)
optimizer = make_optimizer("adam", schedule, clip_norm=0.5)
batches = tiny.windows(tiny.stream(190), B, 4)

def run(devices, parts):
    mesh = train_step.make_mesh(B, devices)
    params, carry = tiny.init(model, B)
    state = train_step.init_state(params, (), optimizer, carry, jax.random.key(7), mesh)
    step = train_step.make_train_step(tiny.loss_of(model), optimizer, schedule, mesh, clip_norm=0.5, accumulate=parts)
    told = []
    for batch in batches:
        state, metrics = step(state, jax.device_put(batch, train_step.batch_sharding(mesh)))
        told.append(metrics)
    for leaf in jax.tree.leaves(state.carry):
        assert leaf.addressable_shards[0].data.shape[0] == B // len(devices), leaf.sharding
    return jax.device_get((told, state.params, state.carry))

tiny.assert_close(run(jax.devices()[:1], 1), run(jax.devices(), 2), 1e-3, 2e-5)

# Every device holds its own rows of every part, and no row moves to another device.
mesh = train_step.make_mesh(16, jax.devices())
rows = jax.device_put(np.arange(16), train_step.batch_sharding(mesh))
pieces = jax.jit(lambda rows: cut(rows, 2, mesh))(rows)
for shard in rows.addressable_shards:
    (mine,) = [s for s in pieces.addressable_shards if s.device == shard.device]
    assert mine.data.shape == (2, 2) and mine.data.ravel().tolist() == shard.data.tolist(), (mine.data, shard.data)
text = jax.jit(lambda rows: join(cut(rows, 2, mesh), mesh)).lower(rows).compile().as_text()
assert not any(word in text for word in ("all-to-all", "all-gather", "collective-permute", "all-reduce")), text
try:
    run(jax.devices(), 3)
except UserError as error:
    assert "accumulate=3 cannot cut a batch of 16 into equal parts on 4 devices" in str(error), error
    print("equal")
"""


def test_four_devices_work_on_every_part():
    tests = pathlib.Path(__file__).resolve().parents[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    path = os.pathsep.join([str(tests.parent), str(tests)])
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", ON_DEVICES], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0 and done.stdout == "equal\n", done.stdout + done.stderr
