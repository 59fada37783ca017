"""Which tags may follow each other when tags mark entities, as constraints for the CRF's weights."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Constraints(NamedTuple):
    """Which tags are allowed where in a sequence."""

    transitions: np.ndarray  # whether one tag may follow another, [from, to], (K, K) bool
    start: np.ndarray  # whether a tag may be the first, (K,) bool
    end: np.ndarray  # whether a tag may be the last, (K,) bool


def entity_constraints(tags: Sequence[str]) -> Constraints:
    """Returns which tags may follow each other when tags mark entities, in the schemes BIO and BIOES.

      BIO:    I-X only after B-X or I-X
      BIOES:  also, B-X and I-X only before I-X or E-X, and E-X only after B-X or I-X

    Args:
      tags: the names of the K tags in order, "O" or "B-PER" and the like. The scheme is BIOES if one begins with E- or
        S-.

    Returns:
      Constraints for `forbid`. An I-X, or in BIOES an E-X, cannot start a sequence; in BIOES a B-X or I-X cannot end
      one.

    Raises:
      ValueError: a name does not have this form.

    Example:
      >>> entity_constraints(["O", "B-PER", "I-PER"]).transitions.astype(int).tolist()
      [[1, 1, 0], [1, 1, 1], [1, 1, 1]]

    Reference:
      Ramshaw and Marcus 1995, "Text Chunking using Transformation-Based Learning"; Ratinov and Roth 2009, "Design
      Challenges and Misconceptions in Named Entity Recognition".
    """
    names = [("O", "") if tag == "O" else tuple(tag.partition("-")[::2]) for tag in tags]
    for tag, (prefix, entity) in zip(tags, names):
        if tag != "O" and (prefix not in ("B", "I", "O", "E", "S") or not entity or prefix == "O"):
            raise ValueError(f"entity tags must be O, or B-, I-, E- or S- with a type, got {tag!r}")
    closes = any(prefix in ("E", "S") for prefix, _ in names)

    def follows(before, after):
        inside = before[0] in ("B", "I") and before[1] == after[1]
        if after[0] in ("I", "E"):
            return inside
        return not closes or before[0] not in ("B", "I")

    outside = ("O", "")
    return Constraints(
        transitions=np.array([[follows(a, b) for b in names] for a in names], bool).reshape(len(names), len(names)),
        start=np.array([follows(outside, b) for b in names], bool),
        end=np.array([follows(a, outside) for a in names], bool),
    )
