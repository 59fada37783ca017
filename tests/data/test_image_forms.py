"""The usual forms of image data: parts and classes as folders, tables of files and of pixels, EMNIST, Kaggle's MNIST."""

import csv
import gzip
import json
import pathlib
import struct

import numpy as np
import pytest

from seqjax.data.images import load_images
from seqjax.errors import UserError

Image = pytest.importorskip("PIL.Image")


def load(path, **settings):
    return load_images("file", path=str(path), **settings)


def message(path, **settings):
    with pytest.raises(UserError) as error:
        load(path, **settings)
    return str(error.value)


def write(folder, names):
    """An image for each name, whose red value is its index in the list."""
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (place, 100, 200)).save(folder / name, format="PNG")


def reds(images):
    """The images, and the label of each."""
    pixels, labels = images.take(np.arange(len(images)))
    return dict(zip(pixels[:, 0, 0, 0].tolist(), labels.tolist()))


def both(data):
    return reds(data.parts["train"]) | reds(data.parts["validation"])


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


# Folders


@pytest.mark.parametrize(
    "train, validation, test",
    [("Train", "Val", "Test"), ("training", "validation", "testing"), ("TRAIN", "dev", "TEST"), ("Training", "Valid", "test")],
)
def test_parts_by_any_of_their_names(tmp_path, train, validation, test):
    write(tmp_path, [f"{train}/cat/1.png", f"{train}/dog/1.png", f"{validation}/dog/1.png", f"{test}/cat/1.png"])
    data = load(tmp_path, image_size=2)
    assert data.classes == ("cat", "dog") and list(data.parts) == ["train", "validation", "test"]
    assert [reds(images) for images in data.parts.values()] == [{0: 0, 1: 1}, {2: 1}, {3: 0}]


def test_train_and_test_beside_each_other_are_no_classes(tmp_path):
    """They were two classes."""
    write(tmp_path, [f"{part}/{name}/{n}.png" for part in ("Train", "Test") for name in ("cat", "dog") for n in range(2)])
    data = load(tmp_path, image_size=2)
    assert data.classes == ("cat", "dog") and reds(data.parts["test"]) == {4: 0, 5: 0, 6: 1, 7: 1}
    write(tmp_path / "flat", ["Train/1.png", "Train/2.png", "Test/1.png"])
    assert "has the parts Test, Train, but no folders of classes in Train" in message(tmp_path / "flat")


def test_folders_that_are_two_of_one_part_or_none(tmp_path):
    write(tmp_path, ["Train/a/1.png", "Train/b/1.png", "training/a/1.png"])
    assert "has the folders Train and training, both for the train part; keep one" in message(tmp_path)
    write(tmp_path / "more", [f"{part}/{name}/1.png" for part in ("train", "extra") for name in "ab"])
    write(tmp_path / "more", [f"train/{name}/{n}.png" for name in "ab" for n in range(4)])
    assert load(tmp_path / "more", image_size=2).notes == ("not read, since train is a part: extra",)


def test_levels_of_folders_name_a_class(tmp_path):
    names = [f"{kind}/{n}.png" for kind in ("animals/cat", "animals/dog", "things/cat", "animals-2/x") for n in range(4)]
    write(tmp_path / "one", [*names, "animals/dog/deep/er/9.png"])
    data = load(tmp_path / "one", image_size=2, class_levels=2, validation_fraction=0.25)
    assert data.classes == ("animals/cat", "animals/dog", "animals-2/x", "things/cat")
    want = {n: [0, 1, 3, 2][n // 4] for n in range(16)} | {16: 1}
    assert both(data) == want
    assert load(tmp_path / "one", image_size=2).classes == ("animals", "animals-2", "things")
    write(tmp_path / "two", [f"{part}/{name}" for part in ("Train", "Test") for name in names])
    assert load(tmp_path / "two", image_size=2, class_levels=2).classes == data.classes
    write(tmp_path / "one", ["animals/loose.png"])
    assert "animals/loose.png is not in a class folder, 2 levels deep" in message(tmp_path / "one", class_levels=2)
    assert load(tmp_path / "one", image_size=2).classes == ("animals", "animals-2", "things")
    write(tmp_path / "two", ["Test/animals/cow/1.png"])
    assert "animals/cow is not a class of the training part" in message(tmp_path / "two", class_levels=2)


# Tables of files


ROWS = [("a/0.png", "pug"), ("a/1.png", "boxer"), ("b/2.png", "pug"), ("b/3.png", "boxer"), ("a/4.png", "pug")]


def table(path, rows, header=("image", "label"), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **how).writerows([header, *rows] if header else rows)
    return path


def test_a_table_of_files_is_what_csv_reads(tmp_path):
    write(tmp_path, [name for name, _ in ROWS])
    path = table(tmp_path / "set.csv", ROWS)
    data = load(path, image_size=2, validation_fraction=0.4)
    assert data.name == "set.csv" and data.classes == ("boxer", "pug")
    with open(path, newline="", encoding="utf-8") as file:
        want = {n: data.classes.index(row["label"]) for n, row in enumerate(csv.DictReader(file))}
    assert both(data) == want and data.parts["train"].shape == (2, 2, 3)


@pytest.mark.parametrize(
    "name, header, how, settings",
    [
        ("set.tsv", ("path", "class"), {"delimiter": "\t"}, {}),
        ("set.txt", ("file", "target"), {"delimiter": ";"}, {"delimiter": ";"}),
        ("set.csv", (), {}, {"header": False}),
        ("set.csv", ("breed", "where"), {}, {"image_field": "1", "label_field": "where"}),
        ("set.csv", ("filename", "breed"), {}, {}),  # the only other field
    ],
)
def test_how_a_table_may_be_written(tmp_path, name, header, how, settings):
    write(tmp_path, [name for name, _ in ROWS])
    data = load(table(tmp_path / name, ROWS, header, **how), image_size=2, validation_fraction=0.4, **settings)
    assert data.classes == ("boxer", "pug") and both(data) == {0: 1, 1: 0, 2: 1, 3: 0, 4: 1}


def test_tables_in_parts_and_json_lines(tmp_path):
    write(tmp_path, [name for name, _ in ROWS])
    train, other = table(tmp_path / "train.csv", ROWS[:3]), tmp_path / "other.jsonl.gz"
    other.write_bytes(gzip.compress("\n".join(json.dumps({"image": n, "label": k}) for n, k in ROWS[3:]).encode()))
    data = load(train, image_size=2, validation_path=str(other), test_path=str(other))
    assert [reds(images) for images in data.parts.values()] == [{0: 1, 1: 0, 2: 1}, {3: 0, 4: 1}, {3: 0, 4: 1}]
    data = load(other, image_size=2, validation_path=str(other))
    assert data.classes == ("boxer", "pug")


def test_kaggles_ids_are_files_without_their_endings(tmp_path):
    write(tmp_path, ["train/0.jpg", "train/1.JPG", "train/00a.x.jpg"])
    path = table(tmp_path / "train.csv", [("0", "cat"), ("1", "dog"), ("00a.x", "cat"), ("1.JPG", "dog")], ("id", "label"))
    data = load(path, image_size=2, validation_fraction=0.3)
    assert sum(len(images) for images in data.parts.values()) == 4 and both(data) == {0: 0, 1: 1, 2: 0}
    assert f"{path} names 1 files more than once, 0 of them with different labels" in data.notes
    labels = table(tmp_path / "labels.csv", [("0", "cat"), ("1", "dog"), ("00a.x", "cat")], ("id", "breed"))
    assert both(load(labels, image_size=2, image_folder="train")) == {0: 0, 1: 1, 2: 0}
    assert both(load(labels, image_size=2)) == {0: 0, 1: 1, 2: 0}  # in the folder of the part
    (tmp_path / "train").rename(tmp_path / "dogs")
    assert f"labels.csv: none of its images, such as '0', is in {tmp_path} or" in message(labels)
    assert both(load(labels, image_size=2, image_folder="dogs")) == {0: 0, 1: 1, 2: 0}
    (tmp_path / "dogs").rename(tmp_path / "train")
    (tmp_path / "train/0.jpg").rename(tmp_path / "train/5.jpg")  # the first is missing, and the folder is found by the others
    assert message(path).count("line 2: there is no image '0' in") == 1
    (tmp_path / "train/5.jpg").rename(tmp_path / "train/0.jpg")
    write(tmp_path, ["train/0.png"])
    assert "'0' may be 0.jpg or 0.png; give it with its ending" in message(path)


def test_numbers_as_labels_are_in_their_order(tmp_path):
    write(tmp_path, [f"{n}.png" for n in range(12)])
    data = load(table(tmp_path / "set.csv", [(f"{n}.png", f" {n} ") for n in range(12)]), validation_path=str(tmp_path / "set.csv"))
    assert data.classes == tuple(map(str, range(12))) and reds(data.parts["train"]) == {n: n for n in range(12)}


def test_all_faults_of_a_table_are_named(tmp_path):
    write(tmp_path, [name for name, _ in ROWS])
    path = table(tmp_path / "set.csv", [*ROWS, ("a/9.png", "pug"), ("", "pug"), ("b/0.png", "boxer")])
    lines = message(path).split("\n")
    assert "3 faults" in lines[0] and [line.split(": ")[0].strip()[-6:] for line in lines[1:]] == ["line 7", "line 8", "line 9"]
    test = table(tmp_path / "test.csv", [("a/0.png", "pig"), ("a/1.png", "boxer")])
    assert "test.csv line 2: the label 'pig' is not in the training part (nearest: pug)" in message(table(path, ROWS), test_path=str(test))
    table(path, [*ROWS, ("a/0.png", "")])
    assert "set.csv line 7: 'label' is empty" in message(path)
    (tmp_path / "a/1.png").write_text("no image")
    assert f"{tmp_path}/a/1.png is not a valid image" in message(table(path, ROWS))
    data = load(path, bad_files="leave_out", image_size=2, validation_fraction=0.4)
    assert both(data) == {0: 1, 2: 1, 3: 0, 4: 1}
    assert "/nowhere.csv does not exist" in message(path, test_path="/nowhere.csv")


def test_the_fingerprint_of_a_table(tmp_path):
    found = []
    for folder, rows in (("one", ROWS), ("two", ROWS), ("three", ROWS[::-1])):
        write(tmp_path / folder, [name for name, _ in ROWS])
        found.append(load(table(tmp_path / folder / "set.csv", rows), image_size=2, validation_fraction=0.4).fingerprint)
    assert found[0] == found[1] != found[2]


# Tables of pixels


def pixel_rows(number, side, seed=0, first=0):
    random = np.random.default_rng(seed)
    return np.arange(number) % 3 + first, random.integers(0, 256, (number, side, side))


def pixel_table(path, labels, images, header="pixel", quoting=csv.QUOTE_MINIMAL):
    names = ["label", *(f"{header}{n}" for n in range(images[0].size))] if header else ()
    return table(path, [[label, *image.ravel()] for label, image in zip(labels, images)], names, quoting=quoting)


def whole(data):
    pieces = [images.take(np.arange(len(images))) for images in data.parts.values()]
    return sorted((image[..., 0].tolist(), label) for images, labels in pieces for image, label in zip(images, labels.tolist()))


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("header", ["pixel", "", "px_"])
def test_a_table_of_pixels_is_what_csv_reads(tmp_path, header, quoting):
    labels, images = pixel_rows(20, 5)
    path = pixel_table(tmp_path / "train.csv", labels, images, header, quoting)
    data = load(path, header=bool(header))
    assert data.classes == ("0", "1", "2") and data.parts["train"].shape == (5, 5, 1)
    with open(path, newline="", encoding="utf-8") as file:
        rows = [list(map(int, row)) for row in csv.reader(file) if row[0] != "label"]
    assert whole(data) == sorted((np.reshape(row[1:], (5, 5)).tolist(), row[0]) for row in rows)
    scaled = load(path, header=bool(header), image_size=3)
    assert scaled.parts["train"].shape == (3, 3, 1) and list(scaled.made_from) == ["pillow"]


def test_faults_in_tables_of_pixels(tmp_path):
    labels, images = pixel_rows(20, 5)
    path = pixel_table(tmp_path / "train.csv", labels, images)
    lines = path.read_text().split("\n")

    def spoiled(number, change):
        (tmp_path / "bad.csv").write_text("\n".join([*lines[:number], change(lines[number]), *lines[number + 1 :]]))
        return message(tmp_path / "bad.csv")

    assert "bad.csv line 3 has a value that is not a class number or pixel from 0 to 255" in spoiled(
        2, lambda line: line.rsplit(",", 1)[0] + ",256"
    )
    assert "line 4 has a value that is not a class" in spoiled(3, lambda line: line.replace(",", ",x", 1))
    assert "line 4 has 24 pixels, not 25" in spoiled(3, lambda line: line.rsplit(",", 1)[0])
    assert "line 6 has a value that is not a class" in spoiled(5, lambda line: line.replace(",", ",-", 1).replace(",-", ",-1", 1))
    assert "24 pixels per image, which is not a square" in spoiled(0, lambda line: line.rsplit(",", 1)[0])
    test = table(tmp_path / "test.csv", images.reshape(20, -1).tolist(), [f"pixel{n}" for n in range(25)])
    assert "test.csv has pixels but no labels" in message(path, test_path=str(test))
    plain = pixel_table(tmp_path / "plain.csv", labels, images, "")
    assert "plain.csv line 1 is a record already, and names no fields; set header=False" in message(plain)
    assert "has pixels in its columns; leave image_field" in message(path, image_field="label")


# idx files under other names


def write_idx(folder, name, images, labels, packed=False, inside=False):
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        file = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
        file = file / file.name if inside else file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


def letters(seed=0, number=24):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (number, 6, 4)), np.arange(number) % 4 + 1


@pytest.mark.parametrize("mapping", [True, False])
def test_emnist_letters_stand_upright_and_begin_at_a(tmp_path, mapping):
    images, labels = letters()
    write_idx(tmp_path, "emnist-letters-train", images, labels, packed=True)
    write_idx(tmp_path, "emnist-letters-test", images[:8], labels[:8], packed=True)
    if mapping:
        (tmp_path / "emnist-letters-mapping.txt").write_text("".join(f"{n} {64 + n} {96 + n}\n" for n in range(1, 27)))
    data = load(tmp_path)
    assert data.classes[:4] == (("Aa", "Bb", "Cc", "Dd") if mapping else ("1", "2", "3", "4"))
    assert "EMNIST's images are turned upright" in data.notes
    pixels, found = data.parts["test"].take(np.arange(8))
    assert np.array_equal(pixels[..., 0], images[:8].transpose(0, 2, 1)) and found.tolist() == (labels[:8] - 1).tolist()
    if mapping:
        (tmp_path / "emnist-letters-mapping.txt").write_text("1 65\n2 66\n")
        assert "train has the label 3, which emnist-letters-mapping.txt lacks" in message(tmp_path)
        (tmp_path / "emnist-letters-mapping.txt").write_text("1 A\n")
        assert "is not a line of numbers for each label" in message(tmp_path)


def test_several_sets_in_one_folder_need_a_name(tmp_path):
    sets = {"emnist-digits": 0, "emnist-letters": 1, "emnist-balanced": 2}
    for name, seed in sets.items():
        write_idx(tmp_path, f"{name}-train", *letters(seed))
    for name in ("", "digits", "emnist"):  # digits is what experiments have where no name is given
        assert "choose one of emnist-balanced, emnist-digits, emnist-letters" in message(tmp_path, name=name)
    for name, seed in sets.items():
        data = load(tmp_path, name=name)
        assert data.name == name and len(whole(data)) == 24
        assert whole(data) == sorted((i.T.tolist(), k - 1) for i, k in zip(*map(np.ndarray.tolist, letters(seed))) for i in [np.array(i)])
    assert load(tmp_path, name="letters").fingerprint == load(tmp_path, name="emnist-letters").fingerprint
    for kind in ("images-idx3", "labels-idx1"):  # digits first by name: the default must not choose it either
        (tmp_path / f"emnist-balanced-train-{kind}-ubyte").unlink()
    assert "choose one of emnist-digits, emnist-letters" in message(tmp_path, name="digits")
    (tmp_path / "emnist-letters-train-labels-idx1-ubyte").unlink()
    assert "lacks emnist-letters-train-labels-idx1-ubyte (or .gz)" in message(tmp_path, name="letters")


def test_emnists_tables_are_as_its_idx_files(tmp_path):
    images, labels = letters()
    images = images[:, :4]
    write_idx(tmp_path, "emnist-letters-train", images, labels)
    pixel_table(tmp_path / "emnist-letters-train.csv", labels, images, "")
    one, two = load(tmp_path), load(tmp_path / "emnist-letters-train.csv", header=False)
    assert one.classes == two.classes and one.fingerprint == two.fingerprint


@pytest.mark.parametrize("form", ["dots", "folders", "both"])
def test_kaggles_names_of_mnist(tmp_path, form):
    labels, images = pixel_rows(20, 5)
    for name in ("train", "t10k"):
        write_idx(tmp_path, name, images, labels, inside=form != "dots")
        if form != "folders":  # Kaggle's folder has the same file twice
            for kind, array in (("images", images), ("labels", labels)):
                (tmp_path / f"{name}-{kind}.idx{array.ndim}-ubyte").write_bytes(idx(array))
    data = load(tmp_path)
    assert list(data.parts) == ["train", "validation", "test"] and not data.notes
    pixels, found = data.parts["test"].take(np.arange(20))
    assert np.array_equal(pixels[..., 0], images) and found.tolist() == labels.tolist()


# Archives that unpack to much more


def test_an_npz_that_unpacks_to_a_hundred_times_its_size_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros((1000, 300, 300), np.uint8), labels=np.arange(1000) % 2)
    assert path.stat().st_size < 200_000
    assert "unpacks to more than 100 times its size" in message(path)
    np.savez_compressed(path, images=np.zeros((600, 300, 300), np.uint8), labels=np.arange(600) % 2)  # below 64 MB
    assert len(load(path).parts["train"]) == 540


def test_an_idx_file_that_unpacks_to_a_hundred_times_its_size_is_refused(tmp_path):
    write_idx(tmp_path, "train", np.zeros((1000, 300, 300)), np.arange(1000) % 2, packed=True)
    assert "train-images-idx3-ubyte.gz unpacks to more than 100 times its size" in message(tmp_path)


def test_an_idx_file_is_packed_whatever_it_is_called(tmp_path):
    labels, images = pixel_rows(20, 5)
    write_idx(tmp_path, "train", images, labels)
    plain = load(tmp_path).fingerprint
    for path in tmp_path.iterdir():
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert load(tmp_path).fingerprint == plain


def test_mnist_as_a_table_is_mnist_as_idx_files(shared, tmp_path):
    folder = shared / "data/mnist"
    files = load(folder)
    pieces = [files.parts["test"].take(np.arange(500))]
    pixel_table(tmp_path / "train.csv", pieces[0][1], pieces[0][0])
    data = load(tmp_path / "train.csv")
    want = sorted((image[..., 0].tolist(), label) for image, label in zip(pieces[0][0], pieces[0][1].tolist()))
    assert whole(data) == want and pathlib.Path(data.name).suffix == ".csv"


def test_a_wrong_folder_of_images_is_said_once(tmp_path):
    labels = table(tmp_path / "labels.csv", [[f"{n}.png", n % 2] for n in range(40)], ["image", "label"])
    write(tmp_path, ["elsewhere/0.png"])
    found = message(labels)
    assert "\n" not in found and "none of its images, such as '0.png', is in" in found


def test_settings_of_other_forms_are_refused_by_what_they_are_for(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.arange(4) % 2)
    assert "is not a table of images, for which delimiter is" in message(tmp_path / "a.npz", delimiter="tab")
    write(tmp_path / "set", ["cat/0.png", "dog/1.png"])
    assert "no folders 3 levels deep" in message(tmp_path / "set", class_levels=3)
