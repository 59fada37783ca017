"""Figures for answers that are counted: accuracy with its interval, exact matches, entity F1, BLEU and chrF."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from seqjax.errors import missing


class Bleu(NamedTuple):
    """How near translations come to their references."""

    score: float  # BLEU of the whole corpus, 0 to 100
    chrf: float  # chrF2 of the whole corpus, 0 to 100
    signature: str  # of the BLEU: what other people's figures must have been counted with to be comparable


class TypeScores(NamedTuple):
    """How well entities of one type are found."""

    precision: float  # share of the predicted that are right; 0 where none is predicted
    recall: float  # share of the true that are found; 0 where there is none
    f1: float  # their harmonic mean; 0 where both are 0
    support: int  # number of true entities


class EntityScores(NamedTuple):
    """How well entities are found, all types together and each."""

    precision: float  # share of the predicted entities that are right; 0 where none is predicted
    recall: float  # share of the true entities that are found; 0 where there is none
    f1: float  # their harmonic mean; 0 where both are 0
    by_type: dict[str, TypeScores]  # for each type that is true or predicted somewhere, in alphabetical order


def accuracy_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson's interval for the share of right answers.

    .. math::
       \frac{1}{1 + z^2 / n} \left(\hat p + \frac{z^2}{2 n} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}}\right)

    Args:
      correct: the number of right answers.
      total: n, the number of answers, at least 1.
      confidence: how often the interval holds the true share, in (0, 1); z is the quantile of the normal distribution that gives it.

    Returns:
      (low, high), both in [0, 1].

    Raises:
      ValueError: counts or a confidence that cannot be.

    Example:
      >>> low, high = accuracy_interval(870, 1000)
      >>> round(low, 4), round(high, 4)
      (0.8477, 0.8894)

    Reference:
      Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"correct={correct} of total={total}: total must be at least 1, and correct from 0 to total")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = correct / total, z * z / total
    centre = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    return (low if correct else 0.0), (high if correct < total else 1.0)  # exactly, without rounding


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> int:
    """How many answers are right to the last character.

    Args:
      hypotheses: the answers.
      references: what they should be, one each.

    Returns:
      The count.

    Raises:
      ValueError: lists of unequal lengths.

    Example:
      >>> exact_match(["2024-05-01", "2024-05-02"], ["2024-05-01", "2024-05-20"])
      1
    """
    _check_pairs(hypotheses, references)
    return sum(hypothesis == reference for hypothesis, reference in zip(hypotheses, references))


def bleu(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False) -> Bleu:
    """BLEU and chrF2 of a corpus with one reference for each translation, as sacrebleu counts them.

    The texts are given as people write them: sacrebleu takes them apart into words itself (tokenizer 13a), so that figures
    of different systems can be compared.

    Args:
      hypotheses: the translations, at least one.
      references: one for each, none of them empty.
      lowercase: do not tell upper from lower case.

    Returns:
      A Bleu.

    Raises:
      ValueError: no translation at all, lists of unequal lengths, an empty reference.
      UserError: sacrebleu is not installed.

    Example:
      >>> result = bleu(["the cat sat on the mat ."], ["the cat sat on a mat ."])
      >>> round(result.score, 1), round(result.chrf, 1)
      (48.9, 71.4)

    Reference:
      Papineni et al. 2002, "BLEU"; Popovic 2015, "chrF"; Post 2018, arXiv:1804.08771.
    """
    _check_pairs(hypotheses, references)
    if not hypotheses:
        raise ValueError("hypotheses is empty; BLEU needs at least one translation")
    empty = [i for i, reference in enumerate(references) if not reference.strip()]
    if empty:
        raise ValueError(f"references[{empty[0]}] is empty ({len(empty)} of {len(references)} are)")
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise missing("BLEU needs sacrebleu", "experiments") from None
    metric = BLEU(lowercase=lowercase)
    score = metric.corpus_score(hypotheses, [references]).score
    chrf = CHRF(lowercase=lowercase).corpus_score(hypotheses, [references]).score
    return Bleu(score, chrf, str(metric.get_signature()))


def entity_f1(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    r"""F1 over whole entities: one counts as found if its first word, its last word and its type are right.

    .. math:: F_1 = \frac{2 P R}{P + R}

    Counted by seqeval as the script conlleval of the CoNLL shared tasks does: an entity that begins without `B-` is one all the same.

    Args:
      true: the tags of each sentence: `O`, or `B-`, `I-`, `E-`, `S-` and a type.
      predicted: the same for the answers, each sentence as long as its true one.

    Returns:
      EntityScores, all zero where there is no entity.

    Raises:
      ValueError: sentences of unequal number or length, or a tag that is none of an entity.
      UserError: seqeval is not installed.

    Example:
      >>> scores = entity_f1([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "B-ORG"]])
      >>> scores.f1, sorted(scores.by_type), scores.by_type["PER"].support
      (0.5, ['LOC', 'ORG', 'PER'], 1)

    Reference:
      Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050.
    """
    _check_pairs(true, predicted, "true", "predicted")
    for i, (theirs, ours) in enumerate(zip(true, predicted)):
        if len(theirs) != len(ours):
            raise ValueError(f"true[{i}] has {len(theirs)} tags and predicted[{i}] has {len(ours)}")
        for tag in (*theirs, *ours):
            if tag != "O" and (tag[:2] not in ("B-", "I-", "E-", "S-") or len(tag) < 3):
                raise ValueError(f"sentence {i} has the tag {tag!r}; entity tags are O, B-, I-, E- or S- and a type")
    try:
        from seqeval.metrics.sequence_labeling import get_entities
    except ImportError:
        raise missing("entity F1 needs seqeval", "experiments") from None
    # seqeval's own scores warn where there is no entity to divide by; its spans are all that is needed.
    spans = [set(get_entities([list(sentence) for sentence in tags])) for tags in (true, predicted)]
    types = sorted({span[0] for span in spans[0] | spans[1]})
    by_type = {kind: _scores(*({s for s in group if s[0] == kind} for group in spans)) for kind in types}
    return EntityScores(*_scores(*spans)[:3], by_type)


def _scores(true: set, predicted: set) -> TypeScores:
    found = len(true & predicted)
    precision, recall = found / max(len(predicted), 1), found / max(len(true), 1)
    f1 = 2 * found / max(len(true) + len(predicted), 1)  # the harmonic mean, where 0 / 0 does not arise
    return TypeScores(precision, recall, f1, len(true))


def _check_pairs(first: Sequence, second: Sequence, name: str = "hypotheses", other: str = "references") -> None:
    if len(first) != len(second):
        raise ValueError(f"{name} has {len(first)} entries and {other} has {len(second)}; there must be one for each")
