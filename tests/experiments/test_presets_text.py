"""Every preset of the text experiments builds, passes the checks, and gives a loss and a training step; --help tells all."""

import functools
import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from experiments.configs import tagging as tagging_config
from experiments.configs import text_classification as text_config
from experiments.configs import translation as translation_config
from processes import ROOT

from seqjax.data.collate import PairBatch, TaggedBatch, TextBatch
from seqjax.run import settings
from seqjax.run.recipe import averaged_params, make_recipe
from seqjax.text import CharTokenizer
from seqjax.text.lookup import WordLookup
from seqjax.training import train_step

STEPS = 12  # of a batch


def source_of(experiment):
    return pathlib.Path(ROOT / "experiments" / f"{experiment}.py").read_text(encoding="utf-8")


def flags_of(experiment):
    return ["config", *re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source_of(experiment))]


@functools.cache
def load(experiment):
    """An experiment as a module. Each defines flags of the same names, which a process has once: here they come and go."""
    known, names = flags.FLAGS, flags_of(experiment)
    aside = {name: known[name] for name in names if name in known}
    for name in aside:
        delattr(known, name)
    module = importlib.import_module(f"experiments.{experiment}")
    for name in names:
        delattr(known, name)
    for name, flag in aside.items():
        known[name] = flag
    return module


def ids(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def for_text(text_classification, config):
    model = text_classification.make_model(config, 50, 3)
    rows = config.data.batch_size
    batch = TextBatch(ids(rows, STEPS), ids(rows), ids(rows), jax.ShapeDtypeStruct((rows,), bool))
    return model, text_classification.make_loss(model, config), batch, (batch.tokens, batch.lengths)


def for_tags(tagging, config):
    words = WordLookup.fit([["a", "bc"]])
    tags = ["B-PER", "I-PER", "O"]
    facts = tagging.Facts("", tags, True, words.to_dict(), CharTokenizer.fit(["a", "bc"]).to_dict(), [STEPS])
    model = tagging.make_model(config, facts, tagging.make_encoder(config, facts))
    rows, width = config.data.batch_size, config.data.max_word_length
    batch = TaggedBatch(ids(rows, STEPS), ids(rows, STEPS, width), ids(rows, STEPS), ids(rows))
    return model, tagging.make_loss(model), batch, (batch.words, batch.chars, batch.lengths)


def for_pairs(translation, config):
    model = translation.make_model(config, [50, 50])
    rows = config.data.batch_size
    mask = jax.ShapeDtypeStruct((rows, STEPS), bool)
    batch = PairBatch(ids(rows, STEPS), ids(rows), ids(rows, STEPS), ids(rows, STEPS), mask)
    return model, translation.make_loss(model, config), batch, (batch.source, batch.source_lengths, batch.inputs)


EXPERIMENTS = {
    "text_classification": (text_config, for_text),
    "tagging": (tagging_config, for_tags),
    "translation": (translation_config, for_pairs),
}
PRESETS = [(experiment, preset) for experiment, (table, _) in EXPERIMENTS.items() for preset in table.PRESETS]


@pytest.mark.parametrize("experiment, preset", PRESETS)
def test_preset(experiment, preset):
    table, make = EXPERIMENTS[experiment]
    config = table.get_config(preset)
    settings.validate(config, table.FIELDS)
    assert settings.flatten(config).keys() == table.FIELDS.keys()
    steps, schedule, optimizer, clip_norm, *_ = make_recipe(config, 100)
    assert steps > 100
    model, loss_fn, batch, inputs = make(load(experiment), config)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    averaged, mesh = averaged_params(config), train_step.make_mesh(config.data.batch_size, jax.devices()[:1])
    step = train_step.make_train_step(
        loss_fn, optimizer, schedule, mesh, clip_norm=clip_norm, averaged=averaged, ema_decay=config.optimizer.ema
    )

    def one(params, batch):
        state = train_step.TrainState(
            jnp.int32(0), params, optimizer.init(params), (), jax.random.key_data(jax.random.key(0)), jnp.float32(1),
            jnp.int32(0), jnp.int32(0), averaged(params, ()) if averaged else (),
        )  # fmt: skip
        return step(state, batch)

    state, metrics = jax.eval_shape(one, params, batch)
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (params, state.params))
    assert before == after and bool(jax.tree.leaves(state.average)) == bool(config.optimizer.ema)
    assert metrics.sums.loss.shape == ()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_unknown_preset(experiment):
    table, _ = EXPERIMENTS[experiment]
    with pytest.raises(ValueError, match=f"no preset 'nothing'; choose one of {', '.join(table.PRESETS)}"):
        table.get_config("nothing")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_help(server, experiment):
    """Modes, presets, flags, and every config field with a line of explanation; the examples name what exists."""
    run = server.run("--help", experiment=experiment)
    assert run.status == 0 and not run.err, run.err
    table, _ = EXPERIMENTS[experiment]
    flat, first = " ".join(run.out.split()), next(iter(table.PRESETS))
    for name, field in table.FIELDS.items():
        assert f"--config.{name}={table.PRESETS[first].get(name, field.default)}\n" in run.out, name
        assert len(field.text) > 5 and " ".join(field.text.split()) in flat, name
    for name in flags_of(experiment):
        assert f" --{name}" in flat or f" --[no]{name}" in flat, name
    examples = source_of(experiment).split('"""')[1]
    assert set(re.findall(r" --(\w+)", examples)) <= {*flags_of(experiment)}
    assert set(re.findall(r"--config\.([\w.]+)=", examples)) <= table.FIELDS.keys()
    assert set(re.findall(rf"configs/{experiment}\.py:([a-z_]\w*)", examples)) <= table.PRESETS.keys()
