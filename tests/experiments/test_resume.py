"""A run stopped anywhere resumes by itself and ends as the run that was never stopped: real processes, real signals."""

import random
import shutil
import time

import pytest
from processes import final_state, records, sealed, small


def test_killed_twice_at_random_moments_ends_the_same(server, text, finished, killed, tmp_path):
    workdir = shutil.copytree(killed, tmp_path / "run")
    before = sealed(workdir)[-1]
    run = server.start(f"--workdir={workdir}", *small(text), slow_steps=0.02)
    run.wait_for(lambda: sealed(workdir)[-1] > before)
    time.sleep(random.uniform(0, 0.2))
    run.kill()
    assert before < sealed(workdir)[-1] < 60
    run = server.run(f"--workdir={workdir}", *small(text))
    assert run.status == 0, run.err
    assert "resuming from the checkpoint of step" in run.out
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)


@pytest.mark.parametrize("what", ["carry", "data", *(pytest.param(what, marks=pytest.mark.slow) for what in ("key", "opt_state"))])
def test_what_a_checkpoint_must_hold(server, text, finished, killed, tmp_path, what):
    """The negative controls: with one part left out of the restored checkpoint the end is another."""
    workdir = shutil.copytree(killed, tmp_path / "run")
    run = server.run(f"--workdir={workdir}", *small(text), forget=what)
    assert run.status == 0, run.err
    ours, theirs = final_state(workdir), final_state(finished)
    changed = {name for name in ours if ours[name] != theirs[name]}
    parameters = {name for name in ours if name.startswith("state/params") and ours[name] != b"none"}
    assert ours.keys() == theirs.keys() and parameters and parameters <= changed
    assert records(workdir) != records(finished)


def test_killed_while_saving_ends_the_same(server, text, finished, tmp_path):
    """Killed in the middle of a save, between the save and its manifest, and while an old checkpoint is deleted."""
    workdir = tmp_path / "run"
    folder = workdir / "checkpoints"

    def without_manifest():
        return [p for p in folder.glob("*.saving") if not (p / "MANIFEST.json").exists()]

    def deleting():
        return list(folder.glob("*.deleting"))

    run = server.start(f"--workdir={workdir}", *small(text), slow_steps=0.01)
    run.wait_for(lambda: sealed(workdir))
    run.wait_for(lambda: list(folder.glob("*.orbax-checkpoint-tmp/*")), every=0.001)  # it is gone at once
    run.kill()
    assert list(folder.glob("*.orbax-checkpoint-tmp")) or without_manifest()  # the kill came in time

    first = sealed(workdir)[-1]
    run = server.start(f"--workdir={workdir}", *small(text), slow_steps=0.01, slow_manifest=0.3)
    run.wait_for(lambda: max(sealed(workdir)) > first and without_manifest())
    run.kill()
    assert without_manifest()

    run = server.start(f"--workdir={workdir}", *small(text), slow_steps=0.01, slow_delete=0.3)
    run.wait_for(lambda: "resuming" in run.out and deleting())
    run.kill()
    assert deleting() and sealed(workdir)[-1] < 60

    run = server.run(f"--workdir={workdir}", *small(text))
    assert run.status == 0, run.err
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)
    assert not without_manifest() and not deleting() and not list(folder.glob("*tmp*"))
