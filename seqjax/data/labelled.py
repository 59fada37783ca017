"""The entry point for texts with labels: embedded, from TFDS, or from local files."""

import html
import re
from collections.abc import Mapping, Sequence

import numpy as np

from seqjax.data.checks import check_fractions, check_whole
from seqjax.data.hold_out import hold_out
from seqjax.data.origins import versions
from seqjax.data.readers.docstrings import read_docstrings
from seqjax.data.readers.opening import is_folder
from seqjax.data.readers.tables import USUAL, Format, check_format, read_table, table_settings
from seqjax.data.readers.text_folders import part_folders, read_text_folder
from seqjax.data.readers.tfds import class_names, feature_of, open_builder, read_columns
from seqjax.data.records import PARTS, Dataset, Faults, Places, Records, make_dataset
from seqjax.data.report import repeats_between
from seqjax.data.sources import (
    SOURCES,
    Setting,
    check_name,
    check_source,
    file_set_name,
    part_files,
    path_settings,
    refuse_given,
)
from seqjax.errors import UserError, nearest

__all__ = ["SOURCES", "load_labelled"]
EMBEDDED = ("docstrings",)
EMBEDDED_CHOICE = "source='embedded' with name='docstrings' needs no download"
TEST_SHARE = 0.15  # of the docstrings
TAG = re.compile(r"<(?:!--|!?/?[A-Za-z])[^<>]*>")
NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?")


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
    delimiter: str = "",
    quoting: str = "double",
    header: bool = True,
    encoding: str = "utf-8",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    strip_html: bool = False,
    seed: int = 0,
) -> Dataset:
    r"""Texts with classes, in training, validation and test parts, from one of three kinds of source.

    No source silently replaces another: if data are missing, the error says how to get them.

    The embedded set, "docstrings", has about 2,300 docstrings of functions, methods and classes from twelve parts of the standard library,
    such as asyncio, email and turtle; the class is the part a docstring comes from. The largest class has 14 % of them. 15 % of each class
    are the test part, the same for every seed, so that results can be compared. The set differs slightly between Python versions.

    Parts that the source lacks are drawn from its training part at random, stratified by class. In that case repeats of a text with the
    same label are dropped, so that no text is in two parts.

    Args:
      source: "embedded" (ships with Python, no network), "tfds" (a prepared set, read without TensorFlow) or "file".
      name: embedded: "docstrings". tfds: the set, such as "imdb_reviews/plain_text". file: what to call the set; "" is the name of its file
        or folder.
      path: file: a `.jsonl`, `.csv` or `.tsv`, see `read_table`; or a folder with a text file or a folder for each class, see
        `read_text_folder`; or a folder with such folders named train and test (in any case). Any file may be packed with gzip or zstd.
      validation_path, test_path: file: the other parts. Without the first, a share of `path` is held out.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      text_field, label_field: the names of the text and label fields of a table, or their numbers from "1"; for a TFDS set with several of
        each, the names of its features.
      delimiter, quoting, header, encoding: how a table is written, see `Format`; the encoding applies to any file.
      validation_fraction: the share of `path`, or of the source's training part, in (0, 1), to hold out where there is
        no validation part.
      test_fraction: the same for the test part, in [0, 1); 0 holds none out. Together they are below 1.
      strip_html: replace each tag, such as <br />, by a space, and entities, such as &amp;, by their characters.
      seed: of the choice of texts held out.

    Returns:
      A Dataset whose parts have the columns "text" (tuple of str) and "label" (int32, indices into the classes). The classes are those of
      the training part, sorted by name, or by value if all are numbers.

    Raises:
      UserError: an unknown source or name, a set that is not prepared, malformed files, an empty text, a
        label that the training part lacks (each with file and line, all of a file at once), a single class, a setting out
        of its range, or one that the source does not use.

    Example:
      >>> docstrings = load_labelled("embedded", name="docstrings")
      >>> docstrings.classes[:3], list(docstrings.parts)
      (('asyncio', 'email', 'http'), ['train', 'validation', 'test'])
    """
    paths = {"train": path, "validation": validation_path, "test": test_path}
    fields = {"text": ("text_field", text_field), "label": ("label_field", label_field)}
    format = Format(delimiter, quoting, header, encoding)
    check_source(
        source,
        {
            **path_settings(paths),
            **table_settings(format),
            "encoding": Setting(encoding, ("file",), USUAL.encoding),
            "data_dir": Setting(data_dir, ("tfds",)),
            **_field_settings(fields),
        },
    )
    check_fractions(validation_fraction, test_fraction)
    check_whole(0, seed=seed)
    check_name(source, name, EMBEDDED, "set of labelled texts", "imdb_reviews/plain_text")
    classes: tuple[str, ...] = ()
    own: dict[str, str] = {}
    if source == "embedded":
        parts = _docstrings(name)
    elif source == "tfds":
        parts, classes = _catalogue(name, data_dir, text_field, label_field)
    else:
        parts, own = _files(paths, fields, format)
        name = file_set_name(name, EMBEDDED, path)
    if test_fraction and "test" in parts:
        raise UserError(f"test_fraction={test_fraction} has no effect: {name} has a test part; leave it at 0")
    for part, records in parts.items():
        if strip_html:
            records = records.replace(text=tuple(html.unescape(TAG.sub(" ", text)) for text in records["text"]))
        parts[part] = _checked(records, name)
    classes = classes or _classes(parts["train"]["label"])
    if len(classes) < 2:
        raise UserError(f"{name} has one class only, {classes[0]!r}; give texts of two or more")  # pyright: ignore[reportGeneralTypeIssues]
    notes = []
    if test_fraction or "validation" not in parts:
        parts["train"], notes = _without_repeats(parts["train"])
    for part, share in (("test", test_fraction), ("validation", validation_fraction / (1 - test_fraction))):
        if part not in parts and share:
            try:
                parts["train"], parts[part] = _held_out(parts["train"], share, seed, name)
            except UserError as error:
                raise UserError(*(str(error), *notes)) from None
    numbered = {part: _numbered(parts[part], classes, name) for part in PARTS if part in parts}
    notes += repeats_between(numbered)
    made_from = versions("python") if source == "embedded" else {}
    return make_dataset(name, numbered, "texts", classes=classes, notes=notes, made_from=made_from, files=own)


# Sources


def _field_settings(fields: Mapping[str, tuple[str, str]]) -> dict[str, Setting]:
    return {setting: Setting(value, ("file", "tfds"), usual) for usual, (setting, value) in fields.items()}


def _docstrings(name: str) -> dict[str, Records]:
    texts, labels = read_docstrings()
    places = Places.of("docstring", range(len(texts)))
    train, test = _held_out(Records({"text": tuple(texts), "label": tuple(labels)}, places), TEST_SHARE, 0, name)
    return {"train": train, "test": test}


def _files(paths: Mapping[str, str], fields: Mapping[str, tuple[str, str]], format: Format) -> tuple[dict[str, Records], dict[str, str]]:
    """The parts, and the name of each one's file."""
    path, text_field, label_field = paths["train"], fields["text"][1], fields["label"][1]
    if not path:
        raise UserError("source='file' needs a path; give a .jsonl, .csv or .tsv, or a folder of texts")
    check_format(format)
    if text_field == label_field:
        raise UserError(f"text_field and label_field are both {text_field!r}; name a field for each")
    given = dict(paths)
    for part, folder in (part_folders(path) if is_folder(path) else {}).items():
        if part != "train" and given[part]:
            raise UserError(f"{path} has a {part} part, {folder}; leave {part}_path empty, or give the training folder as path")
        given[part] = folder
    given = {part: place for part, place in given.items() if place}
    if all(map(is_folder, given.values())):
        settings = table_settings(format) | _field_settings(fields)
        refuse_given(settings, f"is for files with fields, and {path} is a folder")
    parts = {
        part: read_text_folder(place, format.encoding) if is_folder(place) else read_table(place, fields, format, ["label"])
        for part, place in given.items()
    }
    return parts, part_files(given)


def _catalogue(name: str, data_dir: str, text_field: str, label_field: str) -> tuple[dict[str, Records], tuple[str, ...]]:
    """Parts with labels, and the classes in the order of the set."""
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    features = builder.info.features
    text = feature_of(name, features, "Text", text_field, setting="text_field", usual="text")
    label = feature_of(name, features, "ClassLabel", label_field, setting="label_field", usual="label")
    classes, parts = class_names(features[label]), {}
    for part, records in read_columns(name, builder, {"text": text, "label": label}, EMBEDDED_CHOICE).items():
        labels, faults = records["label"], Faults(name)
        if set(labels) == {-1}:  # how TFDS marks a test part without labels
            continue
        for index in np.flatnonzero([not 0 <= value < len(classes) for value in labels]):
            faults.add(f"{records.places.at(index)} has the label {labels[index]}, which is not a class; prepare the set again")
        faults.raise_any()
        parts[part] = records.replace(label=tuple(classes[value] for value in labels))
    return parts, classes


# From records to a dataset


def _checked(records: Records, name: str) -> Records:
    faults = Faults(name)
    for index, text in enumerate(records["text"]):
        if not text.strip():
            faults.add(f"{records.places.at(index)} has an empty text; leave it out, or give it some text")
    faults.raise_any()
    return records


def _classes(labels: Sequence[str]) -> tuple[str, ...]:
    names = sorted(set(labels))
    return tuple(sorted(names, key=float) if all(map(NUMBER.fullmatch, names)) else names)


def _without_repeats(records: Records) -> tuple[Records, list[str]]:
    """The first of each (text, label)."""
    first: dict[tuple[str, str], int] = {}
    for index, pair in enumerate(zip(records["text"], records["label"])):
        first.setdefault(pair, index)
    more = len(records) - len(first)
    if not more:
        return records, []
    note = f"{more} of {len(records)} texts repeat an earlier one with the same label and were left out"
    return records.take(np.fromiter(first.values(), np.int64)), [note]


def _held_out(records: Records, share: float, seed: int, name: str) -> tuple[Records, Records]:
    number = {label: at for at, label in enumerate(sorted(set(records["label"])))}
    strata = np.array([number[label] for label in records["label"]])
    kept, held = hold_out(len(records), share, seed, name, strata=strata)
    return records.take(kept), records.take(held)


def _numbered(records: Records, classes: Sequence[str], name: str) -> Records:
    """The same records with labels as class indices."""
    number, faults = {label: at for at, label in enumerate(classes)}, Faults(name)
    for index, label in enumerate(records["label"]):
        if label not in number:
            faults.add(
                f"{records.places.at(index)} has the label {label!r}, which no text of the training part has"
                f"{nearest(label, classes, cutoff=0)}; correct it, or add such texts to the training part"
            )
    faults.raise_any()
    return records.replace(label=np.array([number[label] for label in records["label"]], np.int32))
