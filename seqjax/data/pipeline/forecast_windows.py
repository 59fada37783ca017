"""Windows of series with a context and a horizon, shuffled or rolling, and streams with a persistent carry."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.checks import check_whole, shard_rows
from seqjax.data.draws import permutation
from seqjax.data.pipeline.resumable import Resumable
from seqjax.data.pipeline.streams import TokenStream
from seqjax.data.pipeline.windows import SequenceBatch, Windows
from seqjax.data.records import Faults, Records
from seqjax.data.steps import next_times
from seqjax.data.time_features import time_features
from seqjax.errors import UserError
from seqjax.models.forecast_networks import Steps, Window


class Statistics(NamedTuple):
    """Statistics of the training part, JSON-serialisable.

    Args:
      series: name -> mean and standard deviation of its values.
      known, past: mean and standard deviation of each covariate.

    Example:
      >>> Statistics({"sales": (5.0, 2.0)}, (), ()).of("sales")
      (5.0, 2.0)
    """

    series: Mapping[str, tuple[float, float]]
    known: Sequence[tuple[float, float]]
    past: Sequence[tuple[float, float]]

    @classmethod
    def measure(cls, train: Records) -> "Statistics":
        """Measures a training part.

        Raises:
          UserError: series without a single value; the message names all of them.
        """
        faults, series = Faults("the training part"), {}
        for place, (name, value) in enumerate(zip(train["name"], train["value"])):
            if np.isfinite(value).any():
                series[name] = _mean_and_sd(value)
            else:
                faults.add(f"{train.places.at(place)}: series {name} has no value in the training part; leave it out")
        faults.raise_any()

        def of(column):
            return tuple(map(_mean_and_sd, np.concatenate(train[column]).T))

        return cls(series, of("known"), of("past"))

    def of(self, name: str) -> tuple[float, float]:
        """The mean and standard deviation of a series.

        Raises:
          UserError: the series was not in the training part.
        """
        if name not in self.series:
            raise UserError(
                f"series {name!r} is not among the training series: {', '.join(list(self.series)[:5])}"
                f"{', ...' if len(self.series) > 5 else ''}; give it one of these names, or train with it"
            )
        mean, sd = self.series[name]
        return mean, sd


def _mean_and_sd(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return 0.0, 1.0
    sd = float(values.std())
    return float(values.mean()), sd if sd > 1e-9 * max(abs(float(values.mean())), 1e-9) else 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class SeriesTable:
    """Series stacked end to end, N steps in all, with covariates scaled and missing values marked.

    Args:
      names: names of the S series.
      starts, lengths: (S,), the first step and the number of steps of each.
      times: datetime64[ns] (N,).
      value: float32 (N,), 0 where it was not observed.
      observed: bool (N,).
      known, past: float32 (N, K) and (N, P). Each covariate is scaled, and 0 where missing; an extra column is 1 where it is present. The
        time features are among the known ones.
      static: float32 (S, E).
      location, scale: float32 (S,), see `Statistics`.
    """

    names: tuple[str, ...]
    starts: np.ndarray
    lengths: np.ndarray
    times: np.ndarray
    value: np.ndarray
    observed: np.ndarray
    known: np.ndarray
    past: np.ndarray
    static: np.ndarray
    location: np.ndarray
    scale: np.ndarray

    @classmethod
    def make(
        cls,
        records: Records,
        statistics: Statistics,
        features: Sequence[str],
        *,
        step: str,
        zone: str = "",
        beyond: int = 0,
    ) -> "SeriesTable":
        """From a part of a dataset of series.

        Args:
          records: see `seqjax.data.series`.
          statistics: those of the training part.
          features: names of time features, see `time_features`.
          step, zone: facts of the dataset.
          beyond: steps to add after the end of each series, with known covariates only.

        Raises:
          UserError: the known covariates end too early, or a series was not in the training part; all such series are listed.
        """
        check_whole(0, beyond=beyond)
        faults, rows = Faults("the series"), []
        for place, name in enumerate(records["name"]):
            value, times = records["value"][place], records["time"][place]
            known, past, length = records["known"][place], records["past"][place], len(records["value"][place])
            if known.shape[1] and len(known) < length + beyond:
                faults.add(
                    f"series {name}: the covariates known in the future reach {len(known) - length} steps beyond its end,"
                    f" and {beyond} are needed; add rows with their values, or ask for a shorter horizon"
                )
                continue
            if beyond:
                times = np.concatenate([times, next_times(times[-1], step, beyond)])
                value = np.concatenate([value, np.full(beyond, np.nan)])
                past = np.concatenate([past, np.full((beyond, past.shape[1]), np.nan, past.dtype)])
            if not known.shape[1]:
                known = np.zeros((len(times), 0), np.float32)
            calendar = time_features(times, features, step=step, zone=zone)
            known = np.concatenate([_scaled(known[: len(times)], statistics.known), calendar], -1)
            rows.append((times, value, known, _scaled(past, statistics.past)))
        faults.raise_any()
        times, value, known, past = (np.concatenate(column) for column in zip(*rows))
        lengths, observed = np.array([len(row[0]) for row in rows]), np.isfinite(value)
        both = np.array([statistics.of(name) for name in records["name"]], np.float32)
        return cls(
            tuple(records["name"]), np.cumsum(lengths) - lengths, lengths, times, np.where(observed, value, 0).astype(np.float32),
            observed, known, past, np.asarray(records["static"], np.float32), both[:, 0], both[:, 1],
        )  # fmt: skip

    def windows(self, series: np.ndarray, origins: np.ndarray, context: int, horizon: int, rows: int) -> Window:
        """Windows around origins, in a batch of `rows`; surplus rows repeat the first and are masked.

        Args:
          series, origins: (n,), the index of the series, and how many of its steps precede the forecast.
          context, horizon: C and H.
          rows: B, at least n.
        """
        real = np.arange(rows) < len(series)
        filled = np.zeros(rows, np.int64)
        which, origin = filled.copy(), np.full(rows, context)
        which[real], origin[real] = series, origins
        places = (self.starts[which] + origin - context)[:, None] + np.arange(context + horizon)
        return Window(
            self.value[places], self.observed[places], self.known[places], self.past[places],
            self.static[which], self.location[which], self.scale[which], real,
        )  # fmt: skip

    def steps(self, batch: SequenceBatch) -> Steps:
        """The steps of a stream whose tokens are row indices of the table."""
        real, before = batch.mask, np.maximum(batch.inputs, 0)
        here = np.where(real, batch.targets, 0)
        owner = np.searchsorted(self.starts, here, side="right") - 1
        nothing = np.zeros((*here.shape, 0), np.float32)
        return Steps(
            self.value[before], self.observed[before] & (batch.inputs >= 0) & real, self.known[here], nothing, self.static[owner],
            self.value[here], self.observed[here] & real, batch.resets, self.location[owner], self.scale[owner], nothing,
        )  # fmt: skip


def _scaled(values: np.ndarray, statistics: Sequence[tuple[float, float]]) -> np.ndarray:
    if not values.shape[1]:
        return values.astype(np.float32)
    mean, sd = np.array(statistics, np.float64).reshape(-1, 2).T
    there = np.isfinite(values)
    return np.concatenate([np.where(there, (values - mean) / sd, 0), there], -1).astype(np.float32)


def rolling_origins(
    lengths: Sequence[int], firsts: Sequence[int], context: int, horizon: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """The origins of a backtest at regular intervals, while the whole horizon lies within the series.

    Args:
      lengths: T of each series.
      firsts: the first step of each that may be forecast.
      context, horizon: C and H.
      stride: steps from one origin to the next.

    Returns:
      (series, origin), integers (n,): an origin is the number of steps before its forecast.

    Example:
      >>> series, origins = rolling_origins([10, 3], [4, 0], context=2, horizon=3, stride=3)
      >>> series.tolist(), origins.tolist()
      ([0, 0], [4, 7])
    """
    found = [np.arange(max(first, context), length - horizon + 1, stride) for length, first in zip(lengths, firsts)]
    return np.repeat(np.arange(len(found)), [len(one) for one in found]), np.concatenate([np.zeros(0, np.int64), *found])


class OriginWindows(Resumable):
    """Endless batches of windows at shuffled origins, each origin once per epoch; the order is a function of seed and epoch. As in
    `ImageBatches`, the last origins of an epoch that do not fill a batch are dropped; the next epoch drops others.

    Args:
      table: the series.
      series, origins: (n,), as returned by `rolling_origins`.
      context, horizon: C and H.
      batch_size: B, at most n.
      seed: determines the order.

    Raises:
      UserError: there are fewer origins than a batch has rows.

    Reference:
      Salinas, Flunkert and Gasthaus 2017, "DeepAR", arXiv:1704.04110, section 3.3, for windows at all origins.
    """

    _needed = "series, context, horizon and batch_size"

    def __init__(
        self,
        table: SeriesTable,
        series: np.ndarray,
        origins: np.ndarray,
        context: int,
        horizon: int,
        batch_size: int,
        *,
        seed: int,
    ):
        check_whole(1, batch_size=batch_size, context=context, horizon=horizon)
        if len(origins) < batch_size:
            raise UserError(
                f"the training part has {len(origins)} origins with a context of {context} steps before and a horizon of {horizon}"
                f" after, and batch_size is {batch_size}; give longer series, or make one of the three smaller, or forks, which a direct "
                "model has between two origins"
            )
        self._table, self._series, self._origins, self._sizes = table, series, origins, (context, horizon)
        self._batch_size, self._seed, self._order = batch_size, seed, (-1, np.zeros(0, np.int64))
        self.batches_per_epoch = len(origins) // batch_size
        self._take_rows(slice(0, batch_size))

    def _at(self, epoch: int, batch: int) -> Window:
        if self._order[0] != epoch:
            self._order = (epoch, permutation(len(self._origins), self._seed, 0, epoch))
        chosen = self._order[1][batch * self._batch_size :][self._rows]
        return self._table.windows(self._series[chosen], self._origins[chosen], *self._sizes, len(chosen))


def ordered_windows(
    table: SeriesTable,
    series: np.ndarray,
    origins: np.ndarray,
    context: int,
    horizon: int,
    rows: int,
    *,
    index: int = 0,
    count: int = 1,
) -> Iterator[Window]:
    """Every origin once, in order, for evaluation; the last batch is padded with masked rows.

    Args:
      table, series, origins, context, horizon: as in `OriginWindows`.
      rows: rows of a batch.
      index, count: the index of this process, and the number of processes.
    """
    own = shard_rows(slice(0, rows), index, count)
    for first in range(0, len(origins), rows):
        chosen = slice(first + own.start, min(first + own.stop, len(origins)))
        yield table.windows(series[chosen], origins[chosen], context, horizon, own.stop - own.start)


class SeriesStreams:
    """Endless windows of whole series side by side, with a carry that passes from each to the next: `Windows` of row indices.

    Args:
      table: the series; each starts with a reset.
      batch_size: B, series side by side: the table is cut into B rows.
      window: T, steps of truncated backpropagation.

    Raises:
      UserError: the table has fewer steps than one batch.
    """

    def __init__(self, table: SeriesTable, batch_size: int, window: int, *, windows: Windows | None = None):
        self._table, stream = table, TokenStream(np.arange(len(table.value)), table.starts)
        self._windows = windows or Windows(stream, batch_size, window, bos_id=-1, pad_id=-1, minimum=batch_size * window)
        self._shape = (batch_size, window)
        self.batches_per_epoch = self._windows.batches_per_epoch

    def __iter__(self) -> "SeriesStreams":
        return self

    def __next__(self) -> Steps:
        return self._table.steps(next(self._windows))

    def get_state(self) -> dict[str, Any]:
        """The state before the next window, as in `Windows`."""
        return self._windows.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state from `get_state`."""
        self._windows.set_state(state)

    def shard(self, index: int, count: int) -> "SeriesStreams":
        """The same windows with only a share of the rows."""
        return SeriesStreams(self._table, *self._shape, windows=self._windows.shard(index, count))


def check_lengths(part: Records, context: int, horizon: int) -> None:
    """Refuse series shorter than one window; the message names all of them.

    Example:
      >>> from seqjax.data.records import Places
      >>> short = Records({"name": ("a",), "value": (np.zeros(3),)}, Places.of("a.csv line", [2]))
      >>> check_lengths(short, 3, 1)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: a.csv line 2: series 'a' has 3 steps, and a context of 3 with a horizon of 1 needs 4; give ...
    """
    faults = Faults("the series")
    for place, (name, value) in enumerate(zip(part["name"], part["value"])):
        if len(value) < context + horizon:
            beside = f" with a horizon of {horizon}" if horizon else ""
            faults.add(
                f"{part.places.at(place)}: series {name!r} has {len(value)} steps, and a context of {context}{beside} needs "
                f"{context + horizon}; give longer series, leave it out, or train with a smaller data.context"
            )
    faults.raise_any()


def check_counts(part: Records) -> None:
    """Refuse values that are not counts; for count distributions.

    Example:
      >>> from seqjax.data.records import Places
      >>> check_counts(Records({"name": ("a",), "value": (np.array([1.0, 2.5]),)}, Places.of("a.csv line", [2])))
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: series 'a' has the value 2.5, which is not a count; choose another model.output
    """
    faults = Faults("the series")
    for name, value in zip(part["name"], part["value"]):
        wrong = value[np.isfinite(value) & ((value < 0) | (value != np.round(value)))]
        if len(wrong):
            faults.add(f"series {name!r} has the value {wrong[0]:g}, which is not a count; choose another model.output")
    faults.raise_any()
