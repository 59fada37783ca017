"""Times in common notations: recognised and placed in a time zone, never guessed."""

import calendar
import datetime
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.records import Faults
from seqjax.errors import UserError

At = Callable[[Any], str]  # the index of a time -> its location, such as "a.csv line 3"
CLOCK = r"(?:[T ]\s*(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?\s*(?P<p>[AaPp][Mm])?)?"
OFFSET = r"\s*(?P<z>Z|UTC|[+-]\d{2}(?::?\d{2})?(?::\d{2})?)?"
YEAR_FIRST = re.compile(rf"(?P<Y>\d{{4}})(?P<s>[-/.])(?P<m>\d{{1,2}})(?:(?P=s)(?P<d>\d{{1,2}}))?{CLOCK}{OFFSET}", re.ASCII)
COMPACT = re.compile(r"(?P<Y>[12]\d{3})(?P<m>\d{2})(?P<d>\d{2})(?:T?(?P<H>\d{2})(?P<M>\d{2})(?P<S>\d{2})?)?(?P<z>Z)?", re.ASCII)
YEAR = re.compile(r"(?P<Y>[12]\d{3})", re.ASCII)
QUARTER = re.compile(r"(?P<Y>\d{4})[- ]?Q(?P<q>[1-4])", re.ASCII)
YEAR_LAST = re.compile(rf"(?P<a>\d{{1,2}})(?P<s>[-/.])(?P<b>\d{{1,2}})(?P=s)(?P<Y>\d{{4}}){CLOCK}{OFFSET}", re.ASCII)
EPOCH = re.compile(r"-?\d{9,19}(?:\.\d{1,9})?", re.ASCII)
NAMED = ("%b %Y", "%B %Y", "%b-%Y", "%Y %b", "%Y-%b", "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y")
PARTS = ("year", "month", "day", "hour", "minute", "second")
WAYS = ("dayfirst", "monthfirst")
UNITS = (("seconds", 9, 10**9), ("milliseconds", 12, 10**6), ("microseconds", 15, 10**3), ("nanoseconds", 18, 1))
ADVICE = "write times such as 2024-01-31 or 2024-01-31T14:00, or say how they are written, such as time_format=%d.%m.%y"
MISSING = np.datetime64("NaT", "ns")


class Times(NamedTuple):
    """Parsed times."""

    wall: np.ndarray  # datetime64[ns] (N,), as written; NaT for those with a fault
    ahead: np.ndarray | None  # int64 (N,), seconds ahead of UTC; None if the times have no offset
    notes: tuple[str, ...] = ()


def read_times(texts: Sequence[str], at: At, faults: Faults, time_format: str = "") -> Times:
    """Times of one column, all in the same notation.

    Recognised are ISO 8601 (2024-01-31, 2024-01-31T14:00:00.5+01:00, 2024-01) with any of - / . as separator, 20240131, years,
    quarters (2024Q1), 31.01.2024 and 31/01/2024 if one of the column's days is above 12, 31 Jan 2024, and seconds,
    milliseconds, microseconds or nanoseconds since 1970.

    Args:
      texts: the times.
      at: the location of each.
      faults: collects entries that are not times.
      time_format: "" recognises it; "dayfirst" or "monthfirst" says which of 01/02/2024 is the day; else a format of
        Python's strptime, such as "%d.%m.%y %H:%M".

    Raises:
      UserError: the column does not hold times, or nothing says which number is the day.

    Example:
      >>> faults = Faults("a.csv")
      >>> read_times(["1/2/2024", "13/2/2024"], "a.csv line {}".format, faults).wall.astype("datetime64[D]").astype(str).tolist()
      ['2024-02-01', '2024-02-13']
    """
    texts = [text.strip() for text in texts]
    if time_format and time_format not in WAYS:
        return _by_format(texts, at, faults, time_format)
    first = next((text for text in texts if text), "")
    if not first:
        raise UserError(f"{at(0)}: the time is empty; {ADVICE}")
    if YEAR_LAST.fullmatch(first):
        return _day_and_month(texts, at, faults, time_format)
    if time_format:
        raise UserError(f"{at(0)}: time_format={time_format} is for times such as 01/02/2024, and there is {first!r}; leave it empty")
    for pattern in (YEAR_FIRST, YEAR, QUARTER, COMPACT):
        match = pattern.fullmatch(first)
        if match and not (pattern is COMPACT and not _fields(match)):
            return _by_pattern(texts, at, faults, pattern)
    if EPOCH.fullmatch(first):
        return _since_1970(texts, at, faults)
    if possible := [written for written in NAMED if _parsed(first, written) is not None]:  # May is both a long and a short name
        written = max(possible, key=lambda form: sum(_parsed(text, form) is not None for text in texts[:100]))
        return _by_format(texts, at, faults, written)
    raise UserError(f"{at(0)}: {first[:60]!r} is not a time that is recognised; {ADVICE}")


def join_parts(columns: Sequence[Sequence[str]], names: Sequence[str]) -> list[str]:
    """Times whose parts are in separate columns: year, month, day, ... in this order, or a date and a time of day.

    Example:
      >>> join_parts([["2010", "2010"], ["1", "1"], ["2", "2"], ["0", "13"]], ["year", "month", "day", "hour"])
      ['2010-1-2 0:00', '2010-1-2 13:00']
      >>> join_parts([["2010-01-02"], ["14:30"]], ["date", "time"])
      ['2010-01-02 14:30']
    """
    if len(columns) == 1:
        return list(columns[0])
    if not YEAR.fullmatch(columns[0][0].strip()):
        return [" ".join(part.strip() for part in row) for row in zip(*columns)]
    order = [PARTS.index(name.lower()) for name in names if name.lower() in PARTS]
    if len(order) not in (0, len(names)) or (order and order != list(range(len(names)))) or len(names) > len(PARTS):
        raise UserError(f"time_field={','.join(names)} is not in the order of {', '.join(PARTS)}; name the fields in that order")
    ends = ("-1-1", "-1", "", ":00", "", "")
    separators = ("", "-", "-", " ", ":", ":")
    joined = ["".join(f"{s}{part.strip()}" for s, part in zip(separators, row)) for row in zip(*columns)]
    if len(columns) > 4:
        joined = [re.sub(r"(?<=:)(\d)(?=:|$)", r"0\1", text) for text in joined]
    return [text + ends[len(columns) - 1] for text in joined]


# Notations


def _by_pattern(texts: Sequence[str], at: At, faults: Faults, pattern: re.Pattern) -> Times:
    found = [pattern.fullmatch(text) for text in texts]
    rows, ahead = np.zeros((len(texts), 7), np.int64), np.zeros(len(texts), np.int64)
    wrong, with_offset = [], 0
    for i, match in enumerate(found):
        fields = _fields(match) if match else None
        if fields is None:
            wrong.append(i)
        else:
            rows[i], offset = fields
            with_offset += offset is not None
            ahead[i] = offset or 0
    for i in wrong:
        rows[i] = (1970, 1, 1, 0, 0, 0, 0)
        said = "the time is empty" if not texts[i] else f"{texts[i][:60]!r} is not a time, as {_first_other(texts, wrong)!r} is"
        faults.add(f"{at(i)}: {said}; repair that line")
    if with_offset not in (0, len(texts) - len(wrong)):
        some = next(i for i, match in enumerate(found) if match and not match.groupdict().get("z"))
        faults.add(f"{at(some)}: {texts[some]!r} has no offset from UTC, but other times have one; give all of them one")
    wall = _assembled(rows)
    wall[wrong] = MISSING
    return Times(wall, ahead if with_offset else None)


def _first_other(texts: Sequence[str], wrong: Sequence[int]) -> str:
    places = set(wrong)
    return next((text for i, text in enumerate(texts) if i not in places), "2024-01-31")


def _fields(match: re.Match) -> tuple[tuple[int, ...], int | None] | None:
    """(year, month, day, hour, minute, second, nanosecond) and the seconds ahead of UTC; None for an impossible date."""
    named = match.groupdict()
    month = 3 * int(named["q"]) - 2 if named.get("q") else int(named.get("m") or 1)
    hour, half = int(named.get("H") or 0), (named.get("p") or "").lower()
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half == "pm")
    fraction = int((named.get("f") or "").ljust(9, "0") or 0)
    row = (int(named["Y"]), month, int(named.get("d") or 1), hour, int(named.get("M") or 0), int(named.get("S") or 0), fraction)
    if not _is_sound(row):
        return None
    return row, _ahead(named.get("z"))


def _is_sound(row: tuple[int, ...]) -> bool:
    year, month, day, hour, minute, second, _ = row
    if not (1678 <= year <= 2261 and 1 <= month <= 12 and 1 <= day <= 31):  # the range of 64-bit nanoseconds
        return False
    clock = minute < 60 and second < 60 and (hour < 24 or (hour == 24 and minute == second == 0))
    return clock and day <= calendar.monthrange(year, month)[1]


def _ahead(offset: str | None) -> int | None:
    if not offset:
        return None
    if offset in ("Z", "UTC"):
        return 0
    digits = offset[1:].replace(":", "").ljust(6, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:6])
    return -seconds if offset[0] == "-" else seconds


def _assembled(rows: np.ndarray) -> np.ndarray:
    months = (rows[:, 0] - 1970) * 12 + rows[:, 1] - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (rows[:, 2] - 1)
    seconds = (rows[:, 3] * 60 + rows[:, 4]) * 60 + rows[:, 5]
    return days.astype("datetime64[ns]") + (seconds * 10**9 + rows[:, 6]).astype("timedelta64[ns]")


def _day_and_month(texts: Sequence[str], at: At, faults: Faults, way: str) -> Times:
    """Times such as 01/02/2024: any day above 12 says which number is the day."""
    found = [YEAR_LAST.fullmatch(text) for text in texts]
    firsts, seconds = ([int(match[name]) if match else 0 for match in found] for name in ("a", "b"))
    if not way:
        day_first, month_first = max(firsts) > 12, max(seconds) > 12
        if day_first and month_first:
            one, other = (next(i for i, number in enumerate(numbers) if number > 12) for numbers in (firsts, seconds))
            raise UserError(
                f"{at(one)}: in {texts[one]!r} the day comes first, but in {texts[other]!r} ({at(other)}) the month; repair one"
            )
        if not day_first and not month_first:
            if found[0] is not None and found[0]["s"] != ".":
                raise UserError(
                    f"{at(0)}: {texts[0]!r} may be two dates, and no day is above 12; say which number is the day: "
                    "time_format=dayfirst or time_format=monthfirst"
                )
            day_first = True  # with dots, the day comes first
        way = "dayfirst" if day_first else "monthfirst"
    day, month = ("a", "b") if way == "dayfirst" else ("b", "a")
    turned = [f"{match['Y']}-{match[month]}-{match[day]}{text[match.end('Y') :]}" if match else text for match, text in zip(found, texts)]
    return _by_pattern(_with_faults_as_written(turned, found), at, faults, YEAR_FIRST)


def _with_faults_as_written(turned: Sequence[str], found: Sequence[re.Match | None]) -> list[str]:
    """Refuses a time that does not match the form."""
    return [text if match else f"{text}?" if text else "" for text, match in zip(turned, found)]


def _since_1970(texts: Sequence[str], at: At, faults: Faults) -> Times:
    sizes = [len(text.partition(".")[0].lstrip("-")) for text in texts if EPOCH.fullmatch(text)]
    name, _, unit = next(entry for entry in reversed(UNITS) if entry[1] <= max(sizes) or entry is UNITS[0])
    wall = np.full(len(texts), MISSING)
    for i, text in enumerate(texts):
        if not EPOCH.fullmatch(text) and not re.fullmatch(r"-?\d{1,8}(\.\d+)?", text, re.ASCII):
            faults.add(f"{at(i)}: {text[:60]!r} is not a number of {name} since 1970; repair that line")
            continue
        whole, _, rest = text.partition(".")
        part = int(rest.ljust(9, "0")[:9]) * unit // 10**9
        nanoseconds = int(whole) * unit + (-part if whole.startswith("-") else part)
        if abs(nanoseconds) < 2**63:
            wall[i] = np.datetime64(nanoseconds, "ns")
        else:
            faults.add(f"{at(i)}: {text[:60]!r} is too large for {name} since 1970; repair that line")
    return Times(wall, np.zeros(len(texts), np.int64), (f"times are {name} since 1970",))


def _by_format(texts: Sequence[str], at: At, faults: Faults, written: str) -> Times:
    wall, ahead, with_offset = np.full(len(texts), MISSING), np.zeros(len(texts), np.int64), False
    for i, text in enumerate(texts):
        time = _parsed(text, written)
        if time is None or not 1678 <= time.year <= 2261:
            faults.add(f"{at(i)}: {text[:60]!r} is not a time of the form {written}; repair that line, or set time_format")
            continue
        if (offset := time.utcoffset()) is not None:
            with_offset, ahead[i] = True, round(offset.total_seconds())
        wall[i] = np.datetime64(time.replace(tzinfo=None), "ns")
    return Times(wall, ahead if with_offset else None)


def _parsed(text: str, written: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(text, written)
    except ValueError:
        return None
    except re.error as error:
        raise UserError(f"time_format={written!r} is not a format of times ({error}); give one such as %d.%m.%Y %H:%M") from None
