"""The chorales of Bach that music21 ships."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from seqjax.data.readers.rolls import LOWEST, PITCHES, pieces
from seqjax.data.records import Places, Records
from seqjax.errors import missing


def read_bach(frames_per_quarter: int = 1, limit: int | None = None) -> Records:
    """Chorales of music21's corpus, in the order of their numbers in Bach's catalogue (BWV).

    A frame is a point of a grid in musical time, and holds the pitches of all parts that sound there. Parsing them all takes a few minutes
    the first time; music21 caches the result.

    Args:
      frames_per_quarter: grid points per quarter note.
      limit: maximum number of chorales, counted from the first.

    Returns:
      Records with the column "frames", uint8 (T, 88) for each piece.

    Raises:
      UserError: music21 is not installed.

    Example:
      >>> read_bach(limit=1)["frames"][0].shape  # doctest: +SKIP
      (32, 88)
    """
    try:
        from music21 import converter, corpus
    except ImportError:
        raise missing("the set 'bach' needs music21", "bach", "choose another set") from None
    rolls, names = [], []
    for path in sorted(corpus.getComposer("bach"), key=lambda path: path.name)[:limit]:
        score = converter.parse(path)
        if len(score.parts) < 4:  # music21 has other works by Bach too  # pyright: ignore[reportAttributeAccessIssue]
            continue
        roll = to_roll(score, frames_per_quarter)
        if len(roll) > 1:
            rolls.append(roll)
            names.append(f"{path.name}, piece")
    places = Places(tuple(names), np.arange(len(names), dtype=np.int32), np.ones(len(names), np.int64))
    return pieces(rolls, places)


def to_roll(score: Any, frames_per_quarter: int) -> np.ndarray:
    """The pitches of a music21 score that sound at the grid points, uint8 (T, 88); repeats are not expanded.

    Example:
      >>> from music21 import note, stream  # doctest: +SKIP
      >>> score = stream.Stream([note.Note(60), note.Note(62, quarterLength=2)])  # doctest: +SKIP
      >>> to_roll(score, 1).sum(axis=1).tolist()  # doctest: +SKIP
      [1, 1, 1]
    """
    spans = []
    for element in score.flatten().notes:
        begin = Fraction(element.offset) * frames_per_quarter
        first, last = math.ceil(begin), math.ceil(begin + Fraction(element.quarterLength) * frames_per_quarter)
        spans += [(pitch.midi - LOWEST, first, last) for pitch in element.pitches if 0 <= pitch.midi - LOWEST < PITCHES]
    roll = np.zeros((max((last for _, _, last in spans), default=0), PITCHES), np.uint8)
    for pitch, first, last in spans:
        roll[first:last, pitch] = 1
    return roll
