"""Scoring: against NumPy, unaffected by padding, and in agreement with sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding.sampling import sample
from seqjax.decoding.scoring import Score, apply_from_step, rank, score, sequence_log_probs
from seqjax.errors import UserError


@pytest.fixture
def ragged():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 8, 6)).astype(np.float32) * 3
    targets = rng.integers(0, 6, size=(5, 8)).astype(np.int32)
    mask = np.arange(8) < np.array([8, 3, 1, 0, 5])[:, None]
    return logits, targets, mask


def slow_sums(logits, targets, mask):
    sums = []
    for rows, ids, real in zip(logits.astype(np.float64), targets, mask):
        sums.append(sum(row[i] - np.log(np.exp(row).sum()) for row, i, r in zip(rows, ids, real) if r))
    return np.array(sums)


def test_sums_match_numpy(ragged):
    np.testing.assert_allclose(sequence_log_probs(*ragged), slow_sums(*ragged), rtol=1e-5)


def test_padding_has_no_influence_on_values_or_gradients(ragged):
    logits, targets, mask = ragged
    spoiled = np.where(mask[..., None], logits, np.nan).astype(np.float32)
    ids = np.where(mask, targets, -12345)
    clean = sequence_log_probs(logits, targets, mask)
    np.testing.assert_array_equal(sequence_log_probs(spoiled, ids, mask), clean)
    gradient = jax.jit(jax.grad(lambda logits: sequence_log_probs(logits, ids, mask).sum()))(spoiled)
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[~mask] == 0).all()
    assert (np.asarray(gradient)[mask] != 0).any(-1).all()
    longer = [np.pad(array, [(0, 0), (0, 4)] + [(0, 0)] * (array.ndim - 2)) for array in (logits, targets, mask)]
    np.testing.assert_allclose(sequence_log_probs(*longer), clean, rtol=1e-6)


def test_a_score_is_sum_count_and_perplexity(ragged):
    logits, targets, mask = ragged
    result = score(lambda inputs, given: jnp.where(given[..., None], logits, 7.0), targets, targets, mask)
    sums, counts = slow_sums(*ragged), mask.sum(1)
    np.testing.assert_allclose(result.log_prob, sums, rtol=1e-5)
    assert result.tokens.tolist() == counts.tolist() and result.tokens.dtype == jnp.int32
    np.testing.assert_allclose(result.perplexity, np.exp(-sums / np.maximum(counts, 1)), rtol=1e-5)
    assert result.perplexity[3] == 1  # the empty one


def counting(carry, tokens):
    """Logits that depend on all tokens so far, through a running sum in the carry."""
    table, total = carry
    total = total + tokens.astype(jnp.float32)
    return (table, total), table[tokens] * jnp.cos(total)[:, None]


def test_what_was_drawn_scores_what_sampling_said():
    table = jnp.asarray(np.random.default_rng(2).normal(size=(6, 6)), jnp.float32)
    carry, first = (table, jnp.zeros(9)), jnp.arange(9, dtype=jnp.int32) % 6
    samples = sample(counting, carry, first, jax.random.key(1), length=10, temperature=0.8, top_k=4, eos_id=5)
    inputs = jnp.concatenate([first[:, None], samples.tokens[:, :-1]], axis=1)
    mask = np.arange(10) < np.asarray(samples.lengths)[:, None]
    result = score(apply_from_step(counting, carry), inputs, samples.tokens, mask)
    assert result.tokens.tolist() == samples.lengths.tolist() and len(set(result.tokens.tolist())) > 2
    np.testing.assert_allclose(result.log_prob, samples.log_probs.sum(1), rtol=1e-5)


def test_ranking_puts_the_likeliest_first():
    scores = Score(jnp.array([-9.0, -2.0, -9.0, -4.0]), jnp.array([9, 1, 9, 3]), jnp.exp(jnp.array([1.0, 2.0, 1.0, 4 / 3])))
    assert rank(scores).tolist() == [0, 2, 3, 1]
    assert rank(scores, by="log_prob").tolist() == [1, 3, 0, 2]
    with pytest.raises(UserError, match="'perplexity' or 'log_prob'"):
        rank(scores, by="length")
