"""The step that stops a run: what is kept of it, and what is said of where it began."""

import jax
import numpy as np
import pytest
import recurrent_run as tiny
from letters_run import state

from experiments import gradient_flow
from seqjax.errors import UserError
from seqjax.run import driver, settings


@pytest.fixture(autouse=True)
def own(in_process, monkeypatch):
    monkeypatch.setattr(gradient_flow, "named", lambda name, file: tiny.EXPERIMENT)


def stopped(workdir, **changes):
    changes = {"train__max_skipped": 2, "train__checkpoint_every": 3} | changes
    with pytest.raises(UserError, match="python -m seqjax gradient_flow --workdir=.* --failed$") as found:
        tiny.run(workdir, **changes)
    return str(found.value)


def said(workdir, capsys):
    capsys.readouterr()
    assert gradient_flow.main(["gradient_flow", f"--workdir={workdir}", "--failed"]) == 0
    return capsys.readouterr().out.splitlines()


def kept(workdir, part):
    return {path[1:]: leaf for path, leaf in state(workdir / "failed").items() if path[:2] == ("state", part)}


def test_inputs_that_are_not_finite(tmp_path, capsys):
    """Kept are the step's batch, and what the last good step left, though the next batch is a good one again."""
    assert "stopped at step 5:" in stopped(tmp_path, data__fault="inputs")
    step = driver.failed_step(tiny.EXPERIMENT, tmp_path)
    assert (step.number, int(step.state.step)) == (5, 4)
    config = settings.build(tiny.FIELDS, dict(tiny.EXPERIMENT.presets["short"]) | {"data.fault": "inputs"})
    jax.tree.map(np.testing.assert_array_equal, step.batch, tiny.batch_of(config, 4))
    for part in ("params", "carry", "opt_state", "key"):
        assert kept(tmp_path, part) == {path: leaf for path, leaf in state(tmp_path, 3).items() if path[0] == part} != {}
    assert said(tmp_path, capsys)[:5] == [
        "step 5 of tiny (the last of 2 skipped in a row), not finite in it: loss, gradient norm, optimizer state, parameters, carry",
        "batch: xs is not finite, first at [2, 4, 0]",
        "network 0, inputs: x is not finite from time 4, in sequence 2",
        "network 0, layer 1 (rnn): h is not finite from time 4, in sequence 2",
        "network 0, layer 2 (rnn): h is not finite from time 4, in sequence 2",
    ]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_where_values_are(accumulate, tmp_path, capsys):
    stopped(tmp_path, data__fault="gradient", train__accumulate=accumulate, train__max_skipped=1)
    first, *lines = said(tmp_path, capsys)
    assert first == "step 4 of tiny, not finite in it: gradient norm, optimizer state, parameters"
    where = "values are finite; going back, the gradient of the carry first is not after time 1, where the step that follows hands it back"
    assert lines[:2] == [f"network 0, layer {layer} (rnn): {where}, in sequence 1" for layer in (2, 1)]
    assert lines[2].startswith("gradient: rnn/0/bias, rnn/0/kernel") or lines[2].startswith("gradient: rnn/0/kernel")


def test_a_loss_that_is_not_finite_behind_the_network_and_one_step_alone_is_kept(tmp_path, capsys):
    stopped(tmp_path, data__fault="loss", train__max_skipped=1)
    lines = said(tmp_path, capsys)
    assert lines[1] == "batch: scale is not finite, first at [3]" and "loss: nan" in lines
    stopped(tmp_path, data__fault="loss", train__max_skipped=2)  # the same run further on
    assert [path.name for path in (tmp_path / "failed" / "checkpoints").iterdir()] == ["5"]


def test_parameters_that_are_not_finite(tmp_path, capsys):
    """Such as a run may begin with: the guard lets none in."""
    stopped(tmp_path, data__fault="loss", train__max_skipped=1)
    step = driver.failed_step(tiny.EXPERIMENT, tmp_path)
    params = step.state.params
    upper = params["rnn"][1]
    bad = params | {"rnn": (params["rnn"][0], upper._replace(bias=upper.bias.at[0].set(np.nan)))}
    setup = step.setup
    how = setup.model.loss, driver.proposal_of(setup), setup.mesh, step.state._replace(params=bad), step.batch
    lines = gradient_flow.explain(*how)
    assert lines[0] == "parameters before the step: rnn/1/bias not finite"
    assert "network 0, parameters: 1/bias not finite" in lines
    assert "network 0, layer 2 (rnn): h is not finite from time 0, in sequences 0, 1, 2, 3" in lines
    assert not any("layer 1 (rnn)" in line for line in lines)


def test_what_is_refused(tmp_path, capsys):
    for flags, message in [
        ([f"--workdir={tmp_path}"], f"{tmp_path} has no failed step; a run saves one when it stops"),
        ([], "--failed needs the --workdir"),
    ]:
        with pytest.raises(UserError, match=message):
            gradient_flow.main(["gradient_flow", "--failed", *flags])
    stopped(tmp_path / "run", data__fault="loss")
    (file,) = [path for path in (tmp_path / "run" / "failed").rglob("MANIFEST.json")]
    file.write_text(file.read_text().replace("5", "6"))
    with pytest.raises(UserError, match="damaged"):
        said(tmp_path / "run", capsys)


def test_seeds_that_are_trained_together(tmp_path, capsys):
    """Each keeps its own step; its state is taken out of the stacked ones."""
    with pytest.raises(AssertionError):  # the status of a sweep with failed runs
        tiny.run(tmp_path, "--sweep=seed=1,2", data__fault="inputs", train__max_skipped=2, train__checkpoint_every=3)
    assert "training 2 seeds together" in capsys.readouterr().out
    for workdir in (tmp_path / "seed=1", tmp_path / "seed=2"):
        assert kept(workdir, "params") == {path: leaf for path, leaf in state(workdir, 3).items() if path[0] == "params"}
        assert said(workdir, capsys)[1] == "batch: xs is not finite, first at [2, 4, 0]"
