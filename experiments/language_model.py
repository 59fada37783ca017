r"""A recurrent language model: train on text, resume exactly, sample, score.

Papers: Zaremba, Sutskever and Vinyals 2014, "Recurrent Neural Network Regularization" (arXiv:1409.2329);
Karpathy, Johnson and Fei-Fei 2015, "Visualizing and Understanding Recurrent Networks" (arXiv:1506.02078).

    python -m experiments.language_model --workdir=/tmp/lm
        trains on Python's documentation, character by character: 3 minutes on two cores, validation loss 1.24 nats
        (tiny Shakespeare, 1 MB: 1.47 nats in the same time; with the preset char_large 1.44 in 20 minutes)
    python -m experiments.language_model --workdir=/tmp/lm --config.data.source=file --config.data.path=book.txt
        trains on your own text
    python -m experiments.language_model --workdir=/tmp/lm --mode=sample --prompt="The " --num_samples=4
    python -m experiments.language_model --workdir=/tmp/lm --mode=score --text="the apple and pear salad" --text="..."
    python -m experiments.language_model --workdir=/tmp/lm --mode=evaluate --split=test
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data import TokenStream, Windows, encode_corpus, load_corpus
from seqjax.data.sources import SOURCES
from seqjax.decoding import scoring
from seqjax.decoding.text import TextSampler, check_known, score_texts
from seqjax.errors import UserError
from seqjax.models import LanguageModel
from seqjax.run import Field, Flag, above, at_least, fields, one_of, recipe, within
from seqjax.run.baselines import ngram
from seqjax.text import BOS, EOS, PAD, UNK, fit_tokenizer, tokenizer_from_dict
from seqjax.training import losses, metrics

FIELDS = {
    **fields.seed("the dropout and the samples"),
    **fields.source(
        "text",
        SOURCES,
        name="python_docs",
        names="Embedded text (python_docs, python_source, hello) or TFDS dataset, or a name for your file.",
        path="Text file: .txt, or .jsonl with a field `text`; optionally .gz or .zst.",
        validation_path="Validation file; if empty, the end of data.path is held out.",
        test_path="Test file, read by --mode=evaluate --split=test.",
        held_out="text to hold out if there is no validation file",
    ),
    "data.documents": Field(
        "none", "Documents: the whole file, lines or paragraphs.", one_of("none", "line", "paragraph"), when=fields.FILE
    ),
    **fields.encoding(),
    "data.reset": Field(
        True, "Reset the carry at the start of each document; False reads on, with <eos> as an ordinary token."
    ),
    **fields.windows(32, 64, 256),
    **fields.tokenizer(("char", "word"), "char"),
    "tokenizer.pretokenized": Field(
        False, "Split words at spaces only; <unk> in the text is the unknown token.", when=("tokenizer.kind", ("word",))
    ),
    "ngram_order": Field(6, "Order of the Kneser-Ney n-gram baseline; 0: none.", at_least(0), free=True),
    **fields.recurrent(256, 64, units="Hidden units per layer, H."),
    **fields.dropouts(
        dropout=(0.0, "between the layers and on the outputs of the last"),
        embed_dropout=(0.0, "on the embedding, the first layer's inputs"),
    ),
    "model.residual": Field(False, "Residual connections: layers above the first add their inputs to their outputs."),
    "model.tie_embeddings": Field(
        False, "The softmax shares the embedding's weights (needs embed_size = hidden_size)."
    ),
    "model.remat_every": Field(
        0, "Gradient checkpointing: keep every n-th carry and recompute the rest; 0 keeps all.", at_least(0)
    ),
    **recipe.RECURRENT_FIELDS,
    **fields.samples(200, 0.8),
}

_MUON = {"optimizer.name": "muon", "optimizer.muon_rate": 0.04, "schedule.warmup_steps": 50}
# Zaremba et al. sum the loss over 35 steps, we take the mean: their rate of 1 and clipping at 5 are 35 and 5 / 35.
_WORDS = {
    "tokenizer.kind": "word", "ngram_order": 5, "data.batch_size": 20, "data.window": 35, "data.eval_batch_size": 20,
    "data.eval_window": 35, "model.num_layers": 2, "optimizer.name": "sgd", "optimizer.learning_rate": 35.0,
    "optimizer.clip_norm": 5 / 35, "schedule.name": "hold_then_decay", "train.eval_every": 3000,
    "train.checkpoint_every": 1000, "sample.length": 60,
}  # fmt: skip

PRESETS = {
    # A toy: four letters, overfitted in seconds.
    "hello": {
        "data.name": "hello", "data.batch_size": 1, "data.window": 8, "data.eval_batch_size": 1, "data.eval_window": 8,
        "ngram_order": 2, "model.cell": "rnn", "model.hidden_size": 32, "model.embed_size": 8, "train.steps": 600,
        "optimizer.learning_rate": 1e-2, "train.eval_every": 200, "sample.length": 20, "sample.temperature": 1.0,
    },
    # The README's: a small LSTM over characters, under three minutes on two cores.
    "char_small": _MUON | {"model.dropout": 0.2, "optimizer.learning_rate": 1.2e-2, "train.steps": 2500},
    # Characters, in about a quarter of an hour on two cores.
    "char_large": _MUON | {
        "model.hidden_size": 384, "model.num_layers": 2, "model.embed_size": 96, "model.dropout": 0.3,
        "data.batch_size": 64, "optimizer.learning_rate": 1e-2, "train.epochs": 9.0,
    },
    # Zaremba et al. 2014, small and medium: SGD, held and then lowered each epoch.
    "word_small": _WORDS | {
        "model.hidden_size": 200, "model.embed_size": 200, "model.dropout": 0.2, "model.embed_dropout": 0.2,
        "schedule.hold_epochs": 4, "schedule.decay": 0.5, "train.epochs": 13.0,
    },
    "word_medium": _WORDS | {
        "model.hidden_size": 650, "model.embed_size": 650, "model.dropout": 0.5, "model.embed_dropout": 0.5,
        "schedule.hold_epochs": 6, "schedule.decay": 1 / 1.2, "train.epochs": 39.0,
    },
    # As word_medium, made for a GPU: more streams, Adam, and one matrix for the words that go in and come out.
    "word_gpu": _WORDS | {
        "model.hidden_size": 650, "model.embed_size": 650, "model.dropout": 0.5, "model.embed_dropout": 0.5,
        "model.tie_embeddings": True, "data.batch_size": 64, "data.window": 70, "optimizer.name": "adam",
        "optimizer.learning_rate": 2e-3, "optimizer.clip_norm": 0.25, "schedule.name": "cosine",
        "schedule.warmup_steps": 200, "train.epochs": 30.0, "train.eval_every": 1000, "train.checkpoint_every": 2000,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the text."""

    tokenizer: dict[str, Any]
    ends: bool  # <eos> ends a document, and the model predicts it


class Text(NamedTuple):
    """The data as the model reads them; the length of a stream is its number of tokens."""

    name: str
    parts: Mapping[str, TokenStream]
    fingerprint: str  # of all streams
    spec: Spec
    notes: tuple[str, ...] = ()
    made_from: Mapping[str, str] = {}
    files: Mapping[str, str] = {}


def load(config: ConfigDict) -> Text:
    """Reads the corpus and turns it into streams of tokens, with a tokenizer fitted on the training part."""
    corpus = run.with_settings(load_corpus, config.data)
    lines = not config.tokenizer.pretokenized  # there words are separated by spaces, and a line end counts as a space
    tokenizer = run.with_settings(fit_tokenizer, config.tokenizer, texts=corpus.parts["train"]["text"], newlines=lines)
    streams, fingerprint = encode_corpus(corpus, tokenizer, eos_id=EOS, reset=config.data.reset)
    spec = Spec(tokenizer.to_dict(), corpus.facts["ends"])
    return Text(corpus.name, streams, fingerprint, spec, corpus.notes, corpus.made_from, corpus.files)


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """An embedding, a stack of recurrent layers and a softmax; the carry passes from window to window."""
    m, tokenizer, dtype = config.model, tokenizer_from_dict(spec.tokenizer), run.compute_dtype(config)
    cell = run.make_stack(config, input_dropout=m.embed_dropout)
    model = LanguageModel(tokenizer.vocab_size, cell, m.embed_size, m.dropout, m.tie_embeddings, dtype)

    def loss(params, model_state, carry, batch, rng):
        noise = {} if rng is None else {"rngs": {"dropout": rng}}
        carry, logits = model.apply(
            {"params": params}, batch.inputs, carry, resets=batch.resets, train=rng is not None,
            remat_every=m.remat_every or None, **noise,
        )  # fmt: skip
        return carry, model_state, losses.token_cross_entropy(logits, batch.targets, batch.mask)

    return run.Model(
        module=model,
        init=lambda key: model.init(key, np.zeros((1, 1), np.int32)),
        loss=loss,
        metric=metrics.token_loss(**derived(config)),
        initial_carry=model.initial_carry,
        tools=tokenizer,
    )


def derived(config: ConfigDict) -> dict[str, Any]:
    """Metrics derived from the loss."""
    return {"bits_per_character": losses.bits} if config.tokenizer.kind == "char" else {"perplexity": losses.perplexity}


def batches(config: ConfigDict, spec: Spec, stream: TokenStream, training: bool) -> Any:
    """Windows of B parallel streams; a window of 0 takes each stream whole: full backpropagation through time."""
    d = config.data
    if not training:
        whole = Windows(stream, d.eval_batch_size, d.eval_window, bos_id=BOS, pad_id=PAD)
        return run.passes(lambda index=0, count=1: (whole.shard(index, count) if count > 1 else whole).one_pass())
    window, minimum = d.window or -(-len(stream) // d.batch_size), d.batch_size * d.window or d.batch_size
    return Windows(stream, d.batch_size, window, bos_id=BOS, pad_id=PAD, minimum=minimum)


def baselines(config: ConfigDict, text: Text, split: str) -> dict[str, dict[str, float]]:
    """An n-gram model over the same tokens."""
    if not config.ngram_order:
        return {}
    vocab_size = tokenizer_from_dict(text.spec.tokenizer).vocab_size
    name, nats = ngram(text.parts["train"], text.parts[split], order=config.ngram_order, vocab_size=vocab_size)
    return {name: {"loss": nats} | {name: of(nats) for name, of in derived(config).items()}}


def describe(config: ConfigDict, spec: Spec, text: Text, model: run.Model) -> list[str]:
    """Lines on types and coverage of each part, and on unknown tokens in the prompt of the samples."""
    counts = {part: stream.counts(model.tools.vocab_size) for part, stream in text.parts.items()}
    lines = [f"  {part}: {(c > 0).sum():,} types, coverage {1 - c[UNK] / c.sum():.2%}" for part, c in counts.items()]
    lines.append(f"cell: {model.module.cell.name}, vocabulary {model.tools.vocab_size:,}")
    prompt = check_known(model.tools, config.sample.prompt, "config.sample.prompt") if config.sample.length else ""
    return lines + ([prompt] if prompt else [])


def sample(trained: run.Trained, text: Text) -> str:
    """The sample shown at evaluations, seeded by the step."""
    s, key = trained.config.sample, jax.random.fold_in(jax.random.key(trained.config.seed), trained.step)
    return _sampler(trained)(trained.params, key, s.prompt, length=s.length, temperature=s.temperature)[0]


def _sampler(trained: run.Trained) -> TextSampler:
    how = {"ends": trained.spec.ends, "reset": trained.config.data.reset}
    return TextSampler(trained.model.module, trained.model.tools, **how)


def draw_samples(trained: run.Trained, options: run.Options) -> None:
    """Prints texts that begin with --prompt."""
    if unknown := check_known(trained.model.tools, options.prompt, "the prompt"):
        print(unknown)
    how = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
    key, size = jax.random.key(options.seed), {"number": options.num_samples, "length": options.length}
    for place, text in enumerate(_sampler(trained)(trained.params, key, options.prompt, **size, **how), 1):
        print(f"--- sample {place}\n{run.printable(text)}")


def score(trained: run.Trained, options: run.Options) -> None:
    """Prints each --text with its log-probability and perplexity, most likely first."""
    if not options.text:
        raise UserError('--mode=score needs a text: give --text="..." once per text')
    for unknown in filter(None, (check_known(trained.model.tools, text, f"--text={text!r}") for text in options.text)):
        print(unknown)
    how = {"ends": trained.spec.ends, "reset": trained.config.data.reset}
    scores = score_texts(trained.model.module, trained.params, trained.model.tools, options.text, **how)
    print("rank  log-probability  perplexity  text")
    for place, i in enumerate(scoring.rank(scores), 1):
        text = run.printable(options.text[i])
        print(f"{place:>4}  {scores.log_prob[i]:>15.3f}  {scores.perplexity[i]:>10.3f}  {text}")


SAMPLE, SCORE = ("sample",), ("score",)

EXPERIMENT = run.Experiment.of(
    __name__,
    preset="char_small",
    records="text",
    prepare=lambda config, text: text.spec,
    modes={"sample": draw_samples, "score": score},
    flags={
        "prompt": Flag("", "the text to continue.", SAMPLE),
        "temperature": Flag(0.8, "0 is greedy, below 1 safer, above 1 more random.", SAMPLE, at_least(0)),
        "top_k": Flag(0, "sample from the k most likely tokens only; 0: from all.", SAMPLE, at_least(0)),
        "top_p": Flag(1.0, "sample from the most likely tokens that together have this probability.", SAMPLE, above(0)),
        "num_samples": Flag(1, "how many.", SAMPLE, at_least(1)),
        "length": Flag(400, "maximum number of tokens.", SAMPLE, at_least(1)),
        "seed": Flag(0, "random seed of the samples.", SAMPLE, within(0, 2**32)),
        "text": Flag([], "a text to score; repeat the flag to rank several.", SCORE),
    },
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
