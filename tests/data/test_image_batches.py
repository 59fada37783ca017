"""Batches of images: each once, in an order that can be resumed, whoever reads them."""

import contextlib
import gc
import itertools
import json
import threading
import time

import numpy as np
import pytest

from seqjax.data.draws import permutation
from seqjax.data.image_columns import ArrayImages, FileImages, Subset
from seqjax.data.pipeline.shuffled import ImageBatches, ordered_batches
from seqjax.errors import UserError


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


def numbered(number, channels=1):
    """Images identified by their pixels and by their labels."""
    pixels = np.zeros((number, 2, 3, channels), np.uint8)
    pixels += np.arange(number, dtype=np.uint8)[:, None, None, None]
    return ArrayImages(pixels, np.arange(number))


class Recorded:
    """Images that record who reads them, at random speed; one of them may be broken."""

    def __init__(self, images, broken=None):
        self.images, self.broken, self.threads, self.asked = images, broken, set(), 0
        self.shape, self.labels = images.shape, images.labels

    def __len__(self):
        return len(self.images)

    def take(self, indices):
        self.threads.add(threading.current_thread().name)
        self.asked += len(indices)
        time.sleep(0.002 * (int(indices[0]) % 3))
        if self.broken in indices:
            raise UserError(f"image {self.broken} is broken, and that is a pity")
        return self.images.take(indices)


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def same(left, right):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right))


workers = pytest.mark.parametrize("workers", [0, 2])


# ImageBatches


@workers
@pytest.mark.parametrize("number, size", [(23, 5), (20, 5), (7, 7), (3, 1)])
def test_an_epoch_has_each_kept_image_once_and_epochs_differ(workers, number, size):
    with ImageBatches(numbered(number), size, seed=3, workers=workers) as batches:
        assert batches.batches_per_epoch == number // size and batches.images_per_epoch == number // size * size
        epochs = [list(itertools.islice(batches, batches.batches_per_epoch)) for _ in range(4)]
    for batch in itertools.chain(*epochs):
        assert batch.images.shape == (size, 2, 3, 1) and batch.images.dtype == np.uint8
        assert batch.labels.dtype == np.int32 and batch.mask.all() and batch.mask.dtype == bool
        assert (batch.images == batch.labels[:, None, None, None]).all()
    orders = [np.concatenate([batch.labels for batch in epoch]) for epoch in epochs]
    assert all(len(set(order)) == batches.images_per_epoch for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    if number == 23:
        assert len({frozenset(order) for order in orders}) == 4  # other images are dropped each time


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        batches = ImageBatches(numbered(40), 40, seed=seed)
        batches.set_state({"epoch": epoch, "batch": 0})
        return next(batches).labels.tolist()

    orders = {(seed, epoch): order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert orders == {key: order(*key) for key in orders}
    assert len({tuple(order) for order in orders.values()}) == 9


def test_permutations_are_those_of_every_machine_and_all_alike():
    assert permutation(8, 0, 0, 0).tolist() == [7, 6, 3, 2, 4, 1, 5, 0]  # a change would break resuming old runs
    assert permutation(0, 0).tolist() == [] and permutation(1, 5, 1).tolist() == [0]
    counts = np.zeros((5, 5))
    for epoch in range(2000):
        counts[np.arange(5), permutation(5, 1, 0, epoch)] += 1
    assert abs(counts - 400).max() < 5 * np.sqrt(400 * 0.8)


@workers
@pytest.mark.parametrize("other", [0, 2])
def test_two_resumes_in_the_midst_give_the_very_same_batches(workers, other):
    images = Recorded(numbered(23))
    whole = list(itertools.islice(ImageBatches(images, 5, seed=7), 14))
    batches, parts = ImageBatches(images, 5, seed=7, workers=workers), []
    for length in (6, 5, 3):  # stops at 1:2 and 2:3
        parts += itertools.islice(batches, length)
        state = json.loads(json.dumps(batches.get_state()))
        batches.close()
        batches = ImageBatches(images, 5, seed=7, workers=other)
        batches.set_state(state)
        assert batches.get_state() == state
    assert state == {"epoch": 3, "batch": 2} and len(parts) == 14
    assert all(same(*pair) for pair in zip(whole, parts))
    batches.set_state({"epoch": 0, "batch": 0})
    assert same(next(batches), whole[0])  # batches prefetched at the old position are dropped
    batches.close()


def test_the_state_is_the_place_of_what_is_handed_out_not_of_what_is_read():
    images = Recorded(numbered(60))
    with ImageBatches(images, 6, seed=0, workers=3) as batches:
        next(batches)
        assert batches.get_state() == {"epoch": 0, "batch": 1}
        deadline = time.monotonic() + 5
        while images.asked < 18 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert images.asked == 18  # the one handed out and two ahead, no more
        assert batches.get_state() == {"epoch": 0, "batch": 1}
    assert len(images.threads) > 1 and all(name.startswith("images") for name in images.threads)


def test_threads_end_with_the_iterator():
    def begin():
        batches = ImageBatches(Recorded(numbered(20)), 4, seed=0, workers=2)
        next(batches)
        assert readers()
        return batches

    batches = begin()
    batches.close()
    assert not readers()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)
    with pytest.raises(KeyError), begin():
        raise KeyError
    assert not readers()
    begin()  # and lets go of it
    assert not readers()
    batches = begin()
    batches.set_state({"epoch": 0, "batch": 0})
    assert not readers()
    for _ in ordered_batches(Recorded(numbered(20)), 4, workers=2):
        break
    gc.collect()
    assert not readers()


@workers
def test_a_broken_image_surfaces_and_the_place_stays(workers):
    images = Recorded(numbered(20))
    order = np.concatenate([batch.labels for batch in itertools.islice(ImageBatches(images, 4, seed=0), 5)])
    images.broken = int(order[9])  # in the third batch
    with ImageBatches(images, 4, seed=0, workers=workers) as batches:
        next(batches), next(batches)
        for _ in range(2):
            with pytest.raises(UserError) as error:
                next(batches)
            assert f"image {images.broken} is broken" in one_line(error)
            assert batches.get_state() == {"epoch": 0, "batch": 2} and not readers()
        images.broken = None
        assert next(batches).labels.tolist() == order[8:12].tolist()


@workers
@pytest.mark.parametrize("number, size", [(23, 5), (20, 5), (3, 8), (1, 1)])
def test_one_pass_has_all_in_order_and_pads(workers, number, size):
    images = numbered(number, channels=3)
    got = list(ordered_batches(images, size, workers=workers))
    assert len(got) == -(-number // size) and {batch.images.shape for batch in got} == {(size, 2, 3, 3)}
    mask = np.concatenate([batch.mask for batch in got])
    assert mask.tolist() == [True] * number + [False] * (len(mask) - number)
    for field, whole in (("images", images.images), ("labels", images.labels)):
        values = np.concatenate([getattr(batch, field) for batch in got])
        assert np.array_equal(values[:number], whole) and not values[number:].any() and values.dtype == whole.dtype
    if size <= number:
        batches = ImageBatches(images, size, seed=0, workers=workers)
        state = batches.get_state()
        assert all(same(*pair) for pair in zip(got, batches.one_pass(), strict=True)) and batches.get_state() == state


# Shards


def joined(batches):
    """What several processes read, as one batch."""
    return [np.concatenate(field) for field in zip(*batches)]


@workers
@pytest.mark.parametrize("count", range(1, 6))
def test_shards_together_are_the_whole_batches(workers, count):
    images = Recorded(numbered(137))
    with contextlib.ExitStack() as stack:
        whole = ImageBatches(images, 60, seed=4)
        shards = [stack.enter_context(ImageBatches(images, 60, seed=4, workers=workers)).shard(i, count) for i in range(count)]
        for _ in range(5):  # beyond an epoch of two batches
            batch, rows = next(whole), [next(stack.enter_context(shard)) for shard in shards]
            assert all(one.images.shape[0] == 60 // count and one.mask.all() for one in rows) and same(joined(rows), batch)
            assert all(shard.get_state() == whole.get_state() for shard in shards)


@workers
@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("number", [1, 60, 61, 100, 137])
def test_shards_of_one_pass_are_the_whole_pass(workers, count, number):
    images = numbered(number)
    whole = list(ordered_batches(images, 60))
    shards = [list(ordered_batches(images, 60, workers=workers, index=i, count=count)) for i in range(count)]
    assert [len(shard) for shard in shards] == [len(whole)] * count
    assert all(same(joined(rows), batch) for batch, rows in zip(whole, zip(*shards)))
    if number >= 60:
        again = [list(ImageBatches(images, 60, seed=1, workers=workers).shard(i, count).one_pass()) for i in range(count)]
        assert all(same(*pair) for one, other in zip(shards, again) for pair in zip(one, other, strict=True))


@workers
def test_a_run_is_resumed_twice_with_another_number_of_shards(workers):
    images, rows = numbered(137), []
    whole = list(itertools.islice(ImageBatches(images, 12, seed=2), 20))
    state = {"epoch": 0, "batch": 0}
    for count, steps in ((3, 7), (4, 8), (1, 5)):  # stops in the middle of the first epoch of 11 batches, and of the second
        with contextlib.ExitStack() as stack:
            shards = []
            for i in range(count):
                shards.append(stack.enter_context(ImageBatches(images, 12, seed=2, workers=workers).shard(i, count)))
                shards[-1].set_state(json.loads(json.dumps(state)))
            rows += [joined([next(shard) for shard in shards]) for _ in range(steps)]
            states = [shard.get_state() for shard in shards]
        assert all(other == states[0] for other in states)
        state = states[0]
    assert state == {"epoch": 1, "batch": 9} and all(same(*pair) for pair in zip(whole, rows, strict=True))


def test_a_shard_stands_where_its_whole_stands():
    batches = ImageBatches(numbered(20), 4, seed=0)
    next(batches), next(batches)
    shard = batches.shard(1, 2)
    assert shard.get_state() == batches.get_state() == {"epoch": 0, "batch": 2}
    assert next(shard).labels.tolist() == next(batches).labels[2:].tolist()


@pytest.mark.parametrize(
    "index, count, says",
    [
        (0, 5, "batch_size is 4, which 5 shards cannot share evenly"),
        (2, 2, "index is 2, but 2 shards"),
        (-1, 2, "index is -1"),
        (0, 0, "count is 0"),
        (0.0, 2, "index is 0.0"),
    ],
)
def test_shards_that_cannot_be_are_refused(index, count, says):
    for make in (ImageBatches(numbered(9), 4, seed=0).shard, lambda i, n: ordered_batches(numbered(9), 4, index=i, count=n)):
        with pytest.raises(UserError) as error:
            make(index, count)
        assert says in one_line(error)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"batch_size": 10}, "batch_size is 10, but there are only 9 images"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.0}, "batch_size is 2.0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"workers": -1}, "workers is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": None}, "seed is None"),
        ({"images": Subset(numbered(9), [])}, "no images"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings, says):
    with pytest.raises(UserError) as error:
        ImageBatches(**{"images": numbered(9), "batch_size": 2, "seed": 0} | settings)
    assert says in one_line(error)


@pytest.mark.parametrize(
    "state, says",
    [
        ({"epoch": 0}, "not an iterator state"),
        ({"epoch": 0, "window": 1}, "not an iterator state"),
        ([0, 1], "not an iterator state"),
        ({"epoch": -1, "batch": 0}, "at least 0"),
        ({"epoch": 0, "batch": 1.0}, "whole numbers"),
        ({"epoch": True, "batch": 0}, "whole numbers"),
        ({"epoch": 0, "batch": 4}, "batch 4, but an epoch has 4"),
    ],
)
def test_states_that_cannot_be_are_refused(state, says):
    batches = ImageBatches(numbered(9), 2, seed=0)
    with pytest.raises(UserError) as error:
        batches.set_state(state)
    assert says in one_line(error) and batches.get_state() == {"epoch": 0, "batch": 0}


# Files are tested in test_image_files.py; here only that they are read alike by one thread and by many.


def test_files_are_read_alike_by_one_thread_and_by_many(tmp_path):
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{n}.png" for n in range(12)]
    for path in paths:
        image.fromarray(random.integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    images = FileImages(paths, np.arange(12), size=5, channels=3, root=str(tmp_path))
    with ImageBatches(images, 4, seed=1, workers=2) as batches:
        alone = ImageBatches(images, 4, seed=1)
        assert all(same(next(batches), next(alone)) for _ in range(6))
        paths[5].write_bytes(paths[5].read_bytes()[:60])
        with pytest.raises(UserError) as error:
            list(itertools.islice(batches, 6))
    assert "5.png" in one_line(error) and not readers()
