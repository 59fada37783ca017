"""The embedded series and their best possible forecasts, each against an independent computation."""

from typing import NamedTuple

import numpy as np
import pytest

from seqjax.data import best_forecasts
from seqjax.data.best_forecasts import best_possible, mixture_crps
from seqjax.data.readers import processes
from seqjax.data.readers.processes import PROCESSES, MackeyGlass, Seasonal, normal
from seqjax.data.records import Places, Records
from seqjax.data.series import load_series

integrate = pytest.importorskip("scipy.integrate")
CHAOS = ["mackey_glass", "lorenz"]


def records_of(*values, names=None):
    """Records with only values, as for `best_possible`."""
    names = names or [f"series {i + 1}" for i in range(len(values))]
    return Records({"name": tuple(names), "value": tuple(map(np.asarray, values))}, Places.of("", range(len(values))))


# The systems, by integrators of SciPy


def scipy_mackey_glass(start, until):
    """By the method of steps: each stretch of 17 units is an ordinary equation, with the stretch before as its past."""
    before, pieces = (lambda t: start), []
    for stretch in range(int(np.ceil(until / 17))):

        def slope(t, x, before=before):
            delayed = before(t - 17)
            return 0.2 * delayed / (1 + delayed**10) - 0.1 * x

        first = start if not pieces else pieces[-1].sol(17 * stretch)[0]
        found = integrate.solve_ivp(slope, (17 * stretch, 17 * (stretch + 1)), [first], rtol=1e-10, atol=1e-12, dense_output=True)
        pieces.append(found)
        before = lambda t, found=found: found.sol(t)[0]  # noqa: E731
    return np.array([pieces[min(int(t // 17), len(pieces) - 1)].sol(t)[0] for t in range(1, until + 1)])


@pytest.mark.parametrize("start", [0.5, 0.9, 1.4])
def test_mackey_glass_is_that_of_another_integrator(start):
    wanted, errors = scipy_mackey_glass(start, 100), []
    for substeps in (2, 4):
        process = MackeyGlass(substeps=substeps)
        state, ours = np.full((1, 2 * 17 * substeps + 1), start), []
        for _ in range(100):
            state = process.advance(state, np.zeros((1, process.kicks)))
            ours.append(state[0, process.observed])
        errors.append(np.abs(np.array(ours) - wanted).max())
    assert errors[0] < 1e-4 and errors[1] < errors[0] / 10  # the order is 4


def test_lorenz_is_that_of_another_integrator():
    def slope(t, s):
        return [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]]

    process, start = PROCESSES["lorenz"], np.array([[1.0, 2.0, 20.0]])
    times, ours, state = process.interval * np.arange(1, 41), [], start
    for _ in times:
        state = process.advance(state, np.zeros((1, process.kicks)))
        ours.append(state[0])
    wanted = integrate.solve_ivp(slope, (0, times[-1]), start[0], t_eval=times, rtol=1e-11, atol=1e-12).y.T
    np.testing.assert_allclose(np.array(ours), wanted, atol=1e-4)


def test_the_numbers_are_gaussian():
    drawn = normal(np.random.PCG64(3), 100, 1000).ravel()
    assert abs(drawn.mean()) < 0.02 and abs(drawn.var() - 1) < 0.02 and abs((drawn**4).mean() - 3) < 0.15
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.02


# The seasonal process


def joint(process, steps):
    """Mean and covariance of the first steps, for a scale of 1."""
    t = np.arange(steps)
    covariance = process.innovation**2 / (1 - process.persistence**2) * process.persistence ** np.abs(t[:, None] - t)
    return process.level + process.season(t), covariance + process.noise**2 * np.eye(steps)


@pytest.mark.parametrize("origin", [1, 2, 7, 40])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_kalman_filter_is_the_conditional_of_the_joint_gaussian(origin, missing):
    process, rng, horizon = PROCESSES["seasonal"], np.random.default_rng(origin), 9
    mean, covariance = joint(process, origin + horizon)
    scale = process.scales()[4, 0]
    value = scale * rng.multivariate_normal(mean, covariance)
    value[:origin][rng.random(origin) < missing] = np.nan
    best = best_possible("seasonal", records_of(value, names=["series 5"]), [0], [origin], horizon)
    seen = np.flatnonzero(~np.isnan(value[:origin]))
    weights = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[seen, origin:]).T
    wanted = mean[origin:] + weights @ (value[seen] / scale - mean[seen])
    spread = np.diag(covariance)[origin:] - np.einsum("hs,sh->h", weights, covariance[seen, origin:])
    np.testing.assert_allclose(best.mean[0], scale * wanted, rtol=1e-9)
    np.testing.assert_allclose(best.std[0], scale * np.sqrt(spread), rtol=1e-9)


def test_the_seasonal_series_are_of_that_gaussian():
    """Their whole likelihood: with the right covariance the squared whitened values have mean 1."""
    process = PROCESSES["seasonal"]
    mean, covariance = joint(process, process.steps)
    standard = np.linalg.solve(np.linalg.cholesky(covariance), (process.make() / process.scales() - mean).T)
    assert abs((standard**2).mean() - 1) < 5 * np.sqrt(2 / standard.size) and abs(standard.mean()) < 5 / np.sqrt(standard.size)
    for apart in (1, 2, 24):  # and neighbours are not alike
        assert abs((standard[apart:] * standard[:-apart]).mean()) < 5 / np.sqrt(standard.size)
    assert process.scales().max() / process.scales().min() == pytest.approx(process.ratio) and (process.season(np.arange(24)).sum()) < 1e-5


# The particle filter


class Linear(NamedTuple):
    """A linear and Gaussian process in the form of the chaotic ones: the Kalman filter's answer is known."""

    process: Seasonal
    kicks = 1
    observed = 0
    warm_up = 60

    @property
    def noise(self):
        return self.process.noise

    def start(self, bits, number):
        return np.zeros((number, 1))

    def advance(self, states, kicks):
        return self.process.persistence * states + self.process.innovation * kicks


def test_the_particle_filter_is_the_kalman_filter_on_a_linear_process(monkeypatch):
    process, rng, origins = PROCESSES["seasonal"], np.random.default_rng(0), np.array([1, 5, 30, 60])
    _, covariance = joint(process, 70)
    value = rng.multivariate_normal(np.zeros(70), covariance)
    value[[3, 17, 29]] = np.nan
    monkeypatch.setitem(PROCESSES, "linear", Linear(process))
    clean = process._replace(level=0.0)
    seasonal = value * clean.scales()[0, 0] + clean.scales()[0, 0] * process.season(np.arange(70))
    monkeypatch.setitem(PROCESSES, "seasonal", clean)
    wanted = best_possible("seasonal", records_of(seasonal), [0] * 4, origins, 8)
    found = best_possible("linear", records_of(value), [0] * 4, origins, 8, particles=20_000)
    scale, season = clean.scales()[0, 0], process.season(origins[:, None] + np.arange(8))
    np.testing.assert_allclose(found.mean, wanted.mean / scale - season, atol=0.02)
    np.testing.assert_allclose(found.std, wanted.std / scale, rtol=0.02)
    np.testing.assert_allclose(found.crps, wanted.crps / scale, atol=0.01)
    late = best_possible("linear", records_of(value), [0], [60], 8, particles=20_000, history=30)
    np.testing.assert_allclose(late.mean, found.mean[3:], atol=0.02)  # the distant past is forgotten


@pytest.mark.parametrize("name", CHAOS)
def test_the_particle_filter_is_plain_importance_sampling(name, monkeypatch):
    """A few observations, and very many particles that are weighted once, at the end."""
    process = PROCESSES[name]._replace(number=1, steps=12, warm_up=20)
    value = processes.simulate(process, seed=5)[0]
    monkeypatch.setitem(PROCESSES, name, process)
    found = best_possible(name, records_of(value), [0], [6], 6, particles=20_000)
    rng, number = np.random.default_rng(1), 40_000
    states, weights, ahead = process.start(np.random.PCG64(77), number), np.zeros(number), []
    for t in range(-process.warm_up - 1, 12):
        if t >= 0:
            weights -= ((value[t] - states[:, process.observed]) / process.noise) ** 2 / 2 * (t < 6)
            ahead += [states[:, process.observed]] if t >= 6 else []
        states = process.advance(states, rng.standard_normal((number, process.kicks)))
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    means = np.array([weights @ x for x in ahead])
    deviations = np.sqrt([weights @ (x - mean) ** 2 + process.noise**2 for x, mean in zip(ahead, means)])
    np.testing.assert_allclose(found.mean[0], means, atol=0.05 * process.noise)
    np.testing.assert_allclose(found.std[0], deviations, rtol=0.03)


@pytest.mark.parametrize("name", CHAOS)
def test_the_best_forecasts_are_calibrated_and_no_better_than_the_noise(name):
    part = load_series("embedded", name=name).parts["test"]
    first, several = part["first"][0], np.repeat(np.arange(5), 4)
    origins = first + np.tile([0, 24, 48, 72], 5)
    found = best_possible(name, part, several, origins, 24)
    came = np.stack([part["value"][i][origin : origin + 24] for i, origin in zip(several, origins)])
    assert abs(np.mean(((came - found.mean) / found.std) ** 2) - 1) < 0.25
    floor = PROCESSES[name].noise / np.sqrt(np.pi)
    assert (found.std > PROCESSES[name].noise).all() and 0.9 * floor < found.crps.mean()
    gaussian = mixture_crps_of_gaussians(found.mean, found.std, came)
    assert found.crps.mean() < 1.02 * gaussian.mean()  # the whole distribution, and not only two numbers of it
    climate = np.std(np.stack(part["value"]))
    assert found.crps.mean() < 0.7 * mixture_crps_of_gaussians(np.mean(part["value"]), climate, came).mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAOS)
def test_more_particles_and_a_longer_history_change_little(name):
    part = load_series("embedded", name=name).parts["test"]
    several, origins = np.repeat(np.arange(8), 4), part["first"][0] + np.tile([0, 24, 48, 72], 8)
    found = best_possible(name, part, several, origins, 24)
    more = best_possible(name, part, several, origins, 24, particles=3000, history=400)
    assert more.crps.mean() == pytest.approx(found.crps.mean(), rel=0.015)


def mixture_crps_of_gaussians(mean, std, value):
    from scipy.stats import norm

    z = (value - mean) / std
    return std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))


def test_the_crps_of_a_mixture_is_its_integral():
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    means, std, value = rng.normal(size=(800, 3)) * [0.1, 1, 3], np.array([1.0, 0.5, 0.2]), np.array([0.3, -2.0, 5.0])
    grid = np.linspace(-15, 15, 3_001)
    for h in range(3):
        below = norm.cdf((grid[:, None] - means[:, h]) / std[h]).mean(axis=1)
        wanted = np.sum((below - (grid >= value[h])) ** 2) * (grid[1] - grid[0])
        assert mixture_crps(means, std, value)[h] == pytest.approx(wanted, rel=0.02)
    np.testing.assert_allclose(mixture_crps(means[:1], std, value), mixture_crps_of_gaussians(means[0], std, value))


def test_what_comes_after_an_origin_does_not_matter_and_what_is_beyond_has_no_score():
    for name in PROCESSES:
        part = load_series("embedded", name=name).parts["validation"]
        value = part["value"][0]
        changed = value.copy()
        changed[500:] = 1e3
        options = {"particles": 50, "history": 20}
        a, b = (best_possible(name, records_of(v), [0], [500], 5, **options) for v in (value, changed))
        assert (a.mean == b.mean).all() and (a.std == b.std).all() and (a.crps != b.crps).all()
        late = best_possible(name, records_of(value), [0, 0], [len(value) - 2, len(value)], 5, **options)
        assert np.isnan(late.crps).tolist() == [[False] * 2 + [True] * 3, [True] * 5]


def test_the_embedded_sets_are_the_same_everywhere():
    for name in PROCESSES:
        data = load_series("embedded", name=name)
        assert data.fingerprint == load_series("embedded", name=name).fingerprint
        steps = [len(data.parts[part]["value"][0]) for part in ("train", "validation", "test")]
        assert np.diff(steps).tolist() == [96, 96] and data.parts["test"]["first"][0] == steps[1]
    assert best_forecasts.PARTICLES >= 500
