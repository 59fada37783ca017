"""Metrics of forecasts: CRPS against its integral, MASE against utilsforecast, coverage and PIT of known distributions."""

import numpy as np
import pytest
from scipy import integrate, stats

from seqjax.nn.outputs import LEVELS
from seqjax.training.metrics import forecasts as metrics

RNG = np.random.default_rng(0)


def integral(distribution, y):
    """The CRPS by its definition."""
    low, high = distribution.ppf(1e-9), distribution.ppf(1 - 1e-9)

    def square(x):
        return (distribution.cdf(x) - (x >= y)) ** 2

    reach = (min(low, y), max(high, y))
    return sum(integrate.quad(square, *ends, limit=400, epsabs=1e-9)[0] for ends in ((reach[0], y), (y, reach[1])))


@pytest.mark.parametrize("y", [-3.0, 0.2, 1.0, 7.5])
def test_closed_forms_are_the_integral(y):
    assert metrics.crps_gaussian(y, 1.0, 2.0) == pytest.approx(integral(stats.norm(1, 2), y), rel=1e-4)
    assert metrics.crps_student_t(y, 5.0, 1.0, 2.0) == pytest.approx(integral(stats.t(5, 1, 2), y), rel=1e-3)


def test_closed_forms_against_scoringrules():
    sr = pytest.importorskip("scoringrules")
    y, mean, sd, df = RNG.normal(size=30) * 3, RNG.normal(size=30), RNG.uniform(0.2, 3, 30), RNG.uniform(2, 30, 30)
    np.testing.assert_allclose(metrics.crps_gaussian(y, mean, sd), sr.crps_normal(y, mean, sd), rtol=1e-6)
    np.testing.assert_allclose(metrics.crps_student_t(y, df, mean, sd), sr.crps_t(y, df, mean, sd), rtol=1e-5)
    draws = RNG.normal(size=(30, 25))
    np.testing.assert_allclose(metrics.crps_ensemble(y, draws), sr.crps_ensemble(y, draws, estimator="qd"), rtol=1e-6)
    quantiles = np.sort(RNG.normal(size=(30, 39)))
    np.testing.assert_allclose(metrics.crps_quantiles(y, quantiles), sr.crps_quantile(y, quantiles, LEVELS) * 39 / 40, rtol=1e-6)


def test_crps_of_quantiles_is_that_of_the_distribution():
    """In expectation over what comes: less by 0.1 % for a normal distribution with its 39 levels."""
    y = stats.norm.rvs(size=200_000, random_state=1)
    found = metrics.crps_quantiles(y, stats.norm.ppf(LEVELS)).mean()
    assert found / metrics.crps_gaussian(y, 0, 1).mean() == pytest.approx(0.999, abs=5e-4)


def test_crps_is_least_for_the_truth():
    y = stats.norm.rvs(size=50_000, random_state=2)

    def score(mean, sd):
        return metrics.crps_quantiles(y, stats.norm.ppf(LEVELS, mean, sd)).mean()

    assert all(score(0, 1) < score(*other) for other in ((0.2, 1), (-0.2, 1), (0, 1.3), (0, 0.7)))


def test_mase_against_utilsforecast_and_by_hand():
    losses = pytest.importorskip("utilsforecast.losses")
    import pandas as pd

    train, y, point = RNG.normal(size=40).cumsum(), RNG.normal(size=8), RNG.normal(size=8)
    unit = metrics.seasonal_error(train, 4)
    assert unit == pytest.approx(np.mean([abs(train[t] - train[t - 4]) for t in range(4, 40)]))
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(8), "y": y, "model": point})
    before = pd.DataFrame({"unique_id": "a", "ds": np.arange(-40, 0), "y": train})
    expected = losses.mase(frame, ["model"], seasonality=4, train_df=before)["model"].item()
    quantiles = np.repeat(point[None, :, None], 39, -1)
    found = metrics.forecast_scores(y[None], point[None], quantiles, np.array([unit]))
    assert found["mase"] == pytest.approx(expected, rel=1e-6)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((y - point) ** 2)))
    assert found["crps"] == pytest.approx(np.abs(y - point).mean() * 39 / 40)  # of a point it is the error


def test_missing_values_do_not_count():
    y, point = np.array([[1.0, np.nan], [2.0, 5.0]]), np.zeros((2, 2))
    quantiles = np.repeat(point[..., None], 39, -1)
    found = metrics.forecast_scores(y, point, quantiles, np.array([1.0, 2.0]))
    assert found["mase"] == pytest.approx((1 + 1 + 2.5) / 3)
    assert metrics.by_horizon(y, quantiles) == pytest.approx(np.array([1.5, 5]) * 39 / 40)
    assert np.isnan(metrics.seasonal_error(np.array([1.0, np.nan, 1.0]), 1)) and np.isnan(metrics.seasonal_error(np.ones(5), 2))
    constant = metrics.forecast_scores(y, point, quantiles, np.array([np.nan, np.nan]))  # undefined, which is not 0
    assert "mase" not in constant and constant["crps"] == found["crps"]
    with pytest.raises(ValueError, match="nothing to score"):
        metrics.forecast_scores(y * np.nan, point, quantiles, np.ones(2))


def test_coverage_and_pit_of_the_truth():
    y = stats.norm.rvs(size=(4000, 3), random_state=3)
    quantiles = np.broadcast_to(stats.norm.ppf(LEVELS), (4000, 3, 39))
    found = metrics.forecast_scores(y, quantiles[..., 19], quantiles, np.ones(4000))
    for share in (50, 80, 95):
        assert found[f"coverage_{share}"] == pytest.approx(share / 100, abs=0.015)
    transform = metrics.probability_transform(y, quantiles).ravel()
    shares = np.histogram(transform, 10, (0, 1))[0] / transform.size
    assert np.abs(shares - 0.1).max() < 0.015
    assert metrics.probability_transform(np.array([3.0]), np.full((1, 39), 3.0)).tolist() == [0.5]
