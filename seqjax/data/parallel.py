"""The entry point for sentences and their translations: embedded, from TFDS, or from local files."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from seqjax.data.checks import check_fractions, check_whole
from seqjax.data.hold_out import hold_out
from seqjax.data.origins import versions
from seqjax.data.readers.dates import LANGUAGES, date_pairs
from seqjax.data.readers.pairs import read_line_pairs, read_table_pairs
from seqjax.data.readers.stories import make_stories
from seqjax.data.readers.tables import USUAL, Format, check_format, is_table, table_settings
from seqjax.data.readers.tfds import open_builder, read_columns
from seqjax.data.records import PARTS, Dataset, Places, Records, make_dataset
from seqjax.data.report import part_title, repeats_between
from seqjax.data.sources import SOURCES, Setting, check_name, check_source, file_set_name, part_files, refuse_given
from seqjax.errors import UserError

__all__ = ["SOURCES", "load_parallel"]
EMBEDDED = ("dates", "stories")
EMBEDDED_CHOICE = "source='embedded' with name='dates' needs no download"
STORY_SIZES = {"train": 60_000, "validation": 2_048, "test": 4_000}
STORY_NOTES = ("validation and test: every answer turns on a person with a place or a thing that no story of another part has together",)
DATE_SIZES = {"test": 4_000, "validation": 2_048, "train": 40_000}  # multiples of the number of languages


def load_parallel(
    source: str,
    *,
    name: str = "",
    path: str = "",
    target_path: str = "",
    validation_path: str = "",
    validation_target_path: str = "",
    test_path: str = "",
    test_target_path: str = "",
    data_dir: str = "",
    source_language: str = "",
    target_language: str = "",
    source_field: str = "",
    target_field: str = "",
    delimiter: str = "",
    quoting: str = "double",
    header: bool = True,
    encoding: str = "utf-8",
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    r"""Sentences with translations, in training, validation and test parts, from one of three kinds of source.

    No source silently replaces another: if data are missing, the error says how to get them.

    `dates` are written dates of 32 languages, such as "7. März 2024", to be translated to "2024-03-07": 40,000 for training, 2,048 for
    validation and 4,000 for testing, with every language equally often. Each date from 1900 to 2099 occurs at most once in all parts
    together, so test dates were seen in no language. Every form is unambiguous, so 100 % is possible; copying the source gets 0 % right.
    See `date_pairs`.

    Pairs with a side that is empty or only white space are left out and counted in the notes, so that a score covers only pairs that can be
    translated. If there is no validation part, distinct sources are drawn for it at random; all pairs with the same source stay in one
    part.

    Args:
      source: "embedded" (generated, `dates` from the locale data of Babel; no network), "tfds" (a prepared set, read without
        TensorFlow) or "file".
      name: embedded: "dates", or "stories", each with a question and its answer. tfds: a translation set, such as
        "ted_hrlr_translate/pt_to_en". file: what to call the set; "" is the names of its files.
      path, target_path: file: text, plain or packed, one sentence per line; line i of one translates line i of the other. \r\n is read as
        \n, lines end at \n alone, and a final newline adds no line. Or `path` alone: a table of both (.tsv, .csv or .jsonl, or any file
        with a `delimiter`).
      validation_path, validation_target_path, test_path, test_target_path: file: the other parts, in the same ways.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      source_language, target_language: tfds: two of the set's languages; "" takes the set's own choice.
      source_field, target_field: file: the two fields of a table, by name or by number from "1"; "" is "source" and "target", or "1" and
        "2" if there is no header.
      delimiter, quoting, header, encoding: how a table is written, see `Format`; the encoding applies to any file. Tab-separated
        pairs as Tatoeba has them: delimiter="tab", quoting="none", header=False.
      validation_fraction: the share of distinct sources to hold out, in (0, 1), if there is no validation part.
      seed: of the choice of what is held out; of the dates and their forms; of the stories.

    Returns:
      A Dataset whose parts have the columns "source" and "target", and for `dates` "language" (of each source), for `stories` "kind" (of
      the question) and "sentences" (their number: "1-5", ...).

    Raises:
      UserError: an unknown source, name or language, a set that is not prepared, a file that cannot be read, files with unequal numbers of
        lines, an empty part, a fraction outside (0, 1), or a setting that the source does not use.

    Example:
      >>> dates = load_parallel("embedded", name="dates")
      >>> {part: len(pairs) for part, pairs in dates.parts.items()}
      {'train': 40000, 'validation': 2048, 'test': 4000}
      >>> dates.parts["test"]["language"][:3], dates.parts["test"]["target"][:3]
      (('en', 'de', 'fr'), ('2084-03-31', '2074-12-25', '2098-10-06'))
    """
    files = {
        "path": path,
        "target_path": target_path,
        "validation_path": validation_path,
        "validation_target_path": validation_target_path,
        "test_path": test_path,
        "test_target_path": test_target_path,
    }
    catalogue = {"data_dir": data_dir, "source_language": source_language, "target_language": target_language}
    fields, format = {"source_field": source_field, "target_field": target_field}, Format(delimiter, quoting, header, encoding)
    check_source(
        source,
        {
            **{setting: Setting(value, ("file",)) for setting, value in {**files, **fields}.items()},
            **table_settings(format),
            "encoding": Setting(encoding, ("file",), USUAL.encoding),
            **{setting: Setting(value, ("tfds",)) for setting, value in catalogue.items()},
        },
    )
    check_fractions(validation_fraction)
    check_whole(0, seed=seed)
    check_name(source, name, EMBEDDED, "set of translations", "ted_hrlr_translate/pt_to_en")
    if source == "embedded":
        if name == "stories":
            return make_dataset("stories", _stories(seed), "pairs", notes=STORY_NOTES)
        return make_dataset("dates", _dates(seed), "pairs", made_from=versions("babel"))
    own = {}
    if source == "file":
        parts, own = _files(files, fields, format)
        name = file_set_name(name, EMBEDDED, own["train"])
    else:
        parts = _catalogue(name, **catalogue)
    return _gathered(name, parts, own, validation_fraction, seed)


def _dates(seed: int) -> dict[str, Records]:
    waiting, parts = date_pairs(LANGUAGES, sum(DATE_SIZES.values()), seed), {}
    for part, size in DATE_SIZES.items():
        dates, waiting = waiting[:size], waiting[size:]
        language, source, target = zip(*((date.language, date.written, date.iso) for date in dates))
        columns = {"source": source, "target": target, "language": language}
        parts[part] = Records(columns, Places.of(f"{part} date", range(1, size + 1)))
    return parts


def _stories(seed: int) -> dict[str, Records]:
    parts = {}
    for part, size in STORY_SIZES.items():
        source, target, kind, lengths = zip(*make_stories(part, size, seed))
        lengths = tuple(f"{first}-{first + 4}" for first in ((length - 1) // 5 * 5 + 1 for length in lengths))
        columns = {"source": source, "target": target, "kind": kind, "sentences": lengths}
        parts[part] = Records(columns, Places.of(f"{part} story", range(1, size + 1)))
    return parts


def _files(files: Mapping[str, str], fields: Mapping[str, str], format: Format) -> tuple[dict[str, Records], dict[str, str]]:
    """The parts, and the names of each one's files."""
    check_format(format)
    parts, sides, tables = {}, {}, 0
    for part, prefix in zip(PARTS, ("", "validation_", "test_")):
        path, target_path = files[f"{prefix}path"], files[f"{prefix}target_path"]
        if part != "train" and not path and not target_path:
            continue
        if path and not target_path and is_table(path, format):
            names = [fields[field] or usual for field, usual in zip(fields, ("source", "target") if format.header else ("1", "2"))]
            if names[0] == names[1]:
                raise UserError(f"source_field and target_field are both {names[0]!r}; name a field for each")
            parts[part], tables = read_table_pairs(path, *names, format), tables + 1  # pyright: ignore[reportCallIssue]
        elif missing := [setting for setting in (f"{prefix}path", f"{prefix}target_path") if not files[setting]]:
            raise UserError(
                f"source='file' needs {' and '.join(missing)}; give a file of sentences and one of translations, or a table of "
                "both (.tsv, .csv, .jsonl, or another with a delimiter)"
            )
        else:
            parts[part] = read_line_pairs(path, target_path, format.encoding)
        sides[part] = (path, target_path)
    own = part_files(sides)
    if not tables:
        settings = {field: Setting(value, ("file",)) for field, value in fields.items()} | table_settings(format)
        refuse_given(settings, f"is for tables, and {own['train']} are two files of lines")
    return parts, own


def _catalogue(name: str, data_dir: str, source_language: str, target_language: str) -> dict[str, Records]:
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    languages = _languages(name, builder.info, source_language, target_language)
    return read_columns(name, builder, dict(zip(("source", "target"), languages)), EMBEDDED_CHOICE)


def _languages(name: str, info: Any, source_language: str, target_language: str) -> tuple[str, str]:
    """The languages to translate from and to: as asked, or as the set's own supervised keys."""
    if type(info.features).__name__ != "Translation":
        raise UserError(f"{name} is not a dataset of translations (its features: {', '.join(info.features)}); choose another set")
    known = info.features.languages
    for setting, value in (("source_language", source_language), ("target_language", target_language)):
        if value and value not in known:
            raise UserError(f"{setting}={value!r} is not in {name}; choose among {', '.join(known)}")
    if not source_language and not target_language:
        if not info.supervised_keys:
            raise UserError(f"{name} does not say which way to translate; give source_language and target_language")
        source_language, target_language = info.supervised_keys[:2]
    asked = source_language or target_language
    others = [language for language in known if language != asked]
    if not (source_language and target_language) and len(others) != 1:
        raise UserError(f"{name} has the languages {', '.join(known)}; give both source_language and target_language")
    chosen = (source_language or others[0], target_language or others[0])
    if chosen[0] == chosen[1]:
        raise UserError(f"source_language and target_language are both {chosen[0]!r}; choose two")
    return chosen


def _gathered(name: str, parts: Mapping[str, Records], own: Mapping[str, str], fraction: float, seed: int) -> Dataset:
    """Parts without empty pairs, a validation part held out if there is none."""
    kept, notes = {}, []
    for part, pairs in parts.items():
        whole = np.array([bool(source.strip() and target.strip()) for source, target in zip(pairs["source"], pairs["target"])])
        if not whole.any():
            raise UserError(f"the {part} part of {part_title(name, own, part)} has no pair with words on both sides; give other sentences")
        if not whole.all():
            first, number = pairs.places.at(int(np.argmin(whole))), int((~whole).sum())
            notes.append(f"{part}: left out {number:,} of {len(pairs):,} pairs, with an empty side (first: {first})")
        kept[part] = pairs.take(np.flatnonzero(whole))
    if "validation" not in kept:
        sources = kept["train"]["source"]
        if len(set(sources)) < 2:
            raise UserError(f"{name} has one distinct source, so none is left for validation; give a validation part")
        stays, held = hold_out(len(sources), fraction, seed, name, groups=sources)
        kept |= {"train": kept["train"].take(stays), "validation": kept["train"].take(held)}
    kept = {part: kept[part] for part in PARTS if part in kept}
    return make_dataset(name, kept, "pairs", notes=[*notes, *repeats_between(kept)], files=own)
