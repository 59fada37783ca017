r"""Translation with encoder and decoder: train, resume exactly, score with BLEU, see where attention looks, translate.

Papers: Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning with Neural Networks" (arXiv:1409.3215); Bahdanau, Cho
and Bengio 2014, "Neural Machine Translation by Jointly Learning to Align and Translate" (arXiv:1409.0473); Luong, Pham and
Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation" (arXiv:1508.04025).

    python -m experiments.translation --workdir=/tmp/dates
        learns to read dates written in 32 languages: minutes on two cores
    python -m experiments.translation --workdir=/tmp/dates --mode=evaluate --split=test
        BLEU, chrF, exact matches; attention_test.png and outputs_test.jsonl in the work directory
    echo "7. März 2024" | python -m experiments.translation --workdir=/tmp/dates --mode=predict --n_best=3
    python -m experiments.translation --workdir=/tmp/m30k --config=multi30k \
        --config.data.path=train.de.gz --config.data.target_path=train.en.gz \
        --config.data.validation_path=val.de.gz --config.data.validation_target_path=val.en.gz \
        --config.data.test_path=test_2016_flickr.de.gz --config.data.test_target_path=test_2016_flickr.en.gz
"""

import functools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.buckets import choose_boundaries, within_limit
from seqjax.data.collate import collate_pairs
from seqjax.data.parallel import SOURCES, Pairs, ParallelSet, load_parallel
from seqjax.data.tables import read_inputs
from seqjax.decoding.translation import Hypothesis, Translator
from seqjax.diagnostics import sequences
from seqjax.errors import UserError
from seqjax.models import make_cell, make_stack
from seqjax.models.seq2seq import ATTENTIONS, Seq2Seq, make_attention
from seqjax.run import Field, Flag, at_least, fields, one_of, recipe, within
from seqjax.text import BOS, EOS, fit_tokenizer, tokenizer_from_dict
from seqjax.training import losses, metrics

FIELDS = {
    **fields.seed("the order of the pairs and the dropout"),
    **fields.source(
        "pairs", SOURCES, name="dates",
        names="The embedded set (dates) or TFDS set (ted_hrlr_translate/pt_to_en, ...); for files what to call them.",
        path="Text file of the sources, a line each, for source=file; may be .gz.",
        validation_path="Sources of the validation part; without it a share of the training is held out.",
        test_path="Sources of the test part, read by --mode=evaluate --split=test.",
        held_out="training pairs held out where there is no validation part", fraction=0.05,
    ),
    **fields.split_seed(),
    "data.target_path": Field("", "Text file of their translations, line by line.", when=fields.FILE),
    "data.validation_target_path": Field("", "Their translations.", when=fields.FILE),
    "data.test_target_path": Field("", "Their translations.", when=fields.FILE),
    "data.source_language": Field("", "Of a TFDS set; empty for its own choice.", when=fields.TFDS),
    "data.target_language": Field("", "Of a TFDS set; empty for its own choice.", when=fields.TFDS),
    **fields.batches("pairs", 64, 64),
    **fields.buckets(4, "Training pairs with more tokens on a side are left out; 0 keeps all."),
    **fields.tokenizer(("char", "word", "subword"), "subword", max_size=False),
    "tokenizer.joint": Field(False, "One vocabulary for both sides."),
    **fields.recurrent(
        256, 256, cell="gru", units="Units of each encoder direction and of the decoder, H.", layers="Layers of each.",
        embedding="Width of the embeddings, E.",
    ),
    "model.attention": Field("luong_general", "How the decoder looks at the source.", one_of(*ATTENTIONS)),
    "model.input_feeding": Field(False, "Luong's kinds: the attentional vector goes into the next step too."),
    **fields.dropouts(
        dropout=(0.0, "on embeddings, between layers and before the softmax"),
        recurrent_dropout=(0.0, "on the encoder's recurrent product, one mask for all steps"),
    ),
    "model.scheduled_sampling": Field(0.0, "Share of the decoder's inputs that are its own choices in training.", within(0.0, 1.0)),
    "model.share_embeddings": Field(False, "Source and target have one embedding.", when=("tokenizer.joint", (True,))),
    "model.tie_embeddings": Field(False, "The softmax shares the target embedding's weights."),
    **fields.label_smoothing("each target", "the vocabulary"),
    **fields.criterion("bleu", "exact", "loss"),
    **recipe.FIELDS,
}  # fmt: skip

_MULTI30K = {
    "data.source": "file", "data.name": "multi30k", "data.max_length": 60, "tokenizer.joint": True, "model.hidden_size": 512,
    "model.embed_size": 256, "model.dropout": 0.4, "model.share_embeddings": True, "model.tie_embeddings": True,
    "loss.label_smoothing": 0.1, "optimizer.learning_rate": 2e-3, "optimizer.ema": 0.998, "schedule.warmup_steps": 200,
    "train.epochs": 12.0, "train.log_every": 100, "train.eval_every": 454, "train.checkpoint_every": 227,
}  # fmt: skip

PRESETS = {
    # Written dates of 32 languages to ISO dates, character by character: minutes on two cores, nothing to download.
    "dates": {
        "data.batch_size": 64, "data.eval_batch_size": 256, "tokenizer.kind": "char", "model.hidden_size": 128,
        "model.embed_size": 64, "criterion": "exact", "optimizer.learning_rate": 3e-3, "schedule.warmup_steps": 100,
        "train.epochs": 3.0, "train.log_every": 200, "train.eval_every": 600, "train.checkpoint_every": 300,
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


class Tools(NamedTuple):
    """What the model translates with."""

    source: Any  # tokenizer
    target: Any
    translator: Translator


def load(config: ConfigDict) -> ParallelSet:
    """Reads the pairs that a config names."""
    d = config.data
    return load_parallel(
        d.source, name=d.name, path=d.path, target_path=d.target_path, validation_path=d.validation_path,
        validation_target_path=d.validation_target_path, test_path=d.test_path, test_target_path=d.test_target_path,
        data_dir=d.data_dir, source_language=d.source_language, target_language=d.target_language,
        validation_fraction=d.validation_fraction, seed=d.seed,
    )  # fmt: skip


class Tokens(NamedTuple):
    """Pairs as token ids."""

    source: list[np.ndarray]
    target: list[np.ndarray]

    def lengths(self) -> np.ndarray:
        """Of the buckets that the pairs need: the longer side, the target with <eos>."""
        return np.array([max(len(source), len(target) + 1) for source, target in zip(*self)])


def encode(config: ConfigDict, tokenizers: list[dict[str, Any]], pairs: Pairs, training: bool) -> Tokens:
    """Pairs as token ids; without those that are too long, in training."""
    source, target = map(tokenizer_from_dict, tokenizers)
    tokens = Tokens([source.encode(text) for text in pairs.source], [target.encode(text) for text in pairs.target])
    if not training:
        return tokens
    keep = within_limit(tokens.lengths(), config.data.max_length, "pairs")
    return Tokens(*([side[i] for i in keep] for side in tokens))


def prepare(config: ConfigDict, data: ParallelSet) -> Spec:
    """Fits the tokenizers and chooses the buckets, on the training part."""
    t, pairs = config.tokenizer, data.parts["train"]
    fit = functools.partial(fit_tokenizer, t.kind, vocab_size=t.vocab_size, min_count=t.min_count, lower=t.lower)
    both = [fit([*pairs.source, *pairs.target])] * 2 if t.joint else [fit(pairs.source), fit(pairs.target)]
    tokenizers = [tokenizer.to_dict() for tokenizer in both]
    lengths = encode(config, tokenizers, pairs, training=True).lengths()
    return Spec(tokenizers, list(choose_boundaries(lengths, config.data.buckets)))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """A bidirectional encoder, a decoder that may look back at it, and a softmax over the target's vocabulary."""
    m, dtype, tokenizers = config.model, run.compute_dtype(config), [tokenizer_from_dict(d) for d in spec.tokenizers]
    encoder = make_stack(
        m.cell, m.hidden_size, m.num_layers, dropout=m.dropout, input_dropout=0.0,
        recurrent_dropout=m.recurrent_dropout, bidirectional=True, dtype=dtype,
    )  # fmt: skip
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
        out = model.apply({"params": params}, batch.source, batch.source_lengths, batch.inputs, samples=samples, **noise)
        smoothing = config.loss.label_smoothing if noise else 0.0
        sums = losses.token_cross_entropy(out.logits, batch.targets, batch.mask, smoothing=smoothing)
        correct = (jnp.argmax(out.logits, axis=-1) == batch.targets) & batch.mask
        return carry, model_state, sums._replace(counts={"token_accuracy": jnp.sum(correct, dtype=jnp.float32)})

    one = np.ones((1, 1), np.int32)
    translator = Translator(model, batch_size=config.data.eval_batch_size, boundaries=spec.boundaries)
    return run.Model(model, lambda key: model.init(key, one, one[0], one), loss, tools=Tools(*tokenizers, translator))


def batches(config: ConfigDict, spec: Spec, pairs: Pairs, training: bool) -> Any:
    """Pairs of about the same length together."""
    tokens = encode(config, spec.tokenizers, pairs, training)
    return run.bucketed(config, tokens.lengths(), collate_pairs(*tokens, BOS, EOS), spec.boundaries, training)


def greedy(trained: run.Trained, sources: list[str]) -> list[str]:
    """The likeliest token at each step."""
    source, target, translator = trained.model.tools
    return [target.decode(ids) for ids in translator.greedy(trained.params, [source.encode(text) for text in sources])]


def translate(trained: run.Trained, sources: list[str], options: run.Options, n_best: int = 1) -> list[list[Hypothesis]]:
    """The n-best translations of each source, by beam search."""
    source, _, translator = trained.model.tools
    tokens, how = [source.encode(text) for text in sources], {"width": options.beam, "length_penalty": options.length_penalty}
    return translator.beam(trained.params, tokens, n_best=n_best, **how)


def validate(trained: run.Trained, pairs: Pairs, found: dict[str, float]) -> dict[str, float]:
    """Perplexity, BLEU and exact matches of greedy decoding, and the error that the criterion makes of them."""
    outputs = greedy(trained, list(pairs.source))
    exact = metrics.exact_match(outputs, pairs.target) / len(outputs)
    scores = {"bleu": metrics.corpus_bleu(outputs, pairs.target).score, "exact": exact}
    if trained.config.criterion != "loss":
        scores["error"] = 1 - (exact if trained.config.criterion == "exact" else scores["bleu"] / 100)
    return {"loss": found["loss"], "perplexity": losses.perplexity(found["loss"])} | found | scores


def sample(trained: run.Trained, data: ParallelSet) -> str:
    """Three translations of the validation part, others at each evaluation."""
    pairs = data.parts["validation"]
    start = 3 * trained.step % len(pairs.source)
    rows = list(zip(pairs.source, pairs.target))[start : start + 3]
    outputs = greedy(trained, [source for source, _ in rows])
    return "\n".join(f"{source} -> {output} ({target})" for (source, target), output in zip(rows, outputs))


def describe(config: ConfigDict, spec: Spec, data: ParallelSet, model: run.Model) -> list[str]:
    """The vocabularies."""
    return [f"vocabularies: {model.tools.source.vocab_size:,} and {model.tools.target.vocab_size:,}"]


def scores(outputs: list[str], pairs: Pairs) -> dict[str, Any]:
    """What translations are worth."""
    found, right = metrics.corpus_bleu(outputs, list(pairs.target)), np.array(outputs) == np.array(pairs.target)
    return {"bleu": found.score, "chrf": found.chrf, "exact": run.accuracy(right)["accuracy"]}


def baselines(config: ConfigDict, data: ParallelSet, split: str) -> dict[str, dict[str, Any]]:
    """The source, copied."""
    return {"source copied": scores(list(data.parts[split].source), data.parts[split])}


def evaluate(trained: run.Trained, data: ParallelSet, split: str, options: run.Options) -> run.Report:
    """Loss, BLEU, chrF and exact matches of beam search beside the baseline; exact matches by language."""
    pairs = data.parts[split]
    best = [row[0] for row in translate(trained, list(pairs.source), options)]
    outputs = [trained.model.tools.target.decode(hypothesis.tokens) for hypothesis in best]
    loss = run.measure(EXPERIMENT, trained, pairs)["loss"]
    found = {"model": {"loss": loss, "perplexity": losses.perplexity(loss)} | scores(outputs, pairs)}
    found |= baselines(trained.config, data, split)
    notes = [f"beam {options.beam}; sacrebleu {metrics.corpus_bleu(outputs, list(pairs.target)).signature}"]
    if languages := data.languages.get(split):
        right: dict[str, list[bool]] = {}
        for language, output, target in zip(languages, outputs, pairs.target):
            right.setdefault(language, []).append(output == target)
        shares = sorted((np.mean(answers), language) for language, answers in right.items())  # the worst first
        notes.append(f"{len(shares)} languages: " + "  ".join(f"{language} {share:.1%}" for share, language in shares))
    rows = (dict(zip(("source", "target", "output"), row)) for row in zip(pairs.source, pairs.target, outputs))
    return run.Report(found, rows, notes, best)


def pictures(trained: run.Trained, data: ParallelSet, split: str, report: run.Report, folder: Any) -> list[Any]:
    """Where attention looked."""
    return draw_attention(trained, folder / f"attention_{split}.png", list(data.parts[split].source), report.answers)


def draw_attention(trained: run.Trained, path: Any, sources: list[str], found: list[Hypothesis]) -> list[Any]:
    """Where attention looked for the first six sources."""
    if trained.config.model.attention == "none":
        return []
    source, target, translator = trained.model.tools
    maps = []
    for text, best in list(zip(sources, found))[:6]:
        if len(tokens := source.encode(text)):
            weights = translator.attention(trained.params, tokens, best.tokens)
            maps.append((weights, [*(target.vocabulary[i] for i in best.tokens), "<eos>"], source.tokenize(text)))
    return [sequences.plot_attentions(path, maps)] if maps else []


def predict(trained: run.Trained, options: run.Options) -> None:
    """Translates --input, line by line."""
    if options.attention and trained.config.model.attention == "none":
        raise UserError("this model has no attention to draw; leave --attention out")
    sources = read_inputs(options.input)
    found = translate(trained, sources, options, options.n_best)
    for source, rows in zip(sources, found):
        texts = [trained.model.tools.target.decode(h.tokens) for h in rows]
        if options.format == "jsonl":
            answers = [{"text": text, "score": h.score, "log_prob": h.log_prob, "finished": h.finished} for text, h in zip(texts, rows)]
            run.print_json({"source": source, "translations": answers})
        elif options.n_best == 1:
            print(run.printable(texts[0]))
        else:
            print(run.printable(source) + "\n" + run.printable(sequences.n_best(texts, [h.score for h in rows])))
    if options.attention:
        for path in draw_attention(trained, options.attention, sources, [rows[0] for rows in found]):
            print(path, file=sys.stderr)


SEARCH, PREDICT = ("evaluate", "predict"), ("predict",)

EXPERIMENT = run.Experiment.of(
    __name__,
    preset="dates",
    records="pairs",
    criterion=lambda config: "loss" if config.criterion == "loss" else "error",
    modes={"predict": predict},
    flags=run.prediction_flags("sources", "source") | {
        "beam": Flag(5, "hypotheses that continue at each step; 1 is greedy.", SEARCH, at_least(1)),
        "length_penalty": Flag(1.0, "0 favours short outputs, more favours longer ones.", SEARCH, at_least(0)),
        "n_best": Flag(1, "how many translations of each source.", PREDICT, at_least(1)),
        "attention": Flag("", "a PNG file to draw attention into, of the first six sources.", PREDICT),
    },
)  # fmt: skip

if __name__ == "__main__":
    run.main(EXPERIMENT)
