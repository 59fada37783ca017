"""The table of all cells, read from the registry, and wrappers. A new cell needs its reference here for the generic suites."""

from typing import NamedTuple

import jax
import numpy as np
import numpy_reference as ref
from cells import linear_rows, wrapper_rows

import seqjax

B, T, D, H = 3, 6, 4, 4


class Row(NamedTuple):
    name: str
    make: object  # make(**options) -> Cell with H outputs for D inputs
    reference: ref.Reference | None  # None for a wrapper


def _row(name, build, reference, **settings):
    return Row(name, lambda **options: build(**settings, **options), reference)


def _lstm(name, **settings):
    return _row(name, seqjax.lstm, ref.LSTM, **({"hidden_size": H} | settings))


REFERENCES = {
    "lstm": ref.LSTM,
    "gru": ref.GRU_AFTER,
    "rnn": ref.RNN_TANH,
    "irnn": ref.RNN_RELU,
    "indrnn": ref.INDRNN_TANH,
    "mgu": ref.MGU_AFTER,
    "slstm": ref.SLSTM_EXP,
    "block_gru": ref.BLOCK_GRU,
    "lem": ref.LEM,
    "cornn": ref.CORNN,
    "unicornn": ref.UNICORNN,
    **{name: reference for name, _, reference in linear_rows.ROWS},
}
# Where a cell's defaults would test less.
SETTINGS = {
    "indrnn": {"activation": "tanh"},
    "slstm": {"heads": 2},
    "block_gru": {"blocks": 2},
    "lem": {"dt": 0.8},
    "cornn": {"dt": 0.3, "gamma": 0.5, "epsilon": 0.2},
    "unicornn": {"dt": 0.6, "alpha": 0.7},
    "lru": {"state_size": 3, "r_min": 0.5, "r_max": 0.99},
}

CELLS = [
    *(_row(name, make, REFERENCES[name], hidden_size=H, **SETTINGS.get(name, {})) for name, make in seqjax.cells.CELLS.items()),
    _lstm("lstm-peepholes", peepholes=True),
    _lstm("lstm-all", hidden_size=6, peepholes=True, coupled=True, proj_size=H, layer_norm=True),
    _row("gru-before", seqjax.gru, ref.GRU_BEFORE, hidden_size=H, reset_after=False),
    _row("gru-bare", seqjax.gru, ref.GRU_AFTER, hidden_size=H, use_bias=False),
    _lstm("lstm-heads", heads=2, use_bias=False),
    _row("conv_lstm", seqjax.conv_lstm, ref.CONV_LSTM, features=H, kernel_size=3, spatial_shape=4, peepholes=True),
]

# Settings of the cells above, tested against the references and not by every generic suite.
VARIANTS = [
    _row("rnn-bare", seqjax.rnn, ref.RNN_TANH, hidden_size=H, use_bias=False),
    _row("rnn-heads", seqjax.rnn, ref.RNN_TANH, hidden_size=H, heads=2),
    _row("indrnn-bare", seqjax.indrnn, ref.INDRNN_TANH, hidden_size=H, activation="tanh", use_bias=False),
    _row("gru-heads", seqjax.gru, ref.GRU_AFTER, hidden_size=H, heads=2),
    _row("gru-before-heads", seqjax.gru, ref.GRU_BEFORE, hidden_size=H, reset_after=False, heads=2, use_bias=False),
    _row("mgu-bare", seqjax.mgu, ref.MGU_AFTER, hidden_size=H, use_bias=False),
    _row("mgu-before-heads", seqjax.mgu, ref.MGU_BEFORE, hidden_size=H, reset_after=False, heads=4),
    _lstm("lstm-bare", use_bias=False),
    _lstm("lstm-heads-all", hidden_size=6, heads=2, use_bias=False, peepholes=True, coupled=True, proj_size=H, layer_norm=True),
    _row("slstm-bare", seqjax.slstm, ref.SLSTM_EXP, hidden_size=H, use_bias=False),
    _row("rnn-relu", seqjax.rnn, ref.RNN_RELU, hidden_size=H, activation="relu"),
    _row("indrnn-relu", seqjax.indrnn, ref.INDRNN_RELU, hidden_size=H),
    _lstm("lstm-coupled", coupled=True),
    _lstm("lstm-proj", hidden_size=6, proj_size=H),
    _lstm("lstm-norm", layer_norm=True),
    _lstm("lstm-peepholes-coupled", peepholes=True, coupled=True),
    _lstm("lstm-peepholes-proj", peepholes=True, hidden_size=3, proj_size=H),
    _lstm("lstm-peepholes-norm", peepholes=True, layer_norm=True),
    _lstm("lstm-coupled-proj", coupled=True, hidden_size=6, proj_size=H),
    _lstm("lstm-norm-proj", layer_norm=True, hidden_size=6, proj_size=H),
    _row("mgu-before", seqjax.mgu, ref.MGU_BEFORE, hidden_size=H, reset_after=False),
    _row("slstm-one-head", seqjax.slstm, ref.SLSTM_EXP, hidden_size=H),
    _row("slstm-sigmoid", seqjax.slstm, ref.SLSTM_SIGMOID, hidden_size=H, heads=2, forget_gate="sigmoid"),
    _row("lem-bare", seqjax.lem, ref.LEM, hidden_size=H, use_bias=False, dt=0.8),
    _row("block_gru-one-block", seqjax.block_gru, ref.BLOCK_GRU, hidden_size=H, blocks=1),
    _row(
        "conv_lstm-valid",
        seqjax.conv_lstm,
        ref.conv_lstm((2, 1), "valid"),
        features=H,
        kernel_size=2,
        spatial_shape=(4, 3),
        strides=(2, 1),
        padding="valid",
        peepholes=True,
    ),
    _row(
        "conv_lstm-dilated",
        seqjax.conv_lstm,
        ref.conv_lstm(None, "same", (2,)),
        features=H,
        kernel_size=2,
        spatial_shape=5,
        dilation_rate=2,
    ),
    _row("conv_lstm-2d", seqjax.conv_lstm, ref.CONV_LSTM, features=H, kernel_size=(2, 3), spatial_shape=(3, 2)),
]

WRAPPERS = [
    Row("stack", lambda **o: seqjax.stack(seqjax.lstm(5, **o), seqjax.gru(3, **o), seqjax.rnn(H, **o)), None),
    Row("residual", lambda **o: seqjax.residual(seqjax.lstm(H, **o)), None),
    Row("dropout", lambda **o: seqjax.dropout(seqjax.gru(H, **o), 0.5), None),
    Row(
        "deep",
        lambda **o: seqjax.stack(
            [seqjax.dropout(seqjax.lstm(H, **o), 0.3), seqjax.residual(seqjax.dropout(seqjax.gru(H, **o), 0.3, True))]
        ),
        None,
    ),
]


def _joined(**options):
    """Layers between cells: a dense layer, both kinds of skip connections, functions, and merging two outputs."""
    skipping = seqjax.stack(seqjax.lstm(3, **options), seqjax.dense(2, "relu", **options), seqjax.gru(3, **options), skip_connections="all")
    both = seqjax.stack(skipping, seqjax.dense(H, **options), skip_connections="input")
    return seqjax.stack(both, jax.numpy.tanh, lambda y: (y[:3], y[3:]), lambda pair: pair[0] * pair[1][:3], seqjax.rnn(H, **options))


WRAPPERS += [Row("joined", _joined, None)]
VARIANTS += [Row(*row) for row in linear_rows.VARIANTS]
WRAPPERS += [Row(*pair, None) for pair in wrapper_rows.wrappers(H)]
ROWS = CELLS + WRAPPERS


def names(rows):
    return [row.name for row in rows]


def setup(row, seed=0, dtype=np.float32, batch=B, steps=T, **options):
    """A cell, its params, random inputs (B, T, *spatial, D), and a random carry.

    Every parameter is moved from its initial value, so that a forgotten bias, gain or peephole shows.
    """
    cell = row.make(**options)
    rng = np.random.default_rng(seed)

    def draw(center, scale, like):
        return jax.numpy.asarray(center + scale * rng.uniform(-1, 1, like.shape), like.dtype)

    params = jax.tree.map(lambda a: draw(np.asarray(a), 0.4, a), cell.init(jax.random.key(seed), D))
    xs = rng.normal(size=(batch, steps, *cell.spatial, D)).astype(dtype)
    carry = jax.tree.map(lambda a: draw(0, 0.8, a), cell.initial_carry(params, batch))
    return cell, params, xs, carry


def as_numpy(tree):
    """A NamedTuple of arrays as the dict of float64 arrays that the reference takes, without absent parameters."""
    return {k: np.asarray(v, np.float64) for k, v in tree._asdict().items() if v is not None}


def assert_same(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=rtol, atol=atol)
