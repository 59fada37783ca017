"""Faults in files of labelled texts, in settings and in inputs: each is named, with its place."""

import io
import os
import sys

import pytest
from labelled_files import json_lines, named, one_line, rows, writer

from seqjax.data.labelled import load_labelled
from seqjax.data.readers.tables import read_inputs
from seqjax.errors import UserError


@pytest.fixture
def write(tmp_path):
    return writer(tmp_path)


GOOD = '{"text": "t", "label": "a"}\n{"text": "u", "label": "b"}\n'


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("a.jsonl", "", "a.jsonl is empty"),
        ("a.jsonl", "\n \n", "a.jsonl has no records"),
        ("a.csv", "text,label\n", "a.csv has no records"),
        ("a.jsonl", GOOD + '\n{"text": "x", "label"}', "a.jsonl line 4 is not JSON (Expecting ':' delimiter, column 22)"),
        ("a.jsonl", GOOD + "[1]", "a.jsonl line 3 is not a JSON object"),
        ("a.jsonl", "[" * 200_000, "a.jsonl line 1 is not JSON"),
        ("a.jsonl", GOOD + '{"txt": "x", "label": 1}', "line 3 has no field 'text' (nearest: txt), only txt, label; set text_field"),
        ("a.jsonl", GOOD + '{"text": "x"}', "line 3 has no field 'label', only text; set label_field"),
        ("a.jsonl", GOOD + '{"text": 1, "label": 1}', "line 3: 'text' is 1, not a string"),
        ("a.jsonl", GOOD + '{"text": "\\ud800", "label": 1}', "line 3: 'text' holds half a surrogate"),
        ("a.jsonl", GOOD + '{"text": "x", "label": "\\ud800"}', "line 3: 'label' holds half a surrogate"),
        ("a.jsonl", GOOD + '{"text": "x", "label": null}', "line 3: 'label' is None; a label is"),
        ("a.jsonl", GOOD + '{"text": "x", "label": 1.5}', "line 3: 'label' is 1.5; a label is"),
        ("a.jsonl", GOOD + '{"text": "x", "label": " "}', "line 3: 'label' is empty"),
        ("a.jsonl", GOOD + '{"text": "x", "label": "%s"}' % ("long " * 50), "'label' has 250 characters"),
        ("a.jsonl", GOOD + '{"text": " \\n", "label": "a"}', "a.jsonl line 3 has an empty text"),
        ("a.jsonl", '{"text": "x", "label": "a"}', "a.jsonl has one class only, 'a'"),
        ("a.jsonl", GOOD, "no class of two examples"),
        ("a.csv", "a,label\n1,2\n", "a.csv line 1 has no field 'text', only a, label; set text_field"),
        ("a.csv", "text,text,label\n1,2,3\n", "a.csv line 1 names two fields 'text'; give each its own name"),
        ("a.csv", 'text,label\n"two\nlines",a\nx,b\nwith, comma,a\n', "a.csv line 5 has 3 fields, but the first line names 2"),
        ("a.csv", 'text,label\nx,b\n"open,a\n', "a.csv line 3 is not valid"),
        ("a.tsv", 'text\tlabel\n"Oh" she said\ta\n', "a.tsv line 2 is not valid"),
        ("a.csv", "text,label\nx,a\n,b\n", "a.csv line 3 has an empty text"),
        ("a.csv", b"text,label\n\xff,a\n", "not UTF-8 at byte 11"),
        ("a.txt", "x", "a.txt does not have the extension of a table"),
        ("d/a.md", "x", "d has no .txt files"),
        ("d/train/pos/1.txt", "x", "d has one class only, 'pos'"),
        ("d/a.txt", "x\n", "d has one class only, 'a'"),
        ("d/README.txt", "x\n", "d has no records in it"),
        ("d/a/1.txt", "", "1.txt is empty"),
        ("d/a/1.txt", " \n", "1.txt line 1 has an empty text"),
    ],
)
def test_faults_in_files_name_file_and_line(write, name, data, says):
    path = write(name, data)
    with pytest.raises(UserError) as error:
        load_labelled("file", path=path.partition("/d/")[0] + "/d" if "/d/" in path else path)
    assert says in one_line(error)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_label_that_training_lacks_is_an_error(write, part):
    train = write("a.jsonl", json_lines(rows(10)))
    held = write("b.jsonl", json_lines([*rows(2), {"text": "x", "label": "spams"}]))
    with pytest.raises(UserError) as error:
        load_labelled("file", path=train, **{f"{part}_path": held})
    assert "b.jsonl line 3 has the label 'spams', which no" in one_line(error) and "(nearest: spam)" in one_line(error)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"source": "flie"}, "nearest: file"),
        ({"source": "embedded"}, "choose one of docstrings"),
        ({"source": "embedded", "name": "docstring"}, "nearest: docstrings"),
        ({"source": "embedded", "path": "a.csv"}, "path='a.csv' is for source='file' only"),
        ({"source": "tfds", "name": "x", "validation_path": "a.csv"}, "validation_path='a.csv'"),
        ({"source": "embedded", "data_dir": "x"}, "data_dir='x' is for source='tfds' only"),
        ({"source": "file", "data_dir": "x"}, "data_dir='x' is for source='tfds' only"),
        ({"source": "embedded", "name": "docstrings", "text_field": "x"}, "text_field='x' is for source='file'"),
        ({"source": "embedded", "name": "docstrings", "test_fraction": 0.1}, "docstrings has a test part"),
        ({"source": "embedded", "validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"source": "embedded", "validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"source": "embedded", "test_fraction": -0.1}, "test_fraction is -0.1"),
        ({"source": "embedded", "validation_fraction": 0.5, "test_fraction": 0.5}, "together they must be below 1"),
        ({"source": "embedded", "test_fraction": float("nan")}, "test_fraction is nan"),
        ({"source": "embedded", "seed": -1}, "seed is -1"),
        ({"source": "embedded", "seed": 0.5}, "seed is 0.5"),
        ({"source": "file"}, "needs a path"),
        ({"source": "file", "path": "missing.csv"}, "missing.csv does not exist"),
        ({"source": "file", "path": "a\0b"}, "cannot be read"),
        ({"source": "file", "path": "a.csv", "text_field": "label"}, "are both 'label'"),
        ({"source": "tfds"}, "needs a name"),
        ({"source": "tfds", "name": "x", "header": False}, "header=False is for source='file' only; leave it at True"),
        ({"source": "embedded", "name": "docstrings", "delimiter": ";"}, "delimiter=';' is for source='file' only"),
        ({"source": "file", "path": "a.csv", "quoting": "nome"}, "(nearest: none)"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(UserError) as error:
        load_labelled(**settings)
    assert says in one_line(error)


def test_settings_of_fields_and_of_the_test_part_are_refused_where_they_have_no_effect(write):
    folder = os.path.dirname(write("d/a.txt", "x\ny\n"))
    write("d/b.txt", "z\n")
    with pytest.raises(UserError, match="label_field='x' is for files with fields"):
        load_labelled("file", path=folder, label_field="x")
    with pytest.raises(UserError, match="delimiter=';' is for files with fields"):
        load_labelled("file", path=folder, delimiter=";")
    path = write("a.jsonl", json_lines(rows(10)))
    with pytest.raises(UserError, match="test_fraction=0.1 has no effect"):
        load_labelled("file", path=path, test_path=path, test_fraction=0.1)


@pytest.mark.parametrize(
    "name, data, settings",
    [
        ("a.csv", "bravo,good\nboring,bad\n", {"header": False, "text_field": "1", "label_field": "2"}),
        ("a.csv", "stars;n;review\ngood;1;bravo\nbad;2;boring\n", {"delimiter": "semicolon", "text_field": "review", "label_field": "1"}),
        ("a.data", "text\tlabel\nbravo\tgood\nboring\tbad\n", {"delimiter": "tab", "quoting": "none"}),
        ("a.csv", "text,label\nbravo,good\nboring,bad\n".encode("utf-16"), {"encoding": "utf-16"}),
    ],
)
def test_tables_have_options(write, name, data, settings):
    path = write(name, data)
    found = load_labelled("file", path=path, validation_path=path, **settings)
    assert named(found, "train") == [("bravo", "good"), ("boring", "bad")]


def test_all_faults_of_a_set_are_said_at_once(write):
    train = write("a.jsonl", json_lines([*rows(3), {"text": " ", "label": "ham"}, {"text": "", "label": "ham"}]))
    with pytest.raises(UserError) as error:
        load_labelled("file", path=train)
    assert [line.split("a.jsonl")[1] for line in str(error.value).split("\n")][1:] == [
        f" line {n} has an empty text; leave it out, or give it some text" for n in (4, 5)
    ]
    train = write("a.jsonl", json_lines(rows(4)))
    held = write("b.jsonl", json_lines([*rows(2), {"text": "x", "label": "Ham"}, {"text": "y", "label": "spam "}]))
    with pytest.raises(UserError) as error:
        load_labelled("file", path=train, test_path=held)
    assert "b.jsonl line 3 has the label 'Ham'" in str(error.value) and "b.jsonl line 4 has the label 'spam '" in str(error.value)


def test_files_are_called_by_their_own_names_and_not_as_the_embedded_set(write):
    path = write("a.jsonl", json_lines(rows(10)))
    found = load_labelled("file", name="docstrings", path=path, test_path=write("t.jsonl", json_lines(rows(3))))
    assert found.name == "a.jsonl" and found.files == {"train": "a.jsonl", "test": "t.jsonl"}
    assert load_labelled("file", name="mine", path=path).name == "mine"


# texts to make predictions for


@pytest.mark.parametrize(
    "name, data, texts",
    [
        ("a.txt", "one\r\n\n two \n\n", ["one", "", " two ", ""]),
        ("a", "no end", ["no end"]),
        ("a.txt.gz", "\ufeffone\n", ["one"]),
        ("a.txt", "\n", [""]),
        ("a.jsonl", '{"text": "a\\nb"}\n\n{"text": ""}\n', ["a\nb", ""]),
        ("a.csv", 'id,text\n1,"a\nb"\n2,\n', ["a\nb", ""]),
    ],
)
def test_inputs(write, name, data, texts):
    assert read_inputs(write(name, data)) == texts


def test_inputs_from_the_standard_input(monkeypatch):
    for data, texts in ((b"one\n\ntwo", ["one", "", "two"]), ("ü\n".encode(), ["ü"])):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert read_inputs("-") == texts
    for stdin, says in (
        (io.TextIOWrapper(io.BytesIO(b"one\n\xff\n")), "standard input is not UTF-8 at byte 4"),
        (io.TextIOWrapper(io.BytesIO(b"")), "standard input is empty"),
        (None, "no standard input"),
    ):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UserError) as error:
            read_inputs("-")
        assert says in one_line(error)


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("a.txt", "", "is empty"),
        ("a.txt", b"\xff", "not UTF-8"),
        ("a.jsonl", '{"txt": "x"}', "line 1 has no field 'text' (nearest: txt)"),
        ("a.jsonl", "x", "line 1 is not JSON"),
        ("a.csv", "text\n", "has no records"),
    ],
)
def test_faults_in_inputs(write, name, data, says):
    with pytest.raises(UserError) as error:
        read_inputs(write(name, data))
    assert says in one_line(error)
    for path, says in (("", "no file of texts was named"), ("missing.txt", "does not exist")):
        with pytest.raises(UserError, match=says):
            read_inputs(path)
