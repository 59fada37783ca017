"""Folders: their content, and the parts of a dataset among them."""

import os
import pathlib
from collections.abc import Iterable

from seqjax.errors import UserError

PART_NAMES = {  # a folder's name, in lower case -> its part
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """The content of a folder, sorted by name, without hidden files.

    Raises:
      UserError: the folder cannot be read.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     for file in ("b", "a", ".c"):
      ...         pathlib.Path(name, file).touch()
      ...     [path.name for path in visible(pathlib.Path(name))]
      ['a', 'b']
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(unreadable(folder, error)) from None


def unreadable(folder: str | os.PathLike, error: OSError) -> str:
    """The message about an unreadable folder."""
    return f"{folder} cannot be read ({error.strerror}); check its permissions"


def dead_link(path: str | os.PathLike) -> str:
    """What is wrong with a dangling link; "" for anything else.

    Example:
      >>> dead_link("/")
      ''
    """
    if os.path.exists(path) or not os.path.islink(path):
        return ""
    return f"{path} is a link to {os.readlink(path)}, which does not exist; repair or remove it"


def named_parts(folder: str | os.PathLike, inside: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """The folders with names of parts, in any case: "train" -> the folder `Train`, and so on.

    Args:
      folder: for errors.
      inside: the folders in it.

    Raises:
      UserError: two folders for one part.

    Example:
      >>> list(named_parts("films", [pathlib.Path("films/Val"), pathlib.Path("films/other"), pathlib.Path("films/train")]))
      ['train', 'validation']
    """
    found: dict[str, pathlib.Path] = {}
    for path in inside:
        if part := PART_NAMES.get(path.name.lower()):
            if part in found:
                both = f"{found[part].name} and {path.name}"
                raise UserError(f"{folder} has the folders {both}, both for the {part} part; keep one, or rename the other")
            found[part] = path
    return {part: found[part] for part in ("train", "validation", "test") if part in found}
