"""Every preset builds, passes the checks, and gives a model and a training step; hello is trained in test_modes.py."""

import jax
import jax.numpy as jnp
import pytest
from experiments.configs.language_model import FIELDS, PRESETS, get_config

from experiments import language_model
from seqjax.data import SequenceBatch
from seqjax.run import settings
from seqjax.run.recipe import make_recipe
from seqjax.training import train_step


@pytest.mark.parametrize("name", PRESETS)
def test_preset(name):
    config = get_config(name)
    settings.validate(config, FIELDS)
    assert settings.flatten(config).keys() == FIELDS.keys()
    vocab, batch, window = 50, config.data.batch_size, config.data.window
    model = language_model.make_model(config, vocab)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    config.train.update({"steps": 1000, "epochs": 0.0})
    _, schedule, optimizer, clip_norm, *_ = make_recipe(config, 100)
    mesh = train_step.make_mesh(batch, jax.devices()[:1])
    loss_fn = language_model.make_loss(model, config.model.remat_every or None)
    step = train_step.make_train_step(loss_fn, optimizer, schedule, mesh, clip_norm=clip_norm)

    def one(params, carry, tokens, mask):
        state = train_step.TrainState(
            jnp.int32(0), params, optimizer.init(params), carry, jax.random.key_data(jax.random.key(0)),
            jnp.float32(1), jnp.int32(0), jnp.int32(0),
        )  # fmt: skip
        return step(state, SequenceBatch(tokens, tokens, mask, mask))

    carry = jax.eval_shape(lambda p: model.initial_carry(p, batch), params)
    tokens, mask = jax.ShapeDtypeStruct((batch, window), jnp.int32), jax.ShapeDtypeStruct((batch, window), bool)
    state, metrics = jax.eval_shape(one, params, carry, tokens, mask)
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (params, state.params))
    assert before == after
    assert metrics.sums.loss.shape == ()


def test_unknown_preset():
    with pytest.raises(ValueError, match="no preset 'hallo'; choose one of hello, char_small"):
        get_config("hallo")
