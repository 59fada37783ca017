"""Checkpoints of every released format are read: their arrays against a plain read by Orbax, their meta by hand."""

import json
import pathlib
import shutil
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from saved import listing

from seqjax.errors import UserError
from seqjax.training.checkpoints import Checkpoints, migrate, read_weights
from seqjax.training.checkpoints.manifest import FORMAT, MANIFEST, SEAL
from seqjax.training.train_step import TrainState

ASSETS = pathlib.Path(__file__).parents[1] / "assets"
ROWS = {  # work directory -> steps, experiment
    "format_0_language_model": ([4, 8], "language_model"),
    "format_1_language_model": ([4, 8], "language_model"),
    "format_1_image_classification": ([3], "image_classification"),
}


class Lstm(NamedTuple):
    """As the parameters of the language model's layer: fields without an array are None."""

    kernel: Any
    recurrent_kernel: Any
    bias: Any
    projection: Any = None


class Adam(NamedTuple):
    count: Any
    mu: Any
    nu: Any


class Count(NamedTuple):
    count: Any


class Empty(NamedTuple):
    pass


def plain(name, step):
    """The state as Orbax gives it, with nothing of the project's."""
    with warnings.catch_warnings(), ocp.StandardCheckpointer() as reader:
        warnings.simplefilter("ignore")  # no target is given
        return jax.tree.map(np.asarray, reader.restore(ASSETS / name / "checkpoints" / str(step) / "state"))


def old_meta(name, step):
    return json.loads((ASSETS / name / "checkpoints" / str(step) / "meta" / "metadata").read_text())


def typed(params):
    layer = params["rnn"][0]
    lstm = Lstm(layer["kernel"], layer["recurrent_kernel"], layer["bias"])
    return {"embed": params["embed"], "rnn": (lstm,), "softmax": params["softmax"]}


def expected(name, step):
    """Today's state made of the old one by hand."""
    old = plain(name, step)
    shared = {part: old[part] for part in ("step", "key", "lr_scale", "skipped", "skipped_in_row")}
    if name.endswith("image_classification"):
        # sgd without momentum: clipping, and the schedule's count
        statistics = {"batch_stats": old["carry"]["batch_stats"]}
        counts = tuple(Empty() if part is None else Count(part["count"]) for part in old["opt_state"])
        averages = (old["average"][0], {"batch_stats": old["average"][1]["batch_stats"]})
        return TrainState(params=old["params"], model_state=statistics, opt_state=counts, carry=(), average=averages, **shared)
    adam = old["opt_state"][1]
    opt_state = (Empty(), Adam(adam["count"], typed(adam["mu"]), typed(adam["nu"])), Empty(), Count(old["opt_state"][3]["count"]))
    carry = ({"c": old["carry"][0]["c"], "h": old["carry"][0]["h"]},)
    average = (typed(old["average"]), ()) if "average" in old else ()
    params = typed(old["params"])
    return TrainState(params=params, model_state=(), opt_state=opt_state, carry=carry, average=average, **shared)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape and np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("name, step", [(name, step) for name, (steps, _) in ROWS.items() for step in steps])
def test_a_released_format_is_read_and_resumed(name, step, tmp_path):
    workdir = shutil.copytree(ASSETS / name, tmp_path / "run")
    for later in ROWS[name][0]:
        if later > step:
            shutil.rmtree(workdir / "checkpoints" / str(later))
    before, wanted, lines = listing(workdir), expected(name, step), []
    target = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), wanted)
    assert len(jax.tree.leaves(wanted)) == len(jax.tree.leaves(plain(name, step)))  # nothing is lost, nothing made up
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(wanted)} == {"int32", "uint32", "float32"}
    checkpoints = Checkpoints(workdir, keep=3, report=lines.append)
    restored = checkpoints.restore(lambda meta: target, repair=False)
    assert restored.step == step and not lines and listing(workdir) == before
    assert_same(restored.state, wanted)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored.state))

    # Trained on, it is saved in the format of today beside the old ones.
    assert checkpoints.restore(lambda meta: target).step == step
    further = restored.state._replace(step=restored.state.step + 1)
    checkpoints.save(step + 1, further, restored.meta)
    checkpoints.close()
    assert (workdir / "checkpoints" / str(step + 1) / MANIFEST).exists() and not lines
    again = Checkpoints(workdir, keep=3, report=lines.append).restore(lambda meta: target)
    assert again.step == step + 1 and again.meta == restored.meta and not lines
    assert_same(again.state, further)
    assert (workdir / "checkpoints" / str(step) / SEAL).exists()


@pytest.mark.parametrize("name", ROWS)
def test_the_meta_of_a_released_format(name):
    steps, experiment = ROWS[name]
    old = old_meta(name, steps[-1])
    step, meta = Checkpoints(ASSETS / name, keep=1, defaults={"optimizer.ema": 0.25, "new.deep.field": 7}).newest_meta()
    assert step == steps[-1] and meta["experiment"] == experiment
    assert meta["config"].pop("new") == {"deep": {"field": 7}}
    ema = old["config"]["optimizer"].get("ema", 0.0)  # there was none before: what that means, not the default of today
    assert meta["config"]["optimizer"] == old["config"]["optimizer"] | {"ema": ema}
    assert meta["config"] == old["config"] | {"optimizer": meta["config"]["optimizer"]}
    if experiment == "language_model":
        assert meta["fingerprint"] == old["text"] and meta["spec"] == {"tokenizer": old["tokenizer"], "ends": old["ends"]}
    else:
        assert meta["fingerprint"] == old["facts"].pop("fingerprint") and meta["spec"] == old["facts"]
    assert meta["progress"] == {"counts": {}, "without_best": 0} | old["progress"] and meta["data"] == old["data"]
    assert meta.keys() == {"experiment", "config", "spec", "fingerprint", "made_from", "began_from", "data", "progress"}


@pytest.mark.parametrize("name", ROWS)
def test_losses_of_a_released_format(name, tmp_path):
    losses = {
        step: json.loads((ASSETS / name / "checkpoints" / str(step) / "metrics" / "metrics").read_text())["loss"] for step in ROWS[name][0]
    }
    checkpoints = Checkpoints(ASSETS / name, keep=1)
    assert checkpoints.best_step() == min(losses, key=losses.get) == checkpoints.best_meta()[0]
    if len(losses) > 1:  # a loss that was changed makes no other checkpoint the best in silence
        workdir = shutil.copytree(ASSETS / name, tmp_path / "run")
        path = workdir / "checkpoints" / "4" / "metrics" / "metrics"
        path.write_text(json.dumps({"loss": 0.5}))
        assert Checkpoints(workdir, keep=1).best_step() == 8


@pytest.mark.parametrize("name", ROWS)
def test_weights_are_read_without_a_model(name):
    step = ROWS[name][0][-1]
    before = listing(ASSETS / name)
    old = plain(name, step)
    for which in ("newest", step):
        found, weights, meta = read_weights(ASSETS / name, which)
        assert found == step and meta["experiment"] == ROWS[name][1] and meta["run"] == ""
        if name == "format_0_language_model":
            params, model_state = old["params"], {}
        elif name == "format_1_language_model":
            params, model_state = old["average"], {}
        else:
            params, model_state = old["average"][0], {"batch_stats": old["average"][1]["batch_stats"]}
        if "rnn" in params:
            params = params | {"rnn": {"0": {name: array for name, array in params["rnn"][0].items() if array is not None}}}
        assert_same(weights, {"params": params, "model_state": model_state})
    assert listing(ASSETS / name) == before
    with pytest.raises(UserError, match=f"has no checkpoint of step 99; it has .*{step}"):
        read_weights(ASSETS / name, 99)
    with pytest.raises(ValueError, match="which='last' must be best, newest or a step"):
        read_weights(ASSETS / name, "last")


def test_every_format_has_its_steps():
    assert len(migrate.META) == len(migrate.LEAVES) == FORMAT
    assert sorted({int(name.split("_")[1]) for name in ROWS}) == list(range(FORMAT))


def test_the_experiment_is_known_by_what_it_kept():
    facts = {
        "image_classification": ["classes", "shape", "mean", "std"],
        "text_classification": ["classes", "tokenizer", "boundaries"],
        "tagging": ["tags", "entities", "words", "chars", "boundaries"],
        "translation": ["tokenizers", "boundaries"],
        "": ["something"],
    }
    for experiment, names in facts.items():
        spec = dict.fromkeys(names, 1)
        old = {"config": {}, "facts": spec | {"fingerprint": "f"}, "data": {}, "progress": {}}
        meta = migrate.meta_to_2(old)
        assert meta["experiment"] == experiment and meta["spec"] == spec and meta["fingerprint"] == "f"


def test_an_average_of_format_1_without_batch_statistics():
    """An image network without them kept a pair all the same; other experiments the parameters alone."""
    w = np.ones(2)
    pair = {("params", "w"): w, ("average", "0", "w"): w}
    assert migrate.leaves_to_2(pair) == pair
    assert migrate.leaves_to_2({("params", "w"): w, ("average", "w"): w}).keys() == pair.keys()
    indexed = {("params", "0"): w, ("params", "1"): w, ("average", "0"): w, ("average", "1"): w}  # parameters in a tuple
    assert {("average", "0", "0"), ("average", "0", "1")} <= migrate.leaves_to_2(indexed).keys()
