"""What is particular to forecasting: predictions after the end of a file, horizons that are refused, step after step with a kept carry."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from made_series import FUTURE, write_series
from processes import config_flags, records
from table import FORECASTING as ROW

from seqjax.errors import UserError
from seqjax.run import cli, command

STATEFUL = {"model.kind": "autoregressive", "data.stateful": True, "model.highway": 0, "data.forks": 24, "model.width": 32}


@pytest.fixture(scope="module")
def finished(runs):
    return runs.finished(ROW)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_predictions_come_after_the_end_of_the_file(start, finished, tmp_path):
    """A row for each series and day, the days go on, quantiles rise; a picture and a file; a newer file is read instead."""
    folder = tmp_path / "out"
    folder.mkdir()
    flags = [f"--output={folder / 'next.csv'}", f"--plot={folder / 'next.png'}"]
    run = start(f"--workdir={finished}", "--mode=predict", *flags).wait(300)
    assert run.status == 0, run.out + run.err
    rows = rows_of((folder / "next.csv").read_text())
    assert [(row["series"], row["time"]) for row in rows] == [
        (shop, str(np.datetime64("2024-01-01") + 120 + h)) for shop in ("north", "south") for h in range(4)
    ]
    names = ["low_95", "low_80", "low_50", "median", "high_50", "high_80", "high_95"]
    values = np.array([[float(row[name]) for name in names] for row in rows])
    assert (np.diff(values) > 0).all() and values[4:, 3].mean() > 5 * values[:4, 3].mean()
    assert (folder / "next.png").read_bytes().startswith(b"\x89PNG")
    newer = write_series(tmp_path / "newer.csv", seed=0, steps=125)
    run = start(f"--workdir={finished}", "--mode=predict", f"--input={newer}", "--horizon=2").wait(300)
    assert [row["time"] for row in rows_of(run.out)] == ["2024-05-05", "2024-05-06"] * 2


def test_horizons_that_are_refused(refuses, finished, tmp_path):
    workdir, predict = f"--workdir={finished}", "--mode=predict"
    refuses(
        [workdir, predict, "--horizon=5"],
        "--horizon=5 is more than the 4 steps that this model predicts at once",
        "autoregressive",
    )
    lines = write_series(tmp_path / "short.csv").read_text().splitlines()
    day = np.datetime64("2024-01-01") + 120 + FUTURE
    kept = [line for line in lines if line.startswith("shop") or line.split(",")[1] < str(day - 4)]
    flags = [workdir, predict, f"--input={tmp_path / 'short.csv'}", "--horizon=3"]
    (tmp_path / "short.csv").write_text("\n".join(line for line in kept if not line.startswith("south")) + "\n")
    refuses(flags, "series north: the covariates known in the future reach 2 steps beyond its end, and 3 are needed")
    (tmp_path / "short.csv").write_text("\n".join([lines[0], *lines[1:14]]) + "\n")
    refuses(flags, "series 'north' has 13 steps, and a context of 14 needs 14")
    refuses([workdir, predict, "--input=nowhere.csv"], "nowhere.csv")
    refuses([workdir, predict, f"--output={tmp_path / 'no' / 'where.csv'}"], "--output=", "cannot be written")
    refuses([workdir, predict, f"--plot={tmp_path / 'no' / 'where.png'}"], "--plot=", "cannot be written")


@pytest.mark.parametrize(
    "changes, words",
    [
        (STATEFUL, "needs one scale for all windows; it does not work with config.model.scaling=standard"),
        (STATEFUL | {"model.scaling": "series"}, "has no origin at which config.data.past_fields could end"),
        ({"data.forks": 10}, "config.data.context=14 must be at least config.data.forks=10 and config.model.highway=7"),
        ({"baselines.names": "naiv"}, "baselines.names: 'naiv' is unknown"),
        ({"data.context": 90}, "series 'south' has 92 steps, and a context of 90 with a horizon of 4 needs 94"),
        ({"data.horizon": 20}, "no series has 20 steps in this part with 14 before them"),
        ({"model.output": "negative_binomial"}, "which is not a count; choose another model.output"),
        ({"data.time_features": "hour,minute"}, "data.time_features: 'minute' is unknown"),
    ],
)
def test_settings_that_do_not_fit(runs, refused, tmp_path, changes, words):
    """Before anything is trained."""
    argv = [ROW.module, f"--workdir={tmp_path}", *config_flags(runs.settings(ROW) | changes, {})]
    with pytest.raises(UserError, match=re.escape(words)):
        command.run(ROW.experiment, cli.parse(ROW.experiment, argv))


@pytest.mark.slow
def test_step_after_step_with_a_kept_carry(start, runs, finished, tmp_path):
    """It learns, forecasts further than it learned, and ends the same after a stop: the carry is in the checkpoints."""
    changes = STATEFUL | {
        "data.past_fields": "", "model.scaling": "series", "model.paths": 20, "model.members": 1, "data.batch_size": 4,
        "train.steps": 30, "model.output": "student_t",
    }  # fmt: skip
    settings = runs.settings(ROW) | changes
    data = tmp_path / "steps.csv"
    lines = write_series(data).read_text().splitlines()
    data.write_text("\n".join(",".join(line.split(",")[:4] + line.split(",")[5:]) for line in lines) + "\n")
    settings["data.path"] = str(data)
    workdir = tmp_path / "run"
    run = start(f"--workdir={workdir}", *config_flags(settings, {})).wait(300)
    assert run.status == 0, run.out + run.err
    losses = [record["loss"] for record in records(workdir) if record["kind"] == "train"]
    assert losses[-1] < losses[0]
    run = start(f"--workdir={workdir}", "--mode=predict", "--horizon=6").wait(300)
    rows = rows_of(run.out)
    assert len(rows) == 12 and all(float(row["low_80"]) <= float(row["high_80"]) for row in rows)
    again = start(f"--workdir={workdir}", "--mode=predict", "--horizon=6").wait(300)
    assert again.out == run.out


def test_predictions_of_the_backtest_are_in_the_file(start, finished, tmp_path):
    """The scores are those of the forecasts that were written."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    run = start(f"--workdir={workdir}", "--mode=evaluate").wait(300)
    assert run.status == 0, run.out + run.err
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text().splitlines()]
    inside = [
        low <= y <= high
        for row in rows
        for one in row["forecasts"]
        for low, y, high in zip(one["low_80"], one["observed"], one["high_80"])
        if y is not None
    ]
    scores = json.loads((workdir / "evaluation_validation.json").read_text())["scores"]
    assert scores["model"]["coverage_80"] == pytest.approx(np.mean(inside))
    assert rows[0]["forecasts"][0]["after"] == "2024-04-01" and len(rows[0]["forecasts"]) == 3
