r"""Text classification, many to one: train, resume exactly, compare with a bag of words, see what counts, predict.

Papers: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Yang et al. 2016, "Hierarchical Attention Networks for
Document Classification", for the attention pooling.

    python -m experiments.text_classification --workdir=/tmp/docstrings
        learns which part of Python's library a docstring is from: about a minute on two cores
    python -m experiments.text_classification --workdir=/tmp/docstrings --mode=evaluate --split=test
        accuracy beside a bag of words; confusion_test.png, words_test.png, predictions_test.jsonl in the work folder
    echo "Open a socket and return it." | python -m experiments.text_classification --workdir=/tmp/docstrings --mode=predict
    python -m experiments.text_classification --workdir=/tmp/imdb --config=experiments/configs/text_classification.py:imdb
    python -m experiments.text_classification --workdir=/tmp/names --config=experiments/configs/text_classification.py:names \
        --config.data.path=FOLDER

Modes: train (starts or goes on by itself; Ctrl-C stops it with a checkpoint), evaluate, predict. All but train read the config
from the work folder. Presets: --config=experiments/configs/text_classification.py:NAME.
"""

import time

_BEGIN = time.perf_counter()

import collections
import functools
import itertools
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.configs.text_classification import FIELDS, PRESETS
from seqjax.data.buckets import BucketBatches, choose_boundaries, one_pass
from seqjax.data.collate import collate_texts
from seqjax.data.labelled import LabelledSet, LabelledTexts, load_labelled
from seqjax.data.tables import read_inputs
from seqjax.diagnostics import pictures, sequences
from seqjax.errors import UserError
from seqjax.models import make_stack
from seqjax.models.classifier import TextClassifier
from seqjax.run import baselines, command, process, reporting, session, settings, workdir
from seqjax.run.recipe import (
    Recipe,
    averaged_params,
    data_mesh,
    devices_line,
    make_plan,
    make_recipe,
    shown_params,
)
from seqjax.run.trained import WHICH, read_model
from seqjax.text import apply_vectors, fit_tokenizer, starting_vectors, tokenizer_from_dict
from seqjax.training import loop, losses, metrics, train_step

__doc__ += "\nConfig fields, as docstrings sets them:\n\n" + settings.describe(FIELDS, PRESETS["docstrings"]) + "\n"

CONFIG = command.define_config(pathlib.Path(__file__).parent / "configs" / "text_classification.py", "docstrings", FIELDS)
flags.adopt_module_key_flags(command)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "predict"], "What to do.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures.", required=True)
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", WHICH, "evaluate, predict: which checkpoint to read, or the mean of the newest.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "evaluate: on which part of the data.")
INPUT = flags.DEFINE_string("input", "-", "predict: a file of texts, a line each (or .jsonl with a field text); - is standard input.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "jsonl"], "predict: for people, or a line of JSON for each text.")
TOP = flags.DEFINE_integer("top", 1, "predict: how many classes to show for each text.", 1)


def main() -> int:
    """Does what --mode says."""
    process.keep_freed_memory()
    process.use_compilation_cache()
    reading = {"checkpoint": ("evaluate", "predict"), "split": "evaluate"}
    command.refuse_idle_flags(MODE.value, reading | dict.fromkeys(("input", "format", "top"), "predict"))
    folder = pathlib.Path(WORKDIR.value).expanduser()
    if MODE.value == "train":
        return train(folder, CONFIG.value)
    config = command.stored_config(folder, FIELDS)
    {"evaluate": evaluate, "predict": predict}[MODE.value](folder, config)
    return 0


# Data and model.


class Facts(NamedTuple):
    """What the model must know of the data; kept in every checkpoint, JSON-able."""

    fingerprint: str
    classes: list[str]
    tokenizer: dict[str, Any]
    boundaries: list[int]  # the buckets' lengths


def load_data(config: ConfigDict) -> LabelledSet:
    """Reads the texts that a config names."""
    d = config.data
    fields = {} if d.source == "embedded" else {"text_field": d.text_field, "label_field": d.label_field}
    return load_labelled(
        d.source, name=d.name if d.source != "file" else "", path=d.path, validation_path=d.validation_path, test_path=d.test_path,
        data_dir=d.data_dir, validation_fraction=d.validation_fraction, test_fraction=d.test_fraction,
        strip_html=d.strip_html, seed=d.seed, **fields,
    )  # fmt: skip


def encode(config: ConfigDict, tokenizer: Any, texts: tuple[str, ...] | list[str]) -> list[np.ndarray]:
    """Texts as token ids, cut as the config says."""
    limit = config.data.max_length or None
    cut = slice(limit) if config.data.keep == "start" or not limit else slice(-limit, None)
    return [tokenizer.encode(text)[cut] for text in texts]


def make_model(config: ConfigDict, vocab_size: int, num_classes: int) -> TextClassifier:
    """The model that a config describes."""
    m = config.model
    dtype = None if m.dtype == "float32" else jnp.dtype(m.dtype)
    cell = make_stack(
        m.cell, m.hidden_size, m.num_layers, dropout=m.dropout, input_dropout=m.embed_dropout,
        recurrent_dropout=m.recurrent_dropout, bidirectional=m.bidirectional, dtype=dtype,
    )  # fmt: skip
    return TextClassifier(
        vocab_size, num_classes, cell, m.embed_size, m.pooling, m.bidirectional, m.dropout, m.word_dropout, dtype
    )


def make_loss(model: TextClassifier, config: ConfigDict) -> train_step.LossFn:
    """Cross-entropy of the classes; nothing is carried from batch to batch."""
    smoothing = config.loss.label_smoothing

    def loss_fn(params, carry, batch, rng):
        noise = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        logits = model.apply({"params": params}, batch.tokens, batch.lengths, **noise).logits
        targets = jax.nn.one_hot(batch.labels, model.num_classes)
        targets = losses.smooth_labels(targets, smoothing) if noise else targets
        loss = losses.label_cross_entropy(logits, targets, batch.mask)
        correct = (jnp.argmax(logits, axis=-1) == batch.labels) & batch.mask
        counts = {"correct": jnp.sum(correct, dtype=jnp.float32)}
        return carry, losses.Sums(loss, jnp.sum(batch.mask, dtype=jnp.float32), counts)

    return loss_fn


def figures(means: dict[str, float]) -> dict[str, float]:
    """What is reported: the loss in nats, the share of wrong answers and of right ones."""
    correct = means.get("correct", math.nan)  # nothing was counted where every step of an interval was skipped
    return {"loss": means["loss"], "error": 1 - correct, "accuracy": correct}


class Setup(NamedTuple):
    """Model, optimiser and first state."""

    tokenizer: Any
    model: TextClassifier
    loss_fn: train_step.LossFn
    recipe: Recipe
    mesh: Any
    state: train_step.TrainState


def set_up(config: ConfigDict, facts: Facts, batches_per_epoch: int | None, vectors: Any = None) -> Setup:
    """Builds everything that training changes, from the seed; without an epoch's length, for reading a model only."""
    recipe, mesh = make_recipe(config, batches_per_epoch), data_mesh(config)
    tokenizer = tokenizer_from_dict(facts.tokenizer)
    model = make_model(config, tokenizer.vocab_size, len(facts.classes))
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    params = jax.jit(model.init)(init_key, np.ones((1, 1), np.int32))["params"]
    if vectors is not None:
        params["embed"]["embedding"] = apply_vectors(params["embed"]["embedding"], vectors)
    state = train_step.init_state(params, recipe.optimizer, (), run_key, mesh, averaged=averaged_params(config))
    return Setup(tokenizer, model, make_loss(model, config), recipe, mesh, state)


def lengths_of(tokens: list[np.ndarray]) -> np.ndarray:
    """The number of tokens of each text."""
    return np.array([len(text) for text in tokens])


def evaluator(config: ConfigDict, setup: Setup, part: LabelledTexts, boundaries: list[int]):
    """params -> means over all texts of a part."""
    batch = config.data.eval_batch_size
    run = train_step.make_evaluate(setup.loss_fn, train_step.make_mesh(batch, list(setup.mesh.devices.flat)))
    tokens = encode(config, setup.tokenizer, part.texts)
    lengths, collate = lengths_of(tokens), collate_texts(tokens, part.labels)
    return lambda params: run(params, (), (made for _, made in one_pass(lengths, collate, batch, boundaries)))


def make_task(config: ConfigDict, setup: Setup, data: LabelledSet, facts: Facts) -> loop.Task:
    """What the training loop needs to know."""
    where, recipe = train_step.batch_sharding(setup.mesh), setup.recipe
    step = train_step.make_train_step(
        setup.loss_fn, recipe.optimizer, recipe.schedule, setup.mesh, clip_norm=recipe.clip_norm,
        averaged=averaged_params(config), ema_decay=config.optimizer.ema,
    )  # fmt: skip
    validate = evaluator(config, setup, data.parts["validation"], facts.boundaries)
    return loop.Task(
        step=step,
        place_batch=lambda batch: jax.device_put(batch, where),
        evaluate=lambda state: validate(shown_params(config, state)),
        figures=figures,
        criterion=config.criterion,
        unit="texts",
    )


# Modes.


def train(folder: pathlib.Path, config: ConfigDict) -> int:
    """Starts the run of a work folder, or goes on with it."""
    reporting.require_extras()
    settings.validate(config, FIELDS)
    settings.make_absolute(config, "data.path", "data.validation_path", "data.test_path", "model.vectors")
    if config.data.keep != "start" and not config.data.max_length:
        raise UserError(f"config.data.keep={config.data.keep!r} has no effect with data.max_length=0; leave it at 'start'")
    workdir.refuse_another_config(folder, settings.to_json(config), FIELDS)
    data = load_data(config)
    texts = data.parts["train"].texts
    t = config.tokenizer
    tokenizer = fit_tokenizer(
        t.kind, texts, vocab_size=t.vocab_size, min_count=t.min_count, max_size=t.max_size, lower=t.lower
    )
    counts = collections.Counter(itertools.chain.from_iterable(tokenizer.tokenize(text) for text in texts))
    vectors = starting_vectors(config.model.vectors, tokenizer.vocabulary, counts, config.model.embed_size)
    tokens = encode(config, tokenizer, texts)
    boundaries = choose_boundaries(lengths_of(tokens), config.data.buckets)
    facts = Facts(data.fingerprint, list(data.classes), tokenizer.to_dict(), list(boundaries))
    collate = collate_texts(tokens, data.parts["train"].labels)
    batches = BucketBatches(lengths_of(tokens), collate, config.data.batch_size, boundaries, seed=config.seed)
    setup = set_up(config, facts, batches.batches_per_epoch, vectors)
    task = make_task(config, setup, data, facts)
    with workdir.locked(folder):
        workdir.claim(folder, settings.to_json(config), FIELDS)
        describe(config, data, setup, batches)
        saved = {"config": settings.to_json(config), "facts": facts._asdict()}
        outcome = session.run(
            folder, task, make_plan(config, setup.recipe.steps), setup.state, batches, meta=saved, keep=config.train.keep,
            begin=_BEGIN, check_meta=functools.partial(check_data, folder, data),
        )  # fmt: skip
        curves = reporting.plot_curves(folder, reporting.read_records(folder), baselines={})
    best = outcome.progress.best
    found = "not evaluated yet" if best is None else f"best validation {config.criterion} {best:.4f}"
    return session.conclude(outcome, setup.recipe.steps, found, curves)


def check_data(folder: pathlib.Path, data: LabelledSet, saved: dict[str, Any]) -> None:
    """Refuses texts that are not those a checkpoint was trained on."""
    workdir.refuse_other_data(folder, f"the texts of {data.name}", data.fingerprint, saved)


def describe(config: ConfigDict, data: LabelledSet, setup: Setup, batches: BucketBatches) -> None:
    """Prints what is about to be trained on what."""
    print(f"texts: {data.name}, {len(data.classes)} classes")
    for part, texts in data.parts.items():
        print(f"  {part:<10} {len(texts.texts):>9,}")
    for note in data.notes:
        print(f"  {note}")
    if limit := config.data.max_length:
        longer = sum(len(setup.tokenizer.tokenize(text)) > limit for text in data.parts["train"].texts)
        print(f"cut to {limit} tokens at the {config.data.keep}: {longer:,} of the training texts")
    print(f"vocabulary: {setup.tokenizer.vocab_size:,}")
    print(batches.summary("tokens"))
    labels = data.parts["train"].labels
    share = np.mean(data.parts["validation"].labels == baselines.majority(labels.tolist()))
    print(f"baseline: always {data.classes[baselines.majority(labels.tolist())]}, validation accuracy {share:.2%}")
    number = sum(leaf.size for leaf in jax.tree.leaves(setup.state.params))
    epochs = setup.recipe.steps / batches.batches_per_epoch
    print(f"model: {number:,} parameters\nrun: {setup.recipe.steps:,} steps, {epochs:.1f} passes, on {devices_line(setup.mesh)}")


class Trained(NamedTuple):
    """A model read from a checkpoint."""

    setup: Setup
    facts: Facts
    params: Any


def load_model(folder: pathlib.Path, config: ConfigDict) -> Trained:
    """Reads the checkpoint of a run that --checkpoint names."""
    made = {}

    def target(meta):
        facts = Facts(**meta["facts"])
        made.update(facts=facts, setup=set_up(config, facts, None))
        return made["setup"].state

    report = print if MODE.value == "evaluate" else command.note  # predictions stand alone on standard output
    restored = read_model(folder, target, keep=config.train.keep, which=CHECKPOINT.value, report=report)
    return Trained(**made, params=shown_params(config, restored.state))


def classify(config: ConfigDict, trained: Trained, texts: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Probabilities of the classes (N, K), and the weight of each token (with pooling "attention", else empty)."""
    model, classes = trained.setup.model, trained.facts.classes
    tokens = encode(config, trained.setup.tokenizer, texts)

    @jax.jit
    def run(params, batch):
        out = model.apply({"params": params}, batch.tokens, batch.lengths)
        return jax.nn.softmax(out.logits), out.weights

    probabilities, weights = np.zeros((len(texts), len(classes))), [np.zeros(0)] * len(texts)
    collate = collate_texts(tokens, np.zeros(len(texts), np.int32))
    for places, batch in one_pass(lengths_of(tokens), collate, config.data.eval_batch_size, trained.facts.boundaries):
        shares, looked = jax.device_get(run(trained.params, batch))
        probabilities[places] = shares[: len(places)]
        for row, place in enumerate(places) if looked is not None else ():
            weights[place] = looked[row, : len(tokens[place])]
    return probabilities, weights


def evaluate(folder: pathlib.Path, config: ConfigDict) -> None:
    """Prints loss and accuracy on a whole part beside the baselines, and draws what is confused and what counts."""
    trained = load_model(folder, config)
    data = load_data(config)
    check_data(folder, data, {"facts": trained.facts._asdict()})
    part = command.chosen_part(data, SPLIT.value)
    loss = evaluator(config, trained.setup, part, trained.facts.boundaries)(trained.params)["loss"]
    probabilities, weights = classify(config, trained, list(part.texts))
    answers = probabilities.argmax(axis=1)
    print(f"{SPLIT.value} part of {data.name}, {len(answers):,} texts\nloss {loss:.4f}")
    found = {"model": answers} | baseline_answers(config, data, part)
    for name, given in found.items():
        right = int(np.sum(given == part.labels))
        low, high = metrics.accuracy_interval(right, len(given))
        print(f"{name}: accuracy {right / len(given):.2%} ({low:.2%} to {high:.2%}), {len(given) - right:,} wrong")
    rows = (
        {"text": text, "label": data.classes[label], "answer": data.classes[p.argmax()], "probability": float(p.max())}
        for text, label, p in zip(part.texts, part.labels, probabilities)
    )
    print(workdir.write_json_lines(folder / f"predictions_{SPLIT.value}.jsonl", rows))
    counts = np.zeros((len(data.classes),) * 2, np.int64)
    np.add.at(counts, (part.labels, answers), 1)
    print(pictures.plot_confusion(folder / f"confusion_{SPLIT.value}.png", counts, data.classes, unit="texts"))
    if config.model.pooling == "attention":
        place = int(np.argmax(probabilities.max(axis=1)))
        words = trained.setup.tokenizer.tokenize(part.texts[place])
        words = words[: len(weights[place])] if config.data.keep == "start" else words[-len(weights[place]) :]
        title = f"{data.classes[part.labels[place]]}, taken for {data.classes[answers[place]]}"
        print(sequences.plot_weighted_text(folder / f"words_{SPLIT.value}.png", words, weights[place], title))


def baseline_answers(config: ConfigDict, data: LabelledSet, part: LabelledTexts) -> dict[str, np.ndarray]:
    """What the most frequent class and a bag of words answer; its strength is chosen on the validation part."""
    train, validation = data.parts["train"], data.parts["validation"]
    kind = "char" if config.tokenizer.kind == "char" else "word"
    strength = baselines.choose_strength(train.texts, train.labels, validation.texts, validation.labels, kind=kind)
    answers = baselines.bag_of_words(train.texts, train.labels, {"part": part.texts}, kind=kind, strength=strength)["part"]
    most = baselines.majority(train.labels.tolist())
    name = f"bag of {kind} n-grams, logistic regression with C={strength:g}"
    return {f"always {data.classes[most]}": np.full(len(part.labels), most), name: answers}


def predict(folder: pathlib.Path, config: ConfigDict) -> None:
    """Prints the likeliest classes of each text of --input."""
    texts = read_inputs(INPUT.value)
    trained = load_model(folder, config)
    probabilities, _ = classify(config, trained, texts)
    classes = trained.facts.classes
    for text, shares in zip(texts, probabilities):
        best = np.argsort(-shares, kind="stable")[: TOP.value]
        if FORMAT.value == "jsonl":
            answer = {"label": classes[best[0]], "probabilities": {classes[i]: float(shares[i]) for i in best}}
            print(json.dumps({"text": text} | answer, ensure_ascii=False))
        else:
            shown = text if len(text) <= 60 else text[:57] + "..."
            print("  ".join(f"{classes[i]} {shares[i]:.1%}" for i in best) + f"  {shown}")


if __name__ == "__main__":
    command.run(main)
