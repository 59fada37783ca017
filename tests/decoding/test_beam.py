"""Decoders: beam search against exhaustive search and a slow beam, greedy and scores against each other and a plain loop."""

import itertools
import operator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.decoding import beam, decoder, sampling
from seqjax.decoding.beam import beam_search
from seqjax.decoding.decoder import draw, force, greedy, score_outputs
from seqjax.errors import UserError

STATES = 997
FIRST = 2


class Memory(NamedTuple):
    shift: jax.Array  # int32 (B,)
    scale: jax.Array  # float32 (B, 1)


def step(params, memory, carry, tokens):
    """Random logits that depend on the row's memory and, through a running hash, on every token so far."""
    (state,) = carry
    state = (state * 31 + tokens + 1) % STATES
    unknown = jnp.where(tokens < params.shape[1], 0.0, jnp.nan)[:, None]
    return (state,), params[(state + memory.shift) % STATES] * memory.scale + unknown


class Case(NamedTuple):
    params: np.ndarray  # (STATES, V)
    memory: Memory
    carry: tuple
    first: np.ndarray  # (B,)

    def row(self, b):
        return Case(self.params, *(jax.tree.map(operator.itemgetter(slice(b, b + 1)), part) for part in self[1:]))

    def log_probs(self, b, prefix):
        """float64 (V,): log p(next | prefix) of row b, with no help from `step`."""
        state = int(self.carry[0][b])
        for token in (int(self.first[b]), *prefix):
            state = (state * 31 + token + 1) % STATES
        logits = self.params[(state + int(self.memory.shift[b])) % STATES].astype(np.float64)
        logits = logits * float(self.memory.scale[b, 0])
        return logits - np.log(np.exp(logits).sum())


def random_case(seed, rows=3, vocab=4):
    rng = np.random.default_rng(seed)
    memory = Memory(rng.integers(STATES, size=rows).astype(np.int32), rng.uniform(0.5, 3, (rows, 1)).astype(np.float32))
    carry = (rng.integers(STATES, size=rows).astype(np.int32),)
    first = rng.integers(vocab, size=rows).astype(np.int32)
    return Case(rng.normal(size=(STATES, vocab)).astype(np.float32), memory, carry, first)


def penalised(log_prob, length, alpha):
    return log_prob / ((5 + length) / 6) ** alpha


def exhaustive(case, b, length, eos, alpha):
    """Every sequence there is: [(tokens, log_prob, score, finished)], the finished ones first, each group best first."""
    found = []
    for count in range(1, length + 1):
        for tokens in itertools.product(range(case.params.shape[1]), repeat=count):
            finished = tokens[-1] == eos
            if eos in tokens[:-1] or (not finished and count < length):
                continue
            log_prob = sum(case.log_probs(b, tokens[:t])[token] for t, token in enumerate(tokens))
            found.append((tokens, log_prob, penalised(log_prob, count, alpha), finished))
    return sorted(found, key=lambda sequence: (not sequence[3], -sequence[2]))


def slow_beam(case, b, width, length, eos, alpha, banned=()):
    """The search as its docstring describes it, without an early exit: a list like that of `exhaustive`."""
    alive, finished = [((), 0.0)], []
    for count in range(1, length + 1):
        tables = [case.log_probs(b, prefix) for prefix, _ in alive]
        continued = [
            (alive[k][1] + tables[k][v], k, v)
            for k, v in itertools.product(range(len(alive)), range(case.params.shape[1]))
            if v not in banned
        ]
        continued.sort(key=lambda each: (-each[0], each[1], each[2]))
        ends = [(lp, k) for lp, k, v in continued[:width] if v == eos]
        finished += [((*alive[k][0], eos), lp, penalised(lp, count, alpha), True) for lp, k in ends]
        alive = [((*alive[k][0], v), lp) for lp, k, v in continued if v != eos][:width]
    cut = [(tokens, lp, penalised(lp, length, alpha), False) for tokens, lp in alive]
    return sorted(finished, key=lambda sequence: -sequence[2]) + cut


def assert_beams(beams, b, expected, n_best, length):
    """Row b holds the first n_best of the expected list, and after its end nothing."""
    tokens, scores, log_probs, lengths, finished = (np.asarray(field[b]) for field in beams)
    assert tokens.shape == (n_best, length) and tokens.dtype == lengths.dtype == np.int32
    real = min(n_best, len(expected))
    for j, (ids, log_prob, score, ended) in enumerate(expected[:real]):
        assert tokens[j].tolist() == [*ids, *[0] * (length - len(ids))]
        assert (lengths[j], finished[j]) == (len(ids), ended)
        np.testing.assert_allclose([log_probs[j], scores[j]], [log_prob, score], rtol=2e-5, atol=2e-6)
    assert (lengths[real:] == 0).all() and not finished[real:].any() and (tokens[real:] == 0).all()
    assert (scores[real:] == -np.inf).all() and (log_probs[real:] == -np.inf).all()


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("vocab, length, n_best", [(4, 4, 150), (5, 3, 7)])
def test_a_beam_wide_enough_is_exhaustive_search(vocab, length, n_best, alpha):
    """As wide as there are continuations; with 150 places the whole list, and 29 places left over."""
    case, eos, width = random_case(vocab, vocab=vocab), vocab - 1, vocab * (vocab - 1) ** (length - 1)
    beams = beam_search(step, *case, width=width, length=length, eos_id=eos, n_best=n_best, length_penalty=alpha)
    for b in range(3):
        assert_beams(beams, b, exhaustive(case, b, length, eos, alpha), n_best, length)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([(1, 1), (2, 1), (3, 2), (2, 9)]),
    st.sampled_from([0.0, 0.6, 1.0, 2.5]),
    st.integers(0, 6),
    st.booleans(),
)
def test_any_beam_is_the_slow_one(seed, size, alpha, eos, bans):
    (width, n_best), banned = size, (1, 4) if bans else ()
    case = random_case(seed, rows=2, vocab=7)
    mask = np.isin(np.arange(7), banned)
    beams = beam_search(step, *case, width=width, length=6, eos_id=eos, n_best=n_best, length_penalty=alpha, banned=mask)
    assert not np.isin(np.asarray(beams.tokens)[np.arange(6) < np.asarray(beams.lengths)[..., None]], banned).any()
    for b in range(2):
        assert_beams(beams, b, slow_beam(case, b, width, 6, eos, alpha, banned), n_best, 6)


def test_a_beam_of_one_is_greedy_which_is_drawing_at_temperature_0():
    ended = set()
    for seed in range(12):
        case = random_case(seed, rows=5, vocab=7)
        options = {"length": 8, "eos_id": 3, "pad_id": 6, "banned": (5,)}
        samples = greedy(step, *case, **options)
        drawn = draw(step, *case, jax.random.key(seed), temperature=0, **options)
        for ours, theirs in zip(samples, drawn):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        beams = beam_search(step, *case, width=1, **options)
        np.testing.assert_array_equal(beams.tokens[:, 0], samples.tokens)
        np.testing.assert_array_equal(beams.lengths[:, 0], samples.lengths)
        np.testing.assert_allclose(beams.scores[:, 0], samples.log_probs.sum(1), rtol=1e-5)
        ended |= set(zip(beams.lengths[:, 0].tolist(), beams.finished[:, 0].tolist()))
    assert (8, False) in ended and len(ended) > 4


def test_log_probs_are_those_of_teacher_forcing():
    case = random_case(5, rows=4, vocab=7)
    beams = beam_search(step, *case, width=3, length=9, eos_id=3, n_best=5, length_penalty=0.7)
    assert np.asarray(beams.finished).any() and len(np.unique(beams.lengths)) > 3
    for place in range(5):
        tokens, lengths = beams.tokens[:, place], np.asarray(beams.lengths[:, place])
        mask = np.arange(9) < lengths[:, None]
        scores = np.where(lengths > 0, score_outputs(step, *case, tokens, mask), -np.inf)
        np.testing.assert_allclose(beams.log_probs[:, place], scores, rtol=1e-5)
        np.testing.assert_allclose(beams.scores[:, place], penalised(scores, lengths, 0.7), rtol=1e-5)


def test_a_row_depends_on_nothing_but_itself():
    case = random_case(6, rows=4, vocab=7)
    search = partial(beam_search, step, width=3, length=6, eos_id=3, n_best=2, length_penalty=0.6)
    whole = search(*case)
    order = np.array([2, 0, 3, 1])
    moved = Case(case.params, *(jax.tree.map(operator.itemgetter(order), part) for part in case[1:]))
    for whole_field, moved_field in zip(whole, search(*moved)):
        np.testing.assert_array_equal(moved_field, np.asarray(whole_field)[order])
    for b in range(4):
        alone = search(*case.row(b))
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[b])
        np.testing.assert_allclose(alone.scores[0], whole.scores[b], rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_early_exit_changes_nothing(alpha):
    for seed in range(8):
        case = random_case(seed, rows=6, vocab=7)
        limits, start = decoder.check_start(30, case.first, 3, 0, ())
        results = [beam._beam_search(step, limits, 3, 2, early, start, jnp.float32(alpha), *case[:3]) for early in (True, False)]
        for left_early, waited in zip(*results):
            np.testing.assert_array_equal(left_early, waited)


def test_the_loop_is_left_as_soon_as_nothing_can_change():
    calls = []

    def counting(params, memory, carry, tokens):
        jax.debug.callback(lambda _: calls.append(1), tokens)
        return carry, 50.0 * jax.nn.one_hot(tokens + 1, 6)  # after token n comes n + 1

    beams = beam_search(counting, (), (), (), jnp.array([0, 2]), width=2, length=1000, eos_id=5)
    jax.block_until_ready(beams)
    jax.effects_barrier()
    assert len(calls) == 5 and beams.lengths.tolist() == [[5], [3]]


def test_the_likeliest_continuations_are_those_of_a_stable_sort():
    """Logits and log probabilities that take few values: many ties, inside blocks and across them."""
    rng = np.random.default_rng(0)
    run = jax.jit(beam._likeliest, static_argnums=3)
    for _ in range(10):
        likely = rng.random((4, 400)) < 0.02  # few, so that the blocks differ in their best
        logits = np.where(likely, rng.integers(-2, 3, size=(4, 400)), -9.0).astype(np.float32).repeat(3, axis=0)
        # Equal or far apart: ties must not depend on the rounding of the log-sum-exp.
        log_probs = np.sort(rng.choice([0.0, 0.0, -40.0, -np.inf], size=(4, 3)).astype(np.float32))[:, ::-1]
        log_probs[:, 0] = 0.0
        allowed = jnp.asarray(rng.random(400) < 0.9)
        found = run(logits, jnp.asarray(log_probs), allowed, 6)
        norms = jax.nn.logsumexp(logits, axis=1)[:, None]
        totals = (logits - norms).reshape(4, 3, 400) + log_probs[..., None]
        totals = np.where(allowed, totals, -np.inf).reshape(4, -1)
        order = np.argsort(-totals, axis=1, kind="stable")[:, :6]
        np.testing.assert_array_equal(np.asarray(found.parents) * 400 + np.asarray(found.ids), order)
        np.testing.assert_allclose(found.log_probs, np.take_along_axis(totals, order, 1), rtol=1e-6)


def test_hypotheses_that_do_not_exist_have_no_influence():
    """Two allowed ids and a beam of five: the model gives NaN after every other id."""
    case, banned = random_case(4, rows=2, vocab=7), (0, 1, 4, 5, 6)

    def fragile(params, memory, carry, tokens):
        carry, logits = step(params, memory, carry, tokens)
        spoiled = jnp.isin(tokens, jnp.array(banned)) & (carry[0] != first)
        return carry, jnp.where(spoiled[:, None], jnp.nan, logits)

    first = jnp.repeat((case.carry[0] * 31 + case.first + 1) % STATES, 5)  # but not after the first token
    options = {"width": 5, "length": 4, "eos_id": 3, "n_best": 9}
    beams = beam_search(fragile, *case, banned=banned, **options)
    for b in range(2):
        assert_beams(beams, b, slow_beam(case, b, 5, 4, 3, 0.0, banned), 9, 4)


def test_of_equals_the_earlier_hypothesis_then_the_lower_id():
    uniform = lambda params, memory, carry, tokens: (carry, jnp.zeros((*tokens.shape, 150)))  # noqa: E731
    beams = beam_search(uniform, (), (), (), jnp.array([0]), width=3, length=2, eos_id=None, n_best=3, banned=(1,))
    assert beams.tokens[0].tolist() == [[0, 0], [0, 2], [0, 3]] and not beams.finished.any()


def test_other_values_compile_nothing_again():
    traces = []

    def traced(params, memory, carry, tokens):
        traces.append(1)
        return step(params, memory, carry, tokens)

    def run(seed, alpha, eos, temperature):
        case, options = random_case(seed, rows=2, vocab=6), {"length": 5, "eos_id": eos, "banned": (1,)}
        greedy(traced, *case, **options)
        draw(traced, *case, jax.random.key(seed), temperature=temperature, **options)
        beams = beam_search(traced, *case, width=2, length_penalty=alpha, **options)
        force(traced, *case[:3], beams.tokens[:, 0])
        score_outputs(traced, *case, beams.tokens[:, 0], beams.tokens[:, 0] > 0)

    loops = (decoder._greedy, sampling._sample, beam._beam_search, decoder._force, decoder._score_outputs)
    compiled = lambda: [loop._cache_size() for loop in loops]  # noqa: E731
    before = compiled()
    run(0, 0.0, 3, 1.0)
    once, first = len(traces), compiled()
    assert once > 0 and first == [count + 1 for count in before]
    run(1, 0.8, 4, 0.5)
    run(2, jnp.float32(1), None, 0)
    assert len(traces) == once and compiled() == first


def test_teacher_forcing_is_a_plain_loop_over_the_step():
    case = random_case(8, rows=3, vocab=5)
    inputs = np.random.default_rng(1).integers(0, 5, size=(3, 6)).astype(np.int32)
    carry, expected = case.carry, []
    for tokens in inputs.T:
        carry, logits = step(case.params, case.memory, carry, tokens)
        expected.append(logits)
    np.testing.assert_allclose(force(step, *case[:3], inputs), np.stack(expected, axis=1), rtol=1e-6)


def test_given_outputs_are_scored_by_their_real_tokens_alone():
    case = random_case(9, rows=4, vocab=5)
    rng = np.random.default_rng(2)
    targets, lengths = rng.integers(0, 5, size=(4, 6)), np.array([6, 3, 1, 0])
    mask = np.arange(6) < lengths[:, None]
    expected = [sum(case.log_probs(b, targets[b, :t])[targets[b, t]] for t in range(lengths[b])) for b in range(4)]
    np.testing.assert_allclose(score_outputs(step, *case, targets, mask), expected, rtol=1e-5)

    def with_embedding(params, memory, carry, tokens):
        table, embedding = params  # an embedding gives NaN for ids outside it
        carry, logits = step(table, memory, carry, tokens)
        return carry, logits + embedding.at[tokens].get(mode="fill")

    embedding = rng.normal(size=(5, 5)).astype(np.float32)

    def score(embedding, targets):
        return score_outputs(with_embedding, (case.params, embedding), *case[1:], targets, mask).sum()

    clean = jax.jit(jax.value_and_grad(score))(embedding, targets)
    spoiled = jax.jit(jax.value_and_grad(score))(embedding, np.where(mask, targets, 77))
    for ours, theirs in zip(spoiled, clean):
        assert np.isfinite(ours).all()
        np.testing.assert_array_equal(ours, theirs)


def test_a_search_may_be_part_of_a_compiled_function():
    case = random_case(3, rows=2, vocab=5)
    search = lambda case, alpha, banned: beam_search(  # noqa: E731
        step, *case, width=2, length=5, eos_id=3, length_penalty=alpha, banned=banned
    )
    banned = np.arange(5) == 1
    for inside, outside in zip(jax.jit(search)(case, 0.5, banned), search(case, 0.5, (1,))):
        np.testing.assert_allclose(inside, outside, rtol=1e-6)


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"width": 0}, UserError, "width is 0"),
        ({"width": 2.0}, UserError, "width is 2.0"),
        ({"n_best": 0}, UserError, "n_best is 0"),
        ({"length": 0}, UserError, "length is 0"),
        ({"length_penalty": -0.1}, UserError, "length_penalty is -0.1"),
        ({"length_penalty": float("nan")}, UserError, "length_penalty is nan"),
        ({"banned": (7,)}, UserError, "banned id 7 .* 0 to 3"),
        ({"banned": (0, 1, 2, 3)}, UserError, "every id"),
        ({"banned": np.ones(4, bool)}, UserError, "every id"),
        ({"first_token": np.zeros((3, 1), np.int32)}, ValueError, r"first_token .* \(3, 1\)"),
        ({"first_token": np.zeros(3, np.float32)}, ValueError, "first_token is float32"),
        ({"memory": Memory(np.zeros(3, np.int32), np.ones((2, 1)))}, ValueError, r"memory\.scale .* \(2, 1\).* B=3"),
        ({"carry": (np.int32(0),)}, ValueError, r"carry\[0\] has shape \(\).* B=3"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, error, says):
    params, memory, carry, first = random_case(0)
    given_all = {"params": params, "memory": memory, "carry": carry, "first_token": first, "width": 2, "length": 3}
    with pytest.raises(error, match=says):
        beam_search(step, **{**given_all, "eos_id": 3, **options})


def test_outputs_that_do_not_fit_are_refused_by_name():
    case, ids = random_case(0), np.zeros((3, 4), np.int32)
    with pytest.raises(ValueError, match=r"inputs is int32 of shape \(4,\)"):
        force(step, *case[:3], ids[0])
    with pytest.raises(ValueError, match=r"mask is bool of shape \(3, 2\).*\(3, 4\)"):
        score_outputs(step, *case, ids, ids[:, :2] == 0)
    with pytest.raises(ValueError, match=r"first_token has shape \(3,\), targets \(2, 4\)"):
        score_outputs(step, *case, ids[:2], ids[:2] == 0)
