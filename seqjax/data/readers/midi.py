"""MIDI files to frames, read with mido."""

import collections
import io
import math
import os
import pathlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.readers.folders import dead_link, visible
from seqjax.data.readers.opening import is_folder, read_bytes, unpacked_suffix
from seqjax.data.readers.rolls import LOWEST, PITCHES, pieces
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError, missing

ENDINGS = (".mid", ".midi")
DRUMS = 9  # channel 10, counted from 0
SUSTAIN, DOWN = 64, 64  # the controller of the sustain pedal, and the value from which it is down
TOLERANCE = Fraction(1, 4)  # fraction of a frame by which a note may start or end late
LONGEST = 1_000_000  # frames of a piece


class Note(NamedTuple):
    """A note of a file."""

    pitch: int  # MIDI's, 0 to 127
    start: int  # in ticks
    end: int  # in ticks


class Score(NamedTuple):
    """The content of a MIDI file."""

    notes: list[Note]  # in the order of their ends
    ticks: int  # ticks per quarter note
    drums: int  # drum notes, which were left out


def read_midi(path: str | os.PathLike, frames_per_quarter: int = 1) -> Records:
    """Pieces from a MIDI file, or from all in a folder and its subfolders (`.mid`, `.midi`), each plain or packed.

    A frame is a point on a grid in musical time, so tempo and its changes make no difference. A pitch is on in a frame if a note
    of it sounds at that point; notes may be early or late by a quarter of a frame, so that played music is read as intended. Notes
    that neither start at a grid point nor sound at one are lost between frames and counted in a note; a finer grid keeps them.
    Silence before the first note and after the last is dropped.

    Args:
      path: a file or a folder.
      frames_per_quarter: grid points per quarter note.

    Returns:
      Records with the column "frames", uint8 (T, 88) for each piece. Drums (channel 10) and notes beyond the keys of a piano are left out.

    Raises:
      UserError: mido is not installed, a folder without MIDI files, or bad files, all listed: not MIDI, truncated, of type 2, with SMPTE
        time, without notes, with fewer than two frames or more than a million.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = write_midi(pathlib.Path(folder) / "song.mid", [(60, 64), (60,), (62,)], frames_per_quarter=2)
      ...     song = read_midi(path, frames_per_quarter=2)["frames"][0]
      >>> [(np.flatnonzero(frame) + LOWEST).tolist() for frame in song]
      [[60, 64], [60], [62]]
    """
    files = list(_files(pathlib.Path(os.path.expanduser(path)))) if is_folder(path) else [path]
    if not files:
        raise UserError(f"{path} has no MIDI file; its files should end in {' or '.join(ENDINGS)}")
    faults, rolls, notes = Faults(os.fspath(path)), [], []
    for file in files:
        try:
            score = read_score(file)
            roll, lost = to_grid(score, frames_per_quarter, os.fspath(file))
            rolls.append(_piece(file, roll, score))
        except UserError as error:
            faults.add(error)
            continue
        if lost:
            grid = f"{frames_per_quarter} frame{'s' * (frames_per_quarter != 1)} a quarter note"
            notes.append(f"{file}: {lost:,} of {len(score.notes):,} notes lie between the frames and were left out ({grid})")
        outside = sum(not 0 <= note.pitch - LOWEST < PITCHES for note in score.notes)
        if outside:
            notes.append(f"{file}: {outside:,} notes beyond the 88 keys of a piano were left out")
    faults.raise_any()
    names = tuple(f"{file}, piece" for file in files)
    places = Places(names, np.arange(len(files), dtype=np.int32), np.ones(len(files), np.int64))
    return pieces(rolls, places, _few(notes))


def _few(notes: list[str], most: int = 5) -> list[str]:
    return notes[:most] + ([f"and {len(notes) - most:,} more files with notes left out"] if len(notes) > most else [])


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in visible(folder):
        if path.is_dir():
            yield from _files(path)
        elif unpacked_suffix(path) in ENDINGS:
            yield path


def _piece(file: Any, roll: np.ndarray, score: Score) -> np.ndarray:
    sounding = np.flatnonzero(roll.any(axis=1))
    if not len(sounding):
        if score.notes:
            raise UserError(f"{file} has no note at any frame; use more frames_per_quarter, or leave it out")
        raise UserError(f"{file} has no notes{f' besides {score.drums:,} of drums' if score.drums else ''}; leave it out")
    roll = roll[sounding[0] : sounding[-1] + 1]
    if len(roll) < 2:
        raise UserError(f"{file} has one frame; at least 2 are needed, since each is predicted from those before")
    return roll


def read_score(path: str | os.PathLike) -> Score:
    """The notes of a MIDI file as they sound, in ticks.

    A note struck again before it ends counts as two notes, and each note-off ends the oldest. While a channel's sustain pedal is down, its
    notes continue. Notes still sounding at the end of the file end there.

    Args:
      path: the file.

    Raises:
      UserError: as `read_midi`.
    """
    if fault := dead_link(path):
        raise UserError(fault)
    file = _parsed(path, read_bytes(path))
    open_notes: dict[tuple[int, int, int], collections.deque[int]] = collections.defaultdict(collections.deque)
    held: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)  # channel -> (pitch, start) that the pedal holds
    pedal: set[int] = set()
    notes, drums, now = [], 0, 0
    for now, track, message in _events(file):  # noqa: B007
        kind = message.type
        if kind == "note_on" and message.velocity:
            if message.channel == DRUMS:
                drums += 1
            else:
                open_notes[track, message.channel, message.note].append(now)
        elif kind in ("note_on", "note_off"):
            waiting = open_notes.get((track, message.channel, message.note))
            if waiting:
                note = (message.note, waiting.popleft())
                if message.channel in pedal:
                    held[message.channel].append(note)
                else:
                    notes.append(Note(*note, now))
        elif kind == "control_change" and message.control == SUSTAIN:
            if message.value >= DOWN:
                pedal.add(message.channel)
            else:
                pedal.discard(message.channel)
                notes += [Note(*note, now) for note in held.pop(message.channel, ())]
    notes += [Note(*note, now) for several in held.values() for note in several]
    notes += [Note(pitch, start, now) for (_, _, pitch), starts in open_notes.items() for start in starts]
    return Score(notes, file.ticks_per_beat, drums)


def _parsed(path: str | os.PathLike, content: bytes) -> Any:
    try:
        import mido
    except ImportError:
        raise missing("MIDI files need mido", "music") from None
    if not content.startswith(b"MThd"):
        raise UserError(f"{path} is not a MIDI file; one begins with MThd")
    try:
        file = mido.MidiFile(file=io.BytesIO(content))
    except (EOFError, OSError, ValueError, LookupError, TypeError) as error:
        what = "is truncated: it ends in the middle of a track" if isinstance(error, EOFError) else f"is not a valid MIDI file ({error})"
        raise UserError(f"{path} {what}; replace it, or leave it out") from None
    if file.type not in (0, 1):
        raise UserError(f"{path} is of type {file.type}, whose tracks are pieces of their own; save each as a file of type 0 or 1")
    if file.ticks_per_beat <= 0:
        raise UserError(f"{path} counts time in seconds (SMPTE), not in quarter notes; save it with ticks per quarter note")
    return file


def _events(file: Any) -> Iterable[tuple[int, int, Any]]:
    """(ticks from the start, track, message) of all tracks, ordered by time, then by track."""
    found = []
    for number, track in enumerate(file.tracks):
        now = 0
        for message in track:
            now += message.time
            found.append((now, number, message))
    return sorted(found, key=lambda event: event[0])


def to_grid(score: Score, frames_per_quarter: int, what: str = "the piece") -> tuple[np.ndarray, int]:
    """The pitches that sound at the points of a grid.

    A note that starts at s and ends at e, in frames, sounds in the frames ceil(s - 1/4) to ceil(e - 1/4) - 1, and in at least one
    if it starts within a quarter of a frame of a grid point.

    Args:
      score: the notes.
      frames_per_quarter: grid points per quarter note.
      what: the file, for the error.

    Returns:
      (uint8 (T, 88), the number of notes lost between the points).

    Raises:
      UserError: more than a million frames.

    Example:
      >>> score = Score([Note(60, 0, 240), Note(62, 240, 480), Note(64, 490, 940)], ticks=480, drums=0)
      >>> roll, lost = to_grid(score, 1)
      >>> [(np.flatnonzero(frame) + LOWEST).tolist() for frame in roll], lost
      ([[60], [64]], 1)
    """
    spans, lost = [], 0
    for pitch, start, end in score.notes:
        begin, stop = (Fraction(ticks * frames_per_quarter, score.ticks) for ticks in (start, end))
        first, last = math.ceil(begin - TOLERANCE), math.ceil(stop - TOLERANCE)
        if abs(begin - first) <= TOLERANCE:
            last = max(last, first + 1)
        if first >= last:
            lost += 1
        elif 0 <= pitch - LOWEST < PITCHES:
            spans.append((pitch - LOWEST, first, last))
    length = max((last for _, _, last in spans), default=0)
    if length > LONGEST:
        raise UserError(f"{what} has {length:,} frames, and {LONGEST:,} are the most; use fewer frames_per_quarter, or cut it")
    roll = np.zeros((length, PITCHES), np.uint8)
    for pitch, first, last in spans:
        roll[first:last, pitch] = 1
    return roll, lost


def write_midi(path: pathlib.Path, frames: Iterable[Iterable[int]], *, frames_per_quarter: int = 1, tempo: float = 100.0) -> pathlib.Path:
    """Writes a piece as a MIDI file of type 0, for piano; a pitch in consecutive frames is one held note.

    Args:
      path: the file to write.
      frames: the MIDI pitches of each frame.
      frames_per_quarter: frames per quarter note.
      tempo: quarter notes per minute.

    Returns:
      The path.

    Raises:
      UserError: mido is not installed.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     read_score(write_midi(pathlib.Path(folder) / "a.mid", [(60,), (60, 64), ()])).notes
      [Note(pitch=60, start=0, end=960), Note(pitch=64, start=480, end=960)]
    """
    try:
        import mido
    except ImportError:
        raise missing("writing MIDI files needs mido", "music") from None
    ticks = 480 * frames_per_quarter  # so that a frame is a whole number of ticks
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo)), mido.Message("program_change", program=0)])
    sounding, waiting = set(), 0
    for pitches in (*map(set, frames), set()):
        changes = [("note_off", pitch, 0) for pitch in sorted(sounding - pitches)]
        changes += [("note_on", pitch, 80) for pitch in sorted(pitches - sounding)]
        for kind, pitch, velocity in changes:
            track.append(mido.Message(kind, note=pitch, velocity=velocity, time=waiting))
            waiting = 0
        sounding, waiting = pitches, waiting + 480
    track.append(mido.MetaMessage("end_of_track", time=max(waiting - 480, 0)))
    file = mido.MidiFile(type=0, ticks_per_beat=ticks)
    file.tracks.append(track)
    file.save(path)
    return path
