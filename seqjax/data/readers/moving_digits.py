"""Videos of moving digits, generated on request: a pure function of (seed, index)."""

import functools
import hashlib
import math
from typing import NamedTuple

import numpy as np

from seqjax.data.video_columns import Head, Labelled

WAYS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
STEPS = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])  # rows and columns per direction
SPEEDS = (0.75, 1.5, 2.25)  # pixels per frame, along each axis that a digit moves on
MOST_BOUNCING = 1  # pixels per frame along an axis, of bouncing digits


class Scene(NamedTuple):
    """How digits move.

    Example:
      >>> Scene().frames, Scene(kind="mnist", frames=20, side=64).side
      (5, 64)
    """

    kind: str = "crossing"  # "crossing": one digit along a line; "bouncing": off walls, by whole pixels; "mnist": Moving MNIST's recipe
    frames: int = 5
    side: int = 20  # side of a frame, in pixels
    digits: int = 1
    noise: float = 0.0  # standard deviation of the noise, for pixels in [0, 1]


class MovingDigits(Labelled):
    """Videos of moving digits with random access; nothing is stored.

    "crossing": a digit moves along a line in one of eight directions at one of three speeds, all equally likely. Its position in the middle
    frame is independent of both, so that frame says nothing about the direction. The labels are digit, direction and speed.

    "bouncing": digits move by whole pixels, -1, 0 or 1 along each axis, and bounce off the walls; where they overlap, the brighter pixel is
    shown.

    "mnist": the recipe of Moving MNIST: any direction, a tenth of the free side per frame, positions truncated to whole pixels.

    Args:
      images: uint8 (M, h, w), the digits.
      labels: int (M,), the digit in each image.
      number: N, how many videos.
      seed: determines the videos.
      scene: how the digits move.

    Example:
      >>> videos = MovingDigits(np.full((3, 8, 8), 255, np.uint8), np.array([7, 1, 7]), 5, seed=0, scene=Scene())
      >>> frames = videos.take(2, np.arange(5))
      >>> frames.shape, frames.dtype.name, len(videos), videos.answers.shape, [head.name for head in videos.heads]
      ((5, 20, 20, 1), 'uint8', 5, (5, 3), ['digit', 'direction', 'speed'])

    Reference:
      Srivastava, Mansimov and Salakhutdinov 2015, "Unsupervised Learning of Video Representations using LSTMs", for Moving MNIST.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, number: int, *, seed: int, scene: Scene):
        self._images, self._labels, self._seed, self._scene = (
            np.asarray(images, np.uint8),
            np.asarray(labels),
            seed,
            scene,
        )
        self.shape: tuple[int, int, int] = (scene.side, scene.side, 1)
        heads, answers = (), None
        if scene.kind == "crossing":
            speeds = tuple(f"{speed:g} px" for speed in SPEEDS)
            heads = (Head("digit", tuple("0123456789")), Head("direction", WAYS), Head("speed", speeds))
            drawn = [self._crossing(i)[:3] for i in range(number)]
            answers = np.array([(self._labels[which], way, speed) for which, way, speed in drawn], np.int32)
        super().__init__(np.full(number, scene.frames), heads, answers)

    def take(self, index: int, places: np.ndarray) -> np.ndarray:
        """Some frames of a video, uint8 (T, side, side, 1)."""
        scene = self._scene
        if scene.kind == "crossing":
            which, way, speed, middle = self._crossing(index)
            steps = np.arange(scene.frames)[:, None] - (scene.frames - 1) / 2
            tracks = [(which, middle + steps * SPEEDS[speed] * STEPS[way])]
        elif scene.kind == "bouncing":
            tracks = self._bouncing(index)
        else:
            tracks = self._mnist(index)
        canvas = np.zeros((len(places), scene.side, scene.side), np.float32)
        for which, track in tracks:
            np.maximum(canvas, _drawn(self._images[which], track[places], scene.side), out=canvas)
        if scene.noise:
            canvas += (255 * scene.noise) * self._noise(index)[places]
        return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)[..., None]

    def fingerprint(self) -> str:
        """A hash of the digits, the seed and the scene, which determine the videos."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        what = repr(("moving digits 1", len(self), self._seed, tuple(self._scene), self._images.shape, self._labels.tolist()))
        return hashlib.sha256(what.encode() + np.ascontiguousarray(self._images).tobytes()).hexdigest()

    def _shares(self, index: int, number: int) -> np.ndarray:
        """Numbers in [0, 1), made from raw bits, the same in every version of NumPy."""
        bits = np.random.Philox(np.random.SeedSequence(self._seed, spawn_key=(0, index))).random_raw(number)
        return (bits >> np.uint64(11)) * 2.0**-53

    def _crossing(self, index: int) -> tuple[int, int, int, np.ndarray]:
        """(the digit's image, its direction, its speed, its position in the middle frame)."""
        scene, shares = self._scene, self._shares(index, 5)
        reach = SPEEDS[-1] * (scene.frames - 1) / 2
        free = scene.side - self._images.shape[1] - 2 * reach
        which, way, speed = (int(share * size) for share, size in zip(shares, (len(self._images), len(WAYS), len(SPEEDS))))
        return which, way, speed, reach + free * shares[3:]

    def _bouncing(self, index: int) -> list[tuple[int, np.ndarray]]:
        scene, shares = self._scene, self._shares(index, 5 * self._scene.digits).reshape(-1, 5)
        free = scene.side - self._images.shape[1]
        starts = (shares[:, 1:3] * (free + 1)).astype(int)
        moves = (shares[:, 3:] * (2 * MOST_BOUNCING + 1)).astype(int) - MOST_BOUNCING
        unfolded = starts[:, None] + moves[:, None] * np.arange(scene.frames)[None, :, None]
        tracks = free - np.abs(unfolded % (2 * free) - free)  # a line, reflected at the walls
        return [(int(share * len(self._images)), track) for share, track in zip(shares[:, 0], tracks)]

    def _mnist(self, index: int) -> list[tuple[int, np.ndarray]]:
        scene, shares = self._scene, self._shares(index, 4 * self._scene.digits).reshape(-1, 4)
        free, found = scene.side - self._images.shape[1], []
        for which, y, x, turn in shares:
            place, move = np.array([y, x]), np.array([np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)])
            track = []
            for _ in range(scene.frames):
                place = place + 0.1 * move
                move = np.where(place <= 0, np.abs(move), np.where(place >= 1, -np.abs(move), move))
                place = np.clip(place, 0, 1)
                track.append((free * place).astype(int))
            found.append((int(which * len(self._images)), np.array(track)))
        return found

    def _noise(self, index: int) -> np.ndarray:
        """Nearly normal noise, mean 0 and standard deviation 1: sums of four bytes, the same on every machine."""
        shape = (self._scene.frames, self._scene.side, self._scene.side)
        size = math.prod(shape)
        bits = np.random.Philox(np.random.SeedSequence(self._seed, spawn_key=(1, index))).random_raw(-(-size // 2))
        halves = bits.astype("<u8").view("<u4")[:size]
        pairs = (halves & np.uint32(0x00FF00FF)) + (halves >> np.uint32(8) & np.uint32(0x00FF00FF))
        sums = (pairs & np.uint32(0xFFFF)) + (pairs >> np.uint32(16))  # sum of the four bytes of each
        return ((sums.astype(np.float32) - 510) / np.float32(np.sqrt(4 * (256**2 - 1) / 12))).reshape(shape)


def _drawn(image: np.ndarray, track: np.ndarray, side: int) -> np.ndarray:
    """A digit at each position of a track, float32 (T, side, side), placed between pixels by bilinear weights."""
    height, width = image.shape
    corners = np.floor(track).astype(int)
    down, right = (track - corners).astype(np.float32).T[:, :, None, None]
    parts = np.zeros((2, 2, height + 1, width + 1), np.float32)
    for i in (0, 1):
        for j in (0, 1):
            parts[i, j, i : i + height, j : j + width] = image
    tiles = (1 - down) * ((1 - right) * parts[0, 0] + right * parts[0, 1]) + down * ((1 - right) * parts[1, 0] + right * parts[1, 1])
    canvas = np.zeros((len(track), side + 1, side + 1), np.float32)
    rows, columns = (corners[:, axis, None] + np.arange(size + 1) for axis, size in enumerate((height, width)))
    canvas[np.arange(len(track))[:, None, None], rows[:, :, None], columns[:, None, :]] = tiles
    return canvas[:, :side, :side]
