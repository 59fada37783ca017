"""One server of processes for all tests of experiments, a finished run and a killed one that they only read."""

import random
import signal
import time

import processes
import pytest
import table

from experiments import language_model
from seqjax.errors import UserError
from seqjax.run import cli, command, process, session


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Starts processes of the experiment."""
    server = processes.Server(tmp_path_factory.mktemp("processes"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def runs(server, tmp_path_factory):
    """Runs of all experiments of the table."""
    return table.Runs(server, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text file of 1,000 characters."""
    return processes.write_text(tmp_path_factory.mktemp("text") / "small.txt")


@pytest.fixture(scope="session")
def finished(server, text, tmp_path_factory):
    """The work directory of a run that was never stopped; not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run = server.run(f"--workdir={workdir}", *processes.small(text))
    assert run.status == 0, run.err
    return workdir


@pytest.fixture(scope="session")
def killed(server, text, tmp_path_factory):
    """A work directory whose process was killed (SIGKILL) at a random moment after its first checkpoint; copy it."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    run = server.start(f"--workdir={workdir}", *processes.small(text), slow_steps=0.02)
    run.wait_for(lambda: processes.sealed(workdir))
    time.sleep(random.uniform(0, 0.5))
    assert run.kill().status == -signal.SIGKILL
    assert processes.sealed(workdir)[-1] < 60
    return workdir


@pytest.fixture
def refused(monkeypatch):
    """Asserts that a command line is refused before anything is trained: one line with all the words, and the exit status.

    In this process, since one of its own takes seconds: whatever `cli.call` turns into that line and status.
    """

    def train(*_, **__):
        raise AssertionError("it was not refused")

    monkeypatch.setattr(session, "run", train)
    monkeypatch.setattr(process, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(process, "use_compilation_cache", lambda: None)

    def check(argv, *words, status=1, experiment=language_model.EXPERIMENT):
        with pytest.raises(UserError) as caught:
            command.run(experiment, cli.parse(experiment, [experiment.name, *argv]))
        message = str(caught.value)
        assert message and "\n" not in message
        assert (2 if isinstance(caught.value, cli.UsageError) else 1) == status, message
        for word in words:
            assert word in message, f"{word!r} is not in {message}"

    return check


@pytest.fixture
def refuses(refused, request):
    """`refused`, for the experiment that a file is about: its ROW."""
    return lambda argv, *words: refused(argv, *words, experiment=request.module.ROW.experiment)


@pytest.fixture(scope="module")
def start(runs, request):
    """Starts a process of that experiment."""
    return lambda *argv, **options: runs.start(request.module.ROW, *argv, **options)


@pytest.fixture(scope="module")
def data(runs, request):
    """The folder of that experiment's data; not to be changed."""
    return runs.data(request.module.ROW)
