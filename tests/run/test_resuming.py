"""Whether a run is the one asked for, and runs that are made longer: what counts is inside the checkpoints."""

import importlib
import json
import math
import pathlib
import shutil
import types
from typing import NamedTuple

import letters_run as tiny
import pytest

from seqjax.errors import UserError
from seqjax.run import resuming, settings

pytestmark = pytest.mark.usefixtures("in_process")
CONSTANT = {"schedule__name": "constant"}


def refused(workdir, *flags, words, **changes):
    """A refusal leaves the work directory as it was."""
    before = contents(workdir)
    with pytest.raises(UserError) as caught:
        tiny.run(workdir, *flags, **changes)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert contents(workdir) == before


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != "lock"}


def same(workdir, other):
    assert tiny.state(workdir) == tiny.state(other)
    assert tiny.meta(workdir) == tiny.meta(other)
    for kind in ("train", "evaluation"):
        assert tiny.records(workdir, kind) == tiny.records(other, kind)


# Settings.


def test_a_preset_that_was_forgotten_is_named(tmp_path):
    """Also beside settings that were given; with others the differences are listed."""
    presets = tiny.PRESETS | {"wrong": {"data.letters": 0}, "wide": tiny.PRESETS["short"] | {"model.width": 5, "train.steps": 2}}
    experiment = tiny.EXPERIMENT._replace(presets=presets)
    tiny.run(tmp_path, "--config=wide", experiment=experiment, seed=3)
    named = "has the settings of --config=wide; add that to resume it, or use another --workdir"
    refused(tmp_path, experiment=experiment, words=[named], seed=3)
    refused(tmp_path, "--config=short", experiment=experiment, words=[named], seed=3, train__log_every=2)
    refused(tmp_path, experiment=experiment, words=["model.width: 5 there, 3 here", "seed: 3 there, 0 here"])
    refused(tmp_path, "--extend", experiment=experiment, words=["seed: 3 there, 4 here"], seed=4)
    tiny.run(tmp_path, "--config=wide", experiment=experiment, seed=3)


@pytest.mark.parametrize("harm", ["missing", "another", "no JSON"])
def test_the_settings_that_count_are_the_checkpoints(finished, tmp_path, capsys, harm):
    workdir = shutil.copytree(finished, tmp_path / "run")
    path = workdir / "config.json"
    whole = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "another":
        config = json.loads(whole)
        config["seed"], config["optimizer"]["learning_rate"] = 9, 0.7
        path.write_text(json.dumps(config))
    else:
        path.write_text("{")
    words = ["seed: 0 there, 9 here", "optimizer.learning_rate: 0.1 there, 0.7 here", "another --workdir"]
    refused(workdir, words=words, seed=9, optimizer__learning_rate=0.7)
    capsys.readouterr()
    tiny.run(workdir)
    said = capsys.readouterr().out
    told = {"missing": "config.json was missing", "another": "seed: 9 there, 0 here", "no JSON": "config.json was damaged"}
    assert told[harm] in said and "which is the last" in said
    assert path.read_bytes() == whole
    same(workdir, finished)


def test_the_run_is_of_one_experiment(finished):
    other = tiny.EXPERIMENT._replace(name="large")
    refused(finished, words=["belongs to the experiment tiny, not large"], experiment=other)


def test_another_process_trains_between_the_look_and_the_lock(tmp_path):
    """The settings were compared when there was no run yet."""

    def load(config):
        if config.seed == 1:
            tiny.run(tmp_path / "run", seed=2)
        return tiny.load(config)

    with pytest.raises(UserError, match="another process has just trained the run in .*; the same command resumes it"):
        tiny.run(tmp_path / "run", seed=1, experiment=tiny.EXPERIMENT._replace(load=load))
    assert tiny.meta(tmp_path / "run")["config"]["seed"] == 2


# Longer runs.


def test_an_extended_run_is_the_long_one_where_the_schedule_has_no_end(tmp_path, capsys):
    tiny.run(tmp_path / "long", train__steps=10, **CONSTANT)
    tiny.run(tmp_path / "run", **CONSTANT)
    capsys.readouterr()
    tiny.run(tmp_path / "run", "--extend", train__steps=10, **CONSTANT)
    line = "extended from 6 to 10 steps: the constant schedule does not depend on the length; the learning rate at step 6 stays 0.1\n"
    assert line in capsys.readouterr().out
    same(tmp_path / "run", tmp_path / "long")


def cosine(step, steps, rate=0.1, final=0.01):
    return rate * ((1 - final) * (1 + math.cos(math.pi * step / steps)) / 2 + final)


def test_a_cosine_is_laid_over_the_new_length(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    tiny.run(workdir, "--extend", train__steps=10)
    there, before = f"{cosine(6, 10):.3g}", f"{cosine(6, 6):.3g}"
    assert (
        "extended from 6 to 10 steps: the cosine schedule is recomputed over 10; "
        f"the learning rate at step 6 is now {there} instead of {before}\n" in capsys.readouterr().out
    )
    rates = [record["learning_rate"] for record in tiny.records(workdir)]
    assert rates == pytest.approx([cosine(step, 6) for step in range(6)] + [cosine(step, 10) for step in range(6, 10)], rel=1e-5)


def test_a_rate_that_a_plateau_lowered_stays(tmp_path, capsys):
    plateau = {"schedule__name": "plateau", "schedule__patience": 1, "optimizer__learning_rate": 1e-30}  # nothing gets better
    tiny.run(tmp_path / "run", **plateau)
    last = tiny.records(tmp_path / "run")[-1]["learning_rate"]
    tiny.run(tmp_path / "run", "--extend", train__steps=7, **plateau)
    lowered = 1e-30 * 0.5**2  # at two of three evaluations
    assert last < 1e-30 and f"the learning rate at step 6 stays {lowered:.3g}\n" in capsys.readouterr().out
    assert tiny.records(tmp_path / "run")[-1]["learning_rate"] == pytest.approx(lowered)


def test_in_passes_and_with_no_other_setting(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    tiny.run(workdir, "--extend", train__epochs=2)
    assert f"extended from 6 to {2 * tiny.BATCHES} steps" in capsys.readouterr().out
    train = tiny.meta(workdir)["config"]["train"]
    assert (train["steps"], train["epochs"]) == (0, 2.0)
    refused(workdir, "--extend", words=["seed: 0 there, 5 here"], train__steps=20, seed=5)


def test_an_extension_that_is_stopped_resumes_with_the_flag_and_without(finished, tmp_path, capsys):
    whole = shutil.copytree(finished, tmp_path / "whole")
    tiny.run(whole, "--extend", train__steps=10)
    for again in (["--extend"], []):
        workdir = shutil.copytree(finished, tmp_path / f"run{len(again)}")
        tiny.run(workdir, "--extend", stop=8, train__steps=10)
        capsys.readouterr()
        tiny.run(workdir, *again, train__steps=10)
        said = capsys.readouterr().out
        assert "resuming from the checkpoint of step 8\n" in said and "extended" not in said
        same(workdir, whole)
        tiny.run(workdir, *again, train__steps=10)
        assert "step 10, which is the last" in capsys.readouterr().out
        same(workdir, whole)
    refused(workdir, words=["train.steps: 10 there, 6 here"])  # the first command is of another run now


def test_a_stopped_run_may_be_made_longer_or_shorter_but_not_than_it_is(tmp_path, capsys):
    run = tmp_path / "run"
    tiny.run(run, stop=3)
    refused(run, "--extend", words=["is already at step 3", "cannot end it at 2"], train__steps=2)
    tiny.run(shutil.copytree(run, tmp_path / "long"), "--extend", train__steps=8)
    told = f"extended from 6 to 8 steps: the cosine schedule is recomputed over 8; the learning rate at step 3 is now {cosine(3, 8):.3g}"
    assert told in capsys.readouterr().out
    tiny.run(run, "--extend", train__steps=4)
    assert tiny.meta(run)["data"] == {"number": 4}
    refused(run, "--extend", words=["is already at step 4"], train__steps=3)


def test_without_the_flag_another_length_is_refused_and_the_flag_is_named(finished):
    refused(finished, words=["train.steps: 6 there, 9 here", "--extend continues it to the new length"], train__steps=9)
    with pytest.raises(UserError) as caught:
        tiny.run(finished, train__steps=9, seed=5)
    assert "--extend" not in str(caught.value)  # it would not help


def test_there_must_be_a_run_to_extend(tmp_path):
    refused(tmp_path / "run", "--extend", words=["--extend: there is no run with a checkpoint in"], train__steps=9)
    assert not (tmp_path / "run").exists()


def test_a_run_that_stopped_early_is_extended_with_its_patience_whole(tmp_path, capsys):
    early = {"train__steps": 20, "train__stop_after": 2, "optimizer__learning_rate": 1e-30, **CONSTANT}  # nothing gets better
    run = tmp_path / "run"
    tiny.run(run, **early)
    assert "stopped early at step 6" in capsys.readouterr().out  # evaluated at 2, 4 and 6
    tiny.run(run, **early)
    assert "which is the last" in capsys.readouterr().out and tiny.meta(run)["data"] == {"number": 6}
    stopped = shutil.copytree(run, tmp_path / "stopped")
    tiny.run(run, "--extend", **early)
    said = capsys.readouterr().out
    assert "it stopped early, after 2 evaluations without a better one; the count restarts at 0\n" in said
    assert "stopped early at step 10" in said and tiny.meta(run)["data"] == {"number": 10}
    tiny.run(stopped, "--extend", stop=9, **early)
    tiny.run(stopped, "--extend", **early)  # the same command: it is not extended twice
    same(stopped, run)
    assert "the count restarts at 0" in capsys.readouterr().out.split("stopping after this step")[0]


def test_a_run_that_is_to_have_that_length_already_says_so(finished, capsys):
    tiny.run(finished, "--extend")
    assert "the run has 6 steps already; --extend with a larger config.train.steps makes it longer\n" in capsys.readouterr().out


# Data that changed.


def changed(how="changed", **spec):
    """The experiment on data with another fingerprint."""
    prepare = tiny.EXPERIMENT.prepare
    load = lambda config: tiny.load(config)._replace(fingerprint=how)  # noqa: E731
    return tiny.EXPERIMENT._replace(load=load, prepare=lambda config, data: prepare(config, data)._replace(**spec))


def test_changed_data_are_refused_unless_they_are_accepted(tmp_path, capsys):
    run, straight = tmp_path / "run", tmp_path / "straight"
    tiny.run(straight)
    tiny.run(run, stop=4)
    refused(run, words=["are not those that the run in", "--accept_changed_data"], experiment=changed())
    tiny.run(run, "--accept_changed_data", experiment=changed(), stop=5)
    assert "at step 4 from 4 letters to changed" in capsys.readouterr().out
    assert tiny.meta(run)["data_changes"] == [{"step": 4, "from": "4 letters", "to": "changed"}]
    tiny.run(run, experiment=changed())  # they are the run's own now
    assert tiny.state(run) == tiny.state(straight) and tiny.meta(run)["fingerprint"] == "changed"
    refused(run, words=["--accept_changed_data"])  # and those that it began with are not
    tiny.run(run, "--accept_changed_data", "--extend", train__steps=8)
    assert [change["to"] for change in tiny.meta(run)["data_changes"]] == ["changed", "4 letters"]
    capsys.readouterr()
    tiny.run(run, "--accept_changed_data", train__steps=8)
    assert "--accept_changed_data: the parts are those that the run was trained on" in capsys.readouterr().out


def test_changed_data_are_evaluated_where_they_are_accepted(tmp_path, capsys):
    tiny.run(tmp_path / "run")
    words = ["are not those that the run in", "--accept_changed_data"]
    refused(tmp_path / "run", "--mode=evaluate", words=words, experiment=changed())
    capsys.readouterr()
    tiny.run(tmp_path / "run", "--mode=evaluate", "--accept_changed_data", experiment=changed())
    assert "from 4 letters to changed" in capsys.readouterr().out
    words = ["give another letters than those"]
    refused(tmp_path / "run", "--mode=evaluate", "--accept_changed_data", words=words, experiment=changed(letters=5))


def test_changed_data_that_need_another_model_are_refused(tmp_path):
    tiny.run(tmp_path / "run", stop=4)
    words = ["give another letters than those", "use another --workdir"]
    refused(tmp_path / "run", "--accept_changed_data", words=words, experiment=changed(letters=5))


class Measured(NamedTuple):
    letters: int
    mean: float


def test_means_of_changed_data_stay_those_of_the_run(tmp_path):
    """The model was trained with them."""
    means = iter([0.5, 0.25, 0.125])
    seen = []

    def build(config, spec):
        seen.append(spec.mean)
        return tiny.build(config, spec)

    def experiment(how):
        return changed(how)._replace(spec=Measured, build=build, prepare=lambda config, data: Measured(4, next(means)))

    tiny.run(tmp_path / "run", experiment=experiment("one"), stop=3)
    tiny.run(tmp_path / "run", "--accept_changed_data", experiment=experiment("two"), stop=5)
    tiny.run(tmp_path / "run", experiment=experiment("two"))
    assert seen == [0.5] * 3 and tiny.meta(tmp_path / "run")["spec"] == {"letters": 4, "mean": 0.5}


def test_a_place_that_changed_data_do_not_have_is_the_next_epoch():
    class Epochs:
        state = {"epoch": 0, "batch": 0}

        def get_state(self):
            return self.state

        def set_state(self, state):
            if state["batch"] > 3:
                raise UserError("there are only three batches")
            self.state = state

    data = Epochs()
    with pytest.raises(UserError):
        resuming.accepting(data, False).set_state({"epoch": 2, "batch": 4})
    resuming.accepting(data, True).set_state({"epoch": 2, "batch": 3})
    assert data.state == {"epoch": 2, "batch": 3}
    resuming.accepting(data, True).set_state({"epoch": 2, "batch": 4})
    assert data.state == {"epoch": 3, "batch": 0}


# Data that an earlier version of seqjax hashed in another way.

OLD, NEW = "0123456789abcdef" * 4, "v2-" + "f" * 64
ASSETS = pathlib.Path(__file__).parents[1] / "assets"


def hashed(fingerprint):
    """The experiment whose data have this fingerprint."""
    return tiny.EXPERIMENT._replace(load=lambda config: tiny.load(config)._replace(fingerprint=fingerprint))


def test_a_run_of_an_older_fingerprint_is_resumed_with_a_note(tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tiny.run(whole, experiment=hashed(NEW), train__steps=12, **CONSTANT)
    tiny.run(parts, experiment=hashed(OLD), **CONSTANT)
    assert tiny.meta(parts)["fingerprint"] == OLD
    capsys.readouterr()
    tiny.run(parts, "--extend", experiment=hashed(NEW), train__steps=12, **CONSTANT)
    assert capsys.readouterr().err.count("could not be compared") == 1
    assert tiny.meta(parts)["fingerprint"] == NEW and tiny.state(parts) == tiny.state(whole)
    tiny.run(parts, experiment=hashed(NEW), train__steps=12, **CONSTANT)
    assert "could not be compared" not in capsys.readouterr().err
    refused(parts, experiment=hashed(NEW.replace("f", "e")), words=["not those that the run"], train__steps=12, **CONSTANT)
    refused(parts, experiment=hashed(OLD), words=["not those that the run"], train__steps=12, **CONSTANT)


def test_it_is_evaluated_with_a_note(tmp_path, capsys):
    tiny.run(tmp_path / "run", experiment=hashed(OLD))
    capsys.readouterr()
    tiny.run(tmp_path / "run", "--mode=evaluate", experiment=hashed(NEW))
    said = capsys.readouterr()
    assert said.err.count("could not be compared") == 1 and "what they make of the model" not in said.err


@pytest.mark.parametrize("before, now", [(OLD, OLD.replace("0", "1")), ("4 letters", NEW), (NEW, OLD)])
def test_other_fingerprints_that_differ_are_refused(tmp_path, before, now):
    tiny.run(tmp_path / "run", experiment=hashed(before))
    refused(tmp_path / "run", experiment=hashed(now), words=["not those that the run"])


def test_a_released_run_of_images_is_checked_by_its_spec(capsys):
    pytest.importorskip("sklearn")
    experiment = importlib.import_module("experiments.image_classification").EXPERIMENT
    stored = resuming.stored(ASSETS / "format_1_image_classification", experiment)
    assert resuming.EARLIER.fullmatch(stored.meta["fingerprint"])
    config = settings.nest(settings.flatten(stored.meta["config"]))
    dataset = experiment.load(config)
    spec = experiment.prepare(config, dataset)
    same = types.SimpleNamespace(name="digits", fingerprint=NEW, made_from={})
    resuming.check_data(experiment, ASSETS, same, spec, stored.meta)
    assert capsys.readouterr().err.count("could not be compared") == 1
    other = stored.meta | {"spec": stored.meta["spec"] | {"classes": ["zero"]}}
    with pytest.raises(UserError, match="now give another classes"):
        resuming.check_data(experiment, ASSETS, same, spec, other)
