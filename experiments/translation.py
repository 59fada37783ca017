r"""Encoder-decoder translation: train, resume exactly, score with BLEU, plot attention, translate your own text.

Papers: Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning with Neural Networks" (arXiv:1409.3215);
Bahdanau, Cho and Bengio 2014, "Neural Machine Translation by Jointly Learning to Align and Translate"
(arXiv:1409.0473); Luong, Pham and Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation"
(arXiv:1508.04025).

    python -m experiments.translation --workdir=/tmp/dates
        learns to read dates in 32 languages: minutes on two cores
    python -m experiments.translation --workdir=/tmp/dates --mode=evaluate --split=test
        BLEU, chrF, exact matches; attention_test.png and predictions_test.jsonl in the work directory
    python -m experiments.translation --workdir=/tmp/stories --config=stories
        learns to answer questions about short stories (docs/stories.md)
    echo "7. März 2024" | python -m experiments.translation --workdir=/tmp/dates --mode=predict --n_best=3
    python -m experiments.translation --workdir=/tmp/m30k --config=multi30k \
        --config.data.path=train.de.gz --config.data.target_path=train.en.gz \
        --config.data.validation_path=val.de.gz --config.data.validation_target_path=val.en.gz \
        --config.data.test_path=test_2016_flickr.de.gz --config.data.test_target_path=test_2016_flickr.en.gz
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.parallel import SOURCES, load_parallel
from seqjax.data.pipeline.buckets import choose_boundaries
from seqjax.data.pipeline.collate import PairTokens, collate_pairs
from seqjax.data.readers.stories import simple_answers
from seqjax.data.records import Dataset, Records
from seqjax.decoding.translation import TextTranslator, Translation
from seqjax.diagnostics import sequences
from seqjax.errors import UserError
from seqjax.models import make_cell
from seqjax.models.seq2seq import ATTENTIONS, Seq2Seq, make_attention
from seqjax.run import Field, Flag, at_least, fields, one_of, recipe, scores
from seqjax.text import BOS, EOS, fit_pair, tokenizer_from_dict
from seqjax.training import losses, metrics

FIELDS = {
    **fields.seed("the order of the pairs and the dropout"),
    **fields.source(
        "pairs", SOURCES, name="dates",
        names="Embedded (dates, stories) or TFDS dataset (ted_hrlr_translate/pt_to_en, ...), or a name for your files.",
        path="Text file of the sources, one per line, or a table of both sides; optionally compressed.",
        validation_path="Sources for validation; if empty, part of the training set is held out.",
        test_path="Sources for testing, read by --mode=evaluate --split=test.",
        held_out="training pairs to hold out if there is no validation set", fraction=0.05,
    ),
    **fields.split_seed(),
    **fields.sides(),
    **fields.table(),
    **fields.batches("pairs", 64, 64),
    **fields.buckets(4, "Training pairs with more tokens on either side are dropped; 0 keeps all."),
    "data.short_first": Field(False, "Order the training pairs from short to long in the first epoch."),
    **fields.tokenizer(("char", "word", "subword"), "subword", max_size=False),
    "tokenizer.joint": Field(False, "Use one vocabulary for source and target."),
    **fields.recurrent(
        256, 256, cell="gru", units="Units of each encoder direction and the decoder, H.", layers="Layers of each.",
        embedding="Width of the embeddings, E.",
    ),
    "model.attention": Field("luong_general", "Attention of the decoder over the source.", one_of(*ATTENTIONS)),
    "model.input_feeding": Field(False, "Luong attention: feed the attentional vector into the next step."),
    **fields.dropouts(
        dropout=(0.0, "on embeddings, between layers and before the softmax"),
        recurrent_dropout=(0.0, "on the encoder's recurrent product, one mask for all steps"),
    ),
    "model.scheduled_sampling": Field(0.0, "Scheduled sampling: fraction of own predictions as inputs.", fields.SHARE),
    "model.share_embeddings": Field(False, "Source and target share one embedding.", when=("tokenizer.joint", (True,))),
    "model.tie_embeddings": Field(False, "The softmax shares the target embedding's weights."),
    **fields.label_smoothing("each target", "the vocabulary"),
    **fields.criterion("bleu", "exact", "loss"),
    **recipe.RECURRENT_FIELDS,
}  # fmt: skip

_MULTI30K = {
    "data.source": "file", "data.name": "multi30k", "data.max_length": 60, "tokenizer.joint": True,
    "model.hidden_size": 512, "model.embed_size": 256, "model.dropout": 0.4, "model.share_embeddings": True,
    "model.tie_embeddings": True, "loss.label_smoothing": 0.1, "optimizer.learning_rate": 2e-3, "optimizer.ema": 0.998,
    "schedule.warmup_steps": 200, "train.epochs": 12.0, "train.log_every": 100, "train.eval_every": 454,
    "train.checkpoint_every": 227,
}  # fmt: skip

PRESETS = {
    # Written dates of 32 languages to ISO dates, character by character: minutes on two cores, nothing to download.
    "dates": {
        "data.batch_size": 64, "data.eval_batch_size": 256, "tokenizer.kind": "char", "model.hidden_size": 128,
        "model.embed_size": 64, "criterion": "exact", "optimizer.learning_rate": 3e-3, "schedule.warmup_steps": 100,
        "train.epochs": 3.0, "train.log_every": 200, "train.eval_every": 600, "train.checkpoint_every": 300,
    },
    # Stories of up to 20 sentences with a question, answered in words: nothing to download.
    "stories": {
        "data.name": "stories", "data.batch_size": 32, "data.eval_batch_size": 256, "data.buckets": 5,
        "data.short_first": True, "tokenizer.kind": "word", "tokenizer.joint": True, "model.hidden_size": 64,
        "model.embed_size": 64, "model.attention": "bahdanau", "model.share_embeddings": True,
        "model.tie_embeddings": True, "criterion": "exact", "optimizer.learning_rate": 1e-2, "train.epochs": 4.0,
        "schedule.warmup_steps": 100, "train.log_every": 500, "train.eval_every": 1875, "train.checkpoint_every": 1875,
    },
    # Multi30k, German to English: set data.path and its five companions.
    "multi30k": _MULTI30K | {"model.input_feeding": True},
    # The same without attention, for comparison.
    "multi30k_no_attention": _MULTI30K | {"model.attention": "none", "model.embed_size": 512},
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the pairs."""

    tokenizers: list[dict[str, Any]]  # of the source and the target
    boundaries: list[int]  # the buckets' lengths


def load(config: ConfigDict) -> Dataset:
    """Reads the pairs that a config names."""
    return run.with_settings(load_parallel, config.data)


@functools.lru_cache(maxsize=2)  # the training part is asked for twice
def encode(tokenizers: tuple[Any, Any], pairs: Records, limit: int = 0) -> PairTokens:
    """Pairs as token ids, except those longer than the limit, unless it is 0."""
    tokens = PairTokens.encode(pairs["source"], pairs["target"], *(tokenizer.encode for tokenizer in tokenizers))
    return tokens.take(run.short_enough(tokens.lengths(), limit, "pairs"))


def prepare(config: ConfigDict, data: Dataset) -> Spec:
    """Fits the tokenizers and chooses the buckets, on the training part."""
    pairs = data.parts["train"]
    tokenizers = run.with_settings(fit_pair, config.tokenizer, pairs["source"], pairs["target"])
    lengths = encode(tuple(tokenizers), pairs, config.data.max_length).lengths()
    return Spec([fitted.to_dict() for fitted in tokenizers], list(choose_boundaries(lengths, config.data.buckets)))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """A bidirectional encoder, a decoder that may look back at it, and a softmax over the target's vocabulary."""
    m, dtype, tokenizers = config.model, run.compute_dtype(config), [tokenizer_from_dict(d) for d in spec.tokenizers]
    encoder = run.make_stack(config, bidirectional=True, input_dropout=0.0)
    layers = tuple(make_cell(m.cell, m.hidden_size, dtype=dtype) for _ in range(m.num_layers))
    model = Seq2Seq(
        *(tokenizer.vocab_size for tokenizer in tokenizers), encoder, layers, m.embed_size,
        make_attention(m.attention, m.hidden_size), m.input_feeding, dropout=m.dropout,
        share_embeddings=m.share_embeddings, tie_embeddings=m.tie_embeddings, dtype=dtype,
    )  # fmt: skip

    def loss(params, model_state, carry, batch, rng):
        noise, samples = {}, None
        if rng is not None:
            dropout, choice = jax.random.split(rng)
            noise = {"train": True, "rngs": {"dropout": dropout}}
            share = m.scheduled_sampling
            samples = jax.random.bernoulli(choice, share, batch.inputs.shape) if share else None
        sides = batch.source, batch.source_lengths, batch.inputs
        out = model.apply({"params": params}, *sides, samples=samples, **noise)
        smoothing = config.loss.label_smoothing if noise else 0.0
        sums = losses.token_cross_entropy(out.logits, batch.targets, batch.mask, smoothing=smoothing)
        correct = (jnp.argmax(out.logits, axis=-1) == batch.targets) & batch.mask
        return carry, model_state, sums._replace(counts={"token_accuracy": jnp.sum(correct, dtype=jnp.float32)})

    one, size = np.ones((1, 1), np.int32), config.data.eval_batch_size
    tools = TextTranslator(model, *tokenizers, batch_size=size, boundaries=spec.boundaries)
    metric = metrics.token_loss(perplexity=losses.perplexity)
    return run.Model(model, lambda key: model.init(key, one, one[0], one), loss, metric, tools=tools)


def batches(config: ConfigDict, spec: Spec, pairs: Records, training: bool) -> Any:
    """Pairs of about the same length together."""
    tokens = encode(tuple(map(tokenizer_from_dict, spec.tokenizers)), pairs, config.data.max_length if training else 0)
    make, first = collate_pairs(*tokens, BOS, EOS), config.data.short_first
    return run.bucketed(config, tokens.lengths(), make, spec.boundaries, training, short_first=first)


def validate(trained: run.Trained, pairs: Records, found: dict[str, float]) -> dict[str, float]:
    """Also scores BLEU and exact matches of greedy decoding, and derives the error from the criterion."""
    outputs = trained.model.tools.greedy(trained.params, pairs["source"])
    exact = metrics.exact_match(outputs, pairs["target"]) / len(outputs)
    found = found | {"bleu": metrics.corpus_bleu(outputs, pairs["target"]).score, "exact": exact}
    errors = {"bleu": 1 - found["bleu"] / 100, "exact": 1 - exact}
    criterion = trained.config.criterion
    return found | ({"error": errors[criterion]} if criterion in errors else {})


def sample(trained: run.Trained, data: Dataset) -> str:
    """Three validation translations, different ones at each evaluation."""
    rows = list(zip(data.parts["validation"]["source"], data.parts["validation"]["target"]))
    rows = rows[(start := 3 * trained.step % len(rows)) : start + 3]
    outputs = trained.model.tools.greedy(trained.params, [source for source, _ in rows])
    return "\n".join(f"{source} -> {output} ({target})" for (source, target), output in zip(rows, outputs))


def describe(config: ConfigDict, spec: Spec, data: Dataset, model: run.Model) -> list[str]:
    """The vocabularies."""
    return [f"vocabularies: {model.tools.source.vocab_size:,} and {model.tools.target.vocab_size:,}"]


def baselines(config: ConfigDict, data: Dataset, split: str) -> dict[str, dict[str, Any]]:
    """Copying the source; for stories, the simplest answers."""
    part, train = data.parts[split], data.parts["train"]
    simple = simple_answers(train, part) if "kind" in part else {"source copied": part["source"]}
    return {name: scores.translation(outputs, part["target"]) for name, outputs in simple.items()}


def evaluate(trained: run.Trained, data: Dataset, split: str, options: run.Options) -> run.Report:
    """Loss, BLEU, chrF and exact matches of beam search, with the baselines; exact matches by group."""
    pairs, how = data.parts[split], {"width": options.beam, "length_penalty": options.length_penalty}
    sources, targets = pairs["source"], pairs["target"]
    best = [row[0] for row in trained.model.tools.beam(trained.params, sources, **how)]
    outputs = [translation.text for translation in best]
    model = run.measure(EXPERIMENT, trained, pairs) | scores.translation(outputs, targets)
    notes = [f"beam {options.beam}; sacrebleu {metrics.corpus_bleu(outputs, targets).signature}"]
    notes += scores.group_lines(pairs, [output == target for output, target in zip(outputs, targets)])
    rows = (dict(zip(("source", "target", "output"), row)) for row in zip(sources, targets, outputs))
    return run.Report({"model": model} | baselines(trained.config, data, split), rows, notes, best)


def pictures(trained: run.Trained, data: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots the attention."""
    return draw_attention(trained, folder / f"attention_{split}.png", data.parts[split]["source"], report.answers)


def draw_attention(trained: run.Trained, path: Any, sources: Sequence[str], found: list[Translation]) -> Any:
    """Plots the attention for the first six sources."""
    shown = [] if trained.config.model.attention == "none" else sources[:6]
    if maps := trained.model.tools.attention(trained.params, shown, found):
        yield sequences.show_attention(path, maps)


def predict(trained: run.Trained, options: run.Options) -> None:
    """Translates --input, line by line."""
    if options.attention and trained.config.model.attention == "none":
        raise UserError("this model has no attention to draw; leave --attention out")
    how = {"width": options.beam, "length_penalty": options.length_penalty, "n_best": options.n_best}
    found = trained.model.tools.beam(trained.params, options.input, **how)
    for source, rows in zip(options.input, found):
        run.print_translations(source, rows, options.format, options.n_best)
    if options.attention:
        print(*draw_attention(trained, options.attention, options.input, [rows[0] for rows in found]), file=sys.stderr)


SEARCH, PREDICT = ("evaluate", "predict"), ("predict",)

EXPERIMENT = run.Experiment.of(
    __name__, preset="dates", records="pairs",
    criterion=lambda config: "loss" if config.criterion == "loss" else "error",
    curve_labels=lambda config, _: {"error": "pairs not exact" if config.criterion == "exact" else "1 - BLEU / 100"},
    modes={"predict": predict},
    flags=run.prediction_flags("sources", "source") | {
        "beam": Flag(5, "beam size: hypotheses kept at each step; 1 is greedy.", SEARCH, at_least(1)),
        "length_penalty": Flag(1.0, "0 favours short outputs, larger values longer ones.", SEARCH, at_least(0)),
        "n_best": Flag(1, "number of translations per source.", PREDICT, at_least(1)),
        "attention": Flag("", "plot the attention for the first six sources to this PNG file.", PREDICT),
    },
)  # fmt: skip

if __name__ == "__main__":
    run.main(EXPERIMENT)
