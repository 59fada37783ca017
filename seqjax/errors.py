"""What is said to the user: the one exception that means "here is what to do instead", and text that is safe to show."""

import unicodedata

# Characters that reorder the text around them: embeddings, overrides and isolates.
_REORDERING = set(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


class UserError(ValueError):
    """The input, a setting or a file is at fault, not the program.

    The message is one line, says what is wrong, and says what to do. Commands print it without a traceback and exit with
    status 1. What comes from a file into the message (names of classes, of files) is shown with its control characters
    escaped.

    Example:
      >>> raise UserError("book.txt is empty; give a file with some text")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: book.txt is empty; give a file with some text
    """

    def __str__(self) -> str:
        return printable(super().__str__(), keep="")


class Styled(str):
    """A text with colour codes for a terminal, made of parts that were made printable before they were coloured.

    Example:
      >>> text = Styled("\\x1b[38;5;33mDET\\x1b[0m", "DET")
      >>> text.plain, printable(text) == text
      ('DET', True)
    """

    plain: str  # the same without the codes

    def __new__(cls, text: str, plain: str) -> "Styled":
        """Args: the text with its codes, and without them."""
        styled = super().__new__(cls, text)
        styled.plain = plain
        return styled


def printable(text: str, *, keep: str = "\n\t") -> str:
    """A text as it may be written to a terminal: what would steer the terminal is shown by its escape.

    That is every control character, the codes that reorder text, and halves of surrogate pairs, which cannot be written.

    Args:
      text: anything; a Styled text stays as it is.
      keep: control characters that stay.

    Returns:
      The text.

    Example:
      >>> printable("a line\\nand \\x1b[31mred")
      'a line\\nand \\\\x1b[31mred'
    """
    if isinstance(text, Styled):
        return text
    return "".join(ascii(c)[1:-1] if c not in keep and _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    return character in _REORDERING or unicodedata.category(character) in ("Cc", "Cs")


def missing(what: str, extra: str, instead: str = "") -> UserError:
    """The error that says that an optional package is not installed, and what can be typed to install it.

    Args:
      what: begins the message: what needs which package.
      extra: the group of optional dependencies in pyproject.toml that has it.
      instead: what can be done without the package, said after "or".

    Returns:
      The error, to be raised.

    Example:
      >>> str(missing("BLEU needs sacrebleu", "experiments"))
      "BLEU needs sacrebleu, which is not installed; run pip install -e '.[experiments]' in a clone of seqjax"
    """
    other = f", or {instead}" if instead else ""
    return UserError(f"{what}, which is not installed; run pip install -e '.[{extra}]' in a clone of seqjax{other}")
