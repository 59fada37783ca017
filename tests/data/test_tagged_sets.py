"""Sets of tagged words: spans in every scheme, parts held out, sets of TFDS, and the baseline."""

import itertools
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from tagged_files import one_line, put, row, simplest_accuracy

from seqjax.data import tagged
from seqjax.data.readers.conll import read_tagged
from seqjax.data.spans import are_spans, is_span_tag, to_bio
from seqjax.data.tagged import load_tagged
from seqjax.errors import UserError
from seqjax.run.baselines import most_frequent_tags

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
