"""Tags of bases and classes of sequences, from a trained model; sequences of any length in memory that does not grow with it."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from seqjax.data.pipeline.bases import collate_bases, with_halo
from seqjax.data.pipeline.buckets import one_pass
from seqjax.models.dna import DnaTagger, other_side
from seqjax.models.ensemble import Ensemble, mean_log_probabilities
from seqjax.typing import Cell

WINDOW, TOGETHER = 4096, 8  # bases of a window of a long sequence; windows whose scores are computed at once


class Tags(NamedTuple):
    """A tagger's output for a sequence or a window of it."""

    tags: np.ndarray  # int32 (T,)
    probabilities: np.ndarray  # float32 (T, K)


class SequenceClassifier:
    """Probabilities of the classes of sequences, compiled once for each length of a batch.

    Args:
      model: a DnaClassifier, or an Ensemble of them.
      halo: the halo of its features.
      batch_size: sequences at a time.
      boundaries: the lengths that batches are padded to.

    Example:
      >>> from seqjax.models import make_stack
      >>> from seqjax.models.dna import BaseFeatures, DnaClassifier, DnaReader
      >>> model = DnaClassifier(2, DnaReader(BaseFeatures(), make_stack("gru", 4, 1, bidirectional=True)))
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 3), jnp.int32), jnp.array([3]))["params"]
      >>> classify = SequenceClassifier(model, 0, batch_size=2, boundaries=(3,))
      >>> classify(params, [np.array([1, 2, 4])] * 3).shape
      (3, 2)
    """

    def __init__(self, model: Any, halo: int, *, batch_size: int, boundaries: Sequence[int]):
        self._halo, self._size, self._boundaries = halo, batch_size, boundaries

        @jax.jit
        def run(params, batch):
            scores = model.apply({"params": params}, batch.codes, batch.lengths)
            return jnp.exp(mean_log_probabilities(scores)) if isinstance(model, Ensemble) else jax.nn.softmax(scores)

        self._run = run

    def __call__(self, params: Any, codes: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities (N, K) of sequences, each uint8 (T,)."""
        collate, lengths = (
            collate_bases(codes, np.zeros(len(codes)), self._halo),
            np.array([len(each) for each in codes]),
        )
        rows, order = [], []
        for places, batch in one_pass(lengths, collate, self._size, self._boundaries):
            rows.append(np.asarray(self._run(params, batch), np.float64)[: len(places)])
            order.extend(places)
        return np.concatenate(rows)[np.argsort(order)]


class Tagging:
    """Tags and probabilities of the bases of sequences.

    Short sequences are read whole, several at a time. A sequence longer than `longest` is read in windows with exact carries
    (`long_scores`), unless the model has a conditional random field, which decides a sequence as a whole.

    Args:
      model: a DnaTagger.
      batch_size: sequences at a time.
      boundaries: the lengths that batches of short sequences are padded to.
      longest: maximum length of sequences read whole.

    Example:
      >>> from seqjax.models import make_stack
      >>> from seqjax.models.dna import BaseFeatures, DnaReader
      >>> model = DnaTagger(2, DnaReader(BaseFeatures(), make_stack("gru", 4, 1, bidirectional=True)))
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 3), jnp.int32), jnp.array([3]))["params"]
      >>> tag = Tagging(model, batch_size=2, boundaries=(4,))
      >>> [len(found.tags) for found in tag(params, [np.array([1, 2, 4]), np.array([8])])]
      [3, 1]
    """

    def __init__(self, model: DnaTagger, *, batch_size: int, boundaries: Sequence[int], longest: int = WINDOW):
        self._model, self._size, self._boundaries, self._longest = model, batch_size, boundaries, longest

        @jax.jit
        def run(params, batch):
            variables = {"params": params}
            _, scores = model.apply(variables, batch.codes, batch.lengths)
            shares = model.apply(variables, scores, batch.lengths, method="probabilities")
            return model.apply(variables, scores, batch.lengths, method="decode"), shares

        self._run = run

    def __call__(self, params: Any, codes: Sequence[np.ndarray]) -> list[Tags]:
        """Tags of sequences, each uint8 (T,)."""
        found: list[Any] = [None] * len(codes)
        short = [i for i, each in enumerate(codes) if len(each) <= self._longest or self._model.crf]
        empty = [np.zeros(len(codes[i]), np.uint8) for i in short]
        collate = collate_bases([codes[i] for i in short], empty, self._model.reader.features.halo) if short else None
        lengths = np.array([len(codes[i]) for i in short])
        for places, batch in one_pass(lengths, collate, self._size, self._boundaries) if collate else ():
            for place, tags, shares in zip(places, *map(np.asarray, self._run(params, batch))):
                found[short[place]] = Tags(tags[: lengths[place]], shares[: lengths[place]])
        for i in range(len(codes)):
            if found[i] is None:
                found[i] = Tags(*(np.concatenate(column) for column in zip(*(part for _, part in self.windows(params, codes[i])))))
        return found

    def windows(self, params: Any, codes: np.ndarray, window: int = WINDOW) -> Iterator[tuple[int, Tags]]:
        """(first base, tags) of the windows of one sequence, in order."""
        if self._model.crf or len(codes) <= self._longest:
            yield 0, self(params, [codes])[0]
            return
        for start, scores in long_scores(self._model, params, codes, window):
            shares = np.asarray(jax.nn.softmax(scores))
            yield start, Tags(shares.argmax(axis=-1).astype(np.int32), shares)


def long_scores(model: DnaTagger, params: Any, codes: np.ndarray, window: int = WINDOW) -> Iterator[tuple[int, np.ndarray]]:
    """Scores the tags of a long sequence window by window: exact up to rounding, in memory for a few windows.

    Each layer and direction runs over the windows once, in its own order, and its carry before each window is kept: 2 H
    numbers, not outputs. With these, any window can be computed on its own, and several are computed at once. A model
    of L layers reads the sequence 2 L + 1 times; lower layers are recomputed each time.

    Args:
      model: a DnaTagger without a conditional random field.
      params: the model's parameters.
      codes: uint8 (T,).
      window: bases of a window.

    Yields:
      (first base, float32 scores (t, K)).

    Example:
      >>> from seqjax.models import make_stack
      >>> from seqjax.models.dna import BaseFeatures, DnaReader
      >>> model = DnaTagger(2, DnaReader(BaseFeatures(), make_stack("gru", 4, 1, bidirectional=True)))
      >>> codes = np.array([[1, 2, 4, 8, 8]])
      >>> variables = model.init(jax.random.key(0), codes, np.array([5]))
      >>> parts = [scores for _, scores in long_scores(model, variables["params"], codes[0], window=2)]
      >>> whole = model.apply(variables, codes, np.array([5]))[1][0]
      >>> bool(np.allclose(np.concatenate(parts), whole, atol=1e-5))
      True
    """
    halo, count = model.reader.features.halo, -(-len(codes) // window)
    passes, depth = _passes(model), len(_layers(model.reader.cell))
    kept = [[[None] * count for _ in passes] for _ in range(depth)]  # the carry before each window, by layer and pass

    def cut(w):
        return with_halo(codes, w * window, window, halo).astype(np.int32)[None]

    lengths = np.minimum(len(codes) - np.arange(count) * window, window).astype(np.int32)
    for layer in range(depth):
        for place, one in enumerate(passes):
            carry = _initial(model, params, layer, place)
            for w in range(count) if one.rightward else range(count - 1, -1, -1):
                below = [tuple(kept[i][j][w] for j in range(len(passes))) for i in range(layer)]
                kept[layer][place][w] = jax.device_get(carry)
                carry = _advance(model, layer, place, params, cut(w), lengths[w : w + 1], below, carry)
    for first in range(0, count, TOGETHER):
        some = range(first, min(first + TOGETHER, count))
        codes_of = np.concatenate([cut(w) for w in some])
        carries = [tuple(_stacked([kept[i][j][w] for w in some]) for j in range(len(passes))) for i in range(depth)]
        scores = np.asarray(_scores(model, params, codes_of, lengths[some.start : some.stop], carries))
        for row, w in enumerate(some):
            yield w * window, scores[row, : lengths[w]]


class _Pass(NamedTuple):
    """One direction in which one strand is read."""

    strand: int
    direction: int  # 0 the forward cell, 1 the backward cell
    rightward: bool


def _passes(model: DnaTagger) -> tuple[_Pass, ...]:
    directions = 2 if _layers(model.reader.cell)[0].inner else 1
    return tuple(
        _Pass(strand, direction, strand == direction) for strand in range(1 + model.reader.both_strands) for direction in range(directions)
    )


def _layers(cell: Cell) -> list[Cell]:
    """Returns the layers of a stack without the noise around them: bidirectional ones, or single cells."""
    layers = []
    for layer in cell.inner:
        while layer.inner and not layer.name.startswith("bidirectional("):
            layer = layer.inner[0]
        layers.append(layer)
    return layers


def _cell_of(model: DnaTagger, params: Any, layer: int, direction: int) -> tuple[Cell, Any]:
    cell, own = _layers(model.reader.cell)[layer], params["reader"]["rnn"][layer]
    if not cell.inner:
        return cell, own
    inner = cell.inner[direction]
    while inner.inner:
        inner = inner.inner[0]
    return inner, own[direction]


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _initial(model, params, layer, place):
    cell, own = _cell_of(model, params, layer, _passes(model)[place].direction)
    return cell.initial_carry(own, 1)


def _run(model, params, layer, one: _Pass, xs, carry, lengths):
    cell, own = _cell_of(model, params, layer, one.direction)
    return seqjax.unroll(cell, own, xs, carry, lengths=lengths, reverse=not one.rightward)


def _features(model, params, codes):
    """Computes the features of the strands that the model reads, each in the order of the sequence."""
    features, own = model.reader.features, {"params": params["reader"].get("features", {})}
    strands = [features.apply(own, codes)]
    if model.reader.both_strands:
        strands.append(features.apply(own, other_side(codes))[:, ::-1])
    return strands


def _outputs(model, params, codes, lengths, carries):
    """Computes the outputs, for each strand, of as many layers as there are carries."""
    strands = _features(model, params, codes)
    for layer, carry in enumerate(carries):
        made = [_run(model, params, layer, one, strands[one.strand], carry[place], lengths)[1] for place, one in enumerate(_passes(model))]
        number = len(made) // len(strands)
        strands = [jnp.concatenate(made[i * number : (i + 1) * number], axis=-1) for i in range(len(strands))]
    return strands


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(model, layer, place, params, codes, lengths, below, carry):
    one = _passes(model)[place]
    xs = _outputs(model, params, codes, lengths, below)[one.strand]
    return _run(model, params, layer, one, xs, carry, lengths)[0]


@functools.partial(jax.jit, static_argnums=0)
def _scores(model, params, codes, lengths, carries):
    return model.apply({"params": params}, _outputs(model, params, codes, lengths, carries), method="scores")


def _stacked(carries):
    return jax.tree.map(lambda *parts: np.concatenate(parts), *carries)
