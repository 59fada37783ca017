"""Subword tokenizers: round trips, segmentation against brute force, sampling, sizes, files."""

import base64
import copy
import hashlib
import itertools
import json
import math
import os
import pathlib
import pickle
import pydoc_data.topics
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import seqjax
from seqjax.errors import UserError
from seqjax.text import (
    SPECIAL_TOKENS,
    UNK,
    CharTokenizer,
    SubwordTokenizer,
    load_tokenizer,
    report,
    save_tokenizer,
    tokenizer_from_dict,
)

ANY_TEXT = st.text(st.characters(exclude_categories=[]))  # lone surrogates too
NEVER = "▁▅\x00\x1f"  # and lone surrogates
TEXT = "\n".join(pydoc_data.topics.topics.values())[:100_000]
SHORT = "she sells\tsea shells\n  by the sea shore, 3 shells a day\r\n"
both_kinds = pytest.mark.parametrize("kind", ["unigram", "bpe"])
FITTED = {kind: SubwordTokenizer.fit(TEXT, vocab_size=600, kind=kind) for kind in ("unigram", "bpe")}


def never_held(character):
    return character in NEVER or "\ud800" <= character <= "\udfff"


# Text and back


@both_kinds
@hypothesis.given(st.text(st.sampled_from(sorted(set(TEXT)))))
@hypothesis.settings(deadline=None)
def test_text_of_known_characters_comes_back(kind, text):
    tokenizer = FITTED[kind]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1 and not (ids < len(SPECIAL_TOKENS)).any()
    assert tokenizer.decode(ids) == text and tokenizer.unknown(text) == []
    assert [tokenizer.vocabulary[i] for i in ids] == tokenizer.tokenize(text)


@both_kinds
@hypothesis.given(ANY_TEXT | st.text("ab \n字▁▅\x00\x1f\ud800<pad>"))
@hypothesis.settings(deadline=None)
def test_runs_of_unknown_characters_are_one_token(kind, text):
    """What comes back is the text with its unknown runs replaced, whatever the text."""
    tokenizer = FITTED[kind]
    ids = tokenizer.encode(text)
    known = set(TEXT)
    runs = ["".join(run) if is_known else "<unk>" for is_known, run in itertools.groupby(text, known.__contains__)]
    assert tokenizer.decode(ids) == "".join(runs)
    assert (ids == UNK).sum() == sum(not is_known for is_known, _ in itertools.groupby(text, known.__contains__))
    pieces = tokenizer.tokenize(text)
    assert [tokenizer.vocabulary[i] if i != UNK else None for i in ids] == [p if p in tokenizer else None for p in pieces]
    assert set(ids.tolist()) <= {UNK, *range(len(SPECIAL_TOKENS), tokenizer.vocab_size)}


@both_kinds
@hypothesis.given(st.lists(ANY_TEXT, min_size=1, max_size=3))
@hypothesis.example(["0\x1f"])  # sentencepiece parts text at it
@hypothesis.example(["0\r"])
@hypothesis.settings(max_examples=40, deadline=None)
def test_any_text_is_learned_whole(kind, texts):
    """With a vocabulary of just the characters, every text of the training comes back."""
    text = "".join(texts)
    characters = {c for c in text if not never_held(c)}
    needed = len(SPECIAL_TOKENS) + len((characters | {"▁"}) - {" "})
    if not "".join(characters).strip():
        with pytest.raises(UserError, match="texts hold no token"):
            SubwordTokenizer.fit(texts, kind=kind)
        return
    tokenizer = SubwordTokenizer.fit(texts, vocab_size=needed, kind=kind)
    assert set(tokenizer.vocabulary[4:]) == (characters - {" "}) | {"▁"}
    for text in texts:
        replaced = "".join("\0" if never_held(c) else c for c in text)
        runs = ["<unk>" if held else "".join(run) for held, run in itertools.groupby(replaced, "\0".__eq__)]
        assert tokenizer.decode(tokenizer.encode(text)) == "".join(runs)


@both_kinds
def test_space_is_kept(kind):
    tokenizer = SubwordTokenizer.fit(SHORT, vocab_size=26, kind=kind)
    for text in (SHORT, "", " ", "  ", "\n", "\n\n", " \n ", "\t she\r\n\r  \n", "sea  sea"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("").shape == (0,) and tokenizer.tokenize("") == [] and tokenizer.decode([]) == ""
    words = tokenizer.tokenize("sea shells")
    assert tokenizer.tokenize("sea shells\nsea shells") == [*words, "\n", *words]
    assert "\n" not in SubwordTokenizer.fit("a\tb a", vocab_size=8, kind=kind)
    assert SubwordTokenizer.fit("a\tb a", vocab_size=8, kind=kind).encode("\n").tolist() == [UNK]


@both_kinds
def test_special_tokens_are_no_tokens_of_a_text(kind):
    text = "a<pad>b <pad> <unk> <bos><eos> </s> <s>"
    needed = 4 + len(set(text) - {" "}) + 1
    tokenizer = SubwordTokenizer.fit([text] * 20, vocab_size=needed + 4 * (kind == "bpe"), kind=kind)
    assert tokenizer.vocabulary[:4] == SPECIAL_TOKENS == ("<pad>", "<unk>", "<bos>", "<eos>")
    assert not any(token in tokenizer for token in SPECIAL_TOKENS)
    ids = tokenizer.encode(text)
    assert ids.min() >= 4 and tokenizer.decode(ids) == text
    if kind == "unigram":
        assert tokenizer.sample(text, 0).min() >= 4


def test_decode_leaves_out_what_marks_the_ends():
    tokenizer = FITTED["unigram"]
    ids = [2, *tokenizer.encode("the end"), 3, 0, 0]
    assert tokenizer.decode(ids) == tokenizer.decode(np.array(ids)) == "the end"
    assert tokenizer.decode(ids, skip_special=False) == "<bos> the end<eos><pad><pad>"
    assert tokenizer.decode([*tokenizer.encode("the"), UNK]) == "the<unk>"


def test_lower_case_by_option():
    tokenizer = SubwordTokenizer.fit("She Sells", vocab_size=9, lower=True)
    assert set(tokenizer.vocabulary[4:]) == set("shel") | {"▁"}
    assert tokenizer.decode(tokenizer.encode("SHE sells")) == "she sells"
    assert tokenizer.unknown("Sea") == ["a"] and tokenizer.tokenize("Sea")[-1] == "a"
    assert report(tokenizer, "Sea").unknown_types == 1


# Pieces


def segmentations(tokenizer, word):
    """Every way to write a word as pieces (or unknown characters), with the sum of their log probabilities."""
    scores = dict(zip(tokenizer.vocabulary[4:], scores_of(tokenizer)[4:], strict=True))
    known = min(score for piece, score in scores.items() if piece != "\n")
    if not word:
        return [([], 0.0)]
    found = []
    for n in range(1, len(word) + 1):
        piece = word[:n]
        if piece in scores or n == 1:
            here = ([piece], scores[piece]) if piece in scores else (["?"], known - 10)
            found += [(here[0] + rest, here[1] + score) for rest, score in segmentations(tokenizer, word[n:])]
    return found


def merged(pieces):
    """Pieces with each run of unknown characters as one token."""
    runs = ((piece == "?", piece) for piece in pieces)
    return [p for k, g in itertools.groupby(runs, lambda run: run[0]) for p in (["<unk>"] if k else [x for _, x in g])]


def scores_of(tokenizer):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    return [processor.get_score(i) for i in range(tokenizer.vocab_size)]


@pytest.mark.parametrize("word", ["statement", "in", "definitions", "x字e", "字字a"])
def test_the_most_probable_pieces_are_taken(word):
    tokenizer = FITTED["unigram"]
    best = max(segmentations(tokenizer, "▁" + word), key=lambda pair: pair[1])[0]
    ids = tokenizer.encode(word)
    assert [tokenizer.vocabulary[i] for i in ids] == merged(best)
    assert tokenizer.sample(word, 3, alpha=1e4).tolist() == ids.tolist()


@pytest.mark.parametrize("word, alpha", [("statement", 0.3), ("in the", 1.0), ("interpret", 0.0), ("字文ing ed", 0.1)])
def test_samples_have_the_probabilities_of_the_paper(word, alpha):
    tokenizer = FITTED["unigram"]
    ways = segmentations(tokenizer, "▁" + word.replace(" ", "▁"))
    weights = np.exp([alpha * score for _, score in ways])
    draws, rng = 4000, np.random.default_rng(0)
    drawn = [tuple(tokenizer.vocabulary[i] for i in tokenizer.sample(word, rng, alpha=alpha)) for _ in range(draws)]
    share = {way: drawn.count(way) / draws for way in set(drawn)}
    assert len(ways) > 4
    expected = {tuple(merged(way)): p for (way, _), p in zip(ways, weights / weights.sum(), strict=True)}
    assert share.keys() <= expected.keys()
    for way, p in expected.items():
        assert abs(share.get(way, 0) - p) < 5 * math.sqrt(p * (1 - p) / draws) + 1e-9


@hypothesis.given(st.text(st.sampled_from("abcdehst \n")), st.integers(0, 2**32))
@hypothesis.settings(deadline=None)
def test_samples_are_the_same_text(text, seed):
    tokenizer = FITTED["unigram"]
    ids = tokenizer.sample(text, seed, alpha=0.2)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == text
    assert ids.tolist() == tokenizer.sample(text, np.random.default_rng(seed), alpha=0.2).tolist()


def test_samples_differ_and_leave_encode_as_it_is():
    tokenizer = FITTED["unigram"]
    text = TEXT[:300]
    ids = tokenizer.encode(text).tolist()
    assert len({tuple(tokenizer.sample(text, seed).tolist()) for seed in range(5)}) == 5
    assert tokenizer.encode(text).tolist() == ids


# Training

SAME_MODEL = """
import hashlib, pathlib, sys
from seqjax.text import SubwordTokenizer
text = pathlib.Path(sys.argv[1]).read_text("utf-8")
for kind in ("unigram", "bpe"):
    print(hashlib.sha256(SubwordTokenizer.fit(text, vocab_size=600, kind=kind).model).hexdigest())
"""


def test_a_fresh_process_learns_the_same_model(tmp_path):
    (tmp_path / "text").write_text(TEXT, "utf-8")
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(seqjax.__file__).parents[1]), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", SAME_MODEL, tmp_path / "text"]
    said = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
    lines = TEXT.split("\n")
    ours = [SubwordTokenizer.fit(iter(["\n".join(lines)]), vocab_size=600, kind=kind) for kind in ("unigram", "bpe")]
    assert ours == [FITTED["unigram"], FITTED["bpe"]] and FITTED["unigram"] != FITTED["bpe"]
    assert said.split() == [hashlib.sha256(tokenizer.model).hexdigest() for tokenizer in ours]


@both_kinds
def test_a_text_without_an_end_is_learned_from(kind):
    """Pieces that stand only at the far end of one very long line, and of one very long word, are learned."""
    line = TEXT.replace("\n", " ") + " xyzzy xyzzied xyzzying" * 500
    assert "▁xyzzy" in SubwordTokenizer.fit([line], vocab_size=600, kind=kind)
    word = "aaaaaaaaab" * 100_000 + "z"
    tokenizer = SubwordTokenizer.fit([word], vocab_size=8, kind=kind)
    assert {"a", "b", "z", "▁"} <= set(tokenizer.vocabulary) and tokenizer.decode(tokenizer.encode(word)) == word


@both_kinds
@pytest.mark.parametrize("texts", [["she sells sea shells"] * 3, ["abcdefghij"], [SHORT, "字 字字"]])
def test_the_sizes_that_errors_name_are_the_limits(kind, texts):
    def limit(size):
        with pytest.raises(UserError, match=f"vocab_size is {size};") as error:
            SubwordTokenizer.fit(texts, vocab_size=size, kind=kind)
        assert "\n" not in str(error.value)
        return int(str(error.value).split("at ")[1].split(",")[0].split()[-1])

    most, least = limit(5000), limit(5)
    assert least == 4 + len({"▁"} | (set("".join(texts)) - {" "}))
    for size in (least, most):
        assert SubwordTokenizer.fit(texts, vocab_size=size, kind=kind).vocab_size == size
    assert limit(least - 1) == least and limit(most + 1) == most


def test_rare_characters_can_be_left_out():
    texts = ["abc" * 2000 + "字"]
    assert "字" not in SubwordTokenizer.fit(texts, vocab_size=8, character_coverage=0.999)
    tokenizer = SubwordTokenizer.fit(texts, vocab_size=8, character_coverage=0.999)
    assert "▁" in tokenizer and tokenizer.decode(tokenizer.encode("ab c字")) == "ab c<unk>"
    assert "字" in SubwordTokenizer.fit(texts, vocab_size=9)


def test_nothing_is_printed(capfd):
    SubwordTokenizer.fit(SHORT, vocab_size=26).encode("sea")
    for build in (lambda: SubwordTokenizer.fit(SHORT, vocab_size=9), lambda: SubwordTokenizer(b"\x00damaged")):
        with pytest.raises(UserError):
            build()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "texts, settings, named",
    [
        ([], {}, "texts hold no token"),
        (["", "\n"], {}, "texts hold no token"),
        ([" ", "▁"], {}, "texts hold no token"),
        (["a", 3], {}, "texts holds a int"),
        (None, {}, "texts is a NoneType"),
        (["a"], {"vocab_size": 4}, "vocab_size is 4"),
        (["a"], {"vocab_size": 7.0}, "vocab_size is 7.0"),
        (["a"], {"vocab_size": True}, "vocab_size is True"),
        (["a"], {"kind": "wordpiece"}, "kind is 'wordpiece'"),
        (["a"], {"character_coverage": 0}, "character_coverage is 0"),
        (["a"], {"character_coverage": 1.5}, "character_coverage is 1.5"),
        (["a"], {"character_coverage": "all"}, "character_coverage is 'all'"),
        (["a"], {"character_coverage": math.nan}, "character_coverage is nan"),
        (["a"], {"lower": "yes"}, "lower is 'yes'"),
    ],
)
def test_fit_names_what_is_wrong(texts, settings, named):
    with pytest.raises(UserError, match=named) as error:
        SubwordTokenizer.fit(texts, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda t: t.encode(["abc"]), "text is a list"),
        (lambda t: t.tokenize(None), "text is a NoneType"),
        (lambda t: t.sample(3, 0), "text is a int"),
        (lambda t: t.sample("a", 0, alpha=-0.1), "alpha is -0.1"),
        (lambda t: t.sample("a", 0, alpha=math.inf), "alpha is inf"),
        (lambda t: t.sample("a", 0, alpha="1"), "alpha is '1'"),
        (lambda t: FITTED["bpe"].sample("a", 0), "unigram"),
        (lambda t: t.decode([t.vocab_size]), "ids run from 600 to 600"),
        (lambda t: t.decode([-1]), "ids"),
        (lambda t: t.decode([[4]]), "ids"),
        (lambda t: SubwordTokenizer(t.model, lower=1), "lower is 1"),
        (lambda t: SubwordTokenizer(b""), "model"),
        (lambda t: SubwordTokenizer(7), "model is 7"),
    ],
)
def test_bad_input_is_named(build, named):
    with pytest.raises(UserError, match=named) as error:
        build(FITTED["unigram"])
    assert "\n" not in str(error.value)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for build in (lambda: SubwordTokenizer.fit("a b", vocab_size=7), lambda: SubwordTokenizer(FITTED["bpe"].model)):
        with pytest.raises(UserError, match=r"pip install -e '\.\[experiments\]'"):
            build()


# Values and files


@both_kinds
def test_a_tokenizer_is_a_value(kind, tmp_path):
    tokenizer = SubwordTokenizer.fit(SHORT, vocab_size=26, kind=kind, lower=True)
    ids = tokenizer.encode(SHORT).tolist()
    if kind == "unigram":
        tokenizer.sample("sea", 0)
    save_tokenizer(tokenizer, tmp_path / "t.json")
    described = json.loads(json.dumps(tokenizer.to_dict()))
    copies = [
        pickle.loads(pickle.dumps(tokenizer)),
        copy.deepcopy(tokenizer),
        tokenizer_from_dict(described),
        load_tokenizer(tmp_path / "t.json"),
    ]
    for other in copies:
        assert other == tokenizer and hash(other) == hash(tokenizer) and other.vocabulary == tokenizer.vocabulary
        assert other.encode(SHORT).tolist() == ids and isinstance(other.model, bytes)
    assert tokenizer != SubwordTokenizer(tokenizer.model) and tokenizer != CharTokenizer.fit(SHORT)
    assert len(repr(tokenizer)) < 100
    with pytest.raises(AttributeError):
        tokenizer.lower = False


def foreign(**options):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["she sells sea shells"] * 9),
        model_writer=model,
        vocab_size=13,
        minloglevel=2,
        **options,
    )
    return base64.b64encode(model.getvalue()).decode("ascii")


GOOD = SubwordTokenizer.fit(SHORT, vocab_size=26).to_dict()
IDS = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
NAMES = {f"{token[1:-1]}_piece": f"▅{token}" for token in SPECIAL_TOKENS}


@pytest.mark.parametrize(
    "d, named",
    [
        (GOOD | {"lower": "no"}, "lower"),
        (GOOD | {"model": "not base64!"}, "model"),
        (GOOD | {"model": "字"}, "model"),
        (GOOD | {"model": None}, "model"),
        (GOOD | {"model": ""}, "model"),
        (GOOD | {"model": base64.b64encode(b"GIF89a" * 20).decode()}, "model is damaged"),
        (GOOD | {"vocabulary": ["a"]}, "vocabulary"),
        ({name: value for name, value in GOOD.items() if name != "model"}, "model"),
        (GOOD | {"model": foreign()}, "special tokens other than ours"),
        (GOOD | {"model": foreign(**IDS)}, "special tokens other than ours"),
        (GOOD | {"model": foreign(**IDS, **NAMES)}, "changes the text"),
        (GOOD | {"model": foreign(**IDS, **NAMES, normalization_rule_name="identity")}, "changes the text"),
    ],
)
def test_a_damaged_description_is_refused(d, named):
    with pytest.raises(UserError, match=named) as error:
        tokenizer_from_dict(d)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="without a segmenter"):
        tokenizer_from_dict(GOOD, segmenter=str.split)


def test_every_cut_of_a_model_is_refused():
    model = base64.b64decode(GOOD["model"])
    for size in range(len(model)):
        with pytest.raises(UserError):
            SubwordTokenizer(model[:size])
