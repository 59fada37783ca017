"""Chorales in JSON, generated canons and their entropy, the entry point for music, batches of windows, transposition."""

import gzip
import itertools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.data.music import load_music
from seqjax.data.pipeline.rolls import RollBatches, roll_windows
from seqjax.data.readers import canons
from seqjax.data.readers.bach import read_bach
from seqjax.data.readers.chorales import read_chorales
from seqjax.data.readers.rolls import to_frames, to_roll
from seqjax.data.transforms.transposition import draw_shifts, transpose
from seqjax.errors import UserError

PIECE = [[60, 64], [], [62, 65, 69]]


def dump(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# Chorales.


@pytest.mark.parametrize("packed", [False, True])
def test_parts_of_a_file(tmp_path, packed):
    content = {"test": [PIECE], "train": [PIECE, PIECE[::-1]], "valid": [[[60, 60, -1, 55]] * 2]}
    path = dump(tmp_path / "a.json", content)
    if packed:
        path = tmp_path / "a.json.gz"
        path.write_bytes(gzip.compress(json.dumps(content).encode()))
    parts = read_chorales(path)
    assert list(parts) == ["train", "validation", "test"]
    assert to_frames(parts["train"]["frames"][1]) == ((62, 65, 69), (), (60, 64))
    assert to_frames(parts["validation"]["frames"][0]) == ((55, 60),) * 2  # voices in unison, and one that rests
    assert parts["train"].places.at(1) == f"{path}, train piece 2"


def test_faults_of_pieces_are_listed_at_once(tmp_path):
    wrong = [*([[60], [pitch]] for pitch in (60.5, "C4", 109, True)), [[60], 60], 7, [[60]], [], [[], [-1]], [[60], [None]]]
    path = dump(tmp_path / "a.json", {"train": [PIECE, *wrong]})
    with pytest.raises(UserError) as caught:
        read_chorales(path)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{path}: {len(wrong)} faults" and len(lines) == 1 + len(wrong)
    said = [
        "frame 2: 60.5 is not", "'C4' is not", "109 is not", "True is", "is not a list", "is not a list", "has 1 frame;", "has 0 frames",
        "no note", "None is",
    ]  # fmt: skip
    for number, (line, words) in enumerate(zip(lines[1:], said), 2):
        assert f"train piece {number}" in line and words in line


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("7", "does not have a known form"),
        ('{"train": 7}', "does not have a known form"),
        ("{}", "has no part"),
        ('{"train": []}', "no piece in its part train"),
        ('{"songs": [[[60],[61]]]}', "has the part 'songs'"),
        ("", "is empty"),
        ('{"valid": [[[60],[61]]], "val": [[[60],[61]]]}', "has the parts valid and val, both for validation"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_chorales(dump(tmp_path / "a.json", content))
    assert "\n" not in str(caught.value)


def test_the_published_split(shared):
    """The quarter notes have the numbers of the published tables; four voices with rests have the same pitches as sets."""
    data = load_music("file", path=str(shared / "data" / "jsb-chorales" / "jsb-chorales-quarter.json.gz"))
    assert [len(part) for part in data.parts.values()] == [229, 76, 77]
    assert [sum(map(len, part["frames"])) for part in data.parts.values()] == [13807, 4602, 4725]
    assert data.facts["most_notes"] == 4
    parts = read_chorales(shared / "data" / "jsb-chorales" / "Jsb16thSeparated.json.gz")
    sixteenths = read_chorales(shared / "data" / "jsb-chorales" / "jsb-chorales-16th.json.gz")
    for a, b in zip(parts["test"]["frames"], sixteenths["test"]["frames"], strict=True):
        np.testing.assert_array_equal(a, b)
    assert [len(parts[name]) for name in parts] == [len(sixteenths[name]) for name in sixteenths] == [229, 76, 77]


# Canons.


def reachable():
    seen, waiting = set(), [None]
    while waiting:
        for choice in canons.choices(waiting.pop()):
            if choice.state.key == 0 and choice.state not in seen:
                seen.add(choice.state)
                waiting.append(choice.state)
    return [None, *seen]


def test_the_frames_tell_the_state():
    """In every state the probabilities sum to one, all continuations have different frames, and frames are ascending piano pitches."""
    for state in reachable():
        ways = canons.choices(state)
        assert math.isclose(sum(way.probability for way in ways), 1, rel_tol=1e-12)
        assert len({way.frame for way in ways}) == len(ways)
        assert all(list(way.frame) == sorted(set(way.frame)) and 21 <= way.frame[0] and way.frame[-1] <= 108 for way in ways)


def enumerate_pieces(frames):
    """Every piece of `frames` frames -> its probability."""
    pieces = {(): (1.0, None)}
    for _ in range(frames):
        pieces = {
            (*piece, way.frame): (share * way.probability, way.state)
            for piece, (share, state) in pieces.items()
            for way in canons.choices(state)
        }
    return {piece: share for piece, (share, _) in pieces.items()}


def test_the_entropy_rate_by_enumeration(monkeypatch):
    """A short phrase in two keys: all pieces of two phrases, and each pitch's probability after each beginning, counted again."""
    monkeypatch.setattr(canons, "KEYS", (0, 5))
    monkeypatch.setattr(canons, "CANON", 3)
    monkeypatch.setattr(canons, "CADENCE", 1)
    monkeypatch.setattr(canons, "DELAYS", (1, 2))
    monkeypatch.setattr(canons, "FIRST_DEGREES", (0, 4))
    length = 1 + 2 * 4
    pieces = enumerate_pieces(length)
    assert math.isclose(sum(pieces.values()), 1, rel_tol=1e-9) and len(pieces) > 10_000
    entropy = -sum(share * math.log(share) for share in pieces.values())
    rate, independent = canons.entropy_rate.__wrapped__()
    assert math.isclose(rate, (entropy - math.log(2)) / (length - 1), rel_tol=1e-9)
    total = 0.0
    for steps in range(1, 5):  # the first phrase
        begins, pitches = {}, {}
        for piece, share in pieces.items():
            begins[piece[:steps]] = begins.get(piece[:steps], 0) + share
            for pitch in piece[steps]:
                pitches[piece[:steps], pitch] = pitches.get((piece[:steps], pitch), 0) + share
        for (begin, _), share in pitches.items():
            p = share / begins[begin]
            total -= begins[begin] * (p * math.log(p) + ((1 - p) * math.log(1 - p) if p < 1 - 1e-12 else 0))
    assert math.isclose(independent, total / 4, rel_tol=1e-9)


def test_what_the_rules_say_of_pieces():
    """The mean loss of many pieces is the entropy rate, within four standard errors; and no smaller for independent pitches."""
    pieces = canons.canon_pieces(150, seed=5)
    assert pieces == canons.canon_pieces(150, seed=5) != canons.canon_pieces(150, seed=6)
    assert {len(piece) for piece in pieces} == {33, 49, 65}
    for nats, rate in zip((canons.rules_nats, canons.independent_nats), canons.entropy_rate()):
        found = np.concatenate([nats(piece)[1:] for piece in pieces])
        assert abs(found.mean() - rate) < 4 * found.std() / math.sqrt(len(found)) < 0.2
    first = canons.independent_nats(pieces[0])[0]
    shares = np.mean([[pitch in way.frame for pitch in range(128)] for way in canons.choices(None)], axis=0)
    expected = [-math.log(p if pitch in pieces[0][0] else 1 - p) for pitch, p in enumerate(shares) if p > 0]
    assert math.isclose(first, sum(expected), rel_tol=1e-9)
    with pytest.raises(ValueError, match="frame 2, .* does not follow"):
        canons.rules_nats([pieces[0][0], (60,)])


# The entry point.


def test_validation_is_held_out_of_a_list(tmp_path):
    path = dump(tmp_path / "a.json", [[[60 + i], [61 + i]] for i in range(20)])
    data = load_music("file", path=str(path), validation_fraction=0.25)
    assert [len(part) for part in data.parts.values()] == [15, 5] and "for validation" in data.notes[-1] and data.name == "a.json"
    tunes = {to_frames(roll) for part in data.parts.values() for roll in part["frames"]}
    assert len(tunes) == 20
    assert load_music("file", path=str(path), seed=1).fingerprint != load_music("file", path=str(path)).fingerprint


def test_settings_that_do_not_fit(tmp_path):
    path = str(dump(tmp_path / "a.json", {"train": [PIECE], "valid": [PIECE]}))
    plain = str(dump(tmp_path / "b.json", [PIECE]))
    cases = [
        (("tfds",), {"name": "x"}, "source='tfds' is not a source of music; choose one of embedded, file"),
        (("embedded",), {"name": "canon"}, "nearest: canons"),
        (("embedded",), {"name": "canons", "path": path}, "path="),
        (("embedded",), {"name": "canons", "frames_per_quarter": 2}, "frames_per_quarter=2"),
        (("file",), {}, "needs a path"),
        (("file",), {"path": str(tmp_path / "a.txt")}, "is not a known kind of file"),
        (("file",), {"path": path, "validation_path": plain}, "has a validation part already"),
        (("file",), {"path": plain, "validation_path": path}, "has the parts train, validation"),
        (("file",), {"path": plain}, "too few examples to hold any out"),
        (("file",), {"path": path, "frames_per_quarter": 0}, "frames_per_quarter"),
        (("file",), {"path": str(dump(tmp_path / "c.json", {"test": [PIECE]}))}, "has no training part; it has test"),
    ]
    for args, settings, words in cases:
        with pytest.raises(UserError, match=re.escape(words)):
            load_music(*args, **settings)


def test_the_bach_of_music21():
    """Parsed apart by hand: the notes of each part that sound at each quarter note."""
    music21 = pytest.importorskip("music21")
    records = read_bach(limit=1)
    name = records.places.at(0).removesuffix(", piece 1")
    score = music21.corpus.parse(f"bach/{name}")
    expected = []
    for quarter in range(len(records["frames"][0])):
        sounding = set()
        for part in score.parts:
            for element in part.flatten().notes:
                if element.offset <= quarter < element.offset + element.quarterLength:
                    sounding |= {pitch.midi for pitch in element.pitches}
        expected.append(tuple(sorted(sounding)))
    assert to_frames(records["frames"][0]) == tuple(expected) and len(expected) > 20


def test_without_music21(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "music21", None)
    with pytest.raises(UserError, match="the set 'bach' needs music21, which is not installed; run pip install -e '.\\[bach\\]'"):
        load_music("embedded", name="bach")


# Batches.

ROLLS = [np.random.default_rng(i).integers(0, 2, (length, 6)).astype(np.uint8) for i, length in enumerate([3, 17, 8, 9, 30, 2, 12])]


def whole_pieces(batches):
    """The pieces joined from their windows, and a check of the frame before each frame."""
    rows, found = {}, []
    for batch in batches:
        for row, (length, first) in enumerate(zip(batch.lengths, batch.first)):
            assert not batch.frames[row, length:].any() and not batch.before[row, length:].any()
            if first:
                found += rows.pop(row, [])
                rows[row] = []
            if length:
                assert first == (not rows[row])
                last = np.zeros(6) if first else rows[row][0][-1]
                np.testing.assert_array_equal(batch.before[row, :length], np.concatenate([last[None], batch.frames[row, : length - 1]]))
                rows[row] = [np.concatenate([*rows[row], batch.frames[row, :length]])]
    return found + list(itertools.chain.from_iterable(rows.values()))


@pytest.mark.parametrize("window", [4, 7, 30, 100])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_epoch_is_every_piece_once(window, batch_size):
    batches = RollBatches(ROLLS, batch_size, (9, 30), window=window, seed=1)
    for _ in range(2):
        found = whole_pieces(next(batches) for _ in range(batches.batches_per_epoch))
        assert sorted(roll.tobytes() for roll in found) == sorted(roll.tobytes() for roll in ROLLS)
    passed = [batch for _, batch in roll_windows(ROLLS, batch_size, (9, 30), window=window)]
    assert sorted(roll.tobytes() for roll in whole_pieces(passed)) == sorted(roll.tobytes() for roll in ROLLS)
    assert max(batch.frames.shape[1] for batch in passed) <= window
    assert {next(batches).frames.shape[1] for _ in range(50)} <= set(batches.boundaries)


def test_batches_resume_and_are_shared():
    def make():
        return RollBatches(ROLLS, 4, (9, 30), window=7, seed=1)

    whole, resumed = make(), make()
    for _ in range(9):
        next(whole)
    resumed.set_state(json.loads(json.dumps(whole.get_state())))
    shards = [whole.shard(index, 2) for index in range(2)]
    for _ in range(20):
        batch = next(whole)
        jax.tree.map(np.testing.assert_array_equal, batch, next(resumed))
        jax.tree.map(lambda a, *b: np.testing.assert_array_equal(a, np.concatenate(b)), batch, *map(next, shards))  # noqa: B023
    parts = [roll_windows(ROLLS, 4, (9, 30), window=7, index=index, count=2) for index in range(2)]
    for (_, batch), *both in zip(roll_windows(ROLLS, 4, (9, 30), window=7), *parts, strict=True):
        jax.tree.map(lambda a, *b: np.testing.assert_array_equal(a, np.concatenate(b)), batch, *(b for _, b in both))


def test_transposition_there_and_back():
    rng = np.random.default_rng(0)
    frames = np.zeros((40, 5, 88), np.uint8)
    frames[:, :, 20:60] = rng.integers(0, 2, (40, 5, 40))
    shifts = rng.integers(-20, 28, 40)
    moved = transpose(frames, shifts)
    assert moved.dtype == np.uint8
    for row, shift in enumerate(shifts):
        np.testing.assert_array_equal(moved[row], np.roll(frames[row], shift, axis=-1))
    np.testing.assert_array_equal(transpose(moved, -shifts), frames)


def test_no_note_is_moved_off_the_keyboard():
    down, up = np.array([0, 3, 40, 0] * 200), np.array([0, 40, 2, 87] * 200)
    shifts = np.asarray(draw_shifts(jax.random.key(0), jnp.array(down), jnp.array(up), 5)).reshape(-1, 4)
    assert [sorted(set(column)) for column in shifts.T.tolist()] == [[0], list(range(-3, 6)), list(range(-5, 3)), list(range(6))]
    batch = next(RollBatches([to_roll([(25, 100), (30,)])], 1, (2,), window=4, seed=0))
    assert (batch.down.tolist(), batch.up.tolist()) == ([4], [8])
