"""Length buckets: the best boundaries by brute force, each sequence once per epoch, exact resume, one pass in order of length."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data.pipeline.buckets import (
    CANDIDATES,
    BucketBatches,
    choose_boundaries,
    one_pass,
    pad_lengths,
    reach,
    within_limit,
)
from seqjax.errors import UserError

LENGTHS = np.random.default_rng(0).integers(0, 21, 53)
BOUNDARIES = (3, 8, 12, 20)
SIZE = 5


def _shapes(places, rows, steps):
    """A batch that records what it was made from."""
    return places.tolist(), rows, steps


def _batches(lengths=LENGTHS, size=SIZE, boundaries=BOUNDARIES, seed=0):
    return BucketBatches(lengths, _shapes, size, boundaries, seed=seed)


def _epoch(batches):
    return list(itertools.islice(batches, batches.batches_per_epoch))


def _steps(lengths, boundaries):
    """Steps of all sequences, padding included."""
    return sum(min(b for b in boundaries if b >= length) for length in lengths)


def _one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


# choose_boundaries


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=20), st.integers(1, 5))
def test_boundaries_are_the_best_of_all_choices(lengths, number):
    found = choose_boundaries(lengths, number)
    longest = max(max(lengths), 1)
    choices = itertools.chain.from_iterable(itertools.combinations(range(1, longest), k) for k in range(min(number, longest)))
    least = min(_steps(lengths, (*choice, longest)) for choice in choices)
    assert _steps(lengths, found) == least
    assert len(found) <= number and found[-1] == longest and list(found) == sorted(set(found)) and found[0] >= 1
    assert all(type(b) is int for b in found)


@pytest.mark.parametrize("seed", [0, 1])
def test_boundaries_among_many_lengths_are_nearly_the_best(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(5, 1, 3000).astype(int) + 1
    assert len(np.unique(lengths)) > 2 * CANDIDATES
    found = choose_boundaries(lengths, 2)
    least = min(_steps_of_two(lengths, b) for b in np.unique(lengths))
    assert len(found) == 2 and found[-1] == lengths.max()
    assert least <= _steps(lengths, found) < 1.01 * least


def _steps_of_two(lengths, boundary):
    below = (lengths <= boundary).sum()
    return below * boundary + (len(lengths) - below) * lengths.max()


def test_more_buckets_than_lengths_need_no_padding():
    assert choose_boundaries([7, 2, 2, 5], 9) == (2, 5, 7)
    assert choose_boundaries([0, 0], 3) == (1,)
    assert choose_boundaries(np.array([4], np.uint8), np.int64(1)) == (4,)


@pytest.mark.parametrize(
    "lengths, number, says",
    [([], 2, "no sequences"), ([3], 0, "number of buckets is 0"), ([3], 2.0, "is 2.0"), ([3], True, "is True")],
)
def test_boundaries_of_nothing_are_refused(lengths, number, says):
    with pytest.raises(UserError) as error:
        choose_boundaries(lengths, number)
    assert says in _one_line(error)


# BucketBatches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
    st.integers(1, 7),
    st.sets(st.integers(1, 19), max_size=4),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_an_epoch_has_every_sequence_once_in_full_batches_but_one(lengths, size, inner, seed, epoch):
    boundaries = (*sorted(inner), 20)
    batches = _batches(lengths, size, boundaries, seed)
    batches.set_state({"epoch": epoch, "batch": 0})
    made = _epoch(batches)
    assert batches.get_state() == {"epoch": epoch + 1, "batch": 0}
    assert sorted(place for places, _, _ in made for place in places) == list(range(len(lengths)))
    assert sum(len(places) < size for places, _, _ in made) == (len(lengths) % size > 0)
    for places, rows, steps in made:
        assert rows == size and steps in boundaries and max(lengths[place] for place in places) <= steps
    steps = sum(rows * steps for _, rows, steps in _epoch(_batches(lengths, size, boundaries, seed)))
    assert np.isclose(batches.padding(), 1 - sum(lengths) / steps)


def test_batches_are_no_longer_than_they_must_be():
    made = [steps for _, _, steps in _epoch(_batches())]
    waiting = 0
    for shorter, steps in zip((-1, *BOUNDARIES), BOUNDARIES):
        waiting += np.sum((shorter < LENGTHS) & (LENGTHS <= steps))
        full, waiting = divmod(waiting, SIZE)
        assert made.count(steps) == full + (steps == BOUNDARIES[-1] and waiting > 0)
    assert all(b in LENGTHS for b in BOUNDARIES)


def test_batches_come_in_random_order_and_company():
    epochs = [_epoch(_batches())] + [_epoch(_batches(seed=1))]
    batches = _batches()
    _epoch(batches)
    epochs.append(_epoch(batches))
    assert epochs[0] == _epoch(_batches())
    steps = [[steps for _, _, steps in epoch] for epoch in epochs]
    assert all(s != sorted(s) for s in steps) and len({tuple(s) for s in steps}) == 3
    company = [frozenset(frozenset(places) for places, _, _ in epoch) for epoch in epochs]
    assert len(set(company)) == 3


def test_short_sequences_come_first_in_the_first_epoch_alone():
    """It is an epoch like any other, in ascending order, and does not change later ones."""
    rising, usual = (BucketBatches(LENGTHS, _shapes, SIZE, BOUNDARIES, seed=0, short_first=first) for first in (True, False))
    first = _epoch(rising)
    assert sorted(place for places, _, _ in first for place in places) == list(range(len(LENGTHS)))
    told = [LENGTHS[place] for places, _, _ in first for place in places]
    assert told == sorted(told) and [steps for *_, steps in first] == sorted(steps for *_, steps in first)
    usual.set_state(rising.get_state())
    assert _epoch(rising) == _epoch(usual)
    rising.set_state({"epoch": 0, "batch": 4})
    assert next(rising) == first[4]
    assert _epoch(BucketBatches(LENGTHS, _shapes, SIZE, BOUNDARIES, seed=1, short_first=True)) != first  # equal lengths are shuffled


def test_a_stop_anywhere_goes_on_exactly():
    whole = list(itertools.islice(_batches(seed=7), 30))
    for stop in (0, 4, 10, 11, 17, 22):
        first = _batches(seed=7)
        head = list(itertools.islice(first, stop))
        fresh = _batches(seed=7)
        fresh.set_state(json.loads(json.dumps(first.get_state())))
        assert head + list(itertools.islice(fresh, 30 - stop)) == whole
    back = _batches(seed=7)
    list(itertools.islice(back, 25))
    back.set_state({"epoch": 0, "batch": 3})  # an object that has advanced may be set back
    assert next(back) == whole[3] and back.get_state() == {"epoch": 0, "batch": 4}


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"lengths": []}, "no sequences"),
        ({"lengths": [[1, 2]]}, "no sequences"),
        ({"lengths": [1.0]}, "float64 from 1.0"),
        ({"lengths": [2, -1]}, "from -1"),
        ({"lengths": [2, 21]}, "a sequence has 21 steps, and the largest bucket 20"),
        ({"size": 0}, "batch_size is 0"),
        ({"size": 2.0}, "batch_size is 2.0"),
        ({"boundaries": ()}, "boundaries are ()"),
        ({"boundaries": (8, 3, 20)}, "boundaries are (8, 3, 20)"),
        ({"boundaries": (3, 3, 20)}, "rising"),
        ({"boundaries": (0, 20)}, "at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": None}, "seed is None"),
    ],
)
def test_what_cannot_be_is_refused(settings, says):
    with pytest.raises(UserError) as error:
        _batches(**settings)
    assert says in _one_line(error)


@pytest.mark.parametrize(
    "state, says",
    [
        (None, "not an iterator state"),
        ({}, "not an iterator state"),
        ({"epoch": 0}, "epoch and batch"),
        ({"epoch": 0, "batch": 0, "window": 0}, "epoch and batch"),
        ({"epoch": -1, "batch": 0}, "at least 0"),
        ({"epoch": 0, "batch": -1}, "at least 0"),
        ({"epoch": 0.0, "batch": 0}, "whole numbers"),
        ({"epoch": 0, "batch": True}, "whole numbers"),
        ({"epoch": 0, "batch": 11}, "batch 11, but an epoch has 11; resume with the data and batch_size"),
    ],
)
def test_states_that_cannot_be_are_refused(state, says):
    batches = _batches()
    assert batches.batches_per_epoch == 11
    next(batches)
    with pytest.raises(UserError) as error:
        batches.set_state(state)
    assert says in _one_line(error) and batches.get_state() == {"epoch": 0, "batch": 1}


# one_pass


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(1, 7))
def test_one_pass_has_all_in_order_of_length_and_tells_their_places(lengths, size):
    allowed = (4, 10, 20, 40)
    passed = list(one_pass(lengths, _shapes, size, (4, 10)))
    places = np.concatenate([places for places, _ in passed])
    assert sorted(places) == list(range(len(lengths)))
    assert (np.diff(np.array(lengths)[places]) >= 0).all()
    assert all(len(p) == size for p, _ in passed[:-1]) and len(passed) == -(-len(lengths) // size)
    for p, (given_places, rows, steps) in passed:
        longest = max(lengths[i] for i in p)
        assert given_places == p.tolist() and rows == size and steps == min(b for b in allowed if b >= longest)
    results = np.zeros(len(lengths), int)
    for p, _ in passed:
        results[p] = np.array(lengths)[p]
    assert results.tolist() == lengths


@pytest.mark.parametrize(
    "lengths, size, boundaries, says",
    [([], 2, (4,), "no sequences"), ([3], 0, (4,), "batch_size is 0"), ([3], 2, (), "boundaries are ()"),
     ([3], 2, (0,), "boundaries are (0,)"), ([3], 2, (8, 4), "rising")],
)  # fmt: skip
def test_one_pass_over_what_cannot_be_is_refused(lengths, size, boundaries, says):
    with pytest.raises(UserError) as error:
        next(one_pass(lengths, _shapes, size, boundaries))
    assert says in _one_line(error)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 9), min_size=1), st.integers(0, 100))
def test_reach_doubles_as_often_as_it_must(boundaries, longest):
    boundaries = tuple(sorted(boundaries))
    found = reach(boundaries, longest)
    added = found[len(boundaries) - 1 :]
    assert found[: len(boundaries)] == boundaries and found[-1] >= longest
    assert all(b == 2 * a for a, b in itertools.pairwise(added))
    assert len(added) == 1 or found[-2] < longest


def test_what_is_within_a_limit():
    lengths = np.array([3, 9, 5, 6])
    assert within_limit(lengths, 5).tolist() == [0, 2] and within_limit(lengths, 2).tolist() == []
    assert within_limit(lengths, 0).tolist() == within_limit(lengths, 9).tolist() == [0, 1, 2, 3]


def test_lengths_of_missing_rows_are_zero():
    assert pad_lengths(np.array([3, 0, 5]), 4).tolist() == [3, 0, 5, 0]
    assert pad_lengths(np.array([3]), 1).dtype == np.int32
