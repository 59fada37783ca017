"""recurrent_dropout: one mask for all time on the recurrent product alone, against NumPy."""

import jax
import numpy as np
import pytest
from cells.table import as_numpy, assert_same

import seqjax
from seqjax.cells.linear import mingru
from seqjax.engines import scan
from seqjax.wrappers import layer_norm, recurrent_dropout

B, T, D, H, RATE = 3, 5, 4, 6, 0.4
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
KEY = jax.random.key(7)


def _setup(inner):
    cell = recurrent_dropout(inner, RATE)
    params = cell.init(jax.random.key(0), D)
    carry = jax.tree.map(lambda a: a + 0.7, cell.initial_carry(params, B))
    keep = np.asarray(cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))[1].keep)
    return cell, params, carry, keep


def test_the_vanilla_cell_equals_numpy_with_one_mask_for_all_time():
    cell, params, carry, keep = _setup(seqjax.rnn(H))
    p, h, ys = as_numpy(params), np.asarray(carry.h, np.float64), []
    for t in range(T):
        h = np.tanh(XS[:, t] @ p["kernel"] + p["bias"] + (keep * h / (1 - RATE)) @ p["recurrent_kernel"])
        ys.append(h)
    last, got = seqjax.unroll(cell, params, XS, carry, rng=KEY)
    assert_same((last.h, got), (h, np.stack(ys, 1)))
    assert 0 < keep.mean() < 1 and keep.shape == (B, H)


def test_the_gru_masks_the_product_and_not_the_memory():
    cell, params, carry, keep = _setup(seqjax.gru(H))
    p, h = as_numpy(params), np.asarray(carry.h, np.float64)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    for t in range(T):
        x = np.split(XS[:, t] @ p["kernel"] + p["bias"], 3, -1)
        u = np.split((keep * h / (1 - RATE)) @ p["recurrent_kernel"], 3, -1)
        r, z = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
        h = (1 - z) * np.tanh(x[2] + r * (u[2] + p["recurrent_bias"])) + z * h
    assert_same(seqjax.unroll(cell, params, XS, carry, rng=KEY)[0].h, h)


def test_no_gradient_comes_through_a_dropped_unit_at_any_time():
    cell, params, carry, keep = _setup(seqjax.lstm(H))
    noisy, noisy_params, _ = cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))
    slope = jax.jit(jax.grad(lambda h: (noisy.parts.recur(noisy_params, carry._replace(h=h)) ** 2).sum()))(carry.h)
    assert ((np.asarray(slope) != 0) == keep).all()
    projected = noisy.parts.project(noisy_params, XS[:, 0])
    parts = noisy.parts.after(noisy_params, carry, projected, noisy.parts.recur(noisy_params, carry))
    assert_same(parts, noisy.step(noisy_params, carry, XS[:, 0]))


def test_units_are_dropped_at_the_rate():
    cell = recurrent_dropout(seqjax.lstm(200), 0.25)
    params = cell.init(jax.random.key(0), D)
    keep = np.asarray(cell.wrap.noise(KEY, params, np.zeros((1, 50, D), np.float32))[1].keep)
    assert abs(keep.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / keep.size)


def test_evaluation_and_rate_zero_are_the_cell():
    inner = seqjax.lstm(H)
    cell, params, carry, _ = _setup(inner)
    want = seqjax.unroll(inner, params, XS, carry)
    assert_same(seqjax.unroll(cell, params, XS, carry), want, 0, 0)
    assert_same(seqjax.unroll(recurrent_dropout(inner, 0), params, XS, carry, rng=KEY), want, 0, 0)
    assert_same(cell.step(params, carry, XS[:, 0]), inner.step(params, carry, XS[:, 0]), 0, 0)


def test_what_cannot_be_is_refused():
    with pytest.raises(seqjax.UserError, match="this gru has only a step; with reset_after=True it has the parts"):
        recurrent_dropout(seqjax.gru(H, reset_after=False), RATE)
    with pytest.raises(seqjax.UserError, match="this mingru has no recurrent product"):
        recurrent_dropout(mingru(H), RATE)
    with pytest.raises(seqjax.UserError, match=r"in the other order, stack\(recurrent_dropout\(...\)\)"):
        recurrent_dropout(seqjax.stack(seqjax.lstm(H)), RATE)
    with pytest.raises(ValueError, match="rate must be at least 0 and below 1, got 1"):
        recurrent_dropout(seqjax.lstm(H), 1)
    nameless = layer_norm(seqjax.rnn(H)).replace(initial_carry=lambda params, batch: ())
    with pytest.raises(seqjax.UserError, match="recurrent_dropout works on h of the carry"):
        recurrent_dropout(nameless, RATE).init(jax.random.key(0), D)


def _per_gate(inner):
    """A cell whose masks, of h and of its inputs, are one a gate; its params, a carry and the two masks."""
    cell = seqjax.dropout(recurrent_dropout(inner, RATE, per_gate=True), RATE, True, per_gate=True)
    params = cell.init(jax.random.key(0), D)
    carry = jax.tree.map(lambda a: a + 0.7, cell.initial_carry(params, B))
    drawn = cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))[1]
    return cell, params, carry, np.asarray(drawn.keep), np.asarray(drawn.cell.keep)


def _products(p, x, h, keep_x, keep_h):
    """The gates of the two products, each from its own masked input."""
    kernels = zip(*(np.split(p[name], len(keep_x), -1) for name in ("kernel", "recurrent_kernel")), strict=True)
    masks = zip(keep_x / (1 - RATE), keep_h / (1 - RATE), strict=True)
    return zip(*(((m * x) @ w, (n * h) @ u) for (m, n), (w, u) in zip(masks, kernels, strict=True)), strict=True)


@pytest.mark.parametrize("engine", ["scan", "fused"])
def test_each_gate_of_the_lstm_has_its_own_masks_for_all_time(engine):
    cell, params, carry, keep_x, keep_h = _per_gate(seqjax.lstm(H))
    assert keep_x.shape == (4, B, D) and keep_h.shape == (4, B, H)
    assert all((keep_h[0] != keep_h[g]).any() and (keep_x[0] != keep_x[g]).any() for g in (1, 2, 3))
    p, c, h, ys = as_numpy(params), *(np.asarray(a, np.float64) for a in carry), []
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    for t in range(T):
        xw, hu = _products(p, XS[:, t], h, keep_x, keep_h)
        i, f, g, o = (a + b + d for a, b, d in zip(xw, hu, np.split(p["bias"], 4), strict=True))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    last, got = seqjax.unroll(cell, params, XS, carry, rng=KEY, engine=engine)
    assert_same((last.c, last.h, got), (c, h, np.stack(ys, 1)))


def test_each_gate_of_the_gru_has_its_own_masks_and_the_memory_none():
    cell, params, carry, keep_x, keep_h = _per_gate(seqjax.gru(H))
    p, h = as_numpy(params), np.asarray(carry.h, np.float64)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    for t in range(T):
        xw, u = _products(p, XS[:, t], h, keep_x, keep_h)
        x = [a + b for a, b in zip(xw, np.split(p["bias"], 3), strict=True)]
        r, z = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
        h = (1 - z) * np.tanh(x[2] + r * (u[2] + p["recurrent_bias"])) + z * h
    assert_same(seqjax.unroll(cell, params, XS, carry, rng=KEY)[0].h, h)


DEAR = [seqjax.lstm(H, layer_norm=True), seqjax.slstm(H)]
INNER = [seqjax.gru(H), layer_norm(seqjax.lstm(H)), *(pytest.param(cell, marks=pytest.mark.slow) for cell in DEAR)]


@pytest.mark.parametrize("inner", INNER)
def test_equal_masks_of_all_gates_are_one_mask_and_engines_agree_with_gradients(inner):
    def ys(noisy, drawn, xs):
        carry = noisy.initial_carry(drawn, B)
        return scan.run(noisy, drawn, carry, carry, xs, mask=None, resets=None, reverse=False, remat_every=None)[1]

    cell, params, _, keep_x, keep_h = _per_gate(inner)
    noisy, drawn, xs = cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))
    equal = [np.broadcast_to(keep[:1], keep.shape) for keep in (keep_x, keep_h)]
    got = ys(noisy, drawn._replace(keep=equal[0], cell=drawn.cell._replace(keep=equal[1])), xs)
    plain, plainly, _ = recurrent_dropout(inner, RATE).wrap.noise(KEY, params, xs)
    shared = np.where(keep_x[0], xs / (1 - RATE), 0).astype(np.float32)
    assert_same(got, ys(plain, plainly._replace(keep=keep_h[0]), shared), 1e-4)
    assert not np.allclose(got, ys(noisy, drawn, xs), atol=1e-3)

    def loss(params, engine):
        return (seqjax.unroll(cell, params, XS, rng=KEY, engine=engine)[1] ** 2).sum()

    assert_same(*(jax.value_and_grad(loss)(params, engine) for engine in ("scan", "fused")), 1e-4, 1e-5)


def test_a_cell_of_one_gate_has_one_mask_either_way():
    for options in ({}, {"per_gate": True}):
        cell = seqjax.dropout(recurrent_dropout(seqjax.rnn(H), RATE, **options), RATE, True, **options)
        assert dict(cell.settings)["per_gate"] is dict(cell.inner[0].settings)["per_gate"] is False
        params = cell.init(jax.random.key(0), D)
        assert cell.wrap.noise(KEY, params, XS.swapaxes(0, 1))[1].keep.shape == (B, H)


def test_inputs_are_dropped_gate_by_gate_for_all_time_alone_and_inside_a_step():
    with pytest.raises(seqjax.UserError, match="per_gate=True shares its masks over time; pass shared_over_time=True"):
        seqjax.dropout(seqjax.lstm(H), RATE, per_gate=True)
    with pytest.raises(seqjax.UserError, match=r"in the other order, stack\(per-gate dropout\(...\)\)"):
        seqjax.dropout(seqjax.stack(seqjax.lstm(H)), RATE, True, per_gate=True)
    with pytest.raises(seqjax.UserError, match="needs the recurrent product as a separate part"):
        seqjax.dropout(seqjax.gru(H, reset_after=False), RATE, True, per_gate=True)
