"""Sound files to samples: WAV, FLAC, OGG, MP3 and other formats of libsndfile, at any rate, as 16-bit mono at one rate."""

import dataclasses
import io
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from seqjax.data.readers.opening import is_folder
from seqjax.data.records import Faults
from seqjax.errors import UserError, missing, refuse_unknown

ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
CHANNELS = ("refuse", "mix", "first")  # how sounds with several channels are treated
LARGEST = 32767


def read_sound(path: str | os.PathLike, rate: int, channels: str = "refuse") -> np.ndarray:
    """The samples of a sound file.

    Args:
      path: the file; a leading `~` is the home folder.
      rate: samples per second of the result; a sound with another rate is resampled (soxr).
      channels: how to treat multiple channels: "refuse", "mix" (their mean) or "first".

    Returns:
      int16 (S,), S = `resampled_length`.

    Raises:
      UserError: a file that is missing, empty or damaged, has no samples, an invalid rate, an unknown format or several channels; or
        soundfile is not installed.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = write_sound(pathlib.Path(folder) / "tone.wav", np.zeros(800, np.int16), 8000)
      ...     len(read_sound(file, 4000))
      400
    """
    with _opened(os.path.expanduser(path), str(path)) as file:
        return _samples(file, str(path), rate, channels)


def decode_sound(data: bytes, name: str, rate: int, channels: str = "refuse") -> np.ndarray:
    """The samples of a sound file in memory.

    Args:
      data: the file's bytes.
      name: what to call it in errors.
      rate, channels: as in `read_sound`; it raises the same.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = write_sound(pathlib.Path(folder) / "tone.wav", np.arange(3, dtype=np.int16), 8000)
      ...     decode_sound(file.read_bytes(), "tone.wav", 8000).tolist()
      [0, 1, 2]
    """
    with _opened(io.BytesIO(data), name) as file:
        return _samples(file, name, rate, channels)


def write_sound(path: str | os.PathLike, samples: np.ndarray, rate: int) -> pathlib.Path:
    """Writes a sound file; the extension determines the format.

    Args:
      path: the file to write.
      samples: int16, or float in [-1, 1]; (S,), or (S, channels).
      rate: samples per second.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_sound(pathlib.Path(folder) / "tone.flac", np.zeros(8), 8000).name
      'tone.flac'
    """
    _soundfile().write(str(path), samples, rate)
    return pathlib.Path(path)


def resampled_length(samples: int, rate: int, new: int) -> int:
    """The number of samples of a sound at another rate.

    Example:
      >>> resampled_length(441, 44100, 16000)
      160
    """
    return -(-samples * new // rate)


@dataclasses.dataclass(frozen=True)
class SoundFile:
    """A sound file that is read on demand. Its length is known; it is hashed by size, length and rate.

    Args:
      path: the file.
      samples: its number of samples at the rate.
      rate: samples per second to return.
      channels: as in `read_sound`.
      size: size of the file in bytes.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = write_sound(pathlib.Path(folder) / "tone.wav", np.zeros(800, np.int16), 8000)
      ...     sound = SoundFile.of(file, 4000)
      ...     len(sound), sound.read().shape
      (400, (400,))
    """

    path: str
    samples: int
    rate: int
    channels: str
    size: int

    @classmethod
    def of(cls, path: str | os.PathLike, rate: int, channels: str = "refuse") -> "SoundFile":
        """Reads the file's header; raises like `read_sound`."""
        with _opened(os.path.expanduser(path), str(path)) as file:
            _check(file, str(path), channels)
            samples = resampled_length(file.frames, file.samplerate, rate)
        return cls(str(path), samples, rate, channels, os.path.getsize(os.path.expanduser(path)))

    def __len__(self) -> int:
        return self.samples

    def read(self) -> np.ndarray:
        """The samples; raises as `read_sound`, and if the file's length has changed."""
        found = read_sound(self.path, self.rate, self.channels)
        if len(found) != self.samples:
            raise UserError(f"{self.path} has {len(found):,} samples, and had {self.samples:,} when the run began; restore it")
        return found

    def add_to(self, whole: Any) -> None:
        """Adds the identity of the file to a hash."""
        whole.update(f"sound{self.size}:{self.samples}:{self.rate}:{self.channels}".encode())


def samples_of(sound: Any) -> np.ndarray:
    """Samples: an array as it is, or those read from a SoundFile.

    Example:
      >>> samples_of(np.zeros(3, np.int16)).shape
      (3,)
    """
    return sound if isinstance(sound, np.ndarray) else sound.read()


def find_sounds(path: str | os.PathLike) -> list[str]:
    """The path itself if it is a sound file, or all sound files below a folder, sorted by name.

    Raises:
      UserError: a folder without any.

    Example:
      >>> find_sounds("seven.wav")
      ['seven.wav']
    """
    if not is_folder(path):
        return [str(path)]
    below = pathlib.Path(os.path.expanduser(path))
    found = sorted(str(file) for file in below.rglob("*") if file.suffix.lower() in ENDINGS)
    if not found:
        raise UserError(f"{path} has no sound files ({', '.join(ENDINGS)}); give a folder of them, or a file")
    return found


def read_sounds(paths: Iterable[str], what: str, rate: int, channels: str, *, keep: bool = True) -> list[Any]:
    """Many sound files; all faults are reported at once.

    Args:
      paths: the files.
      what: their description, for errors.
      rate, channels: as in `read_sound`.
      keep: whether to decode all into memory now; else each is a SoundFile.

    Raises:
      UserError: faulty files; the message lists all of them.
    """
    faults, found = Faults(what), []
    for path in paths:
        try:
            found.append(read_sound(path, rate, channels) if keep else SoundFile.of(path, rate, channels))
        except UserError as error:
            faults.add(error)
    faults.raise_any()
    return found


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError):  # an OSError if libsndfile itself is missing
        raise missing("sound files need soundfile", "speech") from None
    return soundfile


def _opened(source: Any, name: str) -> Any:
    soundfile = _soundfile()
    try:
        if isinstance(source, str):
            if os.path.isdir(source):
                raise UserError(f"{name} is a folder; give a sound file")
            with open(source, "rb") as file:
                begin, size = file.read(8), os.fstat(file.fileno()).st_size
        else:
            begin, size = bytes(source.getbuffer()[:8]), source.getbuffer().nbytes
        if not size:
            raise UserError(f"{name} is empty, 0 bytes; give a sound file")
        # libsndfile reads a truncated WAV file as a shorter one. Sizes of 0 or at the limit mark files written as a stream.
        stated = int.from_bytes(begin[4:], "little") + 8
        if begin.startswith(b"RIFF") and size < stated < 0x7FFFFFFF:
            raise UserError(f"{name} is truncated: {size:,} bytes of {stated:,}; recreate it, or leave it out")
        return soundfile.SoundFile(source)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist; check the path (the current folder is {pathlib.Path.cwd()})") from None
    except soundfile.LibsndfileError as error:
        advice = f"convert it, such as with ffmpeg -i {name} sound.flac"
        raise UserError(f"{name} cannot be read as sound ({error.error_string.strip().rstrip('.')}); {advice}") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{name} cannot be read as sound ({error}); give another file") from None


def _check(file: Any, name: str, channels: str) -> None:
    refuse_unknown(f"channels={channels!r} is unknown", channels, CHANNELS)
    if file.samplerate <= 0:
        raise UserError(f"{name} has a sample rate of {file.samplerate}; repair its header, or leave the file out")
    if file.frames <= 0:
        raise UserError(f"{name} has no samples; leave it out")
    if file.channels > 1 and channels == "refuse":
        raise UserError(f"{name} has {file.channels} channels; set channels=mix for their mean, or channels=first")


def _samples(file: Any, name: str, rate: int, channels: str) -> np.ndarray:
    _check(file, name, channels)
    soundfile, frames, own = _soundfile(), file.frames, file.samplerate
    exact = own == rate and file.channels == 1 and file.subtype == "PCM_16"
    try:
        found = file.read(dtype="int16" if exact else "float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{name} is damaged ({error.error_string.strip().rstrip('.')}); recreate it, or leave it out") from None
    if len(found) != frames:
        raise UserError(f"{name} is damaged: {len(found):,} samples of {frames:,} can be read; recreate it, or leave it out")
    if exact:
        return found[:, 0]
    found = found[:, 0] if channels == "first" or found.shape[1] == 1 else found.mean(axis=1)
    if not np.isfinite(found).all():
        raise UserError(f"{name} has samples that are not numbers; recreate it, or leave it out")
    if own != rate:
        try:
            import soxr
        except ImportError:
            raise missing(f"{name} has {own} samples per second, and another rate needs soxr", "speech") from None
        length = resampled_length(frames, own, rate)
        found = soxr.resample(found, own, rate)[:length]
        found = np.pad(found, (0, length - len(found)))
    return np.clip(np.round(found * (LARGEST + 1)), -LARGEST - 1, LARGEST).astype(np.int16)
