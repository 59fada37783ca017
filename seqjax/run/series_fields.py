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
    stop = "stop and list them, or"
    return {
        "data.source": Field("embedded", "Where the series come from.", one_of("embedded", "file")),
        "data.name": Field(name, "Embedded dataset (seasonal, mackey_glass, lorenz), or a name for your file."),
        "data.path": Field("", "A table of series: .csv, .tsv or .parquet, optionally compressed.", when=fields.FILE),
        "data.form": Field(
            "long", "long: one row per series and time; wide: one column per series.", one_of("long", "wide"), when=fields.FILE
        ),
        "data.time_field": Field("", "Time column; empty: the first. year,month,day,hour are combined.", when=fields.FILE),
        "data.value_field": Field("", "Column to forecast; empty: the only other one. For wide tables, the series.", when=fields.FILE),
        "data.series_field": Field("", "Column that identifies the series, if there are several.", when=fields.FILE),
        "data.known_fields": Field("", "Covariates known in the future too, such as holidays.", when=fields.FILE),
        "data.past_fields": Field("", "Covariates known only in the past, such as the weather.", when=fields.FILE),
        "data.static_fields": Field("", "Covariates that are constant within a series.", when=fields.FILE),
        "data.validation_steps": Field(
            0, "Steps held out for validation; 0: a tenth of the shortest series.", at_least(0), when=fields.FILE
        ),
        "data.test_steps": Field(0, "Steps held out for testing, at the end of each series.", at_least(0), when=fields.FILE),
        "data.season": Field(0, "Length of the season in steps; 0: the natural one, such as 24 hours or 12 months.", at_least(0)),
        "data.step": Field("", "Time step: 15min, 1h, 1D, B, MS, ...; empty: inferred.", when=fields.FILE),
        "data.zone": Field("", "Time zone of the times, such as Europe/Berlin.", when=fields.FILE),
        "data.time_format": Field("", "Time format: dayfirst, monthfirst, or such as %d.%m.%y; empty: inferred.", when=fields.FILE),
        "data.gaps": Field(
            "stop", f"Missing time steps: {stop} treat them as missing values.", one_of("stop", "missing"), when=fields.FILE
        ),
        "data.duplicates": Field(
            "stop", f"Rows with one time: {stop} keep the first, last or mean.", one_of("stop", "first", "last", "mean"), when=fields.FILE
        ),
        "data.unsorted": Field("stop", f"Times out of order: {stop} sort them.", one_of("stop", "sort"), when=fields.FILE),
        **fields.table(),
    }


def backtest() -> dict[str, Field]:
    """The windows of a forecast, the origins of the backtest, and its baselines.

    Example:
      >>> backtest()["data.horizon"].default
      24
    """
    return {
        "data.context": Field(168, "Steps before the origin that a forecast reads, C.", at_least(1)),
        "data.horizon": Field(24, "Steps to forecast, H.", at_least(1)),
        "data.forks": Field(24, "How many of the last origins in a window are trained on.", at_least(1), when=DIRECT),
        "data.stateful": Field(False, "Train on whole series, passing the carry between windows of data.context steps.", when=STEPS),
        "data.stride": Field(0, "Steps between origins of the backtest; 0: the horizon.", at_least(0)),
        "data.time_features": Field("auto", "Calendar features: hour, weekday, yearday, comma-separated; auto: by the time step; or none."),
        "baselines.names": Field(
            "naive,seasonal naive,drift,linear,ETS,AutoARIMA", "Baselines to compare with; those of statsforecast take minutes."
        ),
        "baselines.context": Field(1000, "Maximum number of values that ETS and AutoARIMA read.", at_least(3)),
        "baselines.refits": Field(4, "How often they are fitted, evenly over the origins; in between they only read on.", at_least(1)),
    }


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
        "model.kind": Field("direct", "direct: all horizons at once; autoregressive: one step at a time.", one_of(*KINDS)),
        "model.cell": Field("gru", "Recurrent cell.", one_of(*CELLS)),
        "model.hidden_size": Field(hidden_size, "Hidden units per layer, H.", at_least(1)),
        "model.num_layers": Field(1, "Number of layers, L.", at_least(1)),
        "model.output": Field(output, "What the model outputs: a point, a distribution, or quantiles.", one_of(*OUTPUTS)),
        "model.scaling": Field(
            "series",
            "Scale by the series' training part, by each context's mean |y|, or by its mean and deviation.",
            one_of(*SCALINGS),
        ),
        "model.width": Field(32, "Hidden units of the head, per horizon.", at_least(1), when=DIRECT),
        "model.highway": Field(0, "Number of last values with a linear shortcut to the location.", at_least(0), when=DIRECT),
        "model.members": Field(1, "Networks trained side by side; their quantiles are averaged.", at_least(1)),
        "model.paths": Field(200, "Sample paths per forecast.", at_least(2), when=STEPS),
        **fields.dropouts(dropout=(0.0, "between layers and in the head")),
        **fields.dtype(),
    }
