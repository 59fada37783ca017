"""What does beam search cost per token, compared with greedy decoding?

    python -m benchmarks.beam [--width=5] [--length=32] [--rounds=20] [--seconds=12]

Both decode with the same encoder-decoder (bidirectional GRU, Luong's attention with input feeding, H = 512, E = 256, V = 8,000,
random parameters), from sources of 16 tokens already encoded, for 1 sequence and for 32. `<eos>` is banned, so that both
write exactly `length` tokens. `wide step` is greedy decoding of width times as many sequences: the decoder's own work for a beam, without
the search. Timed in turn, in a new random order each round; the first call, which compiles, is reported separately. Target: at most `width`
times greedy.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import seqjax
from benchmarks import common, timing
from seqjax.decoding import beam_search, greedy
from seqjax.models import make_stack
from seqjax.models.seq2seq import Seq2Seq, make_attention
from seqjax.text import BOS, EOS, PAD, UNK

VOCAB, EMBED, HIDDEN, SOURCE = 8000, 256, 512, 16
BATCHES = (1, 32)


def make_model(vocab: int = VOCAB, embed: int = EMBED, hidden: int = HIDDEN) -> Seq2Seq:
    """The model; the sizes can be reduced."""
    encoder = make_stack("gru", hidden, 1, bidirectional=True)
    return Seq2Seq(
        vocab, vocab, encoder, (seqjax.gru(hidden),), embed, make_attention("luong_general", hidden), True,
        share_embeddings=True, tie_embeddings=True,
    )  # fmt: skip


def sides(model: Seq2Seq, batch: int, width: int, length: int) -> dict[str, Callable[[], Any]]:
    """The functions to time, each returning the tokens written."""
    rng = np.random.default_rng(0)
    source = rng.integers(4, model.source_size, (batch, SOURCE), np.int32)
    lengths = np.full(batch, SOURCE, np.int32)
    params = jax.jit(model.init)(jax.random.key(0), source, lengths, source)["params"]

    def begin(params, source, lengths):
        encoded = model.apply({"params": params}, source, lengths, method="encode")
        return encoded, model.apply({"params": params}, encoded, method="initial_carry")

    def step(params, encoded, carry, tokens):
        return model.apply({"params": params}, encoded, carry, tokens, method="step")

    options = {"length": length, "eos_id": EOS, "pad_id": PAD, "banned": (PAD, UNK, BOS, EOS)}

    def run(search, times, **more):
        encoded, carry = jax.jit(begin)(params, np.repeat(source, times, 0), np.repeat(lengths, times))
        first = np.full(batch * times, BOS, np.int32)
        return lambda: jax.block_until_ready(search(step, params, encoded, carry, first, **options, **more)).tokens

    return {
        "greedy": run(greedy, 1),
        "beam": run(beam_search, 1, width=width, length_penalty=1.0),
        "wide step": run(greedy, width),
    }


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=5)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--tag", default="", help="suffix of the result's name, so that a trial overwrites none")
    options = parser.parse_args()
    settings, cases, model = timing.prepare(), {}, make_model()
    for batch in BATCHES:
        times = timing.interleave(sides(model, batch, options.width, options.length), options.rounds, options.seconds)
        per_token = {side: {w: row[w] / 1e3 / options.length for w in ("min", "median")} for side, row in times.items()}
        ratios = {w: per_token["beam"][w] / per_token["greedy"][w] for w in ("min", "median")}
        cases[f"B={batch}"] = {"milliseconds": times, "seconds_per_token": per_token, "beam_over_greedy": ratios}
        print(f"B={batch}: {per_token} | {ratios}", flush=True)
    common.save(f"beam{options.tag}", {
        "question": "time of beam search for each token, of all rows together, over that of greedy decoding",
        "width": options.width, "length": options.length, "target_ratio": options.width, "settings": settings, "cases": cases,
    })  # fmt: skip


if __name__ == "__main__":
    main()
