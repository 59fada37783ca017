"""Whether the numbers of a sequence sum to more than zero, learned by a GRU: an experiment outside the project."""

import hashlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqjax import run
from seqjax.nn import Recurrent
from seqjax.run import Field, at_least, fields, recipe
from seqjax.training import losses, metrics

FIELDS = {
    **fields.seed("the order of the sequences and the dropout"),
    **fields.batches("sequences", 8, 16),
    "data.number": Field(96, "Sequences of the training part.", at_least(8)),
    "model.hidden_size": Field(8, "Hidden units, H.", at_least(1)),
    **recipe.FIELDS,
}
PRESETS = {
    "short": {"train.steps": 24, "train.log_every": 6, "train.eval_every": 12, "train.checkpoint_every": 6},
    "longer": {"train.epochs": 10.0},
}


class Spec(NamedTuple):
    steps: int


class Numbers(NamedTuple):
    name: str
    parts: dict[str, np.ndarray]  # (N, T, 1)
    fingerprint: str
    notes: tuple[str, ...] = ()
    made_from: dict[str, str] = {}


class Network(nn.Module):
    hidden_size: int

    @nn.compact
    def __call__(self, xs, *, train=False):
        _, outputs = Recurrent(self.hidden_size, cell="gru")(xs)
        return nn.Dense(2)(nn.Dropout(0.2, deterministic=not train)(outputs[:, -1]))


def load(config) -> Numbers:
    draw, sizes = np.random.default_rng(0), {"train": config.data.number, "validation": 32}
    parts = {part: draw.normal(size=(size, 5, 1)).astype(np.float32) for part, size in sizes.items()}
    digest = hashlib.sha256(b"".join(array.tobytes() for array in parts.values()))
    return Numbers("drawn numbers", parts, digest.hexdigest())


def prepare(config, data: Numbers) -> Spec:
    return Spec(steps=data.parts["train"].shape[1])


def build(config, spec: Spec) -> run.Model:
    network = Network(config.model.hidden_size)

    def loss(params, model_state, carry, batch, rng):
        noise = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        logits, xs, mask = network.apply({"params": params}, batch["xs"], **noise), batch["xs"], batch["mask"]
        labels = (xs.sum((1, 2)) > 0).astype(jnp.int32)
        right = jnp.sum((logits.argmax(-1) == labels) & mask, dtype=jnp.float32)
        nats = losses.label_cross_entropy(logits, nn.one_hot(labels, 2), mask)
        return carry, model_state, losses.Sums(nats, jnp.sum(mask, dtype=jnp.float32), {"correct": right})

    return run.Model(network, lambda key: network.init(key, np.zeros((1, spec.steps, 1))), loss, metrics.accuracy())


def batches(config, spec: Spec, part: np.ndarray, training: bool) -> Any:
    def collate(places, rows, steps):
        xs, mask = np.zeros((rows, steps, 1), np.float32), np.arange(rows) < len(places)
        xs[: len(places)] = part[places]
        return {"xs": xs, "mask": mask}

    return run.bucketed(config, [spec.steps] * len(part), collate, [spec.steps], training)


def predict(trained: run.Trained, options: run.Options) -> None:
    xs = np.array([float(word) for word in options.numbers.split()], np.float32).reshape(1, -1, 1)
    answer = trained.model.module.apply(trained.variables, xs)[0].argmax()
    print("more than zero" if answer else "less than zero")


EXPERIMENT = run.Experiment.of(
    __name__,
    preset="short",
    records="sequences",
    unit="sequences",
    modes={"predict": predict},
    flags={"numbers": run.Flag("1 2", "numbers with spaces between.", ("predict",))},
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
