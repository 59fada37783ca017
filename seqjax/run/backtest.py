"""Rolling-origin backtests: the same origins for a model and its baselines, and their scores."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.best_forecasts import best_possible
from seqjax.data.pipeline.forecast_windows import SeriesTable, rolling_origins
from seqjax.data.records import Records
from seqjax.errors import UserError, refuse_unknown
from seqjax.run import forecast_baselines as simple
from seqjax.run.forecast_baselines import Forecasts
from seqjax.training.metrics import forecasts as metrics


class Backtest(NamedTuple):
    """The forecasts to make, with the true values."""

    series: np.ndarray  # (N,), which series each forecast is of
    origins: np.ndarray  # (N,), how many of its steps lie before it
    truth: np.ndarray  # (N, H), NaN where missing
    unit: np.ndarray  # (N,), the scale that MASE divides by

    @classmethod
    def make(cls, part: Records, *, context: int, horizon: int, stride: int, season: int) -> "Backtest":
        """The forecast origins of a part: its first step, then one every `stride` steps.

        Args:
          part: of a data set of series.
          context, horizon: C and H.
          stride: between origins; 0 is the horizon.
          season: m of MASE.

        Raises:
          UserError: no horizon fits.
        """
        lengths = [len(value) for value in part["value"]]
        series, origins = rolling_origins(lengths, part["first"], context, horizon, stride or horizon)
        if not len(origins):
            raise UserError(
                f"no series has {horizon} steps in this part with {context} before them; make data.horizon or data.context smaller,"
                " or the part longer (data.validation_steps, data.test_steps)"
            )
        truth = np.array([part["value"][s][o : o + horizon] for s, o in zip(series, origins)])
        if not np.isfinite(truth).any():
            names = ", ".join(dict.fromkeys(part["name"][s] for s in series))
            raise UserError(
                f"every value to be forecast in this part is missing (series: {names}); make the part longer"
                " (data.validation_steps, data.test_steps)"
            )
        units = [metrics.seasonal_error(value[:end], season) for value, end in zip(part["value"], fitted_on(part))]
        return cls(series, origins, truth, np.array(units)[series])

    def scores(self, found: Forecasts) -> dict[str, float]:
        """CRPS, MASE, RMSE and coverage, see `forecast_scores`."""
        return metrics.forecast_scores(self.truth, found.point, found.quantiles, self.unit)

    def best_crps(self, name: str, part: Records) -> float:
        """The CRPS of the true process of an embedded dataset, the best possible; see `seqjax.data.best_forecasts`."""
        best = best_possible(name, part, self.series, self.origins, self.truth.shape[1])
        return float(np.nanmean(best.crps))

    def baselines(
        self, names: Sequence[str], part: Records, table: SeriesTable, season: int, *, context: int, refits: int
    ) -> dict[str, Forecasts]:
        """The baselines' forecasts from the same origins.

        Args:
          names: which.
          part: of the data.
          table: the same, for what is known of each step.
          season: m.
          context, refits: of ETS and AutoARIMA, see `seqjax.run.forecast_baselines.statistical`.
        """
        several, first = [], fitted_on(part)
        for s in np.unique(self.series):
            steps = slice(table.starts[s], table.starts[s] + table.lengths[s])
            own = self.origins[self.series == s]
            several.append(simple.Series(part["value"][s], table.known[steps], int(first[s]), own, self.truth.shape[1], season))
        return {name: simple.forecast(name, several, context=context, refits=refits) for name in names}


def fitted_on(part: Records) -> list[int]:
    """How many steps of each series the baselines are fitted on: all before the part; for the training part, all of it, like the model."""
    return [int(first) or len(value) for first, value in zip(part["first"], part["value"])]


def chosen(names: str) -> list[str]:
    """The baselines that a setting names.

    Raises:
      UserError: one of them is unknown.

    Example:
      >>> chosen("naive, ETS")
      ['naive', 'ETS']
    """
    found, known = [name.strip() for name in names.split(",") if name.strip()], [*simple.SIMPLE, *simple.STATISTICAL]
    for name in found:
        refuse_unknown(f"baselines.names: {name!r} is unknown", name, known)
    return found


def model_forecasts(forecast: Callable[[Any], np.ndarray], windows: Any) -> Forecasts:
    """The forecasts of a model from every window, in order.

    Args:
      forecast: window -> quantiles (B, H, Q).
      windows: batches, see `ordered_windows`.
    """
    found = np.concatenate([forecast(window)[window.mask] for window in windows])
    return Forecasts(found[..., found.shape[-1] // 2], found)
