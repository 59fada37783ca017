"""Batches of speech."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.pipeline.ahead import in_order
from seqjax.data.pipeline.buckets import Collate, pad_lengths
from seqjax.data.pipeline.collate import Ragged
from seqjax.data.readers.sounds import samples_of


class SpeechBatch(NamedTuple):
    """Sounds and their labels; a row of length 0 is padding."""

    samples: np.ndarray  # int16 (B, S)
    lengths: np.ndarray  # int32 (B,), samples of each
    labels: np.ndarray  # int32 (B, U), 0 past the end
    label_lengths: np.ndarray  # int32 (B,)
    needed: np.ndarray  # int32 (B,), the fewest steps that can hold the labels; 1 for a padded row


def collate_speech(
    sounds: Sequence[Any],
    labels: Sequence[np.ndarray],
    needed: Sequence[int] | np.ndarray,
    most_labels: Callable[[int], int],
    *,
    workers: int = 0,
) -> Collate:
    """Makes SpeechBatches.

    Args:
      sounds: int16 arrays, or objects with `read()`.
      labels: label ids of each sound, from 1.
      needed: the fewest steps that can hold each one's labels.
      workers: threads that read the sounds of a batch; 0 reads in the caller's thread.
      most_labels: number of samples S of a batch -> its number of labels U; longer label sequences cannot fit its sounds and are cut.

    Example:
      >>> collate = collate_speech([np.ones(5, np.int16)], [np.array([4, 5])], [2], lambda samples: 3)
      >>> batch = collate(np.array([0]), 2, 6)
      >>> batch.samples.shape, batch.labels.tolist(), batch.lengths.tolist(), batch.needed.tolist()
      ((2, 6), [[4, 5, 0], [0, 0, 0]], [5, 0], [2, 1])
    """
    ids, needed = Ragged([np.asarray(each, np.int32) for each in labels]), np.asarray(needed, np.int32)

    def collate(places: np.ndarray, rows: int, steps: int) -> SpeechBatch:
        samples, lengths = np.zeros((rows, steps), np.int16), np.zeros(rows, np.int32)
        for row, sound in enumerate(in_order(samples_of, (sounds[place] for place in places), workers)):
            samples[row, : len(sound)], lengths[row] = sound, len(sound)
        most = most_labels(steps)
        cut = np.minimum(ids.lengths[places], most)
        text = np.zeros((rows, most), np.int32)
        for row, (place, length) in enumerate(zip(places, cut)):
            text[row, :length] = labels[place][:length]
        need = np.concatenate([needed[places], np.ones(rows - len(places), np.int32)])
        return SpeechBatch(samples, lengths, text, pad_lengths(cut, rows), need)

    return collate
