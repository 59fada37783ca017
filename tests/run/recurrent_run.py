"""A recurrent experiment that trains in a moment, beside the letters: sequences of numbers through two layers.

Where data.fault names a kind of trouble, the batches of steps 4 and 5 have it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import letters_run as letters
import numpy as np

import seqjax
from seqjax.run import recipe
from seqjax.run.experiment import Model
from seqjax.run.settings import Field, one_of
from seqjax.training.losses import Sums

FIELDS = (
    letters.FIELDS
    | recipe.RECURRENT_FIELDS
    | {
        "data.fault": Field("", "What is wrong with the batches of steps 4 and 5.", one_of("", "inputs", "gradient", "loss")),
        "model.recurrent": Field(True, "Run a recurrent network."),
    }
)
B, T, H = 4, 6, 5


def batch_of(config: Any, number: int) -> Any:
    rng = np.random.default_rng([config.seed, number])
    xs, scale = rng.normal(size=(B, T, 2)).astype(np.float32), np.ones(B, np.float32)
    if number in (3, 4) and config.data.fault == "inputs":
        xs[2, 4] = np.inf
    if number in (3, 4) and config.data.fault == "gradient":
        xs[1, :3] = 0  # the square root of what is cut out there has no derivative
    if number in (3, 4) and config.data.fault == "loss":
        scale[3] = np.nan
    return {"xs": xs, "scale": scale}


class Pipeline(letters.Pipeline):
    def __next__(self) -> Any:
        super().__next__()
        return batch_of(self._config, self._number - 1)


def build(config: Any, spec: letters.Spec) -> Model:
    cell = seqjax.stack(seqjax.rnn(H), seqjax.dropout(seqjax.rnn(H), 0.1))

    def init(key):
        one, two = jax.random.split(key)
        return {"params": {"rnn": cell.init(one, 2), "head": {"kernel": jax.random.normal(two, (H,))}}}

    def loss(params, model_state, carry, batch, rng):
        if not config.model.recurrent:
            return carry, model_state, Sums(jnp.sum(params["head"]["kernel"] ** 2), jnp.float32(1.0))
        carry, ys = seqjax.unroll(cell, params["rnn"], batch["xs"], carry, rng=rng)
        there = jnp.any(batch["xs"] != 0, axis=-1, keepdims=True)
        wrong = jnp.sqrt(((ys * there) ** 2).sum(axis=-1)) if config.data.fault == "gradient" else ys @ params["head"]["kernel"]
        return carry, model_state, Sums(jnp.sum(batch["scale"][:, None] * (wrong - 1) ** 2), jnp.float32(wrong.size))

    def initial_carry(params, batch_size):
        return cell.initial_carry(params["rnn"], batch_size)

    return Model(None, init, loss, initial_carry=initial_carry)


def batches(config: Any, spec: letters.Spec, records: range, training: bool) -> Any:
    return Pipeline(config) if training else [batch_of(config, 1)]


EXPERIMENT = letters.EXPERIMENT._replace(fields=FIELDS, build=build, batches=batches)


def run(workdir: Any, *flags: str, **changes: Any) -> int:
    return letters.run(workdir, *flags, experiment=EXPERIMENT, **changes)
