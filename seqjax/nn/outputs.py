"""Output distributions of a forecaster: how to read a network's outputs, with losses, quantiles and sampling."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import refuse_unknown
from seqjax.typing import AnyArray, Array, Key

# Forecasts are given as quantiles at these levels, which include the bounds of the 50, 80, 90 and 95 % intervals.
LEVELS = np.arange(1, 40) / 40

Distribution = Mapping[str, Array]  # the parameters of a distribution by name, in the units of the data


class Output(NamedTuple):
    """A family of distributions.

    Attributes:
      name: the name used in settings.
      size: P, the number of network outputs per step; the first is the location.
      distribution: distribution(raw, location, scale) -> Distribution, with raw (..., P) and the others (...).
      loss: loss(distribution, y, scale) -> (...): nats in the units of the data; for points and quantiles, which have
        no likelihood, an error divided by the scale.
      quantiles: quantiles(distribution, levels) -> (..., Q), NumPy arrays, never crossing.
      sample: sample(key, distribution) -> (...), one draw.
      counts: whether the data must be non-negative integers.
    """

    name: str
    size: int
    distribution: Callable[[Array, Array, Array], Distribution]
    loss: Callable[[Distribution, Array, Array], Array]
    quantiles: Callable[[Distribution, np.ndarray], np.ndarray]
    sample: Callable[[Key, Distribution], Array]
    counts: bool = False


def make_output(name: str) -> Output:
    """Returns a family by its name.

    Args:
      name: one of OUTPUTS: `squared` and `absolute` (a point, with that error), `gaussian`, `student_t`,
        `negative_binomial` (counts), `quantiles` (pinball loss at LEVELS).

    Raises:
      UserError: the name is unknown.

    Example:
      >>> output = make_output("gaussian")
      >>> found = output.distribution(jnp.zeros(2), jnp.array(5.0), jnp.array(2.0))
      >>> float(found["mean"]), round(float(output.loss(found, jnp.array(5.0), jnp.array(2.0))), 3)
      (5.0, 1.612)
    """
    refuse_unknown(f"model.output={name!r} is unknown", name, OUTPUTS)
    return OUTPUTS[name]()


def _point(name: str, error: Callable[[Array], Array]) -> Output:
    def quantiles(point, levels):
        return np.repeat(np.asarray(point["mean"])[..., None], len(levels), -1)

    return Output(
        name,
        1,
        distribution=lambda raw, location, scale: {"mean": location + scale * raw[..., 0]},
        loss=lambda point, y, scale: error((y - point["mean"]) / scale),
        quantiles=quantiles,
        sample=lambda key, point: point["mean"],
    )


def gaussian_nats(y: Array, mean: Array, sd: Array) -> Array:
    r"""Computes the negative log-likelihood of a normal distribution, in nats.

    .. math:: -\log p(y) = \tfrac12 \log 2 \pi \sigma^2 + \frac{(y - \mu)^2}{2 \sigma^2}

    Example:
      >>> round(float(gaussian_nats(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0))), 4)
      1.4189
    """
    return 0.5 * jnp.log(2 * jnp.pi) + jnp.log(sd) + 0.5 * ((y - mean) / sd) ** 2


def student_t_nats(y: Array, df: Array, mean: Array, sd: Array) -> Array:
    r"""Computes the negative log-likelihood of Student's t with location and scale, in nats.

    .. math:: -\log p(y) = \log \frac{\Gamma(\nu / 2) \sqrt{\pi \nu}\, \sigma}{\Gamma((\nu + 1) / 2)}
       + \frac{\nu + 1}{2} \log\left(1 + \frac{(y - \mu)^2}{\nu \sigma^2}\right)

    Args:
      y: the value.
      df: degrees of freedom, nu > 0.
      mean, sd: location mu and scale sigma.

    Example:
      >>> round(float(student_t_nats(*map(jnp.array, (1.0, 5.0, 0.0, 1.0)))), 3)
      1.516
    """
    lgamma, z = jax.scipy.special.gammaln, (y - mean) / sd
    constant = lgamma(df / 2) - lgamma((df + 1) / 2) + 0.5 * jnp.log(jnp.pi * df) + jnp.log(sd)
    return constant + 0.5 * (df + 1) * jnp.log1p(z**2 / df)


def negative_binomial_nats(y: Array, mean: Array, dispersion: Array) -> Array:
    r"""Computes the negative log-likelihood of a negative binomial count, in nats; the variance is mu + alpha mu^2.

    .. math:: -\log p(y) = -\log \frac{\Gamma(y + r)}{y!\, \Gamma(r)} - r \log \frac{r}{r + \mu} - y \log \frac{\mu}{r + \mu},
       \quad r = 1 / \alpha

    Args:
      y: the count.
      mean: mu > 0.
      dispersion: alpha > 0.

    Example:
      >>> round(float(negative_binomial_nats(*map(jnp.array, (3.0, 2.0, 0.5)))), 4)
      2.0794

    Reference:
      Salinas, Flunkert and Gasthaus 2017, "DeepAR", arXiv:1704.04110, section 3.1.
    """
    lgamma, r = jax.scipy.special.gammaln, 1 / dispersion
    choose = lgamma(y + r) - lgamma(y + 1) - lgamma(r)
    return -choose + r * jnp.log1p(mean / r) + y * (jnp.log(r + mean) - jnp.log(mean))


def pinball(y: Array, quantiles: Array, levels: AnyArray) -> Array:
    r"""Computes the pinball loss of quantiles, whose expectation is smallest at the true ones.

    .. math:: \rho_\tau(y, q) = \max(\tau (y - q), (\tau - 1) (y - q))

    Args:
      y: values (...).
      quantiles: (..., Q).
      levels: (Q,), in (0, 1).

    Returns:
      (..., Q).

    Example:
      >>> pinball(jnp.array(3.0), jnp.array([1.0, 4.0]), jnp.array([0.5, 0.75])).tolist()
      [1.0, 0.25]

    Reference:
      Koenker and Bassett 1978, "Regression quantiles", Econometrica 46.
    """
    error = y[..., None] - quantiles
    levels = jnp.reshape(levels, (1,) * y.ndim + (-1,))
    return jnp.maximum(levels * error, (levels - 1) * error)


def _gaussian() -> Output:
    from jax.scipy.special import ndtri

    def distribution(raw, location, scale):
        return {"mean": location + scale * raw[..., 0], "sd": scale * _positive(raw[..., 1])}

    def quantiles(normal, levels):
        return np.asarray(normal["mean"])[..., None] + np.asarray(normal["sd"])[..., None] * np.asarray(ndtri(jnp.asarray(levels)))

    return Output(
        "gaussian",
        2,
        distribution,
        loss=lambda normal, y, scale: gaussian_nats(y, normal["mean"], normal["sd"]),
        quantiles=quantiles,
        sample=lambda key, normal: normal["mean"] + normal["sd"] * jax.random.normal(key, normal["mean"].shape),
    )


def _student_t() -> Output:
    def distribution(raw, location, scale):
        sd, df = scale * _positive(raw[..., 1]), 2 + _positive(raw[..., 2], 8.0)
        return {"mean": location + scale * raw[..., 0], "sd": sd, "df": df}

    def quantiles(t, levels):
        from scipy import stats

        df, mean, sd = (np.asarray(t[name], np.float64)[..., None] for name in ("df", "mean", "sd"))
        return mean + sd * stats.t.ppf(np.asarray(levels), df)

    return Output(
        "student_t",
        3,
        distribution,
        loss=lambda t, y, scale: student_t_nats(y, t["df"], t["mean"], t["sd"]),
        quantiles=quantiles,
        sample=lambda key, t: t["mean"] + t["sd"] * jax.random.t(key, t["df"], t["mean"].shape),
    )


def _negative_binomial() -> Output:
    def distribution(raw, location, scale):
        size = jnp.maximum(location + scale, 1e-3)  # of the series; its mean with `mean_abs`, whose location is 0
        return {"mean": size * _positive(raw[..., 0]) + 1e-6, "dispersion": _positive(raw[..., 1], 0.5)}

    def quantiles(counts, levels):
        from scipy import stats

        mean, r = (np.asarray(value, np.float64)[..., None] for value in (counts["mean"], 1 / counts["dispersion"]))
        return stats.nbinom.ppf(np.asarray(levels), r, r / (r + mean))

    def sample(key, counts):
        first, second = jax.random.split(key)
        r = 1 / counts["dispersion"]
        rate = jax.random.gamma(first, r) * counts["mean"] / r
        return jax.random.poisson(second, rate).astype(counts["mean"].dtype)

    return Output(
        "negative_binomial",
        2,
        distribution,
        loss=lambda counts, y, scale: negative_binomial_nats(y, counts["mean"], counts["dispersion"]),
        quantiles=quantiles,
        sample=sample,
        counts=True,
    )


def _quantiles() -> Output:
    """Builds the median and positive steps up and down from it, so that quantiles cannot cross."""
    from scipy import stats

    middle = len(LEVELS) // 2
    start = jnp.asarray(np.diff(stats.norm.ppf(LEVELS)), jnp.float32)  # those of a standard normal, where raw is 0

    def distribution(raw, location, scale):
        steps = start.reshape((1,) * (raw.ndim - 1) + (-1,)) * jax.nn.softplus(raw[..., 1:]) / np.log(2)
        above = jnp.cumsum(steps[..., middle:], -1)
        below = -jnp.flip(jnp.cumsum(jnp.flip(steps[..., :middle], -1), -1), -1)
        offsets = jnp.concatenate([below, jnp.zeros_like(above[..., :1]), above], -1)
        return {"quantiles": location[..., None] + scale[..., None] * (raw[..., :1] + offsets)}

    def loss(found, y, scale):  # twice the mean over the levels is the CRPS
        return 2 * jnp.sum(pinball(y, found["quantiles"], LEVELS), -1) / (len(LEVELS) + 1) / scale

    def quantiles(found, levels):
        values = np.asarray(found["quantiles"])
        if len(levels) == len(LEVELS) and np.allclose(levels, LEVELS):
            return values
        flat = [np.interp(levels, LEVELS, row) for row in values.reshape(-1, len(LEVELS))]
        return np.reshape(flat, (*values.shape[:-1], len(levels)))

    def sample(key, found):
        values = found["quantiles"]
        level = jax.random.uniform(key, values.shape[:-1]) * (len(LEVELS) + 1) - 1
        low = jnp.clip(jnp.floor(level).astype(jnp.int32), 0, len(LEVELS) - 2)
        left, right = (jnp.take_along_axis(values, (low + side)[..., None], -1)[..., 0] for side in (0, 1))
        return left + (right - left) * (level - low)

    return Output("quantiles", len(LEVELS), distribution, loss, quantiles, sample)


def _positive(raw: Array, at_zero: float = 1.0) -> Array:
    """Returns a positive number, never quite 0; the given one where the network outputs 0."""
    return at_zero * jax.nn.softplus(raw) / np.log(2) + 1e-4


OUTPUTS: dict[str, Callable[[], Any]] = {
    "squared": lambda: _point("squared", jnp.square),
    "absolute": lambda: _point("absolute", jnp.abs),
    "gaussian": _gaussian,
    "student_t": _student_t,
    "negative_binomial": _negative_binomial,
    "quantiles": _quantiles,
}
