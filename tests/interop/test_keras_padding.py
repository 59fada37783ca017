"""padded_outputs against Keras's zero_output_for_mask, and a merge of None: outputs at real and padded steps, and gradients."""

import jax
import numpy as np
import pytest
from interop.parity import B, D, H, T, assert_near, random_inputs, random_like

import seqjax
from seqjax import interop

keras = pytest.importorskip("keras", reason="needs Keras 3: pip install keras")

MASK = np.array([[0, 1, 0, 1, 0], [1, 1, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
CELLS = {"SimpleRNN": keras.layers.SimpleRNN, "LSTM": keras.layers.LSTM, "GRU": keras.layers.GRU}


def layer_of(kind, zeros):
    return CELLS[kind](H, return_sequences=True, zero_output_for_mask=zeros)


def built(layer):
    with jax.numpy_rank_promotion("allow"):
        layer.build((None, None, D))
    layer.set_weights([random_like(weight.value, k) for k, weight in enumerate(layer.weights)])
    return layer


@pytest.mark.parametrize("zeros", [True, False], ids=["zeros", "repeat"])
@pytest.mark.parametrize("kind", CELLS)
def test_one_layer_with_gradients(kind, zeros):
    layer, xs = built(layer_of(kind, zeros)), random_inputs("float32")
    cell, params = interop.from_keras(layer)
    weights = np.random.default_rng(0).normal(size=(B, T, H)).astype(np.float32)
    how = {"lengths": MASK, "padded_outputs": "zeros" if zeros else "repeat"}

    def ours(xs):
        ys = seqjax.unroll(cell, params, xs, **how)[1]
        return (ys * weights).sum(), ys

    def theirs(xs):
        ys = layer(xs, mask=MASK)
        return (ys * weights).sum(), ys

    with jax.numpy_rank_promotion("allow"):
        want = jax.grad(theirs, has_aux=True)(xs)
    for a, b in zip(jax.grad(ours, has_aux=True)(xs), want, strict=True):
        assert_near(a, b, "float32")
    assert np.abs(want[1][0, 2]).max() == 0 if zeros else np.abs(want[1][0, 2]).max() > 0


@pytest.mark.parametrize("merge", ["concat", None])
def test_two_directions_are_zero_there_whatever_their_layers_say(merge):
    layer = built(keras.layers.Bidirectional(layer_of("GRU", False)))
    cell, params = interop.from_keras(layer)
    layer.merge_mode = merge
    cell, xs = seqjax.bidirectional(*cell.inner, merge), random_inputs("float32")
    with jax.numpy_rank_promotion("allow"):
        want = layer(xs, mask=MASK)
    got = seqjax.unroll(cell, params, xs, lengths=MASK)[1]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_near(a, b, "float32")
