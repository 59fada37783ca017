"""Baseline forecasts with quantiles: naive, seasonal naive, drift, linear regression, ETS, AutoARIMA."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.errors import missing
from seqjax.nn.outputs import LEVELS

MOST_SEASON = 24  # that ETS and AutoARIMA are given; with a longer one they would take hours, and ETS has none


class Forecasts(NamedTuple):
    """Forecasts from several origins."""

    point: np.ndarray  # (N, H)
    quantiles: np.ndarray  # (N, H, Q) at LEVELS


class Series(NamedTuple):
    """A series to be forecast at several origins; a forecast reads nothing at or after its origin but the features."""

    value: np.ndarray  # (T,), NaN where missing
    features: np.ndarray  # (T, E), known in the future
    first: int  # the first step that may be forecast; earlier ones are for fitting
    origins: np.ndarray  # (N,)
    horizon: int  # H
    season: int  # m


def fill(value: np.ndarray) -> np.ndarray:
    """Fills missing values by linear interpolation, and with the nearest value at the ends, for baselines that need all values.

    Example:
      >>> fill(np.array([np.nan, 1.0, np.nan, 3.0])).tolist()
      [1.0, 1.0, 2.0, 3.0]
    """
    seen = np.flatnonzero(np.isfinite(value))
    return np.interp(np.arange(len(value)), seen, value[seen]) if len(seen) else np.zeros(len(value))


def past_filled(series: Series) -> Callable[[int], np.ndarray]:
    """A function from an origin to the values before it, filled from these alone."""
    cache: dict[int, np.ndarray] = {}

    def before(origin: int) -> np.ndarray:
        if origin not in cache:
            cache.clear()
            cache[origin] = fill(series.value[:origin])
        return cache[origin]

    return before


def with_residuals(series: Series, predict: Callable[[np.ndarray], np.ndarray], least: int) -> Forecasts:
    """Forecasts whose quantiles are the point forecast plus the quantiles of earlier errors, separately for each horizon.

    Args:
      series: the series.
      predict: the values before an origin -> (H,).
      least: how many values it needs: errors are those at origins from there on, in what lies before `first`. At least
        ten errors for each horizon are wanted; with fewer, the errors of all horizons are pooled.
    """
    before = past_filled(series)
    stop = series.first - series.horizon + 1
    tried = np.arange(least, stop, max((stop - least) // 2000, 1))
    errors = np.array([series.value[o : o + series.horizon] - predict(before(o)) for o in tried.tolist()]).reshape(-1, series.horizon)
    point = np.array([predict(before(o)) for o in series.origins])
    return Forecasts(point, point[..., None] + error_quantiles(errors))


def error_quantiles(errors: np.ndarray) -> np.ndarray:
    """Quantiles of errors around their median, (H, Q), of errors (N, H) with NaN where a value was missing.

    Example:
      >>> error_quantiles(np.arange(11.0)[:, None] - 3)[0, [9, 19, 29]].tolist()
      [-2.5, 0.0, 2.5]
    """
    enough = np.isfinite(errors).sum(0) >= 10
    pooled = errors[np.isfinite(errors)]
    columns = [errors[np.isfinite(errors[:, h]), h] if enough[h] else pooled for h in range(errors.shape[1])]
    found = np.array([np.quantile(column, LEVELS) if len(column) else np.zeros(len(LEVELS)) for column in columns])
    return found - found[:, [len(LEVELS) // 2]]


def naive(series: Series) -> Forecasts:
    """Repeats the last value.

    Example:
      >>> series = Series(np.array([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]), np.zeros((7, 0)), 5, np.array([5]), 2, 2)
      >>> naive(series).point.tolist()
      [[1.0, 1.0]]
    """
    return with_residuals(series, lambda past: np.repeat(past[-1], series.horizon), 1)


def seasonal_naive(series: Series) -> Forecasts:
    """Repeats the value of one season before.

    Example:
      >>> series = Series(np.array([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]), np.zeros((7, 0)), 5, np.array([5]), 2, 2)
      >>> seasonal_naive(series).point.tolist()
      [[2.0, 1.0]]
    """
    season = min(series.season, max(series.first - series.horizon, 1))
    places = np.arange(series.horizon) % season - season
    return with_residuals(series, lambda past: past[places], season)


def drift(series: Series) -> Forecasts:
    """Extrapolates the line from the first value to the last.

    Example:
      >>> drift(Series(np.arange(9.0), np.zeros((9, 0)), 5, np.array([5]), 2, 1)).point.tolist()
      [[5.0, 6.0]]
    """
    ahead = np.arange(1, series.horizon + 1)
    return with_residuals(series, lambda past: past[-1] + ahead * (past[-1] - past[0]) / max(len(past) - 1, 1), 2)


def linear(series: Series, *, ridge: float = 1e-3) -> Forecasts:
    """A linear regression per horizon on the last values and the known features of the step, fitted on data before `first`.

    The lags are one season and a step, at most 200 and at most a quarter of what there is to fit on.

    Args:
      series: the series.
      ridge: strength of the penalty, for scaled columns.

    Example:
      >>> series = Series(np.sin(np.arange(60) / 2), np.zeros((60, 0)), 50, np.array([50]), 2, 12)
      >>> bool(np.abs(linear(series).point - np.sin(np.array([25, 25.5]))).max() < 0.01)
      True
    """
    lags = max(min(series.season + 1, 200, (series.first - series.horizon) // 4), 1)
    lags = min(max(lags, min(12, (series.first - series.horizon) // 4)), 200)
    filled, horizon = fill(series.value[: series.first]), series.horizon
    middle, spread = filled.mean(), filled.std() or 1.0

    def rows(values: np.ndarray, origins: np.ndarray, h: int) -> np.ndarray:
        recent = (values[origins[:, None] + np.arange(-lags, 0)] - middle) / spread
        return np.concatenate([np.ones((len(origins), 1)), recent, series.features[origins + h]], 1)

    fitted = np.arange(lags, series.first - horizon + 1)
    before = past_filled(series)
    recent = [before(o)[-lags:] for o in series.origins]
    point, errors = np.zeros((len(series.origins), horizon)), np.full((len(fitted), horizon), np.nan)
    for h in range(horizon):
        seen = np.isfinite(series.value[fitted + h])
        x, y = rows(filled, fitted[seen], h), (series.value[fitted[seen] + h] - middle) / spread
        weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ y)
        errors[seen, h] = (y - x @ weights) * spread
        at = (np.array(recent) - middle) / spread
        at = np.concatenate([np.ones((len(at), 1)), at, series.features[series.origins + h]], 1)
        point[:, h] = middle + spread * (at @ weights)
    return Forecasts(point, point[..., None] + error_quantiles(errors))


def statistical(series: Series, name: str, *, context: int, refits: int) -> Forecasts:
    """ETS or AutoARIMA from statsforecast, with its own intervals.

    The form and its parameters are chosen at regularly spaced origins, from the last `context` values before; until the next of these
    the same model reads on, from where it began, so that its season and its first state stay right.

    Args:
      series: the series.
      name: "ets" or "arima".
      context: how many values it reads at most.
      refits: how often it is fitted, evenly over the origins.

    Raises:
      UserError: statsforecast is not installed.

    Reference:
      Hyndman and Khandakar 2008, "Automatic time series forecasting: the forecast package for R", JSS 27.
    """
    try:
        from statsforecast import models
    except ImportError:
        raise missing("ETS and AutoARIMA need statsforecast", "forecasting", "leave them out of baselines.names") from None
    season = series.season if series.season <= MOST_SEASON else 1
    make = {"ets": models.AutoETS, "arima": models.AutoARIMA}[name]
    shares = [round(200 * abs(level - 0.5)) for level in LEVELS[: len(LEVELS) // 2]][::-1]  # 5, 10, ... 95 per cent
    before, found, begin = past_filled(series), [], 0
    model: Any = None
    again = set(np.linspace(0, len(series.origins), refits, endpoint=False).astype(int))
    for place, origin in enumerate(series.origins):
        if place in again:
            begin = max(int(origin) - context, 0)
        past = before(origin)[begin:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if place in again:
                model = make(season_length=season).fit(past)
            answer = model.forward(past, series.horizon, level=shares)
        low, high = ([answer[f"{side}-{share}"] for share in shares] for side in ("lo", "hi"))
        found.append(np.stack([*low[::-1], answer["mean"], *high], -1))
    quantiles = np.array(found).reshape(-1, series.horizon, len(LEVELS))
    return Forecasts(quantiles[..., len(LEVELS) // 2], quantiles)


SIMPLE: dict[str, Callable[[Series], Forecasts]] = {
    "naive": naive,
    "seasonal naive": seasonal_naive,
    "drift": drift,
    "linear": linear,
}
STATISTICAL = {"ETS": "ets", "AutoARIMA": "arima"}


def forecast(name: str, several: Sequence[Series], *, context: int, refits: int) -> Forecasts:
    """The forecasts of a baseline for several series, one after the other.

    Args:
      name: one of SIMPLE or STATISTICAL.
      several: the series.
      context, refits: see `statistical`.

    Example:
      >>> series = Series(np.arange(9.0), np.zeros((9, 0)), 5, np.array([5, 6]), 2, 1)
      >>> forecast("naive", [series, series], context=9, refits=1).point.shape
      (4, 2)
    """
    if name in SIMPLE:
        found = [SIMPLE[name](series) for series in several]
    else:
        found = [statistical(series, STATISTICAL[name], context=context, refits=refits) for series in several]
    return Forecasts(*(np.concatenate(column) for column in zip(*found)))
