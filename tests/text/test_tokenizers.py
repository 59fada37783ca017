"""Tokenizers: round trips, vocabularies, settings, files."""

import collections
import gzip
import json
import os
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from seqjax.errors import UserError
from seqjax.text import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    UNK,
    CharTokenizer,
    WordTokenizer,
    load_tokenizer,
    report,
    save_tokenizer,
    tokenizer_from_dict,
)
from seqjax.text.storage import FORMAT

ANY_TEXT = st.text(st.characters(exclude_categories=[]))  # lone surrogates too


def test_special_ids():
    assert (PAD, UNK, BOS, EOS) == (0, 1, 2, 3)
    for tokenizer in (CharTokenizer.fit("ab"), WordTokenizer.fit("a b"), WordTokenizer.fit("a b", pretokenized=True)):
        assert tokenizer.vocabulary[:4] == SPECIAL_TOKENS == ("<pad>", "<unk>", "<bos>", "<eos>")
        assert tokenizer.vocab_size == len(tokenizer.vocabulary) == 6


# Characters


@hypothesis.given(ANY_TEXT, ANY_TEXT.filter(bool))
def test_characters_in_the_vocabulary_come_back(text, more):
    tokenizer = CharTokenizer.fit([text, more])
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.shape == (len(text),)
    assert tokenizer.decode(ids) == text
    assert [tokenizer.vocabulary[i] for i in ids] == tokenizer.tokenize(text) == list(text)
    assert list(tokenizer.vocabulary[4:]) == sorted(set(text + more))


@hypothesis.given(ANY_TEXT.filter(bool), ANY_TEXT)
def test_characters_outside_the_vocabulary_are_unknown(text, other):
    tokenizer = CharTokenizer.fit([text])
    ids = tokenizer.encode(other)
    assert [i == UNK for i in ids] == [c not in text for c in other]
    assert tokenizer.decode(ids) == "".join(c if c in text else "<unk>" for c in other)
    assert tokenizer.unknown(other) == list(dict.fromkeys(c for c in other if c not in text))
    assert not set(ids.tolist()) & {PAD, BOS, EOS}


def test_normal_form_c_by_option():
    apart, composed = "cafe\u0301", "caf\u00e9"
    assert CharTokenizer.fit(apart).decode(CharTokenizer.fit(apart).encode(apart)) == apart
    assert CharTokenizer.fit(apart).unknown(composed) == ["\u00e9"]
    tokenizer = CharTokenizer.fit(apart, nfc=True)
    assert tokenizer.vocabulary[4:] == ("a", "c", "f", "\u00e9")
    assert tokenizer.decode(tokenizer.encode(apart)) == composed


def test_encoding_characters_is_vectorised():
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("etaoin shrdlu\n字é🙂"), 1_100_000))
    tokenizer = CharTokenizer.fit(text)
    tokenizer.encode("")
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        tokenizer.encode(text)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.1  # about 0.01 s; a loop over characters takes longer than 0.1 s


# Vocabularies


@hypothesis.given(st.lists(st.sampled_from("abcdefgh"), min_size=1), st.integers(1, 4), st.none() | st.integers(5, 12))
def test_the_most_frequent_tokens_are_kept(letters, min_count, max_size):
    counts = collections.Counter(letters)
    kept = sorted((c for c in counts if counts[c] >= min_count), key=lambda c: (-counts[c], c))
    settings = {"min_count": min_count, "max_size": max_size}
    if not kept:
        with pytest.raises(UserError, match="min_count"):
            WordTokenizer.fit([" ".join(letters)], **settings)
        return
    kept = kept[: None if max_size is None else max_size - 4]
    assert list(WordTokenizer.fit([" ".join(letters)], **settings).vocabulary[4:]) == kept
    assert list(CharTokenizer.fit(["".join(letters)], **settings).vocabulary[4:]) == sorted(kept)


def test_texts_are_counted_together():
    parts = ["b a\n", "a c", "c c"]
    assert WordTokenizer.fit(iter(parts)).vocabulary[4:] == ("c", "a", "\n", "b")
    assert WordTokenizer.fit(parts) != WordTokenizer.fit(parts[:2])


@pytest.mark.parametrize("cls", [CharTokenizer, WordTokenizer])
@pytest.mark.parametrize(
    "texts, settings, named",
    [
        ([], {}, "texts"),
        ([""], {}, "texts"),
        (["a", 3], {}, "texts"),
        (b"abc", {}, "texts"),
        (None, {}, "texts"),
        (["a"], {"min_count": 0}, "min_count"),
        (["a"], {"min_count": 1.5}, "min_count"),
        (["a"], {"min_count": 2}, "min_count"),
        (["a"], {"max_size": 4}, "max_size"),
        (["a"], {"max_size": "9"}, "max_size"),
    ],
)
def test_fit_names_what_is_wrong(cls, texts, settings, named):
    with pytest.raises(UserError, match=named) as error:
        cls.fit(texts, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda: CharTokenizer(("a", "b")), "vocabulary must begin"),
        (lambda: CharTokenizer((*SPECIAL_TOKENS, "a", "a")), "vocabulary holds 'a' twice"),
        (lambda: CharTokenizer((*SPECIAL_TOKENS, "ab")), "one character"),
        (lambda: CharTokenizer((*SPECIAL_TOKENS, 7)), "vocabulary"),
        (lambda: CharTokenizer("abc"), "vocabulary"),
        (lambda: CharTokenizer.fit("abc", nfc="yes"), "nfc"),
        (lambda: WordTokenizer.fit("abc", lower=1), "lower"),
        (lambda: WordTokenizer.fit("abc", segmenter="jieba"), "segmenter"),
        (lambda: WordTokenizer.fit("abc", segmenter=str.split, pretokenized=True), "segmenter"),
        (lambda: WordTokenizer.fit("abc", segmenter=len), "segmenter returned a int"),
        (lambda: WordTokenizer.fit("abc", segmenter=str.upper), "segmenter returned a str"),
        (lambda: WordTokenizer.fit("abc", segmenter=lambda text: [1]), "segmenter"),
        (lambda: WordTokenizer.fit("abc").encode(["abc"]), "text is a list"),
        (lambda: CharTokenizer.fit("abc").encode(None), "text is a NoneType"),
        (lambda: CharTokenizer.fit("abc").decode([4, 7]), "ids run from 4 to 7"),
        (lambda: CharTokenizer.fit("abc").decode([-1]), "ids"),
        (lambda: CharTokenizer.fit("abc").decode([[4]]), "ids"),
        (lambda: CharTokenizer.fit("abc").decode([4.0]), "ids"),
        (lambda: report(CharTokenizer.fit("abc"), ""), "text"),
        (lambda: report(CharTokenizer.fit("abc"), [1]), "text"),
    ],
)
def test_bad_input_is_named(build, named):
    with pytest.raises(UserError, match=named) as error:
        build()
    assert "\n" not in str(error.value)


# Words


def test_word_settings():
    text = "It's RED.\r\nIt's\rblue"
    assert WordTokenizer.fit(text).tokenize(text) == ["It", "'s", "RED", ".", "\n", "It", "'s", "\n", "blue"]
    assert WordTokenizer.fit(text, lower=True, newlines=False).tokenize(text) == "it 's red . it 's blue".split()
    assert WordTokenizer.fit(text, split_contractions=False).tokenize("it's\n") == ["it's", "\n"]
    assert WordTokenizer.fit(text, pretokenized=True).tokenize(text) == ["It's", "RED.", "It's", "blue"]
    assert WordTokenizer.fit(text, pretokenized=True, newlines=True).tokenize("a.\nb") == ["a.", "\n", "b"]


def test_words_are_encoded_and_decoded():
    text = "He said: \"Don't!\"\n\nThen it's over (nearly).\n"
    tokenizer = WordTokenizer.fit([text])
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and [tokenizer.vocabulary[i] for i in ids] == tokenizer.tokenize(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("").shape == (0,) and tokenizer.decode([]) == ""
    assert tokenizer.unknown("He ran, ran (far).") == ["ran", ",", "far"]
    assert "said" in tokenizer and "ran" not in tokenizer


@pytest.mark.parametrize("cls", [CharTokenizer, WordTokenizer])
def test_special_tokens_are_no_tokens_of_a_text(cls):
    assert not any(token in cls.fit("a b") for token in SPECIAL_TOKENS)


@pytest.mark.parametrize("tokenizer", [CharTokenizer.fit("ab"), WordTokenizer.fit("a b", pretokenized=True)])
def test_decode_leaves_out_what_marks_the_ends(tokenizer):
    ids = [BOS, 4, UNK, EOS, 5, PAD, PAD]
    space = " " if isinstance(tokenizer, WordTokenizer) else ""
    assert tokenizer.decode(ids) == tokenizer.decode(np.array(ids)) == space.join(["a", "<unk>", "b"])
    everything = ["<bos>", "a", "<unk>", "<eos>", "b", "<pad>", "<pad>"]
    assert tokenizer.decode(ids, skip_special=False) == space.join(everything)


def test_only_pretokenized_text_can_name_special_tokens():
    text = "a <unk> b <eos> <pad> <bos>"
    tokenizer = WordTokenizer.fit(text, pretokenized=True)
    assert tokenizer.vocabulary == (*SPECIAL_TOKENS, "a", "b")
    assert tokenizer.encode(text).tolist() == [4, UNK, 5, EOS, UNK, UNK]
    assert tokenizer.unknown(text) == ["<pad>", "<bos>"]
    assert WordTokenizer.fit(text, segmenter=str.split).encode("a <eos> <pad>").tolist() == [4, UNK, UNK]
    assert not set(WordTokenizer.fit(text).encode(text).tolist()) & {0, 1, 2, 3}


def test_report_counts():
    tokenizer = WordTokenizer.fit("a a b")
    found = report(tokenizer, "a b c c d a")
    assert found == (6, 4, pytest.approx(0.5), 2)
    assert report(tokenizer, ["a", "b", "c", "c", "d", "a"]) == found
    assert str(found) == "6 tokens of 4 types; the vocabulary covers 50.00% of the tokens and lacks 2 types"
    assert report(CharTokenizer.fit("abc"), "abz") == (3, 3, pytest.approx(2 / 3), 1)


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_a_segmenter_for_languages_without_spaces(shared, language):
    """The treebank's own words stand in for a segmenter: longest match against them, on its sentences."""
    path = shared / f"data/ud-gsd-samples/{language}_gsd-ud-test.conllu.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    sentences = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
    words = {line.split("\t")[1] for line in lines if line[:1].isdigit()}
    longest = max(map(len, words))

    def segment(text):
        tokens = []
        while text:
            size = next((n for n in range(longest, 1, -1) if text[:n] in words), 1)
            tokens.append(text[:size])
            text = text[size:]
        return tokens

    text = "\n".join(sentences)
    tokenizer = WordTokenizer.fit([text], segmenter=segment)
    tokens = tokenizer.tokenize(text)
    assert "".join(tokens).replace(" ", "") == text.replace(" ", "")
    assert 1.3 * len(tokens) < len(text) and not any(token.isspace() and token != "\n" for token in tokens)
    back = tokenizer.decode(tokenizer.encode(text)).split("\n")
    assert sum(a == b for a, b in zip(back, sentences, strict=True)) > 0.85 * len(sentences)
    characters = CharTokenizer.fit([text])
    assert characters.decode(characters.encode(text)) == text
    assert report(characters, text).coverage == 1 and characters.vocab_size > 1000


# Files

TOKENIZERS = [
    CharTokenizer.fit("naïve\ud800\n字🙂"),
    CharTokenizer.fit("e\u0301", nfc=True),
    WordTokenizer.fit("Ein “naïver” Satz.\n字"),
    WordTokenizer.fit("A b", lower=True, newlines=False, split_contractions=False),
    WordTokenizer.fit("a <unk> 1", pretokenized=True),
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_saved_tokenizer_is_loaded_equal(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("old")
    save_tokenizer(tokenizer, path)
    assert os.listdir(tmp_path) == ["tokenizer.json"]
    loaded = load_tokenizer(str(path))
    assert loaded == tokenizer and hash(loaded) == hash(tokenizer)
    assert sum(loaded == other for other in TOKENIZERS) == 1
    assert tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict()))) == tokenizer
    json.loads(path.read_text(encoding="utf-8"))


@hypothesis.given(ANY_TEXT.filter(bool))
@hypothesis.settings(max_examples=30, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None)
def test_any_characters_are_saved(tmp_path, text):
    tokenizer = CharTokenizer.fit(text)
    save_tokenizer(tokenizer, tmp_path / "chars.json")
    assert load_tokenizer(tmp_path / "chars.json") == tokenizer


def test_a_segmenter_has_to_be_given_again(tmp_path):
    path = tmp_path / "segmented.json"
    tokenizer = WordTokenizer.fit("ab cd", segmenter=list)
    assert tokenizer.vocabulary[4:] == ("a", "b", "c", "d")
    save_tokenizer(tokenizer, path)
    with pytest.raises(UserError, match="segmenter"):
        load_tokenizer(path)
    assert load_tokenizer(path, segmenter=list) == tokenizer
    assert load_tokenizer(path, segmenter=str.split) != tokenizer
    save_tokenizer(WordTokenizer.fit("ab cd"), path)
    with pytest.raises(UserError, match="without a segmenter"):
        load_tokenizer(path, segmenter=list)
    save_tokenizer(CharTokenizer.fit("ab cd"), path)
    with pytest.raises(UserError, match="without a segmenter"):
        load_tokenizer(path, segmenter=list)


def test_every_cut_of_a_file_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(CharTokenizer.fit("aé字"), path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="tokenizer[.]json"):
            load_tokenizer(path)


CHAR = {"format": FORMAT, **CharTokenizer.fit("ab").to_dict()}
WORD = {"format": FORMAT, **WordTokenizer.fit("a b").to_dict()}


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"model": "bpe"},
        CHAR | {"format": "seqjax tokenizer 9"},
        CHAR | {"kind": "subword"},
        CHAR | {"kind": ["char"]},
        CHAR | {"nfc": 1},
        CHAR | {"colour": "red"},
        {name: value for name, value in CHAR.items() if name != "nfc"},
        CHAR | {"vocabulary": CHAR["vocabulary"][1:]},
        CHAR | {"vocabulary": [*CHAR["vocabulary"], "b"]},
        CHAR | {"vocabulary": [*CHAR["vocabulary"], "long"]},
        CHAR | {"vocabulary": [*CHAR["vocabulary"], ["c"]]},
        CHAR | {"vocabulary": None},
        WORD | {"lower": "no"},
        WORD | {"segmenter": "jieba"},
        WORD | {"vocabulary": [*WORD["vocabulary"], ""]},
    ],
)
def test_a_foreign_file_is_refused(content, tmp_path):
    path = tmp_path / "foreign.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="foreign[.]json") as error:
        load_tokenizer(path)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_or_written(tmp_path):
    tokenizer = CharTokenizer.fit("ab")
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            load_tokenizer(path)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "a.json", tmp_path / "folder"):
        with pytest.raises(UserError, match="cannot write"):
            save_tokenizer(tokenizer, path)
    assert os.listdir(tmp_path) == ["folder"]
    (tmp_path / "binary.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match="damaged"):
        load_tokenizer(tmp_path / "binary.json")


def test_encoding_two_million_words_takes_seconds(shared):
    with gzip.open(shared / "data/wikitext-2/train.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    begin = time.perf_counter()
    tokenizer = WordTokenizer.fit(text, max_size=20_000)
    assert len(tokenizer.encode(text)) > 2_000_000
    assert time.perf_counter() - begin < 20  # about 3 s on a quiet machine
