"""Collated batches: the content of each row, and that padding is zero, false and empty."""

import numpy as np
import pytest

from seqjax.data.pipeline.collate import Ragged, collate_pairs, collate_tagged, collate_texts

RNG = np.random.default_rng(0)
LENGTHS = (4, 0, 2, 6, 1)
PLACES, ROWS, STEPS = np.array([3, 1, 2]), 5, 7
BOS, EOS = 2, 3


def _ids(*shape):
    return RNG.integers(4, 30, shape)


def _check_rows(padded, sequences):
    """Row i begins with sequence i; all else is 0."""
    assert padded.dtype == np.int32 and padded.shape[:2] == (ROWS, STEPS)
    want = np.zeros_like(padded)
    for row, sequence in zip(want, sequences):
        row[: len(sequence)] = sequence
    np.testing.assert_array_equal(padded, want)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_texts(dtype):
    texts, labels = [_ids(n).astype(dtype) for n in LENGTHS], RNG.integers(1, 9, 5)
    batch = collate_texts(texts, labels)(PLACES, ROWS, STEPS)
    _check_rows(batch.tokens, [texts[i] for i in PLACES])
    assert batch.lengths.tolist() == [6, 0, 2, 0, 0] and batch.lengths.dtype == np.int32
    assert batch.labels.tolist() == [*labels[PLACES], 0, 0] and batch.labels.dtype == np.int32
    assert batch.mask.tolist() == [True, True, True, False, False]  # the empty text is real


def test_tagged_sentences():
    words, tags = [_ids(n) for n in LENGTHS], [_ids(n) for n in LENGTHS]
    chars = [_ids(n, 3) for n in LENGTHS]
    batch = collate_tagged(words, chars, tags)(PLACES, ROWS, STEPS)
    for padded, sequences in ((batch.words, words), (batch.chars, chars), (batch.tags, tags)):
        _check_rows(padded, [sequences[i] for i in PLACES])
    assert batch.chars.shape == (ROWS, STEPS, 3)
    assert batch.lengths.tolist() == [6, 0, 2, 0, 0] and batch.lengths.dtype == np.int32


def test_pairs():
    sources, targets = [_ids(n) for n in LENGTHS], [_ids(n) for n in reversed(LENGTHS)]
    batch = collate_pairs(sources, targets, BOS, EOS)(PLACES, ROWS, STEPS)
    _check_rows(batch.source, [sources[i] for i in PLACES])
    _check_rows(batch.inputs, [[BOS, *targets[i]] for i in PLACES])
    _check_rows(batch.targets, [[*targets[i], EOS] for i in PLACES])
    assert batch.source_lengths.tolist() == [6, 0, 2, 0, 0]
    assert batch.mask.dtype == bool and batch.mask.sum(1).tolist() == [1, 7, 3, 0, 0]  # with <eos>
    assert (np.diff(batch.mask.astype(int), axis=1) <= 0).all()
    # Each input but the first is the target before it.
    real = batch.mask[:, 1:]
    assert (batch.inputs[:, 1:][real] == batch.targets[:, :-1][real]).all()


def test_a_sequence_longer_than_its_bucket_is_no_batch():
    with pytest.raises(ValueError, match="steps is 7, and a sequence of the batch has 8"):
        collate_texts([_ids(8)], np.array([0]))(np.array([0]), 1, STEPS)
    with pytest.raises(ValueError, match="has 8"):  # seven tokens, and <eos>
        collate_pairs([_ids(3)], [_ids(7)], BOS, EOS)(np.array([0]), 1, STEPS)


def test_padding_stands_at_the_ends_and_below():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 9, (n, 2)) for n in (3, 0, 5)]
    padded = Ragged(sequences).take(np.arange(3), 4, 5)
    assert padded.shape == (4, 5, 2) and padded.dtype == np.int32
    for row, sequence in zip(padded, [*sequences, np.zeros((0, 2))]):
        assert (row[: len(sequence)] == sequence).all() and (row[len(sequence) :] == 0).all()
