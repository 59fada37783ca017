"""One door to sentences and their translations: embedded, from TFDS, or from local files."""

import difflib
import hashlib
import json
import pathlib
from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np

from seqjax.data.draws import shuffled
from seqjax.data.files import decode_text, read_bytes
from seqjax.data.origins import origin_notes, versions
from seqjax.data.readers.dates import LANGUAGES, date_pairs
from seqjax.data.readers.tfds import VALIDATION_SPLITS, open_builder, open_split
from seqjax.errors import UserError

SOURCES = ("embedded", "tfds", "file")
EMBEDDED_CHOICE = "source='embedded' with name='dates' needs no download"
DATE_SIZES = {"test": 4_000, "validation": 2_048, "train": 40_000}  # multiples of the number of languages


class Pairs(NamedTuple):
    """Sentences and their translations."""

    source: tuple[str, ...]
    target: tuple[str, ...]  # as many; the i-th translates the i-th source


class ParallelSet(NamedTuple):
    """Translations in parts."""

    name: str  # what to call it in logs
    parts: dict[str, Pairs]  # "train", "validation", and "test" where there is one
    fingerprint: str  # sha256 over the parts' names and sentences
    notes: tuple[str, ...]  # what was left out and what to know of the parts, a line each
    languages: dict[str, tuple[str, ...]] = {}  # part -> the language of each of its sources, where they differ
    made_from: dict[str, str] = {}  # what else it depends on: package -> version


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
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> ParallelSet:
    r"""Sentences with translations, in training, validation and test parts, from one of three kinds of source.

    No source stands in for another in silence: what cannot be had is an error that says how to get it.

    `dates` are written dates of 32 languages, such as "7. März 2024", each to be turned into "2024-03-07": 40,000
    for training, 2,048 and 4,000 to validate and test, every language equally often. Each date from 1900 to 2099
    occurs once at most in all parts together: those of the test were seen in no language. Every form says without
    doubt which day is meant, so 100 % is possible; copying the source gets 0 % right. See `date_pairs`.

    A pair with a side that is empty, or has only white space, is left out of whichever part it stands in, and counted
    in the notes, so that a score is over the pairs that can be translated. Where there is no validation part, distinct
    sources are drawn for it at random: all pairs of one source are in one part.

    Args:
      source: "embedded" (made from the locale data of Babel, no network), "tfds" (a prepared set, read without
        TensorFlow) or "file".
      name: embedded: "dates". tfds: a translation set, such as "ted_hrlr_translate/pt_to_en". file: what to call it;
        "" is the files' names.
      path, target_path: file: UTF-8 text, plain or `.gz`, a sentence a line; line i of one translates line i of the
        other. \r\n is read as \n, lines end at \n alone, and a final newline adds none.
      validation_path, validation_target_path, test_path, test_target_path: file: the other parts, both of each or
        neither.
      data_dir: tfds: the folder of prepared sets; "" is TFDS's own, ~/tensorflow_datasets.
      source_language, target_language: tfds: of those the set has; "" is what the set itself says.
      validation_fraction: the share of distinct sources to hold out, in (0, 1), where there is no validation part.
      seed: of what is held out; of the dates and their forms.

    Returns:
      A ParallelSet.

    Raises:
      UserError: an unknown source, name or language, a set that is not prepared, a file that cannot be read, files
        with unequal numbers of lines, nothing left of a part, a fraction outside (0, 1), or a setting of one source
        given to another.

    Example:
      >>> dates = load_parallel("embedded", name="dates")
      >>> {part: len(pairs.source) for part, pairs in dates.parts.items()}
      {'train': 40000, 'validation': 2048, 'test': 4000}
      >>> dates.languages["test"][:3], dates.parts["test"].target[:3]
      (('en', 'de', 'fr'), ('2084-03-31', '2074-12-25', '2098-10-06'))
    """
    if source not in SOURCES:
        near = difflib.get_close_matches(str(source), SOURCES, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise UserError(f"source={source!r} is not a source{hint}; choose one of {', '.join(SOURCES)}")
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; it must be above 0 and below 1")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UserError(f"seed is {seed!r}; it must be a whole number of at least 0")
    files = {
        "path": path, "target_path": target_path,
        "validation_path": validation_path, "validation_target_path": validation_target_path,
        "test_path": test_path, "test_target_path": test_target_path,
    }  # fmt: skip
    catalogue = {"data_dir": data_dir, "source_language": source_language, "target_language": target_language}
    for kind, settings in (("file", files), ("tfds", catalogue)):
        for setting, value in settings.items():
            if value and source != kind:
                raise UserError(f"{setting}={value!r} is for source={kind!r} only; leave it empty with {source!r}")
    if source == "embedded":
        return _dates(name, seed)
    if source == "file":
        parts, units = _read_files(files), "line"
        name = name or " and ".join(pathlib.Path(place).name for place in (path, target_path))
    else:
        parts, units = _read_catalogue(name, **catalogue), "example"
    return _gather(name, parts, units, validation_fraction, seed)


def _dates(name: str, seed: int) -> ParallelSet:
    if name != "dates":
        near = " (nearest: dates)" if difflib.get_close_matches(name, ["dates"], 1, 0.5) else ""
        raise UserError(f"no embedded translations are called {name!r}{near}; choose name='dates'")
    waiting = date_pairs(LANGUAGES, sum(DATE_SIZES.values()), seed)
    taken = {}
    for part, size in DATE_SIZES.items():
        taken[part], waiting = waiting[:size], waiting[size:]
    taken = {part: taken[part] for part in reversed(DATE_SIZES)}
    parts = {part: Pairs(tuple(d.written for d in dates), tuple(d.iso for d in dates)) for part, dates in taken.items()}
    languages = {part: tuple(date.language for date in dates) for part, dates in taken.items()}
    made_from = versions("babel")
    return ParallelSet("dates", parts, _fingerprint(parts), origin_notes(made_from), languages, made_from)


def _read_files(files: Mapping[str, str]) -> dict[str, Pairs]:
    parts = {}
    for part, prefix in (("train", ""), ("validation", "validation_"), ("test", "test_")):
        settings = (f"{prefix}path", f"{prefix}target_path")
        missing = [setting for setting in settings if not files[setting]]
        if len(missing) == 2 and part != "train":
            continue
        if missing:
            raise UserError(
                f"source='file' needs {' and '.join(missing)}; give a file of sentences and one of translations"
            )
        path, target_path = (files[setting] for setting in settings)
        pairs = Pairs(_lines(path), _lines(target_path))
        if len(pairs.source) != len(pairs.target):
            raise UserError(
                f"{path} has {len(pairs.source)} lines and {target_path} has {len(pairs.target)}; "
                "line i of one must translate line i of the other"
            )
        parts[part] = pairs
    return parts


def _lines(path: str) -> tuple[str, ...]:
    return tuple(decode_text(path, read_bytes(path)).removesuffix("\n").split("\n"))


def _read_catalogue(name: str, data_dir: str, source_language: str, target_language: str) -> dict[str, Pairs]:
    if not name:
        raise UserError("source='tfds' needs a name, such as name='ted_hrlr_translate/pt_to_en'")
    builder = open_builder(name, data_dir, EMBEDDED_CHOICE)
    languages = _languages(name, builder.info, source_language, target_language)
    there = builder.info.splits
    validation = next((split for split in VALIDATION_SPLITS if split in there), "")
    splits = {"train": "train", "validation": validation, "test": "test" if "test" in there else ""}

    def read(split: str) -> Pairs:
        sides: tuple[list[str], list[str]] = ([], [])
        try:
            for example in open_split(name, builder, split, EMBEDDED_CHOICE):
                for side, language in zip(sides, languages):
                    side.append(example[language].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{name} holds text that is not UTF-8 ({error}); choose another set") from None
        return Pairs(*map(tuple, sides))

    return {part: read(split) for part, split in splits.items() if split}


def _languages(name: str, info: Any, source_language: str, target_language: str) -> tuple[str, str]:
    """The languages to translate from and to: as asked, or as the set's own supervised keys."""
    if type(info.features).__name__ != "Translation":
        raise UserError(
            f"{name} is no set of translations (its features: {', '.join(info.features)}); choose another set"
        )
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


def _gather(name: str, parts: Mapping[str, Pairs], unit: str, fraction: float, seed: int) -> ParallelSet:
    """Parts without empty pairs, a validation part held out where there is none, and what to know of them."""
    kept, notes = {}, []
    for part, pairs in parts.items():
        whole = [bool(source.strip() and target.strip()) for source, target in zip(*pairs)]
        if not any(whole):
            raise UserError(f"the {part} part of {name} has no pair with words on both sides; give other sentences")
        if not all(whole):
            first, number = whole.index(False) + 1, whole.count(False)
            notes.append(f"{part}: left out {number} of {len(whole)} pairs, with an empty side (first: {unit} {first})")
        kept[part] = _take(pairs, whole)
    if "validation" not in kept:
        train, validation = _hold_out(kept.pop("train"), fraction, seed, name)
        kept = {"train": train, "validation": validation} | kept
    known = set(kept["train"].source)
    for part, pairs in kept.items():
        seen = sum(source in known for source in pairs.source)
        if part != "train" and seen:
            notes.append(f"{part}: {seen} of {len(pairs.source)} sources are also in the training part")
    return ParallelSet(name, kept, _fingerprint(kept), tuple(notes))


def _hold_out(pairs: Pairs, fraction: float, seed: int, name: str) -> tuple[Pairs, Pairs]:
    """(what stays, what is held out), by distinct sources; each in its order."""
    distinct = list(dict.fromkeys(pairs.source))
    if len(distinct) < 2:
        raise UserError(f"{name} has one distinct source, so none is left for validation; give a validation part")
    number = min(max(round(len(distinct) * fraction), 1), len(distinct) - 1)
    held = {distinct[index] for index in shuffled(len(distinct), seed)[0][:number]}
    return _take(pairs, [s not in held for s in pairs.source]), _take(pairs, [s in held for s in pairs.source])


def _take(pairs: Pairs, which: Sequence[bool]) -> Pairs:
    return Pairs(*(tuple(sentence for sentence, here in zip(side, which) if here) for side in pairs))


def _fingerprint(parts: Mapping[str, Pairs]) -> str:
    whole = hashlib.sha256()
    for part, pairs in parts.items():  # JSON, so that no sentence can run into the next
        whole.update(json.dumps((part, *pairs)).encode())
    return whole.hexdigest()
