"""The translator: every result is that of the source alone, in the sources' order, with the model's scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.data.pipeline.buckets import pad_lengths
from seqjax.decoding.scoring import sequence_log_probs
from seqjax.decoding.translation import Translator
from seqjax.models import Seq2Seq, make_attention, make_stack
from seqjax.text import BOS, EOS, PAD, UNK

V, W = 9, 10
RNG = np.random.default_rng(0)
# Two buckets, (3,) and (6,) by reach; empty sources among them, the longest neither first nor last.
SOURCES = [RNG.integers(4, V, n).astype(np.int32) for n in (2, 5, 0, 3, 1, 6, 0, 4, 2)]
BOUNDARIES = (3,)
MODEL = Seq2Seq(
    V, W, make_stack("gru", 3, 1, bidirectional=True), (seqjax.gru(6),), embed_size=4,
    attention=make_attention("luong_general", 6), input_feeding=True,
)  # fmt: skip


def pad(sequences, rows, steps):
    """Sequences side by side, zeros at their ends and below."""
    padded = np.zeros((rows, steps), np.int32)
    for row, sequence in zip(padded, sequences):
        row[: len(sequence)] = sequence
    return padded


@functools.cache
def _params():
    """Random parameters with which outputs end after a few tokens, but not all of them."""
    one = np.ones((1, 1), np.int32)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), one, one[0], one)["params"]
    rng = np.random.default_rng(6)
    params = jax.tree.map(lambda p: jnp.asarray(1.2 * rng.normal(size=p.shape), p.dtype), shapes)
    params["softmax"]["bias"] = params["softmax"]["bias"].at[EOS].add(3.0)
    return params


@functools.cache
def _translator(size=4):
    return Translator(MODEL, batch_size=size, boundaries=BOUNDARIES)


@functools.cache
def _greedy(size=4):
    return _translator(size).greedy(_params(), SOURCES)


@functools.cache
def _beam(size=4):
    return _translator(size).beam(_params(), SOURCES, width=3, n_best=3, length_penalty=0.7)


def _limit(source):
    return 2 * (3 if len(source) <= 3 else 6) + 10


def test_outputs_are_those_of_the_sources_alone_in_their_order():
    alone = [_translator(1).greedy(_params(), [source])[0] for source in SOURCES]
    for found in (_greedy(4), _greedy(9)):
        assert [tokens.tolist() for tokens in found] == [tokens.tolist() for tokens in alone]
    shuffled = np.random.default_rng(1).permutation(len(SOURCES))
    moved = _translator(4).greedy(_params(), [SOURCES[i] for i in shuffled])
    assert [tokens.tolist() for tokens in moved] == [alone[i].tolist() for i in shuffled]
    lengths = [len(tokens) for tokens in alone]
    assert len({tuple(tokens) for tokens in alone}) >= 4
    for source, tokens in zip(SOURCES, alone):
        assert not {PAD, UNK, BOS, EOS} & set(tokens.tolist()) and len(tokens) <= _limit(source)
    assert any(n < _limit(s) for n, s in zip(lengths, SOURCES)) and any(n == _limit(s) for n, s in zip(lengths, SOURCES))


def test_hypotheses_are_those_of_the_sources_alone_in_their_order():
    alone = [_translator(1).beam(_params(), [source], width=3, n_best=3, length_penalty=0.7)[0] for source in SOURCES]
    for together, single in zip(_beam(4), alone, strict=True):
        assert [h.tokens.tolist() for h in together] == [h.tokens.tolist() for h in single]
        assert [h.finished for h in together] == [h.finished for h in single]
        np.testing.assert_allclose([h[1:3] for h in together], [h[1:3] for h in single], rtol=1e-5)


def test_the_best_comes_first_and_scores_are_what_they_say():
    for source, hypotheses in zip(SOURCES, _beam()):
        assert len(hypotheses) == 3
        order = [(not h.finished, -h.score) for h in hypotheses]
        assert order == sorted(order)
        assert len({tuple(h.tokens) for h in hypotheses}) == 3
        for h in hypotheses:
            written = len(h.tokens) + h.finished
            assert written <= _limit(source) and (h.finished or written == _limit(source))
            np.testing.assert_allclose(h.score, h.log_prob / ((5 + written) / 6) ** 0.7, rtol=1e-5)
    assert len({h.finished for hypotheses in _beam() for h in hypotheses}) == 2


def test_log_probabilities_are_those_of_teacher_forcing():
    pairs = [(source, h) for source, hypotheses in zip(SOURCES, _beam()) for h in hypotheses]
    outputs = [np.concatenate([h.tokens, [EOS] if h.finished else []]).astype(np.int32) for _, h in pairs]
    rows, steps = len(pairs), max(map(len, outputs))
    source = pad([source for source, _ in pairs], rows, 6)
    lengths = pad_lengths(np.array([len(source) for source, _ in pairs]), rows)
    inputs = pad([np.concatenate([[BOS], output[:-1]]).astype(np.int32) for output in outputs], rows, steps)
    mask = np.arange(steps)[None] < np.array([len(output) for output in outputs])[:, None]
    logits = jax.jit(lambda params: MODEL.apply({"params": params}, source, lengths, inputs).logits)(_params())
    want = sequence_log_probs(logits, pad(outputs, rows, steps), mask)
    np.testing.assert_allclose([h.log_prob for _, h in pairs], want, rtol=1e-4, atol=1e-4)


def test_greedy_is_a_beam_of_one():
    found = _translator(4).beam(_params(), SOURCES, width=1)
    assert [[h.tokens.tolist() for h in one] for one in found] == [[tokens.tolist()] for tokens in _greedy()]


def test_no_sources_and_any_integers():
    assert _translator().greedy(_params(), []) == _translator().beam(_params(), [], width=2) == []
    # Possible forms of an empty line, beside other integers.
    sources = [np.array([]), SOURCES[0].astype(np.int64), SOURCES[1].astype(np.uint8), SOURCES[3]]
    found = _translator().greedy(_params(), sources)
    assert [tokens.tolist() for tokens in found] == [_greedy()[i].tolist() for i in (2, 0, 1, 3)]


@pytest.mark.parametrize("place", [1, 2])
def test_attention_tells_where_each_token_was_read(place):
    source, output = SOURCES[place], np.array([6, 7, 8], np.int32)
    weights = _translator().attention(_params(), source, output)
    assert weights.shape == (4, len(source))
    if not len(source):
        return
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    inputs = np.concatenate([[BOS], output])[None].astype(np.int32)
    padded, lengths = pad([source], 1, 7), np.array([len(source)], np.int32)
    want = jax.jit(lambda p: MODEL.apply({"params": p}, padded, lengths, inputs).weights)(_params())[0]
    np.testing.assert_allclose(weights, want[:, : len(source)], rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(weights, axis=0)).max() > 0.01
