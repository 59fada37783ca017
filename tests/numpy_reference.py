"""Independent float64 references in NumPy: each cell's step by its equations, runs over sequences, and their derivatives.

Nothing here imports seqjax or jax. Parameters and carries are dicts of arrays by name, batch-major; parameters that a
cell does not have are left out, or None.

Derivatives are complex steps: for a function f that is analytic, f(a + ih) = f(a) + ih f'(a) + O(h^2), so that
f'(a) = Im f(a + ih) / h has no cancellation, and with h = 1e-30 no error but rounding. The equations are therefore
written to take complex numbers as they take real ones.

Reference: Squire, Trapp 1998, "Using Complex Variables to Estimate Derivatives of Real Functions".
"""

from typing import NamedTuple

import numpy as np

STEP = 1e-30


class Reference(NamedTuple):
    """A cell by its equations: step(p, carry, x) -> (carry, y)."""

    step: object


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.where(x.real > 0, x, 0)


def _recurrent(p, gates=1):
    """A recurrent kernel (K, R, G S) as the matrix (K R, G K S) that is zero between the blocks; a matrix unchanged."""
    kernel = p["recurrent_kernel"]
    if kernel.ndim == 2:
        return kernel
    blocks, rows, columns = kernel.shape
    size = columns // gates
    whole = np.zeros((blocks * rows, gates, blocks * size), kernel.dtype)
    for k in range(blocks):
        for gate, part in enumerate(_parts(kernel[k], size)):
            whole[k * rows : (k + 1) * rows, gate, k * size : (k + 1) * size] = part
    return whole.reshape(blocks * rows, -1)


def _bias(p, name="bias"):
    return 0 if p.get(name) is None else p[name]


def _rnn(act):
    def step(p, carry, x):
        h = act(x @ p["kernel"] + carry["h"] @ _recurrent(p) + _bias(p))
        return {"h": h}, h

    return Reference(step)


def _indrnn(act):
    def step(p, carry, x):
        h = act(x @ p["kernel"] + carry["h"] * p["recurrent_kernel"] + _bias(p))
        return {"h": h}, h

    return Reference(step)


def _parts(a, size):
    """Blocks of the last axis, each of that size."""
    return [a[..., k : k + size] for k in range(0, a.shape[-1], size)]


def _normal(a, gain):
    centred = a - a.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)


def _lstm_gates(p, c, sums):
    """The new memory and the output gate, with peepholes where p has some, of three gates where they are coupled."""
    size = c.shape[-1]
    sums = _parts(sums, size)
    coupled = len(sums) == 3
    seen = [0, 0, 0] if p.get("peepholes") is None else _parts(p["peepholes"], size)
    if coupled:
        f = sigmoid(sums[0] + seen[0] * c)
        i = 1 - f
    else:
        i = sigmoid(sums[0] + seen[0] * c)
        f = sigmoid(sums[1] + seen[1] * c)
    new = f * c + i * np.tanh(sums[-2])
    return new, sigmoid(sums[-1] + seen[1 if coupled else 2] * new)


def _lstm(p, carry, x):
    from_x, from_h = x @ p["kernel"], carry["h"] @ _recurrent(p, p["kernel"].shape[1] // carry["c"].shape[1])
    if p.get("kernel_gain") is not None:
        from_x, from_h = _normal(from_x, p["kernel_gain"]), _normal(from_h, p["recurrent_gain"])
    c, o = _lstm_gates(p, carry["c"], from_x + from_h + _bias(p))
    h = o * np.tanh(c if p.get("memory_gain") is None else _normal(c, p["memory_gain"]) + p["memory_bias"])
    if p.get("projection") is not None:
        h = h @ p["projection"]
    return {"c": c, "h": h}, h


def _convolve(x, kernel, strides=None, padding="same", dilation=None):
    """Each output is the product of a patch with the kernel; a patch begins `strides` places after the one before it, and its
    places are `dilation` apart. With "same", zeros all around, so that there are patches enough to meet every input with the
    middle of one, or just before it where the size is even."""
    window, axes = kernel.shape[:-2], kernel.ndim - 2
    s, d = strides or (1,) * axes, dilation or (1,) * axes
    spans = [d[i] * (window[i] - 1) + 1 for i in range(axes)]
    if padding == "same":
        missing = [max((-(-x.shape[1 + i] // s[i]) - 1) * s[i] + spans[i] - x.shape[1 + i], 0) for i in range(axes)]
        x = np.pad(x, [(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)])
    counts = [(x.shape[1 + i] - spans[i]) // s[i] + 1 for i in range(axes)]
    out = 0
    for at in np.ndindex(window):
        places = [d[i] * at[i] + s[i] * np.arange(counts[i]) for i in range(axes)]
        out = out + x[(slice(None), *np.ix_(*places))] @ kernel[at]
    return out


def conv_lstm(*options):
    """With strides, padding and dilation of the input convolution; by default the usual ones."""

    def step(p, carry, x):
        sums = _convolve(x, p["kernel"], *options) + _convolve(carry["h"], p["recurrent_kernel"]) + _bias(p)
        c, o = _lstm_gates(p, carry["c"], sums)
        h = o * np.tanh(c)
        return {"c": c, "h": h}, h

    return Reference(step)


def _gru(reset_after):
    def step(p, carry, x):
        h = carry["h"]
        x_r, x_z, x_n = _parts(x @ p["kernel"] + _bias(p), h.shape[-1])
        u_r, u_z, u_n = _parts(_recurrent(p, 3), h.shape[-1])
        r, z = sigmoid(x_r + h @ u_r), sigmoid(x_z + h @ u_z)
        n = np.tanh(x_n + (r * (h @ u_n + _bias(p, "recurrent_bias")) if reset_after else (r * h) @ u_n))
        new = (1 - z) * n + z * h
        return {"h": new}, new

    return Reference(step)


def _mgu(reset_after):
    def step(p, carry, x):
        h = carry["h"]
        x_f, x_n = _parts(x @ p["kernel"] + _bias(p), h.shape[-1])
        u_f, u_n = _parts(_recurrent(p, 2), h.shape[-1])
        f = sigmoid(x_f + h @ u_f)
        n = np.tanh(x_n + (f * (h @ u_n + _bias(p, "recurrent_bias")) if reset_after else (f * h) @ u_n))
        new = (1 - f) * h + f * n
        return {"h": new}, new

    return Reference(step)


def _slstm(log_forget):
    """From the memory and the normaliser themselves, which the carry holds divided by exp(m)."""

    def step(p, carry, x):
        sums = x @ p["kernel"] + carry["h"] @ _recurrent(p, 4) + _bias(p)
        i, f, z, o = _parts(sums, carry["h"].shape[-1])
        c = np.exp(carry["m"]) * carry["c"] * np.exp(log_forget(f)) + np.exp(i) * np.tanh(z)
        n = np.exp(carry["m"]) * carry["n"] * np.exp(log_forget(f)) + np.exp(i)
        kept = log_forget(f) + carry["m"]
        m = np.where((carry["n"] != 0) & (kept.real > i.real), kept, i)
        c, n = c / np.exp(m), n / np.exp(m)
        h = sigmoid(o) * c / np.where(n.real > 0.5, n, 0.5)
        return {"c": c, "n": n, "m": m, "h": h}, h

    return Reference(step)


def _cornn(dt, gamma, epsilon):
    def step(p, carry, x):
        h, z = carry["h"], carry["z"]
        force = np.tanh(x @ p["kernel"] + np.concatenate([h, z], axis=-1) @ p["recurrent_kernel"] + _bias(p))
        z = z + dt * (force - gamma * h - epsilon * z)
        h = h + dt * z
        return {"h": h, "z": z}, h

    return Reference(step)


def _unicornn(dt, alpha):
    def step(p, carry, x):
        h, z, d = carry["h"], carry["z"], dt * sigmoid(p["time_scale"])
        z = z - d * (np.tanh(x @ p["kernel"] + p["recurrent_kernel"] * h + _bias(p)) + alpha * h)
        h = h + d * z
        return {"h": h, "z": z}, h

    return Reference(step)


def _lem(dt):
    def step(p, carry, x):
        h, z, size = carry["h"], carry["z"], carry["h"].shape[-1]
        of_x, u = _parts(x @ p["kernel"] + _bias(p), size), _parts(p["recurrent_kernel"], size)
        a, b = (dt * sigmoid(of_x[k] + h @ u[k]) for k in (0, 1))
        z = (1 - a) * z + a * np.tanh(of_x[2] + h @ u[2])
        h = (1 - b) * h + b * np.tanh(of_x[3] + z @ u[3])
        return {"h": h, "z": z}, h

    return Reference(step)


def _block_gru(p, carry, x):
    sums = x @ p["kernel"] + carry["h"] @ _recurrent(p, 3)
    r, n, z = _parts(_normal(sums, p["gain"]) + p["bias"], carry["h"].shape[-1])
    new = sigmoid(z - 1)
    h = new * np.tanh(sigmoid(r) * n) + (1 - new) * carry["h"]
    return {"h": h}, h


RNN_TANH, RNN_RELU = _rnn(np.tanh), _rnn(relu)
INDRNN_TANH, INDRNN_RELU = _indrnn(np.tanh), _indrnn(relu)
LSTM, CONV_LSTM = Reference(_lstm), conv_lstm()
GRU_AFTER, GRU_BEFORE = _gru(True), _gru(False)
MGU_AFTER, MGU_BEFORE = _mgu(True), _mgu(False)
BLOCK_GRU = Reference(_block_gru)
CORNN, UNICORNN, LEM = _cornn(0.3, 0.5, 0.2), _unicornn(0.6, 0.7), _lem(0.8)
SLSTM_EXP, SLSTM_SIGMOID = _slstm(lambda f: f), _slstm(lambda f: np.log(sigmoid(f)))


def _where(flag, a, b):
    """a where the sequence's flag (B,) is set."""
    return np.where(flag.reshape(flag.shape + (1,) * (a.ndim - 1)), a, b)


def forward(reference, p, carry, xs, mask=None, resets=None, initial=None):
    """Runs xs (B, T, ..., D). Returns (carry, ys); masked steps hold the carry and give zeros."""
    batch, steps = xs.shape[:2]
    mask = np.ones((batch, steps), bool) if mask is None else mask
    resets = np.zeros((batch, steps), bool) if resets is None else resets
    initial = {k: np.zeros_like(v) for k, v in carry.items()} if initial is None else initial
    ys = []
    for t in range(steps):
        start = {k: _where(resets[:, t], initial[k], v) for k, v in carry.items()}
        after, y = reference.step(p, start, _where(mask[:, t], xs[:, t], 0))
        carry = {k: _where(mask[:, t], after[k], v) for k, v in carry.items()}
        ys.append(_where(mask[:, t], y, 0))
    return carry, np.stack(ys, axis=1)


def gradients(reference, p, carry, xs, d_carry, d_ys, mask=None, resets=None, initial=None):
    """(d_p, d_carry, d_xs): the derivatives of sum(last d_carry) + sum(ys d_ys), entry by entry, by complex steps."""

    def losses(p, carry, xs):
        """What each sequence adds, (B,)."""
        last, ys = forward(reference, p, carry, xs, mask, resets, initial)
        return sum((a * d).reshape(len(a), -1).sum(1) for a, d in [(ys, d_ys), *((last[k], d_carry[k]) for k in last)])

    def slopes(a, of, shared=False):
        """Of parameters entry by entry; of what belongs to a sequence, that entry of every sequence at once."""
        slopes = np.empty_like(a)
        for entry in np.ndindex(a.shape if shared else a.shape[1:]):
            at = entry if shared else (slice(None), *entry)
            moved = a.astype(complex)
            moved[at] += 1j * STEP
            slope = of(moved).imag / STEP
            slopes[at] = slope.sum() if shared else slope
        return slopes

    of_p = {k: slopes(v, lambda a, k=k: losses(p | {k: a}, carry, xs), shared=True) for k, v in p.items()}
    of_carry = {k: slopes(v, lambda a, k=k: losses(p, carry | {k: a}, xs)) for k, v in carry.items()}
    return of_p, of_carry, slopes(xs, lambda a: losses(p, carry, a))


def flip(a, lengths):
    """Reverses the first lengths[b] steps of each sequence of a (B, T, ...), and leaves the padding where it is."""
    a = a.copy()
    for b, n in enumerate(lengths):
        a[b, :n] = a[b, :n][::-1].copy()
    return a
