"""Videos accessed by index: in memory, in files, generated on request, or a subset of others."""

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from seqjax.errors import UserError


class Head(NamedTuple):
    """A question about a video.

    Example:
      >>> Head("direction", ("left", "right")).classes[1]
      'right'
    """

    name: str
    classes: tuple[str, ...]


class Videos(Protocol):
    """Random access to one part of a set: N videos, whose frames all have one shape."""

    shape: tuple[int, int, int]  # (H, W, C) of every frame
    counts: np.ndarray  # int64 (N,), the frames of each
    heads: tuple[Head, ...]  # the questions; () if there are no labels
    answers: np.ndarray  # int32 (N, A), the class of each video for each of A heads
    labels: Any  # int32 (N,), the first of the answers; None if there are none

    def __len__(self) -> int:
        """N."""
        ...

    def at(self, index: int) -> str:
        """What to call a video in messages."""
        ...

    def rate_of(self, index: int) -> float:
        """Frames per second of a video; 0 if unknown."""
        ...

    def take(self, index: int, places: np.ndarray) -> np.ndarray:
        """The frames of a video at ascending indices, uint8 (T, H, W, C); several threads may call it at once."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes with the videos or their labels."""
        ...


class Labelled:
    """The base of all kinds of videos: their number, labels and names.

    Args:
      counts: frames of each video, (N,).
      heads: the questions.
      answers: integers (N, A); None if there are no questions.

    Example:
      >>> videos = Labelled([3, 5], [Head("class", ("cat", "dog"))], np.array([[1], [0]]))
      >>> len(videos), videos.labels.tolist(), videos.at(0)
      (2, [1, 0], 'video 1')
    """

    def __init__(self, counts: Sequence[int] | np.ndarray, heads: Iterable[Head] = (), answers: np.ndarray | None = None):
        self.counts, self.heads = np.asarray(counts, np.int64), tuple(heads)
        none = np.zeros((len(self.counts), 0), np.int32)
        self.answers = none if answers is None else np.asarray(answers, np.int32).reshape(len(self.counts), len(self.heads))

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def labels(self) -> np.ndarray | None:
        """The first of the answers."""
        return self.answers[:, 0] if self.heads else None

    def at(self, index: int) -> str:
        """What to call a video in messages."""
        return f"video {index + 1}"

    def rate_of(self, index: int) -> float:
        """Frames a second; 0 if unknown."""
        return 0.0


class ArrayVideos(Labelled):
    """Videos in memory, all of one length.

    Args:
      frames: uint8 (N, T, H, W, C), or without the last axis.
      heads, answers: as in `Labelled`.

    Raises:
      UserError: frames of another type or shape.

    Example:
      >>> videos = ArrayVideos(np.arange(12, dtype=np.uint8).reshape(2, 3, 1, 2))
      >>> videos.take(1, np.array([0, 2]))[:, 0, 0, 0].tolist(), videos.shape, videos.counts.tolist()
      ([6, 10], (1, 2, 1), [3, 3])
    """

    def __init__(self, frames: np.ndarray, heads: Iterable[Head] = (), answers: np.ndarray | None = None):
        frames = frames[..., None] if frames.ndim == 4 else frames
        if frames.dtype != np.uint8 or frames.ndim != 5 or 0 in frames.shape:
            raise UserError(f"videos are {frames.dtype} of shape {frames.shape}; give uint8 (N, T, H, W) or (N, T, H, W, C)")
        super().__init__(np.full(len(frames), frames.shape[1]), heads, answers)
        self.frames, self.shape = frames, frames.shape[2:]

    def take(self, index: int, places: np.ndarray) -> np.ndarray:
        """Some frames of a video."""
        return np.asarray(self.frames[index, places])

    def fingerprint(self) -> str:
        """A hash of the values, their shape and the labels."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        whole = hashlib.sha256(repr((self.frames.shape, self.heads)).encode() + self.answers.tobytes())
        for video in self.frames:
            whole.update(np.ascontiguousarray(video).data)
        return whole.hexdigest()


class SomeVideos(Labelled):
    """A subset of other videos, without copying them.

    Args:
      videos: the videos to select from.
      indices: the selected videos, integers (M,).

    Example:
      >>> videos = ArrayVideos(np.arange(6, dtype=np.uint8).reshape(3, 2, 1, 1))
      >>> SomeVideos(videos, np.array([2, 0])).take(0, np.array([1]))[0, 0, 0].tolist()
      [5]
    """

    def __init__(self, videos: Videos, indices: np.ndarray):
        self._videos, self._indices = videos, np.asarray(indices, np.int64)
        super().__init__(videos.counts[self._indices], videos.heads, videos.answers[self._indices])
        self.shape = videos.shape

    def at(self, index: int) -> str:
        """What to call a video in messages."""
        return self._videos.at(int(self._indices[index]))

    def rate_of(self, index: int) -> float:
        """Frames a second; 0 if unknown."""
        return self._videos.rate_of(int(self._indices[index]))

    def take(self, index: int, places: np.ndarray) -> np.ndarray:
        """Some frames of a video."""
        return self._videos.take(int(self._indices[index]), places)

    def fingerprint(self) -> str:
        """A hash of the underlying videos' fingerprint and the indices."""
        return hashlib.sha256(self._videos.fingerprint().encode() + self._indices.tobytes()).hexdigest()


def name_of(path: str, root: str) -> str:
    """A file's path relative to a folder, so that the folder may be moved.

    Example:
      >>> name_of("/data/films/cat/1.mp4", "/data/films")
      'cat/1.mp4'
    """
    return os.path.relpath(path, root or None)
