"""diagnostics.every: what it writes, that training does not depend on it, and where it is refused."""

import math

import pytest
import recurrent_run as tiny
from letters_run import meta, records, state

from seqjax.errors import UserError


@pytest.fixture(autouse=True)
def own(in_process):
    pass


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run that nobody looks into."""
    workdir = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        tiny.letters.leave_the_process(patch)
        tiny.run(workdir)
    return workdir


def test_the_run_is_the_same_to_the_bit(plain, tmp_path, capsys):
    """Stopped and resumed with another interval besides, which no record shows twice."""
    tiny.run(tmp_path, diagnostics__every=2, stop=3)
    tiny.run(tmp_path, diagnostics__every=1)
    assert state(tmp_path) == state(plain)
    assert meta(tmp_path)["progress"] == meta(plain)["progress"]
    for kind in ("train", "evaluation"):
        assert records(tmp_path, kind) == records(plain, kind)
    found = records(tmp_path, "diagnostics")
    assert [record["step"] for record in found] == [2, 4, 5, 6] and records(plain, "diagnostics") == []
    assert found[0].keys() >= {"update_ratio/rnn/0", "gradient_norm/head", "carry_gradient_start/network0/layer2"}
    norm = math.hypot(*(value for name, value in found[0].items() if name.startswith("gradient_norm")))
    (train,) = [record for record in records(plain) if record["step"] == 2]
    assert norm == pytest.approx(train["grad_norm"], rel=1e-5)
    assert (tmp_path / "diagnostics.png").exists() and list((tmp_path / "tensorboard").iterdir())
    assert capsys.readouterr().out.count("compiling the diagnostics for") == 2  # once in each session


def test_without_a_recurrent_network_it_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"config.diagnostics.every=2: the model runs no recurrent network.*; leave it at 0"):
        tiny.run(tmp_path / "run", diagnostics__every=2, model__recurrent=False)
    assert not (tmp_path / "run").exists()


def test_seeds_that_are_looked_into_are_trained_one_after_another(tmp_path, capsys):
    tiny.run(tmp_path, "--sweep=seed=1,2", diagnostics__every=3)
    assert "diagnostics.every looks at each run alone" in capsys.readouterr().out
    assert [record["step"] for record in records(tmp_path / "seed=2", "diagnostics")] == [3, 6]
