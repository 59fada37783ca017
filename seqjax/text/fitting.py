"""A tokenizer by the name of its kind, as configs describe it."""

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
) -> CharTokenizer | WordTokenizer | SubwordTokenizer:
    """A tokenizer for single lines, fitted on the training texts.

    Args:
      kind: "char", "word" (white space and line ends are none) or "subword".
      texts: to fit on.
      vocab_size: of the pieces, for "subword".
      min_count, max_size: rarer characters or words become `<unk>`, and at most max_size tokens stay (0 keeps all); for
        "char" and "word".
      lower: words or pieces in lower case.

    Returns:
      The tokenizer.

    Raises:
      UserError: the kind is unknown, or the texts do not give such a vocabulary.

    Example:
      >>> fit_tokenizer("word", ["a rose is a rose"]).vocabulary[4:]
      ('a', 'rose', 'is')
    """
    if kind not in KINDS:
        raise UserError(f"tokenizer.kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if kind == "subword":
        return SubwordTokenizer.fit(texts, vocab_size=vocab_size, lower=lower)
    if kind == "word":
        return WordTokenizer.fit(texts, min_count=min_count, max_size=max_size or None, lower=lower, newlines=False)
    return CharTokenizer.fit(texts, min_count=min_count, max_size=max_size or None)
