"""The tiny experiment's commands in the process of the tests, and a finished run of it."""

import pytest
import tiny

from seqjax.run import curves, process


def leave_the_process(patch):
    """A command changes nothing in its process, and draws no curves, which take longer than all else."""
    patch.setattr(process, "keep_freed_memory", lambda: True)
    patch.setattr(process, "use_compilation_cache", lambda: None)
    patch.setattr(curves, "plot_curves", lambda folder, records, **_: folder / "curves.png")


@pytest.fixture
def in_process(monkeypatch):
    """For tests that call `driver.run`."""
    leave_the_process(monkeypatch)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The work directory of a run of 6 steps; copy it."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_the_process(patch)
        tiny.run(workdir)
    return workdir
