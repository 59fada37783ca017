"""The tagger: losses against optax and the CRF's own functions, characters, padding, forbidden tags, noise, evaluation."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqjax.data.pipeline.buckets import BucketBatches, one_pass
from seqjax.data.pipeline.collate import collate_tagged
from seqjax.errors import UserError
from seqjax.models import CharFeatures, Tagger, make_stack
from seqjax.nn.crf import crf_decode, crf_log_likelihood
from seqjax.training import train_step
from seqjax.training.losses import Sums, means

pytestmark = pytest.mark.one_in(4)

B, T, C, V, CHARS, D = 4, 6, 5, 12, 9, 4
ENTITIES = ("O", "B-X", "I-X", "B-Y", "I-Y")
K = len(ENTITIES)
RNG = np.random.default_rng(0)
LENGTHS = np.array([6, 2, 0, 3], np.int32)
REAL = np.arange(T)[None] < LENGTHS[:, None]
WORDS = np.where(REAL, RNG.integers(2, V - 1, (B, T)), 0).astype(np.int32)
SPELLED = REAL[..., None] & (np.arange(C) < RNG.integers(1, C + 1, (B, T, 1)))
LETTERS = np.where(SPELLED, RNG.integers(1, CHARS - 1, (B, T, C)), 0).astype(np.int32)
TAGS = np.where(REAL, RNG.integers(0, 2, (B, T)), 0).astype(np.int32)  # O and B-X may follow each other

KINDS = {
    "plain": {},
    "cnn": {"char_features": "cnn"},
    "rnn": {"char_features": "rnn", "crf": True},
    "entities": {"crf": True, "entity_tags": ENTITIES},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _model(kind="plain", **settings):
    defaults = {
        "vocab_size": V, "num_tags": K, "cell": make_stack("gru", 3, 1, bidirectional=True), "embed_size": D,
        "num_chars": CHARS, "char_embed_size": 3, "char_size": 4,
    }  # fmt: skip
    return Tagger(**defaults | KINDS[kind] | settings)


def _random(shapes, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(0.6 * rng.normal(size=p.shape), p.dtype), shapes)


def _params(model):
    """Random parameters, the biases and the transitions too."""
    init = functools.partial(model.init, method=_all)
    return _random(jax.eval_shape(init, jax.random.key(0), WORDS, LETTERS, LENGTHS)["params"])


def _all(model, words, chars, lengths, tags=TAGS):
    scores = model(words, chars, lengths)
    return scores, model.nats(scores, tags, lengths), model.decode(scores, lengths)


@functools.cache
def _compiled(kind):
    model = _model(kind)

    def run(params, words, chars, tags):
        scores, nats, best = model.apply({"params": params}, words, chars, LENGTHS, tags, method=_all)
        return nats.sum(), (scores, nats, best)

    return jax.jit(jax.value_and_grad(run, has_aux=True)), _params(model)


def _run(kind, words=WORDS, chars=LETTERS, tags=TAGS):
    run, params = _compiled(kind)
    return run(params, words, chars, tags)


def _close(a, b, rtol=1e-5, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@every_kind
def test_padding_has_no_influence(kind):
    (loss, (scores, nats, best)), grads = _run(kind)
    words = np.where(REAL, WORDS, np.where(np.arange(T) % 2, V - 1, V + 5)[None])  # one nowhere else, one that is none
    chars = np.where(REAL[..., None], LETTERS, np.where(np.arange(C) % 2, CHARS - 1, 2))
    tags = np.where(REAL, TAGS, 99)
    (its_loss, (its_scores, its_nats, its_best)), its_grads = _run(
        kind, words.astype(np.int32), chars.astype(np.int32), tags.astype(np.int32)
    )
    _close((loss, nats, best, grads), (its_loss, its_nats, its_best, its_grads), 1e-6, 1e-6)
    np.testing.assert_allclose(np.asarray(scores)[REAL], np.asarray(its_scores)[REAL], 1e-6, 1e-6)
    assert float(nats[2]) == 0 and (np.asarray(best)[~REAL] == 0).all() and (np.asarray(nats)[LENGTHS > 0] > 0.1).all()
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0  # with an empty sentence; and every weight counts
    assert (np.asarray(grads["embed"]["embedding"])[V - 1] == 0).all()


@pytest.mark.parametrize("kind", ["plain", "cnn"])
def test_without_a_crf_each_tag_is_its_own_softmax(kind):
    _, (scores, nats, best) = _run(kind)[0]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, TAGS)
    np.testing.assert_allclose(nats, np.where(REAL, losses, 0).sum(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(best, np.where(REAL, np.argmax(scores, -1), 0))


def test_with_a_crf_the_tags_are_one_decision():
    _, (scores, nats, best) = _run("rnn")[0]
    weights = _compiled("rnn")[1]["crf"]
    np.testing.assert_allclose(nats, -crf_log_likelihood(weights, scores, TAGS, LENGTHS), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(best, crf_decode(weights, scores, LENGTHS)[0])
    assert (np.asarray(best) != np.where(REAL, np.argmax(scores, -1), 0)).any()


def _proper(tags):
    """Whether the tags are entities: I-X only after B-X or I-X."""
    names = ["O", *(ENTITIES[tag] for tag in tags)]
    return all(now[0] != "I" or (before[0] in "BI" and before[1:] == now[1:]) for before, now in zip(names, names[1:]))


def test_tags_that_are_no_entities_have_no_probability_and_are_never_decoded():
    model, params = _model("entities"), _compiled("entities")[1]
    rng = np.random.default_rng(2)
    scores, lengths = rng.normal(size=(60, T, K)).astype(np.float32), rng.integers(0, T + 1, 60)
    tags = rng.integers(0, K, (60, T)).astype(np.int32)
    apply = lambda *args, method: model.apply({"params": params}, *args, lengths, method=method)  # noqa: E731
    best = np.asarray(apply(scores, method="decode"))
    assert all(_proper(row[:n]) for row, n in zip(best, lengths))
    assert not all(_proper(row[:n]) for row, n in zip(scores.argmax(-1), lengths))
    nats = np.asarray(apply(scores, tags, method="nats"))
    proper = np.array([_proper(row[:n]) for row, n in zip(tags, lengths)])
    assert 5 < proper.sum() < 55 and np.isfinite(nats[proper]).all() and np.isposinf(nats[~proper]).all()


# Characters


@pytest.mark.parametrize("kind", ["rnn", "cnn"])
def test_a_word_is_its_characters_whatever_the_width(kind):
    model = CharFeatures(kind, CHARS, 3, 4)
    params = _random(jax.eval_shape(model.init, jax.random.key(0), LETTERS)["params"])
    run = jax.jit(lambda chars: model.apply({"params": params}, chars))
    narrow, wide = np.asarray(run(LETTERS)), np.asarray(run(np.pad(LETTERS, ((0, 0), (0, 0), (0, 4)))))
    _close(wide, narrow)
    words = narrow[REAL]
    assert narrow.shape == (B, T, 4) and (narrow[~REAL] == 0).all()  # a word of no character
    spelled = [tuple(row) for row in LETTERS[REAL]]
    for i, j in np.ndindex(len(words), len(words)):  # other words, other vectors
        assert (spelled[i] == spelled[j]) == (np.abs(words[i] - words[j]).max() < 1e-6)


def test_characters_are_read_in_their_order():
    model = CharFeatures("rnn", CHARS, 3, 4)
    params = _random(jax.eval_shape(model.init, jax.random.key(0), LETTERS)["params"])
    swapped = params | {"rnn": params["rnn"]._replace(forward=params["rnn"].backward, backward=params["rnn"].forward)}
    chars = LETTERS[:1, :1, :].copy()
    chars[0, 0] = [1, 2, 3, 4, 0]
    back = np.array([4, 3, 2, 1, 0], np.int32)[None, None]
    run = jax.jit(lambda p, chars: model.apply({"params": p}, chars))
    _close(np.roll(run(params, chars), 2, axis=-1), np.asarray(run(swapped, back)))
    assert np.abs(run(params, chars) - run(params, back)).max() > 0.01


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"char_features": "lstm"}, "model.char_features='lstm' is unknown; choose one of none, rnn, cnn"),
        ({"char_features": "rnn", "char_size": 5}, "model.char_size=5 must be even"),
    ],
)
def test_taggers_that_cannot_be_are_refused(settings, says):
    with pytest.raises(UserError) as error:
        _params(_model(**settings))
    assert says in str(error.value) and "\n" not in str(error.value)


# Noise


def test_noise_comes_with_training_and_its_key():
    still, params = _model("plain"), _compiled("plain")[1]
    noises = [_model("plain", **{name: 0.5}) for name in ("dropout", "embed_dropout", "word_dropout")]

    @jax.jit
    def run(params, key):
        apply = lambda model, **how: model.apply({"params": params}, WORDS, None, LENGTHS, **how)  # noqa: E731
        train = {"train": True, "rngs": {"dropout": key}}
        noisy = [apply(model, **train) for model in noises]
        return noisy, [apply(model, rngs={"dropout": key}) for model in noises], apply(still, **train)

    calm = _run("plain")[0][1][0]
    noisy, evaluated, without = run(params, jax.random.key(1))
    other, _, _ = run(params, jax.random.key(2))
    _close([*evaluated, without], [calm] * 4, 1e-6, 1e-6)
    for once, again, different in zip(noisy, run(params, jax.random.key(1))[0], other):
        np.testing.assert_array_equal(once, again)
        assert np.abs(once - calm)[REAL].max() > 0.05 and np.abs(once - different)[REAL].max() > 0.05
    for model in noises:
        with pytest.raises(flax.errors.InvalidRngError):
            jax.eval_shape(lambda m=model: m.apply({"params": params}, WORDS, None, LENGTHS, train=True))


# Evaluation


def test_evaluation_does_not_depend_on_buckets_batches_and_order():
    model, params = _model("rnn"), _compiled("rnn")[1]
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 10, 18)
    sentences = [[rng.integers(1, high, (n, *more)) for n in lengths] for high, *more in ((V,), (CHARS, C), (K,))]
    collate = collate_tagged(*sentences)

    def loss_fn(params, model_state, carry, batch, rng):
        tags = jnp.asarray(batch.tags)
        _, nats, best = model.apply({"params": params}, batch.words, batch.chars, batch.lengths, tags, method=_all)
        real = jnp.arange(tags.shape[1])[None] < batch.lengths[:, None]
        count = lambda flags: jnp.sum(flags & real).astype(jnp.float32)  # noqa: E731
        return carry, model_state, Sums(nats.sum(), count(real), {"correct": count(best == tags)})

    evaluate = train_step.make_evaluate(loss_fn, train_step.make_mesh(1, jax.devices()[:1]))
    run = lambda batches: list(means(evaluate(params, (), (), batches)).values())  # noqa: E731
    want = run(batch for _, batch in one_pass(lengths, collate, 4, (5, 9)))
    np.testing.assert_allclose(run(batch for _, batch in one_pass(lengths, collate, 7, (12,))), want, rtol=1e-5)
    shuffled = BucketBatches(lengths, collate, 4, (5, 9), seed=0)
    np.testing.assert_allclose(run(next(shuffled) for _ in range(shuffled.batches_per_epoch)), want, rtol=1e-5)
    assert want[0] > 0.5
