"""Texts of TFDS."""

from typing import Any

from seqjax.data.corpus import Corpus, cut
from seqjax.data.readers.tfds import VALIDATION_SPLITS, open_builder, open_split
from seqjax.errors import UserError

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
