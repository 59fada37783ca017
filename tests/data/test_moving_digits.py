"""Moving digits: positions at each frame by brute force, the information in one frame, and no digit in two parts."""

import numpy as np
import pytest

from seqjax.data.readers.digits import read_digits
from seqjax.data.readers.moving_digits import MOST_BOUNCING, SPEEDS, STEPS, WAYS, MovingDigits, Scene
from seqjax.data.video import load_videos

IMAGES = np.random.default_rng(0).integers(100, 256, (20, 8, 8)).astype(np.uint8)
LABELS = np.arange(20) % 10


def made(number=60, seed=0, **scene):
    return MovingDigits(IMAGES, LABELS, number, seed=seed, scene=Scene(**scene))


def centre(frame):
    """The centre of mass, (row, column)."""
    weights = frame[..., 0].astype(float)
    return np.array([(weights.sum(axis=1 - axis) * np.arange(len(weights))).sum() for axis in (0, 1)]) / weights.sum()


def test_a_digit_moves_as_its_labels_say():
    videos = made(frames=5, side=20)
    for index in range(len(videos)):
        digit, way, speed = videos.answers[index]
        frames = videos.take(index, np.arange(5))
        centres = np.array([centre(frame) for frame in frames])
        np.testing.assert_allclose(np.diff(centres, axis=0), np.tile(STEPS[way] * SPEEDS[speed], (4, 1)), atol=0.05)
        totals = [int(IMAGES[i].sum(dtype=int)) for i in np.flatnonzero(LABELS == digit)]
        assert min(abs(int(frames[0].sum(dtype=int)) - total) for total in totals) < 40  # nothing is cut off


def test_the_ways_are_what_they_are_called():
    for name, (row, column) in zip(WAYS, STEPS):
        assert ("down" in name, "up" in name, "right" in name, "left" in name) == (
            row > 0,
            row < 0,
            column > 0,
            column < 0,
        )


def test_the_middle_frame_tells_nothing_of_the_way():
    """Where the digit is in the middle frame has the same distribution for every way and speed; in the first frame it has not."""
    videos = made(4000, frames=5, side=20)
    middles = np.array([videos._crossing(i)[3] for i in range(len(videos))])
    spread = middles.std()
    for head in (1, 2):
        for label in np.unique(videos.answers[:, head]):
            own = middles[videos.answers[:, head] == label]
            assert np.abs(own.mean(axis=0) - middles.mean(axis=0)).max() < 4 * spread / np.sqrt(len(own))
    right, left = (videos.answers[:, 1] == WAYS.index(way) for way in ("right", "left"))
    firsts = np.array([centre(videos.take(i, np.array([0]))[0])[1] for i in np.flatnonzero(right | left)])
    assert firsts[right[right | left]].mean() + 4 < firsts[left[right | left]].mean()


@pytest.mark.parametrize("scene", [{}, {"noise": 0.3}, {"kind": "bouncing", "digits": 2}, {"kind": "mnist", "side": 30}], ids=str)
def test_a_pure_function_of_seed_and_number(scene):
    videos, again, other = made(**scene), made(**scene), made(**scene, seed=1)
    some = np.array([1, 3, 4])
    for index in (7, 3):
        np.testing.assert_array_equal(videos.take(index, np.arange(5))[some], again.take(index, some))
    assert videos.fingerprint() == again.fingerprint() != other.fingerprint()
    assert (videos.take(3, some) != other.take(3, some)).any() and (videos.take(3, some) != videos.take(4, some)).any()


def walk(start, move, free, steps):
    """Positions of an object that bounces off walls, pixel by pixel."""
    found, place, way = [], start, np.sign(move)
    for _ in range(steps):
        found.append(place)
        for _ in range(abs(move)):
            way = -way if not 0 <= place + way <= free else way
            place += way
    return found


def test_bouncing_digits_turn_back_at_the_walls():
    videos = made(frames=20, side=16, kind="bouncing", digits=2)
    moves = set()
    for index in range(len(videos)):
        canvas = np.zeros((20, 16, 16), np.uint8)
        for which, track in videos._bouncing(index):
            for axis in (0, 1):
                steps = np.diff(track[:, axis])
                move = int(steps[np.argmax(np.abs(steps))]) if steps.any() else 0
                first = next((step for step in steps if step), 0)
                assert track[:, axis].tolist() == walk(track[0, axis], int(np.sign(first)) * abs(move), 8, 20)
                moves.add(move)
            for frame, (row, column) in zip(canvas, track):
                frame[row : row + 8, column : column + 8] = np.maximum(frame[row : row + 8, column : column + 8], IMAGES[which])
        np.testing.assert_array_equal(videos.take(index, np.arange(20))[..., 0], canvas)
    assert moves == set(range(-MOST_BOUNCING, MOST_BOUNCING + 1)) and videos.answers.shape == (60, 0) and videos.labels is None


def test_moving_mnist_by_its_published_recipe():
    """The recipe as its authors' code has it, digit by digit and step by step."""
    videos = made(frames=20, side=64, kind="mnist", digits=2)
    for index in range(10):
        for which, y, x, turn in videos._shares(index, 8).reshape(-1, 4):
            rows, theta = [], turn * 2 * np.pi
            v_y, v_x = np.sin(theta), np.cos(theta)
            for _ in range(20):
                y, x = y + v_y * 0.1, x + v_x * 0.1
                if x <= 0:
                    x, v_x = 0, -v_x
                if x >= 1:
                    x, v_x = 1.0, -v_x
                if y <= 0:
                    y, v_y = 0, -v_y
                if y >= 1:
                    y, v_y = 1.0, -v_y
                rows.append((int(y * 56), int(x * 56)))
            assert rows in [track.tolist() for _, track in videos._mnist(index)] or rows in [
                [*map(tuple, track)] for _, track in videos._mnist(index)
            ]
            assert int(which * 20) in [image for image, _ in videos._mnist(index)]


def test_noise_is_nearly_normal():
    videos = made(30, noise=0.1)
    noise = np.stack([videos._noise(i) for i in range(30)])
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01 and 2.5 < (noise**4).mean() < 3


def test_no_digit_is_in_two_parts():
    """Of scikit-learn's digits, which hold a few exact copies of each other, each is in one part."""
    images, _ = read_digits()
    for name in ("moving_digits", "bouncing_digits"):
        data = load_videos("embedded", name=name)
        own = [part._images for part in data.parts.values()]
        assert sum(map(len, own)) == len(images) == 1797
        whole = np.concatenate(own).reshape(1797, -1)
        assert sorted(map(bytes, whole)) == sorted(map(bytes, images.reshape(1797, -1)))
        assert len({part._seed for part in data.parts.values()}) == 3
