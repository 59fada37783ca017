"""Files of tagged words: CoNLL-U, and columns as in CoNLL-2003, whose span tags are all brought to BIO."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from seqjax.data.files import decode_text, read_bytes
from seqjax.errors import UserError

CONLLU_COLUMNS = {"upos": 4, "xpos": 5, "deprel": 8}  # counted from 1, of 10
COLUMN_ENDINGS = (".conll", ".txt", ".bio", ".iob", ".tsv")
SPAN = re.compile(r"([BIESLU])-([^-].*)")  # S and U begin and end a span, E and L end one


class Sentence(NamedTuple):
    """The words of a sentence with their tags."""

    words: tuple[str, ...]  # at least one
    tags: tuple[str, ...]  # as many
    places: tuple[int, ...]  # as many: the line that each word stands on, or the sentence's number


class Part(NamedTuple):
    """The sentences of a file, or of a part of a set."""

    what: str  # with one of `places` behind it, says where a word stands
    sentences: tuple[Sentence, ...]


def read_tagged(path: str, column: str = "") -> Part:
    r"""The sentences of one file.

    `.conllu` is CoNLL-U: ten columns between tabs; comments, multiword ranges (1-2) and empty nodes (1.1) are left
    out. `.conll`, `.txt`, `.bio`, `.iob` and `.tsv` have a word and its tag, perhaps with others between, in columns:
    between tabs if the first line has any, otherwise between spaces; lines of -DOCSTART- are left out. In both, blank
    lines stand between sentences.

    Args:
      path: UTF-8, plain or with `.gz` added to its ending.
      column: CoNLL-U: "upos" ("" is this), "xpos" or "deprel". Other files: the number of the column of the tags,
        from "2", as the first is the words; "" is the last.

    Returns:
      A Part with at least one sentence.

    Raises:
      UserError: a file that cannot be read, a malformed line (with its number), another ending, or another column.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".conll") as file:
      ...     _ = file.write(b"Ada B-PER\nslept O\n\nHello O\n")
      ...     file.flush()
      ...     for sentence in read_tagged(file.name).sentences:
      ...         print(sentence)
      Sentence(words=('Ada', 'slept'), tags=('B-PER', 'O'), places=(1, 2))
      Sentence(words=('Hello',), tags=('O',), places=(4,))
    """
    name = path.removesuffix(".gz")
    if name.endswith(".conllu"):
        split = _conllu_splitter(path, column)
    elif name.endswith(COLUMN_ENDINGS):
        split = _column_splitter(path, column)
    else:
        endings = ", ".join((".conllu", *COLUMN_ENDINGS))
        raise UserError(f"{path} does not say by its ending what is in it; give it one of {endings} (or with .gz)")
    lines = decode_text(path, read_bytes(path)).split("\n")
    sentences = tuple(_sentences(lines, split))
    if not sentences:
        raise UserError(f"{path} has no sentence with a word in it; give another file")
    return Part(f"{path} line", sentences)


Splitter = Callable[[int, str, int], tuple[str, str] | None]  # line number, line, words before it -> word, tag


def _sentences(lines: Iterable[str], split: Splitter) -> Iterable[Sentence]:
    found: list[tuple[str, str, int]] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip(" \t"):
            pair = split(number, line, len(found))
            if pair:
                found.append((*pair, number))
        elif found:
            yield Sentence(*zip(*found, strict=True))
            found = []


def _conllu_splitter(path: str, column: str) -> Splitter:
    if column and column not in CONLLU_COLUMNS:
        near = difflib.get_close_matches(column, CONLLU_COLUMNS, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise UserError(
            f"column={column!r} is not one that tags come from in CoNLL-U{hint}; choose one of {', '.join(CONLLU_COLUMNS)}"
        )
    column = column or "upos"

    def split(number: int, line: str, before: int) -> tuple[str, str] | None:
        if line.startswith("#"):
            return None
        where, cells = f"{path} line {number}", line.split("\t")
        if len(cells) != 10:
            raise UserError(f"{where} has {_columns(len(cells))}; CoNLL-U has 10, separated by tabs")
        if re.fullmatch(r"[0-9]+(-[0-9]+|\.[0-9]+)", cells[0]):
            return None
        if cells[0] != str(before + 1):
            raise UserError(
                f"{where} has the ID {cells[0]!r} where {before + 1} is due; number the words of each sentence "
                "from 1, and put a blank line between sentences"
            )
        word, tag = cells[1], cells[CONLLU_COLUMNS[column] - 1]
        if not word.strip(" ") or not tag.strip(" "):
            raise UserError(f"{where} has an empty {column if word.strip(' ') else 'form'}; mend that line")
        return word, tag

    return split


def _column_splitter(path: str, column: str) -> Splitter:
    if column and not (column.isdecimal() and column.isascii() and int(column) >= 2):
        raise UserError(
            f"column={column!r} is not a column of tags in {path}; give its number, from 2 (1 is the words)"
        )
    first, columns, between = 0, 0, ""  # the first line, and what it says of all

    def split(number: int, line: str, before: int) -> tuple[str, str] | None:
        nonlocal first, columns, between
        if line.lstrip(" ").startswith("-DOCSTART-"):
            return None
        where, between = f"{path} line {number}", between or ("\t" if "\t" in line else " +")
        cells = re.split(between, line.strip(" "))
        first, columns = first or number, columns or len(cells)
        if len(cells) != columns:
            raise UserError(f"{where} has {_columns(len(cells))}, but line {first} has {columns}; mend one of them")
        if len(cells) < max(2, int(column or 2)):
            raise UserError(
                f"{where} has {_columns(len(cells))}; needed are a word and its tag in column {column or 2}"
            )
        word, tag = cells[0].strip(" "), cells[int(column or 0) - 1].strip(" ")
        if not word or not tag:
            raise UserError(f"{where} has an empty column for the {'tag' if word else 'word'}; mend that line")
        return word, tag

    return split


def _columns(number: int) -> str:
    return f"{number} column{'s' * (number != 1)}"


def are_spans(part: Part) -> bool:
    """Whether tags mark spans of words: some of them begin with B- or I-.

    Example:
      >>> are_spans(Part("names.txt line", (Sentence(("Ada", "slept"), ("I-PER", "O"), (1, 2)),)))
      True
    """
    return any(tag[0] in "BI" and SPAN.fullmatch(tag) for sentence in part.sentences for tag in sentence.tags)


def to_bio(part: Part) -> Part:
    """Span tags in BIO (also called IOB2): B-X begins a span of type X, I-X continues it, O is outside of all.

    The others are brought to it: IOB1, which is CoNLL-2003's own and writes B-X only between two spans of a type that
    touch, and BIOES and BILOU, where S-X or U-X is a span of one word, and E-X or L-X ends one.

    Raises:
      UserError: a tag that is none of these, with where it stands.

    Example:
      >>> part = Part("names.txt line", (Sentence(("Ada", "Lovelace", "slept"), ("I-PER", "I-PER", "O"), (1, 2, 3)),))
      >>> to_bio(part).sentences[0].tags
      ('B-PER', 'I-PER', 'O')
    """
    return part._replace(sentences=tuple(s._replace(tags=tuple(_bio(part.what, s))) for s in part.sentences))


def _bio(what: str, sentence: Sentence) -> Iterable[str]:
    open_type = ""  # of the span that the word before is in, and does not end
    for word, tag, place in zip(*sentence, strict=True):
        match = SPAN.fullmatch(tag)
        if not match and tag != "O":
            raise UserError(
                f"{what} {place}: the tag {tag!r} of {word!r} is no span tag, which others here are; "
                "write O, or B- or I- and a type"
            )
        if not match:
            open_type = ""
            yield tag
            continue
        prefix, span_type = match.groups()
        continues = prefix in "IEL" and span_type == open_type
        yield f"{'I' if continues else 'B'}-{span_type}"
        open_type = "" if prefix in "ESLU" else span_type
