"""Folders of texts: classes are classes, parts are parts, and every file that cannot be read is named."""

import os
import pathlib

import pytest

from seqjax.data.labelled import load_labelled
from seqjax.data.readers.text_folders import part_folders, read_text_folder
from seqjax.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(**files):
        for name, text in files.items():
            file = tmp_path / (name.replace("__", "/").replace("--", ".") + ("" if "--" in name else ".txt"))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


def rows(records):
    return list(zip(records["text"], records["label"]))


def test_a_folder_a_class(write):
    folder = write(pos__2=" two\nlines \n", pos__1="one", neg__a="three", README="about", unsup__1="?", empty__note=b"")
    write(**{"other__x--md": "x"})
    (folder / "empty" / "note.txt").unlink()
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "1.txt").write_text("not a text")
    (folder / "pos" / "._1.txt").write_bytes(b"\xff\xfe")
    records = read_text_folder(folder)
    assert rows(records) == [("three", "neg"), ("one", "pos"), ("two\nlines", "pos")]
    assert records.places.at(2) == f"{folder}/pos/2.txt line 1"
    assert records.notes == (
        "empty was left out: it has no .txt files directly in it",
        "other was left out: it has no .txt files directly in it",
        "unsup was left out: its texts have no labels",
    )


def test_a_file_of_lines_a_class(write):
    records = read_text_folder(write(**{"a--txt": "one\n\n two \n", "B--TXT": "three", "Readme--txt": "about", "NOTICE--txt": "x"}))
    assert rows(records) == [("three", "B"), ("one", "a"), ("two", "a")] and records.places.at(2).endswith("a.txt line 3")
    assert [note.split(":")[0] for note in records.notes] == ["NOTICE.txt was left out", "Readme.txt was left out"]


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "TESTING"), ("train", "dev", "test"), ("TRAIN", "Val"), ("train",)])
def test_folders_of_parts_are_parts_and_not_classes(write, names):
    texts = {f"{name}__{label}__{n}": f"{label} {name} {n}" for name in names for label in ("pos", "neg") for n in range(4)}
    folder = write(**texts, README="about")
    found = load_labelled("file", path=str(folder), validation_fraction=0.25)
    assert found.classes == ("neg", "pos") and found.name == folder.name
    for name in names:
        part = {"tr": "train", "te": "test"}.get(name[:2].lower(), "validation")
        held = part == "train" and not {"dev", "Val"} & set(names)
        assert len(found.parts[part]) == (6 if held else 8) and all(name in text for text in found.parts[part]["text"])
        assert found.files[part] == name


def test_files_of_lines_in_folders_of_parts(write):
    folder = write(Train__pos="a\nb\nc\n", Train__neg="d\ne\n", Test__neg="f\n")
    found = load_labelled("file", path=str(folder))
    assert found.parts["test"]["text"] == ("f",) and found.classes == ("neg", "pos")
    with pytest.raises(UserError, match="has a test part, .*Test; leave test_path empty"):
        load_labelled("file", path=str(folder), test_path=str(folder / "Test"))
    write(testing__neg="g")
    with pytest.raises(UserError, match="has the folders Test and testing, both for the test part"):
        part_folders(folder)


def test_a_class_may_be_called_train(write):
    folder = write(train__1="a", bus__1="b", car__1="c")
    assert part_folders(folder) == {} and rows(read_text_folder(folder)) == [("b", "bus"), ("c", "car"), ("a", "train")]


def test_files_of_parts_are_no_classes(write):
    with pytest.raises(UserError, match="has files called Train, dev, test: those are parts, not classes"):
        read_text_folder(write(Train="a", dev="b", test="c"))


def test_all_files_that_cannot_be_read_are_named(write):
    folder = write(pos__1="one", pos__2=b"", pos__3=b"\xe4 umlaut", pos__4="four", neg__1="five")
    (folder / "pos" / "5.txt").symlink_to("nowhere.txt")
    (folder / "neg" / "6.txt").symlink_to(folder / "neg" / "6.txt")
    (folder / "other").symlink_to("gone")
    (folder / "pos" / "folder.txt").mkdir()
    with pytest.raises(UserError) as error:
        read_text_folder(folder)
    said = [line.strip().removeprefix(str(folder)) for line in str(error.value).split("\n")]
    assert said[0] == ": 5 faults"
    assert said[1] == "/other is a link to gone, which does not exist; repair or remove it"
    assert said[2].startswith("/neg/6.txt is a link to ") and said[3].startswith("/pos/2.txt is empty")
    assert said[4].startswith("/pos/3.txt is not UTF-8 at byte 0") and said[5].startswith("/pos/5.txt is a link to nowhere.txt")


def test_folders_that_may_not_be_read_are_named(write, monkeypatch):
    folder, real = write(pos__1="one", neg__1="two", other__1="three"), pathlib.Path.iterdir

    def refused(self):
        if self.name in ("neg", "other"):
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(pathlib.Path, "iterdir", refused)
    with pytest.raises(UserError) as error:
        read_text_folder(folder)
    assert [line.split(" cannot")[0].rsplit("/")[-1] for line in str(error.value).split("\n")[1:]] == ["neg", "other"]


def test_the_encoding_is_of_every_file_and_its_notes_are_few(write):
    files = {f"pos__{n}": "\u201cgrün\u201d".encode("cp1252") for n in range(9)}
    folder = write(**files, neg__1="ä".encode("latin1"))
    assert rows(read_text_folder(folder, "cp1252"))[1] == ("\u201cgrün\u201d", "pos")
    notes = read_text_folder(folder, "latin1").notes
    assert len(notes) == 6 and "2 of C1" in notes[0] and notes[-1].startswith("... and 4 more such notes")


def test_labels_that_are_not_utf8_are_refused(write):
    folder = write(pos__1="one")
    try:
        os.mkdir(os.fsencode(folder) + b"/n\xe9g")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (folder / os.fsdecode(b"n\xe9g") / "1.txt").write_text("two")
    with pytest.raises(UserError, match="the name, which is the label of its texts, is not UTF-8; rename it"):
        read_text_folder(folder)


def test_a_folder_with_nothing_says_what_is_there(write):
    with pytest.raises(UserError, match="has no .txt files in it, only test.csv, train.csv; give a folder"):
        read_text_folder(write(**{"train--csv": "x", "test--csv": "y"}))
