"""Tagged words: files line by line, spans in every scheme, and a clear message for every fault."""

import gzip
import itertools
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from seqjax.data import tagged
from seqjax.data.readers.conll import read_tagged
from seqjax.data.spans import are_spans, is_span_tag, to_bio
from seqjax.data.tagged import load_tagged
from seqjax.errors import UserError
from seqjax.run.baselines import most_frequent_tags


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


def put(folder, name, text):
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def sentences(records):
    """(words, tags, lines) of each sentence."""
    return tuple(zip(records["words"], records["tags"], records["lines"], strict=True))


def row(number, word="w", upos="X"):
    return f"{number}\t{word}\t_\t{upos}\tx{upos}\t_\t0\td{upos}\t_\t_\n"


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


def simplest_accuracy(train, part):
    """The accuracy of giving each word its most frequent tag."""
    best, default = most_frequent_tags(train["words"], train["tags"])
    pairs = [pair for sentence in zip(part["words"], part["tags"], strict=True) for pair in zip(*sentence, strict=True)]
    return np.mean([best.get(word, default) == tag for word, tag in pairs])


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


# Spans


def encode(size, spans, scheme):
    """Tags of non-overlapping (start, end, type), written independently of the code under test."""
    single, last = {"BIOES": "SE", "BILOU": "UL"}.get(scheme, "BI")
    tags = ["O"] * size
    for start, end, kind in spans:
        touches = any(e == start and k == kind for _, e, k in spans)
        first = "I" if scheme == "IOB1" and not touches else "B"
        if end - start == 1 and scheme != "IOB1":
            first = single
        tags[start:end] = [first, *"I" * (end - start - 2), last][: end - start] if end - start > 1 else [first]
        tags[start:end] = [f"{tag}-{kind}" for tag in tags[start:end]]
    return tuple(tags)


@pytest.mark.parametrize("scheme", ["BIO", "IOB1", "BIOES", "BILOU"])
def test_every_scheme_of_spans_is_brought_to_bio(scheme):
    rng = random.Random(0)
    seen = set()
    for _ in range(200):
        size = rng.randint(1, 9)
        edges = sorted(rng.sample(range(size + 1), rng.randint(0, size + 1)))
        spans = [(a, b, rng.choice(["PER", "B-x"])) for a, b in itertools.pairwise(edges) if rng.random() < 0.7]
        tags = encode(size, spans, scheme)
        seen.update(tag[0] for tag in tags)
        assert to_bio(tags) == encode(size, spans, "BIO")
    assert seen == set("OBI") | set({"BIOES": "ES", "BILOU": "LU"}.get(scheme, ""))


@pytest.mark.parametrize(
    "tags, bio",
    [
        ("I-A I-B I-B", "B-A B-B I-B"),  # another type begins a span
        ("I-A B-A I-A", "B-A B-A I-A"),  # IOB1's B between two that touch
        ("O I-A O I-A", "O B-A O B-A"),
        ("B-A B-B I-A", "B-A B-B B-A"),
        ("E-A E-A S-A I-A", "B-A B-A B-A B-A"),
    ],
)
def test_a_span_begins_where_none_is_open(tags, bio):
    assert to_bio(tags.split()) == tuple(bio.split())


@pytest.mark.parametrize("tag", ["B-", "PER", "X-PER", "b-PER", "B_PER", "o", "B"])
def test_an_ill_formed_span_tag_is_refused(tmp_path, tag):
    path = put(tmp_path, "a.conll", f"a B-PER\nb O\n\nc {tag}\nd O\n")
    with pytest.raises(UserError) as error:
        load_tagged("file", path=path)
    assert f"{path} line 4: the tag {tag!r} of 'c' is not a span tag" in one_line(error)
    assert not is_span_tag(tag)
    with pytest.raises(UserError, match="is not a span tag"):
        to_bio(["O", tag])


@pytest.mark.parametrize("tags, spans", [("O I-A", True), ("NN -LRB-", False), ("I--- B--", False), ("O V", False)])
def test_spans_are_told_from_other_tags(tags, spans):
    assert are_spans([("NN", "X"), tags.split()]) == spans


def test_entities_in_all_parts(tmp_path):
    path = put(tmp_path, "a.conll", "a I-PER\nb I-PER\nc O\n\nd I-PER\n")
    other = put(tmp_path, "b.conll", "e E-PER\nf U-PER\nc O\n")
    data = load_tagged("file", path=path, validation_path=other, test_path=path)
    assert data.facts == {"entities": True} and data.classes == ("B-PER", "I-PER", "O")
    assert data.parts["validation"]["tags"] == (("B-PER", "B-PER", "O"),)
    assert list(data.parts["train"]) == ["words", "tags"]
    assert data.notes == ("6 tags of spans were converted to BIO",)  # two in training and in test, both of validation


# Parts


def test_a_tag_that_training_lacks_is_refused_with_its_line(tmp_path):
    train = put(tmp_path, "train.conll", "a NOUN\nb VERB\n")
    bad = put(tmp_path, "bad.conll", "a NOUN\n\nb VERBS\n")
    for parts in ({"validation_path": bad}, {"validation_path": train, "test_path": bad}):
        with pytest.raises(UserError) as error:
            load_tagged("file", path=train, **parts)
        said = f"{bad} line 3: the tag 'VERBS' of 'b' does not occur in training (nearest: VERB)"
        assert one_line(error).startswith(said)


def test_all_tags_that_training_lacks_are_named_once(tmp_path):
    train = put(tmp_path, "train.conll", "a NOUN\nb VERB\n")
    one, two = put(tmp_path, "one.conll", "a NOUM\nb NOUM\n\nb X\n"), put(tmp_path, "two.conll", "a NOUM\n")
    with pytest.raises(UserError) as error:
        load_tagged("file", path=train, validation_path=one, test_path=two)
    head, *rest = str(error.value).split("\n  ")
    assert head == "train.conll: 3 faults"
    assert rest[0].startswith(f"{one} line 1: the tag 'NOUM' of 'a' and 1 other words does not occur in training (nearest: NOUN)")
    assert rest[1].startswith(f"{one} line 4: the tag 'X'") and rest[2].startswith(f"{two} line 1: the tag 'NOUM' of 'a' does")


def test_all_ill_formed_span_tags_are_listed(tmp_path):
    path = put(tmp_path, "a.conll", "a B-PER\nb X\n\nc O\nd PER\n")
    with pytest.raises(UserError) as error:
        load_tagged("file", path=path)
    head, *rest = str(error.value).split("\n  ")
    assert head == "a.conll: 2 faults" and [line.split(":")[0] for line in rest] == [f"{path} line {n}" for n in (2, 5)]


def test_a_set_with_a_single_tag_is_refused(tmp_path):
    path = put(tmp_path, "a.conllu", row(1, upos="_") + "\n" + row(1, upos="_"))
    with pytest.raises(UserError) as error:
        load_tagged("file", path=path)
    assert "no tag but '_'" in one_line(error)


def _many(tmp_path, count=100):
    lines = (f"w{i} {'RARE' if i == 7 else 'N' if i % 2 else 'V'}\n" for i in range(count))
    return put(tmp_path, "many.conll", "\n".join(lines))


@pytest.mark.parametrize("fraction, held", [(0.1, 10), (0.001, 1), (0.9999, 97)])  # at the end one of each tag stays
def test_validation_is_cut_off_at_random_and_no_tag_is_lost(tmp_path, fraction, held):
    data = load_tagged("file", path=_many(tmp_path), validation_fraction=fraction, seed=3)
    train, validation = (data.parts[part]["words"] for part in ("train", "validation"))
    assert len(validation) == held and "test" not in data.parts
    assert sorted(train + validation) == sorted((f"w{i}",) for i in range(100))
    assert data.classes == ("N", "RARE", "V") and ("w7",) in train
    assert f"{held} of 100" in data.notes[0] and "seed 3" in data.notes[0]


def test_the_cut_is_the_seeds(tmp_path):
    path = _many(tmp_path)
    first, again, other = (load_tagged("file", path=path, seed=seed) for seed in (0, 0, 1))
    words = [data.parts["validation"]["words"] for data in (first, again, other)]
    assert first.fingerprint == again.fingerprint != other.fingerprint and words[0] == words[1] != words[2]


def test_too_few_sentences_to_cut(tmp_path):
    for text in ("a X\nb Y\n", "a X\n\nb Y\n"):
        with pytest.raises(UserError) as error:
            load_tagged("file", path=put(tmp_path, "a.conll", text))
        assert "too few examples to hold any out" in one_line(error)


def test_the_fingerprint_is_over_words_tags_and_parts(tmp_path):
    texts = ["a X\nb Y\n\na X\n", "a X\nc Y\n\na X\n", "a Y\nb X\n\na X\n", "a X\n\nb Y\na X\n"]
    prints = []
    for i, text in enumerate(texts):
        path = put(tmp_path, f"{i}.conll", text)
        prints.append(load_tagged("file", path=path, validation_path=path).fingerprint)
        prints.append(load_tagged("file", path=path, validation_path=path, test_path=path).fingerprint)
    assert len(set(prints)) == len(prints) and all(len(found) == 67 for found in prints)
    moved = put(tmp_path, "moved.txt", texts[0])
    assert load_tagged("file", path=moved, validation_path=moved).fingerprint == prints[0]


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"source": "files"}, "source='files' is not a source (nearest: file)"),
        ({"source": "file"}, "needs a path"),
        ({"source": "file", "path": "/nowhere.conllu"}, "does not exist"),
        ({"source": "file", "path": "x.conll", "validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"source": "embedded"}, "no embedded set of tagged words is called ''"),
        ({"source": "embedded", "name": "pyton"}, "(nearest: python)"),
        ({"source": "embedded", "name": "python", "column": "upos"}, "column='upos'"),
        ({"source": "embedded", "name": "python", "test_path": "x"}, "test_path='x' is for source='file' only"),
        ({"source": "embedded", "name": "python", "encoding": "latin1"}, "encoding='latin1' is for source='file' only"),
        ({"source": "file", "path": "x.conll", "data_dir": "y"}, "data_dir='y' is for source='tfds' only"),
        ({"source": "file", "path": "x.conll", "word_column": 0}, "word_column is 0"),
        ({"source": "file", "path": "x.conll", "seed": -1}, "seed is -1"),
        ({"source": "tfds"}, "needs a name"),
        ({"source": "tfds", "name": "x", "path": "y"}, "path='y' is for source='file' only"),
    ],
)
def test_settings_at_fault(settings, said):
    with pytest.raises(UserError) as error:
        load_tagged(settings.pop("source"), **settings)
    assert said in one_line(error)


# TFDS


class ClassLabel:
    names = ("O", "B-PER", "I-PER")


class Text:
    pass


class Split(list):
    def __getitems__(self, indices):
        return [self[i] for i in indices]


def fake_set(monkeypatch, splits, features=("tokens", "ner")):
    kinds = {"tokens": Text, "ner": ClassLabel, "lemmas": Text, "head": Text}
    builder = SimpleNamespace(info=SimpleNamespace(features={f: SimpleNamespace(feature=kinds[f]()) for f in features}, splits=splits))
    monkeypatch.setattr(tagged, "open_builder", lambda *args: builder)
    monkeypatch.setattr(tagged, "open_split", lambda name, builder, split, embedded: Split(splits[split]))


def example(tokens, tags):
    return {"tokens": [t.encode() for t in tokens.split()], "ner": [np.int64(t) for t in tags]}


def test_sets_of_tfds_with_labels_by_number(monkeypatch):
    train = [example("é b c", [2, 2, 0]), example("", []), example("d", [1])]
    fake_set(monkeypatch, {"train": train, "valid": [example("b", [1])]})
    data = load_tagged("tfds", name="x")
    assert data.parts["train"]["words"] == (("é", "b", "c"), ("d",))
    assert data.parts["train"]["tags"] == (("B-PER", "I-PER", "O"), ("B-PER",))
    assert data.parts["train"].places.at(1) == "x, split train, sentence 3"
    assert data.parts["validation"]["tags"] == (("B-PER",),)
    assert data.facts == {"entities": True} and list(data.parts) == ["train", "validation"]


def test_tokens_without_a_head_are_no_words(monkeypatch):
    """Multiword ranges and empty nodes of Universal Dependencies."""
    train = [example("im in dem e", [0, 1, 2, 0]) | {"head": [b"_", b"2", b"0", b"None"]}, example("a", [0])]
    train[1]["head"] = [b"0"]
    fake_set(monkeypatch, {"train": train, "dev": train}, ("tokens", "ner", "head"))
    data = load_tagged("tfds", name="x", column="ner")
    assert data.parts["train"]["words"] == (("in", "dem"), ("a",))
    assert data.parts["train"]["tags"] == (("B-PER", "I-PER"), ("O",))


@pytest.mark.parametrize(
    "splits, features, column, said",
    [
        ({"train": [example("a", [-1])]}, ("tokens", "ner"), "", "x, split train, sentence 1 cannot be read (a word wit"),
        ({"train": [example("a", [0]), example("a b", [0])]}, ("tokens", "ner"), "", "split train, sentence 2 cannot be"),
        ({"train": [{"tokens": [b"\xff"], "ner": [0]}]}, ("tokens", "ner"), "", "sentence 1 cannot be read ('utf-8'"),
        ({"train": [example("a b", [0, 1])], "dev": []}, ("tokens", "ner"), "", "no sentences in its split dev"),
        ({"train": [example("a b", [0, 1])], "test": [example("a", [2])]}, ("tokens", "ner"), "", "too few examples"),
        (
            {"train": [example("a b", [0, 1])], "dev": [example("", []), example("c", [0]), example("a b", [1, 2])]},
            ("tokens", "ner"),
            "",
            "x, split dev, sentence 3: the tag 'I-PER' of 'b' does not occur in training (nearest: B-PER)",
        ),
        ({"train": []}, ("tokens", "ner"), "nr", "column='nr' is not a feature of x with a tag for each word (nearest: ner)"),
        ({"train": []}, ("tokens", "lemmas"), "", "column='' is not a feature of x"),
        ({"train": []}, ("tokens",), "", "x has no words called tokens with a tag each"),
        ({"train": []}, ("ner",), "", "x has no words called tokens with a tag each"),
    ],
)
def test_sets_of_tfds_at_fault(monkeypatch, splits, features, column, said):
    fake_set(monkeypatch, splits, features)
    with pytest.raises(UserError) as error:
        load_tagged("tfds", name="x", column=column)
    assert said in one_line(error)


def test_a_fault_of_opening_a_split_is_told_as_it_is(monkeypatch):
    def fail(*args):
        raise UserError("x cannot be read (files are missing); make them again")

    fake_set(monkeypatch, {"train": []})
    monkeypatch.setattr(tagged, "open_split", fail)
    with pytest.raises(UserError, match=r"^x cannot be read \(files are missing\)"):
        load_tagged("tfds", name="x")


def test_universal_dependencies_of_tfds(shared, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    real = tagged.open_split

    def head(name, builder, split, embedded):
        examples = real(name, builder, split, embedded)
        return Split(examples.__getitems__(list(range(400))))

    monkeypatch.setattr(tagged, "open_split", head)
    data = load_tagged("tfds", name="universal_dependencies/en_ewt", data_dir=str(shared / "tfds"))
    assert list(data.parts) == ["train", "validation", "test"]
    assert "_" not in data.classes and {"NOUN", "VERB"} <= set(data.classes) and not data.facts["entities"]
    path = shared / "data" / "ud-english-ewt" / "en_ewt-ud-test.conllu.gz"  # of a later release: tags were corrected since
    known = set(read_tagged(str(path))["words"])
    assert np.mean([words in known for words in data.parts["test"]["words"]]) > 0.97


# The baseline


def test_the_baseline_is_the_best_tagger_that_looks_at_one_word():
    rng = np.random.default_rng(0)

    def draw(words):
        chosen = [tuple(rng.choice(words, n)) for n in rng.integers(1, 9, 60)]
        tags = [tuple(rng.choice(["A", "B", "B", "C"]) for _ in sentence) for sentence in chosen]
        return {"words": chosen, "tags": tags}

    train, part = draw(list("abcdef")), draw(list("defgh"))
    best, default = most_frequent_tags(train["words"], train["tags"])
    count = Counter(pair for words, tags in zip(*train.values(), strict=True) for pair in zip(words, tags, strict=True))
    assert set(best) == set("abcdef")
    assert all(count[word, tag] == max(count[word, other] for other in "ABC") for word, tag in best.items())
    assert default == max("ABC", key=lambda tag: sum(n for (_, other), n in count.items() if other == tag))
    assert simplest_accuracy(train, train) >= np.mean([tag == default for tags in train["tags"] for tag in tags])
    assert 0 < simplest_accuracy(train, part) < 1
