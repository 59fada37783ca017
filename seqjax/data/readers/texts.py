r"""Running text and documents from a text file or JSON lines; a file too large for memory is read again each time."""

import array
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from seqjax.data.hold_out import held_count
from seqjax.data.readers.opening import text_chunks, text_lines, unpacked_suffix
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError, refuse_unknown

DOCUMENTS = ("none", "line", "paragraph")
JSON_LINES = "JSON lines"
LARGE = 64 << 20  # characters; larger files are not kept in memory
PIECE = 1 << 20  # characters per piece of a long text


def is_json_lines(path: str | os.PathLike) -> bool:
    """Whether a file has one JSON object per line, by its name.

    Example:
      >>> is_json_lines("reviews.jsonl.gz"), is_json_lines("reviews.txt")
      (True, False)
    """
    return unpacked_suffix(path) == ".jsonl"


def read_texts(path: str, documents: str = "none", encoding: str = "utf-8") -> Records:
    r"""The documents of one file, in the column "text".

    A `.jsonl` file has one document per line, in the field "text", whatever `documents` says; strings are kept unchanged, blank lines
    skipped.

    Args:
      path: text or JSON lines, as in `seqjax.data.readers.opening.text_chunks`.
      documents: "none" (running text, one document), "line" (each line; a blank line is an empty document, a final
        newline adds none) or "paragraph" (separated by blank lines).
      encoding: the file's encoding.

      Returns:
        At least one document. The column is a tuple, or a `FileTexts` for a file of more than 64 million characters.

    Raises:
      UserError: the file cannot be read, has no text, or has malformed JSON lines (all listed, with their numbers).

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"one\r\ntwo\n\nthree\n")
      ...     file.flush()
      ...     lines, paragraphs = read_texts(file.name, "line"), read_texts(file.name, "paragraph")
      >>> lines["text"], lines.places.numbers.tolist()
      (('one', 'two', '', 'three'), [1, 2, 3, 4])
      >>> paragraphs["text"], paragraphs.places.numbers.tolist()
      (('one\ntwo', 'three'), [1, 4])
    """
    refuse_unknown(f"documents={documents!r} is unknown", documents, DOCUMENTS)
    form = JSON_LINES if is_json_lines(path) else documents
    notes: list[str] = []
    faults, held, numbers, characters = Faults(path), [], array.array("q"), 0
    for number, text in _texts(path, form, encoding, notes, faults):
        characters += len(text)
        if form != "none":
            numbers.append(number)
        if characters <= LARGE or path == "-":  # standard input cannot be read twice
            held.append(text)
        else:
            held = []
    faults.raise_any()
    if not characters:
        empty = not any(text_chunks(path, encoding))
        raise UserError(f"{path} {'is empty' if empty else 'has no text in it'}; give a file with some text")
    unit, firsts = ("character", [1]) if form == "none" else ("line", np.frombuffer(numbers, np.int64))
    if not held:
        column = FileTexts(path, form, encoding, 0, characters if form == "none" else len(numbers))
    else:
        column = ("".join(held),) if form == "none" else tuple(held)
    return Records({"text": column}, Places.of(f"{path} {unit}", firsts), tuple(notes))


def _texts(path: str, form: str, encoding: str, notes: list[str] | None = None, faults: Faults | None = None) -> Iterator[tuple[int, str]]:
    """The documents of a file, each with the number of its first line; running text in pieces."""
    if form == "none":
        yield from ((1, text) for text in text_chunks(path, encoding, notes))
        return
    lines = enumerate(text_lines(path, encoding, notes), 1)
    if form == "line":
        yield from lines
    elif form == "paragraph":
        yield from _paragraphs(lines)
    else:
        yield from _json_lines(path, lines, faults)


def _paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    held: list[str] = []
    first = 0
    for number, line in itertools.chain(lines, [(0, "")]):
        if line.strip(" \t"):
            first = first if held else number
            held.append(line)
        elif held:
            text = "\n".join(held)
            if text.strip():
                yield first, text
            held = []


def _json_lines(path: str, lines: Iterable[tuple[int, str]], faults: Faults | None) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            text.encode("utf-8")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            fault = f'{path} line {number} is not a JSON object with a string "text"; repair that line'
            if faults is None:
                raise UserError(fault) from None
            faults.add(fault)
        else:
            yield number, text


@dataclasses.dataclass(frozen=True)
class FileTexts:
    """The documents of a file too large for memory, read again on each iteration.

    Args:
      path, encoding: the file and its encoding.
      form: one of `DOCUMENTS`, or `JSON_LINES`.
      start, stop: the range of documents; for running text, which is one document, of characters.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"to be or not to be")
      ...     file.flush()
      ...     texts = FileTexts(file.name, "none", "utf-8", 6, 18)
      ...     len(texts), list(texts)
      (1, ['or not to be'])
    """

    path: str
    form: str
    encoding: str
    start: int
    stop: int

    def __len__(self) -> int:
        return 1 if self.form == "none" else self.stop - self.start

    def __iter__(self) -> Iterator[str]:
        texts = self._texts()
        return iter(["".join(texts)]) if self.form == "none" else texts

    def _texts(self) -> Iterator[str]:
        """The documents; running text in pieces."""
        place = 0
        for _, text in _texts(self.path, self.form, self.encoding):
            before, place = place, place + (len(text) if self.form == "none" else 1)
            if place > self.start:
                yield text[max(self.start - before, 0) : self.stop - before] if self.form == "none" else text
            if place >= self.stop:
                return
        raise UserError(f"{self.path} has become shorter since it was first read; do not change it while it is in use")

    def add_to(self, digest: Any) -> None:
        """Adds the documents to a hash, as `seqjax.data.records.fingerprint` adds a tuple of them."""
        digest.update(b"l%d:" % len(self))
        if self.form == "none":
            digest.update(b"s%d:" % sum(len(text.encode("utf-8", "surrogatepass")) for text in self._texts()))
        for text in self._texts():
            data = text.encode("utf-8", "surrogatepass")
            digest.update(data if self.form == "none" else b"s%d:" % len(data) + data)

    def pieces(self, cut_after: str | None = "") -> Iterator[tuple[str, bool]]:
        """The pieces, as in `pieces`.

        Raises:
          UserError: running text cannot be cut anywhere in 64 million characters.
        """
        if self.form != "none":
            for text in self._texts():
                yield from pieces([text], cut_after)
            return
        yield from _cut(self._texts(), cut_after, self.path)


def pieces(texts: Iterable[str], cut_after: str | None = "") -> Iterator[tuple[str, bool]]:
    """Documents in pieces of about a million characters.

    Args:
      texts: the documents, or a `FileTexts`.
      cut_after: characters after which a document may be cut; "" cuts anywhere, None nowhere.

    Returns:
      Pieces, each with whether it starts a document; an empty document is an empty piece.

    Example:
      >>> list(pieces(["one", "", "two"]))
      [('one', True), ('', True), ('two', True)]
    """
    if isinstance(texts, FileTexts):
        yield from texts.pieces(cut_after)
        return
    for text in texts:
        if len(text) <= PIECE or cut_after is None:
            yield text, True
        else:
            yield from _cut((text[i : i + PIECE] for i in range(0, len(text), PIECE)), cut_after)


def _cut(chunks: Iterable[str], cut_after: str | None, path: str = "") -> Iterator[tuple[str, bool]]:
    """Chunks of one document, recut where it may be cut; with a path, the amount held back is limited."""
    held, size, first = [], 0, True
    for chunk in chunks:
        end = len(chunk) if cut_after == "" else max(map(chunk.rfind, cut_after or ()), default=-1) + 1
        if end:
            yield "".join([*held, chunk[:end]]), first
            held, size, first = [], 0, False
        held.append(chunk[end:])
        size += len(held[-1])
        if path and size > LARGE:
            raise UserError(
                f"{path} has {size:,} characters without a line end, too many to be cut into such tokens at once; "
                "break its lines, or take characters as tokens"
            )
    if first or size:
        yield "".join(held), first


def cut_end(records: Records, fraction: float, what: str) -> tuple[Records, Records]:
    """Splits off the end of texts: documents if there are several, characters if there is one.

    Args:
      records: has a column "text" with at least one document.
      fraction: the share to cut off, in (0, 1); at least one document or character stays on either side.
      what: the text's name, for the error.

    Returns:
      (the start, the end); together they are the documents, in order.

    Raises:
      UserError: one document of fewer than two characters.

    Example:
      >>> letters = Records({"text": ("abcdefghij",)}, Places.of("letters.txt line", [1]))
      >>> [part["text"] for part in cut_end(letters, 0.2, "letters.txt")]
      [('abcdefgh',), ('ij',)]
    """
    texts, places = records["text"], records.places
    if isinstance(texts, FileTexts):
        number, running = texts.stop - texts.start, texts.form == "none"
    else:
        number, running = (len(texts), False) if len(texts) > 1 else (len(texts[0]), True)
    if number < 2:
        raise UserError(f"{what} is too short to split off a validation part; give more text, or a validation file")
    at = number - held_count(number, fraction)
    if isinstance(texts, FileTexts):
        sides = dataclasses.replace(texts, stop=texts.start + at), dataclasses.replace(texts, start=texts.start + at)
    else:
        sides = ((texts[0][:at],), (texts[0][at:],)) if running else (texts[:at], texts[at:])
    if running:
        where = places, places._replace(numbers=places.numbers + at)
    else:
        where = tuple(Places(places.names, places.which[s], places.numbers[s]) for s in (slice(at), slice(at, None)))
    first, second = (Records({"text": side}, place, records.notes) for side, place in zip(sides, where))
    return first, second
