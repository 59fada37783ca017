"""The launcher of several processes on this machine: arguments, signals, exit statuses, nothing left behind. The processes know no JAX."""

import os
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest

from seqjax import launch


def command(text):
    """A program of a few lines; `index` is its process's."""
    return [sys.executable, "-c", "import os, signal, sys, time\nindex = int(sys.argv[-1].rsplit(',', 1)[1])\n" + text]


def test_every_process_gets_the_same_address_and_its_own_index(tmp_path):
    text = f"open(os.path.join({str(tmp_path)!r}, str(index)), 'w').write(' '.join(sys.argv[1:]) + ' ' + os.environ['JAX_PLATFORMS'])"
    assert launch.main(["--processes=3", "--", *command(text), "--workdir=x"]) == 0
    said = [(tmp_path / str(index)).read_text().split() for index in range(3)]
    assert {words[0] for words in said} == {"--workdir=x"}
    assert {words[2] for words in said} == {os.environ.get("JAX_PLATFORMS", "cpu")}
    addresses = [words[1].removeprefix("--distributed=").split(",") for words in said]
    assert [address[1:] for address in addresses] == [["3", str(index)] for index in range(3)]
    assert len({address[0] for address in addresses}) == 1 and addresses[0][0].startswith("127.0.0.1:")


@pytest.mark.parametrize("argv", ["", "--processes=2", "--processes=0 -- true", "--processes=2 true", "--process=2 -- true"])
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        launch.main(argv.split())
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err


def launcher(count, text):
    """The launcher in a process of its own."""
    argv = [sys.executable, launch.__file__, f"--processes={count}", "--grace=0.2", "--", *command(text)]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "fails, status, said",
    [
        ("sys.exit(7)", 7, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "error: process 1 of 3 was ended by SIGKILL; the others were stopped\n"),
    ],
)
def test_where_one_fails_the_others_are_ended(fails, status, said):
    begin, run = time.monotonic(), launcher(3, f"{fails} if index == 1 else time.sleep(60)")
    assert run.communicate()[1] == said and run.returncode == status
    assert time.monotonic() - begin < 20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the launcher itself meets the error")
def test_a_command_that_there_is_not(capfd):
    assert launch.run(["/no/such/program"], 2) == 1
    assert "error: /no/such/program cannot be started: No such file or directory\n" in capfd.readouterr().err


def test_it_starts_processes_beside_the_threads_of_jax():
    """JAX warns of a fork in Python, and warnings are errors here."""
    jax.block_until_ready(jax.numpy.ones(2) + 1)
    assert launch.run(command("pass"), 2) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on_and_the_others_may_end_by_themselves(tmp_path, number):
    text = f"""
signal.signal({number:d}, lambda *_: sys.exit(100 + index))
open(os.path.join({str(tmp_path)!r}, str(index)), "w").close()
time.sleep(60)
"""

    def send():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    sender = threading.Thread(target=send)
    sender.start()
    status = launch.run(command(text), 2)
    sender.join()
    assert status in (100, 101) and signal.getsignal(number) is before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has a signal for the death of the parent")
def test_nothing_is_left_where_the_launcher_is_killed(tmp_path):
    text = f"open(os.path.join({str(tmp_path)!r}, str(os.getpid())), 'w').close(); time.sleep(60)"
    run = launcher(2, text)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    run.kill()
    run.communicate()
    pids, end = [int(path.name) for path in tmp_path.iterdir()], time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid):
    """Whether a process is there and is more than an entry that nobody has asked for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
