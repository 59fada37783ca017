"""Splits labelled sequences into parts: drops repeats, makes folds or holds out, keeps near-duplicates together, numbers labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.folds import hold_groups_out, make_folds
from seqjax.data.near_duplicates import near_duplicates
from seqjax.data.records import PARTS, Faults, Records
from seqjax.errors import UserError, nearest
from seqjax.models.nucleotides import decode, encode

Parts = dict[str, Records]


class Split(NamedTuple):
    """How to make the parts that have no files of their own; see `seqjax.data.dna.load_dna`."""

    folds: int
    fold: int
    validation_fraction: float
    test_fraction: float
    seed: int


def check_labels(name: str, parts: Parts, tags: bool) -> None:
    """Refuses labels of a single class, and labels with more or fewer tags than bases.

    Args:
      name: the dataset's name, for errors.
      parts: Records with "sequence" and "label".
      tags: whether a label has a letter for each base.

    Example:
      >>> from seqjax.data.records import Places
      >>> check_labels("a.csv", {"train": Records({"sequence": ("ACG",), "label": ("io",)}, Places.of("a.csv line", [2]))}, True)
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: a.csv line 2: 2 tags for 3 bases; task='tag' needs a letter for each base
    """
    faults = Faults(name)
    for records in parts.values() if tags else ():
        for i, (sequence, label) in enumerate(zip(records["sequence"], records["label"])):
            if len(sequence) != len(label):
                faults.add(f"{records.places.at(i)}: {len(label)} tags for {len(sequence)} bases; task='tag' needs a letter for each base")
    faults.raise_any()
    classes = set().union(*parts["train"]["label"]) if tags else set(parts["train"]["label"])
    if len(classes) < 2:
        raise UserError(f"{name} has one class only, {classes.pop()!r}; give sequences of two or more")


def without_repeats(parts: Parts, repeats: str, identity: float) -> tuple[Parts, list[str]]:
    """Drops exact repeats with the same label from the training part, and near-duplicates of parts with files of their own.

    Args:
      parts: Records with "sequence" and "label", for each part that has its own file.
      repeats: "keep" keeps near-duplicates of other parts.
      identity: see `near_duplicates`.

    Returns:
      (the parts, notes).

    Example:
      >>> from seqjax.data.records import Places
      >>> train = Records({"sequence": ("ACGT", "acgt"), "label": ("a", "a")}, Places.of("a.csv line", [2, 3]))
      >>> without_repeats({"train": train}, "group", 0.8)[1]
      ['1 of 2 sequences repeat an earlier one with the same label and were left out']
    """
    train, notes = parts["train"], []
    first: dict[tuple[str, str], int] = {}
    keys = [decode(encode(sequence)) for sequence in train["sequence"]]
    for i, pair in enumerate(zip(keys, train["label"])):
        first.setdefault(pair, i)
    if len(first) < len(train):
        notes.append(f"{len(train) - len(first):,} of {len(train):,} sequences repeat an earlier one with the same label and were left out")
        train = train.take(np.fromiter(first.values(), np.int64))
    if several := len(first) - len(set(keys)):
        notes.append(f"{several:,} sequences are there with more than one label")
    others = [parts[part] for part in PARTS[1:] if part in parts]
    if others and repeats != "keep":
        every = [encode(sequence) for records in (*others, train) for sequence in records["sequence"]]
        group, given = near_duplicates(every, identity), sum(map(len, others))
        near = np.isin(group[given:], group[:given])
        if near.any():
            notes.append(f"{near.sum():,} of {len(train):,} training sequences are near-duplicates of other parts' and were left out")
            train = train.take(np.flatnonzero(~near))
    if not len(train):
        raise UserError("all training sequences are near-duplicates of other parts'; give others, or set repeats='keep'")
    return parts | {"train": train}, notes


def held_out(name: str, parts: Parts, split: Split, repeats: str, identity: float, *, stratified: bool) -> tuple[Parts, list[str]]:
    """Parts that have no file of their own, cut from the training part.

    Args:
      name: the dataset's name, for errors.
      parts: the parts that have files.
      split: how to cut the parts.
      repeats: "group" keeps near-duplicates in one part, "remove" drops all but the first of them, "keep" does neither.
      identity: see `near_duplicates`.
      stratified: whether each label is split in proportion.

    Returns:
      (all parts, notes).

    Example:
      >>> from seqjax.data.records import Places
      >>> train = Records({"sequence": ("AC", "GT", "TT", "CA"), "label": ("a", "a", "b", "b")}, Places.of("a.csv line", [2, 3, 4, 5]))
      >>> found, notes = held_out("a.csv", {"train": train}, Split(0, 0, 0.5, 0.0, 0), "keep", 0.8, stratified=True)
      >>> found["validation"]["label"], notes
      (('a', 'b'), ['validation: 2 of 4 sequences, chosen at random by seed 0'])
    """
    train, notes = parts["train"], []
    if "validation" in parts and not split.folds and not split.test_fraction:
        return parts, notes
    group = np.arange(len(train))
    if repeats != "keep":
        group = near_duplicates([encode(sequence) for sequence in train["sequence"]], identity)
        distinct = len(np.unique(group))
        if distinct < len(train) and repeats == "remove":
            notes.append(f"{len(train) - distinct:,} of {len(train):,} sequences are near-duplicates of an earlier one and were left out")
            train = train.take(np.unique(group))
            group = np.arange(len(train))
        elif distinct < len(train):
            notes.append(f"{len(train):,} sequences are {distinct:,} groups of near-duplicates, each of which is in one part")
    strata = np.unique(train["label"], return_inverse=True)[1] if stratified else np.zeros(len(train), np.int64)
    if split.folds:
        inside = make_folds(strata, group, split.folds, split.seed) == split.fold
        notes.append(f"fold {split.fold} of {split.folds} is the test part: {inside.sum():,} of {len(train):,} sequences")
        parts = parts | {"test": train.take(np.flatnonzero(inside))}
        train, group, strata = train.take(np.flatnonzero(~inside)), group[~inside], strata[~inside]
    for part, share in (("test", split.test_fraction), ("validation", split.validation_fraction / (1 - split.test_fraction))):
        if part not in parts and share:
            seed = split.seed + split.fold  # each fold has its own validation part
            held = hold_groups_out(strata, group, share, seed, name)
            notes.append(f"{part}: {held.sum():,} of {len(train):,} sequences, chosen at random by seed {seed}")
            parts = parts | {part: train.take(np.flatnonzero(held))}
            train, group, strata = train.take(np.flatnonzero(~held)), group[~held], strata[~held]
    return parts | {"train": train}, notes


def numbered_labels(name: str, parts: Mapping[str, Records]) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The column "label" of each part as numbers, and the classes: those of the training part.

    Raises:
      UserError: labels that the training part lacks, each with its location.

    Example:
      >>> from seqjax.data.records import Places
      >>> train = Records({"label": ("b", "a", "b")}, Places.of("a.csv line", [2, 3, 4]))
      >>> columns, classes = numbered_labels("a.csv", {"train": train})
      >>> columns["train"]["label"].tolist(), classes
      ([1, 0, 1], ('a', 'b'))
    """
    rows = {part: [[label] for label in records["label"]] for part, records in parts.items()}
    numbers, classes = _numbers(name, parts, rows)
    return {part: {"label": np.array([row[0] for row in found], np.int32)} for part, found in numbers.items()}, classes


def numbered_tags(name: str, parts: Mapping[str, Records]) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """A column "labels" for each part, one number per base, from labels with one letter per base; and the letters.

    Raises:
      UserError: as `numbered_labels`.

    Example:
      >>> from seqjax.data.records import Places
      >>> train = Records({"sequence": ("ACG",), "label": ("ioo",)}, Places.of("a.csv line", [2]))
      >>> columns, classes = numbered_tags("a.csv", {"train": train})
      >>> columns["train"]["labels"][0].tolist(), classes
      ([0, 1, 1], ('i', 'o'))
    """
    numbers, classes = _numbers(name, parts, {part: records["label"] for part, records in parts.items()})
    return {part: {"labels": tuple(np.array(row, np.uint8) for row in found)} for part, found in numbers.items()}, classes


def _numbers(
    name: str, parts: Mapping[str, Records], rows: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[dict[str, list[list[int]]], tuple[str, ...]]:
    classes = tuple(sorted({each for row in rows["train"] for each in row}))
    number, faults = {each: i for i, each in enumerate(classes)}, Faults(name)
    for part, records in parts.items():
        for i, row in enumerate(rows[part]):
            for each in dict.fromkeys(row):
                if each not in number:
                    near = nearest(each, classes, cutoff=0)
                    faults.add(f"{records.places.at(i)} has the label {each!r}, which no training sequence has{near}")
    faults.raise_any()
    return {part: [[number[each] for each in row] for row in found] for part, found in rows.items()}, classes
