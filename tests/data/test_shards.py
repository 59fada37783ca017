"""Batches shared by several processes: together they are those of one process, resumed with any number of shards."""

import itertools
import json

import numpy as np
import pytest

from seqjax.data.image_columns import ArrayImages
from seqjax.data.pipeline.buckets import BucketBatches, choose_boundaries, one_pass
from seqjax.data.pipeline.collate import collate_pairs, collate_tagged, collate_texts
from seqjax.data.pipeline.shuffled import ImageBatches, ordered_batches
from seqjax.data.pipeline.streams import TokenStream
from seqjax.data.pipeline.windows import Windows
from seqjax.errors import UserError

ROWS = 60  # of a batch: 1 to 5 shards divide it
DRAW = np.random.default_rng(0)
LENGTHS = DRAW.integers(0, 21, 137)  # three batches an epoch, one of 17 sequences: some shards have none of them
TOKENS = [DRAW.integers(4, 99, length) for length in LENGTHS]
IMAGES = ArrayImages(DRAW.integers(0, 256, (200, 3, 2, 1), np.uint8), np.arange(200) % 10)
BOUNDARIES = choose_boundaries(LENGTHS + 1, 3)
COLLATES = {
    "texts": collate_texts(TOKENS, np.arange(137) % 7),
    "tagged": collate_tagged(TOKENS, [np.stack([t, t + 1], axis=1) for t in TOKENS], TOKENS),
    "pairs": collate_pairs(TOKENS, TOKENS, 2, 3),
}


def windows():
    starts = np.array([0, 3, 250, 251, 999])
    return Windows(TokenStream(np.arange(1001, dtype=np.int32) + 5, starts), ROWS, 4, bos_id=1, pad_id=0)


def images(workers=0):
    return ImageBatches(IMAGES, ROWS, seed=3, workers=workers)


def buckets(kind):
    return BucketBatches(LENGTHS + (kind == "pairs"), COLLATES[kind], ROWS, BOUNDARIES, seed=2)  # a target ends in <eos>


PIPELINES = {
    "windows": windows,
    "images": images,
    "images, threads": lambda: images(2),
    "texts": lambda: buckets("texts"),
    "tagged": lambda: buckets("tagged"),
    "pairs": lambda: buckets("pairs"),
}


def one_bucket_pass(index=0, count=1):
    """Batches of one pass; the places are those of the rows."""
    for places, batch in one_pass(LENGTHS, COLLATES["texts"], ROWS, BOUNDARIES, index=index, count=count):
        assert batch.lengths[: len(places)].tolist() == LENGTHS[places].tolist() and not batch.mask[len(places) :].any()
        yield batch


def shard_of(pipeline, index, count):
    return pipeline.shard(index, count) if count > 1 else pipeline


PASSES = {
    "windows": lambda index=0, count=1: windows().shard(index, count).one_pass(),
    "images": lambda index=0, count=1: images().shard(index, count).one_pass(),
    "images in order": lambda index=0, count=1: ordered_batches(IMAGES, ROWS, index=index, count=count),
    "buckets": one_bucket_pass,
}


def joined(batches):
    """Shards of one batch, one below the other."""
    return type(batches[0])(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))


def same(one, other):
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=PIPELINES)
def make(request):
    return PIPELINES[request.param]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_shards_of_two_epochs_are_the_whole_batches(make, count):
    whole = make()
    shards = [make().shard(index, count) for index in range(count)]
    steps = 2 * whole.batches_per_epoch + 1
    assert {shard.batches_per_epoch for shard in shards} == {whole.batches_per_epoch}
    for step in range(steps):
        parts = [next(shard) for shard in shards]
        assert all(len(column) == ROWS // count for part in parts for column in part)
        assert same(joined(parts), next(whole)), step
        assert all(shard.get_state() == whole.get_state() for shard in shards)


def test_two_resumes_with_other_numbers_of_shards_change_nothing(make):
    expected = make()
    straight = list(itertools.islice(expected, 2 * expected.batches_per_epoch + 3))
    resumed, state = [], make().get_state()
    for count, steps in ((2, 2), (5, expected.batches_per_epoch), (1, 1), (3, 1), (4, len(straight))):
        shards = [shard_of(make(), index, count) for index in range(count)]
        for shard in shards:
            shard.set_state(json.loads(json.dumps(state)))
        resumed += [joined([next(shard) for shard in shards]) for _ in range(min(steps, len(straight) - len(resumed)))]
        states = [shard.get_state() for shard in shards]
        assert states.count(states[0]) == count
        state = states[0]
    assert len(resumed) == len(straight) and all(map(same, resumed, straight))
    assert state == expected.get_state()


def test_a_shard_stands_where_its_pipeline_stood_and_moves_alone(make):
    whole, other = make(), make()
    next(whole), next(other)
    shard = whole.shard(1, 2)
    second = next(whole)
    assert same(next(shard), [column[ROWS // 2 :] for column in second])
    next(shard)
    next(other)
    assert same(next(whole), next(other))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", PASSES)
def test_the_shards_of_a_pass_are_the_whole_pass(name, count):
    whole = list(PASSES[name]())
    shards = [list(PASSES[name](index, count)) for index in range(count)]
    assert len(whole) > 1 and {len(shard) for shard in shards} == {len(whole)}
    assert all(same(joined(parts), batch) for parts, batch in zip(zip(*shards), whole))


@pytest.mark.parametrize("index, count, says", [(0, 7, "60"), (2, 2, "index"), (-1, 2, "index"), (0, 0, "count"), (0, 2.0, "count")])
def test_shards_that_cannot_be_are_refused(make, index, count, says):
    with pytest.raises(UserError) as error:
        make().shard(index, count)
    message = str(error.value)
    assert says in message and "\n" not in message
    assert index or count != 7 or "7" in message


def test_rows_of_other_shards_are_not_gathered():
    made = []

    def collate(places, rows, steps):
        made.append((places.tolist(), rows))
        return places

    batches = BucketBatches(LENGTHS, collate, ROWS, BOUNDARIES, seed=0)
    for _ in itertools.islice(batches.shard(3, 4), batches.batches_per_epoch):
        pass
    assert len(made) == batches.batches_per_epoch and all(len(places) <= rows == ROWS // 4 for places, rows in made)
