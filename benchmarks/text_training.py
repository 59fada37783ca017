"""Is a training step of the text models as fast as in torch, on the same batches?

    python -m benchmarks.text_training [--cases=classifier,tagger,...] [--rounds=12] [--seconds=9]

One step is forward, loss, backward, clipping by the global norm and Adam, float32, with the models, the losses, the dropout
and the step of the experiments; torch has the same models in idiomatic form, with packed sequences and fused Adam
(benchmarks/torch_texts.py). `torch padded` runs its recurrent layers over the padding too, which changes the result of backward layers: it
shows the cost of packing. Tokens and lengths are random; four batches of one shape alternate, the same on all sides. All run in one
process, which keeps freed memory, in turn, in a new random order each round, two steps per turn, the second of which is timed; the first
call, which compiles, is reported separately. Before timing a case it checks that both have the same number of parameters. Cases of an
earlier run that are not measured now stay in the result.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax
from benchmarks import common, timing
from seqjax.data.pipeline.collate import PairBatch, TaggedBatch, TextBatch
from seqjax.models import make_stack
from seqjax.models.classifier import TextClassifier
from seqjax.models.seq2seq import Seq2Seq, make_attention
from seqjax.models.tagger import Tagger
from seqjax.training import losses, train_step

RATE, CLIP, BATCHES = 1e-3, 1.0, 4


class Text(NamedTuple):
    """A text classifier."""

    vocab: int = 20_000
    classes: int = 2
    embed: int = 100
    hidden: int = 128
    batch: int = 64
    steps: int = 235
    shortest: int = 176  # lengths are uniform from here to `steps`, as in one bucket
    dropout: float = 0.5


class Tags(NamedTuple):
    """A tagger with characters."""

    crf: bool
    vocab: int = 8000
    chars: int = 100
    tags: int = 17
    embed: int = 128
    char_embed: int = 32
    char_size: int = 128
    hidden: int = 192
    batch: int = 32
    steps: int = 24
    shortest: int = 16
    letters: int = 20
    dropout: float = 0.5


class Pairs(NamedTuple):
    """An encoder-decoder with a single embedding, tied to the softmax."""

    attention: str
    feeding: bool = False
    embed: int = 256
    vocab: int = 8000
    hidden: int = 512
    batch: int = 64
    steps: int = 16
    shortest: int = 11
    dropout: float = 0.3
    smoothing: float = 0.1


CASES = {
    "classifier": Text(),
    "tagger": Tags(crf=False),
    "tagger_crf": Tags(crf=True),
    "luong_feeding": Pairs("luong_general", feeding=True),
    "luong": Pairs("luong_general"),
    "bahdanau": Pairs("bahdanau"),
    "no_attention": Pairs("none", embed=512),
}


# Batches.


def make_batches(case: Any, seed: int = 0) -> list[Any]:
    """Batches of one shape; at least one sequence of each is of the full length."""
    rng = np.random.default_rng(seed)
    return [_make_batch(case, rng) for _ in range(BATCHES)]


def _lengths(case, rng) -> np.ndarray:
    lengths = rng.integers(case.shortest, case.steps + 1, case.batch, np.int32)
    lengths[0] = case.steps
    return lengths


def _ids(rng, vocab: int, lengths: np.ndarray, steps: int) -> np.ndarray:
    """Random ids past the special ones, 0 at padding."""
    ids = rng.integers(4, vocab, (*lengths.shape, steps), np.int32)
    return np.where(np.arange(steps) < lengths[..., None], ids, 0)


def _make_batch(case, rng):
    lengths = _lengths(case, rng)
    if isinstance(case, Text):
        labels = rng.integers(0, case.classes, case.batch, np.int32)
        return TextBatch(_ids(rng, case.vocab, lengths, case.steps), lengths, labels, np.ones(case.batch, bool))
    if isinstance(case, Tags):
        sizes = rng.integers(1, 13, (case.batch, case.steps)) * (np.arange(case.steps) < lengths[:, None])
        chars = _ids(rng, case.chars, sizes, case.letters)
        tags = rng.integers(0, case.tags, (case.batch, case.steps), np.int32)
        return TaggedBatch(_ids(rng, case.vocab, lengths, case.steps), chars, tags, lengths)
    written = _lengths(case, rng)
    targets = _ids(rng, case.vocab, written, case.steps)
    inputs = np.roll(targets, 1, axis=1)
    inputs[:, 0] = 2
    mask = np.arange(case.steps) < written[:, None]
    return PairBatch(_ids(rng, case.vocab, lengths, case.steps), lengths, np.where(mask, inputs, 0), targets, mask)


# Our side: the models and losses of the experiments.


def make_ours(case: Any) -> tuple[Any, Callable, tuple]:
    """The model, its loss for `make_train_step`, and the fields of a batch that its `init` takes."""
    if isinstance(case, Text):
        cell = make_stack("lstm", case.hidden, 1, input_dropout=case.dropout, bidirectional=True)
        model = TextClassifier(case.vocab, case.classes, cell, case.embed, "attention", True, case.dropout)
        return model, _text_loss, ("tokens", "lengths")
    if isinstance(case, Tags):
        cell = make_stack("lstm", case.hidden, 1, bidirectional=True)
        model = Tagger(
            case.vocab, case.tags, cell, case.embed, "cnn", case.chars, case.char_embed, case.char_size, case.crf,
            dropout=case.dropout, embed_dropout=case.dropout,
        )  # fmt: skip
        return model, _tag_loss, ("words", "chars", "lengths")
    encoder = make_stack("gru", case.hidden, 1, dropout=case.dropout, input_dropout=0.0, bidirectional=True)
    model = Seq2Seq(
        case.vocab, case.vocab, encoder, (seqjax.gru(case.hidden),), case.embed,
        make_attention(case.attention, case.hidden), case.feeding, dropout=case.dropout, share_embeddings=True,
        tie_embeddings=True,
    )  # fmt: skip
    return model, _pair_loss(case.smoothing), ("source", "source_lengths", "inputs")


def _text_loss(apply, batch):
    logits = apply(batch.tokens, batch.lengths).logits
    loss = losses.label_cross_entropy(logits, jax.nn.one_hot(batch.labels, logits.shape[-1]), batch.mask)
    correct = (jnp.argmax(logits, axis=-1) == batch.labels) & batch.mask
    return losses.Sums(loss, jnp.sum(batch.mask, dtype=jnp.float32), {"correct": jnp.sum(correct, dtype=jnp.float32)})


def _tag_loss(apply, batch):
    scores = apply(batch.words, batch.chars, batch.lengths)
    nats = apply(scores, batch.tags, batch.lengths, method="nats", train=None)
    return losses.Sums(jnp.sum(nats), jnp.sum(batch.lengths).astype(jnp.float32))


def _pair_loss(smoothing):
    def loss(apply, batch):
        logits = apply(batch.source, batch.source_lengths, batch.inputs).logits
        sums = losses.token_cross_entropy(logits, batch.targets, batch.mask, smoothing=smoothing)
        correct = (jnp.argmax(logits, axis=-1) == batch.targets) & batch.mask
        return sums._replace(counts={"token_accuracy": jnp.sum(correct, dtype=jnp.float32)})

    return loss


def our_step(case: Any, batches: list[Any]) -> tuple[Callable[[], float], int]:
    """A training step that keeps its state between calls and returns the loss; and the number of parameters."""
    model, loss, fields = make_ours(case)

    def loss_fn(params, model_state, carry, batch, rng):
        def apply(*arguments, train=True, **options):
            noise = {} if train is None else {"train": train, "rngs": {"dropout": rng}}
            return model.apply({"params": params}, *arguments, **noise, **options)

        return carry, model_state, loss(apply, batch)

    schedule, mesh = optax.constant_schedule(RATE), train_step.make_mesh(case.batch)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(schedule))
    params = jax.jit(model.init)(jax.random.key(0), *(getattr(batches[0], name) for name in fields))["params"]
    state = [train_step.init_state(params, (), optimizer, (), jax.random.key(0), mesh)]
    step = train_step.make_train_step(loss_fn, optimizer, schedule, mesh, clip_norm=CLIP)
    turns = itertools.cycle(jax.device_put(batches, train_step.batch_sharding(mesh)))

    def run() -> float:
        state[0], metrics = step(state[0], next(turns))
        jax.block_until_ready(state[0])
        return float(metrics.sums.loss / metrics.sums.tokens)

    return run, sum(leaf.size for leaf in jax.tree.leaves(params))


# Torch's side.


def torch_step(case: Any, batches: list[Any], packed: bool) -> tuple[Callable[[], float], int]:
    """The same in torch; of its two biases per gate only one is counted where we have one."""
    import torch

    from benchmarks import torch_texts

    torch.manual_seed(0)
    if isinstance(case, Text):
        sizes = (case.vocab, case.classes, case.embed, case.hidden, case.dropout, case.dropout)
        model, fields = torch_texts.Classifier(*sizes), ("tokens", "lengths", "labels")
    elif isinstance(case, Tags):
        sizes = (case.vocab, case.chars, case.tags, case.embed, case.char_embed, case.char_size, case.hidden)
        model = torch_texts.Tagger(*sizes, case.crf, case.dropout, case.dropout)
        fields = ("words", "chars", "tags", "lengths")
    else:
        sizes = (case.vocab, case.embed, case.hidden, case.attention, case.feeding, case.dropout, case.smoothing)
        model, fields = torch_texts.Seq2Seq(*sizes), ("source", "source_lengths", "inputs", "targets", "mask")
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)

    def as_torch(array):
        return torch.tensor(array, dtype=torch.bool if array.dtype == bool else torch.int64)

    turns = itertools.cycle([tuple(as_torch(getattr(batch, name)) for name in fields) for batch in batches])

    def run() -> float:
        torch_texts.PACK = packed
        optimizer.zero_grad()
        loss = model(*next(turns))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return run, sum(p.numel() - _doubled(name, p.numel()) for name, p in model.named_parameters())


def _doubled(name: str, size: int) -> int:
    """Biases that torch has twice and we once: all of the LSTM's, and those of two of the GRU's three gates."""
    if "bias_hh" not in name:
        return 0
    return size if name.startswith("rnn.") else size * 2 // 3


def sides(case: Any) -> dict[str, Callable[[], float]]:
    """The functions to time.

    Raises:
      ValueError: the two models have different numbers of parameters.
    """
    batches = make_batches(case)
    ours, our_size = our_step(case, batches)
    (theirs, their_size), (padded, _) = (torch_step(case, batches, packed) for packed in (True, False))
    if our_size != their_size:
        raise ValueError(f"ours has {our_size:,} parameters and torch's {their_size:,}: {case}")
    return {"ours": ours, "torch": theirs, "torch padded": padded}


def earlier_cases(name: str) -> dict[str, Any]:
    """The cases of an earlier saved result."""
    path = common.RESULTS / f"{name}.json"
    saved = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else {}
    return {case: saved[case] for case in CASES if case in saved}


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=timing.parse_names(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=9.0)
    parser.add_argument("--tag", default="", help="suffix of the result's name, so that a trial overwrites none")
    options = parser.parse_args()
    settings, cases = timing.prepare(), earlier_cases(f"text_training{options.tag}")
    for name in options.cases:
        times = timing.interleave(sides(CASES[name]), options.rounds, options.seconds, again=True)
        ratios = {
            f"{which} over {side}": times["ours"][which] / times[side][which]
            for side in times
            if side != "ours"
            for which in ("min", "median")
        }
        load = common.hardware()["load_average"]
        cases[name] = {"case": CASES[name]._asdict(), "milliseconds": times, "ours": ratios, "load_average": load}
        listed = "  ".join(f"{side} {row['min']:.1f} {row['median']:.1f}" for side, row in times.items())
        print(f"{name}: {listed} | {'  '.join(f'{name} {ratio:.2f}' for name, ratio in ratios.items())}", flush=True)
    names = list(next(iter(cases.values()))["ours"])
    means = {name: timing.geometric_mean(case["ours"][name] for case in cases.values()) for name in names}
    common.save(f"text_training{options.tag}", {
        "question": "time of a training step of the models of text against torch; below 1 ours is faster",
        "settings": settings, "geometric_mean_of_ours": means, "cases": cases,
    })  # fmt: skip


if __name__ == "__main__":
    main()
