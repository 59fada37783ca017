"""The entry point for time series: parts, fingerprints, settings, and the sets that the developers have."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqjax.data import load_series
from seqjax.data.records import Places, Records, fingerprint
from seqjax.data.report import report
from seqjax.data.series import EMBEDDED
from seqjax.errors import UserError


def write(path, ends, first="2024-01-01"):
    """A table of series of these lengths."""
    rows = [f"{np.datetime64(first) + i},s{n},{100 * n + i}\n" for n, end in enumerate(ends) for i in range(end)]
    path.write_text("day,name,value\n" + "".join(rows))
    return str(path)


# Parts


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(12, 30), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 5))
def test_the_parts_follow_one_another(tmp_path, ends, validation_steps, test_steps):
    path = write(tmp_path / "a.csv", ends)
    data = load_series("file", path=path, series_field="name", validation_steps=validation_steps, test_steps=test_steps)
    assert list(data.parts) == ["train", "validation", "test"][: 3 if test_steps else 2]
    for n, end in enumerate(ends):
        own = [part["value"][n][part["first"][n] :].tolist() for part in data.parts.values()]
        assert sum(own, []) == [100 * n + i for i in range(end)]
        assert [len(steps) for steps in own[1:]] == [validation_steps, test_steps][: len(own) - 1]
        for part in data.parts.values():
            assert part["value"][n].tolist() == [100 * n + i for i in range(len(part["value"][n]))]  # with all before
            assert len(part["time"][n]) == len(part["known"][n]) == len(part["past"][n]) == len(part["value"][n])
            assert part["static"].shape == (len(ends), 0) and part.places.at(n) == f"{path} line {2 + sum(ends[:n])}"


def test_a_tenth_is_held_out_unless_said(tmp_path):
    data = load_series("file", path=write(tmp_path / "a.csv", [40, 30]), series_field="name")
    assert list(data.parts) == ["train", "validation"] and data.parts["validation"]["first"].tolist() == [37, 27]


def test_the_report_says_how_long_the_series_are(tmp_path):
    path = write(tmp_path / "a.csv", [40, 32])
    lines = report(load_series("file", path=path, series_field="name", validation_steps=4, test_steps=8))
    assert lines[0] == "                 series   steps, with those before the part"
    assert [line.split() for line in lines[2:5]] == [
        ["train", "2", "22", "24", "26", "28"],
        ["validation", "2", "26", "28", "30", "32"],
        ["test", "2", "34", "36", "38", "40"],
    ]


def test_the_season_is_natural_or_as_said(tmp_path):
    short, long = write(tmp_path / "a.csv", [729]), write(tmp_path / "b.csv", [730])
    assert [load_series("file", path=path, value_field="value").facts["season"] for path in (short, long)] == [7, 365]
    assert load_series("file", path=long, value_field="value", season=30).facts["season"] == 30
    assert load_series("embedded", name="seasonal", season=12).facts["season"] == 12


# Fingerprints


def of(**columns):
    columns = {name: (column,) for name, column in columns.items()}
    return fingerprint({"train": Records(columns, Places.of("", [1]))}, {})


def test_missing_values_have_one_form_and_a_place():
    value = np.array([1.0, np.nan, 3.0])
    other_bits = value.copy()
    other_bits.view(np.uint64)[1] ^= 0x8000_0000_0000_1234
    assert np.isnan(other_bits[1]) and value.tobytes() != other_bits.tobytes()
    assert of(value=value) == of(value=other_bits) and np.isnan(other_bits[1])
    different = [[np.nan, 1, 3], [1, 0, 3], [1, np.nan, 3.0000001], [1, np.nan], [1, np.nan, np.nan]]
    assert len({of(value=np.array(values, float)) for values in [value, *different]}) == 6
    assert of(value=value) != of(value=value.astype(np.float32))


def test_times_enter_the_fingerprint_to_the_nanosecond():
    time = np.arange(2000).astype("datetime64[ns]")  # longer than what NumPy prints
    moved = time.copy()
    moved[1000] += 1
    assert of(time=time) == of(time=time.copy()) != of(time=moved)
    assert of(time=time) != of(time=time.astype(np.int64)) and of(time=time) != of(time=time.astype("datetime64[us]"))


def test_a_changed_value_time_or_name_changes_the_data(tmp_path):
    path = tmp_path / "a.csv"
    write(path, [20, 20])
    options = {"path": str(path), "series_field": "name", "gaps": "missing"}
    first, text = load_series("file", **options), path.read_text()
    for old, new in (("s1,105", "s1,105.5"), ("s1,105", "s1,"), ("s1", "t1"), ("2024", "2025"), ("2024-01-05,s0,4\n", "")):
        path.write_text(text.replace(old, new))
        assert load_series("file", **options).fingerprint != first.fingerprint
    path.write_text(text.replace("\n", "\r\n"))
    assert load_series("file", **options).fingerprint == first.fingerprint


# Settings


@pytest.mark.parametrize("setting, value", [
    ("path", "a.csv"), ("form", "wide"), ("time_field", "day"), ("value_field", "y"), ("series_field", "n"), ("known_fields", "k"),
    ("past_fields", "p"), ("static_fields", "s"), ("validation_steps", 5), ("test_steps", 5), ("step", "1h"), ("zone", "UTC"),
    ("time_format", "dayfirst"), ("gaps", "missing"), ("duplicates", "mean"), ("unsorted", "sort"), ("delimiter", ";"),
    ("quoting", "none"), ("header", False), ("encoding", "latin1"),
])  # fmt: skip
def test_an_embedded_set_refuses_settings_of_files(setting, value):
    with pytest.raises(UserError, match=f"{setting}=.* is for source='file' only"):
        load_series("embedded", name="seasonal", **{setting: value})


def test_what_is_not_there_is_said():
    with pytest.raises(UserError, match="no embedded set of series is called 'lorentz' \\(nearest: lorenz\\)"):
        load_series("embedded", name="lorentz")
    with pytest.raises(UserError, match="source='file' needs a path"):
        load_series("file")
    with pytest.raises(UserError, match="source='tfds' is not a source of series"):
        load_series("tfds", name="traffic")
    with pytest.raises(UserError, match="season is -1"):
        load_series("embedded", name="lorenz", season=-1)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_have_all_columns(name):
    data = load_series("embedded", name=name)
    assert set(data.parts["test"]) == {"name", "time", "value", "known", "past", "static", "first"}
    assert set(data.facts) == {"step", "season", "zone", "known", "past", "static", "classes"}
    assert data.parts["test"]["time"][0].dtype == "datetime64[ns]" and not np.isnan(np.stack(data.parts["test"]["value"])).any()


# The developers' files


BEIJING = {"time_field": "year,month,day,hour", "value_field": "pm2.5", "past_fields": "DEWP,TEMP,PRES,cbwd,Iws,Is,Ir"}
FILES = {  # settings, steps, missing, the first time and the last
    "airline-passengers.csv": ({}, 144, 0, "1949-01-01", "1960-12-01"),
    "daily-total-female-births.csv": ({}, 365, 0, "1959-01-01", "1959-12-31"),
    "daily-min-temperatures.csv": ({"gaps": "missing"}, 3652, 2, "1981-01-01", "1990-12-31"),
    "monthly-sunspots.csv": ({}, 2820, 0, "1749-01-01", "1983-12-01"),
    "pollution.csv.gz": (BEIJING, 43824, 2067, "2010-01-01", "2014-12-31T23"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_developers_files(shared, name):
    options, steps, missing, first, last = FILES[name]
    path = shared / "data" / "timeseries-small" / name
    data = load_series("file", path=str(path), **options)
    part = data.parts["validation"]
    time, value = part["time"][0], part["value"][0]
    assert (len(time), int(np.isnan(value).sum())) == (steps, missing)
    assert [str(t) for t in time[[0, -1]]] == [str(np.datetime64(t, "ns")) for t in (first, last)]
    pd = pytest.importorskip("pandas")
    column = pd.read_csv(path)[options.get("value_field", pd.read_csv(path).columns[-1])]
    np.testing.assert_array_equal(value[~np.isnan(value)], column.dropna().to_numpy(float))
    assert any(f"{missing:,} of {steps:,} values are missing" in note for note in data.notes) == bool(missing)


def test_the_wind_of_beijing_is_a_category(shared):
    data = load_series("file", path=str(shared / "data" / "timeseries-small" / "pollution.csv.gz"), **BEIJING)
    assert data.facts["classes"]["past"] == {"cbwd": ["NE", "NW", "SE", "cv"]} and data.facts["step"] == "1h"
    wind = data.parts["train"]["past"][0][:, 3:7]
    assert (wind.sum(axis=1) == 1).all() and wind[:16].argmax(axis=1).tolist() == [1] * 15 + [3]


def test_the_leap_days_that_a_file_lacks_are_named(shared):
    with pytest.raises(UserError) as error:
        load_series("file", path=str(shared / "data" / "timeseries-small" / "daily-min-temperatures.csv"))
    assert "line 1462: a step of 1D is missing between 1984-12-30 and 1985-01-01" in str(error.value) and "2 faults" in str(error.value)
