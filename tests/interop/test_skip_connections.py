"""stack(skip_connections="input") against Haiku's deep_rnn_with_skip_connections: outputs, states and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.parity import B, D, T, assert_near, random_inputs, random_like

import seqjax
from seqjax import interop

hk = pytest.importorskip("haiku", reason="needs dm-haiku: pip install dm-haiku")


def test_the_same_as_haiku():
    def run(xs):
        core = hk.deep_rnn_with_skip_connections([hk.LSTM(5), hk.GRU(3), hk.VanillaRNN(4)])
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[0]), time_major=False)

    network, xs = hk.without_apply_rng(hk.transform(run)), random_inputs("float32")
    shapes, tree = jax.tree.flatten(jax.eval_shape(network.init, jax.random.key(0), xs))
    variables = tree.unflatten([jnp.asarray(random_like(np.zeros(a.shape, xs.dtype), k)) for k, a in enumerate(shapes)])
    cells, params = zip(*(interop.from_haiku(variables, name) for name in ("lstm", "gru", "vanilla_rnn")))
    cell = seqjax.stack(cells, skip_connections="input")
    assert [own.input_size(p) for own, p in zip(cells, params)] == [D, D + 5, D + 3] and cell.hidden_size == 12
    d_ys = np.random.default_rng(3).normal(size=(B, T, 12)).astype(np.float32)

    def theirs(xs):
        ys, last = network.apply(variables, xs)
        return (ys * d_ys).sum(), (ys, last[0].cell, last[0].hidden, last[1], last[2])

    def ours(xs):
        last, ys = seqjax.unroll(cell, params, xs)
        return (ys * d_ys).sum(), (ys, last[0].c, last[0].h, last[1].h, last[2].h)

    with jax.numpy_rank_promotion("allow"):
        want = jax.grad(theirs, has_aux=True)(xs)
    for a, b in zip(jax.tree.leaves(jax.grad(ours, has_aux=True)(xs)), jax.tree.leaves(want), strict=True):
        assert_near(a, b, "float32")
