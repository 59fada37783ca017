"""Recurrent layers from plain state dicts: what `from_torch` makes of the module, from its names and shapes alone."""

import jax
import numpy as np
import pytest

from seqjax import interop
from seqjax.errors import UserError

D, H = 3, 5


def _modules():
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch")
    nn = torch.nn
    return {
        "rnn": nn.RNN(D, H, num_layers=2),
        "rnn-relu": nn.RNN(D, H, nonlinearity="relu", bidirectional=True),
        "lstm": nn.LSTM(D, H, num_layers=3, dropout=0.2),
        "lstm-proj": nn.LSTM(D, H, num_layers=2, proj_size=2, bidirectional=True),
        "lstm-one-input": nn.LSTM(1, 1),
        "gru": nn.GRU(D, H, num_layers=2, bidirectional=True),
        "gru-no-bias": nn.GRU(D, H, bias=False),
        "gru-bfloat16": nn.GRU(D, H, dtype=torch.bfloat16),
        "lstm-cell": nn.LSTMCell(D, H),
        "rnn-cell": nn.RNNCell(D, H),
        "gru-cell": nn.GRUCell(D, H),
    }


KINDS = (
    "rnn", "rnn-relu", "lstm", "lstm-proj", "lstm-one-input", "gru", "gru-no-bias", "gru-bfloat16", "lstm-cell", "rnn-cell", "gru-cell",
)  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tensors", [True, False], ids=["tensors", "arrays"])
def test_it_is_what_from_torch_gives(name, tensors):
    module = _modules()[name]
    if "bfloat16" in name and not tensors:
        pytest.skip("NumPy has no bfloat16 of its own")
    state = {f"net.rnn.{key}": value if tensors else value.numpy() for key, value in module.state_dict().items()}
    state["net.head.weight"] = np.ones((2, 2))
    options = {"nonlinearity": "relu"} if name == "rnn-relu" else {"dropout": 0.2} if name == "lstm" else {}
    want, got = interop.from_torch(module), interop.from_torch_state(state, "net.rnn.", **options)
    assert got[0] == want[0]
    assert jax.tree.structure(got[1]) == jax.tree.structure(want[1])
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1])):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def _state(**changes):
    state = {
        "weight_ih_l0": np.ones((4 * H, D), "f"),
        "weight_hh_l0": np.ones((4 * H, H), "f"),
        "bias_ih_l0": np.ones(4 * H, "f"),
        "bias_hh_l0": np.ones(4 * H, "f"),
    }
    return {name: value for name, value in (state | changes).items() if value is not None}


@pytest.mark.parametrize(
    "state, prefix, words",
    [
        (_state(), "rnn.", "no recurrent weights with names that begin with 'rnn.'; there are some after ''"),
        ({"a.b.weight_hh_l0": np.ones((4, 1), "f")}, "", "there are some after 'a.b.'"),
        ({}, "", "no recurrent weights with names that begin with ''$"),
        (_state(weight_ih_l0=None), "", r"no weight_ih of \*_l0"),
        (_state(weight_hh_l2=np.ones((4 * H, H), "f")), "", r"no weight_ih and no weight_hh of \*_l1"),
        (_state(weight_hh_l0_reverse=np.ones((4 * H, H), "f")), "", r"no weight_ih of \*_l0_reverse"),
        (_state(bias_hh_l0=None), "", "one bias"),
        (_state(weight_hh_l0=np.ones((2 * H, H), "f")), "", r"has shape \(10, 5\), but that many rows are not gates of 5 units"),
        (_state(weight_hr_l0=np.ones((2, 4), "f")), "", "must have shape|not gates"),
        (_state(bias_ih_l0=np.ones(3, "f")), "", r"bias_ih of \*_l0 must have shape \(20,\), got shape \(3,\)"),
        (_state(weight_ih_l0=np.ones((3 * H, D), "f")), "", r"weight_ih of \*_l0 must have shape \(20, 3\), got shape \(15, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(state, prefix, words):
    with pytest.raises(UserError, match=words):
        interop.from_torch_state(state, prefix)


def test_an_unknown_nonlinearity_is_refused():
    with pytest.raises(UserError, match="choose tanh or relu"):
        interop.from_torch_state(_state(), nonlinearity="gelu")
