"""The linear-chain CRF against enumeration of all paths in float64, with hostile padding and forbidden transitions."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.nn import crf

B, T = 5, 4
LENGTHS = np.array([4, 0, 1, 3, 2])
REAL = np.arange(T)[None] < LENGTHS[:, None]


class Enumerated:
    """All that a CRF gives for one sequence, from a list of all its paths."""

    def __init__(self, params, emissions):
        self.params, self.emissions = [np.asarray(p, np.float64) for p in params], np.asarray(emissions, np.float64)
        self.steps, self.size = emissions.shape
        paths = list(itertools.product(range(self.size), repeat=self.steps))
        self.scores = {path: self.score(path) for path in paths}
        with np.errstate(divide="ignore"):
            self.log_z = np.logaddexp.reduce(list(self.scores.values()))

    def score(self, path):
        transitions, start, end = self.params
        if not path:
            return 0.0
        inner = sum(transitions[a, b] for a, b in itertools.pairwise(path))
        return start[path[0]] + end[path[-1]] + inner + sum(self.emissions[t, k] for t, k in enumerate(path))

    def counts(self, path):
        """How often a path uses each weight: emissions, transitions, start, end."""
        emissions, (transitions, start, end) = np.zeros((T, self.size)), [np.zeros_like(p) for p in self.params]
        for t, k in enumerate(path):
            emissions[t, k] += 1
        for a, b in itertools.pairwise(path):
            transitions[a, b] += 1
        if path:
            start[path[0]] += 1
            end[path[-1]] += 1
        return [emissions, transitions, start, end]

    def expected(self):
        """The mean of the counts over all paths."""
        weighted = [(np.exp(s - self.log_z), self.counts(path)) for path, s in self.scores.items()]
        return [sum(p * c[i] for p, c in weighted) for i in range(4)]


def _draw(seed, size, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (scale * rng.normal(size=shape)).astype(np.float32)  # noqa: E731
    return crf.CRFParams(draw(size, size), draw(size), draw(size)), draw(B, T, size), rng.integers(0, size, (B, T))


def _spoil(emissions, tags):
    """The same with arbitrary values at padded steps."""
    emissions, tags = np.where(REAL[..., None], emissions, np.nan), np.where(REAL, tags, 99)
    emissions[3, 3], tags[3, 3] = [np.inf, -np.inf] + [1e38] * (emissions.shape[-1] - 2), -7
    return emissions, tags


def _enumerated(params, emissions):
    return [Enumerated(params, emissions[b, :n]) for b, n in enumerate(LENGTHS)]


def _close(got, want, tolerance=2e-5):
    np.testing.assert_allclose(got, want, tolerance, tolerance)


def _likelihood(params, emissions, tags, lengths):
    values = crf.crf_log_likelihood(params, emissions, tags, lengths)
    return values.sum(), values


SLOPES = jax.jit(jax.value_and_grad(_likelihood, (0, 1), has_aux=True))


@pytest.mark.parametrize("size, lengths", [(2, LENGTHS), (3, REAL), (4, LENGTHS)], ids=["2", "3-mask", "4"])
def test_values_and_gradients_are_those_of_the_enumeration(size, lengths):
    params, emissions, tags = _draw(size, size, scale=2.0)
    paths = [tuple(tags[b, :n]) for b, n in enumerate(LENGTHS)]
    all_paths = _enumerated(params, emissions)
    emissions, tags = _spoil(emissions, tags)
    scores, log_z = [e.score(p) for e, p in zip(all_paths, paths)], [e.log_z for e in all_paths]
    _close(crf.crf_score(params, emissions, tags, lengths), scores)
    _close(crf.crf_log_partition(params, emissions, lengths), log_z)
    marginals = crf.crf_marginals(params, emissions, lengths)
    expected = [e.expected() for e in all_paths]
    _close(marginals, [e[0] for e in expected])
    assert (np.asarray(marginals)[~REAL] == 0).all()
    (_, values), (by_params, by_emissions) = SLOPES(params, emissions, tags, lengths)
    _close(values, np.subtract(scores, log_z))
    want = [[c - e for c, e in zip(a.counts(p), e)] for a, p, e in zip(all_paths, paths, expected)]
    _close(by_emissions, [w[0] for w in want])
    for got, wanted in zip(by_params, zip(*(w[1:] for w in want))):
        _close(got, sum(wanted))
    assert values[1] == 0 and not np.any(by_emissions[1])


def _allowed(rng, size):
    """Weights of which about a third is -inf."""
    params, emissions, tags = _draw(rng.integers(100), size)
    return crf.CRFParams(*(np.where(rng.random(p.shape) < 0.35, -np.inf, p) for p in params)), emissions, tags


def test_forbidden_weights_leave_all_finite_and_exact():
    rng, kinds = np.random.default_rng(3), set()
    for i in range(6):
        params, emissions, tags = _allowed(rng, 3)
        if i == 0:
            params = params._replace(end=np.full(3, -np.inf, np.float32))
        all_paths = _enumerated(params, emissions)
        paths = [tuple(tags[b, :n]) for b, n in enumerate(LENGTHS)]
        scores, log_z = np.array([[e.score(p), e.log_z] for e, p in zip(all_paths, paths)]).T
        kinds |= {(np.isfinite(s), np.isfinite(z)) for s, z in zip(scores, log_z)}
        emissions, tags = _spoil(emissions, tags)
        _close(crf.crf_score(params, emissions, tags, LENGTHS), scores)
        _close(crf.crf_log_partition(params, emissions, LENGTHS), log_z)
        want = [e.expected()[0] if np.isfinite(e.log_z) else np.zeros((T, 3)) for e in all_paths]
        _close(crf.crf_marginals(params, emissions, LENGTHS), want)
        (_, values), slopes = SLOPES(params, emissions, tags, LENGTHS)
        _close(values, np.where(np.isfinite(scores), scores - np.where(np.isfinite(log_z), log_z, 0), -np.inf))
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(slopes))
        assert not np.any(np.asarray(slopes[0].transitions)[~np.isfinite(params.transitions)])
        best = [max(e.scores.values()) for e in all_paths]
        _close(crf.crf_decode(params, emissions, LENGTHS)[1], best)
    assert kinds == {(True, True), (False, True), (False, False)}, "draw other weights"


def test_a_path_far_behind_is_not_lost():
    # Tag 1 is 200 nats behind at first, comes from itself alone, and is the only tag that may end.
    forbidden = -np.inf
    params = crf.CRFParams(np.array([[0, forbidden], [0, 0]]), np.zeros(2), np.array([forbidden, 0]))
    emissions = np.array([[[0, -200], [0, 3], [300, 1]]], np.float32)
    _close(crf.crf_log_partition(params, emissions), [-196])
    _close(crf.crf_marginals(params, emissions), [[[0, 1]] * 3])


@pytest.mark.parametrize("size, n", [(2, 3), (3, 5), (4, 20)])
def test_decoding_equals_exhaustive_search(size, n):
    params, emissions, tags = _draw(size, size)
    # Whole numbers: scores are exact and many are equal.
    params, emissions = jax.tree.map(np.round, (params, emissions))
    all_paths = _enumerated(params, emissions)
    best = [min((-s, path[::-1]) for path, s in e.scores.items()) for e in all_paths]
    emissions = _spoil(emissions, tags)[0]
    got, scores = crf.crf_decode(params, emissions, LENGTHS)
    assert got.dtype == jnp.int32 and (np.asarray(got)[~REAL] == 0).all()
    many, many_scores = crf.crf_decode_nbest(params, emissions, LENGTHS, n=n)
    assert many.shape == (B, n, T) and (np.asarray(many).swapaxes(1, 2)[~REAL] == 0).all()
    np.testing.assert_array_equal(many[:, 0], got)
    for b, (score, path) in enumerate(best):
        assert (float(scores[b]), tuple(got[b, : LENGTHS[b]].tolist())) == (-score, path[::-1])
        want = sorted(all_paths[b].scores.values(), reverse=True)[:n]
        assert many_scores[b].tolist() == want + [-np.inf] * (n - len(want))
        found = [tuple(path[: LENGTHS[b]]) for path in many[b, : len(want)].tolist()]
        assert len(set(found)) == len(found) and [all_paths[b].scores[path] for path in found] == want


def test_ties_were_there_to_be_broken():
    params, emissions, _ = jax.tree.map(np.round, _draw(3, 3))
    first = _enumerated(params, emissions)[0].scores.values()
    assert len(set(first)) < len(first)
    tags, scores = crf.crf_decode(crf.crf_init(None, 3), np.zeros((1, 4, 3), np.float32))
    assert tags.tolist() == [[0] * 4] and scores.tolist() == [0]


def test_more_padding_a_batch_of_one_jit_and_vmap_change_nothing():
    params, emissions, tags = _draw(7, 3)
    emissions, tags = _spoil(emissions, tags)

    def everything(emissions, tags, lengths):
        return (
            crf.crf_log_likelihood(params, emissions, tags, lengths),
            crf.crf_marginals(params, emissions, lengths),
            crf.crf_decode(params, emissions, lengths),
            crf.crf_decode_nbest(params, emissions, lengths, n=2),
        )

    jitted = jax.jit(everything)
    want = jitted(emissions, tags, LENGTHS)
    pad = lambda a: np.pad(a, [(0, 0), (0, 3)] + [(0, 0)] * (a.ndim - 2), mode="edge")  # noqa: E731
    likelihood, marginals, (tags_1, score), (tags_n, scores) = jitted(pad(emissions), pad(tags), LENGTHS)
    assert not any(np.any(padding) for padding in (marginals[:, T:], tags_1[:, T:], tags_n[..., T:]))
    cut = (likelihood, marginals[:, :T], (tags_1[:, :T], score), (tags_n[..., :T], scores))
    single = jax.vmap(lambda *one: jax.tree.map(lambda a: a[0], everything(*(a[None] for a in one))))
    for got in (cut, jax.jit(single)(emissions, tags, LENGTHS)):
        jax.tree.map(lambda a, b: _close(a, b, 1e-6), got, want)


def test_no_steps_and_full_lengths():
    params, emissions, tags = _draw(1, 3)
    empty = crf.crf_log_likelihood(params, emissions[:, :0], tags[:, :0])
    assert empty.tolist() == [0] * B and crf.crf_log_partition(params, emissions[:, :0]).tolist() == [0] * B
    assert crf.crf_decode(params, emissions[:, :0])[0].shape == (B, 0)
    assert crf.crf_decode_nbest(params, emissions[:, :0], n=2)[1].tolist() == [[0, -np.inf]] * B
    full = np.full(B, T)
    _close(crf.crf_log_partition(params, emissions), crf.crf_log_partition(params, emissions, full), 0)


def test_dtypes(x64):
    params, emissions, tags = _draw(2, 3)
    rounded = jnp.asarray(emissions, jnp.bfloat16)
    narrow = crf.crf_log_likelihood(params, rounded, tags)
    assert narrow.dtype == jnp.float32
    wide = crf.crf_log_likelihood(params, rounded.astype(jnp.float64), tags)
    assert wide.dtype == jnp.float64 and np.abs(np.subtract(narrow, wide)).max() < 1e-5


def test_second_derivatives_are_the_covariance_of_the_counts():
    params, emissions, _ = _draw(4, 3)
    log_z = lambda start: crf.crf_log_partition(params._replace(start=start), emissions, LENGTHS)[0]  # noqa: E731
    mean = crf.crf_marginals(params, emissions, LENGTHS)[0, 0]
    _close(jax.jit(jax.hessian(log_z))(params.start), np.diag(mean) - np.outer(mean, mean))


def test_learning_needs_the_transitions():
    # The emissions say nothing: what is learnt of 0, 1, 0, 1 ... must sit in the transitions.
    tags, emissions = np.tile([0, 1], (2, 3)), np.zeros((2, 6, 2), np.float32)
    params = crf.crf_init(jax.random.key(0), 2)
    for _ in range(50):
        slope = SLOPES(params, emissions, tags, None)[1][0]
        params = jax.tree.map(lambda p, g: p + 0.5 * g, params, slope)
    assert crf.crf_decode(params, emissions)[0].tolist() == tags.tolist()


SCHEMES = {
    "BIO": (["O", "B-A", "I-A", "B-B", "I-B"], r"(O |B-A (I-A )*|B-B (I-B )*)*"),
    "BIOES": (["O", "B-A", "I-A", "E-A", "S-A", "B-B", "E-B"], r"(O |S-A |B-A (I-A )*E-A |B-B E-B )*"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_constraints_allow_what_the_grammar_of_entities_allows(scheme):
    tags, grammar = SCHEMES[scheme]
    allowed = crf.entity_constraints(tags)
    for path in itertools.chain(*(itertools.product(range(len(tags)), repeat=n) for n in (1, 2, 3, 4))):
        fits = allowed.start[path[0]] and allowed.end[path[-1]]
        fits &= all(allowed.transitions[a, b] for a, b in itertools.pairwise(path))
        assert fits == bool(re.fullmatch(grammar, "".join(f"{tags[k]} " for k in path))), [tags[k] for k in path]
    rng = np.random.default_rng(0)
    params = crf.forbid(crf.crf_init(None, len(tags)), allowed)
    best, scores = crf.crf_decode(params, 5 * rng.normal(size=(20, 6, len(tags))).astype(np.float32))
    assert np.isfinite(scores).all()
    for path in best.tolist():
        assert re.fullmatch(grammar, "".join(f"{tags[k]} " for k in path))


def test_what_does_not_fit_is_refused():
    params, emissions, tags = _draw(0, 3)
    holes = np.ones((B, T), bool)
    holes[2, 1] = False
    for call, error, message in (
        (lambda: crf.crf_score(params, emissions[0], tags), ValueError, r"three axes, \(B, T, K\), .* \(4, 3\)"),
        (lambda: crf.crf_score(params, tags, tags), ValueError, "emissions must have three axes"),
        (lambda: crf.crf_score(params, emissions.astype(int), tags), TypeError, "emissions must be floating.* int"),
        (lambda: crf.crf_score(params, emissions[..., :2], tags), ValueError, r"transitions must .*\(2, 2\).*\(3, 3\)"),
        (lambda: crf.crf_score(params, emissions, tags[:, 1:]), ValueError, r"tags must have shape \(5, 4\).*\(5, 3\)"),
        (lambda: crf.crf_score(params, emissions, tags + 1), ValueError, "tags must lie in 0 ... 2, .* 1 to 3"),
        (lambda: crf.crf_score(params, emissions, tags * 1.0), TypeError, "tags must be integers"),
        (lambda: crf.crf_decode(params, emissions, LENGTHS + 1), ValueError, "0 ... T = 4, got values from 1 to 5"),
        (lambda: crf.crf_decode(params, emissions, holes), ValueError, "it has holes"),
        (lambda: crf.crf_decode_nbest(params, emissions, n=0), ValueError, "n must be at least 1"),
        (lambda: crf.crf_init(None, 0), ValueError, "num_tags must be at least 1"),
        (lambda: crf.entity_constraints(["O", "B"]), ValueError, "got 'B'"),
        (lambda: crf.entity_constraints(["O", "X-PER"]), ValueError, "got 'X-PER'"),
        (lambda: crf.forbid(params, crf.entity_constraints(["O"])), ValueError, r"\(3, 3\) and \(1, 1\)"),
    ):
        with pytest.raises(error, match=message):
            call()
