"""Metrics of captions with several references each: CIDEr-D, BLEU-1 to BLEU-4 and chrF."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from seqjax.errors import missing
from seqjax.training.metrics.metric import check_pairs

ORDER = 4  # the longest n-grams of CIDEr-D
SIGMA = 6.0  # of CIDEr-D's length penalty


def cider_d(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    r"""CIDEr-D of a corpus: the similarity of captions and references, weighting n-grams specific to an image.

    .. math::
       \mathrm{CIDEr\mbox{-}D}(c, S) = \frac{10}{4} \sum_{n=1}^4 \frac{1}{|S|} \sum_{s \in S}
       e^{-(l_c - l_s)^2 / 2 \sigma^2} \frac{\min(g^n_c, g^n_s) \cdot g^n_s}{\|g^n_c\| \|g^n_s\|}

    with g the vector of n-gram counts times log(N / number of images whose references have the n-gram), and sigma = 6. The result is the
    mean over all images, in the variant of the COCO evaluation code, between 0 and 10 and usually published times 100. As there, the length
    l is the number of bigrams, and the documents are the references of these N images: with a single image all weights are 0.

    Args:
      hypotheses: N captions, words with spaces between (`seqjax.data.captioned.clean_caption`).
      references: of each, at least one.

    Returns:
      CIDEr-D, 0 to 10.

    Raises:
      ValueError: no caption, lists of unequal lengths, or a caption without references.

    Example:
      >>> round(cider_d(["a dog runs", "a cat sits"], [["a dog runs"], ["a cat sleeps", "a cat sits"]]), 3)
      6.25

    Reference:
      Vedantam, Zitnick and Parikh 2015, "CIDEr: Consensus-based Image Description Evaluation", arXiv:1411.5726.
    """
    _check(hypotheses, references)
    counted = [[_ngrams(reference) for reference in several] for several in references]
    documents = Counter(ngram for several in counted for ngram in set().union(*several))
    log_total = math.log(len(references))

    def weigh(counts: Counter) -> tuple[list[dict], list[float], int]:
        vectors: list[dict] = [{} for _ in range(ORDER)]
        for ngram, count in counts.items():
            vectors[len(ngram) - 1][ngram] = count * (log_total - math.log(max(1, documents[ngram])))
        norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
        return vectors, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    total = 0.0
    for hypothesis, several in zip(hypotheses, counted):
        own = weigh(_ngrams(hypothesis))
        total += sum(_likeness(own, weigh(counts)) for counts in several) / len(several)
    return 10 * total / len(hypotheses)


def _ngrams(text: str) -> Counter:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1))


def _likeness(own: tuple, reference: tuple) -> float:
    """The mean over n of the clipped cosines, times the length penalty."""
    (vectors, norms, length), (others, other_norms, other_length) = own, reference
    total = 0.0
    for vector, norm, other, other_norm in zip(vectors, norms, others, other_norms):
        if norm and other_norm:
            product = sum(min(value, other[ngram]) * other[ngram] for ngram, value in vector.items() if ngram in other)
            total += product / (norm * other_norm)
    return total / ORDER * math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))


def caption_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-1 to BLEU-4 and chrF2 as sacrebleu counts them, with all references, and CIDEr-D.

    BLEU-n is the geometric mean of the precisions up to n, times the brevity penalty. sacrebleu tokenizes by itself (13a); published
    captioning scores use the Stanford tokenizer, in lower case and without punctuation, which `seqjax.data.captioned.clean_caption`
    approximates.

    Args:
      hypotheses: N captions.
      references: at least one per caption; their numbers may differ.

    Returns:
      "bleu1" to "bleu4" and "chrf", 0 to 100; "cider", 0 to 10.

    Raises:
      ValueError: as `cider_d`.
      UserError: sacrebleu is not installed.

    Example:
      >>> found = caption_scores(["a dog runs on grass", "a cat"], [["a dog runs on grass"], ["a cat", "one cat"]])
      >>> round(found["bleu1"]), round(found["bleu4"]), round(found["chrf"])
      (100, 100, 100)

    Reference:
      Papineni et al. 2002, "BLEU"; Popovic 2015, "chrF"; Post 2018, arXiv:1804.08771.
    """
    _check(hypotheses, references)
    try:
        from sacrebleu.metrics import BLEU, CHRF  # pyright: ignore[reportPrivateImportUsage]
    except ImportError:
        raise missing("BLEU needs sacrebleu", "experiments") from None
    most = max(map(len, references))
    streams: list[Any] = [[several[i] if i < len(several) else None for several in references] for i in range(most)]
    bleus = {f"bleu{n}": BLEU(max_ngram_order=n).corpus_score(hypotheses, streams).score for n in range(1, 5)}
    return bleus | {"chrf": CHRF().corpus_score(hypotheses, streams).score, "cider": cider_d(hypotheses, references)}


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    check_pairs(hypotheses, references)
    if not hypotheses:
        raise ValueError("hypotheses is empty; give at least one caption")
    if empty := [i for i, several in enumerate(references) if not several or not all(text.split() for text in several)]:
        raise ValueError(f"references[{empty[0]}] is empty or has an empty one ({len(empty)} of {len(references)} do)")
