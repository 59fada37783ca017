"""Running text and documents: embedded, from TFDS, or from local files."""

from seqjax.data.checks import check_fractions
from seqjax.data.origins import versions
from seqjax.data.readers import tfds
from seqjax.data.readers.python_text import TEXTS, read_python_text
from seqjax.data.readers.texts import cut_end, is_json_lines, read_texts
from seqjax.data.records import Dataset, Records, make_dataset
from seqjax.data.sources import Setting, check_name, check_source, file_set_name, part_files, path_settings
from seqjax.errors import UserError

INSTEAD = "source='embedded' with name='python_docs' needs no download"


def load_corpus(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    documents: str = "none",
    encoding: str = "utf-8",
    validation_fraction: float = 0.1,
    data_dir: str = "",
) -> Dataset:
    r"""A text with its training, validation and test parts, from one of three kinds of source.

    No source silently replaces another: if data are missing, the error says how to get them.

    Args:
      source: "embedded" (ships with Python, no network), "tfds" (a prepared set, read without TensorFlow) or "file".
      name: embedded: "python_docs", "python_source" or "hello". tfds: the set, such as "tiny_shakespeare" or
        "imdb_reviews/plain_text". file: what to call the text; "" is the name of its file.
      path: file: text, or `.jsonl` with a field "text" (each line a document); either may be packed with gzip or zstd.
        \r\n is read as \n, and a byte order mark is dropped. A file of more than 64 million characters is streamed.
      validation_path, test_path: file: the other parts. Without the first, the end of `path` is held out.
      documents: file: "none" (running text: one document, split at a character), "line" (one per line; a blank line is an empty document)
        or "paragraph" (separated by blank lines). With the last two the ends are predicted, and the parts are split between documents.
      encoding: file: of all files, such as "utf-16" or "cp1252".
      validation_fraction: the share to hold out if the source has no validation part of its own.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.

    Returns:
      A Dataset of Records with the column "text"; the fact "ends" says whether ends of documents are predicted.

    Raises:
      UserError: an unknown source or name, a set that is not prepared, a file that cannot be read as text, a fraction
        outside (0, 1), or a setting that the source does not use.

    Example:
      >>> corpus = load_corpus("embedded", name="hello")
      >>> corpus.parts["train"]["text"][0], corpus.facts
      ('hello', {'ends': True})
    """
    paths = {"train": path, "validation": validation_path, "test": test_path}
    check_source(source, {
        **path_settings(paths), "data_dir": Setting(data_dir, ("tfds",)),
        "documents": Setting(documents, ("file",), "none"), "encoding": Setting(encoding, ("file",), "utf-8"),
    })  # fmt: skip
    check_fractions(validation_fraction)
    check_name(source, name, TEXTS, "text", "tiny_shakespeare")
    if source == "embedded":
        made_from = {} if name == "hello" else versions("python")
        return make_dataset(name, read_python_text(name), "documents", facts={"ends": True}, made_from=made_from)
    if source == "tfds":
        parts = _of_tfds(name, data_dir)
        ends = len(parts["train"]) > 1
    else:
        if not path:
            raise UserError("source='file' needs a path; give the name of a text file")
        parts = {part: read_texts(file, documents, encoding) for part, file in paths.items() if file}
        ends = documents != "none" or any(map(is_json_lines, paths.values()))
        name = file_set_name(name, TEXTS, path)
    if "validation" not in parts:
        if ends and len(parts["train"]) < 2:
            single = f"{path or name} is a single document, so none is left for validation; give a validation_path"
            raise UserError(single, *parts["train"].notes)
        parts["train"], parts["validation"] = cut_end(parts["train"], validation_fraction, path or name)
    return make_dataset(name, parts, "documents", facts={"ends": ends}, files=part_files(paths))


def _of_tfds(name: str, data_dir: str) -> dict[str, Records]:
    builder = tfds.open_builder(name, data_dir, INSTEAD)
    feature = tfds.feature_of(name, builder.info.features, "Text", "text", usual="text")
    return tfds.read_columns(name, builder, {"text": feature}, INSTEAD)
