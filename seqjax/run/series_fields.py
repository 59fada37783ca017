"""The settings by which series are read, for experiments on time series; see `seqjax.data.load_series`."""

from seqjax.models import CELLS
from seqjax.models.forecast_networks import SCALINGS
from seqjax.models.forecaster import KINDS
from seqjax.nn.outputs import OUTPUTS
from seqjax.run import fields
from seqjax.run.settings import Field, at_least, one_of


def series(name: str) -> dict[str, Field]:
    """Where series come from and how their tables are written.

    Args:
      name: the default of data.name.

    Example:
      >>> series("seasonal")["data.form"].default
      'long'
    """
    stop = "name every one and stop, or"
    return {
        "data.source": Field("embedded", "Where the series come from.", one_of("embedded", "file")),
        "data.name": Field(name, "The embedded set (seasonal, mackey_glass, lorenz); what to call a file."),
        "data.path": Field("", "A table of series, .csv, .tsv or .parquet; also packed.", when=fields.FILE),
        "data.form": Field(
            "long", "A row for each series and time, or a column for each series.", one_of("long", "wide"), when=fields.FILE
        ),
        "data.time_field": Field("", "The column of times; empty is the first; year,month,day,hour are joined.", when=fields.FILE),
        "data.value_field": Field("", "The column to forecast; empty is the only other one. Wide: the series.", when=fields.FILE),
        "data.series_field": Field("", "The column that names the series, where there are several.", when=fields.FILE),
        "data.known_fields": Field("", "Columns that are known in the future too, such as holidays.", when=fields.FILE),
        "data.past_fields": Field("", "Columns that are known in the past only, such as the weather.", when=fields.FILE),
        "data.static_fields": Field("", "Columns that do not change within a series.", when=fields.FILE),
        "data.validation_steps": Field(
            0, "Steps held out for validation; 0 is a tenth of the shortest series.", at_least(0), when=fields.FILE
        ),
        "data.test_steps": Field(0, "Steps held out for the test, at the end of each series.", at_least(0), when=fields.FILE),
        "data.season": Field(0, "The season in steps; 0 is the most natural, such as 24 hours or 12 months.", at_least(0)),
        "data.step": Field("", "Between times: 15min, 1h, 1D, B, MS, ...; empty is found.", when=fields.FILE),
        "data.zone": Field("", "Whose clocks the times are of, such as Europe/Berlin.", when=fields.FILE),
        "data.time_format": Field("", "How times are written: dayfirst, monthfirst, %d.%m.%y; empty is recognised.", when=fields.FILE),
        "data.gaps": Field(
            "stop", f"Steps that are not there: {stop} make missing values of them.", one_of("stop", "missing"), when=fields.FILE
        ),
        "data.duplicates": Field(
            "stop", f"Rows with one time: {stop} take one or their mean.", one_of("stop", "first", "last", "mean"), when=fields.FILE
        ),
        "data.unsorted": Field("stop", f"Times that fall: {stop} sort them.", one_of("stop", "sort"), when=fields.FILE),
        **fields.table(),
    }  # fmt: skip


def backtest() -> dict[str, Field]:
    """The windows of a forecast, the origins of the backtest, and its baselines.

    Example:
      >>> backtest()["data.horizon"].default
      24
    """
    return {
        "data.context": Field(168, "Steps before an origin that a forecast reads, C.", at_least(1)),
        "data.horizon": Field(24, "Steps that are forecast, H.", at_least(1)),
        "data.forks": Field(24, "Origins that are learned from in a window: the last so many.", at_least(1), when=DIRECT),
        "data.stateful": Field(
            False, "Learn from whole series, the carry passing from window to window, each of data.context steps.", when=STEPS
        ),
        "data.stride": Field(0, "Steps from one origin of the backtest to the next; 0 is the horizon.", at_least(0)),
        "data.time_features": Field(
            "auto", "Cycles of the calendar that are read: hour, weekday, yearday with commas between; auto goes by the step; none."
        ),
        "baselines.names": Field(
            "naive,seasonal naive,drift,linear,ETS,AutoARIMA", "What the forecasts are compared with; those of statsforecast take minutes."
        ),
        "baselines.context": Field(1000, "Values that ETS and AutoARIMA read at most.", at_least(3)),
        "baselines.refits": Field(4, "How often these are fitted, evenly over the origins; between, they read on.", at_least(1)),
    }  # fmt: skip


DIRECT, STEPS = ("model.kind", ("direct",)), ("model.kind", ("autoregressive",))


def forecaster(hidden_size: int, output: str) -> dict[str, Field]:
    """The network, its output distribution, and the units it works in.

    Args:
      hidden_size, output: defaults.

    Example:
      >>> forecaster(64, "quantiles")["model.kind"].default
      'direct'
    """
    return {
        "model.kind": Field("direct", "All horizons at once, or one step after the other.", one_of(*KINDS)),
        "model.cell": Field("gru", "Recurrent cell.", one_of(*CELLS)),
        "model.hidden_size": Field(hidden_size, "Units of each layer, H.", at_least(1)),
        "model.num_layers": Field(1, "Layers, L.", at_least(1)),
        "model.output": Field(output, "What is forecast: a point, a distribution, or quantiles.", one_of(*OUTPUTS)),
        "model.scaling": Field(
            "series", "Units: of the series' training part, or of each context its mean |y|, or its mean and deviation.",
            one_of(*SCALINGS),
        ),
        "model.width": Field(32, "Units of the head for each horizon.", at_least(1), when=DIRECT),
        "model.highway": Field(0, "Last values that the location depends on linearly as well.", at_least(0), when=DIRECT),
        "model.members": Field(1, "Networks that are trained side by side; their quantiles are averaged.", at_least(1)),
        "model.paths": Field(200, "Sample paths of a forecast.", at_least(2), when=STEPS),
        **fields.dropouts(dropout=(0.0, "between layers and in the head")),
        **fields.dtype(),
    }  # fmt: skip
