"""Tokenizers as dictionaries and as files."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from seqjax.errors import UserError
from seqjax.text.subword import SubwordTokenizer
from seqjax.text.tokenizers import CharTokenizer, WordTokenizer

FORMAT = "seqjax tokenizer 1"
KINDS = {"char": CharTokenizer, "word": WordTokenizer, "subword": SubwordTokenizer}

Tokenizer = CharTokenizer | WordTokenizer | SubwordTokenizer
Segmenter = Callable[[str], Iterable[str]]


def tokenizer_from_dict(d: Mapping[str, Any], *, segmenter: Segmenter | None = None) -> Tokenizer:
    """Rebuilds the tokenizer that `to_dict` described.

    Args:
      d: what `to_dict` returned.
      segmenter: the tokenizer's segmenter, if it had one.

    Returns:
      A tokenizer equal to the one described.

    Raises:
      UserError: d does not describe a tokenizer, or a segmenter is missing or unexpected.

    Example:
      >>> tokenizer = CharTokenizer.fit(["abc"])
      >>> tokenizer_from_dict(tokenizer.to_dict()) == tokenizer
      True
    """
    if not isinstance(d, Mapping) or d.get("kind") not in list(KINDS):
        raise UserError("this does not describe a tokenizer; give what to_dict returned, or build a tokenizer with fit")
    cls = KINDS[d["kind"]]
    expected = {field.name for field in dataclasses.fields(cls) if field.init} | {"kind"}
    if d.keys() != expected:
        odd = ", ".join(sorted(map(str, d.keys() ^ expected)))
        raise UserError(f"a tokenizer's description has missing or unknown entries ({odd}); build it again with fit")
    settings = {name: value for name, value in d.items() if name != "kind"}
    had_one = settings.pop("segmenter", False)
    if not isinstance(had_one, bool):
        raise UserError("a tokenizer's description must have true or false for segmenter; build it again with fit")
    if had_one and segmenter is None:
        raise UserError("this tokenizer was built with a custom segmenter; pass the same function as segmenter=")
    if segmenter is not None and not had_one:
        raise UserError("this tokenizer was built without a segmenter; leave segmenter= out")
    return cls(**settings, segmenter=segmenter) if had_one else cls(**settings)


def save_tokenizer(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Writes a tokenizer as JSON in UTF-8, atomically: if writing fails, an existing file is unchanged.

    Args:
      tokenizer: the tokenizer.
      path: the file; an old one is replaced.

    Raises:
      UserError: the file cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_tokenizer(CharTokenizer.fit(["abc"]), f"{folder}/chars.json")
      ...     load_tokenizer(f"{folder}/chars.json").vocabulary[4:]
      ('a', 'b', 'c')
    """
    path = pathlib.Path(path)
    content = json.dumps({"format": FORMAT, **tokenizer.to_dict()}, ensure_ascii=False, indent=0)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            # UTF-8 lacks only lone surrogates; backslashreplace writes them as JSON escapes.
            file.write(content.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise UserError(f"cannot write {path} ({error.strerror}); give a path that can be written") from error


def load_tokenizer(path: str | os.PathLike, *, segmenter: Segmenter | None = None) -> Tokenizer:
    """Reads a tokenizer that `save_tokenizer` wrote.

    Args:
      path: the file.
      segmenter: the tokenizer's segmenter, where it had one.

    Returns:
      A tokenizer equal to the one saved.

    Raises:
      UserError: the file cannot be read, is damaged or is not a tokenizer; or a segmenter is missing or unexpected.

    Example:
      >>> load_tokenizer("nowhere.json")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: cannot read nowhere.json (No such file or directory); ...
    """
    try:
        d = json.loads(pathlib.Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); give a file that save_tokenizer wrote") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or not a tokenizer; give a file that save_tokenizer wrote") from error
    if not isinstance(d, dict) or d.pop("format", None) != FORMAT:
        raise UserError(f"{path} does not hold a tokenizer of the format {FORMAT!r}; give a file that save_tokenizer wrote")
    try:
        return tokenizer_from_dict(d, segmenter=segmenter)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
