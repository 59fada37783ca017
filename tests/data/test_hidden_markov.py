"""The hidden Markov model: its posterior against the sum over all paths, and what is drawn from it."""

import itertools

import numpy as np
import pytest

from seqjax.data.readers.hidden_markov import HiddenMarkov, draw, genes, posterior
from seqjax.models.nucleotides import SHARES, encode


def random_model(rng, states, tags):
    start, transitions, emissions = (rng.dirichlet(np.ones(n), size) for n, size in ((states, 1), (states, states), (4, states)))
    own = (*range(tags), *rng.integers(0, tags, states - tags).tolist())
    return HiddenMarkov(start[0], transitions, emissions, own, tuple(map(str, range(tags))))


def by_enumeration(model, codes):
    """p(tag of each base | sequence) and log p(sequence), from the probability of every path of states."""
    states, shares, total = len(model.tags), np.zeros((len(codes), max(model.tags) + 1)), 0.0
    sets = SHARES[codes] > 0
    for path in itertools.product(range(states), repeat=len(codes)):
        weight = model.start[path[0]]
        for t, state in enumerate(path):
            weight *= model.emissions[state][sets[t]].sum() * (model.transitions[path[t - 1], state] if t else 1)
        total += weight
        for t, state in enumerate(path):
            shares[t, model.tags[state]] += weight
    return shares / total, np.log(total)


@pytest.mark.parametrize("states, tags, length", [(2, 2, 7), (3, 2, 6), (4, 3, 5), (3, 3, 1)])
def test_the_posterior_is_that_of_all_paths(states, tags, length):
    rng = np.random.default_rng(states)
    model = random_model(rng, states, tags)
    codes = np.concatenate([1 << rng.integers(0, 4, (2, length)), rng.integers(1, 16, (1, length))]).astype(np.uint8)
    found = posterior(model, codes)
    for row, tags_of, log_likelihood in zip(codes, *found):
        shares, log_total = by_enumeration(model, row)
        np.testing.assert_allclose(tags_of, shares, atol=1e-12)
        np.testing.assert_allclose(log_likelihood, log_total, atol=1e-12)


def test_the_posterior_of_the_gene_model_is_that_of_all_paths():
    """Twelve states, most of whose transitions are impossible."""
    model = genes(gene=2.0, between=3.0)
    codes = encode("ATGTA")
    found = posterior(model, codes[None])
    shares, log_total = by_enumeration(model, codes)
    np.testing.assert_allclose(found.tags[0], shares, atol=1e-12)
    np.testing.assert_allclose(found.log_likelihood[0], log_total)


def test_an_impossible_sequence_is_an_error():
    model = HiddenMarkov(np.array([1.0]), np.array([[1.0]]), np.array([[0.5, 0.5, 0, 0]]), (0,), ("a",))
    with pytest.raises(ValueError, match="sequence 1 is impossible under the model from base 2"):
        posterior(model, np.array([[1, 2], [1, 4]], np.uint8))


def test_what_is_drawn_follows_the_model():
    """Genes start with ATG, have codons, and end with one of three equally frequent stops; the posterior is calibrated."""
    model = genes()
    sequences, tags = draw(model, 400, 200, seed=3)
    whole, stops = 0, {"TAA": 0, "TAG": 0, "TGA": 0}
    for sequence, row in zip(sequences, tags):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]]).astype(int)))
        for begin, end in edges.reshape(-1, 2):
            assert sequence[begin : begin + 3] == "ATG"[: end - begin]
            if end < len(sequence) and row[end - 1] and (end - begin) % 3 == 0 and sequence[end - 3 : end] in stops:
                whole += 1
                stops[sequence[end - 3 : end]] += 1
    assert whole > 100 and all(abs(count / whole - 1 / 3) < 0.12 for count in stops.values()), stops
    found = posterior(model, np.stack([encode(sequence) for sequence in sequences])).tags
    right = (found.argmax(axis=2) == np.stack(tags)).mean()
    assert abs(right - found.max(axis=2).mean()) < 0.006
    assert draw(model, 5, 30, seed=3)[0] == draw(model, 5, 30, seed=3)[0] != draw(model, 5, 30, seed=4)[0]


def test_the_shares_of_bases_are_those_of_the_states():
    rng = np.random.default_rng(0)
    model = random_model(rng, 2, 2)
    sequences, tags = draw(model, 300, 100, seed=0)
    codes, rows = np.stack([encode(sequence) for sequence in sequences]), np.stack(tags)
    for state in range(2):
        counts = np.bincount(codes[rows == state], minlength=9)[[1, 2, 4, 8]]
        np.testing.assert_allclose(counts / counts.sum(), model.emissions[state], atol=0.03)
    moves = np.array([[((rows[:, :-1] == a) & (rows[:, 1:] == b)).sum() for b in range(2)] for a in range(2)])
    np.testing.assert_allclose(moves / moves.sum(axis=1, keepdims=True), model.transitions, atol=0.03)
