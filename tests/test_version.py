"""The version is the same wherever it is written, and what is not released is nowhere called so."""

import pathlib
import re

import pytest

import seqjax

ROOT = pathlib.Path(__file__).parents[1]
HEADING = re.compile(r"^## (?:(Unreleased)\b.*|(\d+\.\d+\.\d+)(?: \(([^)]+)\))?)$", re.MULTILINE)


def disagreement(version, citation, changelog):
    """What differs between the version, CITATION.cff and the changelog's headings, or nothing.

    A heading is `## Unreleased...`, at the top alone, `## X.Y.Z (unreleased)` for the version that is being prepared, or
    `## X.Y.Z (YYYY-MM-DD)`, whose date CITATION.cff then has.
    """
    headings = re.findall(r"^## .*$", changelog, flags=re.MULTILINE)
    found = HEADING.findall(changelog)
    if len(found) != len(headings) or any(unreleased for unreleased, *_ in found[1:]):
        return "headings"
    (_, newest, date), *_ = [heading for heading in found if heading[1]]
    fields = dict(re.findall(r"^([\w-]+): (\S+)$", citation, flags=re.MULTILINE))
    if not version == fields["version"] == newest:
        return "versions"
    return "" if fields.get("date-released", "unreleased") == date else "dates"


def test_versions_agree():
    citation, changelog = ((ROOT / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "CHANGELOG.md"))
    assert disagreement(seqjax.__version__, citation, changelog) == ""


PREPARED, RELEASED = "## Unreleased: more\n\n## 0.2.0 (unreleased)\n\n## 0.1.0 (2026-01-02)\n", "## 0.2.0 (2026-03-04)\n"


@pytest.mark.parametrize(
    "version, citation, changelog, expected",
    [
        ("0.2.0", "version: 0.2.0\n", PREPARED, ""),
        ("0.2.0", "version: 0.2.0\ndate-released: 2026-03-04\n", RELEASED, ""),
        ("0.2.0", "version: 0.1.0\n", PREPARED, "versions"),
        ("0.3.0", "version: 0.3.0\n", PREPARED, "versions"),
        ("0.2.0", "version: 0.2.0\n", RELEASED, "dates"),
        ("0.2.0", "version: 0.2.0\ndate-released: 2026-03-04\n", PREPARED, "dates"),
        ("0.2.0", "version: 0.2.0\n", "## 0.2.0 (unreleased)\n\n## Unreleased\n", "headings"),
        ("0.2.0", "version: 0.2.0\n", "## Version 0.2.0\n", "headings"),
    ],
)
def test_what_differs_is_noticed(version, citation, changelog, expected):
    assert disagreement(version, citation, changelog) == expected
