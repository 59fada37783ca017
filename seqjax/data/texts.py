"""One door to text: embedded, from TFDS, or from local files."""

import difflib

from seqjax.data.catalogue_text import load_catalogue
from seqjax.data.corpus import Corpus
from seqjax.data.embedded import load_embedded
from seqjax.data.files import load_files
from seqjax.data.origins import explain_difference
from seqjax.errors import UserError

__all__ = ["Corpus", "explain_difference", "load_corpus"]
SOURCES = ("embedded", "tfds", "file")


def load_corpus(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    documents: str = "none",
    validation_fraction: float = 0.1,
    data_dir: str = "",
) -> Corpus:
    r"""A text with its training, validation and test parts, from one of three kinds of source.

    No source stands in for another in silence: what cannot be had is an error that says how to get it.

    Args:
      source: "embedded" (ships with Python, no network), "tfds" (a prepared set, read without TensorFlow) or "file".
      name: embedded: "python_docs", "python_source" or "hello". tfds: the set, such as "tiny_shakespeare" or
        "imdb_reviews/plain_text". file: not used, the corpus is called after its file.
      path: file: UTF-8 text, or `.jsonl` with a field "text" (each line a document); either may be `.gz`. \r\n is
        read as \n, and a byte order mark is dropped.
      validation_path, test_path: file: the other parts. Without the first, the end of `path` is cut off.
      documents: file: "none" (running text: one document, cut in characters), "line" (a blank line is an empty
        document) or "paragraph" (blank lines between); with the last two the ends are predicted and the cut is
        between documents.
      validation_fraction: the share to cut off where the source has no validation part of its own.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.

    Returns:
      A Corpus.

    Raises:
      UserError: an unknown source or name, a set that is not prepared, a file that cannot be read as text, a fraction
        outside (0, 1), or a setting of files given to another source.

    Example:
      >>> corpus = load_corpus("embedded", name="hello")
      >>> corpus.train[0], corpus.ends
      ('hello', True)
    """
    if source not in SOURCES:
        near = difflib.get_close_matches(str(source), SOURCES, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise UserError(f"source={source!r} is not a source{hint}; choose one of {', '.join(SOURCES)}")
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; it must be above 0 and below 1")
    if source == "file":
        return load_files(path, validation_path, test_path, documents, validation_fraction)
    for setting, value in (("path", path), ("validation_path", validation_path), ("test_path", test_path)):
        if value:
            raise UserError(f"{setting}={value!r} is for source='file' only; leave it empty with {source!r}")
    if documents != "none":
        raise UserError(f"documents={documents!r} is for source='file' only; leave it at 'none' with {source!r}")
    return load_embedded(name) if source == "embedded" else load_catalogue(name, data_dir, validation_fraction)
