"""Output distributions: likelihoods against scipy, quantiles and draws against their definitions, units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from seqjax.errors import UserError
from seqjax.nn.outputs import (
    LEVELS,
    OUTPUTS,
    gaussian_nats,
    make_output,
    negative_binomial_nats,
    pinball,
    student_t_nats,
)

pytestmark = pytest.mark.one_in(3)

RNG = np.random.default_rng(0)
PROPER = ("gaussian", "student_t", "negative_binomial")


def made(name, location=2.0, scale=3.0, rows=5):
    output = make_output(name)
    raw = jnp.asarray(RNG.normal(size=(rows, output.size)), jnp.float32)
    location, scale = jnp.full(rows, location), jnp.full(rows, scale)
    return output, raw, location, scale, output.distribution(raw, location, scale)


def test_gaussian_nats():
    y, mean, sd = RNG.normal(size=20) * 3, RNG.normal(size=20), RNG.uniform(0.1, 4, 20)
    np.testing.assert_allclose(gaussian_nats(*map(jnp.asarray, (y, mean, sd))), -stats.norm.logpdf(y, mean, sd), rtol=2e-5)


def test_student_t_nats():
    y, df, mean, sd = RNG.normal(size=20) * 5, RNG.uniform(1, 40, 20), RNG.normal(size=20), RNG.uniform(0.1, 4, 20)
    found = student_t_nats(*map(jnp.asarray, (y, df, mean, sd)))
    np.testing.assert_allclose(found, -stats.t.logpdf(y, df, mean, sd), rtol=2e-4, atol=2e-5)


def test_negative_binomial_nats():
    """Against scipy, which has it by r and p; the mean is the mean, the variance mu + alpha mu^2."""
    y, mean, alpha = RNG.integers(0, 30, 20), RNG.uniform(0.2, 20, 20), RNG.uniform(0.05, 3, 20)
    r = 1 / alpha
    expected = -stats.nbinom.logpmf(y, r, r / (r + mean))
    found = negative_binomial_nats(jnp.asarray(y, jnp.float32), jnp.asarray(mean), jnp.asarray(alpha))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    every = np.arange(5000)
    shares = np.exp(-np.asarray(negative_binomial_nats(jnp.asarray(every, jnp.float32), jnp.float32(6.0), jnp.float32(0.5))))
    assert shares.sum() == pytest.approx(1, rel=1e-4) and (shares * every).sum() == pytest.approx(6, rel=1e-3)
    assert (shares * (every - 6.0) ** 2).sum() == pytest.approx(6 + 0.5 * 36, rel=1e-3)


@pytest.mark.parametrize("name", ("gaussian", "student_t"))
def test_likelihoods_integrate_to_one_in_the_units_of_the_data(name):
    output, _, _, scale, found = made(name, rows=1)

    def density(y):
        return float(np.exp(-output.loss(found, jnp.full(1, y), scale)[0]))

    assert integrate.quad(density, -300, 300, points=[float(found["mean"][0])], limit=200)[0] == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", PROPER)
def test_quantiles_and_draws_are_of_the_likelihood(name):
    """The share of draws at or below each quantile is at least its level, and no more than the last step of a count beyond it."""
    output, _, _, _, found = made(name)
    draws = np.asarray(jax.vmap(lambda key: output.sample(key, found))(jax.random.split(jax.random.key(0), 20_000)))
    quantiles = output.quantiles(found, LEVELS)
    assert (np.diff(quantiles) >= 0).all()
    below, under = (np.mean(compare(draws[..., None], quantiles), 0) for compare in (np.less_equal, np.less))
    assert (below >= LEVELS - 0.015).all() and (under <= LEVELS + 0.015).all()


@pytest.mark.parametrize("name", OUTPUTS)
def test_units(name):
    """Data in another unit: quantiles in that unit; a likelihood changes by the logarithm, an error that is scaled does not."""
    output, raw, location, scale, found = made(name)
    y = jnp.asarray(RNG.integers(0, 9, 5), jnp.float32)
    if output.counts:
        return  # counts have one unit
    other = output.distribution(raw, 10 * location, 10 * scale)
    np.testing.assert_allclose(output.quantiles(other, LEVELS), 10 * output.quantiles(found, LEVELS), rtol=1e-3)
    change = output.loss(other, 10 * y, 10 * scale) - output.loss(found, y, scale)
    np.testing.assert_allclose(change, np.log(10) if name in PROPER else 0, atol=2e-3)


@pytest.mark.parametrize("name", OUTPUTS)
def test_gradients_are_finite_where_the_network_is_extreme(name):
    output = make_output(name)

    def loss(raw):
        return jnp.sum(output.loss(output.distribution(raw, jnp.zeros(4), jnp.ones(4)), jnp.array([0.0, 1.0, 50.0, 3.0]), jnp.ones(4)))

    for size in (0.0, 1.0, 30.0, -30.0):
        raw = jnp.full((4, output.size), size)
        assert np.isfinite(loss(raw)) and np.isfinite(jax.grad(loss)(raw)).all(), size


def test_pinball_is_least_at_the_quantile():
    draws = jnp.asarray(stats.norm.rvs(size=20_000, random_state=0))
    grid = jnp.linspace(-3, 3, 241)
    for level in (0.1, 0.5, 0.8):
        losses = jnp.mean(pinball(draws[:, None], grid[None, :, None], jnp.array([level]))[..., 0], 0)
        assert float(grid[jnp.argmin(losses)]) == pytest.approx(stats.norm.ppf(level), abs=0.06)


def test_quantiles_cannot_cross_and_begin_as_those_of_a_normal_distribution():
    output = make_output("quantiles")
    raw = jnp.asarray(RNG.normal(size=(50, output.size)) * 20, jnp.float32)
    values = output.quantiles(output.distribution(raw, jnp.zeros(50), jnp.ones(50)), LEVELS)
    assert (np.diff(values) >= 0).all()
    first = output.distribution(jnp.zeros((1, output.size)), jnp.zeros(1), jnp.ones(1))
    np.testing.assert_allclose(output.quantiles(first, LEVELS)[0], stats.norm.ppf(LEVELS), atol=1e-5)
    np.testing.assert_allclose(output.quantiles(first, np.array([0.5, 0.55]))[0], stats.norm.ppf([0.5, 0.55]), atol=1e-5)
    draws = jax.vmap(lambda key: output.sample(key, first))(jax.random.split(jax.random.key(1), 20_000))
    assert abs(float(draws.mean())) < 0.03 and float(draws.std()) == pytest.approx(1, abs=0.1)


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match=r"model.output='gausian' is unknown \(nearest: gaussian\); choose one of squared"):
        make_output("gausian")
