"""Labels of whole texts and of their words, from a trained model, in batches of similar length."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from seqjax.data.pipeline.buckets import one_pass
from seqjax.data.pipeline.collate import collate_tagged, collate_texts


class TextLabeller:
    """Probabilities of the classes of texts, compiled once for each length of a batch.

    Args:
      model: a TextClassifier.
      batch_size: texts at a time.
      boundaries: the lengths that batches are padded to.

    Example:
      >>> from seqjax.models import make_stack
      >>> from seqjax.models.classifier import TextClassifier
      >>> cell = make_stack("gru", 4, 1, bidirectional=True)
      >>> model = TextClassifier(6, 3, cell, 2, "attention", True, 0.0, 0.0, None)
      >>> params = model.init(jax.random.key(0), np.ones((1, 1), np.int32))["params"]
      >>> label = TextLabeller(model, batch_size=2, boundaries=(3,))
      >>> shares, weights = label(params, [np.array([4, 5]), np.array([5]), np.array([4, 5, 4])])
      >>> shares.shape, [len(row) for row in weights]
      ((3, 3), [2, 1, 3])
    """

    def __init__(self, model: Any, *, batch_size: int, boundaries: Sequence[int]):
        self._batch_size, self._boundaries = batch_size, boundaries

        @jax.jit
        def run(params, batch):
            out = model.apply({"params": params}, batch.tokens, batch.lengths)
            return jax.nn.softmax(out.logits), out.weights

        self._run = run

    def __call__(self, params: Any, tokens: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Labels texts.

        Args:
          params: the model's parameters.
          tokens: ids of each text, (T,).

        Returns:
          (probabilities (N, K), the weight of each token of each text, empty if the model's pooling has none).
        """
        rows, weights = [], [np.zeros(0)] * len(tokens)
        collate, lengths = collate_texts(tokens, np.zeros(len(tokens), np.int32)), np.array([len(text) for text in tokens])
        order = []
        for places, batch in one_pass(lengths, collate, self._batch_size, self._boundaries):
            shares, looked = jax.device_get(self._run(params, batch))
            rows.append(shares[: len(places)])
            order.extend(places)
            for row, place in enumerate(places) if looked is not None else ():
                weights[place] = looked[row, : len(tokens[place])]  # pyright: ignore[reportOptionalSubscript]
        probabilities = np.concatenate(rows).astype(np.float64)
        return probabilities[np.argsort(order)], weights


class WordLabeller:
    """The tags of the words of sentences, compiled once for each length of a batch.

    Args:
      model: a Tagger.
      columns: `columns(sentences, None) -> (words, chars, tags)`, ids of each sentence.
      tags: the names of the tags.
      batch_size: sentences at a time.
      boundaries: the lengths that batches are padded to.

    Example:
      >>> from seqjax.models import make_stack
      >>> from seqjax.models.tagger import Tagger
      >>> from seqjax.text import CharTokenizer
      >>> from seqjax.text.lookup import WordLookup
      >>> from seqjax.text.word_table import WordTable
      >>> table = WordTable(WordLookup.fit([["a", "dog"]]), CharTokenizer.fit(["a", "dog"]), {"DET": 0, "NOUN": 1}, 3)
      >>> cell = make_stack("gru", 4, 1, bidirectional=True)
      >>> model = Tagger(6, 2, cell, 4, "none", 8, 2, 2, False, (), 0.0, 0.0, 0.0, None)
      >>> one = np.ones((1, 1), np.int32)
      >>> params = model.init(jax.random.key(0), one, np.ones((1, 1, 3), np.int32), one[0])["params"]
      >>> label = WordLabeller(model, table.columns, ["DET", "NOUN"], batch_size=2, boundaries=(3,))
      >>> [len(tags) for tags in label(params, [["a", "dog"], ["dog"]])]
      [2, 1]
    """

    def __init__(self, model: Any, columns: Callable[..., Any], tags: Sequence[str], *, batch_size: int, boundaries: Sequence[int]):
        self._columns, self._tags, self._batch_size, self._boundaries = columns, tags, batch_size, boundaries

        @jax.jit
        def run(params, batch):
            scores = model.apply({"params": params}, batch.words, batch.chars, batch.lengths)
            return model.apply({"params": params}, scores, batch.lengths, method="decode")

        self._run = run

    def __call__(self, params: Any, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The tags of each sentence, in the sentences' order."""
        collate = collate_tagged(*self._columns(sentences, None))
        found: list[list[str]] = [[] for _ in sentences]
        lengths = np.array([len(sentence) for sentence in sentences])
        for places, batch in one_pass(lengths, collate, self._batch_size, self._boundaries):
            for place, row in zip(places.tolist(), np.asarray(self._run(params, batch))):
                found[place] = [self._tags[i] for i in row[: len(sentences[place])]]  # pyright: ignore[reportCallIssue, reportArgumentType]
        return found
