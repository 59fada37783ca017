"""The work folder: one process at a time, one config for good, small files whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest

from seqjax.errors import UserError
from seqjax.run import workdir
from seqjax.run.settings import Field


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
    script = "import sys, pathlib, time\nfrom seqjax.run import workdir\n" +(
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
        with pytest.raises(UserError, match=f"cannot write in the work folder .*{reason}; choose another --workdir"):
            with workdir.locked(folder):
                raise AssertionError
    assert (tmp_path / "file").read_text() == "kept"


FIELDS = {
    "seed": Field(3, "Seed."),
    "model.cell": Field("lstm", "Cell."),
    "model.hidden_size": Field(16, "Size."),
    "train.keep": Field(2, "Checkpoints.", free=True),
}


def test_config_is_claimed_once_something_is_saved(tmp_path):
    config = {"seed": 3, "model": {"cell": "lstm", "hidden_size": 16}, "train": {"keep": 2}}
    other = {"seed": 3, "model": {"cell": "gru", "hidden_size": 32}, "train": {"keep": 5}}
    workdir.claim(tmp_path, other, FIELDS)
    workdir.claim(tmp_path, config, FIELDS)  # nothing was saved: the folder is free for another config
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    workdir.claim(tmp_path, config, FIELDS)
    assert workdir.read_config(tmp_path) == config
    with pytest.raises(UserError) as caught:
        workdir.claim(tmp_path, other, FIELDS)
    assert "model.cell: lstm there, gru here; model.hidden_size: 16 there, 32 here" in str(caught.value)
    assert "seed" not in str(caught.value) and "keep" not in str(caught.value)
    assert workdir.read_config(tmp_path) == config
    workdir.claim(tmp_path, config | {"train": {"keep": 5}}, FIELDS)  # a free field may change
    assert workdir.read_config(tmp_path)["train"] == {"keep": 5}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff{}", b'{"seed": 3'])
def test_damaged_config(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json is damaged"):
        workdir.read_config(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == content


def test_no_config(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match="there is no run in .*train one first"):
            workdir.read_config(folder)
