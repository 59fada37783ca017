"""The formulation of CPUs against reduce_window, and against a loop over windows where values tie."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.cnn import pooling
from seqjax.cnn.pooling import avg_pool, max_pool

# sizes, window, strides, padding, ceil
CASES = {
    "apart": ((4, 6), (2, 2), None, 0, False),
    "odd rest": ((5, 7), (2, 2), None, 0, False),
    "overlap": ((5, 6), (3, 3), (2, 2), 1, False),
    "every place": ((4, 5), (3, 3), (1, 1), 1, False),
    "over the border": ((6, 5), (3, 3), (2, 2), 0, True),
    "gaps": ((7, 8), (2, 2), (3, 3), 0, False),
    "unequal": ((6, 7), (2, 3), (1, 2), ((0, 1), (2, 1)), False),
    "one axis at a time": ((9, 8), (5, 4), (3, 1), 2, False),
    "sequence": ((9,), (3,), (2,), 1, True),
    "padding alone": ((2, 3), (2, 2), (1, 1), 3, False),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture
def plain(monkeypatch):
    """Runs a function with the formulation of GPUs."""

    def run(function, *inputs):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "gpu")
            return function(*inputs)

    return run


def _images(sizes, seed=0, batch=2, channels=3):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, *sizes, channels)) - 1, jnp.float32)


def _with_gradient(pool, case, x):
    _, window, strides, padding, ceil = case

    @jax.jit
    def both(x):
        y, back = jax.vjp(lambda x: pool(x, window, strides, padding, ceil), x)
        weights = jax.random.normal(jax.random.key(1), y.shape, y.dtype)
        return y, back(weights)[0], weights

    return both(x)


def _loop(x, dy, case):
    """Values, and the gradient assigned to the first maximum inside the image, by loops over windows."""
    sizes, window, strides, padding, ceil = case
    strides, pads = pooling._complete(x, window, strides, padding, ceil)
    y, dx = np.full(dy.shape, -np.inf, np.float32), np.zeros_like(x)
    for b, c in itertools.product(range(x.shape[0]), range(x.shape[-1])):
        for out in itertools.product(*map(range, dy.shape[1:-1])):
            places = itertools.product(*(range(o * s - p, o * s - p + w) for o, s, (p, _), w in zip(out, strides, pads, window)))
            inside = [p for p in places if all(0 <= i < n for i, n in zip(p, sizes))]
            if inside:
                best = max(inside, key=lambda p: x[(b, *p, c)])  # max gives the first
                y[(b, *out, c)] = x[(b, *best, c)]
                dx[(b, *best, c)] += dy[(b, *out, c)]
    return y, dx


@pytest.mark.one_in(3)
@every_case
@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_values_and_gradients_are_those_of_reduce_window(pool, case, plain):
    x = _images(case[0])
    y, dx, _ = _with_gradient(pool, case, x)
    expected_y, expected_dx, _ = plain(_with_gradient, pool, case, x)
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-5, atol=1e-6)


@pytest.mark.one_in(3)
@every_case
def test_of_equal_values_the_first_takes_the_gradient(case):
    x = np.random.default_rng(3).choice(np.array([0, 1, 2, -np.inf], np.float32), p=[0.3, 0.2, 0.1, 0.4], size=(3, *case[0], 4))
    y, dx, dy = _with_gradient(max_pool, case, jnp.asarray(x))
    expected_y, expected_dx = _loop(x, np.asarray(dy), case)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-5, atol=1e-6)


def test_the_two_formulations_are_two(plain):
    def text():
        return str(jax.make_jaxpr(lambda x: max_pool(x, (3, 3), (1, 1), 1))(_images((4, 4))))

    assert "reduce_window" not in text() and "reduce_window" in plain(text)


@pytest.mark.parametrize("name", ["every place", "overlap", "one axis at a time"])
def test_a_window_with_a_nan_gives_nan(name, plain):
    case = CASES[name]
    x = _images(case[0]).at[0, 1, 2, 0].set(jnp.nan).at[1, 3, 0, 2].set(jnp.nan)
    y, dx, dy = _with_gradient(max_pool, case, x)
    np.testing.assert_array_equal(y, plain(_with_gradient, max_pool, case, x)[0])
    assert np.isnan(y).any() and not np.isnan(y).all()
    np.testing.assert_allclose(dx.sum(), dy.sum(), rtol=1e-4)  # nothing of the gradient is lost


def test_whole_numbers_are_pooled_too():
    x = jnp.arange(-16, 0).reshape(1, 4, 4, 1)
    assert max_pool(x, (2, 2), padding=1).ravel().tolist() == [-16, -14, -13, -8, -6, -5, -4, -2, -1]


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_bfloat16_is_kept_and_rounded_once(pool):
    x = _images((6, 6)).astype(jnp.bfloat16)
    case = ((6, 6), (3, 3), (2, 2), 1, False)
    y, dx, _ = _with_gradient(pool, case, x)
    wide = _with_gradient(pool, case, x.astype(jnp.float32))[0]
    assert y.dtype == dx.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))


def test_the_mean_of_many_parts_in_bfloat16_is_rounded_once():
    x = 1 + _images((5, 5)).astype(jnp.bfloat16)
    for pool in (pooling.adaptive_avg_pool, lambda x, size: avg_pool(x, (2, 2))):
        np.testing.assert_array_equal(pool(x, (3, 3)), pool(x.astype(jnp.float32), (3, 3)).astype(jnp.bfloat16))


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_second_derivatives(pool, x64):
    """Of sum(pool(x)^3), with the gradient taken of a gradient, against differences of the gradient."""
    case = CASES["overlap"]
    x, direction = (jax.random.normal(jax.random.key(i), (1, *case[0], 1), float) for i in range(2))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(pool(x, *case[1:]) ** 3)))
    product = jax.jit(jax.grad(lambda x: jnp.vdot(gradient(x), direction)))(x)
    step = 1e-6 * direction
    np.testing.assert_allclose(product, (gradient(x + step) - gradient(x - step)) / 2e-6, atol=1e-6)


def test_the_mean_differentiates_forward():
    x = _images((5, 6))
    pool = jax.jit(lambda x: avg_pool(x, (3, 3), (2, 2), 1))
    np.testing.assert_allclose(jax.jvp(pool, (x,), (2 * x,))[1], 2 * pool(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_windows_that_do_not_fit_are_named(pool):
    with pytest.raises(ValueError, match=r"window \(4, 4\) does not fit into images of shape \(2, 3, 5, 3\)"):
        pool(_images((3, 5)), (4, 4))
    with pytest.raises(ValueError, match=r"window \(2,\) has 1 sizes, but images of shape \(2, 3, 5, 3\) have 2"):
        pool(_images((3, 5)), (2,))
