"""Where data comes from: the table of sources, and the checks that every loader starts with."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from seqjax.errors import UserError, refuse_unknown

SOURCES = ("embedded", "tfds", "file")


class Setting(NamedTuple):
    """A setting that some sources do not use."""

    value: Any
    sources: tuple[str, ...]  # those that read it
    usual: Any = ""  # its value if not given


def path_settings(paths: Mapping[str, str]) -> dict[str, Setting]:
    """The settings that name the files of the parts.

    Args:
      paths: part -> path.

    Example:
      >>> list(path_settings({"train": "a.txt", "test": ""}))
      ['path', 'test_path']
    """
    return {"path" if part == "train" else f"{part}_path": Setting(path, ("file",)) for part, path in paths.items()}


def check_source(source: str, settings: dict[str, Setting]) -> None:
    """Refuse an unknown source, and settings that the source does not use: no setting is silently ignored.

    Args:
      source: one of `SOURCES`.
      settings: the settings that only some sources read.

    Raises:
      UserError: a setting was given to a source that does not read it.

    Example:
      >>> check_source("embedded", {"path": Setting("a.txt", ("file",))})
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: path='a.txt' is for source='file' only; leave it empty with 'embedded'
    """
    refuse_unknown(f"source={source!r} is not a source", source, SOURCES)
    for name, (value, sources, usual) in settings.items():
        if value != usual and source not in sources:
            where = " and ".join(f"source={known!r}" for known in sources)
            leave = "leave it empty" if usual == "" else f"leave it at {usual!r}"
            raise UserError(f"{name}={value!r} is for {where} only; {leave} with {source!r}")


def refuse_given(settings: Mapping[str, Setting], why: str) -> None:
    """Refuse settings that these files do not use.

    Args:
      settings: the settings that other files use.
      why: the reason, which completes the sentence.

    Example:
      >>> refuse_given({"header": Setting(False, ("file",), True)}, "is for tables, and a.jsonl is JSON lines")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: header=False is for tables, and a.jsonl is JSON lines; leave it at True
    """
    for name, (value, _, usual) in settings.items():
        if value != usual:
            raise UserError(f"{name}={value!r} {why}; leave it at {usual!r}")


def check_name(source: str, name: str, embedded: Iterable[str], what: str, example: str) -> None:
    """Refuse a name that the source does not have.

    Args:
      source: one of `SOURCES`; names of files are not checked.
      name: the dataset.
      embedded: the names of the embedded ones.
      what: the kind of data, such as "text" or "set of images", for the error.
      example: the name of a TFDS set, for the error.

    Raises:
      UserError: an unknown embedded name, or none for TFDS.

    Example:
      >>> check_name("embedded", "digts", ["digits"], "set of images", "mnist")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: no embedded set of images is called 'digts' (nearest: digits); choose one of digits
    """
    if source == "embedded":
        refuse_unknown(f"no embedded {what} is called {name!r}", name, embedded)
    if source == "tfds" and not name:
        raise UserError(f"source='tfds' needs a name, such as name={example!r}")


def file_set_name(name: str, embedded: Iterable[str], path: str) -> str:
    """The name of the user's own dataset: the given name, else that of the file or folder.

    The name of an embedded dataset is an experiment's default, not the user's choice.

    Example:
      >>> file_set_name("dates", ["dates"], "data/train.de.gz"), file_set_name("multi30k", ["dates"], "data/train.de.gz")
      ('train.de.gz', 'multi30k')
    """
    return name if name and name not in embedded else _last(path)


def part_files(paths: Mapping[str, str | Iterable[str]]) -> dict[str, str]:
    """The names of the files that parts have of their own: a dataset's `files`.

    Args:
      paths: part -> its path, or the paths of source and target; "" if it has none.

    Example:
      >>> part_files({"train": ("a/train.de", "a/train.en"), "validation": "", "test": "a/test.tsv"})
      {'train': 'train.de and train.en', 'test': 'test.tsv'}
    """
    several = {part: (given,) if isinstance(given, str) else given for part, given in paths.items()}
    return {part: " and ".join(map(_last, filter(None, given))) for part, given in several.items() if any(given)}


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
