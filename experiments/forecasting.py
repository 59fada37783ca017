r"""Time series forecasting: train, resume exactly, backtest against ETS and AutoARIMA, forecast your own series.

Papers: Salinas, Flunkert and Gasthaus 2017, "DeepAR" (arXiv:1704.04110); Wen et al. 2017, "A Multi-Horizon Quantile
Recurrent Forecaster" (arXiv:1711.11053).

    python -m experiments.forecasting --workdir=/tmp/seasonal
        trains on 40 series whose best possible forecast is known: minutes on two cores
    python -m experiments.forecasting --workdir=/tmp/seasonal --mode=evaluate --split=test
        CRPS, MASE, RMSE and coverage with six baselines; pictures and predictions_test.jsonl in the workdir
    python -m experiments.forecasting --workdir=/tmp/beijing --config=beijing --config.data.path=pollution.csv.gz
    python -m experiments.forecasting --workdir=/tmp/beijing --mode=predict --output=next.csv --plot=next.png
        forecasts the steps after the end of the file, with intervals
"""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.pipeline import forecast_windows as windows
from seqjax.data.records import Dataset, Records
from seqjax.data.series import load_series
from seqjax.data.time_features import chosen_features
from seqjax.models.forecaster import Forecaster
from seqjax.nn.outputs import make_output
from seqjax.run import Flag, at_least, backtest, fields, forecasting, recipe, series_fields
from seqjax.training import losses

FIELDS = {
    **fields.seed("the order of the windows, the dropout and the sample paths"),
    **series_fields.series("seasonal"),
    **series_fields.backtest(),
    **fields.batches("windows", 32, 256),
    **series_fields.forecaster(64, "quantiles"),
    **fields.criterion("crps", "loss", text="Metric that selects the best checkpoint: CRPS of the backtest, or loss."),
    **recipe.RECURRENT_FIELDS,
}

_OFTEN = {"schedule.warmup_steps": 50, "train.log_every": 50, "train.eval_every": 100, "train.checkpoint_every": 100}
_SEASONAL = _OFTEN | {"data.time_features": "hour", "model.output": "gaussian", "model.hidden_size": 32}
_CHAOS = _OFTEN | {
    "data.context": 96, "data.stride": 6, "data.time_features": "none", "baselines.context": 400, "baselines.refits": 1,
    "train.steps": 1500, "train.eval_every": 250, "train.checkpoint_every": 250,
}  # fmt: skip
_FILE = _OFTEN | {  # little data: small networks, noise, averages over time and over three networks
    "data.source": "file", "model.hidden_size": 32, "model.dropout": 0.2, "model.members": 3,
    "optimizer.learning_rate": 2e-3, "optimizer.ema": 0.98, "train.steps": 300, "train.eval_every": 50,
}  # fmt: skip

PRESETS = {
    # Hourly series of one process in many units; the exact predictive distribution is known.
    "seasonal": _SEASONAL | {
        "data.stride": 6, "data.forks": 48, "model.highway": 48,
        "baselines.names": "naive,seasonal naive,drift,linear,ETS", "baselines.context": 400,
        "baselines.refits": 1, "train.steps": 500,
    },
    # The same, autoregressive, with the carry passed along each series.
    "seasonal_steps": _SEASONAL | {
        "data.context": 96, "data.stateful": True, "data.batch_size": 20, "model.kind": "autoregressive",
        "criterion": "loss", "baselines.names": "naive,seasonal naive,drift,linear", "train.steps": 600,
    },
    # Chaos with random kicks and noisy observations; the best forecast is a filter that knows the equations.
    "mackey_glass": _CHAOS | {"data.name": "mackey_glass"},
    "lorenz": _CHAOS | {"data.name": "lorenz"},
    # Your own file: give --config.data.path, its fields, data.context and data.horizon.
    "file": _FILE | {"train.steps": 600},
    # Known files: give --config.data.path. Months of passengers, 96 to learn from.
    "airline": _FILE | {
        "data.validation_steps": 24, "data.test_steps": 24, "data.context": 36, "data.horizon": 12, "data.stride": 1,
        "data.forks": 1, "data.batch_size": 16, "model.output": "gaussian", "model.scaling": "standard",
        "model.hidden_size": 16, "model.highway": 13, "optimizer.learning_rate": 5e-4, "train.steps": 400,
    },
    # Months of sunspots since 1749; a season is a cycle of about 11 years.
    "sunspots": _FILE | {
        "data.validation_steps": 264, "data.test_steps": 396, "data.season": 132, "data.context": 264, "data.stride": 1,
        "data.time_features": "none", "data.forks": 120, "data.batch_size": 16, "train.steps": 200,
    },
    # Days of the lowest temperature in Melbourne.
    "temperatures": _FILE | {
        "data.gaps": "missing", "data.validation_steps": 365, "data.test_steps": 730, "data.context": 60,
        "data.horizon": 7, "data.stride": 1, "data.time_features": "yearday", "data.forks": 30,
        "model.hidden_size": 16, "model.width": 16,
    },
    # Hours of fine dust in Beijing, forecast each midnight; the weather is known up to then only.
    "beijing": _FILE | {
        "data.time_field": "year,month,day,hour", "data.value_field": "pm2.5", "data.time_features": "hour",
        "data.past_fields": "DEWP,TEMP,PRES,cbwd,Iws,Is,Ir", "data.validation_steps": 8760, "data.test_steps": 8760,
        "model.dropout": 0.3, "train.steps": 400,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the series."""

    facts: dict[str, Any]
    features: list[str]  # of the time
    statistics: dict[str, Any]  # of the training part


def load(config: ConfigDict) -> Dataset:
    """Reads the series that a config names."""
    return run.with_settings(load_series, config.data)


def prepare(config: ConfigDict, data: Dataset) -> Spec:
    """Measures the training part."""
    windows.check_lengths(data.parts["train"], config.data.context, config.data.horizon)
    statistics = windows.Statistics.measure(data.parts["train"])
    if make_output(config.model.output).counts:
        windows.check_counts(data.parts["train"])
    features = chosen_features(config.data.time_features, data.facts["step"])
    return Spec(dict(data.facts), list(features), statistics._asdict())


def table(spec: Spec, part: Records, beyond: int = 0) -> windows.SeriesTable:
    """A part in the form that the model reads."""
    how = {"step": spec.facts["step"], "zone": spec.facts["zone"], "beyond": beyond}
    return windows.SeriesTable.make(part, windows.Statistics(**spec.statistics), spec.features, **how)


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """A stack of recurrent layers and a distribution for each step ahead."""
    d, m, direct = config.data, config.model, config.model.kind == "direct"
    model = Forecaster(
        m.kind, run.make_stack(config, input_dropout=0.0), make_output(m.output), d.context, d.horizon, m.scaling,
        m.width, m.highway if direct else 0, m.dropout, m.members, m.paths, run.compute_dtype(config),
    )  # fmt: skip

    def loss(params, model_state, carry, batch, rng):
        forks = d.forks if direct and rng is not None else 1
        carry, total, count = model.loss(params, batch, carry, rng, forks=forks)
        return carry, model_state, losses.Sums(total, count)

    return run.Model(
        module=model,
        init=lambda key: {"params": model.init(key, forecasting.empty_window(spec, d.context, d.horizon))},
        loss=loss,
        initial_carry=model.initial_carry if d.stateful else lambda params, size: (),
    )


def batches(config: ConfigDict, spec: Spec, part: Records, training: bool) -> Any:
    """Windows at shuffled origins, or streams of whole series; in evaluation the origins of the backtest."""
    d, made = config.data, table(spec, part)
    if training and d.stateful:
        return windows.SeriesStreams(made, d.batch_size, d.context)
    if training:
        every = d.forks if config.model.kind == "direct" else 1
        places = windows.rolling_origins(made.lengths, 0 * made.lengths, d.context, d.horizon, every)
        return windows.OriginWindows(made, *places, d.context, d.horizon, d.batch_size, seed=config.seed)
    places = windows.rolling_origins(made.lengths, part["first"], d.context, d.horizon, d.stride or d.horizon)
    rest = (d.context, d.horizon, d.eval_batch_size)
    return run.passes(lambda **shard: windows.ordered_windows(made, *places, *rest, **shard))


def rolling(config: ConfigDict, facts: dict[str, Any], part: Records) -> backtest.Backtest:
    """The origins of a part and the true values after them."""
    d = config.data
    return backtest.Backtest.make(part, context=d.context, horizon=d.horizon, stride=d.stride, season=facts["season"])


def forecasts(trained: run.Trained, part: Records) -> backtest.Forecasts:
    """The model's forecasts from every origin of a part."""
    model, params = trained.model.module, trained.params
    rows = batches(trained.config, trained.spec, part, training=False)
    return backtest.model_forecasts(lambda window: model.quantiles(params, window, seed=trained.config.seed), rows)


def simple(config: ConfigDict, data: Dataset, split: str) -> dict[str, backtest.Forecasts]:
    """The forecasts of the baselines."""
    part, spec, b = data.parts[split], prepare(config, data), config.baselines
    test, how = rolling(config, data.facts, part), {"context": b.context, "refits": b.refits}
    return test.baselines(backtest.chosen(b.names), part, table(spec, part), data.facts["season"], **how)


def baselines(config: ConfigDict, data: Dataset, split: str) -> dict[str, dict[str, float]]:
    """Scores of the baselines in the same backtest."""
    test = rolling(config, data.facts, data.parts[split])
    return {name: test.scores(found) for name, found in simple(config, data, split).items()}


def validate(trained: run.Trained, part: Records, found: dict[str, float]) -> dict[str, float]:
    """The loss, and the scores of the backtest."""
    scores = rolling(trained.config, trained.spec.facts, part).scores(forecasts(trained, part))
    return {"loss": found["loss"]} | {name: scores[name] for name in ("crps", "mase", "coverage_80") if name in scores}


def evaluate(trained: run.Trained, data: Dataset, split: str, options: run.Options) -> run.Report:
    """Loss, CRPS, MASE, RMSE and coverage in a rolling-origin backtest, beside the baselines in the same one."""
    config, part = trained.config, data.parts[split]
    test = rolling(config, data.facts, part)
    found = {"model": forecasts(trained, part)} | simple(config, data, split)
    scores = {name: test.scores(one) for name, one in found.items()}
    if config.data.source == "embedded":
        scores["best possible"] = {"crps": test.best_crps(config.data.name, part)}
    scores["model"] = {"loss": run.measure(EXPERIMENT, trained, part)["loss"]} | scores["model"]
    notes = [
        f"{len(test.origins):,} origins, {config.data.horizon} steps from each; season of MASE {data.facts['season']}"
    ]
    if plain := sorted({part["name"][s] for s in test.series[np.isnan(test.unit)]}):
        notes.append(f"MASE leaves out {', '.join(plain)}: there the seasonal naive forecast has no error")
    rows = forecasting.rows(part, test, found["model"], data.facts)
    return run.Report(scores, rows, notes, (test, found))


def describe(config: ConfigDict, spec: Spec, data: Dataset, model: run.Model) -> list[str]:
    """Lines on the step, season and calendar features."""
    facts, features = spec.facts, ", ".join(spec.features) or "nothing"
    return [f"step {facts['step']}, season {facts['season']}, read of the calendar: {features}"]


def pictures(trained: run.Trained, data: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots forecasts with intervals and true values, calibration, and the error at each horizon."""
    test, found = report.answers
    yield from forecasting.draw(folder, split, data.parts[split], test, found, trained.config.data.context)


def predict(trained: run.Trained, options: run.Options) -> None:
    """Forecasts the steps after the end of every series."""
    config, spec = trained.config, trained.spec
    steps = forecasting.checked_horizon(options.horizon, config.data.horizon, trained.model.module.kind)
    part = forecasting.newest(config, spec.facts, options.input)
    windows.check_lengths(part, config.data.context, 0)
    made, ends = table(spec, part, beyond=steps), np.array([len(value) for value in part["value"]])
    window = made.windows(np.arange(len(ends)), ends, config.data.context, steps, len(ends))
    quantiles = trained.model.module.quantiles(trained.params, window, steps=steps, seed=config.seed)
    forecasting.tell(made, part, quantiles, spec.facts, options, config.data.context)


EXPERIMENT = run.Experiment.of(
    __name__,
    preset="seasonal",
    records="series",
    unit="values",
    criterion=lambda config: config.criterion,
    curve_labels=lambda config, spec: {"crps": "CRPS of the backtest"},
    check=forecasting.check,
    modes={"predict": predict},
    flags={
        "horizon": Flag(0, "steps; 0: data.horizon, more only if autoregressive.", ("predict",), at_least(0)),
        "input": Flag("", "a newer table in the same format; without it, the run's own series.", ("predict",)),
        "output": Flag("", "CSV file to write; without it, the table is printed.", ("predict",)),
        "plot": Flag("", "plot the forecasts to this PNG file.", ("predict",)),
    },
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
