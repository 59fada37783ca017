"""n-gram language models with interpolated modified Kneser-Ney smoothing, vectorised over the whole stream."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqjax.errors import UserError
from seqjax.text.vocabulary import BOS, PAD

# The discounts of an order whose counts of counts give none; the same as KenLM's --discount_fallback.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


class _Level(NamedTuple):
    """The n-grams of one order, each coded as `context * vocab_size + token`, the context as its id one order below."""

    codes: np.ndarray  # int64 (n-grams,), sorted; an n-gram's id is its index
    probs: np.ndarray  # float64 (n-grams,): p(token | context), interpolated
    backoffs: np.ndarray  # float64 (contexts + 1,): gamma; 1 for a context never followed and, last, for one not seen
    start: int  # the id of this order's n-gram of bos alone, the context of a document's first token


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NGramModel:
    r"""An n-gram model with interpolated modified Kneser-Ney smoothing, built by `fit`.

    With h the n - 1 tokens before w, and h' those without the first,

        p(w | h) = max(c(h w) - D(c(h w)), 0) / c(h) + gamma(h) p(w | h')
        gamma(h) = (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / c(h),        c(h) = sum_w c(h w)

    where Nk(h) is how many w have c(h w) = k. At the highest order c counts occurrences; below it, c(h w) is the number
    of distinct tokens that precede h w (continuation counts). The unigrams back off to the uniform distribution over
    the tokens that are not excluded. Where c(h) = 0, p(w | h) = p(w | h'). Each order has its own discounts, from the
    numbers n1 to n4 of its n-grams with a count of 1 to 4:

        Y = n1 / (n1 + 2 n2),  D1 = 1 - 2 Y n2 / n1,  D2 = 2 - 3 Y n3 / n2,  D3+ = 3 - 4 Y n4 / n3

    An order for which n1 to n4 are not all positive, or a discount is not above 0, uses 0.5, 1 and 1.5 instead; either
    way 0 < Dk < k, so that probabilities are positive and sum to one over the tokens not excluded.

    A stream is one or more documents end to end. At the start of a document the history is n - 1 times bos, also in
    counting: bos precedes tokens, and is itself never counted unless it is in the stream.

    Attributes:
      order: n.
      vocab_size: the number of ids.
      excluded: the ids that are never predicted.
      discounts: float64 (n, 3): D1, D2, D3+ of each order from 1 to n.

    Example:
      >>> tokens = np.array([4, 5, 4, 5, 4, 6], np.int32)
      >>> starts = np.array([True, False, False, False, False, False])
      >>> model = NGramModel.fit(tokens, starts, order=2, vocab_size=7)
      >>> round(model.perplexity(tokens, starts), 3)
      1.971

    Reference: Chen and Goodman, "An empirical study of smoothing techniques for language modeling", Computer Speech and
    Language 13 (1999).
    """

    order: int
    vocab_size: int
    excluded: tuple[int, ...]
    discounts: np.ndarray
    _levels: tuple[_Level, ...]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(level.codes):,}" for level in self._levels)
        return f"NGramModel(order={self.order}, vocab_size={self.vocab_size}, n-grams by order: {sizes})"

    @classmethod
    def fit(
        cls,
        tokens: np.ndarray,
        starts: np.ndarray,
        *,
        order: int,
        vocab_size: int,
        excluded: Sequence[int] = (PAD, BOS),
    ) -> "NGramModel":
        """Counts a stream's n-grams of every order up to `order` and computes their probabilities.

        Args:
          tokens: integers (N,), documents end to end.
          starts: bool (N,), true where a document begins; true at 0.
          order: n, at least 1.
          vocab_size: the number of ids, including the four special ones.
          excluded: ids that are never predicted and have no probability; the stream must not contain them.

        Returns:
          The model.

        Raises:
          UserError: an argument is not as described.

        Example:
          >>> model = NGramModel.fit(np.array([4, 4, 5]), np.array([True, False, True]), order=1, vocab_size=6)
          >>> np.exp(model.log_probs(np.array([4, 5, 1]), np.array([True, False, False]))).round(4)
          array([0.4583, 0.2917, 0.125 ])
        """
        for name, value, least in (("order", order, 1), ("vocab_size", vocab_size, 4)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise UserError(f"{name} is {value!r}; give a whole number of at least {least}")
        excluded = _check_excluded(excluded, vocab_size)
        tokens, starts = _check_stream(tokens, starts, vocab_size, excluded)
        grams = _count(tokens, starts, order, vocab_size)
        levels, discounts = [], []
        lower = np.array([1 / (vocab_size - len(excluded))])
        num_contexts = 1
        for codes, counts, suffixes, start in grams:
            discounts.append(_discounts(counts))
            probs, backoffs = _interpolate(codes // vocab_size, num_contexts, counts, discounts[-1], lower[suffixes])
            levels.append(_Level(codes, probs, backoffs, start))
            lower, num_contexts = probs, len(codes) + 1
        return cls(int(order), int(vocab_size), excluded, np.array(discounts), tuple(levels))

    def log_probs(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Computes the natural logarithm of each token's probability given those before it in its document.

        Args:
          tokens: integers (N,), documents end to end.
          starts: bool (N,), true where a document begins; true at 0.

        Returns:
          float64 (N,).

        Raises:
          UserError: an argument is not as described, or a token is outside the vocabulary or excluded.
        """
        tokens, starts = _check_stream(tokens, starts, self.vocab_size, self.excluded)
        probs = np.full(len(tokens), 1 / (self.vocab_size - len(self.excluded)))
        contexts = np.zeros(len(tokens), np.int64)  # ids one order below; -1 for a context never seen
        for level in self._levels:
            ids = _find(level.codes, contexts * self.vocab_size + tokens)  # an unseen context's codes are below 0
            probs = np.where(ids < 0, level.backoffs[contexts] * probs, level.probs[ids])
            contexts = _contexts(ids, starts, level.start)
        return np.log(probs)

    def nats(self, tokens: np.ndarray, starts: np.ndarray) -> float:
        """Computes the mean of -log p over the tokens of a stream, in nats; see `log_probs` for arguments and errors."""
        return float(-self.log_probs(tokens, starts).mean())

    def perplexity(self, tokens: np.ndarray, starts: np.ndarray) -> float:
        """Computes exp of `nats`, the geometric mean of 1 / p; see `log_probs` for arguments and errors."""
        return math.exp(self.nats(tokens, starts))


class _Grams(NamedTuple):
    """The distinct n-grams of one order."""

    codes: np.ndarray  # int64 (n-grams,), sorted
    counts: np.ndarray  # int64 (n-grams,): occurrences at the highest order, continuations below
    suffixes: np.ndarray  # int64 (n-grams,): the id, one order below, of the n-gram without its first token
    start: int


def _count(tokens: np.ndarray, starts: np.ndarray, order: int, vocab_size: int) -> list[_Grams]:
    """Counts the n-grams of orders 1 to `order`.

    The n-gram that ends at position i is the context of order n + 1 at i + 1, so each order takes one sort.
    """
    grams = []
    contexts = np.zeros(len(tokens), np.int64)
    ids_below = np.zeros(len(tokens), np.int64)
    start = 0
    for _ in range(order):
        codes, ids, examples, counts = _distinct(contexts * vocab_size + tokens)
        # If the stream contains bos itself, the n-gram of only bos may be among those counted.
        start = int(_find(codes, np.array([start * vocab_size + BOS]))[0])
        start = len(codes) if start < 0 else start
        suffixes = ids_below[examples]
        if grams:  # each distinct n-gram here is one token before its suffix
            grams[-1] = grams[-1]._replace(counts=np.bincount(suffixes, minlength=len(grams[-1].codes)))
        grams.append(_Grams(codes, counts, suffixes, start))
        contexts, ids_below = _contexts(ids, starts, start), ids
    return grams


def _contexts(ids: np.ndarray, starts: np.ndarray, start: int) -> np.ndarray:
    """Returns each position's context: the n-gram that ends just before it, or that of only bos at the start of a document."""
    contexts = np.empty_like(ids)
    contexts[1:] = ids[:-1]
    contexts[starts] = start
    return contexts


def _distinct(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distinct codes, sorted; each position's index among them; a position of each; and its count."""
    by_code = np.argsort(codes)
    ordered = codes[by_code]
    first = np.empty(len(codes), bool)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    ids = np.empty(len(codes), np.int64)
    ids[by_code] = np.cumsum(first) - 1
    places = np.flatnonzero(first)
    return ordered[places], ids, by_code[places], np.diff(places, append=len(codes))


def _find(codes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the index of each wanted code among the sorted codes, -1 if it is not among them."""
    places = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[places] == wanted, places, -1)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Computes D1, D2, D3+ from an order's counts of counts; `NGramModel` has the equations and the fallback."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == count)) for count in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return np.array(FALLBACK_DISCOUNTS)
    y = n1 / (n1 + 2 * n2)
    found = np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return found if (found > 0).all() else np.array(FALLBACK_DISCOUNTS)


def _interpolate(
    contexts: np.ndarray, num_contexts: int, counts: np.ndarray, discounts: np.ndarray, lower: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes one order's probabilities and backoffs from each n-gram's context, count and lower-order probability."""
    discount = discounts[np.minimum(counts, 3) - 1]
    totals = np.bincount(contexts, counts, num_contexts)
    freed = np.bincount(contexts, discount, num_contexts)
    backoffs = np.ones(num_contexts + 1)
    np.divide(freed, totals, out=backoffs[:-1], where=totals > 0)
    return (counts - discount) / totals[contexts] + backoffs[contexts] * lower, backoffs


def _check_excluded(excluded: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    ids = np.asarray(excluded)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise UserError(f"excluded is {excluded!r}; give a sequence of ids")
    if ids.size and not (0 <= ids.min() and ids.max() < vocab_size):
        raise UserError(f"excluded holds an id outside 0 to {vocab_size - 1}; give ids below vocab_size")
    ids = np.unique(ids)
    if len(ids) == vocab_size:
        raise UserError("excluded holds every id; leave at least one to predict")
    return tuple(ids.tolist())


def _check_stream(tokens: np.ndarray, starts: np.ndarray, vocab_size: int, excluded: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    tokens, starts = np.asarray(tokens), np.asarray(starts)
    if tokens.ndim != 1 or tokens.size == 0:
        raise UserError(f"tokens have shape {tokens.shape}; give one stream (N,) of at least one token")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(f"tokens have type {tokens.dtype}; give integers")
    if not (0 <= tokens.min() and tokens.max() < vocab_size):
        raise UserError(f"tokens run from {tokens.min()} to {tokens.max()}; ids must be from 0 to {vocab_size - 1}")
    forbidden = np.zeros(vocab_size, bool)
    forbidden[list(excluded)] = True
    if forbidden[tokens].any():
        place = int(np.argmax(forbidden[tokens]))
        raise UserError(f"tokens hold the excluded id {tokens[place]} at {place}; remove it, or do not exclude it")
    if starts.shape != tokens.shape or starts.dtype != bool:
        raise UserError(f"starts have shape {starts.shape} and type {starts.dtype}; give bool {tokens.shape}")
    if not starts[0]:
        raise UserError("starts is false at 0; the stream must begin with the start of a document")
    return tokens.astype(np.int64), starts
