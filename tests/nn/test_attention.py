"""Attention and pooling against loops in NumPy over the real steps alone, with NaN at padded steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.nn import attention as att
from seqjax.nn.masks import masked_softmax

pytestmark = pytest.mark.one_in(4)

B, S, T, A = 4, 5, 3, 6
LENGTHS = np.array([5, 0, 1, 3])
REAL = np.arange(S)[None] < LENGTHS[:, None]
HOLES = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 1, 0, 1]], bool)


def _additive(p, q, m):
    bias = 0 if p.bias is None else p.bias
    return np.tanh(q @ p.query_kernel + m @ p.memory_kernel + bias) @ p.score


# name -> (attention, Q, M, the score of one query and one step)
KINDS = {
    "bahdanau": (att.bahdanau(A), 3, 4, _additive),
    "luong_concat": (att.luong("concat"), 3, 4, _additive),
    "luong_general": (att.luong("general"), 3, 4, lambda p, q, m: q @ p.kernel @ m),
    "luong_dot": (att.luong("dot"), 4, 4, lambda p, q, m: q @ m),
    "scaled_dot": (att.scaled_dot(), 4, 4, lambda p, q, m: q @ m / 2),
}
every_kind = pytest.mark.parametrize("name", KINDS)


def _random(tree, seed=0):
    """Random numbers in the shapes of a tree, so that nothing is 0 by chance, such as a bias."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.normal(size=np.shape(a)).astype(np.float32), tree)


def _case(name):
    attention, query_size, memory_size, score = KINDS[name]
    params = _random(attention.init(jax.random.key(0), query_size, memory_size))
    queries, values = _random((np.zeros((B, T, query_size)), np.zeros((B, S, memory_size))), 1)
    return attention, params, queries, values, score


def _softmax(scores):
    shares = np.exp(np.array(scores) - max(scores))
    return shares / shares.sum()


def _by_loops(params, queries, values, mask, score):
    """Contexts and weights, one query and one real step at a time, in float64."""
    params, queries, values = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, queries, values))
    contexts, weights = np.zeros((B, T, values.shape[-1])), np.zeros((B, T, S))
    for b, t in itertools.product(range(B), range(T)):
        real = [s for s in range(S) if mask[b, s]]
        if real:
            weights[b, t, real] = _softmax([score(params, queries[b, t], values[b, s]) for s in real])
            contexts[b, t] = sum(weights[b, t, s] * values[b, s] for s in real)
    return contexts, weights


def _close(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, tolerance, tolerance)


def _spoil(values, mask, value=np.nan):
    return np.where(mask[..., None], values, np.float32(value))


@every_kind
@pytest.mark.parametrize("lengths, mask", [(LENGTHS, REAL), (HOLES, HOLES), (None, np.ones((B, S), bool))])
def test_attention_equals_the_loops(name, lengths, mask):
    attention, params, queries, values, score = _case(name)
    assert attention.name == name
    memory = att.make_memory(attention, params, _spoil(values, mask), lengths)
    contexts, weights = att.attend(attention, params, queries, memory)
    wanted_contexts, wanted_weights = _by_loops(params, queries, values, mask, score)
    _close(contexts, wanted_contexts)
    _close(weights, wanted_weights)
    assert (np.asarray(weights)[~np.broadcast_to(mask[:, None], weights.shape)] == 0).all()
    for t in range(T):
        one = att.attend(attention, params, queries[:, t], memory)
        _close(one[0], contexts[:, t])
        _close(one[1], weights[:, t])


@every_kind
def test_padding_has_no_influence_on_gradients(name):
    attention, params, queries, values, _ = _case(name)

    def loss(params, queries, values, lengths):
        memory = att.make_memory(attention, params, values, lengths)
        contexts, weights = att.attend(attention, params, queries, memory)
        one, _ = att.attend(attention, params, queries[:, 0], memory)
        return (contexts**2).sum() + (one**3).sum() + (weights**2).sum()

    slope = jax.jit(jax.grad(loss, (0, 1, 2)))
    got = slope(params, queries, _spoil(values, REAL), LENGTHS)
    _close_trees(got, slope(params, queries, _spoil(values, REAL, 7.0), LENGTHS))
    assert all(np.any(g) for g in jax.tree.leaves(got)) and not np.any(np.asarray(got[2])[~REAL])
    assert not np.any(got[1][1]), "a query of nothing has no influence"
    # The same by the sequences alone, each cut to its length: the derivative of the loops would be no other.
    cut = slope(params, queries[3:], values[3:, :3], None)
    _close(got[2][3, :3], cut[2][0])
    _close(got[1][3], cut[1][0])


def _close_trees(got, want):
    jax.tree.map(_close, got, want)


@every_kind
def test_inside_a_loop_and_in_bfloat16(name):
    attention, params, queries, values, _ = _case(name)
    memory = att.make_memory(attention, params, values, LENGTHS)
    want = att.attend(attention, params, queries, memory)
    step = lambda memory, query: (memory, att.attend(attention, params, query, memory))  # noqa: E731
    _, got = jax.jit(lambda m, q: jax.lax.scan(step, m, q))(memory, queries.swapaxes(0, 1))
    _close_trees(jax.tree.map(lambda a: a.swapaxes(0, 1), got), want)
    narrow = att.make_memory(attention, params, jnp.asarray(values, jnp.bfloat16), LENGTHS)
    context, weights = att.attend(attention, params, queries, narrow)
    assert narrow.keys.dtype == context.dtype == jnp.bfloat16 and weights.dtype == jnp.float32
    _close(weights.sum(-1), np.where(LENGTHS > 0, 1, 0)[:, None] * np.ones((B, T)))
    _close(weights, want[1], 0.15)


def test_large_scores_of_either_sign_do_not_overflow():
    scores = np.array([[3e38, -3e38, 3e38], [1e4, 9e3, np.nan], [-1e4, -1e4, np.nan]], np.float32)
    weights = masked_softmax(jnp.asarray(scores), np.isfinite(scores))
    assert weights.tolist() == [[0.5, 0, 0.5], [1, 0, 0], [0.5, 0.5, 0]]


def _pool_by_loops(kind, ys, mask, params, bidirectional):
    out = np.zeros((B, ys.shape[-1]))
    for b in range(B):
        real = ys[b, mask[b]].astype(np.float64)
        if not len(real):
            continue
        if kind == "last":
            half = ys.shape[-1] // 2
            out[b] = np.concatenate([real[-1, :half], real[0, half:]]) if bidirectional else real[-1]
        elif kind == "attention":
            out[b] = _softmax(np.tanh(real @ params.kernel + params.bias) @ params.score) @ real
        else:
            out[b] = getattr(real, kind)(axis=0)
    return out


POOLS = [("last", False), ("last", True), ("mean", True), ("max", False), ("attention", False)]


@pytest.mark.parametrize("kind, bidirectional", POOLS)
def test_pooling_equals_the_loops_and_ignores_padding(kind, bidirectional):
    ys = _random(np.zeros((B, S, 4)), 2) - 3  # below 0, so that a maximum with padding were 0
    params = _random(att.pool_init(jax.random.key(0), 4, A)) if kind == "attention" else None

    def run(params, ys, lengths):
        pooled = att.pool(kind, ys, lengths, params=params, bidirectional=bidirectional)
        return (pooled**2).sum(), pooled

    slope = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))
    for lengths, mask in ((LENGTHS, REAL), (HOLES, HOLES), (None, np.ones((B, S), bool))):
        (_, got), slopes = slope(params, _spoil(ys, mask), lengths)
        _close(got, _pool_by_loops(kind, ys, mask, params, bidirectional))
        _close_trees(slopes, slope(params, _spoil(ys, mask, 1e9), lengths)[1])
        assert not np.any(np.asarray(slopes[1])[~mask]) and all(np.any(g) for g in jax.tree.leaves(slopes))
    _close(got, att.pool(kind, ys, params=params, bidirectional=bidirectional))
    narrow = att.pool(kind, jnp.asarray(ys, jnp.bfloat16), params=params, bidirectional=bidirectional)
    assert narrow.dtype == jnp.bfloat16
    _close(narrow.astype(jnp.float32), got, 0.1)


def test_weights_of_pooling_are_those_of_its_mean():
    ys = _random(np.zeros((B, S, 4)), 3)
    params = _random(att.pool_init(jax.random.key(0), 4, A))
    pooled, weights = att.attention_pooling(params, _spoil(ys, REAL), LENGTHS)
    _close(pooled, (np.asarray(weights)[..., None] * ys).sum(1))
    _close(weights.sum(1), LENGTHS > 0)
    assert (np.asarray(weights)[~REAL] == 0).all() and weights.dtype == jnp.float32


def test_params_have_the_shapes_they_say():
    shapes = jax.tree.map(jnp.shape, att.bahdanau(A).init(jax.random.key(0), 3, 4))
    assert shapes == ((3, A), (4, A), (A,), (A,))
    assert att.luong("concat").init(jax.random.key(0), 3, 4).query_kernel.shape == (3, 3)
    assert att.luong("concat", A).init(jax.random.key(0), 3, 4).bias is None
    assert jax.tree.leaves(att.scaled_dot().init(jax.random.key(0), 4, 4)) == []


def test_what_does_not_fit_is_refused():
    ys, key, dot = np.zeros((B, S, 3), np.float32), jax.random.key(0), att.luong("dot")
    memory = att.make_memory(dot, (), ys)
    pooling = att.pool_init(key, 3, A)
    for call, error, message in (
        (lambda: att.bahdanau(0), ValueError, "size must be at least 1"),
        (lambda: att.luong("cat"), ValueError, "kind must be one of dot, general, concat, got 'cat'"),
        (lambda: att.luong("dot", 3), ValueError, "size=3 is an option of kind='concat' only, got kind='dot'"),
        (lambda: dot.init(key, 3, 4), ValueError, "luong_dot needs query_size = memory_size, got 3 and 4"),
        (lambda: att.scaled_dot().init(key, 3, 4), ValueError, "scaled_dot needs .* 3 and 4"),
        (lambda: att.attend(dot, (), ys[:, 0, :2], memory), ValueError, r"\(4, 2\) and keys of shape \(4, 5, 3\)"),
        (lambda: att.attend(dot, (), ys[:1, 0], memory), ValueError, r"query must be \(B, Q\).*\(4, 5, 3\).*\(1, 3\)"),
        (lambda: att.attend(dot, (), ys[0, 0], memory), ValueError, r"query must be \(B, Q\).*\(3,\)"),
        (lambda: att.make_memory(dot, (), ys[0]), ValueError, r"values must have three axes, \(B, S, M\), .*\(5, 3\)"),
        (lambda: att.make_memory(dot, (), ys.astype(int)), TypeError, "values must be floating point"),
        (lambda: att.make_memory(dot, (), ys, LENGTHS + 1), ValueError, "0 ... T = 5, got values from 1 to 6"),
        (lambda: att.make_memory(dot, (), ys, LENGTHS[1:]), ValueError, r"lengths must have shape \(4,\).*\(3,\)"),
        (lambda: att.make_memory(dot, (), ys, REAL[:, 1:]), ValueError, r"mask must have shape \(4, 5\).*\(4, 4\)"),
        (lambda: att.make_memory(dot, (), ys, LENGTHS * 1.0), TypeError, "lengths must be integers"),
        (lambda: att.pool("sum", ys), ValueError, "kind must be one of last, mean, max, attention, got 'sum'"),
        (lambda: att.pool("attention", ys), ValueError, "kind='attention' needs params, and other kinds take none"),
        (lambda: att.pool("mean", ys, params=pooling), ValueError, "got kind='mean' and params PoolParams"),
        (lambda: att.pool("last", ys, bidirectional=True), ValueError, r"even number of features.*\(4, 5, 3\)"),
    ):
        with pytest.raises(error, match=message):
            call()
