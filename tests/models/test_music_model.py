"""The model of music: a proper likelihood by brute force, the multi-label form against scipy, windows, causality, gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from seqjax.decoding.music import draw_frames
from seqjax.errors import UserError
from seqjax.models import make_stack
from seqjax.models import music as models

pytestmark = pytest.mark.one_in(5)

P = 4
RNG = np.random.default_rng(0)
FRAMES = (RNG.random((2, 6, P)) < 0.5).astype(np.uint8)
BEFORE = np.pad(FRAMES, ((0, 0), (1, 0), (0, 0)))[:, :-1]
every_form = pytest.mark.parametrize("form", ["frames", "descending", "ascending"])


@functools.cache
def model_of(form, dropout=0.0):
    """A small model with random parameters, those that begin at zero too."""
    output, order = ("frames", "descending") if form == "frames" else ("notes", form)
    cell = make_stack("gru", 5, 1, dropout=dropout)
    model = models.MusicModel(cell, output, 4, note_size=5, order=order, max_notes=P, reach=2, memory=2, pitches=P, dropout=dropout)
    params = jax.jit(functools.partial(model.init, method="whole"))(jax.random.key(0), BEFORE, FRAMES)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = jax.tree.unflatten(tree, [leaf + 0.7 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)])
    return model, params, jax.jit(lambda before, *more: model.apply({"params": params}, before, *more))


@functools.cache
def nats_of(model):
    return jax.jit(functools.partial(model.apply, method="nats"))


def nats(form, context, frames):
    model, params, _ = model_of(form)
    return nats_of(model)({"params": params}, context, frames)


def all_sets():
    return [np.array(bits, np.uint8) for bits in itertools.product((0, 1), repeat=P)]


@every_form
def test_the_probabilities_of_all_frames_sum_to_one(form):
    context = model_of(form)[2](BEFORE)[1]
    each = [nats(form, context, np.broadcast_to(frame, FRAMES.shape)) for frame in all_sets()]
    total = jax.nn.logsumexp(-jnp.stack(each), axis=0)
    np.testing.assert_allclose(total, 0, atol=1e-5)
    assert np.std(np.stack(each)) > 0.5  # the frames differ


def test_notes_of_a_frame_depend_on_each_other():
    """A distribution that no product of independent pitches can represent."""
    context = model_of("descending")[2](BEFORE[:1, :1])[1]
    probability = {tuple(frame): float(np.exp(-nats("descending", context, frame[None, None])[0, 0])) for frame in all_sets()}
    marginal = [sum(p for frame, p in probability.items() if frame[place]) for place in range(P)]
    together = sum(p for frame, p in probability.items() if frame[0] and frame[1])
    assert abs(together - marginal[0] * marginal[1]) > 0.01


def test_independent_pitches_against_scipy():
    model, params, read = model_of("frames")
    context = read(BEFORE)[1]
    logits = np.asarray(model.apply({"params": params}, context, method="logits"), np.float64)
    expected = -scipy.stats.bernoulli.logpmf(FRAMES, 1 / (1 + np.exp(-logits))).sum(axis=-1)
    np.testing.assert_allclose(nats("frames", context, FRAMES), expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["descending", "ascending"])
def test_notes_by_an_independent_loop(form):
    """The likelihood of training is that of writing note after note by `note_step`."""
    model, params, read = model_of(form)
    context = read(BEFORE)[1]
    found = np.asarray(nats(form, context, FRAMES))
    step = jax.jit(lambda *args: model.apply({"params": params}, *args, method="note_step"))
    for row, place in np.ndindex(*FRAMES.shape[:2]):
        one = jax.tree.map(lambda leaf: leaf[row : row + 1, place : place + 1], context)  # noqa: B023
        notes = np.flatnonzero(FRAMES[row, place]).tolist()
        carry, before, total = model.apply({"params": params}, 1, method="note_carry"), P, 0.0
        for note in (*(notes[::-1] if form == "descending" else notes), P):
            carry, scores = step(one, carry, jnp.array([before]))
            total -= float(jax.nn.log_softmax(scores)[0, note])
            before = note
        assert found[row, place] == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_a_frame_of_too_many_notes_has_no_finite_loss():
    model, params, read = model_of("descending")
    small = model.clone(max_notes=2)
    context, full = read(BEFORE)[1], np.ones_like(FRAMES)
    assert np.isinf(nats_of(small)({"params": params}, context, full)).all()
    fewer = full * np.array([1, 0, 1, 0], np.uint8)
    np.testing.assert_allclose(nats_of(small)({"params": params}, context, fewer), nats("descending", context, fewer), rtol=1e-5)


@every_form
@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_windows_with_the_carry_are_the_whole(form, cut):
    _, _, read = model_of(form)
    carry, whole = read(BEFORE)
    first, one = read(BEFORE[:, :cut])
    last, two = read(BEFORE[:, cut:], first)
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, jnp.concatenate([b, c], 1), rtol=1e-5, atol=1e-6), whole, one, two)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), carry, last)


def test_rows_that_begin_and_rows_that_have_ended():
    """A row that begins takes the initial carry whatever is there; a row of length 0 keeps its own; padding has no influence."""
    model, params, read = model_of("descending")
    carry = read(BEFORE)[0]
    apply = functools.partial(jax.jit(model.apply), {"params": params})
    after, context = apply(BEFORE, carry, first=np.array([True, False]), lengths=np.array([6, 0]))
    fresh_carry, fresh = read(BEFORE)
    np.testing.assert_allclose(context.features[0], fresh.features[0], rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-6), after, fresh_carry)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), after, carry)
    noisy = BEFORE.copy()
    noisy[:, 4:] = 1 - noisy[:, 4:]
    short = [apply(frames, lengths=np.array([4, 4]))[0] for frames in (BEFORE, noisy)]
    jax.tree.map(np.testing.assert_array_equal, *short)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), short[0], read(BEFORE[:, :4])[0])


@every_form
def test_no_frame_depends_on_itself_or_a_later_one(form):
    read = model_of(form)[2]
    for place in range(1, 5):
        changed = FRAMES.copy()
        changed[:, place] = 1 - changed[:, place]
        before = np.pad(changed, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        one, other = (nats(form, read(frames)[1], FRAMES) for frames in (BEFORE, before))
        np.testing.assert_array_equal(one[:, : place + 1], other[:, : place + 1])
        assert np.abs(one[:, place + 1] - other[:, place + 1]).min() > 1e-6


@pytest.mark.parametrize("order", models.ORDERS)
def test_the_gradient_of_intervals(order):
    """It is written by hand; against finite differences and against a loop."""
    scores = RNG.normal(size=(5, 6)).astype(np.float32)
    before = np.array([6, 0, 3, 5, 2])  # 6 is no note
    found = models._by_interval(order, jnp.array(scores), jnp.array(before))
    for row, last in enumerate(before):
        for pitch in range(6):
            distance = (last - pitch if order == "descending" else pitch - last) - 1
            expected = scores[row, distance] if last < 6 and distance >= 0 else 0
            assert found[row, pitch] == np.float32(expected)
    check_grads(lambda s: models._by_interval(order, s, jnp.array(before)), (jnp.array(scores),), 1, modes=["rev"])


@pytest.mark.parametrize("order", models.ORDERS)
def test_notes_of_a_roll(order):
    frames = (RNG.random((50, 7)) < 0.4).astype(np.uint8)
    notes, counts = models.roll_to_notes(frames, 3, order)
    for frame, row, count in zip(frames, notes, counts):
        expected = np.flatnonzero(frame).tolist()
        expected = (expected[::-1] if order == "descending" else expected)[:3]
        assert row.tolist() == expected + [7] * (3 - len(expected)) and count == frame.sum()


def test_dropout_is_for_training_only():
    model, params, _ = model_of("descending", 0.5)

    def apply(seed=None):
        noise = {} if seed is None else {"train": True, "rngs": {"dropout": jax.random.key(seed)}}
        context = model.apply({"params": params}, BEFORE, **noise)[1]
        return np.asarray(model.apply({"params": params}, context, FRAMES, method="nats", **noise))

    np.testing.assert_array_equal(apply(), apply())
    assert not np.allclose(apply(0), apply(1)) and not np.allclose(apply(0), apply())


@every_form
def test_frames_are_drawn_as_often_as_they_are_likely(form):
    model, params, read = model_of(form)
    context = jax.tree.map(lambda leaf: leaf[:1, :1], read(BEFORE)[1])
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, 20_000, axis=1), context)
    drawn = np.asarray(draw_frames(model, params, many, jax.random.key(3))[0])
    codes = np.bincount(drawn @ (1 << np.arange(P)[::-1]), minlength=1 << P) / len(drawn)
    expected = np.exp([-float(nats(form, context, frame[None, None])[0, 0]) for frame in all_sets()])
    np.testing.assert_allclose(codes, expected, atol=5 * np.sqrt(0.25 / len(drawn)))


def test_unknown_settings():
    with pytest.raises(UserError, match="model.output='chords' is unknown; choose one of frames, notes"):
        models.MusicModel(make_stack("gru", 4, 1), "chords").init(jax.random.key(0), BEFORE, FRAMES, method="whole")
