"""Messages to the user: the one exception that means "here is what to do instead", and text that is safe to print."""

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Any

# Characters that reorder the text around them: embeddings, overrides and isolates.
_REORDERING = set(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


class UserError(ValueError):
    """An error in the input, a setting or a file, not in the program.

    The message is one line, says what is wrong, and says what to do. Commands print it without a traceback and exit with
    status 1. Text in the message that comes from a file (names of classes or files) is shown with control characters
    escaped. If several things are wrong at once, further arguments are printed below, one per line.

    Example:
      >>> raise UserError("book.txt is empty; give a file with some text")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: book.txt is empty; give a file with some text
    """

    def __str__(self) -> str:
        return "\n  ".join(printable(str(line), keep="") for line in self.args)


class Styled(str):
    """Text with colour codes for a terminal, built from parts that were made printable before they were coloured.

    Example:
      >>> text = Styled("\\x1b[38;5;33mDET\\x1b[0m", "DET")
      >>> text.plain, printable(text) == text
      ('DET', True)
    """

    plain: str  # the text without the codes

    def __new__(cls, text: str, plain: str) -> "Styled":
        """Takes the text with its codes, and without them."""
        styled = super().__new__(cls, text)
        styled.plain = plain
        return styled


def printable(text: str, *, keep: str = "\n\t") -> str:
    """Makes text safe to write to a terminal by escaping what would control the terminal.

    These are control characters, the codes that reorder text, and lone surrogates, which cannot be written.

    Args:
      text: anything; a Styled text is returned unchanged.
      keep: control characters to leave as they are.

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
    """Returns the part of a message that suggests the nearest known word; "" if none is near.

    Args:
      word: the word given.
      known: the valid words.
      cutoff: least similarity, from 0 (always suggest the nearest) to 1.

    Example:
      >>> nearest("embeded", ["embedded", "tfds"]), nearest("xyz", ["embedded", "tfds"])
      (' (nearest: embedded)', '')
    """
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return f" (nearest: {found[0]})" if found else ""


def refuse_unknown(what: str, value: object, known: Iterable[Any]) -> None:
    """Raises an error if a value is not one of the known ones.

    Args:
      what: the start of the message, before the list, such as "source='fil' is not a source".
      value: the value given.
      known: the valid values.

    Raises:
      UserError: the value is not one of them.

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
    """Returns the error for an optional package that is not installed, with the command that installs it.

    Args:
      what: the start of the message: what needs which package.
      extra: the group of optional dependencies in pyproject.toml that contains it.
      instead: what to do without the package, printed after "or".

    Returns:
      The error, for the caller to raise.

    Example:
      >>> str(missing("BLEU needs sacrebleu", "experiments"))
      "BLEU needs sacrebleu, which is not installed; run pip install -e '.[experiments]' in a clone of seqjax"
    """
    other = f", or {instead}" if instead else ""
    return UserError(f"{what}, which is not installed; run pip install -e '.[{extra}]' in a clone of seqjax{other}")
