"""stack: layers over whole sequences, and the ways to call it."""

import jax
import numpy as np
import pytest
from cells.table import assert_same

import seqjax

XS = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
LAYERS = (seqjax.lstm(4), seqjax.gru(6), seqjax.rnn(5))


def test_layer_by_layer_by_hand():
    cell = seqjax.stack(*LAYERS)
    params = cell.init(jax.random.key(0), 3)
    carry, ys = seqjax.unroll(cell, params, XS, lengths=[5, 2], reverse=True)
    assert cell.name == "stack(lstm, gru, rnn)" and cell.hidden_size == 5
    hand, out = [], XS
    for layer, p in zip(LAYERS, params, strict=True):
        last, out = seqjax.unroll(layer, p, out, lengths=[5, 2], reverse=True)
        hand.append(last)
    assert_same((carry, ys), (tuple(hand), out))


def test_arguments_or_a_sequence_of_cells():
    want = seqjax.stack(*LAYERS).init(jax.random.key(0), 3)
    for cell in (seqjax.stack(LAYERS), seqjax.stack(list(LAYERS)), seqjax.stack(layer for layer in LAYERS)):
        assert_same(cell.init(jax.random.key(0), 3), want)
    assert seqjax.stack(LAYERS[0]).name == "stack(lstm)"


def test_equal_layers_have_their_own_params():
    layer = seqjax.gru(3)
    first, second = seqjax.stack(layer, layer).init(jax.random.key(0), 3)
    assert np.abs(first.kernel - second.kernel).max() > 0.1


def test_stacks_nest():
    nested = seqjax.stack(seqjax.stack(*LAYERS[:2]), LAYERS[2])
    flat = seqjax.stack(*LAYERS)
    params = flat.init(jax.random.key(0), 3)
    got = seqjax.unroll(nested, ((params[0], params[1]), params[2]), XS)[1]
    assert_same(got, seqjax.unroll(flat, params, XS)[1])


def test_what_is_no_cell_is_refused():
    for call in (lambda: seqjax.stack(), lambda: seqjax.stack([])):
        with pytest.raises(ValueError, match="stack needs at least one cell, and there is none"):
            call()
    with pytest.raises(TypeError, match="one is a str"):
        seqjax.stack(LAYERS[0], "gru")
    with pytest.raises(TypeError, match="one is a int"):
        seqjax.stack(3)
