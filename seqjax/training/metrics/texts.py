"""Metrics of generated text: exact matches, BLEU and chrF."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from seqjax.errors import missing
from seqjax.training.metrics.metric import Metric, check_pairs


class Bleu(NamedTuple):
    """How close translations are to their references."""

    score: float  # BLEU of the whole corpus, 0 to 100
    chrf: float  # chrF2 of the whole corpus, 0 to 100
    signature: str  # sacrebleu's signature: only scores with the same one are comparable


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> int:
    """How many answers match exactly.

    Args:
      hypotheses: the answers.
      references: the correct answers, one each.

    Returns:
      The count.

    Raises:
      ValueError: lists of unequal lengths.

    Example:
      >>> exact_match(["2024-05-01", "2024-05-02"], ["2024-05-01", "2024-05-20"])
      1
    """
    check_pairs(hypotheses, references)
    return sum(hypothesis == reference for hypothesis, reference in zip(hypotheses, references))


def exact() -> Metric:
    """The share of answers that match exactly.

    Returns:
      A Metric of (hypotheses, references), equally long; `compute` gives `exact`, NaN if nothing was counted.

    Example:
      >>> metric = exact()
      >>> metric.compute(metric.update(metric.init(), (["a", "b"], ["a", "c"])))
      {'exact': 0.5}
    """

    def update(state, new):
        right, total = state
        return right + exact_match(*new), total + len(new[0])

    def compute(state):
        right, total = state
        return {"exact": right / total if total else math.nan}

    return Metric(lambda: (0, 0), update, compute)


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False) -> Bleu:
    """BLEU and chrF2 of a corpus with one reference per translation, as computed by sacrebleu.

    Give the texts as people write them: sacrebleu tokenizes them itself (tokenizer 13a), so that scores of different systems are
    comparable.

    Args:
      hypotheses: the translations, at least one.
      references: one per translation, none empty.
      lowercase: do not tell upper from lower case.

    Returns:
      A Bleu.

    Raises:
      ValueError: no translations, lists of unequal lengths, or an empty reference.
      UserError: sacrebleu is not installed.

    Example:
      >>> result = corpus_bleu(["the cat sat on the mat ."], ["the cat sat on a mat ."])
      >>> round(result.score, 1), round(result.chrf, 1)
      (48.9, 71.4)

    Reference:
      Papineni et al. 2002, "BLEU"; Popovic 2015, "chrF"; Post 2018, arXiv:1804.08771.
    """
    check_pairs(hypotheses, references)
    if not hypotheses:
        raise ValueError("hypotheses is empty; BLEU needs at least one translation")
    empty = [i for i, reference in enumerate(references) if not reference.strip()]
    if empty:
        raise ValueError(f"references[{empty[0]}] is empty ({len(empty)} of {len(references)} are)")
    try:
        from sacrebleu.metrics import BLEU, CHRF  # pyright: ignore[reportPrivateImportUsage]
    except ImportError:
        raise missing("BLEU needs sacrebleu", "experiments") from None
    metric = BLEU(lowercase=lowercase)
    score = metric.corpus_score(hypotheses, [references]).score
    chrf = CHRF(lowercase=lowercase).corpus_score(hypotheses, [references]).score
    return Bleu(score, chrf, str(metric.get_signature()))


def bleu(*, lowercase: bool = False) -> Metric:
    """BLEU of a corpus.

    Args:
      lowercase: do not tell upper from lower case.

    Returns:
      A Metric of (hypotheses, references), equally long; its state is the pairs so far, and `compute` gives `bleu`, 0 to 100, NaN
      if there is no translation.

    Example:
      >>> metric = bleu()
      >>> state = metric.update(metric.init(), (["the cat sat on the mat ."], ["the cat sat on a mat ."]))
      >>> round(metric.compute(state)["bleu"], 1)
      48.9

    Reference: see corpus_bleu.
    """

    def update(state, new):
        check_pairs(*new)
        return state + tuple(zip(*new))

    def compute(state):
        return {"bleu": corpus_bleu(*map(list, zip(*state)), lowercase=lowercase).score if state else math.nan}

    return Metric(tuple, update, compute)
