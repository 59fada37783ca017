"""Windows of series: alignment against brute force, every origin once, resumed and sharded exactly, refusals by name."""

import numpy as np
import pytest

from seqjax.data.pipeline.forecast_windows import (
    OriginWindows,
    SeriesStreams,
    SeriesTable,
    Statistics,
    check_counts,
    check_lengths,
    ordered_windows,
    rolling_origins,
)
from seqjax.data.records import Places, Records
from seqjax.data.time_features import choose_features, chosen_features, time_features
from seqjax.errors import UserError

RNG = np.random.default_rng(0)
LENGTHS = (30, 17)


def made(lengths=LENGTHS, extra=4, missing=(3, 20)):
    """Hourly series whose value is 100 s + t, with a covariate of each kind."""
    time = [np.datetime64("2024-01-01", "ns") + np.arange(T).astype("timedelta64[h]") for T in lengths]
    value = [100.0 * s + np.arange(T) for s, T in enumerate(lengths)]
    for t in missing:
        value[0][t] = np.nan
    known = tuple(np.arange(T + extra, dtype=np.float32)[:, None] for T in lengths)
    past = tuple(RNG.normal(size=(T, 2)).astype(np.float32) for T in lengths)
    past[0][5, 0] = np.nan
    columns = {
        "name": tuple("ab"[: len(lengths)]),
        "time": tuple(time),
        "value": tuple(value),
        "known": known,
        "past": past,
    }
    columns |= {"static": np.eye(len(lengths), dtype=np.float32), "first": np.full(len(lengths), 10)}
    return Records(columns, Places.of("made.csv line", list(range(2, 2 + len(lengths)))))


def table(part, **options):
    return SeriesTable.make(part, Statistics.measure(part), ("hour",), step="1h", **options)


def test_windows_are_pieces_of_the_series():
    part = made()
    one, statistics = table(part), Statistics.measure(part)
    places = rolling_origins(one.lengths, [0, 0], 5, 3, 1)
    assert [(s, o) for s, o in zip(*places)] == [(s, o) for s, T in enumerate(LENGTHS) for o in range(5, T - 2)]
    for window in ordered_windows(one, *places, 5, 3, 7):
        for row in np.flatnonzero(window.mask):
            s, o = (column[0] for column in places)
            places = tuple(column[1:] for column in places)
            piece = slice(o - 5, o + 3)
            value = part["value"][s][piece]
            assert np.array_equal(window.observed[row], np.isfinite(value))
            assert np.array_equal(window.value[row], np.nan_to_num(value))
            mean, sd = statistics.known[0]
            np.testing.assert_allclose(window.known[row, :, 0], (np.arange(o - 5, o + 3) - mean) / sd, rtol=1e-5)
            hours = time_features(part["time"][s][piece], ["hour"], step="1h")
            assert np.array_equal(window.known[row, :, 2:], hours)
            missing = np.isnan(part["past"][s][piece])
            assert np.array_equal(window.past[row, :, 2:] == 0, missing) and (window.past[row, :, :2][missing] == 0).all()
            assert window.location[row] == pytest.approx(np.nanmean(part["value"][s]), rel=1e-6)
            assert window.static[row].tolist() == np.eye(2)[s].tolist()
    assert not len(places[0])


def test_every_origin_once_an_epoch_in_an_order_of_seed_and_epoch():
    one = table(made())
    places = rolling_origins(one.lengths, [0, 0], 4, 2, 1)

    def make(seed):
        return OriginWindows(one, *places, 4, 2, 5, seed=seed)

    pipeline = make(0)
    epochs = [[next(pipeline).value[:, 4] for _ in range(pipeline.batches_per_epoch)] for _ in range(2)]
    seen = [np.concatenate(epoch) for epoch in epochs]
    assert len(seen[0]) == len(places[0]) // 5 * 5 and not np.array_equal(*seen)
    observed = seen[0][seen[0] > 0]  # a missing value is 0
    assert len(set(observed)) == len(observed)
    again = make(0)
    again.set_state({"epoch": 1, "batch": 2})
    assert np.array_equal(next(again).value[:, 4], epochs[1][2])
    assert not np.array_equal(next(make(1)).value, next(make(0)).value)


def test_shards_are_rows_of_the_whole():
    one = table(made())
    places = rolling_origins(one.lengths, [0, 0], 4, 2, 1)
    whole = OriginWindows(one, *places, 4, 2, 6, seed=0)
    shards = [whole.shard(index, 3) for index in range(3)]
    for _ in range(20):
        assert np.array_equal(next(whole).value, np.concatenate([next(shard).value for shard in shards]))
    pieces = [list(ordered_windows(one, *places, 4, 2, 6, index=index, count=3)) for index in range(3)]
    for k, batch in enumerate(ordered_windows(one, *places, 4, 2, 6)):
        rows = np.concatenate([piece[k].value[piece[k].mask] for piece in pieces])
        assert np.array_equal(batch.value[batch.mask], rows)


def test_streams_read_every_step_once_in_order():
    """The value before each step is from its own series, or missing at the series' start, where the carry is reset."""
    part = made()
    one = table(part)
    streams = SeriesStreams(one, 2, 6)
    expected = iter(range(sum(LENGTHS)))
    batches = [next(streams) for _ in range(streams.batches_per_epoch)]
    value, previous, seen, resets, known = (
        np.concatenate([getattr(batch, name) for batch in batches], 1)
        for name in ("value", "previous", "previous_observed", "resets", "known")
    )
    row = -(-sum(LENGTHS) // 2)
    for t in expected:
        b, k = divmod(t, row)
        s, own = (0, t) if t < LENGTHS[0] else (1, t - LENGTHS[0])
        true = part["value"][s]
        assert value[b, k] == np.nan_to_num(true[own])
        before = true[own - 1] if own else np.nan
        assert seen[b, k] == np.isfinite(before) and (not seen[b, k] or previous[b, k] == before)
        assert resets[b, k] == (own == 0 or k == 0)
        assert np.array_equal(known[b, k], one.known[t])
    counted = np.concatenate([batch.counted for batch in batches], 1)
    assert counted.sum() == sum(np.isfinite(value).sum() for value in part["value"])
    again = SeriesStreams(one, 2, 6)
    again.set_state(SeriesStreams(one, 2, 6).get_state() | {"window": 2})
    assert np.array_equal(next(again).value, batches[2].value)


def test_steps_beyond_the_end():
    """Times continue, known covariates are the file's, everything else is missing; covariates that end earlier are refused, all at once."""
    part = made()
    one = table(part, beyond=4)
    assert one.lengths.tolist() == [34, 21] and one.times[33] == part["time"][0][-1] + np.timedelta64(4, "h")
    assert not one.observed[30:34].any() and (one.past[30:34] == 0).all()
    mean, sd = Statistics.measure(part).known[0]
    np.testing.assert_allclose(one.known[30:34, 0] * sd + mean, [30, 31, 32, 33], rtol=1e-5)
    with pytest.raises(UserError) as error:
        table(part, beyond=5)
    assert "series a: the covariates known in the future reach 4 steps beyond its end, and 5 are needed" in str(error.value)
    assert "series b" in str(error.value)


def test_refusals():
    part = made()
    check_lengths(part, 14, 3)
    with pytest.raises(UserError, match="made.csv line 3: series 'b' has 17 steps, and a context of 15 with a horizon of 3 needs 18"):
        check_lengths(part, 15, 3)
    one = table(part)
    places = rolling_origins(one.lengths, [0, 0], 15, 3, 1)
    with pytest.raises(UserError, match="13 origins with a context of 15 .* and batch_size is 99; .*, or forks"):
        OriginWindows(one, *places, 15, 3, 99, seed=0)
    check_counts(part)
    with pytest.raises(UserError, match="series 'a' has the value 0.5"):
        check_counts(part.replace(value=tuple(value / 2 for value in part["value"])))
    with pytest.raises(UserError, match="series 'b' is not among the training series: a"):
        SeriesTable.make(part, Statistics.measure(part.take(np.array([0]))), (), step="1h")
    with pytest.raises(UserError, match="made.csv line 2: series a has no value in the training part"):
        Statistics.measure(part.replace(value=(part["value"][0] * np.nan, part["value"][1])))


def test_origins_of_a_backtest():
    """Brute force: every origin leaves the whole horizon in the series, and reads a whole context."""
    for _ in range(50):
        lengths, firsts = RNG.integers(1, 40, 3), RNG.integers(0, 30, 3)
        context, horizon, stride = RNG.integers(1, 9, 3)
        series, origins = rolling_origins(lengths, firsts, context, horizon, stride)
        expected = []
        for s in range(3):
            o = max(firsts[s], context)
            while o + horizon <= lengths[s]:
                expected.append((s, o))
                o += stride
        assert list(zip(series, origins)) == expected


def test_time_features_turn_with_the_calendar():
    """The same hour, weekday and day of the year give the same numbers; hours are of the zone's clocks, across a change of them."""
    hours = np.datetime64("2024-03-30T00", "ns") + np.arange(96).astype("timedelta64[h]")
    found = time_features(hours, ["hour"], step="1h", zone="Europe/Berlin")
    local = (np.arange(96) + np.where(np.arange(96) < 25, 1, 2)) % 24  # summer time begins on the 31st at 01:00 UTC
    for hour in range(24):
        assert np.ptp(found[local == hour], axis=0).max() < 1e-6
    assert len(np.unique(found.round(4), axis=0)) == 24
    days = np.datetime64("2024-01-01", "ns") + np.arange(731).astype("timedelta64[D]")
    weekday = time_features(days, ["weekday"], step="1D")
    assert len(np.unique(weekday.round(4), axis=0)) == 7 and np.allclose(weekday[:7], weekday[7:14], atol=1e-5)
    yearday = time_features(days, ["yearday"], step="1D")
    assert np.allclose(yearday[0], yearday[366], atol=1e-5) and np.linalg.norm(yearday[0] - yearday[1]) < 0.1
    assert choose_features("15min") == ("hour", "weekday", "yearday") and choose_features("B") == ("weekday", "yearday")
    with pytest.raises(UserError, match="data.time_features: 'minute' is unknown"):
        chosen_features("hour,minute", "1D")
