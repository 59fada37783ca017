"""Times in every notation, against Python's datetime and pandas; invalid and ambiguous times are reported."""

import datetime
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data.readers.times import join_parts, read_times
from seqjax.data.records import Faults
from seqjax.errors import UserError

EPOCH = datetime.datetime(1970, 1, 1)
at = "a.csv line {}".format
unhurried = settings(deadline=None)  # a busy machine is no fault

FORMS = [
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S,%f",
    "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%Y-%m-%d %I:%M %p", "%d %b %Y", "%b %d, %Y", "%d-%b-%Y", "%d %B %Y",
]  # fmt: skip


def read(texts, **options):
    faults = Faults("a.csv")
    found = read_times(texts, lambda i: at(i + 2), faults, **options)
    faults.raise_any()
    return found


def as_datetimes(wall):
    return [EPOCH + datetime.timedelta(microseconds=int(n) // 1000) for n in wall.astype(np.int64)]


dates = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))


@pytest.mark.parametrize("form", FORMS)
@unhurried
@given(st.lists(dates, min_size=1, max_size=5))
def test_times_in_every_form(form, times):
    texts = [time.strftime(form) for time in times]
    wanted = [datetime.datetime.strptime(text, form) for text in texts]
    assert as_datetimes(read(texts).wall) == wanted
    padded = [f" {text} " for text in texts]
    assert as_datetimes(read(padded).wall) == wanted


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S.%f%z", "%Y-%m-%d %H:%M %z"])
@unhurried
@given(st.lists(st.tuples(dates, st.integers(-14 * 4, 14 * 4)), min_size=1, max_size=5))
def test_times_with_an_offset_are_instants(form, several):
    zoned = [time.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=15 * quarters))) for time, quarters in several]
    texts = [time.strftime(form) for time in zoned]
    wanted = [datetime.datetime.strptime(text, form).astimezone(datetime.timezone.utc).replace(tzinfo=None) for text in texts]
    found = read(texts)
    assert as_datetimes(found.wall - found.ahead.astype("timedelta64[s]")) == wanted
    with_colon = [text[:-2] + ":" + text[-2:] for text in texts]
    assert (read(with_colon).ahead == found.ahead).all()


@unhurried
@given(st.lists(st.datetimes(datetime.datetime(1975, 1, 1), datetime.datetime(2200, 1, 1)), min_size=1, max_size=5))
def test_times_since_1970(times):
    times = [time.replace(microsecond=time.microsecond // 1000 * 1000) for time in times]
    whole = [(time - EPOCH) // datetime.timedelta(milliseconds=1) for time in times]
    for texts in (
        [f"{n // 1000}.{n % 1000:03d}" for n in whole],
        [str(n) for n in whole],
        [f"{n}000" for n in whole],
        [f"{n}000000" for n in whole],
    ):
        found = read(texts)
        assert as_datetimes(found.wall) == times and (found.ahead == 0).all()
        assert "since 1970" in found.notes[0]


def test_times_before_1970():
    wanted = [EPOCH - datetime.timedelta(seconds=1_000_000_000.5), EPOCH + datetime.timedelta(seconds=0.25)]
    assert as_datetimes(read(["-1000000000.5", "0.25"]).wall) == wanted


@unhurried
@given(st.lists(dates, min_size=2, max_size=8), st.booleans(), st.sampled_from("-/"))
def test_the_day_is_told_from_the_month_or_asked_for(times, day_first, separator):
    form = f"%d{separator}%m{separator}%Y" if day_first else f"%m{separator}%d{separator}%Y"
    texts, wanted = [time.strftime(form) for time in times], [datetime.datetime(t.year, t.month, t.day) for t in times]
    way = "dayfirst" if day_first else "monthfirst"
    assert as_datetimes(read(texts, time_format=way).wall) == wanted
    if any(time.day > 12 for time in times):
        assert as_datetimes(read(texts).wall) == wanted
    else:
        with pytest.raises(UserError, match="line 2: .* may be two dates.*time_format=dayfirst or time_format=monthfirst"):
            read(texts)


def test_months_years_and_quarters():
    def months(texts):
        return read(texts).wall.astype("datetime64[M]").astype(str).tolist()

    assert months(["2010-01", "2010-12"]) == ["2010-01", "2010-12"]
    assert months(["1749", "2010"]) == ["1749-01", "2010-01"]
    assert months(["2010Q1", "2010-Q4"]) == ["2010-01", "2010-10"]
    assert months(["Jan 2010", "Dec 2011"]) == ["2010-01", "2011-12"]


def test_a_fixed_format_is_read_as_strptime_does():
    assert as_datetimes(read(["7.3.99 4Uhr"], time_format="%d.%m.%y %HUhr").wall) == [datetime.datetime(1999, 3, 7, 4)]


@unhurried
@given(st.lists(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)), min_size=1, max_size=4), st.integers(2, 6))
def test_parts_in_columns_of_their_own(times, number):
    names = ["year", "month", "day", "hour", "minute", "second"][:number]
    columns = [[str(getattr(time, name)) for time in times] for name in names]
    wanted = [datetime.datetime(*[getattr(time, name) for name in names], *([1] if number == 2 else [])) for time in times]
    assert as_datetimes(read(join_parts(columns, names)).wall) == wanted
    with pytest.raises(UserError, match="is not in the order of year, month, day"):
        join_parts(columns, [names[0], *names[:0:-1], "day"][:number] if number > 2 else ["month", "year"])


FAULTS = [
    (["2024-01-01", "2024-02-30"], {}, ["line 3", "'2024-02-30' is not a time, as '2024-01-01' is"]),
    (["2024-01-01", ""], {}, ["line 3", "the time is empty"]),
    (["", ""], {}, ["line 2", "the time is empty"]),
    (["2024-01-01", "yesterday"], {}, ["line 3", "yesterday"]),
    (["2024-01-01T25:00"], {}, ["line 2", "25:00"]),
    (["2024-01-01T10:00", "01/02/2024"], {}, ["line 3", "01/02/2024"]),
    (["1-01", "1-02"], {}, ["line 2", "'1-01' is not a time that is recognised", "time_format"]),
    (["17", "18"], {}, ["line 2", "not a time that is recognised"]),
    (["13/01/2024", "01/13/2024"], {}, ["line 2", "line 3", "the day comes first", "the month"]),
    (["13/13/2024"], {}, ["line 2"]),
    (["2024-01-01"], {"time_format": "dayfirst"}, ["time_format=dayfirst is for times such as 01/02/2024"]),
    (["1.2.24"], {"time_format": "%d.%m.%Y"}, ["line 2", "'1.2.24' is not a time of the form %d.%m.%Y"]),
    (["2024-01-01T00:00Z", "2024-01-01T01:00"], {}, ["line 3", "no offset from UTC, but other times have one"]),
    (["1600000000", "x"], {}, ["line 3", "'x' is not a number of seconds since 1970"]),
    (["1500-01-01"], {}, ["line 2", "1500-01-01"]),
    (["0024-01-01"], {}, ["line 2", "0024"]),
]


@pytest.mark.parametrize("texts, options, said", FAULTS)
def test_what_is_not_a_time_is_named(texts, options, said):
    with pytest.raises(UserError) as error:
        read(texts, **options)
    for part in said:
        assert part in str(error.value)


def test_all_faults_are_named_at_once():
    with pytest.raises(UserError) as error:
        read(["2024-01-01", "x", "2024-01-03", "y", "2024-01-05", "2024-13-01"])
    assert all(f"line {line}" in str(error.value) for line in (3, 5, 7)) and "3 faults" in str(error.value)


def test_random_characters_are_a_time_or_an_error_of_ours():
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choices("0123456789-/:. TZQ+JanAM", k=draw.randint(1, 20)))
        try:
            wall = read([text]).wall
            assert not np.isnat(wall).any()
        except UserError as error:
            assert "line 2" in str(error)
