"""Pieces in JSON, the usual format of the JSB chorales: parts, pieces, frames, pitches."""

import json
import os
from typing import Any

from seqjax.data.checks import is_whole
from seqjax.data.readers.folders import PART_NAMES
from seqjax.data.readers.opening import read_text
from seqjax.data.readers.rolls import LOWEST, PITCHES, pieces, to_roll
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError

SILENT = -1  # in place of a pitch: the voice rests
FORM = 'give {"train": [piece, ...], "valid": ..., "test": ...}, or a list of pieces; a piece is a list of frames, each a list of pitches'


def read_chorales(path: str | os.PathLike) -> dict[str, Records]:
    """Pieces of a JSON file, plain or packed with gzip or zstd.

    {"train": [[[60, 64, 67, 72], [60, 65, 69, 72], ...], ...], "valid": [...], "test": [...]}, or a list of pieces, which is the training
    part. A frame lists MIDI pitches; -1 is a resting voice (in files with a fixed number of voices). Voices on the same pitch are merged.
    The file does not say how long a frame is: a quarter note, a sixteenth, ...

    Args:
      path: the JSON file.

    Returns:
      Part ("train", "validation", "test") -> Records with the column "frames", uint8 (T, 88) for each piece.

    Raises:
      UserError: an unreadable file, one that is not JSON or not of this form, or faulty pieces, all listed: invalid pitches or ones not on
        the piano, fewer than two frames, no notes.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".json") as file:
      ...     _ = file.write(b'{"train": [[[60, 64], [62, 65]]], "valid": [[[60, -1], [59, 67]]]}')
      ...     file.flush()
      ...     parts = read_chorales(file.name)
      >>> list(parts), parts["validation"]["frames"][0].sum(axis=1).tolist()
      (['train', 'validation'], [1, 2])
    """
    faults = Faults(os.fspath(path))
    found = {part: _part(path, name, given, faults) for part, (name, given) in _parts(path).items()}
    faults.raise_any()
    return found


def _parts(path: str | os.PathLike) -> dict[str, tuple[str, list]]:
    """Part -> its name in the file, and its pieces."""
    text = read_text(path)
    try:
        whole = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); {FORM}") from None
    whole = {"train": whole} if isinstance(whole, list) else whole
    if not isinstance(whole, dict) or not all(isinstance(given, list) for given in whole.values()):
        raise UserError(f"{path} does not have a known form; {FORM}")
    unknown = [name for name in whole if name.lower() not in PART_NAMES]
    if unknown or not whole:
        raise UserError(f"{path} has {f'the part {unknown[0]!r}' if unknown else 'no part'}; {FORM}")
    parts: dict[str, tuple[str, list]] = {}
    for name, given in whole.items():
        part = PART_NAMES[name.lower()]
        if part in parts:
            raise UserError(f"{path} has the parts {parts[part][0]} and {name}, both for {part}; keep one")
        if not given:
            raise UserError(f"{path} has no piece in its part {name}; leave the part out, or give some")
        parts[part] = (name, given)
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}


def _part(path: str | os.PathLike, name: str, given: list, faults: Faults) -> Records:
    rolls, numbers = [], []
    for number, piece in enumerate(given, 1):
        fault = _fault(piece)
        if fault:
            faults.add(f"{path}, {name} piece {number}{fault}")
        else:
            rolls.append(to_roll([[int(pitch) for pitch in frame if pitch != SILENT] for frame in piece]))
            numbers.append(number)
    return pieces(rolls, Places.of(f"{path}, {name} piece", numbers))


def _fault(piece: Any) -> str:
    """What is wrong with a piece; "" if nothing is."""
    if not isinstance(piece, list) or not all(isinstance(frame, list) for frame in piece):
        return " is not a list of frames, each a list of pitches"
    for place, frame in enumerate(piece, 1):
        for pitch in frame:
            whole = is_whole(pitch) or (isinstance(pitch, float) and pitch.is_integer())  # the file of sixteenths has 67.0
            if not whole or not (pitch == SILENT or 0 <= pitch - LOWEST < PITCHES):
                return f", frame {place}: {pitch!r} is not a pitch; give whole numbers from {LOWEST} to {LOWEST + PITCHES - 1}, or -1"
    if len(piece) < 2:
        return f" has {len(piece)} frame{'s' * (len(piece) != 1)}; at least 2 are needed, since each is predicted from those before"
    return "" if any(pitch != SILENT for frame in piece for pitch in frame) else " has no note"
