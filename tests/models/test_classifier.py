"""The classifier: each pooling against NumPy, padding without influence, noise in training only, evaluation in any batches."""

import functools
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax
from seqjax.data.pipeline.buckets import BucketBatches, one_pass
from seqjax.data.pipeline.collate import collate_texts
from seqjax.errors import UserError
from seqjax.models import TextClassifier, make_stack
from seqjax.models.classifier import POOLING, drop_words
from seqjax.training import train_step
from seqjax.training.losses import Sums, means

pytestmark = pytest.mark.one_in(4)

B, T, V, K, D, H = 4, 6, 12, 3, 4, 5
RNG = np.random.default_rng(0)
LENGTHS = np.array([6, 2, 0, 3], np.int32)
REAL = np.arange(T)[None] < LENGTHS[:, None]
TOKENS = np.where(REAL, RNG.integers(2, V - 1, (B, T)), 0).astype(np.int32)
LABELS = np.array([0, 2, 1, 2])
every_pooling = pytest.mark.parametrize("pooling", POOLING)


def _model(pooling="max", **settings):
    cell = make_stack("lstm", H, 2, bidirectional=True)
    defaults = {"cell": cell, "embed_size": D, "pooling": pooling, "bidirectional": True}
    return TextClassifier(V, K, **defaults | settings)


def _params(model):
    """Random parameters, the biases too; of one name the same whatever else there is."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS, LENGTHS)["params"]
    return {name: _random(part, np.random.default_rng(1)) for name, part in shapes.items()}


def _random(shapes, rng):
    return jax.tree.map(lambda p: jnp.asarray(0.6 * rng.normal(size=p.shape), p.dtype), shapes)


@functools.cache
def _compiled(pooling):
    model = _model(pooling)

    def run(params, tokens):
        out = model.apply({"params": params}, tokens, LENGTHS)
        return optax.softmax_cross_entropy_with_integer_labels(out.logits, LABELS).sum(), out

    return jax.jit(jax.value_and_grad(run, has_aux=True)), _params(model)


@functools.cache
def _outputs():
    """Outputs and last carry of the recurrent layers alone; every pooling has the same weights there."""
    params, cell = _compiled("max")[1], _model().cell
    xs = params["embed"]["embedding"][TOKENS]
    return jax.jit(lambda p, xs: seqjax.unroll(cell, p, xs, lengths=LENGTHS))(params["rnn"], xs)


def _close(a, b, rtol=1e-5, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def _pooled(pooling, params):
    """(B, 2 H) by NumPy, a text at a time."""
    carry, ys = _outputs()
    top, ys, rows = carry[-1], np.asarray(ys, np.float64), []
    for b, n in enumerate(LENGTHS):
        if pooling == "last":
            row = np.concatenate([top.forward.h[b], top.backward.h[b]])
        elif n == 0:
            row = np.zeros(2 * H)
        elif pooling == "attention":
            p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["pooling"])
            score = np.exp(np.tanh(ys[b, :n] @ p.kernel + p.bias[None]) @ p.score)
            row = score / score.sum() @ ys[b, :n]
        else:
            row = getattr(np, pooling)(ys[b, :n], axis=0)
        rows.append(row)
    return np.stack(rows)


@every_pooling
def test_logits_are_those_of_numpy(pooling):
    run, params = _compiled(pooling)
    (_, out), _ = run(params, TOKENS)
    head = params["softmax"]
    np.testing.assert_allclose(out.logits, _pooled(pooling, params) @ head["kernel"] + head["bias"][None], rtol=1e-4, atol=1e-5)
    assert (out.weights is None) == (pooling != "attention")
    if pooling == "attention":
        np.testing.assert_allclose(np.sum(out.weights, 1), LENGTHS > 0, rtol=1e-6)
        assert (np.asarray(out.weights)[~REAL] == 0).all()


@every_pooling
def test_padding_has_no_influence(pooling):
    run, params = _compiled(pooling)
    (loss, out), grads = run(params, TOKENS)
    other = np.where(np.arange(T) % 2, V - 1, V + 5)[None]  # an id that occurs nowhere else, and an invalid one
    (its_loss, its_out), its_grads = run(params, np.where(REAL, TOKENS, other).astype(np.int32))
    _close((loss, out, grads), (its_loss, its_out, its_grads), 1e-6, 1e-6)
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0  # with an empty text; and every weight counts
    assert (np.asarray(grads["embed"]["embedding"])[V - 1] == 0).all()


def test_the_last_of_one_direction_is_the_last_step():
    cell = make_stack("gru", 6, 1)
    model = _model("last", cell=cell, bidirectional=False)
    params = _params(model)

    @jax.jit
    def both(params):
        xs = params["embed"]["embedding"][TOKENS]
        (carry,), _ = seqjax.unroll(cell, params["rnn"], xs, lengths=LENGTHS)
        return model.apply({"params": params}, TOKENS, LENGTHS).logits, carry.h

    logits, h = both(params)
    head = params["softmax"]
    np.testing.assert_allclose(logits, h @ head["kernel"] + head["bias"][None], rtol=1e-5, atol=1e-5)


def test_a_mask_does_what_lengths_do():
    model, (run, params) = _model("last"), _compiled("last")
    logits = jax.jit(lambda p: model.apply({"params": p}, TOKENS, REAL).logits)(params)
    _close(logits, run(params, TOKENS)[0][1].logits)


# Noise


@pytest.mark.parametrize("noise", ["dropout", "word_dropout"])
def test_noise_comes_with_training_and_its_key(noise):
    noisy, still, params = _model("max", **{noise: 0.5}), _model("max"), _compiled("max")[1]

    @jax.jit
    def run(params, key):
        apply = lambda model, **how: model.apply({"params": params}, TOKENS, LENGTHS, **how).logits  # noqa: E731
        train = {"train": True, "rngs": {"dropout": key}}
        return apply(noisy, **train), apply(noisy, rngs={"dropout": key}), apply(still, **train)

    calm = _compiled("max")[0](params, TOKENS)[0][1].logits
    once, evaluated, without = run(params, jax.random.key(1))
    again, other = run(params, jax.random.key(1))[0], run(params, jax.random.key(2))[0]
    _close([evaluated, without], [calm, calm], 1e-6, 1e-6)
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - calm).max() > 0.05 and np.abs(once - other).max() > 0.05
    with pytest.raises(flax.errors.InvalidRngError):
        jax.eval_shape(lambda: noisy.apply({"params": params}, TOKENS, LENGTHS, train=True))


def test_dropped_words_are_unknown_and_as_many_as_said():
    tokens = RNG.integers(4, V, (50, 80))
    dropped = np.asarray(drop_words(jax.random.key(0), jnp.asarray(tokens), 0.3))
    assert ((dropped == tokens) | (dropped == 1)).all()
    assert abs((dropped == 1).mean() - 0.3) < 0.03


def test_an_unknown_pooling_is_refused():
    with pytest.raises(UserError, match="model.pooling='sum' is unknown; choose one of last, mean, max, attention"):
        _params(_model("sum"))


# Evaluation


def test_evaluation_does_not_depend_on_buckets_batches_and_order():
    model, params = _model("attention"), _compiled("attention")[1]
    rng = np.random.default_rng(3)
    texts = [rng.integers(1, V, n) for n in rng.integers(0, 10, 18)]
    lengths = [len(text) for text in texts]
    collate = collate_texts(texts, rng.integers(0, K, 18))

    def loss_fn(params, model_state, carry, batch, rng):
        logits = model.apply({"params": params}, batch.tokens, batch.lengths).logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        total = partial(jnp.sum, where=batch.mask)
        right = total((logits.argmax(-1) == batch.labels).astype(jnp.float32))
        return carry, model_state, Sums(total(losses), batch.mask.sum().astype(jnp.float32), {"correct": right})

    evaluate = train_step.make_evaluate(loss_fn, train_step.make_mesh(1, jax.devices()[:1]))
    run = lambda batches: list(means(evaluate(params, (), (), batches)).values())  # noqa: E731
    want = run(batch for _, batch in one_pass(lengths, collate, 4, (5, 9)))
    np.testing.assert_allclose(run(batch for _, batch in one_pass(lengths, collate, 7, (12,))), want, rtol=1e-5)
    shuffled = BucketBatches(lengths, collate, 4, (5, 9), seed=0)
    np.testing.assert_allclose(run(next(shuffled) for _ in range(shuffled.batches_per_epoch)), want, rtol=1e-5)
    assert want[0] > 0.5
