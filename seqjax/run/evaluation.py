"""Output of an evaluation: metrics with baselines, predictions, pictures."""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

from jax.sharding import NamedSharding

from seqjax.data.report import part_title, report, size
from seqjax.errors import UserError
from seqjax.run import cli
from seqjax.run.experiment import Dataset, Experiment, Model, Report, Trained
from seqjax.run.recipe import data_mesh
from seqjax.run.settings import ConfigDict
from seqjax.run.workdir import write_json_lines
from seqjax.training import processes, train_step
from seqjax.training.disk import write_atomically

SHARES = (  # shown as percentages
    "accuracy", "accuracy_on_unseen", "error", "exact", "frame_accuracy", "precision", "recall", "f1", "token_accuracy",
    "meaning", "meaning_seen", "meaning_unseen", "wer", "cer",
)  # fmt: skip
POINTS = ("bleu", "bleu1", "bleu2", "bleu3", "bleu4", "chrf")  # 0 to 100
NAMES = {
    "bleu": "BLEU", **{f"bleu{n}": f"BLEU-{n}" for n in range(1, 5)}, "cer": "CER", "chrf": "chrF", "cider": "CIDEr-D", "f1": "F1",
    "wer": "WER",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The metrics of a part of the data, by teacher forcing: the same in training and after."""

    experiment: Experiment
    records: Any
    batches: Any
    sums: Callable[..., Any]
    batch_size: int
    mesh: Any

    @classmethod
    def make(cls, experiment: Experiment, config: ConfigDict, spec: Any, model: Model, records: Any) -> "Evaluator":
        """Prepares the batches of a part and compiles nothing yet."""
        size = config.data.eval_batch_size
        mesh = data_mesh(config)
        batches = processes.own_share(experiment.batches(config, spec, records, training=False))
        return cls(experiment, records, batches, train_step.make_evaluate(model.loss, mesh), size, mesh)

    def __call__(self, trained: Trained, progress: Callable[..., None] | None = None) -> dict[str, float]:
        """The metrics, the loss first."""
        carry = trained.model.initial_carry(trained.params, self.batch_size)
        everywhere = NamedSharding(self.mesh, train_step.EVERYWHERE)
        params, model_state = trained.params, trained.model_state
        if processes.several():
            params, model_state = processes.place((params, model_state), everywhere)
        sums = self.sums(params, model_state, carry, self.batches, progress)
        return trained.model.metric.compute(sums)


def run(experiment: Experiment, command: cli.Command, trained: Trained, dataset: Dataset) -> None:
    """Evaluates a part of the data: prints the table, writes predictions, metrics and pictures into the work directory."""
    split, folder = command.options.split, command.workdir
    if split not in dataset.parts:
        raise UserError(f"{dataset.name} has no {split} part; it has {', '.join(dataset.parts)}")
    records, begin = dataset.parts[split], time.perf_counter()
    print(f"{split} part of {part_title(dataset.name, getattr(dataset, 'files', {}), split)}: {size(records):,}")
    for found in report(dataset, split):
        print(f"  {found}")
    result = (experiment.evaluate or plain(experiment))(trained, dataset, split, command.options)
    seconds = time.perf_counter() - begin
    for row in table(result.scores):
        print(row)
    for note in result.notes:
        print(note)
    print(f"evaluated in {seconds:.1f} s")
    if not processes.first():
        return
    rows = list(result.rows)
    if rows:
        print(write_json_lines(folder / f"predictions_{split}.jsonl", rows))
    found = {"step": trained.step, "split": split, "data": dataset.name, "scores": result.scores}
    path = folder / f"evaluation_{split}.json"
    write_atomically(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    print(path)
    for picture in experiment.pictures(trained, dataset, split, result, folder) if experiment.pictures else ():
        print(picture)


def plain(experiment: Experiment) -> Any:
    """The default evaluation: the model's metric, and the baselines."""

    def evaluate(trained: Trained, dataset: Dataset, split: str, options: Any) -> Report:
        del options
        records = dataset.parts[split]
        scores = {"model": metrics(experiment, trained, records)}
        if experiment.baselines is not None:
            scores |= experiment.baselines(trained.config, dataset, split)
        return Report(scores)

    return evaluate


def metrics(experiment: Experiment, trained: Trained, records: Any) -> dict[str, float]:
    """The model's metric over records, the loss first."""
    return Evaluator.make(experiment, trained.config, trained.spec, trained.model, records)(trained)


def table(scores: dict[str, dict[str, Any]]) -> list[str]:
    """A line for the model and each baseline.

    Example:
      >>> table({"model": {"loss": 0.5, "accuracy": (0.9, 0.85, 0.93)}, "majority": {"accuracy": 0.25}})
      ['model     loss 0.5000  accuracy 90.00% (85.00% to 93.00%)', 'majority  accuracy 25.00%']
    """
    width = max(map(len, scores))
    return [f"{name:<{width}}  {line(found)}" for name, found in scores.items()]


def line(found: dict[str, Any]) -> str:
    """Metrics as readable text.

    Example:
      >>> line({"loss": 1.26351, "bits_per_character": 1.8228, "bleu": 36.158})
      'loss 1.2635  bits per character 1.823  BLEU 36.16'
    """
    return "  ".join(f"{shown_name(name)} {shown_value(name, value)}" for name, value in found.items())


def shown_name(name: str) -> str:
    """A metric's display name.

    Example:
      >>> shown_name("bits_per_character"), shown_name("bleu")
      ('bits per character', 'BLEU')
    """
    return NAMES.get(name, name.replace("_", " "))


def shown_value(name: str, value: Any) -> str:
    """A metric's value as readable text; (value, low, high) with its interval.

    Example:
      >>> shown_value("accuracy", (0.9, 0.85, 0.93)), shown_value("loss", 0.5)
      ('90.00% (85.00% to 93.00%)', '0.5000')
    """
    if isinstance(value, (tuple, list)):
        middle, low, high = (shown_value(name, v) for v in value)
        return f"{middle} ({low} to {high})"
    if value is None or isinstance(value, str):
        return str(value)
    if name in SHARES or name.endswith("_accuracy"):  # such as that of one question of several
        return f"{value:.2%}"
    if name in POINTS:
        return f"{value:.2f}"
    if name == "loss":
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
