"""Written dates: a reader that knows only the names of months finds exactly the right day."""

import builtins
import datetime
import re
from collections import Counter

import pytest

from seqjax.data.readers.dates import DAYS, FIRST, LANGUAGES, LAST, _is_sure, date_pairs, date_patterns
from seqjax.errors import UserError

babel = pytest.importorskip("babel")
format_date = pytest.importorskip("babel.dates").format_date


def months_of(language):
    """Name -> number, for every form of a month that the language's calendar uses beside a day."""
    names = babel.Locale.parse(language).months["format"]
    return {name: number for width in ("wide", "abbreviated") for number, name in names[width].items()}


def read(language, written, months):
    """(year, month, day), by the order of the language and the names of its months."""
    names = "|".join(map(re.escape, sorted(months, key=len, reverse=True)))
    if language in ("ja", "zh", "ko"):
        year, month, day = re.match(r"(\d{4})\D+(\d{1,2})\D+(\d{1,2})", written).groups()
        return int(year), int(month), int(day)
    if language == "en":
        month, day, year = re.search(rf"({names}) (\d+), (\d{{4}})$", written).groups()
    elif language == "hu":
        year, month, day = re.match(rf"(\d{{4}})\. ({names}) (\d+)\.", written).groups()
    else:
        day, month, year = re.search(rf"(?<!\d)(\d+)\.? (?:de |ב)?({names})\D+(\d{{4}})", written).groups()
    return int(year), months[month], int(day)


@pytest.fixture(scope="module")
def many():
    return date_pairs(LANGUAGES, 64 * 250, seed=5)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_reader_of_month_names_gets_every_date(many, language):
    months = months_of(language)
    mine = [date for date in many if date.language == language]
    assert len(mine) == len(many) // len(LANGUAGES)
    for date in mine:
        found = datetime.date(*read(language, date.written, months))
        assert found.isoformat() == date.iso and FIRST <= found <= LAST, date
        assert date.iso not in date.written  # copying gets none right


def test_the_day_of_the_week_is_right():
    names = babel.Locale.parse("de").days["format"]["wide"]
    seen = set()
    for date in date_pairs(["de"], 1000, 1):
        named = {number for number, name in names.items() if name in date.written}
        assert named <= {datetime.date.fromisoformat(date.iso).weekday()}
        seen |= named
    assert len(seen) == 7


def test_every_form_of_every_language_occurs_equally_often():
    for language in ("en", "ko"):
        forms = Counter()
        patterns = date_patterns(language)
        for date in date_pairs([language], 400 * len(patterns), 2):
            day = datetime.date.fromisoformat(date.iso)
            ways = [format_date(day, pattern, language) for pattern in patterns]
            forms.update(pattern for pattern, way in zip(patterns, ways) if way == date.written)
        # "May" is long and short at once, and so are the days of two figures in ko: those count for both.
        assert min(forms.values()) > 320 and len(patterns) == len(forms)


def test_no_form_of_any_language_means_two_days():
    """Over all forms of two years. The year has four digits, so forms of different years cannot coincide."""
    meanings = {}
    for language in LANGUAGES:
        for pattern in date_patterns(language):
            for day in range(365 + 366):
                date = datetime.date(2023, 1, 1) + datetime.timedelta(day)
                written = format_date(date, pattern, language)
                assert meanings.setdefault(written, date) == date, (language, written)
                if day % 50 == 0:
                    assert f"{date.year}" in written


def test_forms_that_mean_two_days_are_left_out():
    # "7 may 2024" is in May in Spanish and in November in Basaa.
    found = date_pairs(["es", "bas"], DAYS, 0)
    assert 20 < DAYS - len(found) < DAYS / 12
    assert max(Counter(date.written for date in found).values()) == 1
    sides = Counter(date.language for date in found)
    assert sides["es"] == sides["bas"] + 1  # DAYS is odd; of two dates with one form both are gone


def test_figures_alone_are_left_out_but_where_the_year_comes_first():
    for language in LANGUAGES:
        for pattern in date_patterns(language):
            bare = re.sub(r"'[^']*'", "", pattern)
            assert "yyy" not in bare and not re.search(r"(?<!y)yy(?!y)", bare)
            if not re.search("MMM|LLL", bare):
                assert language in ("ja", "zh", "ko") and re.search("y.+M.+d", bare)
    # Lithuania's numeric form puts the year first too, and is the answer itself.
    assert not any("MM-dd" in pattern for pattern in date_patterns("lt"))


@pytest.mark.parametrize(
    "pattern, language, sure",
    [
        ("d MMM y", "en", True),
        ("d 'yy' LLLL yyyy", "en", True),  # what is quoted is text
        ("'d' MMM y", "en", False),
        ("d MMM yy", "en", False),
        ("d/M/y", "en", False),
        ("y/M/d", "en", False),
        ("y/M/d", "ja", True),
        ("yy/M/d", "ja", False),
        ("d/M/y", "zh", False),
        ("'d' y/M/d", "ko", True),
        ("MMM y", "en", False),
    ],
)
def test_which_patterns_are_sure(pattern, language, sure):
    assert _is_sure(pattern, language) == sure


def test_dates_are_spread_over_both_centuries_and_none_comes_twice():
    found = date_pairs(LANGUAGES, 20_000, 9)
    assert len({date.iso for date in found}) == len(found) == 20_000
    for place, kinds in (((0, 4), 200), ((5, 7), 12), ((8, 10), 31)):
        assert len({date.iso[slice(*place)] for date in found}) == kinds
    decades = Counter(date.iso[:3] for date in found)
    assert min(decades.values()) > 850 and max(decades.values()) < 1150
    assert DAYS == 73_049 and len({date.iso for date in date_pairs(["en"], DAYS)}) == DAYS


def test_the_same_each_time_and_another_by_seed():
    assert date_pairs(["en", "ja"], 50, 3) == date_pairs(["en", "ja"], 50, 3) != date_pairs(["en", "ja"], 50, 4)
    assert date_pairs(["en"], 0) == ()


def test_invisible_characters_stay():
    assert all(date.written.endswith("\u202fг.") or "\u202fг." in date.written for date in date_pairs(["ru"], 50))


@pytest.mark.parametrize(
    "languages, number, kind, says",
    [
        ([], 3, ValueError, "languages is empty"),
        (["en"], DAYS + 1, ValueError, f"number is {DAYS + 1}; .* there are {DAYS} dates"),
        (["en"], -1, ValueError, "number is -1"),
        (["en", "klingon"], 3, UserError, "'klingon' is not a language"),
        (["??"], 3, UserError, "is not a language"),
    ],
)
def test_what_cannot_be_made_is_refused(languages, number, kind, says):
    with pytest.raises(kind, match=says):
        date_pairs(languages, number)


def test_without_babel_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "babel":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install -e '\.\[experiments\]'"):
        date_pairs(["en"], 3)
