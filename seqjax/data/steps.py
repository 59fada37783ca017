"""Regular time steps, fixed or by the calendar: inferring, counting and continuing them."""

import re
from typing import NamedTuple

import numpy as np

from seqjax.errors import UserError

UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9, "D": 86400 * 10**9}
NS_PER_DAY = UNITS["D"]
MONTHS = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}  # aliases of pandas -> months
OTHER_NAMES = {
    "H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns", "M": "ME", "Q": "QE", "A": "YE", "Y": "YE", "W": "7D", "d": "D",
}  # fmt: skip
SEASONS = {"h": 24, "D": 365, "7D": 52, "B": 5, "MS": 12, "ME": 12, "3MS": 4, "3ME": 4}
EXAMPLES = "15min, 1h, 1D, 7D, B (business days), MS (starts of months), ME (ends of months), 3MS (quarters), 12MS (years)"


class Step(NamedTuple):
    """A regular step.

    Example:
      >>> Step.parse("15min"), str(Step.parse("QS")), str(Step(24, "h")), Step.parse("MS").season
      (Step(count=15, unit='min'), '3MS', '1D', 12)
    """

    count: int
    unit: str  # ns, us, ms, s, min, h, D; B, business days; MS or ME, starts or ends of months

    @classmethod
    def parse(cls, text: str) -> "Step":
        """Parses pandas' name for a step.

        Raises:
          UserError: the step is unknown.
        """
        found = re.fullmatch(r"(\d*)\s*([A-Za-z]+)", text.strip())
        count, unit = (int(found[1] or 1), OTHER_NAMES.get(found[2], found[2])) if found else (0, "")
        if unit == "7D":
            count, unit = 7 * count, "D"
        if unit in MONTHS:
            count, unit = count * MONTHS[unit], f"M{unit[-1]}"
        if count < 1 or unit not in (*UNITS, "MS", "ME", "B") or (unit == "B" and count > 1):
            raise UserError(f"step={text!r} is not a step; give one such as {EXAMPLES}")
        return cls(count, unit)

    def __str__(self) -> str:
        if self.unit not in UNITS:
            return self.unit if self.count == 1 else f"{self.count}{self.unit}"
        size = self.count * UNITS[self.unit]
        unit = max((unit for unit, of in UNITS.items() if size % of == 0), key=lambda unit: UNITS[unit])
        return f"{size // UNITS[unit]}{unit}"

    @property
    def is_calendar(self) -> bool:
        """Whether the step is a day or longer, so that times are dates and independent of time zones."""
        return self.unit not in UNITS or self.count * UNITS[self.unit] % NS_PER_DAY == 0

    @property
    def season(self) -> int:
        """The most natural season in steps: a day of hours or minutes, a year of days, weeks, months or quarters; else 1."""
        if self.unit in UNITS:
            size = self.count * UNITS[self.unit]
            if UNITS["min"] <= size < NS_PER_DAY and NS_PER_DAY % size == 0:
                return NS_PER_DAY // size
            return SEASONS.get({NS_PER_DAY: "D", 7 * NS_PER_DAY: "7D"}.get(size, ""), 1)
        return SEASONS.get(str(self), 1)


def step_places(times: np.ndarray, step: Step, first: np.datetime64 | None = None) -> np.ndarray:
    """The number of steps from the first time to each time.

    Args:
      times: datetime64[ns] (T,).
      step: between two times.
      first: where the steps start; None means the first of the times.

    Returns:
      int64 (T,); `NOT_ON_A_STEP` for those that lie between two steps.

    Example:
      >>> times = np.array(["2024-01-01", "2024-03-01", "2024-03-02"], "datetime64[ns]")
      >>> step_places(times, Step(1, "MS")).tolist()[:2], step_places(times, Step(1, "D")).tolist()
      ([0, 2], [0, 60, 61])
    """
    times = times.astype("datetime64[ns]")
    first = np.datetime64(times[0] if first is None else first, "ns")  # pyright: ignore[reportCallIssue, reportArgumentType]
    if step.unit in UNITS:
        places, rest = np.divmod((times - first).astype(np.int64), step.count * UNITS[step.unit])
        return np.where(rest == 0, places, NOT_ON_A_STEP)
    days = times.astype("datetime64[D]")
    same_clock = (times - days) == (first - first.astype("datetime64[D]"))
    if step.unit == "B":
        valid = same_clock & np.is_busday(days)
        return np.where(valid, np.busday_count(first.astype("datetime64[D]"), days), NOT_ON_A_STEP)
    months = days.astype("datetime64[M]")
    places, rest = np.divmod((months - first.astype("datetime64[M]")).astype(np.int64), step.count)
    return np.where(same_clock & (rest == 0) & (days == _month_day(months, step)), places, NOT_ON_A_STEP)


NOT_ON_A_STEP = np.iinfo(np.int64).min


def step_times(first: np.datetime64, step: Step, places: np.ndarray) -> np.ndarray:
    """The times at the given numbers of steps after the first; the inverse of `step_places`.

    Args:
      first: a time on a step.
      step: between times.
      places: integers (T,).

    Returns:
      datetime64[ns] (T,).

    Example:
      >>> step_times(np.datetime64("2024-01-31"), Step(1, "ME"), np.arange(3)).astype("datetime64[D]").astype(str).tolist()
      ['2024-01-31', '2024-02-29', '2024-03-31']
    """
    first, places = np.datetime64(first, "ns"), np.asarray(places, np.int64)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if step.unit in UNITS:
        return first + (places * (step.count * UNITS[step.unit])).astype("timedelta64[ns]")
    day = first.astype("datetime64[D]")
    if step.unit == "B":
        days = np.busday_offset(day, places)
    else:
        days = _month_day(day.astype("datetime64[M]") + places * step.count, step)
    return days.astype("datetime64[ns]") + (first - day.astype("datetime64[ns]"))


def next_times(last: np.datetime64, step: str, count: int) -> np.ndarray:
    """The times after the last one.

    Args:
      last: the time of the last value.
      step: as in the facts of a dataset of series.
      count: how many times.

    Returns:
      datetime64[ns] (count,).

    Example:
      >>> next_times(np.datetime64("2024-12-01"), "MS", 2).astype("datetime64[D]").astype(str).tolist()
      ['2025-01-01', '2025-02-01']
    """
    return step_times(last, Step.parse(step), np.arange(1, count + 1))


def wall_clock(times: np.ndarray, zone: str, step: str) -> np.ndarray:
    """The local times for calendar features such as the hour of the day.

    Args:
      times: datetime64[ns] (T,), as in a dataset of series.
      zone: the fact "zone": a name such as "Europe/Berlin", or "" for none.
      step: the fact "step"; with steps of a day or longer, times are dates already.

    Returns:
      datetime64[ns] (T,), in local time without a zone.

    Example:
      >>> summer = np.array(["2024-07-01T12:00"], "datetime64[ns]")
      >>> wall_clock(summer, "Europe/Berlin", "1h").astype("datetime64[h]").astype(str).tolist()
      ['2024-07-01T14']
    """
    if not zone or Step.parse(step).is_calendar:
        return times
    hours, where = np.unique(times.astype("datetime64[s]").astype(np.int64) // 900, return_inverse=True)
    return times + _offsets(zone, hours * 900)[where].astype("timedelta64[s]")


def _offsets(zone: str, seconds: np.ndarray) -> np.ndarray:
    """The offset of local time from UTC in seconds, at instants given in seconds since 1970."""
    import datetime
    import zoneinfo

    where = zoneinfo.ZoneInfo(zone)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    instants = (epoch + datetime.timedelta(seconds=int(second)) for second in seconds)
    there = [instant.astimezone(where) for instant in instants]
    return np.array([time.utcoffset().total_seconds() for time in there], np.int64)  # pyright: ignore[reportOptionalMemberAccess]


def _month_day(months: np.ndarray, step: Step) -> np.ndarray:
    """The first or the last day of months."""
    if step.unit == "MS":
        return months.astype("datetime64[D]")
    return (months + 1).astype("datetime64[D]") - 1


def find_step(series: list[np.ndarray]) -> Step:
    """Infers the step of series that may have gaps: the most frequent difference between consecutive times.

    Steps of month starts, month ends or business days are found if all times are such.

    Args:
      series: datetime64[ns], each ascending, at least one of two or more times.

    Raises:
      UserError: no series has two times.

    Example:
      >>> str(find_step([np.array(["2024-01-01", "2024-02-01", "2024-04-01"], "datetime64[ns]")]))
      'MS'
      >>> str(find_step([np.array(["2024-01-01T00:00", "2024-01-01T00:30", "2024-01-01T02:00"], "datetime64[ns]")]))
      '30min'
    """
    series = [np.sort(times) for times in series]
    gaps = np.concatenate([np.diff(times) for times in series]).astype(np.int64)
    gaps = gaps[gaps > 0]
    if not len(gaps):
        raise UserError("no series has two times, so that no step can be found; give longer series, or say it: step=1D")
    times = np.concatenate(series)
    days = times.astype("datetime64[D]")
    at_midnight = bool(np.all(times == days))
    if at_midnight and gaps.min() >= 28 * NS_PER_DAY:
        for unit in ("MS", "ME"):
            if np.all(days == _month_day(days.astype("datetime64[M]"), Step(1, unit))):
                months = np.concatenate([np.diff(s.astype("datetime64[M]")) for s in series]).astype(np.int64)
                return Step(_most_frequent(months[months > 0]), unit)
    most = _most_frequent(gaps)
    weekend_only = set((gaps[gaps != NS_PER_DAY] // NS_PER_DAY).tolist())
    if at_midnight and most == NS_PER_DAY and 3 in weekend_only and np.all(np.is_busday(days)):
        return Step(1, "B")
    return Step.parse(str(Step(most, "ns")))


def _most_frequent(values: np.ndarray) -> int:
    """The most frequent value; the smallest on a tie."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[np.argmax(counts)])
