"""The documentation's tables show the results saved in benchmarks/results, and a changed number is noticed."""

import json
import pathlib
import re
import shutil

import pytest

from benchmarks import common, pictures, plots, tables, tables_runs, tables_speed

# The tables behind the results; a page without its block would stay stale unnoticed.
NEEDED = {
    "docs/results.md": {"peers", "peers summary", "processes", "language_model", "cnn training", "text training", "measured"},
    "docs/language_model.md": {"language_model"},
    "docs/design/speed.md": {"engines", "gpu", "gpu h100", "gpu h200"},
    "docs/design/native.md": {"engines native"},
    "docs/long_memory.md": {"long memory", "spectrum", "truncation", "regular tasks"},
    "docs/music.md": {"music"},
    "docs/forecasting.md": {"forecasting", "forecasting seeds"},
    "docs/dna.md": {"promoters", "dna hmm", "splice"},
    "docs/captioning.md": {"captioning"},
    "docs/video.md": {"video", "video next"},
    "docs/speech.md": {"fsdd", "fsdd strings", "morse", "morse trials", "speakers"},
    "docs/distributed.md": {"mesh", "processes", "weak scaling"},
    "docs/gradients.md": {"gradient flow"},
    "README.md": {"overview"},
}


def test_every_table_stands_on_a_page():
    shown = {match[1] for path in tables.pages() for match in tables.BLOCK.finditer(path.read_text(encoding="utf-8"))}
    assert shown == tables.TABLES.keys()


def test_every_table_is_what_the_json_gives():
    stale = [str(path.relative_to(tables.ROOT)) for path in tables.stale()]
    assert not stale, f"run python -m benchmarks.tables: {', '.join(stale)}"


def test_the_pictures_are_of_the_measurements():
    assert pictures.stale() == [], "run python -m benchmarks.tables"


def test_every_picture_stands_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in tables.pages())
    assert {path.name for path in plots.IMAGES.glob("*.png")} == set(re.findall(r"\]\((?:docs/|\.\./)?images/([\w-]+\.png)\)", text))


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_has_a_title_and_names_its_axes(name):
    from matplotlib import pyplot

    figure = pictures.PICTURES[name].draw()
    try:
        titled = [bool(axes.get_title()) for axes in figure.axes]
        assert all(titled) or (figure.get_suptitle() and len(titled) == 1)
        for axes in figure.axes:
            assert axes.get_xlabel()
            assert axes.get_ylabel() or figure.get_supylabel() or axes.patches  # bars have names instead
            assert all(label.get_fontsize() >= 8 for label in [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()])
    finally:
        pyplot.close(figure)


@pytest.mark.parametrize("page", NEEDED)
def test_the_tables_are_there(page):
    text = (tables.ROOT / page).read_text(encoding="utf-8")
    found = {match[1] for match in tables.BLOCK.finditer(text)}
    assert NEEDED[page] <= found
    assert len(re.findall("<!-- table:", text)) == len(re.findall("<!-- end -->", text)) == len(tables.BLOCK.findall(text))


@pytest.fixture(scope="module")
def larger_results(tmp_path_factory):
    """A copy of the results in which every number is larger."""
    shutil.copytree(common.RESULTS, results := tmp_path_factory.mktemp("copy") / "results")
    files = [results / f"{name}.json" for name in ("peers", "engines", "processes", "mesh", "speech_speakers")]
    for path in [*files, *results.glob("runs/*/*.json*")]:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        path.write_text("\n".join(json.dumps(_larger(json.loads(line))) for line in lines), encoding="utf-8")
    return results


@pytest.mark.parametrize("name", ["peers", "engines", "processes", "language_model", "forecasting", "speakers", "mesh"])
def test_a_changed_figure_is_noticed(name, larger_results, monkeypatch):
    """The table that is drawn then differs in every row."""
    before = tables.TABLES[name]().splitlines()[2:]
    monkeypatch.setattr(common, "RESULTS", larger_results)
    monkeypatch.setattr(tables_runs, "RUNS", larger_results / "runs")
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
