"""Metrics of probabilistic forecasts: CRPS, MASE, RMSE, coverage, and the probability integral transform."""

from typing import Any

import numpy as np

from seqjax.nn.outputs import LEVELS

INTERVALS = (50, 80, 95)  # per cent


def crps_quantiles(y: np.ndarray, quantiles: np.ndarray, levels: np.ndarray = LEVELS) -> np.ndarray:
    r"""The continuous ranked probability score of quantiles at evenly spaced levels: twice the integral of the pinball loss.

    .. math:: \mathrm{CRPS}(F, y) = \int (F(x) - [x \ge y])^2 dx
       = 2 \int_0^1 \rho_\tau(y, F^{-1}(\tau))\, d\tau \approx \frac{2}{Q + 1} \sum_{i=1}^{Q} \rho_{i / (Q + 1)}(y, q_i)

    The trapezoidal rule with the 39 levels of a forecast gives 0.1 % less than the integral for a normal distribution.

    Args:
      y: values (...).
      quantiles: (..., Q), ascending.
      levels: i / (Q + 1), i = 1 ... Q.

    Returns:
      (...), in the units of the data; 0 is perfect.

    Example:
      >>> round(float(crps_quantiles(np.array(0.0), np.full(39, 2.0))), 3)  # of a point it is the absolute error
      1.95

    Reference:
      Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation", JASA 102.
    """
    error = np.asarray(y)[..., None] - quantiles
    return 2 * np.maximum(levels * error, (levels - 1) * error).sum(-1) / (len(levels) + 1)


def crps_gaussian(y: Any, mean: Any, sd: Any) -> np.ndarray:
    r"""The CRPS of a normal distribution.

    .. math:: \sigma \left(z (2 \Phi(z) - 1) + 2 \varphi(z) - 1 / \sqrt{\pi}\right), \quad z = (y - \mu) / \sigma

    Example:
      >>> round(float(crps_gaussian(0.0, 0.0, 1.0)), 4)
      0.2337

    Reference:
      Gneiting et al. 2005, "Calibrated probabilistic forecasting using ensemble model output statistics", MWR 133.
    """
    from scipy import stats

    z = (np.asarray(y) - mean) / sd
    return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


def crps_student_t(y: Any, df: Any, mean: Any, sd: Any) -> np.ndarray:
    r"""The CRPS of Student's t with location and scale.

    .. math:: \sigma \left(z (2 F_\nu(z) - 1) + 2 f_\nu(z) \frac{\nu + z^2}{\nu - 1}
       - \frac{2 \sqrt\nu}{\nu - 1} \frac{B(1/2, \nu - 1/2)}{B(1/2, \nu / 2)^2}\right)

    Args:
      y: values.
      df: degrees of freedom, nu > 1.
      mean, sd: location and scale.

    Example:
      >>> round(float(crps_student_t(0.0, 1e6, 0.0, 1.0)), 4)  # the normal distribution's
      0.2337

    Reference:
      Jordan, Krüger and Lerch 2019, "Evaluating probabilistic forecasts with scoringRules", JSS 90.
    """
    from scipy import special, stats

    df = np.asarray(df, np.float64)
    z = (np.asarray(y) - mean) / sd
    betas = np.exp(special.betaln(0.5, df - 0.5) - 2 * special.betaln(0.5, df / 2))
    inner = 2 * stats.t.pdf(z, df) * (df + z**2) / (df - 1) - 2 * np.sqrt(df) / (df - 1) * betas
    return sd * (z * (2 * stats.t.cdf(z, df) - 1) + inner)


def crps_ensemble(y: Any, draws: np.ndarray) -> np.ndarray:
    r"""The CRPS of the empirical distribution of draws from a forecast.

    .. math:: \frac1N \sum_i |x_i - y| - \frac{1}{2 N^2} \sum_{i,j} |x_i - x_j|

    Args:
      y: values (...).
      draws: (..., N).

    Example:
      >>> float(crps_ensemble(1.0, np.array([0.0, 2.0])))
      0.5
    """
    draws = np.sort(draws, -1)
    number = draws.shape[-1]
    spread = (draws * (2 * np.arange(1, number + 1) - number - 1)).sum(-1) / number**2
    return np.abs(draws - np.asarray(y)[..., None]).mean(-1) - spread


def seasonal_error(values: np.ndarray, season: int) -> float:
    r"""The scale of MASE: the mean absolute error of the seasonal naive forecast within the training part.

    .. math:: \frac{1}{T - m} \sum_{t > m} |y_t - y_{t-m}|, \text{ over the pairs that were both observed}

    Args:
      values: (T,), NaN where missing.
      season: m.

    Returns:
      The scale; NaN if there is no such pair, or if all values are equal.

    Example:
      >>> seasonal_error(np.array([1.0, 2.0, 4.0, 3.0]), 2)
      2.0
    """
    error = np.abs(values[season:] - values[:-season])
    error = error[np.isfinite(error)]
    return float(error.mean()) if error.any() else float("nan")


def forecast_scores(y: np.ndarray, point: np.ndarray, quantiles: np.ndarray, unit: np.ndarray) -> dict[str, float]:
    r"""Scores of forecasts over all observed values.

    .. math:: \mathrm{MASE} = \mathrm{mean} \frac{|y - \hat y|}{e_{series}}, \quad \mathrm{RMSE} = \sqrt{\mathrm{mean}(y - \hat y)^2}

    Args:
      y: (N, H), NaN where missing.
      point: (N, H).
      quantiles: (N, H, Q) at LEVELS.
      unit: (N,), `seasonal_error` of each forecast's series; forecasts where it is NaN are left out of MASE.

    Returns:
      `crps` and `rmse` in the units of the data; `mase`, if any forecast enters it; and the shares of values within the central 50, 80 and
      95 % intervals: `coverage_50`, ...

    Raises:
      ValueError: no value was observed.

    Example:
      >>> y = np.array([[1.0, np.nan]])
      >>> found = forecast_scores(y, y * 0 + 2, np.linspace(0, 2, 39) + np.zeros((1, 2, 1)), np.array([2.0]))
      >>> found["mase"], found["rmse"], found["coverage_80"]
      (0.5, 1.0, 1.0)

    Reference:
      Hyndman and Koehler 2006, "Another look at measures of forecast accuracy", IJF 22, for MASE.
    """
    seen = np.isfinite(y)
    if not seen.any():
        raise ValueError("y has no value that was observed; there is nothing to score")
    error = np.abs(y - point)
    scaled = (error / unit[:, None])[seen]
    scaled = scaled[np.isfinite(scaled)]
    found = {
        "crps": float(crps_quantiles(y, quantiles)[seen].mean()),
        **({"mase": float(scaled.mean())} if len(scaled) else {}),
        "rmse": float(np.sqrt(np.square(error[seen]).mean())),
    }
    return found | {f"coverage_{share}": float(inside(y, quantiles, share)[seen].mean()) for share in INTERVALS}


def inside(y: np.ndarray, quantiles: np.ndarray, share: float) -> np.ndarray:
    """Whether values lie within the central interval of this nominal coverage in per cent, bounds included.

    Example:
      >>> inside(np.array([0.0, 3.0]), np.linspace(-2, 2, 39) + np.zeros((2, 1)), 80).tolist()
      [True, False]
    """
    low, high = (np.argmin(np.abs(LEVELS - level)) for level in (0.5 - share / 200, 0.5 + share / 200))
    return (quantiles[..., low] <= y) & (y <= quantiles[..., high])


def probability_transform(y: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The probability that each forecast gives to values below the true one (PIT): uniform for calibrated forecasts.

    For a value between two quantiles it is halfway between their levels; with ties (counts, point forecasts) halfway between the levels of
    the
    first and last quantile equal to it.

    Args:
      y: values (...), all observed.
      quantiles: (..., Q) at LEVELS.

    Returns:
      (...), in (0, 1).

    Example:
      >>> probability_transform(np.array([0.01, 9.0]), np.linspace(-2, 2, 39) + np.zeros((2, 1))).tolist()
      [0.5125, 0.9875]

    Reference:
      Gneiting, Balabdaoui and Raftery 2007, "Probabilistic forecasts, calibration and sharpness", JRSS B 69.
    """
    below = (quantiles < y[..., None]).sum(-1)
    upto = (quantiles <= y[..., None]).sum(-1)
    return (below + upto + 1) / 2 / (len(LEVELS) + 1)


def by_horizon(y: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The mean CRPS at each horizon, (H,); NaN where no value was observed.

    Example:
      >>> by_horizon(np.array([[0.0, 1.0]]), np.zeros((1, 2, 39))).tolist()
      [0.0, 0.975]
    """
    found = np.where(np.isfinite(y), crps_quantiles(y, quantiles), np.nan)
    counts = np.isfinite(found).sum(0)
    return np.where(counts > 0, np.nansum(found, 0) / np.maximum(counts, 1), np.nan)
