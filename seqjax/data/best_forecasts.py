"""The best possible forecasts of the embedded series: computed from the true process and the values a model sees.

The seasonal process is linear and Gaussian: the Kalman filter gives its exact predictive distribution. For the chaotic processes a
bootstrap particle filter approximates it, exactly in the limit of many particles; few are needed, since the process noise keeps the
particles apart and the observation noise is large. With the defaults the mean CRPS of some tens of forecasts is accurate to about 0.5 %; a
single forecast of Lorenz's system is less accurate where it may go to either wing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from seqjax.data.readers.processes import PROCESSES, Lorenz, MackeyGlass, Seasonal
from seqjax.data.records import Records
from seqjax.errors import refuse_unknown

PARTICLES, HISTORY = 1000, 250
PAIRS = 4  # pairs of each mixture component with others, to estimate E|X - X'|
Array = np.ndarray


class Best(NamedTuple):
    """The best forecasts from several origins."""

    mean: Array  # float64 (M, H)
    std: Array  # float64 (M, H)
    crps: Array  # float64 (M, H), of the observed values; NaN where one is missing or beyond the end of the records


def best_possible(
    name: str, records: Records, series: Array, origins: Array, horizon: int, *, particles: int = PARTICLES, history: int = HISTORY
) -> Best:
    """The predictive distribution from the process that generated a series and its values before the origin.

    Args:
      name: the embedded set.
      records: one of its parts, with each series from its start.
      series: index of each series in the records, (M,).
      origins: how many steps of each are known, (M,), at least 1; the first step forecast is `origins` itself.
      horizon: H, steps to forecast.
      particles: how many the particle filter uses; the Kalman filter needs none.
      history: how many steps before the first origin the particle filter starts; earlier ones carry almost no information.

    Returns:
      A Best; the CRPS is that of the distribution itself, not of a Gaussian with its mean and standard deviation.

    Source: Kalman 1960, "A new approach to linear filtering and prediction problems"; Gordon, Salmond and Smith 1993, "Novel
    approach to nonlinear/non-Gaussian Bayesian state estimation"

    Example:
      >>> from seqjax.data.series import load_series
      >>> test = load_series("embedded", name="seasonal").parts["test"]
      >>> best = best_possible("seasonal", test, np.array([0, 1]), np.array([1104, 1104]), 24)
      >>> best.mean.shape, bool((best.crps > 0).all())
      ((2, 24), True)
    """
    refuse_unknown(f"no embedded set of series is called {name!r}", name, PROCESSES)
    process, series, origins = PROCESSES[name], np.asarray(series), np.asarray(origins)
    shape = (len(series), horizon)
    best = Best(np.zeros(shape), np.zeros(shape), np.full(shape, np.nan))
    for place in np.unique(series):
        rows = np.flatnonzero(series == place)
        rows = rows[np.argsort(origins[rows], kind="stable")]
        value, known = records["value"][place], origins[rows]
        if isinstance(process, Seasonal):
            number = int(records["name"][place].split()[-1]) - 1  # gives its scale
            found = _kalman(process, value, number, known, horizon)
        else:
            found = _particles(process, value, known, horizon, particles, history, seed=int(place))
        for row, origin, (components, std) in zip(rows, known, found):
            spread = components.var(axis=0)
            best.mean[row], best.std[row] = components.mean(axis=0), np.sqrt(spread + std**2)
            came = np.append(value[origin : origin + horizon], np.full(horizon, np.nan))[:horizon]
            best.crps[row] = mixture_crps(components, std, came)
    return best


Forecast = tuple[Array, Array]  # component means (N, H), and the standard deviation of every component (H,)


def _kalman(process: Seasonal, value: Array, number: int, origins: Array, horizon: int) -> Iterator[Forecast]:
    scale, phi = process.scales()[number, 0], process.persistence
    innovation, noise = process.innovation**2, process.noise**2
    steps = np.arange(1, horizon + 1)
    mean, variance = 0.0, innovation / (1 - phi**2)
    observed = value / scale - process.level - process.season(np.arange(len(value)))
    wanted = set(origins.tolist())
    found = {}
    for t in range(origins.max() + 1):
        if t in wanted:  # the state of step t, predicted from the values before t
            ahead = phi ** (steps - 1)
            later = ahead**2 * variance + innovation * (1 - ahead**2) / (1 - phi**2)
            center = process.level + process.season(t + steps - 1) + ahead * mean
            found[t] = (scale * center)[None], scale * np.sqrt(later + noise)
        if t < len(observed) and not np.isnan(observed[t]):
            gain = variance / (variance + noise)
            mean, variance = mean + gain * (observed[t] - mean), (1 - gain) * variance
        mean, variance = phi * mean, phi**2 * variance + innovation
    return (found[origin] for origin in origins.tolist())


def _particles(
    process: MackeyGlass | Lorenz, value: Array, origins: Array, horizon: int, particles: int, history: int, seed: int
) -> Iterator[Forecast]:
    rng = np.random.default_rng(seed)
    t = max(int(origins.min()) - history, 0)
    states = process.start(np.random.PCG64(1000 + seed), particles)

    def moved(states: Array) -> Array:
        return process.advance(states, rng.standard_normal((len(states), process.kicks)))

    for _ in range(process.warm_up + 1):  # the steps before the series was observed
        states = moved(states)
    weights = np.full(particles, 1 / particles)
    for origin in origins.tolist():
        while t < origin:
            if not np.isnan(value[t]):
                distance = (value[t] - states[:, process.observed]) / process.noise
                weights = weights * np.exp(-(distance**2 - (distance**2).min()) / 2)
                weights = weights / weights.sum()
            if 1 / (weights**2).sum() < particles / 2:
                states, weights = states[_systematic(weights, rng)], np.full(particles, 1 / particles)
            states, t = moved(states), t + 1
        future, means = states[_systematic(weights, rng)], []
        for _ in range(horizon):
            means.append(future[:, process.observed])
            future = moved(future)
        yield np.stack(means, axis=1), np.full(horizon, process.noise)


def _systematic(weights: Array, rng: np.random.Generator) -> Array:
    """Systematic resampling: particle indices, each repeated in proportion to its weight, to within one."""
    number = len(weights)
    return np.minimum(np.searchsorted(np.cumsum(weights), (np.arange(number) + rng.random()) / number), number - 1)


def mixture_crps(means: Array, std: Array, value: Array) -> Array:
    """The CRPS of a mixture of Gaussians with equal weights: E|X - y| - E|X - X'| / 2.

    Args:
      means: component means, (N, H).
      std: standard deviation of every component, (H,).
      value: the observed values, (H,); NaN gives NaN.

    Returns:
      float64 (H,). E|X - X'| is taken over some pairs of distinct components; pairing a component with itself would bias the score by a
      share of 1 in N.

    Source: Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation"

    Example:
      >>> mixture_crps(np.zeros((1, 1)), np.ones(1), np.zeros(1)).round(4).tolist()
      [0.2337]
    """
    number = len(means)
    shifts = [0] if number == 1 else np.unique(np.linspace(1, number - 1, PAIRS).astype(int))
    order = np.random.default_rng(0).permutation(number)  # neighbours in a resampled cloud are alike
    means = means[order]
    apart = np.mean([_mean_distance(means - np.roll(means, shift, axis=0), np.sqrt(2) * std).mean(axis=0) for shift in shifts], axis=0)
    return _mean_distance(means - value, std).mean(axis=0) - apart / 2


def _mean_distance(mean: Array, std: Array) -> Array:
    """E|X| of Gaussian X."""
    from scipy.special import ndtr

    z = mean / std
    return std * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + mean * (2 * ndtr(z) - 1)
