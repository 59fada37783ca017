"""Output of forecasting experiments: rows, pictures, and the table of a prediction."""

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from seqjax.data.pipeline.forecast_windows import SeriesTable
from seqjax.data.records import Records
from seqjax.data.series import load_series, read_more_series
from seqjax.data.steps import Step, wall_clock
from seqjax.diagnostics import forecasts as pictures
from seqjax.errors import UserError
from seqjax.models.forecast_networks import Window
from seqjax.nn.outputs import LEVELS
from seqjax.run.backtest import Backtest, chosen
from seqjax.run.forecast_baselines import Forecasts
from seqjax.run.parts import with_settings
from seqjax.run.settings import ConfigDict
from seqjax.training.disk import write_atomically
from seqjax.training.metrics import forecasts as metrics

WRITTEN = (0.025, 0.1, 0.25, 0.75, 0.9, 0.975)  # the bounds of the 95, 80 and 50 % intervals
NAMES = ("low_95", "low_80", "low_50", "high_50", "high_80", "high_95")
SHOWN = 6  # forecasts in a picture


def check(config: ConfigDict) -> None:
    """Refuses settings that do not fit each other.

    Raises:
      UserError: they do not.
    """
    d, m, _ = config.data, config.model, chosen(config.baselines.names)
    if d.stateful and m.scaling != "series":
        raise UserError(
            f"config.data.stateful=True needs one scale for all windows; it does not work with config.model.scaling={m.scaling}"
        )
    if d.stateful and d.past_fields:
        raise UserError("config.data.stateful=True has no origin at which config.data.past_fields could end; leave one of them out")
    if m.kind == "direct" and d.forks + m.highway > d.context:
        both = f"config.data.forks={d.forks} and config.model.highway={m.highway} together"
        raise UserError(f"config.data.context={d.context} must be at least {both}")


def place_of(level: float) -> int:
    """The index of a level in LEVELS.

    Example:
      >>> place_of(0.5)
      19
    """
    return int(np.argmin(np.abs(LEVELS - level)))


def empty_window(spec: Any, context: int, horizon: int) -> Window:
    """An example window for initialising the model's parameters.

    Args:
      spec: with `statistics`, `features` and `facts`.
      context, horizon: C and H.
    """
    size, statistics = context + horizon, spec.statistics
    known = 2 * len(statistics["known"]) + 6 * len(spec.features)

    def zeros(*shape):
        return np.zeros((1, *shape), np.float32)

    columns = (zeros(size, known), zeros(size, 2 * len(statistics["past"])), zeros(len(spec.facts["static"])))
    ones = np.ones(1, np.float32)
    return Window(zeros(size), np.ones((1, size), bool), *columns, 0 * ones, ones, np.ones(1, bool))


def rows(part: Records, test: Backtest, found: Forecasts, facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The forecasts of a backtest, a row for each series."""
    bounds = [place_of(level) for level in WRITTEN]
    for s, name in enumerate(part["name"]):
        own = np.flatnonzero(test.series == s)
        yield {
            "series": name,
            "forecasts": [
                {
                    "after": shown_times(part["time"][s][test.origins[i] - 1 : test.origins[i]], facts)[0],
                    "median": found.point[i].round(6).tolist(),
                    **{label: found.quantiles[i, :, at].round(6).tolist() for label, at in zip(NAMES, bounds)},
                    "observed": [None if np.isnan(y) else float(y) for y in test.truth[i]],
                }
                for i in own
            ],
        }


def draw(
    folder: pathlib.Path, split: str, part: Records, test: Backtest, found: Mapping[str, Forecasts], context: int
) -> Iterator[pathlib.Path]:
    """Forecasts at several origins, calibration, and the error at each horizon.

    Args:
      folder: of the PNG files.
      split: in their names.
      part: of the data.
      test: the backtest.
      found: "model" and each baseline -> its forecasts.
      context: steps before the origin that are drawn, at most five horizons.
    """
    model, horizon = found["model"], test.truth.shape[1]
    seen = np.flatnonzero(np.isfinite(test.truth).any(1))
    shown = seen[np.unique(np.linspace(0, len(seen) - 1, SHOWN).round().astype(int))]
    before, drawn = min(context, max(5 * horizon, 30)), []
    for i in shown:
        s, o = test.series[i], test.origins[i]
        time, value = part["time"][s], part["value"][s]
        history, ahead = slice(max(o - before, 0), o), slice(o, o + horizon)
        drawn.append(pictures.Drawn(part["name"][s], time[history], value[history], time[ahead], model.quantiles[i], test.truth[i]))
    yield pictures.plot_forecasts(folder / f"forecasts_{split}.png", drawn)
    real = np.isfinite(test.truth)

    def below(one):
        return (test.truth[..., None] <= one.quantiles)[real].mean(0)

    transform = metrics.probability_transform(test.truth[real], model.quantiles[real])
    yield pictures.plot_calibration(folder / f"calibration_{split}.png", {name: below(one) for name, one in found.items()}, transform)
    errors = {name: metrics.by_horizon(test.truth, one.quantiles) for name, one in found.items()}
    yield pictures.plot_by_horizon(folder / f"horizon_{split}.png", errors)


def checked_horizon(asked: int, learned: int, kind: str) -> int:
    """The number of steps of a prediction.

    Raises:
      UserError: a direct model is asked for more steps than it has learned.

    Example:
      >>> checked_horizon(0, 24, "direct"), checked_horizon(48, 24, "autoregressive")
      (24, 48)
      >>> checked_horizon(48, 24, "direct")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: --horizon=48 is more than the 24 steps that this model predicts at once; train ...
    """
    if kind == "direct" and asked > learned:
        raise UserError(
            f"--horizon={asked} is more than the {learned} steps that this model predicts at once; train another with"
            f" --config.data.horizon={asked}, or one with --config.model.kind=autoregressive"
        )
    return asked or learned


def newest(config: ConfigDict, facts: Mapping[str, Any], path: str) -> Records:
    """The series to predict from, whole: of a newer table, or those of the run.

    Args:
      config: of the run.
      facts: of its data.
      path: of a newer table; "" takes the run's own.

    Raises:
      UserError: as `load_series` and `read_more_series`.
    """
    if path or config.data.source == "file":
        return with_settings(read_more_series, config.data, path=path or config.data.path, facts=facts)
    parts = with_settings(load_series, config.data).parts
    return parts.get("test", parts["validation"])


def tell(table: SeriesTable, part: Records, quantiles: np.ndarray, facts: Mapping[str, Any], options: Any, context: int) -> None:
    """Prints a prediction as CSV or writes it into a file, and draws it where that is asked for.

    Args:
      table: of the series with the steps to predict at their ends.
      part: the same series without.
      quantiles: (S, H, Q) at LEVELS.
      facts: of the data.
      options: with `output` and `plot`, paths or "".
      context: as of `draw`.

    Raises:
      UserError: a file cannot be written.
    """
    horizon, text = quantiles.shape[1], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["series", "time", "median", *NAMES])
    columns = [place_of(level) for level in (0.5, *WRITTEN)]
    ends = table.starts + table.lengths
    for s, name in enumerate(table.names):
        times = shown_times(table.times[ends[s] - horizon : ends[s]], facts)
        for time, row in zip(times, quantiles[s][:, columns]):
            writer.writerow([name, time, *(f"{value:.6g}" for value in row)])
    if options.output:
        write_output(options.output, text.getvalue())
        print(options.output)
    else:
        print(text.getvalue(), end="")
    if options.plot:
        print(draw_prediction(pathlib.Path(options.plot), table, part, quantiles, context))


def draw_prediction(path: pathlib.Path, table: SeriesTable, part: Records, quantiles: np.ndarray, context: int) -> pathlib.Path:
    """Draws the predictions of the first six series after their last values."""
    horizon, drawn = quantiles.shape[1], []
    for s in range(min(len(table.names), SHOWN)):
        last, end = max(min(context, 5 * horizon), 30), table.starts[s] + table.lengths[s]
        time, value = part["time"][s][-last:], part["value"][s][-last:]
        drawn.append(pictures.Drawn(table.names[s], time, value, table.times[end - horizon : end], quantiles[s]))
    try:
        return pictures.plot_forecasts(path, drawn)
    except (OSError, ValueError) as error:
        raise UserError(f"--plot={path} cannot be written ({error}); give the path of a .png file in a folder that exists") from None


def write_output(path: str, text: str) -> None:
    """Writes a text file whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    try:
        write_atomically(pathlib.Path(path), text)
    except OSError as error:
        raise UserError(f"--output={path} cannot be written ({error.strerror}); give a path in a folder that exists") from None


def shown_times(times: np.ndarray, facts: Mapping[str, Any]) -> list[str]:
    """Readable times: dates for steps of a day or longer, else date and time with the zone's offset, if any.

    Example:
      >>> noon = np.array(["2024-07-01T12:00"], "datetime64[ns]")
      >>> shown_times(noon, {"step": "1D", "zone": ""}), shown_times(noon, {"step": "1h", "zone": "Europe/Berlin"})
      (['2024-07-01'], ['2024-07-01T14:00:00+02:00'])
    """
    step, zone = facts["step"], facts["zone"]
    if Step.parse(step).is_calendar:
        return times.astype("datetime64[D]").astype(str).tolist()
    local = wall_clock(times, zone, step)
    minutes = ((local - times) / np.timedelta64(1, "m")).round().astype(int)
    unit = "s" if (times == times.astype("datetime64[s]")).all() else "ns"
    texts = local.astype(f"datetime64[{unit}]").astype(str)
    if not zone:
        return texts.tolist()
    return [f"{text}{'-' if m < 0 else '+'}{abs(m) // 60:02}:{abs(m) % 60:02}" for text, m in zip(texts, minutes)]
