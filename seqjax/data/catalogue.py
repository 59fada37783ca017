"""Sets from TensorFlow Datasets, prepared as array_record and read without TensorFlow; and text from them."""

import os
from typing import Any, Sequence

from seqjax.data.corpus import Corpus, cut
from seqjax.errors import UserError, missing

VALIDATION_SPLITS = ("validation", "valid", "dev")
EMBEDDED_CHOICE = "source='embedded' with name='python_docs' needs no download"


def load_catalogue(name: str, data_dir: str, validation_fraction: float) -> Corpus:
    """A text set of TFDS that was prepared on some machine; nothing is downloaded.

    Args:
      name: as TFDS has it, such as "tiny_shakespeare" or "imdb_reviews/plain_text".
      data_dir: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      validation_fraction: the share to cut off the end of the training part where the set has no validation part.

    Returns:
      A Corpus; the end of a document is predicted unless the training part is one long document.

    Raises:
      UserError: TFDS is not installed, the set is unknown or not prepared, or it has no single text feature.
    """
    if not name:
        raise UserError("source='tfds' needs a name, such as name='tiny_shakespeare'")
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    splits = builder.info.splits
    feature = _text_feature(name, builder.info.features)

    def read(split: str) -> tuple[str, ...]:
        examples = open_split(name, builder, split, EMBEDDED_CHOICE)
        try:
            return tuple(example[feature].decode("utf-8") for example in examples)
        except UnicodeDecodeError as error:
            raise UserError(f"{name} holds text that is not UTF-8 ({error}); choose another set") from None

    train = read("train")
    validation = next((read(split) for split in VALIDATION_SPLITS if split in splits), ())
    test = read("test") if "test" in splits else ()
    ends = len(train) > 1
    if not validation:
        train, validation = cut(train, validation_fraction, name)
    return Corpus(name, train, validation, test, ends)


def open_builder(name: str, data_dir: str, embedded: str) -> Any:
    """The builder of a set of TFDS, prepared and with a training part.

    Args:
      name, data_dir: as in `load_catalogue`.
      embedded: for errors, what there is without a download.

    Returns:
      A `tfds.core.DatasetBuilder`.

    Raises:
      UserError: TFDS is not installed, or the set is unknown, not prepared, or without a training part.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise missing("a TFDS set needs tensorflow_datasets", "tfds", f"note that {embedded}") from None
    where = {"data_dir": os.path.expanduser(data_dir)} if data_dir else {}
    try:
        builder = tfds.builder(name, **where)
    except (ValueError, AssertionError, ImportError, RuntimeError, TypeError) as error:
        said = [line.strip() for line in str(error).split("\n") if line.strip()] or [type(error).__name__]
        what = " ".join(said[:1] + [line for line in said if line.startswith("Did you mean")])
        raise UserError(f"TFDS cannot open {name!r}: {what}; check the name, or {embedded}") from None
    splits = builder.info.splits
    if not splits:
        raise UserError(f"{name} is not prepared in {builder.data_path}; {_how_to_prepare(name, embedded)}")
    if "train" not in splits:
        raise UserError(f"{name} has no split called train, only {', '.join(splits)}; choose another set")
    return builder


def open_split(name: str, builder: Any, split: str, embedded: str, encoded: Sequence[str] = ()) -> Any:
    """One part of a prepared set, for random access.

    Args:
      name, embedded: as in `open_builder`.
      builder: from there.
      split: the part.
      encoded: features to leave in the bytes they are stored in.

    Returns:
      A `tfds.core.data_sources.BaseDataSource`.

    Raises:
      UserError: files that are missing, or not of a kind that has random access.
    """
    import tensorflow_datasets as tfds

    decoders = {feature: tfds.decode.SkipDecoding() for feature in encoded}
    try:
        return builder.as_data_source(split=split, decoders=decoders or None)
    except (NotImplementedError, FileNotFoundError, ValueError, ImportError) as error:
        said = str(error).strip().split("\n")[0]
        raise UserError(
            f"{name} in {builder.data_path} cannot be read ({said}); {_how_to_prepare(name, embedded)}"
        ) from None


def _how_to_prepare(name: str, embedded: str) -> str:
    return (
        f"on a machine with TensorFlow and a network run `tfds build {name} --file_format=array_record`, "
        f"copy the folder here and give its data_dir; or {embedded}"
    )


def _text_feature(name: str, features: Any) -> str:
    """The feature called text, or the only one that is a text."""
    texts = [key for key in features if type(features[key]).__name__ == "Text"]
    if "text" in texts:
        return "text"
    if len(texts) != 1:
        raise UserError(
            f"{name} has {len(texts)} text features, none called text; choose another set "
            f"(its features: {', '.join(features)})"
        )
    return texts[0]
