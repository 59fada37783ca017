"""Batches of videos: clips of one length, or consecutive windows of whole videos."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from seqjax.data.checks import check_whole, shard_rows
from seqjax.data.draws import permutation
from seqjax.data.pipeline.ahead import in_order
from seqjax.data.pipeline.resumable import Resumable
from seqjax.data.records import Faults
from seqjax.data.video_columns import Videos
from seqjax.errors import UserError, refuse_unknown

HOW = ("even", "rate")
ORDERS = ("time", "shuffled")


class VideoBatch(NamedTuple):
    """Clips or windows; a row of length 0 is padding."""

    frames: np.ndarray  # uint8 (B, T, H, W, C)
    lengths: np.ndarray  # int32 (B,), how many of the T frames are real; padding comes last
    labels: np.ndarray  # int32 (B, A), the labels of the row's video
    fresh: np.ndarray  # bool (B,), true for rows that do not continue those of the previous batch


class Sampling(NamedTuple):
    """Which frames of a video make a clip.

    Example:
      >>> Sampling(4).places(8, 0.0).tolist(), Sampling(3, "rate", 5.0).places(9, 10.0).tolist()
      ([1, 3, 5, 7], [2, 4, 6])
    """

    frames: int  # T
    how: str = "even"  # spread over the whole video; or "rate": consecutive, at a frame rate
    rate: float = 0.0  # frames per second of a clip; 0 takes each frame
    pad: bool = False  # whether a video with fewer frames is padded; otherwise it is refused
    order: str = "time"  # or "shuffled": frames in random order, to measure how much order matters

    def step(self, rate: float) -> float:
        """Stride between the clip's frames in the video when sampling at a rate; at least 1."""
        return max(rate / self.rate, 1.0) if self.rate and rate else 1.0

    def span(self, rate: float) -> int:
        """The number of frames a video needs."""
        return self.frames if self.how == "even" else int((self.frames - 1) * self.step(rate)) + 1

    def places(self, count: int, rate: float, draws: np.ndarray | None = None) -> np.ndarray:
        """The frame indices of a clip.

        Args:
          count: frames in the video.
          rate: frames per second; 0 if unknown.
          draws: T numbers in [0, 1), for training: they choose a frame from each T-th part of the video, or the start of the clip. None
            takes the middle of each part, or of the video.

        Returns:
          At most T ascending integers.
        """
        if count < self.span(rate):
            return (np.arange(self.frames) * (1.0 if self.how == "even" else self.step(rate))).astype(int)[: self._fitting(count, rate)]
        if self.how == "even":
            edges = np.arange(self.frames + 1) * count // self.frames
            return edges[:-1] + (np.diff(edges) * (0.5 if draws is None else draws)).astype(int)
        free = count - self.span(rate)
        start = free // 2 if draws is None else int(draws[0] * (free + 1))
        return start + (np.arange(self.frames) * self.step(rate)).astype(int)

    def _fitting(self, count: int, rate: float) -> int:
        return count if self.how == "even" else int(np.ceil(count / self.step(rate)))


def check_videos_fit(videos: Videos, sampling: Sampling, part: str) -> None:
    """Refuses videos shorter than a clip, unless padded, and a clip rate if a video's rate is unknown; lists all at once.

    Raises:
      UserError: some videos do not fit; the message lists each.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> check_videos_fit(ArrayVideos(np.zeros((1, 3, 2, 2), np.uint8)), Sampling(5), "train")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: video 1 has 3 frames, and a clip needs 5; take shorter clips, leave it out, or set data.pad_short=True
    """
    refuse_unknown(f"how={sampling.how!r} is unknown", sampling.how, HOW)
    refuse_unknown(f"order={sampling.order!r} is unknown", sampling.order, ORDERS)
    check_whole(1, frames=sampling.frames)
    faults = Faults(f"videos of the {part} part")
    for index, count in enumerate(videos.counts.tolist()):
        rate = videos.rate_of(index)
        if sampling.how == "rate" and sampling.rate and not rate:
            faults.add(f"{videos.at(index)} does not say how many frames per second it has; set data.frame_rate, or data.clip_rate=0")
        elif count < sampling.span(rate) and not sampling.pad:
            needs = f"{videos.at(index)} has {count} frames, and a clip needs {sampling.span(rate)}"
            faults.add(f"{needs}; take shorter clips, leave it out, or set data.pad_short=True")
    faults.raise_any()


def take_clips(videos: Videos, indices: np.ndarray, rows: int, sampling: Sampling, draws: np.ndarray | None = None) -> VideoBatch:
    """One clip from each of the given videos, padded to B rows.

    Args:
      videos: the videos to read.
      indices: the selected videos, (n,).
      rows: B >= n.
      sampling: which frames to take.
      draws: numbers in [0, 1), (n, 2 T): T to sample frames in training, T for a shuffled order. None draws nothing; a shuffled order then
        depends on the video's index.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> videos = ArrayVideos(np.arange(8, dtype=np.uint8).reshape(2, 4, 1, 1))
      >>> batch = take_clips(videos, np.array([1]), 2, Sampling(2))
      >>> batch.frames[:, :, 0, 0, 0].tolist(), batch.lengths.tolist()
      ([[5, 7], [0, 0]], [2, 0])
    """
    size = sampling.frames
    frames, lengths = np.zeros((rows, size, *videos.shape), np.uint8), np.zeros(rows, np.int32)
    labels = np.zeros((rows, videos.answers.shape[1]), np.int32)
    for row, index in enumerate(np.asarray(indices).tolist()):
        own = None if draws is None else draws[row]
        places = sampling.places(int(videos.counts[index]), videos.rate_of(index), None if own is None else own[:size])
        found = videos.take(index, places)
        if sampling.order == "shuffled":
            order = permutation(size, 0, index) if own is None else np.argsort(own[size:], kind="stable")
            found = found[order[order < len(found)]]
        frames[row, : len(found)], lengths[row], labels[row] = found, len(found), videos.answers[index]
    return VideoBatch(frames, lengths, labels, np.ones(rows, bool))


class ClipBatches(Resumable):
    """An endless iterator over batches of clips of shuffled videos, epoch after epoch, that can be stopped and resumed exactly.

    The order of the videos is a pure function of (seed, epoch), and the choice of frames one of (seed, epoch, video). An epoch has
    floor(N / B) batches.

    Args:
      videos: N videos.
      batch_size: B, at most N.
      sampling: which frames make a clip.
      seed: determines the order and the frames.

    Raises:
      UserError: a batch larger than the dataset.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> batches = ClipBatches(ArrayVideos(np.zeros((5, 4, 2, 2), np.uint8)), 2, Sampling(3), seed=0)
      >>> next(batches).frames.shape, batches.get_state(), batches.batches_per_epoch
      ((2, 3, 2, 2, 1), {'epoch': 0, 'batch': 1}, 2)
    """

    _needed = "videos and batch_size"

    def __init__(self, videos: Videos, batch_size: int, sampling: Sampling, *, seed: int):
        check_whole(1, batch_size=batch_size)
        if batch_size > len(videos):
            raise UserError(f"batch_size is {batch_size}, but there are only {len(videos)} videos; make it smaller")
        self._videos, self._size, self._sampling, self._seed = videos, int(batch_size), sampling, seed
        self.batches_per_epoch = len(videos) // self._size
        self._take_rows(slice(0, self._size))

    def _at(self, epoch: int, batch: int) -> VideoBatch:
        order = permutation(len(self._videos), self._seed, 0, epoch)
        which = order[batch * self._size + self._rows.start : batch * self._size + self._rows.stop]
        draws = np.stack([_shares(2 * self._sampling.frames, self._seed, 1, epoch, int(index)) for index in which])
        return take_clips(self._videos, which, len(which), self._sampling, draws)

    def summary(self, unit: str) -> str:
        """A readable line on what is read."""
        how = "spread over each video" if self._sampling.how == "even" else "of each video, one after the other"
        return f"clips: {self._sampling.frames} {unit} {how}, in {'their order' if self._sampling.order == 'time' else 'no order'}"


def _shares(number: int, seed: int, *key: int) -> np.ndarray:
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)).random_raw(number)
    return (bits >> np.uint64(11)) * 2.0**-53


def ordered_clips(
    videos: Videos, batch_size: int, sampling: Sampling, *, workers: int = 0, index: int = 0, count: int = 1
) -> Iterator[VideoBatch]:
    """One clip from the middle of every video, in order, for evaluation.

    Args:
      videos, batch_size, sampling: as in `ClipBatches`; a batch may be larger than the dataset.
      workers: number of prefetching threads.
      index, count: the shard of each batch's rows to make.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> videos = ArrayVideos(np.zeros((3, 4, 2, 2), np.uint8))
      >>> [batch.lengths.tolist() for batch in ordered_clips(videos, 2, Sampling(3))]
      [[3, 3], [3, 0]]
    """
    check_whole(1, batch_size=batch_size)
    rows = shard_rows(slice(0, int(batch_size)), index, count)
    firsts = range(0, len(videos), batch_size)
    which = (np.arange(min(first + rows.start, len(videos)), min(first + rows.stop, len(videos))) for first in firsts)
    yield from in_order(lambda indices: take_clips(videos, indices, rows.stop - rows.start, sampling), which, workers)


class VideoWindows(Resumable):
    """An endless iterator over the windows of whole videos, epoch after epoch, that can be stopped and resumed exactly.

    Each video is cut into windows of T frames, the last one shorter; no window has frames of two videos. The windows of an epoch's
    shuffled videos, end to end, are cut into B rows of W = ceil(N / B); batch w has window w of each row. So each row continues its window
    of the previous batch, and a carry may pass from one to the next, except where `fresh` marks the start of a video or row. Frames are
    read on request: a video of any length takes only the memory of its windows.

    Args:
      videos: at least one.
      batch_size: B.
      window: T.
      seed: determines the order of the videos.

    Raises:
      UserError: no videos, or a size below 1.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> windows = VideoWindows(ArrayVideos(np.zeros((1, 5, 2, 2), np.uint8)), 1, 2, seed=0)
      >>> [(batch.lengths.tolist(), batch.fresh.tolist()) for _, batch in zip(range(3), windows)]
      [([2], [True]), ([2], [False]), ([1], [False])]
    """

    _unit, _needed = "window", "videos, batch_size and window"

    def __init__(self, videos: Videos, batch_size: int, window: int, *, seed: int):
        check_whole(1, batch_size=batch_size, window=window)
        if not len(videos):
            raise UserError("there are no videos to cut into windows; give at least one")
        self._videos, self._window, self._seed = videos, int(window), seed
        self._counts = -(-videos.counts // window)
        self._total = int(self._counts.sum())
        self._size = int(batch_size)
        self.batches_per_epoch = -(-self._total // self._size)
        self._take_rows(slice(0, int(batch_size)))

    def _at(self, epoch: int, batch: int) -> VideoBatch:
        order = permutation(len(self._videos), self._seed, 0, epoch)
        ends, wanted = np.cumsum(self._counts[order]), []
        for row in range(self._rows.start, self._rows.stop):
            window = row * self.batches_per_epoch + batch
            if window >= self._total:
                wanted.append(None)
                continue
            which = int(np.searchsorted(ends, window, side="right"))
            index = int(order[which])
            wanted.append((index, (window - int(ends[which] - self._counts[index])) * self._window))
        fresh = np.array([batch == 0 or place is None or place[1] == 0 for place in wanted])
        return take_windows(self._videos, wanted, self._window, fresh)

    def summary(self, unit: str) -> str:
        """A readable line on what is read."""
        padding = 1 - int(self._videos.counts.sum()) / (self.batches_per_epoch * self._size * self._window)
        return f"windows: {self._window} {unit}, {padding:.1%} padding"


def ordered_windows(videos: Videos, batch_size: int, window: int, *, index: int = 0, count: int = 1) -> Iterator[VideoBatch]:
    """Each window of every video once, for evaluation: B videos side by side, each read from first window to last.

    Args:
      videos, batch_size, window: as in `VideoWindows`. Results do not depend on the batch size.
      index, count: the shard of each batch's rows to make.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> windows = ordered_windows(ArrayVideos(np.zeros((1, 5, 2, 2), np.uint8)), 2, 2)
      >>> [(batch.lengths.tolist(), batch.fresh.tolist()) for batch in windows]
      [([2, 0], [True, True]), ([2, 0], [False, False]), ([1, 0], [False, False])]
    """
    check_whole(1, batch_size=batch_size, window=window)
    rows = shard_rows(slice(0, int(batch_size)), index, count)
    for first in range(0, len(videos), batch_size):
        together = videos.counts[first : first + batch_size]
        for begin in range(0, int(together.max()), window):
            there = [row < len(together) and begin < together[row] for row in range(rows.start, rows.stop)]
            wanted = [(first + row, begin) if real else None for row, real in zip(range(rows.start, rows.stop), there)]
            yield take_windows(videos, wanted, window, np.full(len(wanted), begin == 0))


def take_windows(videos: Videos, wanted: Sequence[tuple[int, int] | None], window: int, fresh: np.ndarray) -> VideoBatch:
    """Windows of some videos, one per row.

    Args:
      videos: the videos to read.
      wanted: for each row the video and its first frame, or None for a padded row.
      window: T.
      fresh: bool (B,), rows that do not continue those of the previous batch.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> videos = ArrayVideos(np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1))
      >>> batch = take_windows(videos, [(0, 3), None], 2, np.array([False, True]))
      >>> batch.frames[:, :, 0, 0, 0].tolist(), batch.lengths.tolist()
      ([[3, 0], [0, 0]], [1, 0])
    """
    frames, lengths = np.zeros((len(wanted), window, *videos.shape), np.uint8), np.zeros(len(wanted), np.int32)
    labels = np.zeros((len(wanted), videos.answers.shape[1]), np.int32)
    for row, place in enumerate(wanted):
        if place is not None:
            which, begin = place
            found = videos.take(which, np.arange(begin, min(begin + window, int(videos.counts[which]))))
            frames[row, : len(found)], lengths[row], labels[row] = found, len(found), videos.answers[which]
    return VideoBatch(frames, lengths, labels, fresh)
