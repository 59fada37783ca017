"""Made-up music: scales in thirds, in JSON, and a MIDI file of a tune."""

import json
import pathlib
import random

from made import Data

from seqjax.data.readers.midi import write_midi

SCALE = (60, 62, 64, 65, 67, 69, 71, 72)
TUNE = [(67,), (69,), (), (71,), (72,), (72,), (71,), (69,)]


def write_pieces(path: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Parts of 40, 10 and 8 pieces of 4 to 20 frames: a voice that walks along a scale, a third below it, a bass now and then."""
    chooser = random.Random(seed)

    def piece():
        place, frames = chooser.randrange(2, 8), []
        for _ in range(chooser.randint(4, 20)):
            place = min(max(place + chooser.choice((-1, 1)), 2), 7)
            frames.append([SCALE[place], SCALE[place - 2]] + ([48] if chooser.random() < 0.3 else []))
        return frames

    sizes = {"train": 40, "valid": 10, "test": 8}
    path.write_text(json.dumps({name: [piece() for _ in range(size)] for name, size in sizes.items()}))
    return path


def _music(folder):
    write_pieces(folder / "pieces.json")
    write_midi(folder / "tune.mid", TUNE)


MUSIC = Data(
    _music,
    lambda folder: {"data.source": "file", "data.path": folder / "pieces.json"},
    lambda folder: write_pieces(folder / "pieces.json", seed=1),
)
