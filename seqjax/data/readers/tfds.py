"""Sets from TensorFlow Datasets, prepared as array_record and read without TensorFlow."""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqjax.data.records import Places, Records
from seqjax.errors import UserError, missing

VALIDATION_SPLITS = ("validation", "valid", "dev")


def open_builder(name: str, data_dir: str, embedded: str, needs: str = "train") -> Any:
    """The builder of a TFDS dataset that is prepared and has a training split.

    Args:
      name: the set's name in TFDS, such as "tiny_shakespeare" or "imdb_reviews/plain_text".
      data_dir: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      embedded: an alternative without a download, for errors.
      needs: the split that it must have.

    Returns:
      A `tfds.core.DatasetBuilder`.

    Raises:
      UserError: TFDS is not installed, or the set is unknown, not prepared, or without that split.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise missing("a TFDS dataset needs tensorflow_datasets", "tfds", f"note that {embedded}") from None
    where = {"data_dir": os.path.expanduser(data_dir)} if data_dir else {}
    try:
        builder = tfds.builder(name, **where)  # pyright: ignore[reportArgumentType]
    except (ValueError, AssertionError, ImportError, RuntimeError, TypeError) as error:
        said = [line.strip() for line in str(error).split("\n") if line.strip()] or [type(error).__name__]
        what = " ".join(said[:1] + [line for line in said if line.startswith("Did you mean")])
        raise UserError(f"TFDS cannot open {name!r}: {what}; check the name, or {embedded}") from None
    splits = builder.info.splits
    if not splits:
        raise UserError(f"{name} is not prepared in {builder.data_path}; {_how_to_prepare(name, embedded)}")
    if needs not in splits:
        raise UserError(f"{name} has no split called {needs}, only {', '.join(splits)}; choose another set")
    return builder


def open_split(name: str, builder: Any, split: str, embedded: str, encoded: Sequence[str] = ()) -> Any:
    """One part of a prepared set, for random access.

    Args:
      name, embedded: as in `open_builder`.
      builder: from `open_builder`.
      split: the split to open.
      encoded: features to leave as encoded bytes.

    Returns:
      A `tfds.core.data_sources.BaseDataSource`.

    Raises:
      UserError: files that are missing, or of a format without random access.
    """
    import tensorflow_datasets as tfds

    decoders = {feature: tfds.decode.SkipDecoding() for feature in encoded}
    try:
        return builder.as_data_source(split=split, decoders=decoders or None)
    except (NotImplementedError, FileNotFoundError, ValueError, ImportError) as error:
        said = str(error).strip().split("\n")[0]
        raise UserError(f"{name} in {builder.data_path} cannot be read ({said}); {_how_to_prepare(name, embedded)}") from None


def _how_to_prepare(name: str, embedded: str) -> str:
    return (
        f"on a machine with TensorFlow and a network run `tfds build {name} --file_format=array_record`, "
        f"copy the folder here and give its data_dir; or {embedded}"
    )


def part_splits(splits: Mapping[str, Any]) -> dict[str, str]:
    """Part -> its split, for the parts of a dataset.

    Example:
      >>> part_splits({"train": 1, "dev": 1, "unsupervised": 1})
      {'train': 'train', 'validation': 'dev'}
    """
    validation = next((split for split in VALIDATION_SPLITS if split in splits), "validation")
    wanted = {"train": "train", "validation": validation, "test": "test"}
    return {part: split for part, split in wanted.items() if split in splits}


def examples(source: Any) -> Iterator[Mapping[str, Any]]:
    """All examples of a split, read in batches, which is twice as fast as one by one.

    Args:
      source: as returned by `open_split`.
    """
    for first in range(0, len(source), 1000):
        yield from source.__getitems__(list(range(first, min(first + 1000, len(source)))))


def read_columns(name: str, builder: Any, columns: Mapping[str, str], embedded: str) -> dict[str, Records]:
    """Some features of all examples, in memory.

    Args:
      name, builder, embedded: as in `open_split`.
      columns: column name -> feature.

    Returns:
      The set's parts; texts are str.

    Raises:
      UserError: as `open_split`; a text that is not UTF-8.
    """
    parts = {}
    for part, split in part_splits(builder.info.splits).items():
        found: dict[str, list[Any]] = {column: [] for column in columns}
        for example in examples(open_split(name, builder, split, embedded)):
            for column, feature in columns.items():
                value = example[feature]
                try:
                    found[column].append(value.decode("utf-8") if isinstance(value, bytes) else value)
                except UnicodeDecodeError as error:
                    raise UserError(f"{name} holds text that is not UTF-8 ({error}); choose another set") from None
        size = len(next(iter(found.values())))
        values = {column: tuple(each) for column, each in found.items()}
        parts[part] = Records(values, Places.of(f"{name}, {split}, index", range(size)))
    return parts


def class_names(feature: Any) -> tuple[str, ...]:
    """The classes of a ClassLabel feature; their numbers if it has no names.

    Example:
      >>> import types
      >>> class_names(types.SimpleNamespace(names=None, num_classes=2))
      ('0', '1')
    """
    return tuple(feature.names or map(str, range(feature.num_classes)))


def feature_of(name: str, features: Mapping[str, Any], kind: str, field: str, *, setting: str = "", usual: str = "") -> str:
    """The feature of a given kind with a field's name, or the only one of that kind.

    Args:
      name: the set's name, for the error.
      features: the set's features.
      kind: the class of the feature, such as "Text".
      field: the feature's name.
      setting: the setting that names the field, if any.
      usual: the setting's default; if the field has this value, the only feature of its kind is accepted.

    Raises:
      UserError: no such feature, or several with other names.

    Example:
      >>> class Text: pass
      >>> feature_of("reviews", {"review": Text(), "id": 3}, "Text", "text", usual="text")
      'review'
    """
    keys = [key for key in features if type(features[key]).__name__ == kind]
    if field in keys:
        return field
    if field == usual and len(keys) == 1:
        return keys[0]
    advice = f"set {setting}, or choose another set" if setting else "choose another set"
    raise UserError(
        f"{name} has no {kind} feature called {field!r}, but {', '.join(keys) or 'none'}; {advice} (its features: {', '.join(features)})"
    )


def read_sounds_without_tensorflow() -> None:
    """Lets TFDS create its Audio feature without TensorFlow, which is not needed since sounds are stored decoded.

    TFDS 4.9.10 asks TensorFlow for a dtype when the feature is created (tensorflow/datasets issue 11233). If TensorFlow is installed,
    nothing is changed.
    """
    if importlib.util.find_spec("tensorflow") is not None:
        return
    try:
        from tensorflow_datasets.core.features import audio_feature
    except ImportError:
        return  # open_builder reports that TFDS is missing

    def make(self: Any, file_format: Any, np_dtype: Any, shape: Any) -> None:
        self._file_format, self._np_dtype, self._dtype, self._shape = file_format, np_dtype, np_dtype, shape
        self._channels = shape[1] if len(shape) > 1 else 1

    audio_feature._AudioDecoder.__init__ = make
