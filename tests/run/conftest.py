"""The tiny experiment's commands in the process of the tests, and a finished run of it."""

import letters_run as tiny
import pytest


@pytest.fixture
def in_process(monkeypatch):
    """For tests that call `command.run`."""
    tiny.leave_the_process(monkeypatch)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The work directory of a run of 6 steps; copy it."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        tiny.leave_the_process(patch)
        tiny.run(workdir)
    return workdir
