"""Made-up data of every kind, small enough to train on in seconds."""

import json
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from processes import write_text


class Data(NamedTuple):
    """Files in a folder, and the settings that name them."""

    write: Callable[[pathlib.Path], None]
    sources: Callable[[pathlib.Path], Mapping[str, Any]]  # folder -> settings
    change: Callable[[pathlib.Path], None] | None  # writes other data over them; None where nothing is read


DRAWN = Data(lambda folder: None, lambda folder: {}, None)


# Text.


def _text(folder, seed=0):
    write_text(folder / "text.txt", seed=seed)
    write_text(folder / "test.txt", 300, seed=9)


TEXT = Data(
    _text,
    lambda folder: {"data.source": "file", "data.path": folder / "text.txt", "data.test_path": folder / "test.txt"},
    lambda folder: _text(folder, seed=1),
)


# Images with classes.


def write_images(path: pathlib.Path, number: int = 150, seed: int = 0, side: int = 8) -> pathlib.Path:
    """Bright bars that stand or lie, and squares, in noise: three classes that a network can tell apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, number)
    images = rng.integers(0, 90, (number, side, side))
    for image, label in zip(images, labels):
        row, column = rng.integers(1, side - 3, 2)
        height, width = ((side, 2), (2, side), (3, 3))[label]
        image[row if height < side else 0 :][:height, column if width < side else 0 :][:, :width] += 150
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def _images(folder):
    stored = np.load(write_images(folder / "bars.npz"))
    for label in range(3):
        image = Image.fromarray(stored["images"][np.flatnonzero(stored["labels"] == label)[0]])
        image.resize((64, 64), Image.Resampling.NEAREST).save(folder / f"{label}.png")


IMAGES = Data(
    _images,
    lambda folder: {"data.source": "file", "data.path": folder / "bars.npz"},
    lambda folder: write_images(folder / "bars.npz", seed=1),
)


# Texts with classes.

TOPICS = {
    "fruit": ["apple", "pear", "plum", "peel", "ripe"],
    "sea": ["wave", "tide", "boat", "harbour", "salt"],
    "tool": ["saw", "drill", "bolt", "hammer", "rust"],
}
ANYWHERE = ["the", "a", "and", "of", "is", "was"]


def _topical(chooser, label, words):
    """Words of which about half tell the label."""
    return " ".join(chooser.choice(TOPICS[label] if i % 2 == 0 else ANYWHERE) for i in range(words))


def write_texts(path: pathlib.Path, number: int, seed: int, longest: int = 9, extra: Sequence[tuple[str, int]] = ()) -> pathlib.Path:
    """JSON lines, three classes; `extra` are (label, words) of texts of other lengths."""
    chooser = random.Random(seed)
    sizes = [(chooser.choice(list(TOPICS)), chooser.randint(1, longest)) for _ in range(number)] + list(extra)
    rows = [{"text": _topical(chooser, label, words), "label": label} for label, words in sizes]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _labelled(folder):
    """One text of the validation part is longer than the largest bucket, and half the words have vectors."""
    write_texts(folder / "train.jsonl", 90, seed=0)
    write_texts(folder / "validation.jsonl", 30, seed=1, extra=[("sea", 40)])
    write_texts(folder / "test.jsonl", 14, seed=2)
    words, chooser = [*TOPICS["fruit"], *TOPICS["sea"]], random.Random(3)
    lines = [" ".join([word, *(f"{chooser.gauss(0, 1):.3f}" for _ in range(6))]) for word in words]
    (folder / "vectors.txt").write_text("\n".join(lines))


LABELLED = Data(
    _labelled,
    lambda folder: {
        "data.source": "file",
        "data.path": folder / "train.jsonl",
        "data.validation_path": folder / "validation.jsonl",
        "data.test_path": folder / "test.jsonl",
    },
    lambda folder: append(folder / "train.jsonl", b'{"text": "ripe pear", "label": "fruit"}\n'),
)


# Tagged sentences.

PEOPLE, PLACES = ["Ada", "Alan", "Emmy", "Kurt", "Noether", "Turing"], ["Rome", "Oslo", "Lima", "Bonn", "Bath", "York"]
OTHERS = ["lives", "in", "and", "works", "near", "with", "the", "of"]
CLASSES = {"NOUN": ["dog", "cat", "tree", "song"], "VERB": ["sees", "likes", "hears"], "DET": ["the", "a", "every"]}


def _with_entities(chooser, words):
    """(word, BIO tag) pairs: names of one or two words among others."""
    found = []
    while len(found) < words:
        kind, names = chooser.choice([("PER", PEOPLE), ("LOC", PLACES), ("", OTHERS), ("", OTHERS)])
        if kind:
            found += [(chooser.choice(names), f"{start}-{kind}") for start in "BI"[: chooser.randint(1, 2)]]
        found.append((chooser.choice(OTHERS), "O"))
    return found[:words]


def write_entities(path: pathlib.Path, number: int, seed: int, extra: Sequence[int] = ()) -> pathlib.Path:
    """Columns of words and BIO tags; `extra` are lengths of further sentences."""
    chooser = random.Random(seed)
    lengths = [*(chooser.randint(1, 8) for _ in range(number)), *extra]
    sentences = [_with_entities(chooser, words) for words in lengths]
    path.write_text("\n".join("".join(f"{word} {tag}\n" for word, tag in sentence) for sentence in sentences))
    return path


def write_conllu(path: pathlib.Path, number: int, seed: int) -> pathlib.Path:
    """CoNLL-U with comments and multiword ranges: a determiner, a noun and a verb, again and again."""
    chooser, lines = random.Random(seed), []
    for _ in range(number):
        lines += ["# text = made up", "1-2\tdoesn't" + "\t_" * 8]
        for i in range(chooser.randint(1, 9)):
            tag = ("DET", "NOUN", "VERB")[i % 3]
            lines.append(f"{i + 1}\t{chooser.choice(CLASSES[tag])}\t_\t{tag}" + "\t_" * 6)
        lines.append("")
    path.write_text("\n".join(lines))
    return path


def _tagged(folder):
    """One sentence of the validation part is longer than the largest bucket."""
    write_entities(folder / "train.bio", 80, seed=0)
    write_entities(folder / "validation.bio", 30, seed=1, extra=[30])
    write_conllu(folder / "train.conllu", 60, seed=2)
    write_conllu(folder / "test.conllu", 20, seed=3)


TAGGED = Data(
    _tagged,
    lambda folder: {
        "data.source": "file",
        "data.path": folder / "train.bio",
        "data.validation_path": folder / "validation.bio",
    },
    lambda folder: append(folder / "validation.bio", b"\nAda B-PER\nsleeps O\n"),
)


# Sentences and their translations.

WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "fünf": "five"}


def write_pairs(folder: pathlib.Path, part: str, number: int, seed: int, extra: Sequence[int] = ()) -> None:
    """PART.de and PART.en, the numbers that stand for each other word by word; `extra` are lengths of further pairs."""
    chooser = random.Random(seed)
    lengths = [*(chooser.randint(1, 6) for _ in range(number)), *extra]
    sources = [[chooser.choice(list(WORDS)) for _ in range(length)] for length in lengths]
    (folder / f"{part}.de").write_text("".join(" ".join(words) + "\n" for words in sources), encoding="utf-8")
    (folder / f"{part}.en").write_text("".join(" ".join(WORDS[word] for word in words) + "\n" for words in sources))


def _pairs(folder):
    """One pair of the validation part is longer than the largest bucket."""
    write_pairs(folder, "train", 80, seed=0)
    write_pairs(folder, "validation", 15, seed=1, extra=[11])
    write_pairs(folder, "test", 10, seed=2)


PAIRS = Data(
    _pairs,
    lambda folder: {
        "data.source": "file", "data.name": "numbers", "data.path": folder / "train.de", "data.target_path": folder / "train.en",
        "data.validation_path": folder / "validation.de", "data.validation_target_path": folder / "validation.en",
        "data.test_path": folder / "test.de", "data.test_target_path": folder / "test.en",
    },
    lambda folder: replace(folder / "train.en", b"one", b"five"),
)  # fmt: skip


def append(path: pathlib.Path, content: bytes) -> None:
    """Adds to the end of a file."""
    path.write_bytes(path.read_bytes() + content)


def replace(path: pathlib.Path, old: bytes, new: bytes) -> None:
    """Replaces the first occurrence in a file."""
    path.write_bytes(path.read_bytes().replace(old, new, 1))
