"""Sampling: the filters against a slow reference, the draws against their probabilities, and the loop's promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seqjax
from seqjax.decoding import sampling
from seqjax.decoding.sampling import filter_logits, sample
from seqjax.decoding.text import TextSampler
from seqjax.errors import UserError
from seqjax.models import LanguageModel
from seqjax.text import CharTokenizer

VOCAB = 7
TABLE = np.random.default_rng(0).normal(size=(VOCAB, VOCAB)).astype(np.float32) * 1.5


def bigram(carry, tokens):
    """Logits from a table by the last token; the carry is (table, steps taken)."""
    table, steps = carry
    return (table, steps + 1), table[tokens]


def draw(key=0, rows=4, first=None, **options):
    first = jnp.zeros(rows, jnp.int32) if first is None else jnp.asarray(first, jnp.int32)
    options = {"length": 12, **options}
    return sample(bigram, (jnp.asarray(TABLE), jnp.int32(0)), first, jax.random.key(key), **options)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def slow_filter(logits, temperature, top_k, top_p, banned):
    """The probabilities to draw from, one row, in float64, step by step as the docstring says."""
    alive = [i for i in range(len(logits)) if i not in banned]
    likeliest_first = sorted(alive, key=lambda i: (-logits[i], i))
    if temperature == 0:
        likeliest_first, temperature = likeliest_first[:1], 1.0
    if top_k:
        likeliest_first = likeliest_first[:top_k]
    weights = {i: np.exp((float(logits[i]) - float(logits[likeliest_first[0]])) / temperature) for i in likeliest_first}
    total, kept, reached = sum(weights.values()), [], 0.0
    for i in likeliest_first:
        if kept and reached >= top_p:
            break
        kept.append(i)
        reached += weights[i] / total
    probs = np.zeros(len(logits))
    for i in kept:
        probs[i] = weights[i] / sum(weights[j] for j in kept)
    return probs


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    st.integers(0, 12),
    st.sampled_from([0.05, 0.313, 0.617, 0.95, 1.0]),
    st.sets(st.integers(0, 9), max_size=6),
)
def test_filters_match_a_slow_reference(seed, temperature, top_k, top_p, banned):
    logits = np.random.default_rng(seed).normal(size=(3, 10)).astype(np.float32) * 2
    result = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, banned=tuple(banned))
    expected = np.stack([slow_filter(row, temperature, top_k, top_p, banned) for row in logits])
    assert (np.isfinite(result) == (expected > 0)).all()
    np.testing.assert_allclose(jax.nn.softmax(result), expected, rtol=2e-5, atol=1e-7)


def test_filters_take_any_leading_shape_and_half_precision():
    logits = np.random.default_rng(1).normal(size=(2, 3, 9)).astype(np.float32)
    options = {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "banned": (1, 2)}
    whole = filter_logits(logits, **options)
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(whole[i, j], filter_logits(logits[i, j], **options))
    assert filter_logits(jnp.asarray(logits, jnp.bfloat16), **options).dtype == jnp.float32


def test_of_equal_logits_the_lower_id_comes_first():
    equal = jnp.array([0.0, 3.0, 3.0, 3.0, 1.0])
    kept = lambda **options: np.flatnonzero(np.isfinite(filter_logits(equal, **options))).tolist()  # noqa: E731
    assert kept(temperature=0.0) == [1]
    assert kept(top_k=2) == [1, 2]
    assert kept(top_p=0.5) == [1, 2]
    assert kept(top_k=2, banned=(1,)) == [2, 3]


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-30, 1e-3, 1e30])
def test_extreme_temperatures_give_numbers(temperature):
    logits = jnp.array([1.0, 5.0, -3.0, 4.0])
    probs = np.asarray(jax.nn.softmax(filter_logits(logits, temperature=temperature)))
    expected = [0, 1, 0, 0] if temperature < 1 else [0.25] * 4
    np.testing.assert_allclose(probs, expected, atol=1e-6)


def test_a_model_may_exclude_ids_itself():
    logits = jnp.array([-jnp.inf, 1.0, 2.0, -jnp.inf])
    probs = np.asarray(jax.nn.softmax(filter_logits(logits, top_p=0.999, top_k=3, temperature=0.5)))
    np.testing.assert_allclose(probs, [0, 1 / (1 + np.e**2), 1 / (1 + np.e**-2), 0], rtol=1e-5)


def test_banned_as_ids_or_as_a_mask():
    logits = jnp.asarray(TABLE)
    mask = np.isin(np.arange(VOCAB), [0, 4])
    by_ids = filter_logits(logits, banned=(4, 0))
    np.testing.assert_array_equal(by_ids, filter_logits(logits, banned=mask))
    np.testing.assert_array_equal(by_ids, jax.jit(lambda mask: filter_logits(logits, banned=mask))(mask))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"banned": (2, 5)}])
def test_draws_have_the_frequencies_of_their_probabilities(options):
    rows = 20_000
    tokens = np.asarray(draw(key=5, rows=rows, length=1, first=np.full(rows, 3), **options).tokens[:, 0])
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "banned": (), **options}
    expected = slow_filter(TABLE[3], **full) * rows
    counts = np.bincount(tokens, minlength=VOCAB)
    assert (counts[expected == 0] == 0).all()
    alive = expected > 0
    chi_square = ((counts - expected)[alive] ** 2 / expected[alive]).sum()
    assert chi_square < 25  # with at most 6 degrees of freedom: once in 3,000 seeds


def test_draws_at_later_times_have_their_probabilities_too():
    """All pairs (token, next token) of long draws against the table: time steps must not share randomness."""
    tokens = np.asarray(draw(key=6, rows=64, length=400).tokens)
    pairs = np.zeros((VOCAB, VOCAB))
    np.add.at(pairs, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
    expected = np.exp(log_softmax(TABLE)) * pairs.sum(1, keepdims=True)
    assert ((pairs - expected) ** 2 / expected).sum() < 90  # 42 degrees of freedom


def test_banned_ids_are_never_drawn():
    for options in ({}, {"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.01}, {"temperature": 10.0}):
        tokens = np.asarray(draw(rows=200, length=20, banned=(0, 1, 6), **options).tokens)
        assert not np.isin(tokens, [0, 1, 6]).any()


def test_greedy_is_the_argmax_and_so_is_top_one():
    first = np.arange(VOCAB)
    expected, token = [], first
    for _ in range(12):
        token = TABLE[token].argmax(-1)
        expected.append(token)
    greedy = draw(first=first, temperature=0.0)
    np.testing.assert_array_equal(greedy.tokens, np.stack(expected, 1))
    np.testing.assert_array_equal(draw(key=9, first=first, top_k=1).tokens, greedy.tokens)
    np.testing.assert_array_equal(draw(key=9, first=first, temperature=0).tokens, greedy.tokens)
    np.testing.assert_array_equal(draw(key=9, first=first, top_p=1e-6).tokens, greedy.tokens)


def test_a_row_ends_at_eos_with_padding_after_it():
    free = np.asarray(draw(rows=50, length=30).tokens)
    samples = draw(rows=50, length=30, eos_id=4, pad_id=99)
    tokens, log_probs, lengths = map(np.asarray, samples)
    ended = 0
    for b in range(50):
        found = np.flatnonzero(free[b] == 4)
        length = found[0] + 1 if len(found) else 30
        ended += bool(len(found))
        assert lengths[b] == length
        np.testing.assert_array_equal(tokens[b, :length], free[b, :length])
        assert (tokens[b, length:] == 99).all() and (log_probs[b, length:] == 0).all()
        assert (log_probs[b, :length] < 0).all()
    assert 10 < ended


def test_padding_that_equals_eos_or_a_token_changes_nothing():
    one, other = draw(rows=30, eos_id=4, pad_id=4), draw(rows=30, eos_id=4, pad_id=1)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    real = np.arange(12) < np.asarray(one.lengths)[:, None]
    np.testing.assert_array_equal(np.asarray(one.tokens)[real], np.asarray(other.tokens)[real])


def test_the_loop_stops_when_every_row_has_ended():
    calls = []

    def step(carry, tokens):
        jax.debug.callback(lambda _: calls.append(1), tokens)
        return carry, 50.0 * jax.nn.one_hot(tokens + 1, 6)

    samples = sample(step, (), jnp.array([0, 2]), jax.random.key(0), length=1000, eos_id=5)
    jax.block_until_ready(samples)
    jax.effects_barrier()
    assert len(calls) == 5 and samples.lengths.tolist() == [5, 3]


def test_log_probs_are_the_models_own_whatever_the_filters():
    first = np.arange(VOCAB)
    samples = draw(first=first, temperature=0.4, top_k=3, top_p=0.9, banned=(2,))
    inputs = np.concatenate([first[:, None], np.asarray(samples.tokens)[:, :-1]], 1)
    expected = np.take_along_axis(log_softmax(TABLE.astype(np.float64))[inputs], np.asarray(samples.tokens)[..., None], 2)
    np.testing.assert_allclose(samples.log_probs, expected[..., 0], rtol=1e-5, atol=1e-6)


def test_the_same_key_draws_the_same_and_another_key_does_not():
    np.testing.assert_array_equal(draw(key=1).tokens, draw(key=1).tokens)
    assert (np.asarray(draw(key=1).tokens) != np.asarray(draw(key=2).tokens)).any()


def test_a_row_does_not_depend_on_the_others_or_on_the_length():
    whole = np.asarray(draw(first=[0, 1, 2, 3, 4], eos_id=6).tokens)
    np.testing.assert_array_equal(draw(first=[0, 1], eos_id=6).tokens, whole[:2])
    np.testing.assert_array_equal(draw(first=[0, 5, 2, 6, 4], eos_id=6).tokens[::2], whole[::2])
    np.testing.assert_array_equal(draw(first=[0, 1, 2, 3, 4], eos_id=6, length=5).tokens, whole[:, :5])
    alike = np.asarray(draw(first=[3, 3, 3]).tokens)
    assert (alike[0] != alike[1]).any() and (alike[1] != alike[2]).any()


def test_an_old_style_key_works():
    samples = sample(bigram, (jnp.asarray(TABLE), jnp.int32(0)), jnp.array([1]), jax.random.PRNGKey(3), length=4)
    new = sample(bigram, (jnp.asarray(TABLE), jnp.int32(0)), jnp.array([1]), jax.random.key(3), length=4)
    np.testing.assert_array_equal(samples.tokens, new.tokens)


def test_other_settings_and_other_parameters_do_not_compile_again():
    traces = []

    def step(carry, tokens):
        traces.append(1)
        return carry, carry[tokens]

    def run(table, **options):
        return sample(step, table, jnp.array([0, 1]), jax.random.key(0), length=6, **options).tokens

    table = jnp.asarray(TABLE)
    first = run(table)
    after_one, compiled = len(traces), sampling._sample._cache_size()
    run(table, temperature=0.5)
    run(table, temperature=0, top_p=0.5)
    run(table, temperature=jnp.float32(2), top_k=3, top_p=1, eos_id=2, pad_id=1)
    assert (np.asarray(run(table[::-1])) != np.asarray(first)).any()
    assert len(traces) == after_one and sampling._sample._cache_size() == compiled


def test_settings_may_be_traced():
    run = jax.jit(lambda t, k, p: draw(temperature=t, top_k=k, top_p=p).tokens)
    np.testing.assert_array_equal(run(0.7, 4, 0.9), draw(temperature=0.7, top_k=4, top_p=0.9).tokens)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"length": 0}, "length is 0"),
        ({"length": 2.0}, "length is 2.0"),
        ({"banned": (3, 7)}, "banned id 7 .* 0 to 6"),
        ({"banned": (-1,)}, "banned id -1"),
        ({"banned": tuple(range(VOCAB))}, "every id"),
        ({"banned": np.arange(VOCAB) >= 0}, "every id"),
        ({"banned": np.zeros(3, bool)}, r"shape \(3,\)"),
        ({"first": [[1]]}, "first_token"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(options, says):
    with pytest.raises(UserError, match=says):
        draw(**options)


def test_a_sampler_made_again_compiles_nothing_again():
    """As at each evaluation of a training run, where every compiled loop would stay in memory."""
    tokenizer = CharTokenizer.fit(["hello"])
    before, found = sampling._sample._cache_size(), set()
    for seed in range(3):
        model = LanguageModel(tokenizer.vocab_size, seqjax.gru(4), 4)  # an equal one
        params = model.init(jax.random.key(seed), np.array([[2]]))["params"]
        found.add(TextSampler(model, tokenizer, ends=False)(params, jax.random.key(seed), "he", length=6)[0])
    assert sampling._sample._cache_size() == before + 1
    assert len(found) > 1  # the parameters are arguments, not constants of the first
    other = LanguageModel(tokenizer.vocab_size, seqjax.gru(5), 4)
    params = other.init(jax.random.key(0), np.array([[2]]))["params"]
    assert len(TextSampler(other, tokenizer, ends=False)(params, jax.random.key(0), "he", length=6)[0]) == 8
    assert sampling._sample._cache_size() == before + 2
