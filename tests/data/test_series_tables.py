"""Tables of series: long, wide, Parquet and packed are the same series; clocks, gaps, duplicates, and all faults are named."""

import csv
import gzip
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqjax.data.series import load_series, read_more_series
from seqjax.errors import UserError

pd = pytest.importorskip("pandas")
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
values = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.1, 1e-300, 123456789.123456789]))


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def table(frame, delimiter=","):
    """A frame as a table, with every digit."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.itertuples(index=False):
        writer.writerow(["" if v != v else repr(float(v)) if isinstance(v, float) else v for v in row])
    return file.getvalue()


def load(path, **options):
    return load_series("file", path=path, **{"validation_steps": 1} | options)


def same(a, b):
    assert a.fingerprint == b.fingerprint
    for part in a.parts:
        for name in a.parts[part]:
            for x, y in zip(a.parts[part][name], b.parts[part][name], strict=True):
                np.testing.assert_array_equal(x, y)


def message(*args, **options):
    with pytest.raises(UserError) as error:
        load(*args, **options)
    return str(error.value)


# Round trips


@st.composite
def frames(draw):
    """Long form: several series of the same step, with missing values, that start and end at different times."""
    alias = draw(st.sampled_from(["1h", "15min", "1D", "B", "MS", "ME", "7D"]))
    rows = []
    for name in draw(st.lists(st.sampled_from(["a", "b", "\u00e9 c", "d,e"]), min_size=1, max_size=3, unique=True)):
        count = draw(st.integers(8, 15))
        times = pd.date_range("2019-12-30", periods=40, freq=alias)[draw(st.integers(0, 20)) :][:count]
        numbers = draw(st.lists(st.one_of(values, st.just(float("nan"))), min_size=count, max_size=count))
        numbers[0], numbers[-1] = 1.5, 2.5
        rows += [(name, str(time), number) for time, number in zip(times, numbers)]
    return pd.DataFrame(rows, columns=["series", "time", "value"])


LONG = {"series_field": "series", "time_field": "time"}


@quick
@given(frames(), st.sampled_from(["csv", "tsv", "csv.gz", "parquet", "parquet dates", "semicolon", "utf-16"]))
def test_every_format_gives_the_same_series(tmp_path, frame, form):
    wanted = load(write(tmp_path / "a.csv", table(frame)), **LONG)
    part, groups = wanted.parts["validation"], dict(list(frame.groupby("series", sort=False)))
    assert list(part["name"]) == list(groups)
    for i, group in enumerate(groups.values()):
        np.testing.assert_array_equal(part["value"][i], group["value"].to_numpy())
        assert (part["time"][i] == pd.to_datetime(group["time"]).to_numpy()).all()
    path, options = tmp_path / f"b.{form}", {}
    if form == "csv.gz":
        write(path, gzip.compress(table(frame).encode()))
    elif form == "semicolon":
        write(path, table(frame, ";")), options.update(delimiter="semicolon")
    elif form == "utf-16":
        path = tmp_path / "b.csv"
        write(path, table(frame).encode("utf-16")), options.update(encoding="utf-16")
    elif form.startswith("parquet"):
        pytest.importorskip("pyarrow")
        path = tmp_path / "b.parquet"
        frame.assign(time=pd.to_datetime(frame["time"]) if "dates" in form else frame["time"]).to_parquet(path)
    else:
        write(path, table(frame, "\t" if form == "tsv" else ","))
    same(wanted, load(str(path), **LONG, **options))


@quick
@given(frames())
def test_wide_is_long(tmp_path, frame):
    long = load(write(tmp_path / "a.csv", table(frame)), **LONG, gaps="missing")
    wide = frame.pivot(index="time", columns="series", values="value")[list(dict.fromkeys(frame["series"]))].reset_index()
    same(long, load(write(tmp_path / "b.csv", table(wide)), form="wide", gaps="missing"))
    mixed = frame.sample(frac=1, random_state=0).sort_values("time", kind="stable")  # the series take turns
    mixed = load(write(tmp_path / "c.csv", table(mixed)), **LONG)
    ours = {name: value for name, value in zip(mixed.parts["train"]["name"], mixed.parts["train"]["value"])}
    for name, value in zip(long.parts["train"]["name"], long.parts["train"]["value"]):
        np.testing.assert_array_equal(ours[name], value)


@quick
@given(frames(), st.randoms())
def test_rows_that_are_not_there_become_missing_values(tmp_path, frame, draw):
    whole = load(write(tmp_path / "a.csv", table(frame)), **LONG)
    firsts, lasts = frame.groupby("series")["time"].min(), frame.groupby("series")["time"].max()
    ends = [time in (firsts[name], lasts[name]) for name, time in zip(frame["series"], frame["time"])]
    dropped = np.array([not end and draw.random() < 0.2 for end in ends])
    path = write(tmp_path / "b.csv", table(frame[~dropped]))
    found = load(path, **LONG, step=whole.facts["step"], gaps="missing")
    for part in whole.parts.values():
        hole = {(name, time) for name, time in zip(frame[dropped]["series"], pd.to_datetime(frame[dropped]["time"]))}
        ours = found.parts["train" if part is whole.parts["train"] else "validation"]
        for i, name in enumerate(part["name"]):
            gone = np.array([(name, pd.Timestamp(time)) in hole for time in part["time"][i]], bool)
            np.testing.assert_array_equal(ours["value"][i], np.where(gone, np.nan, part["value"][i]))
    if dropped.any():
        assert any(f"{n} step" in note for note in found.notes for n in range(1, 50)), found.notes
        said = message(path, **LONG, step=whole.facts["step"])
        assert "missing" in said and "gaps=missing" in said and "line" in said


# Clocks


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("first, last", [("2024-03-01", "2024-04-10"), ("2024-10-01", "2024-11-10")])
@pytest.mark.parametrize("alias", ["1h", "15min"])
def test_clocks_that_are_put_forward_and_back(tmp_path, zone, first, last, alias):
    """Local times without an offset are the instants that they were made of."""
    if zone == "Australia/Lord_Howe" and alias == "1h":
        alias = "30min"  # its clocks are put forward by half an hour
    instants = pd.date_range(first, last, freq=alias, tz="UTC")
    local = instants.tz_convert(zone)
    naive = pd.DataFrame({"time": local.tz_localize(None).astype(str), "value": np.arange(len(local), dtype=float)})
    found = load(write(tmp_path / "a.csv", table(naive)), zone=zone)
    two = pd.concat([naive.assign(name="a"), naive.assign(name="b")]).sort_values("value", kind="stable")  # an hour exists twice in each
    several = load(write(tmp_path / "d.csv", table(two)), zone=zone, series_field="name").parts["validation"]["time"]
    assert (several[0] == found.parts["validation"]["time"][0]).all() and (several[1] == several[0]).all()
    part = found.parts["validation"]
    assert (part["time"][0] == instants.tz_localize(None).to_numpy()).all() and found.facts["step"] == alias
    assert not np.isnan(part["value"][0]).any() and found.facts["zone"] == zone
    written = pd.DataFrame({"time": [time.isoformat() for time in local], "value": naive["value"]})
    same(found, load(write(tmp_path / "b.csv", table(written)), zone=zone))
    pytest.importorskip("pyarrow")
    pd.DataFrame({"time": local, "value": naive["value"]}).to_parquet(tmp_path / "c.parquet")
    same(found, load(str(tmp_path / "c.parquet"), zone=zone))


def test_days_with_a_zone_are_dates(tmp_path):
    days = pd.date_range("2024-03-01", "2024-04-30", freq="D", tz="Europe/Berlin")
    written = pd.DataFrame({"time": [day.isoformat() for day in days], "value": np.arange(len(days))})
    found = load(write(tmp_path / "a.csv", table(written)), zone="Europe/Berlin")
    assert found.facts["step"] == "1D"
    assert (found.parts["validation"]["time"][0] == days.tz_localize(None).to_numpy()).all()


def hours(first, count):
    return "time,value\n" + "".join(f"{time},{i}\n" for i, time in enumerate(pd.date_range(first, periods=count, freq="h")))


def test_hours_that_do_not_exist_or_exist_twice_are_named(tmp_path):
    spring = write(tmp_path / "spring.csv", hours("2024-03-30 20:00", 12))  # written as if clocks stood still
    assert "line 8: 2024-03-31T02:00 does not exist in Europe/Berlin" in message(spring, zone="Europe/Berlin")
    autumn = write(tmp_path / "autumn.csv", hours("2024-10-26 20:00", 12))
    assert "line 8: 2024-10-27T02:00 exists twice in Europe/Berlin" in message(autumn, zone="Europe/Berlin")
    local = pd.date_range("2024-03-30 20:00", periods=12, freq="h", tz="Europe/Berlin").tz_localize(None)
    skipping = write(tmp_path / "c.csv", "time,value\n" + "".join(f"{time},1\n" for time in local))
    assert "if clocks were put forward there, set zone" in message(skipping)
    assert "zone='Europe/Berlim' is not a time zone (nearest: Europe/Berlin)" in message(autumn, zone="Europe/Berlim")


# What is not regular


ROWS = [(f"2024-01-{day:02d}", float(day)) for day in range(1, 13)]


def rows(*several):
    return "time,value\n" + "".join(f"{time},{value}\n" for time, value in several)


def test_duplicates_are_named_or_resolved_as_asked(tmp_path):
    path = write(tmp_path / "a.csv", rows(*ROWS[:3], ("2024-01-03", 9.0), *ROWS[3:]))
    said = message(path)
    assert "a.csv line 5: 2024-01-03 is already there" in said and "line 4" in said and "series_field" in said and "\n" not in said
    for way, wanted in (("first", 3.0), ("last", 9.0), ("mean", 6.0)):
        found = load(path, duplicates=way)
        assert found.parts["validation"]["value"][0].tolist() == [1.0, 2.0, wanted, *range(4, 13)]
        assert any("1 more row" in note for note in found.notes)
    path = write(tmp_path / "b.csv", rows(*ROWS[:3], ("2024-01-03", "NA"), *ROWS[3:]))
    assert load(path, duplicates="mean").parts["validation"]["value"][0][2] == 3.0


def test_rows_out_of_order_are_named_or_sorted(tmp_path):
    path = write(tmp_path / "a.csv", rows(*ROWS[::-1]))
    said = message(path)
    assert "line 2: the rows run from the newest to the oldest; set unsorted=sort" in said and "\n" not in said
    said = message(write(tmp_path / "d.csv", rows(*ROWS[::-1], ("2024-01-13", 13))))
    assert "11 faults" in said and "line 3: 2024-01-11 comes after 2024-01-12" in said and "unsorted=sort" in said
    same(load(path, unsorted="sort"), load(write(tmp_path / "b.csv", rows(*ROWS))))
    said = message(write(tmp_path / "c.csv", rows(*ROWS[:5], ROWS[6], ROWS[5], *ROWS[7:])))
    assert "c.csv line 8: 2024-01-06 comes after 2024-01-07 (" in said and "line 7)" in said and "\n" not in said


def test_gaps_and_steps_between_are_named(tmp_path):
    said = message(write(tmp_path / "a.csv", rows(*ROWS[:3], *ROWS[5:9], *ROWS[10:])))
    assert "line 5: 2 steps of 1D are missing between 2024-01-03 and 2024-01-06" in said
    assert "line 9: a step of 1D is missing between 2024-01-09 and 2024-01-11" in said
    said = message(write(tmp_path / "b.csv", rows(*ROWS[:5], ("2024-01-06T07:00", 1), *ROWS[6:])))
    assert "line 7: 2024-01-06T07:00 lies between two steps of 1D" in said
    said = message(write(tmp_path / "c.csv", rows(*[(f"2024-01-{d:02d}T{d * d % 24:02d}:00", 1) for d in range(1, 20)])))
    assert "have no regular step" in said and "\n" not in said
    said = message(write(tmp_path / "d.csv", rows(*ROWS[:-1], ("2204-01-12", 12))), gaps="missing")
    assert "line 13: 2204-01-12 comes" in said


# Covariates


COVARIATES = """day,shop,sales,holiday,wind,size,country
2024-01-01,x,1,1,NE,3,de
2024-01-01,y,5,1,NW,4,fr
2024-01-02,x,2,0,?,3,de
2024-01-02,y,6,0,NE,4,fr
2024-01-03,x,NA,0,NW,3,de
2024-01-03,y,7,0,NE,4,fr
2024-01-04,x,4,,NW,3,de
2024-01-04,y,8,0,NE,4,fr
2024-01-05,x,,1,,3,de
2024-01-05,y,,1,,4,fr
2024-01-06,x,,0,,3,de
2024-01-06,y,,0,,4,fr
"""
NAMED = {"series_field": "shop", "value_field": "sales", "known_fields": "holiday", "past_fields": "wind", "static_fields": "size,country"}


def test_covariates_of_the_future_and_the_past(tmp_path):
    found = load(write(tmp_path / "a.csv", COVARIATES), **NAMED, test_steps=1)
    facts = {name: found.facts[name] for name in ("known", "past", "static")}
    assert facts == {"known": ["holiday"], "past": ["wind=NE", "wind=NW"], "static": ["size", "country=de", "country=fr"]}
    assert found.facts["classes"] == {"known": {}, "past": {"wind": ["NE", "NW"]}, "static": {"country": ["de", "fr"]}}
    test, nan = found.parts["test"], np.nan
    np.testing.assert_array_equal(test["value"][0], [1, 2, nan, 4])
    np.testing.assert_array_equal(test["known"][0][:, 0], [1, 0, 0, nan, 1, 0])  # two more than values: the future
    np.testing.assert_array_equal(test["past"][0], [[1, 0], [nan, nan], [0, 1], [0, 1]])
    np.testing.assert_array_equal(test["static"], [[3, 1, 0], [4, 0, 1]])
    assert test["first"].tolist() == [3, 3] and found.parts["validation"]["first"].tolist() == [2, 2]
    for part, steps in (("train", 2), ("validation", 3)):  # nothing of what comes after them
        assert [[len(column[0]) for column in map(found.parts[part].__getitem__, ("time", "value", "known", "past"))]] == [[steps] * 4]
    assert "1 of 8 values are missing" in found.notes and "of the covariate 'wind', 1 of 8 are missing" in found.notes
    assert json.dumps(dict(found.facts))


def test_a_last_row_with_weather_but_no_value_is_not_the_future(tmp_path):
    table = "day,sales,holiday,rain\n" + "".join(f"2024-01-0{d},{d},0,1\n" for d in range(1, 6)) + "2024-01-06,,0,2\n2024-01-07,,1,\n"
    part = load(write(tmp_path / "a.csv", table), value_field="sales", known_fields="holiday", past_fields="rain").parts["validation"]
    np.testing.assert_array_equal(part["value"][0], [1, 2, 3, 4, 5, np.nan])
    np.testing.assert_array_equal(part["past"][0][:, 0], [1, 1, 1, 1, 1, 2])
    assert len(part["known"][0]) == 7


def test_a_wide_table_shares_its_covariates(tmp_path):
    wide = "day,x,holiday,y\n2024-01-01,1,1,5\n2024-01-02,2,0,6\n2024-01-03,,0,7\n2024-01-04,4,,8\n2024-01-05,,1,\n"
    found = load(write(tmp_path / "a.csv", wide), form="wide", known_fields="holiday")
    assert found.parts["validation"]["name"] == ("x", "y")
    np.testing.assert_array_equal(found.parts["validation"]["known"][1][:, 0], [1, 0, 0, np.nan, 1])


def test_faults_of_covariates(tmp_path):
    path = write(tmp_path / "a.csv", COVARIATES.replace("2024-01-03,y,7,0,NE,4,fr", "2024-01-03,y,seven,x,NE,5,fr"))
    said = message(path, **NAMED)
    assert "line 7: 'sales' is 'seven', which is not a number" in said
    path = write(tmp_path / "b.csv", COVARIATES.replace("2024-01-03,y,7,0,NE,4,fr", "2024-01-03,y,7,x,NE,5,fr"))
    assert "line 7: 'holiday' is 'x', which is not a number" in message(path, **NAMED)
    path = write(tmp_path / "c.csv", COVARIATES.replace("2024-01-03,y,7,0,NE,4,fr", "2024-01-03,y,7,0,NE,5,fr"))
    assert "line 7: 'size' changes within the series 'y'; a static feature may not" in message(path, **NAMED)
    many = "day,value,note\n" + "".join(f"{day},1,note {i}\n" for i, day in enumerate(pd.date_range("2024-01-01", periods=150)))
    path = write(tmp_path / "d.csv", many)
    assert "150 different texts, too many for a category" in message(path, value_field="value", past_fields="note")


def test_further_series_are_read_as_those_before(tmp_path):
    found = load(write(tmp_path / "a.csv", COVARIATES), **NAMED)
    facts = json.loads(json.dumps(dict(found.facts)))
    later = COVARIATES.replace("2024-01", "2024-02").replace("NW", "NE")
    more = read_more_series(write(tmp_path / "b.csv", later), facts, **NAMED)
    assert more["past"][0].shape == (4, 2) and more["static"].shape == (2, 3) and more["first"].tolist() == [0, 0]
    np.testing.assert_array_equal(more["value"][1], [5, 6, 7, 8])
    with pytest.raises(UserError, match="line 5: 'wind' is 'SE', which is none of its classes \\(NE, NW\\)"):
        read_more_series(write(tmp_path / "c.csv", later.replace("2024-02-02,y,6,0,NE", "2024-02-02,y,6,0,SE")), facts, **NAMED)
    hourly = "day,sales\n2024-01-01T00:00,1\n2024-01-01T01:00,1\n"
    plain = {"step": "1D", "classes": {"known": {}, "past": {}, "static": {}}}
    with pytest.raises(UserError, match="2024-01-01T01:00 lies between two steps of 1D"):
        read_more_series(write(tmp_path / "d.csv", hourly), plain)


# Whole tables


BAD = [
    ("a.csv", "time,value\n2024-01-01,5\n", {"value_field": "valve"}, "line 1 has no field 'valve' (nearest: value), only time, value"),
    ("a.csv", "time,a,b\n2024-01-01,5,6\n", {}, "nothing says which column has the values; set value_field (a, b), or form=wide"),
    ("a.csv", "time\n2024-01-01\n", {}, "nothing says which column has the values; set value_field (none is left)"),
    ("a.csv", "time,value\n", {}, "has no records in it"),
    ("a.csv", "", {}, "is empty"),
    ("a.txt", "time,value\n2024-01-01,5\n", {}, "does not have the extension of a table of series"),
    ("a.jsonl", '{"time": 1}\n', {}, "does not have the extension of a table of series"),
    ("a.parquet", "not parquet", {}, "is not a valid Parquet file"),
    ("a.csv", "time,value\n2024-01-01,5\n", {"form": "tall"}, "form='tall' is not a form of a table of series"),
    ("a.csv", "time,value\n2024-01-01,5\n", {"gaps": "fill"}, "gaps='fill' is not a choice for gaps"),
    ("a.csv", "time,value\n2024-01-01,5\n", {"step": "daily"}, "step='daily' is not a step"),
    ("a.csv", "time,value\n2024-01-01,5\n", {"form": "wide", "static_fields": "x"}, "static_fields is for form=long"),
    ("a.csv", "time,value\n2024-01-01,5\n", {}, "no series has two times"),
    ("a.csv", 'time,value\n2024-01-01,"1,5"\n', {}, "line 2: 'value' is '1,5', which is not a number; write a point"),
    ("a.csv", "time,value\n2024-01-01,1e999\n", {}, "line 2: 'value' is '1e999', which is too large"),
    ("a.csv", "time,value\n2024-01-01,5\n2024-01-02,6,7\n", {}, "line 3 has 3 fields, but the first line names 2"),
    ("a.csv", "t,n,value\n2024-01-01,,5\n", {"series_field": "n"}, "line 2: 'n' is empty; name the series of that line"),
    ("a.csv", rows(*[(time, "NA") for time, _ in ROWS]), {}, "the series 'value' has no values"),
    ("a.csv", rows(*[(time, "NA" if i < 9 else 5) for i, (time, _) in enumerate(ROWS)]), {"test_steps": 4}, "no value before the stretch"),
    ("a.csv", rows(*ROWS), {"test_steps": 10}, "line 2: the series 'value' has 12 steps, and 1 + 10 are held out of it"),
    ("a.csv", rows(*ROWS), {"time_field": "time,value", "value_field": "value"}, "are one field"),
]


@pytest.mark.parametrize("name, content, options, said", BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path, name, content, options, said):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    found = message(write(tmp_path / name, content), **options)
    assert said in found and "\n" not in found, found


def test_all_faults_are_said_at_once(tmp_path):
    said = message(write(tmp_path / "a.csv", rows(("2024-01-01", "x"), ("2024-01-32", 2), ("2024-01-03", "y"))))
    assert all(f"a.csv line {line}: " in said for line in (2, 3, 4)) and "3 faults" in said


def test_names_by_number_and_no_header(tmp_path):
    path = write(tmp_path / "a.csv", "".join(f"{value},x,{time}\n" for time, value in ROWS))
    found = load(path, header=False, time_field="3", value_field="1", series_field="2")
    assert found.parts["validation"]["value"][0].tolist() == list(range(1, 13)) and found.parts["train"]["name"] == ("x",)


def test_a_constant_series_is_noted(tmp_path):
    found = load(write(tmp_path / "a.csv", rows(*[(time, 3) for time, _ in ROWS])))
    assert "the series 'value' is constant in the training part: 3" in found.notes


def test_the_standard_input_is_refused():
    with pytest.raises(UserError, match="not read from the standard input; write it to a file"):
        read_more_series("-", {"step": "1D", "classes": {"known": {}, "past": {}, "static": {}}})
