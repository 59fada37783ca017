"""Prefetched batches: the same, in the same order, from the same state, for any number of workers."""

import threading
import time

import numpy as np
import pytest

from seqjax.data.pipeline.ahead import AHEAD, Ahead, in_order
from seqjax.data.pipeline.buckets import BucketBatches
from seqjax.data.pipeline.resumable import Resumable
from seqjax.errors import UserError

LENGTHS = np.random.default_rng(0).integers(1, 9, 23)


def _buckets(collate=None, seed=3):
    return BucketBatches(LENGTHS, collate or (lambda places, rows, steps: (places.tolist(), rows, steps)), 4, (3, 8), seed=seed)


def _slowly(places, rows, steps):
    time.sleep(0.002 * (steps == 3))  # later batches are ready before earlier ones
    return places.tolist(), rows, steps


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_same_batches_and_states_as_the_pipeline_over_epochs(workers):
    plain = _buckets()
    with Ahead(_buckets(_slowly), workers) as batches:
        assert batches.batches_per_epoch == plain.batches_per_epoch
        for _ in range(3 * plain.batches_per_epoch + 1):
            assert batches.get_state() == plain.get_state()
            assert next(batches) == next(plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_set_in_the_middle_gives_the_batch_that_was_next(workers):
    plain = [next(pipeline) for pipeline in [_buckets()] for _ in range(20)]
    with Ahead(_buckets(_slowly), workers) as batches:
        for _ in range(9):
            next(batches)
        state = batches.get_state()
        rest = [next(batches) for _ in range(5)]
        batches.set_state(state)
        assert [next(batches) for _ in range(5)] == rest == plain[9:14]
    with Ahead(_buckets(), workers) as again:
        again.set_state(state)
        assert next(again) == plain[9]


def test_shards_are_the_rows_of_the_whole_and_are_read_ahead_too():
    plain = _buckets()
    shards = [Ahead(_buckets(_slowly), 2).shard(index, 2) for index in (0, 1)]
    for _ in range(plain.batches_per_epoch + 2):
        places, rows, steps = next(plain)
        parts = [next(shard) for shard in shards]
        assert sum((part[0] for part in parts), []) == places
        assert [part[1:] for part in parts] == [(rows // 2, steps)] * 2
    for shard in shards:
        shard.close()


def test_an_error_comes_in_its_place_and_the_state_stays_that_of_its_batch():
    broken = threading.Event()
    broken.set()

    def collate(places, rows, steps):
        if 7 in places and broken.is_set():
            raise UserError("clip 7 is damaged")
        return places.tolist()

    plain = _buckets(lambda places, rows, steps: places.tolist())
    with Ahead(_buckets(collate), 3) as batches:
        for _ in range(plain.batches_per_epoch):
            expected = next(plain)
            if 7 in expected:
                break
            assert next(batches) == expected
        before = batches.get_state()
        for _ in range(2):
            with pytest.raises(UserError, match="clip 7 is damaged"):
                next(batches)
            assert batches.get_state() == before
        broken.clear()
        assert next(batches) == expected


@pytest.mark.parametrize("workers", [1, 4])
def test_no_more_is_made_ahead_than_the_queue_holds(workers):
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items(), workers)
    for given in range(1, 6):
        next(results)
        time.sleep(0.01)
        assert len(taken) <= given + AHEAD * workers
    results.close()


def test_the_threads_end_with_the_batches():
    before = threading.active_count()
    batches = Ahead(_buckets(_slowly), 3)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    batches.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed"):
        next(batches)
    forgotten = Ahead(_buckets(_slowly), 3)
    next(forgotten)
    del forgotten
    assert threading.active_count() == before


def test_workers_work_at_the_same_time():
    meeting = threading.Barrier(3, timeout=20)
    assert sorted(in_order(lambda number: meeting.wait(), range(3), 3)) == [0, 1, 2]


@pytest.mark.parametrize("make", [lambda: Ahead(_buckets(), -1), lambda: in_order(abs, [], -1)])
def test_a_negative_number_of_workers_is_refused(make):
    with pytest.raises(UserError, match="workers"):
        make()


class _Stateful(Resumable):
    """Remembers the epoch while it makes a batch, as pipelines remember its plan."""

    batches_per_epoch = 2

    def __init__(self):
        self._take_rows(slice(0, 1))

    def _at(self, epoch, batch):
        self._plan = epoch
        time.sleep(0.003)
        return self._plan, batch


def test_each_worker_has_a_pipeline_of_its_own():
    with Ahead(_Stateful(), 4) as batches:
        assert [next(batches) for _ in range(20)] == [(place // 2, place % 2) for place in range(20)]
