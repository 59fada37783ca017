"""Where a new run starts: --init_from takes another run's weights and nothing else, and says what does not fit."""

import shutil
from typing import Any, NamedTuple

import jax
import letters_run as tiny
import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.run import session
from seqjax.training.checkpoints import read_weights

pytestmark = pytest.mark.usefixtures("in_process")


class Begun(Exception):
    """Training would begin here, with this state."""


@pytest.fixture
def first_state(monkeypatch):
    """The state in which the run of a command line starts."""

    def begin(folder, task, plan, state, *rest, **options):
        raise Begun(state, options["meta"])

    def first(workdir, *flags, **changes):
        with monkeypatch.context() as patch:
            patch.setattr(session, "run", begin)
            with pytest.raises(Begun) as caught:
                tiny.run(workdir, *flags, **changes)
        return caught.value.args

    return first


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run with checkpoints 2, 4 and 6, the best of which is not the newest: the rate is far too high."""
    workdir = tmp_path_factory.mktemp("source") / "run:1"  # a colon in the name, as DIR:STEP has one
    with pytest.MonkeyPatch.context() as patch:
        tiny.leave_the_process(patch)
        tiny.run(workdir, optimizer__name="sgd", optimizer__learning_rate=1.5, schedule__name="constant", train__keep=9)
    losses = {record["step"]: record["loss"] for record in tiny.records(workdir, "evaluation")}
    assert min(losses, key=losses.get) == 2 and losses[6] > losses[4]
    return workdir


def files(workdir):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in workdir.rglob("*") if path.is_file()}


def equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)))


@pytest.mark.parametrize("which, step", [("", 2), (":best", 2), (":newest", 6), (":4", 4)])
def test_the_weights_and_nothing_else(first_state, source, tmp_path, capsys, which, step):
    before = files(source)
    flags = {"optimizer__ema": 0.9, "seed": 7}
    fresh, _ = first_state(tmp_path / "fresh", **flags)
    state, meta = first_state(tmp_path / "run", f"--init_from={source}{which}", **flags)
    params = read_weights(source, step)[1]["params"]
    assert equal(dict(state.params), params) and not equal(fresh.params, state.params)
    assert equal(dict(state.average[0]), params)  # the moving average starts from them too
    assert equal(state._replace(params=0, average=0), fresh._replace(params=0, average=0))  # optimiser, key, counters
    assert f"initialised from the weights of step {step} of the run in {source}: 2 arrays\n" in capsys.readouterr().out
    run = read_weights(source, step)[2]["run"]
    wanted = {"workdir": str(source), "which": which[1:] or "best", "step": step, "run": run}
    assert meta["began_from"] == wanted and len(run) == 32
    assert files(source) == before


def test_moving_averages_are_what_is_taken(first_state, tmp_path):
    tiny.run(tmp_path / "source", optimizer__ema=0.9)
    state, _ = first_state(tmp_path / "run", f"--init_from={tmp_path / 'source'}:newest")
    saved = tiny.state(tmp_path / "source")
    assert np.asarray(state.params["table"]).tobytes() == saved["average", "0", "table"] != saved["params", "table"]


def test_parts_that_do_not_fit(first_state, source, tmp_path, capsys):
    """Another vocabulary and nothing else: refused, naming it; with --init_partial that part starts fresh, and is named."""
    flags = {"data__letters": 6, "seed": 7}
    fresh, _ = first_state(tmp_path / "fresh", **flags)
    with pytest.raises(UserError) as caught:
        tiny.run(tmp_path / "run", f"--init_from={source}", **flags)
    told = "params/table (shape (4, 3) there, (6, 3) here)"
    assert f"do not all fit: {told}; --init_partial initialises these at random" in str(caught.value)
    assert "kernel" not in str(caught.value) and not (tmp_path / "run").exists()
    capsys.readouterr()
    state, _ = first_state(tmp_path / "run", f"--init_from={source}", "--init_partial", **flags)
    assert equal(state.params["kernel"], read_weights(source)[1]["params"]["kernel"])
    assert equal(state.params["table"], fresh.params["table"])
    said = capsys.readouterr().out
    assert "run:1: 1 arrays\n" in said and f"  not taken: {told}\n" in said and said.count("not taken") == 1


def test_weights_of_another_vocabulary_of_the_same_size_come_with_a_warning(first_state, source, tmp_path, capsys):
    """Their arrays fit; what the rows stand for is in the specs alone, which the checkpoint keeps."""

    class Spec(NamedTuple):
        letters: int
        names: dict[str, Any]
        mean: list[float]
        boundaries: list[int]
        series: dict[str, float]

    def named(names, count=3):
        measured = [0.5 * count], list(range(count)), {f"series {count}": 0.5}  # no row of weights stands for them
        return tiny.EXPERIMENT._replace(
            spec=Spec, prepare=lambda config, data: Spec(config.data.letters, {"tokens": list(names)}, *measured)
        )

    warning = "  the two runs' data differ in names: what a row of weights stands for may differ too\n"
    tiny.run(tmp_path / "abcd", experiment=named("abcd"))
    for names, count in (("abcd", 3), ("abcd", 4), ("wxyz", 3), ("abdc", 4)):
        capsys.readouterr()
        first_state(tmp_path / "run", f"--init_from={tmp_path / 'abcd'}", experiment=named(names, count))
        said = capsys.readouterr().out
        assert "2 arrays\n" in said and (warning if names != "abcd" else "") in said and said.count("data differ") == (names != "abcd")
    first_state(tmp_path / "run", f"--init_from={source}", experiment=named("wxyz"))  # a run of a form that knew no names
    assert "data differ" not in capsys.readouterr().out


def test_what_has_no_place_here_is_named(source, tmp_path, capsys):
    def build(config, spec):
        model = tiny.build(config, spec)
        return model._replace(init=lambda key: {"params": {"kernel": model.init(key)["params"]["kernel"], "bias": np.zeros(2)}})

    other = tiny.EXPERIMENT._replace(build=build)
    with pytest.raises(UserError) as caught:
        tiny.run(tmp_path / "run", f"--init_from={source}", experiment=other)
    assert "params/bias (not there); params/table (not in this model)" in str(caught.value)


def refused(workdir, *flags, words, **changes):
    with pytest.raises(UserError) as caught:
        tiny.run(workdir, *flags, **changes)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_no_such_weights(source, tmp_path):
    run, empty = tmp_path / "run", tmp_path / "empty"
    empty.mkdir()
    refused(run, f"--init_from={tmp_path / 'nowhere'}", words=["no run in", "nowhere", "DIR:newest or DIR:STEP"])
    refused(run, f"--init_from={source}:oldest", words=["no run in", "run:1:oldest", "DIR:newest or DIR:STEP"])
    refused(run, f"--init_from={source}:3", words=["no checkpoint of step 3", "it has 2, 4, 6"])
    refused(run, f"--init_from={empty}", words=["has no checkpoint yet"])
    words = ["none of the weights of step 2", "fit this model"]
    refused(run, f"--init_from={source}", "--init_partial", words=words, data__letters=6, model__width=5)
    refused(run, "--init_partial", words=["--init_partial has no effect without --init_from"])
    refused(run, f"--init_from={run}", words=["is the run's own --workdir"])
    assert not run.exists()


def test_the_same_command_resumes_and_the_origin_is_kept(finished, tmp_path):
    source, run, whole = shutil.copytree(finished, tmp_path / "source"), tmp_path / "run", tmp_path / "whole"
    flags = [f"--init_from={source}:newest"]
    tiny.run(whole, *flags, seed=3)
    tiny.run(run, *flags, stop=2, seed=3)
    tiny.run(shutil.copytree(run, tmp_path / "without"), seed=3)
    shutil.rmtree(source)  # it is not needed any more
    tiny.run(run, *flags, seed=3)
    for ended in (run, tmp_path / "without"):
        assert tiny.state(ended) == tiny.state(whole) and tiny.meta(ended) == tiny.meta(whole)
        assert tiny.records(ended) == tiny.records(whole)
    assert tiny.meta(run)["began_from"]["step"] == 6
    refused(run, f"--init_from={source}:best", words=["began from newest of", "leave --init_from out"], seed=3)
    refused(run, f"--init_from={run}", words=["is the run's own --workdir"], seed=3)
    scratch = shutil.copytree(finished, tmp_path / "scratch")
    refused(scratch, *flags, words=["began without --init_from"])
