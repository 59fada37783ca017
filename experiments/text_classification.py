r"""Text classification, many to one: train, resume exactly, compare with a bag of words, interpret, predict.

Papers: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Yang et al. 2016, "Hierarchical Attention Networks
for Document Classification", for the attention pooling.

    python -m experiments.text_classification --workdir=/tmp/docstrings
        learns which part of Python's library a docstring comes from: about a minute on two cores
    python -m experiments.text_classification --workdir=/tmp/docstrings --mode=evaluate --split=test
        accuracy, compared with a bag of words; confusion_test.png, words_test.png, predictions_test.jsonl
    echo "Open a socket." | python -m experiments.text_classification --workdir=/tmp/docstrings --mode=predict
    python -m experiments.text_classification --workdir=/tmp/imdb --config=imdb
    python -m experiments.text_classification --workdir=/tmp/names --config=names --config.data.path=FOLDER
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.labelled import SOURCES, load_labelled
from seqjax.data.pipeline.buckets import choose_boundaries
from seqjax.data.pipeline.collate import collate_texts
from seqjax.data.records import Dataset, Records
from seqjax.decoding.labelling import TextLabeller
from seqjax.diagnostics import sequences
from seqjax.diagnostics.pictures import plot_confusion
from seqjax.errors import UserError
from seqjax.models.classifier import POOLING, TextClassifier
from seqjax.run import Field, Flag, at_least, fields, one_of, recipe, within
from seqjax.run.baselines import best_bag_of_words, majority
from seqjax.text import fit_tokenizer, start_embedding, tokenizer_from_dict
from seqjax.text.fitting import KINDS
from seqjax.training import losses, metrics

FIELDS = {
    **fields.seed("the order of the texts and the dropout"),
    **fields.source(
        "texts", SOURCES, name="docstrings",
        names="Embedded (docstrings) or TFDS dataset (imdb_reviews, ...), or a name for your files.",
        path=".jsonl, .csv or .tsv with text and label, or a folder with one file or folder per class.",
    ),
    **fields.table(),
    **fields.split_seed(),
    "data.text_field": Field("text", "Table field with the text, by name or number.", when=fields.FILE_OR_TFDS),
    "data.label_field": Field("label", "Table field with the label, by name or number.", when=fields.FILE_OR_TFDS),
    "data.test_fraction": Field(
        0.0, "Fraction held out for testing if there is no test set; 0: none.", within(0.0, 0.9)
    ),
    "data.strip_html": Field(False, "Remove tags such as <br /> and decode HTML entities."),
    **fields.batches("texts", 32, 64),
    **fields.buckets(5, "Longer texts are truncated to this many tokens, in training and evaluation; 0: never."),
    "data.keep": Field("start", "Which part of a truncated text is kept.", one_of("start", "end")),
    **fields.tokenizer(KINDS, "word"),
    **fields.recurrent(128, 100),
    "model.bidirectional": Field(True, "Make every layer bidirectional."),
    "model.pooling": Field("attention", "Pooling over the outputs of all steps.", one_of(*POOLING)),
    **fields.dropouts(
        dropout=(0.3, "between layers and before the softmax"), embed_dropout=(0.3, "on the embeddings"),
        recurrent_dropout=(0.0, "on the recurrent product, one mask for all steps"),
    ),
    **fields.word_dropout("tokens"),
    **fields.vectors(when=("tokenizer.kind", ("word",))),
    **fields.label_smoothing(),
    **fields.criterion("error", "loss"),
    **recipe.RECURRENT_FIELDS,
}  # fmt: skip

PRESETS = {
    # Which part of Python's library is a docstring from? Words, a minute on two cores, nothing to download.
    "docstrings": {
        "tokenizer.lower": True, "tokenizer.min_count": 2, "data.max_length": 100, "data.batch_size": 16,
        "model.hidden_size": 128, "model.embed_size": 128, "model.dropout": 0.5, "model.embed_dropout": 0.5,
        "model.word_dropout": 0.2, "optimizer.learning_rate": 3e-3, "optimizer.clip_norm": 5.0, "optimizer.ema": 0.99,
        "schedule.warmup_steps": 50, "train.epochs": 20.0, "train.eval_every": 200, "train.checkpoint_every": 200,
    },
    # Film reviews, positive or negative.
    "imdb": {
        "data.source": "tfds", "data.name": "imdb_reviews", "data.strip_html": True, "data.batch_size": 64,
        "data.max_length": 400, "data.buckets": 6, "tokenizer.lower": True, "tokenizer.max_size": 20_000,
        "model.dropout": 0.5, "model.embed_dropout": 0.5, "model.word_dropout": 0.1, "optimizer.learning_rate": 2e-3,
        "optimizer.clip_norm": 5.0, "optimizer.ema": 0.998, "schedule.warmup_steps": 100, "train.epochs": 6.0,
        "train.log_every": 100, "train.eval_every": 352, "train.checkpoint_every": 176,
    },
    # Surnames of 18 languages, character by character; the folder has a file for each language.
    "names": {
        "data.source": "file", "data.test_fraction": 0.1, "data.batch_size": 64, "data.eval_batch_size": 256,
        "tokenizer.kind": "char", "model.hidden_size": 128, "model.embed_size": 32, "model.pooling": "max",
        "model.dropout": 0.4, "model.embed_dropout": 0.1, "optimizer.learning_rate": 3e-3, "optimizer.clip_norm": 5.0,
        "optimizer.ema": 0.998, "schedule.warmup_steps": 100, "train.epochs": 20.0, "train.log_every": 200,
        "train.eval_every": 500, "train.checkpoint_every": 500,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the texts."""

    classes: list[str]
    tokenizer: dict[str, Any]
    boundaries: list[int]  # the buckets' lengths


def check(config: ConfigDict) -> None:
    """Refuses settings without effect."""
    if config.data.keep != "start" and not config.data.max_length:
        raise UserError("config.data.keep='end' has no effect with data.max_length=0; leave it at 'start'")


def load(config: ConfigDict) -> Dataset:
    """Reads the texts that a config names."""
    return run.with_settings(load_labelled, config.data)


def prepare(config: ConfigDict, data: Dataset) -> Spec:
    """Fits the tokenizer and chooses the buckets, on the training part."""
    texts = data.parts["train"]["text"]
    tokenizer = run.with_settings(fit_tokenizer, config.tokenizer, texts=texts)
    lengths = [len(tokens) for tokens in encode(config, tokenizer, texts)]
    return Spec(list(data.classes), tokenizer.to_dict(), list(choose_boundaries(lengths, config.data.buckets)))


@functools.lru_cache(maxsize=2)  # the training part is asked for twice
def tokens_of(tokenizer: Any, texts: tuple[str, ...]) -> list[np.ndarray]:
    """Texts as token ids, whole."""
    return [tokenizer.encode(text) for text in texts]


def encode(config: ConfigDict, tokenizer: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """Texts as token ids, cut as the config says."""
    limit = config.data.max_length or None
    cut = slice(limit) if config.data.keep == "start" or not limit else slice(-limit, None)
    return [tokens[cut] for tokens in tokens_of(tokenizer, tuple(texts))]


def initialize(config: ConfigDict, spec: Spec, data: Dataset, params: Any, state: Any) -> Any:
    """Word vectors from a file, where the config names one."""
    tokenizer, texts = tokenizer_from_dict(spec.tokenizer), data.parts["train"]["text"]
    words = itertools.chain.from_iterable(tokenizer.tokenize(text) for text in texts)
    table = start_embedding(params["embed"]["embedding"], config.model.vectors, tokenizer.vocabulary, words)
    return params | {"embed": {"embedding": table}}, state


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """An embedding, a stack of recurrent layers, a pooling over time and a softmax."""
    m, tokenizer = config.model, tokenizer_from_dict(spec.tokenizer)
    cell, dtype = run.make_stack(config, input_dropout=m.embed_dropout), run.compute_dtype(config)
    model = TextClassifier(
        tokenizer.vocab_size, len(spec.classes), cell, m.embed_size, m.pooling, m.bidirectional, m.dropout,
        m.word_dropout, dtype,
    )  # fmt: skip

    def loss(params, model_state, carry, batch, rng):
        noise = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        logits = model.apply({"params": params}, batch.tokens, batch.lengths, **noise).logits
        targets = jax.nn.one_hot(batch.labels, len(spec.classes))
        targets = optax.smooth_labels(targets, config.loss.label_smoothing) if noise else targets
        return carry, model_state, losses.label_sums(logits, targets, batch.labels, batch.mask)

    size = config.data.eval_batch_size
    labeller = TextLabeller(model, batch_size=size, boundaries=spec.boundaries)
    return run.Model(
        module=model,
        init=lambda key: model.init(key, np.ones((1, 1), np.int32)),
        loss=loss,
        metric=metrics.accuracy(),
        tools=(tokenizer, labeller),
    )


def batches(config: ConfigDict, spec: Spec, part: Records, training: bool) -> Any:
    """Texts of about the same length together."""
    tokens = encode(config, tokenizer_from_dict(spec.tokenizer), part["text"])
    lengths = np.array([len(text) for text in tokens])
    return run.bucketed(config, lengths, collate_texts(tokens, part["label"]), spec.boundaries, training)


def describe(config: ConfigDict, spec: Spec, data: Dataset, model: run.Model) -> list[str]:
    """Lines on the vocabulary and on truncated texts."""
    tokenizer, limit = model.tools[0], config.data.max_length
    lines = [f"vocabulary: {tokenizer.vocab_size:,}"]
    if limit:
        longer = sum(len(tokens) > limit for tokens in tokens_of(tokenizer, data.parts["train"]["text"]))
        lines.append(f"cut to {limit} tokens at the {config.data.keep}: {longer:,} of the training texts")
    return lines


def classify(trained: run.Trained, texts: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Probabilities of the classes (N, K), and the weight of each token (with pooling "attention", else empty)."""
    tokenizer, labeller = trained.model.tools
    return labeller(trained.params, encode(trained.config, tokenizer, texts))


def evaluate(trained: run.Trained, data: Dataset, split: str, options: run.Options) -> run.Report:
    """Loss and accuracy, with the most frequent class and the best bag of words on the validation part."""
    part, train, validation = data.parts[split], data.parts["train"], data.parts["validation"]
    probabilities, weights = classify(trained, list(part["text"]))
    loss = run.measure(EXPERIMENT, trained, part)["loss"]
    scores = {"model": {"loss": loss} | run.accuracy(probabilities.argmax(axis=1) == part["label"])}
    scores |= baselines(trained.config, data, split)
    kind = "char" if trained.config.tokenizer.kind == "char" else "word"
    others = (validation["text"], validation["label"], part["text"])
    answers, strength = best_bag_of_words(train["text"], train["label"], *others, kind=kind)
    scores[f"bag of {kind} n-grams, logistic regression with C={strength:g}"] = run.accuracy(answers == part["label"])
    rows = (
        {"text": text, "label": data.classes[label], "answer": data.classes[p.argmax()], "probability": float(p.max())}
        for text, label, p in zip(part["text"], part["label"], probabilities)
    )
    return run.Report(scores, rows, answers=(probabilities, weights))


def baselines(config: ConfigDict, data: Dataset, split: str) -> dict[str, dict[str, Any]]:
    """The most frequent class."""
    most = majority(data.parts["train"]["label"].tolist())
    return {f"always {data.classes[most]}": run.accuracy(data.parts[split]["label"] == most)}


def pictures(trained: run.Trained, data: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots the confusion matrix, and the important words of the most confident text."""
    part, (probabilities, weights) = data.parts[split], report.answers
    answers = probabilities.argmax(axis=1)
    counts = run.confusion(part["label"], answers, len(data.classes))
    yield plot_confusion(folder / f"confusion_{split}.png", counts, data.classes, unit="texts")
    if trained.config.model.pooling == "attention":
        place = int(np.argmax(probabilities.max(axis=1)))
        words, count = trained.model.tools[0].tokenize(part["text"][place]), len(weights[place])
        words = words[:count] if trained.config.data.keep == "start" else words[-count:]
        title = "{}, taken for {}".format(data.classes[part["label"][place]], data.classes[answers[place]])
        yield sequences.plot_weighted_text(folder / f"words_{split}.png", words, weights[place], title)


def predict(trained: run.Trained, options: run.Options) -> None:
    """Prints the most likely classes of each text of --input."""
    for text, shares in zip(options.input, classify(trained, options.input)[0]):
        best = run.ranked(shares, trained.spec.classes, options.top)
        if options.format == "jsonl":
            run.print_json({"text": text, "label": best[0][0], "probabilities": dict(best)})
        else:
            shown = run.printable(text if len(text) <= 60 else text[:57] + "...")
            print("  ".join(f"{run.printable(name)} {share:.1%}" for name, share in best) + f"  {shown}")


EXPERIMENT = run.Experiment.of(
    __name__,
    preset="docstrings",
    records="texts",
    unit="texts",
    criterion=lambda config: config.criterion,
    modes={"predict": predict},
    flags=run.prediction_flags("texts", "text")
    | {"top": Flag(1, "number of classes to show per text.", ("predict",), at_least(1))},
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
