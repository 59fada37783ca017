"""Made-up images with captions: a square of some colour on the left or on the right, in Flickr8k's files."""

import json
import pathlib
import random

import numpy as np
from made import Data, replace
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (60, 80, 240)}
SIDE = 20


def write_image(path: pathlib.Path, colour: str, side: str, chooser: random.Random) -> None:
    """One PNG file."""
    pixels = np.full((SIDE, SIDE, 3), chooser.randrange(40), np.uint8)
    row, column = chooser.randrange(0, 12), chooser.randrange(0, 3) + (10 if side == "right" else 0)
    pixels[row : row + 7, column : column + 7] = COLOURS[colour]
    Image.fromarray(pixels).save(path)


def captions_of(colour: str, side: str) -> list[str]:
    """Two captions of an image."""
    return [f"A {colour} square on the {side} .", f"On the {side}, something {colour}"]


def write_set(folder: pathlib.Path, sizes: dict[str, int], seed: int = 0) -> dict[str, list[tuple[str, list[str]]]]:
    """PNG files in a folder; part -> (name, captions) of each."""
    chooser, parts = random.Random(seed), {}
    for part, size in sizes.items():
        parts[part] = []
        for number in range(size):
            shown = chooser.choice(list(COLOURS)), chooser.choice(["left", "right"])
            write_image(folder / f"{part}{number}.png", *shown, chooser)
            parts[part].append((f"{part}{number}.png", captions_of(*shown)))
    return parts


def write_flickr(folder: pathlib.Path, parts: dict[str, list[tuple[str, list[str]]]]) -> None:
    """captions.txt of all, and a list of images for each part but the first."""
    lines = [f"{name}#{i}\t{text}" for rows in parts.values() for name, texts in rows for i, text in enumerate(texts)]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    for part in list(parts)[1:]:
        (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name, _ in parts[part]))


def write_coco(folder: pathlib.Path, part: str, rows: list[tuple[str, list[str]]]) -> pathlib.Path:
    """A part as COCO has it."""
    images = [{"id": 7 + i, "file_name": name} for i, (name, _) in enumerate(rows)]
    annotations = [{"image_id": 7 + i, "id": n, "caption": text} for i, (_, texts) in enumerate(rows) for n, text in enumerate(texts)]
    path = folder / f"captions_{part}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def write_karpathy(folder: pathlib.Path, parts: dict[str, list[tuple[str, list[str]]]]) -> pathlib.Path:
    """All parts as Karpathy has them."""
    images = [
        {
            "filepath": "",
            "filename": name,
            "split": part,
            "sentences": [{"raw": text, "tokens": text.split()} for text in texts],
        }
        for part, rows in parts.items()
        for name, texts in rows
    ]
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "made"}))
    return path


def _captions(folder):
    write_flickr(folder, write_set(folder, {"train": 40, "validation": 12, "test": 6}))


CAPTIONS = Data(
    _captions,
    lambda folder: {
        "data.source": "file",
        "data.name": "squares",
        "data.path": folder / "captions.txt",
        "data.validation_path": folder / "validation.txt",
        "data.test_path": folder / "test.txt",
    },
    lambda folder: replace(folder / "captions.txt", b"square", b"box"),
)
