"""Regular steps against pandas; clocks that are put forward and back against pandas' zones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data.steps import NOT_ON_A_STEP, Step, find_step, next_times, step_places, step_times, wall_clock
from seqjax.errors import UserError

pd = pytest.importorskip("pandas")
unhurried = settings(deadline=None)  # a busy machine is no fault

ALIASES = ["1ns", "7us", "20ms", "1s", "30s", "15min", "1h", "6h", "1D", "2D", "7D", "B", "MS", "ME", "2MS", "3MS", "3ME", "12MS", "12ME"]
steps = st.sampled_from(ALIASES)
starts = st.datetimes(pd.Timestamp("1800-01-01").to_pydatetime(), pd.Timestamp("2100-01-01").to_pydatetime()).map(
    lambda time: time.replace(microsecond=0, second=0, minute=0, hour=0)
)


def grid(alias, start, count):
    """By pandas; it begins at the first such time from the start."""
    offset = pd.tseries.frequencies.to_offset(alias)
    first = offset.rollforward(pd.Timestamp(start)) if alias == "B" or "M" in alias else pd.Timestamp(start)
    if "M" in alias:
        first = pd.tseries.frequencies.to_offset(alias[-2:]).rollforward(pd.Timestamp(start))
    return np.array(pd.date_range(first, periods=count, freq=alias), "datetime64[ns]")


@unhurried
@given(steps, starts, st.integers(2, 50))
def test_steps_are_those_of_pandas(alias, start, count):
    times, step = grid(alias, start, count), Step.parse(alias)
    assert (step_times(times[0], step, np.arange(count)) == times).all()
    assert (step_places(times, step) == np.arange(count)).all()
    assert (step_places(times, step, times[1]) == np.arange(count) - 1).all()
    assert (next_times(times[0], str(step), count - 1) == times[1:]).all()
    assert Step.parse(str(step)) == step


@unhurried
@given(steps, starts, st.integers(12, 60), st.randoms())
def test_the_step_is_found_in_spite_of_gaps(alias, start, count, draw):
    times = grid(alias, start, count)
    kept = sorted({0, count - 1, *range(8), *(i for i in range(count) if draw.random() < 0.9)})
    found = find_step([times[kept], times[:5]])
    assert str(found) == str(Step.parse(alias))
    assert (step_places(times[kept], found) == kept).all()


@unhurried
@given(steps.filter(lambda alias: alias != "1ns"), starts, st.integers(3, 30), st.floats(0, 1, exclude_max=True))
def test_a_time_between_two_steps_is_found(alias, start, count, share):
    times, step = grid(alias, start, count), Step.parse(alias)
    times[1] += np.timedelta64(1 + int(share * (int((times[2] - times[1]).astype(np.int64)) - 1)), "ns")
    assert (np.delete(step_places(times, step), 1) != NOT_ON_A_STEP).all() and step_places(times, step)[1] == NOT_ON_A_STEP


@pytest.mark.parametrize("alias, season", [("15min", 96), ("1h", 24), ("6h", 4), ("7h", 1), ("1D", 365), ("7D", 52), ("W", 52), ("B", 5),
                                           ("M", 12), ("QS", 4), ("YS", 1), ("1s", 1), ("2D", 1)])  # fmt: skip
def test_the_most_natural_season(alias, season):
    assert Step.parse(alias).season == season


@pytest.mark.parametrize("alias", ["", "0h", "h1", "fortnight", "2B", "-1D", "1.5h"])
def test_what_is_no_step_is_refused(alias):
    with pytest.raises(UserError, match=r"is not a step; give one such as 15min"):
        Step.parse(alias)


def test_days_of_one_week_are_days_and_those_without_weekends_business_days():
    week = np.arange("2024-01-01", "2024-01-13", dtype="datetime64[D]").astype("datetime64[ns]")  # from a Monday
    assert str(find_step([week[:5]])) == "1D" and str(find_step([week])) == "1D"
    assert str(find_step([week[[0, 1, 2, 3, 4, 7, 8]]])) == "B" and str(find_step([week[[0, 1, 2, 3, 6, 7]]])) == "1D"


def test_one_time_has_no_step():
    with pytest.raises(UserError, match="no series has two times"):
        find_step([np.array(["2024-01-01"], "datetime64[ns]")])


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"])
@unhurried
@given(st.datetimes(pd.Timestamp("1950-01-01").to_pydatetime(), pd.Timestamp("2036-01-01").to_pydatetime()))
def test_what_clocks_show_is_what_pandas_says(zone, start):
    times = np.array(pd.date_range(start, periods=50, freq="97h"), "datetime64[ns]")
    wanted = pd.DatetimeIndex(times).tz_localize("UTC").tz_convert(zone).tz_localize(None)
    assert (wall_clock(times, zone, "1h") == wanted.to_numpy()).all()
    assert (wall_clock(times, zone, "1D") == times).all() and (wall_clock(times, "", "1h") == times).all()
