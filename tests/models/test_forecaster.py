"""Forecasters: they see no future, missing values have no influence, the carry is kept, sampling against exact values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.errors import UserError
from seqjax.models.forecast_networks import SCALINGS, Steps, Window, context_scale, step_inputs
from seqjax.models.forecaster import KINDS, Forecaster, _paths, sample_paths
from seqjax.nn.outputs import LEVELS, make_output

pytestmark = pytest.mark.one_in(6)

C, H, K, P, S = 12, 4, 3, 2, 2
RNG = np.random.default_rng(0)


def window(rows=3, steps=C + H, missing=0.2):
    def normal(*shape):
        return jnp.asarray(RNG.normal(size=(rows, *shape)), jnp.float32)

    observed = jnp.asarray(RNG.random((rows, steps)) >= missing)
    scale = jnp.asarray(RNG.uniform(1, 4, rows), jnp.float32)
    return Window(
        5 + 2 * normal(steps),
        observed,
        normal(steps, K),
        normal(steps, P),
        normal(S),
        4 + normal(),
        scale,
        jnp.ones(rows, bool),
    )


@functools.cache
def model(kind, scaling="series", output="gaussian", **options):
    options |= {"highway": 5} if kind == "direct" else {"paths": 30}
    return Forecaster(kind, seqjax.gru(6), make_output(output), C, H, scaling, **options)


def forecast(one, params, given):
    """Differentiable numbers that depend on the whole forecast."""
    if one.kind == "direct":
        inputs, lags, future, middle, spread = one._direct_inputs(given, 1)
        raw = one.network.apply({"params": params["member_0"]}, inputs, lags, future)
        return one.output.distribution(raw, middle, spread)["mean"][:, 0]
    return _paths.__wrapped__(one, params, given, jax.random.key(0), H).mean(0)


CASES = [(kind, scaling) for kind in KINDS for scaling in SCALINGS]


@pytest.mark.parametrize("kind, scaling", CASES)
def test_forecasts_see_no_future(kind, scaling):
    """The gradient to what comes after the origin is exactly zero, for values and for covariates that are known in the past only;
    to the context, and to what is known in the future, it is not. Scaling is in the gradient."""
    one, given = model(kind, scaling), window(missing=0.0)
    params = jax.jit(one.init)(jax.random.key(1), given)

    def total(value, past, known):
        return jnp.sum(jnp.sin(forecast(one, params, given._replace(value=value, past=past, known=known))))

    value, past, known = jax.jit(jax.grad(total, (0, 1, 2)))(given.value, given.past, given.known)
    assert (value[:, C:] == 0).all() and (past[:, C:] == 0).all()
    assert (value[:, :C] != 0).any(0).all()
    assert (past[:, : C - 1] != 0).any(0).all() and (known[:, C:] != 0).any(0).all()
    whether = given._replace(observed=given.observed.at[:, C:].set(False))
    np.testing.assert_array_equal(one.quantiles(params, whether), one.quantiles(params, given))


@pytest.mark.parametrize("kind, scaling", CASES)
def test_missing_values_have_no_influence(kind, scaling):
    """Missing values affect neither forecasts, loss nor gradient, even if they are NaN."""
    one, given = model(kind, scaling), window(missing=0.4)
    params = jax.jit(one.init)(jax.random.key(1), given)

    @jax.jit
    @jax.value_and_grad
    def slopes(params, given):
        return one.loss(params, given, rng=jax.random.key(0), forks=3 if kind == "direct" else 1)[1]

    before, plain = slopes(params, given), jax.jit(one.loss)
    for strange in (1e6, jnp.nan):
        other = given._replace(value=jnp.where(given.observed, given.value, strange))
        after = slopes(params, other)
        jax.tree.map(np.testing.assert_array_equal, before, after)
        np.testing.assert_array_equal(one.quantiles(params, other), one.quantiles(params, given))
    counted = plain(params, given)[2]
    assert counted == given.observed[:, C:].sum()
    nothing = given._replace(observed=jnp.zeros_like(given.observed))
    assert np.isfinite(one.quantiles(params, nothing)).all() and plain(params, nothing)[1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_fill_a_batch_do_not_count(kind):
    one, given = model(kind), window()
    params = jax.jit(one.init)(jax.random.key(1), given)
    first = jax.tree.map(lambda column: column[:2], given)
    masked = given._replace(mask=jnp.array([True, True, False]))
    np.testing.assert_allclose(jax.jit(one.loss)(params, masked)[1:], jax.jit(one.loss)(params, first)[1:], rtol=1e-5)


@pytest.mark.parametrize("kind, scaling", [case for case in CASES if case[1] != "series"])
def test_scaling_by_the_context(kind, scaling):
    """A series in another unit gets the same forecasts in that unit."""
    one, given = model(kind, scaling), window()
    params = jax.jit(one.init)(jax.random.key(1), given)
    other = given._replace(value=100 * given.value, location=100 * given.location, scale=100 * given.scale)
    np.testing.assert_allclose(one.quantiles(params, other), 100 * one.quantiles(params, given), rtol=2e-3, atol=0.02)


def test_context_scale():
    value, observed = (
        jnp.array([[1.0, 5.0, 77.0], [0.0, 0.0, 0.0], [3.0, 3.0, 3.0]]),
        jnp.array([[True, True, False]] * 2 + [[True] * 3]),
    )
    location, scale = jnp.array([9.0, 9.0, 9.0]), jnp.array([2.0, 2.0, 200.0])
    middle, spread = context_scale("standard", value, observed, location, scale)
    assert middle.tolist() == [3, 0, 3] and spread[:1] == pytest.approx(2) and spread[1:].tolist() == pytest.approx([0.02, 2])
    middle, spread = context_scale("mean_abs", value, observed, location, scale)
    assert middle.tolist() == [0, 0, 0] and spread.tolist() == pytest.approx([3, 0.02, 3])
    middle, spread = context_scale("standard", value, observed & False, location, scale)
    assert middle.tolist() == location.tolist() and spread.tolist() == scale.tolist()
    with pytest.raises(UserError, match="model.scaling='max' is unknown"):
        context_scale("max", value, observed, location, scale)


def test_each_fork_is_the_forecast_from_its_origin():
    """The loss at several origins of a window is the sum of those of windows that end at each, with shorter contexts."""
    one, given = model("direct"), window(missing=0.0)
    params = jax.jit(one.init)(jax.random.key(1), given)
    total = 0.0
    for back in range(3):
        shorter = Forecaster("direct", seqjax.gru(6), one.output, C - back, H, highway=5)
        pieces = {name: getattr(given, name)[:, : C - back + H] for name in ("value", "observed", "known", "past")}
        total += jax.jit(shorter.loss)(params, given._replace(**pieces))[1]
    found = jax.jit(functools.partial(one.loss, forks=3))(params, given)
    assert found[1] == pytest.approx(float(total), rel=1e-5) and found[2] == 3 * 3 * H


def as_steps(given):
    one = Forecaster("autoregressive", seqjax.gru(6), make_output("gaussian"), C + H, 0)
    steps = one.as_steps(given, learn_context=True)
    return one, steps._replace(counted=given.observed, resets=jnp.zeros_like(given.observed).at[:, 0].set(True))


def test_the_carry_across_windows_equals_the_whole():
    """Windows of 1, 5 and the rest, the carry passed on: the loss of the whole; a reset forgets what came before."""
    given = window()
    one, steps = as_steps(given)
    params, loss = jax.jit(one.init)(jax.random.key(1), given), jax.jit(one.loss)

    def cut(low, high):
        return jax.tree.map(lambda column: column[:, low:high], steps)

    whole = loss(params, steps, one.initial_carry(params, 3))
    carry, total, count = one.initial_carry(params, 3), 0.0, 0.0
    for low, high in ((0, 1), (1, 6), (6, C + H)):
        carry, part, number = loss(params, cut(low, high), carry)
        total, count = total + part, count + number
    assert total == pytest.approx(float(whole[1]), rel=1e-5) and count == whole[2]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), carry, whole[0])
    fresh = loss(params, cut(6, C + H), one.initial_carry(params, 3))[1]
    reset = cut(6, C + H)._replace(resets=jnp.zeros((3, C + H - 6), bool).at[:, 0].set(True))
    assert loss(params, reset, carry)[1] == pytest.approx(float(fresh), rel=1e-5) != float(part)


def test_members_are_averaged():
    one, given = model("direct", members=2), window()
    params = jax.jit(one.init)(jax.random.key(1), given)
    alone = [model("direct").quantiles({"member_0": params[name]}, given) for name in ("member_0", "member_1")]
    assert not np.allclose(*alone)
    np.testing.assert_allclose(one.quantiles(params, given), np.mean(alone, 0), rtol=1e-5)
    losses = [jax.jit(model("direct").loss)({"member_0": params[name]}, given)[1] for name in ("member_0", "member_1")]
    assert jax.jit(one.loss)(params, given)[1] == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_ancestral_sampling_of_a_linear_gaussian_process():
    """y' = phi y + sigma e from y = 3: mean phi^h 3 and variance sigma^2 (1 + phi^2 + ... + phi^(2 h - 2)) at every step."""
    phi, sigma, steps, paths = 0.8, 0.5, 6, 40_000

    def identity(raw, location, scale):
        return {"mean": location + scale * raw[..., 0], "sd": scale * raw[..., 1]}

    output = make_output("gaussian")._replace(distribution=identity)
    location, scale = jnp.array([1.0]), jnp.array([2.0])  # the units that the process is modelled in have no influence

    def run(carry, piece):
        mean = (phi * piece.previous - piece.location) / piece.scale
        return carry + 1, jnp.stack([mean, jnp.full_like(mean, sigma) / piece.scale], -1)

    nothing = jnp.zeros((1, steps - 1, 0))
    zeros, ones = jnp.zeros((1, steps - 1)), jnp.ones((1, steps - 1))
    rest = Steps(zeros, zeros, nothing, nothing, nothing, zeros, zeros, zeros, ones, ones, nothing)
    rest = rest._replace(location=rest.location * location[:, None], scale=rest.scale * scale[:, None])
    first = jnp.array([[(phi * 3 - 1) / 2, sigma / 2]])
    draws = np.asarray(sample_paths(run, output, jnp.zeros(1), first, rest, location, scale, jax.random.key(0), paths))[:, 0]
    assert draws.shape == (paths, steps)
    ahead = np.arange(1, steps + 1)
    variance = sigma**2 * np.cumsum(phi ** (2 * (ahead - 1)))
    np.testing.assert_allclose(draws.mean(0), 3 * phi**ahead, atol=4 * np.sqrt(variance / paths).max())
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.04)
    assert np.corrcoef(draws[:, 2], draws[:, 3])[0, 1] == pytest.approx(phi * np.sqrt(variance[2] / variance[3]), abs=0.02)


def test_sampling_gives_back_what_was_drawn():
    """The paths of the model itself: with no spread left, the path is the one-step forecasts fed back, step by step."""
    sure = make_output("squared")
    one = Forecaster("autoregressive", seqjax.gru(6), sure, C, H, paths=2)
    given = window(missing=0.0)
    params = jax.jit(one.init)(jax.random.key(1), given)
    found = one.quantiles(params, given)[..., 19]
    value, observed = np.array(given.value), np.ones_like(given.observed)
    for h in range(H):
        steps = one.as_steps(given._replace(value=jnp.asarray(value), observed=jnp.asarray(observed)))
        _, raw = jax.jit(one.network.apply)({"params": params["member_0"]}, step_inputs(steps))
        value[:, C + h] = sure.distribution(raw, steps.location, steps.scale)["mean"][:, C + h]
        np.testing.assert_allclose(found[:, h], value[:, C + h], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_shorter_and_longer_forecasts(kind):
    """The first steps of a forecast do not depend on the horizon; autoregressive forecasts may exceed the trained one."""
    one, given = model(kind, output="squared"), window()
    params = jax.jit(one.init)(jax.random.key(1), given)
    pieces = {name: getattr(given, name)[:, : C + 2] for name in ("value", "observed", "known", "past")}
    short = one.quantiles(params, given._replace(**pieces), steps=2)
    assert short.shape == (3, 2, len(LEVELS))
    np.testing.assert_allclose(short, one.quantiles(params, given)[:, :2], rtol=1e-5)
    if kind == "autoregressive":
        longer = one.quantiles(params, window(steps=C + 9), steps=9)
        assert longer.shape == (3, 9, len(LEVELS)) and np.isfinite(longer).all()
