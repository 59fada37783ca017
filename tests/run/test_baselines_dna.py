"""Simple models of DNA: weight matrices by hand, k-mers by counting, regressions that can find what is there."""

import math

import numpy as np
import pytest

from seqjax.models.nucleotides import encode
from seqjax.run.baselines_dna import around, by_position, for_bases, for_sequences, kmer_counts, position_weights, weigh


def test_a_position_weight_matrix_by_hand():
    """Three sequences of a class, and a pseudocount of one: (2 + 1) / (3 + 4) and so on; N counts a quarter for each base."""
    codes = [encode(each) for each in ("AC", "AG", "TN", "GG")]
    weights = position_weights(codes, np.array([0, 0, 0, 1]), 2)
    np.testing.assert_allclose(np.exp(weights[0]), np.array([[3, 1, 1, 2], [1.25, 2.25, 2.25, 1.25]]) / 7, rtol=1e-6)
    np.testing.assert_allclose(np.exp(weights[1]), np.array([[1, 1, 2, 1], [1, 1, 2, 1]]) / 5, rtol=1e-6)
    priors = np.array([0.75, 0.25])
    one, two = 0.75 * 3 / 7 * 2.25 / 7, 0.25 * 1 / 5 * 2 / 5  # of AG
    np.testing.assert_allclose(weigh(weights, priors, [encode("AG")])[0], np.array([one, two]) / (one + two), rtol=1e-6)


def test_kmers_are_counted():
    found = kmer_counts([encode("AAAC"), encode("NAC")], (1, 2)).toarray()
    expected = np.zeros((2, 20))
    expected[0, [0, 1]], expected[0, [4, 5]] = [math.log1p(3), math.log1p(1)], [math.log1p(2), math.log1p(1)]
    expected[1, [0, 1]], expected[1, 5] = math.log1p(1), math.log1p(1)
    np.testing.assert_allclose(found, expected)


def test_features_by_position_and_around_a_base():
    np.testing.assert_array_equal(by_position([encode("AN")]), [[1, 0, 0, 0, 0.25, 0.25, 0.25, 0.25]])
    rows = around(encode("ACG"), 1)
    np.testing.assert_array_equal(rows[0], [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(rows[2], [0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])


def test_they_find_a_motif_and_stay_out_of_the_part_they_answer_for():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)

    def part(number):
        codes, labels = [], rng.integers(0, 2, number)
        for label in labels:
            sequence = (1 << rng.integers(0, 4, 20)).astype(np.uint8)
            if label:
                sequence[8:12] = encode("GTAC")
            codes.append(sequence)
        return codes, labels

    parts = {"train": part(200), "validation": part(50), "test": part(60)}
    found = for_sequences(parts, "test", ["no", "yes"])
    right = {name: (shares.argmax(axis=1) == parts["test"][1]).mean() for name, shares in found.items()}
    (always, kmers, position, matrix) = right.values()
    assert kmers > 0.8 and position > 0.9 and matrix > 0.9 and always < 0.7
    other = for_sequences(parts | {"test": (parts["test"][0], 1 - parts["test"][1])}, "test", ["no", "yes"])
    for name, shares in found.items():
        np.testing.assert_array_equal(shares, other[name])  # its answers do not enter
        np.testing.assert_allclose(shares.sum(axis=1), 1)
    ragged = parts | {"test": ([each[:15] for each in parts["test"][0]], parts["test"][1])}
    assert len(for_sequences(ragged, "test", ["no", "yes"])) == 2  # places mean nothing then


def test_bases_by_their_neighbours():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(1)
    codes = [(1 << rng.integers(0, 4, 100)).astype(np.uint8) for _ in range(20)]
    tags = [(each == 4).astype(np.uint8) for each in codes]
    part = (codes, tags)
    found = for_bases({"train": part, "validation": part}, "validation", ["other", "G"])
    true = np.concatenate(tags)
    assert (found["21 bases, logistic regression"].argmax(axis=1) == true).mean() > 0.999 and found["always other"].shape == (2000, 2)
