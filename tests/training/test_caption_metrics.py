"""CIDEr-D against the numbers of the COCO evaluation code, and against a plain NumPy form; BLEU and chrF with several references."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest

from seqjax.training.metrics import caption_scores, cider_d, corpus_bleu

EXAMPLES = [
    ("a man rides a brown horse on the beach",
     ["a man is riding a horse on a beach", "a person rides a brown horse along the sea", "the man on the horse is at the beach",
      "man riding horse"]),
    ("two dogs play with a red ball",
     ["two dogs are playing with a ball in the grass", "two brown dogs play with a red ball", "dogs chase a ball"]),
    ("a plate of food", ["a white plate topped with meat and vegetables", "a plate of food on a wooden table"]),
    ("a a a a train train", ["a train is at the station", "a red train on the tracks next to a station platform"]),
    ("the bus stops", ["people wait for the bus at the corner of a street"]),
]  # fmt: skip
REFERENCE_CODE = 1.9711138188734734  # pycocoevalcap 1.2, Cider().compute_score


def test_cider_gives_the_number_of_the_reference_code():
    hypotheses, references = zip(*EXAMPLES)
    assert cider_d(hypotheses, references) == pytest.approx(REFERENCE_CODE, rel=1e-12)


def made(seed):
    rng, words = random.Random(seed), "a b c d e f".split()
    number = rng.randint(2, 6)

    def text():
        return " ".join(rng.choices(words, k=rng.randint(1, 9)))

    return [text() for _ in range(number)], [[text() for _ in range(rng.randint(1, 4))] for _ in range(number)]


def grams(text, n):
    words = text.split()
    return Counter(zip(*(words[i:] for i in range(n))))


def likeness(text, reference, n, every, weights):
    """The clipped cosine of two texts' vectors over all n-grams, times the penalty on their lengths."""
    a, b = (np.array([grams(t, n)[gram] for gram in every], float) * weights for t in (text, reference))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    gap = max(len(text.split()) - 1, 0) - max(len(reference.split()) - 1, 0)
    return np.minimum(a, b) @ b / norms * math.exp(-(gap**2) / (2 * 6.0**2)) if norms else 0.0


def dense(hypotheses, references):
    """The same with vectors over all n-grams of the set."""
    total, texts = 0.0, [*hypotheses, *itertools.chain.from_iterable(references)]
    for n in range(1, 5):
        every = sorted(set(itertools.chain.from_iterable(grams(text, n) for text in texts)))
        seen = [sum(any(gram in grams(text, n) for text in several) for several in references) for gram in every]
        weights = np.array([math.log(len(references)) - math.log(max(1, count)) for count in seen])
        for text, several in zip(hypotheses, references):
            total += np.mean([likeness(text, reference, n, every, weights) for reference in several])
    return 10 * total / 4 / len(hypotheses)


@pytest.mark.parametrize("seed", range(20))
def test_cider_equals_a_dense_form(seed):
    assert cider_d(*made(seed)) == pytest.approx(dense(*made(seed)), rel=1e-9, abs=1e-12)


def test_cider_equals_the_reference_code_where_that_is_installed():
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    for seed in range(30):
        hypotheses, references = made(seed)
        expected, _ = cider.Cider().compute_score(dict(enumerate(references)), {i: [text] for i, text in enumerate(hypotheses)})
        assert cider_d(hypotheses, references) == pytest.approx(expected, rel=1e-9)


def test_bleu_with_one_reference_is_that_of_translations():
    hypotheses = ["the cat sat on the mat here", "a dog ran along the old road"]
    references = ["the cat sat on a mat here", "a dog ran over the old road"]
    found, other = (
        caption_scores(hypotheses, [[reference] for reference in references]),
        corpus_bleu(hypotheses, references),
    )
    assert found["bleu4"] == pytest.approx(other.score) and found["chrf"] == pytest.approx(other.chrf)
    assert found["bleu1"] > found["bleu2"] > found["bleu3"] > found["bleu4"] > 0


def test_bleu_takes_the_best_of_references_of_which_there_may_be_any_number():
    hypotheses = ["a dog runs on the green grass", "a cat sleeps"]
    found = caption_scores(hypotheses, [["two birds", "a dog runs on the green grass", "one"], ["a cat sleeps"]])
    assert found["bleu4"] == pytest.approx(100) and found["bleu1"] == pytest.approx(100)
    assert caption_scores(hypotheses, [["two birds"], ["a cat sleeps"]])["bleu1"] < 60


@pytest.mark.parametrize(
    "hypotheses, references, words",
    [([], [], "empty"), (["a"], [], "one for each"), (["a"], [[]], "references"), (["a"], [["a", " "]], "empty")],
)
def test_what_cannot_be_scored(hypotheses, references, words):
    with pytest.raises(ValueError, match=words):
        caption_scores(hypotheses, references)
