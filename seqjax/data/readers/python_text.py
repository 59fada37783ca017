"""Text that comes with Python: nothing to download."""

import itertools
import pathlib
import sys
import sysconfig
from collections.abc import Callable

from seqjax.data.hold_out import deal_documents
from seqjax.data.records import PARTS, Places, Records
from seqjax.errors import UserError

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.075
HELLO_COPIES = 960  # divisible by most batch sizes, so that no row of a batch starts inside a word
FEWEST_MODULES = 20  # fewer mean that the source is incomplete
SOURCE_LIMIT = 4_000_000  # characters of python_source


def read_python_text(name: str) -> dict[str, Records]:
    """The parts of a text that ships with Python, in the column "text".

      python_docs: the English documentation of the language, the text behind `help("topics")`; topics are documents
      python_source: the standard library's own top-level modules; files are documents
      hello: the word "hello" over and over; after a reset everything is predictable, so the best loss is exactly 0

    The first two differ slightly between Python versions; on a given version, they and their parts are always the same.

    Args:
      name: one of `TEXTS`.

    Returns:
      The training, validation and test parts; for `hello` they are identical.

    Raises:
      UserError: this Python was installed without these texts.

    Example:
      >>> read_python_text("hello")["train"]["text"][:2]
      ('hello', 'hello')
    """
    parts = TEXTS[name]()
    return {
        part: Records({"text": texts}, Places.of(f"{name} {part} document", range(1, len(texts) + 1))) for part, texts in zip(PARTS, parts)
    }


def library_modules(instead: str) -> list[pathlib.Path]:
    """The files of the standard library's public top-level modules, in the order of their names.

    Args:
      instead: the alternative to suggest in the error.

    Raises:
      UserError: this Python was installed without its library's source.

    Example:
      >>> library_modules("another text")[0].name
      'abc.py'
    """
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    public = sys.stdlib_module_names
    found = [path for path in sorted(folder.glob("*.py")) if path.stem in public and not path.stem.startswith("_")]
    if len(found) < FEWEST_MODULES:
        raise UserError(f"this Python came without its library's source; choose {instead}")
    return found


def _hello() -> list[tuple[str, ...]]:
    return [("hello",) * HELLO_COPIES] * 3


def _python_docs() -> list[tuple[str, ...]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError("this Python lacks pydoc_data; choose the embedded text hello, or a file") from None
    return deal_documents(_without_repeats(topics), [VALIDATION_SHARE, TEST_SHARE])


def _without_repeats(topics: dict[str, str]) -> dict[str, str]:
    """Drops topics with more than a tenth of their text in longer ones, which would leak between parts."""
    seen: set[str] = set()
    kept = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        lines = [line.strip() for line in topics[name].split("\n") if len(line.strip()) > 25]
        repeated = sum(len(line) for line in lines if line in seen)
        if 10 * repeated <= sum(map(len, lines)):
            kept[name] = topics[name]
            seen.update(lines)
    return kept


def _python_source() -> list[tuple[str, ...]]:
    texts = {path.stem: path.read_text("utf-8", "replace") for path in library_modules("the embedded text python_docs, or a file")}
    sizes = itertools.accumulate(map(len, texts.values()))
    texts = {name: text for (name, text), size in zip(texts.items(), sizes) if size <= SOURCE_LIMIT}
    return deal_documents(texts, [VALIDATION_SHARE, TEST_SHARE])


TEXTS: dict[str, Callable[[], list[tuple[str, ...]]]] = {
    "python_docs": _python_docs,
    "python_source": _python_source,
    "hello": _hello,
}
