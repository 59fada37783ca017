"""Clips and windows of videos: their frames, exact resume, shards, and that nothing is lost or read twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.data.pipeline.ahead import Ahead
from seqjax.data.pipeline.clips import (
    ClipBatches,
    Sampling,
    VideoWindows,
    check_videos_fit,
    ordered_clips,
    ordered_windows,
    take_clips,
)
from seqjax.data.video_columns import Head, Labelled, SomeVideos
from seqjax.errors import UserError


class Numbered(Labelled):
    """Videos whose pixels are the number of the video and that of the frame; one label a video."""

    shape = (1, 2, 1)

    def __init__(self, counts, rate=0.0):
        super().__init__(counts, [Head("class", tuple(map(str, range(len(counts)))))], np.arange(len(counts))[:, None])
        self._rate = rate

    def rate_of(self, index):
        return self._rate

    def take(self, index, places):
        assert ((0 <= places) & (places < self.counts[index])).all() and (np.diff(places) > 0).all()
        return np.stack([[[[index], [place]]] for place in places]).astype(np.uint8)


def frames_of(batch):
    """(video, frame) of each real frame of each row."""
    return [[tuple(map(int, frame.ravel())) for frame in row[:length]] for row, length in zip(batch.frames, batch.lengths)]


@given(st.integers(1, 12), st.integers(1, 60), st.booleans())
def test_even_clips_have_a_frame_of_each_part(size, count, draw):
    places = Sampling(size).places(count, 0.0, np.random.default_rng(count).random(2 * size)[:size] if draw else None)
    if count < size:
        assert places.tolist() == [*range(count)]
        return
    edges = [i * count // size for i in range(size + 1)]
    assert len(places) == size and all(low <= place < high for low, place, high in zip(edges, places, edges[1:]))
    assert (np.diff(places) > 0).all() and places[-1] < count


@given(st.integers(1, 8), st.integers(1, 80), st.sampled_from([0.0, 5.0, 10.0, 12.5, 40.0]), st.floats(0, 0.999))
def test_clips_at_a_rate(size, count, rate, draw):
    """The nearest frame before each moment of the clip, by brute force; a clip stays inside its video."""
    sampling = Sampling(size, "rate", rate)
    places = sampling.places(count, 10.0, np.full(size, draw))
    step = max(10.0 / rate, 1.0) if rate else 1.0
    if count < sampling.span(10.0):
        assert places.tolist() == [int(t * step) for t in range(size) if int(t * step) < count]
        return
    assert len(places) == size and places[-1] < count
    assert (places - places[0]).tolist() == [int(t * step) for t in range(size)]


def test_every_start_of_a_clip_is_drawn():
    starts = {int(Sampling(3, "rate").places(6, 0.0, np.full(3, draw))[0]) for draw in np.linspace(0, 0.999, 50)}
    assert starts == {0, 1, 2, 3}


def test_short_videos_are_refused_all_at_once_or_padded():
    videos = Numbered([9, 3, 2])
    with pytest.raises(UserError) as error:
        check_videos_fit(videos, Sampling(4), "test")
    assert "2 faults" in str(error.value) and "video 2 has 3 frames, and a clip needs 4" in str(error.value)
    check_videos_fit(videos, Sampling(4, pad=True), "test")
    batch = take_clips(videos, np.arange(3), 4, Sampling(4, pad=True))
    assert batch.lengths.tolist() == [4, 3, 2, 0] and (batch.frames[1, 3:] == 0).all()
    with pytest.raises(UserError, match="does not say how many frames per second"):
        check_videos_fit(videos, Sampling(2, "rate", 5.0), "test")
    check_videos_fit(Numbered([9], rate=10.0), Sampling(2, "rate", 5.0), "test")


PIPELINES = {
    "clips": lambda: ClipBatches(Numbered([9, 12, 7, 30, 8]), 2, Sampling(5), seed=3),
    "shuffled": lambda: ClipBatches(Numbered([9, 12, 7, 30, 8]), 2, Sampling(5, order="shuffled"), seed=3),
    "windows": lambda: VideoWindows(Numbered([9, 12, 7, 30, 8]), 2, 4, seed=3),
    "ahead": lambda: Ahead(ClipBatches(Numbered([9, 12, 7, 30, 8]), 2, Sampling(5, "rate"), seed=3), 2),
}
kinds = pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES)


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@kinds
def test_exact_resume(make):
    whole, cut = make(), make()
    batches = [next(whole) for _ in range(23)]
    for _ in range(9):
        next(cut)
    again = make()
    again.set_state(cut.get_state())
    assert all(same(batch, next(again)) for batch in batches[9:])


@kinds
def test_shards_below_each_other_are_the_batch(make):
    whole, shards = make(), [make().shard(index, 2) for index in (0, 1)]
    for _ in range(12):
        pieces = [next(shard) for shard in shards]
        assert same(next(whole), [np.concatenate(columns) for columns in zip(*pieces)])


def test_an_epoch_has_each_video_once_with_its_label():
    batches = ClipBatches(Numbered([9] * 6), 2, Sampling(3), seed=0)
    for _ in range(3):
        made = [next(batches) for _ in range(batches.batches_per_epoch)]
        assert sorted(int(label) for batch in made for label in batch.labels[:, 0]) == [*range(6)]
        assert all(frame[0] == label for batch in made for row, label in zip(frames_of(batch), batch.labels[:, 0]) for frame in row)


def test_shuffled_clips_have_the_same_frames_in_another_order():
    videos = Numbered([20] * 30)
    (plain,), (mixed,) = (ordered_clips(videos, 30, Sampling(8, order=order)) for order in ("time", "shuffled"))
    rows = [*zip(frames_of(plain), frames_of(mixed))]
    assert all(sorted(one) == sorted(other) for one, other in rows)
    assert sum(one != other for one, other in rows) > 27 and len({tuple(place for _, place in other) for _, other in rows}) > 27
    (again,) = ordered_clips(videos, 30, Sampling(8, order="shuffled"))
    assert same(mixed, again)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_windows_follow_each_other_and_lose_nothing(size):
    """Rows joined from fresh to fresh are pieces of videos without a gap; together every frame once."""
    counts = [9, 12, 1, 30, 8]
    for make in (
        lambda: (lambda w: [next(w) for _ in range(w.batches_per_epoch)])(VideoWindows(Numbered(counts), size, 4, seed=1)),
        lambda: [*ordered_windows(Numbered(counts), size, 4)],
    ):
        batches, seen = make(), []
        for row in range(size):
            last = None
            for batch in batches:
                for frame in frames_of(batch)[row]:
                    if last is not None and not batch.fresh[row]:
                        assert frame == (last[0], last[1] + 1)
                    last = frame
                    seen.append(frame)
                    break
                rest = frames_of(batch)[row][1:]
                if rest:
                    seen += rest
                    last = rest[-1]
        assert sorted(seen) == [(video, place) for video, count in enumerate(counts) for place in range(count)]


def test_windows_in_evaluation_are_whole_videos_side_by_side():
    for batch in ordered_windows(Numbered([9, 2, 5]), 2, 4):
        for row in frames_of(batch):
            assert len({video for video, _ in row}) <= 1
        assert batch.fresh.all() or not batch.fresh.any()


def test_some_videos_of_others():
    some = SomeVideos(Numbered([3, 4, 5], rate=2.0), np.array([2, 0]))
    assert some.counts.tolist() == [5, 3] and some.labels.tolist() == [2, 0] and some.rate_of(0) == 2.0 and some.at(0) == "video 3"
