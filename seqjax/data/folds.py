"""Folds for cross-validation and held-out parts, stratified by label, with groups kept together."""

from collections.abc import Sequence

import numpy as np

from seqjax.data.checks import check_whole
from seqjax.data.draws import permutation
from seqjax.errors import UserError


def make_folds(labels: Sequence[int] | np.ndarray, groups: Sequence[int] | np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Splits examples into folds, stratified by label, with each group in one fold; the same on every machine.

    Groups are shuffled, then dealt label by label, larger groups first, each to the fold with the fewest examples of its label, then of all
    labels. With as many folds as groups, each fold gets one: leave-one-out.

    Args:
      labels: the label of each example, (N,).
      groups: the group of each example, (N,).
      folds: K, at most as many as there are groups.
      seed: determines the shuffle.

    Returns:
      int64 (N,), in [0, K).

    Raises:
      UserError: more folds than groups, or fewer than 2.

    Example:
      >>> make_folds([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 3, 5], 3, seed=0).tolist()
      [2, 0, 1, 0, 0, 1]
    """
    check_whole(2, folds=folds)
    shuffled, members = _members(groups, seed)
    if folds > len(members):
        raise UserError(f"folds is {folds}, and there are {len(members)} groups of sequences; that many folds leave one out")
    labels = np.unique(np.asarray(labels), return_inverse=True)[1]
    order = sorted(shuffled, key=lambda group: (labels[members[group][0]], -len(members[group])))
    counts, found = np.zeros((folds, labels.max() + 1), np.int64), np.zeros(len(labels), np.int64)
    for group in order:
        inside = members[group]
        fold = np.lexsort((counts.sum(axis=1), counts[:, labels[inside[0]]]))[0]
        found[inside] = fold
        counts[fold] += np.bincount(labels[inside], minlength=counts.shape[1])
    return found


def hold_groups_out(
    labels: Sequence[int] | np.ndarray, groups: Sequence[int] | np.ndarray, fraction: float, seed: int, what: str
) -> np.ndarray:
    """Which examples to hold out: about a given share of each label, in whole groups.

    Args:
      labels, groups, seed: as in `make_folds`.
      fraction: in (0, 1).
      what: the dataset's name, for errors.

    Returns:
      bool (N,).

    Raises:
      UserError: nothing can be held out.

    Example:
      >>> hold_groups_out([0] * 6 + [1] * 4, range(10), 0.5, 0, "ten").astype(int).tolist()
      [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    """
    order, members = _members(groups, seed)
    labels = np.unique(np.asarray(labels), return_inverse=True)[1]
    counts, held = np.zeros(labels.max() + 1, np.int64), np.zeros(len(labels), bool)
    totals = np.bincount(labels)
    for group in order:
        inside = members[group]
        label, more = labels[inside[0]], np.bincount(labels[inside], minlength=len(counts))
        if counts[label] + len(inside) / 2 <= fraction * totals[label] + 0.01 and (counts + more < totals)[more > 0].all():
            held[inside] = True
            counts += more
    if not held.any():
        raise UserError(f"{what} has too few groups of sequences to hold any out; give more, or a file for each part")
    return held


def _members(groups: Sequence[int] | np.ndarray, seed: int) -> tuple[list[int], list[np.ndarray]]:
    """The groups, numbered from 0, in random order; and the members of each."""
    groups = np.unique(np.asarray(groups), return_inverse=True)[1]
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    return permutation(len(members), seed, 2).tolist(), members
