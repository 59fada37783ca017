"""Text that is on every machine that has Python: nothing to download."""

import difflib
import itertools
import pathlib
import sys
import sysconfig

from seqjax.data.corpus import Corpus, hold_out
from seqjax.data.origins import origin_notes, versions
from seqjax.errors import UserError

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.075
HELLO_COPIES = 960  # divides among most batch sizes, so that no row of a batch begins inside a word
SOURCE_LIMIT = 4_000_000  # characters of python_source


def load_embedded(name: str) -> Corpus:
    """A corpus that ships with Python.

      python_docs: the English documentation of the language, the text behind `help("topics")`; topics are documents
      python_source: the standard library's own top-level modules; files are documents
      hello: the word "hello" over and over; after a reset everything is predictable, so the best loss is exactly 0

    The first two differ a little between versions of Python; on one version they and their parts are always the same,
  and `made_from` says which version that is.

    Args:
      name: one of the three.

    Returns:
      A Corpus with validation and test parts; those of `hello` are its training text again.

    Raises:
      UserError: another name, or a Python that was installed without these texts.

    Example:
      >>> load_embedded("hello").train[0]
      'hello'
    """
    loaders = {"python_docs": _python_docs, "python_source": _python_source, "hello": _hello}
    if name not in loaders:
        near = difflib.get_close_matches(name, loaders, 1, 0.5)
        hint = f" (nearest: {near[0]})" if near else ""
        raise UserError(f"no embedded text is called {name!r}{hint}; choose one of {', '.join(loaders)}")
    return loaders[name]()


def _hello() -> Corpus:
    words = ("hello",) * HELLO_COPIES
    return Corpus("hello", words, words, words, ends=True)


def _python_docs() -> Corpus:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError("this Python lacks pydoc_data; choose the embedded text hello, or a file") from None
    return _of_python("python_docs", _without_repeats(topics))


def _without_repeats(topics: dict[str, str]) -> dict[str, str]:
    """Topics less those that stand, by more than a tenth, inside longer ones: they would leak from part to part."""
    seen: set[str] = set()
    kept = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        lines = [line.strip() for line in topics[name].split("\n") if len(line.strip()) > 25]
        repeated = sum(len(line) for line in lines if line in seen)
        if 10 * repeated <= sum(map(len, lines)):
            kept[name] = topics[name]
            seen.update(lines)
    return kept


def _python_source() -> Corpus:
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    public = (path for path in sorted(folder.glob("*.py")) if path.stem in sys.stdlib_module_names)
    texts = {path.stem: path.read_text("utf-8", "replace") for path in public if not path.stem.startswith("_")}
    sizes = itertools.accumulate(map(len, texts.values()))
    texts = {name: text for (name, text), size in zip(texts.items(), sizes) if size <= SOURCE_LIMIT}
    if len(texts) < 20:
        raise UserError(
            "this Python came without its library's source; choose the embedded text python_docs, or a file"
        )
    return _of_python("python_source", texts)


def _of_python(name: str, texts: dict[str, str]) -> Corpus:
    made_from = versions("python")
    parts = hold_out(texts, [VALIDATION_SHARE, TEST_SHARE])
    return Corpus(name, *parts, ends=True, notes=origin_notes(made_from), made_from=made_from)
