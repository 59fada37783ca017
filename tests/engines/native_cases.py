"""What the tests of the native engine share: random cases, the results of an engine, and how near two results are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.engines import every, native, scan
from seqjax.engines.native import library

SETTINGS = {"mask": None, "resets": None, "reverse": False, "remat_every": None}
CELLS = {
    "lstm": lambda h, **o: seqjax.lstm(h, **o),
    "lstm-peepholes": lambda h, **o: seqjax.lstm(h, peepholes=True, **o),
    "lstm-coupled": lambda h, **o: seqjax.lstm(h, coupled=True, **o),
    "lstm-coupled-peepholes": lambda h, **o: seqjax.lstm(h, coupled=True, peepholes=True, **o),
    "gru": lambda h, **o: seqjax.gru(h, **o),
    "mgu": lambda h, **o: seqjax.mgu(h, **o),
    "rnn": lambda h, **o: seqjax.rnn(h, **o),
    "rnn-relu": lambda h, **o: seqjax.rnn(h, "relu", **o),
    "indrnn": lambda h, **o: seqjax.indrnn(h, **o),
    "indrnn-tanh": lambda h, **o: seqjax.indrnn(h, "tanh", **o),
    "lstm-bare": lambda h, **o: seqjax.lstm(h, peepholes=True, use_bias=False, **o),
    "gru-bare": lambda h, **o: seqjax.gru(h, use_bias=False, **o),
    "rnn-bare": lambda h, **o: seqjax.rnn(h, use_bias=False, **o),
}
SIZES = [  # B, T, D, H
    (1, 1, 1, 1),
    (2, 3, 5, 16),
    (13, 2, 33, 1),
    (3, 5, 70, 65),
    (2, 70, 1, 3),  # several chunks of steps
    (270, 2, 2, 5),  # more sequences than a thread takes at once
    (7, 4, 6, 129),
]
EVERY = {"holes", "resets", "reverse"}

needs_library = pytest.mark.skipif(bool(library.missing()), reason=f"native engine: {library.missing()}")


def make(name, sizes, features=(), seed=0, dtype=np.float32, scale=0.5):
    """A cell, (params, carry, initial carry, xs), cotangents of the results, and settings; none of the numbers is zero."""
    batch, steps, inputs, units = sizes
    rng = np.random.default_rng(seed)
    cell = CELLS[name](units, param_dtype=dtype)
    draw = lambda a, scale=1.0: jnp.asarray((scale * rng.normal(size=a.shape)).astype(np.float32), dtype)  # noqa: E731
    params = jax.tree.map(lambda a: draw(a, scale), jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs)))
    start = jax.eval_shape(lambda p: cell.initial_carry(p, batch), params)
    carry, initial, d_carry = (jax.tree.map(draw, start) for _ in range(3))
    xs, d_ys = draw(np.zeros((steps, batch, inputs))), draw(np.zeros((steps, batch, units)))
    mask = jnp.asarray(rng.random((steps, batch)) < 0.6) if "holes" in features else None
    if "lengths" in features:
        mask = jnp.arange(steps)[:, None] < jnp.asarray(np.resize([steps, 0, 1, steps - 1], batch))[None]
    if mask is not None:
        xs = jnp.where(mask[:, :, None], xs, 0)
    resets = jnp.asarray(rng.random((steps, batch)) < 0.3) if "resets" in features else None
    settings = SETTINGS | {"mask": mask, "resets": resets, "reverse": "reverse" in features}
    if "carries" in features:
        cell = every.recorded(cell)
        d_ys = (d_ys, jax.tree.map(lambda a: draw(np.zeros((steps, *a.shape))), carry))
    return cell, (params, carry, initial, xs), (d_carry, d_ys), settings


def results(engine, cell, arrays, cotangents, settings):
    """(last carry, ys) and the gradients of params, carry, initial carry and xs."""

    def both(arrays, cotangents):
        found, back = jax.vjp(lambda *arrays: engine.run(cell, *arrays, **settings), *arrays)
        return found, back(cotangents)

    return jax.jit(both)(arrays, cotangents)


def assert_near(got, want, bound=1e-5):
    """Every array within `bound` of the largest number of its own kind."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * max(1, np.abs(b).max(initial=0)), err_msg=jax.tree_util.keystr(path))


def compare(name, sizes, features, seed=0):
    """The engine in float32 against the scan in float64."""
    case = make(name, sizes, features, seed)
    got = results(native, *case)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(got))
    assert_near(got, results(scan, *make(name, sizes, features, seed, np.float64)))
