r"""Sequence tagging, many to many: train, resume exactly, compare with baselines, tag your own text.

Papers: Huang, Xu and Yu 2015, "Bidirectional LSTM-CRF Models for Sequence Tagging" (arXiv:1508.01991); Lample et al.
2016, "Neural Architectures for Named Entity Recognition" (arXiv:1603.01360); Ma and Hovy 2016, "End-to-end Sequence
Labeling via Bi-directional LSTM-CNNs-CRF" (arXiv:1603.01354).

    python -m experiments.tagging --workdir=/tmp/python
        learns the role of every token of Python code, such as names defined or used: minutes on two cores
    python -m experiments.tagging --workdir=/tmp/python --mode=evaluate --split=test
        accuracy, with the most frequent tag per word as baseline; confusion_test.png, predictions_test.jsonl
    echo "for x in open ( path ) :" | python -m experiments.tagging --workdir=/tmp/python --mode=predict --pretokenized
    python -m experiments.tagging --workdir=/tmp/pos --config=ud_pos_crf \
        --config.data.path=en_ewt-ud-train.conllu --config.data.validation_path=en_ewt-ud-dev.conllu \
        --config.data.test_path=en_ewt-ud-test.conllu
"""

import functools
import sys
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.pipeline.buckets import choose_boundaries
from seqjax.data.pipeline.collate import collate_tagged
from seqjax.data.records import Dataset, Records
from seqjax.data.sources import SOURCES
from seqjax.data.tagged import load_tagged
from seqjax.decoding.labelling import WordLabeller
from seqjax.diagnostics import sequences
from seqjax.diagnostics.pictures import plot_confusion
from seqjax.models.tagger import CHAR_FEATURES, Tagger
from seqjax.run import Field, Flag, at_least, fields, one_of, recipe, scores
from seqjax.run import baselines as simple
from seqjax.text import CharTokenizer, split_words, start_embedding
from seqjax.text.lookup import WordLookup
from seqjax.text.word_table import WordTable
from seqjax.training import losses, metrics

_CHARS = ("model.char_features", ("rnn", "cnn"))

FIELDS = {
    **fields.seed("the order of the sentences and the dropout"),
    **fields.source(
        "sentences", SOURCES, name="python",
        names="Embedded (python) or TFDS dataset (universal_dependencies/en_ewt, ...), or a name for your files.",
        path="CoNLL-U (.conllu) or columns (.conll, .txt, .bio, .tsv), optionally .gz or .zst.",
    ),
    **fields.split_seed(),
    "data.column": Field(
        "", "Tags: upos (if empty), xpos or deprel of CoNLL-U; a column number; or a TFDS feature.",
        when=fields.FILE_OR_TFDS,
    ),
    "data.word_column": Field(1, "Column of the words, from 1; not for CoNLL-U.", at_least(1), when=fields.FILE),
    "data.delimiter": Field("", "Column delimiter: a character, tab or space; empty: detected.", when=fields.FILE),
    **fields.encoding(),
    **fields.batches("sentences", 32, 64),
    **fields.buckets(5, "Training sentences with more words are dropped; 0 keeps all."),
    "data.max_word_length": Field(20, "Maximum characters per word; the middle is dropped.", at_least(1), when=_CHARS),
    "words.min_count": Field(1, "Rarer words become <unk>; their characters are still read.", at_least(1)),
    "words.lower": Field(False, "Lowercase words before the vocabulary lookup; characters keep their case."),
    **fields.recurrent(128, 100, embedding="Width of the word embedding, D."),
    "model.char_features": Field("cnn", "How a word's characters become features.", one_of(*CHAR_FEATURES)),
    "model.char_embed_size": Field(25, "Width of the character embedding.", at_least(1), when=_CHARS),
    "model.char_size": Field(50, "Number of features from a word's characters.", at_least(1), when=_CHARS),
    "model.crf": Field(False, "Conditional random field over the tags of a sentence instead of a softmax per word."),
    **fields.dropouts(
        dropout=(0.5, "between layers and before the scores"), embed_dropout=(0.3, "on the words' features"),
        recurrent_dropout=(0.0, "on the recurrent product, one mask for all steps"),
    ),
    **fields.word_dropout("words"),
    **fields.vectors(),
    **fields.criterion(
        "error", "loss", text="Metric that selects the best checkpoint: tag error (entities: 1 - F1) or loss."
    ),
    **recipe.RECURRENT_FIELDS,
}  # fmt: skip

_UD = {
    "data.source": "file", "words.lower": True, "words.min_count": 2, "model.embed_size": 128,
    "model.char_embed_size": 32, "model.char_size": 128, "model.hidden_size": 192, "model.word_dropout": 0.05,
    "optimizer.learning_rate": 3e-3, "optimizer.clip_norm": 5.0, "optimizer.ema": 0.998, "schedule.warmup_steps": 100,
    "train.epochs": 14.0, "train.log_every": 100, "train.eval_every": 392, "train.checkpoint_every": 392,
}  # fmt: skip

PRESETS = {
    # The lexical class of every token of Python's own library, names as defined or used; nothing to download.
    "python": {
        "data.max_length": 60, "words.min_count": 2, "model.embed_size": 64, "model.hidden_size": 96,
        "model.word_dropout": 0.1, "model.dropout": 0.3, "model.embed_dropout": 0.2, "optimizer.learning_rate": 4e-3,
        "optimizer.clip_norm": 5.0, "optimizer.ema": 0.99, "schedule.warmup_steps": 50, "train.epochs": 4.0,
        "train.eval_every": 400, "train.checkpoint_every": 200,
    },
    # Parts of speech of the English Web Treebank: set data.path, validation_path and test_path.
    "ud_pos": _UD,
    # The same with the conditional random field.
    "ud_pos_crf": _UD | {"model.crf": True},
    # Named entities in a file of columns (CoNLL-2003 and its like); scored by F1. NOT YET RUN: the data are not free.
    "entities": _UD | {"model.crf": True, "model.embed_size": 100, "words.min_count": 1, "train.epochs": 30.0},
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the sentences."""

    tags: list[str]
    entities: bool  # the tags mark spans: B-, I-, E-, S- and a type
    words: dict[str, Any]
    chars: dict[str, Any]
    boundaries: list[int]  # the buckets' lengths


def load(config: ConfigDict) -> Dataset:
    """Reads the sentences that a config names."""
    return run.with_settings(load_tagged, config.data)


@functools.lru_cache(maxsize=1)  # asked for several times, and prints what is left out
def kept(limit: int, part: Records) -> Records:
    """The training sentences that are not too long."""
    return part.take(run.short_enough([*map(len, part["words"])], limit, "sentences"))


def prepare(config: ConfigDict, data: Dataset) -> Spec:
    """Collects words and characters and chooses the buckets, on the training part."""
    part = kept(config.data.max_length, data.parts["train"])
    words = WordLookup.fit(part["words"], min_count=config.words.min_count, lower=config.words.lower)
    chars = CharTokenizer.fit(sorted({word for sentence in part["words"] for word in sentence}))
    boundaries = choose_boundaries([*map(len, part["words"])], config.data.buckets)
    return Spec(list(data.classes), data.facts["entities"], words.to_dict(), chars.to_dict(), list(boundaries))


def initialize(config: ConfigDict, spec: Spec, data: Dataset, params: Any, state: Any) -> Any:
    """Word vectors from a file, where the config names one."""
    words, sentences = WordLookup(**spec.words), kept(config.data.max_length, data.parts["train"])["words"]
    read = (word.lower() if words.lower else word for sentence in sentences for word in sentence)
    table = start_embedding(params["embed"]["embedding"], config.model.vectors, words.vocabulary, read)
    return params | {"embed": {"embedding": table}}, state


def table(config: ConfigDict, spec: Spec) -> WordTable:
    """Sentences as ids of words, characters and tags."""
    return WordTable.from_dicts(spec.words, spec.chars, spec.tags, config.data.max_word_length)


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """Features of words and of their characters, bidirectional layers, and a softmax or a conditional random field."""
    m, ids = config.model, table(config, spec)
    cell = run.make_stack(config, bidirectional=True, input_dropout=0.0)
    model = Tagger(
        ids.words.vocab_size, len(spec.tags), cell, m.embed_size, m.char_features, ids.chars.vocab_size,
        m.char_embed_size, m.char_size, m.crf, tuple(spec.tags) if spec.entities and m.crf else (),
        m.dropout, m.embed_dropout, m.word_dropout, run.compute_dtype(config),
    )  # fmt: skip

    def loss(params, model_state, carry, batch, rng):
        noise = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        scores = model.apply({"params": params}, batch.words, batch.chars, batch.lengths, **noise)
        nats = model.apply({"params": params}, scores, batch.tags, batch.lengths, method="nats")
        counts = {}
        if rng is None:  # decoding in every training step would be too expensive
            found = model.apply({"params": params}, scores, batch.lengths, method="decode")
            real = jnp.arange(batch.words.shape[1])[None, :] < batch.lengths[:, None]
            counts = {"correct": jnp.sum((found == batch.tags) & real, dtype=jnp.float32)}
        return carry, model_state, losses.Sums(jnp.sum(nats), jnp.sum(batch.lengths).astype(jnp.float32), counts)

    def init(key):
        word = np.ones((1, 1), np.int32)
        return model.init(key, word, np.ones((1, 1, config.data.max_word_length), np.int32), word[0])

    size = config.data.eval_batch_size
    label = WordLabeller(model, ids.columns, spec.tags, batch_size=size, boundaries=spec.boundaries)
    return run.Model(module=model, init=init, loss=loss, metric=metrics.token_loss(), tools=label)


def batches(config: ConfigDict, spec: Spec, part: Records, training: bool) -> Any:
    """Sentences of about the same length together."""
    part = kept(config.data.max_length, part) if training else part
    collate = collate_tagged(*table(config, spec).columns(part["words"], part["tags"]))
    return run.bucketed(config, [*map(len, part["words"])], collate, spec.boundaries, training)


def validate(trained: run.Trained, part: Records, found: dict[str, float]) -> dict[str, float]:
    """Error and accuracy; where tags mark entities, F1 too, and the error is 1 - F1."""
    accuracy = found["correct"]
    if not trained.spec.entities:
        return {"loss": found["loss"], "error": 1 - accuracy, "accuracy": accuracy}
    f1 = metrics.entity_f1(part["tags"], trained.model.tools(trained.params, part["words"])).f1
    return {"loss": found["loss"], "error": 1 - f1, "accuracy": accuracy, "f1": f1}


def sample(trained: run.Trained, data: Dataset) -> str:
    """A validation sentence, a different one at each evaluation."""
    words = data.parts["validation"]["words"]
    sentence = words[trained.step % len(words)]
    (tags,) = trained.model.tools(trained.params, [sentence])
    return sequences.colour_tags(sentence, tags, colour=sequences.use_colour(sys.stdout), order=data.classes)


def describe(config: ConfigDict, spec: Spec, data: Dataset, model: run.Model) -> list[str]:
    """Tags and vocabularies."""
    ids, tags = table(config, spec), f"tags: {len(spec.tags)}" + (" of entities" if spec.entities else "")
    return [tags, f"vocabulary: {ids.words.vocab_size:,} words, {ids.chars.vocab_size:,} characters"]


def baselines(config: ConfigDict, data: Dataset, split: str) -> dict[str, dict[str, Any]]:
    """The most frequent tag of each word."""
    train, part = data.parts["train"], data.parts[split]
    best, default = simple.most_frequent_tags(train["words"], train["tags"])
    given = [[best.get(word, default) for word in sentence] for sentence in part["words"]]
    entities = data.facts["entities"]
    return {"most frequent tag": scores.tagging(part["words"], part["tags"], given, best, entities=entities)}


def evaluate(trained: run.Trained, data: Dataset, split: str, options: run.Options) -> run.Report:
    """Loss per word, accuracy and F1, with the baseline."""
    words, true = data.parts[split]["words"], data.parts[split]["tags"]
    known = {word for sentence in data.parts["train"]["words"] for word in sentence}
    tags, loss = trained.model.tools(trained.params, words), run.measure(EXPERIMENT, trained, data.parts[split])["loss"]
    found = {"model": {"loss": loss} | scores.tagging(words, true, tags, known, entities=data.facts["entities"])}
    found |= baselines(trained.config, data, split)
    rows = (dict(zip(("words", "tags", "predicted"), row)) for row in zip(words, true, tags))
    colour = sequences.use_colour(sys.stdout)
    shown = [sequences.colour_tags(*pair, colour=colour, order=data.classes) for pair in list(zip(words, tags))[:3]]
    return run.Report(found, rows, [sequences.legend(data.classes, colour), *shown], tags)


def pictures(trained: run.Trained, data: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots the confusion matrix."""
    place, columns = {tag: i for i, tag in enumerate(data.classes)}, (data.parts[split]["tags"], report.answers)
    true, given = ([place[tag] for tags in column for tag in tags] for column in columns)
    counts = run.confusion(true, given, len(place))
    yield plot_confusion(folder / f"confusion_{split}.png", counts, data.classes, unit="words")


def predict(trained: run.Trained, options: run.Options) -> None:
    """Tags the sentences of --input."""
    colour = sequences.use_colour(sys.stdout)
    words = [line.split() if options.pretokenized else split_words(line) for line in options.input]
    for sentence, tags in zip(words, trained.model.tools(trained.params, words)):
        if options.format == "jsonl":
            run.print_json({"words": sentence, "tags": tags})
        else:
            print(sequences.colour_tags(sentence, tags, colour=colour, order=trained.spec.tags))


EXPERIMENT = run.Experiment.of(
    __name__, preset="python", records="sentences",
    unit="words",
    criterion=lambda config: config.criterion,
    curve_labels=lambda config, spec: {"error": "1 - F1 of whole entities"} if spec.entities else {},
    modes={"predict": predict},
    flags=run.prediction_flags("sentences", "sentence")
    | {"pretokenized": Flag(False, "words are separated by spaces; else split as English.", ("predict",))},
)  # fmt: skip

if __name__ == "__main__":
    run.main(EXPERIMENT)
