"""The documentation's tables show the results saved in benchmarks/results, and a changed number is noticed."""

import json
import pathlib
import re
import shutil

import pytest

from benchmarks import common, tables, tables_runs, tables_speed

# The tables behind the results; a page without its block would stay stale unnoticed.
NEEDED = {
    "docs/results.md": {"peers", "peers summary", "processes", "language_model", "cnn training", "text training", "measured"},
    "docs/language_model.md": {"language_model"},
    "docs/design/speed.md": {"engines", "gpu", "gpu h100", "gpu h200"},
    "docs/design/native.md": {"engines native"},
    "docs/long_memory.md": {"long memory", "spectrum", "truncation"},
    "README.md": {"overview"},
}


def test_every_table_stands_on_a_page():
    shown = {match[1] for path in tables.pages() for match in tables.BLOCK.finditer(path.read_text(encoding="utf-8"))}
    assert shown == tables.TABLES.keys()


def test_every_table_is_what_the_json_gives():
    stale = [str(path.relative_to(tables.ROOT)) for path in tables.stale()]
    assert not stale, f"run python -m benchmarks.tables: {', '.join(stale)}"


def test_the_pictures_are_of_the_measurements():
    assert tables.stale_pictures() == [], "run python -m benchmarks.tables"


@pytest.mark.parametrize("page", NEEDED)
def test_the_tables_are_there(page):
    text = (tables.ROOT / page).read_text(encoding="utf-8")
    found = {match[1] for match in tables.BLOCK.finditer(text)}
    assert NEEDED[page] <= found
    assert len(re.findall("<!-- table:", text)) == len(re.findall("<!-- end -->", text)) == len(tables.BLOCK.findall(text))


@pytest.mark.parametrize("name", ["peers", "engines", "processes", "language_model"])
def test_a_changed_figure_is_noticed(name, tmp_path, monkeypatch):
    """If every number in the JSON is made larger, the table differs in every row."""
    shutil.copytree(common.RESULTS, results := tmp_path / "results")
    for path in [results / "peers.json", results / "engines.json", results / "processes.json", *results.glob("runs/*/*.json*")]:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        path.write_text("\n".join(json.dumps(_larger(json.loads(line))) for line in lines), encoding="utf-8")
    before = tables.TABLES[name]().splitlines()[2:]
    monkeypatch.setattr(common, "RESULTS", results)
    monkeypatch.setattr(tables_runs, "RUNS", results / "runs")
    tables_runs.text.cache_clear()
    try:
        after = tables.TABLES[name]().splitlines()[2:]
    finally:
        tables_runs.text.cache_clear()
    assert len(before) == len(after) and all(old != new for old, new in zip(before, after, strict=True))


def _larger(thing, salt=1.0):
    if isinstance(thing, dict):
        return {key: _larger(value, salt + 0.07 * k) for k, (key, value) in enumerate(thing.items())}
    if isinstance(thing, list):
        return [_larger(value, salt) for value in thing]
    return thing * (1 + 0.3 * salt) if isinstance(thing, float) else thing


def test_three_digits():
    assert [tables_speed.three(x) for x in (0.08891, 3.996, 45.04, 194.4, 1126.9)] == ["0.0889", "4", "45", "194", "1130"]


def test_a_block_without_a_table_is_refused():
    with pytest.raises(KeyError):
        tables.redrawn("<!-- table: nothing -->\n<!-- end -->")


def test_redrawing_twice_changes_nothing():
    text = "before\n<!-- table: processes -->\nold\n<!-- end -->\nafter"
    once = tables.redrawn(text)
    assert tables.redrawn(once) == once and "old" not in once and once.startswith("before\n") and once.endswith("\nafter")


def test_what_is_written_lies_beside_the_readme():
    assert tables.ROOT == pathlib.Path(__file__).resolve().parents[2]
