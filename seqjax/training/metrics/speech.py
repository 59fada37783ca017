"""Word and character error rates of recognised speech, by jiwer."""

from collections.abc import Sequence
from typing import NamedTuple

from seqjax.errors import missing
from seqjax.training.metrics.metric import check_pairs


class ErrorRates(NamedTuple):
    """Errors against the reference: substitutions, deletions and insertions per reference word or character."""

    wer: float
    cer: float
    words: int  # in the references
    characters: int
    word_errors: int


def error_rates(hypotheses: Sequence[str], references: Sequence[str]) -> ErrorRates:
    r"""Word and character error rates of a whole dataset.

    .. math:: \mathrm{WER} = \frac{S + D + I}{N}

    Args:
      hypotheses: the recognised texts.
      references: the spoken texts, one per hypothesis, with at least one word in all.

    Returns:
      ErrorRates, which may be above 1.

    Raises:
      ValueError: lists of unequal lengths, or references without a word.
      UserError: jiwer is not installed.

    Example:
      >>> error_rates(["the cat", "sat"], ["the cat", "sat on"])
      ErrorRates(wer=0.25, cer=0.23076923076923078, words=4, characters=13, word_errors=1)
    """
    check_pairs(hypotheses, references)
    if not any(reference.strip() for reference in references):
        raise ValueError("references have no word; an error rate needs at least one")
    try:
        import jiwer
    except ImportError:
        raise missing("error rates need jiwer", "speech") from None
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    count, total = (found.hits + found.substitutions + found.deletions for found in (words, characters))
    errors = words.substitutions + words.deletions + words.insertions
    return ErrorRates(float(words.wer), float(characters.cer), count, total, errors)
