"""The table of all cells and wrappers. A new one is tested by adding a row: the generic suites run over this list."""

from typing import NamedTuple

import jax
import numpy as np
import numpy_reference as ref

import seqjax

B, T, D, H = 3, 6, 4, 4


class Row(NamedTuple):
    name: str
    make: object  # make(**options) -> Cell with H outputs for D inputs
    reference: ref.Reference | None  # None for a wrapper


def _shift(key, shape, dtype):
    """Biases that are not zero, so that a forgotten bias shows."""
    return jax.random.uniform(key, shape, dtype, -0.5, 0.5)


def _row(name, build, reference, **settings):
    return Row(name, lambda **options: build(H, **settings, **{"bias_init": _shift, **options}), reference)


CELLS = [
    _row("rnn", seqjax.rnn, ref.RNN_TANH),
    _row("rnn-relu", seqjax.rnn, ref.RNN_RELU, activation="relu"),
    _row("irnn", seqjax.rnn, ref.RNN_RELU, activation="relu", recurrent_init=seqjax.initializers.identity(0.9)),
    _row("lstm", seqjax.lstm, ref.LSTM),
    _row("gru", seqjax.gru, ref.GRU_AFTER),
    _row("gru-before", seqjax.gru, ref.GRU_BEFORE, reset_after=False),
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

ROWS = CELLS + WRAPPERS


def names(rows):
    return [row.name for row in rows]


def setup(row, seed=0, dtype=np.float32, batch=B, steps=T, **options):
    """A cell, its params, random inputs (B, T, D), and a random carry."""
    cell = row.make(**options)
    params = cell.init(jax.random.key(seed), D)
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(batch, steps, D)).astype(dtype)
    start = cell.initial_carry(params, batch)
    carry = jax.tree.map(lambda a: jax.numpy.asarray(0.5 * rng.normal(size=a.shape), a.dtype), start)
    return cell, params, xs, carry


def as_numpy(tree):
    """A NamedTuple of arrays as the dict of float64 arrays that the reference takes; absent parameters left out."""
    return {k: np.asarray(v, np.float64) for k, v in tree._asdict().items() if v is not None}


def assert_same(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=rtol, atol=atol)
