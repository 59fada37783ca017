"""Batches of images of one shape: an endless, shuffled iterator that can be stopped and resumed exactly."""

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.checks import check_whole, shard_rows
from seqjax.data.draws import permutation
from seqjax.data.image_columns import Images, Subset
from seqjax.data.pipeline.resumable import Resumable
from seqjax.errors import UserError

AHEAD = 2  # batches that workers prefetch


class ImageBatch(NamedTuple):
    """A training batch of an image classifier, of fixed shapes."""

    images: np.ndarray  # uint8 (B, H, W, C)
    labels: np.ndarray  # int32 (B,)
    mask: np.ndarray  # bool (B,): true for a real image, false for padding


class ImageBatches(Resumable):
    """An endless iterator over shuffled batches, epoch after epoch, that can be stopped and resumed exactly.

    Each epoch is a fresh permutation of the N images, a pure function of (seed, epoch). An epoch has floor(N / B) full
    batches; the remaining N mod B images are dropped. The next permutation drops others, so none is left out permanently.

    With workers, threads prefetch the next two batches. The batches do not depend on the number of workers, and `get_state` is always that
    of the next batch to be returned, however many are prefetched. The threads end with `close`, with the `with` block, or with the iterator
    itself.

    Args:
      images: N images in memory, in files, or any other `Images`.
      batch_size: B, at most N. To evaluate with fewer images than a batch, see `ordered_batches`.
      seed: determines the permutations; at least 0.
      workers: the number of threads; 0 reads in the caller's thread, which is best for images in memory.

    Raises:
      UserError: invalid sizes, a batch larger than the dataset; from `next`, an unreadable image. The state then stays at that batch.

    Example:
      >>> from seqjax.data.image_columns import ArrayImages
      >>> images = ArrayImages(np.zeros((5, 2, 2, 1), np.uint8), np.arange(5))
      >>> batches = ImageBatches(images, 2, seed=0)
      >>> first = next(batches)
      >>> first.images.shape, first.mask.tolist(), batches.get_state(), batches.batches_per_epoch
      ((2, 2, 2, 1), [True, True], {'epoch': 0, 'batch': 1}, 2)
      >>> again = ImageBatches(images, 2, seed=0, workers=1)
      >>> with again:
      ...     next(again).labels.tolist() == first.labels.tolist()
      True
    """

    _needed = "images and batch_size"

    def __init__(self, images: Images, batch_size: int, *, seed: int, workers: int = 0):
        _check(images, batch_size, workers)
        check_whole(0, seed=seed)
        if batch_size > len(images):
            raise UserError(f"batch_size is {batch_size}, but there are only {len(images)} images; make it smaller")
        self.batches_per_epoch = len(images) // batch_size
        self.images_per_epoch = self.batches_per_epoch * batch_size
        self._images, self._batch_size, self._seed, self._workers = images, int(batch_size), int(seed), workers
        self._take_rows(slice(0, self._batch_size))

    def _take_rows(self, rows: slice) -> None:
        super()._take_rows(rows)
        self._reading: Iterator[ImageBatch] | None = None
        self._closed = False

    def _at(self, epoch: int, batch: int) -> ImageBatch:
        if self._closed:
            raise ValueError("these batches are closed; make new ones, and set_state to continue")
        if self._reading is None:
            indices = _shuffled(len(self._images), self._batch_size, self._seed, epoch, batch, self._rows)
            self._reading = _read(self._images, self._rows, indices, self._workers)
        try:
            return next(self._reading)
        except BaseException:
            self._stop()  # discard prefetched batches: the next call starts at this batch again
            raise

    def one_pass(self) -> Iterator[ImageBatch]:
        """Every image once, in the dataset's order, as `ordered_batches`; the iterator's own state does not change.

        Example:
          >>> from seqjax.data.image_columns import ArrayImages
          >>> images = ArrayImages(np.zeros((3, 1, 1, 1), np.uint8), np.arange(3))
          >>> [batch.labels.tolist() for batch in ImageBatches(images, 2, seed=0).one_pass()]
          [[0, 1], [2, 0]]
        """
        return _ordered(self._images, self._batch_size, self._rows, self._workers)

    def set_state(self, state: dict[str, int]) -> None:
        super().set_state(state)
        self._stop()  # prefetched batches belong to the old position

    def close(self) -> None:
        """Stops the threads and exhausts the iterator. A second call does nothing.

        Example:
          >>> from seqjax.data.image_columns import ArrayImages
          >>> ImageBatches(ArrayImages(np.zeros((3, 1, 1, 1), np.uint8), np.arange(3)), 2, seed=0).close()
        """
        self._closed = True
        self._stop()

    def __enter__(self) -> "ImageBatches":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _stop(self) -> None:
        if self._reading is not None:
            self._reading.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator
        self._reading = None


def ordered_batches(images: Images, batch_size: int, *, workers: int = 0, index: int = 0, count: int = 1) -> Iterator[ImageBatch]:
    """Every image once, in the dataset's order, for evaluation.

    Args:
      images: N images, as in `ImageBatches`.
      batch_size: B; it may be more than N.
      workers: number of prefetching threads; they end with the iterator.
      index, count: the index of this process, and the number of processes; see `ImageBatches.shard`.

    Returns:
      An iterator over ceil(N / B) batches. The last is padded with zeros, where the mask is false; in a shard, perhaps all of it.

    Raises:
      UserError: invalid sizes; from the iterator, an unreadable image.

    Example:
      >>> from seqjax.data.image_columns import ArrayImages
      >>> images = ArrayImages(np.zeros((3, 1, 1, 1), np.uint8), np.arange(3) + 5)
      >>> [(batch.labels.tolist(), batch.mask.tolist()) for batch in ordered_batches(images, 2)]
      [([5, 6], [True, True]), ([7, 0], [True, False])]
    """
    _check(images, batch_size, workers)
    return _ordered(images, batch_size, shard_rows(slice(0, batch_size), index, count), workers)


def channel_statistics(images: Images, *, limit: int = 10_000, workers: int = 0) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, for values in [0, 1].

    Args:
      images: N images, as in `ImageBatches`.
      limit: maximum number of images to read, evenly spaced.
      workers: number of prefetching threads.

    Returns:
      (mean, standard deviation), C numbers each; a standard deviation is at least 0.01, so that division by it is safe.

    Example:
      >>> from seqjax.data.image_columns import ArrayImages
      >>> pixels = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
      >>> channel_statistics(ArrayImages(pixels, np.zeros(2, np.int32)))
      ([0.5], [0.5])
    """
    indices = np.linspace(0, len(images) - 1, min(len(images), limit)).astype(np.int64)
    channels = images.shape[-1]
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for batch in ordered_batches(Subset(images, indices), 500, workers=workers):
        pixels = batch.images[batch.mask].reshape(-1, channels) / 255.0
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    return mean.tolist(), np.sqrt(np.maximum(squares / count - mean**2, 1e-4)).tolist()


def _check(images: Images, batch_size: int, workers: int) -> None:
    check_whole(1, batch_size=batch_size)
    check_whole(0, workers=workers)
    if not len(images):
        raise UserError("there are no images to make batches of; give at least one")


def _ordered(images: Images, batch_size: int, rows: slice, workers: int) -> Iterator[ImageBatch]:
    """Some rows of each batch, in the dataset's order."""
    number = len(images)
    indices = (np.arange(first + rows.start, min(first + rows.stop, number)) for first in range(0, number, batch_size))
    return _read(images, rows, indices, workers)


def _shuffled(number: int, batch_size: int, seed: int, epoch: int, batch: int, rows: slice) -> Iterator[np.ndarray]:
    """Indices of some rows of each batch, from a given batch on, endlessly."""
    while True:
        order = permutation(number, seed, 0, epoch)
        for first in range(batch * batch_size, number - batch_size + 1, batch_size):
            yield order[first + rows.start : first + rows.stop]
        epoch, batch = epoch + 1, 0


def _read(images: Images, rows: slice, batches: Iterable[np.ndarray], workers: int) -> Iterator[ImageBatch]:
    """Batches of the images at these indices, in order. Each is divided among the workers, so that all help to read even a single batch."""
    size = rows.stop - rows.start
    if not workers:
        for indices in batches:
            yield _padded(*images.take(indices), size)
        return
    pool, waiting = ThreadPoolExecutor(workers, thread_name_prefix="images"), collections.deque()
    try:
        for indices in batches:
            pieces = np.array_split(indices, max(min(workers, len(indices)), 1))
            waiting.append([pool.submit(images.take, piece) for piece in pieces])
            if len(waiting) > AHEAD:
                yield _padded(*_joined(waiting.popleft()), size)
        while waiting:
            yield _padded(*_joined(waiting.popleft()), size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _joined(pieces: list[Future[Any]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*(piece.result() for piece in pieces))
    return np.concatenate(images), np.concatenate(labels)


def _padded(images: np.ndarray, labels: np.ndarray, rows: int) -> ImageBatch:
    mask = np.arange(rows) < len(labels)
    missing = rows - len(labels)
    if missing:
        images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        labels = np.concatenate([labels, np.zeros(missing, labels.dtype)])
    return ImageBatch(images, labels, mask)
