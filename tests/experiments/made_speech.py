"""Made-up speech: words whose letters are tones, one pitch each, as WAV and FLAC files with a manifest."""

import json
import pathlib

import numpy as np
from made import Data

from seqjax.data.readers.sounds import write_sound

PITCHES = {"a": 60.0, "b": 140.0, "c": 260.0, "d": 420.0}  # Hz
RATE = 1000


def spell(word: str, rng: np.random.Generator, rate: int = RATE) -> np.ndarray:
    """A tone of a tenth of a second or more for each letter, with pauses and a little noise; int16."""
    pieces = [np.zeros(int(rng.integers(30, 90) * rate / 1000))]
    for letter in word:
        times = np.arange(int(rng.integers(100, 160) * rate / 1000)) / rate
        pieces += [0.5 * np.sin(2 * np.pi * PITCHES.get(letter, 330.0) * times), np.zeros(int(rng.integers(30, 60) * rate / 1000))]
    sound = np.concatenate(pieces)
    return (20000 * (sound + 0.01 * rng.normal(size=len(sound)))).astype(np.int16)


def write_words(folder: pathlib.Path, name: str, number: int, seed: int) -> pathlib.Path:
    """A manifest of words of two to four letters, and their sounds beside it: every other one is FLAC at twice the rate."""
    rng, rows = np.random.default_rng(seed), []
    for place in range(number):
        word = "".join(rng.choice(list(PITCHES), rng.integers(2, 5)))
        rate, ending = (2 * RATE, "flac") if place % 2 else (RATE, "wav")
        path = write_sound(folder / f"{name}_{place}.{ending}", spell(word, rng, rate), rate)
        rows.append({"audio": path.name, "text": word})
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def _speech(folder, seed=0):
    write_words(folder, "train", 40, seed)
    write_words(folder, "test", 10, seed + 1)


def _change(folder):
    lines = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join([*lines[1:], lines[0]]) + "\n")


SPEECH = Data(
    _speech,
    lambda folder: {"data.source": "file", "data.path": folder / "train.jsonl", "data.test_path": folder / "test.jsonl"},
    _change,
)
