r"""Tagging, many to many in step: train, resume exactly, compare with the most frequent tag, tag text of one's own.

Papers: Huang, Xu and Yu 2015, "Bidirectional LSTM-CRF Models for Sequence Tagging" (arXiv:1508.01991); Lample et al. 2016,
"Neural Architectures for Named Entity Recognition" (arXiv:1603.01360); Ma and Hovy 2016, "End-to-end Sequence Labeling via
Bi-directional LSTM-CNNs-CRF" (arXiv:1603.01354).

    python -m experiments.tagging --workdir=/tmp/python
        learns what every token of Python code is, names as defined or used: minutes on two cores
    python -m experiments.tagging --workdir=/tmp/python --mode=evaluate --split=test
        accuracy beside the most frequent tag of each word; confusion_test.png, predictions_test.jsonl in the work folder
    echo "for line in open ( path ) :" | python -m experiments.tagging --workdir=/tmp/python --mode=predict --pretokenized
    python -m experiments.tagging --workdir=/tmp/pos --config=experiments/configs/tagging.py:ud_pos_crf \
        --config.data.path=en_ewt-ud-train.conllu --config.data.validation_path=en_ewt-ud-dev.conllu \
        --config.data.test_path=en_ewt-ud-test.conllu

Modes: train (starts or goes on by itself; Ctrl-C stops it with a checkpoint), evaluate, predict. All but train read the config
from the work folder. Presets: --config=experiments/configs/tagging.py:NAME.
"""

import time

_BEGIN = time.perf_counter()

import collections
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.configs.tagging import FIELDS, PRESETS
from seqjax.data.buckets import BucketBatches, choose_boundaries, one_pass, within_limit
from seqjax.data.collate import collate_tagged
from seqjax.data.tables import read_inputs
from seqjax.data.tagged import TaggedSentences, TaggedSet, baseline_accuracy, load_tagged, most_frequent_tags
from seqjax.diagnostics import pictures, sequences
from seqjax.models import make_stack
from seqjax.models.tagger import Tagger
from seqjax.run import command, process, reporting, session, settings, workdir
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
from seqjax.text import CharTokenizer, apply_vectors, split_words, starting_vectors, tokenizer_from_dict
from seqjax.text.lookup import WordLookup, char_ids
from seqjax.training import loop, losses, metrics, train_step

__doc__ += "\nConfig fields, as python sets them:\n\n" + settings.describe(FIELDS, PRESETS["python"]) + "\n"

CONFIG = command.define_config(pathlib.Path(__file__).parent / "configs" / "tagging.py", "python", FIELDS)
flags.adopt_module_key_flags(command)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "predict"], "What to do.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures.", required=True)
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", WHICH, "evaluate, predict: which checkpoint to read, or the mean of the newest.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "evaluate: on which part of the data.")
INPUT = flags.DEFINE_string("input", "-", "predict: a file of sentences, a line each (or .jsonl with a field text); - is standard input.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "jsonl"], "predict: for people, or a line of JSON for each sentence.")
PRETOKENIZED = flags.DEFINE_bool("pretokenized", False, "predict: words stand between spaces; else they are split as English is.")


def main() -> int:
    """Does what --mode says."""
    process.keep_freed_memory()
    process.use_compilation_cache()
    reading = {"checkpoint": ("evaluate", "predict"), "split": "evaluate"}
    command.refuse_idle_flags(MODE.value, reading | dict.fromkeys(("input", "format", "pretokenized"), "predict"))
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
    tags: list[str]
    entities: bool  # tags mark spans, scored by F1
    words: dict[str, Any]
    chars: dict[str, Any]
    boundaries: list[int]  # the buckets' lengths


def load_data(config: ConfigDict) -> TaggedSet:
    """Reads the sentences that a config names."""
    d = config.data
    return load_tagged(
        d.source, name=d.name if d.source != "file" else "", path=d.path, validation_path=d.validation_path,
        test_path=d.test_path, data_dir=d.data_dir, column=d.column, validation_fraction=d.validation_fraction, seed=d.seed,
    )  # fmt: skip


class Encoder(NamedTuple):
    """Words and tags to ids."""

    words: WordLookup
    chars: CharTokenizer
    tags: dict[str, int]
    width: int  # characters of a word

    def columns(self, words: Sequence[Sequence[str]], tags: Sequence[Sequence[str]] | None) -> tuple[list, list, list]:
        """Ids of words (t,), characters (t, C) and tags (t,) of each sentence; tags are 0 where there are none."""
        encoded = [self.words.ids(sentence) for sentence in words]
        chars = [char_ids(self.chars, sentence, self.width) for sentence in words]
        if tags is None:
            return encoded, chars, [np.zeros(len(sentence), np.int32) for sentence in words]
        return encoded, chars, [np.array([self.tags[tag] for tag in sentence], np.int32) for sentence in tags]


def make_encoder(config: ConfigDict, facts: Facts) -> Encoder:
    """As a run's checkpoint holds it."""
    tags = {tag: i for i, tag in enumerate(facts.tags)}
    return Encoder(WordLookup(**facts.words), tokenizer_from_dict(facts.chars), tags, config.data.max_word_length)


def make_model(config: ConfigDict, facts: Facts, encoder: Encoder) -> Tagger:
    """The model that a config describes."""
    m = config.model
    dtype = None if m.dtype == "float32" else jnp.dtype(m.dtype)
    cell = make_stack(
        m.cell, m.hidden_size, m.num_layers, dropout=m.dropout, input_dropout=0.0,
        recurrent_dropout=m.recurrent_dropout, bidirectional=True, dtype=dtype,
    )  # fmt: skip
    return Tagger(
        encoder.words.vocab_size, len(facts.tags), cell, m.embed_size, m.char_features, encoder.chars.vocab_size,
        m.char_embed_size, m.char_size, m.crf, tuple(facts.tags) if facts.entities and m.crf else (),
        m.dropout, m.embed_dropout, m.word_dropout, dtype,
    )  # fmt: skip


def make_loss(model: Tagger) -> train_step.LossFn:
    """-log p(tags) of a batch, per word; nothing is carried from batch to batch."""

    def loss_fn(params, carry, batch, rng):
        noise = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        scores = model.apply({"params": params}, batch.words, batch.chars, batch.lengths, **noise)
        nats = model.apply({"params": params}, scores, batch.tags, batch.lengths, method="nats")
        counts = {}
        if rng is None:  # decoding in every training step would cost more than it tells
            found = model.apply({"params": params}, scores, batch.lengths, method="decode")
            real = jnp.arange(batch.words.shape[1])[None, :] < batch.lengths[:, None]
            counts = {"correct": jnp.sum((found == batch.tags) & real, dtype=jnp.float32)}
        return carry, losses.Sums(jnp.sum(nats), jnp.sum(batch.lengths).astype(jnp.float32), counts)

    return loss_fn


def figures(means: dict[str, float]) -> dict[str, float]:
    """What is reported: nats per word and, of evaluations, the error, the accuracy, and F1 where tags mark entities."""
    found = {"loss": means["loss"]}
    if "correct" in means:
        found |= {"error": 1 - means.get("f1", means["correct"]), "accuracy": means["correct"]}
    return found | ({"f1": means["f1"]} if "f1" in means else {})


class Setup(NamedTuple):
    """Model, optimiser and first state."""

    encoder: Encoder
    model: Tagger
    loss_fn: train_step.LossFn
    recipe: Recipe
    mesh: Any
    state: train_step.TrainState


def set_up(config: ConfigDict, facts: Facts, batches_per_epoch: int | None, vectors: Any = None) -> Setup:
    """Builds everything that training changes, from the seed; without an epoch's length, for reading a model only."""
    recipe, mesh = make_recipe(config, batches_per_epoch), data_mesh(config)
    encoder = make_encoder(config, facts)
    model = make_model(config, facts, encoder)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    word, chars = np.ones((1, 1), np.int32), np.ones((1, 1, config.data.max_word_length), np.int32)
    params = dict(jax.jit(model.init)(init_key, word, chars, word[0])["params"])
    if vectors is not None:
        params["embed"] = {"embedding": apply_vectors(params["embed"]["embedding"], vectors)}
    state = train_step.init_state(params, recipe.optimizer, (), run_key, mesh, averaged=averaged_params(config))
    return Setup(encoder, model, make_loss(model), recipe, mesh, state)


def lengths_of(words: Sequence[Sequence[Any]]) -> np.ndarray:
    """The number of words of each sentence."""
    return np.array([len(sentence) for sentence in words])


def tagger(config: ConfigDict, setup: Setup, facts: Facts):
    """(params, sentences) -> the tags of each sentence, in the sentences' order."""
    model = setup.model

    @jax.jit
    def run(params, batch):
        scores = model.apply({"params": params}, batch.words, batch.chars, batch.lengths)
        return model.apply({"params": params}, scores, batch.lengths, method="decode")

    def tag(params, words):
        collate = collate_tagged(*setup.encoder.columns(words, None))
        found: list[list[str]] = [[] for _ in words]
        for places, batch in one_pass(lengths_of(words), collate, config.data.eval_batch_size, facts.boundaries):
            for place, row in zip(places, np.asarray(run(params, batch))):
                found[place] = [facts.tags[i] for i in row[: len(words[place])]]
        return found

    return tag


def evaluator(config: ConfigDict, setup: Setup, facts: Facts, part: TaggedSentences):
    """params -> means over all words of a part; with F1 where tags mark entities."""
    batch = config.data.eval_batch_size
    run = train_step.make_evaluate(setup.loss_fn, train_step.make_mesh(batch, list(setup.mesh.devices.flat)))
    lengths, collate = lengths_of(part.words), collate_tagged(*setup.encoder.columns(part.words, part.tags))
    tag = tagger(config, setup, facts)

    def evaluate(params):
        means = run(params, (), (made for _, made in one_pass(lengths, collate, batch, facts.boundaries)))
        return means | ({"f1": metrics.entity_f1(part.tags, tag(params, part.words)).f1} if facts.entities else {})

    return evaluate


def make_task(config: ConfigDict, setup: Setup, data: TaggedSet, facts: Facts) -> loop.Task:
    """What the training loop needs to know."""
    where, recipe = train_step.batch_sharding(setup.mesh), setup.recipe
    step = train_step.make_train_step(
        setup.loss_fn, recipe.optimizer, recipe.schedule, setup.mesh, clip_norm=recipe.clip_norm,
        averaged=averaged_params(config), ema_decay=config.optimizer.ema,
    )  # fmt: skip
    validate = evaluator(config, setup, facts, data.parts["validation"])
    return loop.Task(
        step=step,
        place_batch=lambda batch: jax.device_put(batch, where),
        evaluate=lambda state: validate(shown_params(config, state)),
        figures=figures,
        sample=functools.partial(shown_sample, config, tagger(config, setup, facts), data),
        criterion=config.criterion,
        unit="words",
    )


def shown_sample(config: ConfigDict, tag, data: TaggedSet, state: train_step.TrainState) -> str:
    """A sentence of the validation part, another at each evaluation."""
    words = data.parts["validation"].words
    sentence = words[int(state.step) % len(words)]
    (tags,) = tag(shown_params(config, state), [sentence])
    return sequences.colour_tags(sentence, tags, colour=sequences.use_colour(sys.stdout), order=data.tags)


# Modes.


def train(folder: pathlib.Path, config: ConfigDict) -> int:
    """Starts the run of a work folder, or goes on with it."""
    reporting.require_extras()
    settings.validate(config, FIELDS)
    settings.make_absolute(config, "data.path", "data.validation_path", "data.test_path", "model.vectors")
    workdir.refuse_another_config(folder, settings.to_json(config), FIELDS)
    data = load_data(config)
    keep = within_limit(lengths_of(data.parts["train"].words), config.data.max_length, "sentences")
    part = TaggedSentences(*(tuple(column[i] for i in keep) for column in data.parts["train"]))
    words = WordLookup.fit(part.words, min_count=config.words.min_count, lower=config.words.lower)
    counts = collections.Counter(word.lower() if words.lower else word for sentence in part.words for word in sentence)
    vectors = starting_vectors(config.model.vectors, words.vocabulary, counts, config.model.embed_size)
    chars = CharTokenizer.fit(sorted({word for sentence in part.words for word in sentence}))
    boundaries = choose_boundaries(lengths_of(part.words), config.data.buckets)
    facts = Facts(data.fingerprint, list(data.tags), data.entities, words.to_dict(), chars.to_dict(), list(boundaries))
    collate = collate_tagged(*make_encoder(config, facts).columns(part.words, part.tags))
    batches = BucketBatches(lengths_of(part.words), collate, config.data.batch_size, boundaries, seed=config.seed)
    setup = set_up(config, facts, batches.batches_per_epoch, vectors)
    task = make_task(config, setup, data, facts)
    with workdir.locked(folder):
        workdir.claim(folder, settings.to_json(config), FIELDS)
        describe(data, setup, batches)
        saved = {"config": settings.to_json(config), "facts": facts._asdict()}
        outcome = session.run(
            folder, task, make_plan(config, setup.recipe.steps), setup.state, batches, meta=saved, keep=config.train.keep,
            begin=_BEGIN, check_meta=functools.partial(check_data, folder, data),
        )  # fmt: skip
        curves = reporting.plot_curves(folder, reporting.read_records(folder), baselines={})
    best = outcome.progress.best
    found = "not evaluated yet" if best is None else f"best validation {config.criterion} {best:.4f}"
    return session.conclude(outcome, setup.recipe.steps, found, curves)


def check_data(folder: pathlib.Path, data: TaggedSet, saved: dict[str, Any]) -> None:
    """Refuses sentences that are not those a checkpoint was trained on."""
    workdir.refuse_other_data(folder, f"the sentences of {data.name}", data.fingerprint, saved)


def describe(data: TaggedSet, setup: Setup, batches: BucketBatches) -> None:
    """Prints what is about to be trained on what."""
    print(f"sentences: {data.name}, {len(data.tags)} tags" + (" of entities" if data.entities else ""))
    for name, part in data.parts.items():
        print(f"  {name:<10} {len(part.words):>9,}  {lengths_of(part.words).sum():>11,} words")
    for note in data.notes:
        print(f"  {note}")
    print(f"vocabulary: {setup.encoder.words.vocab_size:,} words, {setup.encoder.chars.vocab_size:,} characters")
    print(batches.summary("words"))
    share = baseline_accuracy(data.parts["train"], data.parts["validation"])
    print(f"baseline: the most frequent tag of each word, validation accuracy {share:.2%}")
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


def evaluate(folder: pathlib.Path, config: ConfigDict) -> None:
    """Prints loss, accuracy, of unknown words too, and F1 of entities on a whole part beside the baseline."""
    trained = load_model(folder, config)
    data = load_data(config)
    check_data(folder, data, {"facts": trained.facts._asdict()})
    part, train = command.chosen_part(data, SPLIT.value), data.parts["train"]
    loss = evaluator(config, trained.setup, trained.facts, part)(trained.params)["loss"]
    print(f"{SPLIT.value} part of {data.name}, {len(part.words):,} sentences\nloss {loss:.4f} for each word")
    best, default = most_frequent_tags(train)
    found = {
        "model": tagger(config, trained.setup, trained.facts)(trained.params, part.words),
        "most frequent tag": [[best.get(word, default) for word in words] for words in part.words],
    }
    for name, tags in found.items():
        show_scores(name, part, tags, best.keys(), data.entities)
    rows = (dict(zip(("words", "tags", "predicted"), row)) for row in zip(part.words, part.tags, found["model"]))
    print(workdir.write_json_lines(folder / f"predictions_{SPLIT.value}.jsonl", rows))
    counts, place = np.zeros((len(data.tags),) * 2, np.int64), {tag: i for i, tag in enumerate(data.tags)}
    for true, given in zip(part.tags, found["model"]):
        np.add.at(counts, ([place[tag] for tag in true], [place[tag] for tag in given]), 1)
    print(pictures.plot_confusion(folder / f"confusion_{SPLIT.value}.png", counts, data.tags, unit="words"))
    colour = sequences.use_colour(sys.stdout)
    print(sequences.legend(data.tags, colour))
    for words, tags in list(zip(part.words, found["model"]))[:3]:
        print(sequences.colour_tags(words, tags, colour=colour, order=data.tags))


def show_scores(name: str, part: TaggedSentences, tags: Sequence[Sequence[str]], known, entities: bool) -> None:
    """Prints what a tagger's answers are worth."""
    right = [a == b for true, given in zip(part.tags, tags) for a, b in zip(true, given)]
    new = [word not in known for words in part.words for word in words]
    low, high = metrics.accuracy_interval(sum(right), len(right))
    line = f"{name}: accuracy {np.mean(right):.2%} ({low:.2%} to {high:.2%})"
    if any(new):
        unseen = np.array(right)[new]
        line += f", {unseen.mean():.2%} of the {len(unseen):,} words not seen in training"
    print(line)
    if entities:
        scores = metrics.entity_f1(part.tags, tags)
        print(f"  entities: precision {scores.precision:.2%}, recall {scores.recall:.2%}, F1 {scores.f1:.2%}")


def predict(folder: pathlib.Path, config: ConfigDict) -> None:
    """Tags the sentences of --input."""
    lines = read_inputs(INPUT.value)
    words = [line.split() if PRETOKENIZED.value else split_words(line) for line in lines]
    trained = load_model(folder, config)
    tags = tagger(config, trained.setup, trained.facts)(trained.params, words)
    colour = sequences.use_colour(sys.stdout)
    for sentence, found in zip(words, tags):
        if FORMAT.value == "jsonl":
            print(json.dumps({"words": sentence, "tags": found}, ensure_ascii=False))
        else:
            print(sequences.colour_tags(sentence, found, colour=colour, order=trained.facts.tags))


if __name__ == "__main__":
    command.run(main)
