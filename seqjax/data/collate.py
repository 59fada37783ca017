"""What bucketed batches of texts, tagged sentences and translations hold, and how they are made."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqjax.data.buckets import Collate, pad, pad_lengths


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
    lengths, labels = np.array([len(text) for text in texts]), np.asarray(labels, np.int32)

    def collate(places: np.ndarray, rows: int, steps: int) -> TextBatch:
        tokens = pad([np.asarray(texts[i], np.int32) for i in places], rows, steps)
        mask = np.arange(rows) < len(places)
        return TextBatch(tokens, pad_lengths(lengths[places], rows), pad_lengths(labels[places], rows), mask)

    return collate


def collate_tagged(words: Sequence[np.ndarray], chars: Sequence[np.ndarray], tags: Sequence[np.ndarray]) -> Collate:
    """Makes TaggedBatches.

    Args:
      words: ids (t,) of each sentence.
      chars: ids (t, C) of each sentence.
      tags: ids (t,) of each sentence.

    Example:
      >>> collate = collate_tagged([np.array([4, 5])], [np.array([[1, 0], [1, 2]])], [np.array([0, 2])])
      >>> batch = collate(np.array([0]), 1, 3)
      >>> batch.words.tolist(), batch.chars.tolist(), batch.tags.tolist(), batch.lengths.tolist()
      ([[4, 5, 0]], [[[1, 0], [1, 2], [0, 0]]], [[0, 2, 0]], [2])
    """
    lengths = np.array([len(sentence) for sentence in words])

    def collate(places: np.ndarray, rows: int, steps: int) -> TaggedBatch:
        made = (pad([np.asarray(column[i], np.int32) for i in places], rows, steps) for column in (words, chars, tags))
        return TaggedBatch(*made, pad_lengths(lengths[places], rows))

    return collate


def collate_pairs(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], bos: int, eos: int) -> Collate:
    """Makes PairBatches.

    Args:
      sources, targets: token ids of each side, without special tokens; both fit into the bucket, the target with one more.
      bos, eos: ids of `<bos>` and `<eos>`.

    Example:
      >>> batch = collate_pairs([np.array([4, 5])], [np.array([6])], 2, 3)(np.array([0]), 1, 3)
      >>> batch.source.tolist(), batch.inputs.tolist(), batch.targets.tolist(), batch.mask.tolist()
      ([[4, 5, 0]], [[2, 6, 0]], [[6, 3, 0]], [[True, True, False]])
    """
    lengths = np.array([len(source) for source in sources])
    outputs = [np.concatenate([[bos], target, [eos]]).astype(np.int32) for target in targets]

    def collate(places: np.ndarray, rows: int, steps: int) -> PairBatch:
        chosen = [outputs[i] for i in places]
        real = pad_lengths(np.array([len(output) - 1 for output in chosen]), rows)
        return PairBatch(
            source=pad([np.asarray(sources[i], np.int32) for i in places], rows, steps),
            source_lengths=pad_lengths(lengths[places], rows),
            inputs=pad([output[:-1] for output in chosen], rows, steps),
            targets=pad([output[1:] for output in chosen], rows, steps),
            mask=np.arange(steps)[None, :] < real[:, None],
        )

    return collate
