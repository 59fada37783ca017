"""Tokenizers by the name of their kind, as in configs."""

from collections.abc import Sequence

from seqjax.errors import UserError
from seqjax.text.subword import SubwordTokenizer
from seqjax.text.tokenizers import CharTokenizer, WordTokenizer

KINDS = ("char", "word", "subword")


def fit_tokenizer(
    kind: str,
    texts: Sequence[str],
    *,
    vocab_size: int = 8000,
    min_count: int = 1,
    max_size: int = 0,
    lower: bool = False,
    newlines: bool = False,
    pretokenized: bool = False,
) -> CharTokenizer | WordTokenizer | SubwordTokenizer:
    """Fits a tokenizer on the training texts, by default for single lines.

    Args:
      kind: "char", "word" (white space and line ends are not tokens) or "subword".
      texts: to fit on.
      vocab_size: number of pieces, for "subword".
      min_count, max_size: rarer characters or words become `<unk>`, and at most max_size tokens stay (0 keeps all); for
        "char" and "word".
      lower: words or pieces in lower case.
      newlines: line ends are tokens, for "word"; with "char" they always are.
      pretokenized: words are separated by spaces, for "word".

    Returns:
      The tokenizer.

    Raises:
      UserError: the kind is unknown, or the texts are not sufficient for such a vocabulary.

    Example:
      >>> fit_tokenizer("word", ["a rose is a rose"]).vocabulary[4:]
      ('a', 'rose', 'is')
    """
    if kind not in KINDS:
        raise UserError(f"tokenizer.kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if kind == "subword":
        return SubwordTokenizer.fit(texts, vocab_size=vocab_size, lower=lower)
    if kind == "word":
        counts = {"min_count": min_count, "max_size": max_size or None}
        return WordTokenizer.fit(texts, lower=lower, newlines=newlines, pretokenized=pretokenized, **counts)
    return CharTokenizer.fit(texts, min_count=min_count, max_size=max_size or None)


def fit_pair(
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    kind: str,
    joint: bool = False,
    vocab_size: int = 8000,
    min_count: int = 1,
    lower: bool = False,
) -> list[CharTokenizer | WordTokenizer | SubwordTokenizer]:
    """Fits the tokenizers of two sides, such as two languages.

    Args:
      sources, targets: the training texts of each.
      kind, vocab_size, min_count, lower: as in `fit_tokenizer`.
      joint: one tokenizer for both sides.

    Returns:
      The tokenizer of the sources and that of the targets.

    Raises:
      UserError: as `fit_tokenizer`.

    Example:
      >>> source, target = fit_pair(["ein Haus"], ["a house"], kind="word")
      >>> source.vocabulary[4:], target.vocabulary[4:]
      (('Haus', 'ein'), ('a', 'house'))
    """
    how = {"vocab_size": vocab_size, "min_count": min_count, "lower": lower}
    if joint:
        return [fit_tokenizer(kind, [*sources, *targets], **how)] * 2
    return [fit_tokenizer(kind, texts, **how) for texts in (sources, targets)]
