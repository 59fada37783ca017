"""Cells whose outputs are a pytree: the state and a gate, of every kind of split, on every engine, in wrappers and layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import B, D, H, T, assert_same
from jax import export

import seqjax
from seqjax.cells import parts
from seqjax.engines import fused
from seqjax.engines.dense import Layout

MASK = np.array([[0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
RESETS = np.random.default_rng(4).random((B, T)) < 0.3


def gated(kind, size=H, dtype=jnp.float32, **options):
    """A cell with the outputs {"h": h, "gate": what it forgets or updates by}."""
    if kind == "linear":
        cell = seqjax.mingru(size, param_dtype=dtype, **options)
        output = lambda params, hs, xs: {"h": hs, "gate": hs[..., :1] * params.bias[:1].reshape((1,) * hs.ndim)}  # noqa: E731
        return cell.replace(hidden_size={"h": size, "gate": 1}, split=cell.split._replace(output=output))
    cell = seqjax.lstm(size, param_dtype=dtype, **options)
    if kind == "step":
        plain = cell.step

        def step(params, carry, x):
            carry, y = plain(params, carry, x)
            return carry, {"h": y, "gate": y[:, :1]}

        return cell.replace(hidden_size={"h": size, "gate": 1}, step=step)
    split = cell.split if kind == "dense" else cell.parts
    combine = split.combine

    def with_gate(params, carry, gates):
        carry, y = combine(params, carry, gates)
        return carry, {"h": y, "gate": parts.sigmoid(gates[1])}

    return cell.replace(hidden_size={"h": size, "gate": size}, split=split._replace(combine=with_gate))


KINDS = {
    "dense": ("fused", [Layout(columns=False), Layout(columns=True), None]),
    "split": ("fused", [None]),
    "linear": ("associative", [None]),
    "step": ("auto", [None]),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def case(cell, dtype=np.float32):
    params = cell.init(jax.random.key(0), D)
    return params, np.random.default_rng(0).normal(size=(B, T, D)).astype(dtype)


def with_slopes(cell, params, xs, engine, **options):
    def loss(params, xs):
        found = seqjax.unroll(cell, params, xs, lengths=MASK, resets=RESETS, engine=engine, **options)
        weights = [np.random.default_rng(i).normal(size=a.shape) for i, a in enumerate(jax.tree.leaves(found))]
        return sum((w * a).sum() for w, a in zip(weights, jax.tree.leaves(found))), found

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, xs)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("kind, layout", [(kind, layout) for kind in KINDS for layout in KINDS[kind][1]])
def test_every_engine_gives_what_the_scan_gives(kind, layout, x64, monkeypatch):
    monkeypatch.setattr(fused, "layout_of", lambda cell, batch: layout)
    cell = gated(kind, dtype=jnp.float64)
    params, xs = case(cell, np.float64)
    for options in ({"reverse": True}, {"return_carries": True, "remat_every": 4, "padded_outputs": "repeat"}):
        found = [with_slopes(cell, params, xs, engine, **options) for engine in (KINDS[kind][0], "scan")]
        assert_same(*found, 1e-9, 1e-10)


@EVERY
def test_by_the_streaming_step_with_zeros_at_padded_steps(kind):
    cell = gated(kind)
    params, xs = case(cell)
    carry, want = cell.initial_carry(params, B), []
    for t in range(T):
        after, y = seqjax.step(cell, params, carry, xs[:, t])
        real = MASK[:, t, None]
        carry = jax.tree.map(lambda a, b, real=real: jnp.where(real, a, b), after, carry)
        want.append(jax.tree.map(lambda a, real=real: jnp.where(real, a, 0), y))
    got = seqjax.unroll(cell, params, xs, lengths=MASK)
    assert_same(got, (carry, jax.tree.map(lambda *steps: jnp.stack(steps, 1), *want)))
    assert jax.tree.map(lambda a: a.shape[-1], got[1]) == cell.hidden_size
    turned = seqjax.unroll(cell, params, xs.swapaxes(0, 1), lengths=MASK.T, time_major=True)[1]
    assert_same(jax.tree.map(lambda a: a.swapaxes(0, 1), turned), got[1])
    alone = seqjax.unroll(cell, params, xs[0], lengths=MASK[0])[1]
    assert_same(alone, jax.tree.map(lambda a: a[0], got[1]))
    grid = seqjax.unroll(cell, params, np.stack([xs, xs]), lengths=np.stack([MASK, MASK]))[1]
    assert_same(jax.tree.map(lambda a: a[1], grid), got[1])


WRAPPED = {
    "bidirectional": lambda cell: seqjax.bidirectional(cell, cell),
    "pair": lambda cell: seqjax.bidirectional(cell, seqjax.gru(3, param_dtype=jnp.float64), None),
    "stack": lambda cell: seqjax.stack(cell, lambda y: y["h"] * y["gate"], cell),
    "dropout": lambda cell: seqjax.dropout(cell, 0.4),
    "learned": seqjax.learned_initial_carry,
    "weight_drop": lambda cell: seqjax.weight_drop(cell, 0.4),
    "recurrent_dropout": lambda cell: seqjax.recurrent_dropout(cell, 0.4),
}


@pytest.mark.one_in(10)
@pytest.mark.parametrize("name", WRAPPED)
@EVERY
def test_in_wrappers_in_training(kind, name, x64):
    if (kind == "linear" and name in ("weight_drop", "recurrent_dropout")) or (kind, name) == ("step", "recurrent_dropout"):
        return  # these need a recurrent product
    cell = WRAPPED[name](gated(kind, dtype=jnp.float64))
    params, xs = case(cell, np.float64)
    found = [with_slopes(cell, params, xs, engine, rng=jax.random.key(1)) for engine in ("auto", "scan")]
    assert_same(*found, 1e-9, 1e-10)
    assert jax.tree.map(lambda a: a.shape[-1], found[0][1][1]) == cell.hidden_size


def test_of_any_size_and_what_cannot_be():
    cell = gated("dense", 256)  # where a plain LSTM takes columns
    params, xs = case(cell)
    found = [seqjax.unroll(cell, params, np.concatenate([xs] * 4), engine=engine)[1] for engine in ("fused", "scan")]
    assert_same(*found, 1e-4, 1e-5)
    with pytest.raises(seqjax.UserError, match=r"zoneout needs a cell whose output is its h, but lstm gives \{'gate'"):
        seqjax.zoneout(gated("dense"), 0.1).init(jax.random.key(0), D)
    with pytest.raises(ValueError, match="gru would get a pytree of sizes {'h': 4, 'gate': 4}"):
        seqjax.stack(gated("dense"), seqjax.gru(3))


def test_in_a_flax_layer():
    layer = seqjax.nn.Recurrent(H, 1, cell=lambda size: gated("dense", size), bidirectional=True, merge=None)
    xs = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    variables = layer.init(jax.random.key(0), xs)
    forward, backward = layer.apply(variables, xs, lengths=MASK)[1]
    assert forward["gate"].shape == backward["h"].shape == (B, T, H)


@pytest.mark.parametrize("kind", ["dense", "linear"])
def test_vmap_and_export_with_open_sizes(kind):
    cell = gated(kind)
    params, xs = case(cell)
    forward = lambda xs, mask: seqjax.unroll(cell, params, xs, lengths=mask)  # noqa: E731
    both = jax.vmap(forward)(np.stack([xs, -xs]), np.stack([MASK, ~MASK]))
    assert_same(jax.tree.map(lambda a: a[1], both), forward(-xs, ~MASK))
    b, t = export.symbolic_shape("b,t")
    outputs = jax.jit(lambda *arrays: jax.tree.leaves(forward(*arrays)))
    exported = export.export(outputs)(jax.ShapeDtypeStruct((b, t, D), xs.dtype), jax.ShapeDtypeStruct((b, t), bool))
    again = export.deserialize(exported.serialize())
    assert_same(again.call(xs[:2], MASK[:2]), outputs(xs[:2], MASK[:2]))
