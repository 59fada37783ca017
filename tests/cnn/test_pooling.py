"""Pooling against loops in NumPy, in one and two dimensions, with random windows, strides, padding and sizes; and against torch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seqjax.cnn.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool

few = settings(max_examples=8, deadline=None)


def _count(size, window, stride, before, after, ceil):
    """How many windows an axis has: with `ceil`, one that extends past the end counts if it starts inside the axis or its left padding."""
    count = 0
    while True:
        start = count * stride - before
        fits = start + window <= size + after
        if not (fits or (ceil and start < size and start + window - stride < size + after)):
            return count
        count += 1


def _windows(x, window, strides, pads, ceil):
    """(output position, the values of its window that are inside), one for each window."""
    sizes = [_count(n, w, s, *p, ceil) for n, w, s, p in zip(x.shape[1:-1], window, strides, pads)]
    for place in itertools.product(*map(range, sizes)):
        starts = [i * s - p[0] for i, s, p in zip(place, strides, pads)]
        inside = tuple(slice(max(b, 0), max(min(b + w, n), 0)) for b, w, n in zip(starts, window, x.shape[1:-1]))
        yield sizes, place, x[(slice(None), *inside)]


def _pool(x, window, strides, pads, ceil, reduce):
    out = None
    for sizes, place, values in _windows(np.asarray(x, np.float64), window, strides, pads, ceil):
        out = np.zeros((len(x), *sizes, x.shape[-1])) if out is None else out
        out[(slice(None), *place)] = reduce(values.reshape(len(x), -1, x.shape[-1]))
    return out


@st.composite
def _cases(draw):
    axes = draw(st.integers(1, 2))
    window = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    pads = tuple((draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window)
    shape = (2, *(draw(st.integers(1, 8)) for _ in range(axes)), 2)
    assume(all(n + sum(p) >= w for n, p, w in zip(shape[1:], pads, window)))
    x = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape).astype(np.float32)
    return x, window, strides, pads, draw(st.booleans())


def _with_gradient(pool, x, weight):
    """The output of a pool and the gradient of its weighted sum, compiled together."""

    def both(x, weight):
        ys, vjp = jax.vjp(pool, x)
        return ys, vjp(weight)[0]

    return jax.jit(both)(x, weight)


@few
@given(_cases())
def test_max_pool_and_its_gradient(case):
    x, *arguments = case
    window, strides, pads, ceil = arguments
    want = _pool(x, *arguments, lambda values: values.max(axis=1))
    weight = np.random.default_rng(0).normal(size=want.shape).astype(np.float32)
    ys, grad = _with_gradient(lambda x: max_pool(x, window, strides, pads, ceil), x, weight)
    np.testing.assert_array_equal(ys, want.astype(np.float32))
    expected = np.zeros(x.shape)
    for _, place, values in _windows(np.arange(x.size).reshape(x.shape), *arguments):  # the position of each value
        where = values.reshape(len(x), -1, x.shape[-1])
        for b, c in itertools.product(range(len(x)), range(x.shape[-1])):
            best = max(where[b, :, c], key=lambda i: x.ravel()[i])
            expected.ravel()[best] += weight[(b, *place, c)]
    np.testing.assert_allclose(grad, expected, 1e-5, 1e-5)


@few
@given(_cases())
def test_avg_pool_and_its_gradient(case):
    x, *arguments = case
    window, strides, pads, ceil = arguments
    area = np.prod(window)
    want = _pool(x, *arguments, lambda values: values.sum(axis=1) / area)
    weight = np.random.default_rng(0).normal(size=want.shape).astype(np.float32)
    ys, grad = _with_gradient(lambda x: avg_pool(x, window, strides, pads, ceil), x, weight)
    np.testing.assert_allclose(ys, want, 1e-5, 1e-6)
    # Linear, so its transpose is tested by products: <weight, P e> for another random e.
    e = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    np.testing.assert_allclose(
        np.sum(np.asarray(grad) * e),
        np.sum(weight * _pool(e, *arguments, lambda values: values.sum(axis=1) / area)),
        1e-3,
        1e-4,
    )


@few
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6)), min_size=1, max_size=2))
def test_adaptive_pool_to_fewer_and_to_more(axes):
    sizes, outs = zip(*axes)
    x = np.random.default_rng(0).normal(size=(2, *sizes, 2)).astype(np.float32)
    want = np.zeros((2, *outs, 2))
    for place in itertools.product(*map(range, outs)):
        parts = tuple(slice(i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(place, sizes, outs))
        want[(slice(None), *place)] = x[(slice(None), *parts)].reshape(2, -1, 2).mean(axis=1)
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), outs), want, 1e-4, 1e-5)


def test_global_pool_is_the_mean_and_spreads_its_gradient_evenly():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(global_avg_pool(jnp.asarray(x)), x.mean(axis=(1, 2)), 1e-5, 1e-6)
    np.testing.assert_allclose(global_avg_pool(jnp.asarray(x[:, 0])), x[:, 0].mean(axis=1), 1e-5, 1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: global_avg_pool(x)[0, 1])(x)[0, ..., 1], np.full((3, 5), 1 / 15), 1e-5)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_whole_numbers_pads_and_defaults_mean_the_same(pool):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 6, 2)), jnp.float32)
    want = pool(x, (2, 3), (2, 3), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(pool(x, (2, 3), padding=1), want)
    np.testing.assert_array_equal(pool(x, (2, 3), padding=(1, (1, 1))), want)
    assert pool(x.astype(jnp.bfloat16), (2, 3)).dtype == jnp.bfloat16


def test_a_window_that_does_not_fit_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(3,\).*\(1, 2, 4\)"):
        max_pool(jnp.zeros((1, 2, 4)), (3,))
    with pytest.raises(ValueError, match=r"\(2, 2\) has 2 sizes.*\(1, 5, 4\)"):
        avg_pool(jnp.zeros((1, 5, 4)), (2, 2))


@pytest.mark.parametrize(
    "size, window, stride, pad", [((7, 8), (3, 2), (2, 2), (1, 0)), ((6,), (3,), (2,), (1,)), ((5,), (2,), (3,), (1,))]
)
@pytest.mark.parametrize("ceil", [False, True])
def test_the_same_as_torch(size, window, stride, pad, ceil):
    torch = pytest.importorskip("torch")
    functional, axes = torch.nn.functional, len(size)
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    theirs = torch.tensor(np.moveaxis(x, -1, 1).copy())
    theirs = getattr(functional, f"max_pool{axes}d")(theirs, window, stride, pad, ceil_mode=ceil)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), window, stride, pad, ceil), np.moveaxis(theirs.numpy(), 1, -1))
    if not ceil:
        theirs = torch.tensor(np.moveaxis(x, -1, 1).copy())
        theirs = getattr(functional, f"avg_pool{axes}d")(theirs, window, stride, pad)
        ours = avg_pool(jnp.asarray(x), window, stride, pad)
        np.testing.assert_allclose(ours, np.moveaxis(theirs.numpy(), 1, -1), 1e-5, 1e-6)
    out = tuple(range(3, 3 + axes))
    theirs = getattr(functional, f"adaptive_avg_pool{axes}d")(torch.tensor(np.moveaxis(x, -1, 1).copy()), out)
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), out), np.moveaxis(theirs.numpy(), 1, -1), 1e-5, 1e-5)
