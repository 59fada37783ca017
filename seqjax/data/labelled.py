"""One door to texts with labels: embedded, from TFDS, or from local files."""

import difflib
import hashlib
import html
import pathlib
import re
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from seqjax.data.checks import is_whole
from seqjax.data.hold_out import hold_out
from seqjax.data.origins import origin_notes, versions
from seqjax.data.readers.docstrings import read_docstrings
from seqjax.data.readers.tfds import VALIDATION_SPLITS, open_builder, open_split
from seqjax.data.tables import Records, is_folder, read_inputs, read_records
from seqjax.errors import UserError

__all__ = ["LabelledSet", "LabelledTexts", "load_labelled", "read_inputs"]
SOURCES = ("embedded", "tfds", "file")
EMBEDDED = ("docstrings",)
EMBEDDED_CHOICE = "source='embedded' with name='docstrings' needs no download"
USUAL_FIELDS = {"text_field": "text", "label_field": "label"}
TEST_SHARE = 0.15  # of the docstrings
TAG = re.compile(r"<(?:!--|!?/?[A-Za-z])[^<>]*>")
NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?")


class LabelledTexts(NamedTuple):
    """One part of a set."""

    texts: tuple[str, ...]  # N
    labels: np.ndarray  # int32 (N,), places in the set's classes


class LabelledSet(NamedTuple):
    """Texts with classes, in parts."""

    name: str  # what to call it in logs
    classes: tuple[str, ...]  # the name of each label
    parts: dict[str, LabelledTexts]  # "train" and "validation", and "test" where there is one
    fingerprint: str  # of the classes, texts and labels, part by part
    notes: tuple[str, ...]  # what was left out, or should be known; for the user to read
    made_from: dict[str, str] = {}  # what else it depends on: "python" -> version


def load_labelled(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    data_dir: str = "",
    text_field: str = "text",
    label_field: str = "label",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    strip_html: bool = False,
    seed: int = 0,
) -> LabelledSet:
    r"""Texts with classes, in training, validation and test parts, from one of three kinds of source.

    No source stands in for another in silence: what cannot be had is an error that says how to get it.

    The embedded set, "docstrings", is about 2,300 docstrings of functions, methods and classes in twelve parts of the
    standard library, such as asyncio, email and turtle; the class is the part that a docstring is from. The largest
    class has 14 % of them. 15 % of each class are the test part, the same for every seed, so that results can be
    compared. It differs a little between versions of Python.

    Parts that the source does not have are taken from its training part at random, each class in its share; then of
    a text that is there twice with one label one is kept, so that it does not lie in two parts.

    Args:
      source: "embedded" (ships with Python, no network), "tfds" (a prepared set, read without TensorFlow) or "file".
      name: embedded: "docstrings". tfds: the set, such as "imdb_reviews/plain_text". file: not used, the set is
        called after its file or folder.
      path: file: a `.jsonl`, `.csv` or `.tsv`, or a folder with a text file or a folder for each class; see
        `read_records`. Any file may be `.gz`.
      validation_path, test_path: file: the other parts. Without the first, a share of `path` is held out.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      text_field, label_field: what text and label are called in a file, or in a set of TFDS that has several of each.
      validation_fraction: the share of `path`, or of the source's training part, in (0, 1), to hold out where there is
        no validation part.
      test_fraction: the same for the test part, in [0, 1); 0 holds none out. Together they are below 1.
      strip_html: a space for each tag, such as <br />, and characters for entities, such as &amp;.
      seed: of what is held out.

    Returns:
      A LabelledSet. Its classes are those of the training part, by name; by value where all are numbers.

    Raises:
      UserError: an unknown source or name, a set that is not prepared, files that are no such texts, an empty text, a
        label that the training part lacks (each with file and line), a single class, a setting out of its range, or
        one that the source has no use for.

    Example:
      >>> docstrings = load_labelled("embedded", name="docstrings")
      >>> docstrings.classes[:3], list(docstrings.parts)
      (('asyncio', 'email', 'http'), ['train', 'validation', 'test'])
    """
    _check_settings(source, validation_fraction, test_fraction, seed)
    if source != "tfds" and data_dir:
        raise UserError(f"data_dir={data_dir!r} is for source='tfds' only; leave it empty with {source!r}")
    paths = {"path": path, "validation_path": validation_path, "test_path": test_path}
    fields = {"text_field": text_field, "label_field": label_field}
    if source == "file":
        found = _from_files(paths, fields)
    else:
        _refuse(source, "file", paths, dict.fromkeys(paths, ""))
        found = _from_catalogue(name, data_dir, fields) if source == "tfds" else _embedded(name, fields)
    if test_fraction and "test" in found.parts:
        raise UserError(f"test_fraction={test_fraction} has no effect: {found.name} has a test part; leave it at 0")
    if strip_html:
        found = found._replace(parts={part: _without_html(records) for part, records in found.parts.items()})
    return _labelled_set(found, validation_fraction, test_fraction, int(seed))


class _Found(NamedTuple):
    """What a source has."""

    name: str
    parts: dict[str, Records]  # "train" and perhaps others
    classes: tuple[str, ...] = ()  # in the source's order, where it has one
    made_from: dict[str, str] = {}


def _check_settings(source: str, validation_fraction: float, test_fraction: float, seed: int) -> None:
    if source not in SOURCES:
        near = difflib.get_close_matches(str(source), SOURCES, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise UserError(f"source={source!r} is not a source{hint}; choose one of {', '.join(SOURCES)}")
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; it must be above 0 and below 1")
    if not 0 <= test_fraction < 1 - validation_fraction:
        raise UserError(
            f"test_fraction is {test_fraction} and validation_fraction {validation_fraction}; neither may be negative, "
            "and together they must be below 1"
        )
    if not is_whole(seed) or seed < 0:
        raise UserError(f"seed is {seed!r}; it must be a whole number of at least 0")


def _refuse(source: str, kind: str, settings: Mapping[str, str], usual: Mapping[str, str]) -> None:
    """Settings that a source has no use for, unless they are as usual."""
    for setting, value in settings.items():
        if value != usual[setting]:
            raise UserError(
                f"{setting}={value!r} is for source={kind!r} only; leave it at {usual[setting]!r} with {source!r}"
            )


# Sources


def _embedded(name: str, fields: Mapping[str, str]) -> _Found:
    _refuse("embedded", "file", fields, USUAL_FIELDS)
    if name not in EMBEDDED:
        near = difflib.get_close_matches(str(name), EMBEDDED, 1, 0.5)
        hint = f" (nearest: {near[0]})" if near else ""
        raise UserError(f"no embedded set of labelled texts is called {name!r}{hint}; choose {', '.join(EMBEDDED)}")
    texts, labels = read_docstrings()
    everything = Records(texts, labels, [f"docstring {place}" for place in range(len(texts))], ())
    kept, test = hold_out(len(labels), TEST_SHARE, 0, name, strata=np.unique(labels, return_inverse=True)[1])
    parts = {"train": _taken(everything, kept), "test": _taken(everything, test)}
    return _Found(name, parts, made_from=versions("python"))


def _from_files(paths: Mapping[str, str], fields: Mapping[str, str]) -> _Found:
    path = paths["path"]
    if not path:
        raise UserError("source='file' needs a path; give a .jsonl, .csv or .tsv, or a folder of texts")
    names = {"train": path, "validation": paths["validation_path"], "test": paths["test_path"]}
    if len(set(fields.values())) < 2:
        raise UserError(f"text_field and label_field are both {fields['text_field']!r}; name a field for each")
    given = {part: place for part, place in names.items() if place}
    if all(map(is_folder, given.values())):
        for setting, value in fields.items():
            if value != USUAL_FIELDS[setting]:
                raise UserError(f"{setting}={value!r} is for files with fields; {path} is a folder, leave it out")
    return _Found(pathlib.Path(path).name, {part: read_records(place, **fields) for part, place in given.items()})


def _from_catalogue(name: str, data_dir: str, fields: Mapping[str, str]) -> _Found:
    if not name:
        raise UserError("source='tfds' needs a name, such as name='imdb_reviews/plain_text'")
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    features, splits = builder.info.features, builder.info.splits
    text = _feature(name, features, "Text", "text_field", fields["text_field"])
    label = _feature(name, features, "ClassLabel", "label_field", fields["label_field"])
    classes = tuple(features[label].names or map(str, range(features[label].num_classes)))

    def read(split: str) -> Records | None:
        texts, labels = [], []
        for example in _examples(open_split(name, builder, split, EMBEDDED_CHOICE)):
            try:
                texts.append(example[text].decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{name} holds text that is not UTF-8 ({error}); choose another set") from None
            labels.append(int(example[label]))
        if set(labels) == {-1}:  # TFDS's mark of a test part without labels
            return None
        places = [f"{name}, {split}, text {place} (counting from 0)" for place in range(len(texts))]
        wrong = next((place for place, at in zip(places, labels) if not 0 <= at < len(classes)), None)
        if wrong:
            raise UserError(f"{wrong} has a label that is no class; prepare the set anew")
        return Records(texts, [classes[at] for at in labels], places, ())

    validation = next((split for split in VALIDATION_SPLITS if split in splits), "validation")
    wanted = {"train": "train", "validation": validation, "test": "test"}
    parts = {part: read(split) for part, split in wanted.items() if split in splits}
    return _Found(name, {part: records for part, records in parts.items() if records is not None}, classes)


def _examples(source: Any) -> Iterator[Mapping[str, Any]]:
    """All of a part, many at a time, which takes half as long as one by one."""
    for first in range(0, len(source), 1000):
        yield from source.__getitems__(list(range(first, min(first + 1000, len(source)))))


def _feature(name: str, features: Mapping[str, object], kind: str, setting: str, field: str) -> str:
    """The feature of a kind that is called as the field, or the only one of its kind."""
    keys = [key for key in features if type(features[key]).__name__ == kind]
    if field in keys:
        return field
    if field == USUAL_FIELDS[setting] and len(keys) == 1:
        return keys[0]
    raise UserError(
        f"{name} has no {kind} feature called {field!r}, but {', '.join(keys) or 'none'}; set {setting}, or choose "
        f"another set (its features: {', '.join(features)})"
    )


# From records to a set


def _without_html(records: Records) -> Records:
    return records._replace(texts=[html.unescape(TAG.sub(" ", text)) for text in records.texts])


def _taken(records: Records, places: np.ndarray) -> Records:
    texts, labels, where = ([column[place] for place in places] for column in records[:3])
    return Records(texts, labels, where, records.notes)


def _labelled_set(found: _Found, validation_fraction: float, test_fraction: float, seed: int) -> LabelledSet:
    """Checked parts, missing ones held out of the training part, as a set."""
    name, parts = found.name, dict(found.parts)
    for records in parts.values():
        _check_texts(records)
    classes = found.classes or _classes(parts["train"].labels)
    if len(classes) < 2:
        raise UserError(f"{name} has one class only, {classes[0]!r}; give texts of two or more")
    notes = [note for records in parts.values() for note in records.notes]
    if test_fraction or "validation" not in parts:
        parts["train"], said = _without_repeats(parts["train"])
        notes += said
    if test_fraction:
        parts["train"], parts["test"] = _hold_out(name, parts["train"], test_fraction, seed)
    if "validation" not in parts:
        share = validation_fraction / (1 - test_fraction)
        parts["train"], parts["validation"] = _hold_out(name, parts["train"], share, seed)
    parts = {part: parts[part] for part in ("train", "validation", "test") if part in parts}
    notes += [*_repeats_between(parts), *origin_notes(found.made_from)]
    labelled = {part: LabelledTexts(tuple(r.texts), _numbers(r, classes)) for part, r in parts.items()}
    return LabelledSet(name, classes, labelled, _fingerprint(classes, labelled), tuple(notes), found.made_from)


def _check_texts(records: Records) -> None:
    for text, where in zip(records.texts, records.places):
        if not text.strip():
            raise UserError(f"{where} has an empty text; leave it out, or give it some text")


def _classes(labels: Sequence[str]) -> tuple[str, ...]:
    names = sorted(set(labels))
    if all(map(NUMBER.fullmatch, names)):
        names = sorted(names, key=float)
    return tuple(names)


def _numbers(records: Records, classes: Sequence[str]) -> np.ndarray:
    number = {label: place for place, label in enumerate(classes)}
    for label, where in zip(records.labels, records.places):
        if label not in number:
            near = difflib.get_close_matches(label, classes, 1, 0)
            raise UserError(
                f"{where} has the label {label!r}, which no text of the training part has (nearest: {near[0]}); "
                "mend it, or add such texts to the training part"
            )
    return np.array([number[label] for label in records.labels], np.int32)


def _without_repeats(records: Records) -> tuple[Records, list[str]]:
    """The first of each (text, label)."""
    first = {pair: place for place, pair in reversed(list(enumerate(_pairs(records))))}
    more = len(records.texts) - len(first)
    if not more:
        return records, []
    note = f"{more} of {len(records.texts)} texts stood there before with the same label and were left out"
    return _taken(records, np.sort(np.fromiter(first.values(), np.int64))), [note]


def _hold_out(name: str, records: Records, fraction: float, seed: int) -> tuple[Records, Records]:
    labels = np.unique(records.labels, return_inverse=True)[1]
    if np.bincount(labels).max() < 2:
        raise UserError(f"{name} has no class of two texts, so none can be held out; give more texts, or a file a part")
    kept, held = hold_out(len(labels), fraction, seed, name, strata=labels)
    return _taken(records, kept), _taken(records, held)


def _repeats_between(parts: Mapping[str, Records]) -> list[str]:
    """Notes of texts that stand in the training part and in another."""
    train, pairs, notes = set(parts["train"].texts), set(_pairs(parts["train"])), []
    for part in [part for part in parts if part != "train"]:
        number = sum(text in train for text in parts[part].texts)
        alike = sum(pair in pairs for pair in _pairs(parts[part]))
        if number:
            notes.append(
                f"{number} of {len(parts[part].texts)} texts of the {part} part stand in the training part too, "
                f"{alike} of them with the same label"
            )
    return notes


def _pairs(records: Records) -> Iterator[tuple[str, str]]:
    return zip(records.texts, records.labels)


def _fingerprint(classes: tuple[str, ...], parts: Mapping[str, LabelledTexts]) -> str:
    whole = hashlib.sha256(repr(classes).encode())
    for part, (texts, labels) in parts.items():
        whole.update(f"{part} {len(texts)} ".encode() + labels.astype("<i4").tobytes())
        for text in texts:
            data = text.encode("utf-8")
            whole.update(b"%d " % len(data) + data)
    return whole.hexdigest()
