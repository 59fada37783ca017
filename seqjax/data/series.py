"""The entry point for time series: embedded, or from the user's own tables; and new values for a trained model."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqjax.data.checks import check_whole
from seqjax.data.readers.processes import PROCESSES, make_process
from seqjax.data.readers.series_tables import FORMS, Fields, named, read_series_table
from seqjax.data.readers.tables import USUAL, Format, check_format, table_settings
from seqjax.data.records import Dataset, Faults, Places, Records, make_dataset
from seqjax.data.regular import Regular, Rules, Series, check_rules, regular_series
from seqjax.data.sources import Setting, check_name, check_source, file_set_name, part_files
from seqjax.data.zones import check_zone
from seqjax.errors import UserError, refuse_unknown

SOURCES = ("embedded", "file")
EMBEDDED = tuple(PROCESSES)
VALIDATION_SHARE = 0.1  # of the shortest series of a file, where validation_steps is 0


def load_series(
    source: str,
    *,
    name: str = "",
    path: str = "",
    form: str = "long",
    time_field: str = "",
    value_field: str = "",
    series_field: str = "",
    known_fields: str = "",
    past_fields: str = "",
    static_fields: str = "",
    validation_steps: int = 0,
    test_steps: int = 0,
    season: int = 0,
    step: str = "",
    zone: str = "",
    time_format: str = "",
    gaps: str = "stop",
    duplicates: str = "stop",
    unsorted: str = "stop",
    delimiter: str = "",
    quoting: str = "double",
    header: bool = True,
    encoding: str = "utf-8",
) -> Dataset:
    """Time series in training, validation and test parts, consecutive in time, from one of two kinds of source.

    Every part has every series: the training part up to the validation stretch, the validation part up to its end, and the test part in
    full. "first" says where the part's own steps start; earlier steps are history. If series end at different times, the stretches are
    counted back from the end of each.

    The embedded sets come from processes whose best possible forecast is known, see `seqjax.data.readers.processes`.

    Nothing is filled in: a missing value is NaN. It is an empty field, NA, NaN, null, None, "?" or "-".

    Args:
      source: "embedded" (generated, no network) or "file".
      name: embedded: "seasonal", "mackey_glass" or "lorenz". file: what to call the set; "" is the name of its file.
      path: file: a `.csv` or `.tsv` (or any other text if a delimiter is given) or a `.parquet`, plain or packed.
      form: "long", a row for each series and time, or "wide", a column for each series.
      time_field: the column of times, by name or number; "" is the first. Several, comma-separated, are joined, such as
        "year,month,day,hour" or "date,time".
      value_field: long form: the column of values; "" is the only other one. Wide form: the columns of the series, comma-separated; "" is
        all others.
      series_field: long form: the column that names the series; "" if there is only one series.
      known_fields: columns of covariates known in the future (holidays, prices), comma-separated. Rows after the last value that have only
        these are the future.
      past_fields: columns of covariates known only in the past.
      static_fields: long form: columns that do not change within a series.
      validation_steps: file: steps of each series before the test stretch; 0 is a tenth of the shortest.
      test_steps: file: steps at the end of each series; 0 makes no test part.
      season: the season in steps; 0 is the most natural one: a day for hourly data; a year for daily, monthly, ... data
      step: such as 1h, 1D, MS; "" infers it.
      zone: the time zone of times without an offset from UTC, such as "Europe/Berlin", and of features such as the hour of the day. With
        steps of a day or longer, times are dates and independent of zones.
      time_format: how times are written, see `seqjax.data.readers.times.read_times`; "" recognises common forms.
      gaps: "stop" raises an error that lists the gaps; "missing" turns absent steps into missing values.
      duplicates: of rows with the same time: "stop", or keep the "first", the "last", or the "mean" of the values (with the first row's
        other fields).
      unsorted: "stop", or "sort" the rows by time.
      delimiter, quoting, header, encoding: how a table of text is written, see `Format`.

    Returns:
      A Dataset whose parts have a record for each series and the columns "name" (str), "time" (datetime64[ns] (T,)), "value"
      (float64 (T,)), "known" (float32 (T + extra, K)), "past" (float32 (T, P)), "static" (float32 (N, S)) and "first"
      (int64 (N,)). All but "static" and "first" are tuples with one array per series. Covariates are NaN where missing; categorical ones
      have a column of ones and zeros for each class. Its facts: "step" and "zone", as above; "season"; "known", "past" and "static", the
      names of the columns; "classes", those of the categorical ones.

    Raises:
      UserError: an unknown source or name, a malformed file, bad times or values (all of them, with file and line), or a series shorter
        than the stretches held out of it.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"month,flights\\n" + b"".join(b"2024-%02d,%d\\n" % (month, month) for month in range(1, 13)))
      ...     file.flush()
      ...     flights = load_series("file", path=file.name, validation_steps=2, test_steps=3)
      >>> flights.facts["step"], flights.facts["season"], flights.parts["test"]["first"].tolist()
      ('MS', 12, [9])
      >>> flights.parts["validation"]["value"][0].tolist()
      [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    """
    format = Format(delimiter, quoting, header, encoding)
    fields = Fields(time_field, value_field, series_field, *map(named, (known_fields, past_fields, static_fields)))
    rules = Rules(step, zone, gaps, duplicates, unsorted)
    given = {"path": path, "time_field": time_field, "value_field": value_field, "series_field": series_field}
    given |= {"known_fields": known_fields, "past_fields": past_fields, "static_fields": static_fields}
    given |= {"step": step, "zone": zone, "time_format": time_format}
    refuse_unknown(f"source={source!r} is not a source of series", source, SOURCES)
    check_source(source, {
        **{setting: Setting(value, ("file",)) for setting, value in given.items()},
        "form": Setting(form, ("file",), "long"),
        "validation_steps": Setting(validation_steps, ("file",), 0), "test_steps": Setting(test_steps, ("file",), 0),
        **{setting: Setting(getattr(rules, setting), ("file",), "stop") for setting in ("gaps", "duplicates", "unsorted")},
        **table_settings(format), "encoding": Setting(encoding, ("file",), USUAL.encoding),
    })  # fmt: skip
    check_whole(0, validation_steps=validation_steps, test_steps=test_steps, season=season)
    check_name(source, name, EMBEDDED, "set of series", "")
    if source == "embedded":
        made = make_process(name)
        facts = {**made.facts, "zone": "", "known": [], "past": [], "static": [], "classes": {"known": {}, "past": {}, "static": {}}}
        facts |= {"season": season} if season else {}
        parts = _parts(_plain(made.time, made.value), made.validation_steps, made.test_steps, name)
        return make_dataset(name, parts, "series", facts=facts)
    if not path:
        raise UserError("source='file' needs a path; give a .csv, .tsv or .parquet")
    found = _read(path, form, fields, format, rules, time_format, None)
    shortest = min(len(one.value) for one in found.series)
    parts = _parts(found.series, validation_steps or max(round(VALIDATION_SHARE * shortest), 1), test_steps, path)
    facts = {
        "step": str(found.step),
        "season": season or _season(found),
        "zone": zone,
        "known": list(found.known.names),
        "past": list(found.past.names),
        "static": list(found.static.names),
        "classes": {kind: getattr(found, kind).classes for kind in ("known", "past", "static")},
    }
    notes = _remarks(found, parts["train"])
    name = file_set_name(name, EMBEDDED, path)
    return make_dataset(name, parts, "series", facts=facts, notes=notes, files=part_files({"train": path}))


def read_more_series(
    path: str,
    facts: Mapping[str, Any],
    *,
    form: str = "long",
    time_field: str = "",
    value_field: str = "",
    series_field: str = "",
    known_fields: str = "",
    past_fields: str = "",
    static_fields: str = "",
    zone: str = "",
    time_format: str = "",
    gaps: str = "stop",
    duplicates: str = "stop",
    unsorted: str = "stop",
    delimiter: str = "",
    quoting: str = "double",
    header: bool = True,
    encoding: str = "utf-8",
) -> Records:
    """Series to forecast, read like those a model was trained on.

    Args:
      path: a table.
      facts: those of the dataset the model was trained on; the step and the classes of categorical fields must agree.
      form, time_field, ...: as in `load_series`.

    Returns:
      Records with the columns of `load_series`; "first" is 0.

    Raises:
      UserError: as `load_series`; a step other than the model's, or a class that it does not know.

    Example:
      >>> import tempfile
      >>> facts = {"step": "MS", "classes": {"known": {}, "past": {}, "static": {}}}
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"month,flights\\n2024-11,8\\n2024-12,9\\n")
      ...     file.flush()
      ...     read_more_series(file.name, facts)["value"][0].tolist()
      [8.0, 9.0]
    """
    fields = Fields(time_field, value_field, series_field, *map(named, (known_fields, past_fields, static_fields)))
    rules = Rules(facts["step"], zone, gaps, duplicates, unsorted)
    found = _read(path, form, fields, Format(delimiter, quoting, header, encoding), rules, time_format, facts["classes"])
    records = _records(found.series, [len(one.value) for one in found.series], [0] * len(found.series), path)
    return Records(records.columns, records.places, tuple([*found.notes, *_missing(found)]))


def _read(
    path: str | os.PathLike, form: str, fields: Fields, format: Format, rules: Rules, time_format: str,
    classes: Mapping[str, Any] | None,
) -> Regular:  # fmt: skip
    refuse_unknown(f"form={form!r} is not a form of a table of series", form, FORMS)
    check_format(format)
    check_rules(rules)
    check_zone(rules.zone)
    return regular_series(read_series_table(path, fields, form, format, time_format), rules, classes)


def _season(found: Regular) -> int:
    """The natural season; a week for daily series shorter than two years."""
    season = found.step.season
    longest = max(len(one.value) for one in found.series)
    return 7 if str(found.step) == "1D" and longest < 2 * season else season


def _plain(time: np.ndarray, value: np.ndarray) -> list[Series]:
    """Series (N, T) without covariates."""
    none = np.zeros((len(time), 0), np.float32)
    return [Series(f"series {i + 1}", i + 1, time, values, none, none, none[0]) for i, values in enumerate(value)]


# Parts


def _parts(series: Sequence[Series], validation_steps: int, test_steps: int, what: str) -> dict[str, Records]:
    faults, held_out = Faults(what), validation_steps + test_steps
    for one in series:
        if len(one.value) < held_out + 2:
            faults.add(
                f"{what} line {one.line}: the series {one.name!r} has {len(one.value)} steps, and {validation_steps} + {test_steps} "
                "are held out of it; lower validation_steps or test_steps, or leave it out"
            )
        elif np.isnan(one.value[: len(one.value) - held_out]).all():
            faults.add(f"{what} line {one.line}: the series {one.name!r} has no value before the stretch held out of it; leave it out")
    faults.raise_any()
    ends = np.array([len(one.value) for one in series])
    stretches = {"train": (0 * ends, ends - held_out), "validation": (ends - held_out, ends - test_steps)}
    if test_steps:
        stretches["test"] = (ends - test_steps, ends)
    return {part: _records(series, end, first, what) for part, (first, end) in stretches.items()}


def _records(series: Sequence[Series], ends: Any, firsts: Any, what: str) -> Records:
    """The series up to their ends; covariates beyond the end of the values are the future and stay."""
    columns = {
        "name": tuple(one.name for one in series),
        "time": tuple(one.time[:end] for one, end in zip(series, ends)),
        "value": tuple(one.value[:end] for one, end in zip(series, ends)),
        "known": tuple(one.known if end == len(one.value) else one.known[:end] for one, end in zip(series, ends)),
        "past": tuple(one.past[:end] for one, end in zip(series, ends)),
        "static": np.stack([one.static for one in series]).astype(np.float32),
        "first": np.asarray(firsts, np.int64),
    }
    return Records(columns, Places.of(f"{what} line", [one.line for one in series]))


def _remarks(found: Regular, train: Records) -> list[str]:
    """Notes on the values."""
    notes = [*found.notes, *_missing(found)]
    for name, value in zip(train["name"], train["value"]):
        if np.nanmin(value) == np.nanmax(value):
            notes.append(f"the series {name!r} is constant in the training part: {np.nanmin(value):g}")
    return notes


def _missing(found: Regular) -> list[str]:
    """How much is missing, in values and covariates."""
    total, missing = sum(len(one.value) for one in found.series), sum(int(np.isnan(one.value).sum()) for one in found.series)
    notes = [f"{missing:,} of {total:,} values are missing"] if missing else []
    for kind in ("known", "past", "static"):
        names = getattr(found, kind).names
        columns = np.concatenate([np.atleast_2d(getattr(one, kind)) for one in found.series])
        counts = np.isnan(columns).sum(axis=0)
        shown = {name.split("=")[0]: int(count) for name, count in zip(names, counts) if count}
        notes += [f"of the covariate {name!r}, {count:,} of {len(columns):,} are missing" for name, count in shown.items()]
    return notes
