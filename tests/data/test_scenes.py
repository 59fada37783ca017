"""Drawn scenes: pure functions of their index, images that no two parts share, and captions that are right or not."""

import itertools

import numpy as np
import pytest

from seqjax.data.captions import load_captions
from seqjax.data.readers import scenes
from seqjax.data.readers.scenes import (
    COLOURS,
    COUNTS,
    KINDS,
    PLACES,
    PLURALS,
    RELATIONS,
    SIDE,
    Group,
    Meaning,
    Scene,
    captions,
    draw_scene,
    held_out,
    is_right,
    parse,
)

PIXELS = 442468  # of the first version
SOME = [draw_scene(3, part, index, unseen=unseen) for part, unseen in (("train", False), ("test", True)) for index in range(150)]


def test_a_scene_is_a_pure_function_of_its_arguments():
    for part, index in (("train", 4), ("test", 0)):
        (image, scene), (again, same) = draw_scene(7, part, index), draw_scene(7, part, index)
        assert (image == again).all() and scene == same
        for other in (draw_scene(8, part, index), draw_scene(7, part, index + 1), draw_scene(7, "validation", index)):
            assert (other[0] != image).any()


def test_the_pixels_are_those_of_the_first_version():
    """Another NumPy, or a change of the drawing, would change what every run was trained on."""
    total = sum(int(draw_scene(0, part, 1)[0].astype(np.int64).sum()) for part in scenes.PARTS)
    assert total == PIXELS


def test_no_image_of_a_digit_is_in_two_parts():
    chosen = [set(scenes._digit_images(part)[1].tolist()) for part in scenes.PARTS]
    assert not any(a & b for a, b in itertools.combinations(chosen, 2)) and sum(map(len, chosen)) == 1797
    assert all(len(images) >= 10 for part in scenes.PARTS for images in scenes._digit_images(part)[0])


def test_held_out_combinations_are_in_their_own_part_alone():
    validation, test = held_out("validation"), held_out("test")
    assert not validation & test and len(validation) == len(test) == len(COLOURS)
    for part, other in (("validation", test), ("test", validation), ("train", validation | test)):
        drawn = [draw_scene(0, part, index, unseen=part != "train")[1] for index in range(200)]
        pairs = {group[1:3] for scene in drawn for group in scene.groups}
        assert not pairs & other
        if part != "train":
            assert pairs & held_out(part) == held_out(part) and all(map(scenes.is_unseen, drawn))
    seen = {pair for pair in itertools.product(COLOURS, KINDS) if pair not in validation | test}
    assert {colour for colour, _ in seen} == set(COLOURS) and {kind for _, kind in seen} == set(KINDS)


def test_what_is_drawn_is_where_the_scene_says():
    """Bright pixels lie in the boxes of the groups, and each box has some at its edges or next to them."""
    for image, scene in SOME[:60]:
        bright = image.max(-1) > 110
        inside = np.zeros((SIDE, SIDE), bool)
        for group in scene.groups:
            top, left, bottom, right = group.box
            inside[top:bottom, left:right] = True
            rows, columns = np.nonzero(bright[top:bottom, left:right])
            assert len(rows) >= 8 * group.count
        assert not (bright & ~inside).any()


def everything():
    """Every sentence of the grammar about a few groups, and some outside the grammar."""
    groups = [(count, colour, kind) for count in (1, 2, 3) for colour in ("red", "blue") for kind in ("circle", "six")]
    named = {g: f"{COUNTS[g[0] - 1]} {g[1]} {g[2] if g[0] == 1 else PLURALS[g[2]]}" for g in groups}
    for group, place in itertools.product(groups, PLACES):
        verb = "is" if group[0] == 1 else "are"
        meaning = Meaning((group,), place)
        for text in (
            f"{named[group]} {place}",
            f"there {verb} {named[group]} {place}",
            f"{place} {verb} {named[group]}",
        ):
            yield text, meaning
    for a, b, relation in itertools.product(groups, groups, RELATIONS):
        text = f"{named[a]} {relation} {named[b]}"
        yield text, Meaning((a, b), relation)
        yield f"there {'is' if a[0] == 1 else 'are'} {text}", Meaning((a, b), relation)


def test_every_sentence_of_the_grammar_is_parsed():
    for text, meaning in everything():
        assert parse(text) == meaning, text


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a red circle", "a red circles on the left", "two red circle on the left",
        "there is two red circles on the left",
        "there are a red circle on the left", "a circle red on the left", "a red circle on left",
        "a red circle on the left on the left",
        "on the left is two red sixes", "on the left two red sixes", "a red circle left of", "left of a red circle",
        "a red sixs above a red six",
        "a red circle left of a blue six above a red six", "a black circle on the left", "four red sixes on the left",
        "two red sixs at the top",
        "there there is a red circle on the left", "a red circle and a blue six",
    ],
)  # fmt: skip
def test_what_is_no_sentence_is_not_parsed(text):
    assert parse(text) is None


def brute_force(scene, meaning):
    """Whether a meaning is right, from the corners of the boxes alone."""
    if sorted(meaning.groups) != sorted(group[:3] for group in scene.groups) or len(meaning.groups) != len(set(meaning.groups)):
        return False
    boxes = {group[:3]: group.box for group in scene.groups}
    top, left, bottom, right = boxes[meaning.groups[0]]
    if len(scene.groups) == 1:
        half = SIDE / 2
        places = {
            "on the left": right <= half,
            "on the right": left >= half,
            "at the top": bottom <= half,
            "at the bottom": top >= half,
        }
        return places.get(meaning.where, False)
    other_top, other_left, other_bottom, other_right = boxes[meaning.groups[1]]
    across = {"left of": right <= other_left, "right of": left >= other_right}
    relations = across | {"above": bottom <= other_top, "below": top >= other_bottom}
    return relations.get(meaning.where, False)


def test_right_captions_are_exactly_those_that_are_true():
    """All captions of a scene are right; no other sentences about its groups are."""
    for _, scene in SOME:
        own = [group[:3] for group in scene.groups]
        wrong_count = (own[0][0] % 3 + 1, *own[0][1:])
        wrong_colour = (own[0][0], "red" if own[0][1] != "red" else "blue", own[0][2])
        wrong_kind = (*own[0][:2], "six" if own[0][2] != "six" else "one")
        pool, right = {*own, wrong_count, wrong_colour, wrong_kind}, set(captions(scene))
        named = {g: f"{COUNTS[g[0] - 1]} {g[1]} {g[2] if g[0] == 1 else PLURALS[g[2]]}" for g in pool}
        texts = [f"{named[a]} {place}" for a in pool for place in PLACES]
        texts += [f"{named[a]} {relation} {named[b]}" for a in pool for b in pool for relation in RELATIONS]
        for text in texts:
            assert is_right(text, scene) == brute_force(scene, parse(text)) == (text in right), (text, scene)
        assert right and all(is_right(text, scene) for text in right)


def test_groups_in_either_order_and_overlapping_ones():
    scene = Scene((Group(1, "red", "circle", (0, 0, 12, 12)), Group(1, "red", "square", (8, 14, 20, 30))))
    assert is_right("a red circle left of a red square", scene) and is_right("a red square right of a red circle", scene)
    assert not is_right("a red circle right of a red square", scene) and not is_right("a red circle above a red square", scene)


def test_the_parts_of_the_set():
    data = load_captions("embedded", name="scenes", scenes=20, seed=1)
    assert {part: len(images) for part, images in data.parts.items()} == {"train": 20, "validation": 600, "test": 2000}
    for part, images in data.parts.items():
        assert all(1 <= len(several) <= 5 and len(set(several)) == len(several) for several in images.captions)
        assert all(is_right(text, scene) for several, scene in zip(images.captions, images.scenes) for text in several)
        assert sum(map(scenes.is_unseen, images.scenes)) == (0 if part == "train" else len(images) // 2)
    again = load_captions("embedded", name="scenes", scenes=20, seed=1)
    assert again.fingerprint == data.fingerprint != load_captions("embedded", name="scenes", scenes=20, seed=2).fingerprint
