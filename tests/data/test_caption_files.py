"""Captions in files of every format: the same set from each, and all faults of a file listed at once."""

import json

import numpy as np
import pytest
from PIL import Image

from seqjax.data.captioned import clean_caption
from seqjax.data.captions import load_captions
from seqjax.data.readers import caption_tfds
from seqjax.data.readers.caption_files import read_captions
from seqjax.errors import UserError

ROWS = {
    "train": [("a.png", ["A dog .", "One dog"]), ("b.png", ["A cat."]), ("c.png", ["Birds, birds!"])],
    "validation": [("d.png", ["A fish"])],
    "test": [("e.png", ["A man's T-shirt", "A shirt"])],
}


@pytest.fixture
def folder(tmp_path):
    """The images of ROWS, each of another grey."""
    for number, (name, _) in enumerate(row for rows in ROWS.values() for row in rows):
        Image.fromarray(np.full((9, 9), 20 * number, np.uint8)).save(tmp_path / name)
    return tmp_path


def flickr(folder, rows=ROWS):
    lines = [f"{name}#{i}\t{text}" for part in rows.values() for name, texts in part for i, text in enumerate(texts)]
    (folder / "captions.txt").write_text("\n".join(lines))
    for part in ("validation", "test"):
        (folder / f"{part}.txt").write_text("\n".join(name for name, _ in rows[part]))
    return {
        "path": folder / "captions.txt",
        "validation_path": folder / "validation.txt",
        "test_path": folder / "test.txt",
    }


def coco(folder, rows=ROWS):
    paths = {}
    for part, own in rows.items():
        images = [{"id": 10 + i, "file_name": name} for i, (name, _) in enumerate(own)]
        notes = [{"id": 1, "image_id": 10 + i, "caption": text} for i, (_, texts) in enumerate(own) for text in texts]
        paths[part] = folder / f"captions_{part}.json"
        paths[part].write_text(json.dumps({"images": images, "annotations": notes}))
    return {"path" if part == "train" else f"{part}_path": path for part, path in paths.items()}


def karpathy(folder, rows=ROWS):
    splits = {"train": ["train", "restval", "train"], "validation": ["val"], "test": ["test"]}
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": text} for text in texts]}
        for part, own in rows.items()
        for (name, texts), split in zip(own, splits[part])
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    return {"path": folder / "dataset.json"}


def table(folder, ending="csv", separator=","):
    paths = {}
    for part, own in ROWS.items():
        paths[part] = folder / f"{part}.{ending}"
        lines = [f'{name}{separator}"{text}"' for name, texts in own for text in texts]
        paths[part].write_text("\n".join([f"image{separator}caption", *lines]))
    return {"path" if part == "train" else f"{part}_path": path for part, path in paths.items()}


def jsonl(folder):
    paths = {}
    for part, own in ROWS.items():
        paths[part] = folder / f"{part}.jsonl"
        paths[part].write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, texts in own for text in texts))
    return {"path" if part == "train" else f"{part}_path": path for part, path in paths.items()}


def load(paths, **options):
    return load_captions("file", **{name: str(path) for name, path in paths.items()}, image_size=8, **options)


FORMATS = [flickr, coco, karpathy, table, lambda folder: table(folder, "tsv", "\t"), jsonl]


@pytest.mark.parametrize("write", FORMATS, ids=["flickr", "coco", "karpathy", "csv", "tsv", "jsonl"])
def test_every_format_gives_the_same_set(write, folder):
    data = load(write(folder))
    assert list(data.parts) == ["train", "validation", "test"]
    for part, rows in ROWS.items():
        images = data.parts[part]
        assert images.names == tuple(name for name, _ in rows)
        assert images.captions == tuple(tuple(map(clean_caption, texts)) for _, texts in rows)
    greys = [int(data.parts[part].images.take(np.array([0]))[0][0, 4, 4, 0]) for part in data.parts]
    assert greys == [0, 60, 80]


def test_captions_are_cleaned():
    assert clean_caption("A  man's T-shirt — on a line .") == "a man's t-shirt on a line"
    assert clean_caption(" ...! ") == ""


def test_images_are_found_in_folders_beside(folder):
    paths = coco(folder)
    (folder / "annotations").mkdir()
    for part, name in (("train", "a.png b.png c.png"), ("validation", "d.png"), ("test", "e.png")):
        (folder / part).mkdir()
        for image in name.split():
            (folder / image).rename(folder / part / image)
    paths = {name: path.rename(folder / "annotations" / path.name) for name, path in paths.items()}
    assert [len(images) for images in load(paths).parts.values()] == [3, 1, 1]


def test_restval_may_be_left_out(folder):
    assert load(karpathy(folder), restval=False).parts["train"].names == ("a.png", "c.png")


def test_the_rest_is_trained_on_unless_a_list_says_which(folder):
    paths = flickr(folder)
    (folder / "train.txt").write_text("c.png\na.png\n")
    assert load(paths, train_list=str(folder / "train.txt")).parts["train"].names == ("c.png", "a.png")


def test_without_a_validation_part_images_are_held_out(folder):
    data = load({"path": flickr(folder)["path"]}, validation_fraction=0.4)
    names = [set(data.parts[part].names) for part in ("train", "validation")]
    assert not names[0] & names[1] and [len(own) for own in names] == [3, 2]


def message(error):
    return "\n".join(map(str, error.value.args)) if error.value.args else str(error.value)


def test_missing_corrupt_and_undescribed_images_are_named_at_once(folder):
    rows = ROWS | {"train": [("a.png", ["A dog"]), ("b.png", []), ("gone.png", ["A ghost"])]}
    paths = coco(folder, rows)
    (folder / "d.png").write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        load(paths)
    said = str(error.value)
    assert "3 faults" in said or said.count("\n") >= 3
    for words in (
        "images[1]: the image 'b.png' has no caption",
        "images[2]: there is no image 'gone.png'",
        "d.png is not a valid image",
    ):
        assert words in said, said


def test_they_may_be_left_out(folder):
    rows = ROWS | {"train": [("a.png", ["A dog"]), ("b.png", []), ("gone.png", ["A ghost"])]}
    data = load(coco(folder, rows), bad_files="leave_out")
    assert data.parts["train"].names == ("a.png",) and any("2 of" in note or "are left out" in note for note in data.notes)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x.txt", "a.png#0\tA dog\na.png#1\t \n", ["line 2: the image 'a.png' has an empty caption"]),
        ("x.txt", "a.png#0\tA dog\nb.png A cat\nc.png\t\n", ["2 faults", "line 2 has no tab", "line 3: the image 'c.png' has an empty"]),
        ("x.csv", "image,caption\na.png,\n,A dog\n", ["line 2: the image 'a.png' has an empty caption", "line 3"]),
        ("x.csv", "picture,words\na.png,A dog\n", ["no field 'image'"]),
        ("x.json", "{", ["not valid JSON"]),
        ("x.json", {"images": [1]}, ["neither COCO's JSON"]),
        ("x.json", [1], ["neither COCO's JSON"]),
        ("x.json", {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 2, "caption": "A dog"}]},
         ["annotations[0] is of the image 2, which is not among the images"]),
        ("x.json", {"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}, {"id": 3}],
                    "annotations": [{"image_id": 1, "caption": " "}, {"image_id": 1}]},
         ["4 faults", "images[1] has the id 1 of another image", "images[2] has no id and file_name", "annotations[0] has no caption",
          "annotations[1] has no caption"]),
        ("x.json", {"images": [{"filename": "a.png", "split": "dev", "sentences": [{"raw": "A dog"}]},
                               {"filename": "b.png", "split": "val", "sentences": [{"tokens": []}]}, {"split": "val", "sentences": []}]},
         ["3 faults", "images[0] is of the split 'dev'", "images[1] has sentences without a text", "images[2] has no filename"]),
    ],
)  # fmt: skip
def test_faults_of_a_file(name, content, words, tmp_path):
    with pytest.raises(UserError) as error:
        read_captions(write(tmp_path / name, content))
    for word in words:
        assert word in str(error.value), str(error.value)


def test_lists_that_do_not_fit(folder):
    paths = flickr(folder)
    (folder / "validation.txt").write_text("d.png\nx.png\nd.png\n")
    with pytest.raises(UserError) as error:
        load(paths)
    for words in ("line 2: the image 'x.png' has no caption", "line 3: the image 'd.png' is in line 1 already"):
        assert words in str(error.value)
    (folder / "validation.txt").write_text("d.png\n")
    (folder / "test.txt").write_text("d.png\n")
    with pytest.raises(UserError, match="'d.png' is in the list of another part too"):
        load(paths)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"source": "file"}, "needs a path"),
        ({"source": "embedded", "name": "scenes", "path": "x"}, "path='x' is for source='file' only"),
        ({"source": "file", "path": "x", "scenes": 5}, "scenes=5 is for source='embedded' only"),
        ({"source": "embedded", "name": "scenes", "image_size": 64}, "image_size=64 is for"),
        ({"source": "tfds"}, "needs a name"),
        ({"source": "embedded", "name": "scens"}, "nearest: scenes"),
        ({"source": "file", "path": "nothing.json"}, "nothing.json"),
    ],
)
def test_settings_that_do_not_fit(settings, words):
    with pytest.raises(UserError) as error:
        load_captions(**settings)
    assert words in str(error.value)


def test_a_file_with_parts_of_its_own_stands_alone(folder):
    paths = karpathy(folder)
    with pytest.raises(UserError, match="has parts of its own"):
        load(paths | {"test_path": flickr(folder)["path"]})


class Image_:  # what `feature_of` looks for is the name of the class
    pass


Image_.__name__ = "Image"


def test_a_set_of_tfds(monkeypatch, folder):
    """Captions as in coco_captions, with and without training on restval."""
    encoded = {name: (folder / name).read_bytes() for rows in ROWS.values() for name, _ in rows}

    class Source(list):
        def __getitems__(self, indices):
            return [self[i] for i in indices]

    def examples(rows):
        return Source({"image": encoded[n], "captions": {"text": [t.encode() for t in texts], "id": [1] * len(texts)}} for n, texts in rows)

    splits = {
        "train": examples(ROWS["train"][:2]),
        "restval": examples(ROWS["train"][2:]),
        "val": examples(ROWS["validation"]),
        "test": examples(ROWS["test"]),
    }
    info = type("Info", (), {"features": {"image": Image_(), "captions": 0}, "splits": splits, "full_name": "made/1.0"})
    monkeypatch.setattr(caption_tfds, "open_builder", lambda *_: type("Builder", (), {"info": info}))
    monkeypatch.setattr(caption_tfds, "open_split", lambda name, builder, split, *_, **__: splits[split])
    data = load_captions("tfds", name="made", image_size=8)
    assert {part: len(images) for part, images in data.parts.items()} == {"train": 3, "validation": 1, "test": 1}
    assert data.parts["train"].captions[2] == ("birds birds",)
    pixels = data.parts["train"].images.take(np.array([2, 0]))[0]
    assert pixels.shape == (2, 8, 8, 3) and pixels[:, 4, 4, 0].tolist() == [40, 0]
    assert len(load_captions("tfds", name="made", image_size=8, restval=False).parts["train"]) == 2
