"""Several processes, as far as one can see of them: what --distributed may be, what is said and refused. See also tests/experiments."""

import os
import types

import jax
import letters_run as tiny
import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.run import cli, distributed, recipe
from seqjax.training import processes


def parse(*flags):
    return cli.parse(tiny.EXPERIMENT, ["tiny", "--workdir=run", *flags])


@pytest.mark.parametrize("text", ["auto", "off", "localhost:1,1,0", "10.0.0.1:65535,12,11", "[::1]:80,2,1"])
def test_forms(text):
    assert parse(f"--distributed={text}").options.distributed == text
    assert distributed.parse(text) == text or ",".join(map(str, distributed.parse(text))) == text


@pytest.mark.parametrize("text", ["", "on", "host,2,0", "host:0,2,0", "host:65536,2,0", "host:1,2,2", "host:1,0,0", "host:1,2", "a :1,2,0"])
def test_other_forms_are_wrong_usage(text):
    with pytest.raises(cli.UsageError, match="HOST:PORT,COUNT,INDEX, with INDEX below COUNT"):
        parse(f"--distributed={text}")


def test_what_has_no_effect():
    with pytest.raises(cli.UsageError, match="--distributed_timeout has no effect without --distributed"):
        parse("--distributed_timeout=5")
    with pytest.raises(cli.UsageError, match="it must be"):
        parse("--distributed=auto", "--distributed_timeout=0")
    assert parse().options.distributed == "off" and parse("--mode=evaluate").options.distributed_timeout == 100


def start(monkeypatch, *flags, error=None, count=1):
    """What JAX is called with; it raises an error, or finds so many processes, of which this is the second."""
    called = []

    def initialize(*address, **times):
        called.append((address, times))
        if error is not None:
            raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(distributed, "_say_before_abort", lambda text: None)
    monkeypatch.setattr(distributed, "one_order", lambda: None)
    monkeypatch.setattr(processes, "several", lambda: count > 1)
    monkeypatch.setattr(processes, "first", lambda: count == 1)
    distributed.start(parse(*flags).options)
    return called


def test_jax_is_asked_only_where_it_is_wanted(monkeypatch):
    assert start(monkeypatch) == [] and start(monkeypatch, "--distributed=off") == []
    ((address, times),) = start(monkeypatch, "--distributed=host:9,3,2", "--distributed_timeout=7")
    assert address == ("host:9", 3, 2)
    assert times["initialization_timeout"] == times["heartbeat_timeout_seconds"] == 7 < times["shutdown_timeout_seconds"]
    distributed.start(types.SimpleNamespace())  # a mode without the flag


def test_flags_of_xla_are_kept(monkeypatch):
    flag = "--xla_cpu_enable_concurrency_optimized_scheduler"
    for before, after in (("", f"{flag}=false"), ("--a=1", f"--a=1 {flag}=false"), (f"{flag}=true --a=1", f"{flag}=true --a=1")):
        monkeypatch.setenv("XLA_FLAGS", before)
        distributed.one_order()
        assert os.environ["XLA_FLAGS"] == after


def test_auto_where_there_is_no_cluster_says_so(monkeypatch, capsys):
    ((address, _),) = start(monkeypatch, "--distributed=auto", error=ValueError("coordinator_address should be defined."))
    assert address == (None, None, None) and "this is a single process" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("DEADLINE_EXCEEDED: no answer\nand more"), ValueError("port 9: no answer")])
def test_others_that_cannot_be_found_are_one_line(monkeypatch, error):
    with pytest.raises(UserError, match="--distributed=host:9,2,0: .*no answer") as caught:
        start(monkeypatch, "--distributed=host:9,2,0", error=error)
    assert "\n" not in str(caught.value)


def test_a_sweep_is_refused_in_several_processes(monkeypatch):
    with pytest.raises(UserError, match="--sweep runs in a single process"):
        start(monkeypatch, "--distributed=host:9,2,1", "--sweep=seed=0,1", count=2)


def device(process, number):
    return types.SimpleNamespace(process_index=process, id=number)


@pytest.mark.parametrize("batches, each", [((8, 8), 2), ((6, 2), 1), ((2, 8), 1)])
def test_every_process_has_as_many_devices_of_the_mesh_in_its_turn(monkeypatch, batches, each):
    devices = [device(1, 5), device(0, 3), device(1, 4), device(0, 2), device(1, 6)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found = [(d.process_index, d.id) for d in recipe.usable_devices(*batches)]
    assert found == [(0, 2), (0, 3), (1, 4), (1, 5)] if each == 2 else found == [(0, 2), (1, 4)]


@pytest.mark.parametrize(
    "data, model, numbers", [(-1, 1, [2, 3, 4, 5]), (-1, 2, [2, 3, 4, 5]), (2, 1, [2, 4]), (2, 2, [2, 3, 4, 5]), (4, 1, [2, 3, 4, 5])]
)
def test_the_model_axis_lies_within_a_process(data, model, numbers, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [device(1, 5), device(0, 3), device(1, 4), device(0, 2)])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert [d.id for d in recipe.usable_devices(8, 4, data=data, model=model)] == numbers


@pytest.mark.parametrize(
    "count, data, model, words",
    [
        (1, -1, 5, "config.mesh.model=5 needs 5 devices, and there are 4"),
        (1, 2, 3, "config.mesh.data=2 and config.mesh.model=3 need 6 devices, and there are 4"),
        (1, 3, 1, "batches of 8 and 4 do not split evenly over config.mesh.data=3"),
        (2, -1, 4, "config.mesh.model=4 needs 4 devices in each of 2 processes, and there are 2"),
        (2, 1, 1, "config.mesh.data=1 does not split evenly over 2 processes"),
    ],
)
def test_a_mesh_that_cannot_be_made_is_refused(count, data, model, words, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [device(number * count // 4, number) for number in range(4)])
    monkeypatch.setattr(jax, "process_count", lambda: count)
    with pytest.raises(UserError, match=f"^{words}"):
        recipe.usable_devices(8, 4, data=data, model=model)


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(UserError, match="batches of 6 and 4 do not split evenly over 3 processes"):
        recipe.usable_devices(6, 4)


def test_the_work_directory_is_known_by_a_token(monkeypatch, tmp_path):
    """Process 1 reads what process 0 wrote, and finds it gone or other where it looks at another disk."""
    monkeypatch.setattr(distributed, "_SOON", 0.1)
    (tmp_path / "token").write_text("abc")
    assert distributed.shows(tmp_path / "token", "abc") and not distributed.shows(tmp_path / "token", "abd")
    assert not distributed.shows(tmp_path / "nowhere" / "token", "abc")
    distributed.check_visible(tmp_path)  # a single process
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "each", lambda value: np.stack([value, value]) if value.ndim else np.array([1, 0]))
    with pytest.raises(UserError, match="process 1 does not see the work directory .*a file system that all processes share"):
        distributed.check_visible(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_a_lost_process_is_one_line(monkeypatch, capsys):
    """What JAX raises then, whatever is raised while it is handled; in a single process an error stays what it is."""

    def gone(argv):
        try:
            raise ValueError("UNKNOWN: Gloo all-reduce failed: [pair.cc:5] Connection closed by peer\nand more")
        except ValueError as error:
            raise RuntimeError("the save failed") from error

    with pytest.raises(RuntimeError, match="the save failed"):
        cli.call(gone, ["tiny"])
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(SystemExit) as caught:
        cli.call(gone, ["tiny"])
    said = capsys.readouterr().err
    assert caught.value.code == 1 and said.count("\n") == 1, said
    assert said.startswith("error: process 1: another process has ended") and "the same command resumes" in said
