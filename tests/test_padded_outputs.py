"""padded_outputs="repeat": a padded step gives the last real output before it, on every engine, with its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import ROWS, B, D, H, T, assert_same, setup
from flax import nnx
from jax import export

import seqjax
from seqjax.engines.native import library
from seqjax.nn import Recurrent
from seqjax.nn import nnx as adapter

ROW = {row.name: row for row in ROWS}
MASK = np.array([[0, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)  # holes, a length, nothing real
REPEAT = {"padded_outputs": "repeat"}


def filled(ys, mask, reverse):
    """Outputs (B, T, ...) that are zero at padded steps, filled one step after the other."""
    found, last = [None] * T, jax.tree.map(lambda a: jnp.zeros_like(a[:, 0]), ys)
    for t in range(T)[:: -1 if reverse else 1]:
        pick = lambda a, b, t=t: jnp.where(mask[:, t].reshape(B, *(1,) * (b.ndim - 1)), a[:, t], b)  # noqa: E731
        found[t] = last = jax.tree.map(pick, ys, last)
    return jax.tree.map(lambda *steps: jnp.stack(steps, 1), *found)


def value_and_slopes(cell, params, xs, carry, repeat, **options):
    """Everything that an unroll gives with `repeat`; without, what filling its zeros by hand gives."""

    def loss(params, xs, carry):
        last, ys = seqjax.unroll(cell, params, xs, carry, **options, **(REPEAT if repeat else {}))
        ys = ys if repeat else filled(ys, options["lengths"], options["reverse"])
        weights = [np.random.default_rng(i).normal(size=a.shape) for i, a in enumerate(jax.tree.leaves((last, ys)))]
        return sum((w * a).sum() for w, a in zip(weights, jax.tree.leaves((last, ys)))), (last, ys)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(params, xs, carry)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "name, engine",
    [("lstm", "scan"), ("lstm", "fused"), ("conv_lstm", "auto"), ("mingru", "associative"), ("joined", "auto"), ("residual", "auto")],
)
def test_the_same_as_filling_zeros_by_hand(name, engine, reverse, x64):
    cell, params, xs, carry = setup(ROW[name], 61, np.float64, param_dtype=jnp.float64)
    xs = np.where(MASK.reshape(B, T, *(1,) * (xs.ndim - 2)), xs, np.nan)  # what is there has no influence
    options = {"lengths": MASK, "reverse": reverse, "engine": engine, "resets": np.random.default_rng(4).random((B, T)) < 0.3}
    got, want = (value_and_slopes(cell, params, xs, carry, repeat, **options) for repeat in (True, False))
    assert_same(got, want, 1e-9, 1e-10)
    assert not np.asarray(got[0][1][1])[2].any() and np.asarray(got[0][1][1])[0].any()


@pytest.mark.skipif(bool(library.missing()), reason=f"native engine: {library.missing()}")
@pytest.mark.parametrize("reverse", [False, True])
def test_on_the_native_engine_in_a_stack(reverse):
    cell = seqjax.stack(seqjax.lstm(5), seqjax.gru(H))
    params = cell.init(jax.random.key(0), D)
    xs = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    options = {"lengths": MASK, "reverse": reverse, "engine": "native"}
    start = cell.initial_carry(params, B)
    got, want = (value_and_slopes(cell, params, xs, start, repeat, **options) for repeat in (True, False))
    assert_same(got, want, 1e-4, 1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("merge", ["concat", jnp.add, None])
def test_of_two_directions_both_are_of_the_last_real_step(merge, reverse):
    cell = seqjax.bidirectional(seqjax.gru(H), seqjax.rnn(H), merge)
    params = cell.init(jax.random.key(0), D)
    xs = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    ys = seqjax.unroll(cell, params, xs, lengths=MASK, reverse=reverse)[1]
    got = seqjax.unroll(cell, params, xs, lengths=MASK, reverse=reverse, **REPEAT)[1]
    assert_same(got, filled(ys, MASK, reverse), 0, 0)


@pytest.mark.parametrize("name", ["deep", "dropout", "regularised", "joined"])
def test_with_training_noise(name):
    cell, params, xs, carry = setup(ROW[name], 62)
    cell = seqjax.stack(cell, seqjax.residual(seqjax.dropout(seqjax.dense(H), 0.5)))
    params, carry = (params, cell.inner[1].init(jax.random.key(1), H)), (carry, ())
    how = {"lengths": MASK, "rng": jax.random.key(3)}
    last, ys = seqjax.unroll(cell, params, xs, carry, **how)
    assert_same(seqjax.unroll(cell, params, xs, carry, **how, **REPEAT), (last, filled(ys, MASK, False)))


def test_the_last_step_is_the_last_real_one_in_either_layout_with_every_carry():
    cell, params, xs, carry = setup(ROW["lstm"], 63)
    lengths = np.array([T, 2, 0])
    last, ys, carries = seqjax.unroll(cell, params, xs, carry, lengths=lengths, return_carries=True, **REPEAT)
    assert_same(ys[:2, -1], last.h[:2])
    assert_same((last, carries), seqjax.unroll(cell, params, xs, carry, lengths=lengths, return_carries=True)[::2], 0, 0)
    turned = seqjax.unroll(cell, params, xs.swapaxes(0, 1), carry, lengths=lengths, time_major=True, **REPEAT)[1]
    assert_same(turned.swapaxes(0, 1), ys)
    assert_same(seqjax.unroll(cell, params, xs, carry, **REPEAT), seqjax.unroll(cell, params, xs, carry), 0, 0)
    alone = seqjax.unroll(cell, params, xs[1], lengths=2, **REPEAT)[1]
    assert_same(alone[2:], jnp.broadcast_to(alone[1], (T - 2, H)), 0, 0)
    assert seqjax.unroll(cell, params, xs[:, :0], carry, lengths=np.zeros(B, int), **REPEAT)[1].shape == (B, 0, H)


def test_vmap_and_export_with_open_sizes():
    cell, params, xs, _ = setup(ROW["joined"], 64)
    forward = lambda xs, mask: seqjax.unroll(cell, params, xs, lengths=mask, **REPEAT)[1]  # noqa: E731
    pair = np.stack([xs, -xs]), np.stack([MASK, ~MASK])
    for k in (0, 1):
        assert_same(jax.vmap(forward)(*pair)[k], forward(pair[0][k], pair[1][k]))
    b, t = export.symbolic_shape("b,t")
    exported = export.export(jax.jit(forward))(jax.ShapeDtypeStruct((b, t, D), xs.dtype), jax.ShapeDtypeStruct((b, t), bool))
    again = export.deserialize(exported.serialize())
    for batch, steps in ((B, T), (2, T - 1)):
        inputs = xs[:batch, :steps], MASK[:batch, :steps]
        assert_same(again.call(*inputs), forward(*inputs))


def test_the_flax_layers_and_explain():
    xs, lengths = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32), np.array([T, 2, 0])
    options = {"num_layers": 2, "bidirectional": True, "merge": jnp.maximum}
    layer = Recurrent(H, **options, **REPEAT)
    variables = layer.init(jax.random.key(0), xs)
    cell = layer.make_cell()
    params = tuple(seqjax.nn.layers.from_names(inner, variables["params"][f"layer_{i}"]) for i, inner in enumerate(cell.inner))
    want = seqjax.unroll(cell, params, xs, lengths=lengths, **REPEAT)
    assert_same(layer.apply(variables, xs, lengths=lengths), want)
    assert np.abs(want[1][1, 2:]).max() > 0
    other = adapter.Recurrent(D, H, **options, **REPEAT, rngs=nnx.Rngs(0))
    assert_same(other(xs, lengths=lengths), seqjax.unroll(cell, other.params(), xs, lengths=lengths, **REPEAT))
    assert len(seqjax.explain(cell, params, xs, lengths=lengths, **REPEAT)) == 4


def test_another_word_is_refused():
    cell, params, xs, _ = setup(ROW["lstm"])
    with pytest.raises(ValueError, match='padded_outputs must be "zeros" or "repeat", got True'):
        seqjax.unroll(cell, params, xs, padded_outputs=True)
