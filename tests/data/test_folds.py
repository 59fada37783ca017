"""Folds and near-duplicates: each example is tested once, classes keep their shares, and no near-duplicate is on both sides."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from seqjax.data.folds import hold_groups_out, make_folds
from seqjax.data.near_duplicates import near_duplicates
from seqjax.errors import UserError
from seqjax.models.nucleotides import COMPLEMENT, encode

LABELLED = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=4, max_size=60)


@hypothesis.given(LABELLED, st.integers(2, 6), st.integers(0, 99))
@hypothesis.settings(max_examples=60, deadline=None)
def test_folds_cover_every_example_once_and_keep_groups_together(examples, folds, seed):
    labels, groups = map(np.array, zip(*examples))
    distinct = len(set(groups.tolist()))
    if folds > distinct:
        with pytest.raises(UserError, match=f"there are {distinct} groups"):
            make_folds(labels, groups, folds, seed)
        return
    found = make_folds(labels, groups, folds, seed)
    assert found.shape == labels.shape and set(found.tolist()) == set(range(folds))  # none is empty
    for group in set(groups.tolist()):
        assert len(set(found[groups == group].tolist())) == 1
    np.testing.assert_array_equal(found, make_folds(labels, groups, folds, seed))


@pytest.mark.parametrize("folds", [3, 10])
def test_classes_have_their_shares_in_every_fold(folds):
    labels = np.array([0] * 100 + [1] * 45 + [2] * 31)
    found = make_folds(labels, np.arange(len(labels)), folds, 0)
    counts = np.array([np.bincount(labels[found == fold], minlength=3) for fold in range(folds)])
    assert (np.ptp(counts, axis=0) <= 1).all() and np.ptp(counts.sum(axis=1)) <= 3
    assert (found != make_folds(labels, np.arange(len(labels)), folds, 1)).any()


def test_as_many_folds_as_groups_leave_one_out():
    labels, groups = np.array([0, 0, 1, 1, 1]), np.array([4, 4, 2, 7, 9])
    found = make_folds(labels, groups, 4, 0)
    assert len(set(found.tolist())) == 4 and found[0] == found[1]


@hypothesis.given(LABELLED, st.floats(0.1, 0.6), st.integers(0, 99))
@hypothesis.settings(max_examples=60, deadline=None)
def test_what_is_held_out_is_whole_groups_and_leaves_some_of_each_label(examples, fraction, seed):
    labels, groups = map(np.array, zip(*examples))
    try:
        held = hold_groups_out(labels, groups, fraction, seed, "these")
    except UserError as error:
        assert "too few groups" in str(error)
        return
    for group in set(groups.tolist()):
        assert len(set(held[groups == group].tolist())) == 1
    assert held.any() and not held.all() and set(labels[~held].tolist()) == set(labels.tolist())


def test_a_share_of_each_label_is_held_out():
    labels = np.array([0] * 200 + [1] * 40)
    held = hold_groups_out(labels, np.arange(240), 0.1, 0, "these")
    assert np.bincount(labels[held]).tolist() == [20, 4]


def mutated(rng, codes, count):
    """The same with `count` bases changed."""
    other = codes.copy()
    places = rng.choice(len(codes), count, replace=False)
    other[places] = [rng.choice([base for base in (1, 2, 4, 8) if base != codes[place]]) for place in places]
    return other


def test_near_duplicates_by_place_against_all_pairs():
    """Sequences of one length, a fifth of whose bases may differ; transitive."""
    rng = np.random.default_rng(0)
    codes = [(1 << rng.integers(0, 4, 30)).astype(np.uint8) for _ in range(20)]
    codes += [mutated(rng, codes[i], count) for i, count in ((0, 6), (1, 7), (2, 1), (3, 0))]
    codes.append(mutated(rng, codes[20], 6))  # like 20, which is like 0
    found = near_duplicates(codes, 0.8)
    parent = list(range(len(codes)))
    for i in range(len(codes)):
        for j in range(i):
            if (codes[i] == codes[j]).sum() >= 0.8 * 30:
                a, b = sorted((parent[i], parent[j]))
                parent = [a if p == b else p for p in parent]
    assert found.tolist() == parent
    assert found[20] == found[0] == found[24] and found[21] == 21 and found[22] == 2 and found[23] == 3


def test_near_duplicates_that_are_shifted_cut_or_turned():
    rng = np.random.default_rng(1)
    long = (1 << rng.integers(0, 4, 80)).astype(np.uint8)
    others = [(1 << rng.integers(0, 4, 60)).astype(np.uint8) for _ in range(5)]
    codes = [long[:60], long[10:70], COMPLEMENT[long[:60][::-1]], long[20:50], *others]
    assert near_duplicates(codes, 0.9).tolist() == [0, 0, 0, 0, 4, 5, 6, 7, 8]
    apart = near_duplicates([long[:40], long[40:80]], 0.9)
    assert apart.tolist() == [0, 1]


def test_sequences_of_unknown_bases_are_like_none():
    assert near_duplicates([encode("N" * 20), encode("N" * 20), encode("ACGT")], 0.8).tolist() == [0, 1, 2]
