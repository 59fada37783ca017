"""Bucketed batches of texts, tagged sentences and translations."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.pipeline.buckets import Collate, pad_lengths


class TextBatch(NamedTuple):
    """Texts to classify; a row of length 0 is padding where its mask is false."""

    tokens: np.ndarray  # int32 (B, T)
    lengths: np.ndarray  # int32 (B,)
    labels: np.ndarray  # int32 (B,)
    mask: np.ndarray  # bool (B,): true for a real text


class TaggedBatch(NamedTuple):
    """Sentences with a tag for each word; a row of length 0 is padding."""

    words: np.ndarray  # int32 (B, T)
    chars: np.ndarray  # int32 (B, T, C), the characters of each word, 0 past its end
    tags: np.ndarray  # int32 (B, T)
    lengths: np.ndarray  # int32 (B,)


class PairBatch(NamedTuple):
    """Sources and the targets to write for them."""

    source: np.ndarray  # int32 (B, S)
    source_lengths: np.ndarray  # int32 (B,)
    inputs: np.ndarray  # int32 (B, T), <bos> and the target without its last token
    targets: np.ndarray  # int32 (B, T), the target with <eos>
    mask: np.ndarray  # bool (B, T): true for a real target token


class Ragged:
    """Sequences end to end in one array, so that a padded batch is a single gather; a loop over rows would cost milliseconds.

    Args:
      sequences: integer arrays, all (t,) or all (t, C).

    Example:
      >>> Ragged([np.array([1, 2, 3]), np.array([4])]).take(np.array([1, 0]), 3, 4).tolist()
      [[4, 0, 0, 0], [1, 2, 3, 0], [0, 0, 0, 0]]
    """

    def __init__(self, sequences: Sequence[Any]):
        self.lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths
        rest = np.shape(sequences[0])[1:] if len(sequences) else ()
        end = np.zeros((1, *rest), np.int32)  # padding, which an index past the last sequence reads
        self._flat = np.concatenate([*sequences, end]).astype(np.int32)

    def take(self, places: np.ndarray, rows: int, steps: int) -> np.ndarray:
        """Some sequences side by side, int32 (B, T) or (B, T, C), padded with 0.

        Args:
          places: indices of the sequences, (n,).
          rows: B >= n.
          steps: T, at least the longest sequence.

        Raises:
          ValueError: a sequence is longer than T.
        """
        return self.gather(self.index(places, rows, steps))

    def index(self, places: np.ndarray, rows: int, steps: int) -> np.ndarray:
        """The index of each step of a batch, int (B, T), for `gather` on this and other columns with the same lengths."""
        lengths = self.lengths[places]
        if lengths.max(initial=0) > steps:
            raise ValueError(f"steps is {steps}, and a sequence of the batch has {lengths.max()}")
        columns, padding = np.arange(steps), len(self._flat) - 1
        index = np.where(columns < lengths[:, None], self._starts[places][:, None] + columns, padding)
        missing = rows - len(places)
        return np.concatenate([index, np.full((missing, steps), padding)]) if missing else index

    def gather(self, index: np.ndarray) -> np.ndarray:
        """The values at an index returned by `index`."""
        return self._flat.take(index, axis=0)


def collate_texts(texts: Sequence[np.ndarray], labels: np.ndarray) -> Collate:
    """Makes TextBatches.

    Args:
      texts: token ids of each text.
      labels: int (N,).

    Example:
      >>> batch = collate_texts([np.array([4, 5]), np.array([6])], np.array([1, 0]))(np.array([1]), 2, 3)
      >>> batch.tokens.tolist(), batch.lengths.tolist(), batch.labels.tolist(), batch.mask.tolist()
      ([[6, 0, 0], [0, 0, 0]], [1, 0], [0, 0], [True, False])
    """
    tokens, labels = Ragged(texts), np.asarray(labels, np.int32)

    def collate(places: np.ndarray, rows: int, steps: int) -> TextBatch:
        lengths, mask = pad_lengths(tokens.lengths[places], rows), np.arange(rows) < len(places)
        return TextBatch(tokens.take(places, rows, steps), lengths, pad_lengths(labels[places], rows), mask)

    return collate


def collate_tagged(words: Sequence[np.ndarray], chars: Sequence[np.ndarray], tags: Sequence[np.ndarray]) -> Collate:
    """Makes TaggedBatches.

    Args:
      words: word ids (t,) of each sentence.
      chars: character ids (t, C) of each sentence.
      tags: tag ids (t,) of each sentence.

    Example:
      >>> collate = collate_tagged([np.array([4, 5])], [np.array([[1, 0], [1, 2]])], [np.array([0, 2])])
      >>> batch = collate(np.array([0]), 1, 3)
      >>> batch.words.tolist(), batch.chars.tolist(), batch.tags.tolist(), batch.lengths.tolist()
      ([[4, 5, 0]], [[[1, 0], [1, 2], [0, 0]]], [[0, 2, 0]], [2])
    """
    columns = Ragged(words), Ragged(chars), Ragged(tags)

    def collate(places: np.ndarray, rows: int, steps: int) -> TaggedBatch:
        index = columns[0].index(places, rows, steps)
        of_word, of_char, of_tag = (column.gather(index) for column in columns)
        return TaggedBatch(of_word, of_char, of_tag, pad_lengths(columns[0].lengths[places], rows))

    return collate


class PairTokens(NamedTuple):
    """Pairs as token ids, without special tokens.

    Example:
      >>> pairs = PairTokens.encode(["ab", "a"], ["x", "xyz"], str.encode, str.encode)
      >>> pairs.lengths().tolist()
      [2, 4]
    """

    source: list[np.ndarray]
    target: list[np.ndarray]

    @classmethod
    def encode(
        cls, sources: Sequence[str], targets: Sequence[str], source: Callable[[str], Any], target: Callable[[str], Any]
    ) -> "PairTokens":
        """Encodes each side with its own function."""
        return cls([source(text) for text in sources], [target(text) for text in targets])

    def lengths(self) -> np.ndarray:
        """The length each pair needs: that of its longer side, counting `<eos>` in the target."""
        return np.array([max(len(source), len(target) + 1) for source, target in zip(*self)])

    def take(self, places: Sequence[int] | np.ndarray) -> "PairTokens":
        """The pairs at these indices."""
        return PairTokens(*([side[i] for i in places] for side in self))


def collate_pairs(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], bos: int, eos: int) -> Collate:
    """Makes PairBatches.

    Args:
      sources, targets: token ids of each side, without special tokens; both must fit into the bucket, the target with one extra token.
      bos, eos: ids of `<bos>` and `<eos>`.

    Example:
      >>> batch = collate_pairs([np.array([4, 5])], [np.array([6])], 2, 3)(np.array([0]), 1, 3)
      >>> batch.source.tolist(), batch.inputs.tolist(), batch.targets.tolist(), batch.mask.tolist()
      ([[4, 5, 0]], [[2, 6, 0]], [[6, 3, 0]], [[True, True, False]])
    """
    source = Ragged(sources)
    inputs, outputs = (Ragged([[bos, *target] for target in targets]), Ragged([[*target, eos] for target in targets]))

    def collate(places: np.ndarray, rows: int, steps: int) -> PairBatch:
        index, real = inputs.index(places, rows, steps), pad_lengths(inputs.lengths[places], rows)
        return PairBatch(
            source=source.take(places, rows, steps),
            source_lengths=pad_lengths(source.lengths[places], rows),
            inputs=inputs.gather(index),
            targets=outputs.gather(index),
            mask=np.arange(steps)[None, :] < real[:, None],
        )

    return collate
