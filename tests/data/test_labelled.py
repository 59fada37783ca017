"""Texts with labels: parts that are disjoint, stratified and the same each time, and a clear message for every fault."""

import collections
import csv
import io
import itertools
import json
import os
import platform
import subprocess
import sys
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from labelled_files import json_lines, named, one_line, pairs, rows, writer

from seqjax.data.labelled import load_labelled
from seqjax.data.readers import docstrings
from seqjax.data.readers.tables import read_inputs
from seqjax.errors import UserError


@pytest.fixture
def write(tmp_path):
    return writer(tmp_path)


# embedded


def test_docstrings_are_those_of_their_packages():
    import inspect
    import logging
    import tarfile

    texts, labels = docstrings.read_docstrings()
    label_of = dict(zip(texts, labels))
    assert label_of[inspect.getdoc(logging.Handler.emit)] == "logging"
    assert label_of[inspect.getdoc(tarfile.TarFile)] == "tarfile"
    assert len({" ".join(text.split()) for text in texts}) == len(texts)
    assert min(len(text.split()) for text in texts) == docstrings.FEWEST_WORDS
    counts = collections.Counter(labels)
    assert len(counts) == 12 and min(counts.values()) > 80 and 2000 < len(texts) < 3000
    assert max(counts.values()) < 0.15 * len(texts)


@pytest.fixture(scope="module")
def found():
    return load_labelled("embedded", name="docstrings")


def test_docstrings_in_parts_are_disjoint_and_stratified(found):
    assert list(found.parts) == ["train", "validation", "test"]
    assert found.notes == (f"made from Python {platform.python_version()}",)
    everything = [text for part in found.parts.values() for text in part["text"]]
    assert len(set(everything)) == len(everything) > 2000
    counts = {part: np.bincount(found.parts[part]["label"], minlength=12) for part in found.parts}
    whole = sum(counts.values())
    assert np.abs(counts["test"] - 0.15 * whole).max() <= 1
    assert np.abs(counts["validation"] - 0.1 * 0.85 * whole).max() <= 1.2


def test_docstrings_for_testing_are_the_same_for_every_seed(found):
    other = load_labelled("embedded", name="docstrings", seed=1)
    assert other.parts["test"]["text"] == found.parts["test"]["text"]
    assert other.parts["validation"]["text"] != found.parts["validation"]["text"]
    assert other.fingerprint != found.fingerprint


def test_docstrings_are_the_same_in_another_process_quickly_and_import_nothing(found):
    code = (
        "import sys, time; from seqjax.data.labelled import load_labelled\n"
        "begin = time.process_time(); found = load_labelled('embedded', name='docstrings')\n"
        "assert time.process_time() - begin < 5\n"
        "assert not {'turtle', 'mailbox', 'tensorflow_datasets'} & sys.modules.keys()\n"
        "print(found.fingerprint)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == found.fingerprint, done.stderr


def test_a_python_without_its_source_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match="without its library's source"):
        load_labelled("embedded", name="docstrings")


# files


def test_every_kind_of_file_gives_the_same_set(write):
    table = rows(40)
    quoted = io.StringIO()
    writer = csv.DictWriter(quoted, ["label", "number", "text"])
    writer.writeheader()
    writer.writerows({**row, "number": n} for n, row in enumerate(table))
    lines = {name: "\n".join(row["text"] for row in table if row["label"] == name) for name in ("ham", "spam")}
    for n, row in enumerate(table):
        write(f"tree/{row['label']}/{n:02}.txt", row["text"])
    for name, text in lines.items():
        write(f"lines/{name}.txt.gz", text + "\n\n")
    write("lines/README.txt", "about the data")
    paths = [
        write("a.jsonl", json_lines(table)),
        write("a.jsonl.gz", json_lines(table).replace("\n", "\r\n\r\n")),
        write("a.csv", quoted.getvalue()),
        write("a.tsv.gz", "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in table)),
        os.path.dirname(os.path.dirname(write("tree/unsup/1.txt", "no label"))),
        os.path.dirname(write("lines/other.md", "not read")),
    ]
    wanted = {(row["text"], row["label"]) for row in table}
    for path in paths:
        found = load_labelled("file", path=path, validation_fraction=0.2, test_fraction=0.1)
        assert found.name == os.path.basename(path) and found.classes == ("ham", "spam")
        assert [np.bincount(found.parts[p]["label"]).tolist() for p in found.parts] == [[14, 14], [4, 4], [2, 2]], path
        seen = [pair for part in found.parts for pair in named(found, part)]
        assert len(seen) == 40 and set(seen) == wanted, path
        assert all(part["label"].dtype == np.int32 for part in found.parts.values())
        assert len(found.notes) == ("tree" in path or "lines" in path), found.notes


@hypothesis.settings(max_examples=40, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), min_size=1).filter(str.strip),
        min_size=2,
        max_size=12,
        unique=True,
    ),
    labels=st.lists(st.sampled_from(["a", "b c", 'd,"e"', "ü"]), min_size=12, max_size=12),
    kind=st.sampled_from(["excel", "excel-tab", "json", "json ascii"]),
)
def test_what_is_written_is_read(write, texts, labels, kind):
    labels = ["a", "ü", *labels][: len(texts)]
    if kind.startswith("json"):
        rows = [{"y": label, "x": text} for text, label in zip(texts, labels)]
        ascii_only = kind == "json ascii"
        path = write("a.jsonl", "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows))
    else:
        table = io.StringIO()
        csv.writer(table, kind).writerows([("y", "x"), *zip(labels, texts)])
        path = write("a.csv" if kind == "excel" else "a.tsv", table.getvalue())
    found = load_labelled("file", path=path, validation_path=path, text_field="x", label_field="y")
    assert named(found, "train") == named(found, "validation") == list(zip(texts, labels))
    assert read_inputs(path, "x") == texts


@pytest.mark.parametrize(
    "labels, classes",
    [
        ([10, 9, 2, -1], ("-1", "2", "9", "10")),
        (["10", "9", "2", "1.5"], ("1.5", "2", "9", "10")),
        ([True, False, True, False], ("False", "True")),
        (["b", "a", "B", 7], ("7", "B", "a", "b")),
    ],
)
def test_classes_are_sorted_numbers_by_value(write, labels, classes):
    path = write("a.jsonl", json_lines({"text": f"t{n}", "label": label} for n, label in enumerate(labels)))
    found = load_labelled("file", path=path, validation_path=path)
    assert found.classes == classes
    assert [found.classes[k] for k in found.parts["train"]["label"]] == [str(label) for label in labels]


def test_given_parts_are_kept_as_they_are_and_only_missing_ones_are_held_out(write):
    train, test = write("a.jsonl", json_lines(rows(20))), write("b.jsonl", json_lines(rows(6, start=17)))
    both = load_labelled("file", path=train, validation_path=test, test_path=test)
    assert [len(part["text"]) for part in both.parts.values()] == [20, 6, 6]
    assert both.parts["validation"]["text"] == tuple(f"message {n}" for n in range(17, 23))
    said = "test: 3 of 6 texts are also in the training part, 3 of them with the same label"
    assert said in both.notes
    one = load_labelled("file", path=train, test_path=test)
    assert [len(part["text"]) for part in one.parts.values()] == [18, 2, 6]
    assert "test" not in load_labelled("file", path=train).parts


def test_the_seed_alone_decides_what_is_held_out(write):
    path = write("a.jsonl", json_lines(rows(60, ("a", "b", "c"))))
    first, again, other = (load_labelled("file", path=path, test_fraction=0.2, seed=seed) for seed in (3, 3, 4))
    assert first.fingerprint == again.fingerprint and first.parts["test"]["text"] == again.parts["test"]["text"]
    assert first.parts["test"]["text"] != other.parts["test"]["text"] and first.fingerprint != other.fingerprint


def test_the_fingerprint_is_over_texts_labels_classes_and_parts(write):
    def fingerprint(train, held):
        paths = {"path": write("a.jsonl", json_lines(train)), "validation_path": write("b.jsonl", json_lines(held))}
        return load_labelled("file", **paths).fingerprint

    train, held = rows(4), rows(2, start=4)
    swapped = [{**row, "label": {"ham": "spam", "spam": "ham"}[row["label"]]} for row in train]
    renamed = [[{**row, "label": row["label"] + "s"} for row in part] for part in (train, held)]
    moved = [{"text": "message", "label": "ham"}, {"text": "0message", "label": "spam"}]
    joined = [{"text": "message0", "label": "ham"}, {"text": "message", "label": "spam"}]
    variants = [(train, held), (swapped, held), renamed, (train[:3], held), (train, train), (moved, held)]
    found = [fingerprint(*variant) for variant in [*variants, (joined, held)]]
    assert len(set(found)) == len(found)
    assert fingerprint(train, held) == found[0]


def test_a_repeated_text_is_kept_once_where_parts_are_held_out(write):
    table = rows(10) + rows(10)[:4] + [{"text": "message 0", "label": "spam"}]
    path = write("a.jsonl", json_lines(table))
    found = load_labelled("file", path=path, validation_fraction=0.3)
    assert "4 of 15 texts repeat an earlier one with the same label and were left out" in found.notes
    seen = named(found, "train") + named(found, "validation")
    assert len(seen) == 11 and set(seen) == {(row["text"], row["label"]) for row in table}
    assert len(load_labelled("file", path=path, validation_path=path).parts["train"]["text"]) == 15


def test_html_is_stripped_and_other_angles_are_kept(write):
    before = "A<br /><br/>B &amp; &lt;C&gt; <a href='x'>D</a><!-- no --> 1 < 2 > 0, <3, x <- y"
    path = write("a.jsonl", json_lines([{"text": before, "label": "a"}, {"text": "x &unknown; y", "label": "b"}]))
    found = load_labelled("file", path=path, validation_path=path, strip_html=True)
    assert found.parts["train"]["text"] == ("A  B & <C>  D   1 < 2 > 0, <3, x <- y", "x &unknown; y")
    assert load_labelled("file", path=path, validation_path=path).parts["train"]["text"][0] == before
    bare = write("b.jsonl", json_lines([{"text": "<br />", "label": "a"}, *rows(3)]))
    with pytest.raises(UserError, match="line 1 has an empty text"):
        load_labelled("file", path=bare, strip_html=True)
    begin = time.perf_counter()
    long = write("c.jsonl", json_lines([{"text": "<!--<a" * 200_000, "label": "a"}, *rows(8)]))
    load_labelled("file", path=long, strip_html=True)
    assert time.perf_counter() - begin < 10  # not quadratic


def test_json_lines_end_in_newlines_only_and_a_field_may_be_long(write):
    odd = "one\u2028two\x85three\x0bfour"
    path = write("a.jsonl", "".join(json.dumps({"text": odd + str(n), "label": n}, ensure_ascii=False) + "\n" for n in (0, 1)))
    assert load_labelled("file", path=path, validation_path=path).parts["train"]["text"] == (odd + "0", odd + "1")
    limit = csv.field_size_limit()
    path = write("a.csv", f"text,label\n{'x' * 200_000},a\n\ny,b\n")
    assert len(load_labelled("file", path=path, validation_path=path).parts["train"]["text"][0]) == 200_000
    assert csv.field_size_limit() == limit


# real data


def test_names_to_languages(shared):
    found = load_labelled("file", path=str(shared / "data" / "names-languages"), test_fraction=0.1)
    assert len(found.classes) == 18 and "SOURCE" not in found.classes
    seen = [pair for part in found.parts for pair in named(found, part)]
    assert len(seen) == len(set(seen)) == 20_050 - 2_038
    assert any("2038 of 20050" in note for note in found.notes)
    counts = [np.bincount(part["label"], minlength=18) for part in found.parts.values()]
    assert all(np.abs(count - 0.1 * sum(counts)).max() <= 1 for count in counts[1:])
    assert ("Abdulov", "Russian") in seen and ("Yamamoto", "Japanese") in seen


def test_imdb_reviews_from_files(shared):
    paths = {part: str(shared / "data" / "imdb" / f"imdb_{part}.jsonl.gz") for part in ("train", "test")}
    found = load_labelled("file", path=paths["train"], test_path=paths["test"], strip_html=True)
    assert found.classes == ("0", "1") and np.bincount(found.parts["test"]["label"]).tolist() == [12_500, 12_500]
    train = found.parts["train"]["text"] + found.parts["validation"]["text"]
    assert len(train) == len(set(train)) == 25_000 - 96 and not any("<br />" in text for text in train)


def test_imdb_reviews_from_the_catalogue(shared):
    pytest.importorskip("tensorflow_datasets")
    settings = {"name": "imdb_reviews/plain_text", "data_dir": str(shared / "tfds")}
    found = load_labelled("tfds", **settings)
    assert found.classes == ("neg", "pos") and list(found.parts) == ["train", "validation", "test"]
    assert np.bincount(found.parts["test"]["label"]).tolist() == [12_500, 12_500]
    held = np.bincount(found.parts["validation"]["label"])
    assert abs(int(held[0]) - int(held[1])) < 10 and abs(held.sum() - 2_490) <= 1
    files = load_labelled("file", path=str(shared / "data" / "imdb" / "imdb_test.jsonl.gz"))
    own = {text: files.classes[label] for text, label in pairs(files.parts["train"])}
    both = [(own[text], name) for text, name in named(found, "test") if text in own]
    assert len(both) > 20_000 and set(both) == {("0", "neg"), ("1", "pos")}  # the same reviews, labelled alike


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"text_field": "review"}, "no Text feature called 'review', but text; set text_field"),
        ({"label_field": "stars"}, "no ClassLabel feature called 'stars', but label; set label_field"),
        ({"test_fraction": 0.1}, "imdb_reviews/plain_text has a test part"),
        ({"name": "mnist"}, "mnist has no Text feature called 'text', but none"),
    ],
)
def test_faults_with_the_catalogue(shared, monkeypatch, settings, says):
    pytest.importorskip("tensorflow_datasets")
    from seqjax.data.readers import tfds

    whole = tfds.examples
    monkeypatch.setattr(tfds, "examples", lambda source: itertools.islice(whole(source), 1))
    settings = {"name": "imdb_reviews/plain_text", "data_dir": str(shared / "tfds"), **settings}
    with pytest.raises(UserError) as error:
        load_labelled("tfds", **settings)
    assert says in one_line(error)


def test_where_no_class_has_two_texts_left_the_repeats_are_said(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "a,0\nb,1\n" * 9)
    with pytest.raises(UserError, match="no class of two examples(.|\n)*16 of 18 texts repeat an earlier one with the same label"):
        load_labelled("file", path=str(tmp_path / "a.csv"))
