"""What processes say they wrote of a checkpoint, held against what is there."""

import json

import pytest

from seqjax.errors import UserError
from seqjax.training.checkpoints import shares
from seqjax.training.checkpoints.manifest import damage, write_manifest


def saving(tmp_path, count=3):
    """A checkpoint that several processes have written and told of."""
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
