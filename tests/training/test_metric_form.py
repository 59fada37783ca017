"""Metrics as init, update, compute: parts in any order and of any sizes add up to the whole."""

import functools
import math
import random

import numpy as np
import pytest

from seqjax.training import metrics
from seqjax.training.losses import Sums, bits, perplexity


def _run(metric, parts):
    return metric.compute(functools.reduce(metric.update, parts, metric.init()))


def _texts(seed, size=30):
    draw = random.Random(seed)
    references = [" ".join(draw.choices("the a cat dog sat on mat".split(), k=9)) for _ in range(size)]
    return [text if draw.random() < 0.3 else text.replace(" a ", " the ") for text in references], references


def _tags(seed, size=30):
    draw = random.Random(seed)
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    true = [draw.choices(tags, k=draw.randrange(9)) for _ in range(size)]
    return true, [[tag if draw.random() < 0.8 else draw.choice(tags) for tag in sentence] for sentence in true]


CASES = {
    "bleu": (metrics.bleu(), _texts, lambda *pair: {"bleu": metrics.corpus_bleu(*pair).score}),
    "bleu, lower case": (
        metrics.bleu(lowercase=True),
        lambda seed: ([text.title() for text in _texts(seed)[0]], _texts(seed)[1]),
        lambda *pair: {"bleu": metrics.corpus_bleu(*pair, lowercase=True).score},
    ),
    "exact": (metrics.exact(), _texts, lambda *pair: {"exact": metrics.exact_match(*pair) / len(pair[0])}),
    "entities": (metrics.entities(), _tags, lambda *pair: {"f1": metrics.entity_f1(*pair).f1}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_parts_in_any_order_are_the_whole(name, seed):
    metric, make, whole = CASES[name]
    ours, theirs = make(seed)
    wanted = whole(ours, theirs)
    assert 0 < next(iter(wanted.values())) != 1
    borders = [0, *sorted(random.Random(seed).sample(range(len(ours)), 4)), len(ours)]
    parts = [(ours[a:b], theirs[a:b]) for a, b in zip(borders, borders[1:])]
    random.Random(seed).shuffle(parts)
    assert _run(metric, parts) == pytest.approx(wanted) == _run(metric, [(ours, theirs)])
    assert metric.init() == metric.init()  # nothing was added to it


def test_states_are_not_changed_by_an_update():
    for metric, make, _ in CASES.values():
        state = metric.update(metric.init(), make(0))
        before = repr(state)
        metric.update(state, make(1))
        assert repr(state) == before


def test_nothing_counted():
    assert math.isnan(_run(metrics.bleu(), [])["bleu"]) and math.isnan(_run(metrics.exact(), [])["exact"])
    assert _run(metrics.entities(), []) == {"f1": 0.0} == _run(metrics.entities(), [([["O"]], [["O"]])])
    assert _run(metrics.token_loss(bits=bits), []) == {"loss": math.inf, "bits": math.inf}
    found = _run(metrics.accuracy(), [])
    assert list(found) == ["loss", "error", "accuracy"] and math.isnan(found["error"]) and math.isnan(found["accuracy"])
    found = _run(metrics.accuracy(), [Sums(0.0, 0.0, {"correct": 0.0})])  # every step of an interval was skipped
    assert math.isnan(found["error"]) and math.isnan(found["accuracy"])


@pytest.mark.parametrize("metric", [metrics.bleu(), metrics.exact(), metrics.entities()])
def test_lists_of_unequal_lengths_are_refused(metric):
    with pytest.raises(ValueError, match="2 entries and .* has 1"):
        metric.update(metric.init(), ([["O"], ["O"]], [["O"]]))


def _sums(seed):
    rng = np.random.default_rng(seed)
    return [Sums(*rng.uniform(1, 9, 2), {"correct": rng.uniform(), "other": rng.uniform()}) for _ in range(5)]


@pytest.mark.parametrize("seed", range(3))
def test_losses_and_counts_are_means_over_all_tokens(seed):
    parts = _sums(seed)
    tokens = sum(part.tokens for part in parts)
    loss = sum(part.loss for part in parts) / tokens
    correct, other = (sum(part.counts[name] for part in parts) / tokens for name in ("correct", "other"))
    found = _run(metrics.token_loss(perplexity=perplexity, bits=bits), parts)
    assert list(found) == ["loss", "correct", "other", "perplexity", "bits"]
    assert found == pytest.approx(
        {"loss": loss, "correct": correct, "other": other, "perplexity": math.exp(loss), "bits": loss / math.log(2)}
    )
    assert _run(metrics.accuracy(), parts) == pytest.approx({"loss": loss, "error": 1 - correct, "accuracy": correct})


def test_a_count_that_some_parts_lack_is_kept():
    parts = [Sums(1.0, 2.0), Sums(3.0, 2.0, {"a": 1.0}), Sums(0.0, 4.0, {"b": 2.0})]
    assert _run(metrics.token_loss(), parts) == {"loss": 0.5, "a": 0.125, "b": 0.25}


def test_sums_from_the_device_count_as_well():
    import jax.numpy as jnp

    parts = [Sums(jnp.float32(6.0), jnp.float32(4.0), {"correct": jnp.float32(3.0)})] * 2
    found = _run(metrics.accuracy(), parts)
    assert found == {"loss": 1.5, "error": 0.25, "accuracy": 0.75}
    assert all(type(value) is float for value in found.values())
