"""The origin of data: every embedded set names the versions that it depends on, and random draws depend on none."""

import dataclasses
import hashlib
import importlib.metadata
import platform
import re

import numpy as np
import pytest

from seqjax.data import load_corpus, load_images, load_labelled, load_parallel, load_tagged
from seqjax.data import origins as origins_module
from seqjax.data.draws import shuffled, uniform
from seqjax.data.origins import explain_difference


def version(package):
    return importlib.metadata.version(package)


LOADED = {
    "hello": (lambda: load_corpus("embedded", name="hello"), ()),
    "python_docs": (lambda: load_corpus("embedded", name="python_docs"), ("python",)),
    "python_source": (lambda: load_corpus("embedded", name="python_source"), ("python",)),
    "docstrings": (lambda: load_labelled("embedded", name="docstrings"), ("python",)),
    "python": (lambda: load_tagged("embedded", name="python"), ("python",)),
    "dates": (lambda: load_parallel("embedded", name="dates"), ("babel",)),
    "digits": (lambda: load_images("embedded", name="digits"), ("scikit-learn",)),
    "digits of 16": (lambda: load_images("embedded", name="digits", image_size=16), ("scikit-learn", "pillow")),
}
NEEDS = {"babel": "babel", "scikit-learn": "sklearn", "pillow": "PIL"}


@pytest.fixture(scope="module", params=LOADED)
def loaded(request):
    load, packages = LOADED[request.param]
    for package in packages:
        if package in NEEDS:
            pytest.importorskip(NEEDS[package])
    return request.param, load(), packages


def test_an_embedded_set_has_the_common_shape_and_names_its_versions(loaded):
    name, data, packages = loaded
    assert data.name == name.split()[0]
    assert isinstance(data.parts, dict) and list(data.parts)[:2] == ["train", "validation"]
    assert re.fullmatch("(v2-)?[0-9a-f]{64}", data.fingerprint)
    here = {package: platform.python_version() if package == "python" else version(package) for package in packages}
    assert data.made_from == here
    made = [note for note in data.notes if note.startswith("made from ")]
    assert len(made) == bool(packages)
    assert all(number in made[0] for number in here.values())


def test_the_fingerprint_is_of_the_content_alone(monkeypatch):
    """So a run resumes under another version that changed nothing."""
    before = load_corpus("embedded", name="python_docs")
    monkeypatch.setattr(origins_module.platform, "python_version", lambda: "3.99.0")
    after = load_corpus("embedded", name="python_docs")
    assert after.made_from == {"python": "3.99.0"} and after.notes == ("made from Python 3.99.0",)
    assert after.fingerprint == before.fingerprint


def test_the_fingerprint_of_a_text_changes_with_documents_parts_and_ends():
    hello = load_corpus("embedded", name="hello")
    train, validation = hello.parts["train"], hello.parts["validation"]
    words = validation["text"]
    fewer = {part: records for part, records in hello.parts.items() if part != "test"}
    others = [
        {"parts": {**hello.parts, "train": train.take(np.arange(1, len(train)))}},
        {"parts": fewer},
        {"parts": {**hello.parts, "validation": validation.replace(text=("hell", "ohello", *words[2:]))}},
        {"facts": {"ends": False}},
    ]
    assert len({data.fingerprint for data in (hello, *(dataclasses.replace(hello, **other) for other in others))}) == 5


def test_digits_are_the_same_in_every_version():
    pytest.importorskip("sklearn")
    data = load_images("embedded", name="digits")
    pixels, labels = data.parts["test"].take(np.arange(359))
    digest = hashlib.sha256(pixels.tobytes() + labels.astype("<i4").tobytes()).hexdigest()
    assert digest == "c0810a9da59ccefee15f3a956913f5e5173ec47e5294250a375c88d051d8c4f2"


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_a_shuffle_is_numpys_of_today(seed):
    for number in (0, 1, 2, 3, 4, 5, 8, 100, 4097):
        generator = np.random.default_rng(seed)
        order, bits = shuffled(number, seed)
        np.testing.assert_array_equal(order, generator.permutation(number))
        np.testing.assert_array_equal(uniform(bits, 9), generator.random(9))
        assert sorted(order.tolist()) == list(range(number))


def test_a_shuffle_is_what_it_was():
    """Pinned: if NumPy's own shuffle changes, the test above may go, but this one stays."""
    order, bits = shuffled(1000, 3)
    digest = hashlib.sha256(order.astype("<i8").tobytes() + uniform(bits, 10).astype("<f8").tobytes()).hexdigest()
    assert digest == "65bdb8064b3fbef5d098632325465e83d8db7a92e7a7a2aaad8be668184c2726"


@pytest.mark.parametrize(
    "saved, here, says",
    [
        ({"babel": "2.18"}, {"babel": "2.19"}, "made from Babel 2.18 there and 2.19 here; pip install 'babel==2.18' to resume"),
        ({"python": "3.11.7"}, {"python": "3.13.0"}, "made from Python 3.11.7 there and 3.13.0 here; run with Python 3.11.7 to resume"),
        (
            {"scikit-learn": "1.4", "pillow": "10"},
            {"scikit-learn": "1.5", "pillow": "12"},
            "made from scikit-learn 1.4 there and 1.5 here, Pillow 10 there and 12 here; "
            "pip install 'scikit-learn==1.4' 'pillow==10' to resume",
        ),
        (
            {"scikit-learn": "1.4", "pillow": "10"},
            {"scikit-learn": "1.4"},
            "made from Pillow 10 there and without it here; pip install 'pillow==10' to resume",
        ),
        ({}, {"babel": "2.19"}, "made from Babel 2.19 here and without it there; choose the same source and settings to resume"),
        ({"babel": "2.19"}, {"babel": "2.19"}, ""),
        ({}, {}, ""),
    ],
)
def test_a_difference_is_explained(saved, here, says):
    assert explain_difference(saved, here) == says
