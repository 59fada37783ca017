"""An image file that goes bad while a run trains: the run is saved, says which file, and resumes when it is repaired."""

import json
import shutil

import numpy as np
import pytest
from processes import config_flags, final_state, sealed
from table import OFTEN

Image = pytest.importorskip("PIL.Image")

SETTINGS = OFTEN | {
    "data.source": "file", "data.image_size": 28, "data.batch_size": 10, "data.eval_batch_size": 10, "data.workers": 2,
    "data.validation_fraction": 0.2, "optimizer.learning_rate": 0.01, "schedule.warmup_steps": 0, "train.steps": 24,
    "train.eval_every": 12, "train.checkpoint_every": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """100 files in two classes; not to be changed."""
    folder, random = tmp_path_factory.mktemp("pictures") / "bars", np.random.default_rng(0)
    for n in range(100):
        image = random.integers(0, 90, (28, 28, 3))
        image[:, 14 * (n % 2) :][:, :14] += 150
        (folder / f"{n % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{n % 2}/{n}.png")
    return folder


class Runs:
    """Runs of the image experiment on one folder."""

    def __init__(self, server, folder, workdir):
        self.server, self.folder, self.workdir = server, folder, workdir

    def start(self, *flags, **options):
        settings = config_flags(SETTINGS | {"data.path": self.folder}, {})
        return self.server.start(f"--workdir={self.workdir}", *settings, *flags, experiment="image_classification", **options)

    def meta(self):
        path = self.workdir / "checkpoints" / str(sealed(self.workdir)[-1]) / "meta" / "metadata"
        return json.loads(path.read_text(encoding="utf-8"))["meta"]


@pytest.fixture(scope="module")
def whole(server, pictures, tmp_path_factory):
    """A run that was never stopped."""
    runs = Runs(server, pictures, tmp_path_factory.mktemp("whole") / "run")
    assert runs.start().wait(300).status == 0
    return final_state(runs.workdir)


@pytest.fixture
def stopped(server, pictures, tmp_path):
    """A run that stopped at a file that went bad while it trained; (runs, the file, what it was, the step)."""
    runs = Runs(server, shutil.copytree(pictures, tmp_path / "bars"), tmp_path / "run")
    bad = runs.folder / "1/7.png"
    was, run = bad.read_bytes(), runs.start(slow_steps=0.1)
    run.wait_until_ready()
    bad.write_bytes(was[: len(was) // 2])
    run.refused(f"{bad} is not a valid image", "repair or remove it", "the run is saved at step", "the same command resumes it")
    step = sealed(runs.workdir)[-1]
    assert f"saved at step {step}," in run.err and step % 100
    return runs, bad, was, step


def test_a_file_that_goes_bad_and_is_repaired(stopped, whole):
    """Whatever size the repaired file has; with its pixels the run ends as the one that was never stopped."""
    runs, bad, was, step = stopped
    runs.start().refused(f"{bad} is not a valid image", "bad_files='leave_out'")
    bad.write_bytes(was)
    with Image.open(bad) as image:
        image.load()
        image.save(bad, compress_level=0)
    assert bad.stat().st_size != len(was)
    runs.start().refused("are not those that the run in", "--accept_changed_data")
    before = runs.meta()
    run = runs.start("--accept_changed_data").wait(300)
    assert run.status == 0 and f"resuming from the checkpoint of step {step}" in run.out, run.err
    after = runs.meta()
    change = {"step": step, "from": before["fingerprint"], "to": after["fingerprint"]}
    assert before["data_changes"] == [] and after["data_changes"] == [change] and change["from"] != change["to"]
    assert f"at step {step} from {change['from']} to {change['to']}" in run.out
    ended = final_state(runs.workdir)
    assert {name for name in ended if ended[name] != whole[name]} == {"meta"}
    run = runs.start().wait(300)  # the data are the run's now
    assert run.status == 0 and "which is the last" in run.out, run.err
    assert runs.start("--mode=evaluate", "--checkpoint=newest").wait(300).status == 0


def test_a_file_that_goes_bad_and_is_left_out(stopped):
    runs, bad, _, step = stopped
    leave = "--config.data.bad_files=leave_out"
    runs.start(leave).refused("--accept_changed_data")
    before = runs.meta()
    run = runs.start(leave, "--accept_changed_data").wait(300)
    assert run.status == 0 and "1 of 100 image files is left out:" in run.out, run.err
    after = runs.meta()
    assert any(str(bad) in note for note in after["notes"]) and after["data_changes"][0]["step"] == step
    assert after["spec"] == before["spec"]  # the means are those that the model was trained with
    run = runs.start(leave, "--mode=evaluate", "--checkpoint=newest").wait(300)
    assert run.status == 0 and str(bad) not in run.err, run.err


@pytest.mark.slow
def test_other_classes_are_not_accepted(stopped):
    runs, bad, was, _ = stopped
    bad.write_bytes(was)
    (runs.folder / "2").mkdir()
    for n in range(9):
        shutil.copy(bad, runs.folder / f"2/{n}.png")
    runs.start("--accept_changed_data").refused("give another classes than those that the run in", "use another --workdir")
