"""A paragraph that names a saved run or measurement gives numbers that are in that file.

Checked is every number with a decimal point or a per cent sign. Whole numbers are not: a file holds too many of them for a match to
say anything. Nor are paragraphs that name no file. What is in a table between marks is drawn from the files by benchmarks.tables.
"""

import functools
import json
import math
import re

import pytest

from benchmarks import common, tables, tables_experiments, tables_speed

NAMED = re.compile(r"benchmarks/results/((?:runs/)?[\w*]+)|`(\w+)(?:\.json)?`")
SAVED = {path.stem for path in [*common.RESULTS.glob("*.json"), *common.RESULTS.glob("runs/*")]}
FIGURE = re.compile(r"(?<![\w.,/^])(-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)( %)?(?!\.?\w)")
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
NOT_PROSE = re.compile(r"<!-- .*?-->|```.*?```|^\|.*?$", re.DOTALL | re.MULTILINE)

# What is said beside a result and is in no file that the paragraph names: an aim, another's result, a run that the page says is not kept.
ELSEWHERE = {
    "docs/design/decisions.md": {"1.5645": "not kept"},
    "docs/design/speed.md": {"1.11": "not kept", "1.03": "not kept", "0.68": "not kept"},
    "docs/dna.md": {"96.5": "an aim"},
    "docs/long_memory.md": {"98.8": "an aim", "0.000053": "published"},
}


def _slower(cell):
    """Our engines' time over that before the smaller contract, geometric mean."""
    cases = [case for case in tables_speed.saved("engines_before_after")["cases"] if case["cell"] == cell]
    return tables_speed.mean(case["after_milliseconds"] / case["before_milliseconds"] for case in cases)


def _short_of(run, baseline, what):
    scores = tables_experiments.tested(run)
    return abs(scores["model"][what][0] - scores[baseline][what][0])


# What follows from saved numbers, and how.
DERIVED = {
    "docs/design/speed.md": {"0.99": lambda: _slower("lstm"), "1.02": lambda: _slower("gru"), "1.06": lambda: _slower("rnn")}
    | {"1.2": lambda: 112.356 / 93.608},
    "docs/dna.md": {"0.33": lambda: 100 * _short_of("dna_hmm", "exact posterior", "accuracy")},
    "docs/gradients.md": {"0.731": lambda: 1 / (1 + math.exp(-1))},
    "docs/language_model.md": {"1.477": lambda: tables_experiments.evaluations("tinyshakespeare_char_large")[1]["loss"]},
    "docs/music.md": {"0.07": lambda: tables_experiments.tested("jsb")["model"]["loss"] - 8.10},
    "docs/speech.md": {"8.7": lambda: tables_experiments.cpu_minutes("morse")},
}


@functools.cache
def numbers(name):
    """(values that were measured, settings) of what a page names; a word in capitals stands for any."""
    name = re.sub(r"[A-Z]{2,}", "*", name)
    paths = sorted(common.RESULTS.glob(name if name.startswith("runs/") else f"{name}.json"))
    assert paths, f"benchmarks/results has no {name}"
    measured, settings = [], []
    for file in (file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])):
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".txt":
            measured += [float(match.replace(",", "")) for match in NUMBER.findall(text)]
        else:
            lines = text.splitlines() if file.suffix == ".jsonl" else [text]
            (settings if file.name == "config.json" else measured).extend(value for line in lines for value in _values(json.loads(line)))
    return measured, settings


def _values(thing):
    """The numbers of a record, also those inside strings; of a run's records only the evaluations."""
    if isinstance(thing, dict | list):
        parts = thing if isinstance(thing, list) else thing.values() if thing.get("kind") != "train" else ()
        return [value for part in parts for value in _values(part)]
    if isinstance(thing, str):
        return [float(match.replace(",", "")) for match in NUMBER.findall(thing)]
    return [float(thing)] if isinstance(thing, int | float) and not isinstance(thing, bool) else []


def rounds_to(value, shown):
    """Whether a value is what is shown when it is rounded so."""
    digits, _, exponent = shown.replace(",", "").partition("e")
    step = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(value - float(shown.replace(",", ""))) <= 0.501 * step


def occurs(shown, percent, names):
    """Whether one of the files has this number; of a per cent, the share or its complement."""
    for name in names:
        measured, settings = numbers(name)
        forms = (form for x in measured for form in ((x, 100 * x, 100 - 100 * x) if percent else (x,)))
        if any(rounds_to(form, shown) for form in forms) or float(shown.replace(",", "")) in settings:
            return True
    return False


def figures(text):
    """(number, whether it is a per cent) of a paragraph; the ends of an interval behind a per cent are also such."""
    for match in FIGURE.finditer(text):
        before, number = text[max(0, match.start() - 90) : match.start()], match[1].rstrip(",")
        if "." in number or match[2]:
            yield number, bool(match[2] or re.search(r"\d %[^;]*$", before))


def paragraphs():
    """(page, names of the files that it names, paragraph) of all pages; an item of a list is one."""
    for path in tables.pages():
        for text in re.split(r"\n\s*\n|\n(?=- |\d+\. )", NOT_PROSE.sub("", path.read_text(encoding="utf-8"))):
            names = [path or _place(name) for path, name in NAMED.findall(text) if (path and path != "runs") or name in SAVED]
            if names:
                yield str(path.relative_to(tables.ROOT)), names, re.sub(r"`[^`]*`", "`", text)


def _place(name):
    return name if (common.RESULTS / f"{name}.json").exists() else f"runs/{name}"


FOUND = [(page, *figure, names) for page, names, text in paragraphs() for figure in figures(text)]


def test_there_is_something_to_check():
    assert len(FOUND) > 90 and len({page for page, *_ in FOUND}) >= 9


@pytest.mark.parametrize("page", sorted({page for page, *_ in FOUND}))
def test_the_numbers_of_a_paragraph_are_in_what_it_names(page):
    known = ELSEWHERE.get(page, {}).keys() | DERIVED.get(page, {}).keys()
    asked = [found[1:] for found in FOUND if found[0] == page and found[1] not in known]
    assert [found for found in asked if not occurs(*found)] == []


def test_what_comes_from_elsewhere_is_still_said_there():
    said = {(page, number) for page, number, percent, names in FOUND if not occurs(number, percent, names)}
    assert said == {(page, number) for known in (ELSEWHERE, DERIVED) for page, numbers in known.items() for number in numbers}


@pytest.mark.parametrize("page, number", [(page, number) for page, numbers in DERIVED.items() for number in numbers])
def test_what_is_derived_follows(page, number):
    assert rounds_to(DERIVED[page][number](), number)


def test_a_changed_number_is_noticed():
    """Seven units of the last place more: of three such numbers, two are in no file."""
    changed = []
    for _, number, *rest in FOUND:
        digits = len(number.partition("e")[0].partition(".")[2])
        changed.append((f"{float(number.replace(',', '')) + 7 * 10.0**-digits:.{digits}f}", *rest))
    assert sum(occurs(*found) for found in changed) < 0.36 * len(changed)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("loss 1.25, of 1,234 steps", [("1.25", False)]),
        ("**96.08 %** (95.29 to 96.75)", [("96.08", True), ("95.29", True), ("96.75", True)]),
        ("39 % at step 200, jax 0.10.2, x1.5, 2.", [("39", True)]),
        ("right to 3.4e-7 or 1,234.5", [("3.4e-7", False), ("1,234.5", False)]),
    ],
)
def test_figures_are_found(text, expected):
    assert list(figures(text)) == expected


def _one_line(text):
    return " ".join(text.split())


def test_the_first_run_printed_what_the_page_shows():
    text = (tables.ROOT / "docs" / "start" / "first_run.md").read_text(encoding="utf-8")
    runs = {name for name, _ in NAMED.findall(text) if name.startswith("runs/")}
    files = [file for name in sorted(runs) for file in sorted((common.RESULTS / name).glob("*.txt"))]
    printed = _one_line(" ".join(file.read_text(encoding="utf-8") for file in files))
    blocks = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    lines = [_one_line(line) for block in blocks for line in block.splitlines() if line.strip() not in ("", "...")]
    assert len(lines) > 25
    assert [line for line in lines if line not in printed] == []
