"""Calendar and clock features of a time, as sines and cosines of cycles."""

from collections.abc import Sequence

import numpy as np

from seqjax.data.steps import UNITS, Step, wall_clock
from seqjax.errors import refuse_unknown

# name -> (the longest step for which it makes sense, in nanoseconds; harmonics)
CYCLES = {"hour": (UNITS["h"] * 12, 3), "weekday": (UNITS["D"], 3), "yearday": (UNITS["D"] * 92, 3)}


def choose_features(step: str) -> tuple[str, ...]:
    """The cycles that vary from step to step: the hour for hourly data, the day of the week for daily data, ...

    Args:
      step: as in the facts of a dataset of series.

    Example:
      >>> choose_features("1h"), choose_features("1D"), choose_features("MS"), choose_features("12MS")
      (('hour', 'weekday', 'yearday'), ('weekday', 'yearday'), ('yearday',), ())
    """
    parsed = Step.parse(step)
    size = {"B": UNITS["D"]}.get(parsed.unit) or parsed.count * UNITS.get(parsed.unit, 28 * UNITS["D"])
    return tuple(name for name, (longest, _) in CYCLES.items() if size <= longest)


def chosen_features(setting: str, step: str) -> tuple[str, ...]:
    """The cycles that a setting selects: `auto` chooses by the step, `none` selects none, else comma-separated names.

    Args:
      setting: the setting data.time_features.
      step: as in the facts of a dataset of series.

    Raises:
      UserError: an unknown cycle.

    Example:
      >>> chosen_features("auto", "1h"), chosen_features("none", "1h"), chosen_features("hour,yearday", "1h")
      (('hour', 'weekday', 'yearday'), (), ('hour', 'yearday'))
    """
    if setting in ("auto", "none"):
        return choose_features(step) if setting == "auto" else ()
    names = tuple(name.strip() for name in setting.split(",") if name.strip())
    for name in names:
        refuse_unknown(f"data.time_features: {name!r} is unknown", name, ("auto", "none", *CYCLES))
    return names


def time_features(times: np.ndarray, names: Sequence[str], *, step: str, zone: str = "") -> np.ndarray:
    r"""Sines and cosines of the phases of times in cycles.

    .. math:: (\sin 2 \pi k \phi, \cos 2 \pi k \phi)_{k = 1 \dots 3}, \quad \phi \in [0, 1) \text{ the position in the cycle}

    Args:
      times: datetime64[ns] (T,).
      names: names from CYCLES: `hour` (of the day), `weekday`, `yearday` (day of the year).
      step: between the times, as in the facts of a dataset of series.
      zone: the time zone of local time, such as "Europe/Berlin"; "" for none.

    Returns:
      float32 (T, 6 len(names)).

    Example:
      >>> times = np.array(["2024-01-01T00", "2024-01-01T06"], "datetime64[ns]")
      >>> time_features(times, ["hour"], step="1h")[:, :2].round(3).tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    local = wall_clock(times, zone, step)
    days = local.astype("datetime64[D]")
    years = local.astype("datetime64[Y]")
    of_day = (local - days) / np.timedelta64(1, "D")
    columns = [np.zeros((len(times), 0), np.float32)]
    for name in names:
        if name == "hour":
            phase = of_day
        elif name == "weekday":
            phase = ((days.astype(np.int64) + 3) % 7) / 7  # Monday is 0
        else:
            lengths = ((years + 1).astype("datetime64[D]") - years.astype("datetime64[D]")) / np.timedelta64(1, "D")
            phase = ((days - years.astype("datetime64[D]")) / np.timedelta64(1, "D") + of_day) / lengths
        angles = 2 * np.pi * np.arange(1, CYCLES[name][1] + 1) * phase[:, None]
        columns.append(np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(times), -1).astype(np.float32))
    return np.concatenate(columns, -1)
