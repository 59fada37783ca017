"""Prefix search against every text one by one, with and without a language model; greedy paths; alignments."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding.ctc import align, collapse, prefix_search
from seqjax.decoding.fusion import First, Fusion, ngram_fusion
from seqjax.errors import UserError
from seqjax.text import NGramModel


def log_probs_of(rng, rows, steps, vocab, scale=1.5):
    logits = scale * rng.normal(size=(rows, steps, vocab))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def texts(log_probs):
    """Text -> log of the sum of its paths, over all paths."""
    found = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = tuple(k for k, _ in itertools.groupby(path) if k)
        found[text] = np.logaddexp(found.get(text, -np.inf), sum(log_probs[t, k] for t, k in enumerate(path)))
    return found


def readings(found, row):
    """Text -> (score, log p), the best first."""
    rows = zip(found.labels[row], found.lengths[row], found.scores[row], found.log_probs[row])
    return {tuple(labels[:n].tolist()): (float(score), float(log_p)) for labels, n, score, log_p in rows if np.isfinite(score)}


def test_every_text():
    """A beam as wide as there are prefixes finds each text with exactly the sum of its paths, in order; rows of every length."""
    rng = np.random.default_rng(0)
    log_probs, steps = log_probs_of(rng, 6, 5, 3), np.array([5, 4, 3, 2, 1, 0])
    dirty = np.where(np.arange(5)[None, :, None] < steps[:, None, None], log_probs, np.nan)
    found = prefix_search(dirty, steps, width=64)
    for row in range(6):
        expected = texts(log_probs[row, : steps[row]])
        read = readings(found, row)
        assert read.keys() == expected.keys()
        for text, (score, log_p) in read.items():
            assert score == log_p == pytest.approx(expected[text], abs=1e-5)
        assert list(read) == sorted(expected, key=lambda text: -expected[text])


def test_no_text_twice_in_a_narrow_beam():
    """Pruning only removes paths: no text exceeds the sum of all its paths, and the best is often the overall best."""
    rng = np.random.default_rng(1)
    log_probs = log_probs_of(rng, 40, 7, 3)
    hits = {}
    for width in (1, 3, 12):
        found, hits[width] = prefix_search(log_probs, np.full(40, 7), width=width), 0
        for row in range(40):
            read, expected = readings(found, row), texts(log_probs[row])
            lengths = [tuple(labels[:n].tolist()) for labels, n in zip(found.labels[row], found.lengths[row])]
            assert len(set(lengths)) == width
            assert all(log_p <= expected[text] + 1e-4 for text, (_, log_p) in read.items())
            hits[width] += next(iter(read)) == max(expected, key=expected.get)
    assert hits[1] <= hits[3] <= hits[12] and hits[12] >= 38


def exhaustive(log_probs, share):
    """All texts by the score that fusion gives them."""
    scores = {text: log_p + share(text) for text, log_p in texts(log_probs).items()}
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))


@pytest.mark.parametrize("order, weight, bonus", [(1, 0.7, 0.0), (2, 0.7, 0.3), (3, 1.5, -0.2), (3, 0.0, 0.5)])
def test_every_text_with_an_ngram(order, weight, bonus):
    """log p(y | x) + weight log p(y, end) + bonus |y|, the labels 4 and 5 of a vocabulary with four special ones."""
    rng = np.random.default_rng(2)
    documents = [rng.integers(4, 6, rng.integers(1, 6)).tolist() + [3] for _ in range(30)]
    tokens, starts = np.concatenate(documents), np.concatenate([[True] + [False] * (len(d) - 1) for d in documents])
    model = NGramModel.fit(tokens, starts, order=order, vocab_size=6, excluded=(0, 1, 2))

    def share(text):
        ids = np.array([*text, 3])
        return weight * model.log_probs(ids, np.arange(len(ids)) == 0).sum() + bonus * len(text)

    short = log_probs_of(rng, 3, 4, 3)
    log_probs = np.full((3, 4, 6), -1e9)
    log_probs[..., [0, 4, 5]] = short
    found = prefix_search(log_probs, np.full(3, 4), width=40, fusion=ngram_fusion(model, weight=weight, bonus=bonus))
    for row in range(3):
        expected = exhaustive(short[row], lambda text: share([each + 3 for each in text]))
        read = {tuple(each - 3 for each in text): score for text, (score, _) in readings(found, row).items() if score > -1e6}
        assert list(read)[:8] == list(expected)[:8]
        np.testing.assert_allclose(list(read.values()), [expected[text] for text in read], atol=1e-4)


def test_a_language_model_with_a_memory():
    """One that counts: the memory of each prefix is its own, also after prefixes change places."""

    def step(params, memory, labels):
        count = memory["count"] + (labels == 2)
        return {"count": count}, jnp.stack([jnp.zeros(len(labels)), -0.3 * count, 0.9 * jnp.sin(1.0 + count)], axis=1)

    def share(text):
        total, count = 0.0, 0
        for label in text:
            scores = np.array([0, -0.3 * count, 0.9 * np.sin(1.0 + count)])
            total += scores[label] - np.log(np.exp(scores).sum())
            count += label == 2
        return total

    log_probs = log_probs_of(np.random.default_rng(3), 4, 5, 3)
    fusion = Fusion(step, (), First({"count": np.int32(0)}, first=0, end=-1), weight=1.0)
    found = prefix_search(log_probs, np.full(4, 5), width=64, fusion=fusion)
    for row in range(4):
        expected = exhaustive(log_probs[row], share)
        read = readings(found, row)
        assert list(read) == list(expected)
        np.testing.assert_allclose([score for score, _ in read.values()], list(expected.values()), atol=1e-4)


def test_the_width_is_checked():
    for width in (0, True, 2.0):
        with pytest.raises(UserError, match="width of a beam"):
            prefix_search(np.zeros((1, 2, 3)), np.array([2]), width=width)


def test_paths_collapse():
    rng = np.random.default_rng(4)
    for _ in range(100):
        path = rng.integers(0, 3, rng.integers(0, 9))
        assert collapse(path).tolist() == [k for k, _ in itertools.groupby(path.tolist()) if k]


def test_alignments_are_the_likeliest():
    """Against every path that reduces to the labels."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        log_probs = log_probs_of(rng, 1, 6, 3)[0]
        labels = rng.integers(1, 3, rng.integers(0, 4))
        best, best_path = -np.inf, None
        for path in itertools.product(range(3), repeat=6):
            if [k for k, _ in itertools.groupby(path) if k] == labels.tolist():
                score = sum(log_probs[t, k] for t, k in enumerate(path))
                best, best_path = max((best, best_path), (score, path))
        if best_path is None:
            with pytest.raises(ValueError, match="do not fit into 6 steps"):
                align(log_probs, labels)
            continue
        expected, start = [], 0
        for label, run in itertools.groupby(best_path):
            length = len(list(run))
            expected += [(start, start + length)] if label else []
            start += length
        assert align(log_probs, labels) == expected
