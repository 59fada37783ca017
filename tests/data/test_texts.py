"""Texts of files: in memory or streamed, they give the same documents, tokens and split."""

import contextlib
import json
import re
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data import encode_corpus, load_corpus
from seqjax.data.pipeline import streams
from seqjax.data.readers import opening, texts
from seqjax.data.readers.texts import FileTexts, cut_end, pieces, read_texts
from seqjax.errors import UserError
from seqjax.text import EOS, CharTokenizer, SubwordTokenizer, WordTokenizer

FORMS = ("none", "line", "paragraph", "json")


@contextlib.contextmanager
def sizes(large=texts.LARGE, chunk=opening.CHUNK, piece=texts.PIECE, block=streams.BLOCK):
    """Files above `large` characters are streamed, `chunk` bytes are read at once, a piece has `piece` characters."""
    with (
        mock.patch.object(texts, "LARGE", large),
        mock.patch.object(opening, "CHUNK", chunk),
        mock.patch.object(texts, "PIECE", piece),
        mock.patch.object(streams, "BLOCK", block),
    ):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("texts") / "a.txt"


def write(path, data, form):
    """A file of these bytes; of JSON lines, one of each line of the text that is not blank."""
    if form != "json":
        path.write_bytes(data)
        return str(path)
    lines = data.decode().removeprefix("\ufeff").split("\n")
    path = path.with_suffix(".jsonl")
    path.write_text("\n".join(json.dumps({"text": line}) if line.strip() else line for line in lines), encoding="utf-8")
    return str(path)


def expected(data, form):
    """The documents by other means than the reader's."""
    text = data.decode().removeprefix("\ufeff")
    if form == "json":
        return tuple(line for line in text.split("\n") if line.strip())
    text = text.replace("\r\n", "\n")
    if form == "none":
        return (text,)
    if form == "line":
        return tuple(text.removesuffix("\n").split("\n"))
    found = re.split(r"\n(?:[ \t]*\n)+", f"\n\n{text}\n\n")
    return tuple(part for part in found if part.strip())


BITS = [
    *"ab \n\r\téΣς.\u2028\x0c\ufeff🎉", "\n\n", "\r\n", "\r\r\n", "e\u0301", "'s", "n't", "3,1", "漢字",
]  # fmt: skip
strange = st.lists(st.sampled_from(BITS), max_size=40).map("".join)
contents = st.builds(lambda mark, text: mark * b"\xef\xbb\xbf" + text.encode(), st.booleans(), strange)
several = st.builds(lambda before, text: before + b"a\n\n b" + text.encode(), contents, strange)  # documents in any form
some_words = st.builds(lambda before, text: before + b"a" + text.encode(), contents, strange)


@settings(max_examples=300, deadline=None)
@given(contents, st.sampled_from(FORMS), st.integers(1, 9), st.booleans())
def test_documents_of_a_file_whatever_its_size(path, data, form, chunk, large):
    wanted = expected(data, form)
    file, how = write(path, data, form), "none" if form == "json" else form
    with sizes(large=0 if large else 1 << 20, chunk=chunk):
        if not any(wanted):
            with pytest.raises(UserError, match="is empty|no text"):
                read_texts(file, how)
            return
        records = read_texts(file, how)
        assert isinstance(records["text"], FileTexts if large else tuple)
        assert tuple(records["text"]) == wanted == tuple(records["text"])  # read twice, the same
        assert len(records) == len(records["text"]) == len(wanted)


@settings(max_examples=200, deadline=None)
@given(several, st.sampled_from(FORMS), st.integers(1, 9), st.floats(0.01, 0.99))
def test_the_cut_of_a_large_file_is_that_of_a_small_one(path, data, form, chunk, fraction):
    file, how = write(path, data, form), "none" if form == "json" else form
    small = cut_end(read_texts(file, how), fraction, "a.txt")
    with sizes(large=0, chunk=chunk):
        large = cut_end(read_texts(file, how), fraction, "a.txt")
        for held, streamed in zip(small, large):
            assert tuple(streamed["text"]) == held["text"] and len(streamed) == len(held)
            assert [streamed.places.at(i) for i in range(len(held))] == [held.places.at(i) for i in range(len(held))]


TOKENIZERS = {
    "char": CharTokenizer.fit,
    "char in normal form C": lambda found: CharTokenizer.fit(found, nfc=True),
    "word": WordTokenizer.fit,
    "word without line ends, lower": lambda found: WordTokenizer.fit(found, newlines=False, lower=True),
    "pretokenized": lambda found: WordTokenizer.fit(found, pretokenized=True),
    "segmenter by line": lambda found: WordTokenizer.fit(found, segmenter=lambda line: re.findall(r"\S ?\S?", line)),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(data=some_words, form=st.sampled_from(FORMS), chunk=st.integers(1, 9), piece=st.integers(1, 9), block=st.integers(1, 9))
def test_streamed_tokens_are_those_of_the_whole(path, kind, data, form, chunk, piece, block):
    wanted = expected(data, form)
    file, how = write(path, data, form), "none" if form == "json" else form
    whole = TOKENIZERS[kind](list(wanted))
    ids = [[*whole.encode(text), *([EOS] if form != "none" else [])] for text in wanted]
    for large in (0, 1 << 20):
        with sizes(large, chunk, piece, block), mock.patch.object(texts, "LARGE", large):
            corpus = load_corpus("file", path=file, documents=how, validation_path=file)
            with mock.patch.object(texts, "LARGE", 1 << 20):  # of what is held between two places to cut at
                tokenizer = TOKENIZERS[kind](corpus.parts["train"]["text"])
                assert tokenizer.vocabulary == whole.vocabulary
                found, _ = encode_corpus(corpus, tokenizer, eos_id=EOS, reset=True)
        assert found["train"].tokens.tolist() == sum(ids, [])
        lengths = np.cumsum([0, *map(len, ids)])
        assert found["train"].starts.tolist() == [int(first) for first, own in zip(lengths, ids) if own]
        assert found["train"].tokens.dtype == np.uint8


def test_streamed_subwords_are_those_of_the_whole(tmp_path):
    pytest.importorskip("sentencepiece")
    text = "".join(f"she sells {n} sea shells\n  by the shore {n}\n\n" for n in range(300))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    whole = SubwordTokenizer.fit([text], vocab_size=60)
    with sizes(large=10_000, chunk=37):
        column = read_texts(str(tmp_path / "a.txt"))["text"]
        assert isinstance(column, FileTexts) and SubwordTokenizer.fit(column, vocab_size=60) == whole
        stream = streams.encode_documents(column, whole.encode, ends=False, cut_after=whole.cut_after)
    assert stream.tokens.tolist() == whole.encode(text).tolist()


def test_a_large_text_without_a_place_to_cut_is_refused_for_words_and_taken_as_characters(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 500, encoding="utf-8")
    with sizes(large=100, chunk=16):
        corpus = load_corpus("file", path=str(tmp_path / "a.txt"))
        with pytest.raises(UserError, match="a.txt has 112 characters without a line end.*take characters as tokens"):
            WordTokenizer.fit(corpus.parts["train"]["text"])
        tokenizer = CharTokenizer.fit(corpus.parts["train"]["text"])
        found, _ = encode_corpus(corpus, tokenizer, eos_id=EOS, reset=True)
    assert [len(stream) for stream in found.values()] == [900, 100]


def test_one_long_document_is_cut_where_it_may_be():
    text = "one two\nthree four\nfive"
    with sizes(piece=10):
        assert list(pieces([text, ""], "\n")) == [("one two\n", True), ("three four\n", False), ("five", False), ("", True)]
        assert list(pieces([text], None)) == [(text, True)]
        assert [len(piece) for piece, _ in pieces([text])] == [10, 10, 3]


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some text\n" * 50, encoding="utf-8")
    with sizes(large=100):
        column = read_texts(str(path))["text"]
        path.write_text("some text\n" * 40, encoding="utf-8")
        with pytest.raises(UserError, match="a.txt has become shorter"):
            list(column)


def test_all_faulty_json_lines_are_told_at_once(tmp_path):
    lines = ['{"text": "a"}', "", '{"txt": 1}', "[", '{"text": 3}', '{"text": "b"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for large in (0, 100):
        with sizes(large=large), pytest.raises(UserError) as caught:
            read_texts(str(tmp_path / "a.jsonl"))
        assert "3 faults" in str(caught.value)
        assert re.findall(r"a\.jsonl line (\d+)", str(caught.value)) == ["3", "4", "5"]


def test_narrow_tokens_have_the_fingerprint_of_wide_ones():
    """This is the hash in runs of earlier versions, which can so be resumed."""
    import hashlib

    rng = np.random.default_rng(0)
    tokens, starts = rng.integers(0, 200, 1000), np.flatnonzero(np.r_[True, rng.random(999) < 0.1])
    wanted = hashlib.sha256(tokens.astype(np.int32).tobytes() + np.isin(np.arange(1000), starts).tobytes()).hexdigest()
    for dtype in ("uint8", "uint16", "int32", "int64"):
        with sizes(block=64):
            digest = hashlib.sha256()
            streams.TokenStream(tokens.astype(dtype), starts).add_to(digest)
        assert digest.hexdigest() == wanted


def test_hello_has_the_fingerprint_it_always_had():
    corpus = load_corpus("embedded", name="hello")
    found, digest = encode_corpus(corpus, CharTokenizer.fit(corpus.parts["train"]["text"]), eos_id=EOS, reset=True)
    assert digest == "7776cf315e3578c4eda7184b0d5f93f1c1dd73c9ec8124a81c069a52c44a8313" and found["train"].tokens.dtype == np.uint8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 70), st.integers(1, 9))
def test_counts_and_the_first_tokens(tokens, number, block):
    stream = streams.TokenStream(np.array(tokens, np.uint16), np.arange(0, len(tokens), 3))
    with sizes(block=block):
        assert stream.counts(301).tolist() == np.bincount(np.array(tokens, int), minlength=301).tolist()
    some = stream.first(number)
    assert some.tokens.tolist() == tokens[:number] and some.mask().tolist() == stream.mask()[:number].tolist()


def test_a_large_text_is_encoded_in_memory_for_its_tokens_once(tmp_path):
    """Measured by tracemalloc for what NumPy and Python allocate; the tokens themselves are mapped, and counted apart."""
    import tracemalloc

    rng = np.random.default_rng(0)
    path = tmp_path / "a.txt"
    path.write_bytes(rng.choice(np.frombuffer(b"abcdefgh \n", np.uint8), 4_000_000).tobytes())
    with sizes(large=100_000, chunk=1 << 16, block=1 << 16):
        tracemalloc.start()
        corpus = load_corpus("file", path=str(path))
        tokenizer = CharTokenizer.fit(corpus.parts["train"]["text"])
        found, _ = encode_corpus(corpus, tokenizer, eos_id=EOS, reset=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sum(stream.tokens.nbytes for stream in found.values()) == 4_000_000
    assert peak < 3_000_000, peak


@pytest.mark.parametrize("form", FORMS)
def test_the_fingerprint_of_a_stream_is_that_of_its_text(path, form):
    file = write(path, "one é\n\ntwo\r\nthree\n\nfour".encode(), form)
    how = {"path": file, "documents": "none" if form == "json" else form, "validation_fraction": 0.3}
    held = load_corpus("file", **how)
    with sizes(large=4, chunk=3):
        streamed = load_corpus("file", **how)
        assert isinstance(streamed.parts["train"]["text"], FileTexts)
        assert streamed.fingerprint == held.fingerprint
        assert streamed.fingerprint != load_corpus("file", **how | {"validation_fraction": 0.6}).fingerprint
