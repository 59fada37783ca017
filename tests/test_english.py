"""The words that STYLE's glossary replaces, and riddles that were found once, occur nowhere in code, comments or documents."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Left out, since they have honest uses: "room" (stories, disk space), "house" (examples), "figures" (plots),
# "learn" and "place". SEAL.json is the name of a file of old checkpoints, and `.sealed(` a function: case and a dot before count.
PHRASES = {
    r"go(?:es)? on": "continue, resume",
    r"went on": "continued, resumed",
    r"anew": "restart, again",
    r"work folders?": "work directory",
    r"mend(?:s|ed|ing)?": "repair, fix",
    r"put(?:s|ting)? aside": "quarantine",
    r"by heart": "overfit",
    r"places? in the data": "iterator state",
    r"seal(?:s|ed|ing)?": "checksum manifest",
    r"sittings?": "session",
    r"doors? to": "entry point",
    r"is no (?:proper|unigram|vocabulary|Cell)": "is not a",
    r"in the place of": "instead of",
    r"(?<!,\s)but for": "except",
    r"once more stops": "press again to stop",
    r"stops? at once": "stop immediately",
    r"stands? in no line": "is not listed",
    r"a weight a (?:place|position)": "one weight per position",
    r"whatever stands": "any",
    r"what stands (?:at|in|past)": "values at",
    r"What stands (?:at|in|past)": "values at",
    r"(?:highest|maximum) or a learned mean is": "the last step, the mean, ...",
}
BREAK = r"\s+(?:(?:#|//)\s+)?"  # between two words, at the end of a line of a comment too
# Each begins with a letter, which `re` looks for quickly; what stands before it is looked at where one is found.
FOUND = {re.compile(phrase.replace(" ", BREAK) + r"\b"): better for phrase, better in PHRASES.items()}


def _faults(text):
    """(line, what was found, what to write instead) for each phrase in a text, also across the ends of lines."""
    found = [(at.start(), at[0], better) for phrase, better in FOUND.items() for at in phrase.finditer(text)]
    return [
        (text.count("\n", 0, start) + 1, words, better)
        for start, words, better in sorted(found)
        if not re.match(r"[\w.-]", text[max(start - 1, 0) : start])
    ]


def _files():
    for folder in ("seqjax", "experiments", "benchmarks", "docs"):
        for ending in ("py", "md", "h", "cc"):
            yield from sorted((ROOT / folder).rglob(f"*.{ending}"))
    yield ROOT / "README.md"


def test_the_field_s_words_are_used():
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {' '.join(found.split())!r}, better: {better}"
        for path in _files()
        for line, found, better in _faults(path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "text, found",
    [
        ("x = 1\n# A run goes on where\n", [(2, "goes on")]),
        ("# a cell in the\n# place of another\n", [(1, "in the\n# place of")]),
        (
            "the vocabulary is no proper one; once more stops at once",
            [(1, "is no proper"), (1, "once more stops"), (1, "stops at once")],
        ),
        (
            "a weight a place and channel, what stands in no line",
            [(1, "a weight a place"), (1, "what stands in"), (1, "stands in no line")],
        ),
        ("kept in place of h, make room, a house, SEAL.json, processes.sealed(x), but, for one, fast", []),
        ("It amends this; bongos only; there is no cell; sealed", [(1, "sealed")]),
    ],
)
def test_a_planted_phrase_is_found_and_honest_words_are_not(text, found):
    assert [fault[:2] for fault in _faults(text)] == found
