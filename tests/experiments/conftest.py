"""One server of processes for all tests of experiments, a finished run and a killed one that they only read."""

import random
import signal
import time

import processes
import pytest


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Starts processes of the experiment."""
    server = processes.Server(tmp_path_factory.mktemp("processes"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text file of 1,000 characters."""
    return processes.write_text(tmp_path_factory.mktemp("text") / "small.txt")


@pytest.fixture(scope="session")
def finished(server, text, tmp_path_factory):
    """The work folder of a run that was never stopped; not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = server.run(f"--workdir={workdir}", *processes.small(text))
    assert run.status == 0, run.err
    return workdir


@pytest.fixture(scope="session")
def killed(server, text, tmp_path_factory):
    """A work folder whose process was killed (SIGKILL) at a random moment after its first checkpoint; copy it."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    run = server.start(f"--workdir={workdir}", *processes.small(text), slow_steps=0.02)
    run.wait_for(lambda: processes.sealed(workdir))
    time.sleep(random.uniform(0, 0.5))
    assert run.kill().status == -signal.SIGKILL
    assert processes.sealed(workdir)[-1] < 60
    return workdir
