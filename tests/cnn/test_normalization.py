"""Batch normalisation against flax's, with its variables, and against float64 where precision matters."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from seqjax.cnn.normalization import BatchNorm, normalize


def _images(*shape, seed=0, mean=0.5, std=2.0):
    return jnp.asarray(mean + std * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _variables(channels, seed=1):
    rng = np.random.default_rng(seed)
    vector = lambda low, high: jnp.asarray(rng.uniform(low, high, channels), jnp.float32)  # noqa: E731
    return {
        "params": {"scale": vector(0.5, 2), "bias": vector(-1, 1)},
        "batch_stats": {"mean": vector(-1, 1), "var": vector(0.5, 2)},
    }


def _run(norm, variables, x, evaluate):
    """Output, new statistics, and the gradients of a weighted sum of both by parameters and x."""

    @jax.jit
    def run(params, x):
        def loss(params, x):
            y, new = norm.apply(
                {"params": params, "batch_stats": variables["batch_stats"]},
                x,
                use_running_average=evaluate,
                mutable=["batch_stats"],
            )
            weights = jax.random.normal(jax.random.key(2), y.shape)
            return jnp.sum(weights * y) + sum(map(jnp.sum, jax.tree.leaves(new))), (y, new)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    return run(variables["params"], x)


def _assert_close(ours, theirs, **tolerance):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), **tolerance)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize("shape", [(5, 4), (3, 6, 4), (2, 5, 3, 4)], ids=str)
def test_outputs_statistics_and_gradients_are_those_of_flax(shape, evaluate):
    options = {"momentum": 0.7, "epsilon": 1e-3}
    x, variables = _images(*shape), _variables(4)
    _assert_close(
        _run(BatchNorm(**options), variables, x, evaluate),
        _run(nn.BatchNorm(**options), variables, x, evaluate),
        rtol=1e-4,
        atol=2e-5,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_scale": False},
        {"use_bias": False},
        {"use_scale": False, "use_bias": False},
        {"scale_init": nn.initializers.zeros},
    ],
    ids=["plain", "no scale", "no bias", "neither", "scale of zeros"],
)
def test_it_takes_the_place_of_flax_in_a_tree(options):
    x = _images(3, 2, 4)
    trees = [norm(use_running_average=False, **options).init(jax.random.key(0), x) for norm in (BatchNorm, nn.BatchNorm)]
    _assert_close(*trees)
    ours, theirs = (norm(use_running_average=True, **options).apply(trees[0], x) for norm in (BatchNorm, nn.BatchNorm))
    _assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("x_dtype, dtype", [("bfloat16", "bfloat16"), ("bfloat16", None), ("float32", "bfloat16")])
@pytest.mark.parametrize("evaluate", [False, True])
def test_narrow_types_are_rounded_once(x_dtype, dtype, evaluate):
    """Equal to the same computation in float32, rounded at the end; parameters and statistics stay float32."""
    x, variables = _images(4, 5, 3).astype(x_dtype), _variables(3)
    (gradients, dx), (y, new) = _run(BatchNorm(dtype=dtype), variables, x, evaluate)
    _, (wide, wide_new) = _run(BatchNorm(), variables, x.astype(jnp.float32), evaluate)
    assert y.dtype == (dtype or "float32") and dx.dtype == x_dtype
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, new))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.asarray(y, np.float32), np.asarray(wide, np.float32), rtol=2**-8, atol=1e-6)
    _assert_close(new, wide_new, rtol=1e-6)


def test_digits_are_kept_where_the_mean_is_a_thousand_deviations():
    x = _images(8, 16, 16, 3, mean=1000.0, std=1.0)
    y, mean, var = jax.jit(normalize)(x, jnp.ones(3), jnp.zeros(3))
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, wide.var((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(y, (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5), atol=1e-3)
    _, new = nn.BatchNorm(use_running_average=False, momentum=0.0).init_with_output(jax.random.key(0), x)
    _, new = nn.BatchNorm(use_running_average=False, momentum=0.0).apply(new, x, mutable=["batch_stats"])
    assert np.abs(new["batch_stats"]["var"] - wide.var((0, 1, 2))).max() > 1e-2  # which the other formula does not


def test_derivatives_of_every_output_once_and_twice(x64):
    """The returned mean and variance have derivatives too."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, scale, bias = (
        jax.random.normal(keys[0], (4, 3, 2), float),
        jax.random.normal(keys[1], (2,), float),
        jnp.ones(2, float),
    )

    def function(x, scale, bias):
        y, mean, var = normalize(x, scale, bias, 1e-3)
        return jnp.sum(y**3), jnp.sum(jnp.sin(mean)), jnp.sum(var**2)

    check_grads(jax.jit(function), (x, scale, bias), order=2, modes=["rev"])


def test_initialisation_and_evaluation_leave_the_statistics():
    x = _images(6, 4)
    norm = BatchNorm()
    fresh = norm.init(jax.random.key(0), x, use_running_average=False)["batch_stats"]
    assert (fresh["mean"] == 0).all() and (fresh["var"] == 1).all()
    variables = _variables(4)
    _, new = norm.apply(variables, x, use_running_average=True, mutable=["batch_stats"])
    _assert_close(new["batch_stats"], variables["batch_stats"], rtol=0)


def test_one_value_a_channel_gives_the_bias():
    variables = _variables(4)
    (_, dx), (y, _) = _run(BatchNorm(), variables, _images(1, 4), False)
    np.testing.assert_allclose(y[0], variables["params"]["bias"], rtol=1e-6)
    assert np.isfinite(dx).all()


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from seqjax.cnn.normalization import BatchNorm

x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3, 5)) + np.arange(6)[:, None, None], jnp.float32)
norm = BatchNorm(use_running_average=False)
variables = norm.init(jax.random.key(0), x)

@jax.jit
def run(variables, x):
    def loss(params, x):
        y, new = norm.apply(variables | {"params": params}, x, mutable=["batch_stats"])
        return jnp.sum(y ** 3), (y, new)
    return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
sharded = run(variables, jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch"))))
assert len(sharded[0][1].sharding.device_set) == 2 and not sharded[0][1].sharding.is_fully_replicated
for one, other in zip(jax.tree.leaves(sharded), jax.tree.leaves(run(variables, x)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
"""


def test_on_a_mesh_the_statistics_are_those_of_the_whole_batch():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
