"""Frozen parameters: chosen by pattern, unchanged bit for bit, and not part of any computation."""

import jax
import numpy as np
import optax
import pytest
from training import tiny

from seqjax.errors import UserError
from seqjax.training import train_step
from seqjax.training.freezing import divide, frozen_mask, path_name, unite
from seqjax.training.optimizers import make_optimizer

B, T = 3, 4
MESH = train_step.make_mesh(B, jax.devices()[:1])
KEY = jax.random.key(7)


def _names(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def model():
    model = tiny.language_model()
    return model, *tiny.init(model, B)


def _train(model, frozen, optimizer=None, ema_decay=0.5):
    model, params, carry = model
    optimizer = optimizer or make_optimizer("adamw", optax.constant_schedule(0.05), clip_norm=0.5, weight_decay=0.5)
    step = train_step.make_train_step(
        tiny.loss_of(model), optimizer, optax.constant_schedule(0.05), MESH, clip_norm=0.5, ema_decay=ema_decay, frozen=frozen
    )
    state = train_step.init_state(params, (), optimizer, carry, KEY, MESH, average=bool(ema_decay), frozen=frozen)
    told = []
    for batch in tiny.windows(tiny.stream(50), B, T):
        state, metrics = step(state, batch)
        told.append(metrics)
    assert len(told) > 3
    return tiny.as_numpy(state), told


def test_patterns_are_searched_for_in_paths(model):
    params = model[1]
    names = _names(params)
    assert {"embed/embedding", "rnn/0/recurrent_kernel", "rnn/1/bias", "softmax/kernel"} <= names.keys()
    for patterns, wanted in [
        (["^embed/"], {"embed/embedding"}),
        (["rnn/1", "softmax/bias$"], {name for name in names if "rnn/1" in name} | {"softmax/bias"}),
        (["bias"], {name for name in names if "bias" in name}),
        ([], set()),
    ]:
        mask = frozen_mask(params, patterns)
        assert jax.tree.structure(mask) == jax.tree.structure(params)
        assert {name for name, frozen in _names(mask).items() if frozen} == wanted


@pytest.mark.parametrize("frozen", [["^embed/"], ["rnn/0", "softmax/bias"], ["kernel"]])
def test_frozen_parameters_stay_as_they_are_bit_for_bit(model, frozen):
    state, told = _train(model, frozen)
    before, mask = _names(tiny.as_numpy(model[1])), _names(frozen_mask(model[1], frozen))
    for tree in (state.params, state.average[0]):
        for name, leaf in _names(tree).items():
            assert (leaf.tobytes() == before[name].tobytes()) == mask[name], name
    assert sum(mask.values()) and not all(mask.values()) and int(state.skipped) == 0
    kept = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert kept == 2 * sum(leaf.size for name, leaf in before.items() if not mask[name])  # Adam's two, of the others


def test_the_others_train_as_if_the_frozen_were_constants(model):
    """The loss as a function of the others alone, by hand; the norm is theirs."""
    lm, params, carry = model
    optimizer, batch = optax.sgd(1.0), tiny.windows(tiny.stream(50), B, T)[0]
    step = train_step.make_train_step(
        tiny.loss_of(lm), optimizer, optax.constant_schedule(1.0), MESH, clip_norm=1e9, frozen=["^embed/", "softmax/kernel"]
    )
    start = train_step.init_state(params, (), optimizer, carry, KEY, MESH, frozen=["^embed/", "softmax/kernel"])
    state, told = step(start, batch)

    @jax.jit
    @jax.grad
    def gradient(others):
        whole = {
            "embed": params["embed"],
            "rnn": others["rnn"],
            "softmax": {"kernel": params["softmax"]["kernel"], "bias": others["bias"]},
        }
        sums = tiny.loss_of(lm)(whole, (), carry, batch, None)[2]
        return sums.loss / sums.tokens

    wanted = gradient({"rnn": params["rnn"], "bias": params["softmax"]["bias"]})
    moved = jax.tree.map(
        lambda a, b: a - b,
        {"rnn": params["rnn"], "bias": params["softmax"]["bias"]},
        {"rnn": state.params["rnn"], "bias": state.params["softmax"]["bias"]},
    )
    tiny.assert_close(moved, wanted, 1e-4, 1e-6)
    np.testing.assert_allclose(told.grad_norm, optax.tree.norm(wanted), rtol=1e-5)


def test_no_gradient_of_the_frozen_is_computed(model):
    """Fewer operations, where what is frozen comes first in the network."""
    lm, params, carry = model

    def flops(frozen):
        optimizer = optax.sgd(1.0)
        step = train_step.make_train_step(tiny.loss_of(lm), optimizer, optax.constant_schedule(1.0), MESH, clip_norm=1.0, frozen=frozen)
        state = train_step.init_state(params, (), optimizer, carry, KEY, MESH, frozen=frozen)
        text = step.lower(state, tiny.windows(tiny.stream(50), B, T)[0]).compile()
        return text.cost_analysis()["flops"]

    assert flops(["^embed/", "^rnn/"]) < 0.7 * flops([])


def test_nothing_frozen_changes_nothing(model):
    tiny.assert_equal(_train(model, [])[0], _train(model, ())[0])


def test_patterns_that_do_not_fit_are_refused(model):
    params = model[1]
    with pytest.raises(UserError, match="'embedd/' matches no parameter; the closest are embed/embedding"):
        frozen_mask(params, ["^rnn/", "embedd/"])
    with pytest.raises(UserError, match="is not a regular expression: "):
        frozen_mask(params, ["rnn/(0"])
    with pytest.raises(UserError, match="'rnn', '.' match every parameter; nothing is left to train"):
        frozen_mask(params, ["rnn", "."])
    with pytest.raises(UserError, match="'nothing' matches no parameter"):
        _train(model, ["nothing"])


def test_divided_parameters_are_united_again(model):
    params = model[1] | {"absent": None}
    for patterns in ([], ["rnn/0"], ["bias", "embed"]):
        trained, frozen = divide(params, patterns)
        assert len(jax.tree.leaves(trained)) + len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(params))
        tiny.assert_equal(unite(trained, frozen), params)
