"""One run in several processes: the numbers of one process, a stop that all agree on, a lost process that ends the others."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest
from processes import Server, final_state, records, sealed, small
from table import ROWS

from seqjax.launch import free_port
from seqjax.training.checkpoints.shares import writer_of


class Group:
    """Several processes of one run."""

    def __init__(self, server: Server, count: int, *flags: str, experiment: str = "language_model", **faults):
        address = f"127.0.0.1:{free_port()}"
        self.runs = [
            server.start(*flags, f"--distributed={address},{count},{index}", experiment=experiment, **faults) for index in range(count)
        ]

    def ended(self, status: int) -> "Group":
        """All have ended with this status; one has printed, none has complained."""
        for run in self.runs:
            run.wait(300)
        said = [(run.status, run.err) for run in self.runs]
        assert said == [(status, "")] * len(self.runs), f"{said}\n{self.runs[0].out}"
        assert not any(run.out for run in self.runs[1:])
        return self

    def wait_for_steps(self) -> None:
        self.runs[0].wait_for(lambda: "first step after" in self.runs[0].out)


def assert_same_run(workdir: pathlib.Path, reference: pathlib.Path, rounding: float = 2e-3) -> None:
    """The same records and the same end, to rounding; the same place in the data to the letter."""
    mine, its = records(workdir), records(reference)
    assert [(one["kind"], one["step"]) for one in mine] == [(one["kind"], one["step"]) for one in its]
    for one, other in zip(mine, its, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[name], rel=rounding, abs=1e-5), (one, other)
    mine, its = final_state(workdir), final_state(reference)
    assert mine.keys() == its.keys() and len(mine) > 10
    places = [json.loads(state.pop("meta"))["data"] for state in (mine, its)]
    assert places[0] == places[1]
    for name, array in mine.items():
        assert len(array) == len(its[name]), name
        if name.endswith(("kernel", "bias", "embedding")) or "/carry/" in name:
            one, other = (np.frombuffer(data, np.float32) for data in (array, its[name]))
            np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02, err_msg=name)


def test_a_signal_to_one_stops_both_and_one_process_resumes(server, text, finished, tmp_path):
    """With dropout and a carry; together they are the run that one process makes."""
    workdir = tmp_path / "run"
    flags = f"--workdir={workdir}", *small(text)
    both = Group(server, 2, *flags, slow_steps=0.05)
    both.wait_for_steps()
    time.sleep(0.2)
    both.runs[1].signal(signal.SIGTERM)
    both.ended(143)
    assert "SIGTERM has reached one of the processes" in both.runs[0].out and "2 cpu device(s) in 2 processes" in both.runs[0].out
    (*_, step), rest = sealed(workdir), server.run(*flags)
    assert 0 < step < 60 and rest.status == 0, rest.err
    assert f"resuming from the checkpoint of step {step}" in rest.out and "processes 2 before, 1 now" in rest.out
    assert_same_run(workdir, finished)


def test_parameters_cut_over_two_processes_are_resumed_whole_by_one(server, text, finished, tmp_path):
    """Both write the checkpoint; one process, with nothing cut, makes the end that it makes by itself."""
    workdir = tmp_path / "run"
    flags = f"--workdir={workdir}", *small(text)
    both = Group(server, 2, *flags, "--config.mesh.shard=fsdp", slow_steps=0.05, cut_all=True)
    both.wait_for_steps()
    time.sleep(0.2)
    both.runs[0].signal(signal.SIGTERM)
    both.ended(143)
    assert "parameters and optimiser state sharded over data" in both.runs[0].out
    folder = workdir / "checkpoints" / str(sealed(workdir)[-1])
    written = json.loads((folder / "MANIFEST.json").read_text())["files"]
    assert {writer_of(name) for name in written} == {0, 1} and not any(name.startswith("shares") for name in written)
    sizes = [sum(size for name, (size, _) in written.items() if f"process_{index}/d/" in name) for index in range(2)]
    assert min(sizes) > 0.3 * max(sizes)  # the state is cut in halves
    assert server.run(*flags).status == 0
    assert_same_run(workdir, finished)


def test_one_that_is_killed_ends_the_other_with_one_line(server, text, tmp_path):
    both = Group(server, 2, f"--workdir={tmp_path / 'run'}", *small(text), slow_steps=0.05)
    both.wait_for_steps()
    both.runs[1].kill()
    begin = time.monotonic()
    both.runs[0].refused("another process has ended", "the same command resumes")
    assert time.monotonic() - begin < 20


def test_the_doctor_says_where_processes_differ(server, text, tmp_path):
    """In a package, a setting, their devices and flags, the disk; it trains nothing and leaves nothing."""
    address, flags = f"127.0.0.1:{free_port()}", f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    for index in range(2):
        (tmp_path / str(index)).mkdir()
    first = server.start(f"--workdir={tmp_path / '0'}", *small(text), "--doctor", f"--distributed={address},2,0")
    second = server.start(
        f"--workdir={tmp_path / '1'}", *small(text, model__dropout=0.5), "--doctor", f"--distributed={address},2,1",
        env={"XLA_FLAGS": flags}, other_version="optax", impatient=0.2,
    )  # fmt: skip
    assert (first.wait(60).status, second.wait(60).status) == (1, 1) and first.err == second.err == second.out == "", first.err
    wrong = [line.split()[1] for line in first.out.split("\n") if line.startswith("WRONG")]
    assert wrong == ["optax", "settings", "shared", "variable"] and first.out.count("->") == 5, first.out
    for words in ("0.0.1 in process 1", "rows 2 to 3 of 4", "2 of 3 devices", "4 things are wrong", f"pid {second.pid}: 2 x cpu"):
        assert words in first.out, first.out
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.slow
def test_processes_with_different_numbers_of_devices_train(server, text, tmp_path):
    """Each uses as many as the one with the fewest; what they agree on goes by way of the first device of each."""
    address, end = f"127.0.0.1:{free_port()}", f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count="
    started = [
        server.start(f"--workdir={tmp_path}", *small(text), f"--distributed={address},2,{index}", env={"XLA_FLAGS": f"{end}{index + 1}"})
        for index in range(2)
    ]
    assert [run.wait(100).status for run in started] == [0, 0], started[0].err + started[1].err


def _is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
def test_what_slurm_says_is_found(server, text, tmp_path):
    """--distributed=auto takes address, number and index from the variables that srun sets."""
    port = next(port for port in range(61440, 65536) if _is_free(port))  # JAX takes one of these, by the job's number
    told = {"JOB_ID": port - 61440, "STEP_NODELIST": "localhost", "NTASKS": 2, "STEP_NUM_NODES": 1}
    flags = f"--workdir={tmp_path}", *small(text), "--doctor", "--distributed=auto"
    tasks = [
        server.start(*flags, env={f"SLURM_{name}": str(value) for name, value in (told | {"PROCID": i, "LOCALID": i}).items()})
        for i in range(2)
    ]
    assert [task.wait(60).status for task in tasks] == [0, 0], [task.err for task in tasks]
    assert "2 are connected" in tasks[0].out and f"process 1   {socket.gethostname()}, pid {tasks[1].pid}" in tasks[0].out


@pytest.mark.slow
def test_from_one_to_two_to_four_to_one(server, text, finished, tmp_path):
    workdir = tmp_path / "run"
    flags = f"--workdir={workdir}", *small(text)
    steps = []
    for count in (1, 2, 4):
        group = Group(server, count, *flags, slow_steps=0.1)
        group.wait_for_steps()
        group.runs[count // 2].signal(signal.SIGINT)
        group.ended(130)
        steps.append(sealed(workdir)[-1])
    assert server.run(*flags).status == 0
    assert 0 < steps[0] < steps[1] < steps[2] < 60
    assert_same_run(workdir, finished)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["none", "fsdp"])
def test_two_processes_make_the_same_bytes_however_often_they_are_killed(shard, server, text, tmp_path):
    """Each process in turn, the first one too: the others end by themselves, and the run goes to the end of one that nobody killed."""
    straight, workdir = tmp_path / "straight", tmp_path / "run"
    Group(server, 2, f"--workdir={straight}", *small(text, mesh__shard=shard), cut_all=True).ended(0)
    flags = f"--workdir={workdir}", *small(text, train__checkpoint_every=2, mesh__shard=shard)
    for victim in (0, 1, 0, 1):
        both = Group(server, 2, *flags, slow_steps=0.05, cut_all=True)
        both.wait_for_steps()
        time.sleep(0.3)
        both.runs[victim].kill()
        other = both.runs[1 - victim].wait(60)
        assert other.status != 0 and re.search("^error: .*(has ended|ended by)", other.err, re.MULTILINE), other.err
    Group(server, 2, *flags, cut_all=True).ended(0)
    assert final_state(workdir).keys() == final_state(straight).keys()
    mine, its = final_state(workdir), final_state(straight)
    del mine["meta"], its["meta"]  # it has the settings, of which one differs
    assert mine == its and records(workdir) == records(straight)


DEVICES = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2", "PJRT_NPROC": "32"}


@pytest.mark.slow
def test_a_cut_run_goes_from_mesh_to_mesh(server, text, finished, tmp_path):
    """Processes, devices, and what is cut over them, change; the run is that of one device. A damaged share is found."""
    workdir = tmp_path / "run"
    flags = f"--workdir={workdir}", *small(text, train__checkpoint_every=3)
    meshes = (
        (4, {}, ["--config.mesh.shard=fsdp"]),
        (2, DEVICES, ["--config.mesh.shard=fsdp", "--config.mesh.model=2"]),
        (1, DEVICES, ["--config.mesh.data=1", "--config.mesh.model=2"]),
        (2, DEVICES, ["--config.mesh.shard=fsdp"]),
    )
    for count, env, mesh in meshes:
        group = Group(server, count, *flags, *mesh, slow_steps=0.1, cut_all=True, env=env)
        group.wait_for_steps()
        time.sleep(0.3)
        group.runs[-1].signal(signal.SIGINT)
        group.ended(130)
    *_, before, step = sealed(workdir)
    share = max((workdir / "checkpoints" / str(step) / "state" / "ocdbt.process_1").rglob("d/*"), key=lambda path: path.stat().st_size)
    share.write_bytes(share.read_bytes()[:-1] + b"?")
    rest = server.run(*flags, *meshes[2][2], cut_all=True, env=DEVICES)
    assert rest.status == 0 and f"{share.name} has changed since it was saved" in rest.out, rest.out
    assert f"resuming from the checkpoint of step {before}" in rest.out
    assert_same_run(workdir, finished)
    assert server.run(f"--workdir={workdir}", "--mode=evaluate").status == 0  # on one device, though its settings have two


@pytest.mark.slow
def test_what_another_process_wrote_is_not_trusted(server, text, tmp_path):
    """The checksums of process 1 are not those that process 0 finds."""
    address, flags = f"127.0.0.1:{free_port()}", (f"--workdir={tmp_path / 'run'}", *small(text), "--config.mesh.shard=fsdp")
    first = server.start(*flags, f"--distributed={address},2,0", cut_all=True)
    second = server.start(*flags, f"--distributed={address},2,1", cut_all=True, lie_about_bytes=1)
    first.refused("is not what process 1 wrote", "The earlier checkpoints are untouched")
    assert second.wait(60).status != 0 and sealed(tmp_path / "run") == []


@pytest.mark.slow
def test_a_model_axis_stays_within_a_process(server, text, tmp_path):
    both = Group(server, 2, f"--workdir={tmp_path / 'run'}", *small(text), "--config.mesh.model=2")
    for run in both.runs:
        assert run.wait(60).status == 1 and "config.mesh.model=2 needs 2 devices in each of 2 processes" in run.err, run.err


@pytest.mark.slow
def test_one_that_does_not_answer_is_given_up(server, text, tmp_path):
    flags = f"--workdir={tmp_path / 'run'}", *small(text), "--distributed_timeout=10"
    both = Group(server, 2, *flags, slow_steps=0.05, env={"TF_CPP_MIN_LOG_LEVEL": "4"})
    both.wait_for_steps()
    both.runs[1].signal(signal.SIGSTOP)
    try:
        both.runs[0].wait(60)
        assert both.runs[0].status == 1 and "does not answer" in both.runs[0].err, both.runs[0].err
    finally:
        both.runs[1].kill()


@pytest.mark.slow
def test_one_that_never_comes_is_given_up(server, text, tmp_path):
    flags = f"--workdir={tmp_path / 'run'}", *small(text), "--distributed_timeout=5"
    run = server.start(*flags, f"--distributed=127.0.0.1:{free_port()},2,0", env={"TF_CPP_MIN_LOG_LEVEL": "4"})
    run.wait(90)
    assert run.status == 1 and "error: --distributed=127.0.0.1" in run.err and "within 5 seconds" in run.err, run.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_that_differ_are_refused(server, text, tmp_path):
    """In their settings, or in the disk that they see."""
    address, elsewhere = f"127.0.0.1:{free_port()}", tmp_path / "elsewhere"
    for other, words in (
        ([f"--workdir={tmp_path / 'run'}", *small(text, seed=1)], "the settings of process 1 are not those of process 0"),
        ([f"--workdir={elsewhere}", *small(text)], "process 1 does not see the work directory"),
    ):
        first = server.start(f"--workdir={tmp_path / 'run'}", *small(text), f"--distributed={address},2,0")
        second = server.start(*other, f"--distributed={address},2,1")
        assert first.wait(120).status == 1 and words in first.err, first.err
        assert second.wait(60).status != 0
    assert not elsewhere.exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_both_and_the_step_is_kept(server, text, tmp_path):
    both = Group(server, 2, f"--workdir={tmp_path / 'run'}", *small(text, train__max_skipped=9), nan_logits=True)
    for index, run in enumerate(both.runs):
        run.wait(300)
        assert run.status == 1 and "step 9" in run.err and "9 times in a row" in run.err and run.err.count("\n") == 1, run.err
        assert run.err.startswith("error: process 1: " if index else "error: stopped"), run.err
    assert "gradient_flow" in both.runs[0].err and sealed(tmp_path / "run" / "failed") == [9]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"diagnostics__every": 10}, {"optimizer__ema": 0.9, "train__accumulate": 2, "model__dropout": 0.0}])
def test_diagnostics_averages_and_parts_are_those_of_one_process(changes, server, text, tmp_path):
    """Parts are other rows with other noise in several processes; their sum is the same."""
    found = []
    for count in (1, 2):
        workdir = tmp_path / str(count)
        Group(server, count, f"--workdir={workdir}", *small(text, train__steps=20, **changes)).ended(0)
        found.append(records(workdir))
    assert [record["kind"] for record in found[0]].count("diagnostics") == (2 if "diagnostics__every" in changes else 0)
    for one, other in zip(*found, strict=True):
        numbers = {name: value for name, value in one.items() if isinstance(value, float)}
        assert numbers == pytest.approx({name: other[name] for name in numbers}, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_evaluation_counts_every_example_once(server, text, finished, tmp_path):
    found = []
    for count in (1, 2):
        workdir = shutil.copytree(finished, tmp_path / str(count))
        Group(server, count, f"--workdir={workdir}", "--mode=evaluate").ended(0)
        found.append(json.loads((workdir / "evaluation_validation.json").read_text()))
    assert found[1]["scores"]["model"] == pytest.approx(found[0]["scores"]["model"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_experiment_in_two_processes(name, runs, server, tmp_path):
    """Its first evaluation is the one that a single process makes of the same steps."""
    row = ROWS[name]
    sizes = {"data__batch_size": 8, "data__eval_batch_size": 8}
    flags = runs.flags(row, train__steps=2, train__epochs=0.0, train__log_every=1, train__eval_every=2, **sizes)
    found = []
    for count in (1, 2):
        workdir = tmp_path / str(count)
        Group(server, count, f"--workdir={workdir}", *flags, experiment=row.module).ended(0)
        found.append([(one["kind"], one["step"], one.get("loss")) for one in records(workdir) if "loss" in one])
    for one, other in zip(*found, strict=True):
        assert one[:2] == other[:2] and one[2] == pytest.approx(other[2], rel=1e-3), found
