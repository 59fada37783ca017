"""The rules for splitting running text into words, and for joining words into text.

At each position, a token is the first match of:

1. initials: single letters with periods between them, the last period included (`U.S.`, `e.g.`, `z.B.`);
2. a word or number: letters of any script with their combining marks, digits and underscores; inside it an apostrophe,
   a hyphen or a middle dot between two such characters (`o'clock`, `l’homme`, `state-of-the-art`), and a period,
   comma or colon between two digits (`3.14`, `1,000`, `10:30`);
3. a run of periods or hyphens (`...`, `--`), or of back quotes or apostrophes (as quotation marks in some texts);
4. any other character that is not a space, with its combining marks, by itself (an emoji sequence counts as one).

English contractions are then split off the end of a word, as in the Penn Treebank: `do n't`, `it 's`, `we 'll`.
"""

import functools
import itertools
import re
import sys
import unicodedata
from collections.abc import Iterable

APOSTROPHES = "'’＇"
HYPHENS = r"\-‐‑"  # for a character class: hyphen-minus, hyphen, non-breaking hyphen; dashes are not hyphens
INVISIBLE = "\u00ad\u200c\u200d"  # soft hyphen, zero-width non-joiner and joiner: part of the word that contains them
ZERO_WIDTH_SPACES = "\u200b\ufeff"

# The word endings that the Penn Treebank writes as separate tokens, and a word with such an ending.
CLITIC = re.compile(rf"n[{APOSTROPHES}]t|[{APOSTROPHES}](?:s|re|ve|ll|d|m)", re.IGNORECASE)
# The rest must be a word, and must not end in a joining character: "1-n't" stays whole.
CONTRACTION = re.compile(rf"(.+?)(?<![{HYPHENS}{APOSTROPHES}·])({CLITIC.pattern})", re.IGNORECASE)

CLOSING = set(".,;:!?)]}%…”’") | {"..."}
OPENING = set("([{¿¡")
CURRENCY = set("$£€¥")
CLOSED_BY = {'"': '"', "'": "'", "``": "''"} | dict(zip("“‘„‚«»‹›", "”’“‘»«›‹", strict=True))
# Scripts written without spaces: Thai, Lao, Myanmar, Khmer, Han, kana, with their punctuation and full-width forms.
NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u31c0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff9f\U00020000-\U0003ffff]"
)


@functools.cache
def _token_pattern() -> re.Pattern[str]:
    """Returns rules 1 to 4 as one expression, built when first needed (Python's `\\w` excludes combining marks)."""
    is_mark = (unicodedata.category(chr(code)).startswith("M") for code in range(sys.maxunicode + 1))
    runs = (list(run) for mark, run in itertools.groupby(enumerate(is_mark), lambda pair: pair[1]) if mark)
    marks = "".join(f"{chr(run[0][0])}-{chr(run[-1][0])}" for run in runs)
    letter = rf"[^\W\d_][{marks}]*"
    inside = rf"[\w{marks}{INVISIBLE}]"
    symbol = rf"[^\w\s{ZERO_WIDTH_SPACES}][{marks}]*"
    initials = rf"{letter}(?:\.{letter})+(?:\.|(?!{inside}))"
    word = rf"\w{inside}*(?:(?:[{HYPHENS}{APOSTROPHES}·](?=\w)|(?<=\d)[.,:٫٬](?=\d)){inside}+)*"
    return re.compile(rf"{initials}|{word}|\.{{2,}}|-{{2,}}|`{{2,}}|'{{2,}}|{symbol}(?:\u200d{symbol})*")


def split_words(text: str, *, split_contractions: bool = True) -> list[str]:
    """Splits text by the rules of this module; white space only separates.

    Args:
      text: running text.
      split_contractions: whether `don't` becomes `do n't` and `it's` becomes `it 's`.

    Returns:
      The tokens in order. Concatenated, they give the text without white space and zero-width spaces.

    Example:
      >>> split_words("It's 3.14, isn't it?")
      ['It', "'s", '3.14', ',', 'is', "n't", 'it', '?']
    """
    tokens = _token_pattern().findall(text)
    if not split_contractions:
        return tokens
    result = []
    for token in tokens:
        if "'" in token or "’" in token or "＇" in token:
            result.extend(_split_contraction(token))
        else:
            result.append(token)
    return result


def _split_contraction(word: str) -> list[str]:
    clitics = []
    while match := CONTRACTION.fullmatch(word):
        word = match[1]
        clitics.append(match[2])
    return [word, *reversed(clitics)]


def join_words(tokens: Iterable[str]) -> str:
    """Writes tokens as running text: punctuation, contractions and quotation marks without the spaces between tokens.

    This is not an exact inverse of `split_words`: the amount of space between two tokens, and whether there was any
    around a dash, is not known. Quotation marks are paired within a line; a lone apostrophe is treated as one. Scripts
    that are written without spaces are joined without them.

    Args:
      tokens: tokens as from `split_words`, and `\\n` for the end of a line.

    Returns:
      The text.

    Example:
      >>> join_words(["He", "said", ",", '"', "do", "n't", "!", '"', "(", "twice", ")", "."])
      'He said, "don\\'t!" (twice).'
    """
    pieces: list[str] = []
    expected: list[str] = []  # the closing quotation marks still to come, innermost last
    glued = True  # whether the next token follows without a space
    previous = ""
    for token in tokens:
        closes = bool(expected) and token == expected[-1]
        opens = not closes and token in CLOSED_BY
        left = closes or token in CLOSING or token in ("\n", "/") or (previous and CLITIC.fullmatch(token))
        left = left or _unspaced(previous, token) or (previous in CURRENCY and token[:1].isdigit())
        if not (glued or left):
            pieces.append(" ")
        pieces.append(token)
        glued = opens or token in OPENING or token in ("\n", "/")
        if closes:
            expected.pop()
        elif opens:
            expected.append(CLOSED_BY[token])
        elif token == "\n":
            expected.clear()
        previous = token
    return "".join(pieces)


def _unspaced(left: str, right: str) -> bool:
    return bool(NO_SPACES.match(left[-1:]) or NO_SPACES.match(right[:1]))
