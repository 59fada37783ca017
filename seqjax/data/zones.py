"""Converts local times to UTC: offsets, zones, and the hours that clock changes skip or repeat."""

import datetime
import zoneinfo

import numpy as np

from seqjax.data.readers.series_tables import Table
from seqjax.data.records import Faults
from seqjax.data.steps import wall_clock
from seqjax.errors import UserError, nearest


def check_zone(zone: str) -> None:
    """Refuse an unknown time zone.

    Example:
      >>> check_zone("Europe/Berlim")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: zone='Europe/Berlim' is not a time zone (nearest: Europe/Berlin); give one such as Europe/Berlin
    """
    try:
        if zone:
            zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = nearest(zone, sorted(zoneinfo.available_timezones()))
        raise UserError(f"zone={zone!r} is not a time zone{near}; give one such as Europe/Berlin") from None


def instants(table: Table, zone: str, faults: Faults) -> np.ndarray:
    """The times of a table in UTC; unchanged if they are dates, or if their offset from UTC is unknown.

    Args:
      table: has the times as written.
      zone: the time zone of times without an offset; "" for none.
      faults: collects hours that do not exist, or that exist twice and cannot be told apart.

    Returns:
      datetime64[ns] (N,).

    Example:
      >>> import tempfile
      >>> from seqjax.data.readers.series_tables import Fields, read_series_table
      >>> from seqjax.data.readers.tables import Format
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"hour,power\\n2024-10-27T02:00,5\\n2024-10-27T02:00,6\\n2024-10-27T03:00,7\\n")
      ...     file.flush()
      ...     table = read_series_table(file.name, Fields(), "long", Format())
      >>> instants(table, "Europe/Berlin", Faults("")).astype("datetime64[h]").astype(str).tolist()
      ['2024-10-27T00', '2024-10-27T01', '2024-10-27T02']
    """
    wall, ahead = table.times.wall, table.times.ahead
    if ahead is not None:
        utc = wall - ahead.astype("timedelta64[s]")
        local = wall_clock(utc, zone, "1h") if zone else wall
        return local if _are_dates(local) else utc
    if not zone or _are_dates(wall):
        return wall
    return wall - _ahead(table, zone, faults).astype("timedelta64[s]")


def _are_dates(wall: np.ndarray) -> bool:
    """Whether all have the same time of day."""
    return len(np.unique(wall - wall.astype("datetime64[D]"))) == 1


def _ahead(table: Table, zone: str, faults: Faults) -> np.ndarray:
    """Seconds ahead of UTC; if an hour exists twice, its first occurrence in a series is before the clock change."""
    wall = table.times.wall
    quarters, where = np.unique(wall.astype("datetime64[s]").astype(np.int64) // 900, return_inverse=True)
    before, after = _both_offsets(zone, quarters * 900)
    skipped, twice = (before < after)[where], (before > after)[where]
    for i in np.flatnonzero(skipped):
        faults.add(f"{table.at(i)}: {_text(wall[i])} does not exist in {zone}, where clocks were put forward; correct it, or the zone")
    ahead = before[where]
    seen: dict[tuple[int, np.datetime64], int] = {}
    for i in np.flatnonzero(twice):
        key = (int(table.series[i]), wall[i])
        seen[key] = seen.get(key, 0) + 1
        ahead[i] = (before if seen[key] == 1 else after)[where[i]]
    for i in np.flatnonzero(twice):
        if seen[int(table.series[i]), wall[i]] == 1:
            faults.add(
                f"{table.at(i)}: {_text(wall[i])} exists twice in {zone}, where clocks were put back, but occurs once here; write both "
                "hours, or times with their offset from UTC"
            )
    return ahead


def _text(time: np.datetime64) -> str:
    return str(time.astype("datetime64[m]"))


def _both_offsets(zone: str, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds ahead of UTC before and after a clock change, for local times in seconds since 1970."""
    where, epoch = zoneinfo.ZoneInfo(zone), datetime.datetime(1970, 1, 1)
    local = [(epoch + datetime.timedelta(seconds=int(second))).replace(tzinfo=where) for second in seconds]
    folds = (
        [round(time.replace(fold=fold).utcoffset().total_seconds()) for time in local]  # pyright: ignore[reportOptionalMemberAccess]
        for fold in (0, 1)
    )
    before, after = (np.array(fold, np.int64) for fold in folds)
    return before, after
