"""A line fitted by the loop, with data, records and checkpoints in memory; shared by the loop's tests."""

import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqjax.training import loop, metrics, train_step
from seqjax.training.checkpoints import Restored
from seqjax.training.losses import Sums

TIMINGS = ("tokens_per_second", "images_per_second", "minutes")
MESH = train_step.make_mesh(2, jax.devices()[:1])
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale_by_learning_rate(0.1))
PLAN = loop.Plan(steps=12, log_every=5, eval_every=4, checkpoint_every=3, max_skipped_in_row=3)


def regression(params, model_state, carry, batch, rng):
    """Squared errors of a line, with noise from the key and a carry that counts."""
    noise = 0.0 if rng is None else 0.1 * jax.random.normal(rng, batch["y"].shape)
    errors = batch["x"] * params["w"] + params["b"] + 0.01 * carry + noise - batch["y"]
    counts = {"positive": jnp.sum(errors > 0, dtype=jnp.float32)}
    return carry + batch["x"], model_state, Sums(jnp.sum(errors**2), jnp.float32(errors.size), counts)


STEP = train_step.make_train_step(regression, OPTIMIZER, optax.constant_schedule(0.1), MESH, clip_norm=1.0)


class Numbers:
    """Endless batches drawn from their index; those in `bad` are not finite."""

    def __init__(self, bad=()):
        self.place, self.bad, self.hooks = 0, set(bad), {}

    def __next__(self):
        self.place += 1
        self.hooks.get(self.place, lambda: None)()
        x, y = np.random.default_rng(self.place).normal(size=(2, 2)).astype(np.float32)
        return {"x": x, "y": 3 * x + 1 + y / 9 + np.float32(math.nan if self.place in self.bad else 0)}

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


class Records:
    """Takes records as the reporter does."""

    def __init__(self, kept=()):
        self.all = list(kept)

    def record(self, kind, step, values):
        self.all.append({"kind": kind, "step": step} | {k: v for k, v in values.items() if k not in TIMINGS})

    def at(self, step):
        pass

    def show(self, kind, step, values):
        pass

    def say(self, text):
        pass

    def evaluating(self, done, total):
        pass


class Memory:
    """Checkpoints kept in memory, copied as a disk would."""

    def __init__(self):
        self.saved = {}

    def save(self, step, state, meta, loss=math.inf):
        copy = jax.tree.map(lambda x: np.array(x, copy=True), state)
        self.saved.setdefault(step, (copy, json.dumps(meta), loss))

    def wait(self):
        pass

    def restore(self, make_target, *, repair=True):
        if not self.saved:
            return None
        step = max(self.saved)
        state, meta, _ = self.saved[step]
        target = make_target(json.loads(meta))
        placed = jax.tree.map(lambda value, like: jax.device_put(value, like.sharding), state, target)
        return Restored(step, placed, json.loads(meta))


def fresh():
    params = {"w": jnp.float32(0.5), "b": jnp.float32(-0.25)}
    return train_step.init_state(params, (), OPTIMIZER, jnp.array([0.5, -1.0]), jax.random.key(3), MESH)


def make_task(step=STEP, evaluate=None, sample=None, **more):
    def validate(state):
        return abs(float(state.params["w"]) - 3) + 0.01 * int(state.step)

    derived = {"double": lambda loss: 2 * loss, "other": lambda loss: -loss}

    def reported(state, progress):
        loss = (evaluate or validate)(state)
        progress(1, 1)
        return {"loss": loss} | {name: function(loss) for name, function in derived.items()}

    return loop.Task(step, lambda batch: batch, reported, metrics.token_loss(**derived), sample, **more)


def fit(plan=PLAN, data=None, store=None, records=None, task=None):
    """Starts or resumes, as an experiment does."""
    data, store, records = data or Numbers(), store or Memory(), records or Records()
    state, progress, first = loop.restore(store, fresh(), data, lambda meta: None) or (fresh(), loop.Progress(), 0)
    records.all = [record for record in records.all if record["step"] <= first]
    outcome = loop.fit(task or make_task(), plan, state, data, progress=progress, reporter=records, checkpoints=store, meta={"a": 1})
    return outcome, records, store


def arrays(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def stopped_at(step, number=signal.SIGINT):
    """Data that sends this process a signal while the batch of a step is made."""
    data = Numbers()
    data.hooks[step] = lambda: os.kill(os.getpid(), number)
    return data
