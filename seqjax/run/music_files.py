"""Prompts for sampling music, and the files that pieces are written to."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from seqjax.data.music import read_pieces
from seqjax.data.readers.midi import write_midi
from seqjax.data.readers.rolls import pieces, to_frames
from seqjax.data.records import Places, Records
from seqjax.decoding.music import FREE
from seqjax.decoding.synthesis import synthesize, write_wav
from seqjax.diagnostics.rolls import plot_roll
from seqjax.errors import UserError
from seqjax.run.experiment import Options
from seqjax.run.settings import ConfigDict

QUARTERS = 4  # of a bar


def given(options: Options, frames_per_quarter: int) -> tuple[np.ndarray | None, np.ndarray | None, int]:
    """The prompt of a piece, the voice that is held fixed, and the number of frames to write.

    Args:
      options: with prompt and melody as `read_piece` gives them, prompt_bars, voice and length.
      frames_per_quarter: of the model's data.

    Returns:
      (uint8 (T, 88) or None, int (length,) or None, length).

    Raises:
      UserError: both a prompt and a melody.

    Example:
      >>> given(Options(prompt=None, melody=None, length=8), 1)
      (None, None, 8)
    """
    if options.prompt is not None and options.melody is not None:
        raise UserError("--prompt and --melody cannot be combined; give one of them")
    if options.prompt is not None:
        frames = options.prompt_bars * QUARTERS * frames_per_quarter
        return options.prompt[:frames] if frames else options.prompt, None, options.length
    if options.melody is not None:
        fixed = voice_of(options.melody, options.voice)[: options.length]
        return None, fixed, len(fixed)
    return None, None, options.length


def read_piece(path: str, config: ConfigDict) -> np.ndarray | None:
    """Reads a file with one piece, uint8 (T, 88); None if no file is named.

    Args:
      path: of a MIDI or JSON file, or "".
      config: of the run, with data.frames_per_quarter.

    Raises:
      UserError: as `read_pieces`, or several pieces.

    Example:
      >>> import tempfile
      >>> config = ConfigDict({"data": {"frames_per_quarter": 1}})
      >>> with tempfile.NamedTemporaryFile(suffix=".json") as file:
      ...     _ = file.write(b"[[[60], [62]]]")
      ...     file.flush()
      ...     read_piece(file.name, config).shape, read_piece("", config)
      ((2, 88), None)
    """
    if not path:
        return None
    rolls = read_all([path], config)["frames"]
    if len(rolls) > 1:
        raise UserError(f"{path} has {len(rolls)} pieces; give a file with one")
    return rolls[0]


def read_all(paths: Sequence[str], config: ConfigDict) -> Records:
    """The pieces of several files or folders.

    Args:
      paths: at least one.
      config: of the run, with data.frames_per_quarter.

    Raises:
      UserError: as `read_pieces`, or no path.

    Example:
      >>> read_all([], ConfigDict({"data": {"frames_per_quarter": 1}}))
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: there is no music; give --input=FILE once per MIDI or JSON file or folder
    """
    parts = [part for path in paths for part in read_pieces(path, config.data.frames_per_quarter).values()]
    if not parts:
        raise UserError("there is no music; give --input=FILE once per MIDI or JSON file or folder")
    return pieces([roll for part in parts for roll in part["frames"]], Places.joined(part.places for part in parts))


def output_stem(output: str, config: ConfigDict) -> str:
    """The prefix of the files to write.

    Raises:
      UserError: there is no such folder.

    Example:
      >>> output_stem("no/such/song", ConfigDict())
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: --output=no/such/song: there is no folder no/such; create it first
    """
    stem = pathlib.Path(os.path.expanduser(output))
    if not stem.parent.is_dir():
        raise UserError(f"--output={output}: there is no folder {stem.parent}; create it first")
    return str(stem)


def voice_of(roll: np.ndarray, voice: str) -> np.ndarray:
    """The highest or the lowest pitch of each frame as its index, int (T,); -1 where nothing sounds.

    Args:
      roll: (T, P), not 0 where a pitch sounds.
      voice: "top" or "bass".

    Example:
      >>> [voice_of(np.array([[0, 1, 1], [0, 0, 0]]), voice).tolist() for voice in ("top", "bass")]
      [[2, -1], [1, -1]]
    """
    sounding = roll != 0
    found = roll.shape[1] - 1 - sounding[:, ::-1].argmax(axis=1) if voice == "top" else sounding.argmax(axis=1)
    return np.where(sounding.any(axis=1), found, FREE)


def write(options: Options, number: int, roll: np.ndarray, frames_per_quarter: int, *, given: int = 0) -> None:
    """Writes a piece as MIDI, as a picture and as sound, and prints the files' names.

    Args:
      options: with output, tempo, melody and voice.
      number: of the piece.
      roll: (T, 88).
      frames_per_quarter: how many frames are a quarter note.
      given: frames of the prompt.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     options = Options(output=f"{folder}/song", tempo=100.0, melody=None, voice="top")
      ...     write(options, 3, np.eye(4, 88), 1)  # doctest: +ELLIPSIS
      /.../song_3.mid
      /.../song_3.png
      /.../song_3.wav
    """
    stem, frames = f"{options.output}_{number}", to_frames(roll)
    try:
        how = {"frames_per_quarter": frames_per_quarter, "tempo": options.tempo}
        print(write_midi(pathlib.Path(f"{stem}.mid"), frames, **how))
        fixed = "" if options.melody is None else options.voice
        print(plot_roll(pathlib.Path(f"{stem}.png"), roll, title=pathlib.Path(stem).name, given=given, fixed=fixed))
        print(write_wav(pathlib.Path(f"{stem}.wav"), synthesize(frames, **how)))
    except OSError as error:
        raise UserError(f"{stem} cannot be written ({error.strerror or error}); choose another --output") from None
