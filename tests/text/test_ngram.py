"""The n-gram model against a slow one with dictionaries, written from the equations of Chen and Goodman (1999)."""

import collections
import gzip
import math

import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.text import BOS, EOS, PAD, CharTokenizer, NGramModel, WordTokenizer
from seqjax.text.ngram import FALLBACK_DISCOUNTS


class SlowKneserNey:
    """Interpolated modified Kneser-Ney over documents, one n-gram at a time."""

    def __init__(self, documents, order, vocabulary):
        self.order, self.vocabulary = order, vocabulary
        grams = {n: collections.Counter() for n in range(1, order + 1)}
        for document in documents:
            padded = [BOS] * (order - 1) + list(document)
            for i in range(order - 1, len(padded)):
                for n in range(1, order + 1):
                    grams[n][tuple(padded[i - n + 1 : i + 1])] += 1
        # c(h w): occurrences at the highest order, N1+(. h w) below.
        self.counts = {order: grams[order]}
        for n in range(1, order):
            self.counts[n] = collections.Counter(longer[1:] for longer in grams[n + 1])
        self.discounts = {n: self._discounts(counts) for n, counts in self.counts.items()}
        self.followers = {n: collections.defaultdict(dict) for n in self.counts}
        for n, counts in self.counts.items():
            for gram, count in counts.items():
                self.followers[n][gram[:-1]][gram[-1]] = count

    @staticmethod
    def _discounts(counts):
        n = collections.Counter(counts.values())
        if 0 in (n[1], n[2], n[3], n[4]):
            return {1: 0.5, 2: 1.0, 3: 1.5}
        y = n[1] / (n[1] + 2 * n[2])
        found = {k: k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)}
        return found if min(found.values()) > 0 else {1: 0.5, 2: 1.0, 3: 1.5}

    def prob(self, word, history):
        """p(word | history), history the last order - 1 tokens."""
        return self._prob(word, tuple(history), len(history) + 1)

    def _prob(self, word, history, n):
        if n == 0:
            return 1 / len(self.vocabulary)
        lower = self._prob(word, history[1:], n - 1)
        followers = self.followers[n].get(history)
        if not followers:
            return lower
        discount = self.discounts[n]
        total = sum(followers.values())
        count = followers.get(word, 0)
        own = max(count - discount[min(count, 3)], 0) if count else 0
        gamma = sum(discount[min(c, 3)] for c in followers.values()) / total
        return own / total + gamma * lower

    def log_probs(self, documents):
        result = []
        for document in documents:
            padded = [BOS] * (self.order - 1) + list(document)
            for i, word in enumerate(document):
                result.append(math.log(self.prob(word, padded[i : i + self.order - 1])))
        return np.array(result)


def stream(documents):
    tokens = np.concatenate([np.asarray(document, np.int32) for document in documents])
    starts = np.zeros(len(tokens), bool)
    starts[np.cumsum([0] + [len(document) for document in documents[:-1]])] = True
    return tokens, starts


def random_documents(rng, sizes, vocab_size, lowest=3, repeat=0.5):
    """Documents whose tokens often repeat what followed the same token before, so that long n-grams recur."""
    favourite = rng.integers(lowest, vocab_size, vocab_size)
    documents = []
    for size in sizes:
        document = [int(rng.integers(lowest, vocab_size))]
        while len(document) < size:
            habit = rng.random() < repeat
            document.append(int(favourite[document[-1]] if habit else lowest + rng.zipf(1.7) % (vocab_size - lowest)))
        documents.append(document)
    return documents


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("vocab_size, sizes", [(9, (40, 1, 7, 25)), (30, (900, 300, 2)), (60, (1500, 1, 1500))])
def test_equals_the_slow_model(order, vocab_size, sizes):
    rng = np.random.default_rng([order, vocab_size])
    train = random_documents(rng, sizes, vocab_size)
    held_out = random_documents(rng, (60, 1, 30), vocab_size)
    slow = SlowKneserNey(train, order, [i for i in range(vocab_size) if i not in (PAD, BOS)])
    model = NGramModel.fit(*stream(train), order=order, vocab_size=vocab_size)
    want = [list(slow.discounts[n].values()) for n in range(1, order + 1)]
    np.testing.assert_allclose(model.discounts, want, rtol=1e-12)
    for documents in (train, held_out):
        np.testing.assert_allclose(model.log_probs(*stream(documents)), slow.log_probs(documents), rtol=1e-10)


def test_the_comparison_meets_estimated_and_fallback_discounts():
    estimated = NGramModel.fit(*stream(random_documents(np.random.default_rng(0), (1500,), 60)), order=3, vocab_size=60)
    assert (estimated.discounts[2] != FALLBACK_DISCOUNTS).all()
    few = NGramModel.fit(*stream(random_documents(np.random.default_rng(0), (12,), 60)), order=3, vocab_size=60)
    assert (few.discounts == FALLBACK_DISCOUNTS).all()


@pytest.mark.parametrize("order", [1, 2, 4])
def test_bos_inside_the_stream_is_the_same_bos_as_before_it(order):
    rng = np.random.default_rng(order)
    documents = random_documents(rng, (200, 1, 50), 7, lowest=2)
    documents[0][:4] = [BOS, BOS, 3, BOS]
    documents[2][0] = BOS
    slow = SlowKneserNey(documents, order, range(7))
    model = NGramModel.fit(*stream(documents), order=order, vocab_size=7, excluded=())
    np.testing.assert_allclose(model.log_probs(*stream(documents)), slow.log_probs(documents), rtol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("excluded", [(PAD, BOS), (), (0, 2, 5, 11)])
def test_probabilities_sum_to_one_after_any_context(order, excluded):
    rng = np.random.default_rng([order, len(excluded)])
    allowed = [i for i in range(12) if i not in excluded]
    train = [rng.choice(allowed[:-2], size).tolist() for size in (80, 5, 40)]
    model = NGramModel.fit(*stream(train), order=order, vocab_size=12, excluded=excluded)
    seen = [train[0][10 : 10 + length] for length in range(6)]
    unseen = [[allowed[-1]] * 3, [train[0][0], allowed[-1]], rng.choice(allowed, 6).tolist(), train[2][-4:]]
    for context in seen + unseen:
        tokens, starts = stream([[*context, word] for word in allowed])
        probs = np.exp(model.log_probs(tokens, starts))[len(context) :: len(context) + 1]
        assert len(probs) == len(allowed) and (probs > 0).all()
        assert probs.sum() == pytest.approx(1, abs=1e-12)


def test_unigrams_by_hand():
    # Counts 1, 2, 3, 4 for ids 4, 5, 6, 7; n1 = n2 = n3 = n4 = 1, so Y = 1/3, D1 = 1/3, D2 = 1, D3+ = 5/3.
    # Freed: 1/3 + 1 + 5/3 + 5/3 = 14/3 of 10, spread over the 6 ids that are not excluded.
    tokens, starts = stream([[7, 6, 5, 4, 7], [6, 7, 5, 6, 7]])
    model = NGramModel.fit(tokens, starts, order=1, vocab_size=8)
    np.testing.assert_allclose(model.discounts, [[1 / 3, 1, 5 / 3]], rtol=1e-12)
    spread = 14 / 30 / 6
    want = [(2 / 3) / 10 + spread, 1 / 10 + spread, (4 / 3) / 10 + spread, (7 / 3) / 10 + spread, spread, spread]
    got = np.exp(model.log_probs(*stream([[4, 5, 6, 7, 1, 3]])))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert model.nats(*stream([[4, 1]])) == pytest.approx(-(math.log(want[0]) + math.log(spread)) / 2)
    assert model.perplexity(*stream([[4, 1]])) == pytest.approx(1 / math.sqrt(want[0] * spread))


def test_a_bigram_by_hand():
    # One document 4 5 4; discounts fall back. Bigrams bos 4, 4 5, 5 4: continuation counts 2 and 1 for 4 and 5.
    # Over 4 ids: p(4) = 1/3 + 1/2 * 1/4, p(5) = 0.5/3 + 1/2 * 1/4; then p(5 | 4) = 0.5 + 0.5 p(5).
    model = NGramModel.fit(*stream([[4, 5, 4]]), order=2, vocab_size=6)
    p4, p5 = 1 / 3 + 1 / 8, 0.5 / 3 + 1 / 8
    want = [0.5 + 0.5 * p4, 0.5 + 0.5 * p5, 0.5 * p5]
    np.testing.assert_allclose(np.exp(model.log_probs(*stream([[4, 5, 5]]))), want, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 4])
def test_a_start_cuts_the_history(order):
    documents = random_documents(np.random.default_rng(8), (150, 30), 9)
    model = NGramModel.fit(*stream(documents), order=order, vocab_size=9)
    together = model.log_probs(*stream(documents))
    apart = np.concatenate([model.log_probs(*stream([document])) for document in documents])
    np.testing.assert_array_equal(together, apart)
    joined = model.log_probs(*stream([documents[0] + documents[1]]))
    assert joined[150] != together[150]
    np.testing.assert_array_equal(joined[150 + order - 1 :], together[150 + order - 1 :])


def test_no_token_but_the_last_ones_matters():
    rng = np.random.default_rng(5)
    documents = random_documents(rng, (400,), 9)
    model = NGramModel.fit(*stream(documents), order=3, vocab_size=9)
    tokens, starts = stream(documents)
    changed = tokens.copy()
    changed[100] = 3 + (tokens[100] - 2) % 6
    assert changed[100] != tokens[100]
    differs = np.flatnonzero(model.log_probs(changed, starts) != model.log_probs(tokens, starts))
    assert differs.min() == 100 and differs.max() == 102


@pytest.mark.parametrize("documents, order", [([[4]], 1), ([[4]], 3), ([[4, 5]], 7), ([[4], [5], [4]], 5)])
def test_order_beyond_the_stream(documents, order):
    slow = SlowKneserNey(documents, order, [1, 3, 4, 5, 6])
    model = NGramModel.fit(*stream(documents), order=order, vocab_size=7)
    for held_out in (documents, [[6, 6, 5], [4, 6]]):
        np.testing.assert_allclose(model.log_probs(*stream(held_out)), slow.log_probs(held_out), rtol=1e-12)


TOKENS, STARTS = stream([[4, 5, 6], [5, 4]])


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"order": 0}, "order"),
        ({"order": 2.0}, "order"),
        ({"order": True}, "order"),
        ({"vocab_size": 3}, "vocab_size"),
        ({"excluded": (0, 9)}, "excluded"),
        ({"excluded": "pad"}, "excluded"),
        ({"excluded": range(7)}, "excluded"),
        ({"excluded": (5,)}, "excluded id 5 at 1"),
        ({"tokens": TOKENS + 3}, "tokens"),
        ({"tokens": TOKENS - 5}, "tokens"),
        ({"tokens": TOKENS * 1.0}, "tokens"),
        ({"tokens": TOKENS[None]}, "tokens"),
        ({"tokens": TOKENS[:0], "starts": STARTS[:0]}, "tokens"),
        ({"starts": STARTS[:-1]}, "starts"),
        ({"starts": STARTS.astype(int)}, "starts"),
        ({"starts": ~STARTS}, "starts"),
    ],
)
def test_bad_input_is_named(changes, named):
    settings = {"tokens": TOKENS, "starts": STARTS, "order": 2, "vocab_size": 7} | changes
    with pytest.raises(UserError, match=named) as error:
        NGramModel.fit(settings.pop("tokens"), settings.pop("starts"), **settings)
    assert "\n" not in str(error.value)


def test_an_excluded_token_cannot_be_scored():
    model = NGramModel.fit(TOKENS, STARTS, order=2, vocab_size=7)
    with pytest.raises(UserError, match="excluded id 2 at 3"):
        model.log_probs(np.array([4, 5, 6, BOS, 5]), STARTS)
    with pytest.raises(UserError, match="starts"):
        model.nats(TOKENS, ~STARTS)


def test_tiny_shakespeare(shared):
    with gzip.open(shared / "data/tinyshakespeare/input.txt.gz", "rt", encoding="utf-8", newline="") as file:
        text = file.read()
    tokenizer = CharTokenizer.fit(text)
    train, valid = (stream([tokenizer.encode(part)]) for part in (text[:1003854], text[1003854:]))
    nats = {order: NGramModel.fit(*train, order=order, vocab_size=tokenizer.vocab_size).nats(*valid) for order in range(4, 9)}
    assert min(nats, key=nats.get) == 7
    assert nats[7] == pytest.approx(1.5165, abs=2e-4)


def test_wikitext_2(shared):
    split = {}
    for name in ("train", "valid", "test"):
        with gzip.open(shared / f"data/wikitext-2/{name}.txt.gz", "rt", encoding="utf-8", newline="\n") as file:
            split[name] = file.read().replace("\n", " <eos> ")
    tokenizer = WordTokenizer.fit([split["train"]], pretokenized=True)
    streams = {name: stream([tokenizer.encode(text)]) for name, text in split.items()}
    assert {name: len(tokens) for name, (tokens, _) in streams.items()} == {
        "train": 2_088_628,
        "valid": 217_646,
        "test": 245_569,
    }
    assert tokenizer.vocab_size == 33_278 + 2  # pad and bos do not occur
    assert all((tokens == EOS).sum() == split[name].count(" <eos> ") for name, (tokens, _) in streams.items())
    assert not tokenizer.unknown(split["test"])
    model = NGramModel.fit(*streams["train"], order=5, vocab_size=tokenizer.vocab_size)
    assert model.perplexity(*streams["valid"]) == pytest.approx(232.50, abs=0.01)
    assert model.perplexity(*streams["test"]) == pytest.approx(217.79, abs=0.01)
