"""A dataset of labelled texts that comes with Python: docstrings and the packages they come from."""

import ast
import pathlib
import sysconfig

from seqjax.errors import UserError

# The parts of the library with the most docstrings in Python 3.11 to 3.13. tkinter is left out, since it has three times as many as the
# next and may not be installed; so are packages of tests and tools.
PACKAGES = (
    "asyncio", "email", "http", "importlib", "inspect", "logging", "mailbox", "multiprocessing", "tarfile", "turtle",
    "unittest", "xml",
)  # fmt: skip
FEWEST_WORDS = 4
FEWEST_TEXTS = 50  # per package; fewer mean that the source is incomplete


def read_docstrings() -> tuple[list[str], list[str]]:
    """Docstrings of functions, methods and classes in twelve parts of the standard library, with the parts' names.

    The source is read; nothing is imported. A docstring that occurs repeatedly, as those of overridden methods do, is kept once; one that
    occurs in two parts of the library is left out, since its label would be ambiguous. On a given version of Python the result is always
    the same.

    Returns:
      (texts, labels), equally long, in the order of the source; each text has four words or more.

    Raises:
      UserError: this Python was installed without its library's source.

    Example:
      >>> texts, labels = read_docstrings()
      >>> len(texts) == len(labels), sorted(set(labels))[:3]
      (True, ['asyncio', 'email', 'http'])
    """
    owners: dict[str, set[str]] = {}
    first: dict[str, str] = {}
    for package in PACKAGES:
        for text in _docstrings(package):
            key = " ".join(text.split())
            if key.count(" ") + 1 >= FEWEST_WORDS:
                owners.setdefault(key, set()).add(package)
                first.setdefault(key, text)
    pairs = [(first[key], *packages) for key, packages in owners.items() if len(packages) == 1]
    texts, labels = [text for text, _ in pairs], [label for _, label in pairs]
    if min(map(labels.count, PACKAGES)) < FEWEST_TEXTS:
        raise UserError("this Python came without its library's source; choose source='file' or source='tfds'")
    return texts, labels


def _docstrings(package: str) -> list[str]:
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    files = [library / f"{package}.py", *sorted((library / package).rglob("*.py"))]
    files = [file for file in files if file.is_file() and file.parent.name != "test"]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_bytes())))
    found = (ast.get_docstring(node) for node in nodes if isinstance(node, kinds))
    return [text for text in found if text]
