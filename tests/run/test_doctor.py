"""--doctor: each thing that can be wrong is a line with advice and an exit status; nothing is left behind."""

import copy
import pathlib

import jax
import letters_run as tiny
import pytest
import recurrent_run

from seqjax.errors import UserError
from seqjax.run import cli, command, doctor, doctor_report, workdir


def one(**changes):
    """What a process found that has nothing to complain of."""
    found = {
        "errors": {}, "pid": 7, "host": "a", "versions": {"python": "3.12.1", "jax": "0.10.2"}, "backend": "gpu", "kind": "H100",
        "devices": 4, "used": 4, "memory": 80 << 30, "cores": 16, "native": "avx2", "native_missing": "", "cache": "/cache",
        "environment": {"XLA_FLAGS": "--a"}, "step": 30, "settings": "5e771465", "batch": 64, "eval_batch": 32, "mesh": {"data": 8},
        "data": {"name": "letters", "unit": "letters", "parts": {"train": 2000}, "fingerprint": "f00d"}, "rows": 32, "seconds": 0.25,
        "steps": 1000, "model": {"parameters": 12_345, "state": 3 << 20},
    }  # fmt: skip
    return copy.deepcopy(found) | changes


def disk(**changes):
    found = {"folder": "/net/run", "type": ["nfs4", "nfs4"], "free": 5 << 30, "speed": 100 << 20, "error": "", "user": ""}
    return found | {"blind": [], "unlocked": [], "unwritable": []} | changes


def test_a_report_without_faults():
    lines = doctor_report.lines([one(), one(pid=8, host="b")], disk(), 0.0004)
    text = "\n".join(doctor_report.shown(lines))
    assert doctor_report.wrong(lines) == 0 and len(text.split("\n")) < 40 and "WRONG" not in text and "note" not in text
    for words in (
        "2 are connected; they hear of each other in 0.4 ms", "a, pid 7: 4 x H100 of 80.0 GiB, 16 cores; rows 0 to 31 of 64",
        "b, pid 8: 4 x H100 of 80.0 GiB, 16 cores; rows 32 to 63 of 64", "python 3.12.1, jax 0.10.2", "data=8: all 8 devices",
        "resumes from the checkpoint of step 30, 1,000 steps in all", "letters (letters: 2,000 train)", "XLA_FLAGS=--a",
        "32 rows each in training, 16 each in evaluation; the first took 0.25 s", "/net/run (nfs4): 5.0 GiB free, 100.0 MiB/s",
        "12,345 parameters, 3.0 MiB with the optimiser's state",
        "seen by all, and locks hold between them", "ready: the command without --doctor trains",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    "second, there, name, text",
    [
        ({"versions": {"python": "3.12.1", "jax": "0.11.0"}}, {}, "jax", "0.10.2 in process 0; 0.11.0 in process 1"),
        ({"backend": "cpu"}, {}, "backend", "gpu in process 0; cpu in process 1"),
        ({"settings": "07e"}, {}, "settings", "5e771465 in process 0; 07e in process 1"),
        ({"step": 0}, {}, "run", "resumes from the checkpoint of step 30 in process 0; starts in process 1"),
        ({"data": one()["data"] | {"fingerprint": "beef"}}, {}, "data", "f00d in process 0; beef in process 1"),
        ({"environment": {}}, {}, "variable", "XLA_FLAGS=--a in process 0; unset in process 1"),
        ({}, {"blind": [1]}, "shared", "process 1 does not see it"),
        ({}, {"error": "it cannot be written: Read-only file system"}, "disk", "/net/run (nfs4): it cannot be written: Read-only file"),
        ({}, {"user": "12"}, "lock", "the run is in use by process 12"),
    ],
)
def test_what_is_wrong_is_one_line_with_advice(second, there, name, text):
    lines = doctor_report.lines([one(), one(**second)], disk(**there), 0.0004)
    (wrong,) = [line for line in lines if line.state == doctor_report.WRONG]
    assert wrong.name == name and wrong.text.startswith(text) and wrong.advice
    assert doctor_report.shown(lines)[-1] == "1 thing is wrong"


@pytest.mark.parametrize("part", ["packages", "settings", "mesh", "data", "batches", "model"])
def test_what_a_process_cannot_do_is_said_in_its_own_words(part):
    refused = one(errors={part: "no such thing; make one"})
    for seen, text in (([one(), refused], "in process 1: no such thing; make one"), ([refused] * 2, "no such thing; make one")):
        (wrong,) = [line for line in doctor_report.lines(seen, disk(), 0.0004) if line.state == doctor_report.WRONG]
        assert wrong.text == text


def test_a_process_that_got_nowhere_is_no_error_of_the_report():
    names = ("errors", "pid", "host", "versions", "backend", "kind", "devices", "memory", "cores", "native", "native_missing", "cache")
    early = {name: one()[name] for name in (*names, "environment")} | {"errors": {"settings": "config.x must be above 0"}}
    for seen in ([early], [one(), early], [early, one()]):
        lines = doctor_report.lines(seen, disk(type=["ext4"] * len(seen)), 0.0)
        assert [line.name for line in lines if line.state == doctor_report.WRONG] == ["settings"]


@pytest.mark.parametrize(
    "seen, there, name, words",
    [
        ([one(used=3, mesh={"data": 7}), one()], {}, "mesh", "data=7: 7 of 8 devices"),
        ([one(used=2, mesh={"data": 4}), one(used=2, devices=2)], {}, "mesh", "(4 in process 0; 2 in process 1)"),
        ([one(), one()], {"free": 1 << 29}, "disk", "512.0 MiB free"),
        ([one(), one()], {"unlocked": [1]}, "lock", "process 1 can lock what process 0 holds"),
        ([one(), one()], {"unwritable": [1]}, "writing", "process 1 cannot write there"),
        ([one(backend="cpu", used=1, native_missing="not built: do so")], {"type": ["ext4"]}, "native", "not built: do so"),
        ([one(cores=1), one(cores=1)], {}, "cores", "a: 2 processes, 1 cores"),
    ],
)
def test_what_could_be_better_is_a_note(seen, there, name, words):
    lines = doctor_report.lines(seen, disk(**there), 0.0004)
    note = next(line for line in lines if line.state == doctor_report.NOTE and line.name == name)
    assert doctor_report.wrong(lines) == 0 and words in note.text + note.advice and note.advice


def doctor_of(folder, *flags):
    return command.run(tiny.EXPERIMENT, cli.parse(tiny.EXPERIMENT, ["tiny", f"--workdir={folder}", "--doctor", *flags]))


def test_a_run_that_is_new_and_one_that_is_there(in_process, finished, tmp_path, capsys):
    assert doctor_of(tmp_path / "deep" / "run") == 0 and not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert f"{tmp_path} (" in said and "run         starts, 6 steps in all" in said and "4 rows in training" in said
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert doctor_of(finished) == 0 and "resumes from the checkpoint of step 6" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path != finished} == before


def test_settings_data_and_disks_that_cannot_be_used(in_process, finished, tmp_path, capsys):
    assert doctor_of(finished, "--config.seed=5") == 1
    assert "WRONG  settings    the run in" in capsys.readouterr().out
    with workdir.locked(tmp_path / "run"):
        assert doctor_of(tmp_path / "run") == 1
    assert "WRONG  lock        the run is in use by process" in capsys.readouterr().out
    assert doctor_of(pathlib.Path("/proc/run")) == 1
    assert "it cannot be written: " in capsys.readouterr().out

    def absent(config):
        raise FileNotFoundError(2, "No such file or directory", "letters.txt")

    experiment = tiny.EXPERIMENT._replace(load=absent)
    assert command.run(experiment, cli.parse(experiment, ["tiny", f"--workdir={tmp_path / 'new'}", "--doctor"])) == 1
    assert "WRONG  data        No such file or directory" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--config.optimizer.frozen=kernle"], "frozen: 'kernle' matches no parameter; the closest are .*kernel"),
        (["--config.optimizer.frozen=."], "nothing is left to train"),
        (["--init_from=FINISHED", "--config.data.letters=5"], r"do not all fit: params/table \(shape \(4, 3\) there, \(5, 3\) here"),
        (["--init_from=FINISHED", "--config.model.width=5"], "none of the weights of step 2 of the run in .* fit this model"),
        (["--init_from=NOWHERE"], "--init_from: there is no run in "),
        (["--init_partial"], "--init_partial has no effect without --init_from"),
        (["--profile=7:9"], "profile=7:9 must be steps of this session, 1 to 6"),
        (["--profile=seven"], "--profile=seven must name the first and the last step"),
        (
            ["--config.diagnostics.every=2", "--config.model.recurrent=False"],
            "every=2: the model runs no recurrent network.*; leave it at 0",
        ),
    ],
)
def test_what_a_run_refuses_once_its_model_is_there(in_process, finished, tmp_path, capsys, flags, words):
    experiment = recurrent_run.EXPERIMENT if "--config.diagnostics.every=2" in flags else tiny.EXPERIMENT
    flags = [flag.replace("FINISHED", str(finished)).replace("NOWHERE", str(tmp_path / "none")) for flag in flags]
    with pytest.raises(UserError, match=words) as refused:
        tiny.run(tmp_path / "run", *flags, experiment=experiment)
    assert command.run(experiment, cli.parse(experiment, ["tiny", f"--workdir={tmp_path / 'run'}", "--doctor", *flags])) == 1
    assert f"WRONG  model       {refused.value}\n" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["describe", "batches"])
def test_what_a_run_refuses_of_samples_and_of_its_validation_part(in_process, tmp_path, capsys, part):
    def refuses(*given, training=False):
        if training:
            return tiny.batches(*given, training=True)
        raise UserError("no such letter; leave it out")

    experiment = tiny.EXPERIMENT._replace(**{part: refuses})
    with pytest.raises(UserError, match="no such letter"):
        tiny.run(tmp_path / "run", experiment=experiment)
    assert command.run(experiment, cli.parse(experiment, ["tiny", f"--workdir={tmp_path / 'run'}", "--doctor"])) == 1
    assert "WRONG  model       no such letter; leave it out\n" in capsys.readouterr().out


def test_data_that_are_not_those_of_the_run(in_process, finished, capsys):
    experiment = tiny.EXPERIMENT._replace(load=lambda config: tiny.load(config)._replace(fingerprint="other"))

    def look(*flags):
        return command.run(experiment, cli.parse(experiment, ["tiny", f"--workdir={finished}", "--doctor", *flags]))

    assert look() == 1 and "WRONG  data        the parts of letters are not those that the run in" in capsys.readouterr().out
    assert look("--accept_changed_data") == 0


def test_a_run_that_cannot_be_extended_so(in_process, finished, capsys):
    assert doctor_of(finished, "--extend", "--config.train.steps=4") == 1
    assert "WRONG  model       the run in" in (said := capsys.readouterr().out) and "--extend cannot end it at 4" in said


def test_the_model_is_traced_and_never_made(in_process, finished, tmp_path, capsys):
    """Its step too: what it cannot do is an error before any array of the model exists."""
    keys, refuses = [], False

    def build(config, spec):
        model = tiny.build(config, spec)

        def init(key):
            keys.append(key)
            return model.init(key)

        def loss(params, *given):
            if refuses:
                raise UserError("no such engine; take another")
            assert isinstance(params["table"], jax.core.Tracer)
            return model.loss(params, *given)

        return model._replace(init=init, loss=loss)

    experiment = tiny.EXPERIMENT._replace(build=build)

    def look(*flags):
        return command.run(experiment, cli.parse(experiment, ["tiny", f"--workdir={tmp_path / 'run'}", "--doctor", *flags]))

    assert look(f"--init_from={finished}", "--config.optimizer.frozen=kernel") == 0
    assert "ok     model       15 parameters" in capsys.readouterr().out
    assert keys and all(isinstance(key, jax.core.Tracer) for key in keys)
    refuses = True
    assert look() == 1 and "WRONG  model       no such engine; take another" in capsys.readouterr().out


def test_each_run_of_a_sweep_has_a_report(in_process, finished, tmp_path, capsys):
    assert doctor_of(tmp_path / "sweep", "--sweep=seed=0,1", "--sweep=model.width=3,0") == 1 and not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert said.count("WRONG") == 2 == said.count("model.width=0 is out of range") == said.count("ready: ")
    assert f"--workdir={tmp_path}/sweep/seed=1,model.width=3\n" in said
    with pytest.raises(UserError, match="holds a run itself"):
        doctor_of(finished, "--sweep=seed=0,1")


def test_it_is_for_training():
    with pytest.raises(cli.UserError, match="--doctor has no effect with --mode=evaluate"):
        cli.parse(tiny.EXPERIMENT, ["tiny", "--workdir=run", "--mode=evaluate", "--doctor"])


def test_where_all_write_a_disk_that_one_cannot_write_is_wrong():
    seen = [one(all_write=True), one(all_write=True)]
    lines = doctor_report.lines(seen, disk(unwritable=[1]), 0.1)
    assert [line.name for line in lines if line.state == doctor_report.WRONG] == ["writing"]
    assert "lock" not in [line.name for line in lines]  # nothing was seen of locks


def test_a_work_directory_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "lm").write_text("")
    found = doctor.look_at_disk(tmp_path / "lm")
    assert found["error"] == "it is not a directory" and [path.name for path in tmp_path.iterdir()] == ["lm"]
