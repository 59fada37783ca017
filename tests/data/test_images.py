"""Images in parts: held-out images, scikit-learn's digits, TFDS."""

import builtins
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from seqjax.data import images as door
from seqjax.data.hold_out import hold_out
from seqjax.data.image_columns import ArrayImages, Found
from seqjax.data.images import load_images
from seqjax.data.pipeline.shuffled import ImageBatches
from seqjax.data.readers import digits, image_tfds
from seqjax.errors import UserError


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


def same(left, right):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right))


workers = pytest.mark.parametrize("workers", [0, 2])


# Images and parts


@pytest.mark.parametrize(
    "images, labels, says",
    [
        (np.zeros((2, 3, 3, 1)), [0, 0], "float64; give uint8 with values 0 to 255"),
        (np.zeros((2, 3, 3), np.uint8), [0, 0], "(2, 3, 3)"),
        (np.zeros((0, 3, 3, 1), np.uint8), [], "(0, 3, 3, 1)"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0], "2 images but 1 labels"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0.0, 1.0], "labels are float64"),
        (np.zeros((2, 3, 3, 1), np.uint8), [[0, 1], [1, 0]], "(2, 2)"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 2**40], "run from 0 to 1099511627776"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images, labels, says):
    with pytest.raises(UserError) as error:
        ArrayImages(images, np.array(labels))
    assert says in one_line(error)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.37, 0.999])
def test_what_is_held_out_is_stratified_disjoint_and_covers(seed, fraction):
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 5, 7], size=200, p=[0.6, 0.3, 0.09, 0.01])
    labels[0] = 9  # alone in its class
    kept, held = hold_out(200, fraction, seed, "x", strata=labels)
    assert sorted([*kept, *held]) == list(range(200)) and (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()
    assert set(labels[kept]) == set(labels) and held.size >= 1
    for label in set(labels):
        count, share = (labels == label).sum(), (labels[held] == label).sum()
        assert share in (min(int(count * fraction), count - 1), min(int(count * fraction) + 1, count - 1))
    if fraction < 0.9:
        assert held.size == max(round(200 * fraction), 1)
    assert same((kept, held), hold_out(200, fraction, seed, "x", strata=labels))
    if 0.01 < fraction < 0.9:
        assert set(held) != set(hold_out(200, fraction, seed + 1, "x", strata=labels)[1])


def test_a_set_that_cannot_be_is_refused():
    few = ArrayImages(np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1]))
    faults = [
        ({"train": few}, ("a", "b"), "no class of two examples"),
        ({"train": few, "test": few}, ("a",), "few, train: label 1 (counting from 0) is 1, but with 1 classes"),
        ({"train": few, "test": ArrayImages(np.zeros((2, 3, 3, 1), np.uint8), [0, -1])}, "ab", "test: label 1"),
        ({"train": few, "test": ArrayImages(np.zeros((2, 4, 3, 1), np.uint8), [0, 1])}, "ab", "(4, 3, 1), of train"),
    ]
    for parts, classes, says in faults:
        with pytest.raises(UserError) as error:
            door._dataset("few", Found(classes, parts), 0.1, 0)
        assert says in one_line(error)


def test_the_fingerprint_changes_with_what_it_is_of():
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, (20, 4, 2, 1), np.uint8), np.arange(20) % 2

    def made(pixels=pixels, labels=labels, classes="ab", fraction=0.2, seed=0):
        return door._dataset("x", Found(tuple(classes), {"train": ArrayImages(pixels, labels)}), fraction, seed).fingerprint

    one_pixel, one_label = pixels.copy(), labels.copy()
    one_pixel[3, 1, 1, 0] ^= 1
    one_label[3] ^= 1
    others = [
        made(pixels=one_pixel),
        made(pixels=pixels.reshape(20, 2, 4, 1)),
        made(labels=one_label),
        made(classes="ac"),
        made(fraction=0.3),
        made(seed=1),
    ]
    assert made() == made(pixels=np.asfortranarray(pixels)) and len({made(), *others}) == 7


# Embedded


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_digits()
    pixels, labels = digits.read_digits()
    assert np.array_equal(pixels[..., 0], np.rint(found.images * 255 / 16)) and np.array_equal(labels, found.target)
    loaded = load_images("embedded", name="digits")
    assert loaded.name == "digits" and loaded.classes == tuple("0123456789")
    assert list(loaded.parts) == ["train", "validation", "test"]
    assert {part: len(images) for part, images in loaded.parts.items()} == {
        "train": 1294,
        "validation": 144,
        "test": 359,
    }
    parts = [images.take(np.arange(len(images))) for images in loaded.parts.values()]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    assert pixels.dtype == np.uint8 and pixels.max() == 255 and pixels.min() == 0
    key = lambda images, labels: sorted(zip(map(bytes, images), labels.tolist()))  # noqa: E731
    scaled = np.rint(found.images * 255 / 16).astype(np.uint8)
    assert key(pixels, labels) == key(scaled, found.target)
    shares = np.array([np.bincount(labels, minlength=10) / len(labels) for _, labels in parts])
    assert np.ptp(shares, axis=0).max() < 0.01


def test_seeds_change_what_is_held_out_of_the_digits_and_not_the_test_part():
    pytest.importorskip("sklearn")

    def part(name, seed):
        images = load_images("embedded", name="digits", seed=seed).parts[name]
        return images.take(np.arange(len(images)))[0].tobytes()

    assert part("validation", 0) == part("validation", 0) != part("validation", 1)
    assert part("test", 0) == part("test", 1)


def test_without_scikit_learn_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        load_images("embedded", name="digits")
    assert "scikit-learn, which is not installed; run pip install -e '.[experiments]'" in one_line(error)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"source": "embeded"}, "nearest: embedded"),
        ({"source": "embedded"}, "choose one of digits"),
        ({"source": "embedded", "name": "digit"}, "nearest: digits"),
        ({"source": "embedded", "name": "digits", "path": "x"}, "path='x' is for source='file'"),
        ({"source": "file", "path": "x", "data_dir": "y"}, "data_dir='y' is for source='tfds'"),
        ({"source": "embedded", "name": "digits", "validation_fraction": 1}, "validation_fraction is 1"),
        ({"source": "embedded", "name": "digits", "image_size": -1}, "image_size is -1"),
        ({"source": "embedded", "name": "digits", "image_size": 8.0}, "image_size is 8.0"),
        ({"source": "embedded", "name": "digits", "seed": -1}, "seed is -1"),
        ({"source": "file"}, "needs a path"),
        ({"source": "tfds"}, "needs a name"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(UserError) as error:
        load_images(**settings)
    assert says in one_line(error)


# TFDS


def test_mnist_of_tfds_is_mnist_of_idx_files(shared, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(image_tfds, "MEMORY", 0)  # to decode some instead of all
    settings = {"source": "tfds", "name": "mnist", "data_dir": str(shared / "tfds")}
    found, files = load_images(**settings), load_images("file", path=str(shared / "data/mnist"))
    assert found.classes == files.classes and found.name == "mnist" and "tensorflow" not in sys.modules
    sizes = {"train": 54_000, "validation": 6_000, "test": 10_000}
    for each in (found, files):
        assert {part: len(images) for part, images in each.parts.items()} == sizes

    def content(images, number):
        return list(zip(*(map(bytes, arrays) for arrays in images.take(np.arange(number)))))

    assert sorted(content(found.parts["test"], 10_000)) == sorted(content(files.parts["test"], 10_000))
    known = {*content(files.parts["train"], 54_000), *content(files.parts["validation"], 6_000)}
    assert {*content(found.parts["train"], 300), *content(found.parts["validation"], 300)} <= known
    with ImageBatches(found.parts["train"], 16, seed=0, workers=2) as batches:
        assert same(next(batches), next(ImageBatches(found.parts["train"], 16, seed=0)))


@pytest.mark.parametrize(
    "name, says",
    [
        ("imdb_reviews/plain_text", "has no Image feature called 'image', but none; choose another set (its features: "),
        ("mnits", "Did you mean: mnits -> mnist"),
        ("cifar10", "`tfds build cifar10 --file_format=array_record`"),
    ],
)
def test_sets_that_cannot_be_read(shared, name, says):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError) as error:
        load_images("tfds", name=name, data_dir=str(shared / "tfds"))
    message = one_line(error)
    assert says in message and "python_docs" not in message
    assert "Image feature" in message or "name='digits' needs no download" in message


def test_without_tfds_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "tensorflow_datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError) as error:
        load_images("tfds", name="mnist")
    assert "pip install -e '.[tfds]'" in one_line(error) and "name='digits'" in str(error.value)


class Image:
    def __init__(self, shape, np_dtype=np.uint8):
        self.shape, self.np_dtype = shape, np_dtype


class ClassLabel:
    def __init__(self, names):
        self.names, self.num_classes = names, len(names)


@pytest.fixture
def published(monkeypatch):
    """Sets as TFDS would give them, of encoded images of a size and colour each."""

    def encoded(size, grey):
        return b"P5 %d %d 255 " % size + bytes([grey]) * (size[0] * size[1])

    def publish(features, **splits):
        sources = {split: [{"image": encoded(size, grey), "label": label} for size, grey, label in rows] for split, rows in splits.items()}

        class Source(list):
            def __getitems__(self, keys):
                return [self[key] for key in keys]

        builder = SimpleNamespace(info=SimpleNamespace(features=features, splits=splits, full_name="pets/1.0.0"))
        monkeypatch.setattr(image_tfds, "open_builder", lambda *_: builder)
        monkeypatch.setattr(image_tfds, "open_split", lambda name, builder, split, *_, **__: Source(sources[split]))
        return lambda **settings: load_images("tfds", name="pets", **settings)

    return publish


TRAIN = [((30 + n, 20), n, n % 2) for n in range(40)]
HELD = [((9, 9), 100 + n, n % 2) for n in range(4)]
EVEN = {"image": Image((9, 9, 1)), "label": ClassLabel(["cat", "dog"])}
UNEVEN = {"image": Image((None, None, 3)), "label": ClassLabel(["cat", "dog"])}


def first_pixels(images):
    return sorted(images.take(np.arange(len(images)))[0][:, 0, 0, 0].tolist())


def test_a_published_validation_part_alone_is_the_test_part(published):
    load = published(UNEVEN, train=TRAIN, validation=HELD, test=[((9, 9), 200 + n, -1) for n in range(4)])
    found = load(image_size=8)
    assert found.classes == ("cat", "dog") and list(found.parts) == ["train", "validation", "test"]
    assert first_pixels(found.parts["test"]) == [100, 101, 102, 103]
    assert len(found.parts["validation"]) == 4 and found.parts["train"].labels is None
    assert first_pixels(found.parts["train"]) != list(range(36))
    everything = first_pixels(found.parts["train"]) + first_pixels(found.parts["validation"])
    assert sorted(everything) == list(range(40)) and found.parts["train"].shape == (8, 8, 3)
    assert load().parts["train"].shape == (224, 224, 3)


def test_published_parts_stay_where_there_are_both(published):
    even = [((9, 9), grey, label) for _, grey, label in TRAIN]
    load = published(EVEN, train=even, validation=HELD[:2], test=HELD[2:])
    found = load()
    assert [len(images) for images in found.parts.values()] == [40, 2, 2]
    assert first_pixels(found.parts["validation"]) == [100, 101] and first_pixels(found.parts["test"]) == [102, 103]
    assert found.parts["train"].labels.tolist() == [0, 1] * 20 and found.parts["train"].shape == (9, 9, 1)
    assert load(image_size=5).parts["test"].shape == (5, 5, 1)
    only_train = published(EVEN, train=even)()
    assert [len(images) for images in only_train.parts.values()] == [36, 4]
    assert np.bincount(only_train.parts["validation"].labels).tolist() == [2, 2]


def test_faults_in_a_published_set_are_named(published):
    rows = [((9, 9), 5, 0), ((9, 9), 6, 1), ((9, 9), 6, 1)]
    faults = [
        (EVEN, [((9, 8), 5, 0), *rows], "image 0 of pets/1.0.0, train is (8, 9, 1), not (9, 9, 1)"),
        (EVEN, [*rows, ((9, 9), 5, 2)], "image 3 of pets/1.0.0, train has label 2, but there are 2 classes"),
        ({**EVEN, "image": Image((9, 9, 1), np.float32)}, rows, "images of float32"),
        ({"image": EVEN["image"], "name": EVEN["image"]}, rows, "its features: image, name"),
        ({"a": EVEN["image"], "b": EVEN["image"], "label": EVEN["label"]}, rows, "has no Image feature called 'image', but a, b; choose"),
    ]
    for features, train, says in faults:
        with pytest.raises(UserError) as error:
            published(features, train=train)()
        assert says in one_line(error)
