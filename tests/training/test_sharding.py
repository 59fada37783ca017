"""Sharding over a mesh: the rule, and that a sharded state takes the same steps as a replicated one, on four devices."""

import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from seqjax.errors import UserError
from seqjax.training import sharding

TESTS = pathlib.Path(__file__).resolve().parents[1]


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, "float32")


def spec(leaf, data, model=1, **options):
    axes = {"data": data} | ({"model": model} if model > 1 else {})
    mesh = AbstractMesh(tuple(axes.values()), tuple(axes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SMALLEST", options.pop("smallest", sharding.SMALLEST))
        return tuple(sharding.parameter_shardings(leaf, mesh, **{"fsdp": True} | options).spec)


def test_the_rule_by_example():
    assert spec(shape(1000, 64), 4) == ("data", None)  # the longest axis
    assert spec(shape(1001, 64), 4) == (None, "data")  # the longest that divides
    assert spec(shape(1001, 65), 4) == ()
    assert spec(shape(64, 64), 4) == ("data", None)  # the first of equals
    assert spec(shape(64, 63), 4) == () and spec(shape(64, 63), 4, smallest=4032) == ("data", None)  # 4,032 values are few
    assert spec(shape(100_000), 4) == ()  # a bias
    assert spec(shape(64, 256), 4, 2) == ("data", "model")  # a recurrent kernel: gates over model, units over data
    assert spec(shape(64, 256), 4, 2, fsdp=False) == (None, "model")
    assert spec(shape(256, 65), 4, 2) == (("model", "data"), None)  # 65 characters do not divide: the axis left is cut twice
    assert spec(shape(140, 65), 4, 2) == ("model", None)  # 70 units do not divide by 4
    assert spec(shape(3, 3, 64, 128), 4, 2) == (None, None, "data", "model")
    assert spec(shape(64, 256), 1) == (None, "data")


def test_the_rule_for_any_shape():
    """Only divisible axes are sharded, no mesh axis is used twice, and nothing that could be sharded is replicated."""
    rng = np.random.default_rng()
    for _ in range(300):
        axes = tuple(int(n) for n in rng.choice([1, 2, 3, 4, 6, 8, 12, 64], rng.integers(0, 5)))
        data, model, fsdp = int(rng.choice([1, 2, 3, 4])), int(rng.choice([1, 2, 4])), bool(rng.integers(2))
        smallest = int(rng.choice([1, 50, 1000]))
        found = spec(shape(*axes), data, model, fsdp=fsdp, smallest=smallest)
        sizes, cuts = {"data": data, "model": model}, [entry if isinstance(entry, tuple) else (entry,) for entry in found if entry]
        where = {name: k for k, entry in enumerate(found) for name in ("data", "model") if entry and name in entry}
        assert sum(map(len, cuts)) == len(where)
        assert all(axes[k] % math.prod(size for name, size in sizes.items() if where.get(name) == k) == 0 for k in where.values())
        if len(axes) < 2 or math.prod(axes) < smallest:
            assert not where
            continue
        assert ("model" in where) == (model > 1 and any(n % model == 0 for n in axes)) and (fsdp or "data" not in where)
        left = [n // (model if where.get("model") == k else 1) for k, n in enumerate(axes)]
        if fsdp:
            assert ("data" in where) == any(n % data == 0 for n in left)
        if "data" in where:
            free = [n for k, n in enumerate(axes) if where.get("model") != k and n % data == 0]
            assert where["data"] == where.get("model") and not free or axes[where["data"]] == max(free)


def test_moments_lie_where_their_parameters_do():
    """Adam's, sgd's and a factored optimiser's, whatever else stands in the state."""
    import optax

    mesh = AbstractMesh((4, 2), ("data", "model"))
    params = {"kernel": shape(64, 256), "bias": shape(256), "odd": shape(65, 67)}
    for optimizer in (optax.adam(1.0), optax.sgd(1.0, momentum=0.9), optax.adafactor(1.0, min_dim_size_to_factor=8)):
        state = jax.eval_shape(optimizer.init, params)
        where = sharding.parameter_shardings(state, mesh, fsdp=True)
        for leaf, its in zip(jax.tree.leaves(state), jax.tree.leaves(where), strict=True):
            cut = {params[name].shape: s.spec for name, s in sharding.parameter_shardings(params, mesh, fsdp=True).items()}
            assert its.spec == cut.get(leaf.shape, PartitionSpec())
    assert PartitionSpec("data", "model") in cut.values()


def test_devices_that_do_not_divide_are_refused():
    one = jax.devices()[:1]
    with pytest.raises(UserError, match="1 devices cannot be cut into groups of model=2"):
        sharding.make_mesh(4, one, 2)
    with pytest.raises(UserError, match="batch_size=3 cannot be cut evenly over 2 devices"):
        sharding.make_mesh(3, one * 4, 2)


def on_four_devices(how, *names):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    # XLA's threads: collectives of four devices wait in one each, and with as few as two cores have, some never meet the others.
    env = os.environ | {"PJRT_NPROC": "32", "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    program = [sys.executable, "-W", "error", str(TESTS / "training" / "on_a_mesh.py"), how, *names]
    done = subprocess.run(program, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.split() == list(names)


def test_a_cut_state_takes_the_steps_of_a_whole_one():
    """Averages, frozen parameters, a carry and noise, over data and over data and model."""
    on_four_devices("quick", "averages")


@pytest.mark.slow
def test_every_optimizer_and_engine_on_every_mesh():
    on_four_devices("thorough", "averages", "accumulated", "sgd", "adafactor", "muon", "scan", "associative", "skipped", "diagnosed")
