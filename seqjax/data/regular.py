"""Turns rows of a table into series with a regular step: time zones, order, duplicates, gaps, and known future values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.readers.series_tables import Covariates, Table, encode_covariates
from seqjax.data.records import Faults
from seqjax.data.steps import NOT_ON_A_STEP, Step, find_step, step_places, step_times
from seqjax.data.zones import instants
from seqjax.errors import UserError

MOST_INSERTED = 100  # inserted steps per row; more means a wrong time, not a gap


class Rules(NamedTuple):
    """How to treat irregular times; nothing is changed unless asked for."""

    step: str = ""  # such as 1h, 1D, MS; "" infers it
    zone: str = ""  # the time zone of times without an offset
    gaps: str = "stop"  # or "missing": absent steps become missing values
    duplicates: str = "stop"  # or "first", "last", "mean" of the rows with the same time
    unsorted: str = "stop"  # or "sort"


CHOICES = {"gaps": ("stop", "missing"), "duplicates": ("stop", "first", "last", "mean"), "unsorted": ("stop", "sort")}


class Series(NamedTuple):
    """A series with a regular step."""

    name: str
    line: int  # of the file, where the series starts
    time: np.ndarray  # datetime64[ns] (T,)
    value: np.ndarray  # float64 (T,), NaN where missing
    known: np.ndarray  # float32 (T + extra, K)
    past: np.ndarray  # float32 (T, P)
    static: np.ndarray  # float32 (S,)


class Regular(NamedTuple):
    """All series of a table."""

    series: list[Series]
    step: Step
    known: Covariates
    past: Covariates
    static: Covariates
    notes: list[str]


class _Rows(NamedTuple):
    """The rows of one series."""

    name: str
    rows: np.ndarray  # (n,) indices into the table
    time: np.ndarray  # datetime64[ns] (n,)
    value: np.ndarray  # (n,)


def regular_series(table: Table, rules: Rules, classes: Mapping[str, Any] | None = None) -> Regular:
    """The series of a table.

    Args:
      table: the rows to turn into series.
      rules: how to treat gaps, duplicates and rows out of order.
      classes: "known", "past" and "static" -> categorical field -> its classes, if they are fixed.

    Raises:
      UserError: rows out of order, duplicates, gaps, times between two steps, or no values; the message lists all of them.

    Example:
      >>> import tempfile
      >>> from seqjax.data.readers.series_tables import Fields, read_series_table
      >>> from seqjax.data.readers.tables import Format
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"day,rain\\n2024-01-01,3\\n2024-01-02,0\\n2024-01-04,1\\n")
      ...     file.flush()
      ...     table = read_series_table(file.name, Fields(), "long", Format())
      >>> regular_series(table, Rules(gaps="missing")).series[0].value.tolist()
      [3.0, 0.0, nan, 1.0]
    """
    faults, notes = Faults(table.path), list(table.notes)
    kinds = [
        encode_covariates(columns, len(table.lines), table.at, faults, None if classes is None else classes[kind])
        for kind, columns in (("known", table.known), ("past", table.past), ("static", table.static))
    ]
    time = instants(table, rules.zone, faults)
    faults.raise_any()
    groups = [_one_a_time(_in_order(group, table, rules, faults, notes), table, rules, faults, notes) for group in _groups(table, time)]
    faults.raise_any()
    step = Step.parse(rules.step) if rules.step else find_step([group.time for group in groups])
    found = [_series(group, table, rules, step, kinds, faults, notes) for group in groups]
    faults.raise_any()
    known, past, static = kinds
    return Regular([one for one in found if one is not None], step, known, past, static, notes)


def _groups(table: Table, time: np.ndarray) -> list[_Rows]:
    every = np.arange(len(table.lines))
    if table.value.ndim == 2:
        return [_Rows(name, every, time, table.value[:, place]) for place, name in enumerate(table.names)]
    order = np.argsort(table.series, kind="stable")
    cuts = np.searchsorted(table.series[order], np.arange(1, len(table.names)))
    return [_Rows(name, rows, time[rows], table.value[rows]) for name, rows in zip(table.names, np.split(order, cuts))]


def _shown(time: Any) -> str:
    """A time without trailing zeros."""
    text = str(time.astype("datetime64[s]") if time == time.astype("datetime64[s]") else time)
    return text.removesuffix(":00").removesuffix("T00:00")


def _of(group: _Rows, table: Table) -> str:
    return f" of {group.name!r}" if len(table.names) > 1 and table.value.ndim == 1 else ""


def _in_order(group: _Rows, table: Table, rules: Rules, faults: Faults, notes: list[str]) -> _Rows:
    back = np.flatnonzero(np.diff(group.time).astype(np.int64) < 0) + 1
    if not len(back):
        return group
    if rules.unsorted == "stop" and len(back) == len(group.time) - 1 > 2:
        faults.add(f"{table.at(group.rows[0])}: the rows{_of(group, table)} run from the newest to the oldest; set unsorted=sort")
        return group
    if rules.unsorted == "stop":
        for i in back if table.value.ndim == 1 or group.name == table.names[0] else ():
            here, before = table.at(group.rows[i]), f"{_shown(group.time[i - 1])} ({table.at(group.rows[i - 1])})"
            faults.add(f"{here}: {_shown(group.time[i])}{_of(group, table)} comes after {before}; sort the file, or set unsorted=sort")
        return group
    order = np.argsort(group.time, kind="stable")
    notes.append(f"{table.path}: the rows of {group.name!r} were sorted by time: {len(back):,} came too early")
    return _Rows(group.name, group.rows[order], group.time[order], group.value[order])


def _one_a_time(group: _Rows, table: Table, rules: Rules, faults: Faults, notes: list[str]) -> _Rows:
    again = np.diff(group.time).astype(np.int64) == 0
    if not again.any():
        return group
    if rules.duplicates == "stop":
        alone = table.value.ndim == 1 and len(table.names) == 1
        others = "; if the file has several series, set series_field" if alone else ""
        for i in np.flatnonzero(again) + 1 if table.value.ndim == 1 or group.name == table.names[0] else ():
            here, before = table.at(group.rows[i]), table.at(group.rows[i - 1])
            faults.add(
                f"{here}: {_shown(group.time[i])}{_of(group, table)} is already there ({before}); leave one out, or set duplicates "
                f"to first, last or mean{others}"
            )
        return group
    notes.append(f"{table.path}: {again.sum():,} more rows of {group.name!r} with a repeated time; duplicates={rules.duplicates}")
    first = np.flatnonzero(np.concatenate([[True], ~again]))
    last = np.append(first[1:], len(group.time)) - 1
    chosen = last if rules.duplicates == "last" else first
    value = group.value[chosen]
    if rules.duplicates == "mean":
        there = ~np.isnan(group.value)
        sums, counts = (np.add.reduceat(np.where(there, v, 0), first) for v in (group.value, np.ones(len(there))))
        value = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return _Rows(group.name, group.rows[chosen], group.time[chosen], value)


def _series(
    group: _Rows, table: Table, rules: Rules, step: Step, kinds: list[Covariates], faults: Faults, notes: list[str]
) -> Series | None:
    if np.isnan(group.value).all():
        faults.add(f"{table.at(group.rows[0])}: the series {group.name!r} has no values; give it some, or leave it out")
        return None
    places = step_places(group.time, step)
    if not _check_steps(group, places, table, rules, step, faults):
        return None
    known, past, static = (kind.values[group.rows] for kind in kinds)
    steps = int(places[-1]) + 1
    inserted = steps - len(places)
    if inserted:
        notes.append(f"{table.path}: {inserted:,} steps of {group.name!r} are not there and become missing values")
    time = step_times(group.time[0], step, np.arange(steps))
    value, known, past = (_spread(array, places, steps) for array in (group.value, known, past))
    first, end = _stretch(value, known, past, wide=table.value.ndim == 2)
    for name, column in zip(kinds[2].names, static.T):
        for i in np.flatnonzero(~((column == column[0]) | (np.isnan(column) & np.isnan(column[0]))))[:1]:
            faults.add(f"{table.at(group.rows[i])}: {name!r} changes within the series {group.name!r}; a static feature may not")
    known = known[first:] if known.shape[1] else known[first:end]
    return Series(group.name, int(table.lines[group.rows[0]]), time[first:end], value[first:end], known, past[first:end], static[0])


def _check_steps(group: _Rows, places: np.ndarray, table: Table, rules: Rules, step: Step, faults: Faults) -> bool:
    """Whether all times lie on steps, with no gap unless gaps are allowed."""
    between = np.flatnonzero(places == NOT_ON_A_STEP)
    if len(between) > max(len(places) // 10, 3):
        faults.add(
            f"{table.path}: the times of {group.name!r} have no regular step: {len(between):,} of {len(places):,} lie between steps of "
            f"{step}, such as {_shown(group.time[between[0]])} ({table.at(group.rows[between[0]])}); resample them to a regular step"
        )
        return False
    for i in between:
        where = table.at(group.rows[i])
        faults.add(f"{where}: {_shown(group.time[i])}{_of(group, table)} lies between two steps of {step}; repair it, or set step")
    if len(between):
        return False
    missing = np.diff(places) - 1
    if places[-1] + 1 > MOST_INSERTED * len(places):
        i = int(np.argmax(missing)) + 1
        here, much = table.at(group.rows[i]), f"{missing[i - 1] + 1:,} steps of {step}"
        faults.add(f"{here}: {_shown(group.time[i])} comes {much} after the time before it; repair it, or say the step: step=1D")
        return False
    if rules.gaps == "missing" or not missing.any():
        return True
    if table.value.ndim == 1 or group.name == table.names[0]:
        for i in np.flatnonzero(missing) + 1:
            before, where = _shown(group.time[i - 1]), table.at(group.rows[i])
            faults.add(
                f"{where}: {_steps(missing[i - 1], step)} missing{_of(group, table)} between {before} and {_shown(group.time[i])}; "
                f"add them, or set gaps=missing{_clocks(group.time[i - 1], missing[i - 1], step, rules)}"
            )
    return False


def _steps(number: int, step: Step) -> str:
    return f"a step of {step} is" if number == 1 else f"{number:,} steps of {step} are"


def _clocks(before: np.datetime64, missing: int, step: Step, rules: Rules) -> str:
    """A hint, for a gap of one hour on a Sunday night in spring, that it comes from the change to summer time."""
    day = before.astype("datetime64[D]")
    hour = np.timedelta64(1, "h") == (step_times(before, step, np.array([missing]))[0] - before)
    is_sunday = (day.astype(np.int64) + 3) % 7 == 6
    if rules.zone or step.is_calendar or not hour or not is_sunday or (before - day) > np.timedelta64(3, "h"):
        return ""
    return " (if clocks were put forward there, set zone, such as zone=Europe/Berlin)"


def _spread(values: np.ndarray, places: np.ndarray, steps: int) -> np.ndarray:
    """The values at their steps; NaN elsewhere."""
    if len(places) == steps:
        return values
    spread = np.full((steps, *values.shape[1:]), np.nan, values.dtype)
    spread[places] = values
    return spread


def _stretch(value: np.ndarray, known: np.ndarray, past: np.ndarray, wide: bool) -> tuple[int, int]:
    """Where a series starts and ends: without the future, where only `known` has values, and without a wide table's empty ends."""
    there = np.flatnonzero(~np.isnan(value) | (~np.isnan(past)).any(axis=1))
    first = int(np.flatnonzero(~np.isnan(value))[0]) if wide else 0
    if wide:
        there = np.flatnonzero(~np.isnan(value))
    end = int(there[-1]) + 1 if wide or known.shape[1] else len(value)
    return first, end


def check_rules(rules: Rules) -> None:
    """Refuse unknown choices.

    Example:
      >>> check_rules(Rules(gaps="fill"))
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: gaps='fill' is not a choice for gaps; choose one of stop, missing
    """
    for setting, choices in CHOICES.items():
        if (value := getattr(rules, setting)) not in choices:
            what = "rows out of order" if setting == "unsorted" else setting
            raise UserError(f"{setting}={value!r} is not a choice for {what}; choose one of {', '.join(choices)}")
    if rules.step:
        Step.parse(rules.step)
