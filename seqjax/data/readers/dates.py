"""Dates as written in many languages, from Babel's locale data (Unicode CLDR): a generated translation dataset."""

import datetime
import re
from collections import defaultdict
from typing import Any, NamedTuple, Sequence

from seqjax.data.draws import shuffled, uniform
from seqjax.errors import UserError, missing

LANGUAGES = (
    "en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "fi", "nb", "pl", "cs", "hu", "ro", "tr",
    "ru", "uk", "el", "bg", "hr", "ca", "ja", "zh", "ko", "ar", "he", "hi", "fa", "th", "vi", "id",
)  # fmt: skip
FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
DAYS = LAST.toordinal() - FIRST.toordinal() + 1
YEAR_FIRST = ("ja", "zh", "ko")  # languages in which digits alone are always year, month, day
SKELETON = re.compile(r"yM+E*d")


class WrittenDate(NamedTuple):
    """A date as written in a language."""

    language: str  # CLDR code, such as "de"
    written: str  # "7. März 2024"
    iso: str  # "2024-03-07"


def date_pairs(languages: Sequence[str], number: int, seed: int = 0) -> tuple[WrittenDate, ...]:
    """Random dates from 1900 to 2099 in written form, no date twice.

    The languages take turns, and each draws uniformly from its forms (`date_patterns`). Each date occurs once, in one language, so
    any two slices of the result share no date. A written form that could mean two dates is left out, so that every pair can be
    translated correctly. Invisible characters, such as U+202F before the Russian "г.", are kept, as in pasted dates. The result
    depends only on the arguments and the version of Babel.

    Args:
      languages: CLDR codes, such as `LANGUAGES`.
      number: how many dates, at most 73,049.
      seed: determines the dates and the forms.

    Returns:
      `number` WrittenDates, or slightly fewer if forms had to be left out (never for `LANGUAGES`).

    Raises:
      UserError: Babel is not installed, or knows no such language.
      ValueError: no languages, or a number out of range.

    Example:
      >>> english, german = date_pairs(["en", "de"], 2, seed=3)
      >>> german.language, german.iso, "30. Juli 2057" in german.written
      ('de', '2057-07-30', True)
    """
    if not languages:
        raise ValueError("languages is empty; give at least one, such as 'en'")
    if not 0 <= number <= DAYS:
        raise ValueError(f"number is {number}; from {FIRST} to {LAST} there are {DAYS} dates")
    ways = [(language, _locale(language), _patterns(language)) for language in languages]
    order, bits = shuffled(DAYS, seed)
    days, choices = order[:number].tolist(), uniform(bits, number).tolist()
    found = []
    for turn, (day, choice) in enumerate(zip(days, choices)):
        date = datetime.date.fromordinal(FIRST.toordinal() + day)
        language, locale, patterns = ways[turn % len(ways)]
        written = patterns[int(choice * len(patterns))].apply(date, locale)
        found.append(WrittenDate(language, written, date.isoformat()))
    return _without_doubt(found)


def date_patterns(language: str) -> tuple[str, ...]:
    """The unambiguous forms of a date in a language, as CLDR patterns.

    They are the usual forms (medium, long, full) and others with or without the day of the week, except those with a two-digit
    year or a numeric month: 01/02/2003 means different days in different countries. Numeric months are kept only in year-first
    forms of Chinese, Japanese and Korean.

    Args:
      language: a CLDR code.

    Returns:
      At least one pattern; y is the year, M the month, d the day and E the day of the week.

    Raises:
      UserError: Babel is not installed, or knows no such language, or it has no such form.

    Example:
      >>> "EEEE, d. MMMM y" in date_patterns("de"), "dd.MM.y" in date_patterns("de")
      (True, False)
    """
    return tuple(pattern.pattern for pattern in _patterns(language))


def _locale(language: str) -> Any:
    try:
        import babel
    except ImportError:
        raise missing("the dates need Babel", "experiments") from None
    try:
        return babel.Locale.parse(language)
    except (babel.UnknownLocaleError, ValueError, TypeError):
        raise UserError(f"{language!r} is not a language that Babel knows; give codes such as 'en' or 'pt_BR'") from None


def _patterns(language: str) -> list[Any]:
    """The `babel.dates.DateTimePattern`s, in an order that depends only on the locale's data."""
    locale = _locale(language)
    usual = [locale.date_formats[name] for name in ("medium", "long", "full")]
    skeletons = locale.datetime_skeletons
    further = [skeletons[name] for name in sorted(skeletons, key=lambda s: (len(s), s)) if SKELETON.fullmatch(name)]
    sure = {form.pattern: form for form in usual + further if _is_sure(form.pattern, locale.language)}
    if not sure:
        raise UserError(f"{language!r} has no form of a date that is sure to be understood; leave it out")
    return list(sure.values())


def _is_sure(pattern: str, language: str) -> bool:
    fields = re.findall(r"([A-Za-z])(\1*)", re.sub(r"'[^']*'", "", pattern))
    lengths = {"M" if letter == "L" else letter: 1 + len(more) for letter, more in fields}
    if not {"y", "M", "d"} <= lengths.keys() or lengths["y"] == 2:
        return False
    in_order = [letter for letter in lengths if letter in "yMd"] == ["y", "M", "d"]
    return lengths["M"] > 2 or (in_order and language in YEAR_FIRST)


def _without_doubt(found: Sequence[WrittenDate]) -> tuple[WrittenDate, ...]:
    meanings = defaultdict(set)
    for date in found:
        meanings[date.written].add(date.iso)
    return tuple(date for date in found if len(meanings[date.written]) == 1)
