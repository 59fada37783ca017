"""Scenes of handwritten digits and coloured shapes, drawn and described by a grammar; a caption is right if it is true of the scene.

  caption  = group place | "there is" group place | place "is" group          for a scene with one group
           | group relation group | "there is" group relation group           for a scene with two
  group    = count colour kind                                                "a red circle", "three green sevens"
  place    = "on the left" | "on the right" | "at the top" | "at the bottom"
  relation = "left of" | "right of" | "above" | "below"

with "are" where the group has more than one member. A group is in a place if all its members lie in that half of the canvas, and A is left
of B if all of A ends before any of B starts. A caption is right if it names every group of the scene with its count, colour and kind, no
other group, and one true place or relation. So each scene has several right captions.

Some combinations of colour and kind occur only in the validation and test parts, never in training.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.hold_out import hold_out
from seqjax.data.readers.digits import read_digits
from seqjax.errors import refuse_unknown

SIDE = 40  # side of the canvas, in pixels
SIZES = (12, 13)  # of an object
COLOURS = {  # every channel is bright enough to show a digit's strokes
    "red": (245, 90, 80), "green": (90, 215, 100), "blue": (95, 125, 255), "yellow": (245, 225, 90), "purple": (180, 95, 230),
    "white": (245, 245, 245), "cyan": (90, 215, 230), "pink": (255, 165, 205),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
DIGITS = {"zero": 0, "one": 1, "two": 2, "four": 4, "five": 5, "six": 6, "seven": 7}  # at this size, the others are easily confused
KINDS = (*SHAPES, *DIGITS)
PLURALS = {kind: f"{kind}es" if kind == "six" else f"{kind}s" for kind in KINDS}
COUNTS = ("a", "two", "three")
PLACES = ("on the left", "on the right", "at the top", "at the bottom")
RELATIONS = ("left of", "right of", "above", "below")
PARTS = {"train": 0, "validation": 1, "test": 2}
REFERENCES = 5  # maximum number of references per scene


class Group(NamedTuple):
    """Equal objects of a scene."""

    count: int  # 1 to 3
    colour: str
    kind: str
    box: tuple[int, int, int, int]  # top, left, bottom, right: half-open ranges of rows and columns


class Scene(NamedTuple):
    """The content of an image."""

    groups: tuple[Group, ...]  # one or two; two differ in colour or kind

    def to_json(self) -> list[dict[str, Any]]:
        """The groups as JSON values."""
        return [group._asdict() for group in self.groups]


class Meaning(NamedTuple):
    """The meaning of a caption."""

    groups: tuple[tuple[int, str, str], ...]  # (count, colour, kind)
    where: str  # the place of the only group, or the relation of the first to the second


def held_out(part: str) -> frozenset[tuple[str, str]]:
    """The combinations of colour and kind unique to this part: one kind per colour.

    Args:
      part: "validation" or "test".

    Example:
      >>> sorted(held_out("test"))[:2], len(held_out("test")), held_out("test") & held_out("validation")
      ([('blue', 'four'), ('cyan', 'six')], 8, frozenset())
    """
    first = {"validation": 1, "test": 0}[part]
    return frozenset((colour, KINDS[(3 * number + first) % len(KINDS)]) for number, colour in enumerate(COLOURS))


@functools.cache
def combinations(part: str, unseen: bool) -> tuple[tuple[str, str], ...]:
    """The combinations that scenes of a part may have: those of training, and for `unseen` also the part's own.

    Example:
      >>> len(combinations("train", False)), len(combinations("test", True))
      (64, 72)
    """
    never = held_out("validation") | held_out("test")
    seen = [pair for pair in itertools.product(COLOURS, KINDS) if pair not in never]
    return (*seen, *sorted(held_out(part))) if unseen else tuple(seen)


class Dice:
    """Integers drawn from raw random bits, the same in every version of NumPy.

    Example:
      >>> dice = Dice(0, 1, 2)
      >>> all(0 <= dice.below(3) < 3 for _ in range(9))
      True
    """

    def __init__(self, seed: int, *key: int):
        self.bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key))

    def below(self, limit: int) -> int:
        """A number below a limit."""
        return int(self.bits.random_raw() >> 11) % limit

    def choose(self, several: Any) -> Any:
        """One of several."""
        return several[self.below(len(several))]


@functools.cache
def _digit_images(part: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The 8 x 8 images of a part, with their digits; no image is in two parts."""
    images, labels = read_digits()
    rest, test = hold_out(len(labels), 0.2, 0, "digits", strata=labels)
    kept, held = hold_out(len(rest), 0.15, 0, "digits", strata=labels[rest])
    chosen = {"train": rest[kept], "validation": rest[held], "test": test}[part]
    return [images[chosen[labels[chosen] == digit], :, :, 0].astype(np.int64) for digit in range(10)], chosen


@functools.cache
def _scaling(size: int) -> np.ndarray:
    """Linear interpolation from 8 to `size` points, in integer 256ths, so that every machine gives the same image."""
    at = np.clip((2 * np.arange(size) + 1) * 8 * 128 // size - 128, 0, 7 * 256)
    whole, part = np.minimum(at // 256, 6), at - np.minimum(at // 256, 6) * 256
    matrix = np.zeros((size, 8), np.int64)
    matrix[np.arange(size), whole], matrix[np.arange(size), whole + 1] = 256 - part, part
    return matrix


@functools.cache
def _shape_mask(kind: str, size: int) -> np.ndarray:
    """How much of each pixel a shape covers, 0 to 255, from 4 x 4 points of it."""
    points = 2 * np.arange(4 * size) + 1 - 4 * size  # from the centre, in eighths of a pixel
    y, x = points[:, None], points[None, :]
    radius = 4 * size
    inside = {
        "circle": x * x + y * y <= radius * radius,
        "square": (abs(x) <= radius - 4) & (abs(y) <= radius - 4),
        "triangle": 2 * abs(x) <= y + radius,
    }[kind]
    return (inside.reshape(size, 4, size, 4).sum((1, 3)) * 255 // 16).astype(np.int64)


def _mask(kind: str, size: int, part: str, dice: Dice) -> np.ndarray:
    """How much of each pixel of its box an object covers; digits may be up to two pixels smaller in height or width, and may slant."""
    if kind in SHAPES:
        return _shape_mask(kind, size)
    image = dice.choose(_digit_images(part)[0][DIGITS[kind]])
    height, width = size - dice.below(3), size - dice.below(3)
    top, left = dice.below(size - height + 1), dice.below(size - width + 1)
    mask = np.zeros((size, size), np.int64)
    mask[top : top + height, left : left + width] = _scaling(height) @ image @ _scaling(width).T // 65536
    slant = dice.below(3) - 1
    for row in range(size):  # the upper third leans to one side, the lower third to the other
        mask[row] = _moved(mask[row], slant * (1 - 3 * row // size))
    return mask


def _moved(row: np.ndarray, by: int) -> np.ndarray:
    """A row of pixels shifted by at most one; pixels that would leave it stay at its end."""
    if not by:
        return row
    moved = np.zeros_like(row)
    if by > 0:
        moved[1:], moved[-1] = row[:-1], max(row[-1], row[-2])
    else:
        moved[:-1], moved[0] = row[1:], max(row[0], row[1])
    return moved


def draw_scene(seed: int, part: str, index: int, *, unseen: bool = False) -> tuple[np.ndarray, Scene]:
    """One scene, a pure function of its arguments.

    Args:
      seed: determines the scenes.
      part: "train", "validation" or "test"; each has its own scenes and digit images.
      index: index of the scene.
      unseen: at least one group has a combination unique to this part.

    Returns:
      (uint8 (40, 40, 3), the scene).

    Example:
      >>> image, scene = draw_scene(0, "train", 5)
      >>> image.shape, [group[:3] for group in scene.groups], captions(scene)[0]
      ((40, 40, 3), [(2, 'green', 'triangle')], 'two green triangles on the left')
    """
    dice = Dice(seed, PARTS[refuse_unknown(f"part={part!r} is not a part", part, PARTS) or part], index)
    number, pairs = 1 + (dice.below(3) > 0), []
    while len(pairs) < number:
        own = sorted(held_out(part)) if unseen and not pairs else combinations(part, unseen)
        pair = dice.choose(_weighted(own))
        pairs += [pair] if pair not in pairs else []
    upright, swap = dice.below(2), dice.below(2)
    image = np.frombuffer(dice.bits.random_raw(SIDE * SIDE * 3 // 8).astype("<u8").tobytes(), np.uint8).reshape(SIDE, SIDE, 3) % 32
    image, groups = image.astype(np.int64), []
    for place, (colour, kind) in enumerate(pairs):
        half = (place + swap) % 2
        size, boxes = _arranged(1 + dice.below(3), dice)
        top, left = (half * SIDE // 2, 0) if upright else (0, half * SIDE // 2)
        light = 200 + dice.below(56)
        paint = np.array([min(max(value + dice.below(31) - 15, 0), 255) for value in COLOURS[colour]]) * light // 255
        boxes = [(top + row, left + column) for row, column in _turned(boxes, upright)]
        for row, column in boxes:
            mask = _mask(kind, size, part, dice)[..., None]
            window = image[row : row + size, column : column + size]
            window += mask * (paint - window) // 255
        rows, columns = zip(*boxes)
        groups.append(Group(len(boxes), colour, kind, (min(rows), min(columns), max(rows) + size, max(columns) + size)))
    return image.astype(np.uint8), Scene(tuple(groups))


def _weighted(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Lists shapes twice: there are only three of them, against seven digits."""
    return [pair for pair in pairs for _ in range(2 if pair[1] in SHAPES else 1)]


def _arranged(count: int, dice: Dice) -> tuple[int, list[tuple[int, int]]]:
    """Objects side by side in a half of the canvas: their size, and (across, along) of each corner."""
    size = dice.choose(SIZES)
    free, places = SIDE - count * size, []
    cuts = sorted(dice.below(free + 1) for _ in range(count))
    for number, cut in enumerate(cuts):
        places.append((dice.below(SIDE // 2 - size + 1), cut + number * size))
    return size, places


def _turned(places: Sequence[tuple[int, int]], upright: int) -> list[tuple[int, int]]:
    """(row, column) inside the half: upper and lower halves are wide, left and right halves are high."""
    return [(row, column) if upright else (column, row) for row, column in places]


def places_of(group: Group) -> list[str]:
    """The places of the grammar that a group is in.

    Example:
      >>> places_of(Group(1, "red", "circle", (2, 3, 12, 13)))
      ['on the left', 'at the top']
    """
    top, left, bottom, right = group.box
    half = SIDE // 2
    return [place for place, true in zip(PLACES, (right <= half, left >= half, bottom <= half, top >= half)) if true]


def relations_of(a: Group, b: Group) -> list[str]:
    """The relations of the grammar that a has to b.

    Example:
      >>> relations_of(Group(1, "red", "circle", (2, 3, 12, 13)), Group(1, "red", "one", (8, 20, 18, 30)))
      ['left of']
    """
    apart = (a.box[3] <= b.box[1], a.box[1] >= b.box[3], a.box[2] <= b.box[0], a.box[0] >= b.box[2])
    return [relation for relation, true in zip(RELATIONS, apart) if true]


def captions(scene: Scene) -> list[str]:
    """All correct captions of a scene.

    Example:
      >>> captions(Scene((Group(2, "red", "six", (0, 3, 12, 30)),)))
      ['two red sixes at the top', 'there are two red sixes at the top', 'at the top are two red sixes']
    """
    found = []
    if len(scene.groups) == 1:
        (group,) = scene.groups
        named, verb = _named(group), "is" if group.count == 1 else "are"
        for place in places_of(group):
            found += [f"{named} {place}", f"there {verb} {named} {place}", f"{place} {verb} {named}"]
        return found
    for a, b in (scene.groups, scene.groups[::-1]):
        for relation in relations_of(a, b):
            said = f"{_named(a)} {relation} {_named(b)}"
            found += [said, f"there {'is' if a.count == 1 else 'are'} {said}"]
    return found


def references(scene: Scene, seed: int, part: str, index: int) -> tuple[str, ...]:
    """At most five right captions, drawn for each scene.

    Example:
      >>> image, scene = draw_scene(0, "train", 5)
      >>> set(references(scene, 0, "train", 5)) <= set(captions(scene))
      True
    """
    left, dice, found = captions(scene), Dice(seed, PARTS[part], index, 1), []
    while left and len(found) < REFERENCES:
        found.append(left.pop(dice.below(len(left))))
    return tuple(found)


def _named(group: Group) -> str:
    kind = group.kind if group.count == 1 else PLURALS[group.kind]
    return f"{COUNTS[group.count - 1]} {group.colour} {kind}"


def parse(caption: str) -> Meaning | None:
    """Parses a caption; None if it is not one of the grammar's sentences.

    Example:
      >>> parse("there are two red sixes above a blue one")
      Meaning(groups=((2, 'red', 'six'), (1, 'blue', 'one')), where='above')
      >>> parse("on the left is a white circle"), parse("two red six above a blue one")
      (Meaning(groups=((1, 'white', 'circle'),), where='on the left'), None)
    """
    words = caption.split()
    if words[:2] in (["there", "is"], ["there", "are"]):
        first = _parse_group(words[2:5])
        return _parse_rest(first, words[5:]) if first and words[1] == ("is" if first[0] == 1 else "are") else None
    if " ".join(words[:3]) in PLACES and len(words) == 7:
        group = _parse_group(words[4:])
        if group is None or words[3] != ("is" if group[0] == 1 else "are"):
            return None
        return Meaning((group,), " ".join(words[:3]))
    return _parse_rest(_parse_group(words[:3]), words[3:])


def _parse_group(words: list[str]) -> tuple[int, str, str] | None:
    if len(words) != 3 or words[0] not in COUNTS or words[1] not in COLOURS:
        return None
    count = COUNTS.index(words[0]) + 1
    kind = next((kind for kind in KINDS if words[2] == (kind if count == 1 else PLURALS[kind])), None)
    return (count, words[1], kind) if kind else None


def _parse_rest(first: tuple[int, str, str] | None, words: list[str]) -> Meaning | None:
    """A place, or a relation and a second group."""
    rest = " ".join(words)
    if first and rest in PLACES:
        return Meaning((first,), rest)
    second, relation = _parse_group(words[-3:]), " ".join(words[:-3])
    return Meaning((first, second), relation) if first and second and relation in RELATIONS else None


def is_right(caption: str, scene: Scene) -> bool:
    """Whether a caption is true of a scene and complete, as the grammar demands.

    Example:
      >>> scene = Scene((Group(1, "red", "circle", (0, 0, 9, 9)), Group(2, "blue", "one", (3, 25, 30, 36))))
      >>> [is_right(f"a red circle {where} two blue ones", scene) for where in ("left of", "above")]
      [True, False]
      >>> is_right("two blue ones right of a red circle", scene), is_right("a red circle on the left", scene)
      (True, False)
    """
    meaning = parse(caption)
    if meaning is None or sorted(meaning.groups) != sorted(group[:3] for group in scene.groups):
        return False
    if len(scene.groups) == 1:
        return meaning.where in places_of(scene.groups[0])
    a, b = sorted(scene.groups, key=lambda group: meaning.groups.index(group[:3]))
    return meaning.where in relations_of(a, b)


def is_unseen(scene: Scene) -> bool:
    """Whether a scene has a combination that no training scene has.

    Example:
      >>> is_unseen(Scene((Group(1, *sorted(held_out("test"))[0], (0, 0, 9, 9)),)))
      True
    """
    return any(group[1:3] in held_out("validation") | held_out("test") for group in scene.groups)
