"""Text files on this machine."""

import gzip
import json
import os
import pathlib
import re
import zlib

from seqjax.data.corpus import Corpus, cut
from seqjax.errors import UserError

DOCUMENTS = ("none", "line", "paragraph")


def load_files(path: str, validation_path: str, test_path: str, documents: str, validation_fraction: float) -> Corpus:
    """A corpus from one file, which is cut, or from a file a part.

    Args:
      path: UTF-8 text or JSON lines, plain or `.gz`.
      validation_path, test_path: such files too, or "".
      documents: as in `read_documents`.
      validation_fraction: the share to cut off the end where `validation_path` is "".

    Returns:
      A Corpus called after the file.

    Raises:
      UserError: whatever is wrong with a file or a setting.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"to be or not to be")
      ...     file.flush()
      ...     load_files(file.name, "", "", "none", 0.25).validation
      ('o be',)
    """
    if not path:
        raise UserError("source='file' needs a path; give the name of a text file")
    train = read_documents(path, documents)
    validation = read_documents(validation_path, documents) if validation_path else ()
    test = read_documents(test_path, documents) if test_path else ()
    ends = documents != "none" or any(_is_json(p) for p in (path, validation_path, test_path))
    if not validation:
        if ends and len(train) < 2:
            raise UserError(f"{path} is a single document, so none is left for validation; give a validation_path")
        train, validation = cut(train, validation_fraction, path)
    return Corpus(pathlib.Path(path).name, train, validation, test, ends)


def read_documents(path: str, documents: str) -> tuple[str, ...]:
    r"""The documents of one file.

    Lines may end in \r\n, which is read as \n; a byte order mark is dropped. A `.jsonl` file has one document a line,
    in the field "text", whatever `documents` says; its strings are kept as they are, its blank lines skipped.

    Args:
      path: UTF-8 text or JSON lines, plain or `.gz`.
      documents: "none" (running text, one document), "line" (each line; a blank line is an empty document, a final
        newline adds none) or "paragraph" (separated by blank lines).

    Returns:
      At least one document.

    Raises:
      UserError: no such file, a folder, no permission, empty, damaged gzip, not UTF-8 (with the byte), or a malformed
        JSON line (with its number).

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"one\r\ntwo\n\nthree\n")
      ...     file.flush()
      ...     read_documents(file.name, "line"), read_documents(file.name, "paragraph")
      (('one', 'two', '', 'three'), ('one\ntwo', 'three'))
    """
    if documents not in DOCUMENTS:
        raise UserError(f"documents={documents!r} is not a way to cut a file; choose one of {', '.join(DOCUMENTS)}")
    text = decode_text(path, read_bytes(path))
    if _is_json(path):
        found = _json_lines(path, text)
    elif documents == "none":
        found = (text,)
    elif documents == "line":
        found = tuple(text.removesuffix("\n").split("\n"))
    else:
        parts = re.split(r"\n(?:[ \t]*\n)+", f"\n\n{text}\n\n")
        found = tuple(part for part in parts if part.strip())
    if not any(found):
        raise UserError(f"{path} has no text in it; give a file with some text")
    return found


def _is_json(path: str) -> bool:
    return path.endswith((".jsonl", ".jsonl.gz"))


def read_bytes(path: str) -> bytes:
    """The bytes of a file; those of a `.gz` unpacked.

    Args:
      path: of the file; a leading `~` is the home folder.

    Returns:
      All of it.

    Raises:
      UserError: no such file, a folder, no permission, or damaged gzip.

    Example:
      >>> import gzip, pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     place = pathlib.Path(folder, "line.txt.gz")
      ...     _ = place.write_bytes(gzip.compress(b"to be"))
      ...     read_bytes(str(place))
      b'to be'
    """
    place = pathlib.Path(os.path.expanduser(path))
    try:
        data = place.read_bytes()
        return gzip.decompress(data) if place.suffix == ".gz" else data
    except FileNotFoundError:
        fault = f"{path} does not exist; check the path (the current folder is {pathlib.Path.cwd()})"
    except IsADirectoryError:
        fault = f"{path} is a folder; give the name of a file in it"
    except PermissionError:
        fault = f"{path} may not be read by this user; change its permissions, or give another file"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        fault = f"{path} is not a sound gzip file ({error}); make it anew, or drop .gz from its name"
    except (OSError, ValueError) as error:  # a name too long, or with a null character
        fault = f"{path!r} cannot be read ({getattr(error, 'strerror', None) or error}); give another file"
    raise UserError(fault)


def decode_text(path: str, data: bytes) -> str:
    r"""Bytes as text: UTF-8, without a byte order mark, lines that end in \r\n ending in \n.

    Args:
      path: what to call the text in errors.
      data: its bytes.

    Returns:
      At least one character.

    Raises:
      UserError: not UTF-8 (with the byte), or empty.

    Example:
      >>> decode_text("line.txt", b"\xef\xbb\xbfto be\r\n")
      'to be\n'
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 at byte {error.start} (0x{data[error.start]:02x}); save it as UTF-8, "
            "for example with iconv -f latin1 -t utf-8"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text:
        raise UserError(f"{path} is empty; give a file with some text")
    return text


def _json_lines(path: str, text: str) -> tuple[str, ...]:
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
            document.encode("utf-8")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f'{path} line {number} is not a JSON object with a string "text"; mend that line') from None
        documents.append(document)
    return tuple(documents)
