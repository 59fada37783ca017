"""The program of the gradient laboratory: fresh cells, a trained run, and what it refuses."""

import json
import sys

import jax
import numpy as np
import pytest

import seqjax
from experiments import gradient_flow
from seqjax.errors import UserError
from seqjax.run import cli


@pytest.mark.slow
def test_fresh_cells(tmp_path, capsys):
    flags = ["--cells=gru(4)", "--cells=lstm(3, forget_bias=2.0, coupled=True)", "--steps=6", "--batch=2", f"--output={tmp_path}"]
    assert gradient_flow.main(["gradient_flow", *flags]) == 0
    told = json.loads((tmp_path / "gradients.json").read_text(encoding="utf-8"))
    assert [network["cell"] for network in told["networks"]] == ["gru", "lstm"]
    assert "gradients.html" in capsys.readouterr().out


def test_fresh_parameters_are_as_the_labels_say():
    for label, name, how in gradient_flow.FRESH:
        params = gradient_flow.changed(getattr(seqjax, name)(8).init(jax.random.key(0), 3), **how)
        if name == "rnn":
            radius = np.abs(np.linalg.eigvals(np.asarray(params.recurrent_kernel))).max()
            assert label == f"tanh, radius {radius:.1f}" and radius == pytest.approx(how["radius"], rel=1e-4)
        if name == "lstm":
            assert label == f"LSTM, forget bias {params.bias[8]:.0f}" and (params.bias[8:16] == how["forget_bias"]).all()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--cells=gru"], "must be a call"),
        (["--cells=gru(4).init"], "must be a call"),
        (["--cells=gru(__import__('os'))"], "must be a call"),
        (["--cells=gru(0)"], "hidden_size"),
        (["--cells=explain(4)"], "must be a call"),
        (["--steps=1"], "--help lists"),
        (["page"], "is not a flag"),
        (["--workdir=/nowhere"], "there is no run with a checkpoint in /nowhere"),
    ],
)
def test_refusals(flags, message):
    with pytest.raises(UserError, match=message):
        gradient_flow.main(["gradient_flow", *flags])


def test_a_run_of_an_experiment_of_ones_own_needs_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "own_one.py").write_text("EXPERIMENT = 3\n", encoding="utf-8")
    with pytest.raises(UserError, match="of the experiment own_one: name its file by --experiment=./own_one.py"):
        gradient_flow.named("own_one", "")
    assert gradient_flow.named("own_one", str(tmp_path / "own_one.py")) == 3
    assert gradient_flow.named("language_model", "").name == "language_model"


def test_the_help_shows_its_commands(capsys):
    assert gradient_flow.main(["gradient_flow", "--help"]) == 0
    assert "--workdir" in capsys.readouterr().out
    assert issubclass(cli.UsageError, UserError)


def test_a_trained_run(tmp_path):
    """Ratios are those of one more step of the run's own optimizer; the run is left as it was."""
    from experiments.language_model import EXPERIMENT
    from seqjax.run import command

    settings = {"train.steps": 4, "train.eval_every": 4, "sample.length": 0, "ngram_order": 0, "model.hidden_size": 6, "model.cell": "lstm"}
    flags = ["language_model", f"--workdir={tmp_path}", "--config=hello", *(f"--config.{name}={value}" for name, value in settings.items())]
    assert command.run(EXPERIMENT, cli.parse(EXPERIMENT, flags)) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    assert gradient_flow.main(["gradient_flow", f"--workdir={tmp_path}", "--window=12"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == before
    (network,) = json.loads((tmp_path / "gradients" / "gradients.json").read_text(encoding="utf-8"))["networks"]
    assert network["cell"] == "stack(lstm)" and len(network["carry_gradient_all"]) == 12
    assert {"embed/embedding", "rnn/0/kernel", "softmax/kernel"} <= network["update_ratios"].keys()
    assert 1e-4 < network["update_ratios"]["rnn/0/recurrent_kernel"] < 1  # Adam, at 1e-2, on weights of about 0.4
