"""Processes' reports of the files they wrote of a checkpoint, against the files."""

import json
import threading
import time

import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.training import processes, train_step
from seqjax.training.checkpoints import shared, shares, store
from seqjax.training.checkpoints.manifest import damage, write_manifest
from seqjax.training.checkpoints.store import DONE, FAILED, UNDER_WAY


def saving(tmp_path, count=3):
    """A checkpoint that several processes have written and reported."""
    folder = tmp_path / "7"
    for index in range(count):
        for name in (f"ocdbt.process_{index}/d/{index}a", f"ocdbt.process_{index}/manifest", f"array_metadatas/process_{index}"):
            path = folder / "state" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} of {index}")
    (folder / "state" / "manifest.ocdbt").write_text("all")
    for index in range(1, count):
        shares.tell(folder, index)
    return folder


def test_what_all_wrote_is_what_the_manifest_holds(tmp_path):
    folder = saving(tmp_path)
    found = shares.collect(folder, 3)
    assert len(found) == 10 and not (folder / shares.SHARES).exists()
    write_manifest(folder, "run", 7, found)
    assert damage(folder) is None
    (folder / "state" / "ocdbt.process_2" / "d" / "2a").write_text("x")
    assert damage(folder) == "state/ocdbt.process_2/d/2a has changed since it was saved"


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize(
    "change", [lambda path: path.write_text("x"), lambda path: path.unlink(), lambda path: path.with_name("more").touch()]
)
def test_a_file_that_is_not_its_writers_is_refused(index, change, tmp_path):
    folder = saving(tmp_path)
    change(folder / "state" / f"ocdbt.process_{index}" / "d" / f"{index}a")
    with pytest.raises(UserError, match=f"/d/.* is not what process {index} wrote, as process 0 reads it") as caught:
        shares.collect(folder, 3)
    assert "\n" not in str(caught.value)


def test_what_was_told_is_checked_too(tmp_path):
    folder = saving(tmp_path)
    path = folder / shares.SHARES / "2.json"
    for text in ("", "{}", "[1]", path.read_text().replace("2a", "2b"), json.dumps({"files": {}, "sha256": ""})):
        path.write_text(text)
        with pytest.raises(UserError, match="2.json is not what process 2 wrote"):
            shares.collect(folder, 3)


def test_one_that_does_not_tell_is_not_waited_for_without_end(tmp_path):
    folder = saving(tmp_path, 2)
    with pytest.raises(UserError, match="2.json of another process has not appeared within 0.1 seconds"):
        shares.collect(folder, 3, limit=0.1)
    with pytest.raises(UserError, match="8.saving of another process has not appeared"):
        shares.tell(tmp_path / "8.saving", 1, limit=0.1)


class Saves:
    """Checkpoints whose save stands so, question by question."""

    def __init__(self, *statuses):
        self.statuses, self.waited = list(statuses), 0
        self.close = self.abandon = None

    def status(self):
        return self.statuses.pop(0)

    def save(self, *_, together):
        assert together

    def wait(self):
        self.waited += 1
        if not self.statuses:
            raise UserError("the disk is full")


def shared_with(monkeypatch, mine, other):
    """Shared of process 0 of two after a save of both, of which each answers in its turn."""
    answers = iter(other)
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "each", lambda value: np.array([value, next(answers)]))
    monkeypatch.setattr(shared, "is_cut", lambda tree: True)
    checkpoints = Saves(*mine)
    found = shared.Shared(checkpoints)
    found.save(7, train_step.TrainState(*[0] * 10), {})
    return found, checkpoints


def test_all_wait_until_all_have_written(monkeypatch):
    found, checkpoints = shared_with(monkeypatch, [UNDER_WAY, DONE, DONE, DONE], [UNDER_WAY, UNDER_WAY, DONE])
    found.wait()
    assert checkpoints.waited == 2 and checkpoints.statuses == [DONE]  # once before the save; the fourth was not asked for
    found.wait()
    assert checkpoints.waited == 3


def test_one_that_cannot_write_is_named_to_the_others(monkeypatch):
    found, _ = shared_with(monkeypatch, [UNDER_WAY, UNDER_WAY], [UNDER_WAY, FAILED])
    with pytest.raises(UserError, match="process 1 could not write its part of a checkpoint"):
        found.wait()
    found, _ = shared_with(monkeypatch, [UNDER_WAY, FAILED], [UNDER_WAY, UNDER_WAY])
    with pytest.raises(UserError, match="the disk is full"):  # what this one says itself
        found.wait()


def test_a_save_that_never_ends_is_abandoned(monkeypatch, tmp_path):
    released = threading.Event()
    monkeypatch.setattr(store, "write", lambda *_, **__: released.wait(20))
    checkpoints = store.Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"step": np.int32(1)}, {})
    assert checkpoints.status() == UNDER_WAY
    begin = time.monotonic()
    checkpoints.abandon(0.1)
    checkpoints.close()
    assert 0.1 <= time.monotonic() - begin < 10
    released.set()


def test_a_save_that_ends_in_time_counts(tmp_path):
    checkpoints = store.Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"step": np.int32(1)}, {})
    checkpoints.abandon(60)
    assert checkpoints.status() == DONE and checkpoints.steps() == [1]
    checkpoints.close()
