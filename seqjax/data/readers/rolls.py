"""Piano rolls: a piece as frames, and in each frame the pitches that sound."""

from collections.abc import Iterable, Sequence

import numpy as np

from seqjax.data.records import Places, Records

LOWEST, PITCHES = 21, 88  # the keys of a piano: MIDI pitches 21 (A0) to 108 (C8)
NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def to_roll(frames: Sequence[Iterable[int]]) -> np.ndarray:
    """A piece as an array, uint8 (T, 88): 1 where a pitch sounds.

    Args:
      frames: MIDI pitches from 21 to 108.

    Raises:
      ValueError: a pitch outside this range.

    Example:
      >>> roll = to_roll([(60, 64), ()])
      >>> roll.shape, (np.flatnonzero(roll[0]) + LOWEST).tolist()
      ((2, 88), [60, 64])
    """
    roll = np.zeros((len(frames), PITCHES), np.uint8)
    for row, pitches in zip(roll, frames):
        for pitch in pitches:
            if not 0 <= pitch - LOWEST < PITCHES:
                raise ValueError(f"pitch {pitch} is not from {LOWEST} to {LOWEST + PITCHES - 1}")
            row[pitch - LOWEST] = 1
    return roll


def to_frames(roll: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """The MIDI pitches of each frame, ascending; the inverse of `to_roll`.

    Example:
      >>> to_frames(to_roll([(64, 60), ()]))
      ((60, 64), ())
    """
    return tuple(tuple((np.flatnonzero(row) + LOWEST).tolist()) for row in roll)


def note_name(pitch: int) -> str:
    """The name of a MIDI pitch; 60 is C4.

    Example:
      >>> note_name(60), note_name(70), note_name(21)
      ('C4', 'Bb4', 'A0')
    """
    return f"{NAMES[pitch % 12]}{pitch // 12 - 1}"


def pieces(rolls: Sequence[np.ndarray], places: Places, notes: Iterable[str] = ()) -> Records:
    """Pieces as records with the column "frames".

    Example:
      >>> len(pieces([to_roll([(60,), (62,)])], Places.of("song", [1])))
      1
    """
    return Records({"frames": tuple(rolls)}, places, tuple(notes))
