"""Ctrl-C and SIGTERM, a full disk, losses that are not finite: it stops with one clear line and nothing is lost."""

import random
import shutil
import signal
import subprocess
import time

import pytest
from processes import final_state, records, sealed, small


def test_sigint_and_sigterm_then_the_same_end(server, text, tmp_path):
    """With a plateau schedule that lowers the rate, and a second process that is turned away meanwhile."""
    flags = small(text, schedule__name="plateau", schedule__patience=1, train__eval_every=10, optimizer__learning_rate=3.0)
    straight, workdir = tmp_path / "straight", tmp_path / "run"
    reference = server.start(f"--workdir={straight}", *flags)
    run = server.start(f"--workdir={workdir}", *flags, slow_steps=0.03)
    run.wait_until_ready()
    server.run(f"--workdir={workdir}", *flags).refused(f"in use by process {run.pid}", "choose another --workdir")
    steps = []
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        run.wait_until_ready()
        time.sleep(random.uniform(0.3, 0.7))
        run.signal(number)
        assert run.wait().status == status, run.err
        assert "stopped; the same command resumes from here" in run.out and not run.err
        steps.append(sealed(workdir)[-1])
        run = server.start(f"--workdir={workdir}", *flags, slow_steps=0.03 if status == 130 else 0)
    assert run.wait().status == 0 and f"resuming from the checkpoint of step {steps[-1]}" in run.out, run.err
    assert 0 < steps[0] < steps[1] < 60
    assert reference.wait().status == 0
    assert final_state(workdir) == final_state(straight)
    assert records(workdir) == records(straight)
    rates = [record["learning_rate"] for record in records(workdir) if record["kind"] == "train"]
    assert rates[-1] < rates[0]


def test_second_ctrl_c_interrupts_at_once(server, text, finished, killed, tmp_path):
    workdir = shutil.copytree(killed, tmp_path / "run")
    run = server.start(f"--workdir={workdir}", *small(text), slow_steps=60)
    run.wait_until_ready()
    time.sleep(0.3)
    run.signal(signal.SIGINT)
    time.sleep(0.3)
    assert run.poll() is None  # it waits for the step under way
    run.signal(signal.SIGINT)
    begin = time.monotonic()
    run.refused("interrupted", "the same command resumes", status=130)
    assert time.monotonic() - begin < 10
    assert server.run(f"--workdir={workdir}", *small(text)).status == 0
    assert final_state(workdir) == final_state(finished)


def test_a_loss_that_is_not_finite_stops_the_run(server, text, tmp_path):
    workdir = tmp_path / "run"
    run = server.run(f"--workdir={workdir}", *small(text, train__max_skipped=9), nan_logits=True)
    run.refused("step 9", "9 times in a row", "norm nan", "lower optimizer.learning_rate")
    skipped = [record["skipped_steps"] for record in records(workdir) if record["kind"] == "train"]
    assert skipped == [5]
    # The same command resumes from the last checkpoint, and when all is well again, to the end.
    assert server.run(f"--workdir={workdir}", *small(text, train__max_skipped=9)).status == 0
    first, *_, last = [record for record in records(workdir) if record["kind"] == "train"]
    assert last["skipped_steps"] == 7 and last["loss"] < 3.2


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_full_disk(server, text, finished, killed, disk):
    workdir = shutil.copytree(killed, disk / "run")
    newest = sealed(workdir)[-1]
    # Enough are kept that no old one is deleted, which would make room again.
    run = server.start(f"--workdir={workdir}", *small(text, train__keep=20), slow_steps=0.05)
    run.wait_for(lambda: sealed(workdir)[-1] > newest)
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 1024):
                pass
        except OSError:
            pass
    good = sealed(workdir)
    before = {step: contents(workdir / "checkpoints" / str(step)) for step in good}
    run.refused("No space left on device", "untouched")
    assert set(good) <= set(sealed(workdir))
    assert all(contents(workdir / "checkpoints" / str(step)) == before[step] for step in good)
    (disk / "filler").unlink()
    assert server.run(f"--workdir={workdir}", *small(text)).status == 0
    assert final_state(workdir) == final_state(finished)


def test_a_file_that_may_not_grow(server, text, killed, tmp_path):
    """The same without the right to mount: no file above 4 kB, so that the parameters cannot be saved."""
    workdir = shutil.copytree(killed, tmp_path / "run")
    newest = workdir / "checkpoints" / str(sealed(workdir)[-1])
    before = contents(newest)
    run = server.run(f"--workdir={workdir}", *small(text), file_limit=4096)
    run.refused("File too large", "untouched")
    assert contents(newest) == before and sealed(workdir)[-1] == int(newest.name)


@pytest.mark.slow
def test_read_only_disk(server, text, disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    run = server.run(f"--workdir={disk / 'run'}", *small(text))
    run.refused("cannot write in the work directory", "Read-only file system", "choose another --workdir")


def test_damaged_newest_checkpoint(server, text, finished, tmp_path):
    """The command line's part of tests/training/test_checkpoints.py: it says so, resumes, and ends the same."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    newest = workdir / "checkpoints" / "60" / "meta" / "metadata"
    newest.write_bytes(newest.read_bytes()[:-1])
    run = server.run(f"--workdir={workdir}", *small(text))
    assert run.status == 0, run.err
    assert "checkpoint 60 is damaged (meta/metadata has changed since it was saved)" in run.out
    assert (workdir / "damaged" / "60-0").is_dir()
    assert final_state(workdir) == final_state(finished)
    assert records(workdir) == records(finished)
