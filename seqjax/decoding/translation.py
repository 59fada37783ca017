"""Translates lists of sources: batches of similar length through an encoder-decoder, greedily or by beam search."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.data.pipeline.buckets import one_pass, pad_lengths, reach
from seqjax.data.pipeline.collate import Ragged
from seqjax.decoding.beam import beam_search
from seqjax.decoding.decoder import greedy
from seqjax.models.seq2seq import Seq2Seq
from seqjax.text import BOS, EOS, PAD, UNK


class Hypothesis(NamedTuple):
    """One output for one source."""

    tokens: np.ndarray  # int32 (n,), without <eos>
    score: float  # the ranking score: log_prob over the length penalty
    log_prob: float  # nats, <eos> included
    finished: bool  # ended by <eos>, not by the length limit


class Translator:
    """Writes outputs for sources with a Seq2Seq model.

    Sources are sorted by length and run in batches of few shapes, each of one bucket; every result is the same as for
    the source on its own. An output can have up to twice the length of its source's bucket plus 10 tokens. `<pad>`,
    `<bos>` and `<unk>` are never written.

    Args:
      model: the model.
      batch_size: sources per batch.
      boundaries: the buckets' lengths; longer sources get additional buckets.

    Example:
      >>> import jax.numpy as jnp, seqjax
      >>> from seqjax.models import make_stack
      >>> model = Seq2Seq(20, 30, make_stack("gru", 8, 1, bidirectional=True), (seqjax.gru(8),), embed_size=4)
      >>> tokens = jnp.ones((1, 1), int)
      >>> params = model.init(jax.random.key(0), tokens, jnp.array([1]), tokens)["params"]
      >>> translator = Translator(model, batch_size=2, boundaries=(4,))
      >>> found = translator.beam(params, [np.array([4, 5]), np.array([6])], width=3, n_best=2)
      >>> len(found), len(found[0]), found[0][0].score >= found[0][1].score
      (2, 2, True)
      >>> [len(tokens) <= 18 for tokens in translator.greedy(params, [np.array([4, 5]), np.array([6])])]
      [True, True]
    """

    def __init__(self, model: Seq2Seq, *, batch_size: int, boundaries: Sequence[int]):
        self._batch_size, self._boundaries = batch_size, tuple(boundaries)

        def begin(params, source, lengths):
            encoded = model.apply({"params": params}, source, lengths, method="encode")
            return encoded, model.apply({"params": params}, encoded, method="initial_carry")

        def step(params, encoded, carry, tokens) -> Any:
            return model.apply({"params": params}, encoded, carry, tokens, method="step")

        def weights(params, source, lengths, inputs):
            return model.apply({"params": params}, source, lengths, inputs).weights  # pyright: ignore[reportAttributeAccessIssue]

        self._begin, self._step, self._weights = jax.jit(begin), step, jax.jit(weights)

    def _batches(self, params: Any, sources: Sequence[np.ndarray]):
        tokens = Ragged(sources)
        lengths = tokens.lengths
        boundaries = reach(self._boundaries, int(lengths.max()))
        buckets = np.searchsorted(boundaries, lengths)
        for bucket in np.unique(buckets):  # one at a time: its length limits the outputs, whatever else is in the batch
            members = np.flatnonzero(buckets == bucket)

            def collate(places, rows, steps, members=members):
                return tokens.take(members[places], rows, steps), pad_lengths(lengths[members[places]], rows)

            for places, batch in one_pass(lengths[members], collate, self._batch_size, (boundaries[bucket],)):
                encoded, carry = self._begin(params, *batch)
                yield members[places], encoded, carry, 2 * boundaries[bucket] + 10

    def _options(self, length: int) -> dict[str, Any]:
        return {"length": length, "eos_id": EOS, "pad_id": PAD, "banned": (PAD, UNK, BOS)}

    def greedy(self, params: Any, sources: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Decodes every source greedily: ids without `<eos>`, in the sources' order."""
        outputs: list[Any] = [None] * len(sources)
        for places, encoded, carry, length in self._batches(params, sources) if len(sources) else ():
            first = np.full(self._batch_size, BOS, np.int32)
            found = jax.device_get(greedy(self._step, params, encoded, carry, first, **self._options(length)))
            for row, place in enumerate(places):
                outputs[place] = without_end(found.tokens[row, : found.lengths[row]])
        return outputs

    def beam(
        self, params: Any, sources: Sequence[np.ndarray], *, width: int, n_best: int = 1, length_penalty: float = 0.0
    ) -> list[list[Hypothesis]]:
        """Finds the n-best hypotheses of every source, best first; see `beam_search` for width and length_penalty."""
        outputs: list[Any] = [None] * len(sources)
        for places, encoded, carry, length in self._batches(params, sources) if len(sources) else ():
            first = np.full(self._batch_size, BOS, np.int32)
            options = self._options(length) | {"width": width, "n_best": n_best, "length_penalty": length_penalty}
            beams = jax.device_get(beam_search(self._step, params, encoded, carry, first, **options))
            for row, place in enumerate(places):
                outputs[place] = [
                    Hypothesis(
                        without_end(beams.tokens[row, i, : beams.lengths[row, i]]),
                        float(beams.scores[row, i]),
                        float(beams.log_probs[row, i]),
                        bool(beams.finished[row, i]),
                    )
                    for i in range(n_best)
                    if beams.lengths[row, i]
                ]
        return outputs

    def attention(self, params: Any, source: np.ndarray, output: np.ndarray) -> np.ndarray:
        """Computes the attention weights of this output: (output tokens and `<eos>`, source tokens); rows sum to 1.

        Example:
          >>> import jax.numpy as jnp, seqjax
          >>> from seqjax.models import make_stack
          >>> from seqjax.models.seq2seq import make_attention
          >>> encoder, attention = make_stack("gru", 8, 1, bidirectional=True), make_attention("luong_general", 8)
          >>> model = Seq2Seq(20, 30, encoder, (seqjax.gru(8),), embed_size=4, attention=attention)
          >>> tokens = jnp.ones((1, 1), int)
          >>> params = model.init(jax.random.key(0), tokens, jnp.array([1]), tokens)["params"]
          >>> translator = Translator(model, batch_size=2, boundaries=(4,))
          >>> translator.attention(params, np.array([4, 5]), np.array([6, 7, 8])).shape
          (4, 2)
        """
        inputs = np.concatenate([[BOS], output]).astype(np.int32)[None]
        if not len(source):
            return np.zeros((inputs.shape[1], 0), np.float32)
        weights = self._weights(params, source[None], np.array([len(source)], np.int32), inputs)
        return np.asarray(weights[0])


class Translation(NamedTuple):
    """A translation of a text."""

    text: str
    score: float  # this and the rest as in Hypothesis
    log_prob: float
    finished: bool
    tokens: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """All but the tokens."""
        return {"text": self.text, "score": self.score, "log_prob": self.log_prob, "finished": self.finished}


class TextTranslator:
    """Writes texts for texts: a Translator with the tokenizers of both sides.

    Args:
      model, batch_size, boundaries: as for `Translator`.
      source, target: tokenizers, with `encode`, `decode`, `tokenize` and `vocabulary`.

    Example:
      >>> import jax.numpy as jnp, seqjax
      >>> from seqjax.models import make_stack
      >>> from seqjax.text import CharTokenizer
      >>> digits = CharTokenizer.fit(["12"])
      >>> model = Seq2Seq(6, 6, make_stack("gru", 8, 1, bidirectional=True), (seqjax.gru(8),), embed_size=4)
      >>> tokens = jnp.ones((1, 1), int)
      >>> params = model.init(jax.random.key(0), tokens, jnp.array([1]), tokens)["params"]
      >>> translator = TextTranslator(model, digits, digits, batch_size=2, boundaries=(4,))
      >>> len(translator.greedy(params, ["1", "2 1", ""]))
      3
    """

    def __init__(self, model: Seq2Seq, source: Any, target: Any, *, batch_size: int, boundaries: Sequence[int]):
        self.source, self.target = source, target
        self._translator = Translator(model, batch_size=batch_size, boundaries=boundaries)

    def greedy(self, params: Any, sources: Sequence[str]) -> list[str]:
        """Translates every source greedily."""
        return [self.target.decode(ids) for ids in self._translator.greedy(params, self._encode(sources))]

    def beam(self, params: Any, sources: Sequence[str], **how: Any) -> list[list[Translation]]:
        """Finds the n-best translations of every source, best first; see `Translator.beam` for the arguments."""
        found = self._translator.beam(params, self._encode(sources), **how)
        return [[Translation(self.target.decode(best.tokens), *best[1:], best.tokens) for best in rows] for rows in found]

    def attention(self, params: Any, sources: Sequence[str], found: Sequence[Translation]) -> list[tuple]:
        """Computes the attention weights of these translations, for plotting.

        Returns:
          (weights, tokens of the output and `<eos>`, tokens of the source) of each pair whose source has a token.
        """
        maps = []
        for source, tokens, output in zip(sources, self._encode(sources), found):
            if len(tokens):
                weights = self._translator.attention(params, tokens, output.tokens)
                words = [*(self.target.vocabulary[i] for i in output.tokens), "<eos>"]
                maps.append((weights, words, self.source.tokenize(source)))
        return maps

    def _encode(self, sources: Sequence[str]) -> list[np.ndarray]:
        return [self.source.encode(text) for text in sources]


def without_end(tokens: np.ndarray) -> np.ndarray:
    """Returns the tokens without a final `<eos>`.

    Example:
      >>> without_end(np.array([7, EOS])).tolist(), without_end(np.array([7, 8])).tolist()
      ([7], [7, 8])
    """
    return tokens[:-1] if len(tokens) and tokens[-1] == EOS else tokens
