"""The model that is read for evaluation: the best, the newest, or the mean of the newest, against numpy."""

import shutil

import jax
import jax.numpy as jnp
import letters_run as tiny
import numpy as np
import optax
import pytest

from seqjax.errors import UserError
from seqjax.run import load_trained
from seqjax.run.trained import read_model
from seqjax.training import train_step
from seqjax.training.averaging import RunningMean
from seqjax.training.checkpoints import Checkpoints, reader
from seqjax.training.checkpoints.manifest import MANIFEST

MESH = train_step.make_mesh(2, jax.devices()[:1])
LOSSES = {3: 2.5, 10: 1.25, 200: 1.5, 210: 1.75}


def make_state(seed, average=False):
    """Random parameters of two dtypes, whose sum in bfloat16 would lose most of them, batch statistics and a carry."""
    a, b, c = jax.random.split(jax.random.key(seed), 3)
    params = {"w": 100 + jax.random.normal(a, (7, 5)), "deep": {"b": jax.random.normal(b, (5,)).astype(jnp.bfloat16)}}
    statistics = {"batch_stats": {"mean": jax.random.normal(c, (2, 3))}}
    carry = (jax.random.normal(c, (2, 4)),)
    state = train_step.init_state(params, statistics, optax.adam(0.1), carry, jax.random.key(seed), MESH, average=average)
    return state._replace(step=jnp.int32(seed))


def save(folder, states, keep=9):
    store = Checkpoints(folder, keep=keep)
    for step, state in states.items():
        store.save(step, state, {"note": step}, LOSSES.get(step, np.inf))
    store.close()


@pytest.fixture(scope="module")
def states():
    return {step: make_state(step) for step in LOSSES}


@pytest.fixture(scope="module")
def run(states, tmp_path_factory):
    """A work directory with four checkpoints; copy it to change it."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, states)
    return folder


def read(folder, which="average", keep=3, target=None, **options):
    lines, metas = [], []

    def make_target(meta):
        metas.append(meta)
        return make_state(0) if target is None else target

    return read_model(folder, make_target, keep=keep, which=which, report=lines.append, **options), lines, metas


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def mean_of(trees):
    """In float64 by numpy, rounded once."""
    means = [np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0) for leaves in zip(*map(jax.tree.leaves, trees))]
    return jax.tree.unflatten(jax.tree.structure(trees[0]), [m.astype(leaf.dtype) for m, leaf in zip(means, jax.tree.leaves(trees[0]))])


def harm(folder, step):
    victim = next((folder / "checkpoints" / str(step) / "state" / "d").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])


def test_the_best_and_the_newest(run, states):
    for which, step in (("best", 10), ("newest", 210)):
        restored, lines, _ = read(run, which)
        assert restored.step == step and lines == [f"checkpoint of step {step}"]
        assert_same(restored.state, states[step])


@pytest.mark.parametrize("keep, steps", [(1, [210]), (2, [200, 210]), (3, [10, 200, 210]), (7, [3, 10, 200, 210])])
def test_the_average_is_the_mean_of_the_newest(run, states, keep, steps):
    restored, lines, metas = read(run, keep=keep)
    assert restored.step == 210 and restored.meta == {"note": 210} and metas == [{"note": 210}]
    assert_same(restored.state.params, mean_of([states[step].params for step in steps]))
    assert_same(restored.state._replace(params=()), states[210]._replace(params=()))
    several = "s" if len(steps) > 1 else ""
    named = ", ".join(map(str, steps))
    assert lines == [f"params averaged over {len(steps)} checkpoint{several}: step{several} {named}"]
    shardings = jax.tree.map(lambda new, old: new.sharding == old.sharding, restored.state, states[210])
    assert all(jax.tree.leaves(shardings))


def test_batch_statistics_are_averaged_with_the_parameters(run, states):
    restored, lines, _ = read(run, parts=("params", "model_state"))
    for part in ("params", "model_state"):
        assert_same(getattr(restored.state, part), mean_of([getattr(states[step], part) for step in (10, 200, 210)]))
    assert lines == ["params and model_state averaged over 3 checkpoints: steps 10, 200, 210"]


def test_a_damaged_one_is_left_out_and_nothing_is_changed(run, states, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    harm(folder, 210)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    restored, lines, _ = read(folder)
    assert restored.step == 200
    assert_same(restored.state.params, mean_of([states[10].params, states[200].params]))  # not 3, which is no newest one
    assert len(lines) == 2 and "checkpoint 210 is damaged (state/d/" in lines[0] and "left out" in lines[0]
    assert lines[1] == "params averaged over 2 checkpoints: steps 10, 200"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "checkpoints" / "200" / MANIFEST).unlink()  # as if cut off: it does not count
    restored, lines, _ = read(folder)
    assert restored.step == 10 and lines[1] == "params averaged over 2 checkpoints: steps 3, 10"


def test_where_there_is_nothing_to_read(run, tmp_path):
    for which in ("best", "newest", "average"):
        with pytest.raises(UserError, match="the run in .*nowhere has no checkpoint yet; train it first"):
            read(tmp_path / "nowhere", which)
    assert not list(tmp_path.iterdir())
    folder = shutil.copytree(run, tmp_path / "run")
    harm(folder, 210), harm(folder, 200)
    with pytest.raises(UserError, match="the newest 2 checkpoints in .* are damaged .210: .*; 200: .*nothing was deleted"):
        read(folder, keep=2)
    with pytest.raises(ValueError, match="which='last' must be one of best, newest, average"):
        read(run, "last")
    with pytest.raises(ValueError, match="number=0 must be at least 1"):
        read(run, keep=0)


def test_deleted_while_it_is_read(run, states, tmp_path, monkeypatch):
    """By the process that trains: it starts again with those that are there, and calls nothing damaged."""
    folder, load = shutil.copytree(run, tmp_path / "run"), reader.read_leaves

    def deleting(path, saved):
        shutil.rmtree(folder / "checkpoints" / "10", ignore_errors=True)
        return load(path, saved)

    monkeypatch.setattr(reader, "read_leaves", deleting)
    restored, lines, _ = read(folder)
    assert lines == ["params averaged over 3 checkpoints: steps 3, 200, 210"]
    assert_same(restored.state.params, mean_of([states[step].params for step in (3, 200, 210)]))


def test_what_cannot_be_averaged(run, tmp_path):
    moving = make_state(1, average=True)
    save(tmp_path / "moving", {1: moving})
    with pytest.raises(UserError, match="moving average .optimizer.ema.") as caught:
        read(tmp_path / "moving", target=moving)
    assert "\n" not in str(caught.value)
    assert read(tmp_path / "moving", "newest", target=moving)[0].step == 1
    with pytest.raises(UserError, match=r"cannot be averaged: \['key'\] is of uint32"):
        read(run, parts=("params", "key"))
    other = make_state(1)
    with pytest.raises(UserError, match=r"does not fit .*params/more: nothing there, float32\[3\] here"):
        read(run, target=other._replace(params=other.params | {"more": jnp.zeros(3)}))


def test_the_mean_refuses_trees_that_differ():
    mean = RunningMean()
    mean.add({"a": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"shape \(1, 3\) where others have \(2, 3\)"):
        mean.add({"a": jnp.ones((1, 3))})
    with pytest.raises(ValueError):
        mean.add({"b": jnp.ones((2, 3))})


def test_a_run_is_read_into_other_code(finished, capsys):
    """Best and newest are steps 2 to 6 of the run; the data are not loaded."""

    def never(config):
        raise AssertionError("the data were loaded")

    experiment = tiny.EXPERIMENT._replace(load=never)
    for which, step in (("best", None), ("newest", 6)):
        trained = load_trained(experiment, finished, which)
        assert step in (None, trained.step) and trained.config.train.steps == 6 and trained.spec == tiny.Spec(4)
        kept = tiny.state(finished, trained.step)
        for name, leaf in trained.params.items():
            assert np.asarray(leaf).tobytes() == kept["params", name]
        assert trained.model.loss(trained.variables["params"], (), (), np.arange(4), None)[2].loss < 10
    with pytest.raises(UserError, match="--checkpoint"):
        load_trained(experiment, finished, "worst")
    with pytest.raises(UserError, match="belongs to the experiment tiny, not other"):
        load_trained(experiment._replace(name="other"), finished)
