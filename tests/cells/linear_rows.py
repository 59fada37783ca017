"""The rows of the linear recurrences: (name, make, reference), make(**options) -> Cell with 4 outputs for 4 inputs."""

import functools

import numpy as np
import numpy_reference as ref

from seqjax.cells import linear


def _positive(x):
    return np.where(x.real >= 0, x + 0.5, ref.sigmoid(x))


def _blocks(p, x, count):
    return np.split(x @ p["kernel"] + p["bias"], count, axis=-1)


def _mingru(act):
    def step(p, carry, x):
        z, g = _blocks(p, x, 2)
        h = (1 - ref.sigmoid(z)) * carry["h"] + ref.sigmoid(z) * act(g)
        return {"h": h}, h

    return ref.Reference(step)


def _minlstm(act):
    def step(p, carry, x):
        i, f, g = _blocks(p, x, 3)
        i, f = ref.sigmoid(i), ref.sigmoid(f)
        h = f / (f + i) * carry["h"] + i / (f + i) * act(g)
        return {"h": h}, h

    return ref.Reference(step)


def _lru(p, carry, x):
    """Keeps real and imaginary parts of the state separate, so that each may itself be complex for a complex step."""
    modulus, phase, gamma = np.exp(-np.exp(p["nu_log"])), np.exp(p["theta_log"]), np.exp(p["gamma_log"])
    lambda_re, lambda_im = modulus * np.cos(phase), modulus * np.sin(phase)
    re = lambda_re * carry["re"] - lambda_im * carry["im"] + gamma * (x @ p["b_re"])
    im = lambda_re * carry["im"] + lambda_im * carry["re"] + gamma * (x @ p["b_im"])
    skip = x @ p["skip"] if p["skip"].ndim == 2 else x * p["skip"]
    return {"re": re, "im": im}, re @ p["c_re"] - im @ p["c_im"] + skip


ROWS = [
    ("mingru", functools.partial(linear.mingru, 4), _mingru(lambda g: g)),
    ("minlstm", functools.partial(linear.minlstm, 4), _minlstm(lambda g: g)),
    ("lru", functools.partial(linear.lru, 4, 3, 0.5, 0.99), ref.Reference(_lru)),
]

# Settings of the same cells.
VARIANTS = [
    ("mingru-positive", functools.partial(linear.mingru, 4, "positive"), _mingru(_positive)),
    ("minlstm-positive", functools.partial(linear.minlstm, 4, "positive"), _minlstm(_positive)),
    ("lru-diagonal", functools.partial(linear.lru, 4, 5, max_phase=0.5, skip="diagonal"), ref.Reference(_lru)),
]
