"""Gates and effective memory, against the equations written out and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import through_time as tt

import seqjax
from seqjax.diagnostics.gates import effective_memory, gate_statistics


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def sums_of(params, xs, hs):
    return np.asarray(xs @ params.kernel) + np.asarray(params.bias) + np.asarray(hs @ params.recurrent_kernel)


def check(found, values, real):
    """Statistics of gates (B, T, H) by hand."""
    chosen = np.asarray(values)[np.asarray(real)]
    np.testing.assert_allclose(found.mean, chosen.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.open, (chosen > 0.6).mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.shut, (chosen < 0.4).mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.saturated, found.open + found.shut)


def carries(cell, params, xs, options):
    """The carry before and after each real step (resets are none)."""
    _, _, after = seqjax.unroll(cell, params, xs, return_carries=True, **options)
    start = cell.initial_carry(params, xs.shape[0])
    return jax.tree.map(lambda a, s: jnp.concatenate([s[:, None], a[:, :-1]], axis=1), after, start), after


@pytest.mark.parametrize("coupled", [False, True])
def test_lstm_with_peepholes(coupled, x64):
    cell = seqjax.lstm(4, peepholes=True, coupled=coupled, **tt.WIDE)
    params, xs, options = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D)), {"lengths": tt.REAL}
    before, after = carries(cell, params, xs, options)
    sums = jnp.split(sums_of(params, xs, before.h), 3 if coupled else 4, axis=-1)
    names, peep = "fgo" if coupled else "ifgo", np.split(np.asarray(params.peepholes), 2 if coupled else 3)
    gates = zip(names.replace("g", ""), peep)
    seen = {g: np.asarray(sums[names.index(g)]) + p * np.asarray((after if g == "o" else before).c) for g, p in gates}
    found = gate_statistics(cell, params, xs, bounds=(0.4, 0.6), **options)
    assert [gate.gate for gate in found] == sorted(seen) and found[0].layer == "layer 1 (lstm)"
    for gate in found:
        check(gate, sigmoid(seen[gate.gate]), tt.REAL)


def test_gru_inside_wrappers(x64):
    inner = seqjax.gru(4, **tt.WIDE)
    cell = seqjax.stack(seqjax.dropout(seqjax.lstm(3, **tt.WIDE), 0.5), seqjax.zoneout(seqjax.weight_drop(inner, 0.5), 0.0), jnp.tanh)
    params, xs = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D))
    ys = seqjax.unroll(seqjax.lstm(3, **tt.WIDE), params[0], xs, lengths=tt.REAL)[1]
    before, _ = carries(inner, params[1], ys, {"lengths": tt.REAL})
    r, z, _ = np.split(sums_of(params[1], ys, before.h), 3, axis=-1)
    found = {(gate.layer, gate.gate): gate for gate in gate_statistics(cell, params, xs, bounds=(0.4, 0.6), lengths=tt.REAL)}
    assert [gate for layer, gate in found if layer == "layer 1 (lstm)"] == ["f", "i", "o"]
    check(found["layer 2 (gru)", "r"], sigmoid(r), tt.REAL)
    check(found["layer 2 (gru)", "z"], sigmoid(z), tt.REAL)


def test_gates_of_the_others(x64):
    keeping = (seqjax.mingru, lambda z, g: 1 - sigmoid(z)), (seqjax.minlstm, lambda i, f, g: sigmoid(f) / (sigmoid(f) + sigmoid(i)))
    for make, factor in keeping:
        cell = make(4, **tt.WIDE)
        params, xs = tt.init(cell), tt.drawn((2, 5, tt.D))
        values = factor(*np.split(np.asarray(xs @ params.kernel) + np.asarray(params.bias), params.kernel.shape[1] // 4, axis=-1))
        (found,) = gate_statistics(cell, params, xs, bounds=(0.4, 0.6))
        check(found, values, np.ones((2, 5), bool))
    cell = seqjax.mgu(4, **tt.WIDE)
    (found,) = gate_statistics(cell, jax.tree.map(jnp.zeros_like, tt.init(cell)), xs)
    np.testing.assert_allclose(found.mean, 0.5)
    cell = seqjax.conv_lstm(2, 3, (4, 4), peepholes=True, forget_bias=4.0)
    params = cell.init(jax.random.key(0), tt.D)
    found = gate_statistics(cell, params, jnp.zeros((1, 3, 4, 4, tt.D), jnp.float32), lengths=jnp.array([2]))
    assert [gate.mean.shape for gate in found] == [(2,)] * 3
    np.testing.assert_allclose(found[0].mean, sigmoid(4.0), rtol=1e-6)
    assert gate_statistics(seqjax.rnn(4), seqjax.rnn(4).init(jax.random.key(0), tt.D), jnp.ones((1, 2, tt.D), jnp.float32)) == []


def whole(kernel, gates):
    """A recurrent kernel in blocks written out as one matrix, gate by gate."""
    if kernel.ndim == 2:
        return kernel
    blocks = [jnp.split(block, gates, axis=-1) for block in kernel]
    return jnp.concatenate([jax.scipy.linalg.block_diag(*same) for same in zip(*blocks)], axis=-1)


@pytest.mark.parametrize("make, names", [(seqjax.gru, "rzN"), (seqjax.mgu, "fN")])
@pytest.mark.parametrize("more", [{}, {"heads": 2}, {"use_bias": False}])
def test_a_reset_before_the_product(make, names, more, x64):
    cell = seqjax.weight_drop(make(4, reset_after=False, **more, **tt.WIDE), 0.5)
    params, xs, options = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D)), {"lengths": tt.REAL}
    before, _ = carries(cell, params, xs, options)
    products = np.asarray(xs @ params.kernel) + np.asarray(before.h @ whole(params.recurrent_kernel, len(names)))
    sums = np.split(products + (0 if params.bias is None else np.asarray(params.bias)), len(names), axis=-1)
    found = gate_statistics(cell, params, xs, bounds=(0.4, 0.6), **options)
    assert [gate.gate for gate in found] == list(names[:-1])
    for gate, values in zip(found, sums):
        check(gate, sigmoid(values), tt.REAL)


def test_the_block_gru_and_its_step(x64):
    cell = seqjax.block_gru(4, 2, **tt.WIDE)
    params, xs, options = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D)), {"lengths": tt.REAL}
    before, after = carries(cell, params, xs, options)
    both = np.asarray(xs @ params.kernel + before.h @ whole(params.recurrent_kernel, 3))
    both = (both - both.mean(-1, keepdims=True)) / np.sqrt(both.var(-1, keepdims=True) + 1e-5)
    r, n, z = np.split(both * np.asarray(params.gain) + np.asarray(params.bias), 3, axis=-1)
    r, z = sigmoid(r), sigmoid(z - 1)
    np.testing.assert_allclose(np.asarray(after.h)[tt.REAL], (z * np.tanh(r * n) + (1 - z) * np.asarray(before.h))[tt.REAL], rtol=1e-9)
    found = gate_statistics(cell, params, xs, bounds=(0.4, 0.6), **options)
    assert [gate.gate for gate in found] == ["r", "z"]
    check(found[0], r, tt.REAL)
    check(found[1], z, tt.REAL)


@pytest.mark.parametrize("forget_gate", ["exp", "sigmoid"])
def test_the_slstm_without_its_stabiliser(forget_gate, x64):
    """In float64 and over few steps the equation as it is printed does not overflow."""
    cell = seqjax.slstm(4, heads=2, forget_gate=forget_gate, **tt.WIDE)
    params, xs = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D))
    before, _ = carries(cell, params, xs, {})
    sums = np.asarray(xs @ params.kernel + before.h @ whole(params.recurrent_kernel, 4)) + np.asarray(params.bias)
    i, f, _, o = np.split(sums, 4, axis=-1)
    keep, n, old = (np.exp if forget_gate == "exp" else sigmoid)(f), np.zeros(i[:, 0].shape), []
    for t in range(tt.T):
        old.append(keep[:, t] * n / (keep[:, t] * n + np.exp(i[:, t])))
        n = keep[:, t] * n + np.exp(i[:, t])
    share = np.stack(old, axis=1)
    found = gate_statistics(cell, params, xs, bounds=(0.4, 0.6))
    assert [gate.gate for gate in found] == ["f", "i", "o"]
    for gate, values in zip(found, (share, 1 - share, sigmoid(o))):
        check(gate, values, np.ones((tt.B, tt.T), bool))


def test_lem_by_shares_of_its_step(x64):
    cell = seqjax.lem(4, dt=0.5, **tt.WIDE)
    params, xs, options = tt.init(cell), tt.drawn((tt.B, tt.T, tt.D)), {"lengths": tt.REAL}
    before, after = carries(cell, params, xs, options)
    x_side, h_side = np.asarray(xs @ params.kernel) + np.asarray(params.bias), np.asarray(before.h @ params.recurrent_kernel)
    a, b = sigmoid(x_side[..., :4] + h_side[..., :4]), sigmoid(x_side[..., 4:8] + h_side[..., 4:8])
    z = (1 - a / 2) * np.asarray(before.z) + a / 2 * np.tanh(x_side[..., 8:12] + h_side[..., 8:12])
    np.testing.assert_allclose(np.asarray(after.z)[tt.REAL], z[tt.REAL], rtol=1e-9)
    found = gate_statistics(cell, params, xs, bounds=(0.4, 0.6), **options)
    assert [gate.gate for gate in found] == ["a", "b"]
    check(found[0], a, tt.REAL)
    check(found[1], b, tt.REAL)


def one(cell, params, xs, **options):
    (found,) = effective_memory(cell, params, xs, **options)
    return found


def test_half_lives_in_closed_form(x64):
    """Constant factors: the LSTM's f, the GRU's z at zero weights, u of an IndRNN, |lambda|; a bias of b gives f = sigmoid(b)."""
    xs = tt.drawn((2, 6, tt.D))
    for bias, expected in ((0.0, 1.0), (3.0, -np.log(2) / np.log(sigmoid(3.0)))):
        cell = seqjax.lstm(4, **tt.WIDE)
        params = jax.tree.map(jnp.zeros_like, tt.init(cell))
        params = params._replace(bias=params.bias.at[4:8].set(bias))
        np.testing.assert_allclose(one(cell, params, xs, lengths=jnp.array([6, 2])).half_life, expected, rtol=1e-9)
    cell = seqjax.gru(4, **tt.WIDE)
    found = one(cell, jax.tree.map(jnp.zeros_like, tt.init(cell)), xs)
    assert found.source == "gate" and found.field == "h"
    np.testing.assert_allclose(found.half_life, 1)
    cell = seqjax.gru(4, reset_after=False, **tt.WIDE)  # has no parts: its Jacobian, which is z at zero weights
    found = one(cell, jax.tree.map(jnp.zeros_like, tt.init(cell)), xs)
    assert found.source == "jacobian"
    np.testing.assert_allclose(found.half_life, 1)
    cell = seqjax.indrnn(4, **tt.WIDE)
    params = cell.init(jax.random.key(0), tt.D)._replace(recurrent_kernel=jnp.array([0.5, 1.0, 1.2, 0.0]), bias=jnp.full(4, 1e5))
    found = one(cell, params, xs)
    assert found.source == "jacobian"
    np.testing.assert_allclose(found.half_life, [1, np.inf, np.inf, 0])
    cell = seqjax.lru(4, state_size=3, **tt.WIDE)
    params = tt.init(cell)
    np.testing.assert_allclose(one(cell, params, xs).half_life, np.log(2) / np.exp(params.nu_log), rtol=1e-9)


def test_the_gate_is_taken_with_the_others_fixed(x64):
    """The factor is f of the LSTM, z of the GRU as it was in the run, not the whole derivative; of a plain RNN it is that."""
    xs, options = tt.drawn((tt.B, tt.T, tt.D)), {"lengths": tt.REAL}
    for cell in (seqjax.lstm(4, **tt.WIDE), seqjax.gru(4, **tt.WIDE)):
        params = tt.init(cell)
        before, _ = carries(cell, params, xs, options)
        keep = sigmoid(sums_of(params, xs, before.h)[..., 4:8])  # the second gate of either
        expected = -np.log(2) / np.log(keep[tt.REAL]).mean(axis=0)
        np.testing.assert_allclose(one(cell, params, xs, **options).half_life, expected, rtol=1e-9)
    cell = seqjax.rnn(4, **tt.WIDE)
    params = tt.init(cell)
    ys = seqjax.unroll(cell, params, xs)[1]
    kept = np.abs((1 - np.asarray(ys) ** 2) * np.diagonal(params.recurrent_kernel))
    np.testing.assert_allclose(one(cell, params, xs).half_life, -np.log(2) / np.log(kept).mean(axis=(0, 1)), rtol=1e-9)
