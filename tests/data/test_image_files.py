"""Image files: their content is read exactly, in every format and layout, and each fault is named."""

import builtins
import gzip
import math
import struct

import numpy as np
import pytest

from seqjax.data.image_columns import FileImages
from seqjax.data.images import load_images, read_image
from seqjax.data.readers.image_arrays import read_idx
from seqjax.errors import UserError

Image = pytest.importorskip("PIL.Image")


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


def refused(says, path, **settings):
    with pytest.raises(UserError) as error:
        load_images("file", path=str(path), **settings)
    assert says in one_line(error)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def plain_idx(data):
    """An idx file read value by value."""
    zero, kind, dimensions = struct.unpack_from(">HBB", data)
    assert (zero, kind) == (0, 8)
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    values = struct.unpack_from(f">{math.prod(shape)}B", data, 4 + 4 * dimensions)
    return shape, list(values)


@pytest.fixture
def digits():
    random = np.random.default_rng(0)
    return {
        "train": (random.integers(0, 256, (30, 7, 5), np.uint8), np.arange(30, dtype=np.uint8) % 3),
        "t10k": (random.integers(0, 256, (6, 7, 5), np.uint8), np.arange(6, dtype=np.uint8) % 3),
    }


def write_idx(folder, digits, dot="-", packed=""):
    for stem, (images, labels) in digits.items():
        for name, array in ((f"{stem}-images{dot}idx3-ubyte", images), (f"{stem}-labels{dot}idx1-ubyte", labels)):
            data = idx(array)
            (folder / (name + packed)).write_bytes(gzip.compress(data) if packed else data)


def colours(folder, names, size=(6, 4)):
    """A PNG of one colour for each name, whose red value is its index in the list."""
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (place, 100, 200)).save(folder / name, format="PNG")


def reds(images):
    pixels, labels = images.take(np.arange(len(images)))
    assert (pixels == pixels[:, :1, :1]).all() and (pixels[..., 1:] == [100, 200]).all()
    return dict(zip(pixels[:, 0, 0, 0].tolist(), labels.tolist()))


# idx


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_folders_are_what_a_plain_reader_reads(tmp_path, digits, dot, packed):
    write_idx(tmp_path, digits, dot, packed)
    found = load_images("file", path=str(tmp_path), validation_fraction=0.2)
    assert found.name == tmp_path.name and found.classes == ("0", "1", "2")
    assert {part: len(images) for part, images in found.parts.items()} == {"train": 24, "validation": 6, "test": 6}
    test, labels = found.parts["test"].take(np.arange(6))
    assert (test.shape[:3], test.ravel().tolist()) == plain_idx(idx(digits["t10k"][0]))
    assert ((6,), labels.tolist()) == plain_idx(idx(digits["t10k"][1])) and test.shape == (6, 7, 5, 1)
    train = [found.parts[part].take(np.arange(len(found.parts[part]))) for part in ("train", "validation")]
    pairs = sorted((bytes(image), int(label)) for images, labels in train for image, label in zip(images, labels))
    assert pairs == sorted((bytes(image), int(label)) for image, label in zip(*digits["train"]))
    assert np.bincount(train[1][1]).tolist() == [2, 2, 2]


def test_mnist_is_what_a_plain_reader_reads(shared):
    folder = shared / "data/mnist"
    found = load_images("file", path=str(folder))
    assert [len(images) for images in found.parts.values()] == [54_000, 6_000, 10_000]
    test, labels = found.parts["test"].take(np.arange(10_000))
    shape, values = plain_idx(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()))
    assert shape == (10_000, 28, 28) and np.array_equal(test.ravel(), values)
    assert labels.tolist() == plain_idx(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()))[1]


def test_arrays_are_scaled_as_files_are(tmp_path, digits):
    write_idx(tmp_path, digits)
    scaled = load_images("file", path=str(tmp_path), image_size=4).parts["test"]
    Image.fromarray(digits["t10k"][0][2]).save(tmp_path / "2.png")
    assert scaled.shape == (4, 4, 1)
    assert np.array_equal(scaled.take(np.array([2]))[0][0], read_image(tmp_path / "2.png", 4, 1))


def test_faults_in_idx_files_are_named(tmp_path, digits):
    images, labels = (idx(array) for array in digits["train"])
    size = len(images)
    faults = [
        ("train-images-idx3-ubyte", labels, "begins with 0x00000801, not 0x00000803"),
        ("train-images-idx3-ubyte", b"", "begins with 0x, not"),
        ("train-images-idx3-ubyte", images[:9], "ends within its head, after 9 of 16 bytes"),
        ("train-images-idx3-ubyte", images[:-1], f"says shape (30, 7, 5), so {size} bytes, but it has {size - 1}"),
        ("train-images-idx3-ubyte", images + b"x", f"but it has {size + 1}"),
        ("train-labels-idx1-ubyte", idx(digits["train"][1][:29]), "30 images but 29 labels"),
        ("t10k-labels-idx1-ubyte", idx(np.arange(6, dtype=np.uint8)), "test: label 3 (counting from 0) is 3"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((6, 5, 7), np.uint8)), "images of test are (5, 7, 1), of train"),
        ("train-images-idx3-ubyte", idx(np.zeros((0, 7, 5), np.uint8)), "none of them 0"),
    ]
    for name, data, says in faults:
        write_idx(tmp_path, digits)
        (tmp_path / name).write_bytes(data)
        refused(says, tmp_path)
    write_idx(tmp_path, digits)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    refused("lacks t10k-labels-idx1-ubyte", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels)[:-9])
    refused("t10k-labels-idx1-ubyte.gz is not a valid gzip file", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    refused("lacks train-images-idx3-ubyte", tmp_path)
    with pytest.raises(UserError, match="absent does not exist"):
        read_idx(tmp_path / "absent", 1)


# npz


KERAS = ("x_train", "y_train", "x_test", "y_test")
MEDMNIST = ("train_images", "train_labels", "test_images", "test_labels")


@pytest.mark.parametrize("names", [KERAS, MEDMNIST])
@pytest.mark.parametrize("channels, column", [(0, False), (1, True), (3, False)])
def test_npz_files(tmp_path, names, channels, column):
    random = np.random.default_rng(1)
    shape = (7, 5, channels) if channels else (7, 5)
    arrays = [random.integers(0, 256, (20, *shape), np.uint8), np.arange(20) % 4]
    arrays += [random.integers(0, 256, (4, *shape), np.uint8), np.arange(4)]
    arrays = [array[:, None] if column and array.ndim == 1 else array for array in arrays]
    np.savez_compressed(tmp_path / "a.npz", **dict(zip(names, arrays)))
    found = load_images("file", path=str(tmp_path / "a.npz"), validation_fraction=0.2)
    assert found.name == "a.npz" and found.classes == ("0", "1", "2", "3")
    assert [len(images) for images in found.parts.values()] == [16, 4, 4]
    test, labels = found.parts["test"].take(np.arange(4))
    assert test.shape == (4, 7, 5, channels or 1) and labels.tolist() == [0, 1, 2, 3]
    assert np.array_equal(test, arrays[2].reshape(test.shape))


def test_an_npz_of_one_pair_and_one_with_its_own_validation_part(tmp_path):
    images, labels = np.zeros((20, 3, 3), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", images=images, labels=labels, other=labels)
    found = load_images("file", path=str(tmp_path / "a.npz"))
    assert {part: len(images) for part, images in found.parts.items()} == {"train": 18, "validation": 2}
    np.savez(tmp_path / "b.npz", x_train=images, y_train=labels, x_val=images[:3], y_val=labels[:3])
    found = load_images("file", path=str(tmp_path / "b.npz"))
    assert {part: len(images) for part, images in found.parts.items()} == {"train": 20, "validation": 3}


def test_faults_in_npz_files_are_named(tmp_path):
    images, labels, path = np.zeros((20, 3, 3), np.uint8), np.arange(20) % 2, tmp_path / "a.npz"
    uneven = np.empty(2, object)
    uneven[:] = [np.zeros((2, 2), np.uint8), np.zeros((3, 3), np.uint8)]
    faults = [
        ({"a": images, "b": labels}, "has arrays a, b; it needs x_train, y_train; or"),
        ({"x_train": images}, "lacks y_train; it has arrays x_train"),
        ({"x_train": images, "y_train": labels, "x_test": images}, "lacks y_test"),
        ({"x_test": images, "y_test": labels}, "lacks x_train, y_train"),
        ({"images": images / 255, "labels": labels}, "a.npz, train: images are float64; give uint8"),
        ({"images": images.astype(np.int32), "labels": labels}, "images are int32"),
        ({"images": images[0], "labels": labels}, "(3, 3)"),
        ({"images": np.zeros((20, 3, 8, 8), np.uint8), "labels": labels}, "channels come last"),
        ({"images": images, "labels": labels[:-1]}, "20 images but 19 labels"),
        ({"images": images, "labels": labels / 1}, "labels are float64"),
        ({"images": images, "labels": np.eye(20, dtype=int)}, "(20, 20); give one whole number an image"),
        ({"images": images, "labels": labels - 1}, "label 0 (counting from 0) is -1"),
        ({"images": images, "labels": labels * 10_000}, "20 images, but a label of 10000"),
        ({"images": images, "labels": np.arange(20)}, "no class of two examples"),
        ({"images": uneven, "labels": labels[:2]}, "uneven shape"),
    ]
    for arrays, says in faults:
        np.savez(path, **arrays)
        refused(says, path)
    for data in (b"", b"no zip file at all", path.read_bytes()[:-40]):
        path.write_bytes(data)
        refused("a.npz cannot be read as arrays", path)
    np.save(tmp_path / "b.npy", images)
    (tmp_path / "b.npy").rename(path)
    refused("a.npz cannot be read as arrays", path)
    (tmp_path / "a.txt").write_text("text")
    refused("neither a folder nor an .npz nor a table", tmp_path / "a.txt")
    refused("absent.npz does not exist", tmp_path / "absent.npz")


# Folders of images


def test_class_folders_in_parts(tmp_path):
    names = ["train/b/0.png", "train/a/1.PNG", "train/a/deep/2.jpg", "val/a/3.png", "test/b/4.png", "test/a/5.png"]
    colours(tmp_path, names)  # a PNG called .jpg is read for what it is
    (tmp_path / "train/a/.hidden").write_text("not an image")
    (tmp_path / "train/a/Thumbs.db").write_text("not an image")
    (tmp_path / "README.txt").write_text("about it")
    found = load_images("file", path=str(tmp_path), image_size=3)
    assert found.classes == ("a", "b") and found.parts["train"].shape == (3, 3, 3)
    assert [reds(images) for images in found.parts.values()] == [{0: 1, 1: 0, 2: 0}, {3: 0}, {4: 1, 5: 0}]
    assert load_images("file", path=str(tmp_path)).parts["test"].shape == (224, 224, 3)


def test_class_folders_alone_are_cut(tmp_path):
    colours(tmp_path, [f"{name}/{n}.png" for name in ("train", "cat", "dog") for n in range(10)])  # train is a class
    found = load_images("file", path=str(tmp_path), image_size=2, validation_fraction=0.2)
    assert found.classes == ("cat", "dog", "train") and list(found.parts) == ["train", "validation"]
    assert np.bincount(found.parts["validation"].labels).tolist() == [2, 2, 2]
    both = reds(found.parts["train"]) | reds(found.parts["validation"])
    assert both == {n: [2, 0, 1][n // 10] for n in range(30)}
    assert found.fingerprint == load_images("file", path=f"{tmp_path}/", image_size=2, validation_fraction=0.2).fingerprint


def test_the_fingerprint_of_a_folder(tmp_path):
    def made(name, size=2):
        return load_images("file", path=str(tmp_path / name), image_size=size).fingerprint

    names = [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(4)]
    colours(tmp_path / "one", names)
    colours(tmp_path / "two", names)
    before = made("one")
    assert before == made("two") and before != made("one", size=3)  # wherever the folder is
    (tmp_path / "two/cat/0.png").rename(tmp_path / "two/cat/9.png")
    assert made("two") != before
    with open(tmp_path / "one/dog/0.png", "ab") as file:
        file.write(b"more")
    assert made("one") != before


def test_faults_in_folders_are_named(tmp_path):
    def folder(*names):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        colours(place, names)
        return place

    refused("has no images; put images in a folder for each class", folder())
    refused("has 2 images but no class folders", folder("1.png", "2.png"))
    refused("test has 1 images but no class folders", folder("train/a/1.png", "test/1.png"))
    (empty := folder("a/1.png") / "b").mkdir()
    refused(f"the class folder {empty} has no images", empty.parent)
    (empty := folder() / "b").mkdir()
    refused("has 1 folders but no images in them", empty.parent)
    refused("cart is not a class of the training part (nearest: cat)", folder("train/cat/1.png", "test/cart/1.png"))
    refused(
        "has the folders val and validation, both for the validation part; keep one",
        folder(*(f"{p}/a/1.png" for p in ("train", "val", "validation"))),
    )
    (text := folder("a/1.png") / "a/notes.txt").write_text("x")
    refused(f"{text} is not an image by its name", text.parents[1])
    (text := folder("a/1.png", "a/2.png") / "a/1.png").write_text("no image")
    refused(f"{text} is not a valid image (not a format that Pillow knows)", text.parents[1], validation_fraction=0.5)


# One image


def test_the_middle_square_is_scaled(tmp_path):
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:50], pixels[:, 50:70] = (200, 10, 0), (0, 10, 200)  # the middle is 30 to 70
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.swapaxes(0, 1)).save(tmp_path / "tall.png")
    wide, tall = (read_image(tmp_path / f"{name}.png", 4, 3) for name in ("wide", "tall"))
    assert wide.dtype == np.uint8 and np.array_equal(tall, wide.swapaxes(0, 1))
    assert (wide[:, 1] > wide[:, 2]).any() and np.ptp(wide, axis=0).max() == 0
    # Antialiased bilinear: the value at a place is the mean under a triangle of two new pixels' width.
    at = np.arange(100) + 0.5
    for place in range(4):
        weight = np.maximum(0, 1 - np.abs(at - (30 + 10 * (place + 0.5))) / 10)
        want = (pixels[0] * weight[:, None]).sum(0) / weight.sum()
        assert np.abs(wide[0, place] - want).max() <= 1
    assert np.array_equal(read_image(tmp_path / "wide.png", 0, 3), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turn = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored = Image.fromarray(np.ascontiguousarray(turn[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png", 0, 1)[..., 0], upright)


def test_every_kind_of_image_is_converted(tmp_path):
    grey = np.array([[0, 100, 255]], np.uint8)
    colour = np.array([[[255, 0, 0], [0, 255, 0], [10, 20, 30]]], np.uint8)
    palette = Image.fromarray(colour).quantize(3)
    kinds = {
        "grey.png": (Image.fromarray(grey), grey[..., None].repeat(3, 2)),
        "alpha.png": (Image.fromarray(np.dstack([grey, grey])), grey[..., None].repeat(3, 2)),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), grey[..., None].repeat(3, 2)),
        "deep.tif": (Image.fromarray(grey.astype(np.int32) * 257), grey[..., None].repeat(3, 2)),
        "rgb.png": (Image.fromarray(colour), colour),
        "rgba.png": (Image.fromarray(np.dstack([colour, grey])), colour),
        "palette.png": (palette, colour),
        "palette.gif": (palette, colour),
        "bits.png": (Image.fromarray(grey > 150), np.array([[[0] * 3, [0] * 3, [255] * 3]])),
    }
    for name, (image, want) in kinds.items():
        image.save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name, 0, 3), want), name
        light = np.asarray(Image.fromarray(want.astype(np.uint8)).convert("L"))
        assert np.array_equal(read_image(tmp_path / name, 0, 1)[..., 0], light), name
    palette.save(tmp_path / "through.png", transparency=bytes([0, 255, 128]))
    assert np.array_equal(read_image(tmp_path / "through.png", 0, 3), colour)
    assert np.array_equal(read_image(tmp_path / "rgba.png", 0, 4)[..., 3], grey)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk.tif")
    assert np.array_equal(read_image(tmp_path / "cmyk.tif", 0, 3), colour)


def test_what_is_no_image_is_refused(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    Image.new("RGB", (50, 50), (1, 2, 3)).save(tmp_path / "whole.png")
    Image.effect_noise((50, 50), 90).save(tmp_path / "whole.jpg")
    Image.new("F", (4, 4), 0.5).save(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "huge.tif")
    png, jpg = (tmp_path / "whole.png").read_bytes(), (tmp_path / "whole.jpg").read_bytes()
    faults = [
        (write("empty.png", b""), "empty.png is not a valid image"),
        (write("text.png", b"text"), "text.png is not a valid image (not a format that Pillow knows)"),
        (write("cut.png", png[: len(png) // 2]), "cut.png is not a valid image"),
        (write("cut.jpg", jpg[: len(jpg) // 2]), "cut.jpg is not a valid image"),
        (tmp_path / "float.tif", "float.tif is an image of floats"),
        (tmp_path / "huge.tif", "values from 70000 to 70000"),
        (tmp_path / "absent.png", "absent.png does not exist"),
        (tmp_path, "is a folder"),
        ("a\0b", "cannot be read"),
    ]
    for path, says in faults:
        with pytest.raises(UserError) as error:
            read_image(path, 8, 3)
        assert says in one_line(error)
    for settings, says in (((8, 2), "channels is 2"), ((-1, 3), "size is -1")):
        with pytest.raises(UserError) as error:
            read_image(tmp_path / "whole.png", *settings)
        assert says in one_line(error)
    for paths, size, says in (([], 8, "no image files"), (["a"], 0, "size is 0"), (["a", "b"], 8, "2 images but 1")):
        with pytest.raises(UserError) as error:
            FileImages(paths, np.array([0]), size, 3)
        assert says in one_line(error)


def test_without_pillow_it_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "a.png", 8, 3)
    assert "Pillow, which is not installed; run pip install -e '.[experiments]'" in one_line(error)
