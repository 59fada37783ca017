"""The report at the start: the same form for every kind of data, with every kind of likely fault."""

import time
from typing import NamedTuple

import numpy as np
import pytest

from seqjax.data.records import Dataset, Places, Records, make_dataset
from seqjax.data.report import part_title, repeats_between, report, size


def records(**columns):
    return Records(columns, Places.of("a.csv line", range(1, len(next(iter(columns.values()))) + 1)))


def labelled(classes, notes=(), **parts):
    """parts: (text, class name) pairs."""
    number = {name: at for at, name in enumerate(classes)}
    made = {
        part: records(text=tuple(text for text, _ in rows), label=np.array([number[label] for _, label in rows], np.int32))
        for part, rows in parts.items()
    }
    return make_dataset("films.csv", made, "texts", classes=tuple(classes), notes=notes)


def test_parts_lengths_classes_and_notes():
    train = [("x" * n, "neg" if n % 3 else "pos") for n in range(1, 2001)]
    lines = report(labelled(["neg", "pos"], ["3 texts were left out"], train=train, test=[("yes", "pos"), ("maybe", "neg")]))
    assert lines == [
        "                  texts   characters",
        "                          25 %   50 %   75 %  longest",
        "train             2,000    501  1,000  1,500    2,000",
        "test                  2      4      4      4        5",
        "2 classes in the training part: neg (1,334), pos (666)",
        "3 texts were left out",
    ]


def test_the_most_frequent_classes_come_first_and_the_rest_is_counted():
    train = [(f"{name} {n}", f"class {name}") for name in range(15) for n in range(name + 2)]
    line = report(labelled(sorted({label for _, label in train}), train=train))[3]
    assert line.startswith("15 classes in the training part: class 14 (16), class 13 (15), ") and line.endswith("class 3 (5), and 3 more")


def test_what_looks_like_a_fault_is_said():
    train = [("good", "pos"), ("good", "pos"), ("good", "neg"), ("fine", "pos "), ("well", "Pos"), ("bad", "neg"), ("one", "rare")]
    found = labelled(["neg", "pos", "pos ", "Pos", "rare"], train=train, test=[("good", "pos"), ("bad", "pos"), ("new", "neg")])
    assert report(found)[5:] == [
        "labels that differ in case or white space only: 'pos', 'pos ', 'Pos'",
        "train: one example only of 'pos ', Pos, rare",
        "test: no example of 'pos ', Pos, rare",
        "train: 1 of 7 texts repeat an earlier one with the same label",
        "train: 1 texts have more than one label: 'good' (pos, neg)",
        "test: 2 of 3 texts are also in the training part, 1 of them with the same label",
    ]


def test_a_class_without_an_example_is_not_one_with_one():
    found = labelled(["a", "b", "c"], train=[("x", "a"), ("y", "a"), ("z", "b"), ("v", "b")])
    assert report(found)[3:] == ["2 classes in the training part: a (2), b (2), c (0)", "train: no example of c"]


def test_nothing_is_said_of_sound_data():
    assert len(report(labelled(["a", "b"], train=[(f"{n}", "ab"[n % 2]) for n in range(9)], test=[("x", "a"), ("y", "b")]))) == 5


def test_pairs_are_measured_on_both_sides():
    pairs = records(source=("ein Hund", "zwei", "zwei", "drei"), target=("a dog", "two", "2", "three"))
    again = records(source=("zwei", "vier"), target=("two", "four"))
    assert report(make_dataset("pairs", {"train": pairs, "validation": again}, "pairs")) == [
        "                  pairs   characters of the source    of the translation",
        "                          25 %  50 %  75 %  longest   25 %  50 %  75 %  longest",
        "train                 4      4     4     5        8      2     4     5        5",
        "validation            2      4     4     4        4      3     4     4        4",
        "validation: 1 of 2 sources are also in the training part, 1 of them with the same translation",
    ]


def test_sentences_are_measured_in_words_and_tags_counted():
    words, tags = (("the", "cat"), ("sees",), ("the", "cat")), (("DET", "NOUN"), ("VERB",), ("DET", "NOUN"))
    lines = report(make_dataset("tagged", {"train": records(words=words, tags=tags)}, "sentences"))
    assert lines[0].split() == ["sentences", "words"] and lines[2].split() == ["train", "3", "2", "2", "2", "2"]
    assert lines[3:] == [
        "3 tags in the training part: DET (2), NOUN (2), VERB (1)",
        "train: one example only of VERB",
        "train: 1 of 3 sentences repeat an earlier one with the same tags",
    ]


def test_arrays_are_shown_with_the_shape_of_an_example():
    parts = {"train": np.zeros((96, 5, 1)), "validation": np.zeros(32)}
    assert report(Dataset("drawn", parts, "")) == ["train                96  of 5 x 1", "validation           32"]


class Pictures:
    shape = (8, 8, 1)

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return 3

    def fingerprint(self):
        return "x"


def test_images_are_counted_by_class_where_labels_are_known():
    parts = {"train": Pictures(np.array([0, 1, 0])), "test": Pictures(None)}
    assert report(Dataset("digits", parts, "images", ("zero", "one"))) == [
        "                 images",
        "train                 3  of 8 x 8 x 1",
        "test                  3  of 8 x 8 x 1",
        "2 classes in the training part: zero (2), one (1)",
        "train: one example only of one",
    ]


def test_of_what_is_not_known_the_size_is_shown():
    class Mine(NamedTuple):
        first: tuple
        second: tuple

    class Own:
        name, notes = "mine", ["a note"]
        parts = {"train": Mine((1, 2, 3), (4, 5, 6)), "validation": range(2000)}

    assert report(Own()) == ["train                 3", "validation        2,000", "a note"]
    assert report(Own(), "validation") == [] and size(Own.parts["train"]) == 3


def test_one_part_alone():
    found = labelled(["a", "b"], ["a note"], train=[("x", "a"), ("y", "b"), ("z", "b")], test=[("x", "a"), ("v", "b")])
    assert report(found, "test")[2:] == [
        "test                  2      1     1     1        1",
        "2 classes in the test part: a (1), b (1)",
        "test: 1 of 2 texts are also in the training part, 1 of them with the same label",
    ]


def test_a_line_that_the_notes_have_comes_once():
    parts = {"train": records(text=("a", "b")), "test": records(text=("b",))}
    notes = repeats_between(parts)
    assert notes == ["test: 1 of 1 texts are also in the training part"]
    assert report(make_dataset("x", parts, "texts", notes=notes)).count(notes[0]) == 1


def test_what_steers_a_terminal_is_escaped():
    train = [("ok\x1b[31m", "a\x1b"), ("ok\x1b[31m", "b"), ("x", "b")]
    text = "".join(report(labelled(["a\x1b", "b"], train=train)))
    assert "\x1b" not in text and "\\x1b" in text


@pytest.mark.parametrize("part, title", [("train", "a.csv"), ("test", "t.csv"), ("validation", "a.csv")])
def test_a_part_is_called_after_its_own_file(part, title):
    files = {"train": "a.csv", "test": "t.csv"}
    assert part_title("a.csv", files, part) == title
    assert part_title("films", files, part) == ("films" if part == "validation" else f"films ({files[part]})")


def test_it_is_quick_and_the_same_each_time():
    rows = [(f"text {n % 90_000} " * 20, f"class {n % 50}") for n in range(100_000)]
    found = labelled(sorted({label for _, label in rows}), train=rows[:80_000], validation=rows[80_000:])
    begin = time.process_time()
    lines = report(found)
    assert time.process_time() - begin < 3  # about 0.3
    assert lines == report(found) and "validation: 10,000 of 20,000 texts are also" in "\n".join(lines)
