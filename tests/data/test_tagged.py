"""Tagged words: files line by line, spans in every scheme, and a clear message for every fault."""

import gzip

import pytest
from tagged_files import one_line, put, row, sentences, simplest_accuracy

from seqjax.data.readers.conll import read_tagged
from seqjax.data.tagged import load_tagged
from seqjax.errors import UserError

# CoNLL-U

SMALL = "# a comment\n" + row("1-2", "im", "_") + row(1, "in", "ADP") + row(2, "dem", "DET") + row("2.1", "e", "VERB")
SMALL += row(3, "New York", "PROPN") + "\n\n# only a comment\n\n" + row(1, "#", "SYM")


@pytest.mark.parametrize("name, text", [("a.conllu", SMALL), ("a.conllu.gz", SMALL.replace("\n", "\r\n") + "\n \n")])
def test_conllu_words_are_the_numbered_lines(tmp_path, name, text):
    path = put(tmp_path, name, text)
    part = read_tagged(path)
    assert sentences(part) == (
        (("in", "dem", "New York"), ("ADP", "DET", "PROPN"), (3, 4, 6)),
        (("#",), ("SYM",), (11,)),
    )
    assert [part.places.at(i) for i in (0, 1)] == [f"{path} line 3", f"{path} line 11"]
    assert read_tagged(path, "xpos")["tags"][0] == ("xADP", "xDET", "xPROPN")
    assert read_tagged(path, "deprel")["tags"][0] == ("dADP", "dDET", "dPROPN")


@pytest.mark.parametrize(
    "file",
    ["ud-english-ewt/en_ewt-ud-dev.conllu.gz", "ud-gsd-samples/de_gsd-ud-dev.conllu.gz"],
)
def test_conllu_is_read_as_by_the_conllu_library(shared, file):
    conllu = pytest.importorskip("conllu")
    path = shared / "data" / file
    theirs = [
        [token for token in sentence if isinstance(token["id"], int)]
        for sentence in conllu.parse(gzip.decompress(path.read_bytes()).decode())
    ]
    for column in ("upos", "xpos", "deprel"):
        ours = read_tagged(str(path), column)
        assert list(ours["words"]) == [tuple(t["form"] for t in s) for s in theirs]
        assert list(ours["tags"]) == [tuple(t[column] or "_" for t in s) for s in theirs]


def test_english_web_treebank(shared):
    path = str(shared / "data" / "ud-english-ewt" / "en_ewt-ud-{}.conllu.gz")
    data = load_tagged("file", path=path.format("train"), validation_path=path.format("dev"), test_path=path.format("test"))
    assert {part: len(found) for part, found in data.parts.items()} == {
        "train": 12544,
        "validation": 2001,
        "test": 2077,
    }
    assert len(data.classes) == 17 and data.facts == {"entities": False} and data.notes == ()
    assert sum(map(len, data.parts["test"]["words"])) == 25094
    assert simplest_accuracy(data.parts["train"], data.parts["test"]) == pytest.approx(0.8620, abs=5e-5)


# Columns

NAMES = "-DOCSTART- -X- O\n\nEU NNP I-ORG\nrejects VBZ O\n\n\n-DOCSTART- -X- O\n\u3000 SYM I-LOC"


@pytest.mark.parametrize("name", ["a.conll", "a.txt.gz", "a.bio", "a.iob", "a.tsv"])
@pytest.mark.parametrize("between", [" ", "   ", "\t"])
def test_columns(tmp_path, name, between):
    path = put(tmp_path, name, NAMES.replace(" ", between))
    assert sentences(read_tagged(path)) == (
        (("EU", "rejects"), ("I-ORG", "O"), (3, 4)),
        (("\u3000",), ("I-LOC",), (8,)),
    )
    assert read_tagged(path, "2")["tags"][0] == ("NNP", "VBZ")
    assert sentences(read_tagged(path, "3")) == sentences(read_tagged(path))
    assert sentences(read_tagged(path, word_column=2))[0][:2] == (("NNP", "VBZ"), ("I-ORG", "O"))
    assert sentences(read_tagged(path, word_column=3))[0][:2] == (("I-ORG", "O"), ("NNP", "VBZ"))  # the last of the others
    assert sentences(read_tagged(path, "1", word_column=3))[0][:2] == (("I-ORG", "O"), ("EU", "rejects"))


def test_words_between_tabs_may_have_spaces(tmp_path):
    sentence = (("New York", "is"), ("B-LOC", "O"), (1, 2))
    assert sentences(read_tagged(put(tmp_path, "a.tsv", "New York\tB-LOC\nis\tO\n"))) == (sentence,)


@pytest.mark.parametrize("between, delimiter", [(",", ","), ("|", "|"), ("\t", "tab"), (";", "semicolon"), ("  ", "space"), ("\t", "\t")])
def test_a_delimiter_may_be_named(tmp_path, between, delimiter):
    path = put(tmp_path, "a.txt", "a\tO\n".replace("\t", between) + f"b{between}X\n")
    assert sentences(read_tagged(path, delimiter=delimiter)) == ((("a", "b"), ("O", "X"), (1, 2)),)


@pytest.mark.parametrize("encoding", ["latin1", "utf-16", "cp1252"])
def test_an_encoding_may_be_named(tmp_path, encoding):
    (tmp_path / "a.conll").write_bytes("caf\u00e9 O\nna\u00efve X\n".encode(encoding))
    path = str(tmp_path / "a.conll")
    assert read_tagged(path, encoding=encoding)["words"] == (("caf\u00e9", "na\u00efve"),)
    with pytest.raises(UserError, match="is not UTF-8 at byte") as error:
        read_tagged(path)
    assert "encoding=" in str(error.value)


GOOD = row(1) + row(2)
FAULTS = [
    ("a.conllu", GOOD + "3\tw\tX\n", "line 3 has 3 columns; CoNLL-U has 10, separated by tabs"),
    ("a.conllu", GOOD + row(3).replace("\t", " "), "line 3 has 1 column;"),
    ("a.conllu", GOOD + row(1), "line 3 has the ID '1' where 3 is due"),
    ("a.conllu", GOOD + "\n" + row(2), "line 4 has the ID '2' where 1 is due"),
    ("a.conllu", GOOD + row("x"), "line 3 has the ID 'x'"),
    ("a.conllu", GOOD + row(3, word=""), "line 3 has an empty form"),
    ("a.conllu", GOOD + row(3, upos=""), "line 3 has an empty upos"),
    ("a.conllu", "# nothing\n\n" + row("1-2"), "no sentence with a word"),
    ("a.conllu", "", "is empty"),
    ("a.conll", "a b O\nc O\n", "line 2 has 2 columns, but line 1 has 3"),
    ("a.conll", "-DOCSTART- O\n\na b O\nc\n", "line 4 has 1 column, but line 3 has 3"),
    ("a.conll", "word\n", "line 1 has 1 column; needed are a word and its tag in column 2"),
    ("a.tsv", "a\tO\nNew York\n", "line 2 has 1 column, but line 1 has 2"),
    ("a.conll", "a O\n\u3000\nb O\n", "line 2 has 1 column"),  # a word, so not a blank line
    ("a.tsv", "a\tO\n\tO\n", "line 2 has an empty column for the word"),
    ("a.tsv", "a\tO\nb\t\n", "line 2 has an empty column for the tag"),
    ("a.conll", "-DOCSTART- O\n\n", "no sentence with a word"),
    ("a.csv", "a,O\n", "does not say by its ending"),
]


def test_all_faults_of_a_file_are_listed(tmp_path):
    text = GOOD + "3\tw\n" + row(4) + row(6) + row(7, upos="") + "\n" + row("1-2") + "1-2\tw\n" + row(1) + row(2, word="")
    path = put(tmp_path, "a.conllu", text)
    with pytest.raises(UserError) as error:
        read_tagged(path)
    head, *rest = str(error.value).split("\n  ")
    assert head == f"{path}: 5 faults"
    said = ["line 3 has 2 columns", "line 5 has the ID '6' where 5 is due", "line 6 has an empty upos", "line 9 has 2 columns"]
    assert all(f"{path} {part}" in line for part, line in zip([*said, "line 11 has an empty form"], rest, strict=True))
    path = put(tmp_path, "a.tsv", "a\tO\n" + "b\n\tO\n" * 15)
    with pytest.raises(UserError) as error:
        read_tagged(path)
    lines = str(error.value).split("\n  ")
    assert lines[0] == f"{path}: 30 faults" and len(lines) == 22 and lines[-1] == "... and 10 more"


@pytest.mark.parametrize("name, text, said", FAULTS, ids=[said[:30] for _, _, said in FAULTS])
def test_malformed_files_are_refused_with_their_line(tmp_path, name, text, said):
    path = put(tmp_path, name, text)
    with pytest.raises(UserError) as error:
        read_tagged(path)
    message = one_line(error)
    assert message.startswith(path) and said in message


@pytest.mark.parametrize(
    "name, column, said",
    [
        ("a.conllu", "upo", "column='upo' is not one that tags come from in CoNLL-U (nearest: upos)"),
        ("a.conllu", "4", "column='4'"),
        ("a.conll", "1", "column='1' is not a column of tags"),
        ("a.conll", "ner", "column='ner' is not a column of tags"),
        ("a.conll", "-1", "column='-1'"),
        ("a.conll", "9", "line 1 has 2 columns; needed are a word and its tag in column 9"),
        ("a.conll", "9" * 5000, "is not a column of tags"),
    ],
)
def test_columns_that_are_not_there(tmp_path, name, column, said):
    path = put(tmp_path, name, GOOD if name == "a.conllu" else "a O\n")
    with pytest.raises(UserError) as error:
        read_tagged(path, column)
    assert said in one_line(error)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("a.conllu", {"word_column": 2}, "word_column=2 is for other files of columns"),
        ("a.conllu", {"delimiter": ","}, "delimiter=',' is for other files of columns"),
        ("a.conll", {"word_column": 0}, "word_column is 0"),
        ("a.conll", {"word_column": 3}, "line 1 has 2 columns; needed are a word in column 3 and its tag in column 2"),
        ("a.conll", {"word_column": 2, "column": "2"}, "column='2' is not a column of tags"),
        ("a.conll", {"delimiter": "::"}, "delimiter='::' cannot separate columns"),
        ("a.conll", {"encoding": "utf-9"}, "encoding='utf-9' is not one that Python knows (nearest: utf-"),
    ],
)
def test_options_that_do_not_fit(tmp_path, name, options, said):
    path = put(tmp_path, name, GOOD if name == "a.conllu" else "a O\n")
    with pytest.raises(UserError) as error:
        read_tagged(path, **options)
    assert said in one_line(error)
