"""Translations: parts that share no source, lines that stay aligned, and a clear message for every fault."""

import datetime
import gzip
import json
import random
import re
import sys
import time
from collections import Counter

import pytest

from seqjax.data.parallel import load_parallel
from seqjax.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return write


def lines(language, numbers, end="\n"):
    return "".join(f"{language} {number}{end}" for number in numbers)


def sides(part):
    return part["source"], part["target"]


def refused(settings, *says):
    """The error has these words; it is one line, unless None is among them."""
    with pytest.raises(UserError) as error:
        load_parallel(**settings)
    message = str(error.value)
    assert ("\n" in message) == (None in says) and all(re.search(word, message) for word in says if word), message


# dates


@pytest.fixture(scope="module")
def dates():
    pytest.importorskip("babel")
    begin = time.process_time()  # not the clock: other programs may have the processor
    found = load_parallel("embedded", name="dates")
    assert time.process_time() - begin < 10  # it is about 1
    return found


def test_the_dates_of_the_parts_are_disjoint_and_the_languages_equal(dates):
    assert list(dates.parts) == ["train", "validation", "test"] and dates.name == "dates"
    assert [len(pairs["source"]) for pairs in dates.parts.values()] == [40_000, 2_048, 4_000]
    every = [date for pairs in dates.parts.values() for date in pairs["target"]]
    assert len(set(every)) == len(every)  # no date twice, in any language
    for part, pairs in dates.parts.items():
        assert len(pairs["source"]) == len(pairs["target"]) == len(pairs["language"])
        counts = Counter(pairs["language"])
        assert len(counts) >= 24 and len(set(counts.values())) == 1, part
        assert all(re.fullmatch(r"(19|20)\d\d-\d\d-\d\d", date) for date in pairs["target"])
    assert min(Counter(dates.parts["test"]["language"]).values()) >= 100
    sources = [written for pairs in dates.parts.values() for written in pairs["source"]]
    assert len(set(sources)) == len(sources) and not set(sources) & set(every)


def test_a_language_named_beside_a_date_is_its_own(dates):
    """Babel, asked for every form in the language, writes exactly this text, with letters unless the form has none.

    Chinese, Japanese and, from Babel 2.19, Korean also write 1901/6/16: numbers say which day it is, not which language.
    """
    babel = pytest.importorskip("babel")
    babel_dates = pytest.importorskip("babel.dates")
    for language, written, iso in zip(dates.parts["test"]["language"], *sides(dates.parts["test"])):
        locale, date = babel.Locale.parse(language), datetime.date.fromisoformat(iso)
        further = [form for name, form in locale.datetime_skeletons.items() if set(name) <= set("yMEd")]
        forms = [form.pattern for form in [*locale.date_formats.values(), *further]]
        assert any(babel_dates.format_date(date, form, locale) == written for form in forms), (language, written)
    in_numbers = "^[0-9]+/[0-9]+/[0-9]+( .요일| .)?$"
    signs = {"ru": "г.", "ko": f"년|\\. |{in_numbers}", "he": "[א-ת]", "th": "[ก-๛]", "el": "[Α-ω]"}
    signs |= {"vi": "thg|tháng", "hr": r"\.$"}
    for language, written in zip(dates.parts["test"]["language"], dates.parts["test"]["source"]):
        assert language not in signs or re.search(signs[language], written), (language, written)


def test_every_character_of_the_test_is_in_the_training_part(dates):
    assert set("".join(dates.parts["test"]["source"])) <= set("".join(dates.parts["train"]["source"]))


def test_the_dates_are_the_same_each_time_and_others_by_seed(dates):
    again = load_parallel("embedded", name="dates")
    assert again.fingerprint == dates.fingerprint and sides(again.parts["test"]) == sides(dates.parts["test"])
    other = load_parallel("embedded", name="dates", seed=1)
    assert other.fingerprint != dates.fingerprint and sides(other.parts["test"]) != sides(dates.parts["test"])


# files


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_parts_of_their_own_files(write, packed):
    settings = {}
    for prefix, numbers in (("", range(9)), ("validation_", range(20, 23)), ("test_", range(30, 34))):
        settings[f"{prefix}path"] = write(f"{prefix}x.de{packed}", lines("Satz", numbers, "\r\n"))
        settings[f"{prefix}target_path"] = write(f"{prefix}x.en", lines("sentence", numbers).removesuffix("\n"))
    found = load_parallel("file", **settings)
    assert found.name == f"x.de{packed} and x.en" and found.notes == () and "language" not in found.parts["train"]
    assert sides(found.parts["train"]) == (tuple(f"Satz {n}" for n in range(9)), tuple(f"sentence {n}" for n in range(9)))
    assert found.parts["validation"]["source"] == ("Satz 20", "Satz 21", "Satz 22")
    assert found.parts["test"]["target"] == tuple(f"sentence {n}" for n in range(30, 34))


def test_lines_end_at_newlines_alone(write):
    odd = "a\u2028b\x85c\x0bd\x0ce\rf"
    path, target_path = write("a", f"\ufeff{odd}\ntwo\n"), write("b", "1\n2")
    found = load_parallel("file", path=path, target_path=target_path, name="odd")
    both = found.parts["train"]["source"] + found.parts["validation"]["source"]
    assert sorted(both) == sorted((odd, "two")) and found.name == "odd"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.6, 0.999])
def test_what_is_held_out_shares_no_source(write, seed, fraction):
    draw = random.Random(seed)
    pairs = [(f"source {draw.randrange(60)}", f"target {n}") for n in range(150)]
    path, target_path = (write(f"part{i}", "\n".join(side)) for i, side in enumerate(zip(*pairs)))
    settings = {"path": path, "target_path": target_path, "validation_fraction": fraction, "seed": seed}
    found = load_parallel("file", **settings)
    train, validation = found.parts["train"], found.parts["validation"]
    assert list(found.parts) == ["train", "validation"]
    assert not set(train["source"]) & set(validation["source"]) and found.notes == ()
    distinct = len({source for source, _ in pairs})
    assert abs(len(set(validation["source"])) - fraction * distinct) <= 1
    held = set(validation["source"])
    assert list(zip(*sides(train))) == [pair for pair in pairs if pair[0] not in held]  # in order, and still aligned
    assert list(zip(*sides(validation))) == [pair for pair in pairs if pair[0] in held]
    assert load_parallel("file", **settings).fingerprint == found.fingerprint
    if fraction == 0.1:
        assert load_parallel("file", **settings | {"seed": seed + 1}).fingerprint != found.fingerprint


def test_pairs_with_an_empty_side_are_left_out_and_counted(write):
    path, target_path = write("a", "one\n \ntwo\nthree\n\u00a0\n"), write("b", "1\n2\n3\n\t\n5\n")
    found = load_parallel(
        "file", path=path, target_path=target_path, validation_path=(validation_path := write("c", "four\n\nsix\n")),
        validation_target_path=write("d", "4\n\n6"), test_path=path, test_target_path=target_path,
    )  # fmt: skip
    assert sides(found.parts["train"]) == sides(found.parts["test"]) == (("one", "two"), ("1", "3"))
    assert sides(found.parts["validation"]) == (("four", "six"), ("4", "6"))
    assert found.notes == (
        f"train: left out 3 of 5 pairs, with an empty side (first: {path} line 2)",
        f"validation: left out 1 of 3 pairs, with an empty side (first: {validation_path} line 2)",
        f"test: left out 3 of 5 pairs, with an empty side (first: {path} line 2)",
        "test: 2 of 2 sources are also in the training part, 2 of them with the same translation",
    )


def test_the_fingerprint_is_of_the_sentences_their_places_and_parts(write):
    def fingerprint(source, target, validation):
        path, target_path = write("s", source), write("t", target)
        v = write("v", validation)
        settings = {"path": path, "target_path": target_path, "validation_path": v, "validation_target_path": v}
        return load_parallel("file", **settings).fingerprint

    texts = [("a\nb", "c\nd", "e"), ("a\nb", "c\nD", "e"), ("b\na", "c\nd", "e"), ("a\nb", "c\nd", "f")]
    texts += [("ab\nb", "c\nd", "e"), ("a\nbb", "c\nd", "e"), ("c\nd", "a\nb", "e"), ("a\nb\nc", "c\nd\nf", "e")]
    assert len({fingerprint(*text) for text in texts}) == len(texts)
    assert fingerprint(*texts[0]) == fingerprint("a\r\nb\n", "c\nd\r\n", "e\n")


def test_unequal_files_are_refused_by_name_and_number(write):
    good, longer = write("good.de", lines("x", range(5))), write("longer.en", lines("y", range(7)))
    refused({"source": "file", "path": good, "target_path": longer}, r"good.de has 5 lines and .*longer.en has 7;")
    one_more = write("blank.en", lines("y", range(5)) + "\n")  # one final newline adds no line, a second does
    refused({"source": "file", "path": good, "target_path": one_more}, "has 5 lines and .*blank.en has 6")
    part = {"test_path": longer, "test_target_path": good}
    refused({"source": "file", "path": good, "target_path": good} | part, "longer.en has 7 lines and .*good.de has 5")


def test_faults_of_files_are_said(write):
    good = write("good", lines("x", range(5)))
    both = {"source": "file", "path": good, "target_path": good}
    refused({"source": "file"}, "needs path and target_path")
    refused({"source": "file", "path": good}, "needs target_path")
    refused(both | {"validation_path": good}, "needs validation_target_path")
    refused(both | {"test_target_path": good}, "needs test_path")
    refused(both | {"path": good + "x"}, "does not exist")
    refused(both | {"target_path": write("empty", "")}, "empty is empty")
    refused(both | {"target_path": write("blank", "\n \n\n\t\n\n")}, "the train part of .* has no pair with words")
    blank = write("blank", "\n \n\n\t\n\n")
    refused(both | {"test_path": good, "test_target_path": blank}, "the test part of .* has no pair with words")
    refused(both | {"path": write("latin", "x\n\xe9\n".encode("latin1"))}, "latin is not UTF-8 at byte 2")
    same = write("same", "x\n" * 5)
    refused(both | {"path": same}, "one distinct source")


# one table of both sides

ROWS = [(f"Satz {n}", f'sentence "{n}", so') for n in range(6)]


@pytest.mark.parametrize(
    "name, head, row, settings",
    [
        ("fra.txt", "", "{0}\t{1}\tCC-BY 2.0 (France) #{2}\n", {"delimiter": "tab", "quoting": "none", "header": False}),
        ("a.tsv.gz", "", "{2}\t{1}\t{0}\n", {"quoting": "none", "header": False, "source_field": "3", "target_field": "2"}),
        ("a.tsv", "id\ttarget\tsource\n", "{2}\t{1}\t{0}\n", {"quoting": "none"}),
        ("a.csv", "de;en\n", "{0};{3}\n", {"delimiter": ";", "source_field": "de", "target_field": "en"}),
        ("a.jsonl", "", '{{"target": {4}, "source": "{0}"}}\n', {}),
    ],
)
def test_pairs_of_one_table(write, name, head, row, settings):
    def file(name, rows):
        quoted = [(*pair, n, '"' + pair[1].replace('"', '""') + '"', json.dumps(pair[1])) for n, pair in enumerate(rows)]
        return write(name, head + "".join(row.format(*fields) for fields in quoted))

    paths = {"path": file(name, ROWS[:3]), "validation_path": file(f"v{name}", ROWS[3:5]), "test_path": file(f"t{name}", ROWS[5:])}
    found = load_parallel("file", **paths, **settings)
    assert [list(zip(*sides(pairs))) for pairs in found.parts.values()] == [ROWS[:3], ROWS[3:5], ROWS[5:]]
    assert found.name == name and found.files == {"train": name, "validation": f"v{name}", "test": f"t{name}"}
    held = load_parallel("file", path=file(name, ROWS), validation_fraction=0.34, **settings)
    assert sorted(pair for pairs in held.parts.values() for pair in zip(*sides(pairs))) == ROWS and len(held.parts["validation"]) == 2


def test_a_table_and_two_files_may_be_parts_of_one_set(write):
    table = write("a.tsv", "source\ttarget\neins\tone\nzwei\ttwo\n")
    found = load_parallel("file", path=table, test_path=write("t.de", "drei\n"), test_target_path=write("t.en", "three\n"))
    assert sides(found.parts["test"]) == (("drei",), ("three",)) and found.files == {"train": "a.tsv", "test": "t.de and t.en"}


def test_faults_of_tables_of_pairs_are_said(write):
    table = {"source": "file", "path": write("a.tsv", "eins\tone\nzwei\ttwo\n")}
    refused(table, None, "2 faults", "line 1 has no field 'source', only eins, one; set source_field, or, if .* header=False", "'target'")
    refused(table | {"source_field": "1", "target_field": "1"}, "are both '1'")
    lines = {"source": "file", "path": write("a.de", "x\n"), "target_path": write("a.en", "y\n")}
    refused(lines | {"delimiter": "tab"}, "delimiter='tab' is for tables, and a.de and a.en are two files of lines")
    refused(lines | {"source_field": "de"}, "source_field='de' is for tables")
    refused(lines | {"header": False}, "header=False is for tables")
    refused({"source": "file", "path": lines["path"]}, "needs target_path; .* or a table of both")
    refused(table | {"delimiter": "::"}, "delimiter='::' cannot separate fields")
    refused(table | {"quoting": "single"}, "quoting='single' is unknown")
    refused({"source": "embedded", "name": "dates", "encoding": "utf-16"}, "encoding='utf-16' is for source='file' only")
    refused({"source": "tfds", "name": "x", "source_field": "de"}, "source_field='de' is for source='file' only")


def test_files_have_an_encoding(write):
    path, target_path = write("a.de", "Männer\nHände".encode("cp1252")), write("a.en", "men\nhands".encode("cp1252"))
    found = load_parallel("file", path=path, target_path=target_path, encoding="cp1252")
    assert set(found.parts["train"]["source"] + found.parts["validation"]["source"]) == {"Männer", "Hände"}
    refused({"source": "file", "path": path, "target_path": target_path}, "a.de is not UTF-8 at byte 1 .* looks like latin1")


def test_files_are_called_by_their_own_names_and_not_as_the_embedded_set(write):
    """The experiment's default name is "dates"."""
    good, blank = write("a.de", "x\ny\n"), write("t.de", " \n")
    files = {"source": "file", "path": good, "target_path": good}
    assert load_parallel(**files, name="dates").name == "a.de and a.de" and load_parallel(**files, name="mine").name == "mine"
    test = {"test_path": blank, "test_target_path": write("t.en", "z\n")}
    refused(files | test | {"name": "dates"}, "the test part of t.de and t.en has no pair with words")
    refused(files | test | {"name": "mine"}, r"the test part of mine \(t.de and t.en\) has no pair with words")


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"source": "fil"}, r"'fil' is not a source \(nearest: file\); choose one of embedded, tfds, file"),
        ({"source": "embedded", "name": "date"}, r"'date' \(nearest: dates\)"),
        ({"source": "embedded"}, "choose one of dates"),
        ({"source": "embedded", "name": "dates", "path": "x"}, "path='x' is for source='file' only"),
        ({"source": "tfds", "name": "x", "test_target_path": "y"}, "test_target_path='y' is for source='file' only"),
        ({"source": "file", "source_language": "de"}, "source_language='de' is for source='tfds' only"),
        ({"source": "embedded", "name": "dates", "data_dir": "d"}, "data_dir='d' is for source='tfds' only"),
        ({"source": "tfds"}, "needs a name"),
        ({"source": "file", "validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"source": "file", "seed": -1}, "seed is -1"),
        ({"source": "file", "seed": True}, "seed is True"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    refused(settings, says)


# TFDS


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """The settings for small sets of our own, prepared in a folder and read from there by name alone."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    folder = str(tmp_path_factory.mktemp("tfds"))
    translation = tfds.features.Translation
    sets = {
        "two_languages": (translation(["de", "en"]), ("en", "de"), {"train": range(40), "test": range(50, 57)}),
        "three_languages": (translation(["de", "en", "fr"]), None, {"train": range(9), "dev": range(20, 23)}),
        "no_translation": (tfds.features.FeaturesDict({"de": tfds.features.Text()}), None, {"train": range(3)}),
    }

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features, keys, _ = sets[self.name]
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=keys)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(numbers) for split, numbers in sets[self.name][2].items()}

        def _generate_examples(self, numbers):
            for n in numbers:
                yield n, {language: "" if n == 3 else f"{language} süß {n}" for language in self.info.features}

    for Small.name in sets:
        Small(data_dir=folder, file_format="array_record").download_and_prepare()
    return {"source": "tfds", "data_dir": folder}


def test_a_set_is_read_as_its_supervised_keys_say(catalogue):
    found = load_parallel(name="two_languages", **catalogue)
    assert list(found.parts) == ["train", "validation", "test"] and found.name == "two_languages"
    numbers = {part: [int(s.split()[-1]) for s in pairs["source"]] for part, pairs in found.parts.items()}
    assert sorted(numbers["train"] + numbers["validation"]) == [n for n in range(40) if n != 3]
    assert len(numbers["validation"]) == 4 and sorted(numbers["test"]) == list(range(50, 57))
    for part, pairs in found.parts.items():
        assert pairs["source"] == tuple(f"en süß {n}" for n in numbers[part])
        assert pairs["target"] == tuple(f"de süß {n}" for n in numbers[part])
    assert len(found.notes) == 1 and re.match(r"train: left out 1 of 40 .*\(first: two_languages, train, index \d+\)", found.notes[0])
    assert "tensorflow" not in sys.modules


def test_the_languages_may_be_chosen(catalogue):
    turned = load_parallel(name="two_languages", source_language="de", **catalogue)
    assert turned.parts["test"]["source"][0].startswith("de") and turned.parts["test"]["target"][0].startswith("en")
    turned = load_parallel(name="two_languages", target_language="en", **catalogue)
    assert turned.parts["test"]["source"][0].startswith("de") and turned.parts["test"]["target"][0].startswith("en")
    found = load_parallel(name="three_languages", source_language="fr", target_language="de", **catalogue)
    assert {s.split()[0] for s in found.parts["train"]["source"]} == {"fr"} and list(found.parts) == [
        "train",
        "validation",
    ]
    assert sorted(found.parts["validation"]["target"]) == [f"de süß {n}" for n in (20, 21, 22)]  # its own, called dev


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"name": "three_languages"}, "does not say which way"),
        ({"name": "three_languages", "source_language": "fr"}, "de, en, fr; give both"),
        ({"name": "two_languages", "source_language": "fr"}, "source_language='fr' is not in .*among de, en"),
        ({"name": "two_languages", "source_language": "de", "target_language": "de"}, "are both 'de'"),
        ({"name": "no_translation"}, r"not a dataset of translations \(its features: de\)"),
        ({"name": "nothing_such"}, "source='embedded' with name='dates'"),
    ],
)
def test_sets_and_languages_that_do_not_fit_are_refused(catalogue, settings, says):
    refused(settings | catalogue, says)
