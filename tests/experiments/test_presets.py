"""Every preset of the text experiments builds, passes the checks, and gives a loss and a training step; of all, --help tells all."""

import importlib
import re

import jax
import jax.numpy as jnp
import pytest
from table import ROWS

from experiments import language_model, tagging, text_classification, translation
from seqjax.data import SequenceBatch
from seqjax.data.pipeline.collate import PairBatch, TaggedBatch, TextBatch
from seqjax.run import cli, settings
from seqjax.run.recipe import make_recipe
from seqjax.text import CharTokenizer
from seqjax.text.lookup import WordLookup
from seqjax.training import train_step

STEPS = 12  # of a batch; the language model's is its window
TOKENIZER = CharTokenizer.fit(["a bc"]).to_dict()


def ids(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def mask(*shape):
    return jax.ShapeDtypeStruct(shape, bool)


def of_language(config, rows):
    shape = (rows, config.data.window)
    return language_model.Spec(TOKENIZER, False), SequenceBatch(ids(*shape), ids(*shape), mask(*shape), mask(*shape))


def of_text(config, rows):
    spec = text_classification.Spec(["a", "b", "c"], TOKENIZER, [STEPS])
    return spec, TextBatch(ids(rows, STEPS), ids(rows), ids(rows), mask(rows))


def of_tags(config, rows):
    words = WordLookup.fit([["a", "bc"]])
    spec = tagging.Spec(["B-PER", "I-PER", "O"], True, words.to_dict(), TOKENIZER, [STEPS])
    width = config.data.max_word_length
    return spec, TaggedBatch(ids(rows, STEPS), ids(rows, STEPS, width), ids(rows, STEPS), ids(rows))


def of_pairs(config, rows):
    spec = translation.Spec([TOKENIZER, TOKENIZER], [STEPS])
    return spec, PairBatch(ids(rows, STEPS), ids(rows), ids(rows, STEPS), ids(rows, STEPS), mask(rows, STEPS))


EXPERIMENTS = {name: importlib.import_module(f"experiments.{name}") for name in ROWS}
MAKE = {"language_model": of_language, "text_classification": of_text, "tagging": of_tags, "translation": of_pairs}
# By default of each experiment its own choice; that the settings of all are valid is looked at in test_every_experiment.py.
FIRST = {(name, module.EXPERIMENT.preset) for name, module in EXPERIMENTS.items()}
PRESETS = [
    pytest.param(name, preset, marks=() if (name, preset) in FIRST else pytest.mark.slow)
    for name in MAKE
    for preset in EXPERIMENTS[name].PRESETS
]


@pytest.mark.parametrize("name, preset", PRESETS)
def test_preset(name, preset):
    module, make = EXPERIMENTS[name], MAKE[name]
    experiment = module.EXPERIMENT
    command = cli.parse(experiment, [name, "--workdir=run", f"--config={preset}"])
    config = cli.config_of(experiment, command)
    settings.validate(config, module.FIELDS)
    assert settings.flatten(config).keys() == module.FIELDS.keys()
    assert all(settings.flatten(config)[field] == value for field, value in module.PRESETS[preset].items())
    recipe, rows = make_recipe(config, 100), config.data.batch_size
    assert recipe.steps > 100
    spec, batch = make(config, rows)
    model = experiment.build(config, spec)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert variables.keys() == {"params"}
    mesh, keeps = train_step.make_mesh(rows, jax.devices()[:1]), bool(config.optimizer.ema)
    step = train_step.make_train_step(
        model.loss, recipe.optimizer, recipe.schedule, mesh, clip_norm=recipe.clip_norm, ema_decay=config.optimizer.ema,
        accumulate=recipe.accumulate, frozen=recipe.frozen,
    )  # fmt: skip

    def one(params, batch):
        state = train_step.TrainState(
            jnp.int32(0), params, (), recipe.optimizer.init(params), model.initial_carry(params, rows),
            jax.random.key_data(jax.random.key(0)), jnp.float32(1), jnp.int32(0), jnp.int32(0), (params, ()) if keeps else (),
        )  # fmt: skip
        return step(state, batch)

    state, metrics = jax.eval_shape(one, variables["params"], batch)
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (variables["params"], state.params))
    assert before == after and bool(jax.tree.leaves(state.average)) == keeps
    assert metrics.sums.loss.shape == ()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_unknown_preset(name):
    module = EXPERIMENTS[name]
    with pytest.raises(cli.UsageError, match=f"no preset 'nothing'; choose one of {', '.join(module.PRESETS)}"):
        cli.parse(module.EXPERIMENT, [name, "--workdir=run", "--config=nothing"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help(name, capsys):
    """Modes, presets, flags, and every config field with a line of explanation; the examples name what exists."""
    module = EXPERIMENTS[name]
    experiment = module.EXPERIMENT
    with pytest.raises(SystemExit, match="0"):
        cli.parse(experiment, [name, "--help"])
    out, err = capsys.readouterr()
    assert not err
    flat, default = " ".join(out.split()), module.PRESETS[experiment.preset]
    for field_name, field in module.FIELDS.items():
        assert f"--config.{field_name}={default.get(field_name, field.default)}\n" in out, field_name
        assert len(field.text) > 5 and " ".join(field.text.split()) in flat, field_name
    known = {"workdir", "config", "mode", *cli.common_flags(experiment), *experiment.flags}
    for flag in known:
        assert f" --{flag}=" in flat or f"(--{flag}=" in flat, flag
    for word in (*module.PRESETS, *cli.ALL, *experiment.modes):
        assert re.search(rf"\b{word}\b", flat), word
    examples = module.__doc__
    assert set(re.findall(r" --(\w+)", examples)) <= known
    assert set(re.findall(r"--config\.([\w.]+)=", examples)) <= module.FIELDS.keys()
    assert set(re.findall(r"--config=(\S+)", examples)) <= module.PRESETS.keys()
    assert set(re.findall(r"--mode=(\w+)", examples)) <= {*cli.ALL, *experiment.modes}
