"""An experiment that trains in a moment, and the command line of it in this process.

A number for each letter is learned: a row of a table times a kernel. Where model.noise is not 0, training depends on the key.
"""

import json
import pathlib
import signal
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.run import cli, command, curves, fields, process, recipe
from seqjax.run.experiment import Experiment, Model
from seqjax.run.settings import Field, at_least
from seqjax.training.checkpoints.reader import Reader
from seqjax.training.losses import Sums

FIELDS = {
    **fields.seed("the letters"),
    **fields.batches("letters", 4, 4),
    "data.letters": Field(4, "How many letters there are.", at_least(1)),
    "model.width": Field(3, "Columns of the table.", at_least(1)),
    "model.noise": Field(0.1, "Noise on what is learned.", at_least(0)),
    **recipe.FIELDS,
}
EVERY = {"train.log_every": 1, "train.eval_every": 2, "train.checkpoint_every": 100}
PRESETS = {"short": EVERY | {"train.steps": 6, "optimizer.learning_rate": 0.1}}
BATCHES = 5  # of an epoch


class Spec(NamedTuple):
    letters: int


class Letters(NamedTuple):
    name: str
    parts: dict[str, range]
    fingerprint: str
    notes: tuple[str, ...] = ()
    made_from: dict[str, str] = {}


class Pipeline:
    """Batches by their number; `signals` are sent to this process when it asks for the batch of that number."""

    batches_per_epoch = BATCHES
    signals: dict[int, int] = {}

    def __init__(self, config: Any):
        self._config, self._number = config, 0

    def __next__(self) -> Any:
        if self._number in self.signals:
            signal.raise_signal(self.signals.pop(self._number))
        batch = letters(self._config, self._number)
        self._number += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"number": self._number}

    def set_state(self, state: dict[str, Any]) -> None:
        self._number = state["number"]


def letters(config: Any, number: int) -> Any:
    return np.random.default_rng([config.seed, number]).integers(0, config.data.letters, config.data.batch_size).astype(np.int32)


def load(config: Any) -> Letters:
    return Letters("letters", {"train": range(20), "validation": range(8)}, f"{config.data.letters} letters")


def build(config: Any, spec: Spec) -> Model:
    def init(key):
        table, kernel = jax.random.split(key)
        width = config.model.width
        return {"params": {"table": jax.random.normal(table, (spec.letters, width)), "kernel": jax.random.normal(kernel, (width,))}}

    def loss(params, model_state, carry, batch, rng):
        found = params["table"][batch] @ params["kernel"]
        noise = 0.0 if rng is None else config.model.noise * jax.random.normal(rng, found.shape)
        return carry, model_state, Sums(jnp.sum((found + noise - jnp.sin(batch)) ** 2), jnp.float32(batch.size))

    return Model(None, init, loss)


def batches(config: Any, spec: Spec, records: range, training: bool) -> Any:
    return Pipeline(config) if training else [letters(config, 1000 + number) for number in range(2)]


EXPERIMENT = Experiment(
    "tiny", "Learns letters.", FIELDS, PRESETS, "short", load=load, prepare=lambda config, data: Spec(config.data.letters),
    spec=Spec, build=build, batches=batches, unit="letters",
)  # fmt: skip


def leave_the_process(patch: Any) -> None:
    """A command changes nothing in its process, and draws no curves, which take longer than all else."""
    patch.setattr(process, "keep_freed_memory", lambda: True)
    patch.setattr(process, "use_compilation_cache", lambda: None)
    patch.setattr(curves, "plot_curves", lambda folder, records, **_: folder / "curves.png")


def run(workdir: pathlib.Path, *flags: str, stop: int | None = None, experiment: Experiment = EXPERIMENT, **changes: Any) -> int:
    """The exit status of a command; with `stop`, Ctrl-C comes while that step is under way. __ stands for the dot."""
    Pipeline.signals = {} if stop is None else {stop - 1: signal.SIGINT}
    given = [f"--config.{name.replace('__', '.')}={value}" for name, value in changes.items()]
    status = command.run(experiment, cli.parse(experiment, ["tiny", f"--workdir={workdir}", *flags, *given]))
    assert status == (0 if stop is None else 130)
    return status


def state(workdir: pathlib.Path, step: int | None = None) -> dict[tuple[str, ...], bytes]:
    """The arrays of a checkpoint, the newest by default."""
    reader = Reader(workdir, {})
    return {path: leaf.tobytes() for path, leaf in reader.leaves(step or reader.steps()[-1])[1].items()}


def meta(workdir: pathlib.Path) -> dict[str, Any]:
    """What the newest checkpoint says beside its state, without the time."""
    reader = Reader(workdir, {})
    found = reader.peek(reader.steps()[-1]).meta
    found["progress"].pop("seconds")
    return found


def records(workdir: pathlib.Path, kind: str = "train") -> list[dict[str, Any]]:
    """The records of a kind, without what time decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    timings = ("minutes", "letters_per_second")
    return [{n: v for n, v in line.items() if n not in timings} for line in lines if line["kind"] == kind]
