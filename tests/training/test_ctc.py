"""The CTC loss against all alignments one by one, and against a forward pass of its own in NumPy; where optax is wrong it is not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqjax.training import ctc
from seqjax.training.ctc import steps_needed

ctc_nats = jax.jit(ctc.ctc_nats)


def paths_nats(log_probs, labels):
    """-log of the sum over every path that reduces to the labels."""
    total = -np.inf
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        if [k for k, _ in itertools.groupby(path) if k] == list(labels):
            total = np.logaddexp(total, sum(log_probs[t, k] for t, k in enumerate(path)))
    return -total


def forward_nats(log_probs, labels):
    """The same by Graves' recursion over prefixes of labels, in float64: a[u, e], u labels so far, ending in blank or not."""
    blank, label = np.full(len(labels) + 1, -np.inf), np.full(len(labels) + 1, -np.inf)
    blank[0] = 0.0
    for scores in np.asarray(log_probs, np.float64):
        before_blank, before_label = blank.copy(), label.copy()
        for u in range(len(labels) + 1):
            blank[u] = np.logaddexp(before_blank[u], before_label[u]) + scores[0]
            if u:
                repeated = u > 1 and labels[u - 1] == labels[u - 2]
                new = before_blank[u - 1] if repeated else np.logaddexp(before_blank[u - 1], before_label[u - 1])
                label[u] = np.logaddexp(before_label[u], new) + scores[labels[u - 1]]
    return -np.logaddexp(blank[-1], label[-1])


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)


def batch(rng, rows, most_steps, vocab, most_labels, scale=2.0):
    """Random rows whose labels fit, with steps and labels of every length, repeats among them."""
    logits = scale * rng.normal(size=(rows, most_steps, vocab))
    steps = rng.integers(0, most_steps + 1, rows)
    labels = rng.integers(1, vocab, (rows, most_labels))
    lengths = np.zeros(rows, int)
    for row in range(rows):
        fit = [n for n in range(most_labels + 1) if steps_needed(labels[row, :n]) <= steps[row]]
        lengths[row] = rng.choice(fit)
    return logits, steps, labels, lengths


def test_every_path():
    rng = np.random.default_rng(0)
    logits, steps, labels, lengths = batch(rng, 40, 5, 3, 4)
    found = ctc_nats(jnp.asarray(logits, jnp.float32), steps, labels, lengths)
    for row in range(40):
        own = log_softmax(logits[row, : steps[row]]), labels[row, : lengths[row]]
        expected = paths_nats(*own)
        assert forward_nats(*own) == pytest.approx(expected)
        assert float(found[row]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_long_rows_and_their_gradients():
    """Against float64, by the independent recursion and its numerical derivative."""
    rng = np.random.default_rng(1)
    logits, steps, labels, lengths = batch(rng, 12, 90, 30, 25)
    found = ctc_nats(jnp.asarray(logits, jnp.float32), steps, labels, lengths)
    expected = [forward_nats(log_softmax(logits[r, : steps[r]]), labels[r, : lengths[r]]) for r in range(12)]
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-4)
    slopes = jax.jit(jax.grad(lambda z: ctc_nats(z, steps, labels, lengths).sum()))(jnp.asarray(logits, jnp.float32))
    for row, t, k in zip(rng.integers(0, 12, 60), rng.integers(0, 90, 60), rng.integers(0, 30, 60)):
        ends = []
        for change in (1e-5, -1e-5):
            moved = logits[row].copy()
            moved[t, k] += change
            ends.append(forward_nats(log_softmax(moved[: steps[row]]), labels[row, : lengths[row]]))
        assert float(slopes[row, t, k]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=2e-5)


def test_a_certain_answer_costs_nothing_and_never_less():
    """Rounding must not make a loss negative; its gradient stays that of the sum."""
    rng = np.random.default_rng(2)
    for scale in (8.0, 12.0, 20.0, 60.0):
        labels = rng.integers(1, 5, (16, 6))
        labels[:, 1:] = np.where(labels[:, 1:] == labels[:, :-1], labels[:, 1:] % 4 + 1, labels[:, 1:])
        logits = scale * np.eye(5)[np.repeat(labels, 4, axis=1)] + rng.normal(size=(16, 24, 5)) * 0.1
        nats, slopes = jax.vmap(jax.value_and_grad(lambda z, y: ctc_nats(z[None], np.array([24]), y[None], np.array([6]))[0]))(
            jnp.asarray(logits, jnp.float32), labels
        )
        expected = [forward_nats(log_softmax(logits[r]), labels[r]) for r in range(16)]
        assert (nats >= 0).all() and np.isfinite(slopes).all()
        np.testing.assert_allclose(nats, expected, atol=1e-4)


def test_where_optax_is_negative():
    """The reason for our own loss: for a certain answer optax's is negative, and 100,000 nats if labels do not fit."""
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 5, (64, 6))
    labels[:, 1:] = np.where(labels[:, 1:] == labels[:, :-1], labels[:, 1:] % 4 + 1, labels[:, 1:])
    logits = jnp.asarray(20.0 * np.eye(5)[np.repeat(labels, 4, axis=1)] + rng.normal(size=(64, 24, 5)) * 0.1, jnp.float32)
    of_optax = optax.ctc_loss(logits, jnp.zeros((64, 24)), labels, jnp.zeros((64, 6)))
    assert of_optax.min() < 0
    assert (ctc_nats(logits, np.full(64, 24), labels, np.full(64, 6)) >= 0).all()


def test_optax_agrees_where_it_is_right():
    rng = np.random.default_rng(4)
    logits, steps, labels, lengths = batch(rng, 30, 40, 12, 10)
    lengths = np.maximum(lengths, (steps > 0).astype(int))
    padding = (np.arange(40)[None] >= steps[:, None]), (np.arange(10)[None] >= lengths[:, None])
    expected = optax.ctc_loss(jnp.asarray(logits, jnp.float32), padding[0].astype(float), labels, padding[1].astype(float))
    some, found = steps > 0, ctc_nats(jnp.asarray(logits, jnp.float32), steps, labels, lengths)
    np.testing.assert_allclose(found[some], expected[some], rtol=1e-4, atol=1e-4)


def test_padding_is_inert():
    rng = np.random.default_rng(5)
    logits, steps, labels, lengths = batch(rng, 20, 12, 5, 6)
    real = np.arange(12)[None] < steps[:, None]
    dirty = np.where(real[..., None], logits, np.nan)
    other = np.where(np.arange(6)[None] < lengths[:, None], labels, 99)

    def total(z, y):
        return ctc_nats(z, steps, y, lengths).sum()

    value, slopes = jax.jit(jax.value_and_grad(total))(jnp.asarray(dirty, jnp.float32), other)
    assert float(value) == float(total(jnp.asarray(logits, jnp.float32), labels))
    assert np.isfinite(slopes).all() and not np.asarray(slopes)[~real].any()


def test_labels_that_do_not_fit_are_no_infinite_loss():
    """steps_needed identifies them exactly; their loss is finite and has no gradient."""
    rng = np.random.default_rng(6)
    of_one = jax.jit(jax.value_and_grad(lambda z, steps, labels, count: ctc_nats(z, steps[None], labels, count[None])[0]))
    for _ in range(60):
        labels = rng.integers(1, 3, rng.integers(0, 6))
        steps = int(rng.integers(0, 8))
        logits = jnp.asarray(rng.normal(size=(1, 8, 3)), jnp.float32)
        own = np.pad(labels, (0, 6 - len(labels)))[None]
        nats, slopes = of_one(logits, np.int32(steps), own, np.int32(len(labels)))
        assert np.isfinite(nats) and np.isfinite(slopes).all()
        expected = forward_nats(log_softmax(np.asarray(logits)[0, :steps]), labels)
        assert np.isinf(expected) == (steps_needed(labels) > steps)
        if np.isinf(expected):
            assert nats == 0 and not slopes.any()


def test_half_precision_logits_are_summed_in_single():
    logits = jnp.asarray(np.random.default_rng(7).normal(size=(2, 30, 6)), jnp.bfloat16)
    found = ctc_nats(logits, np.array([30, 30]), np.array([[1, 2, 3]] * 2), np.array([3, 3]))
    assert found.dtype == jnp.float32
    expected = [forward_nats(log_softmax(np.asarray(row, np.float64)), [1, 2, 3]) for row in logits]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
