r"""Synthetic long-memory tasks: which cells solve them, and up to what sequence length.

Papers: Hochreiter and Schmidhuber 1997 (adding, recall); Arjovsky, Shah and Bengio 2016, "Unitary Evolution Recurrent
Neural Networks" (arXiv:1511.06464), for the forms of adding and copy; Deletang et al. 2023, "Neural Networks and the
Chomsky Hierarchy" (arXiv:2207.02098), for the regular tasks, learned up to length 40 and tested up to 500.

    python -m experiments.long_memory --workdir=/tmp/parity
        an LSTM learns whether the number of ones is odd: two minutes on two cores
    python -m experiments.long_memory --workdir=/tmp/parity --mode=evaluate --split=test
        its accuracy on longer sequences, by length, with a picture
    python -m experiments.long_memory --workdir=/tmp/adding --config=adding --config.model.cell=gru
        adds numbers up to 600 steps apart; a loss of 1/6 means that nothing is remembered
    python -m experiments.long_memory --workdir=/tmp/cells --sweep=model.cell=tanh,lstm,gru,lru --sweep=seed=0,1,2
        several cells, the seeds of each trained at once; the same command resumes where it was stopped
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.memory_tasks import SHORTEST, TASKS, MemoryBatch, draw_batch
from seqjax.data.pipeline.generated import Generated
from seqjax.data.records import Dataset
from seqjax.diagnostics.memory import by_length, plot_by_length
from seqjax.errors import UserError
from seqjax.models.memory import KINDS, SequenceReader, make_memory_cell
from seqjax.run import Field, at_least, fields, one_of, recipe
from seqjax.training import losses, metrics

PARTS = ("train", "validation", "test")  # each drawn from keys of its own
EPOCH = 1000  # steps
BINS = 10  # of lengths, that accuracies are given for

_ASKED = "; ".join(f"{name}, {task.text}" for name, task in TASKS.items())

FIELDS = {
    **fields.seed("the examples of training"),
    "task": Field("parity", f"The task: {_ASKED}.", one_of(*TASKS)),
    "data.length": Field(40, "Steps of the longest training sequence; for copy, the blanks plus 20.", at_least(1)),
    "data.test_length": Field(500, "Steps of the longest test sequence, if lengths vary.", at_least(1)),
    "data.validation_examples": Field(1024, "Number of validation sequences.", at_least(1)),
    "data.test_examples": Field(2048, "Number of test sequences.", at_least(1)),
    **fields.batches("sequences", 128, 256),
    "model.cell": Field("lstm", "Recurrent cell and how it is initialised to remember.", one_of(*KINDS)),
    "model.options": Field("", "More arguments for the cell, such as dt=0.06,gamma=66."),
    "model.hidden_size": Field(64, "Hidden units per layer, H.", at_least(1)),
    "model.num_layers": Field(1, "Layers.", at_least(1)),
    "model.window": Field(0, "Steps of truncated backpropagation, in blocks; 0: all steps.", at_least(0)),
    "model.remat_every": Field(
        0, "Gradient checkpointing: keep every n-th carry and recompute the rest; 0 keeps all.", at_least(0)
    ),
    **fields.dtype(),
    **recipe.RECURRENT_FIELDS,
}

_FIXED = {"data.batch_size": 64, "data.eval_batch_size": 128, "train.eval_every": 250, "train.checkpoint_every": 250}
_REGULAR = {
    "optimizer.name": "muon",
    "optimizer.learning_rate": 3e-3,
    "schedule.warmup_steps": 100,
    "train.steps": 3000,
    "train.eval_every": 250,
}

PRESETS = {
    "parity": _REGULAR,
    "even_pairs": _REGULAR | {"task": "even_pairs"},
    "cycle_navigation": _REGULAR | {"task": "cycle_navigation"},
    # NOT YET RUN to its end; half as many steps gave 94 % on longer sequences.
    "modular_arithmetic": _REGULAR | {"task": "modular_arithmetic", "train.steps": 6000},
    "dyck": _REGULAR | {"task": "dyck"},
    "adding": _FIXED | {
        "task": "adding", "data.length": 600, "model.cell": "gru", "model.hidden_size": 64,
        "optimizer.learning_rate": 3e-3, "train.steps": 5000, "schedule.warmup_steps": 100,
    },
    # The poles stay: Adam changes a phase by a hundredth in a few steps, and that is ten radians after a thousand.
    "copy": _FIXED | {
        "task": "copy", "data.length": 1020, "data.batch_size": 32, "model.cell": "lru", "model.hidden_size": 128,
        "model.options": "r_min=0.999,r_max=0.99999", "optimizer.frozen": "nu_log|theta_log",
        "optimizer.learning_rate": 1e-2, "train.steps": 800, "train.eval_every": 200, "schedule.warmup_steps": 100,
    },
    # With a forget bias of 1 the LSTM learns nothing at half this length.
    "recall": _FIXED | {
        "task": "recall", "data.length": 200, "model.cell": "lstm_chrono", "train.steps": 1000,
        "optimizer.learning_rate": 3e-3,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the task."""

    task: str
    longest: int  # steps in training


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the examples, which is drawn whenever it is read."""

    name: str
    task: str
    shortest: int
    longest: int
    size: int  # sequences of one pass

    def __len__(self) -> int:
        return self.size

    def fingerprint(self) -> str:
        """A hash of what determines the examples; the number of sequences does not affect training."""
        return f"{self.task}, {self.name}, {self.shortest} to {self.longest} steps, version 1"

    def draw(self, keys: jax.Array) -> MemoryBatch:
        """Sequences, one for each key; the parts have different ones."""
        keys = jax.vmap(lambda key: jax.random.fold_in(key, PARTS.index(self.name)))(keys)
        return draw_batch(self.task, keys, self.shortest, self.longest, self.longest)


def check(config: ConfigDict) -> None:
    """Refuses lengths that a task cannot have."""
    least, longest = SHORTEST.get(config.task, 1), config.data.length
    if longest < least:
        raise UserError(f"config.data.length={longest} is too short for {config.task}: it must be at least {least}")
    if TASKS[config.task].regular and config.data.test_length <= longest:
        raise UserError(f"config.data.test_length={config.data.test_length} must be above config.data.length={longest}")


def load(config: ConfigDict) -> Dataset:
    """The parts of a task. Where lengths vary, the test has the lengths that training does not have."""
    task, d = config.task, config.data
    least, most = SHORTEST.get(task, 1), d.test_length if TASKS[task].regular else d.length
    learned = (least if TASKS[task].regular else d.length, d.length)
    tested = (d.length + 1, most) if TASKS[task].regular else learned
    sizes = {"train": EPOCH * d.batch_size, "validation": d.validation_examples, "test": d.test_examples}
    parts = {name: Part(name, task, *(tested if name == "test" else learned), size) for name, size in sizes.items()}
    return Dataset(task, parts, "sequences", notes=(f"{task}: {TASKS[task].text}",))


def prepare(config: ConfigDict, dataset: Dataset) -> Spec:
    """The task and its training length."""
    return Spec(config.task, config.data.length)


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """A stack of cells whose outputs are read at every step."""
    m, task, dtype = config.model, TASKS[spec.task], run.compute_dtype(config)
    cell = make_memory_cell(m.cell, m.hidden_size, m.num_layers, spec.longest, options=m.options, dtype=dtype)
    model = SequenceReader(cell, task.classes or 1, m.window, m.remat_every or None, dtype)

    def loss(params, model_state, carry, batch, rng):
        answers = model.apply({"params": params}, batch.inputs, batch.lengths, train=rng is not None)
        if not task.classes:
            errors = jnp.where(batch.asked, answers[..., 0] - batch.targets, 0)
            return carry, model_state, losses.Sums(jnp.sum(errors**2), jnp.sum(batch.asked, dtype=jnp.float32))
        sums = losses.token_cross_entropy(answers, batch.targets, batch.asked)
        return carry, model_state, sums._replace(counts={"correct": jnp.sum(_right(answers, batch), dtype=jnp.float32)})

    return run.Model(
        module=model,
        init=lambda key: model.init(key, np.zeros((1, 1, task.features), np.float32), np.ones(1, np.int32)),
        loss=loss,
        metric=metrics.accuracy() if task.classes else metrics.token_loss(),
        tools=jax.jit(lambda params, batch: model.apply({"params": params}, batch.inputs, batch.lengths)),
    )


def _right(answers: jax.Array, batch: MemoryBatch) -> jax.Array:
    """Which of the requested answers are correct, (B, T)."""
    return batch.asked & (jnp.argmax(answers, axis=-1) == batch.targets) & jnp.isfinite(answers).all(axis=-1)


def batches(config: ConfigDict, spec: Spec, part: Part, training: bool) -> Any:
    """Endless sequences in training, else the same ones in every pass."""
    d = config.data
    if training:
        return Generated(part.draw, d.batch_size, EPOCH, seed=config.seed)
    drawn = Generated(part.draw, d.eval_batch_size, -(-part.size // d.eval_batch_size), seed=0)
    return run.passes(lambda index=0, count=1: _pass(drawn, part.size, d.eval_batch_size, index, count))


def _pass(drawn: Generated, size: int, batch: int, index: int, count: int) -> Iterator[MemoryBatch]:
    """All sequences of a part; rows that pad the last batch do not count."""
    rows = batch // count
    for number, found in enumerate(drawn.first(-(-size // batch), index=index, count=count)):
        real = number * batch + index * rows + np.arange(rows) < size
        yield found._replace(asked=found.asked & real[:, None], lengths=jnp.where(real, found.lengths, 0))


def baselines(config: ConfigDict, dataset: Dataset, split: str) -> dict[str, dict[str, float]]:
    """The best answer without memory."""
    task = TASKS[config.task]
    return {"without memory": {"loss": task.guess(config.data.length)}}


def evaluate(trained: run.Trained, dataset: Dataset, split: str, options: run.Options) -> run.Report:
    """The loss compared with a guess, and accuracy by length."""
    part, task = dataset.parts[split], TASKS[trained.spec.task]
    scores = {"model": run.measure(EXPERIMENT, trained, part)} | baselines(trained.config, dataset, split)
    if not task.classes:
        return run.Report(scores)
    columns = []
    for batch in batches(trained.config, trained.spec, part, training=False):
        answers = trained.model.tools(trained.params, batch)
        nats = jax.vmap(losses.token_cross_entropy)(answers[:, None], batch.targets[:, None], batch.asked[:, None]).loss
        right, asked = (jnp.sum(a, axis=1) for a in (_right(answers, batch), batch.asked))
        columns.append([np.asarray(a) for a in (batch.lengths, nats, right, asked)])
    bins = by_length(*(np.concatenate(column) for column in zip(*columns)), BINS if task.regular else 1)
    for one in bins if task.regular else ():
        scores[f"{one.shortest} to {one.longest} steps"] = {"loss": one.loss, "accuracy": one.accuracy}
    return run.Report(scores, answers=bins)


def pictures(trained: run.Trained, dataset: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots accuracy by length."""
    if report.answers:
        task, m = TASKS[trained.spec.task], trained.config.model
        title = f"{trained.spec.task}, {split} part"
        how = {"learned": trained.spec.longest, "chance": 1 / task.classes, "title": title}
        yield plot_by_length(folder / f"lengths_{split}.png", {m.cell: report.answers}, **how)


EXPERIMENT = run.Experiment.of(__name__, preset="parity", records="sequences", unit="answers")

if __name__ == "__main__":
    run.main(EXPERIMENT)
