"""What is said to the user: the one exception that means "here is what to do instead", and text that is safe to show."""

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Any

# Characters that reorder the text around them: embeddings, overrides and isolates.
_REORDERING = set(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


class UserError(ValueError):
    """The input, a setting or a file is at fault, not the program.

    The message is one line, says what is wrong, and says what to do. Commands print it without a traceback and exit with
    status 1. What comes from a file into the message (names of classes, of files) is shown with its control characters
    escaped. Where several things are wrong at once, further arguments are printed below, a line each.

    Example:
      >>> raise UserError("book.txt is empty; give a file with some text")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: book.txt is empty; give a file with some text
    """

    def __str__(self) -> str:
        return "\n  ".join(printable(str(line), keep="") for line in self.args)


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


def nearest(word: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The part of a message that says what may have been meant; "" where nothing is near.

    Args:
      word: what was given.
      known: what it can be.
      cutoff: how alike it must be, from 0 (the nearest of all) to 1.

    Example:
      >>> nearest("embeded", ["embedded", "tfds"]), nearest("xyz", ["embedded", "tfds"])
      (' (nearest: embedded)', '')
    """
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return f" (nearest: {found[0]})" if found else ""


def refuse_unknown(what: str, value: object, known: Iterable[Any]) -> None:
    """Raise the error that says that a value is none of those that there are.

    Args:
      what: begins the message and ends before the list, such as "source='fil' is not a source".
      value: what was given.
      known: what it can be.

    Raises:
      UserError: the value is not among them.

    Example:
      >>> refuse_unknown("source='fil' is not a source", "fil", ("embedded", "file"))
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: source='fil' is not a source (nearest: file); choose one of embedded, file
    """
    known = list(known)
    if value not in known:
        raise UserError(f"{what}{nearest(value, known, cutoff=0.5)}; choose one of {', '.join(known)}")


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
