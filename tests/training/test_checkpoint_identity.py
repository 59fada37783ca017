"""A checkpoint matches its name and run: swaps, links, copies and strangers are found, and the right one is used."""

import json
import os
import pathlib
import shutil

import pytest
from saved import listing, make_state, restore, same, save

from seqjax.errors import UserError
from seqjax.training.checkpoints import Checkpoints, manifest, read_weights, record
from seqjax.training.checkpoints.manifest import MANIFEST

ASSETS = pathlib.Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    """A work directory with the checkpoints of steps 5, 10 and 15; copy it to change it."""
    workdir = tmp_path_factory.mktemp("pattern")
    save(workdir, {5: 3.0, 10: 1.0, 15: 2.0})
    return workdir


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """The same of another run."""
    workdir = tmp_path_factory.mktemp("another")
    save(workdir, {5: 3.0, 10: 1.0, 15: 2.0, 20: 0.5}, keep=4)
    return workdir


def swap(folder, _):
    (folder / "10").rename(folder / "t")
    (folder / "15").rename(folder / "10")
    (folder / "t").rename(folder / "15")


def link(folder, _):
    shutil.rmtree(folder / "15")
    (folder / "15").symlink_to("10")


def copy(folder, _):
    shutil.copytree(folder / "15", folder / "999")


def link_further(folder, _):
    (folder / "999").symlink_to(folder / "15")


def stranger(folder, other):
    shutil.rmtree(folder / "15")
    shutil.copytree(other / "15", folder / "15")


def later_stranger(folder, other):
    shutil.copytree(other / "20", folder / "20")


def rewritten(folder, _):
    """With a manifest that says what the name says, its checksum made again."""
    shutil.copytree(folder / "15", folder / "16")
    manifest.write_manifest(folder / "16", record.identify(folder.parent).id, 16)


def rewritten_with_meta(folder, _):
    """And with a meta that says so too: the state tells."""
    shutil.copytree(folder / "15", folder / "16")
    path = folder / "16" / "meta" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 16}))
    manifest.write_manifest(folder / "16", record.identify(folder.parent).id, 16)


UNDER_ANOTHER_NAME = {15: "it is checkpoint 10 under another name", 10: "it is checkpoint 15 under another name"}
FROM_15 = "it is checkpoint 15 under another name"
CASES = {  # the change, the steps that are found with the reason, the step that is used
    swap: (UNDER_ANOTHER_NAME, 5),
    link: ({15: "it is checkpoint 10 under another name"}, 10),
    copy: ({999: FROM_15}, 15),
    link_further: ({999: FROM_15}, 15),
    stranger: ({15: "it is of another run"}, 10),
    later_stranger: ({20: "it is of another run"}, 15),
    rewritten: ({16: f"{MANIFEST} has changed since it was saved"}, 15),
    rewritten_with_meta: ({16: FROM_15}, 15),
}


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_what_is_not_what_its_name_says_is_found(pattern, another, tmp_path, change):
    workdir = shutil.copytree(pattern, tmp_path / "run")
    change(workdir / "checkpoints", another / "checkpoints")
    found, good = CASES[change]
    before = listing(workdir)
    if change is not rewritten_with_meta:  # found without reading a state
        assert Checkpoints(workdir, keep=3).newest_meta() == (good, {"note": f"of step {good}", "place": {"window": 3 * good}})
        assert Checkpoints(workdir, keep=3).best_step() == (good if change is swap else 10)
    restored, lines = restore(workdir, repair=False)
    assert restored.step == good and same(restored.state, make_state(good)) and listing(workdir) == before
    assert read_weights(workdir, "newest", report=lines.append)[0] == good and listing(workdir) == before
    with pytest.raises(UserError, match=f"checkpoint {max(found)} in .*{found[max(found)]}"):
        read_weights(workdir, max(found))
    assert restore(workdir)[0].step == good
    assert len(lines) == 2 * len(found)
    for step, why in found.items():
        assert sum(line.startswith(f"checkpoint {step} ") and why in line for line in lines) == 2
        assert all(f"checkpoint {good} is used instead" in line for line in lines)
        assert not os.path.lexists(workdir / "checkpoints" / str(step))
    assert len(list((workdir / "damaged").iterdir())) == len(found)
    assert restore(workdir)[1] == []
    save(workdir, list(found))  # their steps are free
    assert restore(workdir)[0].step == max(good, *found)


def test_the_best_is_not_a_stranger(pattern, another, tmp_path):
    """Another run's checkpoint with the lowest loss of all."""
    workdir = shutil.copytree(pattern, tmp_path / "run")
    later_stranger(workdir / "checkpoints", another / "checkpoints")
    store = Checkpoints(workdir, keep=3)
    assert store.best_step() == 10 and store.best_meta()[0] == 10 and store.newest_meta()[0] == 15
    assert store.newest_meta()[1]["note"] == "of step 15"
    restored, lines = restore(workdir, best=True, repair=False)
    assert restored.step == 10 and len(lines) == 1 and "checkpoint 20 does not belong there" in lines[0]


def test_all_strangers_stop_and_nothing_is_changed(pattern, another, tmp_path):
    workdir = shutil.copytree(pattern, tmp_path / "run")
    shutil.copy(another / "run.json", workdir)
    before = listing(workdir)
    for read in (restore, lambda workdir: Checkpoints(workdir, keep=3).newest_meta(), read_weights):
        with pytest.raises(UserError, match="all checkpoints in .* cannot be used .*15: it is of another run.*nothing was") as caught:
            read(workdir)
        assert "\n" not in str(caught.value) and listing(workdir) == before


def test_without_a_record_the_checkpoints_tell_the_run(pattern, another, tmp_path):
    workdir = shutil.copytree(pattern, tmp_path / "run")
    known = (workdir / "run.json").read_text()
    (workdir / "run.json").unlink()
    assert restore(workdir)[0].step == 15 and not (workdir / "run.json").exists()
    assert save(workdir, [17], keep=9) == [f"{workdir / 'run.json'} was missing; it was written again"]
    assert (workdir / "run.json").read_text() == known
    (workdir / "run.json").unlink()
    later_stranger(workdir / "checkpoints", another / "checkpoints")
    for read in (restore, read_weights):
        with pytest.raises(UserError, match="no valid run.json, and its checkpoints are of several runs .5 of run .*, 20 of run"):
            read(workdir)


def test_a_stranger_in_the_place_of_a_new_one(pattern, another, tmp_path):
    """Placed there during the run: it is moved away, and the step is saved."""
    workdir = shutil.copytree(pattern, tmp_path / "run")
    later_stranger(workdir / "checkpoints", another / "checkpoints")
    lines = save(workdir, [20])
    assert len(lines) == 1 and "checkpoint 20 does not belong there (it is of another run" in lines[0]
    assert (workdir / "damaged" / "20-0").is_dir()
    restored, lines = restore(workdir)
    assert restored.step == 20 and not lines


def test_an_old_stranger_is_not_deleted_by_the_next_save(pattern, another, tmp_path):
    workdir = shutil.copytree(pattern, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "5")
    shutil.copytree(another / "checkpoints" / "5", workdir / "checkpoints" / "5")
    lines = save(workdir, [20])
    assert len(lines) == 1 and "checkpoint 5 does not belong there (it is of another run" in lines[0]
    assert listing(workdir / "damaged" / "5-0") == listing(another / "checkpoints" / "5")


def test_names_that_are_no_steps_do_not_count(pattern, tmp_path):
    workdir = shutil.copytree(pattern, tmp_path / "run")
    for name in ("0020", "20.bak", "２０", "copy of 15", "-20"):
        shutil.copytree(workdir / "checkpoints" / "15", workdir / "checkpoints" / name)
    restored, lines = restore(workdir)
    assert restored.step == 15 and not lines and (workdir / "checkpoints" / "0020").is_dir()
    assert Checkpoints(workdir, keep=3).steps() == [5, 10, 15]


def test_a_state_of_another_step_is_not_saved(tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(7, make_state(6), {})
    with pytest.raises(ValueError, match="state of step 6 was to be saved as checkpoint 7"):
        store.close()
    assert store.steps() == []


def test_old_formats_are_held_against_their_state(tmp_path):
    """Format 1 knows neither step nor run: a swap is found when the state is read."""
    workdir = shutil.copytree(ASSETS / "format_1_language_model", tmp_path / "run")
    folder = workdir / "checkpoints"
    (folder / "4").rename(folder / "t")
    shutil.copytree(folder / "8", folder / "4")
    with pytest.raises(UserError, match="checkpoint 4 in .* does not belong there .it is checkpoint 8 under another name"):
        read_weights(workdir, 4)
    assert read_weights(workdir, 8)[0] == 8


def test_an_old_checkpoint_in_a_new_run_is_a_stranger(pattern, tmp_path):
    workdir = shutil.copytree(pattern, tmp_path / "run")
    shutil.copytree(ASSETS / "format_1_language_model" / "checkpoints" / "8", workdir / "checkpoints" / "20")
    (workdir / "checkpoints" / "20").rename(workdir / "checkpoints" / "8")
    with pytest.raises(UserError, match="checkpoint 8 in .* does not belong there .it is of another run, older"):
        read_weights(workdir, 8)
    restored, lines = restore(workdir)
    assert restored.step == 15 and not lines


def test_a_newer_format_is_refused(pattern, tmp_path):
    workdir = shutil.copytree(pattern, tmp_path / "run")
    path = workdir / "checkpoints" / "15" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}, indent=1, sort_keys=True) + "\n")
    before = listing(workdir)
    with pytest.raises(UserError, match="was written by a newer version of seqjax .format 3.; use that version"):
        restore(workdir)
    assert listing(workdir) == before


def test_a_model_of_another_shape_is_refused_in_one_line(pattern):
    state = make_state(0)
    other = {"w": state["params"]["w"][:3], "b": state["params"]["w"][0], "more": state["step"]}
    for target, words in (
        (state | {"params": other}, ["params/w: float32[7, 5] there, float32[3, 5] here", "params/more: nothing there, int32[] here",
                                     "params/b: bfloat16[5] there, float32[5] here"]),
        ({"step": state["step"]}, ["carry/0: float32[2, 3] there, nothing here"]),
    ):  # fmt: skip
        with pytest.raises(UserError, match="checkpoint 15 in .* does not fit the model") as caught:
            Checkpoints(pattern, keep=3).restore(lambda meta, target=target: target, repair=False)
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_the_quarantine_keeps_the_newest_few(pattern, tmp_path):
    workdir = shutil.copytree(pattern, tmp_path / "run")
    (workdir / "damaged").mkdir()
    (workdir / "damaged" / "mine").write_text("kept")
    removed = []
    for number in range(8):
        (workdir / "checkpoints" / "15" / "extra").write_text(str(number))
        removed += [line for line in restore(workdir)[1] if "was removed" in line]
        save(workdir, [15])
    names = sorted(path.name for path in (workdir / "damaged").iterdir())
    assert names == ["15-3", "15-4", "15-5", "15-6", "15-7", "mine"]
    assert [(workdir / "damaged" / name / "extra").read_text() for name in names[:-1]] == list("34567")
    assert [str(workdir / "damaged" / f"15-{number}") in line for number, line in enumerate(removed)] == [True] * 3
