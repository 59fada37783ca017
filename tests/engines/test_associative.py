"""The engine of the linear recurrences against NumPy and against the plain scan, with both of its methods."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from cells import linear_rows
from jax import export
from jax.test_util import check_grads

import seqjax
from seqjax.cells import linear
from seqjax.engines import associative, scan

B, T, D = 3, 7, 4
PLAIN = {"mask": None, "resets": None, "reverse": False, "remat_every": None}
LENGTHS = np.arange(T)[:, None] < np.array([T, 0, 1])[None, :]
ROWS = pytest.mark.parametrize("row", linear_rows.ROWS, ids=[row[0] for row in linear_rows.ROWS])


@pytest.fixture(params=["loop", "tree"])
def method(request, monkeypatch):
    """Either method, in chunks of 4 steps, so that 7 steps leave a rest."""
    monkeypatch.setattr(associative, "_method", lambda: request.param)
    monkeypatch.setitem(associative.CHUNK, request.param, 4 * B)
    return request.param


def _case(make, steps=T, seed=0, dtype=np.float32, **options):
    cell = make(**options)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: jnp.asarray(a + 0.4 * rng.uniform(-1, 1, a.shape), a.dtype), cell.init(jax.random.key(seed), D))
    draw = lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype)  # noqa: E731
    carry, initial = (jax.tree.map(draw, cell.initial_carry(params, B)) for _ in range(2))
    return cell, params, carry, initial, rng.normal(size=(steps, B, D)).astype(dtype)


def _noise(seed, steps=T):
    rng = np.random.default_rng(seed)
    return rng.random((steps, B)) < 0.6, rng.random((steps, B)) < 0.4


def _derive(run, cell, seed=9, **settings):
    """A jitted function of (params, carry, initial, xs): all results, and all gradients of a random sum of them."""
    rng = np.random.default_rng(seed)

    def loss(params, carry, initial, xs, mask=None, resets=None):
        given = {"mask": mask, "resets": resets} if mask is not None else {}
        results = run(cell, params, carry, initial, xs, **(PLAIN | settings | given))
        weights = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), results)
        return sum((a * w).sum() for a, w in zip(jax.tree.leaves(results), jax.tree.leaves(weights))), (
            results,
            weights,
        )

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))


def _same(got, want, rtol=1e-5, atol=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=rtol, atol=atol)


def _numpy(tree):
    return {k: np.asarray(v, np.float64) for k, v in tree._asdict().items()}


def _check_against_numpy(row, settings):
    name, make, reference = row
    cell, params, carry, _, xs = _case(make, dtype=np.float64, param_dtype=jnp.float64)
    initial = cell.initial_carry(params, B)
    got, ((last, ys), (d_last, d_ys)) = _derive(associative.run, cell, **settings)(params, carry, initial, xs)

    turn = slice(None, None, -1) if settings.get("reverse") else slice(None)
    across = lambda a: None if a is None else np.asarray(a)[turn].swapaxes(0, 1)  # noqa: E731
    given = [across(settings.get("mask")), across(settings.get("resets"))]
    p, c = _numpy(params), _numpy(carry)
    want_last, want_ys = ref.forward(reference, p, c, across(xs), *given)[:2]
    want = ref.gradients(reference, p, c, across(xs), _numpy(d_last), across(np.float64(d_ys)), *given)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    close(across(ys), want_ys)
    close(across(got[3]), want[2])
    for ours, numpy in [(last, want_last), (got[0], want[0]), (got[1], want[1])]:
        assert ours._fields == tuple(numpy) and all(v.dtype == jnp.float64 for v in ours)
        for k, v in numpy.items():
            close(getattr(ours, k), v)


@pytest.mark.one_in(4)
@ROWS
@pytest.mark.parametrize("case", ["plain", "lengths", "all-reverse"])
def test_values_and_gradients_equal_numpy(row, case, method, x64):
    holes, resets = _noise(1)
    _check_against_numpy(
        row,
        {
            "plain": {},
            "lengths": {"mask": LENGTHS, "resets": resets},
            "all-reverse": {"mask": holes, "resets": resets, "reverse": True, "remat_every": 2},
        }[case],
    )


@pytest.mark.parametrize("row", linear_rows.VARIANTS, ids=[row[0] for row in linear_rows.VARIANTS])
def test_variants_equal_numpy(row, x64):
    _check_against_numpy(row, {"mask": LENGTHS, "resets": _noise(2)[1]})


@pytest.mark.one_in(5)
@ROWS
@pytest.mark.parametrize("reverse", [False, True])
def test_random_masks_and_resets_equal_the_scan(row, reverse, method):
    cell, params, carry, initial, xs = _case(row[1])
    ours, plain = (_derive(engine.run, cell, reverse=reverse) for engine in (associative, scan))

    @hypothesis.settings(max_examples=10, deadline=None)
    @hypothesis.given(mask=hnp.arrays(bool, (T, B)), resets=hnp.arrays(bool, (T, B)), seed=st.integers(0, 99))
    def check(mask, resets, seed):
        inputs = np.where(mask[..., None], np.random.default_rng(seed).normal(size=xs.shape), 0).astype(np.float32)
        got = ours(params, carry, initial, inputs, mask, resets)
        want = plain(params, carry, initial, inputs, mask, resets)
        _same(got[0], want[0])
        _same(got[1][0], want[1][0])
        assert np.all(np.asarray(got[1][0][1])[~mask] == 0)

    check()


@pytest.mark.one_in(12)
@pytest.mark.parametrize(("steps", "remat"), [(0, None), (0, 2), (1, None), (2, None), (6, None), (7, 1), (7, 3), (7, 100)])
@pytest.mark.parametrize("reverse", [False, True])
def test_every_division_into_chunks_gives_the_same(steps, remat, reverse, method):
    cell, *given = _case(linear.lru if steps == 7 else linear.mingru, steps, hidden_size=4)
    mask, resets = _noise(3, steps)
    settings = {"mask": mask, "resets": resets, "reverse": reverse}
    got = _derive(associative.run, cell, remat_every=remat, **settings)(*given)
    want = _derive(scan.run, cell, **settings)(*given)
    _same(got, want)
    if steps == 0:
        _same(got[1][0][0], given[1], 0, 0)


@pytest.mark.one_in(4)
@ROWS
def test_bfloat16_is_the_scan_in_bfloat16(row, method):
    cell, *given = _case(functools.partial(row[1], dtype=jnp.bfloat16))
    got, want = (_derive(engine.run, cell)(*given) for engine in (associative, scan))
    assert got[1][0][1].dtype == jnp.bfloat16
    _same(got[1], want[1], 0.01, 0.01)
    _same(got[0], want[0], 0.03, 0.03)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_of_the_recurrence_to_second_order_in_both_modes(reverse, method, x64):
    rng = np.random.default_rng(0)
    a, b, h = (jnp.asarray(rng.normal(size=shape)) for shape in [(3, 2), (3, 2), (2,)])
    a = a.at[1, 0].set(0)
    f = jax.jit(functools.partial(associative.linear_recurrence, reverse=reverse, method=method))
    check_grads(f, (a, b, h), order=2, modes=("fwd", "rev"), rtol=1e-4, atol=1e-4)


def test_derivatives_of_a_run_in_both_modes_and_one_over_the_other(x64):
    """With two chunks, resets and a mask: forward over reverse equals reverse over forward, and both the scan's."""
    cell, params, carry, initial, xs = _case(linear.lru, 3, dtype=np.float64, hidden_size=2, param_dtype=jnp.float64)
    mask, resets = _noise(6, 3)

    def second(engine, outer, inner):
        def f(params, xs):
            settings = PLAIN | {"mask": mask, "resets": resets, "remat_every": 2}
            return (engine.run(cell, params, carry, initial, xs, **settings)[1] ** 2).sum()

        d = jax.tree.map(jnp.ones_like, params)
        if inner == "fwd":
            slope = lambda xs: jax.jvp(lambda p: f(p, xs), (params,), (d,))[1]  # noqa: E731
        else:
            slope = lambda xs: sum(g.sum() for g in jax.grad(f)(params, xs))  # noqa: E731
        by = {"fwd": lambda g: jax.jvp(g, (xs,), (jnp.ones_like(xs),))[1], "rev": lambda g: jax.grad(g)(xs).sum()}
        return jax.jit(lambda: by[outer](slope))()

    want = second(scan, "fwd", "fwd")
    assert abs(want) > 0.1
    for outer, inner in [("fwd", "rev"), ("rev", "fwd"), ("rev", "rev")]:
        np.testing.assert_allclose(second(associative, outer, inner), want, rtol=1e-9)


def test_vmap_is_one_run_after_the_other(method):
    cell, params, carry, initial, xs = _case(linear.lru, hidden_size=4)
    mask, resets = _noise(4)
    settings = PLAIN | {"mask": mask, "resets": resets}

    def loss(params, xs):
        return (associative.run(cell, params, carry, initial, xs, **settings)[1] ** 2).sum()

    pair, inputs = jax.tree.map(lambda a: jnp.stack([a, 0.9 * a]), params), np.stack([xs, -xs])
    got, one = jax.jit(jax.vmap(jax.grad(loss)))(pair, inputs), jax.jit(jax.grad(loss))
    want = [one(jax.tree.map(lambda a, i=i: a[i], pair), inputs[i]) for i in range(2)]
    _same(got, jax.tree.map(lambda *a: jnp.stack(a), *want))


@pytest.mark.parametrize("solve", ["loop", "tree"])
def test_long_memory_over_many_steps(solve):
    """20,000 steps whose factors lie within 1e-3 of 1, in float32, against float64: values, and gradients by hand."""
    steps = 20_000
    rng = np.random.default_rng(0)
    a = (1 - rng.uniform(0, 1e-3, (steps, 2))).astype(np.float32)
    b, d = (rng.normal(size=(steps, 2)).astype(np.float32) for _ in range(2))
    h = rng.normal(size=2).astype(np.float32)

    @jax.jit
    def run(a, b, h):
        hs, back = jax.vjp(functools.partial(associative.linear_recurrence, method=solve), a, b, h)
        return hs, *back(d)

    hs, d_a, d_b, d_h = (np.float64(v) for v in run(a, b, h))
    want, g = np.zeros((steps + 1, 2)), np.zeros((steps + 1, 2))
    want[-1], wide = h, np.float64(a)
    for t in range(steps):
        want[t] = wide[t] * want[t - 1] + b[t]
    for t in reversed(range(steps)):
        g[t] = d[t] + (wide[t + 1] * g[t + 1] if t + 1 < steps else 0)
    before = np.concatenate([np.float64(h)[None], want[: steps - 1]])
    for got, exact in [(hs, want[:steps]), (d_b, g[:steps]), (d_a, g[:steps] * before), (d_h, wide[0] * g[0])]:
        assert np.abs(got - exact).max() < 2e-5 * np.abs(exact).max()


def test_nan_before_a_reset_stays_there(method):
    cell, params, carry, initial, xs = _case(linear.lru, hidden_size=4)
    resets = np.zeros((T, B), bool)
    # In chunks of four steps, one reset within a chunk and one at the start of a chunk.
    xs[2, 0], resets[3, 0] = np.nan, True
    xs[3, 1], resets[4, 1] = np.nan, True

    def run(engine):
        def loss(carry, initial, xs):
            last, ys = engine.run(cell, params, carry, initial, xs, **(PLAIN | {"resets": resets}))
            return (ys[4:] ** 2).sum() + (last.re**2).sum(), (last, ys)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(carry, initial, xs)

    (got, (last, ys)), (_, (want_last, want_ys)) = run(associative), run(scan)
    np.testing.assert_allclose(ys, want_ys, rtol=1e-5, atol=1e-5)
    assert np.isnan(ys[2, 0]).all() and np.isnan(ys[3, 1]).all() and np.isfinite(ys[4:]).all()
    _same(last, want_last)
    assert np.isfinite(got[1].re).all() and np.isfinite(got[2][4:]).all() and np.abs(got[2][4:]).max() > 0


def test_through_unroll_with_nan_in_the_padding(method):
    cell = seqjax.stack(linear.minlstm(4), linear.lru(3))
    params = cell.init(jax.random.key(0), D)
    xs = np.random.default_rng(5).normal(size=(B, T, D)).astype(np.float32)
    dirty = np.where(LENGTHS.T[..., None], xs, np.nan)

    def run(xs, engine):
        def loss(params, xs):
            last, ys = seqjax.unroll(cell, params, xs, lengths=[T, 0, 1], reverse=True, engine=engine)
            return (ys**2).sum() + sum((a**2).sum() for a in jax.tree.leaves(last)), (last, ys)

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, xs)

    got = run(dirty, "associative")
    _same(got, run(xs, "associative"), 0, 0)
    _same(got, run(xs, "scan"))
    assert np.all(np.asarray(got[0][1])[~LENGTHS.T] == 0)


def test_nothing_is_compiled_twice():
    cell, *given = _case(linear.mingru, hidden_size=4)
    traces = []

    @jax.jit
    def run(params, carry, initial, xs, mask):
        traces.append(1)
        return associative.run(cell, params, carry, initial, xs, **(PLAIN | {"mask": mask}))

    run(*given, LENGTHS)
    run(*given, ~LENGTHS)
    assert len(traces) == 1


def test_backward_keeps_little(monkeypatch):
    """Of a sequence of 64 steps, the states between chunks, beside the inputs themselves."""
    monkeypatch.setitem(associative.CHUNK, "loop", 8 * B)
    cell, params, carry, initial, xs = _case(linear.mingru, 64, hidden_size=4)

    def kept(engine, every):
        run = lambda p: engine.run(cell, p, carry, initial, xs, **(PLAIN | {"remat_every": every}))[1]  # noqa: E731
        return sum(leaf.nbytes for leaf in jax.tree.leaves(jax.vjp(run, params)[1]))

    fixed = xs.nbytes + sum(a.nbytes for a in jax.tree.leaves((params, carry, initial)))
    states = 64 // 8 * B * 4 * 4
    assert kept(associative, None) <= fixed + states
    assert kept(associative, None) < kept(associative, 4) <= fixed + 2 * states
    assert kept(scan, None) > fixed + 10 * states


def test_steps_left_open_in_an_export_take_the_loop_on_every_backend(monkeypatch):
    monkeypatch.setattr(associative, "_method", lambda: "tree")
    cell = seqjax.mingru(5)
    params = cell.init(jax.random.key(0), D)
    xs = np.random.default_rng(3).standard_normal((2, 7, D), np.float32)

    def forward(xs):
        return seqjax.unroll(cell, params, xs, engine="associative")[1]

    b, t = export.symbolic_shape("b,t")
    opened = export.export(jax.jit(forward))(jax.ShapeDtypeStruct((b, t, D), jnp.float32))
    np.testing.assert_allclose(opened.call(xs), forward(xs), rtol=1e-5, atol=1e-6)


def test_the_method_is_the_loop_on_a_cpu_only(monkeypatch):
    for backend, want in [("cpu", "loop"), ("gpu", "tree"), ("tpu", "tree")]:
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert associative._method() == want


def test_refuses_what_is_not_linear():
    assert "gru is not a linear recurrence" in associative.refusal(seqjax.gru(2), None, None)
    assert all(associative.refusal(make(), None, None) is None for _, make, _ in linear_rows.ROWS)
