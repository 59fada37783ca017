"""Additive synthesis of frames, to hear a piece without a sound font."""

import pathlib
import wave
from collections.abc import Sequence

import numpy as np

RATE = 22_050  # samples per second
PARTIALS = 6
ATTACK, RELEASE = 0.01, 0.06  # seconds


def synthesize(frames: Sequence[Sequence[int]], *, frames_per_quarter: int = 1, tempo: float = 100.0, rate: int = RATE) -> np.ndarray:
    r"""Renders a piece as samples: each note is six decaying sines; higher partials decay faster.

    .. math:: s(t) = \sum_{n=1}^{6} n^{-1.5} e^{-(0.8 + 0.5 n) t} \sin(2 \pi n f t), \quad f = 440 \cdot 2^{(p - 69) / 12}

    A pitch in consecutive frames is one held note. Partials above half the rate are left out.

    Args:
      frames: MIDI pitches of each.
      frames_per_quarter: frames per quarter note.
      tempo: quarter notes per minute.
      rate: samples per second.

    Returns:
      float32, at most 0.9 in magnitude.

    Example:
      >>> sound = synthesize([(69,), ()], tempo=60, rate=8000)
      >>> len(sound), int(np.abs(np.fft.rfft(sound[:8000])).argmax())  # one second of 440 Hz
      (16000, 440)
    """
    seconds = 60 / tempo / frames_per_quarter
    sound = np.zeros(round(len(frames) * seconds * rate), np.float32)
    for pitch, first, last in held_notes(frames):
        begin, end = round(first * seconds * rate), round(last * seconds * rate)
        sound[begin:end] += _note(pitch, end - begin, rate)
    loudest = np.abs(sound).max(initial=0)
    return sound * np.float32(0.9 / loudest) if loudest else sound


def held_notes(frames: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Returns (pitch, first frame, frame after the last) of each note, in the order of their ends.

    Example:
      >>> held_notes([(60,), (60, 64), (64,)])
      [(60, 0, 2), (64, 1, 3)]
    """
    started: dict[int, int] = {}
    found = []
    for place, pitches in enumerate([*map(set, frames), set()]):
        found += [(pitch, started.pop(pitch), place) for pitch in sorted(started.keys() - pitches)]
        started |= {pitch: place for pitch in pitches - started.keys()}
    return found


def _note(pitch: int, samples: int, rate: int) -> np.ndarray:
    time = np.arange(samples) / rate
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    partials = [n for n in range(1, PARTIALS + 1) if n * frequency < rate / 2]
    sound = sum((n**-1.5 * np.exp(-(0.8 + 0.5 * n) * time) * np.sin(2 * np.pi * n * frequency * time) for n in partials), np.zeros(samples))
    return (sound * np.minimum(np.minimum(time / ATTACK, time[::-1] / RELEASE), 1)).astype(np.float32)


def write_wav(path: pathlib.Path, sound: np.ndarray, rate: int = RATE) -> pathlib.Path:
    """Writes samples between -1 and 1 as a 16-bit mono WAV file.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_wav(pathlib.Path(folder) / "a.wav", np.zeros(100)).stat().st_size
      244
    """
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return path
