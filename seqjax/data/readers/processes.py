"""Time series from processes whose best possible forecast is known: one seasonal and two chaotic.

`seqjax.data.best_forecasts` computes the forecasts given the process and all observations so far. No model can expect a lower CRPS.

Everything is computed from raw random bits with sums, products and quotients, so that it is the same on every machine.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.draws import uniform

Array = np.ndarray


class Made(NamedTuple):
    """An embedded set."""

    time: Array  # datetime64[ns] (T,), shared by all series
    value: Array  # float64 (N, T)
    validation_steps: int
    test_steps: int
    facts: Mapping[str, Any]  # step and season


class Seasonal(NamedTuple):
    """Hourly values with a daily season: y = scale (level + season + x + v), x' = persistence x + w; v and w are Gaussian.

    All series share the season and everything else except the scale, which is drawn log-uniformly.
    """

    number: int = 40  # series
    steps: int = 1200
    level: float = 3.0
    persistence: float = 0.8
    innovation: float = 0.3  # standard deviation of w
    noise: float = 0.3  # standard deviation of v
    least: float = 0.5  # the smallest scale
    ratio: float = 100.0  # of the largest scale to the smallest

    def make(self, seed: int = 0) -> Array:
        """The values (number, steps)."""
        bits = np.random.PCG64(seed)
        innovations = normal(bits, self.steps, self.number) * self.innovation
        x = np.zeros((self.steps, self.number))
        before = normal(bits, 1, self.number)[0] * self.innovation / np.sqrt(1 - self.persistence**2)
        for t in range(self.steps):
            before = x[t] = self.persistence * before + innovations[t]
        noise = normal(bits, self.steps, self.number) * self.noise
        return self.scales() * (self.level + self.season(np.arange(self.steps)) + x.T + noise.T)

    def scales(self) -> Array:
        """The scale of each series, (number, 1)."""
        share = np.argsort(np.random.PCG64(1).random_raw(self.number)) / (self.number - 1)
        return np.round(self.least * self.ratio**share, 6)[:, None]

    def season(self, steps: Array) -> Array:
        """The shape of a day; its mean is zero.

        Example:
          >>> Seasonal().season(np.array([0, 6, 12, 18, 24])).tolist()
          [0.5, 0.5, 0.5, -1.5, 0.5]
        """
        turn = 2 * np.pi * np.asarray(steps) / 24
        return np.round(np.sin(turn) + 0.5 * np.cos(2 * turn), 6)


class MackeyGlass(NamedTuple):
    """dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t), a random kick at every step, and observation noise.

    A state is x at every half substep, from 17 time units ago to now.

    Source: Mackey and Glass 1977, "Oscillation and chaos in physiological control systems"
    """

    number: int = 120  # series
    steps: int = 1000  # steps of one time unit
    kick: float = 0.01  # standard deviation
    noise: float = 0.1  # standard deviation
    substeps: int = 2  # integrator substeps per step
    warm_up: int = 300  # steps

    def start(self, bits: np.random.PCG64, number: int) -> Array:
        """States with a constant past, (number, S)."""
        return np.repeat(0.5 + uniform(bits, number)[:, None], 2 * 17 * self.substeps + 1, axis=1)

    def advance(self, states: Array, kicks: Array) -> Array:
        """A fourth-order Runge-Kutta step, plus the kicks (..., 1); states (..., S)."""
        h, x = 1 / self.substeps, states[..., -1]
        new = []
        for substep in range(self.substeps):
            old, middle, late = (states[..., 2 * substep + half] for half in range(3))
            first = _mackey_glass(x, old)
            second = _mackey_glass(x + h / 2 * first, middle)
            third = _mackey_glass(x + h / 2 * second, middle)
            fourth = _mackey_glass(x + h * third, late)
            after = x + h / 6 * (first + 2 * (second + third) + fourth)
            new += [(x + after) / 2 + h / 8 * (first - _mackey_glass(after, late)), after]  # the midpoint by Hermite's cubic
            x = after
        new[-1] = new[-1] + self.kick * kicks[..., 0]
        return np.concatenate([states[..., len(new) :], np.stack(new, axis=-1)], axis=-1)

    kicks = 1  # components of a kick
    observed = -1  # the component of a state that is observed
    season = 50  # steps per cycle, approximately


def _mackey_glass(x: Array, delayed: Array) -> Array:
    square = delayed * delayed
    fourth = square * square
    return 0.2 * delayed / (1 + fourth * fourth * square) - 0.1 * x


class Lorenz(NamedTuple):
    """x' = 10 (y - x), y' = x (28 - z) - y, z' = x y - 8/3 z, a random kick at every step; x is observed with noise.

    Source: Lorenz 1963, "Deterministic nonperiodic flow"
    """

    number: int = 120  # series
    steps: int = 1000
    interval: float = 0.01  # time units per step
    kick: float = 0.1  # standard deviation
    noise: float = 2.0  # standard deviation
    substeps: int = 2  # integrator substeps per step
    warm_up: int = 600  # steps

    def start(self, bits: np.random.PCG64, number: int) -> Array:
        """States near the attractor, (number, 3)."""
        return (uniform(bits, 3 * number).reshape(number, 3) - 0.5) * 20 + np.array([0.0, 0.0, 25.0])

    def advance(self, states: Array, kicks: Array) -> Array:
        """A fourth-order Runge-Kutta step, plus the kicks (..., 3); states (..., 3)."""
        h = self.interval / self.substeps
        for _ in range(self.substeps):
            first = _lorenz(states)
            second = _lorenz(states + h / 2 * first)
            third = _lorenz(states + h / 2 * second)
            states = states + h / 6 * (first + 2 * (second + third) + _lorenz(states + h * third))
        return states + self.kick * kicks

    kicks = 3
    observed = 0
    season = 1


def _lorenz(states: Array) -> Array:
    x, y, z = states[..., 0], states[..., 1], states[..., 2]
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], axis=-1)


PROCESSES = {"seasonal": Seasonal(), "mackey_glass": MackeyGlass(), "lorenz": Lorenz()}
VALIDATION_STEPS = TEST_STEPS = 96
START = np.datetime64("2000-01-01", "ns")


def make_process(name: str) -> Made:
    """An embedded set.

    Args:
      name: one of `PROCESSES`.

    Example:
      >>> made = make_process("seasonal")
      >>> made.value.shape, made.facts
      ((40, 1200), {'step': '1h', 'season': 24})
    """
    process = PROCESSES[name]
    if isinstance(process, Seasonal):
        value, facts, unit = process.make(), {"step": "1h", "season": 24}, "h"
    else:
        value, facts, unit = simulate(process), {"step": "1s", "season": process.season}, "s"
    time = START + np.arange(process.steps).astype(f"timedelta64[{unit}]")
    return Made(time, value, VALIDATION_STEPS, TEST_STEPS, facts)


def simulate(process: MackeyGlass | Lorenz, seed: int = 0) -> Array:
    """Noisy observations of a chaotic system.

    Args:
      process: the system.
      seed: determines the initial states, the kicks and the noise.

    Returns:
      float64 (number, steps).

    Example:
      >>> simulate(Lorenz(number=2, steps=5)).shape
      (2, 5)
    """
    bits = np.random.PCG64(seed)
    states, values = process.start(bits, process.number), []
    for _ in range(process.warm_up + process.steps):
        kicks = normal(bits, process.number, process.kicks)
        states = process.advance(states, kicks)
        values.append(states[:, process.observed])
    clean = np.stack(values[process.warm_up :], axis=1)
    return clean + process.noise * normal(bits, *clean.shape)


def normal(bits: np.random.PCG64, *shape: int) -> Array:
    """Gaussian numbers with mean 0 and variance 1 to six decimals, so that the last bit of a logarithm does not matter.

    Args:
      bits: the bit generator, which is advanced.
      *shape: shape of the result.

    Source: Box and Muller 1958, "A note on the generation of random normal deviates"

    Example:
      >>> normal(np.random.PCG64(0), 2, 2).shape
      (2, 2)
    """
    size = int(np.prod(shape))
    radius = np.sqrt(-2 * np.log1p(-uniform(bits, size)))
    return np.round(radius * np.cos(2 * np.pi * uniform(bits, size)), 6).reshape(shape)
