"""Every loader gives the same records as earlier versions: same examples, same order, same parts.

`assets/records.json` has what the loaders of commit a618bed gave, as digests: of the embedded sets, and of all that lies in
the developers' data folder. A set made from another package's content is compared if that has the same version.
"""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from seqjax.data import load_corpus, load_images, load_labelled, load_parallel, load_tagged
from seqjax.data.origins import versions

CASES = json.loads((pathlib.Path(__file__).parents[1] / "assets" / "records.json").read_text())
LOADERS = {"text": load_corpus, "labelled": load_labelled, "tagged": load_tagged, "pairs": load_parallel, "images": load_images}
SLOW = {"text/tfds imdb", "labelled/tfds imdb", "tagged/tfds ewt", "images/mnist of 14", "images/tfds mnist"}
NEEDS = {"babel": "babel", "pillow": "PIL", "scikit-learn": "sklearn"}


def digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def column_digests(kind, data, records):
    """Digests of the columns of a part, with labels by name."""
    if kind == "images":
        return image_digests(data, records)
    columns = {name: list(records[name]) for name in records}
    if kind == "labelled":
        columns["label"] = [data.classes[label] for label in columns["label"]]
    return {"count": len(records), **{name: digest([list(v) if isinstance(v, tuple) else v for v in c]) for name, c in columns.items()}}


def image_digests(data, images):
    pixels, labels = hashlib.sha256(), []
    for first in range(0, len(images), 1000):
        read, numbers = images.take(np.arange(first, min(first + 1000, len(images))))
        pixels.update(np.ascontiguousarray(read).tobytes())
        labels += [data.classes[number] for number in numbers.tolist()]
    return {"count": len(images), "image": pixels.hexdigest()[:16], "label": digest(labels)}


def load(case, folder=None):
    """The data set of a case; DATA and TFDS in its settings are the developers' folders."""

    def placed(value):
        return value.replace("DATA", f"{folder}/data").replace("TFDS", f"{folder}/tfds") if isinstance(value, str) else value

    return LOADERS[case["kind"]](case["source"], **{name: placed(value) for name, value in case["settings"].items()})


def found(case, data):
    return {part: column_digests(case["kind"], data, records) for part, records in data.parts.items()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES])
def test_records_are_those_of_the_loaders_before(name, request):
    case = CASES[name]
    for package in case["made_from"]:
        if package in NEEDS:
            pytest.importorskip(NEEDS[package])
    here = versions(*case["made_from"])
    if here != case["made_from"]:
        pytest.skip(f"recorded with {case['made_from']}, and here is {here}")
    if case["source"] == "tfds":
        pytest.importorskip("tensorflow_datasets")
    data = load(case, None if case["source"] == "embedded" else request.getfixturevalue("shared"))
    assert found(case, data) == case["parts"]
    assert list(data.parts) == list(case["parts"]) and data.made_from == case["made_from"]
    assert {fact: data.facts[fact] for fact in case.get("facts", {})} == case.get("facts", {})
    if "classes" in case:
        assert digest(list(data.classes)) == case["classes"]


def test_a_changed_order_is_found():
    """The digests notice one moved example, and one changed character."""
    case = CASES["tagged/python"]
    if versions("python") != case["made_from"]:
        pytest.skip("recorded with another version of Python")
    data = load(case)
    part = data.parts["test"]
    order = np.arange(len(part))
    order[[3, 4]] = order[[4, 3]]
    words = list(part["words"])
    words[7] = (words[7][0] + "x", *words[7][1:])
    for changed in (part.take(order), part.replace(words=tuple(words)), part.take(order[:-1])):
        assert column_digests("tagged", data, changed) != case["parts"]["test"]
    assert column_digests("tagged", data, part) == case["parts"]["test"]
