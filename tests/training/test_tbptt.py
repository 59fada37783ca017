"""Truncated BPTT: the boundary between windows, windows against one long pass, evaluation against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import optax
import pytest
from training import tiny

import seqjax
from seqjax.data.pipeline.windows import SequenceBatch
from seqjax.errors import UserError
from seqjax.training import train_step
from seqjax.training.losses import means

ONE = jax.devices()[:1]


def _step(loss_fn, optimizer=None, clip_norm=1e9, batch=1):
    mesh = train_step.make_mesh(batch, ONE)
    optimizer = optimizer or optax.sgd(1.0)
    return train_step.make_train_step(loss_fn, optimizer, optax.constant_schedule(1.0), mesh, clip_norm=clip_norm), mesh


# The border.


@pytest.mark.parametrize("cell", [seqjax.lstm(4), seqjax.gru(4), seqjax.rnn(4)], ids=lambda cell: cell.name)
def test_the_value_crosses_the_border_and_the_gradient_does_not(cell):
    params = cell.init(jax.random.key(0), 3)
    xs = np.random.default_rng(0).normal(size=(2, 2, 5, 3)).astype(np.float32)  # two windows

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.value_and_grad, argnums=(1, 2, 3))
    def loss(border, params, first, second):
        carry, _ = seqjax.unroll(cell, params, first)
        carry, ys = seqjax.unroll(cell, params, second, border(carry))
        return (ys**2).sum()

    value, (d_params, d_first, d_second) = loss(train_step.truncate, params, *xs)
    same, (full_params, full_first, full_second) = loss(lambda carry: carry, params, *xs)
    assert np.all(np.asarray(d_first) == 0) and np.abs(full_first).min() > 0
    tiny.assert_close((value, d_second), (same, full_second))
    assert np.abs(d_second).min() > 0
    assert np.abs(d_params.recurrent_kernel - full_params.recurrent_kernel).max() > 1e-3
    other, _ = loss(train_step.truncate, params, xs[0] + np.float32(0.1), xs[1])
    assert abs(float(other) - float(value)) > 1e-4


def test_truncate_keeps_structure_values_and_dtypes():
    carry = (
        seqjax.LSTMCarry(c=jnp.arange(3.0), h=jnp.arange(3.0).astype(jnp.bfloat16)),
        seqjax.GRUCarry(h=-jnp.ones((2, 1))),
    )
    cut = train_step.truncate(carry)
    tiny.assert_equal(cut, carry)
    assert jax.tree.map(lambda a: a.dtype, cut) == jax.tree.map(lambda a: a.dtype, carry)


# Windows.

TEXT = tiny.stream(50)
B = 3


@pytest.fixture(scope="module")
def lm():
    model = tiny.language_model()
    params, carry = tiny.init(model, B)
    return model, tiny.as_numpy(params), tiny.as_numpy(carry)


@pytest.fixture(scope="module")
def long_pass(lm):
    """Mean loss of the whole text as one window, and its gradient, by a loop over single tokens."""
    model, params, carry = lm
    (whole,) = tiny.windows(TEXT, B, 17)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        fresh = model.initial_carry(params, B)

        def advance(state, column):
            tokens, targets, real, reset = column
            state = jax.tree.map(lambda s, f: jnp.where(reset[:, None], f, s), state, fresh)
            state, y = model.cell.step(params["rnn"], state, params["embed"]["embedding"][tokens])
            logits = y @ params["softmax"]["kernel"] + params["softmax"]["bias"][None, :]
            log_p = jax.nn.log_softmax(logits)[jnp.arange(B), targets]
            return state, -(log_p * real).sum()

        columns = jax.tree.map(lambda a: a.T, tuple(whole))
        return jax.lax.scan(advance, carry, columns)[1].sum() / whole.mask.sum()

    return tiny.as_numpy(loss(params))


def test_one_window_is_full_backpropagation(lm, long_pass):
    model, params, carry = lm
    loss, grads = long_pass
    step, mesh = _step(tiny.loss_of(model), batch=B)
    state = train_step.init_state(params, (), optax.sgd(1.0), carry, jax.random.key(0), mesh)
    (whole,) = tiny.windows(TEXT, B, 17)
    state, metrics = step(state, whole)
    assert float(metrics.sums.tokens) == whole.mask.sum() == 50
    np.testing.assert_allclose(metrics.sums.loss / metrics.sums.tokens, loss, rtol=1e-5)
    tiny.assert_close(jax.tree.map(lambda a, b: a - b, params, state.params), grads, 1e-4, 1e-6)


@pytest.mark.parametrize("window", [1, 4, 16])
def test_windows_with_the_carry_have_the_losses_of_one_long_pass(lm, long_pass, window):
    model, params, carry = lm
    step, mesh = _step(tiny.loss_of(model), optax.sgd(0.0), batch=B)  # the parameters stay, the carry continues
    state = train_step.init_state(params, (), optax.sgd(0.0), carry, jax.random.key(0), mesh)
    loss = tokens = 0.0
    for batch in tiny.windows(TEXT, B, window):
        state, metrics = step(state, batch)
        loss, tokens = loss + float(metrics.sums.loss), tokens + float(metrics.sums.tokens)
    assert tokens == 50 and loss / tokens == pytest.approx(float(long_pass[0]), rel=1e-5)
    tiny.assert_equal(state.params, jax.tree.map(jnp.asarray, params))


def test_a_windows_gradient_holds_the_carry_fixed(lm):
    model, params, _ = lm
    loss_fn = tiny.loss_of(model)
    first, second = tiny.windows(tiny.stream(24, starts=0.0), B, 4)
    step, mesh = _step(loss_fn, batch=B)

    @jax.jit
    def by_hand(params):
        start = model.initial_carry(params, B)
        carry, _, _ = loss_fn(params, (), start, first, None)

        def loss(params, carry):
            sums = loss_fn(params, (), carry, second, None)[2]
            return sums.loss / sums.tokens

        full = jax.grad(lambda p: loss(p, loss_fn(p, (), start, first, None)[0]))(params)
        return carry, jax.grad(loss)(params, carry), full

    carry, truncated, full = by_hand(params)
    state = train_step.init_state(params, (), optax.sgd(1.0), carry, jax.random.key(0), mesh)
    state, _ = step(state, second)
    got = jax.tree.map(lambda a, b: a - b, params, state.params)
    tiny.assert_close(got, truncated, 1e-4, 1e-6)
    assert np.abs(got["rnn"][0].recurrent_kernel - full["rnn"][0].recurrent_kernel).max() > 1e-3


# Evaluation.


def _numpy_nats(params, batches):
    """Mean loss in float64 by two NumPy LSTMs, row by row and token by token."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    layers = [p._asdict() for p in params["rnn"]]
    total, count = 0.0, 0
    for b in range(batches[0].inputs.shape[0]):
        row = [np.concatenate([np.asarray(field)[b] for field in part]) for part in zip(*batches, strict=True)]
        for token, target, real, reset in zip(*row, strict=True):
            if reset:
                carries = [{"c": np.zeros((1, tiny.H)), "h": np.zeros((1, tiny.H))} for _ in layers]
            x = params["embed"]["embedding"][None, token]
            for depth, layer in enumerate(layers):
                carries[depth], x = ref.LSTM.step(layer, carries[depth], x)
            if real:
                z = x[0] @ params["softmax"]["kernel"] + params["softmax"]["bias"]
                total += np.log(np.exp(z).sum()) - z[target]
                count += 1
    return total / count


@pytest.fixture(scope="module")
def evaluated(lm):
    model, params, _ = lm
    evaluate = train_step.make_evaluate(tiny.loss_of(model), train_step.make_mesh(B, ONE))

    def loss(window):
        return means(evaluate(params, (), model.initial_carry(params, B), tiny.windows(TEXT, B, window)))["loss"]

    return loss


@pytest.mark.parametrize("window", [1, 3, 7, 17])
def test_evaluation_is_one_long_pass_whatever_the_window(lm, evaluated, window):
    batches = tiny.windows(TEXT, B, window)
    assert window == 1 or not batches[-1].mask.all()  # padding is seen, and so are documents that begin in a row
    assert sum(batch.resets.sum() for batch in batches) > B
    np.testing.assert_allclose(evaluated(window), _numpy_nats(lm[1], batches), rtol=1e-6)


def test_evaluation_of_streams_is_that_of_each_alone(lm, evaluated):
    model, params, _ = lm
    evaluate = train_step.make_evaluate(tiny.loss_of(model), train_step.make_mesh(1, ONE))
    nats = tokens = 0.0
    for b in range(B):
        batches = [SequenceBatch(*[part[b : b + 1] for part in batch]) for batch in tiny.windows(TEXT, B, 7)]
        real = sum(batch.mask.sum() for batch in batches)
        nats += real * means(evaluate(params, (), model.initial_carry(params, 1), batches))["loss"]
        tokens += real
    assert tokens == 50 and nats / tokens == pytest.approx(evaluated(7), rel=1e-6)


def test_evaluation_has_no_noise_and_leaves_its_arguments_alone():
    model = tiny.language_model(dropout=0.5)
    params, carry = tiny.init(model, B)
    evaluate = train_step.make_evaluate(tiny.loss_of(model), train_step.make_mesh(B, ONE))
    batches = tiny.windows(TEXT, B, 7)
    first, second = (means(evaluate(params, (), carry, each))["loss"] for each in (batches, iter(batches)))
    assert type(first) is float and first == second
    np.testing.assert_allclose(first, _numpy_nats(params, batches), rtol=1e-6)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, carry)))


# The mesh.


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="batch_size=5 cannot be cut evenly over 2 devices; make it a multiple"):
        train_step.make_mesh(5, ONE * 2)
    assert train_step.make_mesh(5, ONE).size == 1 and train_step.make_mesh(len(jax.devices())).size == len(jax.devices())
