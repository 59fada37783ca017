"""Checkpoints are complete or not loaded; the newest and the best are kept; a save does not block training."""

import json
import os
import pathlib
import random
import shutil
import warnings

import jax
import numpy as np
import pytest
from saved import listing, make_state, restore, same, save

from seqjax.errors import UserError
from seqjax.training.checkpoints import Checkpoints, manifest, reader, reading, writing
from seqjax.training.checkpoints import store as store_module
from seqjax.training.checkpoints.manifest import MANIFEST, damage


class Killed(BaseException):
    """As if the process were killed."""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A work directory with the checkpoints of steps 3, 10 and 200; copy it to change it."""
    workdir = tmp_path_factory.mktemp("three")
    save(workdir, {3: 2.5, 10: 1.25, 200: 1.5})
    return workdir


def test_restores_what_was_saved(three):
    restored, lines = restore(three)
    assert restored.step == 200 and not lines
    assert same(restored.state, make_state(200)) and not same(restored.state, make_state(10))
    assert restored.meta == {"note": "of step 200", "place": {"window": 600}}
    best, _ = restore(three, best=True, repair=False)
    assert best.step == 10 and same(best.state, make_state(10))


def test_empty_folder(tmp_path):
    assert restore(tmp_path) == (None, [])
    assert restore(tmp_path / "nowhere", repair=False) == (None, [])
    assert not list(tmp_path.iterdir())


def test_the_newest_and_the_best_stay(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 5: float("inf"), 8: float("nan"), 9: 1.5}
    save(tmp_path, losses, keep=2)
    assert Checkpoints(tmp_path, keep=2).steps() == [2, 8, 9]
    save(tmp_path, {12: 0.5}, keep=2)
    assert Checkpoints(tmp_path, keep=2).steps() == [9, 12]
    save(tmp_path, [13, 14], keep=1)
    store = Checkpoints(tmp_path, keep=1)
    assert store.steps() == [12, 14] and store.best_step() == 12
    assert store.restore(lambda meta: make_state(0), best=True, repair=False).step == 12


def test_old_ones_are_deleted_only_when_the_new_one_is_whole(tmp_path, monkeypatch):
    """After a kill between the end of a save, its manifest and its renaming, the run can be resumed, also with keep=1."""
    save(tmp_path, [1], keep=1)

    def killed(*_):
        raise Killed

    for name in ("write_manifest", "commit"):
        with monkeypatch.context() as patch:
            patch.setattr(writing if name == "write_manifest" else store_module, name, killed)
            with pytest.raises(Killed):
                save(tmp_path, [2], keep=1)
        saving = tmp_path / "checkpoints" / "2.saving"
        assert (saving / "state").is_dir() and (saving / MANIFEST).exists() == (name == "commit")
        restored, lines = restore(tmp_path)
        assert restored.step == 1 and same(restored.state, make_state(1)) and not lines
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    save(tmp_path, [2], keep=1)
    assert restore(tmp_path)[0].step == 2


def test_a_saved_step_is_left_as_it_is(three, tmp_path):
    workdir = shutil.copytree(three, tmp_path / "run")
    before = listing(workdir / "checkpoints" / "200")
    save(workdir, [200])
    assert listing(workdir / "checkpoints" / "200") == before


def test_saving_while_training_goes_on(tmp_path):
    """The buffers are donated and overwritten right after save returns; the checkpoint is still that of its step."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: (x * 3 + 1).astype(x.dtype), tree), donate_argnums=0)
    key = jax.random.key(1)
    state = {"a": jax.random.normal(key, (400, 300)), "n": jax.random.randint(key, (50,), 0, 99)}
    store, expected = Checkpoints(tmp_path, keep=3), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a device that cannot donate
        for number in range(1, 4):
            expected[number] = jax.tree.map(lambda x: np.array(x, copy=True), state)
            store.save(number, state, {})
            for _ in range(5):
                state = step(state)
        jax.block_until_ready(state)
    store.close()
    for number in (3, 2, 1):
        restored = Checkpoints(tmp_path, keep=3).restore(lambda meta: state)
        assert restored.step == number and same(restored.state, expected[number])
        shutil.rmtree(tmp_path / "checkpoints" / str(number))


# Damage.


def harm(folder, chooser):
    """Yields (what, undo) for damages of every file: cut, grown, a byte flipped, missing."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        good, name = path.read_bytes(), path.relative_to(folder).as_posix()
        size = len(good)
        harmed = {f"{name} grown": good + b"\n"}
        for length in {0, size - 1, *(chooser.randrange(size) for _ in range(3))} if size else ():
            harmed[f"{name} cut to {length} of {size}"] = good[:length]
        for place in {0, size - 1, *(chooser.randrange(size) for _ in range(12))} if size else ():
            flipped = bytes([good[place] ^ (1 << chooser.randrange(8))])
            harmed[f"{name} flipped at {place} of {size}"] = good[:place] + flipped + good[place + 1 :]
        for what, content in harmed.items():
            path.write_bytes(content)
            yield what
        path.unlink()
        yield f"{name} missing"
        path.write_bytes(good)
        extra = path.with_name("0" + path.name)
        extra.write_bytes(good)
        yield f"{name} doubled"
        extra.unlink()


def test_every_damage_is_found(three, tmp_path):
    workdir = shutil.copytree(three, tmp_path / "run")
    folder = workdir / "checkpoints" / "200"
    assert damage(folder) is None
    found = 0
    for what in harm(folder, random.Random()):
        assert damage(folder) is not None, what
        found += 1
    assert found > 200
    assert damage(folder) is None


def test_damaged_checkpoints_are_never_loaded(three, tmp_path):
    """The same through restore, newest and best first: every fifth damage, and what it falls back to is exact."""
    workdir = shutil.copytree(three, tmp_path / "run")
    for best, step, other in ((False, 200, 10), (True, 10, 200)):
        folder, tried = workdir / "checkpoints" / str(step), 0
        for number, what in enumerate(harm(folder, random.Random())):
            if number % 5:
                continue
            restored, lines = restore(workdir, repair=False, best=best)
            assert restored.step == other and same(restored.state, make_state(other)), what
            words = (f"checkpoint {step} is damaged", f"checkpoint {other} is used instead")
            told = len(lines) == 1 and all(word in lines[0] for word in words)
            assert told == (f"{MANIFEST} missing" != what), what
            tried += 1
        assert tried > 40


def test_damaged_newest_is_quarantined_and_its_step_can_be_saved_again(three, tmp_path):
    workdir = shutil.copytree(three, tmp_path / "run")
    for number in range(2):
        victim = next((workdir / "checkpoints" / "200" / "state" / "d").iterdir())
        victim.write_bytes(victim.read_bytes()[:-1])
        before = listing(workdir / "checkpoints" / "200")
        restored, lines = restore(workdir)
        assert restored.step == 10
        aside = workdir / "damaged" / f"200-{number}"
        assert len(lines) == 1 and "checkpoint 200 is damaged (state/d/" in lines[0] and str(aside) in lines[0]
        assert listing(aside) == before and not (workdir / "checkpoints" / "200").exists()
        save(workdir, [200])
        assert restore(workdir)[0].step == 200


def test_all_damaged_stops_and_deletes_nothing(three, tmp_path):
    workdir = shutil.copytree(three, tmp_path / "run")
    for step, name in ((3, "meta/metadata"), (10, MANIFEST)):
        path = workdir / "checkpoints" / str(step) / name
        path.write_bytes(path.read_bytes()[1:])
    (workdir / "checkpoints" / "200" / MANIFEST).unlink()  # as if cut off
    (workdir / "checkpoints" / "300.orbax-checkpoint-tmp").mkdir()
    before = listing(workdir)
    for repair in (True, False):
        with pytest.raises(UserError, match="nothing was deleted") as caught:
            restore(workdir, repair=repair)
        assert "10: MANIFEST.json is damaged; 3: meta/metadata has changed" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert listing(workdir) == before


def test_half_written_saves_are_passed_over(three, tmp_path):
    workdir = shutil.copytree(three, tmp_path / "run")
    (workdir / "checkpoints" / "200" / MANIFEST).unlink()
    shutil.copytree(workdir / "checkpoints" / "10", workdir / "checkpoints" / "300.orbax-checkpoint-tmp")
    before = listing(workdir)
    restored, lines = restore(workdir, repair=False)
    assert restored.step == 10 and not lines and listing(workdir) == before
    unfinished = listing(workdir / "checkpoints" / "200")
    restored, lines = restore(workdir)
    assert restored.step == 10
    aside = workdir / "damaged" / "200-0"
    assert lines == [f"checkpoint 200 was not completed; it was moved to {aside}"] and listing(aside) == unfinished
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["10", "3"]
    save(workdir, [200])
    assert restore(workdir)[0].step == 200


def test_a_single_one_without_a_manifest_is_the_first_save_cut_off(three, tmp_path):
    shutil.copytree(three / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
    (tmp_path / "checkpoints" / "3" / MANIFEST).unlink()
    before = listing(tmp_path / "checkpoints" / "3")
    assert restore(tmp_path, repair=False) == (None, []) and listing(tmp_path / "checkpoints" / "3") == before
    restored, lines = restore(tmp_path)
    assert restored is None and len(lines) == 1 and "checkpoint 3 was not completed" in lines[0]
    assert listing(tmp_path / "damaged" / "3-0") == before
    save(tmp_path, [3])
    assert restore(tmp_path)[0].step == 3


def test_all_without_manifests_stops_and_deletes_nothing(three, tmp_path):
    """As a partial copy leaves them."""
    workdir = shutil.copytree(three, tmp_path / "run", ignore=shutil.ignore_patterns(MANIFEST))
    (workdir / "checkpoints" / "300.orbax-checkpoint-tmp").mkdir()
    before = listing(workdir)
    for repair in (True, False):
        with pytest.raises(UserError, match="lack their MANIFEST.json .3, 10, 200.; nothing was deleted") as caught:
            restore(workdir, repair=repair)
        assert "\n" not in str(caught.value) and listing(workdir) == before


def test_a_killed_deletion_is_finished(three, tmp_path, monkeypatch):
    workdir = shutil.copytree(three, tmp_path / "run")
    remove = shutil.rmtree

    def killed(path):
        remove(path / "state")
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Killed):
        save(workdir, {201: 1.0}, keep=3)
    monkeypatch.undo()
    assert (workdir / "checkpoints" / "3.deleting" / MANIFEST).exists()
    before = listing(workdir)
    assert restore(workdir, repair=False)[1] == [] and listing(workdir) == before
    restored, lines = restore(workdir)
    assert restored.step == 201 and not lines and not (workdir / "damaged").exists()
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["10", "200", "201"]


def test_all_is_on_the_disk_before_the_manifest_then_the_name_then_a_deletion(tmp_path, monkeypatch):
    save(tmp_path, [1], keep=1)
    happened, fsync, replace, rename, remove = [], os.fsync, os.replace, os.rename, shutil.rmtree

    def synced(descriptor):
        happened.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def replaced(source, target):
        happened.append(("manifest", str(target)))
        replace(source, target)

    def renamed(source, target):
        happened.append(("name", str(target)))
        rename(source, target)

    def removed(path):
        happened.append(("remove", str(path)))
        remove(path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(shutil, "rmtree", removed)
    monkeypatch.setattr("seqjax.training.disk.os.replace", replaced)
    monkeypatch.setattr("seqjax.training.checkpoints.writing.os.rename", renamed)
    save(tmp_path, [2], keep=1)
    monkeypatch.undo()
    folder = tmp_path.resolve() / "checkpoints" / "2"
    saving = folder.with_name("2.saving")
    place = happened.index(("manifest", str(saving / MANIFEST)))
    named = happened.index(("name", str(folder)))
    deleted = happened.index(("remove", str(folder.parent / "1.deleting")))

    def synced_between(begin, end):
        return {path for what, path in happened[begin:end] if what == "sync"}

    written = [path.relative_to(folder) for path in folder.rglob("*") if path.name != MANIFEST]
    assert synced_between(0, place) >= {str(saving / name) for name in written} | {str(saving)}
    assert str(saving) in synced_between(place, named)
    assert synced_between(named, deleted) >= {str(folder.parent), str(folder.parent.parent)}


@pytest.mark.parametrize("when", ["listed", "peeked", "checking", "checked", "loading", "filling"])
@pytest.mark.parametrize("best", [False, True])
def test_deleted_while_it_is_read(three, tmp_path, monkeypatch, when, best):
    """Deleted by the training process: the reader takes another, and reports no damage."""
    workdir = shutil.copytree(three, tmp_path / "run")
    step, other = (10, 200) if best else (200, 10)
    victim = workdir / "checkpoints" / str(step)

    def delete(function, after=False):
        def wrapped(*args, **options):
            result = function(*args, **options) if after else None
            if victim.exists():
                shutil.rmtree(victim.rename(tmp_path / "gone"))
            return result if after else function(*args, **options)

        return wrapped

    if when == "loading":
        monkeypatch.setattr(reading, "_read_arrays", delete(reading._read_arrays))
    elif when == "checking":
        monkeypatch.setattr(manifest, "file_digests", delete(manifest.file_digests))
    elif when == "filling":
        monkeypatch.setattr(reader, "fill", delete(reader.fill))
    elif when == "listed":
        monkeypatch.setattr(reader, "read_saved", delete(reader.read_saved))
    else:
        monkeypatch.setattr(reader, "check_files", delete(reader.check_files, after=when == "checked"))
    restored, lines = restore(workdir, repair=False, best=best)
    step = step if when == "filling" else other  # all of it was read
    assert restored.step == step and same(restored.state, make_state(step)) and not lines
    assert not victim.exists()


def test_a_file_that_vanishes_in_the_middle_of_a_deletion(three, tmp_path, monkeypatch):
    workdir = shutil.copytree(three, tmp_path / "run")
    victim, digest = workdir / "checkpoints" / "200", manifest.hashlib.file_digest

    def vanish(file, name):
        if pathlib.Path(file.name).is_relative_to(victim):
            shutil.rmtree(victim)
        return digest(file, name)

    monkeypatch.setattr(manifest.hashlib, "file_digest", vanish)
    restored, lines = restore(workdir, repair=False)
    assert restored.step == 10 and not lines


def test_reading_gives_up_at_last(three, tmp_path, monkeypatch):
    def gone(*_):
        raise reader.Gone

    monkeypatch.setattr(reader.Reader, "restored", gone)
    store = Checkpoints(three, keep=3)
    with pytest.raises(UserError, match="are deleted while they are read; try again"):
        store.restore(lambda meta: None, repair=False)


def test_the_earliest_of_equal_losses_is_the_best(tmp_path):
    save(tmp_path, {1: 2.0, 2: 1.0, 3: 1.0, 5: float("inf"), 8: float("nan")}, keep=9)
    store = Checkpoints(tmp_path, keep=9)
    assert store.best_step() == 2 and restore(tmp_path, best=True)[0].step == 2
    assert store._reader.order(best=True) == [2, 3, 1, 8, 5]


def test_a_manifest_written_otherwise_is_damage(three, tmp_path):
    folder = shutil.copytree(three / "checkpoints" / "3", tmp_path / "3")
    content = json.loads((folder / MANIFEST).read_text())
    pretty = json.dumps(content, indent=1, sort_keys=True)
    edited = [pretty.replace('"step": 3', '"step": 4'), pretty.replace(content["run"], "0" * 32)]
    edited += [json.dumps(content | {"files": {}}, indent=1, sort_keys=True)]
    texts = ["[]", "{}", "7", '{\n "format": 2\n}', *edited]
    assert pretty + "\n" == (folder / MANIFEST).read_text() and pretty not in edited
    for text in (json.dumps(content), "null", "\xff", *(text + "\n" for text in texts)):
        (folder / MANIFEST).write_text(text, encoding="latin-1")
        assert damage(folder) == f"{MANIFEST} is damaged", text


def test_other_errors_than_the_disks_are_not_hidden(tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    with pytest.raises(TypeError):
        store.save(1, make_state(1), {"not json": {1, 2}})
        store.wait()
    store.close()
    assert not [*tmp_path.glob("**/1*")]  # refused before anything was written: nothing is in flight that could fail later
