"""Training steps on meshes of four devices against those of one; run by test_sharding.py with quick or thorough, and names of cases."""

import contextlib
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax
from seqjax.diagnostics.during import make_diagnose
from seqjax.training import sharding, train_step
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.losses import token_cross_entropy
from seqjax.training.optimizers import make_optimizer

jax.config.update("jax_numpy_rank_promotion", "raise")
B, T, V, D, H, STEPS = 8, 5, 20, 8, 16, 3
SCHEDULE = optax.constant_schedule(0.05)
MESHES = ((4, 1, True), (2, 2, True), (2, 2, False), (1, 4, True), (4, 1, False))  # data, model, fsdp


def chain(name, **options):
    return make_optimizer(name, SCHEDULE, clip_norm=0.5, **options)


QUICK = MESHES[:2]
# name -> (cell, engine, optimiser, further arguments of make_train_step, dropout)
CASES = {
    "averages": (seqjax.lstm(H), "fused", chain("adamw", weight_decay=0.1), {"ema_decay": 0.5, "frozen": ("^embedding",)}, 0.3),
    "accumulated": (seqjax.gru(H), "fused", chain("adam"), {"accumulate": 2}, 0.0),
    "sgd": (seqjax.stack(seqjax.lstm(H), seqjax.gru(H)), "fused", chain("sgd", momentum=0.9), {}, 0.3),
    "adafactor": (seqjax.lstm(H), "fused", optax.adafactor(0.05, min_dim_size_to_factor=8), {}, 0.0),
    "muon": (seqjax.lstm(H), "fused", chain("muon"), {"frozen": ("embedding",)}, 0.0),
    "scan": (seqjax.gru(H), "scan", chain("adam"), {}, 0.3),
    "associative": (seqjax.mingru(H), "associative", chain("adam"), {}, 0.3),
    "skipped": (seqjax.lstm(H), "fused", chain("adam"), {"ema_decay": 0.5}, 0.0),
    "diagnosed": (seqjax.lstm(H), "fused", chain("adam"), {}, 0.0),
}


def main(name, thorough):
    cell, engine, optimizer, options, dropout = CASES[name]
    keys = jax.random.split(jax.random.key(int(np.random.default_rng().integers(2**31))), 4)
    params = {
        "embedding": jax.random.normal(keys[0], (V, D)),
        "rnn": cell.init(keys[1], D),
        "softmax": jax.random.normal(keys[2], (H, V)) / 4,
    }
    rng = np.random.default_rng()
    batches = [{"x": rng.integers(0, V, (B, T)), "y": rng.integers(0, V, (B, T)), "mask": rng.random((B, T)) < 0.8} for _ in range(STEPS)]
    bad = 1 if name == "skipped" else None

    def loss(params, model_state, carry, batch, key):
        xs = params["embedding"][batch["x"]]
        if key is not None and dropout:
            xs = jnp.where(jax.random.bernoulli(key, dropout, xs.shape), 0, xs)
        carry, ys = seqjax.unroll(cell, params["rnn"], xs, carry, engine=engine)
        logits = ys @ params["softmax"]
        if bad is not None:
            logits = jnp.where(model_state["count"] == bad, jnp.nan, logits)  # from the second step on, since it is not taken
        return carry, {"count": model_state["count"] + 1}, token_cross_entropy(logits, batch["y"], batch["mask"])

    def run(data, model, fsdp):
        mesh = train_step.make_mesh(B, jax.devices()[: data * model], model)
        frozen = options.get("frozen", ())
        average = "ema_decay" in options
        start = params, {"count": jnp.int32(0)}, optimizer, cell.initial_carry(params["rnn"], B), keys[3], mesh
        state = train_step.init_state(*start, average=average, frozen=frozen, fsdp=fsdp)
        where = train_step.state_shardings(mesh, state, fsdp=fsdp) if fsdp or model > 1 else None
        step = train_step.make_train_step(loss, optimizer, SCHEDULE, mesh, clip_norm=0.5, **options, shardings=where)
        found, before = [], state_bytes(state)
        for batch in batches:
            batch = jax.device_put(batch, train_step.batch_sharding(mesh))
            if name == "diagnosed":
                propose = train_step.make_proposal(loss, optimizer, mesh, shardings=where)
                found.append(jax.device_get(make_diagnose(loss, propose, mesh, shardings=where)(state, batch)))
            state, metrics = step(state, batch)
            found.append(jax.device_get(metrics))
            if where is not None:
                check_where(state, train_step.TrainState(*[jax.tree.broadcast(w, part) for w, part in zip(where, state)]))
        assert step._cache_size() == 1 and state_bytes(state) == before
        states.append(state)
        return jax.device_get((found, state)), before

    states = []
    want, whole = run(1, 1, False)
    assert (int(want[1].skipped) > 0) == (bad is not None)
    for data, model, fsdp in MESHES if thorough else QUICK:
        got, held = run(data, model, fsdp)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), got, want)
        parts = model * (data if fsdp else 1)
        assert whole / parts <= held <= (1.0 if parts == 1 else 1.6 / parts) * whole, (held, whole, parts)
    if name == "averages":
        check_restored(states)
    print(name)


def check_restored(states):
    """A checkpoint from one mesh is read on every other one, bit for bit, with that mesh's sharding."""
    with tempfile.TemporaryDirectory() as folder:
        for number, saved in enumerate(states):
            target = states[(number + 1) % len(states)]
            workdir = pathlib.Path(folder) / str(number)
            with contextlib.closing(Checkpoints(workdir, keep=1)) as checkpoints:
                checkpoints.save(STEPS, saved, {})
                checkpoints.wait()
                found = checkpoints.restore(lambda meta, target=target: target).state
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(saved))
            for leaf, like in zip(jax.tree.leaves(found), jax.tree.leaves(target), strict=True):
                assert leaf.sharding == like.sharding


def state_bytes(state):
    return sharding.bytes_per_device((state.params, state.opt_state, state.average))


def check_where(state, shardings):
    for leaf, where in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(where, leaf.ndim), (leaf.shape, leaf.sharding, where)


sharding.SMALLEST = 1
for case in sys.argv[2:]:
    main(case, thorough=sys.argv[1] == "thorough")
