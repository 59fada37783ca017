"""Every cell against NumPy by hand, its own three parts, numerical derivatives, and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells.table import CELLS, VARIANTS, H, as_numpy, assert_same, names, setup
from jax.test_util import check_grads

import seqjax
from seqjax.typing import Dense, Linear

ALL = CELLS + VARIANTS
SMOOTH = [row for row in CELLS if row.name in ("rnn", "lstm", "lstm-all", "gru", "gru-before", "conv_lstm")]
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def _random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.normal(size=a.shape), tree)


def _loss(cell, d_carry, d_ys, **options):
    def loss(params, carry, xs):
        last, ys = seqjax.unroll(cell, params, xs, carry, **options)
        return (ys * d_ys).sum() + sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), last, d_carry)))

    return loss


@pytest.mark.one_in(2)
@pytest.mark.parametrize("row", ALL, ids=names(ALL))
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "lengths-resets"])
def test_values_and_gradients_equal_numpy(row, masked, x64):
    cell, params, xs, carry = setup(row, 3, np.float64, param_dtype=jnp.float64)
    rng = np.random.default_rng(4)
    lengths = np.array([6, 0, 4]) if masked else None
    mask = np.arange(6)[None, :] < lengths[:, None] if masked else None
    resets = rng.random((3, 6)) < 0.3 if masked else None
    p, start = as_numpy(params), as_numpy(carry)
    want_carry, want_ys = ref.forward(row.reference, p, start, xs, mask, resets)[:2]
    d_carry, d_ys = _random_like(carry, 5), rng.normal(size=want_ys.shape)
    want = ref.gradients(row.reference, p, start, xs, as_numpy(d_carry), d_ys, mask, resets)

    last, ys = seqjax.unroll(cell, params, xs, carry, lengths=lengths, resets=resets)
    loss = _loss(cell, d_carry, d_ys, lengths=lengths, resets=resets)
    got = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, carry, xs)
    assert_same(as_numpy(last), want_carry, **TIGHT)
    assert_same(ys, want_ys, **TIGHT)
    assert_same((as_numpy(got[0]), as_numpy(got[1]), np.asarray(got[2])), want, **TIGHT)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("row", SMOOTH, ids=names(SMOOTH))
def test_derivatives_to_second_order_in_both_modes(row, x64):
    cell, params, xs, carry = setup(row, 1, np.float64, batch=2, steps=3, param_dtype=jnp.float64)
    f = jax.jit(lambda p, c, x: seqjax.unroll(cell, p, x, c, engine="scan")[1])
    check_grads(f, (params, carry, jnp.asarray(xs)), order=2, modes=("fwd", "rev"), rtol=1e-4, atol=1e-4)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("row", ALL, ids=names(ALL))
def test_step_is_its_three_parts(row):
    cell, params, xs, carry = setup(row, 2)
    parts = cell.parts
    if parts is None:
        assert "before" in row.name or cell.name == "lem" or isinstance(cell.split, Linear)
        return
    projected = parts.project(params, xs[:, 0])
    recurrent = None if parts.recur is None else parts.recur(params, carry)
    assert_same(cell.step(params, carry, xs[:, 0]), parts.after(params, carry, projected, recurrent))
    if isinstance(cell.split, Dense):  # by hand, one sequence at a time
        kernel, recurrent_kernel, bias = cell.split.products(params)
        found = []
        for one in range(xs.shape[0]):
            now = jax.tree.map(lambda a: a[one], carry)  # noqa: B023
            products = xs[one, 0] @ kernel + bias, now.h @ recurrent_kernel
            products = (sum(products),) if cell.split.additive else products
            gates = tuple(gate for product in products for gate in np.split(product, cell.split.gates))
            found.append(cell.split.combine(params, now, gates))
        assert_same(cell.step(params, carry, xs[:, 0]), jax.tree.map(lambda *a: np.stack(a), *found))


@pytest.mark.one_in(8)
@pytest.mark.parametrize("row", ALL, ids=names(ALL))
def test_bfloat16_computes_near_float32_and_keeps_memory_wide(row):
    cell, params, xs, carry = setup(row, 6)
    narrow = row.make(dtype=jnp.bfloat16)
    _, want = seqjax.unroll(cell, params, xs)
    last, ys = seqjax.unroll(narrow, params, xs)
    assert ys.dtype == jnp.bfloat16
    narrow_memory = dict.fromkeys(("rnn", "indrnn", "lstm", "slstm", "conv_lstm"), "h").get(cell.name, "")
    for name, value in last._asdict().items():
        assert value.dtype == (jnp.bfloat16 if name == narrow_memory else jnp.float32)
    error = np.abs(np.asarray(ys, np.float32) - want).max()
    assert 0 < error < 0.05 * max(1, np.abs(want).max())
    grads = jax.jit(jax.grad(lambda p: seqjax.unroll(narrow, p, xs)[1].astype(jnp.float32).sum()))(params)
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="hidden_size must be at least 1, got 0"):
        seqjax.lstm(0)
    with pytest.raises(TypeError, match="hidden_size must be an integer, got 2.5"):
        seqjax.gru(2.5)
    with pytest.raises(ValueError, match=r"activation must be a function, or one of \['elu', .*'tanh'\], got 'warp'"):
        seqjax.rnn(4, "warp")
    with pytest.raises(ValueError, match="proj_size must be at least 1, got 0"):
        seqjax.lstm(4, proj_size=0)
    with pytest.raises(ValueError, match=r"gate_activation must be a function, or one of .*, got 'warp'"):
        seqjax.gru(4, gate_activation="warp")
    with pytest.raises(ValueError, match="input_size must be at least 1"):
        seqjax.lstm(4).init(jax.random.key(0), 0)


def _from_torch(name, layer):
    """Our params from torch's: transposed, and torch's two biases summed except for the GRU's b_hn."""
    w, u, b, b_h, *projection = (p.detach().numpy() for p in layer.parameters())
    if name == "gru":
        joint = b + np.concatenate([b_h[: 2 * H], np.zeros(H, b.dtype)])
        return seqjax.GRUParams(w.T, u.T, joint, b_h[2 * H :])
    if name == "lstm":
        return seqjax.LSTMParams(w.T, u.T, b + b_h, projection=projection[0].T if projection else None)
    return seqjax.RNNParams(w.T, u.T, b + b_h)


@pytest.mark.parametrize("name", ["rnn", "rnn-relu", "lstm", "lstm-proj", "gru"])
def test_equals_torch(name, x64):
    torch = pytest.importorskip("torch", reason="parity with PyTorch needs torch: pip install torch")
    row = next(row for row in ALL if row.name == name)
    cell, _, xs, carry = setup(row, 7, np.float64, param_dtype=jnp.float64)
    torch.manual_seed(0)
    build = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell.name]
    extra = {"rnn-relu": {"nonlinearity": "relu"}, "lstm-proj": {"proj_size": H}}.get(name, {})
    layer = build(xs.shape[-1], 6 if name == "lstm-proj" else H, batch_first=True, dtype=torch.float64, **extra)
    params = jax.tree.map(jnp.asarray, _from_torch(cell.name, layer))
    carry = jax.tree.map(lambda a: np.asarray(a, np.float64), carry)
    start = {k: torch.tensor(v)[None] for k, v in carry._asdict().items()}
    tx = torch.tensor(xs, requires_grad=True)
    t_ys, t_last = layer(tx, (start["h"], start["c"]) if "c" in start else start["h"])
    d_ys = np.random.default_rng(8).normal(size=t_ys.shape)
    (t_ys * torch.tensor(d_ys)).sum().backward()

    last, ys = seqjax.unroll(cell, params, xs, carry)
    d_xs = jax.jit(jax.grad(lambda x: (seqjax.unroll(cell, params, x, carry)[1] * d_ys).sum()))(xs)
    assert_same(ys, t_ys.detach().numpy(), **TIGHT)
    assert_same(d_xs, tx.grad.numpy(), **TIGHT)
    assert_same(last.h, (t_last[0] if "c" in start else t_last)[0].detach().numpy(), **TIGHT)
    if "c" in start:
        assert_same(last.c, t_last[1][0].detach().numpy(), **TIGHT)
