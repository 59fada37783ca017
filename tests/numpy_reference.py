"""Independent float64 references in NumPy: each cell's step, its derivative by hand, and runs over whole sequences.

Nothing here imports seqjax or jax. Parameters, carries and gradients are dicts of arrays by name, batch-major.
"""

from typing import NamedTuple

import numpy as np


class Reference(NamedTuple):
    """A cell by hand: step(p, carry, x) -> (carry, y, saved); back(p, saved, d_carry, d_y) -> (d_p, d_carry, d_x)."""

    step: object
    back: object


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _rnn(act, slope):
    """slope gives the derivative of act from its value."""

    def step(p, carry, x):
        h = act(x @ p["kernel"] + carry["h"] @ p["recurrent_kernel"] + p["bias"])
        return {"h": h}, h, (carry["h"], x, h)

    def back(p, saved, d_carry, d_y):
        h_before, x, h = saved
        d_a = (d_carry["h"] + d_y) * slope(h)
        d_p = {"kernel": x.T @ d_a, "recurrent_kernel": h_before.T @ d_a, "bias": d_a.sum(0)}
        return d_p, {"h": d_a @ p["recurrent_kernel"].T}, d_a @ p["kernel"].T

    return Reference(step, back)


def _lstm_step(p, carry, x):
    size = carry["h"].shape[1]
    a = x @ p["kernel"] + carry["h"] @ p["recurrent_kernel"] + p["bias"]
    i, f = sigmoid(a[:, :size]), sigmoid(a[:, size : 2 * size])
    g, o = np.tanh(a[:, 2 * size : 3 * size]), sigmoid(a[:, 3 * size :])
    c = f * carry["c"] + i * g
    h = o * np.tanh(c)
    return {"c": c, "h": h}, h, (carry, x, i, f, g, o, c)


def _lstm_back(p, saved, d_carry, d_y):
    carry, x, i, f, g, o, c = saved
    d_h = d_carry["h"] + d_y
    d_c = d_carry["c"] + d_h * o * (1 - np.tanh(c) ** 2)
    d_i, d_f = d_c * g * i * (1 - i), d_c * carry["c"] * f * (1 - f)
    d_g, d_o = d_c * i * (1 - g**2), d_h * np.tanh(c) * o * (1 - o)
    d_a = np.concatenate([d_i, d_f, d_g, d_o], axis=1)
    d_p = {"kernel": x.T @ d_a, "recurrent_kernel": carry["h"].T @ d_a, "bias": d_a.sum(0)}
    return d_p, {"c": d_c * f, "h": d_a @ p["recurrent_kernel"].T}, d_a @ p["kernel"].T


def _thirds(a):
    size = a.shape[-1] // 3
    return a[..., :size], a[..., size : 2 * size], a[..., 2 * size :]


def _gru_after_step(p, carry, x):
    h = carry["h"]
    x_r, x_z, x_n = _thirds(x @ p["kernel"] + p["bias"])
    h_r, h_z, h_n = _thirds(h @ p["recurrent_kernel"])
    m = h_n + p["recurrent_bias"]
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * m)
    new = (1 - z) * n + z * h
    return {"h": new}, new, (h, x, r, z, n, m)


def _gru_after_back(p, saved, d_carry, d_y):
    h, x, r, z, n, m = saved
    d_new = d_carry["h"] + d_y
    d_n = d_new * (1 - z) * (1 - n**2)
    d_z = d_new * (h - n) * z * (1 - z)
    d_r = d_n * m * r * (1 - r)
    d_m = d_n * r
    d_x = np.concatenate([d_r, d_z, d_n], axis=1)  # to x W + b
    d_u = np.concatenate([d_r, d_z, d_m], axis=1)  # to h U
    d_p = {"kernel": x.T @ d_x, "recurrent_kernel": h.T @ d_u, "bias": d_x.sum(0), "recurrent_bias": d_m.sum(0)}
    return d_p, {"h": d_new * z + d_u @ p["recurrent_kernel"].T}, d_x @ p["kernel"].T


def _gru_before_step(p, carry, x):
    h = carry["h"]
    x_r, x_z, x_n = _thirds(x @ p["kernel"] + p["bias"])
    u_r, u_z, u_n = _thirds(p["recurrent_kernel"])
    r, z = sigmoid(x_r + h @ u_r), sigmoid(x_z + h @ u_z)
    n = np.tanh(x_n + (r * h) @ u_n)
    new = (1 - z) * n + z * h
    return {"h": new}, new, (h, x, r, z, n)


def _gru_before_back(p, saved, d_carry, d_y):
    h, x, r, z, n = saved
    u_r, u_z, u_n = _thirds(p["recurrent_kernel"])
    d_new = d_carry["h"] + d_y
    d_n = d_new * (1 - z) * (1 - n**2)
    d_z = d_new * (h - n) * z * (1 - z)
    d_rh = d_n @ u_n.T
    d_r = d_rh * h * r * (1 - r)
    d_x = np.concatenate([d_r, d_z, d_n], axis=1)
    d_u = np.concatenate([h.T @ d_r, h.T @ d_z, (r * h).T @ d_n], axis=1)
    d_p = {"kernel": x.T @ d_x, "recurrent_kernel": d_u, "bias": d_x.sum(0)}
    return d_p, {"h": d_new * z + d_rh * r + d_r @ u_r.T + d_z @ u_z.T}, d_x @ p["kernel"].T


RNN_TANH = _rnn(np.tanh, lambda h: 1 - h**2)
RNN_RELU = _rnn(lambda a: np.maximum(a, 0), lambda h: (h > 0).astype(h.dtype))
LSTM = Reference(_lstm_step, _lstm_back)
GRU_AFTER = Reference(_gru_after_step, _gru_after_back)
GRU_BEFORE = Reference(_gru_before_step, _gru_before_back)


def _rows(flag, a, b):
    return {k: np.where(flag[:, None], a[k], b[k]) for k in a}


def forward(reference, p, carry, xs, mask=None, resets=None, initial=None):
    """Runs xs (B, T, D). Returns (carry, ys, saved); masked steps hold the carry and give zeros."""
    batch, steps = xs.shape[:2]
    mask = np.ones((batch, steps), bool) if mask is None else mask
    resets = np.zeros((batch, steps), bool) if resets is None else resets
    initial = {k: np.zeros_like(v) for k, v in carry.items()} if initial is None else initial
    ys, saved = [], []
    for t in range(steps):
        after, y, kept = reference.step(p, _rows(resets[:, t], initial, carry), np.where(mask[:, t, None], xs[:, t], 0))
        carry = _rows(mask[:, t], after, carry)
        ys.append(np.where(mask[:, t, None], y, 0))
        saved.append((kept, mask[:, t], resets[:, t]))
    return carry, np.stack(ys, axis=1), saved


def backward(reference, p, saved, d_carry, d_ys):
    """Back through time by hand. Returns (d_p, d_carry, d_xs) for cotangents of the last carry and of ys (B, T, H)."""
    d_p = {k: np.zeros_like(v) for k, v in p.items()}
    d_xs = []
    for t in reversed(range(len(saved))):
        kept, real, reset = saved[t]
        zero = {k: np.zeros_like(v) for k, v in d_carry.items()}
        d_after = _rows(real, d_carry, zero)
        d_held = _rows(real, zero, d_carry)
        step_p, d_start, d_x = reference.back(p, kept, d_after, np.where(real[:, None], d_ys[:, t], 0))
        for k in d_p:
            d_p[k] += step_p[k]
        d_start = _rows(reset, zero, d_start)
        d_carry = {k: d_start[k] + d_held[k] for k in d_start}
        d_xs.append(np.where(real[:, None], d_x, 0))
    return d_p, d_carry, np.stack(d_xs[::-1], axis=1)


def flip(a, lengths):
    """Reverses the first lengths[b] steps of each sequence of a (B, T, ...), and leaves the padding where it is."""
    a = a.copy()
    for b, n in enumerate(lengths):
        a[b, :n] = a[b, :n][::-1].copy()
    return a
