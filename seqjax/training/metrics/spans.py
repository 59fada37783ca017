"""Metrics of tags that mark entities: precision, recall and F1 of whole spans."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from seqjax.errors import missing
from seqjax.training.metrics.metric import Metric, check_pairs


class TypeScores(NamedTuple):
    """How well entities of one type are found."""

    precision: float  # precision; 0 if none is predicted
    recall: float  # recall; 0 if there is none
    f1: float  # their harmonic mean; 0 where both are 0
    support: int  # number of true entities


class EntityScores(NamedTuple):
    """How well entities are found, over all types and for each."""

    precision: float  # precision; 0 if none is predicted
    recall: float  # recall; 0 if there is none
    f1: float  # their harmonic mean; 0 where both are 0
    by_type: dict[str, TypeScores]  # each type that occurs or is predicted, in alphabetical order


def entity_f1(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    r"""F1 over whole entities: one counts as found if its first word, its last word and its type are right.

    .. math:: F_1 = \frac{2 P R}{P + R}

    Counted by seqeval as by the script conlleval of the CoNLL shared tasks: an entity that starts without `B-` counts too.

    Args:
      true: the tags of each sentence: `O`, or `B-`, `I-`, `E-`, `S-` and a type.
      predicted: the predicted tags, each sentence as long as its true one.

    Returns:
      EntityScores, all zero if there is no entity.

    Raises:
      ValueError: sentences of unequal number or length, or a tag that is not an entity tag.
      UserError: seqeval is not installed.

    Example:
      >>> scores = entity_f1([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "B-ORG"]])
      >>> scores.f1, sorted(scores.by_type), scores.by_type["PER"].support
      (0.5, ['LOC', 'ORG', 'PER'], 1)

    Reference:
      Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050.
    """
    counts = entity_counts(true, predicted)
    by_type = {kind: _scores(*each) for kind, each in sorted(counts.items())}
    whole = [sum(column) for column in zip(*counts.values())]
    precision, recall, f1, *_ = _scores(*whole) if counts else (0.0,) * 3
    return EntityScores(precision, recall, f1, by_type)


def entities() -> Metric:
    """F1 over whole entities.

    Returns:
      A Metric of (true, predicted), the tags of each sentence; `compute` gives `f1`, 0 if there is no entity.

    Example:
      >>> metric = entities()
      >>> metric.compute(metric.update(metric.init(), ([["B-PER", "O", "B-LOC"]], [["B-PER", "O", "B-ORG"]])))
      {'f1': 0.5}

    Reference: see entity_f1.
    """

    def update(state, new):
        found = entity_counts(*new)
        return {kind: _added(state.get(kind), found.get(kind)) for kind in state.keys() | found.keys()}

    def compute(state):
        return {"f1": _scores(*map(sum, zip(*state.values()))).f1 if state else 0.0}

    return Metric(dict, update, compute)


class Counts(NamedTuple):
    """Entities of one type."""

    found: int  # predicted, and right
    predicted: int
    true: int


def entity_counts(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Counts]:
    """How many entities of each type are true, predicted and found: the counts behind F1, which add up over parts.

    Args: as entity_f1.

    Raises: as entity_f1.

    Example:
      >>> entity_counts([["B-PER", "O"]], [["B-PER", "B-LOC"]])["LOC"]
      Counts(found=0, predicted=1, true=0)
    """
    check_pairs(true, predicted, "true", "predicted")
    for i, (theirs, ours) in enumerate(zip(true, predicted)):
        if len(theirs) != len(ours):
            raise ValueError(f"true[{i}] has {len(theirs)} tags and predicted[{i}] has {len(ours)}")
        for tag in (*theirs, *ours):
            if tag != "O" and (tag[:2] not in ("B-", "I-", "E-", "S-") or len(tag) < 3):
                raise ValueError(f"sentence {i} has the tag {tag!r}; entity tags are O, B-, I-, E- or S- and a type")
    try:
        from seqeval.metrics.sequence_labeling import get_entities
    except ImportError:
        raise missing("entity F1 needs seqeval", "experiments") from None
    # seqeval's own scores warn if there are no entities; only its spans are needed.
    spans = [set(get_entities([list(sentence) for sentence in tags])) for tags in (true, predicted)]
    kinds = [collections.Counter(span[0] for span in group) for group in (spans[0] & spans[1], spans[1], spans[0])]
    return {kind: Counts(*(count[kind] for count in kinds)) for kind in kinds[1] | kinds[2]}


def _added(first: Counts | None, second: Counts | None) -> Counts:
    return Counts(*(a + b for a, b in zip(first or (0, 0, 0), second or (0, 0, 0))))


def _scores(found: int, predicted: int, true: int) -> TypeScores:
    f1 = 2 * found / max(predicted + true, 1)  # the harmonic mean, without 0 / 0
    return TypeScores(found / max(predicted, 1), found / max(true, 1), f1, true)
