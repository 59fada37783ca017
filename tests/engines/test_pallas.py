"""The Pallas engine: tiles against whole arrays, kernels against the plain scan (in interpret mode where there is no GPU),
their lowering to Triton, and what is refused."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import ROWS, assert_same, names, setup

import seqjax
from seqjax.engines import cudnn, pallas, pallas_tiles, scan

B, T, D, H = 19, 4, 3, 16  # two blocks of sequences, the second one nearly empty
GPU = jax.default_backend() == "gpu"
SETTINGS = {"mask": None, "resets": None, "reverse": False, "remat_every": None}
LENGTHS = np.arange(T)[:, None] < np.resize([T, 0, 1, 3], B)[None, :]
HOLES = np.random.default_rng(1).random((T, B)) < 0.7
RESETS = np.random.default_rng(0).random((T, B)) < 0.3

CELLS = {
    "rnn": lambda **o: seqjax.rnn(H, **o),
    "rnn-relu": lambda **o: seqjax.rnn(H, "relu", **o),
    "lstm": lambda **o: seqjax.lstm(H, **o),
    "lstm-peepholes-coupled": lambda **o: seqjax.lstm(H, peepholes=True, coupled=True, **o),
    "lstm-layer-norm": lambda **o: seqjax.lstm(H, peepholes=True, layer_norm=True, **o),
    "gru": lambda **o: seqjax.gru(H, **o),
    "mgu": lambda **o: seqjax.mgu(H, **o),
}
every = pytest.mark.parametrize("name", CELLS)


def _case(name, seed=0, **options):
    """A cell, params none of which is zero, inputs that are zero at padded steps, and a carry."""
    cell = CELLS[name](**options)
    rng = np.random.default_rng(seed)
    params = cell.init(jax.random.key(seed), D)
    params = jax.tree.map(lambda a: a + jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype), params)
    carry = cell.initial_carry(params, B)
    carry, initial = (jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), carry) for _ in range(2))
    return cell, params, initial, carry, rng.normal(size=(T, B, D)).astype(np.float32)


def _value_and_gradients(run, cell, *arguments, **settings):
    """Outputs, the last carry, and the gradients of a random product with them."""
    settings = SETTINGS | settings

    def loss(params, initial, carry, xs):
        last, ys = run(cell, params, carry, initial, xs, **settings)
        rng = np.random.default_rng(9)
        weighed = [(a.astype(jnp.float32) * rng.normal(size=a.shape)).sum() for a in jax.tree.leaves((last, ys))]
        return sum(weighed), (last, ys)

    (_, values), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(*arguments)
    return values, gradients


def _assert_near(got, want, tolerance):
    """The norm of each array's error within a share of the array's norm."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.linalg.norm(a - b)
        assert error <= tolerance * np.linalg.norm(b), f"{jax.tree_util.keystr(path)}: {error} of {np.linalg.norm(b)}"


def _kernels():
    """Full float32 on a GPU; interpret mode elsewhere."""
    return jax.default_matmul_precision("highest") if GPU else pallas.interpreted()


def _compare(case, tolerance, **settings):
    with _kernels():
        assert pallas.refusal(case[0], case[1], case[-1], **(SETTINGS | settings)) is None
        got = _value_and_gradients(pallas.run, *case, **settings)
    with jax.default_matmul_precision("highest") if GPU else contextlib.nullcontext():
        _assert_near(got, _value_and_gradients(scan.run, *case, **settings), tolerance)


@every
def test_values_and_gradients_equal_the_plain_scan(name):
    _compare(_case(name), 1e-5, mask=LENGTHS, resets=RESETS, reverse=name in ("lstm", "gru", "rnn"))


@pytest.mark.parametrize(
    "settings", [{}, {"mask": HOLES}, {"resets": RESETS, "reverse": True, "remat_every": 3}], ids=lambda s: "-".join(s)
)
def test_settings_one_by_one(settings):
    _compare(_case("lstm", 1), 1e-5, **settings)


@pytest.mark.parametrize("name", ["lstm", "lstm-layer-norm", "gru"])
def test_bfloat16_equals_the_plain_scan_in_bfloat16(name):
    _compare(_case(name, 2, dtype=jnp.bfloat16), 2e-2, mask=LENGTHS, resets=RESETS)


def test_without_derivatives_and_with_nothing_to_run():
    cell, params, initial, carry, xs = _case("gru")
    settings = SETTINGS | {"mask": LENGTHS, "resets": RESETS}
    run = lambda engine: jax.jit(lambda *a: engine(cell, *a, **settings))(params, carry, initial, xs)  # noqa: E731
    with _kernels():
        _assert_near(run(pallas.run), run(scan.run), 1e-6)
        last, ys = pallas.run(cell, params, carry, initial, xs[:0], **SETTINGS)
    assert_same(last, carry, 0, 0)
    assert ys.shape == (0, B, H)


@pytest.mark.skipif(
    jax.__version_info__ > (0, 10, 2) and not GPU,
    reason="later versions of JAX compile a kernel where they lower it, and need a GPU for that",
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@every
def test_lowers_to_triton(name, dtype):
    cell, *arguments = _case(name, dtype=dtype)

    def loss(params, initial, carry, xs, mask, resets):
        settings = SETTINGS | {"mask": mask, "resets": resets, "reverse": True}
        last, ys = pallas.run(cell, params, carry, initial, xs, **settings)
        return sum(a.astype(jnp.float32).sum() for a in jax.tree.leaves((last, ys)))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
    text = gradient.trace(*arguments, HOLES, RESETS).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__gpu$xla.gpu.triton") == 2 and "_forward_kernel" in text and "_backward_kernel" in text


def _whole(a, v):
    """What a combine may do with wide arrays (rows, 3 N) and a vector (3 N,)."""
    centred = a - a.mean(axis=-1, keepdims=True)
    top = a.max(axis=-1, keepdims=True)
    b = jnp.tanh(centred * v.reshape(1, -1) + jax.jit(jnp.square)(a)) / top
    first, rest = jnp.split(b, [4], axis=-1)
    column = first.sum(axis=-1, keepdims=True)
    wide = jnp.concatenate([rest, first], axis=-1) + jnp.ones_like(b) * column
    wide = jnp.where(column > 0, wide, -wide)
    return wide, wide[:, 4:8], b.sum(axis=0), v[None]


def test_tiles_give_what_whole_arrays_give():
    rng = np.random.default_rng(0)
    a, v = rng.normal(size=(2, 12)).astype(np.float32), rng.normal(size=12).astype(np.float32)
    trace = jax.make_jaxpr(_whole)(a, v)
    tiles = [tuple(jnp.split(x, 3, axis=-1)) for x in (a, v)]

    def together(results):
        return [jnp.concatenate(pallas_tiles.members(r), axis=-1) for r in results]

    run = pallas_tiles.by_tiles(trace, 4)
    assert_same(together(run(*tiles)), list(_whole(a, v)))
    loss = lambda results: sum((r**2).sum() for r in results)  # noqa: E731
    got = jax.grad(lambda *x: loss(together(run(*x))), argnums=(0, 1))(*tiles)
    want = jax.grad(lambda *x: loss(_whole(*x)), argnums=(0, 1))(a, v)
    assert_same(tuple(together(got)), want)
    inside = str(jax.make_jaxpr(jax.grad(lambda *x: loss(jax.tree.leaves(run(*x))), argnums=(0, 1)))(*tiles))
    assert "tanh" in inside and not re.search(r"= (split|slice|concatenate|pad)\b", inside)


@pytest.mark.parametrize(
    "function",
    [lambda a: jnp.cumsum(a, -1), lambda a: a[:, 1:5], lambda a: a.reshape(2, 3, 4), lambda a: a + a[:, ::-1]],
)
def test_what_tiles_cannot_do_is_an_error(function):
    a = jnp.ones((2, 12))
    with pytest.raises(NotImplementedError, match=r"of \(2, 12\).* cannot be done gate by gate"):
        pallas_tiles.by_tiles(jax.make_jaxpr(function)(a), 4)(tuple(jnp.split(a, 3, axis=-1)))


def _with_combine(cell, combine):
    return cell.replace(combine=combine(cell.combine))


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: seqjax.gru(H, reset_after=False), "no three-part split"),
        (lambda: seqjax.lstm(24), "power of two and at least 16, and it is 24"),
        (lambda: seqjax.lstm(8), "and it is 8"),
        (lambda: seqjax.lstm(128), r"\(128, 512\) in float32, are 256 KiB, and 128 KiB fit"),
        (lambda: seqjax.lstm(H, proj_size=32), r"carry and output must be \(B, 32\)"),
        (lambda: seqjax.lstm(H, proj_size=H), r"reads a parameter \(16, 16\)"),
        (lambda: seqjax.lstm(H, dtype=jnp.float16), "in float32 or bfloat16, and the cell in float16"),
        (lambda: seqjax.indrnn(H), "not one dense product"),
        (lambda: seqjax.lstm(H).replace(spatial=(4,)), "axes in between"),
        (
            lambda: _with_combine(seqjax.lstm(H), lambda f: lambda p, c, x, r: f(p, c, jnp.cumsum(x, -1), r)),
            "does not run gate by gate: cumsum",
        ),
    ],
)
def test_what_it_cannot_run_is_refused_with_the_reason(make, reason):
    cell = make()
    params, xs = cell.init(jax.random.key(0), D), jnp.zeros((T, B, D))
    with _kernels():
        got = pallas.refusal(cell, params, xs, **SETTINGS)
    assert got is not None and re.search(reason, got), got


def test_masks_drawn_for_the_whole_batch_are_refused():
    cell = seqjax.recurrent_dropout(seqjax.gru(H), 0.5)
    noisy = cell.noise(jax.random.key(1), cell.init(jax.random.key(0), D), jnp.zeros((T, B, D)))
    with _kernels():
        assert "16 sequences at a time" in pallas.refusal(*noisy, **SETTINGS)


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_every_cell_of_the_table_is_refused_for_its_own_reason(row):
    """Their size is too small for a tile, which is the reason only where nothing about the cell itself is."""
    cell, params, xs, _ = setup(row)
    xs = jnp.asarray(xs.swapaxes(0, 1))
    reason = "power of two and at least 16, and it is 4"
    if cell.spatial:
        reason = f"those of {cell.name} have axes in between"
    elif cell.combine is None or cell.recur is None:
        reason = f"{cell.name} has no three-part split"
    with _kernels():
        assert reason in pallas.refusal(cell, params, xs, **SETTINGS)
    if row.name != "lstm":
        assert f"plain LSTM alone, and the cell is {cell.name}" in cudnn.refusal(cell, params, xs, **SETTINGS)
    elif not GPU:
        assert cudnn.refusal(cell, params, xs, **SETTINGS) == "cuDNN needs a GPU, and the backend is cpu"


@pytest.mark.skipif(GPU, reason="needs a machine without a GPU")
def test_without_a_gpu_it_runs_only_where_interpret_mode_is_asked_for():
    cell, params, _, _, xs = _case("lstm")
    assert "it needs a GPU, and the backend is cpu" in pallas.refusal(cell, params, xs, **SETTINGS)
    with pallas.interpreted():
        assert pallas.refusal(cell, params, xs, **SETTINGS) is None
    assert pallas.refusal(cell, params, xs, **SETTINGS)
    assert "one array" in pallas.refusal(cell, params, (xs, xs), **SETTINGS)
