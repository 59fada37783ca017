"""What music is sampled from, and the files that it is written to."""

import os
import pathlib

import numpy as np

from seqjax.data.music import read_pieces
from seqjax.data.readers.midi import write_midi
from seqjax.data.readers.rolls import to_frames
from seqjax.decoding.music import FREE
from seqjax.decoding.synthesis import synthesize, write_wav
from seqjax.diagnostics.rolls import plot_roll
from seqjax.errors import UserError
from seqjax.run.experiment import Options

QUARTERS = 4  # of a bar


def given(options: Options, frames_per_quarter: int) -> tuple[np.ndarray | None, np.ndarray | None, int]:
    """What a piece begins with, the voice that is held fixed, and how many frames are to be written.

    Args:
      options: with prompt, prompt_bars, melody, voice, length and output.
      frames_per_quarter: of the model's data.

    Returns:
      (uint8 (T, 88) or None, int (length,) or None, length).

    Raises:
      UserError: both a prompt and a melody; a file that cannot be read or has several pieces; no folder to write to.

    Example:
      >>> given(Options(prompt="", melody="", length=8, output="song"), 1)
      (None, None, 8)
    """
    if options.prompt and options.melody:
        raise UserError("--prompt and --melody exclude each other; give one of them")
    folder = pathlib.Path(os.path.expanduser(options.output)).parent
    if not folder.is_dir():
        raise UserError(f"--output={options.output}: there is no folder {folder}; make it first")
    if options.prompt:
        frames = options.prompt_bars * QUARTERS * frames_per_quarter
        roll = read_piece(options.prompt, frames_per_quarter)
        return roll[:frames] if frames else roll, None, options.length
    if options.melody:
        fixed = voice_of(read_piece(options.melody, frames_per_quarter), options.voice)[: options.length]
        return None, fixed, len(fixed)
    return None, None, options.length


def read_piece(path: str, frames_per_quarter: int) -> np.ndarray:
    """The one piece of a file, uint8 (T, 88).

    Raises:
      UserError: as `read_pieces`, or several pieces.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".json") as file:
      ...     _ = file.write(b"[[[60], [62]]]")
      ...     file.flush()
      ...     read_piece(file.name, 1).shape
      (2, 88)
    """
    rolls = [roll for part in read_pieces(path, frames_per_quarter).values() for roll in part["frames"]]
    if len(rolls) > 1:
        raise UserError(f"{path} has {len(rolls)} pieces; give a file of one")
    return rolls[0]


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
      ...     options = Options(output=f"{folder}/song", tempo=100.0, melody="", voice="top")
      ...     write(options, 3, np.eye(4, 88), 1)  # doctest: +ELLIPSIS
      /.../song_3.mid
      /.../song_3.png
      /.../song_3.wav
    """
    stem, frames = f"{os.path.expanduser(options.output)}_{number}", to_frames(roll)
    try:
        how = {"frames_per_quarter": frames_per_quarter, "tempo": options.tempo}
        print(write_midi(pathlib.Path(f"{stem}.mid"), frames, **how))
        fixed = options.voice if options.melody else ""
        print(plot_roll(pathlib.Path(f"{stem}.png"), roll, title=pathlib.Path(stem).name, given=given, fixed=fixed))
        print(write_wav(pathlib.Path(f"{stem}.wav"), synthesize(frames, **how)))
    except OSError as error:
        raise UserError(f"{stem} cannot be written ({error.strerror or error}); choose another --output") from None
