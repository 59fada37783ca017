"""Baselines of forecasts: they see no future, are what their names say, and their quantiles hold what they should."""

import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.nn.outputs import LEVELS
from seqjax.run import backtest
from seqjax.run.forecast_baselines import SIMPLE, STATISTICAL, Series, error_quantiles, fill, forecast
from seqjax.training.metrics import forecasts as metrics

RNG = np.random.default_rng(0)


def made(steps=160, first=120, horizon=3, season=12, stride=7):
    t = np.arange(steps)
    value = 10 + 3 * np.sin(2 * np.pi * t / season) + RNG.normal(size=steps) + 0.3 * RNG.normal(size=steps).cumsum()
    value[[5, 50, 125]] = np.nan
    origins = np.arange(first, steps - horizon + 1, stride)
    return Series(value, RNG.normal(size=(steps, 1)), first, origins, horizon, season)


@pytest.mark.parametrize("name", [*SIMPLE, *STATISTICAL])
def test_they_see_no_future(name):
    """Other values from an origin on change nothing of its forecast; and they do change later ones."""
    if name in STATISTICAL:
        pytest.importorskip("statsforecast")
    series, how = made(), {"context": 80, "refits": 2}
    before = forecast(name, [series], **how)
    assert np.isfinite(before.quantiles).all() and (np.diff(before.quantiles) >= -1e-9).all()
    np.testing.assert_allclose(before.point, before.quantiles[..., 19], atol=1e-9)
    value = series.value.copy()
    value[series.origins[2] :] = 1000
    after = forecast(name, [series._replace(value=value)], **how)
    for part, other in zip(before, after):
        np.testing.assert_array_equal(part[:3], other[:3])
    assert not np.allclose(before.point[3:], after.point[3:])


def test_what_they_are():
    value = RNG.normal(size=40)
    series = Series(value, np.zeros((40, 0)), 30, np.array([30, 33]), 5, 4)
    found = {name: forecast(name, [series], context=9, refits=1).point for name in SIMPLE}
    for i, o in enumerate(series.origins):
        for h in range(5):
            assert found["naive"][i, h] == pytest.approx(value[o - 1])
            assert found["seasonal naive"][i, h] == pytest.approx(value[o - 4 + h % 4])
            assert found["drift"][i, h] == pytest.approx(value[o - 1] + (h + 1) * (value[o - 1] - value[0]) / (o - 1))


def test_linear_regression_finds_a_linear_process():
    """An autoregression of order 2 with a covariate that is known in the future: the error is the noise."""
    noise, covariate, value = RNG.normal(size=2000), RNG.normal(size=2000), np.zeros(2000)
    for t in range(2, 2000):
        value[t] = 1.2 * value[t - 1] - 0.6 * value[t - 2] + 2 * covariate[t] + noise[t]
    origins = np.arange(1500, 1998)
    found = forecast("linear", [Series(value, covariate[:, None], 1500, origins, 1, 1)], context=9, refits=1)
    assert np.std(value[origins] - found.point[:, 0]) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("name", ["naive", "linear", "AutoARIMA"])
def test_their_quantiles_hold_what_they_say(name):
    if name in STATISTICAL:
        pytest.importorskip("statsforecast")
    value = RNG.normal(size=3000).cumsum()
    series = Series(value, np.zeros((3000, 0)), 1500, np.arange(1500, 2990, 2), 4, 1)
    found = forecast(name, [series], context=1000, refits=1)
    truth = np.array([value[o : o + 4] for o in series.origins])
    for share in metrics.INTERVALS:
        assert metrics.inside(truth, found.quantiles, share).mean() == pytest.approx(share / 100, abs=0.06), share


def test_missing_values_are_filled_from_the_past_alone():
    assert fill(np.array([np.nan, 2.0, np.nan, np.nan, 5.0, np.nan])).tolist() == [2, 2, 3, 4, 5, 5]
    assert fill(np.full(3, np.nan)).tolist() == [0, 0, 0]


def test_quantiles_of_errors():
    """At each horizon its own, around a median of 0; with few errors those of all horizons together."""
    errors = np.stack([np.arange(100.0), 10 * np.arange(100.0)], 1)
    found = error_quantiles(errors)
    np.testing.assert_allclose(found[1], 10 * found[0])
    assert found[0, 19] == 0 and found[0, -1] == pytest.approx(99 * (LEVELS[-1] - 0.5))
    few = error_quantiles(np.full((3, 2), np.nan) * errors[:3])
    assert (few == 0).all() and error_quantiles(errors[:5])[0].tolist() == error_quantiles(errors[:5])[1].tolist()


def test_names_are_checked():
    assert backtest.chosen("") == [] and backtest.chosen("drift,AutoARIMA") == ["drift", "AutoARIMA"]
    with pytest.raises(UserError, match=r"baselines.names: 'ARIMA' is unknown \(nearest: AutoARIMA\)"):
        backtest.chosen("ARIMA")
