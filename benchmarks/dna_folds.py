"""How accurate is a DNA classifier under cross-validation, with the answers of all folds pooled?

    python -m benchmarks.dna_folds --workdir=/tmp/splice --config=splice --config.data.path=splice.arff.gz
        trains every fold on its training part and pools the answers on the validation parts: for choosing settings
    python -m benchmarks.dna_folds --workdir=/tmp/splice --config=splice --config.data.path=splice.arff.gz --split=test
        trains every fold on its training and validation parts and pools the answers on the test parts: once, at the end

The flags are those of `experiments.dna`; in addition, --seeds=0,1 repeats it for several seeds and averages their probabilities. A stopped
command continues with the fold it was at. The weights are those at the end of training, or the moving average if there is one. Each fold's
baselines are fitted on its training part, with their strength chosen on its validation part. Writes WORKDIR/folds_SPLIT.json and
WORKDIR/predictions_SPLIT.jsonl.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from experiments import dna
from seqjax.data.records import Dataset, Places, Records
from seqjax.errors import UserError
from seqjax.run import cli, driver, process, settings
from seqjax.run.dna import codes_of
from seqjax.run.evaluation import table
from seqjax.run.recipe import make_recipe, shown
from seqjax.training import train_step
from seqjax.training.disk import write_atomically
from seqjax.training.metrics.probabilities import classification


def joined(first: Records, second: Records) -> Records:
    """The examples of two parts, concatenated."""
    columns = {
        name: np.concatenate([first[name], second[name]]) if isinstance(first[name], np.ndarray) else first[name] + second[name]
        for name in first
    }
    return Records(columns, Places.joined([first.places, second.places]))


def load_folds(config: ConfigDict) -> list[tuple[ConfigDict, Dataset]]:
    """The data of each fold, and its settings."""
    if not config.data.folds or config.task != "classify":
        raise UserError("cross-validation needs task='classify' and data.folds of at least 2")
    configs = [ConfigDict(config.to_dict() | {"data": config.data.to_dict() | {"fold": fold}}) for fold in range(config.data.folds)]
    return [(each, dna.load(each)) for each in configs]


class Trainer:
    """Trains a model for each fold; the step is compiled once for all of them."""

    def __init__(self, config: ConfigDict, spec: Any, per_epoch: int):
        self._config = config
        self.setup = driver.set_up(dna.EXPERIMENT, config, spec, per_epoch)
        self.recipe = make_recipe(config, per_epoch)
        self._step = train_step.make_train_step(
            self.setup.model.loss, self.recipe.optimizer, self.recipe.schedule, self.setup.mesh, clip_norm=self.recipe.clip_norm,
            ema_decay=config.optimizer.ema, accumulate=self.recipe.accumulate, frozen=self.recipe.frozen,
        )  # fmt: skip

    def __call__(self, pipeline: Any) -> Any:
        """The parameters after training on the batches of a pipeline."""
        state = jax.tree.map(jnp.copy, self.setup.state)  # the step donates it
        for _ in range(self.recipe.steps):
            state, _ = self._step(state, next(pipeline))
        return shown(self._config, state)[0]


def answers(config: ConfigDict, split: str, loaded: list[tuple[ConfigDict, Dataset]], folder: pathlib.Path) -> list[np.ndarray]:
    """Class probabilities for the part of each fold; those already in the folder are not recomputed."""
    spec, key = dna.prepare(config, loaded[0][1]), json.dumps(settings.to_json(config), sort_keys=True)
    kept = folder / f"answers_{split}_{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    found = json.loads(kept.read_text()) if kept.exists() else []
    if len(found) < len(loaded):
        parts = [joined(d.parts["train"], d.parts["validation"]) if split == "test" else d.parts["train"] for _, d in loaded]
        pipelines = [dna.batches(config, spec, part, training=True) for part in parts]
        trainer = Trainer(config, spec, max(pipeline.batches_per_epoch for pipeline in pipelines))
        for fold in range(len(found), len(loaded)):
            codes = codes_of(loaded[fold][1].parts[split])
            found.append(trainer.setup.model.tools(trainer(pipelines[fold]), codes).tolist())
            write_atomically(kept, json.dumps(found))
            print(f"seed {config.seed}, fold {fold}, {process.seconds_since_start() / 60:.1f} minutes", flush=True)
    return [np.array(each) for each in found]


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--seeds", default="")
    parser.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True)
    own, rest = parser.parse_known_args()
    process.use_compilation_cache()
    command = cli.parse(dna.EXPERIMENT, [sys.argv[0], *rest])
    config = cli.config_of(dna.EXPERIMENT, command)
    settings.validate(config, dna.FIELDS)
    dna.check(config)
    command.workdir.mkdir(parents=True, exist_ok=True)
    begin, loaded = time.perf_counter(), load_folds(config)
    classes, notes = loaded[0][1].classes, [note for note in loaded[0][1].notes if "fold" not in note]
    print("\n".join(notes))
    true = np.concatenate([data.parts[own.split]["label"] for _, data in loaded])
    seeds = [int(seed) for seed in own.seeds.split(",")] if own.seeds else [config.seed]
    scores, every = {}, {}
    for seed in seeds:
        with config.unlocked():
            config.seed = seed
        every[seed] = np.concatenate(answers(config, own.split, loaded, command.workdir))
        scores[f"model, seed {seed}" if len(seeds) > 1 else "model"] = classification(every[seed], true, classes)
        print(table(scores)[-1], flush=True)
    if len(seeds) > 1:
        every["mean"] = np.mean(list(every.values()), axis=0)
        scores[f"mean of {len(seeds)} seeds"] = classification(every["mean"], true, classes)
    minutes = (time.perf_counter() - begin) / 60
    if own.baselines:
        several = [dna.others(each, data, own.split) for each, data in loaded]
        names = ["most frequent class" if name.startswith("always") else name for name in several[0]]
        for place, name in enumerate(names):
            pooled = np.concatenate([list(found.values())[place] for found in several])
            scores[name] = classification(pooled, true, classes)
    print("\n".join(table(scores)))
    save(command.workdir, own.split, config, loaded, every, scores, notes, minutes)


def save(folder: pathlib.Path, split: str, config, loaded, every, scores, notes, minutes: float) -> None:
    """Writes the metrics, and each answer with its fold."""
    folder.mkdir(parents=True, exist_ok=True)
    classes, rows = loaded[0][1].classes, []
    for fold, (_, data) in enumerate(loaded):
        part = data.parts[split]
        for sequence, label in zip(part["sequence"], part["label"]):
            shares = {seed: found[len(rows)] for seed, found in every.items()}
            rows.append(
                {
                    "fold": fold,
                    "sequence": sequence,
                    "label": classes[label],
                    "answers": {str(seed): classes[int(each.argmax())] for seed, each in shares.items()},
                }
            )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"predictions_{split}.jsonl").write_text(lines, encoding="utf-8")
    sizes = [len(data.parts[split]) for _, data in loaded]
    found = {
        "question": "answers of all folds pooled", "split": split, "folds": len(loaded), "examples": sum(sizes), "notes": notes,
        "scores": scores, "minutes": round(minutes, 2), "config": settings.to_json(config), "where": common.hardware(),
    }  # fmt: skip
    path = folder / f"folds_{split}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    cli.call(lambda argv: main())
