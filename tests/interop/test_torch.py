"""Weights from and to torch: outputs, final states and gradients equal, both ways; features that torch lacks are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.parity import (
    B,
    D,
    H,
    T,
    assert_near,
    assert_same_cell,
    every,
    ours,
    random_inputs,
    random_like,
    random_params,
)

import seqjax
from seqjax import interop
from seqjax.errors import UserError
from seqjax.wrappers import bidirectional, residual, zoneout

torch = pytest.importorskip("torch", reason="needs torch: pip install torch")
nn = torch.nn
# Torch says which of its own implementations it takes.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

MODULES = {
    "rnn-layers": lambda **o: nn.RNN(D, H, num_layers=2, **o),
    "rnn-relu-bidirectional": lambda **o: nn.RNN(D, H, nonlinearity="relu", bidirectional=True, **o),
    "lstm": lambda **o: nn.LSTM(D, H, **o),
    "lstm-proj-layers-bidirectional": lambda **o: nn.LSTM(D, H, num_layers=2, proj_size=2, bidirectional=True, **o),
    "lstm-no-bias": lambda **o: nn.LSTM(D, H, bias=False, **o),
    "gru-layers-bidirectional": lambda **o: nn.GRU(D, H, num_layers=2, bidirectional=True, dropout=0.3, **o),
    "gru-no-bias": lambda **o: nn.GRU(D, H, bias=False, **o),
}
CELLS = {
    "rnn": lambda **o: nn.RNNCell(D, H, nonlinearity="relu", **o),
    "lstm": lambda **o: nn.LSTMCell(D, H, **o),
    "gru": lambda **o: nn.GRUCell(D, H, bias=False, **o),
}


def _pair(make):
    return bidirectional(make(), make())


OURS = {
    "rnn-relu": lambda: seqjax.rnn(H, "relu"),
    "rnn-bare": lambda: seqjax.rnn(H, use_bias=False),
    "gru-bare": lambda: bidirectional(seqjax.gru(H, use_bias=False), seqjax.gru(H, use_bias=False)),
    "lstm-bare": lambda: seqjax.stack(seqjax.lstm(H, use_bias=False), seqjax.lstm(H, use_bias=False)),
    "lstm-proj": lambda: seqjax.lstm(H, proj_size=2),
    "gru-dropout": lambda: seqjax.stack(seqjax.gru(H), seqjax.dropout(seqjax.gru(H), 0.2), seqjax.dropout(seqjax.gru(H), 0.2)),
    "lstm-bidirectional": lambda: seqjax.stack(_pair(lambda: seqjax.lstm(H)), _pair(lambda: seqjax.lstm(H))),
}


def _randomise(module):
    with torch.no_grad():
        for k, weight in enumerate(module.parameters()):
            weight.copy_(torch.tensor(random_like(weight.numpy(), k)))
    return module.eval()


def _theirs(module, xs, lengths=None):
    """(outputs, {name: (layers x directions, B, ...)}) of a batch_first module."""
    inputs = torch.tensor(xs)
    if lengths is not None:
        packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        ys, last = module(packed)
        ys = nn.utils.rnn.pad_packed_sequence(ys, batch_first=True, total_length=T)[0]
    else:
        ys, last = module(inputs)
    last = dict(zip("hc", last)) if isinstance(last, tuple) else {"h": last}
    return ys.detach().numpy(), {name: value.detach().numpy() for name, value in last.items()}


def _assert_equal_runs(cell, params, module, xs, dtype, lengths=None):
    ys, carries = ours(cell, params, xs, lengths=lengths)
    want, last = _theirs(module, xs, lengths)
    assert_near(ys, want, dtype)
    assert len(carries) == len(last["h"])
    for k, carry in enumerate(carries):
        for name, value in carry._asdict().items():
            assert_near(value, last[name][k], dtype)


@every(MODULES)
def test_from_a_layer(name, dtype):
    module = _randomise(MODULES[name](batch_first=True, dtype=getattr(torch, dtype)))
    cell, params = interop.from_torch(module)
    _assert_equal_runs(cell, params, module, random_inputs(dtype), dtype)


@every(CELLS)
def test_from_a_cell(name, dtype):
    module = _randomise(CELLS[name](dtype=getattr(torch, dtype)))
    cell, params = interop.from_torch(module)
    rng = np.random.default_rng(2)
    start = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape).astype(dtype)), cell.initial_carry(params, B))
    x = random_inputs(dtype)[:, 0]
    state = {key: torch.tensor(np.asarray(value)) for key, value in start._asdict().items()}
    last = module(torch.tensor(x), (state["h"], state["c"]) if name == "lstm" else state["h"])
    carry, y = cell.step(params, start, x)
    last = dict(zip("hc", last)) if name == "lstm" else {"h": last}
    assert_near(y, last["h"].detach().numpy(), dtype)
    for key, value in last.items():
        assert_near(getattr(carry, key), value.detach().numpy(), dtype)


@every(OURS)
def test_to_torch_and_back(name, dtype):
    cell = OURS[name]()
    params = random_params(cell, dtype)
    module = interop.to_torch(cell, params).eval()
    _assert_equal_runs(cell, params, module, random_inputs(dtype), dtype)
    assert_same_cell(interop.from_torch(module), (cell, params))


def test_lengths_of_a_packed_bidirectional_stack():
    module = _randomise(nn.LSTM(D, H, num_layers=2, bidirectional=True, batch_first=True))
    cell, params = interop.from_torch(module)
    _assert_equal_runs(cell, params, module, random_inputs("float32"), "float32", lengths=np.array([T, 1, 3]))


def test_dropout_stands_between_the_layers():
    cell, _ = interop.from_torch(nn.GRU(D, H, num_layers=3, dropout=0.25))
    assert cell.name == "stack(gru, dropout(gru, 0.25), dropout(gru, 0.25))"
    assert interop.to_torch(cell, random_params(cell, "float32")).dropout == 0.25


def test_gradients_are_equal():
    module = _randomise(nn.GRU(D, H, batch_first=True))
    cell, params = interop.from_torch(module)
    xs, d_ys = random_inputs("float32"), np.random.default_rng(3).normal(size=(B, T, H)).astype(np.float32)
    inputs = torch.tensor(xs, requires_grad=True)
    (module(inputs)[0] * torch.tensor(d_ys)).sum().backward()
    grads, d_xs = jax.jit(jax.grad(lambda p, x: (seqjax.unroll(cell, p, x)[1] * d_ys).sum(), argnums=(0, 1)))(params, xs)
    assert_near(d_xs, inputs.grad.numpy(), "float32")
    assert_near(grads.kernel, module.weight_ih_l0.grad.numpy().T, "float32")
    assert_near(grads.recurrent_kernel, module.weight_hh_l0.grad.numpy().T, "float32")
    assert_near(grads.bias, module.bias_ih_l0.grad.numpy(), "float32")
    assert_near(grads.recurrent_bias, module.bias_hh_l0.grad.numpy()[2 * H :], "float32")


def test_bfloat16_keeps_every_bit():
    module = _randomise(nn.LSTM(D, H)).to(torch.bfloat16)
    cell, params = interop.from_torch(module)
    assert params.kernel.dtype == jnp.bfloat16
    back = interop.to_torch(cell, params)
    assert back.weight_ih_l0.dtype == torch.bfloat16 and torch.equal(back.weight_ih_l0, module.weight_ih_l0)
    assert_same_cell(interop.from_torch(back), (cell, params))


def test_weights_are_copies():
    module = _randomise(nn.RNN(D, H))
    _, params = interop.from_torch(module)
    before = np.array(params.kernel)
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    np.testing.assert_array_equal(params.kernel, before)


def _mixed():
    return seqjax.stack(seqjax.lstm(H), seqjax.gru(H))


REFUSED = {
    "heads": (lambda: seqjax.lstm(H, heads=2), "heads=2 of 'lstm'; none of the libraries"),
    "some biases": (lambda: seqjax.stack(seqjax.gru(H), seqjax.gru(H, use_bias=False)), "layers that differ"),
    "peepholes": (lambda: seqjax.lstm(H, peepholes=True), "peepholes=True of 'lstm'; none of the libraries"),
    "coupled": (lambda: seqjax.lstm(H, coupled=True), "coupled=True of 'lstm'"),
    "layer norm": (lambda: seqjax.lstm(H, layer_norm=True), "layer_norm=True of 'lstm'"),
    "reset before": (lambda: seqjax.gru(H, reset_after=False), "reset_after=False of 'gru'; to_keras and to_haiku can"),
    "dtype": (
        lambda: seqjax.rnn(H, dtype=jnp.bfloat16),
        "dtype='bfloat16' of 'rnn'; to_keras and to_flax and to_nnx can",
    ),
    "a residual": (lambda: seqjax.stack(seqjax.gru(D), residual(seqjax.gru(D))), r"the residual of 'residual\(gru\)'"),
    "zoneout": (lambda: zoneout(seqjax.gru(H), 0.1), "the zoneout of"),
    "a merge": (lambda: bidirectional(seqjax.gru(H), seqjax.gru(H), "sum"), "merge='sum' .* to_keras and to_flax"),
    "mixed layers": (_mixed, r"layers that differ, but .* has lstm\(4\) and gru\(4\)"),
    "sizes": (lambda: seqjax.stack(seqjax.gru(2), seqjax.gru(3)), r"has gru\(2\) and gru\(3\)"),
    "first dropout": (lambda: seqjax.dropout(seqjax.gru(H), 0.1), r"dropout\(0.1\) before the first layer"),
    "two dropouts": (
        lambda: seqjax.stack(seqjax.gru(H), seqjax.dropout(seqjax.dropout(seqjax.gru(H), 0.1), 0.2)),
        "two dropouts around one cell, .*; to_keras can",
    ),
    "shared dropout": (
        lambda: seqjax.stack(seqjax.gru(H), seqjax.dropout(seqjax.gru(H), 0.1, True)),
        "shared_over_time=True .*; to_keras can",
    ),
    "rates": (
        lambda: seqjax.stack(*(seqjax.dropout(seqjax.gru(H), rate) for rate in (0.0, 0.1, 0.2))),
        r"rates that differ, .* \[0.1, 0.2\]",
    ),
    "directions": (
        lambda: seqjax.stack(seqjax.gru(H), bidirectional(seqjax.gru(H), seqjax.gru(H))),
        "one and two directions in one module",
    ),
    "directions that differ": (lambda: bidirectional(seqjax.gru(2), seqjax.gru(3)), r"has gru\(2\) and gru\(3\)"),
    "a cell of one's own": (lambda: seqjax.gru(H).replace(name="mine"), "the mine of 'mine'; none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_cannot_hold_is_refused_by_name(name):
    make, message = REFUSED[name]
    cell = make()
    with pytest.raises(UserError, match=f"to_torch cannot represent .*{message}"):
        interop.to_torch(cell, random_params(cell, "float32"))


def test_modules_and_params_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="from_torch takes torch.nn's RNN, LSTM, GRU and their cells, got Linear"):
        interop.from_torch(nn.Linear(2, 3))
    with pytest.raises(UserError, match="the weights are float64 and JAX's 64-bit types are off"):
        interop.from_torch(nn.LSTM(D, H, dtype=torch.float64))
    with pytest.raises(TypeError, match="cell must be a Cell, got a LSTM"):
        interop.to_torch(nn.LSTM(D, H), None)
