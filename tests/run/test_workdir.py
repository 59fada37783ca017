"""The work directory: one process at a time, one config for good, small files whole or not at all."""

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pytest

from seqjax.errors import UserError
from seqjax.run import workdir
from seqjax.training.checkpoints import Checkpoints


def test_small_files_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "small.json"
    workdir.write_atomically(path, "ä first\n")
    assert path.read_text(encoding="utf-8") == "ä first\n"
    workdir.write_atomically(path, "second")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(os, name, full)
            workdir.write_atomically(path, "third")
        assert path.read_text() == "second"
        assert [found.name for found in tmp_path.iterdir()] == ["small.json"]


def test_lock_is_for_one_process_and_ends_with_it(tmp_path):
    folder = tmp_path / "some" / "run"
    script = "import sys, pathlib, time\nfrom seqjax.run import workdir\n" + (
        f"with workdir.locked(pathlib.Path({str(folder)!r})):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {other.pid}; .*another --workdir"):
            with workdir.locked(folder):
                raise AssertionError("held twice")
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    for _ in range(2):
        with workdir.locked(folder):
            assert (folder / "lock").read_text() == str(os.getpid())


def test_lock_in_an_impossible_place(tmp_path):
    (tmp_path / "file").write_text("kept")
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "run", "Not a directory")):
        with pytest.raises(UserError, match=f"cannot write in the work directory .*{reason}; choose another --workdir"):
            with workdir.locked(folder):
                raise AssertionError
    assert (tmp_path / "file").read_text() == "kept"


def test_the_lock_knows_when_the_directory_is_another(tmp_path, monkeypatch):
    """Removed, moved away, replaced by a copy or by a second run's: each is found; a rewritten config is not."""

    def removed(folder):
        shutil.rmtree(folder)

    def moved(folder):
        folder.rename(tmp_path / "elsewhere")

    def copied(folder):
        moved(folder)
        shutil.copytree(tmp_path / "elsewhere", folder)

    def taken(folder):
        removed(folder)
        stack.enter_context(workdir.locked(folder))

    def a_file(folder):
        removed(folder)
        folder.write_text("")

    for change in (removed, moved, copied, taken, a_file):
        folder = tmp_path / change.__name__
        with contextlib.ExitStack() as stack:
            held = stack.enter_context(workdir.locked(folder))
            workdir.claim(folder, {"seed": 1})
            held.check()
            change(folder)
            with pytest.raises(UserError, match=f"{folder} was removed or replaced during training") as caught:
                held.check()
            assert "\n" not in str(caught.value)
            with pytest.raises(UserError, match="was removed or replaced"):
                Checkpoints(folder, keep=1, check=held.check).save(1, {"w": jnp.ones(2)}, {})
            assert not (folder / "checkpoints").exists()
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    with workdir.locked(tmp_path / "stale") as held, monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda *_, **__: raise_error(errno.ESTALE))
        with pytest.raises(UserError, match="stale cannot be read: Stale"):
            held.check()


def raise_error(number):
    raise OSError(number, os.strerror(number))


def checkpoint(folder, step, config, **more):
    store = Checkpoints(folder, keep=3)
    store.save(step, {"w": jnp.full(3, step)}, {"config": config, **more})
    store.close()


CONFIG = {"seed": 3, "model": {"cell": "lstm", "hidden_size": 16}, "train": {"keep": 2}}


def claim(folder, config=CONFIG, **options):
    lines = []
    return workdir.claim(folder, config, report=lines.append, **options), lines


def test_the_copy_of_the_settings_is_written_and_compared(tmp_path):
    run, lines = claim(tmp_path)
    copy = tmp_path / "config.json"
    good = copy.read_text()
    assert json.loads(good) == CONFIG and not lines
    assert claim(tmp_path) == (run, []) and len(run.id) == 32
    checkpoint(tmp_path, 7, CONFIG)
    assert claim(tmp_path) == (run, [])

    copy.unlink()
    assert claim(tmp_path) == (run, [f"{copy} was missing; it was written again: the settings are those in checkpoint 7"])
    for text in ("{", "[1]", "", "\xff"):
        copy.write_text(text, encoding="latin-1")
        assert claim(tmp_path)[1] == [f"{copy} was damaged; it was written again: the settings are those in checkpoint 7"]
    copy.write_text(good.replace("lstm", "gru"))  # by hand
    lines = claim(tmp_path)[1]
    assert lines == [f"{copy} was not what checkpoint 7 holds, which counts (model.cell: gru there, lstm here)"]
    assert copy.read_text() == good and claim(tmp_path)[1] == []


def test_the_run_keeps_its_id(tmp_path):
    run, _ = claim(tmp_path, experiment="tagging")
    assert json.loads((tmp_path / "run.json").read_text())["run"] == run.id
    assert claim(tmp_path)[0] == run
    with pytest.raises(UserError, match="holds a run of tagging, not of translation; choose another --workdir"):
        claim(tmp_path, experiment="translation")
    checkpoint(tmp_path, 7, CONFIG)
    for harm, word in (
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_text("{}"), "damaged"),
        (lambda path: path.write_bytes(b"\xff"), "damaged"),
    ):
        harm(tmp_path / "run.json")
        again, lines = claim(tmp_path, experiment="tagging")
        assert again == run and lines == [f"{tmp_path / 'run.json'} was {word}; it was written again"]
    assert claim(tmp_path / "..")[0].id != run.id


def test_a_disk_that_refuses(tmp_path, monkeypatch):
    for name in ("config.json", "run.json"):
        folder = tmp_path / name.split(".")[0]
        (folder / name).mkdir(parents=True)
        with pytest.raises(UserError, match=f"{name} cannot be .*: Is a directory") as caught:
            claim(folder)
        assert "\n" not in str(caught.value)
    for number in (errno.ENOSPC, errno.EMFILE, errno.ESTALE, errno.ENOMEM):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda *_, number=number: raise_error(number))
            with pytest.raises(UserError, match=f"run.json cannot be written: {re.escape(os.strerror(number))}"):
                claim(tmp_path)
    assert not list(tmp_path.glob(".*"))
