"""Metrics: published numbers, and counts by hand or by other code."""

import collections
import math
import random
import sys

import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.training.metrics import accuracy_interval, corpus_bleu, entity_f1, exact_match


@pytest.mark.parametrize(
    "correct, total, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_has_the_published_bounds(correct, total, low, high):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert accuracy_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for total in rng.integers(1, 10_000, 30):
        correct, confidence = int(rng.integers(0, total + 1)), rng.uniform(0.5, 0.999)
        wanted = stats.binomtest(correct, int(total)).proportion_ci(confidence, method="wilson")
        np.testing.assert_allclose(accuracy_interval(correct, int(total), confidence), wanted, rtol=1e-9, atol=1e-12)


def test_interval_at_its_edges():
    assert accuracy_interval(0, 7)[0] == 0.0 and accuracy_interval(7, 7)[1] == 1.0
    low, high = accuracy_interval(3, 7)
    assert accuracy_interval(4, 7) == pytest.approx((1 - high, 1 - low), rel=1e-12)
    narrow = accuracy_interval(3, 7, confidence=0.5)
    assert low < narrow[0] < 3 / 7 < narrow[1] < high


@pytest.mark.parametrize("correct, total, confidence", [(0, 0, 0.9), (3, 2, 0.9), (-1, 2, 0.9), (1, 2, 1.0), (1, 2, 0.0)])
def test_counts_that_cannot_be_are_refused(correct, total, confidence):
    with pytest.raises(ValueError, match="correct=|confidence="):
        accuracy_interval(correct, total, confidence)


def test_exact_match_counts_whole_answers():
    assert exact_match(["a", "b ", "", "C"], ["a", "b", "", "c"]) == 2
    assert exact_match([], []) == 0
    with pytest.raises(ValueError, match="2 entries and references has 1"):
        exact_match(["a", "b"], ["a"])


def _ngrams(words, n):
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _bleu(hypotheses, references):
    """Papineni et al., equations 1 to 3: one reference, words apart already."""
    precisions = []
    for n in range(1, 5):
        pairs = [(_ngrams(h.split(), n), _ngrams(r.split(), n)) for h, r in zip(hypotheses, references)]
        precisions.append(sum((h & r).total() for h, r in pairs) / sum(h.total() for h, _ in pairs))
    ours, theirs = (sum(len(text.split()) for text in texts) for texts in (hypotheses, references))
    brevity = min(1.0, math.exp(1 - theirs / ours))
    return 100 * brevity * math.exp(sum(map(math.log, precisions)) / 4)


def _corpus(seed, size=20):
    """Sentences, and the same with a fifth of their words changed, dropped or doubled."""
    draw = random.Random(seed)
    references = [[draw.choice("the a cat dog sat ran on under mat tree".split()) for _ in range(12)] for _ in range(size)]
    hypotheses = [[w for word in words for w in draw.choice([[word]] * 12 + [["bird"], [], [word, word]])] for words in references]
    return [" ".join(words) for words in hypotheses], [" ".join(words) for words in references]


@pytest.mark.parametrize("seed", range(4))
def test_bleu_is_that_of_the_paper(seed):
    hypotheses, references = _corpus(seed)
    result = corpus_bleu(hypotheses, references)
    assert 20 < result.score < 95
    assert result.score == pytest.approx(_bleu(hypotheses, references), rel=1e-6)


def test_bleu_gives_the_librarys_published_examples():
    """sacrebleu's README (the form of the signature) and its tests (identical, empty; chrF where precision equals recall)."""
    same = "Niemand hat die Absicht, eine Mauer zu errichten"
    result = corpus_bleu([same], [same])
    assert (result.score, result.chrf) == pytest.approx((100.0, 100.0))
    assert result.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert corpus_bleu(["", "", ""], ["The dog bit the man.", "It was not unexpected.", "He bit."])[:2] == (0.0, 0.0)
    for hypotheses, references, chrf in [
        (["aa"], ["ab"], 25.0),
        (["a", "b"], ["a", "c"], 50.0),
        (["a b c"], ["abc"], 100.0),
    ]:
        assert corpus_bleu(hypotheses, references).chrf == pytest.approx(chrf)


def test_chrf_by_hand():
    """abcd for abcx: precision and recall of the 1- to 4-grams are 3/4, 2/3, 1/2 and 0."""
    assert corpus_bleu(["abcd"], ["abcx"]).chrf == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)
    # One character of two: precision 1, recall 1/2; of n-grams that the answer is too short for, nothing is counted.
    assert corpus_bleu(["a"], ["ab"]).chrf == pytest.approx(100 * 5 * 1 * 0.5 / (4 * 1 + 0.5))


def test_bleu_smooths_and_takes_words_apart():
    fourth = 1 / 2  # none of one 4-gram, counted as half of one
    assert corpus_bleu(["this is a fest"], ["this is a test"]).score == pytest.approx(100 * (3 / 4 * 2 / 3 / 2 * fourth) ** 0.25)
    assert corpus_bleu(["She said: stop, now."], ["She said : stop , now ."]).score == pytest.approx(100)


def test_case_counts_unless_asked_not_to():
    mixed, lower = (corpus_bleu(["A Dog runs over There"], ["a dog runs over there"], lowercase=value) for value in (False, True))
    assert mixed.score < 50 and mixed.chrf < 90
    assert lower[:2] == pytest.approx((100, 100)) and "case:lc" in lower.signature


def test_bleu_is_of_the_corpus_whatever_its_order():
    hypotheses, references = _corpus(7)
    order = random.Random(1).sample(range(len(hypotheses)), len(hypotheses))
    shuffled = corpus_bleu([hypotheses[i] for i in order], [references[i] for i in order])
    assert shuffled == pytest.approx(corpus_bleu(hypotheses, references)[:2] + (shuffled.signature,))
    assert corpus_bleu(hypotheses, [references[i] for i in order]).score < shuffled.score


@pytest.mark.parametrize(
    "hypotheses, references, said",
    [
        ([], [], "hypotheses is empty"),
        (["a"], ["a", "b"], "1 entries and references has 2"),
        (["a", "b"], ["a", "  "], r"references\[1\] is empty \(1 of 2"),
    ],
)
def test_bleu_refuses_what_it_cannot_count(hypotheses, references, said):
    with pytest.raises(ValueError, match=said):
        corpus_bleu(hypotheses, references)


def test_entity_f1_gives_seqevals_published_examples():
    """Its README: one of two entities found; an entity that begins with I- counts, as in conlleval."""
    true = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    scores = entity_f1(true, predicted)
    assert scores[:3] == (0.5, 0.5, 0.5)
    assert scores.by_type == {"MISC": (0, 0, 0, 1), "PER": (1, 1, 1, 1)}
    assert entity_f1([["B-NP", "I-NP", "O"]], [["I-NP", "I-NP", "O"]])[:3] == (1, 1, 1)


def test_entity_f1_gives_conllevals_published_output():
    """The output example of the CoNLL-2000 task: 459 phrases, 539 found, 371 of them right."""
    counts = {  # found right, found, true; then precision, recall and F1 in percent as published
        "ADJP": (0, 1, 6, 0.00, 0.00, 0.00),
        "ADVP": (5, 11, 8, 45.45, 62.50, 52.63),
        "NP": (206, 317, 262, 64.98, 78.63, 71.16),
        "PP": (89, 107, 90, 83.18, 98.89, 90.36),
        "SBAR": (2, 3, 6, 66.67, 33.33, 44.44),
        "VP": (69, 100, 87, 69.00, 79.31, 73.80),
    }
    pairs = []
    for kind, (right, found, there, *_) in counts.items():
        tag = f"B-{kind}"
        pairs += [(tag, tag)] * right + [("O", tag)] * (found - right) + [(tag, "O")] * (there - right)
    random.Random(0).shuffle(pairs)
    sentences = [pairs[i : i + 7] for i in range(0, len(pairs), 7)]
    scores = entity_f1([[t for t, _ in s] for s in sentences], [[p for _, p in s] for s in sentences])
    assert [round(100 * value, 2) for value in scores[:3]] == [68.83, 80.83, 74.35]
    assert list(scores.by_type) == sorted(counts)
    for kind, (_, _, there, *published) in counts.items():
        assert [round(100 * value, 2) for value in scores.by_type[kind][:3]] == published
        assert scores.by_type[kind].support == there


def _spans(sentences):
    """Entities by conlleval's rule for B-, I- and O, written by itself."""
    found = set()
    for i, tags in enumerate(sentences):
        start = None
        for t, tag in enumerate([*tags, "O"]):
            if start is not None and tag != "I-" + tags[start][2:]:
                found.add((i, start, t, tags[start][2:]))
                start = None
            if start is None and tag != "O":
                start = t
    return found


@pytest.mark.parametrize("seed", range(3))
def test_entity_f1_of_any_tags(seed):
    draw = random.Random(seed)
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    true = [draw.choices(tags, k=draw.randrange(9)) for _ in range(60)]
    predicted = [[tag if draw.random() < 0.8 else draw.choice(tags) for tag in sentence] for sentence in true]
    scores, (theirs, ours) = entity_f1(true, predicted), (_spans(true), _spans(predicted))
    right = len(theirs & ours)
    assert 0 < right < len(theirs)
    precision, recall = right / len(ours), right / len(theirs)
    assert scores[:3] == pytest.approx((precision, recall, 2 * precision * recall / (precision + recall)))
    assert sum(entry.support for entry in scores.by_type.values()) == len(theirs)


def test_an_entity_ends_with_its_sentence():
    assert entity_f1([["B-PER"], ["I-PER"]], [["B-PER"], ["I-PER"]]).by_type["PER"].support == 2


@pytest.mark.parametrize(
    "true, predicted, support",
    [
        ([["O"]], [["O"]], {}),
        ([], [], {}),
        ([[]], [[]], {}),
        ([["B-A"]], [["O"]], {"A": 1}),
        ([["O"]], [["S-A"]], {"A": 0}),
    ],
)
def test_nothing_to_find_and_nothing_found_is_zero_without_a_warning(true, predicted, support):
    scores = entity_f1(true, predicted)
    assert scores[:3] == (0, 0, 0)
    assert {kind: entry.support for kind, entry in scores.by_type.items()} == support


@pytest.mark.parametrize(
    "true, predicted, said",
    [
        ([["O"]], [], "true has 1 entries and predicted has 0"),
        ([["O"], ["O"]], [["O"], ["O", "O"]], r"true\[1\] has 1 tags and predicted\[1\] has 2"),
        ([["O"]], [["NOUN"]], "sentence 0 has the tag 'NOUN'"),
        ([["B-"]], [["O"]], "sentence 0 has the tag 'B-'"),
    ],
)
def test_entity_f1_refuses_what_are_no_entities(true, predicted, said):
    with pytest.raises(ValueError, match=said):
        entity_f1(true, predicted)


@pytest.mark.parametrize("package, call", [("sacrebleu", corpus_bleu), ("seqeval", lambda a, b: entity_f1([["O"]], [["O"]]))])
def test_a_missing_package_is_named(monkeypatch, package, call):
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{package}, which is not installed; run pip install -e '\.\[experiments\]'"):
        call(["a"], ["a"])
