"""The Flax layers, linen and NNX, against seqjax.unroll with the same parameters."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import assert_same
from flax import nnx

import seqjax
from seqjax.nn import Recurrent, layers
from seqjax.nn import nnx as adapter
from seqjax.wrappers import learned_initial_carry, zoneout

B, T, D, H = 3, 5, 4, 6
XS = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
LENGTHS = np.array([T, 0, 3])
DEEP = Recurrent(H, 2, "gru", dropout=0.5, bidirectional=True)
VARIABLES = DEEP.init(jax.random.key(0), XS)


def _core(layer, variables):
    cell = layer.make_cell()
    return cell, tuple(layers.from_names(inner, variables["params"][f"layer_{i}"]) for i, inner in enumerate(cell.inner))


def _zoned(size):
    return learned_initial_carry(zoneout(seqjax.lstm(size), 0.5))


def test_linen_is_unroll_over_its_stack_with_names_for_parameters():
    cell, params = _core(DEEP, VARIABLES)
    assert cell.name == "stack(bidirectional(gru, gru), dropout(bidirectional(gru, gru), 0.5))"
    shapes = jax.tree.map(jnp.shape, VARIABLES["params"])
    assert shapes["layer_0"]["forward"]["kernel"] == (D, 3 * H) and shapes["layer_1"]["backward"]["bias"] == (3 * H,)
    assert all(type(p) is dict for p in (shapes, shapes["layer_0"], shapes["layer_0"]["forward"]))
    settings = {"lengths": LENGTHS, "resets": np.arange(T)[None] == np.array([[2], [0], [1]]), "reverse": True}
    want = seqjax.unroll(cell, params, XS, **settings)
    assert_same(DEEP.apply(VARIABLES, XS, **settings), want, 0, 0)
    key = jax.random.key(5)
    noisy = DEEP.apply(VARIABLES, XS, train=True, rngs={"dropout": key}, **settings)
    assert np.abs(noisy[1] - want[1]).max() > 0.01
    other = DEEP.apply(VARIABLES, XS, train=True, rngs={"dropout": jax.random.key(6)}, **settings)
    assert np.abs(noisy[1] - other[1]).max() > 0.01
    turned = DEEP.apply(VARIABLES, XS.swapaxes(0, 1), time_major=True)[1]
    assert_same(turned.swapaxes(0, 1), DEEP.apply(VARIABLES, XS)[1])


def test_linen_trains_needs_a_key_for_noise_and_compiles_once():
    traces = []

    @jax.jit
    def slope(variables, xs, key):
        traces.append(1)
        loss = lambda v: (DEEP.apply(v, xs, train=True, rngs={"dropout": key})[1] ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(variables)

    got = slope(VARIABLES, XS, jax.random.key(0))
    slope(VARIABLES, XS + 1, jax.random.key(1))
    assert len(traces) == 1 and all(np.abs(g).max() > 0 for g in jax.tree.leaves(got))
    with pytest.raises(Exception, match="dropout"):
        DEEP.apply(VARIABLES, XS, train=True)
    plain = Recurrent(H)
    plain.apply(plain.init(jax.random.key(0), XS), XS, train=True)
    assert plain.make_cell() is Recurrent(H).make_cell()


@pytest.mark.parametrize("cell", ["lstm", "irnn", _zoned], ids=["lstm", "irnn", "function"])
def test_streaming_equals_the_sequence(cell):
    layer = Recurrent(H, 2, cell)
    variables = layer.init(jax.random.key(0), XS)
    last, ys = layer.apply(variables, XS)
    step = jax.jit(lambda carry, x: layer.apply(variables, carry, x, method="step"))
    carry = layer.apply(variables, B, method="initial_carry")
    for t in range(T):
        carry, y = step(carry, XS[:, t])
        assert_same(y, ys[:, t])
    assert_same(carry, last)
    again = layer.apply(variables, XS[:, 3:], layer.apply(variables, XS[:, :3])[0])
    assert_same(again, (last, ys[:, 3:]))


def test_the_projection_and_dtypes_reach_the_cells():
    layer = Recurrent(H, 2, proj_size=3, dtype=jnp.bfloat16, remat_every=2, engine="scan")
    variables = layer.init(jax.random.key(0), XS)
    carry, ys = layer.apply(variables, XS)
    assert ys.shape == (B, T, 3) and ys.dtype == jnp.bfloat16 and carry[0].c.shape == (B, H)
    assert variables["params"]["layer_1"]["kernel"].shape == (3, 4 * H)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_parameters_survive_serialisation_and_names_can_be_turned_back():
    again = flax.serialization.from_bytes(VARIABLES, flax.serialization.to_bytes(VARIABLES))
    assert_same(again, VARIABLES, 0, 0)
    assert_same(DEEP.apply(again, XS), DEEP.apply(VARIABLES, XS), 0, 0)
    cell = seqjax.stack(_zoned(H), seqjax.gru(H, reset_after=False))
    params = cell.init(jax.random.key(0), D)
    named = layers.to_names(params)
    assert set(named["0"]["carry"]) == {"c", "h"} and "recurrent_bias" not in named["1"]
    assert_same(layers.from_names(cell, named), params, 0, 0)
    with pytest.raises(seqjax.UserError, match="the parameters of lstm lack bias; there are kernel"):
        layers.from_names(seqjax.lstm(H), {"kernel": 0, "recurrent_kernel": 0})


def test_nnx_is_the_same_layer():
    layer = adapter.Recurrent(D, H, 2, "gru", dropout=0.5, bidirectional=True, rngs=nnx.Rngs(0))
    assert layer.cell is DEEP.make_cell()
    variables = {"params": {f"layer_{i}": layers.to_names(p) for i, p in enumerate(layer.params())}}
    settings = {"lengths": LENGTHS, "resets": np.arange(T)[None] == np.array([[2], [0], [1]])}
    assert_same(layer(XS, **settings), seqjax.unroll(layer.cell, layer.params(), XS, **settings), 0, 0)
    assert_same(layer(XS, **settings), DEEP.apply(variables, XS, **settings), 0, 0)


def test_nnx_jit_grad_and_streaming():
    layer = adapter.Recurrent(D, H, 2, dropout=0.5, rngs=nnx.Rngs(params=0, dropout=1))
    run = nnx.jit(lambda layer, xs: layer(xs, train=True)[1])
    first, second = run(layer, XS), run(layer, XS)
    calm = layer(XS)
    assert np.abs(first - second).max() > 0.001 and np.abs(first - calm[1]).max() > 0.001
    slope = nnx.grad(lambda layer: (layer(XS)[1] ** 2).sum())(layer)
    want = jax.jit(jax.grad(lambda p: (seqjax.unroll(layer.cell, p, XS)[1] ** 2).sum()))(layer.params())
    got = tuple(layers.from_names(c, nnx.to_pure_dict(slope)[f"layer_{i}"]) for i, c in enumerate(layer.cell.inner))
    assert_same(got, want)
    carry = layer.initial_carry(B)
    for t in range(T):
        carry, y = layer.step(carry, XS[:, t])
    assert_same((carry, y), (calm[0], calm[1][:, -1]))
    frozen, state = nnx.split(layer)
    assert_same(nnx.merge(frozen, state)(XS), calm, 0, 0)


def test_what_does_not_fit_is_refused():
    for settings, error, message in (
        ({"cell": "lstn"}, seqjax.UserError, "cell='lstn' is unknown; choose one of lstm, gru"),
        ({"cell": "gru", "proj_size": 3}, seqjax.UserError, "proj_size=3 is an option of cell='lstm' only, got cell='gru'"),
        ({"cell": _zoned, "dtype": jnp.bfloat16}, seqjax.UserError, "set them inside the function given as cell"),
        ({"cell": seqjax.lstm(H)}, TypeError, "cell must be a name or a function of hidden_size, got a Cell"),
        ({"dropout": 0.5}, seqjax.UserError, "dropout=0.5 applies between layers, but num_layers=1"),
        ({"dropout": 1.5, "num_layers": 2}, ValueError, "rate must be at least 0 and below 1, got 1.5"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1, got 0"),
    ):
        with pytest.raises(error, match=message):
            Recurrent(H, **settings).make_cell()
        with pytest.raises(error, match=message):
            adapter.Recurrent(D, H, **settings, rngs=nnx.Rngs(0))
    with pytest.raises(seqjax.UserError, match=r"has no parameters layer_0 yet; create them with layer.init"):
        Recurrent(H).apply({}, B, method="initial_carry")
    with pytest.raises(seqjax.UserError, match="has no step"):
        DEEP.apply(VARIABLES, DEEP.apply(VARIABLES, B, method="initial_carry"), XS[:, 0], method="step")


def test_cells_that_take_one_input_size_only():
    layer = Recurrent(8, cell=lambda size: seqjax.residual(seqjax.lstm(size)), bidirectional=True)
    xs = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
    variables = layer.init(jax.random.key(0), xs)
    assert layer.apply(variables, xs)[1].shape == (2, 3, 16)
