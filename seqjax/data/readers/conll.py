"""Files of tagged words: CoNLL-U, and columns as in CoNLL-2003."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from seqjax.data.readers.opening import read_text, unpacked_suffix
from seqjax.data.readers.tables import separator
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError, refuse_unknown

CONLLU_COLUMNS = {"upos": 4, "xpos": 5, "deprel": 8}  # counted from 1, of 10
COLUMN_SUFFIXES = (".conll", ".txt", ".bio", ".iob", ".tsv")
NUMBER = re.compile("[0-9]{1,9}")

# (line, its number, words before it in the sentence) -> (word, tag), None for a line without a word; raises UserError.
Split = Callable[[str, int, int], tuple[str, str] | None]


def read_tagged(path: str, column: str = "", *, word_column: int = 1, delimiter: str = "", encoding: str = "utf-8") -> Records:
    r"""The sentences of one file.

    `.conllu` is CoNLL-U: ten tab-separated columns; comments, multiword ranges (1-2) and empty nodes (1.1) are skipped. `.conll`, `.txt`,
    `.bio`, `.iob` and `.tsv` have columns with a word and its tag, perhaps with others between; -DOCSTART- lines are skipped. In both,
    blank lines separate sentences.

    Args:
      path: the file, plain or packed with gzip or zstd.
      column: the column of tags. CoNLL-U: "upos" (the default), "xpos" or "deprel". Other files: its number, from 1; "" is the last one
        that is not the word column.
      word_column: the number of the word column, from 1. Not for CoNLL-U.
      delimiter: the column separator: a character, or its name (tab, space, comma, ...; any number of spaces); "" is tab if the first line
        has one, otherwise spaces. Not for CoNLL-U.
      encoding: the text encoding.

    Returns:
      Records with "words", "tags" and "lines": for each sentence its words, a tag and a line number per word.

    Raises:
      UserError: an unreadable file, one without sentences, an unknown extension or column, or malformed lines (all of them, with their
        numbers).

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".conll") as file:
      ...     _ = file.write(b"Ada B-PER\nslept O\n\nHello O\n")
      ...     file.flush()
      ...     sentences = read_tagged(file.name)
      >>> sentences["words"], sentences["tags"], sentences["lines"]
      ((('Ada', 'slept'), ('Hello',)), (('B-PER', 'O'), ('O',)), ((1, 2), (4,)))
    """
    suffix = unpacked_suffix(path)
    if suffix == ".conllu":
        split = _conllu(path, column, word_column, delimiter)
    elif suffix in COLUMN_SUFFIXES:
        split = _columns(path, column, word_column, delimiter)
    else:
        known = ", ".join((".conllu", *COLUMN_SUFFIXES))
        raise UserError(f"{path} does not say by its ending what is in it; give it one of {known} (or with .gz or .zst)")
    notes: list[str] = []
    faults = Faults(path)
    sentences = list(_sentences(read_text(path, encoding, notes).split("\n"), split, faults))
    faults.raise_any()
    if not sentences:
        raise UserError(f"{path} has no sentence with a word in it; give another file")
    words, tags, lines = zip(*sentences)
    return Records({"words": words, "tags": tags, "lines": lines}, Places.of(f"{path} line", [at[0] for at in lines]), tuple(notes))


def _sentences(lines: list[str], split: Split, faults: Faults) -> Iterator[tuple[tuple, tuple, tuple]]:
    """(words, tags, line numbers) of each sentence; a faulty line counts as a word, so that the next line is not faulty too."""
    found: list[tuple[Any, ...]] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip(" \t"):
            try:
                pair = split(line, number, len(found))
            except UserError as error:
                faults.add(error)
                pair = ("", "")
            if pair:
                found.append((*pair, number))
        elif found:
            words, tags, numbers = zip(*found)
            yield words, tags, numbers
            found = []


def _conllu(path: str, column: str, word_column: int, delimiter: str) -> Split:
    if column:
        refuse_unknown(f"column={column!r} is not one that tags come from in CoNLL-U", column, CONLLU_COLUMNS)
    if word_column != 1 or delimiter:
        wrong = f"delimiter={delimiter!r}" if delimiter else f"word_column={word_column}"
        raise UserError(f"{wrong} is for other files of columns; {path} is CoNLL-U, which has its words in column 2 between tabs")
    column = column or "upos"
    due = 1  # the ID of the next word

    def split(line: str, number: int, before: int) -> tuple[str, str] | None:
        nonlocal due
        if line.startswith("#"):
            return None
        where, cells = f"{path} line {number}", line.split("\t")
        expected = due if before else 1
        no_word = re.fullmatch(r"[0-9]+(-[0-9]+|\.[0-9]+)", cells[0])
        due = expected if no_word else 1 + (int(cells[0]) if NUMBER.fullmatch(cells[0]) else expected)
        if len(cells) != 10:
            raise UserError(f"{where} has {_number(len(cells))}; CoNLL-U has 10, separated by tabs")
        if no_word:
            return None
        if cells[0] != str(expected):
            raise UserError(
                f"{where} has the ID {cells[0]!r} where {expected} is due; number the words of each sentence "
                "from 1, and put a blank line between sentences"
            )
        word, tag = cells[1], cells[CONLLU_COLUMNS[column] - 1]
        if not word.strip(" ") or not tag.strip(" "):
            raise UserError(f"{where} has an empty {column if word.strip(' ') else 'form'}; correct that line")
        return word, tag

    return split


def _columns(path: str, column: str, word_column: int, delimiter: str) -> Split:
    if word_column < 1:
        raise UserError(f"word_column is {word_column}; columns are counted from 1")
    if column and not (NUMBER.fullmatch(column) and 1 <= int(column) != word_column):
        raise UserError(f"column={column!r} is not a column of tags in {path}; give its number, from 1 ({word_column} is the words)")
    between = separator(delimiter, "columns")
    usual = 1 if word_column == 2 else 2
    first, size = 0, 0  # the first line, and the number of its columns

    def split(line: str, number: int, before: int) -> tuple[str, str] | None:
        nonlocal first, size, between
        if line.lstrip(" ").startswith("-DOCSTART-"):
            return None
        between = between or ("\t" if "\t" in line else " ")
        cells = re.split(" +", line.strip(" ")) if between == " " else line.strip(" ").split(between)
        first, size, where = first or number, size or len(cells), f"{path} line {number}"
        if len(cells) != size:
            raise UserError(f"{where} has {_number(len(cells))}, but line {first} has {size}; correct one of them")
        if len(cells) < max(word_column, int(column or usual)):
            words = f" in column {word_column}" if word_column > 1 else ""
            raise UserError(f"{where} has {_number(len(cells))}; needed are a word{words} and its tag in column {column or usual}")
        last = size - 1 if word_column == size else size
        word, tag = cells[word_column - 1].strip(" "), cells[int(column or last) - 1].strip(" ")
        if not word or not tag:
            raise UserError(f"{where} has an empty column for the {'tag' if word else 'word'}; correct that line")
        return word, tag

    return split


def _number(columns: int) -> str:
    return f"{columns} column{'s' * (columns != 1)}"
