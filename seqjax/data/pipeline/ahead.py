"""Prefetching by worker threads, for files that must be decoded: the same batches in the same order."""

import collections
import copy
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from seqjax.data.checks import check_whole
from seqjax.data.pipeline.resumable import Resumable

AHEAD = 2  # at most this many results per worker are ready or in progress


def in_order(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Generator[Any, None, None]:
    """Applies a function to items in worker threads; the results are in the order of the items.

    Args:
      function: called in the threads, or in the caller's thread if `workers` is 0; it should release the interpreter's lock, as decoders of
        images, sound and video do.
      items: may be endless; at most `AHEAD` per worker are taken before their results are requested.
      workers: the number of threads; they end with the iterator.

    Returns:
      An iterator over the results. An exception from `function` is raised in place of its result, and ends the iterator.

    Raises:
      UserError: a negative number of workers.

    Example:
      >>> list(in_order(lambda number: number**2, range(4), workers=2))
      [0, 1, 4, 9]
    """
    check_whole(0, workers=workers)
    return _in_order(function, items, workers)


def _in_order(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Generator[Any, None, None]:
    if not workers:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(workers, thread_name_prefix="ahead"), collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Ahead(Resumable):
    """Prefetches the batches of a pipeline in worker threads.

    The batches, their order and `get_state` are those of the pipeline itself, for any number of workers: a batch is a function of its epoch
    and number alone. The threads end with `close`, with the `with` block, or with the iterator.

    Args:
      pipeline: a `Resumable` whose batches are costly to make. Each worker has a copy of it (`copy.copy`); the state that copies share must
        not change while a batch is made.
      workers: the number of threads; 0 makes each batch on request.

    Raises:
      UserError: a negative number of workers; from `next`, any error of the pipeline. The state then stays at that batch.

    Example:
      >>> from seqjax.data.pipeline.buckets import BucketBatches
      >>> plain = BucketBatches([1, 2, 3], lambda places, rows, steps: places.tolist(), 1, (3,), seed=0)
      >>> with Ahead(plain, workers=2) as batches:
      ...     [next(batches) for _ in range(4)] == [next(plain) for _ in range(4)], batches.get_state() == plain.get_state()
      (True, True)
    """

    def __init__(self, pipeline: Any, workers: int):
        check_whole(0, workers=workers)
        self._pipeline, self._workers = pipeline, workers
        self._unit, self._needed = pipeline._unit, pipeline._needed
        self._epoch, self._batch = pipeline._epoch, pipeline._batch
        self.batches_per_epoch = pipeline.batches_per_epoch
        self._made: Generator[Any, None, None] | None = None
        self._closed = False
        self._rows = pipeline._rows

    def _take_rows(self, rows: slice) -> None:
        super()._take_rows(rows)
        self._pipeline = copy.copy(self._pipeline)
        self._pipeline._take_rows(rows)
        self._made, self._closed = None, False

    def _at(self, epoch: int, batch: int) -> Any:
        if self._closed:
            raise ValueError("these batches are closed; make new ones, and set_state to continue")
        if self._made is None:
            places = _places(epoch, batch, self.batches_per_epoch)
            self._made = in_order(_copies(self._pipeline), places, self._workers)
        try:
            return next(self._made)
        except BaseException:
            self._stop()  # discard prefetched batches: the next call starts at this batch again
            raise

    def set_state(self, state: dict[str, int]) -> None:
        super().set_state(state)
        self._stop()  # prefetched batches belong to the old position

    def summary(self, unit: str) -> str:
        """The summary of the pipeline."""
        return self._pipeline.summary(unit)

    def close(self) -> None:
        """Stops the threads and exhausts the iterator. A second call does nothing."""
        self._closed = True
        self._stop()

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _stop(self) -> None:
        if self._made is not None:
            self._made.close()
        self._made = None


def _places(epoch: int, batch: int, batches_per_epoch: int) -> Iterator[tuple[int, int]]:
    """(epoch, batch) from a position on, endlessly."""
    while True:
        yield from ((epoch, number) for number in range(batch, batches_per_epoch))
        epoch, batch = epoch + 1, 0


def _copies(pipeline: Resumable) -> Callable[[tuple[int, int]], Any]:
    """Makes the batch at a position with the calling thread's own copy of the pipeline."""
    own = threading.local()

    def make(place: tuple[int, int]) -> Any:
        if not hasattr(own, "pipeline"):
            own.pipeline = copy.copy(pipeline)
        return own.pipeline._at(*place)

    return make
