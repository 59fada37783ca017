"""Losses: against NumPy in float64, and masked values have no influence."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.training.losses import bits, label_sums, perplexity, token_cross_entropy

B, T, V = 3, 5, 7
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(B, T, V)).astype(np.float32)
TARGETS = RNG.integers(0, V, (B, T))
MASK = RNG.random((B, T)) < 0.6
assert 0 < MASK.sum() < MASK.size


def _log_softmax(logits):
    z = np.asarray(logits, np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def _reference(logits, targets, mask):
    picked = np.take_along_axis(_log_softmax(logits), targets[..., None], -1)[..., 0]
    return -picked[mask].sum()


def _value_and_grad(logits, targets=TARGETS, mask=MASK):
    return jax.value_and_grad(lambda z: token_cross_entropy(z, jnp.asarray(targets), jnp.asarray(mask)).loss)(logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_value_is_that_of_float64(dtype):
    logits = jnp.asarray(LOGITS, dtype)
    sums = jax.jit(token_cross_entropy)(logits, TARGETS, MASK)
    assert sums.loss.dtype == sums.tokens.dtype == jnp.float32
    np.testing.assert_allclose(sums.loss, _reference(logits, TARGETS, MASK), rtol=1e-6)
    assert float(sums.tokens) == MASK.sum()


def test_long_sums_of_bfloat16_are_taken_in_float32():
    logits = jnp.asarray(RNG.normal(size=(2, 900, 3)), jnp.bfloat16)
    targets, mask = RNG.integers(0, 3, (2, 900)), np.full((2, 900), True)
    sums = token_cross_entropy(logits, targets, mask)
    np.testing.assert_allclose(sums.loss, _reference(logits, targets, mask), rtol=1e-5)
    assert float(sums.tokens) == 1800  # 1800 is no bfloat16


def test_float64_stays_float64(x64):
    logits = jnp.asarray(LOGITS, jnp.float64)
    sums = token_cross_entropy(logits, TARGETS, MASK)
    assert sums.loss.dtype == jnp.float64
    np.testing.assert_allclose(sums.loss, _reference(LOGITS, TARGETS, MASK), rtol=1e-14)


def test_large_logits_do_not_overflow():
    logits = jnp.asarray(LOGITS * 1e4)
    np.testing.assert_allclose(token_cross_entropy(logits, TARGETS, MASK).loss, _reference(logits, TARGETS, MASK), rtol=1e-6)


def test_gradient_is_softmax_less_one_hot():
    _, grad = _value_and_grad(LOGITS)
    want = (np.exp(_log_softmax(LOGITS)) - np.eye(V)[TARGETS]) * MASK[..., None]
    np.testing.assert_allclose(grad, want, atol=1e-6)
    assert np.all(np.asarray(grad)[~MASK] == 0)


def test_all_masked_gives_zero_and_a_zero_gradient():
    nothing = np.zeros_like(MASK)

    def mean(logits):
        sums = token_cross_entropy(logits, TARGETS, nothing)
        return sums.loss / jnp.maximum(sums.tokens, 1), sums

    for logits in (LOGITS, np.full_like(LOGITS, np.nan)):
        (loss, sums), grad = jax.value_and_grad(mean, has_aux=True)(logits)
        assert float(loss) == float(sums.loss) == float(sums.tokens) == 0
        assert np.all(np.asarray(grad) == 0)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e38])
def test_logits_under_the_mask_have_no_influence(junk):
    clean, dirty = _value_and_grad(LOGITS), _value_and_grad(np.where(MASK[..., None], LOGITS, np.float32(junk)))
    assert float(clean[0]) == float(dirty[0]) > 1
    np.testing.assert_array_equal(clean[1], dirty[1])


@pytest.mark.parametrize("junk", [-1, V, 10**6, -(10**6)])
def test_targets_under_the_mask_have_no_influence(junk):
    clean, dirty = _value_and_grad(LOGITS), _value_and_grad(LOGITS, np.where(MASK, TARGETS, junk))
    assert float(clean[0]) == float(dirty[0])
    np.testing.assert_array_equal(clean[1], dirty[1])


def _smoothed_reference(smoothing):
    share = np.full((B, T, V), smoothing / V) + (1 - smoothing) * np.eye(V)[TARGETS]
    return share, -(share * _log_softmax(LOGITS)).sum(-1)[MASK].sum()


@pytest.mark.parametrize("smoothing", [0.1, 0.9, 1.0])
def test_smoothing_is_cross_entropy_with_the_smoothed_distribution(smoothing):
    share, want = _smoothed_reference(smoothing)
    smoothed = partial(token_cross_entropy, targets=TARGETS, mask=MASK, smoothing=smoothing)
    sums = smoothed(LOGITS)
    np.testing.assert_allclose(sums.loss, want, rtol=1e-6)
    assert float(sums.tokens) == MASK.sum() and abs(want - _reference(LOGITS, TARGETS, MASK)) > 0.5
    grad = jax.jit(jax.grad(lambda z: smoothed(z).loss))(LOGITS)
    np.testing.assert_allclose(grad, (np.exp(_log_softmax(LOGITS)) - share) * MASK[..., None], atol=1e-6)


@pytest.mark.parametrize("junk, target", [(np.nan, 0), (np.inf, -1), (1e38, V), (0.0, 10**6)])
def test_what_stands_under_the_mask_has_no_influence_on_the_smoothed_loss(junk, target):
    def run(logits, targets):
        loss = lambda z: token_cross_entropy(z, jnp.asarray(targets), MASK, smoothing=0.2).loss  # noqa: E731
        return jax.value_and_grad(loss)(logits)

    clean = run(LOGITS, TARGETS)
    dirty = run(np.where(MASK[..., None], LOGITS, np.float32(junk)), np.where(MASK, TARGETS, target))
    assert float(clean[0]) == float(dirty[0])
    np.testing.assert_array_equal(clean[1], dirty[1])


def test_smoothing_of_bfloat16_is_taken_in_float32():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    sums = token_cross_entropy(logits, TARGETS, MASK, smoothing=0.3)
    wide = token_cross_entropy(logits.astype(jnp.float32), TARGETS, MASK, smoothing=0.3)
    assert sums.loss.dtype == jnp.float32 and float(sums.loss) == float(wide.loss)


def test_parts_add_up_to_the_whole():
    whole = token_cross_entropy(LOGITS, TARGETS, MASK)
    parts = [token_cross_entropy(LOGITS[:, a:b], TARGETS[:, a:b], MASK[:, a:b]) for a, b in ((0, 1), (1, 4), (4, T))]
    total = jax.tree.map(lambda *each: sum(each), *parts)
    np.testing.assert_allclose(total[:2], whole[:2], rtol=1e-6)


def test_perplexity():
    assert perplexity(0.0) == 1 and math.isclose(perplexity(math.log(80)), 80)
    assert perplexity(709.5) == math.exp(709.5) and perplexity(710.0) == perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_bits():
    assert bits(math.log(2)) == 1 and math.isclose(bits(math.log(8)), 3)
    assert math.isclose(2 ** bits(1.7), perplexity(1.7))


def test_what_is_masked_of_labels_counts_nowhere():
    rng = np.random.default_rng(7)
    logits, labels = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32), jnp.array([0, 1, 2, 0, 1, 2])
    logits = logits.at[4].set(10.0 * jax.nn.one_hot(1, 3)).at[5].set(jnp.nan)  # right, and not finite
    mask, targets = jnp.array([True, True, True, True, False, False]), jax.nn.one_hot(labels, 3)
    got, want = label_sums(logits, targets, labels, mask), label_sums(logits[:4], targets[:4], labels[:4], mask[:4])
    assert float(got.tokens) == 4 and float(got.loss) == pytest.approx(float(want.loss))
    assert float(got.counts["correct"]) == float(want.counts["correct"]) == float((logits[:4].argmax(-1) == labels[:4]).sum())
