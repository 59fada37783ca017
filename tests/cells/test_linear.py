"""The linear recurrences: each step against its recurrence, gates at their limits, the LRU's ring, refused settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import linear_rows

from seqjax.cells import linear

ALL = linear_rows.ROWS + linear_rows.VARIANTS
every = pytest.mark.parametrize(("make", "reference"), [row[1:] for row in ALL], ids=[row[0] for row in ALL])


def _setup(cell, dtype=np.float32, features=4):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(a + 0.4 * rng.uniform(-1, 1, a.shape), a.dtype), cell.init(jax.random.key(0), features))
    draw = lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype)  # noqa: E731
    return params, jax.tree.map(draw, cell.initial_carry(params, 3)), rng.normal(size=(5, 3, features)).astype(dtype)


@every
def test_a_step_is_the_equations_and_the_linear_recurrence(make, reference, x64):
    cell = make(param_dtype=jnp.float64)
    params, carry, xs = _setup(cell, np.float64)
    assert cell.input_size(params) == 4 and cell.hidden_size == 4
    got = cell.step(params, carry, xs[0])
    want = reference.step(*(jax.tree.map(np.asarray, t._asdict()) for t in (params, carry)), xs[0])
    np.testing.assert_allclose(got[1], want[1], rtol=1e-12)
    for name, value in want[0].items():
        np.testing.assert_allclose(getattr(got[0], name), value, rtol=1e-12)
    # Coefficients computed for all steps at once equal those of single steps.
    a, b = cell.split.coefficients(params, xs)
    h = a[0] * cell.split.state(carry) + b[0]
    assert a.shape == b.shape == (5, *h.shape)
    np.testing.assert_allclose(cell.split.state(got[0]), h, rtol=1e-12)
    np.testing.assert_allclose(cell.split.output(params, jnp.stack([h] * 5), xs)[0], got[1], rtol=1e-12)
    if cell.parts is not None:
        by_parts = cell.parts.after(params, carry, cell.parts.project(params, xs[0]), None)
        assert all(np.array_equal(p, q) for p, q in zip(jax.tree.leaves(by_parts), jax.tree.leaves(got), strict=True))


@every
def test_everything_stored_is_real_and_memory_stays_wide(make, reference):
    del reference
    cell = make(dtype=jnp.bfloat16)
    params, carry, xs = _setup(cell)
    last, y = cell.step(params, carry, xs[0])
    assert {a.dtype for a in jax.tree.leaves((params, carry, last))} == {jnp.dtype(jnp.float32)}
    assert y.dtype == jnp.bfloat16
    _, want = make().step(params, carry, xs[0])
    assert 0 < np.abs(np.asarray(y, np.float32) - want).max() < 0.06
    narrow = make(param_dtype=jnp.bfloat16)
    stored = narrow.init(jax.random.key(0), 4)
    assert {a.dtype for a in jax.tree.leaves(stored)} == {jnp.dtype(jnp.bfloat16)}
    assert {a.dtype for a in jax.tree.leaves(narrow.initial_carry(stored, 2))} == {jnp.dtype(jnp.float32)}


def test_minlstm_shares_are_right_where_both_gates_are_shut(x64):
    cell = linear.minlstm(1, param_dtype=jnp.float64)
    for i, f in [(-800.0, -800.0), (-800.0, -790.0), (-790.0, -800.0), (800.0, 800.0), (3.0, -800.0), (-800.0, 3.0)]:
        params = linear.MinLSTMParams(jnp.zeros((1, 3)), jnp.array([i, f, 1.0]))
        a, b = cell.split.coefficients(params, jnp.zeros((1, 1)))
        log_odds = min(f, 0) - min(i, 0) + np.log1p(np.exp(-abs(i))) - np.log1p(np.exp(-abs(f)))
        np.testing.assert_allclose(a[0, 0], 1 / (1 + np.exp(min(-log_odds, 709.0))), rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(a + b, 1, rtol=1e-12)
        slopes = jax.jit(jax.grad(lambda p: cell.split.coefficients(p, jnp.zeros((1, 1)))[0].sum()))(params)
        assert np.all(np.isfinite(slopes.bias))


def test_mingru_keeps_precision_where_it_hardly_remembers():
    params = linear.MinGRUParams(jnp.zeros((1, 2)), jnp.array([30.0, 0.0]))
    a, _ = linear.mingru(1).split.coefficients(params, jnp.zeros((1, 1)))
    np.testing.assert_allclose(a[0, 0], np.exp(-30.0), rtol=1e-5)


def test_positive_activation_is_positive_and_continuous():
    xs = np.concatenate([np.linspace(-20, 20, 401), [-1e-6, 0.0, 1e-6]]).astype(np.float32)
    ys = np.asarray(linear.ACTIVATIONS["positive"](xs))
    assert np.all(ys > 0) and np.all(np.diff(ys[:401]) > 0)
    np.testing.assert_allclose(ys[-3:], 0.5, atol=1e-5)


def test_biases_at_initialisation():
    draw = lambda cell: np.asarray(cell.init(jax.random.key(0), 3).bias)  # noqa: E731
    assert draw(linear.minlstm(2)).tolist() == [0, 0, 1, 1, 0, 0]
    assert draw(linear.minlstm(2, forget_bias=3.0)).tolist() == [0, 0, 3, 3, 0, 0]
    whole = jax.nn.initializers.constant(0.5)
    assert draw(linear.minlstm(2, bias_init=whole)).tolist() == [0.5] * 6
    assert draw(linear.minlstm(2, forget_bias=1.0, bias_init=whole)).tolist() == [0.5, 0.5, 1.5, 1.5, 0.5, 0.5]
    assert draw(linear.mingru(2)).tolist() == [0] * 4


def test_the_ring_is_filled_evenly_and_gamma_keeps_the_variance():
    r_min, r_max, max_phase = 0.6, 0.95, 1.2
    cell = linear.lru(2, 4000, r_min, r_max, max_phase)
    params = cell.init(jax.random.key(1), 8)
    modulus, phase = np.exp(-np.exp(np.float64(params.nu_log))), np.exp(np.float64(params.theta_log))
    # Even over the area: the square of the modulus is uniform, and so is the phase. 4000 draws: 3 % is 6 deviations.
    for draws, low, high in [(modulus**2, r_min**2, r_max**2), (phase, 0, max_phase)]:
        ranks = np.sort((draws - low) / (high - low))
        assert ranks[0] >= -1e-6 and ranks[-1] <= 1 + 1e-6
        assert np.abs(ranks - (np.arange(4000) + 0.5) / 4000).max() < 0.03
    np.testing.assert_allclose(np.exp(2 * np.float64(params.gamma_log)), 1 - modulus**2, rtol=1e-5)
    # The sum of gamma^2 |lambda|^(2t) over all t is 1: white inputs give states with the variance of x B.
    np.testing.assert_allclose(np.exp(2 * np.float64(params.gamma_log)) / (1 - modulus**2), 1, rtol=1e-5)
    for array, variance in [
        (params.b_re, 1 / 16),
        (params.b_im, 1 / 16),
        (params.c_re, 1 / 4000),
        (params.skip, 1 / 8),
    ]:
        assert abs(np.var(array) / variance - 1) < (0.05 if array.size > 1000 else 0.8)


def test_the_ends_of_the_ring_have_finite_parameters_and_gradients(monkeypatch):
    def ends(key, shape, dtype, low=0.0, high=1.0):
        return jnp.broadcast_to(jnp.array([low, high], dtype), shape)

    monkeypatch.setattr(jax.random, "uniform", ends)
    cell = linear.lru(2)
    params = cell.init(jax.random.key(2), 1)
    grads = jax.jit(jax.grad(lambda p: sum(jnp.abs(a).sum() for a in cell.split.coefficients(p, jnp.ones((1, 1))))))(params)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((params, grads)))


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("hidden_size must be at least 1, got 0", lambda: linear.mingru(0)),
        (r"activation must be one of \['identity', 'positive'\], got 'tanh'", lambda: linear.minlstm(4, "tanh")),
        ("state_size must be at least 1, got 0", lambda: linear.lru(4, 0)),
        ("0 <= r_min < r_max <= 1, got 0.9 and 0.5", lambda: linear.lru(4, r_min=0.9, r_max=0.5)),
        ("0 <= r_min < r_max <= 1, got 0.0 and 1.5", lambda: linear.lru(4, r_max=1.5)),
        ("max_phase must be positive, got 0", lambda: linear.lru(4, max_phase=0)),
        ("skip must be 'dense' or 'diagonal', got None", lambda: linear.lru(4, skip=None)),
        ("input_size must be at least 1", lambda: linear.lru(4).init(jax.random.key(0), 0)),
        (
            "diagonal skip needs an input size of hidden_size = 4, got 3",
            lambda: linear.lru(4, skip="diagonal").init(jax.random.key(0), 3),
        ),
    ],
)
def test_bad_settings_are_refused(message, make):
    with pytest.raises(ValueError, match=message):
        make()
